"""A private Postgres for development: found, created, started and stopped by `b1 dev`, and by nobody in production.

Standard library only: the supervisor that imports this stays beside the app for as long as it runs.
"""
