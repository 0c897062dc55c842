"""How `limiter.py` measures: one process per contender, which is told what to do by lines of JSON."""
