"""``credit``: shares in proportion to weights, with caps.

Theory:
    Each vcoproc has a virtual time: what it used of the coprocessor, divided by its weight. Used is
    all that it takes from others: running, refusing to leave, and being switched in and out. The
    queue's virtual time is the mean of those in it, by weight: who is before it has credit, who is
    after it is in debt, and in sum the queue owes nothing. Of those that are not in debt at the end
    of the present turn, the one whose next slice would be over first, in virtual time, is next; so
    each one's time stays within about a slice of its share. Source: EEVDF (Stoica, Abdel-Wahab
    1995), whose mean is exact here, since integers do not overflow; names, ranges and defaults from
    Xen's credit scheduler.
    Who falls asleep in debt stays in the queue until the others have caught up. Who falls asleep
    with credit leaves it, and brings the same credit back: not more, since nobody earns while
    asleep, and all sleepers together keep no more than a slice, the latest first. Everybody else
    begins at the queue's virtual time. So whoever sleeps and wakes, and however fast, is never
    ahead of its share by more than the turn it has just had.
    A cap is a budget for each period. With it used up, a vcoproc is withheld until the next period
    even if the coprocessor is empty; the queue takes it for a sleeper.
Invariants:
    All credits and debts cancel each other out, what sleepers are owed included. As long as nobody
    is added, removed or changed, no virtual time ever goes back. `credit_bounds` rests on both.
Parameters:
    weight of a vcoproc: 1..65535, default 256. cap of a vcoproc: %, 0..100, default 0: none.
    cap_period_us of the coproc: us, 10000..1000000, default 30000.
Cost: O(log n) for each call. A deadline only while somebody is withheld.
Limits: a wake does not preempt: it waits for the end of one slice, also of one that has yet to be
    switched in. A cap holds for each period to within SLICE_NS_MIN and the refusals and lateness of
    the last turn, which the next one pays.
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
from vcoproc_scheduler.policies.eligible_queue import EligibleQueue
from vcoproc_scheduler.policies.parts import Budget, KeyedQueue, Resident, used_ns

SCALE: Final = 1 << 24
"""Virtual time of one ns at weight 1: so much that rounding costs less than 0.01 ns a charge."""
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
    """One vcoproc. virtual: what it used, in SCALE-ths of a ns, divided by its weight. queued: the
    mean counts it. owed: credit that it brings back, in SCALE-ths of a ns."""

    __slots__ = ("awake", "budget", "owed", "queued", "run_ns", "virtual", "weight")

    def __init__(self, weight: int, budget: Budget | None) -> None:
        self.weight = weight
        self.budget = budget
        self.virtual = 0
        self.awake = False
        self.queued = False
        self.owed = 0
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
        self._waiting = EligibleQueue()  # those that want to run and do not; in virtual time
        self._debtors = KeyedQueue()  # asleep, but in the queue; by virtual time
        self._creditors = KeyedQueue()  # asleep and owed something; in the order they fell asleep
        self._withheld = KeyedQueue()  # by the time when the cap allows it again
        self._resident = Resident()
        self._ran_ns = 0  # of the resident, at the last call but `pick`
        self._virtual = 0  # of the queue
        self._weights = 0  # of all in the queue
        self._used = 0  # sum of weight times virtual time of all in the queue
        self._owed = 0  # sum of what sleepers are owed
        self._asked_ns = 0  # when `pick` was asked last
        self._chosen: int | None = None  # for the free coprocessor; it has not begun yet

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._period_ns = config.parameters["cap_period_us"] * US

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        budget = None
        if cap := parameters["cap"]:
            budget = Budget(self._period_ns * cap // 100, self._period_ns)
        self._units[vcoproc_id] = Unit(parameters["weight"], budget)

    def remove(self, vcoproc_id: int) -> None:
        unit = self._units[vcoproc_id]
        self._take_out(vcoproc_id)
        self._lapse(vcoproc_id, unit.owed)
        if unit.queued:
            self._leave_queue(unit)
        # Not forgotten: one that changes is removed and added where it is, and may wake there.
        self._resident.sleep(vcoproc_id)
        del self._units[vcoproc_id]

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        self._units[vcoproc_id].awake = True
        self._resident.wake(vcoproc_id, now_ns, self._slice_ns)
        self._place(vcoproc_id, now_ns)
        self._reckon(now_ns)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        self._units[vcoproc_id].awake = False
        self._resident.sleep(vcoproc_id)
        self._place(vcoproc_id, now_ns)
        self._reckon(now_ns)

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._reckon(now_ns)
        slice_ns = self._slice_of(self._units[vcoproc_id], now_ns)
        self._chosen = None
        self._resident.begin(vcoproc_id, now_ns, slice_ns)
        self._place(vcoproc_id, now_ns)
        self._reckon(now_ns)

    def charge(self, usage: Usage) -> None:
        self._release(usage.now_ns)
        unit = self._units[usage.vcoproc_id]
        used = used_ns(usage)
        unit.run_ns += usage.run_ns
        if used and not unit.queued:
            self._join_queue(usage.vcoproc_id, unit)
        if unit.queued:
            virtual = unit.stretch(used)
            unit.virtual += virtual
            self._used += unit.weight * virtual
        if unit.budget is not None:
            unit.budget.use(used, usage.now_ns)
        self._resident.charge(usage)
        self._place(usage.vcoproc_id, usage.now_ns)
        self._reckon(usage.now_ns)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._asked_ns = now_ns
        self._release(now_ns)
        if current is None and self._chosen is not None and self._chosen in self._waiting:
            # A wake does not take its turn away: to be switched in may have cost it much already.
            return Decision(self._chosen, self._slice_of(self._units[self._chosen], now_ns))
        end = self._virtual_at_end()
        rank, vcoproc_id = self._best(end)
        self._chosen = vcoproc_id if current is None else None
        mine = self._units.get(current) if current is not None else None
        goes_on_ns: int | None = None  # the slice that the current one would have next
        overrun = False
        if mine is not None:
            assert current is not None
            goes_on_ns, overrun = self._goes_on(current, mine, now_ns)
            if vcoproc_id is None and mine.budget is None:
                return NOBODY
        if vcoproc_id is not None and (
            mine is None or goes_on_ns is None or rank <= self._rank_after(mine, end)
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
            vcoproc_id: {"run_ns": unit.run_ns, "credit_ns": self._credit(unit) // SCALE}
            | ({} if unit.budget is None else {"cap_left_ns": unit.budget.left_in_all_ns})
            for vcoproc_id, unit in self._units.items()
        }

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            unit = self._units.get(vcoproc_id)
            if unit is None:
                continue
            unit.run_ns = values.get("run_ns", 0)
            # Of another algorithm it may mean anything: a slice of debt each counts, and one of
            # credit of all together.
            credit_ns = values.get("credit_ns", 0)
            if not unit.queued and not unit.owed:
                debt_ns = min(max(0, -credit_ns), self._slice_ns)
                unit.virtual = self._virtual + unit.stretch(debt_ns)
                self._owe(vcoproc_id, credit_ns * SCALE)
            if unit.budget is not None and "cap_left_ns" in values:
                # A full quota is added at the first use: so only what it owes of it counts.
                owed_ns = values["cap_left_ns"] - unit.budget.quota_ns
                unit.budget.left_ns = max(-unit.budget.quota_ns, min(owed_ns, 0))

    # --- time -------------------------------------------------------------------------------------

    def _reckon(self, now_ns: int) -> None:
        """Brings everything up to now."""
        self._release(now_ns)
        self._advance(now_ns)

    def _release(self, now_ns: int) -> None:
        """Lets in whom the cap allows again, as of that time: whichever call does it."""
        while (first := self._withheld.first()) is not None and first[0] <= now_ns:
            self._advance(first[0])
            self._place(first[1], first[0])

    def _advance(self, to_ns: int) -> None:
        """Brings the queue's virtual time up to a time; sleepers that owe nothing leave it."""
        self._ran_ns = self._resident.ran_ns(to_ns)
        self._virtual = self._mean(self._ran_ns)
        while (first := self._debtors.first()) is not None and first[0] <= self._virtual:
            self._debtors.drop(first[1])
            self._keep_credit(first[1])
            self._virtual = self._mean(self._ran_ns)

    def _mean(self, ran_ns: int) -> int:
        """The queue's virtual time after the resident has run, uncharged, for so long."""
        if not self._weights:
            return self._virtual
        resident = self._resident
        if resident.since_ns is None or resident.id is None or not self._units[resident.id].queued:
            ran_ns = 0
        return (self._used - self._owed + ran_ns * SCALE) // self._weights

    def _virtual_at_end(self) -> int:
        """The queue's virtual time at the end of the present turn."""
        return self._mean(max(self._resident.planned_ns, self._ran_ns))

    def _credit(self, unit: Unit) -> int:
        """In SCALE-ths of a ns; negative: it owes."""
        if unit.queued:
            return unit.weight * (self._virtual - unit.virtual)
        return unit.owed

    # --- who is where -----------------------------------------------------------------------------

    def _runs(self, vcoproc_id: int) -> bool:
        return vcoproc_id == self._resident.id and self._resident.since_ns is not None

    def _place(self, vcoproc_id: int, now_ns: int) -> None:
        """Puts one where it belongs."""
        unit = self._units[vcoproc_id]
        self._take_out(vcoproc_id)
        wants, budget = unit.awake, unit.budget
        if wants and budget is not None and budget.advance(now_ns) < SLICE_NS_MIN:
            self._withheld.put(vcoproc_id, budget.due_ns())
            wants = False
        if wants and not unit.queued:
            self._join_queue(vcoproc_id, unit)
        if self._runs(vcoproc_id):
            return
        if wants:
            end = unit.virtual + unit.stretch(self._slice_ns)
            self._waiting.put(vcoproc_id, unit.virtual, end)
        elif unit.queued:
            self._debtors.put(vcoproc_id, unit.virtual)

    def _take_out(self, vcoproc_id: int) -> None:
        for queue in (self._waiting, self._debtors, self._withheld):
            queue.drop(vcoproc_id)

    def _join_queue(self, vcoproc_id: int, unit: Unit) -> None:
        """At the queue's virtual time, or before it by the credit that it brings back."""
        unit.virtual = max(unit.virtual, self._virtual) - unit.owed // unit.weight
        self._lapse(vcoproc_id, unit.owed)
        unit.queued = True
        self._weights += unit.weight
        self._used += unit.weight * unit.virtual

    def _leave_queue(self, unit: Unit) -> None:
        unit.queued = False
        self._weights -= unit.weight
        self._used -= unit.weight * unit.virtual
        if not self._weights:
            self._owe_at_most(0)  # nobody is left who could

    def _keep_credit(self, vcoproc_id: int) -> None:
        """A sleeper that is not in debt leaves the queue, which owes it its credit from now on."""
        unit = self._units[vcoproc_id]
        credit = self._credit(unit)
        self._leave_queue(unit)
        if self._weights:
            self._owe(vcoproc_id, credit)

    def _owe(self, vcoproc_id: int, credit: int) -> None:
        most = self._slice_ns * SCALE
        if credit > 0:
            self._units[vcoproc_id].owed = min(credit, most)
            self._owed += min(credit, most)
            self._creditors.put(vcoproc_id, 0)
        self._owe_at_most(most)

    def _owe_at_most(self, most: int) -> None:
        while self._owed > most and (first := self._creditors.first()) is not None:
            self._lapse(first[1], min(self._owed - most, self._units[first[1]].owed))

    def _lapse(self, vcoproc_id: int, credit: int) -> None:
        """So much of what a sleeper is owed is owed no longer."""
        unit = self._units[vcoproc_id]
        unit.owed -= credit
        self._owed -= credit
        if not unit.owed:
            self._creditors.drop(vcoproc_id)

    # --- decisions --------------------------------------------------------------------------------

    def _best(self, at: int) -> tuple[tuple[bool, int], int | None]:
        """Rank and id of who waits and is next at a virtual time. A lower rank is better."""
        if (first := self._waiting.first_end(at)) is not None:
            return (False, first[0]), first[1]
        if (first := self._waiting.first_start()) is not None:
            return (True, first[0]), first[1]
        return (True, 0), None

    def _rank_after(self, unit: Unit, at: int) -> tuple[bool, int]:
        """The running one's rank at the end of its slice."""
        virtual = unit.virtual + unit.stretch(max(self._resident.planned_ns, self._ran_ns))
        if virtual <= at:
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
