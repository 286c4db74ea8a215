"""``edf`` alone: budgets, periods, admission, and that what it admits is kept.

All cores together run 10 000 task sets in `tests/sim/test_sim_edf.py`; here some hundred show
whether it is the policy that misses.
"""

from __future__ import annotations

import math
import pickle
from fractions import Fraction
from random import Random

import pytest
from decision_loop import FOREVER_NS, DecisionLoop, Task

from vcoproc.errors import InvalidArgument
from vcoproc.limits import MS, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    PolicyConfig,
    Scope,
    Usage,
    resolve_parameters,
)
from vcoproc_scheduler.policies.edf import GRACE_NS, Edf
from vcoproc_scheduler.policies.edf_admission import Reservation, guaranteed, largest_budget_us

SLICE_NS = 5 * MS
SETS = 500
"""Random task sets."""


def make(*, switch_us: int = 0, refusal_us: int = 0) -> Edf:
    policy = Edf()
    given = {"switch_cost_us": switch_us, "refusal_us": refusal_us}
    parameters = resolve_parameters(Edf.PARAMETERS, Scope.COPROC, given)
    policy.init(PolicyConfig(SLICE_NS, parameters))
    return policy


def values(budget_us: int, period_us: int, extratime: int = 0) -> dict[str, int]:
    given = {"budget_us": budget_us, "period_us": period_us, "extratime": extratime}
    return resolve_parameters(Edf.PARAMETERS, Scope.VCOPROC, given)


def add(policy: Edf, vcoproc: int, budget_us: int, period_us: int, extratime: int = 0) -> None:
    parameters = values(budget_us, period_us, extratime)
    policy.admit(vcoproc, parameters)
    policy.add(vcoproc, parameters)


def usage(vcoproc: int, now_ns: int, run_ns: int = 0, **given: int | bool) -> Usage:
    base: dict[str, int | bool] = {
        "refused_ns": 0,
        "switch_ns": 0,
        "overtime_ns": 0,
        "instructions": 0,
        "ended": True,
        "left": True,
        "runnable": True,
        "stopped_ns": now_ns - given.get("refused_ns", 0) - given.get("switch_ns", 0),
    }
    return Usage(vcoproc_id=vcoproc, run_ns=run_ns, now_ns=now_ns, **(base | given))  # type: ignore[arg-type]


# --- parameters and admission ---------------------------------------------------------------------


def test_the_defaults_are_those_of_rtds() -> None:
    defaults = resolve_parameters(Edf.PARAMETERS, Scope.VCOPROC, {})
    assert defaults == {"period_us": 10_000, "budget_us": 4_000, "extratime": 1}


def test_a_budget_over_its_period_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="4001 us is more than the period, 4000 us"):
        make().admit(1, values(4001, 4000))


def test_a_full_coproc_says_what_would_fit() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    add(policy, 2, 3000, 9_000)
    with pytest.raises(InvalidArgument, match="with this period at most 1866 us can"):
        policy.admit(3, values(1867, 7000))  # 7000 * (1 - 2/5 - 1/3) = 1866.7
    add(policy, 3, 1866, 7_000)
    with pytest.raises(InvalidArgument, match="no budget can"):
        policy.admit(4, values(100, 100_000))


def test_a_load_of_exactly_one_is_admitted_and_kept() -> None:
    policy = make()
    add(policy, 1, 1000, 3000)
    add(policy, 2, 2000, 6000)
    add(policy, 3, 5000, 15_000)
    with pytest.raises(InvalidArgument):
        policy.admit(4, values(100, 10_000_000))
    tasks = [Task(1, MS, 3 * MS), Task(2, 2 * MS, 6 * MS), Task(3, 5 * MS, 15 * MS)]
    loop = DecisionLoop(policy, tasks)
    loop.run(300 * MS)
    assert loop.misses() == {}
    assert [task.done for task in tasks] == [100, 50, 20]


def test_a_change_of_parameters_counts_once() -> None:
    policy = make()
    add(policy, 1, 6000, 10_000)
    policy.admit(1, values(9000, 10_000))
    policy.admit(1, values(10_000, 10_000))
    with pytest.raises(InvalidArgument):
        policy.admit(2, values(5000, 10_000))


