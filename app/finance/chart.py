"""Which account a category or a way of paying belongs to. Arithmetic only; the accounts themselves are in the schema.

A category is the tenant's own word, so an unknown one books to the "other" account instead of failing. A way of paying
is not: it decides where the money came from, so it is one of the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

PaymentMode = Literal[
    "cash",
    "bank",
    "bank_transfer",
    "cheque",
    "card",
    "debit_card",
    "credit_card",
    "upi",
    "wallet",
    "online",
    "credit",
]

OTHER_EXPENSES: Final = "5900"
OTHER_REVENUE: Final = "4900"

EXPENSE_ACCOUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "maintenance": "5000",
        "repairs": "5000",
        "utilities": "5010",
        "electricity": "5010",
        "water": "5010",
        "internet": "5010",
        "salaries": "5020",
        "wages": "5020",
        "supplies": "5030",
        "cleaning": "5030",
        "food": "5040",
        "beverages": "5040",
        "marketing": "5050",
        "rent": "5060",
        "insurance": "5070",
        "taxes": "5080",
        "fees": "5080",
    }
)
REVENUE_ACCOUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "room": "4000",
        "rooms": "4000",
        "accommodation": "4000",
        "food": "4010",
        "beverages": "4010",
        "service": "4020",
        "services": "4020",
    }
)

_CASH, _BANK, _CLEARING, _RECEIVABLE, _PAYABLE, _CREDIT_CARDS = "1000", "1010", "1020", "1100", "2000", "2010"

PAID_FROM: Final[Mapping[PaymentMode, str]] = MappingProxyType(
    {
        "cash": _CASH,
        "bank": _BANK,
        "bank_transfer": _BANK,
        "cheque": _BANK,
        "card": _BANK,
        "debit_card": _BANK,
        "upi": _BANK,
        "online": _BANK,
        "wallet": _CLEARING,
        "credit_card": _CREDIT_CARDS,
        "credit": _PAYABLE,
    }
)
RECEIVED_IN: Final[Mapping[PaymentMode, str]] = MappingProxyType(
    {
        "cash": _CASH,
        "bank": _BANK,
        "bank_transfer": _BANK,
        "cheque": _BANK,
        "upi": _BANK,
        # Card and online payments reach the bank days later, so they wait in the clearing account.
        "card": _CLEARING,
        "debit_card": _CLEARING,
        "credit_card": _CLEARING,
        "online": _CLEARING,
        "wallet": _CLEARING,
        "credit": _RECEIVABLE,
    }
)


def expense_accounts(category: str, payment_mode: PaymentMode) -> tuple[str, str]:
    """Return the accounts to debit and to credit: the cost grows, and what paid for it shrinks (or a debt grows)."""
    return EXPENSE_ACCOUNTS.get(category.lower(), OTHER_EXPENSES), PAID_FROM[payment_mode]


def revenue_accounts(category: str, payment_mode: PaymentMode) -> tuple[str, str]:
    """Return the accounts to debit and to credit: what received the money grows, and so does the income."""
    return RECEIVED_IN[payment_mode], REVENUE_ACCOUNTS.get(category.lower(), OTHER_REVENUE)
