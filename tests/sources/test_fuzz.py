"""Any bytes as a source, any settings as TOML: either they are taken, or an error for people says why.

Some hundred cases each in the quick suite; `make test-all` takes 10,000.
"""

import gzip
import itertools
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.prepare import check_choices
from pipeline.config import loader
from pipeline.config.dataset import Dataset
from pipeline.config.settings import Settings
from pipeline.core.errors import SettingsError, UnreadableInput
from pipeline.schemas import tables
from pipeline.schemas.reasons import Reason
from pipeline.sources import file_kinds, file_reader
from pipeline.sources.plain_text import has_returns_only
from pipeline.storage import warehouse
from tests.support import dialects
from tests.support.reading import read_sniffed

QUICK, THOROUGH = 250, 10_000
NAMES = ("user", "item", "rating", "time")
FOR_PEOPLE = (SettingsError, UnreadableInput)

FIELDS = st.sampled_from(
    ["1", "u", "", '"', '""', '"a"', '"a,b"', '"a\nb"', "3", "4.5", "1e400", "nan", "-1", "1_0", "４", "964982703",
     "9649827030000", "2005-04-02 23:53:47", " 7", "é", "🎬", "=1+1", "\0", "\r", "::", ";", "x" * 1025, "'; drop table x"]
)  # fmt: skip
LINES = st.lists(FIELDS, max_size=6)
DELIMITERS = st.sampled_from([",", ";", "\t", "|", "::", " "])
UNITS = st.sampled_from(["s", "ms", "us", "ns", "iso", "%Y-%m-%d %H:%M:%S", "%d/%m/%y"])
NEWLINES = st.sampled_from(["\n", "\r\n"])


@st.composite
def structured(draw: Callable) -> bytes:
    """A file that looks like one of interactions: a header, in any order, and lines that are more or less right."""
    delimiter = draw(DELIMITERS)
    header = draw(st.permutations(NAMES))
    good = {"user": "u1", "item": "i1", "rating": "3", "time": "964982703"}
    lines = [list(header)]
    for fields in draw(st.lists(LINES, max_size=12)):
        lines.append([good[name] for name in header] if draw(st.booleans()) else fields)
    text = "".join(delimiter.join(line) + draw(NEWLINES) for line in lines)
    text = text.removesuffix("\n") if draw(st.booleans()) else text
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode("utf-8", "replace")


@st.composite
def damaged(draw: Callable) -> bytes:
    """The same with some bytes changed, cut out or put in."""
    content = bytearray(draw(structured()))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content)


def sources() -> st.SearchStrategy[tuple[bytes, dict[str, Any], str]]:
    """Content, the data set's `[source]`, and the unit of its times."""
    layout = st.fixed_dictionaries(
        {"header": st.booleans(), "encoding": st.sampled_from(["utf-8", "latin-1"]), "quote": st.sampled_from(['"', "'", ""])},
        optional={"delimiter": DELIMITERS},
    )  # fmt: skip
    return st.tuples(st.one_of(st.binary(max_size=120), structured(), damaged()), layout, UNITS)


def no_line_is_lost(content: bytes, layout: dict[str, Any], unit: str, packed: bool) -> None:
    """Read it as a night would; each physical line is a row or a reject, or the file is refused with its name."""
    names = {} if layout["header"] else {"column_names": list(NAMES)}
    dataset = Dataset.model_validate(
        {
            "name": "fuzz",
            "source": {"files": ["a.csv"], **layout, **names},
            "columns": {
                "user": "user",
                "item": "item",
                "rating": "rating",
                "timestamp": "time",
                "timestamp_unit": unit,
            },
        }
    )
    with tempfile.TemporaryDirectory() as place, warehouse.scratch(threads=1) as con:
        name = "a.csv.gz" if packed else "a.csv"
        path, into = Path(place) / name, Path(place) / "part"
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        into.mkdir()
        try:
            result = file_reader.read_file(con, path, name, dataset, into)
        except UnreadableInput as error:
            assert name in str(error) or "delimiter and quote" in str(error), error
            return
        rows, rejects = (pl.read_parquet(into / f"{part}.parquet") for part in ("interactions", "rejected_rows"))
    tables.RAW.check(rows.cast({"user_id": pl.String, "item_id": pl.String}))
    assert (
        result.ledger.get(Reason.KEPT, 0) == rows.height and sum(result.ledger.values()) == rows.height + rejects.height
    )
    if not is_read_as_it_is(content):
        return  # a copy in another encoding, of JSON or with other newlines has lines of its own
    lines = content.removeprefix(b"\xef\xbb\xbf").count(b"\n") + (
        not content.endswith(b"\n") and content not in (b"", b"\xef\xbb\xbf")
    )
    lines -= layout["header"] and lines > 0
    quote = layout["quote"].encode()
    within = sum(
        rows[column].cast(pl.String).str.count_matches("\n", literal=True).sum() for column in ("user_id", "item_id")
    )
    if not quote or quote not in content:
        assert within == 0 and rows.height + rejects.height == lines
    assert rows.height + within + rejects.height <= lines
    places = rejects["line"].to_list()
    assert all(1 <= a < b for a, b in itertools.pairwise([1, *places])) or (places[:1] == [1] and not layout["header"])
    assert not places or places[-1] <= lines + layout["header"]


def is_read_as_it_is(content: bytes) -> bool:
    """Whether the lines of a file are those that the readers see."""
    is_text = not file_kinds.is_json_object(file_kinds.first_line(content)) and not file_kinds.wide_encoding(content)
    return is_text and not has_returns_only(content[: file_kinds.START], "utf-8")


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_a_file_of_a_mark_alone_has_no_line(content, header):
    layout = {"header": header, "encoding": "utf-8", "quote": '"', "delimiter": ","}
    no_line_is_lost(content, layout, "s", packed=False)


