"""The other services over gRPC: performs steps and asks what is held. Decides nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final, assert_never

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import RequestError
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.calls import Caller
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.looking_client import GrpcLooking, coproc_state, to_accounts
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.records import (
    Accounting,
    CoprocAccount,
    CoprocView,
    LineNow,
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
    CoprocStep,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    MapLines,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    RemoveCoproc,
    RemoveDomain,
    RemoveMemory,
    RemoveVcoproc,
    ResumeDomain,
    ResumeVcoproc,
    RouterStep,
    SaveContext,
    SchedulerStep,
    SetCoproc,
    Step,
    TakeMemory,
    UnmapLines,
    context_file,
)

_LEAVE_US: Final = limits.SWITCH_DEADLINE_NS // limits.US
_LEAVE_WAIT_NS: Final = limits.SWITCH_DEADLINE_NS + limits.CALL_TIMEOUT_NS
"""How long a vcoproc may refuse to leave its coproc, and when its coproc-sim must have answered."""


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
            case TakeMemory():
                self._memory.take(step)
            case RemoveMemory(file_name=file_name):
                self._memory.remove(file_name)
            case ForgetContext(vcoproc_id=vcoproc_id):
                self._memory.remove(context_file(vcoproc_id))
            case SetCoproc() | RemoveCoproc() | AddVcoproc() | RemoveVcoproc():
                self._tell_scheduler(step)
            case (
                AttachVcoproc()
                | DetachVcoproc()
                | PauseVcoproc()
                | ResumeVcoproc()
                | SaveContext()
                | LoadContext()
            ):
                self._tell_coproc(step)
            case _:
                self._tell_router(step)

    def _tell_router(self, step: RouterStep) -> None:
        router = self._router
        match step:
            case AddDomain(domain=domain):
                add = pb.AddDomainRequest(domid=domain.domid, credential=domain.irq_credential)
                self._ask_router(router.AddDomain, add)
            case RemoveDomain(domid=domid):
                self._ask_router(router.RemoveDomain, pb.RemoveDomainRequest(domid=domid))
            case PauseDomain(domid=domid):
                self._ask_router(router.PauseDomain, pb.PauseDomainRequest(domid=domid))
            case ResumeDomain(domid=domid):
                self._ask_router(router.ResumeDomain, pb.ResumeDomainRequest(domid=domid))
            case MapLines():
                self._ask_router(router.MapLines, _map_lines(step))
            case UnmapLines(vcoproc_id=vcoproc_id):
                unmap = pb.UnmapLinesRequest(vcoproc_id=vcoproc_id)
                self._ask_router(router.UnmapLines, unmap)
            case MoveLines(vcoproc_id=vcoproc_id, coproc=coproc):
                move = pb.MoveLinesRequest(vcoproc_id=vcoproc_id, coproc=coproc)
                self._ask_router(router.MoveLines, move)
            case _:
                assert_never(step)

    def _ask_router(self, method: Any, request: Any) -> Any:
        return self._call(IRQ_ROUTER, method, request, limits.CALL_TIMEOUT_NS)

    def _tell_scheduler(self, step: SchedulerStep) -> None:
        match step:
            case SetCoproc():
                self.scheduling.set_coproc(step)
            case RemoveCoproc(coproc=name):
                forget = pb.RemoveCoprocRequest(coproc=name)
                self._call(SCHEDULER, self._scheduler.RemoveCoproc, forget, limits.CALL_TIMEOUT_NS)
            case AddVcoproc(vcoproc=vcoproc):
                add = pb.AddVcoprocRequest(
                    coproc=vcoproc.coproc,
                    vcoproc_id=vcoproc.vcoproc_id,
                    parameters=dict(vcoproc.params),
                )
                if used := self._used(step):
                    add.accounting.MergeFrom(api.Accounting(**asdict(used)))
                self._add_vcoproc(vcoproc, add)
            case RemoveVcoproc(coproc=name, vcoproc_id=vcoproc_id):
                remove = pb.RemoveVcoprocRequest(coproc=name, vcoproc_id=vcoproc_id)
                self._call(SCHEDULER, self._scheduler.RemoveVcoproc, remove, limits.CALL_TIMEOUT_NS)
            case _:
                assert_never(step)

    def _used(self, step: AddVcoproc) -> Accounting | None:
        """What a vcoproc has used on the coproc that it leaves.

        It is off that coproc by now. The scheduler, which learns so by itself, is asked until it
        knows: only then its last turn is part of the account.
        """
        number = step.vcoproc.vcoproc_id
        until_ns = time.monotonic_ns() + limits.ACCOUNTS_TIMEOUT_NS
        while step.used_on:
            try:
                schedule = self.scheduling.schedule(step.used_on)  # its driver waits: of this alone
            except RequestError:
                return None
            accounts = {each.vcoproc_id: each.accounting for each in schedule.vcoprocs}
            if number not in accounts:
                return None
            if schedule.current != number or time.monotonic_ns() > until_ns:
                return accounts[number]
        return None

    def _add_vcoproc(self, vcoproc: VcoprocRecord, request: pb.AddVcoprocRequest) -> None:
        try:
            self._call(SCHEDULER, self._scheduler.AddVcoproc, request, limits.CALL_TIMEOUT_NS)
        except grpc_kit.RemoteRefusal as error:
            # The scheduler knows numbers; a domain may have several vcoprocs.
            words = f"vcoproc {vcoproc.name}: {error}"
            raise grpc_kit.RemoteRefusal(error.reason, words, error.metadata) from error

    def _tell_coproc(self, step: CoprocStep) -> None:
        if isinstance(step, AttachVcoproc):
            self._ask_coproc(step.vcoproc.coproc, "AttachVcoproc", self._attach(step))
            return
        number = step.vcoproc_id
        match step:
            case DetachVcoproc():
                detach = pb.DetachVcoprocRequest(
                    vcoproc_id=number, deadline_us=_LEAVE_US, moved=step.moved
                )
                self._ask_coproc(step.coproc, "DetachVcoproc", detach, _LEAVE_WAIT_NS)
            case PauseVcoproc():
                pause = pb.PauseVcoprocRequest(vcoproc_id=number, deadline_us=_LEAVE_US)
                self._ask_coproc(step.coproc, "PauseVcoproc", pause, _LEAVE_WAIT_NS)
            case ResumeVcoproc():
                resume = pb.ResumeVcoprocRequest(vcoproc_id=number)
                self._ask_coproc(step.coproc, "ResumeVcoproc", resume)
            case SaveContext():
                self._save(step)
            case LoadContext():
                self._ask_coproc(
                    step.coproc, "RestoreVcoproc", self._load(step), limits.CONTEXT_TIMEOUT_NS
                )
            case _:
                assert_never(step)

    def _ask_coproc(
        self, name: str, method: str, request: Any, timeout_ns: int = limits.CALL_TIMEOUT_NS
    ) -> Any:
        stub = self._coproc_stub(name)
        return self._call(f"coproc {name}", getattr(stub, method), request, timeout_ns)

    def _save(self, step: SaveContext) -> None:
        stream = self._caller.stream(
            f"coproc {step.coproc}",
            self._coproc_stub(step.coproc).SaveVcoproc,
            pb.SaveVcoprocRequest(vcoproc_id=step.vcoproc_id, moving=step.moving),
            timeout_ns=limits.CONTEXT_TIMEOUT_NS,
        )
        pieces = (chunk.data for chunk in stream)
        self._memory.write(step.file_name, pieces, limits.CONTEXT_BYTES_MAX)

    def _load(self, step: LoadContext) -> Iterator[pb.RestoreVcoprocRequest]:
        yield pb.RestoreVcoprocRequest(vcoproc_id=step.vcoproc_id)
        for piece in self._memory.read(step.file_name):
            yield pb.RestoreVcoprocRequest(data=piece)

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
            paused=step.paused,
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
        answer = self._ask_router(self._router.ListLines, pb.ListLinesRequest())
        lines: dict[int, tuple[LineNow, ...]] = {}
        for line in answer.lines:
            # A level is said again by its coproc; an edge that was taken and not ended, by nobody.
            pending = not line.level and (line.pending or line.active)
            now = LineNow(line.line, pending, not line.enabled)
            lines[line.vcoproc_id] = (*lines.get(line.vcoproc_id, ()), now)
        return RouterView(
            frozenset({*answer.domids, *(line.domid for line in answer.lines)}),
            {line.vcoproc_id: line.coproc for line in answer.lines},
            frozenset(answer.paused_domids),
            lines,
        )

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        """See `ports.Services.coproc`."""
        answer = self._ask_coproc(name, "GetStatus", pb.GetStatusRequest(), timeout_ns)
        return CoprocView(
            answer.current_vcoproc_id,
            answer.switch_count,
            tuple(
                (each.vcoproc_id, coproc_state(each, answer.current_vcoproc_id))
                for each in answer.vcoprocs
            ),
            frozenset(each.vcoproc_id for each in answer.vcoprocs if each.paused),
            {each.vcoproc_id: each.name for each in answer.vcoprocs},
        )


def _map_lines(step: MapLines) -> pb.MapLinesRequest:
    vcoproc = step.vcoproc
    pending = {each.line for each in step.now if each.pending}
    masked = {each.line for each in step.now if each.masked}
    return pb.MapLinesRequest(
        domid=vcoproc.domid,
        vcoproc_id=vcoproc.vcoproc_id,
        coproc=vcoproc.coproc,
        lines=[
            pb.MappedLine(
                line=line.index,
                irq=line.irq,
                level=line.level,
                pending=line.index in pending,
                masked=line.index in masked,
            )
            for line in vcoproc.lines
        ],
    )
