"""Scheduling by all cores together on virtual time: shares, tables, budgets, togglers, swaps.

The scheduler's core and policy, the executor and the front end are the real ones; drivers and links
with delays are simulated. The figures are the hardware's, not the scheduler's own books.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import pytest
from sim_checks import jain
from sim_domain import Work
from sim_world import World

from vcoproc.limits import MS, US
from vcoproc.testing.network import Faults
from vcoproc.wire.messages import EndReason
from vcoproc_scheduler.analysis import Member, Question, analyse
from vcoproc_scheduler.events import SetAlgorithm
from vcoproc_sim.executor import BURST_INSTRUCTIONS
from vcoproc_sim.testing.fake_platform import FakePlatform

LINKS = Faults(delay_ns=(20 * US, 60 * US))
SLICE_NS = 1 * MS
SETTLE_NS = 20 * MS
HOG = Work(jobs=None, length=(60_000, 65_000), think_ns=(1, 1), ahead=4)
TOGGLER = Work(jobs=None, length=(1, 3), think_ns=(1, 5 * US))
"""Sleeps and wakes as fast as a driver can make it."""
SLICER = Work(jobs=None, length=(49_000, 50_000), think_ns=(1, 5 * US))
"""The same, a little before the end of a slice of half a millisecond."""
RUNNER = Work(jobs=None, length=(1_000, 65_000), think_ns=(1, 300 * US))
"""Runs and sleeps for as long as it likes."""


def make_world(
    algorithm: str,
    vcoprocs: list[tuple[Work, Mapping[str, int]]],
    *,
    slice_ns: int = SLICE_NS,
    **parameters: int,
) -> World:
    """One coproc; a domain for each vcoproc, numbered from 1 as the vcoprocs are."""
    world = World(len(vcoprocs), LINKS)
    world.add_coproc("dsp0", slice_ns=slice_ns, algorithm=algorithm, parameters=parameters)
    for domid, (work, own) in enumerate(vcoprocs, 1):
        world.add_domain(domid)
        world.add_vcoproc(domid, "dsp0", work, parameters=own)
    world.run(SETTLE_NS)
    return world


def instructions(world: World) -> dict[int, int]:
    platform = world.coprocs["dsp0"].platform
    assert isinstance(platform, FakePlatform)
    return {each: context.instructions for each, context in platform.contexts.items()}


def ran(world: World, duration_ns: int) -> dict[int, int]:
    """Time that each vcoproc computed in the next `duration_ns`; an instruction takes 10 ns."""
    before = instructions(world)
    world.run(duration_ns)
    assert not world.schedulers["dsp0"].fallbacks
    return {each: 10 * (now - before[each]) for each, now in instructions(world).items()}


def test_weights_are_shares() -> None:
    weights = {1: 128, 2: 256, 3: 512, 4: 1024}
    world = make_world("credit", [(HOG, {"weight": weight}) for weight in weights.values()])
    duration_ns = 2000 * MS
    times = ran(world, duration_ns)
    for each, weight in weights.items():
        want_ns = sum(times.values()) * weight / sum(weights.values())
        assert abs(times[each] - want_ns) <= duration_ns / 1000 + SLICE_NS


@pytest.mark.parametrize("algorithm", ["rr", "credit", "priority", "fixed"])
def test_equals_get_equal_shares(algorithm: str) -> None:
    world = make_world(algorithm, [(HOG, {})] * 4)
    assert jain(list(ran(world, 1000 * MS).values())) >= 0.999


@pytest.mark.parametrize(
    ("toggler", "weights"),
    [
        (TOGGLER, (256, 256, 256)),
        (TOGGLER, (512, 256, 1024)),
        (SLICER, (256, 256, 256)),
        (SLICER, (256, 512, 512)),
        (RUNNER, (256, 256, 256)),
        (RUNNER, (256, 128)),
    ],
)
def test_a_toggler_gains_nothing_over_its_share(toggler: Work, weights: tuple[int, ...]) -> None:
    """The last one of them: at most one percent of its share."""
    works = [HOG] * (len(weights) - 1) + [toggler]
    vcoprocs: list[tuple[Work, Mapping[str, int]]] = [
        (work, {"weight": each}) for work, each in zip(works, weights, strict=True)
    ]
    world = make_world("credit", vcoprocs, slice_ns=SLICE_NS // 2)
    duration_ns = 1000 * MS
    *hogs_ns, toggler_ns = ran(world, duration_ns).values()
    assert toggler_ns * sum(weights) <= duration_ns * weights[-1] * 101 // 100
    shares = [ran_ns // weight for ran_ns, weight in zip(hogs_ns, weights[:-1], strict=True)]
    assert jain(shares) >= 0.999


def test_a_cap_holds_though_nobody_else_wants_the_coprocessor() -> None:
    world = make_world("credit", [(HOG, {"cap": 25})])
    times = ran(world, 900 * MS)  # thirty of its periods
    assert times[1] <= 900 * MS * 0.26
    assert times[1] >= 900 * MS * 0.23


def test_a_fixed_share_stays_though_others_idle() -> None:
    world = make_world("fixed", [(HOG, {"share_permille": 400}), (TOGGLER, {})])
    times = ran(world, 1000 * MS)
    assert 0.38 <= times[1] / (1000 * MS) <= 0.41


def test_frames_of_a_table_do_not_drift() -> None:
    """Xen's f2927d83. Two windows of 400 us and a gap in each frame of 1 ms: 10,000 frames."""
    frame_us = 1000
    world = make_world(
        "arinc653",
        [
            (HOG, {"window_start_us": 0, "window_us": 400}),
            (HOG, {"window_start_us": 500, "window_us": 400}),
        ],
        major_frame_us=frame_us,
    )
    scheduler = world.schedulers["dsp0"]
    scheduler.turns.clear()
    world.run(10_000 * frame_us * US)
    starts = [turn.began_ns for turn in scheduler.turns if turn.vcoproc == 1]
    assert len(starts) >= 9_999
    # Each start is late by a burst of the one before and a switch at most, and never adds up.
    earliest = min(start % (frame_us * US) for start in starts)
    late = [start % (frame_us * US) - earliest for start in starts]
    assert max(late) <= BURST_INSTRUCTIONS * 10 + 10 * US
    assert abs(statistics.median(late[-1000:]) - statistics.median(late[:1000])) <= 1 * US


