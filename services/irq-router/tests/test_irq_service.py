"""The irq-router's process, over its real sockets and its real control interface."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import zmq

from vcoproc.errors import PeerRejected
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as pb_grpc
from vcoproc.runtime.grpc_kit import RemoteRefusal, channel, serve, to_error
from vcoproc.runtime.link import LinkClient, LinkDown, LinkEvent, LinkUp, Received
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import (
    Eoi,
    Fence,
    Inject,
    LineEdge,
    LineEnable,
    LineLevel,
    LineSync,
    Message,
    Resample,
    Role,
)
from vcoproc_irq_router.grpc_api import SERVICE, IrqControl
from vcoproc_irq_router.shell import IrqRouter

PATIENCE_S = 20
EDGE, LEVEL = 0, 1
LINES = (pb.MappedLine(line=EDGE, irq=64), pb.MappedLine(line=LEVEL, irq=65, level=True))


class Client:
    """A coproc or a domain."""

    def __init__(self, link: LinkClient) -> None:
        self.link = link
        self.events: list[LinkEvent] = []

    @property
    def heard(self) -> list[Message]:
        return [event.message for event in self.events if isinstance(event, Received)]

    @property
    def refusals(self) -> list[str]:
        return [
            event.error.their_reason
            for event in self.events
            if isinstance(event, LinkDown) and isinstance(event.error, PeerRejected)
        ]

    @property
    def up_count(self) -> int:
        return sum(isinstance(event, LinkUp) for event in self.events)

    def round(self) -> None:
        self.events += self.link.receive()
        self.link.flush()


class Service:
    """A running irq-router, and everybody who talks to it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.create()
        self.context: zmq.Context[Any] = zmq.Context()
        self.clients: list[Client] = []
        self.loop = Loop(handle_signals=False)
        log = Log("irq-router")
        self.router = IrqRouter(self.context, self.run_dir, self.loop, log, epoch=3)
        self.server = serve(
            self.run_dir.grpc("irq-router"),
            lambda server: pb_grpc.add_IrqControlServiceServicer_to_server(
                IrqControl(self.router, self.loop), server
            ),
            service_names=(SERVICE,),
            log=log,
        )
        self.thread = threading.Thread(target=self.router.run)
        self.thread.start()
        self.channel = channel(self.run_dir.grpc("irq-router"))
        self.control = pb_grpc.IrqControlServiceStub(self.channel)

    def close(self) -> None:
        for client in self.clients:
            client.link.close()
        self.channel.close()
        self.server.stop(None).wait()
        self.loop.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.router.close()
        self.loop.close()
        self.context.term()

    def client(
        self, endpoint: str, role: Role, credential: bytes, name: str, epoch: int, window: int
    ) -> Client:
        client = Client(
            LinkClient(
                self.context, self.run_dir.ipc(endpoint), role=role, credential=credential,
                name=name, epoch=epoch, window=window,
            )
        )  # fmt: skip
        self.clients.append(client)
        return client

    def coproc(self, name: str = "dsp0") -> Client:
        client = self.client(
            "irq-coproc", Role.COPROC, self.run_dir.cluster_key(), name, epoch=5, window=64
        )
        self.until(lambda: client.up_count == 1)
        return client

    def domain(self, domid: int, *, epoch: int = 6, window: int = 64) -> Client:
        client = self.client(
            "irq-domain", Role.DOMAIN, secret(domid), f"dom{domid}", epoch=epoch, window=window
        )
        self.until(lambda: client.up_count == 1)
        return client

    def add(self, domid: int, vcoproc_id: int, coproc: str = "dsp0") -> None:
        self.control.AddDomain(pb.AddDomainRequest(domid=domid, credential=secret(domid)))
        self.control.MapLines(
            pb.MapLinesRequest(domid=domid, vcoproc_id=vcoproc_id, coproc=coproc, lines=LINES)
        )

    def lines(self) -> dict[tuple[int, int], Any]:
        answer = self.control.ListLines(pb.ListLinesRequest())
        return {(line.domid, line.irq): line for line in answer.lines}

    def until(self, done: Callable[[], bool]) -> None:
        deadline_ns = time.monotonic_ns() + PATIENCE_S * 10**9
        while not done():
            assert time.monotonic_ns() < deadline_ns, "it never came to that"
            sockets = [each for client in self.clients for each in client.link.sockets]
            zmq.select(sockets, [], [], 0.01)
            for client in self.clients:
                client.round()


