"""A real toolstack among clients that mean it ill, or have bugs: it serves everybody else all the
time, and has in the end no more threads and descriptors than before."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from raw_http2 import HEADERS, RawClient
from toolstack_rig import TREE
from toolstack_server import lease_request

from vcoproc import limits
from vcoproc.api.v1 import cluster_pb2, cluster_pb2_grpc
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as api_rpc
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.gateway import THREADS

pytestmark = pytest.mark.slow

SERVICE = "/vcoproc.api.v1.ToolstackService/"
CLUSTER = "/vcoproc.api.v1.ClusterService/"
TIMEOUT_S = 30
OWN_THREADS = 60
"""Those outside of the pool of the public API: of gRPC, the lease server, the toolstack."""
ABORTED = b"grpc-status\x0210"
"""As gRPC's HPACK writes it: a literal."""


class Toolstack:
    """The process, and clients of it that behave."""

    def __init__(self, folder: Path) -> None:
        tree = folder / "tree.dts"
        tree.write_text(TREE)
        self.run_dir = RunDir(folder / "run")
        command = ("-P", "-m", "vcoproc_toolstack", "--run-dir", str(self.run_dir.path))
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--tree", str(tree)], stderr=log
            )
        self.socket = Path(self.run_dir.grpc("toolstack").removeprefix("unix:"))
        self.channel = grpc_kit.channel(self.run_dir.grpc("toolstack"))
        self.stub = api_rpc.ToolstackServiceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self.channel)
        self._lease_channel = grpc_kit.channel(self.run_dir.grpc("lease"))
        self.lease = rpc.LeaseServiceStub(self._lease_channel)
        self.revision()

    def revision(self) -> int:
        request = api.ListDomainsRequest(page_size=1)
        answer = self.stub.ListDomains(request, timeout=TIMEOUT_S, wait_for_ready=True)
        return int(answer.revision)

    def happen(self, count: int) -> None:
        """So many times two events, each of a change: a coproc-sim comes, and goes."""
        left = count
        while left:
            call = self.lease.LeaseCoproc(lease_request(), timeout=TIMEOUT_S)
            try:
                next(call)
            except grpc.RpcError as error:
                # All of them are leased: a lease ends a moment after its stream.
                assert isinstance(error, grpc.Call)
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            else:
                left -= 1
            call.cancel()

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory_kib(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise ProcessLookupError(self.process.pid)

    def close(self) -> str:
        """Ends it; gives its log."""
        self.channel.close()
        self._lease_channel.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(TIMEOUT_S) == 0
        return self._log.read_text()


@pytest.fixture(scope="module")
def toolstack() -> Iterator[Toolstack]:
    """One for all tests: whatever one of them does to it, the next must not notice."""
    folder = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    running = Toolstack(folder)
    try:
        yield running
    finally:
        log = running.close()
        shutil.rmtree(folder)
    assert "bug" not in log, log
    assert "Traceback" not in log, log


# --- clients that mean it ill ---------------------------------------------------------------------


def raw_bytes(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket, handshake=False) for _ in range(20)]
    for number, client in enumerate(clients):
        with suppress(OSError):
            client.socket.sendall((b"GET / HTTP/1.1\r\n\r\n", b"\0" * 50_000, b"PRI")[number % 3])
    return clients


def broken_frames(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket) for _ in range(20)]
    for number, client in enumerate(clients):
        with suppress(OSError):
            client.send(HEADERS, 4, 1, b"\xff" * 100)
            client.send(number, 0xFF, 7, b"\x80" * 1000)
    return clients


def garbage_messages(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket) for _ in range(5)]
    for client in clients:
        client.answer_pings()
        for method in ("GetDomain", "WatchEvents", "CreateDomain", "ListEvents"):
            client.call(SERVICE + method, b"\xff" * 100)
            client.call(f"{SERVICE}No{method}", b"")
        client.call(f"{CLUSTER}GetStatistics", b"\x0b" * 1000)
    return clients


def huge_messages(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket) for _ in range(5)]
    for client in clients:
        client.answer_pings()
        client.message(client.begin(f"{SERVICE}CreateDomain"), b"x" * 1000, length=2**32 - 1)
        client.message(client.begin(f"{SERVICE}CreateDomain"), b"x" * 1000, length=9 * limits.MIB)
    with pytest.raises(grpc.RpcError) as caught:
        request = api.CreateDomainRequest(config="x" * (9 * limits.MIB))
        toolstack.stub.CreateDomain(request, timeout=TIMEOUT_S)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return clients


def half_messages(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket) for _ in range(3)]
    for client in clients:
        client.answer_pings()
        for number in range(100):
            method = ("GetDomain", "WatchEvents", "CreateDomain")[number % 3]
            stream = client.begin(SERVICE + method)
            if number % 2:
                client.message(stream, b"\x0a", length=500)
    return clients


