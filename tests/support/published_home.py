"""A small published night, with users and items that the filters leave out, for tests that look into it."""

import random
from pathlib import Path

from flows.cli import main

TOML = """name = "tiny"
[source]
files = ["log.csv"]
[columns]
user = "user"
item = "item"
rating = "rating"
timestamp = "timestamp"
[feedback]
kind = "explicit"
keep_if = "rating >= 2"
[filter]
min_user_interactions = 4
min_item_interactions = 2
[items]
files = ["items.csv"]
id = "item"
title = "title"
"""
RECIPE = """[split]
kind = "leave_one_out"
[models.ease]
l2 = 5.0
"""
FILTERED_OUT, NEVER_POSITIVE, RARE = "u-few", "u-bad", "i-rare"
"""A user with too few rows, one whose rows are all below keep_if, and an item of one row."""


def publish(folder: Path) -> Path:
    """Run the night in `folder`/home and return that home."""
    draw = random.Random(0)
    rows = [
        (f"u{user:02d}", f"i{item:02d}", draw.choice([1, 2, 3, 4, 5]))
        for user in range(60)
        for item in range(30)
        if draw.random() < (0.6 if (user + item) % 3 == 0 else 0.1)
    ]
    rows += [(FILTERED_OUT, item, 5) for item in ("i01", "i04")] + [(NEVER_POSITIVE, "i02", 1)]
    rows.append(("u00", RARE, 5))
    lines = [f"{u},{i},{r},{1_600_000_000 + 60 * n}" for n, (u, i, r) in enumerate(rows)]
    (folder / "log.csv").write_text("\n".join(["user,item,rating,timestamp", *lines, ""]))
    titles = [f"i{item:02d},Title {item}" for item in range(30)] + ["i-new,Not yet read"]
    (folder / "items.csv").write_text("\n".join(["item,title", *titles, ""]))
    (folder / "tiny.toml").write_text(TOML)
    (folder / "cheap.toml").write_text(RECIPE)
    words = ["run", str(folder / "tiny.toml"), "--recipe", str(folder / "cheap.toml"), "--no-prefect"]
    assert main(["--home", str(folder / "home"), *words]) == 0
    return folder / "home"
