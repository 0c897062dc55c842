"""What a worker's store leaves to the worker after it: capped, versioned bytes, written by `export`, read by `absorb`.

Two exports at most: all of it when the worker ceases to accept, then what it still did while it drained.
"""

from b1.store.passing.report import Absorbed, Exported, PassingStore

__all__ = ["Absorbed", "Exported", "PassingStore"]
