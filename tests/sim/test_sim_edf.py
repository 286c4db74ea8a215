"""No task set that `edf` admits misses a deadline, with all cores together on virtual time.

The scheduler's core with its policy, granting and accounts, the session and the wire format, the
executor, its switcher and the front end: all are the real ones. Messages and switches take time,
bursts are not interrupted, some vcoprocs refuse to leave; admission reckons with all of that by
`switch_cost_us` and `refusal_us`. Who got what is judged by what the hardware wrote down.

``make sim-edf`` runs the 10 000 sets alone, ``make sim-edf SEED=...`` one of them.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from sim_base import seed_id, seeds
from sim_edf import START_NS, Kind, Task, TaskSet, draw, play
from sim_edf_checks import completions, judge, within
from sim_jobs import JOB_NS_MAX, Hardware, JobSimulation, Run, edf

from vcoproc.limits import MS, US
from vcoproc.wire.messages import Grant
from vcoproc_sim.platforms.api import Busy

SETS = int(os.environ.get("SETS", "10000"))
"""More than the default is for a night."""
TOGETHER = 500


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", seeds(SETS, TOGETHER), ids=seed_id)
def test_no_admitted_task_set_misses_a_deadline(part: range) -> None:
    deadlines = 0
    for seed in part:
        tasks = draw(seed)
        try:
            simulation = play(tasks)
            assert not simulation.scheduler.fallbacks
            assert not any(each.forced for each in simulation.platform.contexts.values())
            count, wrong = judge(tasks, simulation.runs())
            assert not wrong, "\n".join(wrong)
        except BaseException as error:
            error.add_note(f"{tasks}\nmake sim-edf SEED={seed}")
            raise
        deadlines += count
    assert deadlines > 5 * len(part) or len(part) == 1, "it did test something"


def hog(vcoproc: int, budget_us: int, period_us: int, first_ns: int, *, extratime: bool) -> Task:
    rings = ((first_ns, JOB_NS_MAX),)
    return Task(vcoproc, Kind.HOG, budget_us * US, period_us * US, extratime, rings)


@pytest.mark.parametrize("late_us", [320, 328, 336])
def test_an_order_that_crosses_the_turn_it_replaces_takes_no_budget_from_others(
    late_us: int,
) -> None:
    """Vcoproc 1 has been granted extra time after vcoproc 2, which uses up its budget just when the
    next period of 1 begins: the order for its budget alone comes too late. It had the coprocessor
    for a millisecond more, which vcoproc 2 then missed."""
    hardware = Hardware(delay_ns=(10 * US, 10 * US))
    second_ns = START_NS + late_us * US
    tasks = (
        hog(1, 155, 4_000, START_NS, extratime=True),
        hog(2, 9_352, 10_000, second_ns, extratime=False),
    )
    task_set = TaskSet(1, hardware, 5 * MS, 0, tasks, second_ns + 40 * MS)
    assert judge(task_set, play(task_set).runs()) == (14, [])


def test_a_refuser_whose_deadline_comes_first_again_is_granted_once() -> None:
    """It refuses to leave for vcoproc 2, and meanwhile its next period makes it the first again."""
    simulation = JobSimulation(1, Hardware(), edf(Hardware(), refusal_ns=300 * US))
    for vcoproc, period_us in ((1, 3_000), (2, 6_000)):
        parameters = {"budget_us": 700, "period_us": period_us, "extratime": 2 - vcoproc}
        simulation.add(vcoproc, parameters)
    simulation.platform.leave_rule = lambda _vcoproc: Busy(300 * US)
    orders = []
    simulation.note = lambda *what: orders.extend(e for e in what if isinstance(e, Grant))
    simulation.ring(1, START_NS, JOB_NS_MAX)
    simulation.ring(2, START_NS + 2_800 * US, MS)
    simulation.clock.run_until(START_NS + 3_600 * US)
    # For 1 at first, for 2, for 1 again; what follows its present slice.
    assert [order.vcoproc for order in orders[:3]] == [1, 2, 1]
    assert len(orders) < 6
    assert [run.vcoproc for run in simulation.runs()][-1] == 1


# --- the judge ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_judge_finds_what_is_missed() -> None:
    """The same sets on hardware that costs more than was said."""
    found = 0
    for seed in range(60):
        tasks = draw(seed)
        slower = replace(tasks.hardware, enter_ns=tasks.hardware.enter_ns + MS)
        found += bool(judge(tasks, play(tasks, slower).runs())[1])
    assert found > 30


def test_a_nanosecond_too_late_is_too_late() -> None:
    task = Task(1, Kind.STEADY, 3, 10, False, ((0, 3), (10, 3)))
    tasks = TaskSet(0, Hardware(), 1, 0, (task,), 20)
    assert judge(tasks, [Run(0, 2, 1), Run(9, 10, 1), Run(17, 20, 1)]) == (2, [])
    assert judge(tasks, [Run(0, 2, 1), Run(9, 10, 1), Run(18, 21, 1)]) == (
        2,
        ["vcoproc 1, STEADY: job 1 of 10 ns is 1 ns late"],
    )
    assert judge(tasks, [Run(0, 2, 1), Run(9, 10, 2)])[1] == [
        "vcoproc 1, STEADY: job 0 of 0 ns is not done",
        "vcoproc 1, STEADY: job 1 of 10 ns is not done",
    ]


def test_what_a_hog_overdraws_is_missing_later_and_extra_time_is_not() -> None:
    hardware = Hardware(burst_ns=1)
    runs = [Run(0, 4, 1), Run(10, 12, 1), Run(22, 25, 1)]
    for extratime, wrong in (
        (False, []),
        (True, ["vcoproc 1, HOG: in the period of 10 ns it got 1 ns too little"]),
    ):
        task = Task(1, Kind.HOG, 3, 10, extratime, ((0, 99),))
        assert judge(TaskSet(0, hardware, 1, 0, (task,), 30), runs) == (3, wrong)
    task = Task(1, Kind.HOG, 2, 10, False, ((0, 99),))
    assert judge(TaskSet(0, hardware, 1, 0, (task,), 10), runs) == (
        1,
        ["vcoproc 1, HOG: by the end of the period of 0 ns, 2 ns too much"],
    )
    with pytest.raises(AssertionError, match="two at once"):
        judge(TaskSet(0, hardware, 1, 0, (), 10), [Run(0, 2, 1), Run(1, 3, 2)])


def test_times_are_found_in_spans() -> None:
    spans = [(0, 5), (10, 12), (20, 30)]
    assert completions([5, 1, 1, 4, 100], spans) == [5, 11, 12, 24]
    assert [within(spans, 0, 30), within(spans, 4, 11), within(spans, 12, 20)] == [17, 2, 0]
