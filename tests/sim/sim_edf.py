"""Random task sets that `edf` admits, and a run of each by all cores together.

Some vcoprocs of a set must get what they were promised, and are judged. The others only try to take
it from them: they wake and sleep, refuse to leave, or want more than their budget.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random
from typing import Final

from sim_jobs import JOB_NS_MAX, REGISTERED_NS, Hardware, JobSimulation, edf

from vcoproc.limits import MS, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.edf_admission import Reservation, largest_budget_us

PERIODS_US: Final = (1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7700, 10_000)
"""Times a factor that fits the cost of a switch."""
START_NS: Final = REGISTERED_NS + 2 * MS
RINGS_MAX: Final = 20


class Kind(enum.Enum):
    """What a vcoproc wants."""

    STEADY = "its whole budget in each period"
    PARTIAL = "at most its budget in each period"
    SPORADIC = "its whole budget, now and then, a period apart at least"
    HOG = "all it can get"
    TOGGLER = "next to nothing, again and again"
    SPLITTER = "its budget in two parts, each with a wake of its own"
    REFUSER = "more than its budget, and does not like to leave"


JUDGED: Final = frozenset({Kind.STEADY, Kind.PARTIAL, Kind.SPORADIC, Kind.HOG})
KINDS: Final = (*Kind, Kind.STEADY, Kind.HOG)


@dataclass(frozen=True, slots=True)
class Task:
    """One vcoproc. rings: (when, length of the job), both ns, of its doorbells in order."""

    vcoproc: int
    kind: Kind
    budget_ns: int
    period_ns: int
    extratime: bool
    rings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """end_ns: what must be done by then is judged."""

    seed: int
    hardware: Hardware
    slice_ns: int
    refusal_ns: int
    tasks: tuple[Task, ...]
    end_ns: int


def draw(seed: int) -> TaskSet:
    """A task set that uses up the coprocessor more or less, often to the last microsecond; of two
    vcoprocs at least, and one of them is judged."""
    random = Random(seed)
    while True:
        tasks = _draw(random, seed)
        if len(tasks.tasks) > 1 and any(task.kind in JUDGED for task in tasks.tasks):
            return tasks


def _draw(random: Random, seed: int) -> TaskSet:
    switch_ns = random.choice((0, 10, 40, 150)) * US
    save_ns = random.choice((0, switch_ns // 2, switch_ns))
    low_us, high_us = random.choice(((0, 0), (5, 20), (20, 60), (60, 60)))
    hardware = Hardware(
        save_ns=save_ns,
        enter_ns=switch_ns - save_ns,
        burst_ns=random.choice((0, 1, 20, 200)) * US,
        delay_ns=(low_us * US, high_us * US),
    )
    refusal_ns = random.choice((0, 0, 50, 300, 1000)) * US
    cost_ns = hardware.switch_cost_ns + refusal_ns // 3
    scale = max(1, cost_ns * random.choice((4, 8, 16, 32)) // MS)
    periods_us = [scale * each for each in PERIODS_US]
    if random.random() < 0.15:
        periods_us = [random.choice(periods_us)]
    shares = _reservations(random, periods_us, hardware, refusal_ns)
    longest_ns = max((each.period_ns for each in shares.values()), default=0)
    end_ns = START_NS + longest_ns * random.choice((2, 2, 3))
    at_once = random.random() < 0.3
    tasks = []
    for vcoproc, share in shares.items():
        first_ns = START_NS
        if not at_once:
            first_ns += random.choice((0, random.randrange(share.period_ns)))
        kind = random.choice(KINDS)
        rings = tuple(_rings(random, kind, share, first_ns, end_ns))
        tasks.append(Task(vcoproc, kind, share.budget_ns, share.period_ns, share.extratime, rings))
    slice_ns = random.choice((1, 5)) * MS
    return TaskSet(seed, hardware, slice_ns, refusal_ns, tuple(tasks), end_ns)


def _reservations(
    random: Random, periods_us: list[int], hardware: Hardware, refusal_ns: int
) -> dict[int, Reservation]:
    """By vcoproc. Each takes a part of what is left, the last one often all."""
    found: dict[int, Reservation] = {}
    extratime_chance = random.choice((0, 0.2, 0.8))
    count = random.randint(2, 8)
    for vcoproc in range(1, count + 1):
        period_ns = random.choice(periods_us) * US
        whole = Reservation(period_ns, period_ns, random.random() < extratime_chance)
        most_us = largest_budget_us(
            list(found.values()), whole, hardware.switch_cost_ns, refusal_ns
        )
        budget_us = int(most_us * min(1, random.random() * 2 / (count - vcoproc + 1)))
        if vcoproc == count and random.random() < 0.7:
            budget_us = most_us
        if budget_us * US >= SLICE_NS_MIN:
            found[vcoproc] = whole._replace(budget_ns=budget_us * US)
    return found


def _rings(
    random: Random, kind: Kind, share: Reservation, at_ns: int, end_ns: int
) -> list[tuple[int, int]]:
    budget_ns, period_ns = share.budget_ns, share.period_ns
    if kind is Kind.HOG:
        return [(at_ns, JOB_NS_MAX)]
    rings: list[tuple[int, int]] = []
    gap_ns = random.choice((90 * US, budget_ns // 4, period_ns // 5))
    length_ns = random.choice((1, 7 * US, budget_ns // 10))
    while at_ns < end_ns and len(rings) < RINGS_MAX:
        match kind:
            case Kind.TOGGLER:
                rings.append((at_ns, length_ns))
                at_ns += gap_ns
                continue
            case Kind.SPLITTER:
                rings.append((at_ns, budget_ns // 2))
                rings.append((at_ns + random.randrange(period_ns), budget_ns // 2))
            case Kind.REFUSER:
                rings.append((at_ns, 3 * budget_ns))
            case Kind.PARTIAL:
                rings.append((at_ns, random.randint(1, budget_ns)))
            case _:
                rings.append((at_ns, budget_ns))
        at_ns += period_ns
        if kind is Kind.SPORADIC:
            at_ns += random.choice((0, random.randrange(period_ns)))
    return rings


def play(tasks: TaskSet, hardware: Hardware | None = None) -> JobSimulation:
    """Runs a set to its end.

    Args:
        hardware: another one than `edf` reckons with.

    Raises:
        RequestError: `edf` does not admit it.
    """
    algorithm = edf(tasks.hardware, slice_ns=tasks.slice_ns, refusal_ns=tasks.refusal_ns)
    simulation = JobSimulation(tasks.seed, hardware or tasks.hardware, algorithm)
    for task in tasks.tasks:
        parameters = {
            "budget_us": task.budget_ns // US,
            "period_us": task.period_ns // US,
            "extratime": int(task.extratime),
        }
        simulation.add(task.vcoproc, parameters)
        for at_ns, length_ns in task.rings:
            simulation.ring(task.vcoproc, at_ns, length_ns)
        if task.kind is Kind.REFUSER:
            simulation.refuses_ns[task.vcoproc] = tasks.refusal_ns
    simulation.clock.run_until(tasks.end_ns)
    return simulation