def test_budgets_are_kept_against_a_hog_with_extra_time() -> None:
    budgets = {1: 3000, 2: 2000}
    world = make_world(
        "edf",
        [
            *(
                (HOG, {"period_us": 10_000, "budget_us": own, "extratime": 0})
                for own in budgets.values()
            ),
            (HOG, {"period_us": 10_000, "budget_us": 1000, "extratime": 1}),
        ],
    )
    times = ran(world, 1000 * MS)
    for each, budget_us in budgets.items():
        # The budget pays for its own switches too.
        assert 0.97 * 100 * budget_us * US <= times[each] <= 100 * budget_us * US + SLICE_NS
    assert times[3] >= 0.45 * 1000 * MS, "what is left is extra time"


def test_the_highest_priority_runs_and_nobody_starves() -> None:
    world = make_world(
        "priority",
        [(HOG, {"priority": 200}), (HOG, {"priority": 100}), (HOG, {"priority": 0})],
        max_wait_us=20_000,
    )
    times = ran(world, 1000 * MS)
    assert times[1] > 0.8 * 1000 * MS
    assert min(times[2], times[3]) >= 30 * SLICE_NS


BOUNDED: Mapping[str, tuple[Mapping[str, int], tuple[Mapping[str, int], ...]]] = {
    "rr": ({}, ({},) * 4),
    "credit": ({}, ({"weight": 512}, {}, {}, {"cap": 30})),
    "edf": (
        {"switch_cost_us": 400},
        tuple({"period_us": each, "budget_us": 1500} for each in (20_000, 15_000, 12_000, 30_000)),
    ),
    "arinc653": (
        {"major_frame_us": 20_000},
        tuple({"window_start_us": 5000 * each, "window_us": 4500} for each in range(4)),
    ),
    "fixed": ({"period_us": 50_000}, ({"share_permille": 240},) * 4),
    "priority": (
        {"max_wait_us": 20_000},
        ({"priority": 3}, {"priority": 2}, {"priority": 2}, {"priority": 1}),
    ),
}
"""Of each algorithm that has bounds: parameters of the coproc, and of four vcoprocs."""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BOUNDED)
def test_no_wait_and_no_response_is_beyond_the_bound_that_analysis_gives(algorithm: str) -> None:
    """Of jobs of every length, and of one vcoproc that sleeps for a moment only."""
    coproc, parameters = BOUNDED[algorithm]
    works = (RUNNER, TOGGLER, RUNNER, HOG)
    world = make_world(algorithm, list(zip(works, parameters, strict=True)), **coproc)
    core = world.schedulers["dsp0"].core
    world.run(1000 * MS)
    view = core.schedule(world.now_ns)
    assert not view.fallback_count
    # Until a report, the order that it causes, what replaces that, and the end of a burst.
    switch_ns = view.switch_max_ns + 3 * LINKS.delay_ns[1] + BURST_INSTRUCTIONS * 10
    closest = 0.0
    for work_ns in (10 * US, 100 * US, 500 * US, 1 * MS, 2 * MS, 5 * MS, 10 * MS, 50 * MS):
        members = {
            each.vcoproc: Member(
                view.parameters[each.vcoproc],
                work_ns,
                each.account.wait_watched_ns,
                core.response_ns(each.vcoproc, work_ns, world.now_ns),
            )
            for each in view.coproc.vcoprocs
        }
        for found in analyse(
            Question(algorithm, SLICE_NS, view.wanted.parameters, members, switch_ns, 0)
        ):
            assert found.kept, found
            assert found.bounds.response_ns is not None
            closest = max(closest, found.observed_response_ns / found.bounds.response_ns)
    assert closest >= 0.3, "the bounds say nothing"


def test_swapping_at_any_time_loses_nothing() -> None:
    world = make_world("rr", [(HOG, {}), (HOG, {}), (Work(jobs=None), {})])
    driver = world.domains[3].drivers[3]
    scheduler = world.schedulers["dsp0"]
    for turn in range(200):
        before = driver.records.completed
        algorithm = ("credit", "priority", "fixed", "rr")[turn % 4]
        scheduler.step(SetAlgorithm(algorithm, SLICE_NS, 20 * MS, {}))
        world.run(world.between((1 * MS, 9 * MS)))
        scheduler.core.check_invariants()
        assert driver.records.completed >= before
    done = driver.records.completed
    world.run(100 * MS)
    assert driver.records.completed > done
    assert not scheduler.fallbacks
    ends = {turn.end for turn in scheduler.turns}
    assert EndReason.FAULT not in ends