def test_costs_are_reserved() -> None:
    # Two of 10 ms: three switches and a refusal each, 2 * (4000 + 3 * 200 + 100) of 10 000 us.
    assert guaranteed([Reservation(4 * MS, 10 * MS)] * 2, 200 * US, 100 * US)
    assert guaranteed([Reservation(4300 * US, 10 * MS)] * 2, 200 * US, 100 * US)
    assert not guaranteed([Reservation(4301 * US, 10 * MS)] * 2, 200 * US, 100 * US)
    # A shorter period waits for a switch and a refusal that began before: 100 + 3 * 50 + 350 and
    # 50 + 350 are all of its 1000 us.
    short, long = Reservation(100 * US, MS), Reservation(10 * MS, 100 * MS)
    assert guaranteed([short, long], 50 * US, 350 * US)
    assert not guaranteed([short, long], 50 * US, 351 * US)
    assert guaranteed([])


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_budget_fits_and_one_more_does_not(seed: int) -> None:
    random = Random(seed)
    others = [
        Reservation(random.randint(100, 2000) * US, random.randint(10_000, 50_000) * US)
        for _ in range(random.randint(1, 5))
    ]
    wanted = Reservation(20 * MS, 20 * MS)
    most_us = largest_budget_us(others, wanted)
    free = 1 - sum(Fraction(each.budget_ns, each.period_ns) for each in others)
    assert most_us == math.floor(free * 20_000)


# --- budgets --------------------------------------------------------------------------------------


def test_a_hog_gets_its_budget_in_each_period_and_no_more() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    task = Task(1)
    loop = DecisionLoop(policy, [task])
    loop.run(100 * MS)
    assert loop.log == [
        (k * 10 * MS, k * 10 * MS + 4 * MS, 1) for k in range(10)
    ]  # and nothing between: vacated


def test_extra_time_is_what_nobody_with_budget_wants() -> None:
    policy = make()
    add(policy, 1, 2000, 10_000, extratime=1)
    add(policy, 2, 3000, 10_000)
    add(policy, 3, 1000, 10_000, extratime=1)
    hogs = [Task(1), Task(2), Task(3)]
    loop = DecisionLoop(policy, hogs)
    loop.run(1000 * MS)
    assert hogs[1].ran_ns == 300 * MS
    assert sum(hog.ran_ns for hog in hogs) == 1000 * MS
    extra_ns = [hogs[0].ran_ns - 200 * MS, hogs[2].ran_ns - 100 * MS]
    assert sum(extra_ns) == 400 * MS
    assert abs(extra_ns[0] - extra_ns[1]) <= 2 * SLICE_NS


def test_a_wake_with_an_earlier_deadline_preempts_and_a_later_one_does_not() -> None:
    policy = make()
    add(policy, 1, 5000, 20_000)
    add(policy, 2, 1000, 5_000)
    add(policy, 3, 1000, 50_000)
    policy.wake(1, 0)
    assert policy.pick(0, None) == Decision(1, 5 * MS)
    policy.begin(1, 0)
    policy.wake(3, MS)
    assert policy.pick(MS, 1) == Decision(3, MS)
    policy.wake(2, 2 * MS)
    assert policy.pick(2 * MS, 1) == Decision(2, MS, preempt=True)


def test_without_budget_the_coprocessor_is_vacated_until_the_next_period() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    assert policy.pick(0, 1) == Decision(None, vacate=True)
    assert policy.pick(4 * MS, 1) == Decision(None, vacate=True)  # it is about to leave
    assert policy.pick(4 * MS + GRACE_NS, 1) == Decision(None, vacate=True, preempt=True)
    policy.charge(usage(1, 4 * MS, 4 * MS))
    assert policy.pick(4 * MS, None) == NOBODY
    assert policy.next_deadline_ns() == 10 * MS
    assert policy.pick(10 * MS, None) == Decision(1, 4 * MS)


@pytest.mark.parametrize("slice_ns", [9 * MS, None])
def test_a_turn_with_another_slice_than_the_budget_is_ended_in_time(slice_ns: int | None) -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.planned(1, slice_ns)
    assert policy.pick(0, 1) == Decision(None, vacate=True)
    assert policy.next_deadline_ns() == 4 * MS, "the coproc does not end it by itself"
    assert policy.pick(4 * MS, 1) == Decision(None, vacate=True, preempt=True)


def test_a_turn_with_a_shorter_slice_than_the_budget_is_followed_by_another() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.planned(1, 1 * MS)
    assert policy.pick(0, 1) == Decision(1, 3 * MS)


