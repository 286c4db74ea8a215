"""What follows: stops domains, starts them, and goes on with what somebody else began.

Theory of operation:
    A state that lasts only a while has an `Ending`, kept with the domain: what is to follow, and
    who waits for an answer. Whoever began it goes on with it; when that caller, or the whole
    toolstack, is gone, the repair thread does (`go_on`).
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from vcoproc.errors import NotFound, PeerError, StoreUnavailable, VcoprocError, WrongState
from vcoproc.model.domain_state import DomainState, DomainVerb, after
from vcoproc_toolstack.changes import Changes, DomainSeal
from vcoproc_toolstack.plans import domain_steps, resume_steps
from vcoproc_toolstack.records import DomainRecord, Ending, EventKind, Life, Then
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.store import Change
from vcoproc_toolstack.turns import Request

NO_REQUEST: Final = Request("", b"")
_DOMAIN: Final = "domain/"


def domain_mark(domid: int) -> str:
    """What the repair thread knows a domain by that somebody has to go on with."""
    return f"{_DOMAIN}{domid}"


def marked_domain(mark: str) -> int | None:
    """The domid of such a mark; None for one of a service."""
    return int(mark.removeprefix(_DOMAIN)) if mark.startswith(_DOMAIN) else None


class Endings:
    """Everything but `go_on` is to be called within a turn.

    Args:
        seal: makes the answer about a domain.
    """

    def __init__(self, changes: Changes, seal: DomainSeal) -> None:
        self._changes = changes
        self._store = changes.store
        self._seal = seal
        self._attended: Counter[int] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def attending(self, domid: int) -> Iterator[None]:
        """Somebody works on a domain whose state lasts only a while; ends outside of the turn.

        When that ends with an error, the repair goes on with it.
        """
        with self._lock:
            self._attended[domid] += 1
        ended_well = False
        try:
            yield
            ended_well = True
        finally:
            with self._lock:
                self._attended[domid] -= 1
            if not ended_well:
                self._changes.mark(domain_mark(domid))

    def go_on(self, domid: int) -> bool:
        """Goes on with a domain that nobody attends to. False: it must be tried again later.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        with self._changes.exclusive():
            domain = self._read(domid)
            with self._lock:
                attended = self._attended[domid] > 0
            # What is half done is for the repair of the store, which marks the domain again.
            if domain is None or domain.life is not Life.ALIVE or domain.ending is None or attended:
                return True
            if domain.state is DomainState.SAVING:
                self.go_on_unsaved(domain)
            else:
                self.end(domain, domain.ending)
            domain = self._read(domid)
            return domain is None or domain.ending is None

    def end(self, domain: DomainRecord, ending: Ending) -> bytes:
        """Ends a domain that shuts down, or starts one again that was to be; gives the answer.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        if domain.state is DomainState.STOPPED:
            return self._start_again(domain, ending)
        return self.follow(domain, ending, "shut down")

    def follow(
        self,
        domain: DomainRecord,
        ending: Ending,
        words: str,
        kind: EventKind = EventKind.CHANGED,
    ) -> bytes:
        """Unmakes what runs of a domain, and does what is to follow; gives the answer.

        Args:
            words: why, for people.
            kind: of the event that tells it.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        request = Request(ending.request_id, ending.fingerprint)
        if ending.then is Then.DESTROY:
            gone = domain.become(domain.state, words, life=Life.DESTROYING)
            return self._changes.destroy(
                domain, request, self._seal(gone), words, faulted=kind is EventKind.FAULTED
            )
        if ending.then is Then.RESTART:
            words = f"{words}; is started again once that is possible"
            stopped = self._decide_stop(domain, words, NO_REQUEST, ending, kind)
            self._changes.finish_stop(stopped)
            return self._start_again(stopped, ending)
        stopped = self._decide_stop(domain, words, request, kind=kind)
        with contextlib.suppress(StoreUnavailable):  # it is decided, and the repair knows
            self._changes.finish_stop(stopped)
        return self._seal(stopped)

    def stop(self, domain: DomainRecord, words: str) -> DomainRecord:
        """Takes everything from a domain but its name, numbers and places; gives what is left.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        stopped = self._decide_stop(domain, words, NO_REQUEST)
        self._changes.finish_stop(stopped)
        return stopped

    def _decide_stop(
        self,
        domain: DomainRecord,
        words: str,
        request: Request,
        ending: Ending | None = None,
        kind: EventKind = EventKind.CHANGED,
    ) -> DomainRecord:
        """From here on a domain is STOPPED, whoever dies. ending: what is to follow then."""
        state = after(domain.state, DomainVerb.STOP)
        stopped = replace(domain.become(state, words), ending=ending)
        with self._changes.change() as change:
            self.become(change, stopped, request, words, kind)
            stopped = change.known_domain(domain.domid)
            change.set_domain_life(domain.domid, Life.STOPPING)
        return stopped

    def start(self, domain: DomainRecord, request: Request, words: str) -> bytes:
        """Starts a STOPPED domain; gives the answer.

        Raises:
            VcoprocError: a service refuses, or does not answer, and it is STOPPED as before.
        """
        changes = self._changes
        own = set(domain.files())
        with self._store.read() as view:
            holds = [hold for hold in view.holds() if own & set(hold.files)]
            coprocs = changes.coprocs(view)
        changes.release(holds)
        running = replace(domain.become(after(domain.state, DomainVerb.START)), ending=None)
        with self._changes.change() as change:
            changes.check_memory(change, domain.memory_bytes)
            names = {vcoproc.coproc for vcoproc in domain.vcoprocs} & coprocs.keys()
            changes.check_coproc_memory(change, [(running, coprocs[name]) for name in names])
            change.set_domain_life(domain.domid, Life.STARTING)
        return changes.carry_out(
            Saga(domain_steps(running, coprocs)),
            lambda change: self.become(change, running, request, words),
            undone=lambda change: change.update_domain(domain),
        )

    def _start_again(self, domain: DomainRecord, ending: Ending) -> bytes:
        request = Request(ending.request_id, ending.fingerprint)
        try:
            return self.start(domain, request, "started again")
        except StoreUnavailable:
            self._changes.mark(domain_mark(domain.domid))
            raise
        except PeerError as error:
            self._changes.log.warning("is started later", name=domain.resource, why=str(error))
            self._changes.mark(domain_mark(domain.domid))
            # It has its answer then: it waits. Nobody waits for another one.
            waits = replace(domain, ending=Ending(ending.then))
            with self._changes.change() as change:
                change.update_domain(waits)
                return self._changes.keep(
                    change, request, self._seal(change.known_domain(domain.domid))
                )
        except VcoprocError as error:
            words = f"could not be started again: {error}"
            given_up = replace(domain.become(domain.state, words), ending=None)
            with self._changes.change() as change:
                return self.become(change, given_up, request, words)

    def go_on_unsaved(self, domain: DomainRecord) -> None:
        """Lets a domain be again what it was before it was to be saved.

        Raises:
            StoreUnavailable: see `Turns.change`.
        """
        assert domain.ending is not None
        verb = DomainVerb.GO_ON if domain.ending.then is Then.GO_ON else DomainVerb.STAY_PAUSED
        new = replace(domain.become(after(domain.state, verb)), ending=None)
        self._changes.carry_out(
            Saga((), [] if new.held else resume_steps(domain)),
            lambda change: self.become(change, new, NO_REQUEST, "was not saved"),
        )

    def still(self, domain: DomainRecord) -> DomainRecord:
        """The same domain, if nobody has done anything else with it meanwhile.

        Raises:
            NotFound, WrongState: somebody has.
        """
        now = self._read(domain.domid)
        if now is None or now.create_time_ns != domain.create_time_ns:
            raise NotFound("domain", domain.name)
        if now.life is not Life.ALIVE:
            raise WrongState(f"domain {now.name!r}", now.life.value, domain.state.value)
        if (now.state, now.ending) != (domain.state, domain.ending):
            raise WrongState(f"domain {now.name!r}", now.state.value, domain.state.value)
        return now

    def become(
        self,
        change: Change,
        domain: DomainRecord,
        request: Request,
        words: str,
        kind: EventKind = EventKind.CHANGED,
    ) -> bytes:
        """Keeps a new state of a domain, tells everybody, and gives the answer."""
        change.update_domain(domain)
        change.add_event(domain.resource, kind, f"{domain.state.value}: {words}")
        kept = change.known_domain(domain.domid)
        return self._changes.keep(change, request, self._seal(kept))

    def _read(self, domid: int) -> DomainRecord | None:
        with self._store.read() as view:
            return view.domain_of(domid)
