"""What SimSo, an independent simulator of real-time schedulers (LAAS-CNRS, 2014), does with a task
set under EDF. For all that compares a schedule of ours with its.

It takes times as floating point numbers of milliseconds, so ours are eighths of one, which are
exact. Each task's eighth is another one: no two deadlines are equal, and nothing is left to choose.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from random import Random
from types import ModuleType
from typing import Any

from vcoproc.limits import MS

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
PeriodicTask = tuple[int, int, int]
"""Work, period and first release, in ms; task number N is released N eighths of one later."""


def first_release_ns(number: int, task: PeriodicTask) -> int:
    return task[2] * MS + number * MS // 8


def random_tasks(random: Random, load_max: float) -> list[PeriodicTask]:
    tasks: list[PeriodicTask] = []
    load = 0.0
    for _ in range(random.randint(2, 6)):
        period_ms = random.choice(PERIODS_MS)
        work_ms = random.randint(1, max(1, period_ms // 2))
        if load + work_ms / period_ms <= load_max:
            tasks.append((work_ms, period_ms, random.randrange(period_ms)))
            load += work_ms / period_ms
    return tasks


def simso(tasks: list[PeriodicTask], end_ms: int) -> tuple[list[Run], tuple[int, int] | None]:
    """Who ran when, and the first deadline missed: (when in ns, vcoproc). Vcoprocs count from 1."""
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


def merged(runs: Iterable[Run]) -> list[Run]:
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


def before(runs: Iterable[Run], end_ns: int) -> list[Run]:
    """What ran before a time."""
    return merged(
        (from_ns, min(to_ns, end_ns), who) for from_ns, to_ns, who in runs if from_ns < end_ns
    )
