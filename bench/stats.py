"""Statistics over rounds in which a subject and its floor were measured in turn.

A machine drifts by a factor of two from minute to minute, so only what was measured side by side is
compared: one ratio for each round, and the median of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` (1 to 100) per cent of the values do not exceed.

    The nearest rank: always one of the values, nothing is made up between two of them.

    Raises:
        ValueError: there are no values, or no such percentile.
    """
    if not values:
        raise ValueError("no values")
    if not 1 <= percent <= 100:
        raise ValueError(f"percentile {percent} is not between 1 and 100")
    rank = -(-len(values) * percent // 100)
    return sorted(values)[rank - 1]


def median(values: Sequence[float]) -> float:
    """The middle value; the lower one of two. Raises: ValueError without values."""
    return percentile(values, 50)


@dataclass(slots=True)
class Series:
    """Samples of one thing, round by round."""

    rounds: list[list[float]] = field(default_factory=list)

    def add_round(self, samples: Sequence[float]) -> None:
        """Raises: ValueError without samples."""
        if not samples:
            raise ValueError("a round without samples")
        self.rounds.append(list(samples))

    @property
    def samples(self) -> list[float]:
        return [sample for samples in self.rounds for sample in samples]

    @property
    def medians(self) -> list[float]:
        """Of each round."""
        return [median(samples) for samples in self.rounds]

    @property
    def p50(self) -> float:
        return percentile(self.samples, 50)

    @property
    def p99(self) -> float:
        return percentile(self.samples, 99)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median, smallest and largest of the rounds' ratios."""

    value: float
    low: float
    high: float


def ratio(subject: Series, floor: Series) -> Ratio:
    """How many times its floor the subject is, by the medians of each pair of rounds.

    Raises:
        ValueError: there are no rounds, or not as many of the one as of the other.
    """
    if len(subject.rounds) != len(floor.rounds):
        raise ValueError(f"{len(subject.rounds)} rounds beside {len(floor.rounds)}")
    ratios = [a / b for a, b in zip(subject.medians, floor.medians, strict=True)]
    return Ratio(median(ratios), min(ratios), max(ratios))
