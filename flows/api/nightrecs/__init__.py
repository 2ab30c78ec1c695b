"""Nightrecs in Python: run nights, and read, explain, compare and evaluate what they published.

>>> import nightrecs
>>> nightrecs.run("sample")                             # a night, as `nightrecs run` without Prefect
>>> nightrecs.recommend("sample", ["u0001"], top_n=5)   # a Polars frame
>>> nightrecs.run_frame(plays, "plays", columns={"user": "listener", "item": "track"})
>>> nightrecs.compare("plays", "ease", "ials")

`Published` opens the tables of a data set once and has the same functions as methods.
"""

from flows.notebook import Published
from nightrecs.functions import audience, compare, evaluate, reasons, recommend, run, run_frame, similar, sql, table
from pipeline.core.errors import Locked, Refused, SettingsError, UnreadableInput

__all__ = [
    "Locked",
    "Published",
    "Refused",
    "SettingsError",
    "UnreadableInput",
    "audience",
    "compare",
    "evaluate",
    "reasons",
    "recommend",
    "run",
    "run_frame",
    "similar",
    "sql",
    "table",
]
