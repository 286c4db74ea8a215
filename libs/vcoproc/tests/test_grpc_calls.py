"""A gRPC server among clients that say half of what they want, or nonsense, or do not read."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from raw_http2 import RawClient

from vcoproc import limits
from vcoproc.api.v1 import snapshot_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.errors import NotFound, WatcherTooSlow
from vcoproc.limits import MS, S
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.logs import Log

SERVICE = "/vcoproc.api.v1.ToolstackService/"
THREADS = 4
TIMEOUT_S = 20
TEXT = "x" * 10_000


class Stream(Iterator[api.Event]):
    """Events without end; says up to where it has sent them."""

    def __init__(self) -> None:
        self.sent = 0
        self.told = threading.Event()
        """It was asked what to tell a client that does not read."""

    def __next__(self) -> api.Event:
        self.sent += 1
        return api.Event(revision=self.sent, description=TEXT)

    def too_slow(self) -> WatcherTooSlow:
        self.told.set()
        return WatcherTooSlow(self.sent - 1)


class Servicer(rpc.ToolstackServiceServicer):
    """began, ended: are released when an endless stream of decisions begins and ends."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.streams: list[Stream] = []

    def GetDomain(self, request: api.GetDomainRequest, _context: Any) -> api.Domain:
        if request.name == "nope":
            raise NotFound("domain", request.name)
        return api.Domain(name=request.name)

    def WatchEvents(self, _request: Any, _context: Any) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    def WatchDecisions(self, _request: Any, _context: Any) -> Iterator[api.Decision]:
        self.began.release()
        try:
            while True:
                yield api.Decision(algorithm=TEXT)
        finally:
            self.ended.release()

    def RestoreDomain(self, requests: Iterator[Any], _context: Any) -> api.Domain:
        return api.Domain(name="domains/restored", domid=sum(1 for _ in requests))


class Server:
    """A server with a few threads, and a client that behaves."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "socket"
        self.servicer = Servicer()
        self._server = grpc_kit.serve(
            f"unix:{self.socket}",
            lambda server: rpc.add_ToolstackServiceServicer_to_server(self.servicer, server),
            service_names=("vcoproc.api.v1.ToolstackService",),
            log=Log("test"),
            threads=THREADS,
            public=True,
        )
        self.channel = grpc_kit.channel(f"unix:{self.socket}")
        self.stub = rpc.ToolstackServiceStub(self.channel)

    def answers(self) -> bool:
        """Whether a call of somebody else is answered."""
        found = self.stub.GetDomain(api.GetDomainRequest(name="a"), timeout=TIMEOUT_S)
        return bool(found.name == "a")

    def close(self) -> None:
        self.channel.close()
        self._server.stop(0).wait()


@pytest.fixture
def make_server() -> Iterator[Callable[[], Server]]:
    """To be called once the limits are set."""
    folder = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    servers: list[Server] = []

    def make() -> Server:
        servers.append(Server(folder))
        return servers[0]

    yield make
    for server in servers:
        server.close()
    shutil.rmtree(folder)


def code_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str, str]:
    """Code, reason and words."""
    assert isinstance(error.value, grpc.Call)
    known = grpc_kit.to_error(error.value)
    return error.value.code(), known.reason, str(known)


def test_half_a_request_takes_no_thread_from_others(make_server: Callable[[], Server]) -> None:
    """As many as one connection may have open, and as many beginnings of a message."""
    server = make_server()
    clients = [RawClient(server.socket) for _ in range(3)]
    for client in clients:
        for number in range(limits.CALLS_PER_CONNECTION_MAX // 2):
            client.begin(f"{SERVICE}GetDomain")
            stream = client.begin(SERVICE + ("WatchEvents", "RestoreDomain")[number % 2])
            client.message(stream, b"\x0a", length=1000)
    assert server.answers()
    assert len(threads()) <= THREADS + limits.REQUESTS_AWAITED_MAX + limits.OTHER_STREAMS_MAX
    for client in clients:
        client.close()
    assert server.answers()


def threads() -> list[str]:
    """Those of the server's pool."""
    return [each.name for each in threading.enumerate() if each.name.startswith("grpc_")]


