"""What benchmarks/cache.py is made of: caches behind one set of verbs, a fixed workload, and what replays it over HTTP.

`contenders` and `client` run in the peers' environments too, so they import b1 only where ours is made.
"""
