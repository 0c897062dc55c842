"""The same application with `B1(app)`: identity, one limit per caller, metrics, request id, body cap, deadline.

The store is Redis when REDIS_URL is set, else memory. The second route declares that its answers may be stored, and
spends from three policies.
"""

from __future__ import annotations

from fastapi import FastAPI

from b1 import B1
from b1.profile import ensure_wrapped
from contenders.document import CACHED_PATH, PATH, Balance, read_balance

application = FastAPI()
b1 = B1(application)
# Learning what a route does is paid by its first requests; under valgrind it learns what valgrind does.
application.get(PATH)(b1.admit(cpu_bound=False)(read_balance))


@application.get(CACHED_PATH)
@b1.limit("general", "transactions", "read")
@b1.cached(ttl_s=300, vary="organization")
@b1.admit(cpu_bound=False)
async def read_balance_cached() -> Balance:
    return await read_balance()


app = ensure_wrapped(application)  # what the worker of `b1 run` serves
