"""Prefect: deployments, schedules, servers, artifacts and clean-up.

Only this package, `tasks.py`, `scheduled.py` and `serve.py` import prefect.
"""