def many_streams(toolstack: Toolstack) -> list[RawClient]:
    """More than there is place for; nobody reads them."""
    clients = [RawClient(toolstack.socket) for _ in range(4)]
    for client in clients:
        for number in range(25):
            client.call((f"{SERVICE}WatchEvents", f"{CLUSTER}WatchLines")[number % 2], b"")
        client.call("/grpc.health.v1.Health/Watch")
        client.call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    return clients


def unread_answers(toolstack: Toolstack) -> list[RawClient]:
    clients = [RawClient(toolstack.socket) for _ in range(4)]
    for client in clients:
        for _ in range(100):
            client.call(f"{CLUSTER}GetStatistics")
    return clients


ILL = [
    raw_bytes,
    broken_frames,
    garbage_messages,
    huge_messages,
    half_messages,
    many_streams,
    unread_answers,
]


@pytest.mark.parametrize("mean_ill", ILL, ids=[each.__name__ for each in ILL])
def test_others_are_served_and_nothing_is_left(
    toolstack: Toolstack, mean_ill: Callable[[Toolstack], list[RawClient]]
) -> None:
    revision = toolstack.revision()
    toolstack.happen(1)
    toolstack.cluster.GetStatistics(cluster_pb2.GetStatisticsRequest(), timeout=TIMEOUT_S)
    watcher = toolstack.stub.WatchEvents(api.WatchEventsRequest(revision=revision), timeout=60)
    next(watcher), next(watcher)
    descriptors = toolstack.descriptors()
    for _ in range(2):
        clients = mean_ill(toolstack)
        toolstack.happen(1)
        assert next(watcher).kind == api.Event.KIND_ONLINE
        assert next(watcher).kind == api.Event.KIND_OFFLINE
        toolstack.cluster.GetStatistics(cluster_pb2.GetStatisticsRequest(), timeout=TIMEOUT_S)
        for client in clients:
            client.close()
        wait_until(lambda: toolstack.descriptors() <= descriptors, toolstack)
    pool = THREADS + limits.REQUESTS_AWAITED_MAX + limits.OTHER_STREAMS_MAX
    assert toolstack.threads() <= pool + OWN_THREADS
    watcher.cancel()


def wait_until(condition: Callable[[], bool], toolstack: Toolstack) -> None:
    """Looks again after each of a bounded number of calls."""
    for _ in range(20_000):
        if condition():
            return
        toolstack.revision()
    pytest.fail("it did not happen")


# --- watchers that never read ---------------------------------------------------------------------


def test_watchers_that_never_read_harm_nobody(toolstack: Toolstack) -> None:
    """As many as there may be, and more: events go on for the one that reads, and changes, and
    calls; memory stays; and in the end they are told, and there is room for others."""
    count = 300
    found: list[int] = []
    first = toolstack.revision()
    request = api.WatchEventsRequest(revision=first)
    stream = toolstack.stub.WatchEvents(request, timeout=120)
    stream.initial_metadata()

    def read() -> None:
        with suppress(grpc.RpcError):
            found.extend(event.revision for event in stream)

    reader = threading.Thread(target=read)
    reader.start()
    idle = [RawClient(toolstack.socket) for _ in range(limits.WATCHERS_MAX + 9)]
    for client in idle:
        client.answer_pings()
        client.call(f"{SERVICE}WatchEvents", request.SerializeToString())
    before_kib = toolstack.memory_kib()
    toolstack.happen(count)
    toolstack.cluster.GetStatistics(cluster_pb2.GetStatisticsRequest(), timeout=TIMEOUT_S)
    last = first + 2 * count
    wait_until(lambda: toolstack.revision() == last, toolstack)
    wait_until(lambda: len(found) == 2 * count, toolstack)
    assert found == list(range(first + 1, last + 1))
    assert toolstack.memory_kib() - before_kib < 64 * limits.KIB
    refused = [client for client in idle if told(client, b"grpc-status\x018")]
    assert len(refused) == 10, "one place is taken by the one that reads"
    watchers = [client for client in idle if client not in refused]
    wait_until(lambda: all(told(client, ABORTED) for client in watchers), toolstack)
    others = [
        toolstack.stub.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)
        for _ in range(limits.WATCHERS_MAX - 1)
    ]
    for other in others:
        other.initial_metadata()
    toolstack.happen(1)
    for other in others:
        assert next(other).revision == last + 1
        other.cancel()
    stream.cancel()
    reader.join(TIMEOUT_S)
    for client in idle:
        client.close()


def told(client: RawClient, status: bytes) -> bool:
    """Whether the client was told this status."""
    return any(kind == HEADERS and status in block for kind, _, _, block in client.frames)
