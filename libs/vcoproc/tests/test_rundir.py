"""The run directory: whose it may be."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcoproc.errors import InvalidArgument
from vcoproc.runtime.rundir import RunDir


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a path that is short enough."""
    with tempfile.TemporaryDirectory(prefix="run-") as name:
        yield Path(name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_that_others_use_is_left_to_them(folder: Path) -> None:
    """As /tmp would be for root: its mode must not change."""
    (folder / "theirs").touch()
    folder.chmod(0o1777)
    with pytest.raises(InvalidArgument, match="others may enter it, and it has files"):
        RunDir(folder).create()
    assert (mode(folder), [each.name for each in folder.iterdir()]) == (0o1777, ["theirs"])


def test_an_empty_directory_is_closed_to_others(folder: Path) -> None:
    run_dir = folder / "run"
    run_dir.mkdir()
    run_dir.chmod(0o755)
    RunDir(run_dir).create()
    assert mode(run_dir) == 0o700
    (run_dir / "mine.txt").touch()
    RunDir(run_dir).create()
