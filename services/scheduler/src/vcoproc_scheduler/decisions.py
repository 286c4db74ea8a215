"""The newest decisions of a coproc, for those who read or follow them."""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from itertools import islice

from vcoproc.limits import DECISIONS_KEPT_MAX


class Why(enum.Enum):
    """What kind of decision it was."""

    IDLE = "IDLE"
    """The coprocessor is free for it."""
    SLICE = "SLICE"
    """After the present slice."""
    PREEMPT = "PREEMPT"
    """Now, or as soon as the current one has run for the least time."""
    RENEW = "RENEW"
    """One more slice for the current one."""
    VACATE = "VACATE"
    """The current one leaves for nobody."""
    WITHHELD = "WITHHELD"
    """Somebody waits and gets nothing."""
    REVOKE = "REVOKE"
    """What was decided before is taken back: the current one runs on."""


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """One decision.

    number: 1, 2, 3, ... clock_ns: the coproc's clock, as well as it is known; all times are of it.
    vcoproc: whose turn is next, 0 for nobody. current: who had the coprocessor. planned_ns,
    not_before_ns, until_ns: of the grant. grant: its number, 0 for none.
    """

    number: int
    clock_ns: int
    vcoproc: int
    current: int
    why: Why
    planned_ns: int
    not_before_ns: int
    until_ns: int
    grant: int
    algorithm: str


class DecisionRing:
    """Decisions with consecutive numbers."""

    __slots__ = ("_decisions", "last_number")

    def __init__(self, size: int = DECISIONS_KEPT_MAX) -> None:
        self.last_number = 0
        self._decisions: deque[DecisionMade] = deque(maxlen=size)

    def add(self, decision: DecisionMade) -> None:
        assert decision.number == self.last_number + 1
        self.last_number = decision.number
        self._decisions.append(decision)

    def after(self, number: int, count_max: int = 0) -> list[DecisionMade]:
        """Those with a higher number, oldest first; count_max: at most so many, 0 for all."""
        count = min(max(0, self.last_number - number), len(self._decisions))
        found = list(islice(reversed(self._decisions), count))[::-1]
        return found[:count_max] if count_max else found
