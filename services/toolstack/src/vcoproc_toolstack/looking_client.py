"""The other services over gRPC, as far as they are only looked at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from vcoproc.errors import NotFound, PeerLost, VcoprocError
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc_toolstack.calls import Caller, Pending
from vcoproc_toolstack.looking import CoprocCounts, LineStatus, Sight
from vcoproc_toolstack.records import CoprocAccount, VcoprocState
from vcoproc_toolstack.scheduler_client import schedule_view, vcoproc_status
from vcoproc_toolstack.steps import IRQ_ROUTER, SCHEDULER

_LINES: Final = pb.ListLinesRequest()


class GrpcLooking:
    """Implements `looking.Looking`.

    Args:
        coproc_stub: gives the stub of a coproc; raises PeerLost when nobody has leased it.
    """

    def __init__(
        self,
        caller: Caller,
        scheduler: rpc.SchedulerControlServiceStub,
        router: rpc.IrqControlServiceStub,
        coproc_stub: Callable[[str], rpc.CoprocSimServiceStub],
    ) -> None:
        self._caller = caller
        self._scheduler = scheduler
        self._router = router
        self._coproc_stub = coproc_stub

    def look(
        self, *, schedules: Collection[str], coprocs: Collection[str], timeout_ns: int
    ) -> Sight:
        """See `looking.Looking.look`."""
        # All are asked before the first answer is waited for.
        answers = _Answers()
        accounts = self._caller.start(
            SCHEDULER, self._scheduler.ListAccounts, pb.ListAccountsRequest(), timeout_ns
        )
        lines = self._caller.start(IRQ_ROUTER, self._router.ListLines, _LINES, timeout_ns)
        of_schedules = {
            name: self._caller.start(
                SCHEDULER,
                self._scheduler.GetSchedule,
                pb.GetScheduleRequest(coproc=name),
                timeout_ns,
            )
            for name in schedules
        }
        of_coprocs = self._ask_coprocs(coprocs, timeout_ns)
        told = answers.of(accounts)
        listed = answers.of(lines)
        return Sight(
            accounts=None if told is None else to_accounts(told),
            schedules={
                name: schedule_view(answer)
                for name, pending in of_schedules.items()
                if (answer := answers.of(pending)) is not None
            },
            coprocs={
                name: _counts(answer)
                for name, pending in of_coprocs.items()
                if (answer := answers.of(pending)) is not None
            },
            lines=None if listed is None else to_lines(listed.lines),
            gaps=answers.gaps(),
        )

    def _ask_coprocs(self, names: Iterable[str], timeout_ns: int) -> dict[str, Pending]:
        asked = {}
        for name in names:
            try:
                stub = self._coproc_stub(name)
            except PeerLost:
                continue
            asked[name] = self._caller.start(
                f"coproc {name}", stub.GetStatus, pb.GetStatusRequest(), timeout_ns
            )
        return asked

    def lines(self, timeout_ns: int) -> tuple[LineStatus, ...]:
        """See `looking.Looking.lines`."""
        answer = self._caller.call(IRQ_ROUTER, self._router.ListLines, _LINES, timeout_ns)
        return to_lines(answer.lines)


class _Answers:
    """Takes answers, and notes once of each service why there was none."""

    def __init__(self) -> None:
        self._gaps: dict[str, str] = {}

    def of(self, pending: Pending) -> Any:
        """The answer; None when there is none."""
        try:
            return pending.result()
        except VcoprocError as error:
            # A coproc that the scheduler has not been told of yet is no gap.
            if error.reason != NotFound.reason:
                self._gaps.setdefault(pending.who, str(error).removeprefix(f"{pending.who} "))
            return None

    def gaps(self) -> tuple[str, ...]:
        return tuple(f"{who}: {why}" for who, why in sorted(self._gaps.items()))


def to_accounts(answer: pb.ListAccountsResponse) -> tuple[CoprocAccount, ...]:
    """What the scheduler holds."""
    return tuple(
        CoprocAccount(
            coproc=coproc.coproc,
            current=coproc.current_vcoproc_id,
            switch_count=coproc.switch_count,
            vcoprocs=tuple((each.vcoproc_id, vcoproc_status(each)) for each in coproc.vcoprocs),
            algorithm=coproc.algorithm,
        )
        for coproc in answer.coprocs
    )


def to_lines(lines: Iterable[pb.LineStatus]) -> tuple[LineStatus, ...]:
    """What the irq-router holds."""
    return tuple(
        LineStatus(
            vcoproc_id=line.vcoproc_id,
            index=line.line,
            irq=line.irq,
            level=line.level,
            high=line.high,
            pending=line.pending,
            active=line.active,
            enabled=line.enabled,
            raised_count=line.raised_count,
            injected_count=line.injected_count,
            merged_count=line.merged_count,
        )
        for line in lines
    )


def _counts(answer: pb.CoprocStatus) -> CoprocCounts:
    return CoprocCounts(
        current=answer.current_vcoproc_id,
        switch_count=answer.switch_count,
        trap_count=answer.trap_count,
        states={
            each.vcoproc_id: coproc_state(each, answer.current_vcoproc_id)
            for each in answer.vcoprocs
        },
        trap_counts={each.vcoproc_id: each.trap_count for each in answer.vcoprocs},
    )


def coproc_state(status: pb.VcoprocStatus, current: int) -> VcoprocState:
    """The state as far as a coproc-sim knows it, without the scheduler."""
    if status.faulted:
        return VcoprocState.FAULTED
    if not status.runnable:
        return VcoprocState.SLEEPING
    return VcoprocState.RUNNING if status.vcoproc_id == current else VcoprocState.WAITING
