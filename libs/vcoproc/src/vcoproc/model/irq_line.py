"""One interrupt line of a domain: its states, its transitions, its counters.

Theory of operation:
    The states are those of a GIC (inactive, pending, active, active and pending), two more for an
    interrupt that was injected into a domain that went away before it said EOI, and one for a level
    line after EOI: the domain's EOI may overtake the coproc's word that the line fell, so the level
    is asked for again before the domain is interrupted again. Masking and the domain's readiness do
    not change the state, they only hold the injection back; the router asks `deliverable`.
Invariants:
    A level line is pending only while it is high as far as is known. Between two injections of a
    line lies an EOI, or the loss of the domain.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from vcoproc.errors import InvalidTransition


class LineState(enum.IntEnum):
    INACTIVE = 0
    PENDING = 1
    """Waits to be injected. The only state in which a level line that falls is forgotten."""
    ACTIVE = 2
    """Injected; the domain has not said EOI."""
    ACTIVE_PENDING = 3
    """Injected, and again pending: injected once more after EOI."""
    ORPHANED = 4
    """An edge that was injected into a domain that has gone since: to be injected again."""
    ORPHANED_PENDING = 5
    """Orphaned, and a later edge waits behind it."""
    SAMPLING = 6
    """A level line that was high at EOI; its coproc was asked whether it still is."""


class LineEvent(enum.IntEnum):
    PULSE = 0
    """An edge. Only edge lines."""
    RISE = 1
    """The line is high. Only level lines."""
    FALL = 2
    """The line is low. Only level lines."""
    INJECT = 3
    """It was handed to the domain."""
    EOI = 4
    """The domain has finished with it."""
    LOSE = 5
    """The domain has gone away, with everything that it had not finished."""


_S = LineState
_E = LineEvent

EDGE_TRANSITIONS: Final[Mapping[tuple[LineState, LineEvent], LineState]] = {
    (_S.INACTIVE, _E.PULSE): _S.PENDING,
    (_S.PENDING, _E.PULSE): _S.PENDING,  # merges, counted
    (_S.ACTIVE, _E.PULSE): _S.ACTIVE_PENDING,
    (_S.ACTIVE_PENDING, _E.PULSE): _S.ACTIVE_PENDING,  # merges, counted
    (_S.ORPHANED, _E.PULSE): _S.ORPHANED_PENDING,
    (_S.ORPHANED_PENDING, _E.PULSE): _S.ORPHANED_PENDING,  # merges, counted
    (_S.PENDING, _E.INJECT): _S.ACTIVE,
    (_S.ORPHANED, _E.INJECT): _S.ACTIVE,
    (_S.ORPHANED_PENDING, _E.INJECT): _S.ACTIVE_PENDING,
    (_S.ACTIVE, _E.EOI): _S.INACTIVE,
    (_S.ACTIVE_PENDING, _E.EOI): _S.PENDING,
    # The same domain is back, and says what it would have said before its connection was lost.
    (_S.ORPHANED, _E.EOI): _S.INACTIVE,
    (_S.ORPHANED_PENDING, _E.EOI): _S.PENDING,
    (_S.INACTIVE, _E.LOSE): _S.INACTIVE,
    (_S.PENDING, _E.LOSE): _S.PENDING,
    (_S.ACTIVE, _E.LOSE): _S.ORPHANED,
    (_S.ACTIVE_PENDING, _E.LOSE): _S.ORPHANED_PENDING,
    (_S.ORPHANED, _E.LOSE): _S.ORPHANED,
    (_S.ORPHANED_PENDING, _E.LOSE): _S.ORPHANED_PENDING,
}

LEVEL_TRANSITIONS: Final[Mapping[tuple[LineState, LineEvent], LineState]] = {
    (_S.INACTIVE, _E.RISE): _S.PENDING,
    (_S.PENDING, _E.RISE): _S.PENDING,  # said again, for example after a reconnection
    (_S.ACTIVE, _E.RISE): _S.ACTIVE_PENDING,
    (_S.ACTIVE_PENDING, _E.RISE): _S.ACTIVE_PENDING,
    (_S.INACTIVE, _E.FALL): _S.INACTIVE,
    (_S.PENDING, _E.FALL): _S.INACTIVE,  # withdrawn before the domain saw it
    (_S.ACTIVE, _E.FALL): _S.ACTIVE,
    (_S.ACTIVE_PENDING, _E.FALL): _S.ACTIVE,
    (_S.PENDING, _E.INJECT): _S.ACTIVE_PENDING,  # still high: pending and active at once
    (_S.ACTIVE, _E.EOI): _S.INACTIVE,
    (_S.ACTIVE_PENDING, _E.EOI): _S.SAMPLING,
    (_S.SAMPLING, _E.RISE): _S.PENDING,  # it still is, or is again
    (_S.SAMPLING, _E.FALL): _S.INACTIVE,
    (_S.SAMPLING, _E.LOSE): _S.SAMPLING,
    (_S.INACTIVE, _E.LOSE): _S.INACTIVE,
    (_S.PENDING, _E.LOSE): _S.PENDING,
    # Nothing to remember of the lost domain: what matters is whether the line is high.
    (_S.ACTIVE, _E.LOSE): _S.INACTIVE,
    (_S.ACTIVE_PENDING, _E.LOSE): _S.PENDING,
}

TRANSITIONS: Final = {False: EDGE_TRANSITIONS, True: LEVEL_TRANSITIONS}
"""By whether the line is a level line."""

PENDING_STATES: Final = frozenset((_S.PENDING, _S.ACTIVE_PENDING, _S.ORPHANED_PENDING))
ACTIVE_STATES: Final = frozenset((_S.ACTIVE, _S.ACTIVE_PENDING, _S.ORPHANED, _S.ORPHANED_PENDING))
INJECTABLE_STATES: Final = frozenset((_S.PENDING, _S.ORPHANED, _S.ORPHANED_PENDING))

# The same tables, indexed by state and event; None for an absent pair. The hot path reads these.
_EDGE_NEXT: Final = tuple(
    tuple(EDGE_TRANSITIONS.get((state, event)) for event in LineEvent) for state in LineState
)
_LEVEL_NEXT: Final = tuple(
    tuple(LEVEL_TRANSITIONS.get((state, event)) for event in LineEvent) for state in LineState
)
# Bound once: looking up an enum's member costs as much as a transition.
_PULSE: Final = LineEvent.PULSE
_RISE: Final = LineEvent.RISE
_FALL: Final = LineEvent.FALL
_INJECT: Final = LineEvent.INJECT
_EOI: Final = LineEvent.EOI
_LOSE: Final = LineEvent.LOSE


class IrqLine:
    """The state of one line.

    Args:
        vcoproc_id, line: whose output it is. irq: the domain's interrupt number.
        level: a level line, else an edge line.
    """

    __slots__ = (
        "enabled",
        "injected_count",
        "irq",
        "level",
        "line",
        "merged_count",
        "raised_count",
        "raised_ns",
        "state",
        "vcoproc_id",
    )

    def __init__(self, vcoproc_id: int, line: int, irq: int, *, level: bool) -> None:
        self.vcoproc_id = vcoproc_id
        self.line = line
        self.irq = irq
        self.level = level
        self.enabled = True
        self.state = LineState.INACTIVE
        self.raised_count = 0
        self.injected_count = 0
        self.merged_count = 0
        self.raised_ns = 0
        """When what is pending, or else active, was raised; the coproc's clock."""

    @property
    def high(self) -> bool:
        """Whether a level line is high as far as is known; never true of an edge line."""
        return self.level and (self.state in PENDING_STATES or self.sampling)

    @property
    def sampling(self) -> bool:
        """Whether the coproc is to be asked for the level."""
        return self.state is LineState.SAMPLING

    @property
    def pending(self) -> bool:
        return self.state in PENDING_STATES

    @property
    def active(self) -> bool:
        return self.state in ACTIVE_STATES

    @property
    def deliverable(self) -> bool:
        """Whether it is to be injected as soon as the domain can take it."""
        return self.enabled and self.state in INJECTABLE_STATES

    def pulse(self, raised_ns: int, *, times: int = 1) -> None:
        """An edge came, or several; the first at `raised_ns`."""
        merged = times
        if self.state not in PENDING_STATES:
            self.raised_ns = raised_ns
            merged -= 1
        self.apply(_PULSE)
        self.raised_count += times
        self.merged_count += merged

    def set_level(self, high: bool, raised_ns: int) -> None:
        """The level is said; it need not have changed."""
        if not high:
            self.apply(_FALL)
        elif self.state in PENDING_STATES:
            self.apply(_RISE)
        else:
            # One that still is high at EOI waits anew, and has not risen anew.
            risen = not self.sampling
            self.apply(_RISE)
            self.raised_count += risen
            self.raised_ns = raised_ns

    def inject(self) -> None:
        """It is handed to the domain now."""
        assert self.enabled
        self.apply(_INJECT)
        self.injected_count += 1

    def end(self) -> None:
        """The domain says EOI."""
        self.apply(_EOI)

    def lose(self) -> None:
        """The domain has gone away."""
        self.apply(_LOSE)

    def apply(self, event: LineEvent) -> None:
        """Makes a transition.

        Raises:
            InvalidTransition: the table has none for this state; nothing has changed.
        """
        after = (_LEVEL_NEXT if self.level else _EDGE_NEXT)[self.state][event]
        if after is None:
            kind = "level" if self.level else "edge"
            raise InvalidTransition(
                f"{kind} line {self.line} of vcoproc {self.vcoproc_id}", self.state.name, event.name
            )
        self.state = after
