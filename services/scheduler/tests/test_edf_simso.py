"""The policy ``edf`` alone, given more than there is: the first miss is that of SimSo.

Such a set is admitted by no core. What is admitted is compared by all cores together, in
`tests/sim/test_sim_edf_simso.py`.
"""

from __future__ import annotations

from random import Random

import pytest
from decision_loop import DecisionLoop, Task
from simso_runs import PeriodicTask, Run, before, first_release_ns, merged, random_tasks, simso

from vcoproc.limits import MS
from vcoproc_scheduler.policies.api import PolicyConfig, Scope, resolve_parameters
from vcoproc_scheduler.policies.edf import Edf

END_MS = 120


def ours(tasks: list[PeriodicTask]) -> tuple[list[Run], tuple[int, int] | None]:
    policy = Edf()
    policy.init(PolicyConfig(5 * MS, resolve_parameters(Edf.PARAMETERS, Scope.COPROC, {})))
    loads = []
    for number, task in enumerate(tasks, 1):
        work_ms, period_ms, _first_ms = task
        given = {"budget_us": work_ms * 1000, "period_us": period_ms * 1000, "extratime": 0}
        policy.add(number, resolve_parameters(Edf.PARAMETERS, Scope.VCOPROC, given))
        first_ns = first_release_ns(number, task)
        loads.append(Task(number, work_ms * MS, period_ms * MS, first_ns=first_ns))
    loop = DecisionLoop(policy, loads)
    loop.run(END_MS * MS)
    return merged(loop.log), loop.first_missed


@pytest.mark.slow
def test_same_first_miss_as_simso_when_overloaded() -> None:
    """After it they differ on purpose: a late job keeps its deadline there, while here a vcoproc
    that has not come to its budget begins a new period, so that it cannot take that of others."""
    overloaded = 0
    for seed in range(100):
        tasks = random_tasks(Random(seed), 1.6)
        theirs, their_miss = simso(tasks, END_MS)
        schedule, miss = ours(tasks)
        assert (their_miss is None) == (miss is None), f"seed {seed}: {tasks}"
        if their_miss is None or miss is None:
            continue
        overloaded += 1
        assert miss == their_miss, f"seed {seed}: {tasks}"
        assert before(schedule, miss[0]) == before(theirs, miss[0]), f"seed {seed}: {tasks}"
    assert overloaded > 30
