"""A grocery: people who buy their staple every week, and other things once."""

import random
from pathlib import Path

import polars as pl

from tests.support.published_nights import DAY, START, Dataset

STAPLES = ("milk", *(f"staple{n:02d}" for n in range(1, 20)))
DAYS = 120
REGULAR, LAPSED = "regular", "lapsed"
"""They buy milk every week: one to the end, the other stopped 50 days before it."""
RECIPE = """seen = "allow"
[split]
kind = "global_time"
[models.popularity]
[models.ease]
[evaluation]
protocols = ["full", "sampled_99"]
[export]
top_n = 5
[gate]
enabled = false
"""


class Grocery(Dataset):
    """Each of `users` buyers has a staple, bought every 6 to 8 days, and buys one of `others` things a week."""

    def __init__(self, folder: Path, users: int = 60, others: int = 120):
        super().__init__(folder)
        toml = '[source]\nfiles = ["a.csv"]\n[columns]\ntimestamp = "t"\n'
        (folder / "tiny.toml").write_text(f'name = "tiny"\n{toml}')
        (folder / "cheap.toml").write_text(RECIPE)
        draw, lines = random.Random(3), ["user,item,t"]
        for n, user in enumerate([REGULAR, LAPSED, *(f"u{n:02d}" for n in range(users))]):
            taste = draw.randrange(4)
            staple = "milk" if user in (REGULAR, LAPSED) else STAPLES[n % len(STAPLES)]
            day = draw.uniform(0, 7)
            while day < DAYS - (50 if user == LAPSED else 0):
                lines.append(f"{user},{staple},{START + int(day * DAY)}")
                day += draw.uniform(6, 8)
            for week in range(DAYS // 7):
                thing = taste + 4 * draw.randrange(others // 4)  # one of four tastes
                lines.append(f"{user},thing{thing:03d},{START + (7 * week + draw.randrange(7)) * DAY + n}")
        (folder / "a.csv").write_text("\n".join([*lines, ""]))

    def rows(self) -> pl.DataFrame:
        """The source: user, item, t in seconds."""
        return pl.read_csv(self.folder / "a.csv")
