"""Virtual environments of the peers, outside of that of Nightrecs: `.peers/NAME`, from `requirements/NAME.txt`."""

import hashlib
import subprocess
import sys
from pathlib import Path

from pipeline.core.paths import CHECKOUT

HERE = Path(__file__).parent
FOLDER = CHECKOUT / ".peers"
"""Ignored by git."""
PEERS = {
    "implicit": ("als", "bpr"),
    "lenskit": ("als", "item_knn"),
    "rectools": ("ease", "sasrec"),
    "recbole": ("bpr", "ease"),
    "pyspark": ("als",),
}
"""Models of each peer, by the names of `fit_nightrecs.SETTINGS`."""


class Missing(Exception):
    """A peer can't be installed here; the message says why."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or its requirements have changed."""
    requirements, folder = HERE / "requirements" / f"{peer}.txt", FOLDER / peer
    python, stamp = folder / "bin" / "python", folder / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return python
    print(f"{peer}: installing {requirements.name} into {folder.relative_to(CHECKOUT)}", flush=True)
    _run(peer, [sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    _run(peer, install)
    stamp.write_text(digest)
    return python


def _run(peer: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Missing(f"{peer} can't be installed: {lines[-1] if lines else f'exit code {done.returncode}'}")
