"""When a request reached this host, as the kernel knows it: for how long its bytes lay there before we read them.

A loop that is behind reads late, and a clock that starts at the parser sees nothing of it. Linux keeps for each TCP
connection the milliseconds since data last came (`tcpi_last_data_recv`), in steps of its timer: 1, 4 or 10 ms. Asked while
the data is being handled, that is the age of the newest of it, so it is never too large, and too small for slow senders.
"""

from __future__ import annotations

import socket
import sys
from asyncio import BaseTransport
from collections.abc import Callable
from struct import Struct
from time import monotonic

from b1.admission import Arrivals

# struct tcp_info (linux/tcp.h): eight bytes of flags and options, then 32 bit numbers; this is the twelfth.
_LAST_DATA_RECV = 52
_read = Struct("<I" if sys.byteorder == "little" else ">I").unpack_from

# How often the kernel is asked while ages are small, and what is small.
_ASK_EVERY_S = 0.001
_YOUNG_S = 0.010

AgeOf = Callable[[], float]


def age_reader(transport: BaseTransport) -> AgeOf | None:
    """Return a function that says how long ago data last came on this connection, in seconds; None where nobody knows.

    Call it only while the connection is open: it keeps the number of a descriptor and not the descriptor.
    """
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    getsockopt, level, option = connection.getsockopt, socket.IPPROTO_TCP, socket.TCP_INFO

    def age_s() -> float:
        try:
            info = getsockopt(level, option, _LAST_DATA_RECV + 4)
        except OSError:
            return 0.0
        return float(_read(info, _LAST_DATA_RECV)[0]) / 1000.0 if len(info) >= _LAST_DATA_RECV + 4 else 0.0

    return age_s


def arrived_s(arrivals: Arrivals, age_of: AgeOf | None) -> float:
    """Return when the bytes in hand came, on the monotonic clock.

    The kernel is asked once in a millisecond, unless the last answer was an old request: ready connections come in the
    order in which they became ready, so what is read right after a young one is young. Asking costs 4 us.
    """
    now_s = monotonic()
    if age_of is None:
        return now_s
    if now_s - arrivals.asked_s > _ASK_EVERY_S or arrivals.asked_age_s > _YOUNG_S:
        arrivals.asked_s = now_s
        arrivals.asked_age_s = age_of()
    return now_s - arrivals.asked_age_s
