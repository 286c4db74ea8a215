"""``priority`` on virtual time: strictness, preemption, ageing, and the ends of the range."""

from __future__ import annotations

import pytest
from decision_loop import DecisionLoop, Task
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_machine import PolicyMachine, jain

from vcoproc.limits import MS, US, S
from vcoproc_scheduler.policies.api import PolicyConfig
from vcoproc_scheduler.policies.priority import Priority

SLICE_NS = 5 * MS


def machine_of(
    *priorities: int, switch_ns: int = 0, max_wait_us: int = 60_000_000, awake: bool = True
) -> PolicyMachine:
    machine = PolicyMachine(
        Priority(), switch_ns=switch_ns, parameters={"max_wait_us": max_wait_us}
    )
    for vcoproc_id, priority in enumerate(priorities, 1):
        machine.add(vcoproc_id, priority=priority)
        if awake:
            machine.work(vcoproc_id, None)
    return machine


def test_the_highest_runs_and_equals_take_turns() -> None:
    machine = machine_of(7, 9, 9, 8)
    machine.run(2 * S)
    ran = {guest.id: guest.run_ns for guest in machine.guests.values()}
    assert ran[1] == ran[4] == 0
    assert jain([ran[2], ran[3]]) >= 0.999
    assert {turn.ended_ns - turn.began_ns for turn in machine.turns} == {SLICE_NS}


def test_priorities_do_not_wrap_around() -> None:
    """Xen 410d44fc: a priority that was counted on beyond the end of its range became the highest.
    Here it is counted nowhere: however long the extremes run and wait, they stay what they are."""
    machine = machine_of(255, 0, 254, 1)
    machine.run(55 * S)  # no one has aged
    assert [guest.run_ns for guest in machine.guests.values()] == [55 * S, 0, 0, 0]
    machine = machine_of(255, 0, 254, 1, max_wait_us=100_000)
    machine.run(20 * S)
    ran = [guest.run_ns for guest in machine.guests.values()]
    assert ran[0] > 10 * max(ran[1:]), "ageing gives turns, not rank"
    assert ran[0] > 16 * S
    assert min(ran) > 0


@pytest.mark.parametrize("pause_us", [1, 100, 900])
def test_an_important_one_starves_nobody_by_pausing_for_a_moment(pause_us: int) -> None:
    """Each time, the other one runs for that moment; but its slice is not had by that."""
    policy = Priority()
    policy.init(PolicyConfig(1 * MS, {"max_wait_us": 20_000}))
    for vcoproc_id, priority in ((1, 1), (2, 9)):
        policy.add(vcoproc_id, {"priority": priority})
    job = Task(1, 1 * MS, 1 * S, first_ns=500 * US)
    pausing = Task(2, 20 * MS - pause_us * US, 20 * MS)
    DecisionLoop(policy, [job, pausing]).run(3 * S)
    assert job.done == 3
    assert job.responses_ns <= 20 * MS + 2 * 2 * MS + 1 * MS, "a wait and its slice"


def test_a_slice_that_is_cut_into_pieces_is_had_within_one_wait() -> None:
    """A rest that is too short to be granted is not taken for time that it has run: else it would
    have to age once more for it."""
    policy = Priority()
    policy.init(PolicyConfig(1 * MS, {"max_wait_us": 20_000}))
    for vcoproc_id, priority in ((1, 1), (2, 9)):
        policy.add(vcoproc_id, {"priority": priority})
    job = Task(1, 1 * MS, 1 * S, first_ns=1 * MS)
    # Before the other one has aged it pauses, so long that it can come and run for 0.95 ms or less.
    pausing = Task(2, 19_500 * US, 19_500 * US, gaps_ns=(950 * US,))
    DecisionLoop(policy, [job, pausing]).run(3 * S)
    assert job.done == 3
    assert job.responses_ns <= 20 * MS + 2 * 2 * MS + 1 * MS, "a wait and its slice"


