"""`nightrecs explain`: a published model's score of an item for a user, and its parts."""

from argparse import Namespace
from typing import Any

import polars as pl

from flows.cli.output import show
from flows.cli.query import query, require
from pipeline.core.paths import Home
from pipeline.core.terminal import as_json, show_line
from pipeline.datasets.names import dataset_name
from pipeline.publishing.explanation import explanation, published_night


def explain(options: Namespace) -> None:
    """Print score, rank, mask and parts. JSON has all parts, text the largest ones."""
    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    require(options, "user")
    require(options, "item")
    run_id = query(options, "select run_id from freshness", {}).item()
    answer = explanation(published_night(home, dataset, run_id, options.model), options.user, options.item)
    parts = pl.DataFrame([part["item_id"] for part in answer["contributions"]], schema={"item_id": pl.String})
    titles = dict(query(options, "select item_id, title from items", {}).join(parts, on="item_id").iter_rows())
    listed = query(
        options,
        "select title, rank from items left join recommendations using (item_id) "
        "where item_id = $item and user_id = $user "
        "union all select title, null from items where item_id = $item order by rank nulls last limit 1",
        {"user": options.user, "item": options.item},
    ).row(0, named=True)
    answer |= {"dataset": dataset, "title": listed["title"], "published_rank": listed["rank"]}
    for part in answer["contributions"]:
        part["title"] = titles.get(part["item_id"])
    if options.json:
        print(as_json(answer, indent=1))
    else:
        describe(answer, options)


def describe(answer: dict[str, Any], options: Namespace) -> None:
    """Print the explanation as text."""
    title = f" ({answer['title']})" if answer["title"] else ""
    by = answer["model"] + (f" as fitted on {answer['fit']}" if answer["fit"] != "all" else "")
    show_line(f"item {answer['item_id']}{title} for user {answer['user_id']}, by {by}, night {answer['run_id']}")
    times = ", ".join(f"{row['timestamp']}"[:19] for row in answer["seen"] if row["timestamp"])
    seen = f"the user has it already{f' ({times})' if times else ''}"
    days = f" in the last {answer['hide_days']} days (hide_days)" if answer["hide_days"] else ""
    masked = f"masked: {seen}{days}; the rank is the one without the mask"
    free = f"not masked: {seen}, and lists may repeat it" if answer["seen"] else "not masked: the user does not have it"
    show_line(masked if answer["masked"] else f"{free}{', longer ago than hide_days' * bool(answer['seen'] and days)}")
    if answer["excluded_by"]:
        because = f" ({answer['excluded_because']})" if answer["excluded_because"] else ""
        show_line(f"excluded from all lists by export.{answer['excluded_by']}{because}; the rank is the one without it")
    if answer["boost"] != 1:
        show_line(f"boosted: the model's score times {answer['boost']:g}, or divided by it where it is negative")
    if answer["promoted_to"]:
        places = ", ".join(map(str, answer["promoted_to"]))
        show_line(f"promoted to place {places} of the list, if no better item of that promotion is left for the user")
    if answer["score"] is None:
        show_line("the model does not know the item: filters removed it, or no user has it; so it is in no list")
        return
    listed = f"rank {answer['published_rank']} of the list" if answer["published_rank"] else "not in the list"
    show_line(
        f"score {answer['score']:.6g}, rank {answer['rank']:,} of {answer['candidates']:,} items; published: {listed}"
    )
    if answer["source"] == "fallback":
        show_line("the model can't serve this user, so the score is the item's popularity")
    if answer["predicted_rating"] is not None:
        given = [row["rating"] for row in answer["seen"] if row["rating"] is not None]
        own = f"; the user's own: {given[-1]:,.6g}" if given else ""
        scale = "" if answer["scale"] == "none" else f"; score and terms: on the scale of the fit, {answer['scale']}"
        show_line(f"predicted rating {answer['predicted_rating']:,.4g}{own}{scale}")
    rows = [{"contribution": v, "from": name} for name, v in answer["terms"].items()]
    parts = answer["contributions"]
    rows += [{"contribution": p["contribution"], "from": p["item_id"], "title": p["title"]} for p in parts[: options.n]]
    if rest := parts[options.n :]:
        total = sum(part["contribution"] for part in rest)
        rows.append({"contribution": total, "from": f"({len(rest)} others)", "title": None})
    if rows:
        show_line()
        show(rows, options)
    elif answer["source"] == "model":
        show_line(f"{answer['model']} has no parts to show: its score is not a sum over items or terms")
