"""The scheduler over gRPC, as far as schedules are read and set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc_toolstack.calls import Caller, Stream
from vcoproc_toolstack.records import Accounting, VcoprocState, VcoprocStatus
from vcoproc_toolstack.schedules import (
    Algorithm,
    Analysis,
    Assumptions,
    Decision,
    Fallback,
    ParameterInfo,
    Refusals,
    ScheduleView,
    Slices,
    VcoprocAnalysis,
    VcoprocSchedule,
)
from vcoproc_toolstack.steps import SCHEDULER, SetCoproc

_RUN_STATES: Final = {
    "SLEEPING": VcoprocState.SLEEPING,
    "WAITING": VcoprocState.WAITING,
    # On its way: it does not run yet, and it still holds the hardware.
    "SWITCHING_IN": VcoprocState.WAITING,
    "RUNNING": VcoprocState.RUNNING,
    "SWITCHING_OUT": VcoprocState.RUNNING,
    "FAULTED": VcoprocState.FAULTED,
}


def vcoproc_status(account: pb.VcoprocAccount) -> VcoprocStatus:
    """How a vcoproc is, as the scheduler says."""
    state = _RUN_STATES.get(account.run_state, VcoprocState.UNKNOWN)
    return VcoprocStatus(state, _accounting(account.accounting), account.refusal_count)


def schedule_view(answer: pb.GetScheduleResponse) -> ScheduleView:
    """How a coproc is scheduled, as the scheduler says."""
    fallback = ""
    if answer.HasField("fallback") and answer.algorithm != answer.wanted_algorithm:
        fallback = f"{answer.fallback.algorithm} failed: {answer.fallback.why}"
    return ScheduleView(
        algorithm=answer.algorithm,
        wanted=answer.wanted_algorithm,
        slice_ns=answer.slice_ns,
        refusal_ns=answer.refusal_ns,
        parameters=dict(answer.parameters),
        vcoprocs=tuple(_vcoproc(each) for each in answer.vcoprocs),
        current=answer.current_vcoproc_id,
        switch_count=answer.switch_count,
        fallback=fallback,
        fallback_count=answer.fallback_count,
    )


class DecisionStream:
    """Decisions as they are made, each with the count of those before it that were missed."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[tuple[Decision, int]]:
        for answer in self._stream:
            missed = answer.missed_count
            for each in answer.decisions:
                yield _decision(each), missed
                missed = 0

    def cancel(self) -> None:
        self._stream.cancel()


