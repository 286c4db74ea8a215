"""The scheduler core against the model executor on virtual time: fairness, wakes, books."""

from __future__ import annotations

import pickle

import pytest
from scheduler_executor_model import FREE, Costs
from scheduler_rig import SLICE_NS, Rig, rr

from vcoproc.limits import MS, US
from vcoproc.model.run_state import RunState
from vcoproc.testing.network import Faults
from vcoproc_scheduler.events import SetAlgorithm

REFUSING = Costs(refuse_ns=(0, 300 * US))
REFUSING_BOTH = Costs(refuse_ns=(0, 300 * US), refuse_in_ns=(0, 1500 * US))
BOUND_NS = 1 * MS
"""So some are given up before they are taken in."""
BOUNDED = SetAlgorithm("rr", SLICE_NS, BOUND_NS, {})


def jain(values: list[int]) -> float:
    """Jain's fairness index, 1.0 for equal shares: (sum x)^2 / (n * sum x^2)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def test_one_hog_runs_for_ever_without_more_grants() -> None:
    rig = Rig(costs=FREE)
    rig.add(1)
    rig.executor.work(1, None)
    rig.clock.advance(1000 * MS)
    assert [grant.now for grant in rig.grants] == [True]
    assert rig.state(1) is RunState.RUNNING
    events = rig.events
    rig.clock.advance(10_000 * MS)
    assert rig.events == events, "an idle scheduler is woken by nothing"


@pytest.mark.parametrize("count", [2, 3, 8, 32])
def test_equal_hogs_get_equal_shares(count: int) -> None:
    rig = Rig()
    ids = list(range(1, count + 1))
    rig.add(*ids)
    for vcoproc in ids:
        rig.executor.work(vcoproc, None)
    rig.clock.advance(count * 100 * SLICE_NS)
    shares = [rig.executor.guests[vcoproc].run_ns for vcoproc in ids]
    assert jain(shares) >= 0.999
    # Nothing but switches comes between: at most 42 us each here, and one link delay at the start.
    assert sum(shares) >= count * 100 * SLICE_NS * 99 // 100


def test_slices_are_exact_and_need_no_round_trip() -> None:
    rig = Rig(costs=FREE, faults=Faults(delay_ns=(400 * US, 400 * US)))
    rig.add(1, 2, 3)
    for vcoproc in (1, 2, 3):
        rig.executor.work(vcoproc, None)
    rig.clock.advance(100 * SLICE_NS)
    # The first grant meets an empty coproc, so the first turn may be in overtime by a round trip.
    assert {turn.ended_ns - turn.began_ns for turn in rig.turns[1:]} == {SLICE_NS}
    assert all(a.ended_ns == b.began_ns for a, b in zip(rig.turns, rig.turns[1:], strict=False))


def test_a_link_slower_than_a_slice_costs_overtime_and_loses_nothing() -> None:
    rig = Rig(costs=FREE, faults=Faults(delay_ns=(4 * MS, 9 * MS)))
    rig.add(1, 2)
    rig.executor.work(1, None)
    rig.executor.work(2, None)
    rig.clock.advance(400 * SLICE_NS)
    shares = [rig.executor.guests[vcoproc].run_ns for vcoproc in (1, 2)]
    assert jain(shares) >= 0.99
    view = {each.vcoproc: each.account for each in rig.core.view(rig.clock.now_ns).vcoprocs}
    assert all(account.overtime_ns > 0 for account in view.values())


def test_who_wakes_often_does_not_starve_the_others() -> None:
    """The ancestor put a woken vcoproc at the head of the queue: a toggler ran alone."""
    rig = Rig()
    rig.add(1, 2, 3)
    rig.executor.work(2, None)
    rig.executor.work(3, None)
    rig.clock.advance(SLICE_NS)
    toggler = rig.executor.guests[1]
    for _ in range(4000):
        if not toggler.work_ns:
            rig.executor.work(1, 200 * US)
        rig.clock.advance(300 * US)
    hogs = [rig.executor.guests[vcoproc].run_ns for vcoproc in (2, 3)]
    assert jain(hogs) >= 0.999
    # Of each round of 10.2 ms it has 0.2 ms.
    assert min(hogs) > 40 * toggler.run_ns // 2
    assert toggler.turns > 4000 * 300 * US // (2 * SLICE_NS + 1 * MS), "and it runs each round"


@pytest.mark.parametrize("costs", [REFUSING, REFUSING_BOTH])
def test_the_books_agree_with_those_of_the_executor(costs: Costs) -> None:
    rig = Rig(seed=7, costs=costs, algorithm=BOUNDED)
    rig.add(1, 2, 3)
    for round_ in range(300):
        rig.executor.work(1 + round_ % 3, (1 + round_ % 7) * MS)
        if round_ % 5 == 0:
            rig.executor.yield_()
        rig.clock.advance((1 + round_ % 11) * MS)
    rig.settle()
    view = {each.vcoproc: each.account for each in rig.core.view(rig.clock.now_ns).vcoprocs}
    for vcoproc, guest in rig.executor.guests.items():
        assert view[vcoproc].run_ns == guest.run_ns
        assert view[vcoproc].refused_ns == guest.refused_ns
        assert view[vcoproc].switches == guest.turns
        refusals = view[vcoproc].refusals, view[vcoproc].switch_in_refusals
        assert sum(each.total_ns for each in refusals) == guest.refused_ns
        assert refusals[1].count == len(guest.entries_ns)
        assert refusals[1].given_up_count == guest.given_up
        assert (guest.given_up > 0) == (costs is REFUSING_BOTH)
        assert guest.run_ns > 0
    assert any(guest.refused_ns for guest in rig.executor.guests.values())
    elapsed = {account.elapsed_ns for account in view.values()}
    # They were added before the coproc registered; so all accounts are as old as its session.
    assert len(elapsed) == 1
    assert rig.clock.now_ns - 1 * MS < elapsed.pop() <= rig.clock.now_ns + 1 * MS


def test_a_restarted_scheduler_finds_its_place() -> None:
    rig = Rig(seed=3)
    rig.add(1, 2, 3)
    rig.executor.work(1, None)
    rig.executor.work(2, None)
    rig.clock.advance(33 * MS)
    before = {vcoproc: guest.run_ns for vcoproc, guest in rig.executor.guests.items()}
    rig.restart_scheduler()
    rig.clock.advance(20 * MS)  # nobody schedules: the current one runs on
    assert sum(guest.run_ns for guest in rig.executor.guests.values()) > sum(before.values())
    rig.link.connect()
    rig.clock.advance(1 * MS)  # registered, but control has said nothing yet
    rig.step(rr())
    rig.add(1, 2, 3)
    rig.clock.advance(200 * MS)
    for vcoproc in (1, 2):
        assert rig.executor.guests[vcoproc].run_ns > before[vcoproc] + 80 * MS
    rig.executor.work(3, 1 * MS)
    rig.clock.advance(3 * SLICE_NS)
    assert rig.executor.guests[3].turns == 1


@pytest.mark.parametrize("costs", [REFUSING, REFUSING_BOTH])
def test_cuts_and_stalls_lose_no_wake(costs: Costs) -> None:
    faults = Faults(
        stall_chance=50_000, cut_chance=30_000, reconnect_ns=(1 * MS, 10 * MS), through_codec=True
    )
    rig = Rig(seed=11, faults=faults, costs=costs, algorithm=BOUNDED)
    rig.add(*range(1, 6))
    for round_ in range(400):
        rig.executor.work(1 + round_ % 5, 500 * US)
        rig.clock.advance(700 * US)
    assert rig.link.cut_count > 5
    rig.network.faults = Faults()
    rig.link.connect()
    rig.settle()
    # Liveness: all the work that was ever asked for is done.
    assert [guest.work_ns for guest in rig.executor.guests.values()] == [0] * 5
    assert sum(guest.run_ns for guest in rig.executor.guests.values()) == 400 * 500 * US


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> list[object]:
        rig = Rig(seed=5, faults=Faults(stall_chance=20_000, cut_chance=5_000), costs=REFUSING)
        rig.add(1, 2, 3)
        for round_ in range(100):
            rig.executor.work(1 + round_ % 3, 2 * MS)
            rig.clock.advance(1 * MS)
        return [*rig.turns, *rig.grants, rig.core.view(rig.clock.now_ns)]

    assert run() == run()


def test_a_core_can_be_pickled_in_the_middle_and_goes_on_alike() -> None:
    rig = Rig()
    rig.add(1, 2)
    rig.executor.work(1, None)
    rig.executor.work(2, None)
    rig.clock.advance(22 * MS)
    copy = pickle.loads(pickle.dumps(rig.core))
    original, rig.core = rig.core, copy
    rig.clock.advance(100 * MS)
    assert copy.view(rig.clock.now_ns) != original.view(rig.clock.now_ns)
    assert jain([guest.run_ns for guest in rig.executor.guests.values()]) > 0.98