def test_half_a_request_is_ended_after_its_time(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_WAIT_NS", 50 * MS)
    server = make_server()
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(TIMEOUT_S)
        yield from ()

    for method in ("GetDomain", "WatchEvents", "RestoreDomain"):
        call = server.channel.stream_unary(SERVICE + method)
        with pytest.raises(grpc.RpcError) as caught:
            call(nothing(), timeout=TIMEOUT_S)
        code, _, words = code_of(caught)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words.startswith("request: did not come whole within")
    never.set()


def test_the_parts_of_a_long_request_may_take_their_time_each(
    make_server: Callable[[], Server],
) -> None:
    server = make_server()
    parts = (snapshot_pb2.RestoreDomainRequest() for _ in range(1000))
    assert server.stub.RestoreDomain(parts, timeout=TIMEOUT_S).domid == 1000


@pytest.mark.parametrize("method", ["GetDomain", "WatchEvents", "RestoreDomain"])
@pytest.mark.parametrize(
    "data", [b"\xff" * 50, b"\x0a\x05", b"\x0b" * 10_000], ids=["bits", "cut", "groups"]
)
def test_garbage_is_refused_by_name(
    make_server: Callable[[], Server], method: str, data: bytes
) -> None:
    server = make_server()
    call = server.channel.stream_unary(SERVICE + method)
    with pytest.raises(grpc.RpcError) as caught:
        call(iter([data]), timeout=TIMEOUT_S)
    expected = "request: is no message of the call's type"
    assert code_of(caught) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", expected)
    assert server.answers()


def test_a_call_without_a_request_is_refused(make_server: Callable[[], Server]) -> None:
    server = make_server()
    with pytest.raises(grpc.RpcError) as caught:
        server.channel.stream_unary(f"{SERVICE}GetDomain")(iter(()), timeout=TIMEOUT_S)
    assert code_of(caught)[2] == "request: is missing"


def test_a_message_that_is_too_long_is_refused(make_server: Callable[[], Server]) -> None:
    server = make_server()
    name = "x" * (9 * limits.MIB)
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.GetDomain(api.GetDomainRequest(name=name), timeout=TIMEOUT_S)
    assert code_of(caught)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.answers()


def test_refusals_keep_their_reason(make_server: Callable[[], Server]) -> None:
    server = make_server()
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.GetDomain(api.GetDomainRequest(name="nope"), timeout=TIMEOUT_S)
    assert code_of(caught)[:2] == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


# --- streams --------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_told_where_to_resume(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything up to that revision has arrived."""
    monkeypatch.setattr(limits, "ANSWER_WAIT_NS", 100 * MS)
    server = make_server()
    calls = []
    for _ in range(THREADS):
        calls.append(server.stub.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S))
        next(calls[-1])
    for stream in server.servicer.streams:
        assert stream.told.wait(TIMEOUT_S)
    for call in calls:
        seen = [1]
        with pytest.raises(grpc.RpcError) as caught:
            seen.extend(event.revision for event in call)
        assert seen == list(range(1, len(seen) + 1))
        assert code_of(caught) == (
            grpc.StatusCode.ABORTED,
            "WATCHER_TOO_SLOW",
            f"answers were not read in time; resume the watch from {seen[-1]}",
        )


