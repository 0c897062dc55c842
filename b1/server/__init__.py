"""The server: gunicorn's settings and hooks (master), the worker, its start and stop, and the HTTP protocol.

The master imports `gunicorn`, `master`, `worker` and `serving`, and none of these may load a framework or a driver: it
lives as long as the container, and its memory is paid for all that time.
"""