def secret(domid: int) -> bytes:
    return b"secret of domain" + bytes([domid])


@pytest.fixture
def folder() -> Iterator[Path]:
    """Like tmp_path, which is too long for the sockets of a run directory."""
    with tempfile.TemporaryDirectory(prefix="irq-") as name:
        yield Path(name)


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    service = Service(folder)
    yield service
    service.close()


def test_an_interrupt_travels_to_its_domain_and_back(service: Service) -> None:
    service.add(1, 11)
    service.add(2, 22)
    coproc, one, two = service.coproc(), service.domain(1), service.domain(2)
    coproc.link.send(LineEdge(22, EDGE, 1, 777))
    service.until(lambda: bool(two.heard))
    assert two.heard == [Inject(64, False, 777)]
    assert service.lines()[2, 64].active
    two.link.send(Eoi(64))
    service.until(lambda: not service.lines()[2, 64].active)
    line = service.lines()[2, 64]
    assert (line.vcoproc_id, line.raised_count, line.injected_count) == (22, 1, 1)
    assert one.heard == []


def test_a_level_is_sampled_at_eoi(service: Service) -> None:
    service.add(1, 11)
    coproc, domain = service.coproc(), service.domain(1)
    coproc.link.send(LineSync(11, 1 << LEVEL, 1))
    service.until(lambda: len(domain.heard) == 1)
    domain.link.send(Eoi(65))
    service.until(lambda: coproc.heard == [Resample(11, LEVEL)])
    assert len(domain.heard) == 1
    coproc.link.send(LineLevel(11, LEVEL, True, 1, 5))
    service.until(lambda: len(domain.heard) == 2)
    coproc.link.send(LineLevel(11, LEVEL, False, 1, 6))
    service.until(lambda: not service.lines()[1, 65].high)
    domain.link.send(Eoi(65))
    service.until(lambda: not service.lines()[1, 65].active)
    assert len(domain.heard) == 2


def test_interrupts_wait_for_their_domain(service: Service) -> None:
    service.add(1, 11)
    coproc = service.coproc()
    coproc.link.send(LineEdge(11, EDGE, 1, 1))
    service.until(lambda: service.lines()[1, 64].pending)
    domain = service.domain(1)
    service.until(lambda: domain.heard == [Inject(64, False, 1)])


def test_what_a_domain_had_not_finished_comes_again_to_its_next_incarnation(
    service: Service,
) -> None:
    service.add(1, 11)
    coproc, first = service.coproc(), service.domain(1)
    coproc.link.send(LineEdge(11, EDGE, 1, 1))
    service.until(lambda: len(first.heard) == 1)
    service.clients.remove(first)
    first.link.close()
    coproc.link.send(LineLevel(11, LEVEL, True, 1, 2))

    def held() -> bool:
        line = service.lines()[1, 65]
        return bool(line.pending and not line.active)

    service.until(held)  # nobody listens, so it is not injected
    second = service.domain(1, epoch=7)
    service.until(lambda: len(second.heard) >= 2)
    assert second.heard == [Inject(64, False, 1), Inject(65, True, 2)]


