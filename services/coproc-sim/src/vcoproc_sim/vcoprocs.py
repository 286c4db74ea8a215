"""What a coproc-sim keeps of one vcoproc, and where its cores put what they have to say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from vcoproc.wire.messages import Message
from vcoproc_sim.platforms.api import ContextSpec

DETAIL_BYTES_MAX: Final = 1024
"""Of the wire's `DETAIL` fields."""
FORCED_CODE: Final = 16
"""FAULT_STATUS of a vcoproc that was forced off."""
COPROC_FAILED_CODE: Final = 0
"""In place of a FAULT_STATUS, when it is the coproc that has failed."""


def detail(text: str) -> str:
    """A text that fits a `DETAIL` field, whatever is in it."""
    return text.encode(errors="replace")[:DETAIL_BYTES_MAX].decode(errors="ignore")


@dataclass(slots=True)
class TrapRequest:
    """A request of a driver in the middle of its accesses.

    origin, request: who gets the answer, and what it answers. accesses: (is_write, place, offset,
    width_bytes, value). position: the next one to do. deadline_ns: when it is given up, if it has
    to wait: `limit_ns` after its arrival, so that one behind others waits no longer than they do.
    """

    origin: Any
    request: int
    accesses: tuple[tuple[bool, int, int, int, int], ...]
    answered: bool
    """Whether success is answered; a posted write's is not."""
    deadline_ns: int
    limit_ns: int
    position: int = 0
    values: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Vcoproc:
    """One vcoproc of this coproc.

    told_runnable: whether the scheduler believes that it wants to run; only `Notices` changes it.
    levels: each level line as the router knows it. replay: register writes, (index, value), for the
    next switch-in. held: requests that wait for it.
    """

    id: int
    name: str
    spec: ContextSpec
    levels: list[bool]
    replay: deque[tuple[int, int]] = field(default_factory=deque)
    held: deque[TrapRequest] = field(default_factory=deque)
    told_runnable: bool = False
    wake_at_ns: int | None = None
    """When a timer of the sleeping context expires."""
    timer_due: bool = False
    """It has expired and the context has not run since."""
    removing: bool = False
    """It is being destroyed; it leaves the hardware and does not come back."""
    moved: bool = False
    """With `removing`: it lives on elsewhere."""
    paused: bool = False
    """It leaves the hardware and does not come back before it is resumed."""
    saved: bool = False
    """It has been written down to go on elsewhere; no access is done here."""
    behind_ns: int = 0
    """How far its own clock, by which its timers go, is behind the coproc's."""
    timer_left_ns: int | None = None
    """While it stands still: how long its timer has still to go."""
    trap_count: int = 0
    instruction_count: int = 0
    _still_since_ns: int | None = None

    @property
    def shadow(self) -> list[int]:
        return self.spec.shadow

    # --- its clock --------------------------------------------------------------------------------

    @property
    def stands_still(self) -> bool:
        """It is paused and off the hardware: its clock stands."""
        return self._still_since_ns is not None

    @property
    def own_ns(self) -> int:
        """Its clock, while it stands still."""
        assert self._still_since_ns is not None
        return self._still_since_ns - self.behind_ns

    def stand_still(self, now_ns: int) -> None:
        """From now on its clock stands, if it does not already."""
        if self._still_since_ns is not None:
            return
        self._still_since_ns = now_ns
        if self.wake_at_ns is not None:
            self.timer_left_ns = max(0, self.wake_at_ns - now_ns)
            self.wake_at_ns = None

    def go_on(self, now_ns: int) -> None:
        """Its clock goes on from where it stood."""
        assert self._still_since_ns is not None
        self.behind_ns += now_ns - self._still_since_ns
        self._still_since_ns = None
        if self.timer_left_ns is not None:
            self.wake_at_ns = now_ns + self.timer_left_ns
            self.timer_left_ns = None


@dataclass(slots=True)
class FaultSeen:
    """For the toolstack. vcoproc_id 0: the coproc itself has failed."""

    vcoproc_id: int
    code: int
    address: int
    why: str


@dataclass(slots=True)
class Outbox:
    """Effects of the cores, in order. The shell sends and clears them after every step.

    replies: (origin, message), the origin being what the shell gave with the request: the driver's
    session, so that no answer reaches another one.
    """

    to_scheduler: list[Message] = field(default_factory=list)
    to_router: list[Message] = field(default_factory=list)
    replies: list[tuple[Any, Message]] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
