"""A change of the store in the making: the state that it leads to, and the rows to write. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy import Table

from vcoproc import limits
from vcoproc.errors import LimitExceeded
from vcoproc_toolstack.frozen import FrozenRing
from vcoproc_toolstack.records import (
    ACTOR,
    DomainRecord,
    EventKind,
    EventRecord,
    FaultRecord,
    Hold,
    Life,
    PlatformRecord,
    VcoprocRecord,
    memory_file,
)
from vcoproc_toolstack.rows import (
    FILES,
    HOLD_RECORDS,
    KEYED,
    NUMBERS,
    SETTINGS,
    TYPES,
    Keyed,
    changed,
    event_row,
    hold_key,
    to_row,
)
from vcoproc_toolstack.schedules import Parameters, Setting
from vcoproc_toolstack.tables import DOMAINS, EVENTS, REQUESTS, VCOPROCS
from vcoproc_toolstack.view import COPROC_REVISION, Answer, KeptEvent, State, View

K = TypeVar("K")
R = TypeVar("R")

Write = tuple[sa.Executable, list[dict[str, Any]]]
"""A statement, and its parameters for each time that it is to be executed."""

_VCOPROC_ID_MAX: Final = 2**32 - 1
CHANGE_COUNT: Final = "change_count"
"""Key of the number of all changes that were ever written; by it the store is known again."""
_KEY: Final = "_key"
"""Parameter that names the row to be changed; no column has this name."""


class Change(View):
    """A change in the making: all of it is kept, or nothing.

    Args:
        now_ns: Unix time, for events.
    """

    def __init__(self, state: State, now_ns: Callable[[], int]) -> None:
        super().__init__(state)
        self._base = state
        self._now_ns = now_ns
        self._domids: set[int] = set()
        self._keys: set[tuple[str, Any]] = set()

    @property
    def state(self) -> State:
        """What everybody sees once the change is kept."""
        return self._state

    def as_of(self, time_ns: int) -> None:
        """The next events happened at this time."""
        self._now_ns = lambda: time_ns

    def now_ns(self) -> int:
        """Unix time."""
        return self._now_ns()

    # --- numbers ----------------------------------------------------------------------------------

    def next_domid(self) -> int:
        """A number that no domain has. Rises, and begins again at the end, as Xen's do.

        Not that of a domain that has gone and whose memory somebody may still reach.

        Raises:
            LimitExceeded: there are `limits.DOMAINS_MAX` domains.
        """
        used = self._state.names
        if len(used) >= limits.DOMAINS_MAX:
            raise LimitExceeded("domains", limits.DOMAINS_MAX)
        held = {name for hold in self.holds() for name in hold.files}
        domid = self._number("next_domid", limits.DOMID_MIN)
        while domid in used or memory_file(domid) in held or domid > limits.DOMID_MAX:
            domid = limits.DOMID_MIN if domid >= limits.DOMID_MAX else domid + 1
        self.put(NUMBERS, "next_domid", domid + 1)
        return domid

    def next_vcoproc_id(self) -> int:
        """A number that no vcoproc has or ever had.

        Raises:
            LimitExceeded: all numbers were used.
        """
        vcoproc_id = self._number("next_vcoproc_id", 1)
        if vcoproc_id > _VCOPROC_ID_MAX:
            raise LimitExceeded("vcoprocs created in all time", _VCOPROC_ID_MAX)
        self.put(NUMBERS, "next_vcoproc_id", vcoproc_id + 1)
        return vcoproc_id

    def _number(self, key: str, default: int) -> int:
        return self._state.records(NUMBERS).get(key, default)

    # --- domains and vcoprocs ---------------------------------------------------------------------

    def add_domain(self, domain: DomainRecord, text: str = "") -> None:
        """One that is not there yet, with its vcoprocs. text: the file that it is made from."""
        assert domain.domid not in self._state.names
        self._set(domain.domid, domain)
        self.put(FILES, domain.domid, text or None)

    def put_domain(self, domain: DomainRecord) -> None:
        """Replaces the domain of this number, its name and its vcoprocs included."""
        assert domain.domid in self._state.names
        self._set(domain.domid, domain)

    def update_domain(self, domain: DomainRecord) -> None:
        """Keeps what changes of a domain: its name, and where it is in its life."""
        kept = self._domain(domain.domid)
        vcoprocs = tuple(
            replace(each, domain=domain.name, life=domain.life, domain_state=domain.state)
            for each in kept.vcoprocs
        )
        kept = replace(
            kept,
            name=domain.name,
            life=domain.life,
            state=domain.state,
            state_reason=domain.state_reason,
            ending=domain.ending,
            vcoprocs=vcoprocs,
        )
        self._set(domain.domid, kept)

    def delete_domain(self, domid: int) -> None:
        self._set(domid, None)
        self.put(FILES, domid, None)

    def add_vcoproc(self, vcoproc: VcoprocRecord) -> None:
        domain = self._domain(vcoproc.domid)
        self._set_vcoprocs(domain, [*domain.vcoprocs, vcoproc])

    def put_vcoproc(self, vcoproc: VcoprocRecord) -> None:
        """Replaces the vcoproc of this number."""
        domain = self._domain(vcoproc.domid)
        others = [each for each in domain.vcoprocs if each.vcoproc_id != vcoproc.vcoproc_id]
        self._set_vcoprocs(domain, [*others, vcoproc])

    def delete_vcoproc(self, vcoproc_id: int) -> None:
        """Does nothing when there is none of this number."""
        if (vcoproc := self.vcoproc(vcoproc_id)) is not None:
            domain = self._domain(vcoproc.domid)
            others = [each for each in domain.vcoprocs if each.vcoproc_id != vcoproc_id]
            self._set_vcoprocs(domain, others)

    def set_domain_life(self, domid: int, life: Life) -> None:
        """Changes the domain and, with it, all its vcoprocs."""
        domain = self._domain(domid)
        vcoprocs = tuple(replace(vcoproc, life=life) for vcoproc in domain.vcoprocs)
        self._set(domid, replace(domain, life=life, vcoprocs=vcoprocs))

    def set_vcoproc_life(self, vcoproc_id: int, life: Life) -> None:
        self.put_vcoproc(replace(self._vcoproc(vcoproc_id), life=life))

    def set_vcoproc_coproc(self, vcoproc_id: int, coproc: str) -> None:
        """It lives on another coproc from now on."""
        self.put_vcoproc(replace(self._vcoproc(vcoproc_id), coproc=coproc))

    def set_vcoproc_params(self, vcoproc_id: int, params: Parameters) -> None:
        self.put_vcoproc(replace(self._vcoproc(vcoproc_id), params=params))

    def _domain(self, domid: int) -> DomainRecord:
        domain = self._state.domain_of(domid)
        assert domain is not None, f"there is no domain {domid}"
        return domain

    def _vcoproc(self, vcoproc_id: int) -> VcoprocRecord:
        vcoproc = self.vcoproc(vcoproc_id)
        assert vcoproc is not None, f"there is no vcoproc {vcoproc_id}"
        return vcoproc

    def _set_vcoprocs(self, domain: DomainRecord, vcoprocs: list[VcoprocRecord]) -> None:
        states = (replace(each, domain_state=domain.state) for each in vcoprocs)
        by_name = tuple(sorted(states, key=lambda vcoproc: vcoproc.name))
        self._set(domain.domid, replace(domain, vcoprocs=by_name))

    def _set(self, domid: int, domain: DomainRecord | None) -> None:
        self._state = self._state.with_domain(domid, domain)
        self._domids.add(domid)

    # --- the rest ---------------------------------------------------------------------------------

    def put(self, kind: Keyed[K, R], key: K, record: R | None) -> None:
        """Keeps a record under a key, instead of the one before; None: forgets it."""
        if self._state.records(kind).get(key) != record:
            self._state = self._state.with_record(kind, key, record)
            self._keys.add((kind.table.name, key))

    def add_hold(self, hold: Hold) -> None:
        self.put(HOLD_RECORDS, hold_key(hold.coproc, hold.vcoproc_id), hold)

    def delete_hold(self, coproc: str, vcoproc_id: int) -> None:
        self.put(HOLD_RECORDS, hold_key(coproc, vcoproc_id), None)

    def put_setting(self, coproc: str, setting: Setting | None) -> None:
        """Keeps how a coproc is scheduled; None: as the tree says."""
        self.put(SETTINGS, coproc, setting)

    def put_fallback_ns(self, coproc: str, time_ns: int) -> None:
        """See `fallback_ns`."""
        self.put(NUMBERS, f"fallback/{coproc}", time_ns)

    def put_platform(self, platform: PlatformRecord) -> None:
        self.put(TYPES, platform.compatible, platform)

    def add_event(
        self, name: str, kind: EventKind, description: str, fault: FaultRecord | None = None
    ) -> None:
        """Notes what changed; the oldest events beyond `limits.EVENTS_KEPT_MAX` are forgotten.

        Args:
            name: of the resource. The event keeps what it is when the change is complete.
        """
        # PostgreSQL keeps no text with this character, and part of a description comes from others.
        words = description.replace("\0", "\ufffd")
        revision = self.revision() + 1
        event = EventRecord(
            revision, name, kind, words, self._now_ns(), fault=fault, actor=ACTOR.get()
        )
        events = self._state.events.plus(KeptEvent(event), limits.EVENTS_KEPT_MAX)
        self._state = replace(self._state, events=events)
        self._put_revision(name, revision)

    def _put_revision(self, name: str, revision: int) -> None:
        """Notes the event that changed a resource last, and what is shown with it."""
        match name.split("/"):
            case ["domains", domain_name, *rest]:
                if (domain := self.domain(domain_name)) is None:
                    return
                vcoprocs = tuple(
                    replace(vcoproc, revision=revision)
                    if rest in ([], ["vcoprocs", vcoproc.name])
                    else vcoproc
                    for vcoproc in domain.vcoprocs
                )
                self._set(domain.domid, replace(domain, revision=revision, vcoprocs=vcoprocs))
            case ["coprocs", coproc, *_]:
                self.put(NUMBERS, f"{COPROC_REVISION}{coproc}", revision)

    def add_answer(self, request_id: str, fingerprint: bytes, answer: bytes) -> None:
        """Keeps an answer; the oldest beyond `limits.REQUESTS_KEPT_MAX` are forgotten."""
        assert request_id not in self._state.serials
        old = self._state.answers
        answers = old.plus(Answer(request_id, fingerprint, answer), limits.REQUESTS_KEPT_MAX)
        serials = self._state.serials.plus(request_id, answers.newest)
        for serial in range(old.oldest, min(answers.oldest, answers.newest)):
            serials = serials.minus(old[serial].request_id)
        self._state = replace(self._state, answers=answers, serials=serials)

    # --- what is to be written --------------------------------------------------------------------

    def writes(self, *, always: bool = False) -> list[Write]:
        """All rows that differ; nothing when nothing does. To be called once, at the end.

        always: counts the change even when it changes nothing.
        """
        if self._state is self._base and not always:
            return []
        self.put(NUMBERS, CHANGE_COUNT, self._number(CHANGE_COUNT, 0) + 1)
        for revision in self._new(self._base.events, self._state.events):
            event = self._state.events[revision].event
            kept = KeptEvent(replace(event, resource=self.resource(event.name)))
            self._state = replace(self._state, events=self._state.events.replaced(revision, kept))
        return [
            *self._domain_writes(),
            *self._keyed_writes(),
            *self._event_writes(),
            *self._answer_writes(),
        ]

    def _domain_writes(self) -> Iterator[Write]:
        # Vcoprocs refer to domains: they go first and come last.
        pairs = [(self._base.domain_of(n), self._state.domain_of(n)) for n in sorted(self._domids)]
        old_vcoprocs = {v.vcoproc_id: v for old, _ in pairs if old for v in old.vcoprocs}
        new_vcoprocs = {v.vcoproc_id: v for _, new in pairs if new for v in new.vcoprocs}
        old_domains = {old.domid: old for old, _ in pairs if old}
        new_domains = {new.domid: new for _, new in pairs if new}
        yield from _deletes(VCOPROCS, old_vcoprocs.keys() - new_vcoprocs.keys())
        yield from _deletes(DOMAINS, old_domains.keys() - new_domains.keys())
        yield from _puts(DOMAINS, old_domains, new_domains)
        yield from _puts(VCOPROCS, old_vcoprocs, new_vcoprocs)

    def _keyed_writes(self) -> Iterator[Write]:
        for kind in KEYED:
            before, after = self._base.records(kind), self._state.records(kind)
            for name, key in sorted(self._keys):
                if name != kind.table.name:
                    continue
                if key in before and key not in after:
                    yield from _deletes(kind.table, {key})
                elif key in after:
                    values = kind.to_values(after[key])
                    if key in before:
                        yield _update(kind.table), [{_KEY: key, **values}]
                    else:
                        yield _insert(kind.table), [{kind.key: key, **values}]

    def _event_writes(self) -> Iterator[Write]:
        before, after = self._base.events, self._state.events
        if rows := [event_row(after[revision].event) for revision in self._new(before, after)]:
            yield _insert(EVENTS), rows
        if before.oldest < after.oldest:
            yield _forget(EVENTS), [{_KEY: after.oldest}]

    def _answer_writes(self) -> Iterator[Write]:
        before, after = self._base.answers, self._state.answers
        if rows := [_answer_row(serial, after[serial]) for serial in self._new(before, after)]:
            yield _insert(REQUESTS), rows
        if before.oldest < after.oldest:
            yield _forget(REQUESTS), [{_KEY: after.oldest}]

    @staticmethod
    def _new(before: FrozenRing[R], after: FrozenRing[R]) -> range:
        """Numbers of the entries that are kept and were added."""
        return range(max(before.newest + 1, after.oldest), after.newest + 1)


def _deletes(table: Table, keys: Iterable[Any]) -> Iterator[Write]:
    if rows := [{_KEY: key} for key in sorted(keys)]:
        yield _delete(table), rows


def _puts(table: Table, old: Mapping[int, Any], new: Mapping[int, Any]) -> Iterator[Write]:
    """Inserts those that are new, and updates the columns that differ of the others."""
    if rows := [to_row(table, record) for key, record in new.items() if key not in old]:
        yield _insert(table), rows
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, record in new.items():
        if key in old and (values := changed(table, old[key], record)):
            by_columns.setdefault(tuple(values), []).append({_KEY: key, **values})
    for rows in by_columns.values():
        yield _update(table), rows


# Made once each: SQLAlchemy takes longer to make a statement than SQLite to execute it.


def _row_of(table: Table) -> sa.ColumnElement[bool]:
    return table.columns[0] == sa.bindparam(_KEY)


@lru_cache
def _insert(table: Table) -> sa.Executable:
    return table.insert()


@lru_cache
def _update(table: Table) -> sa.Executable:
    """Of the columns that the parameters name."""
    return table.update().where(_row_of(table))


@lru_cache
def _delete(table: Table) -> sa.Executable:
    return table.delete().where(_row_of(table))


@lru_cache
def _forget(table: Table) -> sa.Executable:
    """Deletes the rows with lower numbers."""
    return table.delete().where(table.columns[0] < sa.bindparam(_KEY))


def _answer_row(serial: int, kept: Answer) -> dict[str, Any]:
    return {
        "serial": serial,
        "request_id": kept.request_id,
        "fingerprint": kept.fingerprint,
        "answer": kept.answer,
    }
