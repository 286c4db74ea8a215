"""What always holds between two steps of the irq-router; for tests."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

from vcoproc.errors import InvariantViolation
from vcoproc.model.irq_line import LineState
from vcoproc_irq_router.early import EarlyMessages
from vcoproc_irq_router.owners import Domain, Vcoproc

_IMPOSSIBLE: Final = (
    frozenset((LineState.SAMPLING,)),
    frozenset((LineState.ORPHANED, LineState.ORPHANED_PENDING)),
)
"""States that an edge line, and a level line, never has."""


def check_router(
    domains: Mapping[int, Domain],
    vcoprocs: Mapping[int, Vcoproc],
    starved: Set[int],
    early: EarlyMessages,
) -> None:
    """Raises InvariantViolation when the state contradicts itself."""
    for domid, domain in domains.items():
        takes = domain.room > 0 and not domain.paused
        wants = {irq for irq, line in domain.lines.items() if line.deliverable}
        _must(domain.room >= 0, "room is not negative")
        _must(domain.listening or not domain.room, "only a listener has room")
        _must(set(domain.waiting) == (set() if takes else wants), "who waits, waits for a reason")
        _must(not takes or not wants, "what can be injected has been")
        hungry = domain.listening and not domain.room
        _must((domid in starved) is hungry, "starved: listens, has no room")
        for irq, line in domain.lines.items():
            owner = vcoprocs[line.vcoproc_id]
            _must(line.irq == irq and owner.domain is domain, "a line has one owner")
            _must(owner.lines[line.line] is line, "a line has one place")
            _must(line.state not in _IMPOSSIBLE[line.level], "an edge or level line's state")
    _must(starved <= domains.keys(), "only domains starve")
    _must(not early.vcoproc_ids() & vcoprocs.keys(), "early: not mapped")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolation(what)
