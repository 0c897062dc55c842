"""Admission: which request starts, which waits and which is refused, on one core.

`gate` decides, `lane` is the queue with permits, `limit` the adaptive limit, `habits` what is learned of routes, `pump`
starts what waits, `arrivals` is what the server tells.
"""

from b1.admission.arrivals import ARRIVALS_STATE, ARRIVED_KEY, LINE_KEY, Arrivals, Line
from b1.admission.gate import Gate
from b1.admission.habits import Habits
from b1.admission.options import CLASSES, RANKS, AdmissionClass, AdmissionOptions, Rung
from b1.admission.snapshot import AdmissionSnapshot, LaneSnapshot
from b1.admission.steps import begin_thread_sample, end_thread_sample, measured
from b1.admission.ticket import BODY, FULL, Refusal, Ticket

__all__ = [
    "ARRIVALS_STATE",
    "ARRIVED_KEY",
    "BODY",
    "CLASSES",
    "FULL",
    "LINE_KEY",
    "RANKS",
    "AdmissionClass",
    "AdmissionOptions",
    "AdmissionSnapshot",
    "Arrivals",
    "Gate",
    "Habits",
    "LaneSnapshot",
    "Line",
    "Refusal",
    "Rung",
    "Ticket",
    "begin_thread_sample",
    "end_thread_sample",
    "measured",
]