def test_an_important_one_that_is_never_taken_in_lets_the_aged_run() -> None:
    """Its turns come to nothing, but they are turns: after an aged one, it had its own."""
    machine = machine_of(1, 2, 9, max_wait_us=30_000)
    machine.bound_ns = 1 * MS
    machine.refuse_in_ns = lambda guest: 1 * S if guest.id == 3 else 0
    machine.run(1 * S)
    for vcoproc_id in (1, 2):
        guest = machine.guests[vcoproc_id]
        assert guest.wait_ns_max <= 30 * MS + 2 * 3 * (SLICE_NS + machine.bound_ns)
        assert guest.run_ns >= 100 * MS


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 255), (127, 128), (254, 255)])
def test_a_wake_of_a_higher_priority_preempts(low: int, high: int) -> None:
    machine = machine_of(low, high, awake=False)
    machine.work(1, None)
    machine.run(1 * MS)
    machine.work(2, 2 * MS)
    machine.run(2 * MS)
    assert (machine.guests[1].run_ns, machine.guests[2].run_ns) == (1 * MS, 2 * MS)
    machine.run(1 * MS)
    assert machine.guests[1].run_ns == 2 * MS, "and then the first one goes on"


@pytest.mark.parametrize("priority", [0, 5])
def test_a_wake_of_the_same_or_a_lower_priority_waits(priority: int) -> None:
    machine = machine_of(5, priority, awake=False)
    machine.work(1, None)
    machine.run(1 * MS)
    machine.work(2, None)
    machine.run(4 * MS)
    assert machine.guests[1].run_ns == SLICE_NS


def test_who_is_preempted_often_gets_no_more_than_its_slice() -> None:
    """Else one of two equals would have a new slice each time, and the other one nothing."""
    machine = machine_of(5, 5, 9, awake=False)
    machine.work(1, None)
    machine.work(2, None)

    def nag() -> None:
        if machine.guests[3].work_ns == 0:
            machine.work(3, 200 * US)
        machine.at(machine.now_ns + 2 * MS, nag)

    nag()
    machine.run(4 * S)
    assert jain([machine.guests[1].run_ns, machine.guests[2].run_ns]) >= 0.999


@settings(max_examples=40)
@given(
    priorities=st.lists(st.integers(0, 255), min_size=2, max_size=8),
    max_wait_ms=st.sampled_from([1, 20, 100]),
    nagging=st.booleans(),
)
def test_nobody_waits_longer_than_the_bound(
    priorities: list[int], max_wait_ms: int, nagging: bool
) -> None:
    switch_ns = 20 * US
    machine = machine_of(*priorities, switch_ns=switch_ns, max_wait_us=max_wait_ms * 1000)

    def nag() -> None:
        if machine.guests[99].work_ns == 0:
            machine.work(99, 1 * MS)
        machine.at(machine.now_ns + 1_300 * US, nag)

    if nagging:
        machine.add(99, priority=255)
        nag()
    machine.run(2 * S)
    bound_ns = max_wait_ms * MS + 2 * len(machine.guests) * (SLICE_NS + 2 * switch_ns)
    for guest in machine.guests.values():
        waiting_ns = machine.now_ns - (guest.waiting_since_ns or machine.now_ns)
        assert max(guest.wait_ns_max, waiting_ns) <= bound_ns
        assert guest.run_ns


def test_ageing_leaves_the_highest_at_least_half() -> None:
    machine = machine_of(200, *[10] * 30, max_wait_us=1000)
    machine.run(4 * S)
    assert machine.guests[1].run_ns >= 4 * S * 49 // 100


def test_an_aged_turn_is_a_whole_slice() -> None:
    """It is preempted by nobody; else it would be no turn at all."""
    machine = machine_of(200, 0, max_wait_us=50_000)
    machine.run(1 * S)
    assert machine.guests[2].run_ns == machine.guests[2].turns * SLICE_NS
    assert 1 * S // (60 * MS) <= machine.guests[2].turns <= 1 * S // (55 * MS)


def test_a_yield_lets_the_next_of_the_same_priority_run() -> None:
    machine = machine_of(5, 5)
    machine.run(1 * MS)
    machine.yield_()
    machine.run(5 * MS)
    assert machine.guests[2].run_ns == SLICE_NS