KEYS = st.sampled_from(
    ["name", "source", "files", "mode", "delimiter", "columns", "user", "rating", "feedback", "keep_if", "positive_if",
     "kind", "filter", "user_fraction", "split", "valid", "test", "models", "ease", "l2", "mf", "epochs", "search", "low",
     "evaluation", "cutoffs", "select", "metric", "cutoff", "gate", "export", "top_n", "seed", "threads", "memory_limit",
     "device", "precision", "family", "", "x", "dataset", "recipe", "a.b", "é", "\"", "budget", "minutes", "keep"]
)  # fmt: skip
SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=12),
    st.sampled_from(["rating >= 3", "rating >", "random", "4GB", "-1GB", "cuda:9", "../x", "ndcg", "implicit", "utf-8", "a.csv"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=4), max_leaves=12
)
TREES = st.dictionaries(KEYS, VALUES, max_size=6)


def dumped(tree: dict[str, Any]) -> str:
    """TOML of a tree, tables inline."""

    def value(x: Any) -> str:
        match x:
            case bool():
                return str(x).lower()
            case int():
                return str(x)
            case float():
                return repr(x)
            case str():
                escaped = "".join(f"\\U{ord(c):08x}" if c in '"\\' or ord(c) < 32 or ord(c) == 127 else c for c in x)
                return f'"{escaped}"'
            case list():
                return f"[{', '.join(map(value, x))}]"
        return "{" + ", ".join(f"{value(str(k))} = {value(v)}" for k, v in x.items()) + "}"

    return "".join(f"{value(k)} = {value(v)}\n" for k, v in tree.items())


def taken_or_told(dataset: bytes, recipe: bytes, override: str, variable: str) -> None:
    """Load them as a night does."""
    from pipeline.experiments.families import family_of

    with tempfile.TemporaryDirectory() as place:
        toml, other = Path(place) / "d.toml", Path(place) / "r.toml"
        toml.write_bytes(dataset)
        other.write_bytes(recipe)
        try:
            tree, _ = loader.load_settings(
                str(toml), str(other), [override], {"NIGHTRECS_" + variable: "1"} if variable else {}
            )
            for label in tree.models:
                family_of(tree, label)
            check_choices(tree)
        except FOR_PEOPLE as error:
            assert str(error).strip()
            return
    assert isinstance(tree, Settings) and Settings.model_validate(tree.model_dump()) == tree


GOOD = b'name = "d"\n[source]\nfiles = ["a.csv"]\n', b"[models.ease]\nl2 = 10.0\n"


@st.composite
def tomls(draw: Callable) -> tuple[bytes, bytes, str, str]:
    """Data set, recipe, a --set, the end of an environment variable's name."""
    texts = []
    for good in GOOD:
        content = bytearray(good)
        match draw(st.sampled_from(["good", "tree", "both", "bytes"])):
            case "tree":
                content = bytearray(dumped(draw(TREES)).encode("utf-8", "surrogatepass"))
            case "both":
                content += b"".join(
                    f"[{draw(KEYS) or 'x'}]\n{dumped(draw(TREES))}".encode("utf-8", "surrogatepass") for _ in "x"
                )
            case "bytes":
                at = draw(st.integers(0, len(content)))
                content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
        texts.append(bytes(content))
    path = ".".join(draw(st.lists(KEYS, max_size=3)))
    override = draw(st.sampled_from(["", f"{path}={draw(st.text(max_size=8))}", "seed=1", "=", "a", "split.test=x"]))
    return (
        texts[0],
        texts[1],
        override,
        draw(st.sampled_from(["", "SEED", "SPLIT__TEST", "X", "A__B__C", "__", "MODELS"])),
    )


def fuzz(check: Callable[..., None], strategy: st.SearchStrategy, examples: int) -> None:
    """Run `check` on so many cases."""
    quiet = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    quiet(given(strategy)(lambda case: check(*case)))()


@pytest.mark.long
@pytest.mark.parametrize("examples", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["quick", "thorough"])
def test_no_line_of_any_source_is_lost(examples: int):
    cases = st.tuples(sources(), st.booleans()).map(lambda case: (*case[0], case[1]))
    fuzz(no_line_is_lost, cases, examples)


@pytest.mark.long
@pytest.mark.parametrize("examples", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["quick", "thorough"])
def test_any_settings_are_taken_or_told_of(examples: int):
    fuzz(taken_or_told, tomls(), examples)


def misread(seed: int, folder: Path) -> str:
    """How the reading of a dialect's file differs from the one that it has; empty if it does not."""
    file = dialects.draw(seed)
    path = folder / "log.csv"
    path.write_bytes(file.content)
    try:
        found = read_sniffed(path, folder)
    except UnreadableInput as error:
        return f"{seed}: {error} {file.dialect}"
    right = found.rows == file.rows and found.ledger.get("comment", 0) == file.comments and not found.rejects
    return "" if right else f"{seed}: {found.ledger} {found.rows[:1]} instead of {file.rows[:1]} {file.dialect}"


@pytest.mark.long
@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(100, 10_100), marks=pytest.mark.slow)], ids=["quick", "thorough"]
)
def test_init_and_the_night_read_any_dialect(tmp_path, seeds):
    wrong = [why for seed in seeds if (why := misread(seed, tmp_path))]
    assert len(wrong) <= len(seeds) // 100, "\n".join(wrong)


def test_the_toml_of_the_fuzz_is_toml():
    """Else only the parser would be tested."""
    tree = {"name": 'a"b\\\n', "x": [1, 2.5, True, {"é": {"a.b": "c"}}], "": -1}
    assert tomllib.loads(dumped(tree)) == tree