class FallbackStream:
    """Fallbacks as they happen: first the last one of each coproc."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Fallback]:
        for answer in self._stream:
            told = answer.fallback
            yield Fallback(answer.coproc, told.algorithm, told.why, told.time_ns)

    def cancel(self) -> None:
        self._stream.cancel()


class GrpcScheduling:
    """Implements `ports.Scheduling`."""

    def __init__(self, caller: Caller, stub: rpc.SchedulerControlServiceStub) -> None:
        self._caller = caller
        self._stub = stub

    def _call(self, method: Any, request: Any) -> Any:
        return self._caller.call(SCHEDULER, method, request, limits.CALL_TIMEOUT_NS)

    def algorithms(self) -> tuple[Algorithm, ...]:
        """See `ports.Scheduling.algorithms`."""
        answer = self._call(self._stub.ListAlgorithms, pb.ListAlgorithmsRequest())
        return tuple(_algorithm(each) for each in answer.algorithms)

    def schedule(self, coproc: str) -> ScheduleView:
        """See `ports.Scheduling.schedule`."""
        request = pb.GetScheduleRequest(coproc=coproc)
        return schedule_view(self._call(self._stub.GetSchedule, request))

    def set_coproc(self, step: SetCoproc, *, restart: bool = False) -> None:
        """See `ports.Scheduling.set_coproc`."""
        coproc = step.coproc
        request = pb.SetCoprocRequest(
            coproc=coproc.name,
            algorithm=coproc.scheduler,
            slice_ns=coproc.slice_ns,
            refusal_ns=coproc.refusal_deadline_ns,
            parameters=dict(coproc.scheduler_params),
            restart=restart,
            vcoprocs=[
                pb.VcoprocParameters(vcoproc_id=number, parameters=dict(parameters))
                for number, parameters in step.vcoprocs
            ],
        )
        self._call(self._stub.SetCoproc, request)

    def set_parameters(self, coproc: str, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        """See `ports.Scheduling.set_parameters`."""
        request = pb.SetVcoprocParametersRequest(
            coproc=coproc, vcoproc_id=vcoproc_id, parameters=parameters
        )
        self._call(self._stub.SetVcoprocParameters, request)

    def decisions(self, coproc: str, after: int) -> list[Decision]:
        """See `ports.Scheduling.decisions`."""
        request = pb.ListDecisionsRequest(coproc=coproc, after_number=after)
        answer = self._call(self._stub.ListDecisions, request)
        return [_decision(each) for each in answer.decisions]

    def follow(self, coproc: str, after: int) -> DecisionStream:
        """See `ports.Scheduling.follow`."""
        request = pb.WatchDecisionsRequest(coproc=coproc, after_number=after)
        return DecisionStream(self._caller.stream(SCHEDULER, self._stub.WatchDecisions, request))

    def fallbacks(self) -> FallbackStream:
        """See `ports.Scheduling.fallbacks`."""
        request = pb.WatchFallbacksRequest()
        stream = self._caller.stream(SCHEDULER, self._stub.WatchFallbacks, request, wait=True)
        return FallbackStream(stream)

    def analyse(self, coproc: str, assumed: Assumptions) -> Analysis:
        """See `ports.Scheduling.analyse`."""
        request = pb.AnalyseScheduleRequest(
            coproc=coproc,
            switch_ns=assumed.switch_ns,
            refusal_ns=assumed.refusal_ns,
            work_ns=assumed.work_ns,
        )
        answer = self._call(self._stub.AnalyseSchedule, request)
        return Analysis(
            answer.algorithm,
            answer.switch_ns,
            answer.refusal_ns,
            answer.work_ns,
            tuple(
                VcoprocAnalysis(
                    each.vcoproc_id,
                    each.guaranteed_ppm,
                    each.worst_wait_ns,
                    each.observed_wait_ns,
                    each.explanation,
                    each.worst_response_ns,
                    each.observed_response_ns,
                )
                for each in answer.vcoprocs
            ),
            answer.switch_in_refusal_ns,
            answer.observed_work_ns,
        )


def _accounting(figures: api.Accounting) -> Accounting:
    return Accounting(
        run_ns=figures.run_ns,
        wait_ns=figures.wait_ns,
        refused_ns=figures.refused_ns,
        overtime_ns=figures.overtime_ns,
        switch_ns=figures.switch_ns,
        switch_count=figures.switch_count,
        wake_count=figures.wake_count,
        instruction_count=figures.instruction_count,
    )


def _algorithm(message: pb.Algorithm) -> Algorithm:
    return Algorithm(message.name, message.summary, tuple(_parameters(message.parameters)))


def _parameters(messages: Iterable[pb.AlgorithmParameter]) -> Iterator[ParameterInfo]:
    for each in messages:
        yield ParameterInfo(
            name=each.name,
            unit=each.unit,
            minimum=each.minimum,
            maximum=each.maximum,
            default=each.default_value,
            doc=each.doc,
            per_coproc=not each.per_vcoproc,
        )


def _vcoproc(message: pb.VcoprocSchedule) -> VcoprocSchedule:
    slices = message.slices
    return VcoprocSchedule(
        vcoproc_id=message.vcoproc_id,
        state=_RUN_STATES.get(message.run_state, VcoprocState.UNKNOWN),
        parameters=dict(message.parameters),
        accounting=_accounting(message.accounting),
        slices=Slices(
            slices.count,
            slices.planned_ns,
            slices.actual_ns,
            slices.full_count,
            slices.error_ns,
            slices.error_max_ns,
        ),
        refusals=_refusals(message.refusals),
        longest_wait_ns=message.wait_max_ns,
        switch_in_refusals=_refusals(message.switch_in_refusals),
    )


def _refusals(message: pb.Refusals) -> Refusals:
    return Refusals(
        refusal_count=message.count,
        busy_count=message.busy_count,
        forced_count=message.forced_count,
        given_up_count=message.given_up_count,
        total_ns=message.total_ns,
        longest_us=message.max_ns // limits.US,
        bucket_counts=tuple(message.counts),
    )


def _decision(message: pb.Decision) -> Decision:
    return Decision(
        number=message.number,
        vcoproc=message.vcoproc_id,
        current=message.current_vcoproc_id,
        algorithm=message.algorithm,
        why=message.why.lower(),
        slice_ns=message.planned_ns,
        clock_ns=message.clock_ns,
        not_before_ns=message.not_before_ns,
        until_ns=message.until_ns,
    )
