"""Builds the wheel, installs it over the installed dependencies, and runs a night of the sample in an empty folder.

`python -m tests.wheel_check`: what an installed package does must not depend on the checkout, and must not write
into site-packages or take a user's own folders `flows` and `pipeline` for ours.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.paths import CHECKOUT

RECIPE = '[split]\nkind = "leave_one_out"\n[models.popularity]\n[models.ease]\n'
DECOY = "raise SystemExit('a module of the current folder was imported')\n"


def main() -> int:
    """Do it in a temporary folder; AssertionError or CalledProcessError where something is not as it should be."""
    with tempfile.TemporaryDirectory(prefix="nightrecs-wheel-") as place:
        root = Path(place)
        python = installed(root)
        shown = night_elsewhere(root, python)
    print(f"the installed wheel published {shown}")
    return 0


def installed(root: Path) -> Path:
    """Python of an environment with the wheel, and with the dependencies of this one."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    environ = {**os.environ, "PIP_CONSTRAINT": str(CHECKOUT / "constraints.txt")}
    has_backend = not subprocess.run([sys.executable, "-c", "import hatchling"], capture_output=True).returncode
    isolation = ["--no-build-isolation"] if has_backend else []
    words = [*pip, "wheel", "--no-deps", *isolation, "--wheel-dir", str(root / "dist"), str(CHECKOUT)]
    subprocess.run(words, check=True, env=environ, cwd=root)
    (wheel,) = (root / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
    python = root / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    # A plain line of a .pth file adds a folder without the .pth files in it: the editable install stays out
    (site_packages(root) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def site_packages(root: Path) -> Path:
    """Of the new environment."""
    (found,) = (root / "venv" / "lib").glob("python*/site-packages")
    return found


def night_elsewhere(root: Path, python: Path) -> Path:
    """Run the sample in a folder that has nothing but decoys; returns the published file."""
    here, data = root / "empty", root / "data"
    for name in ("flows", "pipeline"):
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text(DECOY)
    (root / "cheap.toml").write_text(RECIPE)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NIGHTRECS_", "PYTHON"))}
    environ |= {"HOME": str(root / "user"), "XDG_DATA_HOME": str(data)}
    (root / "user").mkdir()
    before = files_of(root / "venv"), files_of(here)

    done = nightrecs(python, here, environ, "run", "--no-prefect", "--recipe", str(root / "cheap.toml"), "--json")
    published = data / "nightrecs" / "warehouse" / "sample.duckdb"
    printed = json.loads(done.stdout)
    assert printed["outcome"] == "published" and printed["tables"] == str(published), printed
    assert published.is_file() and str(data / "nightrecs") in done.stderr, done.stderr
    assert "picture could not be made" not in done.stderr, done.stderr
    assert list((data / "nightrecs" / "mlflow" / "artifacts").rglob("data_ratings.png")), "no picture was drawn"
    for words in (("recommend", "sample", "u0236"), ("leaderboard", "sample"), ("recipes",), ("datasets",)):
        assert json.loads(nightrecs(python, here, environ, *words, "--json").stdout), words
    assert (files_of(root / "venv"), files_of(here)) == before, "something was written next to the home"
    assert not (Path(sysconfig.get_path("purelib")) / "mlflow" / "mlflow.db").exists()
    serves = "from pipeline.core.child_processes import command, environment as of; import subprocess, sys; "
    serves += "sys.exit(subprocess.run(command('flows.cli', '--help'), env=of(), stdout=subprocess.DEVNULL).returncode)"
    subprocess.run([python, "-P", "-c", serves], check=True, cwd=here, env=environ)
    return published


def nightrecs(python: Path, here: Path, environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command; AssertionError with its output if it fails."""
    command = [str(python.with_name("nightrecs")), *words]
    done = subprocess.run(command, cwd=here, env=environ, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"{words} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done


def files_of(root: Path) -> set[str]:
    """All names below a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


if __name__ == "__main__":
    sys.exit(main())
