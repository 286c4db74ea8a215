"""What `edf` can promise: its parameters and the arithmetic of admission, in integers and exact.

Theory: see `edf`. Pure functions; the analysis of guarantees uses them too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from vcoproc.limits import SLICE_NS_MAX, SLICE_NS_MIN, SWITCH_DEADLINE_NS, US
from vcoproc_scheduler.policies.api import Parameter, Scope

SWITCHES_PER_PERIOD: Final = 3
"""Reserved for each vcoproc: to it and away from it, which take the two halves of one or, where
one half is all of it, two; and what leaving and coming back costs whom it displaces."""

PARAMETERS: Final = (
    Parameter(
        name="period_us",
        scope=Scope.VCOPROC,
        unit="us",
        minimum=SLICE_NS_MIN // US,
        maximum=SLICE_NS_MAX // US,
        default=10_000,
        doc="Its budget is filled up once in this time.",
    ),
    Parameter(
        name="budget_us",
        scope=Scope.VCOPROC,
        unit="us",
        minimum=SLICE_NS_MIN // US,
        maximum=SLICE_NS_MAX // US,
        default=4_000,
        doc="Time that it is guaranteed in each period; at most the period.",
    ),
    Parameter(
        name="extratime",
        scope=Scope.VCOPROC,
        unit="",
        minimum=0,
        maximum=1,
        default=1,
        doc="1: beyond its budget it has what nobody with budget wants.",
    ),
    Parameter(
        name="switch_cost_us",
        scope=Scope.COPROC,
        unit="us",
        minimum=0,
        maximum=SWITCH_DEADLINE_NS // US,
        default=0,
        doc="Longest switch, two messages and a burst in it, that the guarantees reckon with.",
    ),
    Parameter(
        name="refusal_us",
        scope=Scope.COPROC,
        unit="us",
        minimum=0,
        maximum=2 * SWITCH_DEADLINE_NS // US,
        default=0,
        doc="Longest refusals of a turn, to be taken in and to leave together, "
        "that the guarantees reckon with.",
    ),
)


class Reservation(NamedTuple):
    """What one vcoproc is promised."""

    budget_ns: int
    period_ns: int
    extratime: bool = False


def reservation(parameters: Mapping[str, int]) -> Reservation:
    """What the parameters of a vcoproc ask for."""
    return Reservation(
        budget_ns=parameters["budget_us"] * US,
        period_ns=parameters["period_us"] * US,
        extratime=bool(parameters["extratime"]),
    )


def guaranteed(wanted: Sequence[Reservation], switch_ns: int = 0, refusal_ns: int = 0) -> bool:
    """Whether all of them get their budget in each period, whatever the others do."""
    ordered = sorted(wanted, key=lambda each: each.period_ns)
    if not ordered:
        return True
    cost_ns = SWITCHES_PER_PERIOD * switch_ns + refusal_ns
    block_ns = switch_ns + refusal_ns
    one = math.lcm(*(each.period_ns for each in ordered))  # the load 1, so that all is in integers
    extra = any(each.extratime for each in ordered)
    load = 0
    for each in ordered:
        load += (each.budget_ns + cost_ns) * (one // each.period_ns)
        blocked = extra or each.period_ns < ordered[-1].period_ns
        if load + (block_ns * (one // each.period_ns) if blocked else 0) > one:
            return False
    return True


def largest_budget_us(
    others: Sequence[Reservation], wanted: Reservation, switch_ns: int = 0, refusal_ns: int = 0
) -> int:
    """The most that fits beside the others with this period, at most what is wanted; 0: nothing."""

    def fits(budget_us: int) -> bool:
        trial = wanted._replace(budget_ns=budget_us * US)
        return guaranteed([*others, trial], switch_ns, refusal_ns)

    low_us, high_us = 0, wanted.budget_ns // US + 1
    while high_us - low_us > 1:
        half_us = (low_us + high_us) // 2
        if fits(half_us):
            low_us = half_us
        else:
            high_us = half_us
    return low_us
