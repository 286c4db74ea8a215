"""What the executor keeps of turns and of switches under way."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vcoproc.wire.messages import EndReason, Grant
from vcoproc_sim.vcoprocs import Vcoproc


class Phase(enum.Enum):
    EMPTY = "empty"
    """Nobody is on the hardware."""
    RESIDENT = "resident"
    """A context is on it, running or idle."""
    LEAVING = "leaving"
    """It was told to leave and refuses; it runs on meanwhile."""
    ENTERING = "entering"
    """The hardware is empty, and not ready for the next one."""
    FAILED = "failed"
    """The hardware cannot be switched any more."""


@dataclass(slots=True, eq=False)
class Turn:
    """One stay on the hardware.

    slice_began_ns: since when it runs, if it does; each time that it wakes, a new slice begins.
    ran_ns: time not idle, up to the last stop. slice_ns: cut short by until_ns, which is a time of
    the clock, 0 for none; granted_ns: not cut. refusal_ns: how long it may refuse to leave, if it
    leaves for nobody.
    """

    grant: int
    vcoproc: Vcoproc
    slice_ns: int
    slice_began_ns: int
    ran_ns: int = 0
    idle: bool = False
    instructions: int = 0
    granted_ns: int = 0
    until_ns: int = 0
    refusal_ns: int = 0

    @classmethod
    def begin(cls, grant: Grant, vcoproc: Vcoproc, now_ns: int) -> Turn:
        """What was granted, from now on."""
        turn = cls(grant.grant, vcoproc, grant.slice_ns, now_ns)
        turn.granted_ns = grant.slice_ns
        turn.until_ns = grant.until_ns
        turn.refusal_ns = grant.refusal_ns
        turn._cut(now_ns)
        return turn

    def is_over(self, now_ns: int) -> bool:
        """Whether it has to leave though nobody comes."""
        return self.until_ns != 0 and now_ns >= self.until_ns

    def _cut(self, now_ns: int) -> None:
        if self.until_ns:
            self.slice_ns = min(self.granted_ns, max(0, self.until_ns - now_ns))

    def stop(self, now_ns: int) -> None:
        """It does not run any more, for now or for good."""
        if not self.idle:
            self.idle = True
            self.ran_ns += now_ns - self.slice_began_ns

    def resume(self, now_ns: int) -> None:
        """It was idle and runs again, with a new slice: the one before ended with the sleep."""
        self.idle = False
        self.slice_began_ns = now_ns
        self._cut(now_ns)


@dataclass(slots=True, eq=False)
class Leaving:
    """A turn that was told to leave and refuses.

    since_ns: when it was told. deadline_ns: when it is forced. retry_at_ns: when it is asked again.
    drain_at_ns: when it is told to finish what it does and begin nothing, if that comes first.
    """

    turn: Turn
    end: EndReason
    since_ns: int
    deadline_ns: int
    retry_at_ns: int = 0
    refusals: int = 0
    drain_at_ns: int | None = None
    draining: bool = False

    @property
    def due_ns(self) -> int:
        due_ns = min(self.retry_at_ns, self.deadline_ns)
        if self.draining or self.drain_at_ns is None:
            return due_ns
        return min(due_ns, self.drain_at_ns)


@dataclass(slots=True, eq=False)
class Entering:
    """The empty hardware refuses to take a vcoproc in, which pays for it: nobody else runs.

    grant: the last one for it. since_ns: when that was tried first. deadline_ns: when the grant is
    dropped. retry_at_ns: as in `Leaving`. refusals: how often the hardware said busy.
    """

    grant: Grant
    since_ns: int
    deadline_ns: int
    retry_at_ns: int = 0
    refusals: int = 0

    @property
    def due_ns(self) -> int:
        return min(self.retry_at_ns, self.deadline_ns)


@dataclass(frozen=True, slots=True)
class Left:
    """A turn that is over. ended_ns: when it was told to leave; then it refused, then was saved."""

    turn: Turn
    end: EndReason
    ended_ns: int
    refused_ns: int = 0
    refusals: int = 0
    forced: bool = False
    save_ns: int = 0

    @property
    def left_ns(self) -> int:
        """Since when the hardware is free."""
        return self.ended_ns + self.refused_ns + self.save_ns


@dataclass(frozen=True, slots=True)
class Entered:
    """A turn that has begun, right after the two phases of the switch.

    refused_ns, refusals: how long and how often the hardware refused it, right before those phases.
    """

    turn: Turn
    mmu_ns: int = 0
    restore_ns: int = 0
    refused_ns: int = 0
    refusals: int = 0
