"""The scheduler's views as messages of the control plane."""

from __future__ import annotations

import inspect
import time
from typing import Final

from vcoproc.api.v1 import toolstack_pb2
from vcoproc.internal.v1 import control_pb2
from vcoproc_scheduler.accounting import AccountView, TurnEnded, Used
from vcoproc_scheduler.analysis import Guarantee
from vcoproc_scheduler.decisions import DecisionMade
from vcoproc_scheduler.events import (
    CoprocView,
    FellBack,
    LostParameter,
    ScheduleView,
    VcoprocView,
)
from vcoproc_scheduler.figures import REFUSAL_BOUNDS_US, RefusalsView, SlicesView
from vcoproc_scheduler.policies.api import Policy, Scope
from vcoproc_scheduler.policy_guard import descriptions

_BOOT_NS: Final = time.time_ns() - time.monotonic_ns()
"""Unix time when the monotonic clock was 0. Reckoned once, so that a notice keeps its time."""


def coproc(view: CoprocView) -> control_pb2.CoprocAccount:
    return control_pb2.CoprocAccount(
        coproc=view.coproc,
        online=view.online,
        current_vcoproc_id=view.current,
        switch_count=view.switches,
        algorithm=view.algorithm,
        vcoprocs=[
            control_pb2.VcoprocAccount(
                vcoproc_id=each.vcoproc,
                run_state=each.run_state,
                accounting=accounting(each.account),
                refusal_count=each.account.refusals.count,
            )
            for each in view.vcoprocs
        ],
    )


def accounting(account: AccountView) -> toolstack_pb2.Accounting:
    return toolstack_pb2.Accounting(
        run_ns=account.run_ns,
        wait_ns=account.wait_ns,
        refused_ns=account.refused_ns,
        overtime_ns=account.overtime_ns,
        switch_ns=account.switch_ns,
        switch_count=account.switches,
        wake_count=account.wakes,
        instruction_count=account.instructions,
    )


def used(accounting: toolstack_pb2.Accounting) -> Used:
    """What such figures say of other coprocs; all 0 when they are absent."""
    return Used(
        run_ns=accounting.run_ns,
        wait_ns=accounting.wait_ns,
        switch_ns=accounting.switch_ns,
        refused_ns=accounting.refused_ns,
        overtime_ns=accounting.overtime_ns,
        instructions=accounting.instruction_count,
        wakes=accounting.wake_count,
        switches=accounting.switch_count,
    )


def turn(ended: TurnEnded) -> control_pb2.Turn:
    return control_pb2.Turn(
        vcoproc_id=ended.vcoproc,
        began_ns=ended.began_ns,
        ended_ns=ended.ended_ns,
        planned_ns=ended.planned_ns,
        end=ended.end,
        refused_ns=ended.refused_ns,
        save_ns=ended.save_ns,
        mmu_ns=ended.mmu_ns,
        restore_ns=ended.restore_ns,
    )


def lost(parameter: LostParameter) -> control_pb2.LostParameter:
    return control_pb2.LostParameter(
        vcoproc_id=parameter.vcoproc, name=parameter.name, value=parameter.value
    )


def schedule(view: ScheduleView) -> control_pb2.GetScheduleResponse:
    return control_pb2.GetScheduleResponse(
        coproc=view.coproc.coproc,
        online=view.coproc.online,
        current_vcoproc_id=view.coproc.current,
        switch_count=view.coproc.switches,
        algorithm=view.coproc.algorithm,
        wanted_algorithm=view.wanted.algorithm,
        slice_ns=view.wanted.slice_ns,
        refusal_ns=view.wanted.refusal_ns,
        parameters=view.wanted.parameters,
        vcoprocs=[_vcoproc(view, each) for each in view.coproc.vcoprocs],
        fallback=fell_back(view.fallback) if view.fallback is not None else None,
        fallback_count=view.fallback_count,
        refusal_bounds_us=REFUSAL_BOUNDS_US,
        clock_ns=view.clock_ns,
        last_decision_number=view.last_decision,
        switch_max_ns=view.switch_max_ns,
    )


def _vcoproc(view: ScheduleView, each: VcoprocView) -> control_pb2.VcoprocSchedule:
    return control_pb2.VcoprocSchedule(
        vcoproc_id=each.vcoproc,
        run_state=each.run_state,
        parameters=view.parameters[each.vcoproc],
        accounting=accounting(each.account),
        slices=_slices(each.account.slices),
        refusals=_refusals(each.account.refusals),
        switch_in_refusals=_refusals(each.account.switch_in_refusals),
        sleep_ns=each.account.sleep_ns,
        fault_ns=each.account.fault_ns,
        wait_max_ns=each.account.wait_max_ns,
    )


def _slices(view: SlicesView) -> control_pb2.Slices:
    return control_pb2.Slices(
        count=view.count,
        planned_ns=view.planned_ns,
        actual_ns=view.actual_ns,
        full_count=view.full_count,
        error_ns=view.error_ns,
        error_max_ns=view.error_max_ns,
    )


def _refusals(view: RefusalsView) -> control_pb2.Refusals:
    return control_pb2.Refusals(
        count=view.count,
        busy_count=view.busy_count,
        forced_count=view.forced_count,
        total_ns=view.total_ns,
        max_ns=view.max_ns,
        counts=view.counts,
        given_up_count=view.given_up_count,
    )


def fell_back(notice: FellBack) -> control_pb2.FellBack:
    return control_pb2.FellBack(
        algorithm=notice.algorithm,
        why=notice.why,
        clock_ns=max(0, notice.clock_ns),
        time_ns=max(0, _BOOT_NS + notice.now_ns),
    )


def algorithm(name: str, policy: type[Policy]) -> control_pb2.Algorithm:
    module = inspect.getmodule(policy)
    text = (module.__doc__ if module is not None else None) or policy.__doc__ or ""
    return control_pb2.Algorithm(
        name=name,
        # By convention the text begins with the name, which the field beside has already.
        summary=text.strip().partition("\n")[0].removeprefix(f"``{name}``: "),
        parameters=[
            control_pb2.AlgorithmParameter(
                name=each.name,
                per_vcoproc=each.scope is Scope.VCOPROC,
                unit=each.unit,
                minimum=each.minimum,
                maximum=each.maximum,
                default_value=each.default,
                doc=each.doc,
            )
            for each in descriptions(policy)
        ],
    )


def guarantee(found: Guarantee) -> control_pb2.VcoprocAnalysis:
    return control_pb2.VcoprocAnalysis(
        vcoproc_id=found.vcoproc,
        guaranteed_ppm=found.bounds.share_ppm or 0,
        worst_wait_ns=found.bounds.wait_ns or 0,
        observed_wait_ns=found.observed_wait_ns,
        worst_response_ns=found.bounds.response_ns or 0,
        observed_response_ns=found.observed_response_ns,
        explanation=found.bounds.note,
    )


def decision(made: DecisionMade) -> control_pb2.Decision:
    return control_pb2.Decision(
        number=made.number,
        clock_ns=max(0, made.clock_ns),
        vcoproc_id=made.vcoproc,
        current_vcoproc_id=made.current,
        why=made.why.value,
        planned_ns=made.planned_ns,
        not_before_ns=made.not_before_ns,
        until_ns=made.until_ns,
        grant=made.grant,
        algorithm=made.algorithm,
    )
