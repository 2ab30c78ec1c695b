"""Ids of published lists, by which an impression names the list that was shown."""

import hashlib

from pipeline.storage import warehouse

COLUMN = "list_id"
BY = "concat(attribute, '=', value)"
"""SQL for the name of a list of `recommendations_by`."""
DIGITS = 20
"""Hexadecimal digits: 80 bits, so that two of 10**9 lists share an id with a probability below 10**-6."""


def list_id(dataset: str, run_id: str, user_id: str, name: str = "") -> str:
    """Id of a user's list of a night; `name`: of the list, where a user has several.

    It depends on nothing else, so a night that is built again gives its lists the same ids. It is a pseudonym: who
    knows data set, night and user can compute it.
    """
    return hashlib.md5("\x1f".join((dataset, run_id, name, user_id)).encode(), usedforsecurity=False).hexdigest()[
        :DIGITS
    ]


def expression(dataset: str, run_id: str, name: str = "''") -> str:
    """SQL for `list_id` of the column user_id; `name` is SQL for the name of the list, e.g. a column."""
    fixed = ", ".join(map(warehouse.literal, (dataset, run_id)))
    return f"substr(md5(concat_ws(chr(31), {fixed}, {name}, user_id)), 1, {DIGITS})"
