"""The verbs of a domain that exists: start, pause, resume, shut down, crash, rename.

Theory of operation:
    Pausing, resuming and starting are sagas with a commit at their end: they happen whole or not at
    all. Shutting down, crashing and renaming are decided first and then done, as far as services
    answer; the repairs do the rest.
Not handled:
    Whether drivers take part in a shutdown: it is over when all vcoprocs of the domain sleep.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from vcoproc import limits
from vcoproc.errors import AlreadyExists, LimitExceeded, PeerLost, VcoprocError
from vcoproc.model.domain_state import DomainState, DomainVerb, after
from vcoproc_toolstack.changes import Changes, DomainSeal, need_domain, refuse_first_name
from vcoproc_toolstack.endings import Endings
from vcoproc_toolstack.plans import pause_steps, rename_steps, resume_steps
from vcoproc_toolstack.records import DomainRecord, Ending, EventKind, Then, VcoprocState
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.store import Change
from vcoproc_toolstack.turns import Request

_ASLEEP: Final = frozenset({VcoprocState.SLEEPING, VcoprocState.FAULTED})


class Lifecycle:
    """Changes the state of domains.

    Args:
        seal: makes the answer about a domain.
    """

    def __init__(self, changes: Changes, endings: Endings, seal: DomainSeal) -> None:
        self._changes = changes
        self._store = changes.store
        self._endings = endings
        self._seal = seal
        self._places = threading.BoundedSemaphore(limits.SHUTDOWNS_MAX)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends the waiting of shutdowns; the next toolstack goes on with them."""
        self._stopping.set()

    def pause(self, name: str, request: Request) -> bytes:
        """Takes a domain off its coprocs, or changes nothing.

        Raises:
            NotFound, WrongState: there is none, or it cannot be paused.
            PeerError: a service does not answer.
        """
        return self._switch(name, DomainVerb.PAUSE, request, "paused")

    def resume(self, name: str, request: Request) -> bytes:
        """Lets a paused domain go on, or changes nothing. Raises: as `pause`."""
        return self._switch(name, DomainVerb.RESUME, request, "goes on")

    def _switch(self, name: str, verb: DomainVerb, request: Request, words: str) -> bytes:
        with self._changes.turn(self._changes.coprocs_of(name)):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            domain = self._need(name, verb)
            new = domain.become(after(domain.state, verb))
            if new.state is domain.state:
                return self._answer(domain, request)
            steps = pause_steps(domain) if new.held else resume_steps(domain)
            return self._changes.carry_out(
                Saga(steps), lambda change: self._endings.become(change, new, request, words)
            )

    def start(self, name: str, request: Request) -> bytes:
        """Gives a domain new memory and new contexts; or leaves it STOPPED.

        Raises:
            NotFound, WrongState: there is none, or it cannot be started.
            VcoprocError: a service refuses, or does not answer.
        """
        with self._changes.turn(self._changes.coprocs_of(name)):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            domain = self._need(name, DomainVerb.START)
            for vcoproc in domain.vcoprocs:  # before what a crashed one has is given up
                self._changes.leases.need(vcoproc.coproc)
            if domain.state is DomainState.CRASHED:
                domain = self._endings.stop(domain, "is started anew")
            return self._endings.start(domain, request, "started")

    def rename(self, name: str, new_name: str, request: Request) -> bytes:
        """Gives a domain another name.

        Raises:
            NotFound, WrongState: there is none, or it cannot be renamed now.
            AlreadyExists: the name is another one's.
        """
        with self._changes.turn(self._changes.coprocs_of(name)):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            domain = self._need(name, DomainVerb.RENAME)
            refuse_first_name("new_name", new_name)
            if new_name == name:
                return self._answer(domain, request)
            with self._store.read() as view:
                if view.domain(new_name):
                    raise AlreadyExists("domain", new_name)
            renamed = domain.renamed(new_name)

            def commit(change: Change) -> bytes:
                change.update_domain(renamed)
                old, new = domain.resource, renamed.resource
                change.add_event(old, EventKind.DESTROYED, f"is {new} from now on")
                change.add_event(new, EventKind.CREATED, f"was {old} until now")
                kept = change.known_domain(domain.domid)
                return self._changes.keep(change, request, self._seal(kept))

            steps = rename_steps(renamed) if domain.placed else []
            return self._changes.carry_out(Saga((), steps), commit)

    def crash(self, name: str, why: str, request: Request) -> bytes:
        """Takes a domain that has crashed off its coprocs at once, and does what its file says.

        Args:
            why: for people; may be empty.

        Raises:
            NotFound, WrongState: there is none, or it is not running.
        """
        words = f"crashed: {why}" if why else "crashed"
        with self._changes.turn(self._changes.coprocs_of(name)):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            domain = self._need(name, DomainVerb.CRASH)
            if domain.state is DomainState.CRASHED:
                return self._answer(domain, request)
            crashed = replace(
                domain.become(after(domain.state, DomainVerb.CRASH), why), ending=None
            )
            if domain.on_crash is not Then.PRESERVE:
                ending = Ending(domain.on_crash, request.request_id, request.fingerprint)
                return self._endings.follow(crashed, ending, words, EventKind.FAULTED)
            return self._changes.carry_out(
                Saga((), pause_steps(domain)),
                lambda change: self._endings.become(
                    change, crashed, request, words, EventKind.FAULTED
                ),
            )

    def shut_down(self, name: str, timeout_ns: int, request: Request) -> bytes:
        """Ends a domain in good order, and does what its file says is to follow.

        Args:
            timeout_ns: how long its vcoprocs may go on until they sleep.

        Raises:
            NotFound, WrongState: there is none, or it cannot be shut down; or somebody did
                something else with it meanwhile.
            PeerLost: this toolstack ends; the next one goes on.
        """
        if not self._places.acquire(blocking=False):
            raise LimitExceeded("shutdowns at the same time", limits.SHUTDOWNS_MAX)
        try:
            with ExitStack() as attended:
                with self._changes.turn(self._changes.coprocs_of(name)):
                    if (answer := self._changes.answered(request)) is not None:
                        return answer
                    domain = self._begin_shutdown(name, request)
                    attended.enter_context(self._endings.attending(domain.domid))
                if timeout_ns:
                    self._wait_until_asleep(domain, timeout_ns)
                with self._changes.turn():
                    if (answer := self._changes.answered(request)) is not None:
                        return answer  # the same request was repeated, and faster
                    assert domain.ending is not None
                    return self._endings.end(self._endings.still(domain), domain.ending)
        finally:
            self._places.release()

    def _begin_shutdown(self, name: str, request: Request) -> DomainRecord:
        with self._changes.change() as change:
            domain = change.domain(name)
            if domain is not None and _is_same(domain, request):
                return domain
            domain = need_domain(change, name, DomainVerb.SHUT_DOWN)
            state = after(domain.state, DomainVerb.SHUT_DOWN)
            ending = Ending(domain.on_poweroff, request.request_id, request.fingerprint)
            new = replace(domain.become(state), ending=ending)
            change.update_domain(new)
            change.add_event(new.resource, EventKind.CHANGED, f"{state.value}: was told to")
            return new

    def _wait_until_asleep(self, domain: DomainRecord, timeout_ns: int) -> None:
        deadline_ns = time.monotonic_ns() + timeout_ns
        while not self._asleep(domain):
            left_ns = min(deadline_ns - time.monotonic_ns(), limits.SHUTDOWN_LOOK_NS)
            if left_ns <= 0:
                return
            if self._stopping.wait(left_ns / limits.S):
                raise PeerLost("toolstack")

    def _asleep(self, domain: DomainRecord) -> bool:
        """Whether there is nothing to wait for: none of it runs, or it does not shut down now."""
        with self._store.read() as view:
            now = view.domain_of(domain.domid)
        if now is None or now.state is not DomainState.SHUTTING_DOWN:
            return True
        for coproc in sorted({vcoproc.coproc for vcoproc in now.vcoprocs}):
            try:
                held = self._changes.services.coproc(coproc, limits.ACCOUNTS_TIMEOUT_NS)
            except VcoprocError:
                return False
            states = dict(held.vcoprocs)
            own = [states[v.vcoproc_id] for v in now.vcoprocs if v.vcoproc_id in states]
            if not _ASLEEP.issuperset(own):
                return False
        return True

    def _need(self, name: str, verb: DomainVerb) -> DomainRecord:
        with self._store.read() as view:
            return need_domain(view, name, verb)

    def _answer(self, domain: DomainRecord, request: Request) -> bytes:
        """The answer when there is nothing to do."""
        with self._changes.change() as change:
            return self._changes.keep(change, request, self._seal(domain))


def _is_same(domain: DomainRecord, request: Request) -> bool:
    """Whether it was this very request that a domain shuts down for."""
    ending = domain.ending
    return (
        domain.state is DomainState.SHUTTING_DOWN
        and ending is not None
        and bool(request.request_id)
        and (ending.request_id, ending.fingerprint) == (request.request_id, request.fingerprint)
    )
