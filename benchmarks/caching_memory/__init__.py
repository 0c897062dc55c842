"""How `cache_memory.py` measures: one process per contender and work, which prints what it found as JSON."""
