"""``priority``: strict priorities, and an ageing bound so that nobody starves.

Theory:
    Whoever has the highest priority runs; those with the same take turns, a slice each. A wake of a
    higher priority preempts; the preempted one keeps its place and the rest of its slice, of which
    switches and refusals are part. Whoever has waited for `max_wait_us` has aged. A wait is over
    when one has run for a whole slice since it began: who is more important cannot starve anybody
    by letting him run for a moment now and then. The one that has waited longest gets what is
    missing to that ahead of all priorities, and keeps it to its end; then its wait is over. At most
    every other turn is an aged one while somebody who has not aged has a higher priority, so ageing
    never takes more than half of the coprocessor.
    Source: fixed-priority scheduling with round robin as POSIX's SCHED_RR, ageing as in textbooks.
Parameters:
    priority of a vcoproc: 0..255, default 128. A greater number is more important; nothing wraps
    around at the ends. max_wait_us of the coproc: us, 1000..60000000, default 500000.
Cost: O(log n) for each call: 256 queues, a bit for each that is not empty, and a heap for ageing.
Limits: of n that want to run, one waits for at most max_wait_us + 2 n slices + the switches and
    refusals meanwhile. While somebody has aged, a wake of a higher priority may wait for two
    slices. Equal shares are kept only within a priority, and not among the aged.
"""

from __future__ import annotations

from collections import OrderedDict
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
from vcoproc_scheduler.policies.parts import KeyedQueue, Resident, used_ns

PRIORITY_MAX: Final = 255
PARAMETERS: Final = (
    Parameter(
        name="priority",
        scope=Scope.VCOPROC,
        unit="",
        minimum=0,
        maximum=PRIORITY_MAX,
        default=128,
        doc="A greater number is more important.",
    ),
    Parameter(
        name="max_wait_us",
        scope=Scope.COPROC,
        unit="us",
        minimum=1 * MS // US,
        maximum=60 * S // US,
        default=500 * MS // US,
        doc="Whoever has waited so long gets a slice, whatever its priority is.",
    ),
)


class Unit:
    """One vcoproc.

    left_ns: of its slice, among those with its priority. since_ns: when its wait began. due_ns: how
    long it has yet to run until that is over.
    """

    __slots__ = ("awake", "due_ns", "left_ns", "priority", "run_ns", "since_ns")

    def __init__(self, priority: int, slice_ns: int) -> None:
        self.priority = priority
        self.left_ns = self.due_ns = slice_ns
        self.awake = False
        self.run_ns = self.since_ns = 0


