"""Distributions that an account keeps: slices planned against actual, and refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vcoproc.limits import SWITCH_DEADLINE_NS, US

REFUSAL_BOUNDS_US: Final = tuple(1 << power for power in range(20))
"""A refusal belongs to the first bound that it is less than: 1 us, 2 us, 4 us, ..."""

assert REFUSAL_BOUNDS_US[-1] * US > SWITCH_DEADLINE_NS, "more is only the forced switch itself"


@dataclass(frozen=True, slots=True)
class SlicesView:
    """count: slices that ended; planned_ns, actual_ns: how long they were to be and were.

    full_count: those that ended because they were over, with the next grant there in time.
    error_ns, error_max_ns: difference of planned and actual of these, in all and the largest.
    """

    count: int
    planned_ns: int
    actual_ns: int
    full_count: int
    error_ns: int
    error_max_ns: int


class Slices:
    """Planned against actual length of the slices of one vcoproc."""

    __slots__ = ("_actual_ns", "_count", "_error_max_ns", "_error_ns", "_full_count", "_planned_ns")

    def __init__(self) -> None:
        self._count = self._planned_ns = self._actual_ns = 0
        self._full_count = self._error_ns = self._error_max_ns = 0

    def add(self, planned_ns: int, actual_ns: int, *, full: bool) -> None:
        """full: nothing but its end ended it, and the scheduler had spoken in time."""
        self._count += 1
        self._planned_ns += planned_ns
        self._actual_ns += actual_ns
        if full:
            error_ns = abs(actual_ns - planned_ns)
            self._full_count += 1
            self._error_ns += error_ns
            self._error_max_ns = max(self._error_max_ns, error_ns)

    def view(self) -> SlicesView:
        return SlicesView(
            self._count,
            self._planned_ns,
            self._actual_ns,
            self._full_count,
            self._error_ns,
            self._error_max_ns,
        )


@dataclass(frozen=True, slots=True)
class RefusalsView:
    """count: switches that were refused. busy_count: how often the coprocessor said busy.

    forced_count: refusals to leave that ended by force. given_up_count: refusals to be taken in
    that lasted until their bound. counts: how many of which length, by REFUSAL_BOUNDS_US, and those
    beyond the last bound.
    """

    count: int
    busy_count: int
    forced_count: int
    given_up_count: int
    total_ns: int
    max_ns: int
    counts: tuple[int, ...]


class Refusals:
    """How one vcoproc refused to leave, or was refused when it was to be taken in."""

    __slots__ = (
        "_busy_count",
        "_counts",
        "_forced_count",
        "_given_up_count",
        "_max_ns",
        "_total_ns",
    )

    def __init__(self) -> None:
        self._counts = [0] * (len(REFUSAL_BOUNDS_US) + 1)
        self._busy_count = self._forced_count = self._given_up_count = 0
        self._total_ns = self._max_ns = 0

    def add(
        self, refused_ns: int, busy_count: int, *, forced: bool = False, given_up: bool = False
    ) -> None:
        # The number of bits of a length in us is the place of the first power of two above it.
        self._counts[min((refused_ns // US).bit_length(), len(REFUSAL_BOUNDS_US))] += 1
        self._busy_count += busy_count
        self._forced_count += forced
        self._given_up_count += given_up
        self._total_ns += refused_ns
        self._max_ns = max(self._max_ns, refused_ns)

    def view(self) -> RefusalsView:
        return RefusalsView(
            sum(self._counts),
            self._busy_count,
            self._forced_count,
            self._given_up_count,
            self._total_ns,
            self._max_ns,
            tuple(self._counts),
        )
