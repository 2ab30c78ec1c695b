"""Provokes every fault that the line promises to survive: `python -m tests.faults`, `python -m tests.faults.soak`."""
