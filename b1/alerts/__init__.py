"""Alerts: what is wrong now, told once to the application's handlers and to one webhook, at least once."""

from b1.alerts.alert import Alert, Severity
from b1.alerts.memory import MemoryAlerts
from b1.alerts.options import AlertOptions
from b1.alerts.service import Alerts, AlertsSnapshot

__all__ = ["Alert", "AlertOptions", "Alerts", "AlertsSnapshot", "MemoryAlerts", "Severity"]
