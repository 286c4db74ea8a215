"""Makes the helper modules of this folder importable: import mode is importlib."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toolstack_rig import Rig  # found by the line above
from toolstack_server import Server


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A toolstack without processes: dsp0, dsp1 and three instances of ncore are online."""
    rig = Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(short_path: Path) -> Iterator[Server]:
    """The same as `rig`, behind its public API and its lease service."""
    server = Server(short_path / "run")
    yield server
    server.close()
