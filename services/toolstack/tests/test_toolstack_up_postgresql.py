"""`vcoproc up` with real processes on a PostgreSQL server that comes and goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from postgresql_server import PostgresqlServer
from toolstack_server import refused

from cluster_kit import EXAMPLES, Running, ring, start_firmware
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli.supervisor import StartFailed
from vcoproc_toolstack.cli.up import Cluster

TREE = EXAMPLES / "demo.dts"
PASSWORD = "s3cret"

pytestmark = pytest.mark.slow


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    """Of an empty store, with a password that the server does not ask for."""
    return f"{postgresql.new_schema()}&password={PASSWORD}"


@pytest.fixture
def running(url: str, short_path: Path) -> Iterator[Running]:
    with Cluster(TREE, short_path / "run", store=url, log_dir=short_path / "log") as cluster:
        running = Running(cluster)
        yield running
        running.close()


def names(running: Running) -> list[str]:
    request = api.ListDomainsRequest()
    listed = running.toolstack.ListDomains(request, wait_for_ready=True, timeout=20)
    return [domain.name for domain in listed.domains]


def test_a_cluster_outlives_its_toolstack_and_its_database(
    running: Running, postgresql: PostgresqlServer
) -> None:
    first = running.create("first", "dsp0")
    start_firmware(first, "hello")
    os.kill(running.cluster.pids()["toolstack"], signal.SIGKILL)
    running.create("second", "dsp0")
    postgresql.stop()
    refuse = refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", "postgresql://")
    with refuse:
        request = api.DestroyDomainRequest(name="domains/first")
        running.toolstack.DestroyDomain(request, timeout=20)
    assert names(running) == ["domains/first", "domains/second"]
    assert ring(first) == 1, "what runs, runs on"
    postgresql.start()
    running.create("third", "dsp0")
    assert names(running) == ["domains/first", "domains/second", "domains/third"]


def test_a_password_is_in_no_command_line_and_no_log(running: Running, short_path: Path) -> None:
    running.create("first", "dsp0")
    shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.cluster.pids().values()]
    shown += [path.read_bytes() for path in (short_path / "log").iterdir()]
    assert not [text for text in shown if PASSWORD.encode() in text]
    environ = {
        name: PASSWORD.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        for name, pid in running.cluster.pids().items()
    }
    assert [name for name, told in environ.items() if told] == ["toolstack"]


def test_a_second_cluster_on_the_same_database_does_not_start(
    running: Running, url: str, short_path: Path
) -> None:
    with pytest.raises(StartFailed, match="in use by another toolstack") as caught:
        Cluster(TREE, short_path / "other", store=url).start()
    assert caught.value.exit_code == 2
    assert PASSWORD not in str(caught.value)
