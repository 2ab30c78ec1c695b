"""`nightrecs recommend`: a user's published list, or for a user without one the list that the night would have made."""

import sys
from argparse import Namespace
from typing import Any

from flows.cli.output import show
from flows.cli.query import has_table, records, require
from pipeline.core.errors import UnreadableInput
from pipeline.core.paths import Home
from pipeline.core.suggest import nearest
from pipeline.datasets.names import dataset_name

ONLY_NEW = "--attribute is for users who are not known yet; {} is known"


def recommend(options: Namespace) -> None:
    """Print the list, with titles."""
    if options.list:
        require_list(options)
    table, of = ("recommendations_in_titled", "list = $list and") if options.list else ("recommendations_titled", "")
    found = records(
        options,
        f"select rank, item_id, title, score, source, model from {table} "
        f"where {of} user_id = $user and rank <= $n order by rank",
        {"user": options.user, "n": options.n, **({"list": options.list} if options.list else {})},
    )
    if found and options.attribute:
        say(ONLY_NEW.format(repr(options.user)))
    if not found:
        is_known = records(options, "select 1 from users where user_id = $user limit 1", {"user": options.user})
        if options.attribute and not is_known:
            found = of_new_user(options)
        else:
            require(options, "user", "" if is_known else for_new_users(options))
            if options.attribute:
                say(ONLY_NEW.format(repr(options.user)))
            found = on_request(options)
    show(found, options)


def for_new_users(options: Namespace) -> str:
    """How the list of a user who is not known yet is asked for, where the night has such lists; else an empty text."""
    rows = fallbacks(options)
    some = next(((row["attribute"], row["value"]) for row in rows if row["attribute"] and row["value"]), None)
    return f"For a user without rows yet, say what is known of them: --attribute {'='.join(some)}" if some else ""


def fallbacks(options: Namespace) -> list[dict[str, Any]]:
    """Attributes and values that lists for new users are by; none without `[export] fallback_by`."""
    is_there = has_table(options, "fallback_items")
    text = "select distinct attribute, value from fallback_items order by attribute, value"
    return records(options, text, {}) if is_there else []


def on_request(options: Namespace) -> list[dict[str, Any]]:
    """The list of a user whom `[export] active_days` leaves out: by the published model, else popular items."""
    from pipeline.publishing import explanation, on_request  # imports torch

    home, dataset = Home.resolve(options.home), dataset_name(options.dataset)
    (night,) = records(options, "select run_id from freshness", {})
    try:
        published = explanation.published_night(home, dataset, night["run_id"])
    except UnreadableInput as gone:
        say(f"user {options.user!r} has no published list, and none can be computed: {gone} These are popular items, "
            "of which the user may have some already")  # fmt: skip
        return popular(options)
    rows = on_request.list_of(published, options.user, options.list).head(options.n).to_dicts()
    by = "the published model"
    if any(row["source"] == "holdback" for row in rows):
        by = f"{rows[0]['model']}, the model of the users that export.holdback holds back, of which this user is one"
    say(f"user {options.user!r} has no published list; this one was made on request by {by}")
    titles = titles_of(options, [row["item_id"] for row in rows])
    return [
        {"rank": row["rank"], "item_id": row["item_id"], "title": titles.get(row["item_id"]), "score": row["score"],
         "source": row["source"], "model": row["model"]}
        for row in rows
    ]  # fmt: skip


def of_new_user(options: Namespace) -> list[dict[str, Any]]:
    """The list of a user without rows: by an attribute, else popular items. UnreadableInput unless it is NAME=VALUE."""
    name, separator, value = options.attribute.partition("=")
    if not separator:
        raise UnreadableInput(f"--attribute is NAME=VALUE, such as country=de, not {options.attribute!r}")
    if options.list:
        raise UnreadableInput(
            f"user {options.user!r} is not known, and lists for new users exist without --list {options.list} only"
        )
    there = fallbacks(options)
    names = sorted({row["attribute"] for row in there if row["attribute"]})
    if names and name not in names:
        there_are = f"lists for new users are by {', '.join(names)} (export.fallback_by)"
        raise UnreadableInput(f"--attribute {name}: {there_are}{nearest(name, names)}")
    query = (
        "select fallback_items.rank, item_id, title, score, 'fallback' as source, null::varchar as model "
        "from fallback_items left join (select item_id, title from items) as items using (item_id) "
        "where attribute is not distinct from $name "
        "and value is not distinct from $value and fallback_items.rank <= $n order by fallback_items.rank"
    )
    params = {"name": name, "value": value, "n": options.n}
    if there and (found := records(options, query, params)):
        say(f"user {options.user!r} is not known; these are the items for new users with {name} {value!r}")
        return found
    near = nearest(value, [row["value"] for row in there if row["value"]])
    why = f"no user has it{near}" if names else "[export] fallback_by makes such lists"
    no_list = f"user {options.user!r} is not known, and there is no list for {name} {value!r}: {why}"
    say(f"{no_list}. These are popular items")
    everyone = records(options, query, {"name": None, "value": None, "n": options.n}) if there else []
    return everyone or popular(options)


def require_list(options: Namespace) -> None:
    """Raise UnreadableInput, with the lists that there are, if the night has no list of this name."""
    is_there = has_table(options, "recommendations_in")
    found = records(options, "select distinct list from recommendations_in order by list", {}) if is_there else []
    names = [row["list"] for row in found]
    if options.list not in names:
        there = f"there are: {', '.join(names)}" if names else "it has only the default list; [lists.NAME] adds others"
        near = nearest(options.list, names)
        raise UnreadableInput(f"the published night of {options.dataset} has no list {options.list!r}{near}; {there}")


def popular(options: Namespace) -> list[dict[str, Any]]:
    """The most popular items, as the rows of a list."""
    return records(
        options,
        "select popular_items.rank, item_id, title, score, 'fallback' as source, null::varchar as model "
        "from popular_items left join (select item_id, title from items) as items using (item_id) "
        "where window_days = 0 and popular_items.rank <= $n "
        "order by popular_items.rank",
        {"n": options.n},
    )


def titles_of(options: Namespace, item_ids: list[str]) -> dict[str, str | None]:
    """Titles by item id."""
    query = "select item_id, title from items where list_contains($ids, item_id)"
    return {row["item_id"]: row["title"] for row in records(options, query, {"ids": item_ids})}


def say(text: str) -> None:
    """A message to the person, next to the data on stdout."""
    print(text, file=sys.stderr)
