"""M/M/c: what waiting costs at a given load, when callers come at random and service times vary as an exponential does.

Arithmetic without state. Source: A. K. Erlang's delay formula (1917), computed by the recursion of the loss formula, which
neither overflows nor loses digits. Time is in units of the mean service time throughout, so that one table fits every
database. Real service times vary less than exponential ones, and real arrivals come in bursts: the first makes the truth
better than the formula, the second worse.
"""

from __future__ import annotations

import math


def waiting_probability(servers: int, utilisation: float) -> float:
    """Return the probability that a caller has to wait (Erlang C).

    Args:
        servers: connections.
        utilisation: share of the time that a connection is busy, from 0 to below 1.

    Raises:
        ValueError: no queue with these numbers reaches a steady state.
    """
    if servers < 1 or not 0 <= utilisation < 1:
        raise ValueError(f"servers must be at least 1 and utilisation in [0, 1), got {servers} and {utilisation}")
    offered = servers * utilisation
    blocked = 1.0  # Erlang B of no servers
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    return blocked / (1 - utilisation * (1 - blocked))


def mean_wait(servers: int, utilisation: float) -> float:
    """Return the mean wait of all callers, in mean service times. Raises as `waiting_probability`."""
    return waiting_probability(servers, utilisation) / (servers * (1 - utilisation))


def wait_quantile(servers: int, utilisation: float, share: float) -> float:
    """Return the wait, in mean service times, that `share` of all callers do not exceed: 0.99 for the 99th percentile.

    Raises:
        ValueError: as `waiting_probability`, and for a share outside of [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    waits = waiting_probability(servers, utilisation)
    if waits <= 1 - share:
        return 0.0
    return math.log(waits / (1 - share)) / (servers * (1 - utilisation))