def test_a_stuck_domain_gets_everything_once_when_it_is_back(service: Service) -> None:
    """Its window is 4; it has 30 lines; each pulses while it reads nothing."""
    control = service.control
    control.AddDomain(pb.AddDomainRequest(domid=1, credential=secret(1)))
    lines = [pb.MappedLine(line=line, irq=100 + line) for line in range(30)]
    control.MapLines(pb.MapLinesRequest(domid=1, vcoproc_id=11, coproc="dsp0", lines=lines))
    coproc, domain = service.coproc(), service.domain(1, window=4)
    service.clients.remove(domain)  # nobody serves it now
    for line in range(30):
        coproc.link.send(LineEdge(11, line, 1, 0))
    service.until(lambda: sum(line.raised_count for line in service.lines().values()) == 30)
    states = service.lines().values()
    assert sum(line.active for line in states) == 4, "as many as it has said that it takes"
    assert sum(line.pending for line in states) == 26
    service.clients.append(domain)
    service.until(lambda: len(domain.heard) >= 30)
    assert domain.heard == [Inject(100 + line, False, 0) for line in range(30)]


def test_paused_and_resumed(service: Service) -> None:
    service.add(1, 11)
    coproc, domain = service.coproc(), service.domain(1)
    service.control.PauseDomain(pb.PauseDomainRequest(domid=1))
    coproc.link.send(LineEdge(11, EDGE, 1, 1))
    service.until(lambda: service.lines()[1, 64].pending)
    assert service.control.ListLines(pb.ListLinesRequest()).paused_domids == [1]
    service.control.ResumeDomain(pb.ResumeDomainRequest(domid=1))
    service.until(lambda: domain.heard == [Inject(64, False, 1)])
    assert service.control.ListLines(pb.ListLinesRequest()).paused_domids == []


def test_lines_go_to_another_coproc_which_is_asked_for_its_levels(service: Service) -> None:
    service.add(1, 11)
    old, new, domain = service.coproc(), service.coproc("dsp1"), service.domain(1)
    old.link.send(LineEdge(11, EDGE, 1, 1))
    service.until(lambda: len(domain.heard) == 1)
    service.control.MoveLines(pb.MoveLinesRequest(vcoproc_id=11, coproc="dsp1"))
    service.until(lambda: new.heard == [Resample(11, LEVEL)])
    assert service.lines()[1, 64].active
    old.link.send(LineEdge(11, EDGE, 1, 2))
    new.link.send(LineLevel(11, LEVEL, True, 1, 3))
    service.until(lambda: len(domain.heard) == 2)
    service.until(lambda: service.control.ListLines(pb.ListLinesRequest()).refused_count == 1)
    assert domain.heard == [Inject(64, False, 1), Inject(65, True, 3)]


def test_lines_can_begin_as_they_once_were(service: Service) -> None:
    service.control.AddDomain(pb.AddDomainRequest(domid=1, credential=secret(1)))
    lines = [
        pb.MappedLine(line=0, irq=64, pending=True),
        pb.MappedLine(line=1, irq=65, pending=True, masked=True),
    ]
    request = pb.MapLinesRequest(domid=1, vcoproc_id=11, coproc="dsp0", lines=lines)
    service.control.MapLines(request)
    service.control.MapLines(request)
    domain = service.domain(1)
    service.until(lambda: domain.heard == [Inject(64, False, 0)])
    assert not service.lines()[1, 65].enabled
    domain.link.send(LineEnable(65, True))
    service.until(lambda: domain.heard == [Inject(64, False, 0), Inject(65, False, 0)])


def test_a_fence_comes_back_when_all_before_it_has_been_taken(service: Service) -> None:
    service.add(1, 11)
    coproc = service.coproc()
    for raised_ns in range(1, 31):
        coproc.link.send(LineEdge(11, EDGE, 1, raised_ns))
    coproc.link.send(Fence(7))
    service.until(lambda: coproc.heard == [Fence(7)])
    assert service.lines()[1, 64].raised_count == 30


def test_masked_by_the_domain(service: Service) -> None:
    service.add(1, 11)
    coproc, domain = service.coproc(), service.domain(1)
    domain.link.send(LineEnable(64, False))
    service.until(lambda: not service.lines()[1, 64].enabled)
    coproc.link.send(LineEdge(11, EDGE, 1, 1))
    service.until(lambda: service.lines()[1, 64].pending)
    domain.link.send(LineEnable(64, True))
    service.until(lambda: domain.heard == [Inject(64, False, 1)])


