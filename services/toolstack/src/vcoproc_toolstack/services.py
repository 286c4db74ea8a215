"""The other services over gRPC: performs steps and asks what is held. Decides nothing."""

from __future__ import annotations

import threading
from typing import Final

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.calls import Caller
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.looking_client import GrpcLooking, coproc_state, to_accounts
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.records import (
    CoprocAccount,
    CoprocView,
    RouterView,
    VcoprocRecord,
)
from vcoproc_toolstack.scheduler_client import GrpcScheduling
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    SCHEDULER,
    AddDomain,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    MakeMemory,
    MapLines,
    RemoveDomain,
    RemoveMemory,
    RemoveVcoproc,
    SetCoproc,
    Step,
    UnmapLines,
)

_DETACH_US: Final = limits.SWITCH_DEADLINE_NS // limits.US


class GrpcServices:
    """Implements `ports.Services` for one run directory."""

    def __init__(self, run_dir: RunDir, memory: MemoryDir, leases: Leases) -> None:
        self._memory = memory
        self._leases = leases
        self._caller = Caller()
        self._call = self._caller.call
        self._lock = threading.Lock()
        self._channels: dict[str, tuple[str, grpc.Channel]] = {}
        self.scheduler_channel = grpc_kit.channel(run_dir.grpc(SCHEDULER))
        self.router_channel = grpc_kit.channel(run_dir.grpc(IRQ_ROUTER))
        self._scheduler = rpc.SchedulerControlServiceStub(self.scheduler_channel)
        self.scheduling = GrpcScheduling(self._caller, self._scheduler)
        self._router = rpc.IrqControlServiceStub(self.router_channel)
        self.looking = GrpcLooking(self._caller, self._scheduler, self._router, self._coproc_stub)

    def cancel(self) -> None:
        """Gives up everything under way; to be followed by `close` once nobody calls any more."""
        self._caller.close()

    def close(self) -> None:
        with self._lock:
            channels = [channel for _, channel in self._channels.values()]
            self._channels.clear()
        for channel in (self.scheduler_channel, self.router_channel, *channels):
            channel.close()

    def perform(self, step: Step) -> None:
        """See `ports.Services.perform`."""
        match step:
            case MakeMemory():
                self._memory.make(step)
            case RemoveMemory():
                self._memory.remove(step)
            case AddDomain() | RemoveDomain() | MapLines() | UnmapLines():
                self._tell_router(step)
            case SetCoproc() | AddVcoproc() | RemoveVcoproc():
                self._tell_scheduler(step)
            case AttachVcoproc() | DetachVcoproc():
                self._tell_coproc(step)

    def _tell_router(self, step: AddDomain | RemoveDomain | MapLines | UnmapLines) -> None:
        match step:
            case AddDomain(domain=domain):
                add = pb.AddDomainRequest(domid=domain.domid, credential=domain.irq_credential)
                self._call(IRQ_ROUTER, self._router.AddDomain, add, limits.CALL_TIMEOUT_NS)
            case RemoveDomain(domid=domid):
                remove = pb.RemoveDomainRequest(domid=domid)
                self._call(IRQ_ROUTER, self._router.RemoveDomain, remove, limits.CALL_TIMEOUT_NS)
            case MapLines(vcoproc=vcoproc):
                lines = _map_lines(vcoproc)
                self._call(IRQ_ROUTER, self._router.MapLines, lines, limits.CALL_TIMEOUT_NS)
            case UnmapLines(vcoproc_id=vcoproc_id):
                unmap = pb.UnmapLinesRequest(vcoproc_id=vcoproc_id)
                self._call(IRQ_ROUTER, self._router.UnmapLines, unmap, limits.CALL_TIMEOUT_NS)

    def _tell_scheduler(self, step: SetCoproc | AddVcoproc | RemoveVcoproc) -> None:
        match step:
            case SetCoproc():
                self.scheduling.set_coproc(step)
            case AddVcoproc(vcoproc=vcoproc):
                add = pb.AddVcoprocRequest(
                    coproc=vcoproc.coproc,
                    vcoproc_id=vcoproc.vcoproc_id,
                    parameters=dict(vcoproc.params),
                )
                self._add_vcoproc(vcoproc, add)
            case RemoveVcoproc(coproc=name, vcoproc_id=vcoproc_id):
                remove = pb.RemoveVcoprocRequest(coproc=name, vcoproc_id=vcoproc_id)
                self._call(SCHEDULER, self._scheduler.RemoveVcoproc, remove, limits.CALL_TIMEOUT_NS)

    def _add_vcoproc(self, vcoproc: VcoprocRecord, request: pb.AddVcoprocRequest) -> None:
        try:
            self._call(SCHEDULER, self._scheduler.AddVcoproc, request, limits.CALL_TIMEOUT_NS)
        except grpc_kit.RemoteRefusal as error:
            # The scheduler knows numbers; a domain may have several vcoprocs.
            words = f"vcoproc {vcoproc.name}: {error}"
            raise grpc_kit.RemoteRefusal(error.reason, words, error.metadata) from error

    def _tell_coproc(self, step: AttachVcoproc | DetachVcoproc) -> None:
        if isinstance(step, AttachVcoproc):
            stub = self._coproc_stub(step.vcoproc.coproc)
            who = f"coproc {step.vcoproc.coproc}"
            self._call(who, stub.AttachVcoproc, self._attach(step), limits.CALL_TIMEOUT_NS)
        else:
            stub = self._coproc_stub(step.coproc)
            detach = pb.DetachVcoprocRequest(vcoproc_id=step.vcoproc_id, deadline_us=_DETACH_US)
            wait_ns = limits.SWITCH_DEADLINE_NS + limits.CALL_TIMEOUT_NS
            self._call(f"coproc {step.coproc}", stub.DetachVcoproc, detach, wait_ns)

    def _attach(self, step: AttachVcoproc) -> pb.AttachVcoprocRequest:
        memory = api.MemoryRegion(
            base_ipa=limits.GUEST_RAM_BASE_IPA,
            size_bytes=step.memory_bytes,
            path=str(self._memory.path_of(step.memory_file)),
        )
        mapped = [
            api.MemoryRegion(
                base_ipa=place.ipa,
                size_bytes=place.size_bytes,
                path=str(self._memory.path_of(file_name)),
            )
            for place, file_name in step.vcoproc.mapped_files()
        ]
        return pb.AttachVcoprocRequest(
            vcoproc_id=step.vcoproc.vcoproc_id,
            memory=[memory],
            mapped=mapped,
            trap_credential=step.vcoproc.trap_credential,
            name=step.vcoproc.resource,
        )

    def _coproc_stub(self, name: str) -> rpc.CoprocSimServiceStub:
        target = self._leases.need(name).control_target
        with self._lock:
            held = self._channels.get(name)
            if held is None or held[0] != target:
                # The old channel is dropped, not closed: another thread may be about to use it.
                held = (target, grpc_kit.channel(target))
                self._channels[name] = held
            return rpc.CoprocSimServiceStub(held[1])

    def accounts(self, timeout_ns: int) -> tuple[CoprocAccount, ...]:
        """See `ports.Services.accounts`."""
        request = pb.ListAccountsRequest()
        answer = self._call(SCHEDULER, self._scheduler.ListAccounts, request, timeout_ns)
        return to_accounts(answer)

    def router(self) -> RouterView:
        """See `ports.Services.router`."""
        request = pb.ListLinesRequest()
        answer = self._call(IRQ_ROUTER, self._router.ListLines, request, limits.CALL_TIMEOUT_NS)
        return RouterView(
            frozenset({*answer.domids, *(line.domid for line in answer.lines)}),
            frozenset(line.vcoproc_id for line in answer.lines),
        )

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        """See `ports.Services.coproc`."""
        stub = self._coproc_stub(name)
        answer = self._call(f"coproc {name}", stub.GetStatus, pb.GetStatusRequest(), timeout_ns)
        return CoprocView(
            answer.current_vcoproc_id,
            answer.switch_count,
            tuple(
                (each.vcoproc_id, coproc_state(each, answer.current_vcoproc_id))
                for each in answer.vcoprocs
            ),
        )


def _map_lines(vcoproc: VcoprocRecord) -> pb.MapLinesRequest:
    return pb.MapLinesRequest(
        domid=vcoproc.domid,
        vcoproc_id=vcoproc.vcoproc_id,
        coproc=vcoproc.coproc,
        lines=[
            pb.MappedLine(line=line.index, irq=line.irq, level=line.level) for line in vcoproc.lines
        ],
    )
