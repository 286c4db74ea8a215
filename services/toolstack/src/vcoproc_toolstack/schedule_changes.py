"""Changes of how coprocs are scheduled: in the scheduler and in the store, or in neither.

Theory of operation:
    The scheduler judges, so it is told first, and the store keeps what it took. When nobody knows
    whether it took it, or the store cannot keep it, the repair of the scheduler tells it what the
    store says; so do all restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.config.records import CoprocConfig
from vcoproc.errors import (
    InvalidArgument,
    NotFound,
    PeerError,
    RequestError,
    VcoprocError,
    WrongState,
)
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.ports import Scheduling, Services
from vcoproc_toolstack.records import EventKind, Life, VcoprocRecord
from vcoproc_toolstack.schedules import (
    Plan,
    ScheduleView,
    Setting,
    Wish,
    in_words,
    plan_change,
    schedule_resource,
)
from vcoproc_toolstack.steps import SCHEDULER, AddVcoproc, SetCoproc
from vcoproc_toolstack.store import Change, Store, View
from vcoproc_toolstack.turns import Request, Turns


@dataclass(frozen=True, slots=True)
class Scheduled:
    """How a coproc is scheduled now. wanted: as it is to be. vcoprocs: all, by number.

    overridden: it was set at run time.
    """

    wanted: CoprocConfig
    view: ScheduleView
    vcoprocs: Mapping[int, VcoprocRecord]
    overridden: bool


def need_coproc(view: View, leases: Leases, name: str) -> CoprocConfig:
    """A coproc as it is to be scheduled now.

    Raises:
        NotFound: there is none of this name.
    """
    coproc = leases.coprocs.get(name)
    if coproc is None:
        raise NotFound("coproc", name)
    setting = view.settings().get(name)
    return setting.applied(coproc) if setting else coproc


class ScheduleChanges:
    """Sets algorithms, slices and parameters while the cluster runs.

    Args:
        mark: is told when the scheduler may hold something else than the store.
    """

    def __init__(
        self,
        changes: Turns,
        store: Store,
        leases: Leases,
        doors: tuple[Services, Scheduling],
        *,
        mark: Callable[[str], None],
    ) -> None:
        self._changes = changes
        self._store = store
        self._leases = leases
        self._services, self._scheduling = doors
        self._mark = mark

    def set_schedule(
        self,
        name: str,
        wish: Wish,
        request: Request,
        seal: Callable[[Scheduled, tuple[str, ...]], bytes],
    ) -> bytes:
        """Changes how a coproc is scheduled, or nothing.

        Args:
            seal: makes the answer of what is in force then, and what was lost.

        Raises:
            NotFound: there is no such coproc.
            VcoprocError: it is refused, or the scheduler does not answer.
        """
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            with self._store.read() as view:
                before = need_coproc(view, self._leases, name)
                vcoprocs = _alive(view.vcoprocs_on(name))
            plan = plan_change(before, vcoprocs, wish, self._scheduling.algorithms())
            wanted = plan.setting.applied(before)
            held = self._prepare(before, vcoprocs)
            # Only who names an algorithm wants one that has failed to be tried again.
            restart = bool(wish.algorithm) and held.algorithm != held.wanted
            placed = {each.vcoproc_id for each in vcoprocs if each.placed}
            told = {number: params for number, params in plan.vcoprocs.items() if number in placed}
            step = SetCoproc(wanted, tuple(told.items()))
            with self._repaired_after(PeerError):
                self._scheduling.set_coproc(step, restart=restart)
            with self._repaired_after(VcoprocError):
                taken = self._scheduling.schedule(name)
                setting = _kept(plan.setting, self._leases.coprocs[name])
                records = {
                    each.vcoproc_id: replace(each, params=plan.vcoprocs[each.vcoproc_id])
                    for each in vcoprocs
                }
                with self._store.change() as change:
                    change.put_setting(name, setting)
                    self._note(change, before, vcoprocs, plan)
                    scheduled = Scheduled(wanted, taken, records, setting is not None)
                    return self._changes.keep(change, request, seal(scheduled, plan.lost))

    def set_parameters(
        self,
        domain: str,
        name: str,
        parameters: Mapping[str, int],
        request: Request,
        seal: Callable[[VcoprocRecord], bytes],
    ) -> bytes:
        """Changes some parameters of a vcoproc, or nothing. As `set_schedule`."""
        if not parameters:
            raise InvalidArgument("parameters", "are none; name at least one")
        with self._changes.turn():
            if (answer := self._changes.answered(request)) is not None:
                return answer
            with self._store.read() as view:
                vcoproc = _need_vcoproc(view, domain, name)
                coproc = need_coproc(view, self._leases, vcoproc.coproc)
                others = _alive(view.vcoprocs_on(vcoproc.coproc))
            wish = Wish(vcoprocs={vcoproc.resource: parameters})
            # What an algorithm cannot keep went when it was set; so this loses nothing.
            plan = plan_change(coproc, others, wish, self._scheduling.algorithms())
            params = plan.vcoprocs[vcoproc.vcoproc_id]
            self._prepare(coproc, others)
            if vcoproc.placed:  # otherwise it is told when its domain starts
                with self._repaired_after(PeerError):
                    self._scheduling.set_parameters(coproc.name, vcoproc.vcoproc_id, dict(params))
            with self._repaired_after(VcoprocError), self._store.change() as change:
                self._note_vcoproc(change, vcoproc, params)
                changed = change.vcoproc(vcoproc.vcoproc_id)
                assert changed is not None
                return self._changes.keep(change, request, seal(changed))

    @contextmanager
    def _repaired_after(self, kind: type[VcoprocError]) -> Iterator[None]:
        """After such an error the scheduler may hold something else than the store."""
        try:
            yield
        except kind:
            self._mark(SCHEDULER)
            raise

    def _prepare(self, coproc: CoprocConfig, vcoprocs: Sequence[VcoprocRecord]) -> ScheduleView:
        """Makes sure that the scheduler judges a change beside everything that is there.

        One that has just begun anew holds nothing yet; one that fell silent during the last change
        may hold what nobody wants.
        """
        known: set[int] = set()
        with suppress(RequestError):  # it has never heard of the coproc
            held = self._scheduling.schedule(coproc.name)
            known = {each.vcoproc_id for each in held.vcoprocs}
        placed = [vcoproc for vcoproc in vcoprocs if vcoproc.placed]
        present = tuple((v.vcoproc_id, v.params) for v in placed if v.vcoproc_id in known)
        # What is refused here was refused to the repair too, which has put rr in its place.
        with suppress(RequestError):
            self._scheduling.set_coproc(SetCoproc(coproc, present))
        for vcoproc in placed:
            if vcoproc.vcoproc_id not in known:
                self._services.perform(AddVcoproc(vcoproc))
        return self._scheduling.schedule(coproc.name)

    def _note(
        self,
        change: Change,
        before: CoprocConfig,
        vcoprocs: Sequence[VcoprocRecord],
        plan: Plan,
    ) -> None:
        """Keeps the parameters, and tells everybody what has changed."""
        old, new = Setting.of(before), plan.setting
        if old != new:
            words = [f"algorithm {new.algorithm}, slice {new.slice_ns // limits.US} us"]
            words += [in_words(new.parameters)] if new.parameters else []
            words += [f"lost: {'; '.join(plan.lost)}"] if plan.lost else []
            name = schedule_resource(before.name)
            change.add_event(name, EventKind.CHANGED, ", ".join(words))
        for vcoproc in vcoprocs:
            self._note_vcoproc(change, vcoproc, plan.vcoprocs[vcoproc.vcoproc_id])

    def _note_vcoproc(
        self, change: Change, vcoproc: VcoprocRecord, params: tuple[tuple[str, int], ...]
    ) -> None:
        if params != vcoproc.params:
            change.set_vcoproc_params(vcoproc.vcoproc_id, params)
            words = in_words(params) or "every one has its default"
            change.add_event(vcoproc.resource, EventKind.CHANGED, f"parameters: {words}")


def _kept(setting: Setting, tree: CoprocConfig) -> Setting | None:
    """What the store keeps of a setting: nothing of one that the tree says too."""
    return None if setting == Setting.of(tree) else setting


def _alive(vcoprocs: Sequence[VcoprocRecord]) -> list[VcoprocRecord]:
    return [vcoproc for vcoproc in vcoprocs if vcoproc.life is Life.ALIVE]


def _need_vcoproc(view: View, domain: str, name: str) -> VcoprocRecord:
    found = view.domain(domain)
    for vcoproc in found.vcoprocs if found else ():
        if vcoproc.name == name:
            if vcoproc.life is not Life.ALIVE:
                raise WrongState(f"vcoproc {domain}/{name}", vcoproc.life.value, "RUNNING")
            return vcoproc
    raise NotFound("vcoproc", f"{domain}/{name}")
