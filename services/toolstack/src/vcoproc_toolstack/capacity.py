"""What coprocs are used for and what they can still take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vcoproc.config import CoprocConfig
from vcoproc.errors import LimitExceeded
from vcoproc_toolstack.records import DomainRecord


def memory_on(domains: Iterable[DomainRecord]) -> dict[str, int]:
    """Memory of the domains on each coproc, in bytes. A domain counts once on each that it uses."""
    found: dict[str, int] = {}
    for domain in domains:
        for coproc in {vcoproc.coproc for vcoproc in domain.vcoprocs}:
            found[coproc] = found.get(coproc, 0) + domain.memory_bytes
    return found


def check_memory(
    memory_bytes: int, coprocs: Iterable[CoprocConfig], used: Callable[[], Mapping[str, int]]
) -> None:
    """Refuses a domain on coprocs that may not have as much memory.

    Args:
        memory_bytes: of the domain.
        coprocs: that it gets its first vcoproc on.
        used: memory of the domains on each coproc now; asked only when one has a limit.

    Raises:
        LimitExceeded: one of the coprocs may have less.
    """
    limited = {coproc.name: coproc for coproc in coprocs if coproc.memory_bytes_max}
    for name, coproc in limited.items():
        if used().get(name, 0) + memory_bytes > coproc.memory_bytes_max:
            what = f"memory of all domains on coproc {name}"
            raise LimitExceeded(what, coproc.memory_bytes_max, "bytes")


@dataclass(frozen=True, slots=True)
class CoprocLoad:
    """How a coproc is used. available: it is online and not draining.

    vcoproc_count_max: the least of what its tree and its type allow.
    """

    name: str
    compatible: str
    available: bool
    vcoproc_count: int
    vcoproc_count_max: int

    @property
    def free_count(self) -> int:
        """How many more vcoprocs it takes now."""
        return max(0, self.vcoproc_count_max - self.vcoproc_count) if self.available else 0


@dataclass(frozen=True, slots=True)
class TypeCapacity:
    """A coprocessor type, and all coprocs of it. rooms: those with room, most room first."""

    compatible: str
    coproc_count: int
    available_count: int
    vcoproc_count: int
    rooms: tuple[CoprocLoad, ...]

    @property
    def free_count(self) -> int:
        return sum(load.free_count for load in self.rooms)


def by_type(loads: Sequence[CoprocLoad]) -> list[TypeCapacity]:
    """The types of all these coprocs, sorted by name."""
    types: dict[str, list[CoprocLoad]] = {}
    for load in loads:
        types.setdefault(load.compatible, []).append(load)
    return [
        TypeCapacity(
            compatible=compatible,
            coproc_count=len(own),
            available_count=sum(load.available for load in own),
            vcoproc_count=sum(load.vcoproc_count for load in own),
            rooms=tuple(most_room_first(own)),
        )
        for compatible, own in sorted(types.items())
    ]


def most_room_first(loads: Iterable[CoprocLoad]) -> list[CoprocLoad]:
    """Those with room; of two with as much, the one that comes first."""
    return sorted((load for load in loads if load.free_count), key=lambda load: -load.free_count)
