"""The parts of cache_races.py: the shared world, the processes that race in it, and what goes wrong meanwhile."""
