"""gunicorn's settings, for ``-c python:b1.server.gunicorn``: every number is the plan's, and there is no logic here.

gunicorn takes the names it knows and ignores the others. GUNICORN_CMD_ARGS and the command line are read after this
file and win over it; what may not be changed is put right by the hooks (`b1.server.master`).
"""

from __future__ import annotations

from b1.server.master import FIXED, child_exit, nworkers_changed, pre_fork
from b1.server.options import master_options

_options = master_options()
_plan = _options.plan

# Only where neither the command line nor GUNICORN_CMD_ARGS names an application.
wsgi_app = _options.settings.app

bind = _options.bind
backlog = _plan.backlog
keepalive = _plan.keepalive_s
timeout = _plan.worker_timeout_s
graceful_timeout = _plan.graceful_stop_s

workers = FIXED["workers"]
worker_class = FIXED["worker_class"]
preload_app = FIXED["preload_app"]
max_requests = FIXED["max_requests"]
max_requests_jitter = FIXED["max_requests_jitter"]
reuse_port = FIXED["reuse_port"]

# The worker touches a file there to show that it lives. On a disk, and more so on the network share that App Service
# mounts as /home, that may block longer than `timeout`, and a healthy worker would be killed for it.
worker_tmp_dir = "/dev/shm" if _options.host.has_dev_shm else None

# A thread and a socket below $HOME, to change numbers at run time that the plan has just derived.
control_socket_disable = True

# Requests are logged once, by the `observe` layer, with their id and route.
accesslog = None
errorlog = "-"
loglevel = _options.settings.log_level
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {"()": "b1.logs.JsonFormatter"},
        "console": {"()": "b1.logs.ConsoleFormatter"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": _options.log_format, "stream": "ext://sys.stderr"},
    },
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": loglevel.upper(), "handlers": ["stderr"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": [], "propagate": False},
    },
}

__all__ = ["child_exit", "nworkers_changed", "pre_fork"]
