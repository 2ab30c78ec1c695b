"""Renders a night as one HTML file: no network, light and dark, phone and desktop; all text escaped.

A content security policy allows the page's own two scripts, by their hashes, and nothing else.
"""

import base64
import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.filesystem import write_atomically
from pipeline.core.paths import Home
from pipeline.reporting import formatting
from pipeline.reporting.html import sections_data, sections_lists, sections_models
from pipeline.reporting.night import Night
from pipeline.reporting.published_tables import look
from pipeline.schemas import tables

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent
FILTERS = ("number", "rounded", "percent", "seconds", "moment", "day", "interval", "reason")


def write(home: Home, dataset: str, run_id: str) -> Path:
    """Write the report of a night from what is still stored of it; returns the file."""
    return keep(content(Night(home, dataset, run_id)))


def keep(facts: dict[str, Any]) -> Path:
    """Write the page with these contents; returns the file."""
    night: Night = facts["night"]
    target = night.home.report(night.dataset, night.run_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, html(facts))
    return target


def html(facts: dict[str, Any], personal: bool = True) -> str:
    """The page with these contents. Not `personal`: without users and bad rows, for places that outlive the tables."""
    notes = facts["notes"] if personal else list(map(formatting.without_examples, facts["notes"]))
    return rendered("page.html", facts | {"notes": notes, "personal": personal}, facts["night"].home)


def rendered(template: str, facts: dict[str, Any], home: Home) -> str:
    """A template of this folder with these contents and with the page's style and scripts."""
    scripts = library(home), (HERE / "page.js").read_text(encoding="utf-8")
    return _template(template).render(
        **facts,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        scripts=scripts,
        policy=" ".join(map(_hash, scripts)),
    )


@cache
def _template(name: str) -> "Template":
    """A template of this folder; to compile one takes a third of a second."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(formatting, name) for name in FILTERS}
    return environment.get_template(name)


def content(night: Night) -> dict[str, Any]:
    """Everything that the template shows."""
    published = look(night.file, night.raw) if night.file else None
    data = sections_data.data(night)
    checks = night.table(tables.CHECKS).sort("passed", "check_name").to_dicts()
    champion = night.record.get("champion")
    nights = sections_data.over_nights(night)
    nights["charts"] += sections_models.clicks(night)
    return {
        "night": night, "record": night.record, "dataset": night.dataset, "notes": night.notes,
        "summary": formatting.summary(night, published), "to_do": formatting.to_do(night.record),
        "checks": checks, "data": data, "drift": sections_data.drift(night),
        "leaderboards": sections_data.leaderboards(night),
        "segments": sections_data.segments(night), "gate": sections_data.gate(night),
        "nights": nights,
        "training": sections_models.training(night), "exposure": sections_models.exposure(published),
        "further": sections_lists.parts(night), "churn": sections_models.churn(night),
        "published": published, "stages": sections_models.stages(night),
        "lineage": sections_models.lineage(night, data["parts"]),
        "left_out": night.record.get("left_out") or {}, "champion": champion and formatting.named(night, champion),
    }  # fmt: skip


def library(home: Home) -> str:
    """Vega, Vega-Lite and Vega-Embed in one script; bundled once per home and version, as that takes a second."""
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
    """The name of an inline script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
