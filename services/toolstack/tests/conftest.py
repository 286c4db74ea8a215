"""Makes the helper modules of this folder importable: import mode is importlib."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgresql_server import (  # these are found by the line above
    REQUIRED,
    PostgresqlServer,
    find_binaries,
)
from toolstack_rig import Rig
from toolstack_server import Server


@pytest.fixture(scope="session")
def postgresql_of_session() -> Iterator[PostgresqlServer]:
    binaries = find_binaries()
    if binaries is None:
        how = pytest.fail if os.environ.get(REQUIRED) == "1" else pytest.skip
        how("PostgreSQL is not installed (Debian: postgresql), so nothing was tested on it")
    server = PostgresqlServer(binaries)
    yield server
    server.close()


@pytest.fixture
def postgresql(postgresql_of_session: PostgresqlServer) -> Iterator[PostgresqlServer]:
    """A running server, shared by all tests. One that a test stopped is started again."""
    yield postgresql_of_session
    if not postgresql_of_session.is_running():
        postgresql_of_session.start()


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where a store can be made: tests with it run on both databases."""
    if request.param == "sqlite":
        return tmp_path / "store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_schema()


@pytest.fixture
def rig(tmp_path: Path, target: Path | str) -> Iterator[Rig]:
    """A toolstack without processes: dsp0, dsp1 and three instances of ncore are online."""
    rig = Rig(tmp_path, target)
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
