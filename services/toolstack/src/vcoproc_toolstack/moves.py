"""Moves vcoprocs from one coproc to another of the same type: one, or many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.config import CoprocConfig
from vcoproc.errors import NotFound, WrongState
from vcoproc.model.domain_state import DomainVerb
from vcoproc_toolstack.changes import Changes, VcoprocSeal, need_domain, need_vcoproc
from vcoproc_toolstack.placing import NewVcoproc
from vcoproc_toolstack.plans import Move, move_steps
from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    Hold,
    PlatformRecord,
    VcoprocRecord,
)
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.store import Change, View
from vcoproc_toolstack.turns import Request


@dataclass(frozen=True, slots=True)
class Passage:
    """A vcoproc, and the name of the coproc that it is to go to: another one than it is on."""

    domain: DomainRecord
    vcoproc: VcoprocRecord
    to: str


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
        changes = self._changes
        with changes.turn([*changes.coprocs_of(domain_name), coproc]):
            if (answer := changes.answered(request)) is not None:
                return answer
            with changes.store.read() as view:
                domain = need_domain(view, domain_name, DomainVerb.MOVE)
            vcoproc = need_vcoproc(domain, name)
            if coproc not in changes.leases.coprocs:
                raise NotFound("coproc", coproc)
            return self.carry(
                [Passage(domain, vcoproc, coproc)] if vcoproc.coproc != coproc else [],
                lambda change: changes.keep(
                    change, request, seal(change.known_vcoproc(vcoproc.vcoproc_id))
                ),
            )

    def carry(self, passages: Sequence[Passage], commit: Callable[[Change], bytes]) -> bytes:
        """Moves vcoprocs within a turn, all of them or none.

        Args:
            commit: what else is to be kept in the transaction that moves them; gives the answer.

        Raises:
            WrongState, LimitExceeded: one of them cannot go there, or there is no room.
            VcoprocError: a service refuses, or does not answer.
        """
        changes = self._changes
        with changes.store.read() as view:
            self._check(view, passages)
            coprocs = changes.coprocs(view)
            places = {(each.to, each.vcoproc.vcoproc_id) for each in passages}
            holds = [hold for hold in view.holds() if (hold.coproc, hold.vcoproc_id) in places]

        def committed(change: Change) -> bytes:
            for each in passages:
                change.set_vcoproc_coproc(each.vcoproc.vcoproc_id, each.to)
                words = f"moved from coproc {each.vcoproc.coproc} to {each.to}"
                change.add_event(each.vcoproc.resource, EventKind.CHANGED, words)
            return commit(change)

        placed = [each for each in passages if each.vcoproc.placed]
        if not placed:
            return changes.carry_out(Saga(), committed)
        changes.release(holds, moved=True)
        # Nobody is paused for a scheduler that does not answer.
        changes.services.accounts(limits.CALL_TIMEOUT_NS)
        moves = [
            Move(
                each.domain,
                each.vcoproc,
                replace(each.vcoproc, coproc=each.to),
                coprocs[each.to],
            )
            for each in placed
        ]
        return self._run(moves, committed)

    def _check(self, view: View, passages: Sequence[Passage]) -> None:
        changes = self._changes
        coprocs = changes.leases.coprocs
        new = []
        for each in passages:
            to, own = coprocs[each.to], each.vcoproc
            if why := misfit(own, to, changes.leases.platform(to)):
                fitting = f"a {own.compatible} with the ranges and lines of {own.resource}"
                raise WrongState(f"coproc {to.name!r}", why, fitting)
            new.append(NewVcoproc(own.name, to, own.params, own.ranges, own.lines))
        changes.check_room(view, new)
        changes.check_coproc_memory(view, [(each.domain, coprocs[each.to]) for each in passages])

    def _run(self, moves: Sequence[Move], commit: Callable[[Change], bytes]) -> bytes:
        """Until it is known that only one coproc has a vcoproc, a hold says who else may."""

        def committed(change: Change) -> bytes:
            forget_new(change)
            for each in moves:
                change.add_hold(Hold(each.vcoproc.coproc, each.vcoproc.vcoproc_id, each.files))
            return commit(change)

        def forget_new(change: Change) -> None:
            for each in moves:
                change.delete_hold(each.moved.coproc, each.vcoproc.vcoproc_id)

        def forget_old(change: Change) -> None:
            for each in moves:
                change.delete_hold(each.vcoproc.coproc, each.vcoproc.vcoproc_id)

        with self._changes.change() as change:
            for each in moves:
                change.add_hold(Hold(each.moved.coproc, each.vcoproc.vcoproc_id, each.files))
        return self._changes.carry_out(
            Saga(*move_steps(moves)), committed, undone=forget_new, finished=forget_old
        )


def misfit(vcoproc: VcoprocRecord, to: CoprocConfig, platform: PlatformRecord) -> str | None:
    """Says why a coproc cannot be that of a vcoproc; None when it can."""
    if to.compatible != vcoproc.compatible:
        return f"a {to.compatible}"
    ranges = [(each.name, each.size_bytes, each.mapped) for each in vcoproc.ranges]
    lines = {(index, line.name, line.level) for index, line in enumerate(platform.lines)}
    if ranges != [(each.name, each.size_bytes, each.mapped) for each in platform.ranges] or any(
        (line.index, line.name, line.level) not in lines for line in vcoproc.lines
    ):
        return "of another make"
    return None