def test_a_client_that_does_not_read_has_no_thread_any_more(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ANSWER_WAIT_NS", 100 * MS)
    server = make_server()
    client = RawClient(server.socket)
    client.answer_pings()
    for _ in range(THREADS):
        client.call(f"{SERVICE}WatchDecisions")
    for _ in range(THREADS):
        assert server.servicer.ended.acquire(timeout=TIMEOUT_S)
    assert server.answers()
    client.close()


@pytest.mark.slow
def test_a_client_that_reads_keeps_its_stream(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is for each answer, not for all of them."""
    monkeypatch.setattr(limits, "ANSWER_WAIT_NS", 300 * MS)
    server = make_server()
    began_ns = time.monotonic_ns()
    call = server.stub.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)
    for place, event in enumerate(call, 1):
        assert event.revision == place
        if time.monotonic_ns() - began_ns > 4 * limits.ANSWER_WAIT_NS:
            break
    assert not server.servicer.streams[0].told.is_set()
    call.cancel()


def test_streams_of_clients_that_die_are_ended(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: not when the time to read an answer is over."""
    monkeypatch.setattr(limits, "ANSWER_WAIT_NS", 1000 * TIMEOUT_S * S)
    server = make_server()
    for _ in range(3):
        client = RawClient(server.socket)
        for _ in range(THREADS):
            client.call(f"{SERVICE}WatchDecisions")
        client.begin(f"{SERVICE}GetDomain")
        for _ in range(THREADS):
            assert server.servicer.began.acquire(timeout=TIMEOUT_S)
        client.close()
        for _ in range(THREADS):
            assert server.servicer.ended.acquire(timeout=TIMEOUT_S)
    assert server.answers()


def test_a_client_that_goes_is_no_bug(
    make_server: Callable[[], Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server = make_server()
    for _ in range(50):
        call = server.stub.WatchEvents(api.WatchEventsRequest())
        next(call)
        call.cancel()
        client = RawClient(server.socket)
        client.begin(f"{SERVICE}GetDomain")
        client.call(f"{SERVICE}WatchEvents")
        client.close()
    assert server.answers()
    assert capfd.readouterr().err == ""


def test_health_and_reflection_take_few_threads(make_server: Callable[[], Server]) -> None:
    server = make_server()
    health = health_pb2_grpc.HealthStub(server.channel)
    streams = [
        health.Watch(health_pb2.HealthCheckRequest()) for _ in range(limits.OTHER_STREAMS_MAX)
    ]
    for stream in streams:
        assert next(stream).status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for another in (
        health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S),
        reflection.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            next(another)
        assert code_of(caught)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    for stream in streams:
        stream.cancel()


def test_reflection_tells_the_services(make_server: Callable[[], Server]) -> None:
    server = make_server()
    reflection = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = reflection.ServerReflectionInfo(iter([request]), timeout=TIMEOUT_S)
    names = [service.name for service in answer.list_services_response.service]
    assert "vcoproc.api.v1.ToolstackService" in names


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_clients_that_fall_silent_lose_their_connection(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PING_INTERVAL_NS", 200 * MS)
    monkeypatch.setattr(limits, "PING_TIMEOUT_NS", 200 * MS)
    server = make_server()
    says_nothing = RawClient(server.socket, handshake=False)
    says_half = RawClient(server.socket, handshake=False)
    says_half.socket.sendall(b"PRI * HTTP")
    says_else = RawClient(server.socket, handshake=False)
    says_else.socket.sendall(b"GET / HTTP/1.1\r\nHost: me\r\n\r\n" + bytes(100_000))
    never_reads = RawClient(server.socket)
    never_reads.call(f"{SERVICE}WatchDecisions")
    for client in (says_nothing, says_half, says_else, never_reads):
        assert client.closed_by_server(TIMEOUT_S)
        client.close()
    assert server.servicer.ended.acquire(timeout=TIMEOUT_S)
    behaves = RawClient(server.socket)
    behaves.answer_pings()
    assert not behaves.ended.wait(1)
    behaves.close()
    assert server.answers()


def test_connections_are_bounded(
    make_server: Callable[[], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 5)
    server = make_server()
    assert server.answers()
    clients = [RawClient(server.socket, handshake=False) for _ in range(10)]
    while sum(client.closed_by_server(0) for client in clients) < 5:
        pass  # the test has a time limit
    assert server.answers(), "on the connection that it has"
    for client in clients:
        client.close()
