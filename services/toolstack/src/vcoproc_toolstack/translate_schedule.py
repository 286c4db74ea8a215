"""Between proto messages and records, as far as schedules are concerned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import name_problem
from vcoproc.config.problems import parameter_name
from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.schedule_changes import Scheduled
from vcoproc_toolstack.schedules import (
    Algorithm,
    Analysis,
    Assumptions,
    Decision,
    VcoprocSchedule,
    Wish,
    check_slice_us,
)
from vcoproc_toolstack.translate import parse_name, vcoproc_state

_PARAMETERS_MAX: Final = 256
"""In one map of a request; more than any algorithm has."""
_ASSUMED_NS_MAX: Final = 1000 * limits.S
"""Of a time that an analysis is to reckon with."""


# --- requests -------------------------------------------------------------------------------------


def read_wish(request: api.SetScheduleRequest) -> Wish:
    """Raises: InvalidArgument."""
    if request.algorithm and (why := name_problem(request.algorithm)):
        raise InvalidArgument("algorithm", f"the name {why}")
    if len(request.vcoprocs) > limits.VCOPROCS_KNOWN_MAX:
        why = f"are {len(request.vcoprocs)}, at most {limits.VCOPROCS_KNOWN_MAX}"
        raise InvalidArgument("vcoprocs", why)
    vcoprocs: dict[str, Mapping[str, int]] = {}
    for each in request.vcoprocs:
        parse_name("vcoprocs.vcoproc", each.vcoproc, "domains", "vcoprocs")
        if each.vcoproc in vcoprocs:
            raise InvalidArgument("vcoprocs", f"{each.vcoproc} is named twice")
        vcoprocs[each.vcoproc] = read_parameters("vcoprocs.parameters", each.parameters)
    return Wish(
        algorithm=request.algorithm,
        slice_ns=check_slice_us(request.slice_us),
        parameters=read_parameters("parameters", request.parameters),
        vcoprocs=vcoprocs,
    )


def read_parameters(field: str, given: Mapping[str, int]) -> dict[str, int]:
    """Parameters whose names can be names; whether an algorithm has them is not known here.

    Raises:
        InvalidArgument: one cannot, or they are too many.
    """
    if len(given) > _PARAMETERS_MAX:
        raise InvalidArgument(field, f"are {len(given)}, at most {_PARAMETERS_MAX}")
    for name in sorted(given):
        if parameter_name(name) != name:
            raise InvalidArgument(field, f"{name[:80]!r} is no name of a parameter")
    return dict(given)


def read_assumptions(request: api.AnalyseScheduleRequest) -> Assumptions:
    """Raises: InvalidArgument."""
    for field in ("switch_ns", "refusal_ns", "work_ns"):
        if (value := getattr(request, field)) > _ASSUMED_NS_MAX:
            raise InvalidArgument(field, f"{value} is more than {_ASSUMED_NS_MAX}")
    return Assumptions(request.switch_ns, request.refusal_ns, request.work_ns)


# --- answers --------------------------------------------------------------------------------------


def algorithm_message(algorithm: Algorithm) -> api.Algorithm:
    return api.Algorithm(
        name=algorithm.name,
        description=algorithm.summary,
        parameters=[
            api.ParameterDescription(
                name=each.name,
                unit=each.unit,
                minimum=each.minimum,
                maximum=each.maximum,
                default_value=each.default,
                description=each.doc,
                per_coproc=each.per_coproc,
            )
            for each in algorithm.parameters
        ],
    )


def schedule_message(scheduled: Scheduled) -> api.Schedule:
    view = scheduled.view
    names = {number: each.resource for number, each in scheduled.vcoprocs.items()}
    wanted = scheduled.wanted.scheduler
    fallback = view.fallback
    if view.algorithm != wanted and not fallback:
        fallback = f"{wanted} was refused, see the events of coprocs/{scheduled.wanted.name}"
    return api.Schedule(
        coproc=f"coprocs/{scheduled.wanted.name}",
        algorithm=view.algorithm,
        slice_us=view.slice_ns // limits.US,
        parameters=view.parameters,
        # What nobody wants any more the repair takes away.
        vcoprocs=sorted(
            (
                _vcoproc_message(names[each.vcoproc_id], each)
                for each in view.vcoprocs
                if each.vcoproc_id in names
            ),
            key=lambda each: each.vcoproc,
        ),
        fallback=fallback,
        wanted_algorithm=wanted,
        overridden=scheduled.overridden,
        refusal_us=view.refusal_ns // limits.US,
        current_vcoproc=names.get(view.current, ""),
        switch_count=view.switch_count,
        fallback_count=view.fallback_count,
    )


def _vcoproc_message(name: str, schedule: VcoprocSchedule) -> api.VcoprocSchedule:
    message = api.VcoprocSchedule(
        vcoproc=name,
        parameters=schedule.parameters,
        state=vcoproc_state(schedule.state),
        longest_wait_ns=schedule.longest_wait_ns,
    )
    for part, record in (
        (message.accounting, schedule.accounting),
        (message.slices, schedule.slices),
        (message.refusals, schedule.refusals),
        (message.switch_in_refusals, schedule.switch_in_refusals),
    ):
        if record is None:
            continue
        for field in part.DESCRIPTOR.fields:
            if field.is_repeated:
                getattr(part, field.name).extend(getattr(record, field.name))
            else:
                setattr(part, field.name, getattr(record, field.name))
        part.SetInParent()  # all figures may be zero
    return message


def decision_message(
    decision: Decision, missed_count: int, name_of: Callable[[int], str]
) -> api.Decision:
    return api.Decision(
        number=decision.number,
        vcoproc=name_of(decision.vcoproc),
        algorithm=decision.algorithm,
        why=decision.why,
        slice_ns=decision.slice_ns,
        clock_ns=decision.clock_ns,
        current_vcoproc=name_of(decision.current),
        not_before_ns=decision.not_before_ns,
        until_ns=decision.until_ns,
        missed_count=missed_count,
    )


def analysis_message(
    coproc: str, analysis: Analysis, name_of: Callable[[int], str]
) -> api.ScheduleAnalysis:
    return api.ScheduleAnalysis(
        coproc=f"coprocs/{coproc}",
        algorithm=analysis.algorithm,
        switch_ns=analysis.switch_ns,
        refusal_ns=analysis.refusal_ns,
        work_ns=analysis.work_ns,
        switch_in_refusal_ns=analysis.switch_in_refusal_ns,
        observed_work_ns=analysis.observed_work_ns,
        vcoprocs=[
            api.VcoprocAnalysis(
                vcoproc=name_of(each.vcoproc_id),
                guaranteed_ppm=each.guaranteed_ppm,
                worst_wait_ns=each.worst_wait_ns,
                worst_response_ns=each.worst_response_ns,
                observed_wait_ns=each.observed_wait_ns,
                observed_response_ns=each.observed_response_ns,
                explanation=each.explanation,
            )
            for each in analysis.vcoprocs
        ],
    )
