"""The irq-router's process: one loop, two links, one gRPC server around the core."""

from __future__ import annotations

import hmac
import time
from collections.abc import Hashable
from typing import Any, Final

import zmq

from vcoproc.errors import BadCredential, InvalidArgument, NotFound, RemoteProtocolError
from vcoproc.limits import CONTROL_CREDIT, IRQ_CREDIT
from vcoproc.runtime.link import LinkServer, Peer
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import (
    Eoi,
    Hello,
    LineEdge,
    LineEnable,
    LineLevel,
    LineSync,
    Message,
    Role,
)
from vcoproc_irq_router.core import IrqRouterCore
from vcoproc_irq_router.events import (
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    DropDomain,
    Effect,
    Event,
    SendInject,
)

NAME: Final = "irq-router"
BATCH: Final = 64
"""Frames taken from one link before the other one has its turn."""


class IrqRouter:
    """Everything of the process but gRPC; all of it on the loop's thread.

    Args:
        epoch: this incarnation.
    """

    def __init__(
        self, context: zmq.Context[Any], run_dir: RunDir, loop: Loop, log: Log, *, epoch: int
    ) -> None:
        self.core = IrqRouterCore()
        self._loop = loop
        self._log = log
        self._cluster_key = run_dir.cluster_key()
        # Sessions begin and end while a batch is being read; the core hears of it in the right
        # place among the batch's messages.
        self._changes: list[tuple[Peer, Event | None]] = []
        self._fresh: set[Peer] = set()
        """Sessions that have begun and that the core has not heard of."""
        self._up: dict[int, Peer] = {}
        """The session of each domain that the core knows to listen."""
        self.coprocs = LinkServer(
            context, run_dir.ipc("irq-coproc"), name=NAME, epoch=epoch, window=CONTROL_CREDIT,
            authorize=self._authorize_coproc,
            on_open=self._on_coproc_open, on_close=self._on_coproc_close,
        )  # fmt: skip
        self.domains = LinkServer(
            context, run_dir.ipc("irq-domain"), name=NAME, epoch=epoch, window=IRQ_CREDIT,
            authorize=self._authorize_domain,
            on_open=self._on_domain_open, on_close=self._on_domain_close,
        )  # fmt: skip
        loop.watch(self.coprocs.socket)
        loop.watch(self.domains.socket)

    @property
    def garbage_count(self) -> int:
        return self.coprocs.garbage_count + self.domains.garbage_count

    # --- who may ----------------------------------------------------------------------------------

    def _authorize_coproc(self, hello: Hello) -> Hashable:
        if hello.role != Role.COPROC:
            raise RemoteProtocolError("this endpoint is for coprocs")
        if not hello.name:
            raise InvalidArgument("name", "is empty")
        if not hmac.compare_digest(hello.credential, self._cluster_key):
            raise BadCredential(hello.name)
        return hello.name

    def _authorize_domain(self, hello: Hello) -> Hashable:
        if hello.role != Role.DOMAIN:
            raise RemoteProtocolError("this endpoint is for domains")
        for domid, credential in self.core.credentials():
            if hmac.compare_digest(hello.credential, credential):
                return domid
        raise BadCredential(hello.name)

    # --- sessions ---------------------------------------------------------------------------------

    def _on_coproc_open(self, peer: Peer) -> None:
        self._log.info("coproc connected", coproc=peer.key)
        self._fresh.add(peer)
        self._changes.append((peer, None))

    def _on_coproc_close(self, peer: Peer, why: str) -> None:
        self._log.info("coproc disconnected", coproc=peer.key, why=why)
        self._changes.append((peer, CoprocDown(peer.name)))

    def _on_domain_open(self, peer: Peer) -> None:
        self._log.info("domain connected", domid=peer.key)
        assert isinstance(peer.key, int)
        session = peer.session
        self._fresh.add(peer)
        self._changes.append((peer, DomainUp(peer.key, session.peer_epoch, session.room)))

    def _on_domain_close(self, peer: Peer, why: str) -> None:
        self._log.info("domain disconnected", domid=peer.key, why=why)
        assert isinstance(peer.key, int)
        self._changes.append((peer, DomainDown(peer.key)))

    def _apply_changes(self, until: Peer | None = None) -> None:
        """Tells the core which sessions ended and began, up to the beginning of `until`."""
        while self._changes:
            peer, event = self._changes.pop(0)
            begins = peer in self._fresh
            self._fresh.discard(peer)
            if isinstance(event, DomainUp):
                self._up[event.domid] = peer
            elif isinstance(event, DomainDown) and self._up.get(event.domid) is peer:
                del self._up[event.domid]
            if event is not None:
                self.step(event)
            if begins and peer is until:
                return

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the loop is told to stop."""
        while not self._loop.stopping:
            self._loop.wait(None)
            self._loop.run_calls()
            self.round()

    def round(self) -> None:
        """Takes what has come, and lets everything go that follows from it."""
        for peer, _seq, message in self.coprocs.receive(BATCH):
            self._take_coproc(peer, message)
        self._apply_changes()
        for peer, _seq, message in self.domains.receive(BATCH):
            self._take_domain(peer, message)
        self._apply_changes()
        if self.core.starved:
            self._feed()
        self.coprocs.flush()
        self.domains.flush()
        self._apply_changes()

    def _take_coproc(self, peer: Peer, message: Message) -> None:
        if not isinstance(message, (LineLevel, LineEdge, LineSync)):
            self.coprocs.drop(peer, _unexpected(message))
            return
        if peer in self._fresh:
            self._apply_changes(until=peer)
        self.step(CoprocSaid(peer.name, message))

    def _take_domain(self, peer: Peer, message: Message) -> None:
        if not isinstance(message, (Eoi, LineEnable)):
            self.domains.drop(peer, _unexpected(message))
            return
        if peer in self._fresh:
            self._apply_changes(until=peer)
        assert isinstance(peer.key, int)
        self.step(DomainSaid(peer.key, message))

    def step(self, event: Event) -> None:
        """One event into the core, and all that it orders.

        Raises:
            RequestError: a control event is refused.
        """
        for effect in self.core.step(event, time.monotonic_ns()):
            if isinstance(effect, SendInject):
                # To that session and no newer one: if it has ended since, the core hears of that
                # next, and injects again when it has heard of the newer one.
                self.domains.send(self._up[effect.domid], effect.message)
            else:
                self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        assert isinstance(effect, DropDomain)
        peer = self._up.pop(effect.domid)
        if self.domains.peer(effect.domid) is peer:
            self.domains.drop(peer, NotFound("domain", str(effect.domid)))

    def _feed(self) -> None:
        """Tells the core which domains have room again."""
        for domid in tuple(self.core.starved):
            room = self._up[domid].session.room
            if room:
                self.step(DomainRoom(domid, room))

    def close(self) -> None:
        self.coprocs.close()
        self.domains.close()


def _unexpected(message: Message) -> RemoteProtocolError:
    return RemoteProtocolError(f"{type(message).__name__} on an interrupt link")
