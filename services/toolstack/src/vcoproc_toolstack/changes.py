"""Creates and destroys domains and vcoprocs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.config import CoprocConfig, DomainConfig, parse_domain
from vcoproc.config.records import FIRST_DOMAIN
from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    StoreUnavailable,
    WrongState,
)
from vcoproc.model.domain_state import DomainState, DomainVerb, after
from vcoproc_toolstack.capacity import check_memory, has_memory
from vcoproc_toolstack.placing import (
    NewVcoproc,
    check_room,
    parse_spec,
    place_domain,
    place_vcoproc,
)
from vcoproc_toolstack.plans import domain_steps, removal_steps, vcoproc_steps
from vcoproc_toolstack.records import DomainRecord, EventKind, Life, Then, VcoprocRecord
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.store import Change, View
from vcoproc_toolstack.turns import Request, Turns, held_files, wanted_files

DomainSeal = Callable[[DomainRecord], bytes]
"""Makes the answer about a domain, which is kept for a repeated request."""
VcoprocSeal = Callable[[VcoprocRecord], bytes]
_UNNUMBERED = 0
"""Number of what is only looked at, or not numbered yet."""
_VERBS_OF_FIRST = frozenset(
    {
        DomainVerb.ATTACH,
        DomainVerb.DETACH,
        DomainVerb.MOVE,
        DomainVerb.SAVE_VCOPROC,
        DomainVerb.LOAD_VCOPROC,
    }
)
"""What may be done with the first domain, as with Xen's: its life is that of the system."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A vcoproc that is to be no more. words: why, for its event."""

    domain: DomainRecord
    vcoproc: VcoprocRecord
    words: str


