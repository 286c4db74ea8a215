"""Brings services back to what the store says: at start, when one returns, when one was silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig
from vcoproc.errors import PeerError, StoreUnavailable, VcoprocError
from vcoproc_toolstack.changes import Changes, Leaving
from vcoproc_toolstack.coproc_removal import Removals, marked_removal
from vcoproc_toolstack.endings import Endings, domain_mark, marked_domain
from vcoproc_toolstack.first_domain import FIRST_MARK, FirstDomain
from vcoproc_toolstack.plans import domain_steps
from vcoproc_toolstack.reconcile import (
    Unfinished,
    coproc_repair,
    router_repair,
    scheduler_repair,
    unfinished,
)
from vcoproc_toolstack.records import DomainRecord, EventKind, Life
from vcoproc_toolstack.saga import bars
from vcoproc_toolstack.schedules import schedule_resource, with_settings
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    SCHEDULER,
    STORE,
    AddVcoproc,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    SetCoproc,
    Step,
    context_file,
    coproc_service,
)

_COPROC: Final = "coproc/"
_MEMORY_GONE: Final = "its memory was gone and is zero again"
_AGAIN: Final = (DetachVcoproc, ForgetContext, LoadContext)
"""Steps that are tried again after a refusal: memory is kept for one, somebody waits for others."""
FALLBACK: Final = "rr"
"""Schedules a coproc whose own algorithm the scheduler no longer takes, a plug-in that was removed
perhaps, so that those who run on it go on. It needs no parameters."""


class Marks:
    """Which services have something to repair, and since when one may be asked again."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due_ns: dict[str, int] = {}
        self._delay_ns: dict[str, int] = {}
        self._repairing: tuple[str, int] | None = None
        self._stopped = False

    def mark(self, service: str) -> None:
        """Something is to be repaired, now.

        By whoever repairs that very service it is said of what it could not do: see `again`.
        """
        with self._condition:
            if self._repairing == (service, threading.get_ident()):
                self._again(service)
                return
            self._due_ns[service] = 0
            self._delay_ns.pop(service, None)
            self._condition.notify()

    @contextmanager
    def repairing(self, service: str) -> Iterator[None]:
        """This thread repairs a service inside."""
        with self._condition:
            self._repairing = service, threading.get_ident()
        try:
            yield
        finally:
            with self._condition:
                self._repairing = None

    def again(self, service: str) -> None:
        """It did not answer: later, and each time after a longer delay."""
        with self._condition:
            self._again(service)

    def _again(self, service: str) -> None:
        if service in self._due_ns:  # marked meanwhile, or put off already
            return
        last_ns = self._delay_ns.get(service, limits.REPAIR_DELAY_NS_MIN // 2)
        self._delay_ns[service] = min(2 * last_ns, limits.REPAIR_DELAY_NS_MAX)
        self._due_ns[service] = time.monotonic_ns() + self._delay_ns[service]

    def stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify()

    def wait(self) -> list[str]:
        """Waits until something is due, and takes it. Empty once stopped."""
        with self._condition:
            while not self._stopped:
                now_ns = time.monotonic_ns()
                due = sorted(name for name, due_ns in self._due_ns.items() if due_ns <= now_ns)
                if due:
                    for name in due:
                        del self._due_ns[name]
                    return due
                next_ns = min(self._due_ns.values(), default=None)
                wait_s = None if next_ns is None else (next_ns - now_ns) / limits.S
                self._condition.wait(wait_s)
            return []


class Repairer:
    """Compares what a service holds with the store, and performs the difference."""

    def __init__(
        self, changes: Changes, endings: Endings, removals: Removals, first_domain: FirstDomain
    ) -> None:
        self._changes = changes
        self._endings = endings
        self._removals = removals
        self._first_domain = first_domain
        self._store = changes.store
        self._leases = changes.leases
        self._services = changes.services
        self._memory = changes.memory
        self._log = changes.log

    def start(self) -> None:
        """What must be right before anybody is served: nothing half done, and memory files."""
        with self._changes.exclusive():
            self._finish_unfinished()
            domains = self._domains()
            for domain in domains:
                if domain.placed:
                    self._make_what_is_gone(domain)
            with self._store.read() as view:
                held = {name for hold in view.holds() for name in hold.files}
            for name in self._memory.remove_others(held | _files(domains)):
                self._log.warning("removed a memory file of no domain", file=name)
        for vcoproc in (vcoproc for domain in domains for vcoproc in domain.vcoprocs):
            if vcoproc.coproc not in self._leases.coprocs:
                self._log.warning(
                    "its coproc is not in the tree", name=vcoproc.resource, coproc=vcoproc.coproc
                )

    def _make_what_is_gone(self, domain: DomainRecord) -> None:
        steps = domain_steps(domain, {})
        made = [self._memory.keep(step) for step in steps if isinstance(step, MakeMemory)]
        if any(made):
            self._note(domain.resource, EventKind.CHANGED, _MEMORY_GONE)

    def _finish_unfinished(self) -> None:
        """Ends what was left half done, and marks what somebody has to go on with."""
        leaving: list[Leaving] = []
        for found in unfinished(self._domains()):
            self._log.warning("ending a change that was cut off", name=found.resource)
            if found.vcoproc is None:
                self._finish(found.domain, _end_words(found))
            else:
                leaving.append(Leaving(found.domain, found.vcoproc, _end_words(found)))
        if leaving:
            self._changes.finish_detachments(leaving)
        with self._store.read() as view:
            domains, holds = view.domains(), view.holds()
        for domain in domains:
            if domain.ending is not None:
                self._changes.mark(domain_mark(domain.domid))
        for hold in holds:
            self._changes.mark(coproc_service(hold.coproc))
        self._removals.refresh()

    def _finish(self, domain: DomainRecord, words: str) -> None:
        if domain.life is Life.STOPPING:
            self._changes.finish_stop(domain)
        elif domain.life is Life.STARTING:
            self._changes.finish_stop(replace(domain, state_reason=words))
        else:
            self._changes.finish_destruction(domain, words)

    def run(self, marks: Marks) -> None:
        """Repairs what is marked until the marks are stopped. For a thread of its own."""
        while due := marks.wait():
            for service in due:
                with marks.repairing(service):
                    done = self.repair(service)
                if not done:
                    marks.again(service)

    def repair(self, service: str) -> bool:
        """One service. False when it does not answer and must be asked again."""
        try:
            if service == STORE:
                self._store.recover()
                with self._changes.exclusive():
                    self._finish_unfinished()
                return True
            if service == FIRST_MARK:
                return self._first_domain.make()
            if (domid := marked_domain(service)) is not None:
                return self._endings.go_on(domid)
            if (coproc := marked_removal(service)) is not None:
                return self._removals.go_on(coproc)
            return self._repair(service)
        except (PeerError, StoreUnavailable) as error:
            self._log.debug("repair waits", of=service, why=str(error))
            return False
        except VcoprocError as error:
            self._log.error("repair refused", of=service, why=str(error))
            # Of these it is the store that has failed: the disk is full, perhaps.
            goes_on = marked_domain(service) is not None or marked_removal(service) is not None
            return service != STORE and not goes_on

    def _repair(self, service: str) -> bool:
        # Asked once outside, so that no change waits for a service that does not answer.
        self._steps(service)
        with self._changes.exclusive():
            steps = self._steps(service)
            failed = self._perform_all(steps)
            if service.startswith(_COPROC) and self._is_known(_coproc(service)):
                self._forget_holds(_coproc(service), failed)
        self._log.info("repaired", of=service, steps=len(steps))
        return not any(isinstance(step, _AGAIN) for step in failed)

    def _is_known(self, coproc: str) -> bool:
        """Whether it is known who simulates a coproc; or that nobody ever will.

        A coproc-sim whose coproc the tree has no more is told to end once no vcoproc is on it.
        """
        if self._leases.get(coproc) is not None:
            return True
        with self._store.read() as view:
            return coproc not in self._leases.coprocs and not view.vcoprocs_on(coproc)

    def _forget_holds(self, coproc: str, failed: list[Step]) -> None:
        """A coproc-sim has nothing any more that it is not to have, but what it did not detach."""
        left = {step.vcoproc_id for step in failed if isinstance(step, DetachVcoproc)}
        with self._store.read() as view:
            holds = [hold for hold in view.holds(coproc) if hold.vcoproc_id not in left]
        if holds:
            self._changes.forget_holds(holds)

    def _perform_all(self, steps: list[Step]) -> list[Step]:
        """Performs steps; gives those that were refused. Raises: PeerError."""
        plain: set[str] = set()
        failed: list[Step] = []
        for step in steps:
            if isinstance(step, AddVcoproc) and step.vcoproc.coproc in plain:
                step = AddVcoproc(replace(step.vcoproc, params=()))
            if any(bars(each, step) for each in failed):
                continue
            why = self._perform(step)
            if why is not None:
                failed.append(step)
            if why is None or not isinstance(step, SetCoproc):
                continue
            coproc = step.coproc.name
            users = [s for s in steps if isinstance(s, AddVcoproc) and s.vcoproc.coproc == coproc]
            if users and self._perform(_plain(step)) is None:
                plain.add(coproc)
                self._note_refusal(step.coproc, why)
        return failed

    def _perform(self, step: Step) -> VcoprocError | None:
        """Does a step; gives the error when it is refused. Raises: PeerError."""
        try:
            self._services.perform(step)
        except PeerError:
            raise
        except VcoprocError as error:
            # The others must not wait for one that is refused, and asking again would not help.
            self._log.error("repair step refused", step=type(step).__name__, why=str(error))
            return error
        return None

    def _note_refusal(self, coproc: CoprocConfig, why: VcoprocError) -> None:
        words = f"algorithm {coproc.scheduler} is refused, {FALLBACK} has taken over: {why}"
        self._note(schedule_resource(coproc.name), EventKind.FELL_BACK, words)

    def _note(self, name: str, kind: EventKind, words: str) -> None:
        self._store.note(lambda change: change.add_event(name, kind, words))

    def _domains(self) -> list[DomainRecord]:
        with self._store.read() as view:
            return view.domains()

    def _steps(self, service: str) -> list[Step]:
        domains = self._domains()
        if service == SCHEDULER:
            accounts = self._services.accounts(limits.CALL_TIMEOUT_NS)
            with self._store.read() as view:
                coprocs = with_settings(self._leases.coprocs, view.settings())
            return scheduler_repair(domains, coprocs, self._leases.online(), accounts)
        if service == IRQ_ROUTER:
            return router_repair(domains, self._services.router())
        name = _coproc(service)
        if self._leases.get(name) is None:
            return []  # its next lease marks it again
        held = self._services.coproc(name, limits.CALL_TIMEOUT_NS)
        return coproc_repair(domains, name, held, self._memory.contexts())


def _coproc(service: str) -> str:
    return service.removeprefix(_COPROC)


def _end_words(found: Unfinished) -> str:
    """How what was cut off ends, for people."""
    if found.life is Life.DESTROYING:
        return "destroyed"
    return f"{found.life.value.lower()} was cut off; what there was of it is undone"


def _files(domains: list[DomainRecord]) -> set[str]:
    """Memory files that domains have, and contexts that wait to be loaded into their vcoprocs."""
    placed = [domain for domain in domains if domain.placed]
    return {
        *(name for domain in placed for name in domain.files()),
        *(context_file(v.vcoproc_id) for domain in placed for v in domain.vcoprocs),
    }


def _plain(step: SetCoproc) -> SetCoproc:
    coproc = replace(step.coproc, scheduler=FALLBACK, scheduler_params=())
    return SetCoproc(coproc, tuple((number, ()) for number, _ in step.vcoprocs))
