"""Integer statistics of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Times:
    """A sample of times. All 0 when there were none."""

    count: int
    p50_ns: int
    p99_ns: int
    max_ns: int


def percentile_ns(ordered: Sequence[int], percent: int) -> int:
    """The nearest-rank percentile of an ascending, non-empty sample."""
    assert ordered and 0 < percent <= 100
    rank = -(-len(ordered) * percent // 100)  # rounded up, counting from 1
    return ordered[rank - 1]


def times_of(sample: Sequence[int]) -> Times:
    """The statistics of a sample, in any order."""
    if not sample:
        return Times(0, 0, 0, 0)
    ordered = sorted(sample)
    return Times(len(ordered), percentile_ns(ordered, 50), percentile_ns(ordered, 99), ordered[-1])
