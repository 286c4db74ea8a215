"""Everything that changes the desired state: one change at a time, each complete or undone."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig, parse_domain
from vcoproc.errors import (
    AlreadyExists,
    LimitExceeded,
    NotFound,
    PeerError,
    VcoprocError,
    WrongState,
)
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.placing import (
    NewVcoproc,
    check_room,
    parse_spec,
    place_domain,
    place_vcoproc,
)
from vcoproc_toolstack.ports import Services
from vcoproc_toolstack.reconcile import unfinished
from vcoproc_toolstack.records import DomainRecord, EventKind, Life, VcoprocRecord
from vcoproc_toolstack.schedules import with_settings
from vcoproc_toolstack.steps import (
    STORE,
    Outcome,
    Saga,
    SagaState,
    StepDone,
    StepFailed,
    domain_steps,
    service_of,
    vcoproc_steps,
)
from vcoproc_toolstack.store import Change, Store, View

CREDENTIAL_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Request:
    """What makes a change idempotent. request_id: empty when it need not be.

    fingerprint: tells two requests with one id apart.
    """

    request_id: str
    fingerprint: bytes


class Changes:
    """Creates and destroys domains and vcoprocs.

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
        self._store = store
        self._leases = leases
        self._services = services
        self._memory = memory
        self._log = log
        self._mark = mark
        self._secret = secret
        self._lease_wait_ns = lease_wait_ns
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(limits.CHANGES_WAITING_MAX)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No change is under way inside."""
        with self._lock:
            yield

    @contextmanager
    def turn(self, coprocs: Iterable[str] = ()) -> Iterator[None]:
        """One change alone. coprocs: references; those that restart just now are waited for."""
        if not self._waiting.acquire(blocking=False):
            raise LimitExceeded("changes at the same time", limits.CHANGES_WAITING_MAX)
        try:
            self._wait_for_coprocs(coprocs)
            with self._lock:
                yield
        finally:
            self._waiting.release()

    def create_domain(
        self, text: str, file_name: str, request: Request, seal: Callable[[DomainRecord], bytes]
    ) -> bytes:
        """Makes a domain with its memory and all its vcoprocs, or nothing at all.

        Args:
            text: of the domain's file.
            seal: makes the answer, which is kept for a repeated request.

        Raises:
            VcoprocError: it is refused, or a service does not answer; nothing is left of it.
        """
        config = parse_domain(text, file_name)
        with self.turn(each.coproc for each in config.vcoprocs):
            if (answer := self.answered(request)) is not None:
                return answer
            with self._store.change() as change:
                if existing := change.domain(config.name):
                    _refuse_existing(existing)
                new = place_domain(config, self._leases.system, self._leases.platform)
                self._check_room(change, new)
                self._memory.check_room(change.memory_bytes() + config.memory_bytes)
                domid = change.next_domid()
                domain = DomainRecord(
                    domid=domid,
                    name=config.name,
                    life=Life.CREATING,
                    memory_bytes=config.memory_bytes,
                    irq_credential=self._secret(),
                    unknown_keys=tuple(sorted({key for key, _line in config.unknown_keys})),
                    vcoprocs=tuple(self._record(change, each, domid, config.name) for each in new),
                )
                change.add_domain(domain)
                coprocs = self._coprocs(change)
            saga = Saga(domain_steps(domain, coprocs))
            self.run(saga)
            with self._conclusion() as change:
                if saga.state is SagaState.COMMITTED:
                    change.set_domain_life(domid, Life.ALIVE)
                    change.add_event(domain.resource, EventKind.CREATED, _made(domain))
                    # As everybody will see it from now on.
                    made = change.domain(domain.name)
                    assert made is not None
                    return self.keep(change, request, seal(made))
                change.delete_domain(domid)
        assert saga.error is not None
        raise saga.error

    def destroy_domain(self, name: str, request: Request) -> bytes:
        """Unmakes a domain. Services that do not answer are told later.

        Raises:
            NotFound: there is no such domain.
        """
        with self.turn(self._coprocs_of(name)):
            if (answer := self.answered(request)) is not None:
                return answer
            with self._store.change() as change:
                domain = change.domain(name)
                if domain is None:
                    raise NotFound("domain", name)
                change.set_domain_life(domain.domid, Life.DESTROYING)
            self.run(Saga.undoing(domain_steps(domain, {})))
            with self._conclusion() as change:
                change.delete_domain(domain.domid)
                change.add_event(domain.resource, EventKind.DESTROYED, "destroyed")
                return self.keep(change, request, b"")

    def create_vcoproc(
        self,
        domain_name: str,
        spec: str,
        request: Request,
        seal: Callable[[VcoprocRecord], bytes],
    ) -> bytes:
        """Attaches one more vcoproc to a domain, or changes nothing. As `create_domain`."""
        with self.turn([parse_spec(spec).coproc]):
            if (answer := self.answered(request)) is not None:
                return answer
            with self._store.change() as change:
                domain = _need_alive(change, domain_name)
                new = place_vcoproc(domain, spec, self._leases.system, self._leases.platform)
                self._check_room(change, [new])
                vcoproc = self._record(change, new, domain.domid, domain.name)
                change.add_vcoproc(vcoproc)
                coprocs = self._coprocs(change)
            saga = Saga(vcoproc_steps(domain, vcoproc, coprocs))
            self.run(saga)
            with self._conclusion() as change:
                if saga.state is SagaState.COMMITTED:
                    change.set_vcoproc_life(vcoproc.vcoproc_id, Life.ALIVE)
                    change.add_event(
                        vcoproc.resource, EventKind.CREATED, f"attached to coproc {vcoproc.coproc}"
                    )
                    attached = change.vcoproc(vcoproc.vcoproc_id)
                    assert attached is not None
                    return self.keep(change, request, seal(attached))
                change.delete_vcoproc(vcoproc.vcoproc_id)
        assert saga.error is not None
        raise saga.error

    def destroy_vcoproc(self, domain_name: str, name: str, request: Request) -> bytes:
        """Detaches a vcoproc. As `destroy_domain`."""
        with self.turn(self._coprocs_of(domain_name)):
            if (answer := self.answered(request)) is not None:
                return answer
            with self._store.change() as change:
                domain = _need_alive(change, domain_name)
                found = [vcoproc for vcoproc in domain.vcoprocs if vcoproc.name == name]
                if not found:
                    raise NotFound("vcoproc", f"{domain.name}/{name}")
                vcoproc = found[0]
                change.set_vcoproc_life(vcoproc.vcoproc_id, Life.DESTROYING)
            self.run(Saga.undoing(vcoproc_steps(domain, vcoproc, {})))
            with self._conclusion() as change:
                change.delete_vcoproc(vcoproc.vcoproc_id)
                change.add_event(vcoproc.resource, EventKind.DESTROYED, "detached")
                return self.keep(change, request, b"")

    def finish_unfinished(self) -> None:
        """Undoes what an earlier toolstack left half done. To be called inside `exclusive`."""
        with self._store.read() as view:
            found = unfinished(view.domains())
        for domain, vcoproc, steps in found:
            what = vcoproc or domain
            self._log.warning("undoing a change that was cut off", name=what.resource)
            self.run(Saga.undoing(steps))
            with self._store.change() as change:
                if vcoproc is None:
                    change.delete_domain(domain.domid)
                else:
                    change.delete_vcoproc(vcoproc.vcoproc_id)
                why = f"{what.life.value.lower()} was cut off; what there was of it is undone"
                change.add_event(what.resource, EventKind.DESTROYED, why)

    def run(self, saga: Saga) -> None:
        """Performs a saga to its end. On the way back nobody who fell silent is asked again."""
        silent: dict[str, VcoprocError] = {}
        while (step := saga.current()) is not None:
            service = service_of(step)
            outcome: Outcome = StepDone()
            try:
                if saga.state is SagaState.BACK and service in silent:
                    raise silent[service]
                self._services.perform(step)
            except VcoprocError as error:
                if isinstance(error, PeerError):
                    silent[service] = error
                outcome = StepFailed(error)
            saga.step(outcome)
        for left, why in saga.leftovers:
            self._log.warning("not undone yet", step=type(left).__name__, why=str(why))
            self._mark(service_of(left))

    @contextmanager
    def _conclusion(self) -> Iterator[Change]:
        """The change of the store after a saga; when that fails, the repair undoes the saga."""
        try:
            with self._store.change() as change:
                yield change
        except VcoprocError:
            self._mark(STORE)
            raise

    def _wait_for_coprocs(self, references: Iterable[str]) -> None:
        """Gives coprocs that are just being started again the time to come back."""
        system = self._leases.system
        with contextlib.suppress(NotFound):  # told later, with everything else that is wrong
            coprocs = [system.find(reference) for reference in references]
            names = [coproc.name for coproc in coprocs if not coproc.is_template]
            self._leases.wait_online(names, self._lease_wait_ns)

    def _coprocs(self, view: View) -> dict[str, CoprocConfig]:
        """All coprocs of the tree, as they are to be scheduled now."""
        return with_settings(self._leases.coprocs, view.settings())

    def _coprocs_of(self, domain_name: str) -> list[str]:
        """Coprocs of the tree that a domain has vcoprocs on."""
        with self._store.read() as view:
            domain = view.domain(domain_name)
        found = {vcoproc.coproc for vcoproc in domain.vcoprocs} if domain else set()
        return sorted(found & self._leases.coprocs.keys())

    def answered(self, request: Request) -> bytes | None:
        """The answer that a repeated request got the first time; None for a new one."""
        if not request.request_id:
            return None
        with self._store.read() as view:
            return view.answer(request.request_id, request.fingerprint)

    def keep(self, change: Change, request: Request, answer: bytes) -> bytes:
        """Keeps an answer for a repetition of the request, and gives it."""
        if request.request_id:
            change.add_answer(request.request_id, request.fingerprint, answer)
        return answer

    def _check_room(self, change: Change, new: list[NewVcoproc]) -> None:
        by_name = {each.coproc.name: each.coproc for each in new}
        check_room(
            new,
            change.counts(),
            lambda name: self._leases.platform(by_name[name]).contexts_max,
        )

    def _record(self, change: Change, new: NewVcoproc, domid: int, domain: str) -> VcoprocRecord:
        return new.record(change.next_vcoproc_id(), domid, domain, self._secret())


def _need_alive(change: Change, name: str) -> DomainRecord:
    domain = change.domain(name)
    if domain is None:
        raise NotFound("domain", name)
    if domain.life is not Life.ALIVE:
        raise WrongState(f"domain {name!r}", domain.life.value, "RUNNING")
    return domain


def _refuse_existing(domain: DomainRecord) -> None:
    if domain.life is Life.ALIVE:
        raise AlreadyExists("domain", domain.name)
    raise WrongState(f"domain {domain.name!r}", domain.life.value, "a name that is free")


def _made(domain: DomainRecord) -> str:
    count = len(domain.vcoprocs)
    return f"domid {domain.domid}, {domain.memory_bytes} bytes, {count} vcoprocs"
