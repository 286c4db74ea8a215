"""What a vcoproc has used elsewhere, and a vcoproc that is kept from running."""

from __future__ import annotations

from random import Random

import pytest
from scheduler_rig import CATALOGUE, SLICE_NS, Rig, rr

from vcoproc.errors import InvalidArgument
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.model.run_state import RunState
from vcoproc.wire.messages import EndReason, Grant, GrantDropped, Register, Report, Sleep, Wake
from vcoproc_scheduler.accounting import USED_MAX, AccountView, Used
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import AddVcoproc, CoprocOnline, RemoveVcoproc, SetAlgorithm
from vcoproc_scheduler.policies.api import Usage
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin
from vcoproc_scheduler.service import SchedulerService

USED = Used(
    run_ns=700 * MS,
    wait_ns=300 * MS,
    switch_ns=5 * MS,
    refused_ns=2 * MS,
    overtime_ns=1 * MS,
    instructions=10**9,
    wakes=77,
    switches=42,
)


def account(rig: Rig, vcoproc: int) -> AccountView:
    view = rig.core.view(rig.clock.now_ns)
    return next(each.account for each in view.vcoprocs if each.vcoproc == vcoproc)


def figures(view: AccountView) -> Used:
    return Used(
        view.run_ns, view.wait_ns, view.switch_ns, view.refused_ns, view.overtime_ns,
        view.instructions, view.wakes, view.switches,
    )  # fmt: skip


def work(rig: Rig) -> None:
    rig.executor.attach(1)
    rig.executor.attach(2)
    rig.step(AddVcoproc(2, {}))
    for vcoproc in (1, 2):
        rig.executor.work(vcoproc, 30 * MS)
    rig.settle()


@pytest.mark.parametrize("order", ["first", "after attach", "after wake", "while it runs"])
def test_accounts_begin_with_what_was_used_elsewhere(order: str) -> None:
    """Whenever control says so, on top of what is used here, and times add up (`validate`)."""
    plain, carried = Rig(), Rig()
    for rig, used in ((plain, Used()), (carried, USED)):
        if order != "first":
            rig.executor.attach(1)
        if order in ("after wake", "while it runs"):
            rig.executor.work(1, 8 * MS)
        if order == "while it runs":
            rig.clock.advance(2 * MS)
        rig.step(AddVcoproc(1, {}, used))
        work(rig)
    here, both = figures(account(plain, 1)), figures(account(carried, 1))
    assert here.run_ns >= 30 * MS and here.switches
    for name in USED.__slots__:
        assert getattr(both, name) == getattr(here, name) + getattr(USED, name), name
    assert figures(account(carried, 2)) == figures(account(plain, 2))


def test_of_one_that_is_there_they_say_nothing() -> None:
    rig = Rig()
    rig.add(1)
    rig.step(AddVcoproc(1, {}, USED))
    rig.step(AddVcoproc(1, {"slice_us": 700}, USED))
    assert figures(account(rig, 1)) == Used()


def test_one_that_comes_back_begins_with_what_it_has_used_since() -> None:
    rig = Rig()
    rig.step(AddVcoproc(1, {}, USED))
    rig.step(RemoveVcoproc(1))
    rig.step(AddVcoproc(1, {}, Used(run_ns=1)))
    assert figures(account(rig, 1)) == Used(run_ns=1)


class Charged(RoundRobin):
    """Round robin that keeps its bills."""

    bills: list[Usage] = []

    def charge(self, usage: Usage) -> None:
        self.bills.append(usage)
        super().charge(usage)


def test_no_algorithm_is_charged_for_what_was_used_elsewhere() -> None:
    Charged.bills.clear()
    rig = Rig(
        catalogue=Catalogue({"rr": RoundRobin, "charged": Charged}),
        algorithm=SetAlgorithm("charged", SLICE_NS, SWITCH_DEADLINE_NS, {}),
    )
    rig.step(AddVcoproc(1, {}, USED))
    work(rig)
    mine = [bill for bill in Charged.bills if bill.vcoproc_id == 1]
    assert sum(bill.run_ns for bill in mine) == account(rig, 1).run_ns - USED.run_ns
    assert sum(bill.refused_ns for bill in mine) == 0
    assert sum(bill.overtime_ns for bill in mine) < 1 * MS


