"""A change of the store in the making: the state that it leads to, and the rows to write. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

from vcoproc import limits
from vcoproc.errors import LimitExceeded
from vcoproc_toolstack.records import (
    ACTOR,
    CoprocRecord,
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
    COPROCS_CHANGED,
    NUMBERS,
    SEATS_HELD,
    SETTINGS,
    TYPES,
    Keyed,
)
from vcoproc_toolstack.schedules import Parameters, Setting
from vcoproc_toolstack.tables import DOMAIN_FILES
from vcoproc_toolstack.view import COPROC_REVISION, Answer, KeptEvent, Select, State, View
from vcoproc_toolstack.writes import (
    Write,
    answer_writes,
    deletes,
    domain_writes,
    event_writes,
    insert,
    keyed_writes,
)

K = TypeVar("K")
R = TypeVar("R")

_VCOPROC_ID_MAX: Final = 2**32 - 1
CHANGE_COUNT: Final = "change_count"
"""Key of the number of all changes that were ever written; by it the store is known again."""


class Change(View):
    """A change in the making: all of it is kept, or nothing.

    Args:
        now_ns: Unix time, for events.
    """

    def __init__(self, state: State, select: Select, now_ns: Callable[[], int]) -> None:
        super().__init__(state, select)
        self._base = state
        self._now_ns = now_ns
        self._actor = ACTOR.get()
        self._domids: set[int] = set()
        self._keys: set[tuple[str, Any]] = set()
        self._written: list[Write] = []
        self._actions: list[Callable[[], None]] = []

    @property
    def state(self) -> State:
        """What everybody sees once the change is kept."""
        return self._state

    def write(self, *writes: Write) -> None:
        """Rows of tables that are not kept in memory; a `View` shows them once they are kept."""
        self._written += writes

    def when_kept(self, action: Callable[[], None]) -> None:
        """Has something done once the change is kept, and before anybody sees it."""
        self._actions.append(action)

    def kept(self) -> None:
        """Does what `when_kept` was told."""
        for action in self._actions:
            action()

    def happened(self, time_ns: int, actor: str) -> None:
        """The next events happened at this time, and this is who caused them."""
        self._now_ns = lambda: time_ns
        self._actor = actor

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
        """One that is not there yet, with its vcoprocs. text: the file that it was made from."""
        assert domain.domid not in self._state.names
        self._set(domain.domid, domain)
        self.write((insert(DOMAIN_FILES), [{"domid": domain.domid, "text": text}]))

    def update_domain(self, domain: DomainRecord) -> None:
        """Keeps what changes of a domain: its name, and where it is in its life.

        Its vcoprocs stay as they are but for what they have of the domain. Only events raise
        revisions: a record from before the last one does not take them back.
        """
        known = self.known_domain(domain.domid)
        vcoprocs = [
            replace(each, domain=domain.name, domain_state=domain.state, life=domain.life)
            for each in known.vcoprocs
        ]
        self._set_vcoprocs(replace(domain, revision=known.revision), vcoprocs)

    def delete_domain(self, domid: int) -> None:
        self._set(domid, None)
        self.write(*deletes(DOMAIN_FILES, {domid}))

    def add_vcoproc(self, vcoproc: VcoprocRecord) -> None:
        domain = self.known_domain(vcoproc.domid)
        new = replace(vcoproc, domain_state=domain.state)
        self._set_vcoprocs(domain, [*domain.vcoprocs, new])

    def put_vcoproc(self, vcoproc: VcoprocRecord) -> None:
        """Replaces the vcoproc of this number."""
        domain = self.known_domain(vcoproc.domid)
        others = [each for each in domain.vcoprocs if each.vcoproc_id != vcoproc.vcoproc_id]
        self._set_vcoprocs(domain, [*others, vcoproc])

    def delete_vcoproc(self, vcoproc_id: int) -> None:
        """Does nothing when there is none of this number."""
        if (vcoproc := self.vcoproc(vcoproc_id)) is not None:
            domain = self.known_domain(vcoproc.domid)
            others = [each for each in domain.vcoprocs if each.vcoproc_id != vcoproc_id]
            self._set_vcoprocs(domain, others)

    def set_domain_life(self, domid: int, life: Life) -> None:
        """Changes the domain and, with it, all its vcoprocs."""
        domain = self.known_domain(domid)
        vcoprocs = tuple(replace(vcoproc, life=life) for vcoproc in domain.vcoprocs)
        self._set(domid, replace(domain, life=life, vcoprocs=vcoprocs))

    def set_vcoproc_life(self, vcoproc_id: int, life: Life) -> None:
        self.put_vcoproc(replace(self.known_vcoproc(vcoproc_id), life=life))

    def set_vcoproc_coproc(self, vcoproc_id: int, coproc: str) -> None:
        """A vcoproc lives on another coproc from now on."""
        self.put_vcoproc(replace(self.known_vcoproc(vcoproc_id), coproc=coproc))

    def set_vcoproc_params(self, vcoproc_id: int, params: Parameters) -> None:
        self.put_vcoproc(replace(self.known_vcoproc(vcoproc_id), params=params))

    def known_domain(self, domid: int) -> DomainRecord:
        """A domain that is there, as this change leaves it so far."""
        domain = self._state.domain_of(domid)
        assert domain is not None, f"there is no domain {domid}"
        return domain

    def known_vcoproc(self, vcoproc_id: int) -> VcoprocRecord:
        """A vcoproc that is there, as this change leaves it so far."""
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

    def put_setting(self, coproc: str, setting: Setting | None) -> None:
        """Keeps how a coproc is scheduled; None: as the tree says."""
        self.put(SETTINGS, coproc, setting)

    def put_fallback_ns(self, coproc: str, time_ns: int) -> None:
        """See `fallback_ns`."""
        self.put(NUMBERS, f"fallback/{coproc}", time_ns)

    def add_hold(self, hold: Hold) -> None:
        """See `holds`."""
        self.put(SEATS_HELD, (hold.coproc, hold.vcoproc_id), hold)

    def delete_hold(self, coproc: str, vcoproc_id: int) -> None:
        """Does nothing when there is none."""
        self.put(SEATS_HELD, (coproc, vcoproc_id), None)

    def put_coproc(self, record: CoprocRecord) -> None:
        """Keeps what was changed of a coproc, if anything was."""
        nothing = record == CoprocRecord(record.name)
        self.put(COPROCS_CHANGED, record.name, None if nothing else record)

    def delete_coproc(self, name: str) -> None:
        """Forgets what was changed of a coproc, if anything was."""
        self.put(COPROCS_CHANGED, name, None)

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
            revision, name, kind, words, self._now_ns(), fault=fault, actor=self._actor
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
        if self._state is self._base and not self._written and not always:
            return []
        self.put(NUMBERS, CHANGE_COUNT, self._number(CHANGE_COUNT, 0) + 1)
        for revision in self._state.events.since(self._base.events):
            event = self._state.events[revision].event
            kept = KeptEvent(replace(event, resource=self.resource(event.name)))
            self._state = replace(self._state, events=self._state.events.replaced(revision, kept))
        return [
            *domain_writes(self._base, self._state, self._domids),
            *keyed_writes(self._base, self._state, self._keys),
            *event_writes(self._base, self._state),
            *answer_writes(self._base, self._state),
            *self._written,
        ]
