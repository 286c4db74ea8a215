"""Parts that several algorithms are made of: a queue, a budget, and who is on the coprocessor.

They are pure and hold nothing but what one policy gave them. Other distributions may use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from vcoproc.limits import SLICE_NS_MIN
from vcoproc_scheduler.policies.api import Usage

STALE_ENTRIES_SPARE = 64
"""Entries of the heap that may be void before it is made anew; so that small heaps never are."""


class KeyedQueue:
    """Vcoprocs in the order of a number; those with the same number in the order they came.

    A heap whose void entries are left in it until they come up: every operation is O(log n), spread
    over many calls.
    """

    __slots__ = ("_entries", "_heap", "_order")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int]] = []
        self._entries: dict[int, tuple[int, int, int]] = {}
        self._order = 0

    def __contains__(self, vcoproc_id: int) -> bool:
        return vcoproc_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, vcoproc_id: int, key: int) -> None:
        """Puts it behind all with the same key; one that was in the queue is moved."""
        self._order += 1
        entry = (key, self._order, vcoproc_id)
        self._entries[vcoproc_id] = entry
        heappush(self._heap, entry)
        if len(self._heap) > 2 * len(self._entries) + STALE_ENTRIES_SPARE:
            self._heap = list(self._entries.values())
            heapify(self._heap)

    def drop(self, vcoproc_id: int) -> None:
        """Takes it out, if it is there."""
        self._entries.pop(vcoproc_id, None)

    def first(self, but: int | None = None) -> tuple[int, int] | None:
        """Key and id of the first one that is not `but`; None when there is none."""
        top = self._top()
        if top is None or top[2] != but:
            return (top[0], top[2]) if top else None
        heappop(self._heap)
        second = self._top()
        heappush(self._heap, top)
        return (second[0], second[2]) if second else None

    def _top(self) -> tuple[int, int, int] | None:
        heap = self._heap
        while heap and self._entries.get(heap[0][2]) != heap[0]:
            heappop(heap)
        return heap[0] if heap else None


@dataclass(slots=True)
class Budget:
    """Time that a vcoproc may use, filled up in periods of the coproc's clock that begin at 0.

    quota_ns: what each period adds. carry_ns: how much of what was not used the next period keeps,
    at least SLICE_NS_MIN, since less than that cannot be granted. left_ns: negative when it owes.
    period: number of the period up to which this reckons; None: it has not begun.
    """

    quota_ns: int
    period_ns: int
    carry_ns: int = SLICE_NS_MIN
    left_ns: int = 0
    period: int | None = None

    def __post_init__(self) -> None:
        assert self.quota_ns > 0
        assert self.carry_ns >= SLICE_NS_MIN

    @property
    def left_in_all_ns(self) -> int:
        """What is left as far as it reckons."""
        return self.left_ns + (self.quota_ns if self.period is None else 0)

    def at(self, now_ns: int) -> int:
        """What will be left at a time if nothing is used until then."""
        if self.period is None:
            return self.left_in_all_ns
        periods = now_ns // self.period_ns - self.period
        if periods <= 0:
            return self.left_ns
        # So many single steps `left = min(left, carry) + quota` in one.
        return min(self.left_ns + periods * self.quota_ns, self.carry_ns + self.quota_ns)

    def advance(self, now_ns: int) -> int:
        """Reckons up to now; gives what is left."""
        self.left_ns = self.at(now_ns)
        self.period = max(now_ns // self.period_ns, self.period or 0)
        return self.left_ns

    def use(self, used_ns: int, now_ns: int) -> None:
        """Takes off what was used up to now, each period's part from that period."""
        late_ns = min(used_ns, now_ns % self.period_ns)
        if self.period is not None:
            self.left_ns -= used_ns - late_ns
        self.advance(now_ns)
        self.left_ns -= late_ns

    def after(self, used_ns: int, now_ns: int) -> int:
        """What will be left at a time if so much is used right before it."""
        late_ns = min(used_ns, now_ns % self.period_ns)
        trial = Budget(
            self.quota_ns,
            self.period_ns,
            self.carry_ns,
            self.left_ns - used_ns + late_ns,
            self.period,
        )
        return trial.at(now_ns) - late_ns

    def lasts_until_ns(self, since_ns: int) -> int | None:
        """When it is used up if all of the time from `since_ns` on is used; None: never."""
        if self.quota_ns >= self.period_ns:
            return None
        at_ns, left_ns = since_ns, self.at(since_ns)
        while True:
            next_ns = (at_ns // self.period_ns + 1) * self.period_ns
            if at_ns + left_ns < next_ns:
                return at_ns + max(0, left_ns)
            left_ns = min(left_ns - next_ns + at_ns, self.carry_ns) + self.quota_ns
            at_ns = next_ns

    def due_ns(self) -> int:
        """When there will be enough for the shortest slice again."""
        assert self.period is not None
        periods = -((self.left_ns - SLICE_NS_MIN) // self.quota_ns)
        return (self.period + max(1, periods)) * self.period_ns


class Resident:
    """Who is on the coprocessor, as the calls of the core tell it.

    id: it has not left, though it may be idle. since_ns: from when on it has not been charged; None
    while it does not run. planned_ns: its slice.
    """

    __slots__ = ("id", "planned_ns", "since_ns")

    def __init__(self) -> None:
        self.id: int | None = None
        self.since_ns: int | None = None
        self.planned_ns = 0

    def begin(self, vcoproc_id: int, now_ns: int, planned_ns: int) -> None:
        self.id, self.since_ns, self.planned_ns = vcoproc_id, now_ns, planned_ns

    def wake(self, vcoproc_id: int, now_ns: int, planned_ns: int) -> bool:
        """Whether it runs on where it is, with a new slice and without `begin`."""
        if vcoproc_id != self.id:
            return False
        self.begin(vcoproc_id, now_ns, planned_ns)
        return True

    def sleep(self, vcoproc_id: int) -> None:
        if vcoproc_id == self.id:
            self.since_ns = None

    def forget(self, vcoproc_id: int) -> None:
        if vcoproc_id == self.id:
            self.id = self.since_ns = None

    def charge(self, usage: Usage) -> None:
        if usage.vcoproc_id != self.id:
            return
        if usage.left:
            self.forget(usage.vcoproc_id)
        elif self.since_ns is not None:
            self.since_ns = usage.now_ns

    def ran_ns(self, now_ns: int) -> int:
        """For how long it has run uncharged."""
        return 0 if self.since_ns is None else max(0, now_ns - self.since_ns)

    def overrun_ns(self, budget: Budget) -> int | None:
        """When it exceeds its budget before its slice is over; None: not.

        It can have a longer slice than its budget allows when it woke where it was: then it runs
        without being granted anything.
        """
        if self.since_ns is None:
            return None
        until_ns = budget.lasts_until_ns(self.since_ns)
        if until_ns is None or until_ns >= self.since_ns + self.planned_ns:
            return None
        return until_ns

    def goes_on(self, budget: Budget, slice_ns: int, now_ns: int) -> tuple[int | None, bool]:
        """What its budget leaves it after its slice.

        Returns:
            The length of another slice, or None for nothing; and whether it must leave at once.
        """
        overrun_ns = self.overrun_ns(budget)
        if overrun_ns is not None:
            return None, now_ns >= overrun_ns
        since_ns = now_ns if self.since_ns is None else self.since_ns
        end_ns = since_ns + self.planned_ns
        left_ns = budget.after(self.planned_ns, end_ns)
        return (min(slice_ns, left_ns) if left_ns >= SLICE_NS_MIN else None), False


def used_ns(usage: Usage) -> int:
    """Time of the coprocessor that a vcoproc has taken from all others."""
    return usage.run_ns + usage.refused_ns + usage.switch_ns
