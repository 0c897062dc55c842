"""What the tables say, held against what the clients were told. The application is not asked.

`Verdict.broken` lists every promise that was not kept; a run is good when it is empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from idempotency_measuring.accidents import Accident
from idempotency_measuring.phones import Order
from idempotency_measuring.wire import Answer
from tests.servers import PostgresServer, from_outside

LEASE_S = 30.0
_ROWS = "SELECT id, description, amount_cents, created_by FROM expenses WHERE description LIKE '{run}:%'"
_LEDGER = """
    SELECT (SELECT coalesce(sum(debit_cents) - sum(credit_cents), 0) FROM journal_lines)::bigint AS difference,
           (SELECT count(*) FROM journal_entries entry WHERE NOT EXISTS
               (SELECT FROM expenses WHERE entry_id = entry.id)
               AND NOT EXISTS (SELECT FROM revenues WHERE entry_id = entry.id)) AS without_posting,
           (SELECT count(*) FROM (SELECT entry_id FROM journal_lines GROUP BY entry_id HAVING count(*) <> 2) odd)
               AS without_both_lines,
           (SELECT count(*) FROM b1_idempotency) AS records,
           (SELECT count(*) FROM b1_idempotency WHERE record IS NULL) AS empty_records
"""


@dataclass(slots=True)
class Verdict:
    """Counts of one run.

    Attributes:
        told: orders whose client was told 201.
        lost: of them, those without a row.
        duplicates: rows beyond the first of an order.
        unasked: rows that belong to no order.
        wrong: rows with another id, amount or actor than what the client was told or asked for.
        answers: final answers of all orders.
        differing: orders whose final answers are not all alike (status, body).
        unanswered: orders that never had a final answer.
        not_replayed: repeats at the end that were no replay of the first answer.
        misused: keys sent with another amount; `let_through` of them had another answer than 409 IDEMPOTENCY_KEY_REUSED.
        longest_s: longest time from an order's first attempt after an accident was over to its final answer, later
            accidents included.
        longest_calm_s: the same without a later accident in between.
    """

    orders: int = 0
    told: int = 0
    rows: int = 0
    lost: int = 0
    duplicates: int = 0
    unasked: int = 0
    wrong: int = 0
    answers: int = 0
    unexpected: int = 0
    differing: int = 0
    unanswered: int = 0
    not_replayed: int = 0
    misused: int = 0
    let_through: int = 0
    difference_cents: int = 0
    entries_without_posting: int = 0
    entries_without_both_lines: int = 0
    records: int = 0
    empty_records: int = 0
    longest_s: float = 0.0
    longest_calm_s: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """Return every promise that was not kept."""
        zero = (
            "lost", "duplicates", "unasked", "wrong", "unexpected", "differing", "unanswered", "not_replayed",
            "let_through", "difference_cents", "entries_without_posting", "entries_without_both_lines", "empty_records",
        )  # fmt: skip
        found = [f"{name} is {getattr(self, name)}" for name in zero if getattr(self, name)]
        if self.rows != self.orders or self.records != self.orders:
            found.append(f"{self.orders} orders have {self.rows} rows and {self.records} records")
        if self.longest_calm_s > LEASE_S:
            found.append(f"a key was stuck for {self.longest_calm_s:.1f} s")
        return found


def judge(
    run: str,
    orders: Sequence[Order],
    repeats: Sequence[Answer],
    misuses: Sequence[Answer],
    accidents: Sequence[Accident],
    postgres: PostgresServer,
) -> Verdict:
    """Count everything."""
    verdict = Verdict(orders=len(orders))
    _judge_answers(verdict, orders, repeats, misuses)
    _judge_tables(verdict, run, orders, postgres)
    stuck = {order.number: stuck_s(order, accidents) for order in orders}
    verdict.longest_s = max((waited_s for waited_s, _ in stuck.values()), default=0.0)
    verdict.longest_calm_s = max((calm_s for _, calm_s in stuck.values()), default=0.0)
    longest = max(orders, key=lambda order: stuck[order.number])
    verdict.examples.append("waited longest: " + story(longest, accidents))
    return verdict


def _judge_answers(
    verdict: Verdict, orders: Sequence[Order], repeats: Sequence[Answer], misuses: Sequence[Answer]
) -> None:
    for order, repeat in zip(orders, repeats, strict=True):
        finals = [*order.finals, repeat]
        verdict.answers += len(finals)
        verdict.unanswered += not order.finals
        verdict.told += repeat.status == 201
        unexpected = [answer for answer in finals if answer.status != 201]
        verdict.unexpected += bool(unexpected)
        verdict.differing += len({(answer.status, answer.body) for answer in finals}) > 1
        verdict.not_replayed += not repeat.is_replay
        if unexpected:
            verdict.examples.append(f"{order.number}: {unexpected[0].status} {unexpected[0].body[:200]!r}")
    verdict.misused = len(misuses)
    verdict.let_through = sum((answer.status, answer.code) != (409, "IDEMPOTENCY_KEY_REUSED") for answer in misuses)


def _judge_tables(verdict: Verdict, run: str, orders: Sequence[Order], postgres: PostgresServer) -> None:
    by_name = {f"{run}:{order.number}": order for order in orders}
    seen: dict[str, int] = {}
    rows = from_outside(_query(postgres.url, _ROWS.format(run=run)))
    verdict.rows = len(rows)
    for row in rows:
        order = by_name.get(row["description"])
        if order is None:
            verdict.unasked += 1
            continue
        seen[row["description"]] = seen.get(row["description"], 0) + 1
        told = [json.loads(answer.body) for answer in order.finals if answer.status == 201]
        is_as_told = all((one["id"], one["createdBy"]) == (row["id"], row["created_by"]) for one in told)
        verdict.wrong += not is_as_told or row["amount_cents"] != order.amount_cents
    verdict.duplicates = sum(count - 1 for count in seen.values())
    missing = [name for name, order in by_name.items() if name not in seen and order.final_s is not None]
    verdict.lost = len(missing)
    verdict.examples += [f"lost: {name}" for name in missing[:5]]
    [ledger] = from_outside(_query(postgres.url, _LEDGER))
    verdict.difference_cents = ledger["difference"]
    verdict.entries_without_posting = ledger["without_posting"]
    verdict.entries_without_both_lines = ledger["without_both_lines"]
    verdict.records, verdict.empty_records = ledger["records"], ledger["empty_records"]


async def _query(url: str, statement: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return [dict(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close(timeout=5)


def stuck_s(order: Order, accidents: Sequence[Accident]) -> tuple[float, float]:
    """Return how long an order that an accident met had to wait afterwards: in all, and without a further accident."""
    if order.final_s is None or not order.begun_s:
        return 0.0, 0.0
    in_all_s = calm_s = 0.0
    for number, accident in enumerate(accidents):
        if order.begun_s[0] > accident.over_s or order.final_s < accident.over_s:
            continue
        after = [begun_s for begun_s in order.begun_s if begun_s >= accident.over_s]
        if not after:
            continue
        waited_s = order.final_s - after[0]
        in_all_s = max(in_all_s, waited_s)
        is_last = number + 1 == len(accidents) or accidents[number + 1].begun_s > order.final_s
        calm_s = max(calm_s, waited_s if is_last else 0.0)
    return in_all_s, calm_s


def story(order: Order, accidents: Sequence[Accident]) -> str:
    """Return everything that happened to an order, in seconds since its first attempt."""
    if not order.begun_s:
        return f"{order.number} never began"
    first_s, last_s = order.begun_s[0], order.heard[-1][0] if order.heard else order.begun_s[-1]
    lines = [(begun_s, "asked") for begun_s in order.begun_s] + order.heard
    for accident in accidents:
        if accident.over_s > first_s and accident.begun_s < last_s:
            lines += [(accident.begun_s, f"[{accident.kind}]"), (accident.over_s, "[over]")]
    return f"{order.number}: " + ", ".join(f"{at_s - first_s:.2f} {what}" for at_s, what in sorted(lines))
