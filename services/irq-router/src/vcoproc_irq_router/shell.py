"""The irq-router's process: one loop, two links, one gRPC server around the core."""

from __future__ import annotations

import hmac
import time
from collections.abc import Container, Hashable
from typing import Any, Final

import zmq

from vcoproc.errors import BadCredential, InvalidArgument, NotFound, RemoteProtocolError
from vcoproc.limits import CONTROL_CREDIT, IRQ_CREDIT
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import (
    Eoi,
    Fence,
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
    Event,
    SendInject,
    SendResample,
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

    # Called while messages are being taken, each in its place among them; `_on_domain_close` also
    # in the middle of sending what a step has ordered.

    def _on_coproc_open(self, peer: Peer) -> None:
        self._log.info("coproc connected", coproc=peer.key)

    def _on_coproc_close(self, peer: Peer, why: str) -> None:
        self._log.info("coproc disconnected", coproc=peer.key, why=why)
        self.step(CoprocDown(peer.name))

    def _on_domain_open(self, peer: Peer) -> None:
        self._log.info("domain connected", domid=peer.key)
        assert isinstance(peer.key, int)
        self._up[peer.key] = peer
        self.step(DomainUp(peer.key, peer.session.peer_epoch, peer.session.room))

    def _on_domain_close(self, peer: Peer, why: str) -> None:
        self._log.info("domain disconnected", domid=peer.key, why=why)
        assert isinstance(peer.key, int)
        if self._up.pop(peer.key, None):
            self.step(DomainDown(peer.key))

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the loop is told to stop."""
        while not self._loop.stopping:
            ready = self._loop.wait(None)
            self._loop.run_calls()
            self.round(ready)

    def round(self, ready: Container[Any]) -> None:
        """Takes what has come to these sockets, and lets everything go that follows from it."""
        if self.coprocs.socket in ready:
            for peer, _seq, message in self.coprocs.incoming(BATCH):
                if isinstance(message, (LineLevel, LineEdge, LineSync)):
                    self.step(CoprocSaid(peer.name, message))
                elif isinstance(message, Fence):  # what came before it has been taken
                    self.coprocs.send(peer, message)
                else:
                    self.coprocs.drop(peer, _unexpected(message))
        if self.domains.socket in ready:
            for peer, _seq, message in self.domains.incoming(BATCH):
                if isinstance(message, (Eoi, LineEnable)):
                    assert isinstance(peer.key, int)
                    self.step(DomainSaid(peer.key, message))
                else:
                    self.domains.drop(peer, _unexpected(message))
        if self.core.starved:
            self._feed()
        self.coprocs.flush()
        self.domains.flush()

    def step(self, event: Event) -> None:
        """One event into the core, and all that it orders.

        Raises:
            RequestError: a control event is refused.
        """
        for effect in self.core.step(event, time.monotonic_ns()):
            # Without a peer: it went while this was under way, and the core has heard of it.
            if isinstance(effect, SendInject):
                if peer := self._up.get(effect.domid):
                    self.domains.send(peer, effect.message)
            elif isinstance(effect, SendResample):
                if peer := self.coprocs.peer(effect.coproc):
                    self.coprocs.send(peer, effect.message)
            elif peer := self._up.pop(effect.domid, None):
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
