"""``fixed``: each vcoproc has its entitled share, no more and no less, whatever the others do.

Theory:
    Each vcoproc has a budget of `share_permille` of each period. Those that want to run and have
    some left take turns in one queue, a slice each; a vcoproc whose budget is used up is withheld
    until the next period, and the coprocessor stays empty if nobody else has any. Since the shares
    are at most 1000 in sum, whoever wants to run for a whole period gets all of its budget in it.
    Used is all that a vcoproc takes from others: running, refusing to leave, being switched in and
    out; so a refuser pays in its next periods. One that could not use its budget although it wanted
    to, because another refused, gets it in the next period.
    Source: deferrable servers (Strosnider, Lehoczky, Sha 1995), one for each vcoproc, all with the
    same period; the parameter is what GPU schedulers call an entitled or fixed share.
Parameters:
    share_permille of a vcoproc: permille, 1..1000, default 100.
    period_us of the coproc: us, 10000..1000000, default 100000.
Cost: O(log n) for each call. One deadline in each period while somebody is withheld.
Limits: not work conserving, on purpose. A share includes the switches that it takes: with the slice
    at least a hundred times as long as a switch, that is less than one percent of the share.
    The first period of a vcoproc counts as a whole one, even if a part of it is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vcoproc.errors import NotAdmitted
from vcoproc.limits import MS, SLICE_NS_MIN, US, S
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
)
from vcoproc_scheduler.policies.parts import Budget, KeyedQueue, Resident, used_ns

WHOLE: Final = 1000
PARAMETERS: Final = (
    Parameter(
        name="share_permille",
        scope=Scope.VCOPROC,
        unit="permille",
        minimum=1,
        maximum=WHOLE,
        default=100,
        doc="Its part of the coprocessor's time. All shares together are at most 1000.",
    ),
    Parameter(
        name="period_us",
        scope=Scope.COPROC,
        unit="us",
        minimum=10 * MS // US,
        maximum=1 * S // US,
        default=100 * MS // US,
        doc="Each vcoproc gets its share within each period of this length.",
    ),
)


class Unit:
    """One vcoproc."""

    __slots__ = ("awake", "budget", "run_ns", "share")

    def __init__(self, share: int, period_ns: int) -> None:
        self.share = share
        quota_ns = period_ns * share // WHOLE
        self.budget = Budget(quota_ns, period_ns)
        self.awake = False
        self.run_ns = 0

    def want(self, awake: bool, now_ns: int) -> None:
        """Budget that it did not want is lost; what it could not get is kept for a period."""
        self.budget.advance(now_ns)
        self.awake = awake
        self.budget.carry_ns = max(SLICE_NS_MIN, self.budget.quota_ns if awake else 0)


class Fixed(Policy):
    """To each its own."""

    API_VERSION = 1
    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        self._slice_ns = 0
        self._period_ns = 0
        self._shares = 0
        self._units: dict[int, Unit] = {}
        self._ready = KeyedQueue()  # first in, first out
        self._withheld = KeyedQueue()  # by the time when there is budget again
        self._resident = Resident()
        self._asked_ns = 0  # when `pick` was asked last

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._period_ns = config.parameters["period_us"] * US

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        share = parameters["share_permille"]
        own = self._units.get(vcoproc_id)
        free = WHOLE - self._shares + (own.share if own is not None else 0)
        if share > free:
            raise NotAdmitted(
                "share_permille",
                f"{share} is too much: the others have {WHOLE - free} of {WHOLE}; "
                + (f"at most {free} would fit" if free else "nothing is left"),
            )

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        unit = Unit(parameters["share_permille"], self._period_ns)
        self._units[vcoproc_id] = unit
        self._shares += unit.share

    def remove(self, vcoproc_id: int) -> None:
        self._shares -= self._units.pop(vcoproc_id).share
        self._ready.drop(vcoproc_id)
        self._withheld.drop(vcoproc_id)

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._release(now_ns)
        unit = self._units[vcoproc_id]
        unit.want(True, now_ns)
        self._resident.wake(vcoproc_id, now_ns, self._slice_ns)
        self._queue(vcoproc_id, unit, now_ns)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._release(now_ns)
        self._units[vcoproc_id].want(False, now_ns)
        self._resident.sleep(vcoproc_id)
        self._ready.drop(vcoproc_id)
        self._withheld.drop(vcoproc_id)

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._release(now_ns)
        slice_ns = self._slice_of(self._units[vcoproc_id], now_ns)
        self._resident.begin(vcoproc_id, now_ns, slice_ns)

    def charge(self, usage: Usage) -> None:
        self._release(usage.now_ns)
        unit = self._units[usage.vcoproc_id]
        unit.run_ns += usage.run_ns
        unit.budget.use(used_ns(usage), usage.now_ns)
        self._resident.charge(usage)
        if unit.awake:
            self._queue(usage.vcoproc_id, unit, usage.now_ns)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._asked_ns = now_ns
        self._release(now_ns)
        other = self._ready.first(but=current)
        mine = self._units.get(current) if current is not None else None
        goes_on_ns: int | None = None  # the slice that the current one would have next
        overrun = False
        if mine is not None:
            if current is not None and current in self._withheld:
                overrun = True
            else:
                goes_on_ns, overrun = self._resident.goes_on(mine.budget, self._slice_ns, now_ns)
        if other is not None:
            slice_ns = self._slice_of(self._units[other[1]], now_ns)
            return Decision(other[1], slice_ns, preempt=overrun)
        if mine is None:
            return NOBODY
        if goes_on_ns is None:
            return Decision(None, preempt=overrun, vacate=True)
        return Decision(current, goes_on_ns)

    def next_deadline_ns(self) -> int | None:
        first = self._withheld.first()
        deadlines = [first[0]] if first is not None else []
        overrun_ns = self._overrun_ns()
        if overrun_ns is not None and overrun_ns > self._asked_ns:
            deadlines.append(overrun_ns)
        return min(deadlines, default=None)

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {
            vcoproc_id: {
                "run_ns": unit.run_ns,
                # Budget is no claim on anybody's time but its own; what it owes is.
                "credit_ns": min(unit.budget.left_in_all_ns, 0),
                "share_left_ns": unit.budget.left_in_all_ns,
            }
            for vcoproc_id, unit in self._units.items()
        }

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            unit = self._units.get(vcoproc_id)
            if unit is None:
                continue
            unit.run_ns = values.get("run_ns", 0)
            quota_ns = unit.budget.quota_ns
            # A full quota is added at the first use: so only what it owes of it counts.
            left_ns = values.get("share_left_ns", values.get("credit_ns", 0) + quota_ns)
            unit.budget.left_ns = max(-2 * quota_ns, min(left_ns - quota_ns, 0))

    # --- budgets ----------------------------------------------------------------------------------

    def _release(self, now_ns: int) -> None:
        """Puts those into the queue who have got new budget, as if it had been done in time."""
        while (first := self._withheld.first()) is not None and first[0] <= now_ns:
            self._withheld.drop(first[1])
            self._queue(first[1], self._units[first[1]], now_ns)

    def _queue(self, vcoproc_id: int, unit: Unit, now_ns: int) -> None:
        if unit.budget.advance(now_ns) < SLICE_NS_MIN:
            self._ready.drop(vcoproc_id)
            self._withheld.put(vcoproc_id, unit.budget.due_ns())
        else:
            self._ready.put(vcoproc_id, 0)

    def _slice_of(self, unit: Unit, now_ns: int) -> int:
        return max(SLICE_NS_MIN, min(self._slice_ns, unit.budget.advance(now_ns)))

    def _overrun_ns(self) -> int | None:
        resident = self._resident
        unit = self._units.get(resident.id) if resident.id is not None else None
        return resident.overrun_ns(unit.budget) if unit is not None else None
