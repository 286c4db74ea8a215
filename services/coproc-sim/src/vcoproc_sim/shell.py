"""The shell of coproc-sim: one thread that alternates between messages and bursts of instructions.

Everything with a socket or a clock is here; what to do is decided by the front end and the executor.
"""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Callable
from typing import Any

import zmq
from vcoproc.errors import AlreadyExists, GuestError, PeerRejected, RemoteProtocolError
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import CONTROL_CREDIT, TRAP_CREDIT
from vcoproc.runtime.link import LinkClient, LinkDown, LinkServer, LinkUp, Peer, Received
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import Grant, Hello, Message, Revoke, Role

from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.memory import Mapping, map_file
from vcoproc_sim.platforms.api import ContextSpec, MemoryRegion, Platform
from vcoproc_sim.vcoprocs import FaultSeen, Outbox

_EVENTS_A_ROUND = 64
"""Frames of one socket served before the next burst: a talkative driver does not stop the others."""


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
            lease.coproc, platform, self._frontend, self._outbox, time.monotonic_ns
        )
        self._credentials: dict[int, bytes] = {}
        self._mappings: dict[int, list[Mapping]] = {}
        self._requests: dict[int, control_pb2.AttachVcoprocRequest] = {}
        context = zmq.Context.instance()
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
                executor.tick(now_ns)
            self._send_effects()
            if executor.wants_cpu():
                executor.burst(time.monotonic_ns())
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
        executor, frontend = self._executor, self._frontend
        now_ns = time.monotonic_ns()
        for peer, seq, message in self._traps.receive(_EVENTS_A_ROUND):
            vcoproc = executor.vcoprocs.get(peer.key)  # type: ignore[arg-type]  # keys are ids
            if vcoproc is None:
                continue  # it was detached while the message was under way; the peer is told
            self._trap_count += 1
            on_hardware = executor.on_hardware(vcoproc)
            try:
                frontend.request(vcoproc, seq, message, on_hardware=on_hardware, now_ns=now_ns)
            except GuestError as error:
                self._traps.drop(peer, RemoteProtocolError(str(error)))
                continue
            executor.poke(vcoproc, now_ns)

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
                        act(event, now_ns)

    def _scheduler_said(self, event: LinkUp | Received, now_ns: int) -> None:
        if isinstance(event, LinkUp):
            self._outbox.to_scheduler.append(self._executor.register_message(now_ns))
            return
        match event.message:
            case Grant() as grant:
                self._executor.grant(grant, now_ns)
            case Revoke(number):
                self._executor.revoke(number, now_ns)
            case other:
                self._log.warning("unexpected message", link="schedule", message=repr(other))

    def _router_said(self, event: LinkUp | Received, now_ns: int) -> None:
        if isinstance(event, LinkUp):
            # Levels as they are now, and the edges that may not have arrived. Lost levels need no
            # repetition: the ones that count are in the synchronisation.
            for message in self._executor.line_syncs():
                self._router.send(message)
            for message in event.unacked:
                self._router.send(message)

    def _send_effects(self) -> None:
        outbox = self._outbox
        if outbox.replies:
            traps = self._traps
            for key, message in outbox.replies:
                peer = traps.peer(key)
                if peer is not None:
                    traps.send(peer, message)
            outbox.replies.clear()
        if outbox.to_router:
            self._send_all(self._router, outbox.to_router)
        if outbox.to_scheduler:
            self._send_all(self._scheduler, outbox.to_scheduler)
        if outbox.faults:
            for fault in outbox.faults:
                self._log.warning("fault", vcoproc=fault.vcoproc_id, why=fault.why)
                self._on_fault(fault)
            outbox.faults.clear()

    def _send_all(self, client: LinkClient, messages: list[Message]) -> None:
        # Without a session nothing is lost: after the next welcome the whole state is said.
        for message in messages:
            if not client.send(message):
                break
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
            self._send_effects()
            peer = self._traps.peer(vcoproc_id)
            if peer is not None:
                self._traps.drop(peer, PeerRejected("VCOPROC_DESTROYED", "it is gone"))
            for mapping in self._mappings.pop(vcoproc_id, ()):
                mapping.close()
            del self._credentials[vcoproc_id]
            del self._requests[vcoproc_id]
            done(forced)

        self._executor.detach(vcoproc_id, deadline_ns, gone, time.monotonic_ns())

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