def test_a_rest_shorter_than_a_slice_is_ended_by_a_deadline() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.charge(usage(1, 3950 * US, 3950 * US))
    assert policy.pick(4 * MS, None) == Decision(1, SLICE_NS_MIN)
    policy.begin(1, 4 * MS)
    policy.pick(4 * MS, 1)
    assert policy.next_deadline_ns() == 4050 * US
    assert policy.pick(4050 * US, 1) == Decision(None, vacate=True, preempt=True)


def test_refusals_and_switches_are_paid_by_who_makes_them() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.charge(usage(1, 7500 * US, 4 * MS, refused_ns=3 * MS, switch_ns=500 * US))
    assert policy.pick(10 * MS, None) == Decision(1, 500 * US)  # 4 ms less 3.5 ms of debt
    policy.begin(1, 10 * MS)
    policy.charge(usage(1, 20 * MS, 500 * US, refused_ns=9500 * US))
    # 9.5 ms of debt take two whole periods and more.
    assert policy.pick(39_999 * US, None) == NOBODY
    assert policy.pick(40 * MS, None) == Decision(1, 2500 * US)


def test_the_one_displaced_does_not_pay_for_it() -> None:
    policy = make(switch_us=100)
    add(policy, 1, 5000, 20_000)
    add(policy, 2, 1000, 5_000)
    tasks = [Task(1, 5 * MS, 20 * MS), Task(2, MS, 5 * MS, first_ns=MS)]
    loop = DecisionLoop(policy, tasks, switch_ns=100 * US)
    loop.run(400 * MS)
    assert loop.misses() == {}
    # And one with a nearer deadline that only wakes and sleeps cannot make it pay either.
    policy = make(switch_us=100)
    add(policy, 1, 5000, 20_000)
    add(policy, 2, 1000, 5_000)
    toggler = Task(2, US, 150 * US, first_ns=MS)
    victim = Task(1, 5 * MS, 20 * MS)
    loop = DecisionLoop(policy, [victim, toggler], switch_ns=100 * US)
    loop.run(400 * MS)
    assert victim.missed == []


@pytest.mark.parametrize(
    ("budget_us", "extratime", "used_us"),
    [
        (2000, 1, 500),  # what it ran before was extra, or paid
        (2000, 0, 8500),  # 10.5 ms, less the budget before
        (9950, 0, 550),
    ],
)
def test_each_period_pays_for_what_ran_in_it(budget_us: int, extratime: int, used_us: int) -> None:
    """A message that is slower than the one before tells late that the turn had begun already."""
    policy = make()
    add(policy, 1, budget_us, 10_000, extratime)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 100 * US)  # it was at 0
    policy.pick(10 * MS, 1)
    policy.charge(usage(1, 10_500 * US, 10_500 * US))
    assert policy.export_accounting()[1]["edf_used_ns"] == used_us * US


def test_a_turn_that_began_before_a_period_and_was_told_in_it_is_not_charged_to_it() -> None:
    policy = make()
    add(policy, 1, 2000, 10_000)
    policy.wake(1, 0)
    policy.pick(10_100 * US, None)
    policy.begin(1, 10_100 * US)  # it was at 9.9 ms
    policy.charge(usage(1, 10_500 * US, 600 * US))
    assert policy.export_accounting()[1]["edf_used_ns"] == 500 * US


def test_a_yield_gives_up_the_rest_of_the_budget() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.yield_(1, MS)
    policy.charge(usage(1, MS, MS))
    assert policy.pick(MS, None) == NOBODY
    assert policy.pick(10 * MS, None) == Decision(1, 4 * MS)  # and owes nothing


def test_pick_is_repeatable_and_the_policy_can_be_pickled() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    add(policy, 2, 4000, 12_000, extratime=1)
    policy.wake(1, 0)
    policy.wake(2, 0)
    first = policy.pick(3 * MS, None)
    copy = pickle.loads(pickle.dumps(policy))
    assert policy.pick(3 * MS, None) == first == copy.pick(3 * MS, None)


# --- bugs of Xen ----------------------------------------------------------------------------------


def test_xen_37b49cb4_extra_time_toggled_on_a_depleted_unit() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    policy.charge(usage(1, 4 * MS, 4 * MS))
    for extratime in (1, 0, 1, 0):  # as the core changes parameters
        parameters = values(4000, 10_000, extratime)
        policy.admit(1, parameters)
        carried = policy.export_accounting()[1]
        policy.remove(1)
        policy.add(1, parameters)
        policy.import_accounting({1: carried})
        policy.wake(1, 5 * MS)
        wanted = Decision(1, SLICE_NS) if extratime else NOBODY
        assert policy.pick(5 * MS, None) == wanted
    # Toggling has not filled up the budget, and the next period has all of it.
    assert policy.pick(10 * MS, None) == Decision(1, 4 * MS)


