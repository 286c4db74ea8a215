"""Virtual time: events in a heap, in an order that never depends on anything but the program."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

EVENTS_MAX: Final = 10_000_000
"""Events of one `run_until`; more means that something wakes itself for ever."""


class Timer:
    """A call that will be made. Give it to `VirtualClock.cancel`, or look at `due_ns`."""

    __slots__ = ("call", "due_ns")

    def __init__(self, due_ns: int, call: Callable[[], None] | None) -> None:
        self.due_ns = due_ns
        self.call = call
        """None: made or cancelled."""


class VirtualClock:
    """A clock that jumps from event to event.

    Events at the same time come in the order of their priority (lower first), then of their making.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._sequence = 0
        self._heap: list[tuple[int, int, int, Timer]] = []

    @property
    def now_ns(self) -> int:
        return self._now_ns

    def call_at(self, time_ns: int, call: Callable[[], None], *, priority: int = 0) -> Timer:
        """Calls later; a time that has passed means now, after what is due now already."""
        timer = Timer(max(time_ns, self._now_ns), call)
        self._sequence += 1
        heapq.heappush(self._heap, (timer.due_ns, priority, self._sequence, timer))
        return timer

    def call_after(self, delay_ns: int, call: Callable[[], None], *, priority: int = 0) -> Timer:
        assert delay_ns >= 0
        return self.call_at(self._now_ns + delay_ns, call, priority=priority)

    def cancel(self, timer: Timer | None) -> None:
        """Takes a call back; does nothing if it was made already."""
        if timer is not None:
            timer.call = None

    def next_ns(self) -> int | None:
        """When the next event is due; None: nothing will ever happen."""
        heap = self._heap
        while heap and heap[0][3].call is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def run_next(self) -> bool:
        """Makes the next call; False if there is none."""
        if self.next_ns() is None:
            return False
        due_ns, _priority, _sequence, timer = heapq.heappop(self._heap)
        call, timer.call = timer.call, None
        assert call is not None
        self._now_ns = due_ns
        call()
        return True

    def run_until(self, time_ns: int) -> None:
        """Makes every call that is due up to and including a time, and goes there."""
        for _ in range(EVENTS_MAX):
            due_ns = self.next_ns()
            if due_ns is None or due_ns > time_ns:
                self._now_ns = max(self._now_ns, time_ns)
                return
            self.run_next()
        raise AssertionError(f"more than {EVENTS_MAX} events until {time_ns} ns")

    def advance(self, delta_ns: int) -> None:
        self.run_until(self._now_ns + delta_ns)
