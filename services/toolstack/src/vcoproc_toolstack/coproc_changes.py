"""Coprocs are added, drained and replaced while the cluster runs. Removing: `coproc_removal`.

Theory of operation:
    What is to be there is in the store; `Leases` shows it to everybody else, and is told once the
    store has it. Vcoprocs that must go elsewhere move all together, in the transaction that makes
    the rest of the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.errors import (
    ConfigProblem,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    VcoprocError,
    WrongState,
)
from vcoproc.model.domain_state import DomainVerb
from vcoproc_toolstack.capacity import Target, memory_on, spread
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.coproc_removal import Removals, need_staying, resource, show, vcoprocs_on
from vcoproc_toolstack.coproc_set import CoprocSet, instances_of, plan_addition
from vcoproc_toolstack.moves import Moves, Passage, misfit
from vcoproc_toolstack.ports import Scheduling
from vcoproc_toolstack.records import CoprocRecord, CoprocState, EventKind
from vcoproc_toolstack.schedules import Algorithm, check_parameters, find_algorithm
from vcoproc_toolstack.store import Change, View
from vcoproc_toolstack.turns import Request

CoprocSeal = Callable[[View, CoprocSet, Sequence[str]], bytes]
"""Makes the answer about coprocs of a set, by name; it is kept for a repeated request."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to be added: coprocs of a tree. names: which of them; empty for all."""

    system: SystemConfig
    names: tuple[str, ...]


