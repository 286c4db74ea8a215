"""What coprocs are used for and what they can still take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vcoproc.config import CoprocConfig
from vcoproc.errors import LimitExceeded
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import DomainRecord, Life, VcoprocRecord


def memory_on(domains: Iterable[DomainRecord]) -> dict[str, int]:
    """Memory of the domains on each coproc, in bytes. A domain counts once on each that it uses."""
    found: dict[str, int] = {}
    for domain in domains:
        if has_memory(domain):
            for coproc in {vcoproc.coproc for vcoproc in domain.vcoprocs}:
                found[coproc] = found.get(coproc, 0) + domain.memory_bytes
    return found


def has_memory(domain: DomainRecord) -> bool:
    """Whether a domain has its memory, or may have it still."""
    return domain.state is not DomainState.STOPPED or domain.life is not Life.ALIVE


def check_memory(
    wanted: Iterable[tuple[DomainRecord, CoprocConfig]],
    domains: Callable[[], Sequence[DomainRecord]],
) -> None:
    """Refuses domains on coprocs that may not have as much memory.

    Args:
        wanted: domains, each with a coproc that it gets a vcoproc on.
        domains: all that there are; asked only when a coproc has a limit.

    Raises:
        LimitExceeded: one of the coprocs may have less.
    """
    limited = [(domain, coproc) for domain, coproc in wanted if coproc.memory_bytes_max]
    if not limited:
        return
    present = [domain for domain in domains() if has_memory(domain)]
    used = memory_on(present)
    counted = {(each.name, vcoproc.coproc) for each in present for vcoproc in each.vcoprocs}
    for domain, coproc in limited:
        if (domain.name, coproc.name) in counted:
            continue
        counted.add((domain.name, coproc.name))
        used[coproc.name] = used.get(coproc.name, 0) + domain.memory_bytes
        if used[coproc.name] > coproc.memory_bytes_max:
            what = f"memory of all domains on coproc {coproc.name}"
            raise LimitExceeded(what, coproc.memory_bytes_max, "bytes")


@dataclass(frozen=True, slots=True)
class CoprocLoad:
    """How a coproc is used. available: it is online, and takes new vcoprocs.

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


@dataclass(frozen=True, slots=True)
class Target:
    """A coproc that vcoprocs may go to.

    memory_bytes_free: how much more memory its domains may have; None for no limit. domids: of the
    domains that it has already, which need no more of that.
    """

    name: str
    free_count: int
    memory_bytes_free: int | None
    domids: frozenset[int]

    def takes(self, domain: DomainRecord) -> bool:
        """Whether one more vcoproc of a domain fits."""
        return self.free_count > 0 and (
            self.memory_bytes_free is None
            or domain.domid in self.domids
            or not has_memory(domain)
            or domain.memory_bytes <= self.memory_bytes_free
        )

    def after(self, domain: DomainRecord) -> Target:
        """The same with one more vcoproc of a domain."""
        free = self.memory_bytes_free
        if free is not None and has_memory(domain) and domain.domid not in self.domids:
            free -= domain.memory_bytes
        return Target(self.name, self.free_count - 1, free, self.domids | {domain.domid})


def spread(
    vcoprocs: Iterable[tuple[DomainRecord, VcoprocRecord]],
    targets: Mapping[str, Target],
    fits: Callable[[VcoprocRecord, str], bool],
) -> dict[int, str]:
    """Where each vcoproc is to go, by number; those that do not fit are not there.

    Always to the one with most room; large domains first, since they find a place less easily.

    Args:
        targets: by name, in order of preference.
        fits: whether a coproc can be that of a vcoproc.
    """
    left = dict(targets)
    found: dict[int, str] = {}
    for domain, vcoproc in sorted(vcoprocs, key=lambda pair: -pair[0].memory_bytes):
        fitting = [
            target
            for target in left.values()
            if target.takes(domain) and fits(vcoproc, target.name)
        ]
        if not fitting:
            continue
        best = max(fitting, key=lambda target: target.free_count)
        left[best.name] = best.after(domain)
        found[vcoproc.vcoproc_id] = best.name
    return found
