"""Bugs that other schedulers had, each as a test here.

More of them stand beside what they are about: a wake lost while going to sleep and a next one that
sleeps while the current one is half stopped (test_scheduler_core), a wake at the head of the queue
(test_scheduler_sim), state shared between two pools (test_scheduler_service), stale pointers after
a failed move (test_scheduler_swap).
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from scheduler_executor_model import FREE, Costs
from scheduler_rig import SLICE_NS, Rig, rr

from vcoproc.limits import MS, US
from vcoproc.model.run_state import RunState
from vcoproc.testing.network import Faults
from vcoproc.wire.messages import EndReason
from vcoproc_scheduler.accounting import AccountView
from vcoproc_scheduler.events import SetAlgorithm
from vcoproc_scheduler.figures import REFUSAL_BOUNDS_US, Refusals, Slices
from vcoproc_scheduler.policies.api import Usage
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin

DEAR = Costs((900 * US, 900 * US), (50 * US, 50 * US), (700 * US, 700 * US))


class Charged(RoundRobin):
    """Keeps what was charged."""

    def __init__(self) -> None:
        super().__init__()
        self.usages: list[Usage] = []

    def charge(self, usage: Usage) -> None:
        super().charge(usage)
        self.usages.append(usage)


def charged_rig(costs: Costs, refusal_ns: int) -> tuple[Rig, Charged]:
    made = Rig(
        5,
        costs=costs,
        faults=Faults(delay_ns=(20 * US, 20 * US)),
        catalogue=Catalogue({"charged": Charged}),
        algorithm=SetAlgorithm("charged", SLICE_NS, refusal_ns, {}),
    )
    policy = made.core._policy.policy
    assert isinstance(policy, Charged)
    return made, policy


def accounts(made: Rig) -> dict[int, AccountView]:
    view = made.core.view(made.clock.now_ns)
    return {each.vcoproc: each.account for each in view.vcoprocs}


def hogs(made: Rig, count: int) -> None:
    made.add(*range(1, count + 1))
    for vcoproc in range(1, count + 1):
        made.executor.work(vcoproc, None)


def test_the_switch_time_is_not_taken_from_the_next_ones_slice() -> None:
    """The ancestor armed its timer before the switch: a dear switch ate the slice."""
    made, _policy = charged_rig(DEAR, 0)
    hogs(made, 3)
    made.clock.advance(60 * SLICE_NS)
    assert {turn.ended_ns - turn.began_ns for turn in made.turns} == {SLICE_NS}
    assert all(turn.end == EndReason.SLICE for turn in made.turns)
    for account in accounts(made).values():
        assert account.slices.error_max_ns == 0 and account.slices.full_count > 10
        assert account.slices.actual_ns == account.slices.planned_ns
        assert account.overtime_ns == 0


def test_a_refusal_to_take_one_in_is_paid_by_that_one_and_all_slices_are_whole() -> None:
    costs = Costs((1, 1), (1, 1), (1, 1), refuse_in_ns=(400 * US, 400 * US))
    made, policy = charged_rig(costs, 500 * US)
    hogs(made, 2)
    made.clock.advance(40 * SLICE_NS)
    assert {turn.ended_ns - turn.began_ns for turn in made.turns} == {SLICE_NS}
    ended = [usage for usage in policy.usages if usage.ended]
    assert ended == policy.usages, "it is charged with the turn"
    assert {(usage.run_ns, usage.refused_ns) for usage in ended} == {(SLICE_NS, 400 * US)}
    assert {usage.overtime_ns for usage in ended} == {0}


def test_what_is_never_taken_in_pays_too_and_makes_way_at_the_bound() -> None:
    bound_ns = 2 * MS
    made, policy = charged_rig(Costs((1, 1), (1, 1), (1, 1)), bound_ns)
    hogs(made, 3)
    made.clock.advance(20 * SLICE_NS)
    made.executor.costs.refuse_in_ns = (1_000 * MS, 1_000 * MS)
    made.clock.advance(40 * SLICE_NS)
    assert made.executor.current is None, "nobody is taken in any more"
    given_up = [usage for usage in policy.usages if usage.refused_ns]
    assert {(usage.run_ns, usage.refused_ns) for usage in given_up} == {(0, bound_ns)}
    # A turn that has ended; that it wants another one is said by the wake that follows.
    ends = {(usage.ended, usage.left, usage.runnable) for usage in given_up}
    assert ends == {(True, True, False)}
    # Each in turn, though all of them are refused.
    order = [usage.vcoproc_id for usage in given_up]
    assert len(order) > 50
    assert all(len(set(order[place : place + 3])) == 3 for place in range(len(order) - 2))


def test_a_refusal_is_paid_by_the_refuser_and_the_next_ones_slice_is_whole() -> None:
    made, policy = charged_rig(Costs((1, 1), (1, 1), (1, 1), (400 * US, 400 * US)), 500 * US)
    hogs(made, 2)
    made.clock.advance(40 * SLICE_NS)
    assert {turn.ended_ns - turn.began_ns for turn in made.turns} == {SLICE_NS}
    ended = [usage for usage in policy.usages if usage.ended]
    assert {(usage.run_ns, usage.refused_ns) for usage in ended} == {(SLICE_NS, 400 * US)}
    assert {usage.overtime_ns for usage in ended} == {0}


@pytest.mark.parametrize("refusal_ns", [0, 300 * US, 20 * MS])
def test_refusals_are_bounded(refusal_ns: int) -> None:
    """The ancestor asked again for ever: its deadline of 40 ms was commented out."""
    count = 4
    made, _policy = charged_rig(Costs((1, 1), (1, 1), (1, 1), (0, 10_000 * MS)), refusal_ns)
    hogs(made, count)
    made.clock.advance(200 * MS + 40 * refusal_ns)
    assert {grant.refusal_ns for grant in made.grants} == {refusal_ns}
    round_ns = count * (SLICE_NS + refusal_ns + 3)
    for vcoproc in range(1, count + 1):
        began = [turn.began_ns for turn in made.turns if turn.vcoproc == vcoproc]
        assert len(began) >= 5
        assert max(b - a for a, b in pairwise(began)) <= round_ns
    assert max(account.refusals.max_ns for account in accounts(made).values()) <= refusal_ns


def test_the_distribution_of_refusals_is_kept() -> None:
    made, _policy = charged_rig(Costs((1, 1), (1, 1), (1, 1), (0, 900 * US)), 1 * MS)
    hogs(made, 3)
    made.clock.advance(200 * SLICE_NS)
    found = accounts(made)
    for vcoproc, guest in made.executor.guests.items():
        refusals = found[vcoproc].refusals
        lengths_ns = [t.refused_ns for t in made.turns if t.vcoproc == vcoproc and t.refused_ns]
        assert refusals.total_ns == found[vcoproc].refused_ns == guest.refused_ns
        assert (refusals.count, refusals.max_ns) == (len(lengths_ns), max(lengths_ns))
        assert sum(refusals.counts) == len(lengths_ns) > 50
        below = sum(length_ns < 256 * US for length_ns in lengths_ns)
        assert sum(refusals.counts[: REFUSAL_BOUNDS_US.index(256) + 1]) == below


def test_the_distribution_of_refusals_at_switch_in_is_kept() -> None:
    bound_ns = 1 * MS
    costs = Costs((1, 1), (1, 1), (1, 1), (0, 300 * US), (0, 1500 * US))
    made, policy = charged_rig(costs, bound_ns)
    hogs(made, 3)
    made.clock.advance(400 * SLICE_NS)
    made.executor.costs.refuse_in_ns = (0, 0)  # and so that none is under way
    made.clock.advance(4 * SLICE_NS)
    found = accounts(made)
    for vcoproc, guest in made.executor.guests.items():
        out, entries = found[vcoproc].refusals, found[vcoproc].switch_in_refusals
        assert out.total_ns + entries.total_ns == found[vcoproc].refused_ns == guest.refused_ns
        assert (entries.count, entries.busy_count) == (len(guest.entries_ns),) * 2
        assert entries.max_ns == max(guest.entries_ns) == bound_ns, "some were given up"
        assert entries.given_up_count == guest.given_up > 10
        assert entries.count - guest.given_up > 50
        assert sum(entries.counts) == entries.count
        below = sum(length_ns < 256 * US for length_ns in guest.entries_ns)
        assert sum(entries.counts[: REFUSAL_BOUNDS_US.index(256) + 1]) == below
        # What was not charged yet is of a turn that has not ended.
        charged = [usage.refused_ns for usage in policy.usages if usage.vcoproc_id == vcoproc]
        assert 0 <= guest.refused_ns - sum(charged) <= guest.entries_ns[-1]


@pytest.mark.parametrize(
    ("refused_ns", "place"),
    [(0, 0), (999, 0), (1000, 1), (1999, 1), (2000, 2), (4095 * US, 12), (4096 * US, 13),
     (524_287 * US, 19), (524_288 * US, 20), (10**12, 20)],
)  # fmt: skip
def test_bounds_of_the_distribution(refused_ns: int, place: int) -> None:
    refusals = Refusals()
    refusals.add(refused_ns, 3, forced=True)
    view = refusals.view()
    assert [index for index, count in enumerate(view.counts) if count] == [place]
    if place < len(REFUSAL_BOUNDS_US):
        assert refused_ns < REFUSAL_BOUNDS_US[place] * US
    if place:
        assert refused_ns >= REFUSAL_BOUNDS_US[place - 1] * US
    assert (view.count, view.busy_count, view.forced_count) == (1, 3, 1)


def test_slices_planned_against_actual() -> None:
    slices = Slices()
    slices.add(100, 90, full=False)
    slices.add(100, 107, full=True)
    slices.add(100, 98, full=True)
    view = slices.view()
    assert (view.count, view.planned_ns, view.actual_ns) == (3, 300, 295)
    assert (view.full_count, view.error_ns, view.error_max_ns) == (2, 9, 7)


def test_running_on_alone_is_no_error_of_a_slice() -> None:
    made = Rig(costs=FREE, faults=Faults(delay_ns=(20 * US, 20 * US)))
    made.add(1, 2)
    made.executor.work(1, None)
    made.clock.advance(100 * SLICE_NS)
    made.executor.work(2, 1 * MS)
    made.clock.advance(SLICE_NS)
    account = accounts(made)[1]
    assert account.overtime_ns > 90 * SLICE_NS
    assert (account.slices.count, account.slices.full_count) == (1, 0)


def test_the_longest_wait_is_observed_to_the_beginning_of_the_turn() -> None:
    made, _policy = charged_rig(DEAR, 0)
    hogs(made, 3)
    made.clock.advance(60 * SLICE_NS)
    switch_ns = 1650 * US
    # Three switches and the slices of the two others, save of its own left out.
    want_ns = 2 * SLICE_NS + 3 * switch_ns - 900 * US
    waits_ns = {account.wait_max_ns for account in accounts(made).values()}
    # The first turn of all may be in overtime by a round trip, which the others wait for.
    assert waits_ns <= {want_ns, want_ns + 40 * US}
    assert made.core.schedule(made.clock.now_ns).switch_max_ns == switch_ns
    made.link.cut(reconnect=False)
    assert {account.wait_max_ns for account in accounts(made).values()} == waits_ns


@pytest.mark.parametrize("delay_us", [1, 100, 3000])
def test_no_wake_is_lost_while_going_to_sleep(delay_us: int) -> None:
    """The ancestor lost a wake that came while the vcoproc was asked to sleep."""
    made = Rig(delay_us, costs=DEAR, faults=Faults(delay_ns=(delay_us * US // 2, delay_us * US)))
    made.add(1, 2)
    work_ns = 1 * MS
    for round_ in range(300):
        # A wake at every place of a turn and of a switch.
        made.executor.work(1, work_ns)
        made.clock.advance(work_ns + round_ * 7919 % (3 * MS))
        if round_ % 3 == 0:
            made.executor.work(2, 200 * US)
    made.settle()
    for vcoproc, guest in made.executor.guests.items():
        assert guest.work_ns == 0 and made.state(vcoproc) is RunState.SLEEPING
        assert accounts(made)[vcoproc].run_ns == guest.run_ns


def test_a_wake_with_nobody_running_is_served_in_one_decision() -> None:
    made = Rig(costs=FREE)
    made.add(*range(1, 9))
    made.clock.advance(1 * MS)
    decisions, grants = made.core.decisions.last_number, len(made.grants)
    made.executor.work(5, 1 * MS)
    made.clock.advance(500 * US)
    assert made.core.decisions.last_number == decisions + 1
    assert len(made.grants) == grants + 1 and made.grants[-1].now
    assert made.state(5) is RunState.RUNNING


def test_two_busy_units_do_not_fix_the_slice() -> None:
    """Xen's ae648e9f: credit2 with two busy units always ran them for 10 ms."""
    made = Rig(costs=FREE)
    hogs(made, 2)
    made.clock.advance(50 * MS)
    ended = len(made.turns)
    made.step(rr(1 * MS))
    made.clock.advance(2 * SLICE_NS)
    ended = len(made.turns)
    made.clock.advance(50 * MS)
    assert {turn.ended_ns - turn.began_ns for turn in made.turns[ended:]} == {1 * MS}
