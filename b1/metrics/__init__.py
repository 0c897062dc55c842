"""Numbers out: the catalogue of names, the instruments on the request path, and the exposition."""

from b1.metrics.registry import Metrics, Source

__all__ = ["Metrics", "Source"]
