"""The digest of a night in Markdown: Prefect shows it as an artifact, MLflow as the description of the run."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.reporting import formatting
from pipeline.reporting.formatting import NOTHING, SEGMENTS, interval, number, rounded

COLOURS = ["#7f8ea3", "#2563c9"]
"""Other models, the champion: readable on white, which is the plot's background."""
OTHERS = 2
"""Metrics next to the deciding one, for which these pages have room; the report has all."""


def markdown(facts: dict[str, Any], links: Mapping[str, str], picture: bool = False, personal: bool = True) -> str:
    """The digest, from `page.content`; `links`: name to address. Not `personal`: without examples of bad rows."""
    record, parts = facts["record"], []
    if record["outcome"] != "published":
        reason = record.get("reason") or record["outcome"]
        parts += [f"**{plain(reason if personal else formatting.without_examples(reason))}**"]
        parts += [f"**What to do.** {facts['to_do']}"]
    parts += [" ".join(facts["summary"])]
    parts += [" · ".join(f"[{name}]({link})" for name, link in links.items())] if links else []
    parts += _leaderboard(facts, picture)
    if rows := gate(facts):
        parts += [f"## Gate: {record['gate']['decision']}", table(rows)]
    if rows := facts["data"]["kept"]:
        parts += ["## Rows", table(rows_of(facts))]
    if failed := [check for check in facts["checks"] if not check["passed"]]:
        shown = [
            {"check": each["check_name"], "severity": each["severity"], "bad rows": number(each["bad_rows"])}
            for each in failed
        ]
        parts += ["## Checks that did not pass", table(shown)]
    if facts["checks"]:
        parts += [f"{sum(check['passed'] for check in facts['checks'])} of {len(facts['checks'])} checks passed."]
    if facts["left_out"]:
        left_out = [{"model": name, "why": why} for name, why in facts["left_out"].items()]
        parts += ["## Models left out", table(left_out)]
    if facts["notes"]:
        parts += ["## Notes", "\n".join(f"- {plain(formatting.without_examples(note))}" for note in facts["notes"])]
    return "\n\n".join(parts)


def headline(facts: dict[str, Any]) -> str:
    """One sentence: which model made the lists and its metric, or why there are none."""
    record = facts["record"]
    if record["outcome"] == "published":
        return formatting.made_by(facts["night"])
    return f"{record['outcome']}: {record.get('reason') or 'the night has not ended'}"


def _leaderboard(facts: dict[str, Any], picture: bool) -> list[str]:
    if not (rows := leaderboard(facts)):
        return []
    board = facts["leaderboards"][0]
    n = number(max(row["n"] or 0 for row in board["tables"][0]["rows"]))
    about = f"On test, protocol {board['protocol']}, {n} {board['counted']}, with 95 % intervals; models are chosen "
    about += f"on valid. ★ made the lists. {board['compared']}".rstrip()
    parts = ["## Leaderboard", table(rows), about]
    if picture and board["charts"]:
        shown = board["charts"][0]
        code = base64.b64encode(svg(shown["spec"])).decode()
        parts.insert(1, f"![{shown['title']}](data:image/svg+xml;base64,{code})")
    return parts


def leaderboard(facts: dict[str, Any]) -> list[dict[str, str]]:
    """One row per model, the best on test first, in the deciding protocol; the deciding metric comes first."""
    boards = [board for board in facts["leaderboards"] if board["tables"]]
    if not boards or boards[0]["split"] != "test":
        return []
    main, *beyond = (dict(_cells(table)) for table in boards[0]["tables"])
    on_valid, lead = {}, facts["nights"]["label"]
    for board in boards:
        if board["split"] == "valid" and board["protocol"] == boards[0]["protocol"]:
            on_valid = dict(_cells(board["tables"][0]))
    found = []
    for row in boards[0]["tables"][0]["rows"]:
        cells = main[row["model"]]
        first, *others = sorted(cells, key=lambda name: name != lead)
        rest = {name: cells[name] for name in others[:OTHERS]}
        rest |= dict(next(iter(table[row["model"]].items())) for table in beyond if table[row["model"]])
        ends = interval(cells[first]["ci_low"], cells[first]["ci_high"])
        found.append({
            "model": " ".join(filter(None, [row["model"], row["mark"], "★" * row["champion"]])),
            f"{first} on valid": rounded(on_valid.get(row["model"], {}).get(first, {}).get("value")),
            f"{first} on test": f"{rounded(cells[first]['value'])} {ends}".strip(),
            **{name: rounded(cell["value"]) for name, cell in rest.items()},
        })  # fmt: skip
    return found


def _cells(table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each row of a leaderboard's table: the model, and its cells by column name."""
    for row in table["rows"]:
        cells = zip(table["columns"], row["cells"], strict=True)
        yield row["model"], {name: cell for (name, _), cell in cells if cell}


def gate(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The gate's comparisons on valid: better is positive."""
    verdict = facts["record"].get("gate") or {}
    who = f"{verdict.get('challenger')} − {verdict.get('incumbent')}"
    overall, gain = verdict.get("against_incumbent") or {}, verdict.get("gain")
    rows = [{"compared": who, "among": SEGMENTS["all"], **overall}]
    if gain:
        rows.append({"compared": f"{who}, as the gate tests it", "among": SEGMENTS["all"], **gain, "n": overall["n"]})
    rows += [
        {"compared": who, "among": SEGMENTS.get(segment["segment"], segment["segment"]), **segment}
        for segment in verdict.get("segments") or []
    ]
    if cost := verdict.get("cost"):
        what = "seconds of the fit" if cost["of"] == "fit" else "change of the published lists (1 − Jaccard)"
        change = {"value": cost["challenger"] - cost["incumbent"], "ci_low": cost["ci_low"], "ci_high": cost["ci_high"]}
        rows.append({"compared": f"{who}, {what}", "among": NOTHING, **change, "n": cost["n"]})
    if floor := verdict.get("against_floor"):
        rows.append({"compared": f"{floor['of']} − {verdict['floor']}", "among": SEGMENTS["all"], **floor})
    return [
        {
            "compared": row["compared"], "among": row["among"], "difference": rounded(row["value"]),
            "interval": interval(row["ci_low"], row["ci_high"]), "p": rounded(row.get("p_value")),
            "users": number(row.get("n")),
        }
        for row in rows if row.get("value") is not None
    ]  # fmt: skip


def rows_of(facts: dict[str, Any]) -> list[dict[str, str]]:
    """How many rows each stage kept, and how many it left out, by reason."""
    lost: dict[str, list[str]] = {}
    for row in facts["data"]["lost"]:
        lost.setdefault(row["stage"], []).append(f"{number(row['rows'])} {row['reason']}")
    kept = {row["stage"]: row["rows"] for row in facts["data"]["kept"]}
    return [
        {"stage": stage, "kept": number(kept.get(stage, 0)), "left out": ", ".join(lost.get(stage, [])) or NOTHING}
        for stage in dict.fromkeys([*kept, *lost])
    ]


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with the columns of the first row."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([plain(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Text with Markdown's characters escaped: names and reasons come from the data."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())


def svg(spec: dict[str, Any]) -> bytes:
    """A chart of the report as SVG, for pages that can't draw it."""
    import altair
    import vl_convert

    config = {"background": "white", "range": {"category": COLOURS}, "view": {"stroke": None}, "padding": 12}
    version = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    return vl_convert.vegalite_to_svg({**spec, "width": 560, "config": config}, vl_version=version).encode()
