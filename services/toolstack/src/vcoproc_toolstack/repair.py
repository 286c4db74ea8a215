"""Brings services back to what the store says: at start, when one returns, when one was silent."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig
from vcoproc.errors import PeerError, VcoprocError
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.ports import Services
from vcoproc_toolstack.reconcile import coproc_repair, router_repair, scheduler_repair
from vcoproc_toolstack.records import DomainRecord, EventKind
from vcoproc_toolstack.schedules import schedule_resource, with_settings
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    MEMORY,
    SCHEDULER,
    STORE,
    AddVcoproc,
    MakeMemory,
    SetCoproc,
    Step,
    domain_steps,
)
from vcoproc_toolstack.store import Store

_COPROC: Final = "coproc/"
_MEMORY_GONE: Final = "its memory was gone and is zero again"
FALLBACK: Final = "rr"
"""Schedules a coproc whose own algorithm the scheduler no longer takes, a plug-in that was removed
perhaps, so that those who run on it go on. It needs no parameters."""


class Marks:
    """Which services have something to repair, and since when one may be asked again."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due_ns: dict[str, int] = {}
        self._delay_ns: dict[str, int] = {}
        self._stopped = False

    def mark(self, service: str) -> None:
        """Something is to be repaired, now."""
        with self._condition:
            self._due_ns[service] = 0
            self._delay_ns.pop(service, None)
            self._condition.notify()

    def again(self, service: str) -> None:
        """It did not answer: later, and each time after a longer delay."""
        with self._condition:
            last_ns = self._delay_ns.get(service, limits.REPAIR_DELAY_NS_MIN // 2)
            self._delay_ns[service] = min(2 * last_ns, limits.REPAIR_DELAY_NS_MAX)
            due_ns = time.monotonic_ns() + self._delay_ns[service]
            self._due_ns.setdefault(service, due_ns)

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
        self, store: Store, leases: Leases, services: Services, changes: Changes, log: Log
    ) -> None:
        self._store = store
        self._leases = leases
        self._services = services
        self._changes = changes
        self._log = log

    def start(self, memory: MemoryDir) -> None:
        """What must be right before anybody is served: nothing half done, and memory files."""
        with self._changes.exclusive():
            self._changes.finish_unfinished()
            domains = self._domains()
            wanted: dict[str, DomainRecord] = {}
            for domain in domains:
                made = False
                for step in domain_steps(domain, {}):
                    if isinstance(step, MakeMemory):
                        wanted[step.file_name] = domain
                        made |= memory.make(step)
                if made:
                    self._note(domain.resource, EventKind.CHANGED, _MEMORY_GONE)
            for name in memory.remove_others(wanted.keys()):
                self._log.warning("removed a memory file of no domain", file=name)
        for vcoproc in (vcoproc for domain in domains for vcoproc in domain.vcoprocs):
            if vcoproc.coproc not in self._leases.coprocs:
                self._log.warning(
                    "its coproc is not in the tree", name=vcoproc.resource, coproc=vcoproc.coproc
                )

    def run(self, marks: Marks) -> None:
        """Repairs what is marked until the marks are stopped. For a thread of its own."""
        while due := marks.wait():
            for service in due:
                if not self.repair(service):
                    marks.again(service)

    def repair(self, service: str) -> bool:
        """One service. False when it does not answer and must be asked again."""
        if service == STORE:
            return self._repair_store()
        try:
            # Asked once outside, so that no change waits for a service that does not answer.
            self._steps(service)
            with self._changes.exclusive():
                steps = self._steps(service)
                self._perform_all(steps)
        except PeerError as error:
            self._log.debug("repair waits", of=service, why=str(error))
            return False
        except VcoprocError as error:
            self._log.error("repair refused", of=service, why=str(error))
            return True
        self._log.info("repaired", of=service, steps=len(steps))
        return True

    def _repair_store(self) -> bool:
        try:
            self._store.recover()
            with self._changes.exclusive():
                self._changes.finish_unfinished()
        except VcoprocError as error:  # the disk is still full, perhaps
            self._log.error("repair waits", of=STORE, why=str(error))
            return False
        return True

    def _perform_all(self, steps: list[Step]) -> None:
        plain: set[str] = set()
        for step in steps:
            if isinstance(step, AddVcoproc) and step.vcoproc.coproc in plain:
                step = AddVcoproc(replace(step.vcoproc, params=()))
            why = self._perform(step)
            if why is None or not isinstance(step, SetCoproc):
                continue
            coproc = step.coproc.name
            users = [s for s in steps if isinstance(s, AddVcoproc) and s.vcoproc.coproc == coproc]
            if users and self._perform(_plain(step)) is None:
                plain.add(coproc)
                self._note_refusal(step.coproc, why)

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
        if service == MEMORY:
            return []  # files that could not be removed go when the toolstack starts again
        name = service.removeprefix(_COPROC)
        if self._leases.get(name) is None:
            return []  # its next lease marks it again
        held = self._services.coproc(name, limits.CALL_TIMEOUT_NS)
        return coproc_repair(domains, name, held)


def _plain(step: SetCoproc) -> SetCoproc:
    coproc = replace(step.coproc, scheduler=FALLBACK, scheduler_params=())
    return SetCoproc(coproc, tuple((number, ()) for number, _ in step.vcoprocs))
