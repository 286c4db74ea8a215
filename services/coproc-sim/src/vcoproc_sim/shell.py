"""The shell of coproc-sim: one thread that alternates between messages and bursts.

Everything with a socket or a clock is here; what to do is decided by front end and executor.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import zmq

from vcoproc.errors import RemoteProtocolError
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import CONTROL_CREDIT
from vcoproc.runtime.link import LinkClient, LinkDown, LinkEvent, LinkUp
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import (
    Fence,
    Grant,
    LineEdge,
    Message,
    Resample,
    Revoke,
    Role,
    Vacate,
)
from vcoproc_sim.control import VcoprocControl
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import Platform
from vcoproc_sim.vcoprocs import FaultSeen, Outbox

_EVENTS_A_ROUND = 64
"""Frames of one socket before the next burst: a talkative driver does not stop the others."""


class CoprocShell:
    """One coprocessor as a process.

    Args:
        lease: which coproc, and where the other services are.
        on_fault: told of every fault, from the loop's thread; must not block.
    """

    def __init__(
        self,
        lease: control_pb2.CoprocLease,
        run_dir: RunDir,
        platform: Platform,
        *,
        epoch: int,
        log: Log,
        on_fault: Callable[[FaultSeen], None],
    ) -> None:
        self.coproc: str = lease.coproc
        self.loop = Loop()
        self._run_dir = run_dir
        self._platform = platform
        self._log = log
        self._on_fault = on_fault
        self._outbox = Outbox()
        self._frontend = FrontEnd(platform, self._outbox)
        self._executor = Executor(
            lease.coproc,
            platform,
            self._frontend,
            self._outbox,
            time.monotonic_ns,
            lease.refusal_drain_ns,
        )
        context: zmq.Context[Any] = zmq.Context.instance()
        self._scheduler = LinkClient(
            context,
            lease.schedule_endpoint,
            role=Role.COPROC,
            credential=lease.credential,
            name=lease.coproc,
            epoch=epoch,
            window=CONTROL_CREDIT,
        )
        self._router = LinkClient(
            context,
            lease.irq_endpoint,
            role=Role.COPROC,
            credential=lease.credential,
            name=lease.coproc,
            epoch=epoch,
            window=CONTROL_CREDIT,
            keep_unacked=True,
        )
        self.control = VcoprocControl(
            self._executor,
            self._router,
            run_dir=run_dir,
            log=log,
            epoch=epoch,
            send=self._send_effects,
        )
        self._traps = self.control.traps
        self._trap_count = 0
        for source in (self._traps.socket, *self._scheduler.sockets, *self._router.sockets):
            self.loop.watch(source)

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        executor, traps = self._executor, self._traps
        while not self.loop.stopping:
            if executor.wants_cpu():
                ready = self.loop.wait(1)  # a look: the deadline has passed
            else:
                ready = self.loop.wait(self._next_deadline_ns())
            if self.loop.has_calls():
                self.loop.run_calls()
            if traps.socket in ready:
                self._serve_traps()
            self._serve_links(ready)
            now_ns = time.monotonic_ns()
            deadline_ns = executor.next_deadline_ns()
            if deadline_ns is not None and now_ns >= deadline_ns:
                executor.tick()
            self._send_effects()
            if executor.wants_cpu():
                executor.burst()
                self._send_effects()
            traps.flush()
            self._scheduler.flush()
            self._router.flush()

    def _next_deadline_ns(self) -> int | None:
        deadlines = (
            self._executor.next_deadline_ns(),
            self._scheduler.next_deadline_ns(),
            self._router.next_deadline_ns(),
        )
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _serve_traps(self) -> None:
        executor = self._executor
        for peer, seq, message in self._traps.incoming(_EVENTS_A_ROUND):
            assert isinstance(peer.key, int)
            vcoproc = executor.vcoprocs.get(peer.key)
            if vcoproc is None:
                continue  # it was detached while the message was under way; the peer is told
            self._trap_count += 1
            try:
                executor.trap(vcoproc, peer, seq, message, self._send_replies)
            except RemoteProtocolError as error:
                self._traps.drop(peer, error)

    def _serve_links(self, ready: set[Any]) -> None:
        now_ns = time.monotonic_ns()
        for client, act in (
            (self._scheduler, self._scheduler_said),
            (self._router, self._router_said),
        ):
            deadline_ns = client.next_deadline_ns()
            due = deadline_ns is not None and now_ns >= deadline_ns
            if due or client.sockets[0] in ready or client.sockets[1] in ready:
                for event in client.receive(_EVENTS_A_ROUND):
                    act(event)

    def _lost(self, event: LinkDown) -> None:
        self._log.warning("link lost", error=str(event.error))

    def _scheduler_said(self, event: LinkEvent) -> None:
        if isinstance(event, LinkDown):
            self._lost(event)
            return
        if isinstance(event, LinkUp):
            # What was to be said before is part of it.
            self._outbox.to_scheduler[:] = [self._executor.register_message()]
            return
        match event.message:
            case Grant() as grant:
                self._executor.grant(grant)
            case Vacate() as order:
                self._executor.vacate(order)
            case Revoke(number):
                self._executor.revoke(number)
            case other:
                self._log.warning("unexpected message", link="schedule", message=repr(other))

    def _router_said(self, event: LinkEvent) -> None:
        router_side = self.control.router_side
        if isinstance(event, LinkDown):
            self._lost(event)
            router_side.unlinked()
        elif isinstance(event, LinkUp):
            # Levels as they are now; and the edges that did not arrive, or may not have. An older
            # level message must not be said again: it would contradict the synchronisation.
            edges = router_side.linked(event.unacked)
            self._outbox.to_router[:0] = [*self._executor.line_syncs(), *edges]
        elif isinstance(event.message, Resample):
            self._executor.resample(event.message.vcoproc, event.message.line)
        elif isinstance(event.message, Fence):
            router_side.fenced(event.message.number)

    def _send_effects(self) -> None:
        outbox = self._outbox
        self._send_replies()
        if outbox.to_scheduler:
            self._tell_scheduler(outbox.to_scheduler)
        if outbox.faults:
            for fault in outbox.faults:
                self._log.warning("fault", vcoproc=fault.vcoproc_id, why=fault.why)
                self._on_fault(fault)
            outbox.faults.clear()

    def _send_replies(self) -> None:
        # Lines first: who has the answer to the write that cleared an interrupt may say EOI at
        # once, and the router must not believe by then that the line is still high.
        if self._outbox.to_router:
            self._tell_router(self._outbox.to_router)
        replies = self._outbox.replies
        if replies:
            for peer, message in replies:
                self._traps.send(peer, message)
            replies.clear()

    def _tell_scheduler(self, messages: list[Message]) -> None:
        # Without a session nothing is lost: after the next welcome the whole state is said.
        for message in messages:
            if not self._scheduler.send(message):
                break
        messages.clear()

    def _tell_router(self, messages: list[Message]) -> None:
        # Without a session levels are not lost, but edges would be. A second one while the first is
        # pending merges with it in any case.
        for message in messages:
            if not self._router.send(message) and isinstance(message, LineEdge):
                self.control.router_side.keep(message)
        messages.clear()

    # --- control, on the loop's thread ------------------------------------------------------------

    def status(self) -> control_pb2.CoprocStatus:
        """Counters and states, for control."""
        executor = self._executor
        status = control_pb2.CoprocStatus(
            coproc=self.coproc,
            current_vcoproc_id=executor.turn.vcoproc.id if executor.turn is not None else 0,
            switch_count=executor.switch_count,
            trap_count=self._trap_count,
            garbage_count=self._traps.garbage_count,
            dropped_peer_count=self._traps.dropped_count,
        )
        status.vcoprocs.extend(self.control.list_vcoprocs())
        return status

    def close(self) -> None:
        for link in (self._traps, self._scheduler, self._router):
            link.close()
        self._platform.close()
        self.control.close()
        self.loop.close()
        with contextlib.suppress(FileNotFoundError):
            self._run_dir.socket_path(f"trap-{self.coproc}").unlink()
