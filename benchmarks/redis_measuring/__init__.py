"""How `redis_link.py` measures: one process per client, commanded over its pipes; a line that delays; a line with TLS."""
