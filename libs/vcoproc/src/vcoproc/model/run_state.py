"""The run state of a vcoproc: every transition in one table, and the intents that it remembers.

Theory of operation:
    The scheduler hears what happened on the coprocessor after the fact, and says ahead of time what
    shall happen. So a state is what the scheduler knows: WAITING leads straight to RUNNING when a
    turn that was granted ahead began, and SWITCHING_IN and SWITCHING_OUT are seen only when a
    switch was ordered for now.
Invariants:
    A wake is never lost: where an event says "not runnable" and a wake came since, the outcome is
    WAITING. The price is at most one grant that comes to nothing, which the coproc reports.
Not handled:
    Whether a vcoproc is attached, added or removed: that is membership, kept by the scheduler.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vcoproc.errors import InvalidTransition


class RunState(enum.Enum):
    """Where a vcoproc is in its life on a coproc."""

    SLEEPING = "SLEEPING"
    """It has nothing to do. It may still be resident on the idle coprocessor."""
    WAITING = "WAITING"
    """It wants the coprocessor."""
    SWITCHING_IN = "SWITCHING_IN"
    """Its switch in was ordered for now; not reported yet."""
    RUNNING = "RUNNING"
    SWITCHING_OUT = "SWITCHING_OUT"
    """It was told to leave now; not reported yet."""
    FAULTED = "FAULTED"
    """It runs again once its driver has reset it."""


class RunEvent(enum.Enum):
    """What happens to a vcoproc."""

    WAKE = "WAKE"
    """It wants the coprocessor."""
    RESUME = "RESUME"
    """It was idle, but still on the coprocessor, and runs again already."""
    IDLE = "IDLE"
    """It has nothing to do and stays on the coprocessor."""
    PLACE = "PLACE"
    """A grant for it says: now."""
    UNPLACE = "UNPLACE"
    """That grant was taken back or replaced."""
    LEAVE = "LEAVE"
    """It is told to leave the coprocessor now."""
    STAY = "STAY"
    """That order was taken back."""
    BEGIN = "BEGIN"
    """A turn of it began."""
    LEFT_RUNNABLE = "LEFT_RUNNABLE"
    """It left the coprocessor and wants it again."""
    LEFT_IDLE = "LEFT_IDLE"
    """It left the coprocessor and has nothing to do."""
    DROP = "DROP"
    """A grant for it came to nothing: it cannot run."""
    FAULT = "FAULT"
    LOST = "LOST"
    """The coproc does not answer any more; it will say what holds when it comes back."""


_S = RunState
_E = RunEvent

TRANSITIONS: Final[Mapping[tuple[RunState, RunEvent], RunState]] = {
    (_S.SLEEPING, _E.WAKE): _S.WAITING,
    (_S.SLEEPING, _E.RESUME): _S.RUNNING,
    (_S.SLEEPING, _E.IDLE): _S.SLEEPING,
    (_S.SLEEPING, _E.BEGIN): _S.RUNNING,
    (_S.SLEEPING, _E.LEFT_RUNNABLE): _S.WAITING,  # woken while the idle one was saved
    (_S.SLEEPING, _E.LEFT_IDLE): _S.SLEEPING,
    (_S.SLEEPING, _E.DROP): _S.SLEEPING,
    (_S.SLEEPING, _E.FAULT): _S.FAULTED,
    (_S.SLEEPING, _E.LOST): _S.SLEEPING,
    (_S.WAITING, _E.WAKE): _S.WAITING,
    (_S.WAITING, _E.RESUME): _S.RUNNING,
    (_S.WAITING, _E.IDLE): _S.WAITING,  # the wake came first
    (_S.WAITING, _E.PLACE): _S.SWITCHING_IN,
    (_S.WAITING, _E.BEGIN): _S.RUNNING,
    (_S.WAITING, _E.LEFT_RUNNABLE): _S.WAITING,
    (_S.WAITING, _E.LEFT_IDLE): _S.WAITING,  # the wake came first
    (_S.WAITING, _E.DROP): _S.SLEEPING,
    (_S.WAITING, _E.FAULT): _S.FAULTED,
    (_S.WAITING, _E.LOST): _S.SLEEPING,
    (_S.SWITCHING_IN, _E.WAKE): _S.SWITCHING_IN,
    (_S.SWITCHING_IN, _E.RESUME): _S.RUNNING,
    (_S.SWITCHING_IN, _E.IDLE): _S.SWITCHING_IN,
    (_S.SWITCHING_IN, _E.UNPLACE): _S.WAITING,
    (_S.SWITCHING_IN, _E.BEGIN): _S.RUNNING,
    (_S.SWITCHING_IN, _E.LEFT_RUNNABLE): _S.WAITING,  # an earlier grant began meanwhile
    (_S.SWITCHING_IN, _E.LEFT_IDLE): _S.WAITING,
    (_S.SWITCHING_IN, _E.DROP): _S.SLEEPING,
    (_S.SWITCHING_IN, _E.FAULT): _S.FAULTED,
    (_S.SWITCHING_IN, _E.LOST): _S.SLEEPING,
    (_S.RUNNING, _E.WAKE): _S.RUNNING,  # kept in wake_pending
    (_S.RUNNING, _E.RESUME): _S.RUNNING,
    (_S.RUNNING, _E.IDLE): _S.SLEEPING,  # WAITING if wake_pending
    (_S.RUNNING, _E.LEAVE): _S.SWITCHING_OUT,
    (_S.RUNNING, _E.BEGIN): _S.RUNNING,  # one more slice
    (_S.RUNNING, _E.LEFT_RUNNABLE): _S.WAITING,
    (_S.RUNNING, _E.LEFT_IDLE): _S.SLEEPING,  # WAITING if wake_pending
    (_S.RUNNING, _E.DROP): _S.RUNNING,
    (_S.RUNNING, _E.FAULT): _S.FAULTED,
    (_S.RUNNING, _E.LOST): _S.SLEEPING,
    (_S.SWITCHING_OUT, _E.WAKE): _S.SWITCHING_OUT,  # kept in wake_pending
    (_S.SWITCHING_OUT, _E.RESUME): _S.SWITCHING_OUT,
    (_S.SWITCHING_OUT, _E.IDLE): _S.SLEEPING,  # WAITING if wake_pending
    (_S.SWITCHING_OUT, _E.STAY): _S.RUNNING,
    (_S.SWITCHING_OUT, _E.BEGIN): _S.SWITCHING_OUT,  # one more slice began before the order came
    (_S.SWITCHING_OUT, _E.LEFT_RUNNABLE): _S.WAITING,
    (_S.SWITCHING_OUT, _E.LEFT_IDLE): _S.SLEEPING,  # WAITING if wake_pending
    (_S.SWITCHING_OUT, _E.DROP): _S.SWITCHING_OUT,
    (_S.SWITCHING_OUT, _E.FAULT): _S.FAULTED,
    (_S.SWITCHING_OUT, _E.LOST): _S.SLEEPING,
    (_S.FAULTED, _E.WAKE): _S.WAITING,  # its driver has reset it
    (_S.FAULTED, _E.RESUME): _S.RUNNING,
    (_S.FAULTED, _E.IDLE): _S.FAULTED,
    (_S.FAULTED, _E.BEGIN): _S.RUNNING,
    (_S.FAULTED, _E.LEFT_RUNNABLE): _S.WAITING,
    (_S.FAULTED, _E.LEFT_IDLE): _S.FAULTED,
    (_S.FAULTED, _E.DROP): _S.FAULTED,
    (_S.FAULTED, _E.FAULT): _S.FAULTED,
    (_S.FAULTED, _E.LOST): _S.SLEEPING,
}
"""An absent pair is a bug: PLACE, UNPLACE, LEAVE, STAY are our own orders, given in one state."""

ON_COPROC: Final = frozenset({_S.RUNNING, _S.SWITCHING_OUT})
"""States that only the vcoproc on the coprocessor can have."""
_WAKE_SENSITIVE: Final = frozenset({_E.IDLE, _E.LEFT_IDLE})
_FORGETS_WAKE: Final = frozenset(
    {_E.BEGIN, _E.FAULT, _E.DROP, _E.LOST, _E.IDLE, _E.LEFT_IDLE, _E.LEFT_RUNNABLE}
)


class RunMachine:
    """State of one vcoproc and the intents it remembers.

    wake_pending: it was woken while it was on the coprocessor. sleep_requested: it shall leave and
    not run again; what it would want is remembered all the same, for when that is taken back.
    """

    __slots__ = ("sleep_requested", "state", "wake_pending")

    def __init__(self, state: RunState = RunState.SLEEPING) -> None:
        self.state = state
        self.wake_pending = False
        self.sleep_requested = False

    def wants(self) -> bool:
        """Whether it competes for the coprocessor, or has it and uses it."""
        state = self.state
        if state is RunState.SLEEPING or state is RunState.FAULTED:
            return False
        return not self.sleep_requested

    def apply(
        self, event: RunEvent, what: str = "vcoproc", story: Callable[[], Sequence[str]] = list
    ) -> RunState:
        """Moves to the next state.

        Raises:
            InvalidTransition: the pair is not in the table; nothing has changed.
        """
        old = self.state
        new = TRANSITIONS.get((old, event))
        if new is None:
            raise InvalidTransition(what, old.value, event.value, story())
        if new is RunState.SLEEPING and self.wake_pending and event in _WAKE_SENSITIVE:
            new = RunState.WAITING
        if event is RunEvent.WAKE and old in ON_COPROC:
            self.wake_pending = True
        elif event in _FORGETS_WAKE:
            self.wake_pending = False
        self.state = new
        return new
