"""Pantry, the reference app: a multi-tenant CRM and ledger that uses b1's public names and nothing else of it."""