def test_a_removed_domain_is_dropped_and_not_let_in_again(service: Service) -> None:
    service.add(1, 11)
    domain = service.domain(1)
    service.control.RemoveDomain(pb.RemoveDomainRequest(domid=1))
    service.until(lambda: domain.refusals[-1:] == ["BAD_CREDENTIAL"])
    assert domain.refusals[0] == "NOT_FOUND"
    assert service.control.ListLines(pb.ListLinesRequest()).domids == []


@pytest.mark.parametrize(
    ("endpoint", "role", "credential", "reason"),
    [
        ("irq-domain", Role.DOMAIN, b"wrong", "BAD_CREDENTIAL"),
        ("irq-domain", Role.DOMAIN, b"", "BAD_CREDENTIAL"),
        ("irq-domain", Role.COPROC, secret(1), "PROTOCOL_ERROR"),
        ("irq-coproc", Role.COPROC, secret(1), "BAD_CREDENTIAL"),
        ("irq-coproc", Role.DOMAIN, secret(1), "PROTOCOL_ERROR"),
    ],
)
def test_strangers_are_refused(
    service: Service, endpoint: str, role: Role, credential: bytes, reason: str
) -> None:
    service.add(1, 11)
    stranger = service.client(endpoint, role, credential, "x", epoch=5, window=8)
    service.until(lambda: bool(stranger.refusals))
    assert stranger.refusals[0] == reason and not stranger.up_count


def test_a_coproc_that_talks_like_a_domain_is_dropped_and_its_lines_are_low(
    service: Service,
) -> None:
    service.add(1, 11)
    coproc = service.coproc()
    coproc.link.send(LineLevel(11, LEVEL, True, 1, 0))
    service.until(lambda: service.lines()[1, 65].high)
    coproc.link.send(Eoi(64))
    service.until(lambda: bool(coproc.refusals))
    assert coproc.refusals == ["PROTOCOL_ERROR"]
    service.until(lambda: not service.lines()[1, 65].high)


def test_a_domain_that_talks_like_a_coproc_is_dropped(service: Service) -> None:
    service.add(1, 11)
    domain = service.domain(1)
    domain.link.send(LineEdge(11, EDGE, 1, 0))
    service.until(lambda: bool(domain.refusals))
    assert service.lines()[1, 64].raised_count == 0


def test_a_coproc_speaks_for_its_own_vcoprocs_only(service: Service) -> None:
    service.add(1, 11, coproc="dsp0")
    other = service.coproc("dsp1")
    other.link.send(LineEdge(11, EDGE, 1, 0))

    def refused() -> bool:
        return bool(service.control.ListLines(pb.ListLinesRequest()).refused_count == 1)

    service.until(refused)
    assert service.lines()[1, 64].raised_count == 0


def test_a_refused_request_says_why(service: Service) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.control.MapLines(pb.MapLinesRequest(domid=9, vcoproc_id=1, coproc="dsp0"))
    error = to_error(caught.value)
    assert isinstance(error, RemoteRefusal)
    assert (error.reason, error.metadata["kind"]) == ("NOT_FOUND", "domain")


@pytest.mark.slow
def test_an_idle_router_uses_no_processor(service: Service) -> None:
    service.add(1, 11)
    service.coproc(), service.domain(1)
    ident = service.thread.ident
    assert ident is not None
    clock = time.pthread_getcpuclockid(ident)
    before_ns = time.clock_gettime_ns(clock)
    assert not threading.Event().wait(0.3)
    assert time.clock_gettime_ns(clock) - before_ns < 5_000_000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_serves_and_stops_when_told_to(folder: Path, number: int) -> None:
    run_dir = RunDir(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "vcoproc_irq_router", "--run-dir", str(run_dir.path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert '"serving"' in process.stderr.readline()
        with channel(run_dir.grpc("irq-router")) as line:
            stub = pb_grpc.IrqControlServiceStub(line)
            stub.AddDomain(pb.AddDomainRequest(domid=1, credential=secret(1)), timeout=PATIENCE_S)
        process.send_signal(number)
        _out, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.wait()
