"""Values and bytes that are not what they should be: each row is kept exactly or rejected with its reason."""

import datetime as dt
import functools
from pathlib import Path

from pipeline.schemas.reasons import Reason

from . import plants
from .files import ledger
from .ground import CHEAP, Ground, refused, rows
from .table import row

YEAR = 365 * 86_400
HOSTILE = (
    " 7",
    "007",
    "7",
    "7.0",
    "🎬",
    'say "a", b',
    "'; drop table users; --",
    "x'y",
    "NULL",
    "$user_id",
    "../../etc",
)


def clock_set(days: int) -> None:
    """The machine's clock is off by so many days."""
    from flows import prepare

    plants.replace(prepare, "utcnow", lambda utcnow: lambda: utcnow() + dt.timedelta(days=days))


@row(
    14,
    "timestamps in the future, ms taken for s, before 1970; clock going back",
    "quarantined or refused with reason; run order intact",
)
def times(root: Path) -> str:
    ground = Ground(root / "a", source="max_reject_rate = 0.2")
    good = rows(start=1_600_000_000)
    odd = {"in 2200": 230 * YEAR, "ms for s": 1_600_000_000_000, "before 1970": -5}
    ground.write([*good, *(("u1", f"odd{n}", 3, t) for n, t in enumerate(odd.values()))])
    ground.night()
    assert ledger(ground, "ingest") == {"kept": len(good), Reason.TIMESTAMP_OUT_OF_RANGE: len(odd)}
    all_ms = Ground(root / "ms")
    all_ms.write([(u, i, r, t * 1000) for u, i, r, t in good])
    output = refused(all_ms, None)
    assert Reason.TIMESTAMP_OUT_OF_RANGE in output, output
    soon = int(dt.datetime.now(dt.UTC).timestamp()) + 20 * YEAR
    ahead = Ground(root / "ahead")
    ahead.write([*good, ("u1", "tomorrow", 3, soon)])
    ended = ahead.night(code=None)
    assert ended.code == 3 or "future" in ended.output, f"a row 20 years ahead goes unnoticed, exit {ended.code}"
    before = ground.run_ids()
    ground.night(before=functools.partial(clock_set, -3))
    assert ground.run_ids()[-1] not in before and ground.run_ids() == sorted(ground.run_ids())
    assert ground.promise() == ground.run_ids()[-1], "a clock that went back makes the new night the older one"
    how = "refused" if ended.code == 3 else "warned of"
    return f"{len(odd)} rows quarantined as {Reason.TIMESTAMP_OUT_OF_RANGE}; a file in ms: exit 3; 20 years ahead: {how}; clock 3 days back: the new night is the last"


def hostile_lines() -> list[bytes]:
    """Lines that are not as they should be; none of them spans another."""
    return [
        b"1,2\0,3,964982703", b"1,caf\xe9,3,964982703", b'1,"2,3,964982703', b"1,2,1e400,964982703", b"1,2,NaN,964982703",
        "1,2,４,964982703".encode(), b"1," + b"9" * 10_000_000 + b",3,964982703", b"", b"1,2,3", b"1,2,3,4,5", b",2,3,4",
    ]  # fmt: skip


@row(
    16,
    "mixed newlines, BOM, Latin-1, NUL, open quote, 10 MB line, 1e400, NaN, full-width digits",
    "rows in = good + rejected",
)
def bytes_of_all_kinds(root: Path) -> str:
    ground = Ground(root, source="max_reject_rate = 0.9")
    lines = [f"{u},{i},{r},{t}".encode() for u, i, r, t in rows()]
    n_good = len(lines)
    for number, bad in enumerate(hostile_lines()):
        lines.insert(number * 17 + 3, bad)
    content = b"".join(line + (b"\r\n" if n % 3 else b"\n") for n, line in enumerate(lines))
    (ground.source / "a.csv").write_bytes(b"\xef\xbb\xbfuser,item,rating,t\n" + content)
    ground.night()
    found = ledger(ground, "ingest")
    assert found["kept"] == n_good and sum(found.values()) == len(lines), found
    places = ground.ask("select line, reason from rejected_rows order by line")
    assert [line for line, _ in places] == [number * 17 + 5 for number in range(len(hostile_lines()))], places
    assert ground.promise()
    return f"{len(lines)} lines in = {n_good} good + {len(places)} rejected, each with its line and one of {len(found) - 1} reasons"


@row(
    27,
    "ids: ' 7', '007' and '7', 64 KB, emoji, quotes, `'; drop table`",
    "kept exactly or quarantined; never merged, never executed",
)
def ids(root: Path) -> str:
    ground = Ground(root, recipe=CHEAP, source="max_reject_rate = 0.2")
    records = [
        (user, item, 3, 1_000_000 + 97 * (u * len(HOSTILE) + n))
        for u, user in enumerate(HOSTILE)
        for n, item in enumerate(HOSTILE)
        if (u + n) % 3
    ]
    ground.write([*records, ("u" * 65_536, "7", 3, 1), ("7", "i" * 65_536, 3, 2)])
    ground.night()
    assert {u for (u,) in ground.ask("select user_id from users")} == set(HOSTILE)
    assert {i for (i,) in ground.ask("select item_id from items")} == set(HOSTILE)
    listed = ground.ask("select user_id, item_id from recommendations")
    seen = {(u, i) for u, i, *_ in records}
    assert {u for u, _ in listed} == set(HOSTILE) and not seen & set(listed), "an id was taken for another"
    assert ledger(ground, "ingest") == {"kept": len(records), Reason.ID_TOO_LONG: 2}
    assert ground.promise()
    return f"{len(HOSTILE)} ids kept to the byte as users and as items; 2 of 64 KB rejected as {Reason.ID_TOO_LONG}"
