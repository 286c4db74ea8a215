"""All cores together under ``edf`` make the schedule that SimSo makes, to the microsecond.

Switches and messages take no time here, and the hardware stops in the very moment in which
something happens: so each run must begin and end exactly where SimSo's does. SimSo has overheads
too, but other ones (no messages, no grants ahead, no budget that pays for them); with them, no more
could be asked than that schedules are alike. What overheads do is judged by deadlines, in
`test_sim_edf.py`.
"""

from __future__ import annotations

from random import Random

import pytest
from sim_base import seed_id, seeds
from sim_jobs import REGISTERED_NS, Hardware, JobSimulation, edf
from simso_runs import PeriodicTask, Run, before, first_release_ns, random_tasks, simso

from vcoproc.limits import MS

END_MS = 120
START_NS = REGISTERED_NS + 1 * MS
"""When SimSo's time is 0."""
SETS = 300
TOGETHER = 50


def ours(seed: int, tasks: list[PeriodicTask]) -> list[Run]:
    simulation = JobSimulation(seed, Hardware(), edf(Hardware()))
    end_ns = END_MS * MS
    for number, task in enumerate(tasks, 1):
        work_ms, period_ms, _first_ms = task
        simulation.add(
            number, {"budget_us": work_ms * 1000, "period_us": period_ms * 1000, "extratime": 0}
        )
        for at_ns in range(first_release_ns(number, task), end_ns, period_ms * MS):
            simulation.ring(number, START_NS + at_ns, work_ms * MS)
    simulation.clock.run_until(START_NS + end_ns)
    assert not simulation.scheduler.fallbacks
    return before(
        ((run.from_ns - START_NS, run.to_ns - START_NS, run.vcoproc) for run in simulation.runs()),
        end_ns,
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", seeds(SETS, TOGETHER), ids=seed_id)
def test_the_schedule_is_that_of_simso(part: range) -> None:
    for seed in part:
        tasks = random_tasks(Random(seed), 1.0)
        theirs, missed = simso(tasks, END_MS)
        again = f"{tasks}\nmake sim SEED={seed}"
        assert missed is None, again
        assert ours(seed, tasks) == theirs, again
