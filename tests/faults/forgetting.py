"""Users who are forgotten while things go wrong: kills on the way, odd delimiters, refused nights."""

from pathlib import Path

from pipeline.core import fault_injection
from pipeline.storage import forgotten_users
from pipeline.storage.generations import live_run_id

from .child import Night
from .ground import DATASET, Ground, refused, rows
from .table import row

USER = "a-user-who-leaves"


def with_user(delimiter: str = ",") -> list[tuple]:
    """Sound rows, some of them the user's."""
    return [*rows(), *((USER, f"i{item}", 4, 2_000_000 + item) for item in range(6))]


def naming(ground: Ground) -> list[str]:
    """Files of the home with the bytes of the id; short texts stand in Parquet and DuckDB files as they are."""
    files = (path for path in ground.home.root.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(ground.home.root)) for path in files if USER.encode() in path.read_bytes())


def command(ground: Ground, *words: str, fault: str = "") -> tuple[int, str]:
    """A command of its own process: its exit code and output."""
    ground.logs += 1
    log = ground.root / f"command-{ground.logs}.log"
    ended = Night(["--home", str(ground.home.root), *words], log, fault=fault).end()
    return ended.code, ended.output


@row(
    33, "forget killed at each point, then rollback", "finished by the next command; no generation brings the user back"
)
def killed(root: Path) -> str:
    base = Ground(root / "base")
    base.write(with_user())
    base.night()
    base.night("seed=1")
    assert len(naming(base)) > 4, "else there is nothing to forget"
    for point in fault_injection.OF_FORGET:
        ground = Ground(root / point.replace(":", "-")).copy_of(base)
        code, output = command(ground, "forget", DATASET, USER, fault=f"{point}:kill")
        assert code == -9, f"{point}: {output[-500:]}"
        code, output = command(ground, "status", DATASET)
        assert code == 3 and "forget of a user not done" in output, output
        code, output = command(ground, "rollback", DATASET)
        assert code == 0, f"{point}: {output[-900:]}"
        assert live_run_id(ground.home, DATASET) == base.run_ids()[0]
        assert naming(ground) == [] and not forgotten_users.pending(ground.home, DATASET), point
        assert ground.ask("select count(*) from users")[0][0] == 40
    return f"{len(fault_injection.OF_FORGET)} points: status tells, rollback finishes it first, nothing of the user is left"


@row(
    34,
    "a refused night's reason, and rejected lines with odd delimiters, of a user who is forgotten",
    "nothing is left",
)
def of_refused_nights(root: Path) -> str:
    for number, delimiter in enumerate(("^", "::", "~~~~")):
        ground = Ground(root / str(number), source=f'delimiter = "{delimiter}"\nmax_reject_rate = 0.1')

        def write(bad: int, ground: Ground = ground, delimiter: str = delimiter) -> None:
            broken = [(USER, f"i{n}", "bad", 5) for n in range(bad)]
            lines = [delimiter.join(map(str, one)) for one in [("user", "item", "rating", "t"), *with_user(), *broken]]
            (ground.source / "a.csv").write_text("\n".join([*lines, ""]))

        write(3)
        ground.night()
        live = ground.promise()
        write(200)
        reason = refused(ground, live)
        assert USER not in reason and "line" in reason, reason
        assert USER in str(ground.record()["reason_ids"])
        write(3)
        ground.night()
        assert USER not in str(ground.ask("from runs")), "the published table of nights"
        assert len(naming(ground)) > 4
        code, output = command(ground, "forget", DATASET, USER)
        assert code == 0, output[-900:]
        assert naming(ground) == [], naming(ground)
        ground.night("seed=2")
        assert naming(ground) == []
        assert live_run_id(ground.home, DATASET) == ground.run_ids()[-1]  # rebuilt generations have other hashes
    return "delimiters ^, :: and ~~~~: reason, rejected lines and tables without the user, later nights too"
