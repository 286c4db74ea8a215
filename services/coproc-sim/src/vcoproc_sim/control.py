"""What the toolstack orders of a coproc-sim, on the loop's thread."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmq

from vcoproc.errors import AlreadyExists, PeerRejected, VcoprocError, VcoprocGone, VcoprocMoved
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import TRAP_CREDIT
from vcoproc.runtime.link import LinkClient
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.runtime.logs import Log
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import Hello
from vcoproc_sim.departures import Paused, PauseEnd
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import farewell
from vcoproc_sim.memory import Mapping, map_file
from vcoproc_sim.platforms.api import ContextSpec, MemoryRegion
from vcoproc_sim.router_side import RouterSide
from vcoproc_sim.saving import VcoprocImage, must_stand_still
from vcoproc_sim.vcoprocs import Vcoproc


class VcoprocControl:
    """The vcoprocs of one coproc: their memory, their secrets, and their drivers' sessions.

    Args:
        router: the link to the irq-router.
        epoch: this incarnation.
        send: sends what the cores have said.
    """

    def __init__(
        self,
        executor: Executor,
        router: LinkClient,
        *,
        run_dir: RunDir,
        log: Log,
        epoch: int,
        send: Callable[[], None],
    ) -> None:
        self.router_side = RouterSide(executor.vcoprocs)
        self._executor = executor
        self._platform = executor.platform
        self._outbox = executor.outbox
        self._router = router
        self._run_dir = run_dir
        self._log = log
        self._send = send
        self._credentials: dict[int, bytes] = {}
        self._mappings: dict[int, list[Mapping]] = {}
        self._requests: dict[int, control_pb2.AttachVcoprocRequest] = {}
        self.traps = LinkServer(
            zmq.Context.instance(),
            run_dir.ipc(f"trap-{executor.coproc}"),
            name=executor.coproc,
            epoch=epoch,
            window=TRAP_CREDIT,
            authorize=self._authorize,
            on_open=self._driver_came,
            on_close=self._driver_went,
        )
        """Where drivers come."""

    # --- drivers ----------------------------------------------------------------------------------

    def _authorize(self, hello: Hello) -> int:
        for vcoproc_id, credential in self._credentials.items():
            if hmac.compare_digest(credential, hello.credential):
                return vcoproc_id
        raise PeerRejected("UNAUTHENTICATED", "no vcoproc has this credential")

    def _driver_came(self, peer: Peer) -> None:
        self._log.info("driver connected", vcoproc=peer.key, name=peer.name)
        assert isinstance(peer.key, int)
        peer.served = not self._executor.find(peer.key).saved

    def _driver_went(self, peer: Peer, why: str) -> None:
        self._log.info("driver disconnected", vcoproc=peer.key, why=why)

    def _serve_driver(self, vcoproc_id: int) -> None:
        """A driver whose accesses are not done gets no credit, so that only so many wait."""
        peer = self.traps.peer(vcoproc_id)
        if peer is not None:
            peer.served = not self._executor.find(vcoproc_id).saved

    # --- they come and go -------------------------------------------------------------------------

    def attach(self, request: control_pb2.AttachVcoprocRequest) -> None:
        """Creates a vcoproc. The same request again does nothing; with another name, it renames.

        Raises:
            AlreadyExists: that number is taken by another one.
            InvalidArgument: a memory file that cannot be mapped.
            LimitExceeded: the platform takes no more.
        """
        vcoproc_id = request.vcoproc_id
        known = self._requests.get(vcoproc_id)
        if known is not None:
            self._rename(known, request)
            return
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
            self._executor.attach(vcoproc_id, request.name, spec, paused=request.paused)
        except BaseException:
            for mapping in mappings:
                mapping.close()
            raise
        self._mappings[vcoproc_id] = mappings
        self._credentials[vcoproc_id] = request.trap_credential
        self._requests[vcoproc_id] = request

    def _rename(
        self,
        known: control_pb2.AttachVcoprocRequest,
        request: control_pb2.AttachVcoprocRequest,
    ) -> None:
        renamed = control_pb2.AttachVcoprocRequest()
        renamed.CopyFrom(known)
        renamed.name = request.name
        renamed.paused = request.paused
        if renamed != request:
            raise AlreadyExists("vcoproc", str(request.vcoproc_id))
        self._requests[request.vcoproc_id] = renamed
        self._executor.find(request.vcoproc_id).name = request.name

    def _map(self, region: Any) -> Mapping:
        return map_file(
            self._run_dir.memory_dir, region.path, region.offset_bytes, region.size_bytes
        )

    def detach(
        self,
        vcoproc_id: int,
        deadline_ns: int,
        done: Callable[[bool], None],
        *,
        moved: bool,
    ) -> None:
        """Begins to remove a vcoproc; see `Executor.detach`."""
        vcoproc = self._executor.find(vcoproc_id)

        def gone(forced: bool) -> None:
            self._send()  # the driver learns what became of its last accesses
            self._say_goodbye(vcoproc)
            self.router_side.forget(vcoproc_id)
            for mapping in self._mappings.pop(vcoproc_id, ()):
                mapping.close()
            # Asked for twice while it refused to leave, it goes once.
            self._credentials.pop(vcoproc_id, None)
            self._requests.pop(vcoproc_id, None)
            done(forced)

        self._executor.detach(vcoproc_id, deadline_ns, gone, moved=moved)

    def _say_goodbye(self, vcoproc: Vcoproc) -> None:
        peer = self.traps.peer(vcoproc.id)
        if peer is not None and vcoproc.moved:
            self.traps.send(peer, farewell(vcoproc, peer, peer.session.accepted))
            self.traps.drop(peer, VcoprocMoved(vcoproc.name))
        elif peer is not None:
            self.traps.drop(peer, VcoprocGone(vcoproc.name, "it was detached"))

    # --- they are paused, written down and replaced -----------------------------------------------

    def pause(self, vcoproc_id: int, deadline_ns: int, done: Paused) -> None:
        """Begins to pause a vcoproc; see `Executor.pause`."""

        def ended(end: PauseEnd) -> None:
            self._send()  # the scheduler hears of its last turn before anybody asks for it
            done(end)

        self._executor.pause(vcoproc_id, deadline_ns, ended)
        self._serve_driver(vcoproc_id)

    def resume(self, vcoproc_id: int) -> None:
        """See `Executor.resume`."""
        self._executor.resume(vcoproc_id)
        self._serve_driver(vcoproc_id)
        self._outbox.to_router += self.router_side.resumed(vcoproc_id)

    def save(self, vcoproc_id: int, saved: Future[VcoprocImage], *, moving: bool) -> None:
        """Begins to write a paused vcoproc down: as soon as the router has all that it has said.

        Raises:
            NotFound, WrongState: see `Executor.save`.
        """
        must_stand_still(self._executor.find(vcoproc_id))

        def passed() -> None:
            if saved.set_running_or_notify_cancel():
                try:
                    saved.set_result(self._take(vcoproc_id, moving=moving))
                except VcoprocError as error:  # it was resumed meanwhile, for example
                    saved.set_exception(error)

        self._send()
        if self._router.session is None:
            passed()
        else:
            self._outbox.to_router.append(self.router_side.fence(passed))

    def _take(self, vcoproc_id: int, *, moving: bool) -> VcoprocImage:
        edges = self.router_side.unsaid_of(vcoproc_id, self._router.unacked)
        image = self._executor.save(vcoproc_id, edges, moving=moving)
        self._serve_driver(vcoproc_id)
        return image

    def restore(self, vcoproc_id: int, image: VcoprocImage) -> None:
        """See `Executor.restore`."""
        self._executor.restore(vcoproc_id, image)
        self._serve_driver(vcoproc_id)
        self.router_side.restored(vcoproc_id, image.edges, self._executor.switch_count)

    # --- what is seen of them ---------------------------------------------------------------------

    def list_vcoprocs(self) -> list[control_pb2.VcoprocStatus]:
        return [
            control_pb2.VcoprocStatus(
                vcoproc_id=vcoproc.id,
                runnable=vcoproc.told_runnable,
                faulted=self._platform.is_faulted(vcoproc.id),
                connected=self.traps.peer(vcoproc.id) is not None,
                trap_count=vcoproc.trap_count,
                instruction_count=vcoproc.instruction_count,
                paused=vcoproc.paused,
                name=vcoproc.name,
            )
            for vcoproc in self._executor.vcoprocs.values()
        ]

    def close(self) -> None:
        """Unmaps all memory; nobody uses it any more."""
        for mappings in self._mappings.values():
            for mapping in mappings:
                mapping.close()
