"""The SQL blocks of the READMEs, and a home in which they run."""

import re
from pathlib import Path

from flows import conductor as line
from flows.prepare import prepare
from pipeline.core.paths import CHECKOUT
from tests.support.nights import without_views

BLOCK = re.compile(r"^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)


COOKBOOK = BLOCK.findall((CHECKOUT / "sql" / "README.md").read_text())


README = BLOCK.findall((CHECKOUT / "README.md").read_text())


EMPTY = (
    "outcome <> 'published'",
    "source = 'explore'",
    "recommendations_in",
    "recommendations_by",
    "trending_items",
    "fallback_items",
    "realised_over_nights",
    "realised_clicks",
    "not passed",
    "rejected_rows",
    "'fallback'",
    "lists = 0",
    "having count(*)",
    "from comparisons",
    "from suppressed",
)
"""Queries that a good night may answer with nothing."""


def publish(home: Path) -> Path:
    """A night of the sample; returns the published file."""
    recipe = home / "vectors.toml"  # the champion has vectors, which a query asks for
    recipe.write_text("[models.ials]\n[gate]\nenabled = false\n[export]\nreasons = 3\n")
    run = prepare(recipe=str(recipe), home=str(home))
    line.conduct(run, without_views)
    return run.home.live("sample")
