"""Looks at schedules: what the scheduler says, with names from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vcoproc.errors import NotFound, RequestError
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.ports import Scheduling, Stream
from vcoproc_toolstack.records import VcoprocRecord, VcoprocState
from vcoproc_toolstack.schedule_changes import Scheduled, need_coproc
from vcoproc_toolstack.schedules import (
    Algorithm,
    Analysis,
    Assumptions,
    Decision,
    ScheduleView,
    VcoprocSchedule,
    check_parameters,
    find_algorithm,
    resolved,
)
from vcoproc_toolstack.store import Store

NameOf = Callable[[int], str]
"""Resource name of a vcoproc, by its number; empty for 0."""


class ScheduleQueries:
    """Reads schedules. Never waits for a change that is under way."""

    def __init__(self, store: Store, leases: Leases, scheduling: Scheduling) -> None:
        self._store = store
        self._leases = leases
        self._scheduling = scheduling

    def algorithms(self) -> tuple[Algorithm, ...]:
        """All that are installed. Raises: PeerError."""
        return self._scheduling.algorithms()

    def check_new(self, vcoprocs: Iterable[VcoprocRecord]) -> None:
        """Refuses parameters that vcoprocs to be made cannot have, as the scheduler would.

        Whether an algorithm admits them beside the others is known when they are made.

        Raises:
            InvalidArgument: the algorithm of a coproc has no such parameter, or not this value.
            PeerError: the scheduler does not answer.
        """
        for vcoproc in vcoprocs:
            if not vcoproc.params:
                continue
            with self._store.read() as view:
                wanted = need_coproc(view, self._leases, vcoproc.coproc)
            algorithm = find_algorithm(self._scheduling.algorithms(), wanted.scheduler)
            of = f"vcoproc {vcoproc.name}"
            check_parameters(algorithm, dict(vcoproc.params), per_coproc=False, of=of)

    def schedule(self, name: str) -> Scheduled:
        """How a coproc is scheduled now.

        Raises:
            NotFound: there is no such coproc.
            PeerError: the scheduler does not answer.
        """
        with self._store.read() as view:
            wanted = need_coproc(view, self._leases, name)
            overridden = name in view.settings()
            vcoprocs = {each.vcoproc_id: each for each in view.vcoprocs_on(name)}
        held = self._asked(lambda: self._scheduling.schedule(name))
        if held is None:
            placed = [vcoproc for vcoproc in vcoprocs.values() if vcoproc.placed]
            held = self._expected(wanted.name, placed)
        return Scheduled(wanted, held, vcoprocs, overridden)

    def _asked(self, ask: Callable[[], ScheduleView]) -> ScheduleView | None:
        """What the scheduler says; None when it does not know the coproc yet."""
        try:
            return ask()
        except RequestError as error:
            if error.reason != NotFound.reason:
                raise
            return None

    def _expected(self, name: str, vcoprocs: Iterable[VcoprocRecord]) -> ScheduleView:
        """What the scheduler will say of a coproc once it is told of it."""
        with self._store.read() as view:
            wanted = need_coproc(view, self._leases, name)
        algorithm = find_algorithm(self._scheduling.algorithms(), wanted.scheduler)
        return ScheduleView(
            algorithm=wanted.scheduler,
            wanted=wanted.scheduler,
            slice_ns=wanted.slice_ns,
            refusal_ns=wanted.refusal_deadline_ns,
            parameters=resolved(algorithm, wanted.scheduler_params, per_coproc=True),
            vcoprocs=tuple(
                VcoprocSchedule(
                    vcoproc_id=each.vcoproc_id,
                    state=VcoprocState.UNKNOWN,
                    parameters=resolved(algorithm, each.params, per_coproc=False),
                )
                for each in vcoprocs
            ),
        )

    def decisions(self, name: str, after: int) -> list[Decision]:
        """Decisions that are kept, oldest first. Raises: as `schedule`."""
        self._need(name)
        try:
            return self._scheduling.decisions(name, after)
        except RequestError as error:
            if error.reason != NotFound.reason:
                raise
            return []  # it has never been told of this coproc

    def follow(self, name: str, after: int) -> Stream[tuple[Decision, int]]:
        """See `ports.Scheduling.follow`. Raises: as `schedule`."""
        self._need(name)
        return self._scheduling.follow(name, after)

    def analyse(self, name: str, assumed: Assumptions) -> Analysis:
        """Raises: as `schedule`."""
        self._need(name)
        return self._scheduling.analyse(name, assumed)

    def _need(self, name: str) -> None:
        if name not in self._leases.coprocs:
            raise NotFound("coproc", name)

    def names(self) -> NameOf:
        """A look-up of names that remembers: one number means one vcoproc for ever.

        A domain that is renamed later keeps its old name in it.
        """
        known = {0: ""}

        def name_of(vcoproc_id: int) -> str:
            name = known.get(vcoproc_id)
            if name is None:
                with self._store.read() as view:
                    found = view.vcoproc(vcoproc_id)
                name = known[vcoproc_id] = found.resource if found else f"vcoprocs/{vcoproc_id}"
            return name

        return name_of
