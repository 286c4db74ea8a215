"""Coprocs are removed while the cluster runs.

Theory of operation:
    A removal is decided first (REMOVING), and then done as far as services answer: vcoprocs go or
    have moved away, the coproc-sim gives up what it has, the lease ends, and last of all the coproc
    is forgotten. Whoever comes after goes on with it: the repair thread, or the next toolstack.
Not handled:
    A coproc-sim that neither answers nor ends: its coproc stays REMOVING, and the memory that it
    may reach is not released, until somebody ends it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import Final

from vcoproc import limits
from vcoproc.errors import NotFound, StoreUnavailable, VcoprocError, WrongState
from vcoproc.model.domain_state import DomainVerb
from vcoproc_toolstack.changes import Changes, Leaving, need_domain
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.reconcile import coproc_repair
from vcoproc_toolstack.records import CoprocLife, DomainRecord, EventKind, Life, VcoprocRecord
from vcoproc_toolstack.steps import SCHEDULER, RemoveCoproc
from vcoproc_toolstack.store import Change, View
from vcoproc_toolstack.turns import Request

_REMOVAL: Final = "removal/"


def removal_mark(name: str) -> str:
    """What the repair thread knows a coproc by whose removal somebody has to go on with."""
    return f"{_REMOVAL}{name}"


def marked_removal(mark: str) -> str | None:
    """The coproc of such a mark; None for another one."""
    return mark.removeprefix(_REMOVAL) if mark.startswith(_REMOVAL) else None


def resource(name: str) -> str:
    """The resource name of a coproc."""
    return f"coprocs/{name}"


def need_staying(coprocs: CoprocSet, name: str) -> None:
    """Refuses a coproc that is not there, or is on its way out.

    Raises:
        NotFound, WrongState: it is one of these.
    """
    if name not in coprocs.coprocs:
        raise NotFound("coproc", name)
    if coprocs.leaving(name):
        raise WrongState(f"coproc {name!r}", "being removed", "one that stays")


def show(change: Change, leases: Leases, coprocs: CoprocSet) -> None:
    """From the end of a change on these are the coprocs that there are."""
    change.when_kept(lambda: leases.apply(coprocs))


def vcoprocs_on(
    view: View, name: str, verb: DomainVerb
) -> list[tuple[DomainRecord, VcoprocRecord]]:
    """The vcoprocs of a coproc, each with its domain.

    Raises:
        WrongState: the verb does not fit the state of one of the domains.
    """
    return [
        (need_domain(view, vcoproc.domain, verb), vcoproc) for vcoproc in view.vcoprocs_on(name)
    ]


class Removals:
    """See the module.

    Args:
        patience_ns: how long after its start a toolstack waits for a coproc-sim to come back before
            it takes the coproc away.
    """

    def __init__(self, changes: Changes, *, patience_ns: int = limits.LEASE_WAIT_NS) -> None:
        self._changes = changes
        self._store = changes.store
        self._leases = changes.leases
        self._services = changes.services
        self._patient_until_ns = time.monotonic_ns() + patience_ns
        self._store.reread = self._show

    def remove(self, name: str, request: Request, *, destroy_vcoprocs: bool = False) -> bytes:
        """Removes a coproc. Services that do not answer are told later.

        Args:
            destroy_vcoprocs: also those that it has; otherwise it must have none.

        Raises:
            NotFound, WrongState: there is no such coproc, it is being removed already, or it has
                vcoprocs; or one of them is of a domain that cannot lose it now.
        """
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            present = self._leases.set
            need_staying(present, name)
            with self._changes.change() as change:
                count = len(change.vcoprocs_on(name))
                if count and not destroy_vcoprocs:
                    state = f"used by {count} vcoprocs"
                    raise WrongState(f"coproc {name!r}", state, "one without vcoprocs")
                doomed = vcoprocs_on(change, name, DomainVerb.DETACH)
                self.decide(change, present, name)
                for _, vcoproc in doomed:
                    change.set_vcoproc_life(vcoproc.vcoproc_id, Life.DESTROYING)
                self._changes.keep(change, request, b"")
            with contextlib.suppress(StoreUnavailable):  # it is decided, and the repair knows
                words = f"coproc {name} is removed"
                leaving = [Leaving(domain, vcoproc, words) for domain, vcoproc in doomed]
                self._changes.finish_detachments(leaving)
            self.end(name)
            return b""

    def decide(self, change: Change, present: CoprocSet, name: str) -> CoprocSet:
        """From here on a coproc is going to be removed, whoever dies; gives what is there then."""
        record = replace(present.record(name), life=CoprocLife.REMOVING)
        change.put_coproc(record)
        change.add_event(resource(name), EventKind.CHANGED, "is being removed")
        coprocs = present.changed([record])
        show(change, self._leases, coprocs)
        return coprocs

    def end(self, name: str) -> None:
        """Goes on with a removal, within a turn; the repair thread does what cannot be done now."""
        try:
            ended = self._try_end(name)
        except VcoprocError as error:
            self._changes.log.warning("a removal waits", coproc=name, why=str(error))
            ended = False
        if not ended:
            self._changes.mark(removal_mark(name))

    def go_on(self, name: str) -> bool:
        """The same from outside. False: it must be tried again later.

        Raises:
            VcoprocError: a service does not answer, or the store failed.
        """
        if self._leases.get(name) is not None:
            # Asked once outside, so that no change waits for a coproc-sim that does not answer.
            self._services.coproc(name, limits.CALL_TIMEOUT_NS)
        with self._changes.exclusive():
            return self._try_end(name)

    def _try_end(self, name: str) -> bool:
        present = self._leases.set
        if not present.leaving(name):
            return True
        with self._store.read() as view:
            domains = view.domains()
            if view.vcoprocs_on(name):
                return False  # half destroyed: the repair of the store goes on with them
            holds = view.holds(name)
        if self._leases.get(name) is not None:
            held = self._services.coproc(name, limits.CALL_TIMEOUT_NS)
            for step in coproc_repair(domains, name, held):
                self._services.perform(step)
        elif time.monotonic_ns() < self._patient_until_ns:
            return False
        if holds:  # nobody reaches that memory through this coproc any more
            self._changes.forget_holds(holds)
        self._finish(present, name)
        return True

    def _finish(self, present: CoprocSet, name: str) -> None:
        coprocs, records, forgotten = present.without(name)
        with self._changes.change() as change:
            for record in records:
                change.put_coproc(record)
            for each in forgotten:
                change.delete_coproc(each)
            change.put_setting(name, None)
            change.add_event(resource(name), EventKind.DESTROYED, "removed")
            template = present.templates.get(name)
            if template and template not in coprocs.system.coprocs:
                words = "removed with the last coproc that it made"
                change.add_event(resource(template.name), EventKind.DESTROYED, words)
            show(change, self._leases, coprocs)
        try:
            self._services.perform(RemoveCoproc(name))
        except VcoprocError:
            self._changes.mark(SCHEDULER)

    def refresh(self) -> None:
        """Shows what the store says, and has what is being removed gone on with."""
        with self._store.read() as view:
            self._show(view)

    def _show(self, view: View) -> None:
        records = view.coproc_records()
        self._leases.apply(CoprocSet.of(self._leases.set.tree, records))
        for record in records:
            if record.life is CoprocLife.REMOVING:
                self._changes.mark(removal_mark(record.name))
