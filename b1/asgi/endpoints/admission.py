"""Admission's part of the health report: how full it is and what was refused; route names only with the token."""

from __future__ import annotations

from typing import Any

from b1.admission import AdmissionSnapshot


def admission_report(admission: AdmissionSnapshot | None, *, full: bool) -> dict[str, Any] | None:
    """Return the section; None where nothing is admitted (a runtime without a gate)."""
    if admission is None:
        return None
    section: dict[str, Any] = {
        "rung": admission.rung,
        "running": admission.running,
        "queued": admission.queued,
        "streams": admission.streams,
        "sockets": admission.sockets,
        "oldest_ms": round(admission.oldest_age_s * 1000, 1),
        "limits": {lane.name: lane.limit for lane in admission.lanes},
        "admitted": dict(admission.admitted),
        "refused": [{"class": name, "reason": reason, "count": count} for name, reason, count in admission.refused],
        "cancelled": dict(admission.cancelled),
    }
    if full:
        section["cpu_bound_routes"] = list(admission.cpu_bound)
    return section
