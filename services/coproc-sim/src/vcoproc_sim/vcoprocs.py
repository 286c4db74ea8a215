"""What a coproc-sim keeps of one vcoproc, and where its cores put what they have to say."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from vcoproc.wire.messages import Message

from vcoproc_sim.platforms.api import ContextSpec


@dataclass(slots=True)
class TrapRequest:
    """A request of a driver in the middle of its accesses.

    accesses: (is_write, place, offset, width_bytes, value). position: the next one to do.
    deadline_ns: when the access at `position` is given up; 0 while it is not held.
    """

    request: int
    accesses: tuple[tuple[bool, int, int, int, int], ...]
    answered: bool
    """Whether success is answered; a posted write's is not."""
    position: int = 0
    values: list[int] = field(default_factory=list)
    deadline_ns: int = 0


@dataclass(slots=True)
class Vcoproc:
    """One vcoproc of this coproc.

    told_runnable: what the scheduler was told last. levels: each level line as the router knows it.
    replay: register writes, (index, value), for the next switch-in. held: requests that wait for it.
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
    trap_count: int = 0
    instruction_count: int = 0

    @property
    def shadow(self) -> list[int]:
        return self.spec.shadow


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

    replies: (vcoproc id, message) for the driver of that vcoproc.
    """

    to_scheduler: list[Message] = field(default_factory=list)
    to_router: list[Message] = field(default_factory=list)
    replies: list[tuple[Hashable, Message]] = field(default_factory=list)
    faults: list[FaultSeen] = field(default_factory=list)
