"""How long one vcoproc took: from a wake until it had run for so long, at the longest.

Theory of operation:
    A job is what a vcoproc does from a wake until it sleeps. How much work somebody will ask about
    is not known in advance, so the longest response is kept for each of WORK_STEPS_NS. While it
    runs, what it has waited in all since the wake stands still: so the time at which a job passed a
    step follows from the end of the stretch in which it ran. A job that ends, or waits, between two
    steps counts for the next one, with what it has run. A job with more work is never done before
    one with less, so the longest response for some work is the longest of all steps up to it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from vcoproc.limits import US

WORK_STEPS_NS: Final = (
    *(digit * 10**power * US for power in range(1, 9) for digit in range(1, 10)),
    10**9 * US,
)
"""10 us, 20 us, ... 90 us, 100 us, 200 us, ... 1000 s: round numbers are what people ask about."""


class Responses:
    """Of one vcoproc. Times are of its coproc's clock."""

    __slots__ = ("_asleep", "_longest_ns", "_ran_ns", "_since_ns")

    def __init__(self) -> None:
        self._longest_ns = [0] * len(WORK_STEPS_NS)
        self._since_ns: int | None = None
        """When the present job began, or the last one; None: it is not watched."""
        self._ran_ns = 0
        """For how long it has run in that job."""
        self._asleep = True

    def reset(self) -> None:
        """Forgets all, the present job too."""
        self._longest_ns = [0] * len(WORK_STEPS_NS)
        self._since_ns = None

    def ignore(self) -> None:
        """The rest of the present job says nothing."""
        self._since_ns = None

    def wake(self, at_ns: int, *, watched: bool) -> None:
        """A job begins, if none is under way."""
        if self._asleep:
            self._asleep = False
            self._since_ns = at_ns if watched else None
            self._ran_ns = 0

    def go_on(self) -> None:
        """The job is under way that was taken to be over."""
        self._asleep = False

    def sleep(self) -> None:
        """The job is over."""
        self._asleep = True

    def ran(self, for_ns: int, until_ns: int) -> None:
        """It ran until then, for so long."""
        if self._since_ns is not None:
            _pass(self._longest_ns, self._since_ns, self._ran_ns, for_ns, until_ns)
            self._ran_ns += for_ns

    def longest_ns(self, work_ns: int, *, for_ns: int = 0, until_ns: int | None = None) -> int:
        """The longest response for so much work, rounded down to a step; 0: none was observed.

        Args:
            for_ns, until_ns: the present job counts too, until then; since the last `ran` it has
                run for so long.
        """
        longest_ns = self._longest_ns
        if until_ns is not None and self._since_ns is not None and not self._asleep:
            longest_ns = longest_ns.copy()
            _pass(longest_ns, self._since_ns, self._ran_ns, for_ns, until_ns)
        return max(longest_ns[: bisect_right(WORK_STEPS_NS, work_ns)], default=0)


def work_step_ns(work_ns: int) -> int:
    """The work that responses are known of: rounded down to a step; 0: less than all of them."""
    place = bisect_right(WORK_STEPS_NS, work_ns)
    return WORK_STEPS_NS[place - 1] if place else 0


def _pass(longest_ns: list[int], since_ns: int, ran_ns: int, for_ns: int, until_ns: int) -> None:
    """A job that began then, and had run for `ran_ns`, has run for `for_ns` more at `until_ns`."""
    first = bisect_right(WORK_STEPS_NS, ran_ns)
    ran_ns += for_ns
    waited_ns = until_ns - since_ns - ran_ns
    end = bisect_right(WORK_STEPS_NS, ran_ns)
    for place in range(first, end):
        response_ns = waited_ns + WORK_STEPS_NS[place]
        if response_ns > longest_ns[place]:
            longest_ns[place] = response_ns
    if end < len(longest_ns):
        longest_ns[end] = max(longest_ns[end], waited_ns + ran_ns)