class Changes(Turns):
    """Creates and destroys domains and vcoprocs. See `Turns`."""

    def create_domain(
        self,
        text: str,
        file_name: str,
        request: Request,
        seal: DomainSeal,
        *,
        stopped: bool = False,
    ) -> bytes:
        """Makes a domain with its memory and all its vcoprocs, or nothing at all.

        Args:
            text: of the domain's file.
            stopped: it gets numbers and places, and nothing else yet.

        Raises:
            VcoprocError: it is refused, or a service does not answer; nothing is left of it.
        """
        config = parse_domain(text, file_name)
        with self.turn(each.coproc for each in config.vcoprocs):
            if (answer := self.answered(request)) is not None:
                return answer
            with self.change() as change:
                domain = self.number(
                    change, self.plan_domain(change, config, _first_state(stopped))
                )
                change.add_domain(domain, text)
                if stopped:
                    return self.created(change, domain, request, seal)
                coprocs = self.coprocs(change)
            return self.carry_out(
                Saga(domain_steps(domain, coprocs)),
                lambda change: self.created(change, domain, request, seal),
                undone=lambda change: change.delete_domain(domain.domid),
            )

    def check_domain(self, text: str, file_name: str, *, stopped: bool = False) -> DomainRecord:
        """The domain that `create_domain` would make, without numbers. Raises the same."""
        config = parse_domain(text, file_name)
        self.wait_for_coprocs(each.coproc for each in config.vcoprocs)
        with self.store.read() as view:
            domain = self.plan_domain(view, config, _first_state(stopped))
        ordered = sorted(domain.vcoprocs, key=lambda vcoproc: vcoproc.name)
        return replace(domain.become(domain.state), vcoprocs=tuple(ordered))

    def plan_domain(
        self, view: View, config: DomainConfig, state: DomainState, *, first: bool = False
    ) -> DomainRecord:
        """A new domain in its places, but without numbers and secrets.

        Args:
            first: it is the first domain; no other one gets its name.

        Raises:
            RequestError: there is one of that name, or no room, or something cannot be used.
        """
        if not first:
            refuse_first_name("name", config.name)
        if existing := view.domain(config.name):
            if existing.life is Life.ALIVE:
                raise AlreadyExists("domain", config.name)
            raise WrongState(f"domain {config.name!r}", existing.life.value, "a name that is free")
        if view.domain_count() >= limits.DOMAINS_MAX:
            raise LimitExceeded("domains", limits.DOMAINS_MAX)
        new = place_domain(config, self.leases.system, self.leases.platform)
        self.check_room(view, new)
        domain = DomainRecord(
            domid=_UNNUMBERED,
            name=config.name,
            life=Life.CREATING,
            memory_bytes=config.memory_bytes,
            irq_credential=b"",
            unknown_keys=tuple(sorted({key for key, _line in config.unknown_keys})),
            vcoprocs=tuple(each.record(_UNNUMBERED, _UNNUMBERED, config.name, b"") for each in new),
            on_poweroff=Then(config.on_poweroff),
            on_crash=Then(config.on_crash),
        ).become(state, life=Life.CREATING)
        if state is not DomainState.STOPPED:
            self.check_memory(view, config.memory_bytes)
            self.check_coproc_memory(view, [(domain, each.coproc) for each in new])
        return domain

    def number(
        self, change: Change, domain: DomainRecord, domid: int | None = None
    ) -> DomainRecord:
        """The same with numbers and secrets, which nobody else has. domid: the one to be used."""
        if domid is None:
            domid = change.next_domid()
        return replace(
            domain,
            domid=domid,
            create_time_ns=change.now_ns(),
            irq_credential=self.secret(),
            vcoprocs=tuple(self._numbered(change, each, domid) for each in domain.vcoprocs),
        )

    def _numbered(self, change: Change, vcoproc: VcoprocRecord, domid: int) -> VcoprocRecord:
        return replace(
            vcoproc,
            vcoproc_id=change.next_vcoproc_id(),
            domid=domid,
            trap_credential=self.secret(),
        )

    def created(
        self, change: Change, domain: DomainRecord, request: Request, seal: DomainSeal
    ) -> bytes:
        """A new domain is complete: keeps that, tells everybody, and gives the answer."""
        change.set_domain_life(domain.domid, Life.ALIVE)
        change.add_event(domain.resource, EventKind.CREATED, made_words(domain))
        # As everybody will see it from now on.
        made = change.domain_of(domain.domid)
        assert made is not None
        return self.keep(change, request, seal(made))

    def destroy_domain(self, name: str, request: Request) -> bytes:
        """Unmakes a domain, whatever its state. Services that do not answer are told later.

        Raises:
            NotFound: there is no such domain.
            WrongState: it is the first domain.
        """
        with self.turn(self.coprocs_of(name)):
            if (answer := self.answered(request)) is not None:
                return answer
            with self.store.read() as view:
                domain = view.domain(name)
            if domain is None:
                raise NotFound("domain", name)
            if domain.domid == limits.DOMID_FIRST and self.leases.set.tree.first_domain is not None:
                raise WrongState(f"domain {name!r}", "what the system's tree asks for", "another")
            return self.destroy(domain, request, b"", "destroyed")

    def destroy(
        self,
        domain: DomainRecord,
        request: Request,
        answer: bytes,
        words: str,
        *,
        faulted: bool = False,
    ) -> bytes:
        """Unmakes a domain within a turn. words: for the events. faulted: tells that first."""
        with self.change() as change:
            change.set_domain_life(domain.domid, Life.DESTROYING)
            if faulted:
                change.add_event(domain.resource, EventKind.FAULTED, words)
            self.keep(change, request, answer)
        with contextlib.suppress(StoreUnavailable):  # it is decided, and the repair knows
            self.finish_destruction(domain, words)
        return answer

    def finish_destruction(self, domain: DomainRecord, words: str) -> None:
        """Takes everything from a domain that is to be no more.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """

        def finished(change: Change) -> None:
            change.delete_domain(domain.domid)
            change.add_event(domain.resource, EventKind.DESTROYED, words)

        bare = domain.life is Life.ALIVE and domain.state is DomainState.STOPPED
        self.finish([] if bare else removal_steps(domain, kept=self.held_files()), finished)

    def finish_stop(self, domain: DomainRecord) -> None:
        """Takes everything from a domain that is STOPPED from now on, but what a STOPPED one has.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        steps = removal_steps(domain, kept=self.held_files())
        stopped = domain.become(domain.state, domain.state_reason)
        self.finish(steps, lambda change: change.update_domain(stopped))

    def create_vcoproc(
        self, domain_name: str, spec: str, request: Request, seal: VcoprocSeal
    ) -> bytes:
        """Attaches one more vcoproc to a domain, or changes nothing. As `create_domain`."""
        with self.turn([parse_spec(spec).coproc]):
            if (answer := self.answered(request)) is not None:
                return answer
            with self.change() as change:
                domain, planned = self._plan_vcoproc(change, domain_name, spec)
                vcoproc = self._numbered(change, planned, domain.domid)
                change.add_vcoproc(vcoproc)
                if not domain.placed:
                    return self._attached(change, vcoproc, request, seal)
                coprocs = self.coprocs(change)
            return self.carry_out(
                Saga(vcoproc_steps(domain, vcoproc, coprocs)),
                lambda change: self._attached(change, vcoproc, request, seal),
                undone=lambda change: change.delete_vcoproc(vcoproc.vcoproc_id),
            )

    def check_vcoproc(self, domain_name: str, spec: str) -> VcoprocRecord:
        """The vcoproc that `create_vcoproc` would make, without its number. Raises the same."""
        self.wait_for_coprocs([parse_spec(spec).coproc])
        with self.store.read() as view:
            _, vcoproc = self._plan_vcoproc(view, domain_name, spec)
        return replace(vcoproc, life=Life.ALIVE)

    def _plan_vcoproc(
        self, view: View, domain_name: str, spec: str
    ) -> tuple[DomainRecord, VcoprocRecord]:
        domain = need_domain(view, domain_name, DomainVerb.ATTACH)
        new = place_vcoproc(domain, spec, self.leases.system, self.leases.platform)
        self.check_room(view, [new])
        self.check_coproc_memory(view, [(domain, new.coproc)])
        record = new.record(_UNNUMBERED, domain.domid, domain.name, b"")
        return domain, replace(record, domain_state=domain.state)

    def _attached(
        self, change: Change, vcoproc: VcoprocRecord, request: Request, seal: VcoprocSeal
    ) -> bytes:
        change.set_vcoproc_life(vcoproc.vcoproc_id, Life.ALIVE)
        words = f"attached to coproc {vcoproc.coproc}"
        change.add_event(vcoproc.resource, EventKind.CREATED, words)
        attached = change.vcoproc(vcoproc.vcoproc_id)
        assert attached is not None
        return self.keep(change, request, seal(attached))

    def destroy_vcoproc(self, domain_name: str, name: str, request: Request) -> bytes:
        """Detaches a vcoproc. As `destroy_domain`."""
        with self.turn(self.coprocs_of(domain_name)):
            if (answer := self.answered(request)) is not None:
                return answer
            with self.change() as change:
                domain = need_domain(change, domain_name, DomainVerb.DETACH)
                vcoproc = need_vcoproc(domain, name)
                change.set_vcoproc_life(vcoproc.vcoproc_id, Life.DESTROYING)
                self.keep(change, request, b"")
            with contextlib.suppress(StoreUnavailable):  # it is decided, and the repair knows
                self.finish_detachments([Leaving(domain, vcoproc, "detached")])
            return b""

    def finish_detachments(self, leaving: Sequence[Leaving]) -> None:
        """Takes everything from vcoprocs that are to be no more. Who falls silent is asked once.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """

        def finished(change: Change) -> None:
            for each in leaving:
                change.delete_vcoproc(each.vcoproc.vcoproc_id)
                change.add_event(each.vcoproc.resource, EventKind.DESTROYED, each.words)

        kept = self.held_files()
        placed = [each for each in leaving if each.domain.state is not DomainState.STOPPED]
        steps = [s for each in placed for s in removal_steps(each.domain, each.vcoproc, kept)]
        self.finish(steps, finished)

    def check_room(self, view: View, new: list[NewVcoproc]) -> None:
        """Raises: LimitExceeded (a coproc would have too many vcoprocs)."""
        by_name = {each.coproc.name: each.coproc for each in new}
        check_room(
            new,
            view.counts(),
            lambda name: self.leases.platform(by_name[name]).contexts_max,
        )

    def check_coproc_memory(
        self, view: View, wanted: Iterable[tuple[DomainRecord, CoprocConfig]]
    ) -> None:
        """Refuses domains on coprocs that may not have as much memory.

        Args:
            wanted: domains, each with a coproc that it gets a vcoproc on. STOPPED ones have none.

        Raises:
            LimitExceeded: one of the coprocs may have less.
        """
        check_memory([pair for pair in wanted if has_memory(pair[0])], view.domains)

    def check_memory(self, view: View, more_bytes: int) -> None:
        """Raises: LimitExceeded (there is not as much memory for one more domain)."""
        held = held_files(view)
        if held:  # seldom; what everybody wants is a long list
            held -= wanted_files(view)
        self.memory.check_room(view.memory_bytes() + more_bytes, held)


def need_domain(view: View, name: str, verb: DomainVerb) -> DomainRecord:
    """A domain that a verb fits.

    Raises:
        NotFound: there is none of that name.
        WrongState: it does not fit its state, or the first domain; or it is not complete just now.
    """
    domain = view.domain(name)
    if domain is None:
        raise NotFound("domain", name)
    if domain.domid == limits.DOMID_FIRST and verb not in _VERBS_OF_FIRST:
        raise WrongState(f"domain {name!r}", "the first domain", "another one")
    for what, life in [
        (f"domain {name!r}", domain.life),
        *((f"vcoproc {name}/{each.name}", each.life) for each in domain.vcoprocs),
    ]:
        if life is not Life.ALIVE:
            raise WrongState(what, life.value, Life.ALIVE.value)
    after(domain.state, verb, f"domain {name!r}")
    return domain


def refuse_first_name(field: str, name: str) -> None:
    """Raises: InvalidArgument (the name is kept for the first domain)."""
    if name == FIRST_DOMAIN:
        raise InvalidArgument(field, f"{name} is the first domain's, which the system's tree makes")


def need_vcoproc(domain: DomainRecord, name: str) -> VcoprocRecord:
    """Raises: NotFound."""
    for vcoproc in domain.vcoprocs:
        if vcoproc.name == name:
            return vcoproc
    raise NotFound("vcoproc", f"{domain.name}/{name}")


def _first_state(stopped: bool) -> DomainState:
    verb = DomainVerb.CREATE_STOPPED if stopped else DomainVerb.CREATE
    return after(DomainState.ABSENT, verb)


def made_words(domain: DomainRecord) -> str:
    """A new domain, for its event."""
    count = len(domain.vcoprocs)
    words = f"domid {domain.domid}, {domain.memory_bytes} bytes, {count} vcoprocs"
    return words if domain.state is DomainState.RUNNING else f"{words}, {domain.state.value}"
