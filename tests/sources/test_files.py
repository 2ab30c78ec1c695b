"""Source files are found by their patterns, each once, wherever links lead."""

import glob
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UnreadableInput
from pipeline.sources.files import find_files


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("user,item\n")


@pytest.mark.parametrize("target", [".", "..", "loop", "sub", "sub/.."])
def test_a_link_that_leads_back_ends(tmp_path, target):
    home = tmp_path / "only" / "data"
    write(home, "a.csv", "sub/b.csv")
    (home / "loop").symlink_to(target)
    (home / "sub" / "up").symlink_to("..")
    assert find_files(home, ["**/*.csv"]) == ["a.csv", "sub/b.csv"]
    assert find_files(home, ["**/*.csv", "*.csv", "sub/*"]) == ["a.csv", "sub/b.csv"]


def test_links_to_files_and_folders_elsewhere_are_sources(tmp_path):
    write(tmp_path / "elsewhere", "x.csv", "deep/y.csv")
    write(tmp_path / "data", "a.csv")
    (tmp_path / "data" / "linked.csv").symlink_to(tmp_path / "elsewhere" / "x.csv")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere" / "deep")
    assert find_files(tmp_path / "data", ["**/*.csv"]) == ["a.csv", "linked.csv", "more/y.csv"]
    (tmp_path / "data" / "again.csv").symlink_to("a.csv")
    assert find_files(tmp_path / "data", ["*.csv"]) == ["a.csv", "linked.csv"], "the same file twice"


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    with suppress(OSError):  # some file systems have no such names
        os.close(os.open(os.fsencode(tmp_path) + b"/a\xff.csv", os.O_CREAT))
        with pytest.raises(UnreadableInput, match=r"'a\\udcff\.csv' .* is not UTF-8.*rename it"):
            find_files(tmp_path, ["*.csv"])


def test_hard_links_are_files_of_their_own_and_dead_links_none(tmp_path):
    write(tmp_path, "a.csv")
    os.link(tmp_path / "a.csv", tmp_path / "b.csv")
    (tmp_path / "dead.csv").symlink_to("nowhere")
    assert find_files(tmp_path, ["*.csv"]) == ["a.csv", "b.csv"]
    with pytest.raises(UnreadableInput, match="no file matches"):
        find_files(tmp_path, ["dead*"])


PARTS = st.lists(st.sampled_from(["a", "b", ".hidden", "c.csv", "d.tsv"]), min_size=1, max_size=3)
PATTERNS = ["**/*.csv", "*.csv", "a/**/*.csv", "**/b/*", "**/a/**/c.csv", "**", "*/**", "a/*", "**/[bc]*"]


@settings(max_examples=60, deadline=None)
@given(names=st.lists(PARTS, min_size=1, max_size=8), pattern=st.sampled_from(PATTERNS))
def test_without_links_it_finds_what_glob_finds(tmp_path_factory, names, pattern):
    folder = tmp_path_factory.mktemp("tree")
    for parts in names:
        try:
            write(folder, "/".join(parts))
        except OSError:
            continue  # a file where a folder should be
    expected = sorted(m for m in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / m).is_file())
    if not expected:
        with pytest.raises(UnreadableInput):
            find_files(folder, [pattern])
    else:
        assert find_files(folder, [pattern]) == sorted(set(expected))
