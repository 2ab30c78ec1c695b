"""Numbers, times and summary sentences for reports."""

import datetime as dt
import re
from typing import Any

import polars as pl

from pipeline.config.settings import INCUMBENT
from pipeline.reporting.night import Night
from pipeline.schemas.tables import metric_name

NOTHING = "–"
SEGMENTS = {
    "all": "all users", "activity_low": "least active third", "activity_mid": "middle third",
    "activity_high": "most active third", "model": "served by the model", "fallback": "served by popular items",
}  # fmt: skip
TO_DO = {
    "refused": "Nothing crashed: a check refused to publish this night. Read the reason and the failed checks below, "
    "fix the source or the setting that they name, then run the night again. Finished stages are reused from the lake.",
    "crashed": "Run the night again: it continues where it ended, since finished stages are reused from the lake. The "
    "traceback is in errors.txt of the night's journal; `nightrecs doctor` checks the installation and the home.",
    "stopped": "Nothing is wrong: --until ended the night early. Run it without --until to publish.",
    "running": "The night has not ended, or its process was killed; in that case the next night closes it.",
}
MEND = (
    "Nothing is broken in Nightrecs: fix what the reason names, then run the night again. Finished stages are reused "
    "from the lake."
)
"""Used instead of the advice for a crash, where an input file or a setting ended the night."""


def number(value: float | None) -> str:
    """`79,530`."""
    return NOTHING if value is None else f"{value:,.0f}"


def rounded(value: float | None) -> str:
    """`0.1237`: four significant digits, without exponent."""
    if value is None or value != value:
        return NOTHING
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:g}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1 else f"{value:.3f}" if 1 <= abs(value) < 10 else f"{value:.4g}"


def interval(low: float | None, high: float | None) -> str:
    """`[0.1126, 0.1349]`, or nothing."""
    return "" if low is None or high is None else f"[{rounded(low)}, {rounded(high)}]"


def percent(value: float | None) -> str:
    """A share as `4.97 %`."""
    if value is None:
        return NOTHING
    return "100 %" if value >= 0.99995 else f"{100 * value:.3g} %"


def seconds(value: float | None) -> str:
    """`0.4 s`, `2 min 5 s`, `1 h 3 min`."""
    if value is None:
        return NOTHING
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def moment(value: dt.datetime | str | None) -> str:
    """`22 Nov 2026, 04:50`: UTC."""
    if value is None:
        return NOTHING
    at = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.day} {at:%b %Y, %H:%M}"


def day(value: dt.datetime | str | None) -> str:
    """`22 Nov 2026`."""
    return moment(value).partition(",")[0]


def labels(nights: pl.DataFrame) -> dict[str, str]:
    """How charts name these nights, UTC, by run_id: `22 Nov 04:50`, with seconds or the year where that names two."""
    started = dict(nights.select("run_id", "started_at").iter_rows())
    for form in ("%d %b %H:%M", "%d %b %H:%M:%S", "%d %b %Y %H:%M:%S"):
        named = {run_id: f"{at:{form}}" for run_id, at in started.items()}
        if len(set(named.values())) == len(named):
            return named
    return {run_id: run_id for run_id in started}


def plural(n: float, word: str) -> str:
    """`1 warning`, `2 warnings`."""
    return f"{n:,} {word}" + "s" * (n != 1)


def reason(name: str) -> str:
    """`rating not a number` of `rating_not_a_number`."""
    return name.replace("_", " ")


def to_do(record: dict[str, Any]) -> str | None:
    """Advice on a night that did not publish; None where there is nothing to do."""
    if record["outcome"] == "crashed" and str(record.get("reason")).startswith(("UnreadableInput:", "SettingsError:")):
        return MEND
    return TO_DO.get(record["outcome"])


def summary(night: Night, published: dict[str, Any] | None) -> list[str]:
    """What happened in the night: the sentences of one paragraph."""
    sentences = [_read(night)]
    if night.is_published:
        sentences += [made_by(night), _gate(night), _served(published), _churn(night)]
    else:
        sentences += [_refused(night)]
    return [sentence for sentence in [*sentences, _warned(night)] if sentence]


def _read(night: Night) -> str:
    now = night.nights.filter(run_id=night.run_id).to_dicts()
    if not now or now[0]["rows"] is None:
        return "The night ended before the source was read."
    rows, rejected = now[0]["rows"], now[0]["rejected"]
    text = f"The source has {number(rows + rejected)} lines"
    text += f", of which {number(rejected)} ({percent(rejected / (rows + rejected))}) were rejected" if rejected else ""
    before = night.nights.filter(night.nights["run_id"] < night.run_id).filter(outcome="published").drop_nulls("rows")
    if before.height:
        was = before["rows"][-1]
        change = (rows - was) / max(was, 1)
        text += f"; {change:+.2%} valid rows" if rows != was else "; the same number of valid rows"
        text += " compared with the last published night" if rows != was else " as in the last published night"
    if night.profile:
        clean = night.profile["shapes"]["clean"]
        text += f". {number(clean['rows'])} interactions of {number(clean['users'])} users and "
        text += f"{number(clean['items'])} items are in use"
    return text + "."


