"""What coprocs are used for, and what they can still take. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import DomainRecord


def memory_on(domains: Iterable[DomainRecord]) -> dict[str, int]:
    """Memory of the domains on each coproc, in bytes. A domain counts once on each that it uses."""
    found: dict[str, int] = {}
    for domain in domains:
        if domain.state is DomainState.STOPPED:
            continue  # it has none
        for coproc in {vcoproc.coproc for vcoproc in domain.vcoprocs}:
            found[coproc] = found.get(coproc, 0) + domain.memory_bytes
    return found


@dataclass(frozen=True, slots=True)
class Room:
    """A coproc, how many vcoprocs it has, and how many more it takes; 0 if it is not available."""

    coproc: str
    compatible: str
    vcoproc_count: int
    free_count: int
    available: bool


@dataclass(frozen=True, slots=True)
class TypeRoom:
    """A coprocessor type. rooms: all its coprocs, most room first."""

    compatible: str
    rooms: tuple[Room, ...]


def types_of(rooms: Iterable[Room]) -> list[TypeRoom]:
    """The types of these coprocs, sorted by name."""
    by_type: dict[str, list[Room]] = {}
    for room in rooms:
        by_type.setdefault(room.compatible, []).append(room)
    return [
        TypeRoom(name, tuple(sorted(found, key=lambda room: (-room.free_count, room.coproc))))
        for name, found in sorted(by_type.items())
    ]
