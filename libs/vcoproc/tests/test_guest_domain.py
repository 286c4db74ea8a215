"""A domain and its toolstack: found again by another name, gone for good, declared crashed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import zmq

from vcoproc.api.v1 import toolstack_pb2 as pb
from vcoproc.api.v1 import toolstack_pb2_grpc as pb_grpc
from vcoproc.errors import (
    BadCredential,
    DomainGone,
    LimitExceeded,
    NotFound,
    RequestError,
    VcoprocGone,
    WrongState,
)
from vcoproc.guest import Domain
from vcoproc.guest.trap_link import Place
from vcoproc.limits import PAGE_BYTES, S
from vcoproc.runtime.grpc_kit import RemoteUnavailable, serve
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.runtime.logs import Log
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import Hello, Inject

PATIENCE_S = 20


class Toolstack(pb_grpc.ToolstackServiceServicer):
    """Knows one domain, under one name, or none."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self.name = "fir"
        self.domid = 3
        self.secret = b"secret of domain fir"
        self.state = pb.Domain.STATE_RUNNING
        self.exists = True
        self.refuses: RequestError | None = None
        self.endpoint = "ipc:///nowhere/0.sock"
        self.vcoproc_id = 11
        self.crashes: list[pb.CrashDomainRequest] = []
        self.memory = run_dir.memory_dir / "fir"
        self.make_memory()

    def make_memory(self) -> None:
        fresh = self.memory.with_suffix(".new")
        fresh.write_bytes(bytes(PAGE_BYTES))
        fresh.rename(self.memory)

    def _domain(self) -> pb.Domain:
        vcoprocs = [pb.Vcoproc(name=f"domains/{self.name}/vcoprocs/v0", vcoproc_id=self.vcoproc_id)]
        return pb.Domain(
            name=f"domains/{self.name}", domid=self.domid, state=self.state, vcoprocs=vcoprocs
        )

    def _check(self, name: str) -> None:
        if not self.exists or name != f"domains/{self.name}":
            raise NotFound("domain", name)
        if self.refuses is not None:
            raise self.refuses

    def OpenDomain(self, request: pb.OpenDomainRequest, context: Any) -> pb.DomainAccess:
        self._check(request.name)
        access = pb.VcoprocAccess(
            name=f"domains/{self.name}/vcoprocs/v0", trap_endpoint=self.endpoint,
            trap_credential=b"trap",
        )  # fmt: skip
        return pb.DomainAccess(
            domain=self._domain(),
            memory=[pb.MemoryRegion(size_bytes=PAGE_BYTES, path=str(self.memory))],
            irq_credential=self.secret,
            irq_endpoint=self.run_dir.ipc("irq"),
            vcoprocs=[access],
        )

    def ListDomains(self, request: pb.ListDomainsRequest, context: Any) -> pb.ListDomainsResponse:
        """The one domain is on the second page."""
        if not request.page_token:
            other = pb.Domain(name="domains/other", domid=77)
            return pb.ListDomainsResponse(domains=[other], next_page_token="2")
        return pb.ListDomainsResponse(domains=[self._domain()] if self.exists else [])

    def CrashDomain(self, request: pb.CrashDomainRequest, context: Any) -> pb.Domain:
        self._check(request.name)
        copy = pb.CrashDomainRequest()
        copy.CopyFrom(request)
        self.crashes.append(copy)
        return self._domain()


class Router:
    """The irq-router's end, in a thread. known: domains are let in."""

    def __init__(self, run_dir: RunDir) -> None:
        self.known = True
        self.link = LinkServer(
            zmq.Context.instance(), run_dir.ipc("irq"), name="irq", epoch=5, window=16,
            authorize=self._authorize, on_open=self._came, on_close=lambda _peer, _why: None,
        )  # fmt: skip
        self._drop = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _authorize(self, hello: Hello) -> str:
        if not self.known:
            raise BadCredential(hello.name)
        return "domain"

    def _came(self, peer: Peer) -> None:
        self.link.send(peer, Inject(64, False, 1))

    def forget(self) -> None:
        """The domain is removed; its connection ends."""
        self.known = False
        self._drop = True

    def _run(self) -> None:
        while not self._stopping:
            self.link.socket.poll(1)
            self.link.receive()
            peer = self.link.peer("domain")
            if self._drop and peer is not None:
                self._drop = False
                self.link.drop(peer, NotFound("domain", "3"))
            self.link.flush()

    def close(self) -> None:
        self._stopping = True
        self._thread.join(PATIENCE_S)
        self.link.close()


