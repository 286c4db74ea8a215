"""What control sees of one coproc."""

from __future__ import annotations

from dataclasses import replace

from vcoproc_scheduler.events import CoprocView, ScheduleView, VcoprocView
from vcoproc_scheduler.granting import Granting
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.turns import Turns
from vcoproc_scheduler.vcoprocs import Vcoprocs


def coproc_view(
    coproc: str, vcoprocs: Vcoprocs, policy: PolicySide, turns: Turns, clock_ns: int | None
) -> CoprocView:
    """clock_ns: up to when times reach; None while the coproc does not answer."""
    return CoprocView(
        coproc=coproc,
        online=vcoprocs.registered,
        current=vcoprocs.current,
        switches=turns.switch_count,
        algorithm=policy.name,
        vcoprocs=tuple(
            VcoprocView(each.id, each.machine.state.value, each.account.view(clock_ns))
            for each in vcoprocs
            if each.added
        ),
    )


def schedule_view(
    view: CoprocView, vcoprocs: Vcoprocs, policy: PolicySide, granting: Granting, turns: Turns
) -> ScheduleView:
    """How it is scheduled, without its clock; control must have set an algorithm."""
    assert policy.wanted is not None
    return ScheduleView(
        coproc=view,
        wanted=replace(policy.wanted, parameters=policy.resolve_coproc()),
        parameters={each.id: policy.resolve(each.parameters) for each in vcoprocs if each.added},
        fallback=policy.fallback,
        fallback_count=policy.fallback_count,
        clock_ns=0,
        last_decision=granting.ring.last_number,
        switch_max_ns=turns.switch_max_ns,
    )
