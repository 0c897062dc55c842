"""The parts of idempotency_kill.py and idempotency.py."""
