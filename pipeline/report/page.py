"""Renders a night as one HTML file: no network, light and dark, phone and desktop; all text escaped.

A content security policy allows the page's own two scripts, by their hashes, and nothing else.
"""

import base64
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline import tables
from pipeline.core.filesystem import write_atomically
from pipeline.paths import Home
from pipeline.report import details, sections, words
from pipeline.report.night import Night
from pipeline.report.published import look

HERE = Path(__file__).parent
FILTERS = ("number", "figure", "percent", "seconds", "moment", "day", "interval", "reason")


def write(home: Home, dataset: str, run_id: str) -> Path:
    """Make the report of a night from what is left of it; returns the file."""
    return keep(content(Night(home, dataset, run_id)))


def keep(facts: dict[str, Any]) -> Path:
    """Write the page of these facts; returns the file."""
    night: Night = facts["night"]
    target = night.home.report(night.dataset, night.run_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, html(facts))
    return target


def html(facts: dict[str, Any], personal: bool = True) -> str:
    """The page of these facts. Not `personal`: without users and bad rows, for places that outlive the tables."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(words, name) for name in FILTERS}
    scripts = library(facts["night"].home), (HERE / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        **facts | {"notes": facts["notes"] if personal else list(map(words.without_examples, facts["notes"]))},
        personal=personal,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=" ".join(map(_hash, scripts)),
    )


def content(night: Night) -> dict[str, Any]:
    """All that the template shows."""
    published = look(night.file, night.raw) if night.file else None
    data = sections.data(night)
    checks = night.table(tables.CHECKS).sort("passed", "check_name").to_dicts()
    champion = night.record.get("champion")
    return {
        "night": night, "record": night.record, "dataset": night.dataset, "notes": night.notes,
        "summary": words.summary(night, published), "to_do": words.to_do(night.record),
        "checks": checks, "data": data, "leaderboards": sections.leaderboards(night),
        "segments": sections.segments(night), "gate": sections.gate(night), "nights": sections.over_nights(night),
        "training": details.training(night), "exposure": details.exposure(published), "churn": details.churn(night),
        "published": published, "stages": details.stages(night), "lineage": details.lineage(night, data["parts"]),
        "left_out": night.record.get("left_out") or {}, "champion": champion and words.named(night, champion),
    }  # fmt: skip


def library(home: Home) -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; bundled once a home and version, for it takes a second."""
    import altair
    import vl_convert

    version = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    kept = home.reports / f".vega-{version}-{vl_convert.get_vega_version()}-{vl_convert.get_vega_embed_version()}.js"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, _bundled(version))
    return kept.read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _bundled(version: str) -> str:
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return script.replace("</script", "<\\/script")


def _hash(script: str) -> str:
    """As a content security policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
