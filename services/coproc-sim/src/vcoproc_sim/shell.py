"""The shell of coproc-sim: one thread that alternates between messages and bursts.

Everything with a socket or a clock is here; what to do is decided by front end and executor.
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import zmq

from vcoproc.errors import AlreadyExists, PeerRejected, RemoteProtocolError
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import CONTROL_CREDIT, TRAP_CREDIT
from vcoproc.runtime.link import LinkClient, LinkDown, LinkServer, LinkUp, Peer, Received
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import Grant, Hello, LineEdge, Message, Resample, Revoke, Role, Vacate
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.memory import Mapping, map_file
from vcoproc_sim.platforms.api import ContextSpec, MemoryRegion, Platform
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
        self._credentials: dict[int, bytes] = {}
        self._mappings: dict[int, list[Mapping]] = {}
        self._requests: dict[int, control_pb2.AttachVcoprocRequest] = {}
        context: zmq.Context[Any] = zmq.Context.instance()
        self._traps = LinkServer(
            context,
            run_dir.ipc(f"trap-{lease.coproc}"),
            name=lease.coproc,
            epoch=epoch,
            window=TRAP_CREDIT,
            authorize=self._authorize,
            on_open=self._driver_came,
            on_close=self._driver_went,
        )
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
        self._trap_count = 0
        self._edges_unsaid: dict[tuple[int, int], LineEdge] = {}
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
                    if isinstance(event, LinkDown):
                        self._log.warning("link lost", error=str(event.error))
                    else:
                        act(event)

    def _scheduler_said(self, event: LinkUp | Received) -> None:
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

    def _router_said(self, event: LinkUp | Received) -> None:
        if isinstance(event, LinkUp):
            # Levels as they are now; and the edges that did not arrive, or may not have. An older
            # level message must not be said again: it would contradict the synchronisation.
            unsaid = [message for message in event.unacked if isinstance(message, LineEdge)]
            unsaid += self._edges_unsaid.values()
            self._edges_unsaid.clear()
            self._outbox.to_router[:0] = [*self._executor.line_syncs(), *unsaid]
        elif isinstance(event.message, Resample):
            self._executor.resample(event.message.vcoproc, event.message.line)

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
                self._edges_unsaid.setdefault((message.vcoproc, message.line), message)
        messages.clear()

    # --- drivers ----------------------------------------------------------------------------------

    def _authorize(self, hello: Hello) -> int:
        for vcoproc_id, credential in self._credentials.items():
            if hmac.compare_digest(credential, hello.credential):
                return vcoproc_id
        raise PeerRejected("UNAUTHENTICATED", "no vcoproc has this credential")

    def _driver_came(self, peer: Peer) -> None:
        self._log.info("driver connected", vcoproc=peer.key, name=peer.name)

    def _driver_went(self, peer: Peer, why: str) -> None:
        self._log.info("driver disconnected", vcoproc=peer.key, why=why)

    # --- control, on the loop's thread ------------------------------------------------------------

    def attach(self, request: control_pb2.AttachVcoprocRequest) -> None:
        """Creates a vcoproc. The same request again does nothing.

        Raises:
            AlreadyExists: that number is taken by another one.
            InvalidArgument: a memory file that cannot be mapped.
            LimitExceeded: the platform takes no more.
        """
        vcoproc_id = request.vcoproc_id
        if vcoproc_id in self._requests:
            if self._requests[vcoproc_id] == request:
                return
            raise AlreadyExists("vcoproc", str(vcoproc_id))
        mappings: list[Mapping] = []
        try:
            regions = []
            for region in request.memory:
                mappings.append(self._map(region))
                regions.append(MemoryRegion(region.base_ipa, mappings[-1].view))
            mapped = []
            for region in request.mapped:
                mappings.append(self._map(region))
                mapped.append(mappings[-1].view)
            shadow = self._platform.info.reset_values()
            spec = ContextSpec(vcoproc_id, tuple(regions), tuple(mapped), shadow)
            self._executor.attach(vcoproc_id, request.name, spec)
        except BaseException:
            for mapping in mappings:
                mapping.close()
            raise
        self._mappings[vcoproc_id] = mappings
        self._credentials[vcoproc_id] = request.trap_credential
        self._requests[vcoproc_id] = request

    def _map(self, region: Any) -> Mapping:
        return map_file(
            self._run_dir.memory_dir, region.path, region.offset_bytes, region.size_bytes
        )

    def detach(self, vcoproc_id: int, deadline_ns: int, done: Callable[[bool], None]) -> None:
        """Begins to remove a vcoproc; see `Executor.detach`."""

        def gone(forced: bool) -> None:
            self._send_effects()  # the driver learns what became of its last accesses
            for line in range(len(self._platform.info.lines)):
                self._edges_unsaid.pop((vcoproc_id, line), None)
            peer = self._traps.peer(vcoproc_id)
            if peer is not None:
                self._traps.drop(peer, PeerRejected("VCOPROC_DESTROYED", "it is gone"))
            for mapping in self._mappings.pop(vcoproc_id, ()):
                mapping.close()
            del self._credentials[vcoproc_id]
            del self._requests[vcoproc_id]
            done(forced)

        self._executor.detach(vcoproc_id, deadline_ns, gone)

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
        for vcoproc in executor.vcoprocs.values():
            status.vcoprocs.add(
                vcoproc_id=vcoproc.id,
                runnable=vcoproc.told_runnable,
                faulted=self._platform.is_faulted(vcoproc.id),
                connected=self._traps.peer(vcoproc.id) is not None,
                trap_count=vcoproc.trap_count,
                instruction_count=vcoproc.instruction_count,
            )
        return status

    def close(self) -> None:
        for link in (self._traps, self._scheduler, self._router):
            link.close()
        self._platform.close()
        for mappings in self._mappings.values():
            for mapping in mappings:
                mapping.close()
        self.loop.close()
        with contextlib.suppress(FileNotFoundError):
            self._run_dir.socket_path(f"trap-{self.coproc}").unlink()