def test_parameters_changed_while_it_runs_keep_what_it_has_used() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    carried = policy.export_accounting()[1]
    policy.remove(1)
    policy.add(1, values(3000, 10_000))
    policy.import_accounting({1: carried})
    policy.wake(1, 2 * MS)
    policy.pick(2 * MS, 1)
    policy.charge(usage(1, 3 * MS, 3 * MS, ended=False, left=False))
    assert policy.pick(3 * MS, 1) == Decision(None, vacate=True, preempt=True)


@pytest.mark.parametrize("running", [False, True])
def test_a_shorter_budget_and_period_are_kept_from_the_change_on(running: bool) -> None:
    """What was used of the budget before is no debt now, and the old deadline does not last."""
    policy = make()
    add(policy, 1, 500_000, 1_000_000)
    policy.wake(1, 0)
    policy.pick(0, None)
    policy.begin(1, 0)
    now_ns = 499 * MS if running else 500 * MS
    policy.charge(usage(1, now_ns, now_ns, ended=not running, left=not running))
    carried = policy.export_accounting()[1]
    policy.remove(1)
    policy.add(1, values(1000, 10_000))
    policy.import_accounting({1: carried})
    policy.wake(1, now_ns)
    if running:
        policy.begin(1, now_ns)
        assert policy.pick(now_ns, 1) == Decision(None, vacate=True, preempt=True)
        policy.charge(usage(1, now_ns))
    assert policy.pick(now_ns, None) == NOBODY
    assert policy.next_deadline_ns() == now_ns + 10 * MS
    assert policy.pick(now_ns + 10 * MS, None) == Decision(1, 1 * MS)


def test_nobody_starves_of_a_deadline_that_is_far_away() -> None:
    policy = make()
    add(policy, 1, 1000, 10_000)
    policy.import_accounting({1: {"edf_used_ns": 1 << 62, "edf_deadline_ns": 1 << 62}})
    loop = DecisionLoop(policy, [Task(1)])
    loop.run(500 * MS)
    assert loop.tasks[1].ran_ns >= 48 * MS


def test_a_late_wake_takes_no_time_that_was_promised_to_others() -> None:
    """RTDS would give vcoproc 1 all of its 5 ms before 10 ms and leave 1 ms of 3 to vcoproc 2."""
    policy = make()
    add(policy, 1, 5000, 10_000)
    add(policy, 2, 3000, 6_000)
    late = Task(1, 5 * MS, 10 * MS, gaps_ns=(5 * MS, 0))
    steady = Task(2, 3 * MS, 6 * MS, first_ns=5 * MS)
    loop = DecisionLoop(policy, [late, steady])
    loop.run(500 * MS)
    assert loop.misses() == {}


def test_two_coprocs_share_nothing() -> None:
    one, two = make(), make()
    add(one, 1, 9000, 10_000)
    add(two, 1, 9000, 10_000)
    one.wake(1, 0)
    assert two.pick(0, None) == NOBODY
    assert two.next_deadline_ns() is None


def test_a_refused_change_leaves_everything_as_it_was() -> None:
    policy = make()
    add(policy, 1, 4000, 10_000)
    policy.wake(1, 0)
    before = pickle.dumps(policy)
    for bad in (values(10_001, 10_000), values(5000, 4000)):
        with pytest.raises(InvalidArgument):
            policy.admit(2, bad)
        with pytest.raises(InvalidArgument):
            policy.admit(1, bad)
    assert pickle.dumps(policy) == before


# --- what is admitted is kept ---------------------------------------------------------------------

PERIODS_US = (1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7700, 10_000)


