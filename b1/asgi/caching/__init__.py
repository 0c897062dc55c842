"""The response cache: which answers may be stored, for whom, for how long, and how a stored one is sent.

Pure parts (`directives`, `freshness`, `conditional`, `plan`, `stored`) know nothing of the loop; `service` owns the state,
and `b1.asgi.middleware.cache` is the layer in front of it.
"""
