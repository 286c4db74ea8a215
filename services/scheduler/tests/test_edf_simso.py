"""``edf`` against SimSo, an independent simulator of real-time schedulers (LAAS-CNRS, 2014).

It takes times as floating point numbers of milliseconds, so ours are eighths of one, which are
exact. Each task's eighth is another one: no two deadlines are equal, and nothing is left to choose.
"""

from __future__ import annotations

import sys
import warnings
from random import Random
from types import ModuleType
from typing import Any

import pytest
from decision_loop import DecisionLoop, Task

from vcoproc.limits import MS
from vcoproc_scheduler.policies.api import PolicyConfig, Scope, resolve_parameters
from vcoproc_scheduler.policies.edf import Edf

# It needs this module only to load schedulers from files; Python 3.12 does not have it any more.
if sys.version_info >= (3, 12):
    sys.modules.setdefault("imp", ModuleType("imp"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its modules from the days of Python 2
    from simso.configuration import Configuration
    from simso.core import JobEvent, Model

PERIODS_MS = (4, 5, 6, 8, 9, 10, 12, 15, 20, 24, 30)
CYCLE_NS = 1000

Run = tuple[int, int, int]
"""From, to (both ns), vcoproc."""


def simso(
    tasks: list[tuple[int, int, int]], end_ms: int
) -> tuple[list[Run], tuple[int, int] | None]:
    """Who ran when, and the first deadline missed: (when in ns, vcoproc).

    Args:
        tasks: (work, period, first release) of each, in ms; each is released by its eighth later.
    """
    configuration: Any = Configuration()
    configuration.cycles_per_ms = MS // CYCLE_NS
    configuration.duration = end_ms * configuration.cycles_per_ms
    for number, (work_ms, period_ms, first_ms) in enumerate(tasks, 1):
        configuration.add_task(
            name=f"T{number}",
            identifier=number,
            period=period_ms,
            activation_date=first_ms + number / 8,
            wcet=work_ms,
            deadline=period_ms,
            abort_on_miss=False,
        )
    configuration.add_processor(name="CPU 1", identifier=1)
    configuration.scheduler_info.clas = "simso.schedulers.EDF_mono"
    configuration.check_all()
    model: Any = Model(configuration)
    model.run_model()
    runs: list[Run] = []
    missed: list[tuple[int, int]] = []
    for task in model.task_list:
        began = None
        for at, event in task.monitor:
            if event.event == JobEvent.EXECUTE:
                began = at
            elif began is not None and event.event in (JobEvent.PREEMPTED, JobEvent.TERMINATED):
                if at > began:
                    runs.append((began * CYCLE_NS, at * CYCLE_NS, task.identifier))
                began = None
        if began is not None:
            runs.append((int(began) * CYCLE_NS, end_ms * MS, task.identifier))
        for job in task.jobs:
            deadline_ns = int(job.absolute_deadline * 8) * MS // 8
            late = job.end_date is None or job.end_date * CYCLE_NS > deadline_ns
            if late and deadline_ns <= end_ms * MS:
                missed.append((deadline_ns, task.identifier))
    return merged(runs), min(missed, default=None)


def merged(runs: list[Run]) -> list[Run]:
    """In the order of time, what follows without a gap put together."""
    result: list[Run] = []
    for from_ns, to_ns, who in sorted(runs):
        if from_ns == to_ns:
            continue
        if result and result[-1][1] == from_ns and result[-1][2] == who:
            result[-1] = (result[-1][0], to_ns, who)
        else:
            result.append((from_ns, to_ns, who))
    return result


def ours(
    tasks: list[tuple[int, int, int]], end_ms: int
) -> tuple[list[Run], tuple[int, int] | None]:
    policy = Edf()
    policy.init(PolicyConfig(5 * MS, resolve_parameters(Edf.PARAMETERS, Scope.COPROC, {})))
    loads = []
    for number, (work_ms, period_ms, first_ms) in enumerate(tasks, 1):
        given = {"budget_us": work_ms * 1000, "period_us": period_ms * 1000, "extratime": 0}
        policy.add(number, resolve_parameters(Edf.PARAMETERS, Scope.VCOPROC, given))
        loads.append(
            Task(number, work_ms * MS, period_ms * MS, first_ns=first_ms * MS + number * MS // 8)
        )
    loop = DecisionLoop(policy, loads)
    loop.run(end_ms * MS)
    return merged(loop.log), loop.first_missed


def random_tasks(random: Random, load_max: float) -> list[tuple[int, int, int]]:
    tasks: list[tuple[int, int, int]] = []
    load = 0.0
    for _ in range(random.randint(2, 6)):
        period_ms = random.choice(PERIODS_MS)
        work_ms = random.randint(1, max(1, period_ms // 2))
        if load + work_ms / period_ms <= load_max:
            tasks.append((work_ms, period_ms, random.randrange(period_ms)))
            load += work_ms / period_ms
    return tasks


def before(runs: list[Run], end_ns: int) -> list[Run]:
    cut = [(from_ns, min(to_ns, end_ns), who) for from_ns, to_ns, who in runs if from_ns < end_ns]
    return merged(cut)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_same_schedule_as_simso(batch: int) -> None:
    for seed in range(10 * batch, 10 * batch + 10):
        tasks = random_tasks(Random(seed), 1.0)
        theirs, their_miss = simso(tasks, 120)
        schedule, miss = ours(tasks, 120)
        assert (their_miss, miss) == (None, None), f"seed {seed}: {tasks}"
        assert schedule == theirs, f"seed {seed}: {tasks}"


@pytest.mark.slow
def test_same_first_miss_as_simso_when_overloaded() -> None:
    """After it they differ on purpose: a late job keeps its deadline there, while here a vcoproc
    that has not come to its budget begins a new period, so that it cannot take that of others."""
    overloaded = 0
    for seed in range(100):
        tasks = random_tasks(Random(seed), 1.6)
        theirs, their_miss = simso(tasks, 120)
        schedule, miss = ours(tasks, 120)
        assert (their_miss is None) == (miss is None), f"seed {seed}: {tasks}"
        if their_miss is None or miss is None:
            continue
        overloaded += 1
        assert miss == their_miss, f"seed {seed}: {tasks}"
        assert before(schedule, miss[0]) == before(theirs, miss[0]), f"seed {seed}: {tasks}"
    assert overloaded > 30
