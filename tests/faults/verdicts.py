"""Nights that must not publish what they made, families that fail, data at the edge."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from . import plants
from .files import ledger
from .ground import CHEAP, WITH_GRADIENT, Ground, refused, rows
from .table import row


def tastes(n_users: int = 300, n_groups: int = 6, n_items: int = 10) -> list[tuple[str, str, int, int]]:
    """Users who like most of their own group's items, so that a model of tastes is far better than popularity."""
    draw = random.Random(7)
    out = []
    for user in range(n_users):
        own = [f"g{user % n_groups}-{i}" for i in range(n_items)]
        for place, item in enumerate(draw.sample(own, 7)):
            out.append((f"u{user}", item, 5, 1_000_000 + user * 100 + place))
    return out


@row(18, "empty input; 90 % smaller input", "exit 3")
def too_small(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows(200))
    ground.night()
    before, reasons = ground.promise(), []
    for left in ([], rows(200)[: len(rows(200)) // 12]):
        ground.write(left)
        reasons.append(refused(ground, before))
    (ground.source / "a.csv").write_bytes(b"")
    reasons.append(refused(ground, before))
    ground.write(rows(180))
    ground.night()
    return f"exit 3: {reasons[0][:60]!r}, {reasons[1][:90]!r}; 10 % smaller is published"


@row(19, "NaN rating; loss goes NaN", "quarantine; the family fails alone")
def nan(root: Path) -> str:
    wild = WITH_GRADIENT.replace("embedding_dim = 4", "embedding_dim = 4\nlearning_rate = 1e30\noptimizer = 'sgd'")
    ground = Ground(root, recipe=wild, source="max_reject_rate = 0.2")
    good = rows()
    ground.write([*good, ("u1", "x", "NaN", 5), ("u2", "x", "nan", 6)])  # type: ignore[list-item]
    ended = ground.night()
    assert ledger(ground, "ingest") == {"kept": len(good), "rating_not_finite": 2}
    left_out = ground.record()["left_out"]
    assert set(left_out) == {"mf"} and "mf" in ended.output, left_out
    assert ground.promise()
    return f"2 rows quarantined; mf {left_out['mf'][:90]!r}; the others went on, published"


@row(20, "challenger worse", "incumbent stays")
def worse_challenger(root: Path) -> str:
    ground = Ground(root, recipe='[split]\nkind = "leave_one_out"\n[models.ease]\nl2 = 10.0\n[models.popularity]\n')
    ground.write(tastes())
    ground.night()
    assert ground.record()["champion"] == "ease"
    lists = sorted(ground.ask("select user_id, rank, item_id from recommendations"))
    (ground.root / "recipe.toml").write_text(
        '[split]\nkind = "leave_one_out"\n[models.mf]\nepochs = 1\nembedding_dim = 2\n'
    )
    ended = ground.night()
    assert sorted(ground.ask("select user_id, rank, item_id from recommendations")) == lists, ended.output[-600:]
    verdict = ground.record().get("gate") or ground.record().get("choice") or {}
    assert ground.promise() == ground.run_ids()[-1]
    return f"the published configuration was fitted again and stays: {str(verdict.get('verdict') or verdict)[:110]}"


@row(21, "all users cold; one user; one item; a user who has seen everything", "defined results")
def edges(root: Path) -> str:
    early = [(f"u{u}", f"i{i}", 3, 1_000 + 10 * u + i) for u in range(10) for i in range(8) if (u + i) % 3]
    cold = [(f"new{n}", item, r, t + 10**6) for n, (_, item, r, t) in enumerate(early[:12])]
    alone, random_split = "[models.popularity]\n", '[split]\nkind = "random"\nby = "row"\n[models.popularity]\n'
    timed = f'[split]\nkind = "global_time"\ntest = {12 / len(early + cold):.6f}\n[models.popularity]\n[models.ease]\n'
    cases = {
        "all users cold": (early + cold, timed),
        "one user": ([("u", f"i{i}", 3, i) for i in range(12)], '[split]\nkind = "leave_one_out"\n' + alone),
        "one item": ([(f"u{u}", "i", 3, u) for u in range(12)], random_split),
        "seen everything": ([*early, *[("all", f"i{i}", 3, 9_000 + i) for i in range(8)]], CHEAP),
    }
    printed = []
    for name, (records, recipe) in cases.items():
        ground = Ground(root / name.replace(" ", "-"), recipe=recipe)
        ground.write(records)
        ground.night()
        assert ground.promise()
        items = {item for _, item, *_ in records}
        listed: dict[str, set[str]] = {}
        for user, item in ground.ask("select user_id, item_id from recommendations"):
            listed.setdefault(user, set()).add(item)
        for user in {u for u, *_ in records}:
            unseen = items - {i for u, i, *_ in records if u == user}
            got = listed.get(user, set())
            assert got <= unseen and len(got) == min(20, len(unseen)), f"{name}: {user} got {len(got)} of {len(unseen)}"
        printed.append(f"{name}: {sum(map(len, listed.values()))} rows")
    return "; ".join(printed) + "; everybody has min(20, items not yet seen)"


def plant(kind: str) -> None:
    """A model whose lists are wrong, as it would reach the tables."""
    from pipeline.publishing import holdback

    plants.replace(holdback, "recommend", functools.partial(_wrong_lists, kind))


def _wrong_lists(kind: str, sound: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The lists of `holdback.recommend`, those of the first user of each part wrong."""

    def planted(run: Any, model: Any, rows: pl.DataFrame, *rest: Any, **named: Any) -> Iterator[Any]:
        for whole in sound(run, model, rows, *rest, **named):
            part = whole.lists
            first = part["user_id"][0]
            of_first, seen = (
                pl.col("user_id") == first,
                rows.filter(pl.col("user_id").cast(pl.String) == first)["item_id"],
            )
            match kind:
                case "duplicates":
                    item = part["item_id"][0]
                    part = part.with_columns(item_id=pl.when(of_first).then(pl.lit(item)).otherwise("item_id"))
                case "masked items":
                    top = of_first & (pl.col("rank") == 1)
                    part = part.with_columns(item_id=pl.when(top).then(pl.lit(str(seen[0]))).otherwise("item_id"))
                case "NaN":
                    part = part.with_columns(score=pl.when(of_first).then(float("nan")).otherwise("score"))
                case "short lists":
                    part = part.filter(~of_first | (pl.col("rank") < 3))
                case "nobody":
                    part = part.filter(~of_first)
            yield dataclasses.replace(whole, lists=part)

    return planted


@row(22, "a model returns duplicates, masked items, NaN, short lists (planted)", "audit refuses")
def planted_lists(root: Path) -> str:
    ground = Ground(root)
    ground.write(rows())
    ground.night()
    before, output = ground.promise(), []
    for number, kind in enumerate(("duplicates", "masked items", "NaN", "short lists", "nobody")):
        ground.write(rows(41 + number))  # else the lists of the sound night are there already
        reason = refused(ground, before, before=functools.partial(plant, kind))
        output.append(f"{kind}: {reason.split('audit found bad rows: ')[-1].split(':')[0]}")
    ground.write(rows(50))
    ground.night()
    assert ground.promise() == ground.run_ids()[-1]
    return "exit 3, old night stays; " + "; ".join(output)


def crash(error: type[Exception]) -> None:
    """ease fails as if it ran out of memory, or had a bug."""
    from pipeline.models.ease import Ease

    def fails(*_: Any) -> None:
        raise error("planted")

    plants.replace(Ease, "fit", lambda _: fails)


@row(26, "a family crashes or runs out of memory", "others go on; reported; night publishes")
def crashing_family(root: Path) -> str:
    printed = []
    for error in (RuntimeError, MemoryError):
        ground = Ground(root / error.__name__)
        ground.write(rows())
        ended = ground.night(before=functools.partial(crash, error))
        assert f"ease failed ({error.__name__})" in ended.output and set(ground.record()["left_out"]) == {"ease"}
        models = {model for (model,) in ground.ask("select distinct model from recommendations")}
        assert models == {"popularity"} and ground.promise(), models
        printed.append(ground.record()["left_out"]["ease"])
    small = Ground(root / "small")
    small.write([(f"u{n}", f"i{n}", 3, n) for n in range(4000)] + rows())
    ended = small.night("memory_limit=100MB")
    assert set(small.record()["left_out"]) == {"ease"} and small.promise(), small.record().get("left_out")
    return f"{printed[0]!r}, {printed[1]!r}, and beyond memory_limit 'skipped'; in the journal, in the output, popularity published"
