"""Coprocs come and go while the cluster runs: added, drained, removed.

Theory of operation:
    What there is to be is in the store; `Leases` shows it to everybody else, and is told once the
    store has it. A removal that has vcoprocs to destroy is decided first (REMOVING), and then done
    as far as services answer; a restarted toolstack goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig, NotFound, VcoprocError
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.coproc_set import CoprocSet, instances_of, plan_addition
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.ports import Scheduling
from vcoproc_toolstack.records import CoprocRecord, EventKind
from vcoproc_toolstack.schedules import Algorithm, check_parameters, find_algorithm
from vcoproc_toolstack.store import Change, Store, View
from vcoproc_toolstack.turns import Request

CoprocSeal = Callable[[View, CoprocSet, Sequence[str]], bytes]
"""Makes the answer about coprocs of a set, by name; it is kept for a repeated request."""


@dataclass(frozen=True, slots=True)
class Addition:
    """What is to be added: coprocs of a tree; names: which of them, empty for all."""

    system: SystemConfig
    names: tuple[str, ...]


class CoprocChanges:
    """See the module.

    Args:
        seal: makes answers.
    """

    def __init__(
        self,
        changes: Changes,
        store: Store,
        leases: Leases,
        scheduling: Scheduling,
        seal: CoprocSeal,
    ) -> None:
        self._changes = changes
        self._store = store
        self._leases = leases
        self._scheduling = scheduling
        self._seal = seal

    def add(self, addition: Addition, request: Request) -> bytes:
        """Adds coprocs, all or none.

        Raises:
            RequestError: one of them is there, or clashes with one that is, or cannot be scheduled.
        """
        algorithms = self._algorithms()
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            records, coprocs = self._plan(addition, algorithms)
            with self._store.change() as change:
                added = [self._note_added(change, record, coprocs) for record in records]
                coprocs = self._leases.set.changed(added)
                answer = self._seal(change, coprocs, _shown(coprocs, added))
                self._changes.keep(change, request, answer)
            self._leases.apply(coprocs)
            return answer

    def check(self, addition: Addition) -> bytes:
        """The answer that `add` would give. Raises the same."""
        records, coprocs = self._plan(addition, self._algorithms())
        with self._store.read() as view:
            return self._seal(view, coprocs, _shown(coprocs, records))

    def _plan(
        self, addition: Addition, algorithms: Sequence[Algorithm] | None
    ) -> tuple[list[CoprocRecord], CoprocSet]:
        """What is to be kept, and the coprocs that there are then."""
        present = self._leases.set
        records = plan_addition(present, addition.system, addition.names)
        coprocs = present.changed(records)
        if algorithms is not None:
            names = _shown(coprocs, records)
            new = [coprocs.coprocs[name] for name in names]
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
        entry = next(
            (each for each in coprocs.system.coprocs if each.name == record.name),
            coprocs.coprocs.get(record.name),
        )
        assert entry is not None, "it was planned"
        words = f"added: {entry.compatible} at {entry.path}"
        if entry.is_template:
            words += f", a template of {entry.instances}"
        change.add_event(f"coprocs/{record.name}", EventKind.CREATED, words)
        return record

    def drain(self, name: str, request: Request) -> bytes:
        """From now on a coproc takes no new vcoprocs.

        Raises:
            NotFound: there is no such coproc.
        """
        return self._set_draining(name, True, request, "takes no new vcoprocs")

    def undrain(self, name: str, request: Request) -> bytes:
        """A coproc takes new vcoprocs again. Raises: as `drain`."""
        return self._set_draining(name, False, request, "takes new vcoprocs again")

    def _set_draining(self, name: str, draining: bool, request: Request, words: str) -> bytes:
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            present = self._leases.set
            _need(present, name)
            record = replace(present.record(name), draining=draining)
            coprocs = present.changed([record])
            with self._store.change() as change:
                if present.draining(name) is not draining:
                    self._keep(change, record)
                    change.add_event(f"coprocs/{name}", EventKind.CHANGED, words)
                answer = self._seal(change, coprocs, [name])
                self._changes.keep(change, request, answer)
            self._leases.apply(coprocs)
            return answer

    @staticmethod
    def _keep(change: Change, record: CoprocRecord) -> None:
        """Keeps a record; none of a coproc that is as its tree says."""
        if record == CoprocRecord(record.name):
            change.delete_coproc(record.name)
        else:
            change.put_coproc(record)


def _need(coprocs: CoprocSet, name: str) -> CoprocConfig:
    coproc = coprocs.coprocs.get(name)
    if coproc is None:
        raise NotFound("coproc", name)
    return coproc


def _shown(coprocs: CoprocSet, records: Sequence[CoprocRecord]) -> list[str]:
    """Names of the coprocs that records are about, and that their templates make."""
    names = []
    for record in records:
        entries = [each for each in coprocs.system.coprocs if each.name == record.name]
        made = [each.name for entry in entries for each in instances_of(entry)]
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
            problems.append(ConfigProblem(file_name, coproc.line, of, str(error)))
    if problems:
        raise InvalidConfig(problems)
