"""Invalidations tied to writes: rules that say what a write makes stale, and rows that do not forget it."""
