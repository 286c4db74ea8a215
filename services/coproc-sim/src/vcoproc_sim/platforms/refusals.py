"""How `vcoproc,refuse` refuses: a distribution of times, from the properties of its node.

Integers only, and a generator of its own, so that the same seed gives the same refusals everywhere.
The properties and their ranges: docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vcoproc.config.platform_params import (
    REFUSAL_AT,
    REFUSAL_KINDS,
    REFUSAL_US_MAX,
    WRAPPED_DEFAULT,
)
from vcoproc.errors import InvalidArgument
from vcoproc.limits import US

_MASK_64: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E37_79B9_7F4A_7C15
FOREVER_NS: Final = 1 << 62
"""A refusal that does not end by itself: a hang, or a job whose end is not known."""


class SplitMix64:
    """Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK_64

    def next(self) -> int:
        """64 bits."""
        self._state = self._state + _GAMMA & _MASK_64
        mixed = self._state
        mixed = (mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9 & _MASK_64
        mixed = (mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB & _MASK_64
        return mixed ^ mixed >> 31

    def below(self, bound: int) -> int:
        """0 to `bound` - 1; uneven by less than `bound` / 2**64."""
        return self.next() * bound >> 64


def bounded_pareto(uniform: int, low: int, high: int) -> int:
    """A value from `low` (1 or more) to `high`, by inversion of the distribution function.

    Bounded Pareto with exponent 1: P(X > x) falls as 1 / x. Half of the values are less than twice
    `low` (if `high` is far), and yet the rare long ones take most of the time: the mean is
    low * high * ln(high / low) / (high - low).

    Args:
        uniform: 64 bits.
    """
    return (low * high << 64) // ((high << 64) - uniform * (high - low))


@dataclass(frozen=True, slots=True)
class RefusalPlan:
    """What is to be refused, and for how long.

    kind: one of `REFUSAL_KINDS`. percent: of the switches; the others are not refused. contexts:
    whose, by the order in which they were created, from 1; empty: everybody's. saves: a save can
    be forced.
    """

    wraps: str = WRAPPED_DEFAULT
    kind: str = "never"
    min_ns: int = 0
    max_ns: int = 0
    percent: int = 100
    seed: int = 1
    at_out: bool = True
    at_in: bool = False
    contexts: frozenset[int] = frozenset()
    saves: bool = False

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> RefusalPlan:
        """From the properties of the node, as `PlatformConfig.parameters` has them.

        Raises:
            InvalidArgument: one of them is impossible.
        """
        kind = _choice(parameters, "vcoproc,refusal", "never", REFUSAL_KINDS)
        at = _choice(parameters, "vcoproc,refusal-at", "out", REFUSAL_AT)
        times = _numbers(parameters, "vcoproc,refusal-us", REFUSAL_US_MAX)
        want = {"always": 1, "uniform": 2, "heavy-tail": 2}.get(kind, 0)
        if len(times) != want:
            raise InvalidArgument("vcoproc,refusal-us", f"{kind} takes {want} number(s)")
        low, high = (times[0], times[-1]) if times else (0, 0)
        if high < low or (kind == "heavy-tail" and low < 1):
            raise InvalidArgument("vcoproc,refusal-us", f"{low} to {high} is no range of {kind}")
        return cls(
            wraps=parameters.get("vcoproc,wraps", WRAPPED_DEFAULT),
            kind=kind,
            min_ns=low * US,
            max_ns=high * US,
            percent=_number(parameters, "vcoproc,refusal-percent", 100, 100),
            seed=_number(parameters, "vcoproc,refusal-seed", 1, _MASK_64),
            at_out=at in ("out", "both"),
            at_in=at in ("in", "both"),
            contexts=frozenset(_numbers(parameters, "vcoproc,refusal-contexts", 0xFFFF_FFFF)),
            saves="vcoproc,refusal-saves" in parameters,
        )

    def generator(self, context: int) -> SplitMix64:
        """Of one context, so that it does not depend on what the others do."""
        return SplitMix64(SplitMix64(self.seed + context * _GAMMA).next())

    def draw(self, generator: SplitMix64) -> int:
        """How long one switch is refused, in nanoseconds; 0: it is not."""
        if generator.below(100) >= self.percent:
            return 0
        match self.kind:
            case "always":
                return self.min_ns
            case "uniform":
                return self.min_ns + generator.below(self.max_ns - self.min_ns + 1)
            case "heavy-tail":
                return bounded_pareto(generator.next(), self.min_ns, self.max_ns)
            case "hang" | "job":
                return FOREVER_NS
            case _:
                return 0


def _choice(
    parameters: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]
) -> str:
    value = parameters.get(name, default)
    if value not in choices:
        raise InvalidArgument(name, f"{value[:40]!r} is not one of {', '.join(choices)}")
    return value


def _numbers(parameters: Mapping[str, str], name: str, high: int) -> list[int]:
    words = parameters.get(name, "").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 20 and int(word) <= high):
            raise InvalidArgument(name, f"{word[:40]!r} is no number up to {high}")
    return [int(word) for word in words]


def _number(parameters: Mapping[str, str], name: str, default: int, high: int) -> int:
    numbers = _numbers(parameters, name, high) if name in parameters else [default]
    if len(numbers) != 1:
        raise InvalidArgument(name, "must be one number")
    return numbers[0]
