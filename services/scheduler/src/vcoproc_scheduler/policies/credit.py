"""``credit``: shares in proportion to weights, with caps.

Theory:
    Each vcoproc has a virtual time: what it used of the coprocessor, divided by its weight. Used is
    all that it takes from others: running, refusing to leave, and being switched in and out. The
    queue's virtual time is the mean of those in it, by weight. Of those that are not ahead of it,
    the one whose next slice would be over first, in virtual time, is next; so each one's time stays
    within about a slice of its share. The present one is reckoned as if its slice were used up
    already. Source: EEVDF (Stoica, Abdel-Wahab 1995), whose mean is exact here, since integers do
    not overflow; names, ranges and defaults from Xen's credit scheduler.
    Who sleeps keeps its place, but not for ever: a waking one is at most one slice of its own
    before the queue (credit), and DEBT_NS_MAX or two slices after it (debt). So nobody gains by
    sleeping and waking.
    A cap is a budget for each period. With it used up, a vcoproc is withheld until the next period
    even if the coprocessor is empty; its debt is carried, its credit is not.
Parameters: weight and cap of a vcoproc; cap_period_us of the coproc. See PARAMETERS.
Cost: O(log n) for each call. A deadline only while somebody is withheld.
Limits: a wake does not preempt: it waits for the end of one slice. A cap holds for each period to
    within SLICE_NS_MIN and the refusals and lateness of the last turn, which the next one pays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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

SCALE: Final = 1 << 24
"""Virtual time of one ns at weight 1: so much that rounding costs less than 0.01 ns a charge."""
DEBT_NS_MAX: Final = 1 * S
"""Debt that a sleeper keeps: more than the longest refusal, SWITCH_DEADLINE_NS."""
PARAMETERS: Final = (
    Parameter(
        name="weight",
        scope=Scope.VCOPROC,
        unit="",
        minimum=1,
        maximum=65535,
        default=256,
        doc="Its share, in proportion to the weights of the others that want to run.",
    ),
    Parameter(
        name="cap",
        scope=Scope.VCOPROC,
        unit="%",
        minimum=0,
        maximum=100,
        default=0,
        doc="Most of the coprocessor's time that it gets, even if nobody else wants it; 0: no cap.",
    ),
    Parameter(
        name="cap_period_us",
        scope=Scope.COPROC,
        unit="us",
        minimum=10 * MS // US,
        maximum=1 * S // US,
        default=30 * MS // US,
        doc="Caps are kept in each period of this length.",
    ),
)


class Unit:
    """One vcoproc. virtual: what it used, in SCALE-ths of a ns, divided by its weight."""

    __slots__ = ("awake", "budget", "run_ns", "virtual", "weight")

    def __init__(self, weight: int, budget: Budget | None, virtual: int) -> None:
        self.weight = weight
        self.budget = budget
        self.virtual = virtual
        self.awake = False
        self.run_ns = 0

    def stretch(self, time_ns: int) -> int:
        """A time in its virtual time."""
        return time_ns * SCALE // self.weight


class Credit(Policy):
    """Who is behind is next."""

    API_VERSION = 1
    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        self._slice_ns = 0
        self._period_ns = 0
        self._units: dict[int, Unit] = {}
        self._ready = KeyedQueue()  # not ahead at the end of the present turn; by deadline
        self._early = KeyedQueue()  # ahead; by virtual time
        self._withheld = KeyedQueue()  # by the time when the cap allows it again
        self._resident = Resident()
        self._ran_ns = 0  # of the resident, at the last call but `pick`
        self._virtual = 0  # of the queue
        self._virtual_end = 0  # and at the end of the present turn
        self._weights = 0  # of all in the queue
        self._used = 0  # sum of weight times virtual time of all in the queue
        self._asked_ns = 0  # when `pick` was asked last

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._period_ns = config.parameters["cap_period_us"] * US

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        budget = None
        if cap := parameters["cap"]:
            budget = Budget(self._period_ns * cap // 100, self._period_ns)
        self._units[vcoproc_id] = Unit(parameters["weight"], budget, self._virtual)

    def remove(self, vcoproc_id: int) -> None:
        self._leave_queue(vcoproc_id)
        del self._units[vcoproc_id]

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        unit = self._units[vcoproc_id]
        unit.awake = True
        unit.virtual = min(unit.virtual, self._virtual + unit.stretch(self._debt_ns_max))
        if self._resident.wake(vcoproc_id, now_ns, self._slice_ns):
            self._ran_ns = 0
        self._admit_rested(vcoproc_id, unit, now_ns)
        self._reckon(now_ns)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        self._units[vcoproc_id].awake = False
        self._resident.sleep(vcoproc_id)
        self._ran_ns = self._resident.ran_ns(now_ns)
        self._leave_queue(vcoproc_id)
        self._reckon(now_ns)

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        slice_ns = self._slice_of(self._units[vcoproc_id], now_ns)
        self._resident.begin(vcoproc_id, now_ns, slice_ns)
        self._ran_ns = 0
        self._reckon(now_ns)

    def charge(self, usage: Usage) -> None:
        self._release(usage.now_ns)
        unit = self._units[usage.vcoproc_id]
        used = used_ns(usage)
        self._leave_queue(usage.vcoproc_id)
        unit.run_ns += usage.run_ns
        unit.virtual += unit.stretch(used)
        if unit.budget is not None:
            unit.budget.use(used, usage.now_ns)
        self._resident.charge(usage)
        self._ran_ns = self._resident.ran_ns(usage.now_ns)
        if unit.awake:
            self._queue(usage.vcoproc_id, unit, usage.now_ns)
        self._reckon(usage.now_ns)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._asked_ns = now_ns
        self._release(now_ns)
        rank, vcoproc_id = self._best(current)
        mine = self._units.get(current) if current is not None else None
        goes_on_ns: int | None = None  # the slice that the current one would have next
        overrun = False
        if mine is not None:
            assert current is not None
            goes_on_ns, overrun = self._goes_on(current, mine, now_ns)
            if vcoproc_id is None and mine.budget is None:
                return NOBODY
        if vcoproc_id is not None and (
            mine is None or goes_on_ns is None or rank <= self._rank_after(mine)
        ):
            slice_ns = self._slice_of(self._units[vcoproc_id], now_ns)
            return Decision(vcoproc_id, slice_ns, preempt=overrun)
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
                "credit_ns": (self._virtual - unit.virtual) * unit.weight // SCALE,
            }
            | ({} if unit.budget is None else {"cap_left_ns": unit.budget.left_in_all_ns})
            for vcoproc_id, unit in self._units.items()
        }

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            unit = self._units.get(vcoproc_id)
            if unit is None:
                continue
            unit.run_ns = values.get("run_ns", 0)
            credit_ns = max(-self._debt_ns_max, min(values.get("credit_ns", 0), self._slice_ns))
            queued = self._queued(vcoproc_id)
            if queued:
                self._leave_queue(vcoproc_id)
            unit.virtual = self._virtual - unit.stretch(credit_ns)
            if queued:
                self._insert(vcoproc_id, unit)
            if unit.budget is not None and "cap_left_ns" in values:
                # A full quota is added at the first use: so only what it owes of it counts.
                owed_ns = values["cap_left_ns"] - unit.budget.quota_ns
                unit.budget.left_ns = max(-unit.budget.quota_ns, min(owed_ns, 0))

    # --- time -------------------------------------------------------------------------------------

    @property
    def _debt_ns_max(self) -> int:
        return max(DEBT_NS_MAX, 2 * self._slice_ns)

    def _reckon(self, now_ns: int) -> None:
        """Brings the queue's virtual time up to now."""
        self._release(now_ns)
        resident = self._resident
        self._ran_ns = resident.ran_ns(now_ns)
        if not self._weights:
            self._virtual_end = self._virtual
            return
        ran_ns = planned_ns = 0
        if resident.since_ns is not None and resident.id is not None and self._queued(resident.id):
            ran_ns, planned_ns = self._ran_ns, max(self._ran_ns, resident.planned_ns)
        self._virtual = (self._used + ran_ns * SCALE) // self._weights
        self._virtual_end = (self._used + planned_ns * SCALE) // self._weights
        while (first := self._early.first()) is not None and first[0] <= self._virtual_end:
            self._early.drop(first[1])
            self._ready.put(first[1], self._deadline(first[0], first[1]))

    def _release(self, now_ns: int) -> None:
        """Lets in whom the cap allows again. Whether `pick` or another call does it is the same:
        the queue's virtual time is that of the last call but `pick` either way."""
        while (first := self._withheld.first()) is not None and first[0] <= now_ns:
            vcoproc_id = first[1]
            self._withheld.drop(vcoproc_id)
            self._admit_rested(vcoproc_id, self._units[vcoproc_id], now_ns)

    def _admit_rested(self, vcoproc_id: int, unit: Unit, now_ns: int) -> None:
        """Puts one into a queue that has not used its time: it keeps a slice of credit."""
        unit.virtual = max(unit.virtual, self._virtual - unit.stretch(self._slice_ns))
        self._queue(vcoproc_id, unit, now_ns)

    def _queue(self, vcoproc_id: int, unit: Unit, now_ns: int) -> None:
        self._leave_queue(vcoproc_id)
        budget = unit.budget
        if budget is not None and budget.advance(now_ns) < SLICE_NS_MIN:
            self._withheld.put(vcoproc_id, budget.due_ns())
            return
        self._insert(vcoproc_id, unit)

    def _insert(self, vcoproc_id: int, unit: Unit) -> None:
        self._weights += unit.weight
        self._used += unit.weight * unit.virtual
        if unit.virtual <= self._virtual_end:
            self._ready.put(vcoproc_id, self._deadline(unit.virtual, vcoproc_id))
        else:
            self._early.put(vcoproc_id, unit.virtual)

    def _queued(self, vcoproc_id: int) -> bool:
        return vcoproc_id in self._ready or vcoproc_id in self._early

    def _leave_queue(self, vcoproc_id: int) -> None:
        if self._queued(vcoproc_id):
            unit = self._units[vcoproc_id]
            self._weights -= unit.weight
            self._used -= unit.weight * unit.virtual
        for queue in (self._ready, self._early, self._withheld):
            queue.drop(vcoproc_id)

    def _deadline(self, virtual: int, vcoproc_id: int) -> int:
        """When a slice from a virtual time on would be over, in virtual time."""
        return virtual + self._units[vcoproc_id].stretch(self._slice_ns)

    def _best(self, but: int | None) -> tuple[tuple[bool, int], int | None]:
        """Rank and id of who is next, not counting one. A lower rank is better."""
        if (first := self._ready.first(but)) is not None:
            return (False, first[0]), first[1]
        if (first := self._early.first(but)) is not None:
            return (True, first[0]), first[1]
        return (True, 0), None

    def _virtual_after(self, unit: Unit) -> int:
        """The running one's virtual time at the end of its slice."""
        return unit.virtual + unit.stretch(max(self._resident.planned_ns, self._ran_ns))

    def _rank_after(self, unit: Unit) -> tuple[bool, int]:
        """The running one's rank at the end of its slice."""
        virtual = self._virtual_after(unit)
        if virtual <= self._virtual_end:
            return False, virtual + unit.stretch(self._slice_ns)
        return True, virtual

    def _slice_of(self, unit: Unit, now_ns: int) -> int:
        if unit.budget is None:
            return self._slice_ns
        return max(SLICE_NS_MIN, min(self._slice_ns, unit.budget.advance(now_ns)))

    def _goes_on(self, vcoproc_id: int, unit: Unit, now_ns: int) -> tuple[int | None, bool]:
        """The length of another slice of the current one, None for nothing; and whether it must
        leave at once."""
        if unit.budget is None:
            return self._slice_ns, False
        if vcoproc_id in self._withheld:
            return None, True
        return self._resident.goes_on(unit.budget, self._slice_ns, now_ns)

    def _overrun_ns(self) -> int | None:
        resident = self._resident
        unit = self._units.get(resident.id) if resident.id is not None else None
        return resident.overrun_ns(unit.budget) if unit is not None and unit.budget else None
