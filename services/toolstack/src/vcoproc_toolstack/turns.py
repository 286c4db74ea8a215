"""One change at a time, each complete or undone: what all kinds of changes have in common."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig
from vcoproc.errors import (
    LimitExceeded,
    NotFound,
    PeerError,
    StoreUnavailable,
    VcoprocError,
)
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.ports import Services
from vcoproc_toolstack.records import Hold, Life
from vcoproc_toolstack.saga import (
    Commit,
    Outcome,
    Saga,
    SagaState,
    StepDone,
    StepFailed,
)
from vcoproc_toolstack.schedules import with_settings
from vcoproc_toolstack.steps import MEMORY, STORE, DetachVcoproc, Step, service_of
from vcoproc_toolstack.store import Change, Store, View

CREDENTIAL_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a change idempotent. request_id: empty when it need not be.

    fingerprint: tells two requests with one id apart.
    """

    request_id: str
    fingerprint: bytes


def _nothing(_change: Change) -> None:
    """The store says already what it is to say."""


class Turns:
    """Carries changes out, one after the other.

    Args:
        mark: is told which service has something left to repair (a name as of `steps.service_of`).
        secret: makes credentials.
        lease_wait_ns: how long a new vcoproc waits for its coproc to be leased.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        services: Services,
        memory: MemoryDir,
        log: Log,
        *,
        mark: Callable[[str], None],
        secret: Callable[[], bytes] = lambda: secrets.token_bytes(CREDENTIAL_BYTES),
        lease_wait_ns: int = limits.LEASE_WAIT_NS,
    ) -> None:
        self.store = store
        self.leases = leases
        self.services = services
        self.memory = memory
        self.log = log
        self.mark = mark
        self.secret = secret
        self._lease_wait_ns = lease_wait_ns
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(limits.CHANGES_WAITING_MAX)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No change is under way inside, and none is in doubt.

        Raises:
            StoreUnavailable: nobody can find out yet what became of the last one.
        """
        with self._lock:
            self.store.find_out()
            yield

    @contextmanager
    def turn(self, coprocs: Iterable[str] = ()) -> Iterator[None]:
        """One change alone. coprocs: references; those that restart just now are waited for.

        Raises:
            LimitExceeded: too many wait already.
            StoreUnavailable: as of `exclusive`.
        """
        if not self._waiting.acquire(blocking=False):
            raise LimitExceeded("changes at the same time", limits.CHANGES_WAITING_MAX)
        try:
            self.wait_for_coprocs(coprocs)
            with self.exclusive():
                yield
        finally:
            self._waiting.release()

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A change of the store. When that fails, the repair looks what the store says.

        Raises:
            StoreUnavailable: it failed; the change may have been kept all the same.
        """
        try:
            with self.store.change() as change:
                yield change
        except StoreUnavailable as error:
            self.log.error("a change is not kept for sure", why=str(error))
            self.mark(STORE)
            raise

    def answered(self, request: Request) -> bytes | None:
        """The answer that a repeated request got the first time; None for a new one."""
        if not request.request_id:
            return None
        with self.store.read() as view:
            return view.answer(request.request_id, request.fingerprint)

    def keep(self, change: Change, request: Request, answer: bytes) -> bytes:
        """Keeps an answer for a repetition of the request, and gives it.

        Not when the id has been used for another request while this one waited: a repetition is
        refused then.
        """
        if request.request_id and not change.has_answer(request.request_id):
            change.add_answer(request.request_id, request.fingerprint, answer)
        return answer

    def carry_out(
        self,
        saga: Saga,
        commit: Callable[[Change], bytes],
        *,
        undone: Callable[[Change], None] = _nothing,
        finished: Callable[[Change], None] = _nothing,
    ) -> bytes:
        """Performs a change, all of it or nothing; gives its answer.

        Args:
            commit: makes it be what is desired, in one transaction, and gives the answer.
            undone: what the store is to say once everything was undone.
            finished: what the store is to say once the rest was done too, as far as it could.

        Raises:
            VcoprocError: why it was undone; or the store failed, and the repair will look what it
                says.
        """
        answers: list[bytes] = []

        def transaction() -> None:
            with self.change() as change:
                answer = commit(change)
            answers.append(answer)

        self._walk(saga, transaction)
        if saga.state is SagaState.IN_DOUBT:
            self._mark_all(saga.steps)
        elif answers:
            with contextlib.suppress(StoreUnavailable):  # it is done, and the repair knows
                self.conclude(saga, finished)
            return answers[0]
        else:
            self.conclude(saga, undone)
        assert saga.error is not None
        raise saga.error

    def finish(self, steps: Sequence[Step], finished: Callable[[Change], None] = _nothing) -> None:
        """Performs what is left of a change that was committed before.

        Raises:
            StoreUnavailable: see `change`.
        """
        saga = Saga.finishing(steps)
        self._walk(saga, lambda: None)
        self.conclude(saga, finished)

    def conclude(self, saga: Saga, note: Callable[[Change], None]) -> None:
        """Tells the store the end of a saga, and who may still reach memory.

        Raises:
            StoreUnavailable: see `change`.
        """
        holds = [
            Hold(step.coproc, step.vcoproc_id, step.files)
            for step, _ in saga.leftovers
            if isinstance(step, DetachVcoproc)
        ]
        if note is _nothing and not holds:
            return
        with self.change() as change:
            note(change)
            for hold in holds:
                change.add_hold(hold)

    def release(self, holds: Iterable[Hold], *, moved: bool = False) -> None:
        """Takes vcoprocs from coproc-sims that may have them although they are not to.

        Args:
            moved: they live on elsewhere, and their drivers are told so.

        Raises:
            VcoprocError: one of them does not answer; it may have it still.
        """
        for hold in holds:
            self.services.perform(DetachVcoproc(hold.coproc, hold.vcoproc_id, moved))
            self.forget_holds([hold])

    def forget_holds(self, holds: Sequence[Hold]) -> None:
        """These coproc-sims do not have these vcoprocs any more: releases what nobody reaches."""
        with self.store.read() as view:
            others = {name for hold in view.holds() if hold not in holds for name in hold.files}
            kept = wanted_files(view) | others
        # Before the store forgets them: nobody would know of the files afterwards.
        for name in sorted({name for hold in holds for name in hold.files} - kept):
            self.memory.remove(name)
        with self.change() as change:
            for hold in holds:
                change.delete_hold(hold.coproc, hold.vcoproc_id)

    def held_files(self) -> set[str]:
        """See the function of that name."""
        with self.store.read() as view:
            return held_files(view)

    def coprocs(self, view: View) -> dict[str, CoprocConfig]:
        """All coprocs that there are, as they are to be scheduled now."""
        return with_settings(self.leases.coprocs, view.settings())

    def coprocs_of(self, domain_name: str) -> list[str]:
        """Coprocs that a domain has vcoprocs on, as far as they are still there."""
        with self.store.read() as view:
            domain = view.domain(domain_name)
        found = {vcoproc.coproc for vcoproc in domain.vcoprocs} if domain else set()
        return sorted(found & self.leases.coprocs.keys())

    def _walk(self, saga: Saga, commit: Callable[[], None]) -> None:
        """Performs a saga to its end. Once there is no way but on, or back, nobody who fell silent
        is asked again."""
        silent: dict[str, VcoprocError] = {}
        while (step := saga.current()) is not None:
            outcome: Outcome = StepDone()
            try:
                if isinstance(step, Commit):
                    commit()
                else:
                    self._perform(step, silent if saga.state is not SagaState.FORWARD else {})
            except VcoprocError as error:
                if isinstance(error, PeerError) and not isinstance(step, Commit):
                    silent[service_of(step)] = error
                outcome = StepFailed(error)
            saga.step(outcome)
        for left, why in saga.leftovers:
            self.log.warning("left to do", step=type(left).__name__, why=str(why))
        self._mark_all(left for left, _ in saga.leftovers)

    def _mark_all(self, steps: Iterable[Step]) -> None:
        for service in {service_of(step) for step in steps} - {MEMORY}:
            self.mark(service)

    def _perform(self, step: Step, silent: dict[str, VcoprocError]) -> None:
        if error := silent.get(service_of(step)):
            raise error
        self.services.perform(step)

    def wait_for_coprocs(self, references: Iterable[str]) -> None:
        """Gives coprocs that are just being started again the time to come back."""
        system = self.leases.system
        with contextlib.suppress(NotFound):  # told later, with everything else that is wrong
            coprocs = [system.find(reference) for reference in references]
            names = [coproc.name for coproc in coprocs if not coproc.is_template]
            self.leases.wait_online(names, self._lease_wait_ns)


def held_files(view: View) -> set[str]:
    """Memory files that somebody may still reach who is not to."""
    return {name for hold in view.holds() for name in hold.files}


def wanted_files(view: View) -> set[str]:
    """Memory files of domains."""
    files: set[str] = set()
    for domain in view.domains():
        if domain.placed or domain.life is not Life.ALIVE:
            files.update(domain.files())
    return files
