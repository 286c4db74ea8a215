"""Moves vcoprocs from one coproc to another of the same type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vcoproc import limits
from vcoproc.config import CoprocConfig
from vcoproc.errors import NotFound, WrongState
from vcoproc.model.domain_state import DomainVerb
from vcoproc_toolstack.changes import Changes, VcoprocSeal, need_domain, need_vcoproc
from vcoproc_toolstack.placing import NewVcoproc
from vcoproc_toolstack.plans import Move
from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    Hold,
    PlatformRecord,
    VcoprocRecord,
)
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.store import Change
from vcoproc_toolstack.turns import Request


class Moves:
    """See the module."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def move(
        self, domain_name: str, name: str, coproc: str, request: Request, seal: VcoprocSeal
    ) -> bytes:
        """Moves a vcoproc with its context, or changes nothing.

        Args:
            coproc: name of the one that it goes to.

        Raises:
            NotFound, WrongState, LimitExceeded: there is no such vcoproc or coproc, it cannot go
                there, or there is no room for it.
            VcoprocError: a service refuses, or does not answer.
        """
        with self._changes.turn([*self._changes.coprocs_of(domain_name), coproc]):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            with self._changes.store.read() as view:
                domain = need_domain(view, domain_name, DomainVerb.MOVE)
            return self.carry(domain, need_vcoproc(domain, name), coproc, request, seal)

    def carry(
        self,
        domain: DomainRecord,
        vcoproc: VcoprocRecord,
        coproc: str,
        request: Request,
        seal: VcoprocSeal,
    ) -> bytes:
        """The same within a turn."""
        changes = self._changes
        with changes.store.read() as view:
            to = changes.coprocs(view).get(coproc)
            if to is None:
                raise NotFound("coproc", coproc)
            if vcoproc.coproc != coproc:
                _check_type(vcoproc, to, changes.leases.platform(to))
                wanted = NewVcoproc(vcoproc.name, to, vcoproc.params, vcoproc.ranges, vcoproc.lines)
                changes.check_room(view, [wanted])
            holds = [h for h in view.holds(coproc) if h.vcoproc_id == vcoproc.vcoproc_id]
        moved = replace(vcoproc, coproc=coproc)

        def commit(change: Change) -> bytes:
            if vcoproc.coproc != coproc:
                change.set_vcoproc_coproc(vcoproc.vcoproc_id, coproc)
                words = f"moved from coproc {vcoproc.coproc} to {coproc}"
                change.add_event(vcoproc.resource, EventKind.CHANGED, words)
            return changes.keep(change, request, seal(moved))

        if vcoproc.coproc == coproc or not vcoproc.placed:
            return changes.carry_out(Saga(), commit)
        changes.release(holds)
        # Nobody is paused for a scheduler that does not answer.
        changes.services.accounts(limits.CALL_TIMEOUT_NS)
        move = Move(domain, vcoproc, moved, to)
        return self._run(move, commit)

    def _run(self, move: Move, commit: Callable[[Change], bytes]) -> bytes:
        """Until it is known that only one coproc has the vcoproc, a hold says who else may."""
        number, old, new = move.vcoproc.vcoproc_id, move.vcoproc.coproc, move.moved.coproc

        def committed(change: Change) -> bytes:
            change.delete_hold(new, number)
            change.add_hold(Hold(old, number, move.files))
            return commit(change)

        with self._changes.change() as change:
            change.add_hold(Hold(new, number, move.files))
        return self._changes.carry_out(
            Saga(move.before(), move.after()),
            committed,
            undone=lambda change: change.delete_hold(new, number),
            finished=lambda change: change.delete_hold(old, number),
        )


def _check_type(vcoproc: VcoprocRecord, to: CoprocConfig, platform: PlatformRecord) -> None:
    """Raises: WrongState (the coproc cannot be that of this vcoproc)."""
    if to.compatible != vcoproc.compatible:
        raise WrongState(f"coproc {to.name!r}", f"a {to.compatible}", f"a {vcoproc.compatible}")
    ranges = [(each.name, each.size_bytes, each.mapped) for each in vcoproc.ranges]
    lines = {(index, line.name, line.level) for index, line in enumerate(platform.lines)}
    if ranges != [(each.name, each.size_bytes, each.mapped) for each in platform.ranges] or any(
        (line.index, line.name, line.level) not in lines for line in vcoproc.lines
    ):
        what = f"coproc {to.name!r}"
        raise WrongState(what, "of another make", f"the ranges and lines of {vcoproc.resource}")