def made_by(night: Night) -> str:
    """Which model made the lists, and its metric on test."""
    label, (protocol, metric, cutoff) = night.record.get("champion"), night.selection_metric
    found = night.metrics.filter(
        model=str(label), split="test", segment="all", protocol=protocol, metric=metric, cutoff=cutoff
    ).to_dicts()
    text = f"The lists were made by {named(night, label)}"
    if not found:
        return f"{text}."
    of, what = found[0], "rows" if protocol == "error" else "users"
    ends = f" {interval(of['ci_low'], of['ci_high'])}" if of["ci_low"] is not None else ""
    about = f"{number(of['n'])} {what}" + (f", protocol {protocol}" if protocol != "error" else "")
    return f"{text}: {metric_name(metric, cutoff)} {rounded(of['value'])}{ends} on test ({about})."


def named(night: Night, label: str | None) -> str:
    """A model's display name: the incumbent with its family."""
    family = {fit.label: fit.family for fit in night.fits}.get(label or "")
    if family is None and label == night.record.get("champion"):
        family = (night.record.get("champion_configuration") or {}).get("family")
    return f"{label} ({family})" if label == INCUMBENT and family else str(label)


def cost(verdict: dict[str, Any]) -> str | None:
    """What challenger and incumbent cost, where the gate compared it (`gate.prefer`)."""
    if not (of := verdict.get("cost")):
        return None
    what = "Seconds of the fit"
    if of["of"] == "lists":
        what = f"Change of the published lists, mean 1 − Jaccard of {plural(of['n'], 'user')}"
    text = f"{what}: {verdict['challenger']} {rounded(of['challenger'])}, incumbent {rounded(of['incumbent'])}"
    if of.get("ci_low") is None:
        return f"{text}."
    difference = of["challenger"] - of["incumbent"]
    return f"{text}; difference {rounded(difference)} {interval(of['ci_low'], of['ci_high'])}."


def _gate(night: Night) -> str:
    text = (night.record.get("gate") or {}).get("text")
    return f"The gate: {text}." if text else ""


def _served(published: dict[str, Any] | None) -> str:
    if published is None:
        return ""
    served = published["served"]
    text = f"{number(served['users'])} users have up to {published['top_n']} recommendations each"
    if served["fallback"]:
        text += f", {number(served['fallback'])} of them popular items, because the model can't serve them"
    if served["unlisted"]:
        text += f"; {number(served['unlisted'])} inactive users get a list on request"
    if served["explored"]:
        text += f"; {number(served['explored'])} places ({percent(served['explored'] / served['rows'])}) show "
        text += f"{plural(served['new_items'], 'new item')}, drawn"
    share = percent(published["coverage"]["coverage"])
    return f"{text}; {share} of the items with interactions are in at least one list."


def _churn(night: Night) -> str:
    rows = night.churn_of_nights.filter(run_id=night.run_id, segment="all").to_dicts()
    if not rows:
        return ""
    of = rows[0]
    if of["jaccard"] == 1 and of["rbo"] > 0.99999:
        return "The lists are the same as the ones they replaced."
    return (
        f"The lists differ from the ones they replaced by {percent(1 - of['jaccard'])} (1 - Jaccard@{of['cutoff']}, "
        f"mean of {number(of['n'])} users); {number(of['items_entered'])} items entered, "
        f"{number(of['items_left'])} left."
    )


def _refused(night: Night) -> str:
    live = night.nights.filter(outcome="published")
    if not live.height:
        return "Nothing was published, and nothing was published before."
    last = live.row(-1, named=True)
    return f"Nothing was published: readers see the tables of the night of {moment(last['started_at'])} UTC."


def _warned(night: Night) -> str:
    n = len(warnings(night))
    left_out = night.record.get("left_out") or {}
    text = f"There {'is' if n == 1 else 'are'} {plural(n, 'warning')}. " if n else "There are no warnings. "
    return (text + (f"Left out: {', '.join(left_out)}." if left_out else "")).rstrip()


def warnings(night: Night) -> list[str]:
    """Notes that are warnings."""
    return [note for note in night.notes if note.startswith("warning: ")]


def without_examples(note: str) -> str:
    """A note without its example of a bad row: for copies that outlive the tables."""
    return re.sub(r", e\.g\. .* \(wanted", " (wanted", note)