class World:
    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.create()
        self.toolstack = Toolstack(self.run_dir)
        self.router = Router(self.run_dir)
        self.server: grpc.Server = serve(
            self.run_dir.grpc("toolstack"),
            lambda server: pb_grpc.add_ToolstackServiceServicer_to_server(self.toolstack, server),
            service_names=(),
            log=Log("toolstack"),
        )
        self.domain = Domain("fir", folder)

    def close(self) -> None:
        self.domain.close()
        self.server.stop(None).wait()
        self.router.close()


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="guest-") as folder:
        world = World(Path(folder))
        yield world
        world.close()


def find(world: World) -> Place:
    """What the trap link of its vcoproc asks."""
    return world.domain._find(11, 5 * S)


def test_where_a_vcoproc_is_now(world: World) -> None:
    world.toolstack.endpoint = "ipc:///nowhere/1.sock"
    assert find(world) == Place("ipc:///nowhere/1.sock", b"trap")


def test_a_domain_that_was_renamed_is_found_by_its_number(world: World) -> None:
    world.toolstack.name = "iir"
    assert find(world).credential == b"trap"
    assert world.domain.name == "iir"


@pytest.mark.parametrize("renamed", [False, True])
def test_a_domain_that_was_destroyed_is_gone_though_another_one_has_its_number(
    world: World, renamed: bool
) -> None:
    world.toolstack.secret = b"secret of another one"
    if renamed:
        world.toolstack.name = "another"
    with pytest.raises(DomainGone, match="destroyed"):
        find(world)
    with pytest.raises(DomainGone):
        world.domain.wait_irq(0)


def test_a_vcoproc_that_was_detached_is_gone_and_its_domain_is_not(world: World) -> None:
    world.toolstack.vcoproc_id = 12  # there is another one of its name
    with pytest.raises(VcoprocGone, match="v0"):
        find(world)
    assert world.domain.wait_irq(5 * S) is not None


def test_a_domain_that_was_shut_down_says_so(world: World) -> None:
    world.toolstack.state = pb.Domain.STATE_STOPPED
    with pytest.raises(DomainGone, match="STOPPED"):
        find(world)


def test_a_domain_that_is_not_opened_any_more_says_why(world: World) -> None:
    world.toolstack.refuses = WrongState("domain fir", "STOPPED", "it running")
    with pytest.raises(DomainGone, match="domain fir is STOPPED"):
        find(world)


def test_a_toolstack_that_fails_says_nothing_about_the_domain(world: World) -> None:
    world.toolstack.refuses = LimitExceeded("open streams", 3)
    with pytest.raises(RemoteUnavailable, match="open streams"):
        find(world)
    world.toolstack.refuses = None
    assert find(world).credential == b"trap"


def test_a_domain_that_was_started_anew_has_other_memory(world: World) -> None:
    world.toolstack.make_memory()
    with pytest.raises(DomainGone, match="anew"):
        find(world)


def test_a_toolstack_that_is_away_says_nothing_about_the_domain(world: World) -> None:
    world.server.stop(None).wait()
    with pytest.raises(RemoteUnavailable):
        find(world)
    assert world.domain.wait_irq(5 * S) is not None


def test_who_waits_for_an_interrupt_learns_that_the_domain_is_gone(world: World) -> None:
    assert world.domain.wait_irq(5 * S) is not None
    world.toolstack.exists = False
    world.router.forget()
    with pytest.raises(DomainGone, match="destroyed"):
        world.domain.wait_irq(PATIENCE_S * S)
    with pytest.raises(DomainGone):
        world.domain.wait_irq(0)


def test_a_router_that_was_restarted_and_does_not_know_it_yet_is_waited_for(world: World) -> None:
    assert world.domain.wait_irq(5 * S) is not None
    world.router.forget()
    assert world.domain.wait_irq(100_000_000) is None
    world.router.known = True
    assert world.domain.wait_irq(PATIENCE_S * S) is not None


def test_a_guest_that_panics_says_why(world: World) -> None:
    world.domain.crash("panic: not syncing")
    world.toolstack.name = "iir"
    world.domain.crash("ü" * 1000)
    first, second = world.toolstack.crashes
    assert (first.name, first.why) == ("domains/fir", "panic: not syncing")
    assert (second.name, second.why) == ("domains/iir", "ü" * 512)
    assert first.request_id != second.request_id


def test_a_domain_that_is_gone_cannot_crash(world: World) -> None:
    world.toolstack.exists = False
    with pytest.raises(DomainGone):
        world.domain.crash("too late")
