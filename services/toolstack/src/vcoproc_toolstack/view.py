"""What the store holds, at one moment: immutable, in memory, and cheap to have many of. Pure.

Theory of operation:
    The toolstack is the only writer, so it knows the contents without asking the database. `State`
    is all of it at one revision. A change makes another one, which shares everything that it does
    not concern (`frozen`): its cost is that of the domain that it changes, not of all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from vcoproc.errors import InvalidArgument, RevisionGone
from vcoproc_toolstack.frozen import EMPTY, FrozenMap, FrozenRing
from vcoproc_toolstack.records import (
    CoprocRecord,
    DomainRecord,
    EventKind,
    EventRecord,
    Hold,
    Life,
    PlatformRecord,
    VcoprocRecord,
)
from vcoproc_toolstack.rows import (
    COPROCS_CHANGED,
    NUMBERS,
    SEATS_HELD,
    SETTINGS,
    TYPES,
    Keyed,
    Resource,
    Row,
    unpack_resource,
)
from vcoproc_toolstack.schedules import Setting
from vcoproc_toolstack.tables import DOMAIN_FILES

K = TypeVar("K")
R = TypeVar("R")

FIRST_REVISION: Final = 1
"""Of a store without events. Not 0: a watch after 0 means "from now on"."""
_EVENTS_READ_MAX: Final = 256
COPROC_REVISION: Final = "revision/coprocs/"
"""What the keys begin with of the numbers that say which event changed a coproc last."""


Select = Callable[[sa.Select[Any]], list[Row]]
"""Gives the rows of a query. Raises: StoreUnavailable."""


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An event; packed: its resource as it was read from the store, see `rows.unpack_resource`."""

    event: EventRecord
    packed: bytes = field(default=b"", repr=False)

    def unpacked(self) -> EventRecord:
        if not self.packed:
            return self.event
        return replace(self.event, resource=unpack_resource(self.packed))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered, for its repetition."""

    request_id: str
    fingerprint: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class State:
    """Everything. domains, by name; the next three find them again.

    names: of domains, by domid. homes: name of a vcoproc's domain, by its number. members: numbers
    of the vcoprocs of each coproc that has any. keyed: records by key, by name of their table.
    answers: by serial; serials: by request id.
    """

    events: FrozenRing[KeptEvent]
    answers: FrozenRing[Answer]
    domains: FrozenMap[str, DomainRecord] = field(default_factory=lambda: EMPTY)
    names: FrozenMap[int, str] = field(default_factory=lambda: EMPTY)
    homes: FrozenMap[int, str] = field(default_factory=lambda: EMPTY)
    members: FrozenMap[str, FrozenMap[int, None]] = field(default_factory=lambda: EMPTY)
    memory_bytes: int = 0
    keyed: FrozenMap[str, FrozenMap[Any, Any]] = field(default_factory=lambda: EMPTY)
    serials: FrozenMap[str, int] = field(default_factory=lambda: EMPTY)

    def records(self, kind: Keyed[K, R]) -> FrozenMap[K, R]:
        found: FrozenMap[K, R] = self.keyed.get(kind.table.name, EMPTY)
        return found

    def with_record(self, kind: Keyed[K, R], key: K, record: R | None) -> State:
        records = self.records(kind)
        records = records.minus(key) if record is None else records.plus(key, record)
        return replace(self, keyed=self.keyed.plus(kind.table.name, records))

    def domain_of(self, domid: int) -> DomainRecord | None:
        name = self.names.get(domid)
        return None if name is None else self.domains[name]

    def with_domain(self, domid: int, domain: DomainRecord | None) -> State:
        """With this domain instead of the one of this number, if there is one."""
        state = self
        if (old := self.domain_of(domid)) is not None:
            state = replace(
                state,
                domains=state.domains.minus(old.name),
                names=state.names.minus(domid),
                memory_bytes=state.memory_bytes - _memory_of(old),
            )
        if domain is not None:
            assert domain.domid == domid and domain.name not in state.domains
            state = replace(
                state,
                domains=state.domains.plus(domain.name, domain),
                names=state.names.plus(domid, domain.name),
                memory_bytes=state.memory_bytes + _memory_of(domain),
            )
        return state._with_vcoprocs(old.vcoprocs if old else (), domain.vcoprocs if domain else ())

    def _with_vcoprocs(self, old: Sequence[VcoprocRecord], new: Sequence[VcoprocRecord]) -> State:
        homes, members = self.homes, self.members
        for vcoproc in old:
            homes = homes.minus(vcoproc.vcoproc_id)
            rest = members[vcoproc.coproc].minus(vcoproc.vcoproc_id)
            members = members.plus(vcoproc.coproc, rest)
        for vcoproc in new:
            homes = homes.plus(vcoproc.vcoproc_id, vcoproc.domain)
            rest = members.get(vcoproc.coproc, EMPTY).plus(vcoproc.vcoproc_id, None)
            members = members.plus(vcoproc.coproc, rest)
        for coproc in {vcoproc.coproc for vcoproc in old}:
            if not members[coproc]:
                members = members.minus(coproc)
        return replace(self, homes=homes, members=members)


def _memory_of(domain: DomainRecord) -> int:
    """What a domain has, or may still have."""
    return domain.memory_bytes if domain.placed or domain.life is not Life.ALIVE else 0


class View:
    """One moment of the store. What it gives stays as it is, whatever changes meanwhile.

    Args:
        select: reads what is not kept in memory, as it was kept last.
    """

    def __init__(self, state: State, select: Select) -> None:
        self._state = state
        self._select = select

    def revision(self) -> int:
        """Of the newest event; 1 before the first."""
        return self._state.events.newest

    def domain(self, name: str) -> DomainRecord | None:
        return self._state.domains.get(name)

    def domain_of(self, domid: int) -> DomainRecord | None:
        return self._state.domain_of(domid)

    def domain_count(self) -> int:
        return len(self._state.domains)

    def domain_text(self, domid: int) -> str:
        """The file that a domain was made from; empty for one that is older than such files.

        Raises:
            StoreUnavailable: the database cannot be read.
        """
        query = sa.select(DOMAIN_FILES).where(DOMAIN_FILES.c.domid == domid)
        rows = self._select(query)
        return str(rows[0]["text"]) if rows else ""

    def domains(self, *, after: str = "", limit: int | None = None) -> list[DomainRecord]:
        """Domains sorted by name, with all their vcoprocs. after: name before the first."""
        names = sorted(self._state.domains)
        return [self._state.domains[name] for name in names[bisect_right(names, after) :][:limit]]

    def vcoprocs(
        self, *, domain: str = "", after: tuple[str, str] = ("", ""), limit: int | None = None
    ) -> list[VcoprocRecord]:
        """Vcoprocs sorted by domain and name. after: those of the one before the first."""
        found: list[VcoprocRecord] = []
        for vcoproc in self._vcoprocs(domain, after[0]):
            if limit is not None and len(found) >= limit:
                break
            if (vcoproc.domain, vcoproc.name) > after:
                found.append(vcoproc)
        return found

    def _vcoprocs(self, domain: str, first: str) -> Iterator[VcoprocRecord]:
        """All of one domain, or of the domains from one on."""
        names = [domain] if domain else sorted(self._state.domains)
        for name in names:
            if name >= first and (record := self._state.domains.get(name)):
                yield from record.vcoprocs

    def vcoproc(self, vcoproc_id: int) -> VcoprocRecord | None:
        home = self._state.homes.get(vcoproc_id)
        if home is None:
            return None
        vcoprocs = self._state.domains[home].vcoprocs
        return next(each for each in vcoprocs if each.vcoproc_id == vcoproc_id)

    def counts(self) -> dict[str, int]:
        """Vcoprocs of each coproc that has any."""
        return {coproc: len(numbers) for coproc, numbers in self._state.members.items()}

    def vcoprocs_on(self, coproc: str) -> list[VcoprocRecord]:
        """Vcoprocs of one coproc, sorted by domain and name."""
        numbers = self._state.members.get(coproc, EMPTY)
        found = [record for number in numbers if (record := self.vcoproc(number))]
        return sorted(found, key=lambda each: (each.domain, each.name))

    def settings(self) -> dict[str, Setting]:
        """How coprocs are scheduled that were set at run time, by name."""
        return dict(self._state.records(SETTINGS))

    def fallback_ns(self, coproc: str) -> int:
        """When the last fallback of a coproc was that an event tells of; 0 for none."""
        return self._state.records(NUMBERS).get(f"fallback/{coproc}", 0)

    def holds(self, coproc: str = "") -> list[Hold]:
        """Who may have a vcoproc that it is not to have. coproc: only this one."""
        holds = self._state.records(SEATS_HELD)
        return [holds[key] for key in sorted(holds) if coproc in ("", key[0])]

    def coproc_records(self) -> list[CoprocRecord]:
        """One for each coproc that is not as its tree says."""
        return list(self._state.records(COPROCS_CHANGED).values())

    def memory_bytes(self) -> int:
        """Memory of all domains together that have any."""
        return self._state.memory_bytes

    def platform(self, compatible: str) -> PlatformRecord | None:
        return self._state.records(TYPES).get(compatible)

    def events(self, after: int) -> list[EventRecord]:
        """The oldest events after a revision, a bounded number.

        Raises:
            RevisionGone: some of them are no longer kept, or that revision never was.
        """
        events = self._state.events
        if not events.oldest - 1 <= after <= events.newest:
            oldest = min(events.oldest, events.newest)
            raise RevisionGone(after, oldest, events.newest)
        last = min(events.newest, after + _EVENTS_READ_MAX)
        return [events[revision].unpacked() for revision in range(after + 1, last + 1)]

    def faults(self) -> list[EventRecord]:
        """Events of faults that are kept, newest first."""
        events = self._state.events
        kept = (events[revision].event for revision in range(events.newest, events.oldest - 1, -1))
        return [event for event in kept if event.kind is EventKind.FAULTED]

    def coproc_revisions(self) -> dict[str, int]:
        """Revision of the last event of each coproc, or of its schedule, that ever had one."""
        return {
            key.removeprefix(COPROC_REVISION): revision
            for key, revision in self._state.records(NUMBERS).items()
            if key.startswith(COPROC_REVISION)
        }

    def answer(self, request_id: str, fingerprint: bytes) -> bytes | None:
        """The answer that a request got before; None for a new one.

        Raises:
            InvalidArgument: the id belongs to another request.
        """
        serial = self._state.serials.get(request_id)
        if serial is None:
            return None
        kept = self._state.answers[serial]
        if kept.fingerprint != fingerprint:
            raise InvalidArgument("request_id", f"{request_id!r} was used for another request")
        return kept.answer

    def has_answer(self, request_id: str) -> bool:
        """Whether an answer is kept to a request of this id, whichever that was."""
        return request_id in self._state.serials

    def resource(self, name: str) -> Resource | None:
        """The domain or vcoproc of a resource name; None when there is none."""
        words = name.split("/")
        domain = self.domain(words[1]) if words[0] == "domains" and len(words) in (2, 4) else None
        if domain is None or len(words) == 2:
            return domain
        return next((each for each in domain.vcoprocs if each.name == words[3]), None)