def random_run(random: Random) -> tuple[DecisionLoop, list[Task], dict[int, tuple[int, int]]]:
    """A task set that was admitted, with hogs, refusers and togglers among it.

    Gives the tasks whose deadlines must be met, and budget and period of the hogs.
    """
    switch_us = random.choice((0, 0, 10, 40))
    out_us = random.choice((0, 0, 50)) if switch_us else 0
    in_us = random.choice((0, 0, 30)) if switch_us else 0
    refusal_us = out_us + in_us
    policy = make(switch_us=switch_us, refusal_us=refusal_us)
    promised: list[Reservation] = []
    tasks: list[Task] = []
    good: list[Task] = []
    hogs: dict[int, tuple[int, int]] = {}
    for vcoproc in range(1, random.randint(2, 5) + 1):
        period_us = random.choice(PERIODS_US)
        extratime = random.random() < 0.2
        wanted = Reservation(period_us * US, period_us * US, extratime)
        most_us = largest_budget_us(promised, wanted, switch_us * US, refusal_us * US)
        budget_us = random.choice((most_us, random.randint(0, most_us)))
        if budget_us * US < SLICE_NS_MIN:
            continue
        add(policy, vcoproc, budget_us, period_us, int(extratime))
        promised.append(wanted._replace(budget_ns=budget_us * US))
        kind = random.choice(("steady", "steady", "sporadic", "hog", "toggler", "refuser"))
        first_ns = random.randrange(period_us) * US
        budget_ns, period_ns = budget_us * US, period_us * US
        if kind == "hog":
            task = Task(vcoproc, first_ns=first_ns)
            hogs[vcoproc] = (budget_ns, period_ns)
        elif kind == "toggler":
            task = Task(vcoproc, 7 * US, 90 * US, first_ns=first_ns)
        elif kind == "refuser":
            task = Task(
                vcoproc,
                budget_ns,
                period_ns,
                first_ns=first_ns,
                refuses_ns=(out_us * US, 0),
                refuses_in_ns=(in_us * US, in_us * US, 0),
            )
        else:
            gaps_ns: tuple[int, ...] = (0,)
            if kind == "sporadic":
                gaps_ns = tuple(random.randrange(period_ns) for _ in range(3))
            task = Task(vcoproc, budget_ns, period_ns, first_ns=first_ns, gaps_ns=gaps_ns)
            good.append(task)
        tasks.append(task)
    return DecisionLoop(policy, tasks, switch_ns=switch_us * US), good, hogs


def check_run(seed: int) -> int:
    """Gives how many deadlines were met."""
    loop, good, hogs = random_run(Random(seed))
    end_ns = 15 * MS
    loop.run(end_ns)
    for task in good:
        assert task.missed == [], f"seed {seed}: vcoproc {task.id} missed {task.missed}"
    for vcoproc, (budget_ns, period_ns) in hogs.items():
        task = loop.tasks[vcoproc]
        start_ns = loop.tasks[vcoproc].awake_ns
        while start_ns + period_ns <= end_ns:
            got_ns = sum(
                min(to_ns, start_ns + period_ns) - max(from_ns, start_ns)
                for from_ns, to_ns, who in loop.log
                if who == vcoproc and to_ns > start_ns and from_ns < start_ns + period_ns
            )
            assert got_ns >= budget_ns, f"seed {seed}: hog {vcoproc} got {got_ns} of {budget_ns}"
            start_ns += period_ns
    return sum(task.done for task in good) + len(hogs)


@pytest.mark.slow
def test_the_policy_alone_misses_no_deadline_of_an_admitted_task_set() -> None:
    met = sum(check_run(seed) for seed in range(SETS))
    assert met > 3 * SETS  # it did test something


def test_the_loop_of_this_test_does_find_misses() -> None:
    """The same check, of a policy that was given too much without being asked."""
    policy = make()
    for vcoproc in (1, 2, 3):
        policy.add(vcoproc, values(4000, 10_000))
    loop = DecisionLoop(policy, [Task(each, 4 * MS, 10 * MS) for each in (1, 2, 3)])
    loop.run(100 * MS)
    assert loop.misses()
    assert loop.now_ns < FOREVER_NS


def test_a_decision_costs_no_more_than_a_logarithm() -> None:
    """Counted in steps of the interpreter, which do not depend on the machine."""
    import sys

    def steps(count: int) -> float:
        policy = make()
        for vcoproc in range(1, count + 1):
            policy.add(vcoproc, values(100, 1_000_000, vcoproc % 2))
            policy.wake(vcoproc, vcoproc)
        lines = 0

        def trace(frame: object, event: str, argument: object) -> object:
            nonlocal lines
            lines += 1
            return trace

        now_ns, current = MS, None
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            for _ in range(100):
                decision = policy.pick(now_ns, current)
                assert decision.vcoproc_id is not None
                policy.begin(decision.vcoproc_id, now_ns)
                now_ns += 100 * US
                policy.charge(usage(decision.vcoproc_id, now_ns, 100 * US))
                policy.next_deadline_ns()
        finally:
            sys.settrace(None)
        return lines / 100

    assert steps(2000) < 2 * steps(20)