@pytest.mark.parametrize("name", ["run_ns", "wait_ns", "instructions", "switches"])
def test_figures_that_no_clock_has_are_refused(name: str) -> None:
    service = SchedulerService(CATALOGUE, lambda _coproc, _message: None)
    service.set_coproc("dsp0", rr(), 0)
    with pytest.raises(InvalidArgument, match=name):
        service.add_vcoproc("dsp0", 1, {}, 0, used=Used(**{name: USED_MAX + 1}))
    assert service.view("dsp0", 0).vcoprocs == ()
    service.add_vcoproc("dsp0", 1, {}, 0, used=Used(**{name: USED_MAX}))


# --- paused ---------------------------------------------------------------------------------------


class Told:
    """A core, and what a coproc-sim tells it."""

    def __init__(self, algorithm: str = "rr") -> None:
        self.core = CoprocSchedulerCore("dsp0", CATALOGUE, validate=True)
        self.now_ns = 0
        self.grant = Grant(0, 0, 0, False, 0)
        self.step(SetAlgorithm(algorithm, SLICE_NS, SWITCH_DEADLINE_NS, {}))
        self.step(CoprocOnline())
        self.step(Register("dsp0", self.now_ns, 0, ((1, False, False), (2, False, False))))
        for vcoproc in (1, 2):
            self.step(AddVcoproc(vcoproc, {}))

    def step(self, event: object) -> list[object]:
        self.now_ns += 10 * US
        effects: list[object] = list(self.core.step(event, self.now_ns))  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, Grant):
                self.grant = effect
        return effects

    def begin(self, vcoproc: int) -> None:
        """Its turn begins on the empty coprocessor."""
        self.step(Wake(vcoproc, self.now_ns, False))
        assert self.grant.vcoproc == vcoproc
        self.step(self.report(0, self.grant.grant, vcoproc, EndReason.IDLE))

    def report(self, old: int, number: int, new: int, end: EndReason) -> Report:
        now_ns = self.now_ns
        return Report(
            1 if old else 0, old, number, new, end, False, SLICE_NS if old else 0, 0, 0, 0,
            False, 0, 0, 0, 0, now_ns, now_ns if new else 0,
        )  # fmt: skip

    def state(self, vcoproc: int) -> RunState | None:
        return self.core.run_state(vcoproc)


ALGORITHMS = [name for name in CATALOGUE.names if name not in ("arinc653", "fixed", "null")]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_that_waited_and_is_kept_from_running_sleeps(algorithm: str) -> None:
    told = Told(algorithm)
    told.begin(1)
    told.step(Wake(2, told.now_ns, False))
    assert told.state(2) is RunState.WAITING
    said = told.step(GrantDropped(0, 2, "PAUSED", told.now_ns))
    assert told.state(2) is RunState.SLEEPING
    assert not [grant for grant in said if isinstance(grant, Grant) and grant.vcoproc == 2]
    told.step(Wake(2, told.now_ns, False))
    assert told.state(2) is RunState.WAITING


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_that_refuses_to_be_paused_is_granted_nothing(algorithm: str) -> None:
    told = Told(algorithm)
    told.begin(1)
    said = told.step(Sleep(1, told.now_ns))
    assert not [grant for grant in said if isinstance(grant, Grant) and grant.vcoproc == 1]
    told.step(Wake(2, told.now_ns, False))
    assert told.grant.vcoproc == 2
    told.step(told.report(1, told.grant.grant, 2, EndReason.REMOVED))
    assert (told.state(1), told.state(2)) == (RunState.SLEEPING, RunState.RUNNING)


@pytest.mark.parametrize("seed", range(5))
def test_random_pauses_lose_nobody_and_no_time(seed: int) -> None:
    """A coproc that holds one of two back now and then: `validate` checks books and beliefs."""
    random = Random(seed)
    told = Told(random.choice(ALGORITHMS))
    told.begin(1)
    waits = False
    for _ in range(200):
        if not waits:
            told.step(Wake(2, told.now_ns, False))
        else:
            told.step(GrantDropped(0, 2, "PAUSED", told.now_ns))
        waits = not waits
        assert told.state(2) is (RunState.WAITING if waits else RunState.SLEEPING)
    view = told.core.view(told.now_ns)
    for each in view.vcoprocs:
        assert each.account.elapsed_ns <= told.now_ns
