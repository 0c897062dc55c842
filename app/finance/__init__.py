"""Expenses, revenues and the ledger behind them."""