class CoprocChanges:
    """See the module."""

    def __init__(
        self, changes: Changes, moves: Moves, removals: Removals, scheduling: Scheduling
    ) -> None:
        self._changes = changes
        self._store = changes.store
        self._leases = changes.leases
        self._moves = moves
        self._removals = removals
        self._scheduling = scheduling

    # --- adding -----------------------------------------------------------------------------------

    def add(self, addition: Addition, request: Request, seal: CoprocSeal) -> bytes:
        """Adds coprocs, all or none.

        Raises:
            RequestError: one of them is there, or clashes with one that is, or cannot be scheduled.
        """
        algorithms = self._algorithms()
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            records, coprocs = self._plan(addition, algorithms)
            with self._changes.change() as change:
                added = [self._note_added(change, record, coprocs) for record in records]
                coprocs = self._leases.set.changed(added)
                answer = seal(change, coprocs, _shown(coprocs, added))
                self._changes.keep(change, request, answer)
                show(change, self._leases, coprocs)
            return answer

    def check(self, addition: Addition, seal: CoprocSeal) -> bytes:
        """The answer that `add` would give. Raises the same."""
        records, coprocs = self._plan(addition, self._algorithms())
        with self._store.read() as view:
            return seal(view, coprocs, _shown(coprocs, records))

    def _plan(
        self, addition: Addition, algorithms: Sequence[Algorithm] | None
    ) -> tuple[list[CoprocRecord], CoprocSet]:
        """What is to be kept, and the coprocs that there are then."""
        present = self._leases.set
        records = plan_addition(present, addition.system, addition.names)
        coprocs = present.changed(records)
        if algorithms is not None:
            new = [coprocs.entry(record.name) for record in records]
            _check_schedules(new, algorithms, addition.system.file_name)
        return records, coprocs

    def _algorithms(self) -> Sequence[Algorithm] | None:
        """What the scheduler has installed; None when it does not answer."""
        try:
            return self._scheduling.algorithms()
        except VcoprocError:
            return None

    @staticmethod
    def _note_added(change: Change, record: CoprocRecord, coprocs: CoprocSet) -> CoprocRecord:
        record = replace(record, incarnation=change.revision() + 1)
        change.put_coproc(record)
        entry = coprocs.entry(record.name)
        words = f"added: {entry.compatible} at {entry.path}"
        if entry.is_template:
            words += f", a template of {entry.instances}"
        change.add_event(resource(record.name), EventKind.CREATED, words)
        return record

    # --- draining ---------------------------------------------------------------------------------

    def drain(self, name: str, request: Request, seal: CoprocSeal, *, move: bool = False) -> bytes:
        """From now on a coproc takes no new vcoprocs.

        Args:
            move: those that it has go to other coprocs of its type, all of them or nothing changes.

        Raises:
            NotFound, WrongState: there is no such coproc, or it is being removed.
            LimitExceeded: not all of them fit elsewhere.
            VcoprocError: one of them cannot be moved.
        """
        with self._changes.turn(self._awaited(name) if move else ()):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            present = self._leases.set
            need_staying(present, name)
            coprocs = present.changed([replace(present.record(name), draining=True)])
            passages = self._ways_out(present, name) if move else []

            def commit(change: Change) -> bytes:
                if not present.draining(name):
                    change.put_coproc(coprocs.record(name))
                    words = "takes no new vcoprocs"
                    change.add_event(resource(name), EventKind.CHANGED, words)
                show(change, self._leases, coprocs)
                return self._changes.keep(change, request, seal(change, coprocs, [name]))

            return self._moves.carry(passages, commit)

    def undrain(self, name: str, request: Request, seal: CoprocSeal) -> bytes:
        """A coproc takes new vcoprocs again. Raises: NotFound, WrongState as of `drain`."""
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            present = self._leases.set
            need_staying(present, name)
            coprocs = present.changed([replace(present.record(name), draining=False)])
            with self._changes.change() as change:
                if present.draining(name):
                    change.put_coproc(coprocs.record(name))
                    words = "takes new vcoprocs again"
                    change.add_event(resource(name), EventKind.CHANGED, words)
                show(change, self._leases, coprocs)
                return self._changes.keep(change, request, seal(change, coprocs, [name]))

    def _awaited(self, name: str) -> list[str]:
        """Coprocs that must be there for everybody to leave one.

        Those of its type that take new vcoprocs, if the ones that are online do not take them all.
        Of those made on demand only the ones in use: the others may never have been there.
        """
        present = self._leases.set
        if name not in present.coprocs:
            return []
        try:
            self._ways_out(present, name)
        except LimitExceeded:
            with self._store.read() as view:
                used = view.counts()
            kind = present.coprocs[name].compatible
            others = [
                other
                for other, coproc in present.coprocs.items()
                if other != name
                and coproc.compatible == kind
                and present.usable(other)
                and (other not in present.templates or other in used)
            ]
            return [name, *others]
        except VcoprocError:  # told in its turn
            pass
        return [name]

    def _ways_out(self, present: CoprocSet, name: str) -> list[Passage]:
        """Where each vcoproc of a coproc can go. present: which coprocs there are.

        Raises:
            WrongState: a domain cannot have its vcoprocs moved now.
            LimitExceeded: they do not all fit.
        """
        with self._store.read() as view:
            leaving = vcoprocs_on(view, name, DomainVerb.MOVE)
            targets = self._targets(view, present, name)
        platforms = {other: self._leases.need(other).platform for other in targets}
        ways = spread(
            leaving,
            targets,
            lambda vcoproc, to: misfit(vcoproc, present.coprocs[to], platforms[to]) is None,
        )
        if len(ways) < len(leaving):
            what = f"the {len(leaving)} vcoprocs of coproc {name} that others of its type take now"
            raise LimitExceeded(what, len(ways))
        return [Passage(domain, vcoproc, ways[vcoproc.vcoproc_id]) for domain, vcoproc in leaving]

    def _targets(self, view: View, present: CoprocSet, name: str) -> dict[str, Target]:
        """Coprocs of the same type as one that take new vcoprocs now."""
        counts = view.counts()
        domains = view.domains()
        used = memory_on(domains)
        found = {}
        for other, coproc in present.coprocs.items():
            lease = self._leases.get(other)
            usable = present.usable(other) and self._leases.state(other) is CoprocState.ONLINE
            same = other != name and coproc.compatible == present.coprocs[name].compatible
            if lease is None or not (usable and same):
                continue
            room = min(coproc.vcoprocs_max, lease.platform.contexts_max) - counts.get(other, 0)
            limit = coproc.memory_bytes_max
            found[other] = Target(
                name=other,
                free_count=max(0, room),
                memory_bytes_free=limit - used.get(other, 0) if limit else None,
                domids=frozenset(
                    domain.domid
                    for domain in domains
                    if any(vcoproc.coproc == other for vcoproc in domain.vcoprocs)
                ),
            )
        return found

    # --- replacing --------------------------------------------------------------------------------

    def replace(self, name: str, replacement: str, request: Request, seal: CoprocSeal) -> bytes:
        """Moves every vcoproc of a coproc to another one, and removes it then; or changes nothing.

        Raises:
            NotFound, WrongState, LimitExceeded: there is no such coproc, or the other one cannot
                take its place.
            VcoprocError: a vcoproc cannot be moved.
        """
        if replacement == name:
            raise InvalidArgument("replacement", "is the coproc that is to be replaced")
        with self._changes.turn([name, replacement]):
            if (answer := self._changes.answered(request)) is not None:
                return answer
            present = self._leases.set
            for each in (name, replacement):
                need_staying(present, each)
            old, new = present.coprocs[name], present.coprocs[replacement]
            if new.compatible != old.compatible:
                what, state = f"coproc {replacement!r}", f"a {new.compatible}"
                raise WrongState(what, state, f"a {old.compatible}, as {name} is")
            self._leases.platform(new)
            with self._store.read() as view:
                leaving = vcoprocs_on(view, name, DomainVerb.MOVE)

            def commit(change: Change) -> bytes:
                coprocs = self._removals.decide(change, present, name)
                words = f"takes the place of coproc {name}"
                change.add_event(resource(replacement), EventKind.CHANGED, words)
                return self._changes.keep(change, request, seal(change, coprocs, [replacement]))

            passages = [Passage(domain, vcoproc, replacement) for domain, vcoproc in leaving]
            answer = self._moves.carry(passages, commit)
            self._removals.end(name)
            return answer


def _shown(coprocs: CoprocSet, records: Sequence[CoprocRecord]) -> list[str]:
    """Names of the coprocs that records are about, and that their templates make."""
    names: list[str] = []
    for record in records:
        made = [each.name for each in instances_of(coprocs.entry(record.name))]
        names += made or [record.name]
    return names


def _check_schedules(
    coprocs: Sequence[CoprocConfig], algorithms: Sequence[Algorithm], file_name: str
) -> None:
    """Raises: InvalidConfig (an algorithm is not installed, or does not know a parameter)."""
    problems = []
    for coproc in coprocs:
        of = f"coproc {coproc.name}"
        try:
            algorithm = find_algorithm(algorithms, coproc.scheduler)
            check_parameters(algorithm, dict(coproc.scheduler_params), per_coproc=True, of=of)
        except InvalidArgument as error:
            problems.append(ConfigProblem(coproc.file or file_name, coproc.line, of, str(error)))
    if problems:
        raise InvalidConfig(problems)
