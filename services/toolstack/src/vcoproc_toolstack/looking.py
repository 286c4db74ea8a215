"""What the other services hold, seen at about one time; and the door through which it is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from vcoproc_toolstack.records import CoprocAccount, VcoprocState
from vcoproc_toolstack.schedules import ScheduleView


@dataclass(frozen=True, slots=True)
class LineStatus:
    """An interrupt line as the irq-router has it; see the public API. index: in the platform."""

    vcoproc_id: int
    index: int
    irq: int
    level: bool
    high: bool
    pending: bool
    active: bool
    enabled: bool
    raised_count: int
    injected_count: int
    merged_count: int


@dataclass(frozen=True, slots=True)
class CoprocCounts:
    """What a coproc-sim has counted since it started. trap_counts: by number of the vcoproc."""

    current: int
    switch_count: int
    trap_count: int
    states: Mapping[int, VcoprocState]
    trap_counts: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen. accounts, lines: None when the scheduler, the irq-router did not answer.

    schedules: of the coprocs that the scheduler knows. coprocs: those that answered. gaps: who
    should have answered and did not, in words.
    """

    accounts: tuple[CoprocAccount, ...] | None
    schedules: Mapping[str, ScheduleView]
    coprocs: Mapping[str, CoprocCounts]
    lines: tuple[LineStatus, ...] | None
    gaps: tuple[str, ...]


class Looking(Protocol):
    """Looks at the other services, at all of them at once: nobody waits for one that hangs."""

    def look(
        self, *, schedules: Collection[str], coprocs: Collection[str], timeout_ns: int
    ) -> Sight:
        """Accounts and lines, and the schedules and counts of these coprocs.

        Takes no longer than the timeout. A coproc that nobody has leased is no gap.
        """

    def lines(self, timeout_ns: int) -> tuple[LineStatus, ...]:
        """All lines that the irq-router has.

        Raises:
            PeerError: it does not answer.
        """