class Priority(Policy):
    """The most important one, or the one that has waited too long."""

    API_VERSION = 1
    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        self._slice_ns = 0
        self._wait_ns_max = 0
        self._units: dict[int, Unit] = {}
        self._queues: list[OrderedDict[int, None]] = [
            OrderedDict() for _ in range(PRIORITY_MAX + 1)
        ]
        self._occupied = 0  # bit p: queue p has somebody
        self._waiting = KeyedQueue()  # by since when
        self._resident = Resident()
        self._aged_turn = False  # the present turn is an aged one
        self._asked_ns = 0  # when `pick` was asked last

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._wait_ns_max = config.parameters["max_wait_us"] * US

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._units[vcoproc_id] = Unit(parameters["priority"], self._slice_ns)

    def remove(self, vcoproc_id: int) -> None:
        self._leave_queue(vcoproc_id)
        del self._units[vcoproc_id]

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        unit = self._units[vcoproc_id]
        unit.awake = True
        unit.left_ns = unit.due_ns = self._slice_ns
        unit.since_ns = now_ns
        self._queues[unit.priority][vcoproc_id] = None
        self._occupied |= 1 << unit.priority
        if self._resident.wake(vcoproc_id, now_ns, self._slice_ns):
            self._aged_turn = False  # it has not waited for this
        else:
            self._waiting.put(vcoproc_id, now_ns)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._units[vcoproc_id].awake = False
        self._leave_queue(vcoproc_id)
        self._resident.sleep(vcoproc_id)

    def yield_(self, vcoproc_id: int, now_ns: int) -> None:
        unit = self._units[vcoproc_id]
        unit.left_ns = unit.due_ns = 0

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        before = self._resident.id
        if before is not None and before != vcoproc_id:
            # It left without a charge: the coproc was away meanwhile.
            gone = self._units.get(before)
            if gone is not None and gone.awake and before not in self._waiting:
                self._waiting.put(before, gone.since_ns)
        self._waiting.drop(vcoproc_id)
        unit = self._units[vcoproc_id]
        self._aged_turn = not self._aged_turn and self._is_aged(unit.since_ns, now_ns)
        self._resident.begin(vcoproc_id, now_ns, self._slice_ns)

    def planned(self, vcoproc_id: int, slice_ns: int | None) -> None:
        if slice_ns is not None and slice_ns < self._units[vcoproc_id].due_ns:
            self._aged_turn = False  # it was granted before it had aged

    def charge(self, usage: Usage) -> None:
        unit = self._units[usage.vcoproc_id]
        unit.run_ns += usage.run_ns
        unit.left_ns -= used_ns(usage)
        unit.due_ns -= usage.run_ns
        aged = self._aged_turn and usage.vcoproc_id == self._resident.id
        self._resident.charge(usage)
        if not usage.ended or not unit.awake:
            return
        if unit.due_ns <= 0 or aged:
            unit.due_ns, unit.since_ns = self._slice_ns, usage.now_ns
        if unit.left_ns < SLICE_NS_MIN:
            unit.left_ns = self._slice_ns
            self._queues[unit.priority].move_to_end(usage.vcoproc_id)
        else:
            # Its time is not over: it goes on where it was interrupted.
            self._queues[unit.priority].move_to_end(usage.vcoproc_id, last=False)
        if usage.left:
            self._waiting.put(usage.vcoproc_id, unit.since_ns)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._asked_ns = now_ns
        vcoproc_id = self._highest(current)
        mine = self._units.get(current) if current is not None else None
        if vcoproc_id is None:
            return NOBODY
        unit = self._units[vcoproc_id]
        aged_id = None if self._aged_turn else self._aged(now_ns, current)
        if aged_id is not None:
            aged = self._units[aged_id]
            preempt = mine is not None and aged.priority > mine.priority
            return Decision(aged_id, max(SLICE_NS_MIN, aged.due_ns), preempt=preempt)
        slice_ns = max(SLICE_NS_MIN, unit.left_ns)
        if mine is None or unit.priority == mine.priority:
            return Decision(vcoproc_id, slice_ns)
        if unit.priority > mine.priority:
            return Decision(vcoproc_id, slice_ns, preempt=not self._aged_turn)
        return Decision(current, self._slice_ns)

    def next_deadline_ns(self) -> int | None:
        first = self._waiting.first(but=self._resident.id)
        if first is None:
            return None
        aged_ns = first[0] + self._wait_ns_max
        # Once it has aged, it comes up at the end of the present slice.
        return aged_ns if aged_ns > self._asked_ns else None

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {vcoproc_id: {"run_ns": unit.run_ns} for vcoproc_id, unit in self._units.items()}

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            unit = self._units.get(vcoproc_id)
            if unit is not None:
                unit.run_ns = values.get("run_ns", 0)

    # --- queues -----------------------------------------------------------------------------------

    def _leave_queue(self, vcoproc_id: int) -> None:
        priority = self._units[vcoproc_id].priority
        queue = self._queues[priority]
        queue.pop(vcoproc_id, None)
        if not queue:
            self._occupied &= ~(1 << priority)
        self._waiting.drop(vcoproc_id)

    def _highest(self, but: int | None) -> int | None:
        """The first of the highest priority, not counting one."""
        occupied = self._occupied
        while occupied:  # twice at most: only one queue can be empty without `but`
            priority = occupied.bit_length() - 1
            for vcoproc_id in self._queues[priority]:  # the second at the latest
                if vcoproc_id != but:
                    return vcoproc_id
            occupied &= ~(1 << priority)
        return None

    def _aged(self, now_ns: int, but: int | None) -> int | None:
        """Who has waited longest, if that is too long."""
        first = self._waiting.first(but=but)
        return first[1] if first is not None and self._is_aged(first[0], now_ns) else None

    def _is_aged(self, since_ns: int, now_ns: int) -> bool:
        return now_ns - since_ns >= self._wait_ns_max
