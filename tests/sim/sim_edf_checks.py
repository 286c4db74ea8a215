"""Whether everybody got what `edf` promised, judged by who had the hardware when.

Apart from all cores: nothing of the scheduler is used here, only the doorbells that were rung, the
budgets that were admitted, and the runs that the hardware wrote down.

What is promised is the budget in each period. The first period begins when a vcoproc wants to run;
while it wants to, one follows the other; when it comes back later, another one begins. So a job
that takes no more than the budget, and comes no sooner than a period after the one before, is done
within a period. One without extra time gets no more than its budget: what it overdraws until it is
made to leave is missing in its next period.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sim_edf import JUDGED, Kind, Task, TaskSet
from sim_jobs import Hardware, Run

Span = tuple[int, int]


def judge(tasks: TaskSet, runs: Sequence[Run]) -> tuple[int, list[str]]:
    """How many deadlines there were, and what is wrong."""
    spans: dict[int, list[Span]] = defaultdict(list)
    before_ns = 0
    for run in runs:
        assert before_ns <= run.from_ns < run.to_ns, "two at once on the hardware"
        before_ns = run.to_ns
        spans[run.vcoproc].append((run.from_ns, run.to_ns))
    deadlines, wrong = 0, []
    for task in tasks.tasks:
        if task.kind not in JUDGED:
            continue
        if task.kind is Kind.HOG:
            count, found = _judge_hog(
                task, spans[task.vcoproc], tasks.end_ns, overdraw_ns(tasks.hardware)
            )
        else:
            count, found = _judge_jobs(task, spans[task.vcoproc], tasks.end_ns)
        deadlines += count
        wrong += [f"vcoproc {task.vcoproc}, {task.kind.name}: {each}" for each in found]
    return deadlines, wrong


def overdraw_ns(hardware: Hardware) -> int:
    """For how long one may run on that has no budget left: until the order to leave has come, and
    to the end of the burst."""
    return 2 * hardware.delay_ns[1] + hardware.burst_ns


def _judge_jobs(task: Task, spans: Sequence[Span], end_ns: int) -> tuple[int, list[str]]:
    """Each job must be done a period after its doorbell."""
    count, wrong = 0, []
    ends_ns = completions([length_ns for _at_ns, length_ns in task.rings], spans)
    for number, (at_ns, _length_ns) in enumerate(task.rings):
        deadline_ns = at_ns + task.period_ns
        if deadline_ns > end_ns:
            break
        count += 1
        done_ns = ends_ns[number] if number < len(ends_ns) else None
        if done_ns is None or done_ns > deadline_ns:
            late = "is not done" if done_ns is None else f"is {done_ns - deadline_ns} ns late"
            wrong.append(f"job {number} of {at_ns} ns {late}")
    return count, wrong


def completions(lengths_ns: Sequence[int], spans: Sequence[Span]) -> list[int]:
    """When each job was done, one after the other; without those that were not."""
    ends_ns: list[int] = []
    used_ns = 0  # in all jobs so far
    ran_ns = 0  # in all spans so far
    place = iter(spans)
    from_ns = to_ns = 0
    for length_ns in lengths_ns:
        used_ns += length_ns
        while ran_ns < used_ns:
            span = next(place, None)
            if span is None:
                return ends_ns
            from_ns, to_ns = span
            ran_ns += to_ns - from_ns
        ends_ns.append(to_ns - (ran_ns - used_ns))
    return ends_ns


def _judge_hog(
    task: Task, spans: Sequence[Span], end_ns: int, overdraw_ns_max: int
) -> tuple[int, list[str]]:
    """In each period it gets its budget, less what it overdrew in the one before."""
    count, wrong = 0, []
    from_ns = task.rings[0][0]
    overdrawn_ns = 0
    while from_ns + task.period_ns <= end_ns:
        count += 1
        got_ns = within(spans, from_ns, from_ns + task.period_ns)
        spare_ns = got_ns + overdrawn_ns - task.budget_ns
        if spare_ns < 0:
            wrong.append(f"in the period of {from_ns} ns it got {-spare_ns} ns too little")
        if not task.extratime:
            overdrawn_ns = max(0, spare_ns)
            if overdrawn_ns > overdraw_ns_max:
                wrong.append(f"by the end of the period of {from_ns} ns, {spare_ns} ns too much")
        from_ns += task.period_ns
    return count, wrong


def within(spans: Sequence[Span], begin_ns: int, end_ns: int) -> int:
    """How much of the spans lies between two times."""
    return sum(
        min(to_ns, end_ns) - max(from_ns, begin_ns)
        for from_ns, to_ns in spans
        if from_ns < end_ns and to_ns > begin_ns
    )
