"""`vcoproc,refuse`: the distributions are those that were set, and nobody else pays for them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median

import pytest
from scipy import stats

from vcoproc.errors import InvalidArgument, NotFound
from vcoproc.limits import MS, US
from vcoproc.wire.messages import EndReason, GrantDropped, LineLevel, Report
from vcoproc_sim.platforms.api import Busy, Platform, PlatformConfig
from vcoproc_sim.platforms.refusals import RefusalPlan, SplitMix64, bounded_pareto
from vcoproc_sim.platforms.refuse import Refuse
from vcoproc_sim.registry import create_platform, platform_factories
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing import Guest, Thumb
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    FAULT_LINE,
    FORCED,
    Compute,
    Costs,
    FakePlatform,
    Forever,
    StepClock,
    Timer,
    Yield,
)
from vcoproc_sim.testing.m4_rig import CODE

BURST_NS = 20 * US
SLICE_NS = 200 * US


def plan(kind: str, us: str = "", **others: str) -> RefusalPlan:
    parameters = {"vcoproc,refusal": kind, "vcoproc,refusal-us": us}
    parameters |= {f"vcoproc,refusal-{name}": value for name, value in others.items()}
    return RefusalPlan.read(parameters)


def wrapping(plan: RefusalPlan) -> Callable[[FakePlatform, StepClock], Platform]:
    return lambda inner, clock: Refuse(inner, plan, clock)


def make(plan: RefusalPlan, drain_after_ns: int | None = None) -> CoreRig:
    """Three that would run for ever; each attached one is a context in this order."""
    rig = CoreRig(costs=Costs(instruction_ns=1), drain_after_ns=drain_after_ns, wrap=wrapping(plan))
    rig.attach(1, 2, 3)
    rig.hog(1, 2, 3)
    return rig


def rotate(rig: CoreRig, turns: int, refusal_ns: int) -> list[Report]:
    """Round robin. One that was forced off is started again. The reports of turns that ended."""
    rig.grant(1, slice_ns=SLICE_NS)
    for turn in range(turns):
        number = rig.grant((turn + 1) % 3 + 1, slice_ns=SLICE_NS, refusal_ns=refusal_ns)
        for _ in range(10_000):
            report = rig.said(Report)[-1]
            if report.next_grant == number:
                break
            rig.step()
        if report.forced:
            rig.write(report.vcoproc, "FAULT_STATUS", FORCED)
            rig.write(report.vcoproc, "CONTROL", 1)
            rig.hog(report.vcoproc)
    return [report for report in rig.said(Report) if report.vcoproc]


# --- numbers --------------------------------------------------------------------------------------


def test_the_generator_is_the_published_one() -> None:
    """Output of Vigna's splitmix64.c for seed 1234567."""
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (plan("uniform", "100 300"), stats.uniform(100 * US, 200 * US)),
        (plan("heavy-tail", "50 20000"), stats.truncpareto(1, 400, scale=50 * US)),
    ],
)
def test_what_is_drawn_has_the_distribution_that_was_set(drawn: RefusalPlan, expected) -> None:  # type: ignore[no-untyped-def]
    generator = drawn.generator(1)
    values = [drawn.draw(generator) for _ in range(20_000)]
    assert drawn.min_ns <= min(values) and max(values) <= drawn.max_ns
    assert stats.kstest(values, expected.cdf).pvalue > 0.01


def test_the_tail_is_heavy() -> None:
    assert bounded_pareto(0, 5, 1000) == 5
    assert bounded_pareto((1 << 64) - 1, 5, 1000) in (999, 1000)
    drawn = plan("heavy-tail", "50 20000")
    generator = drawn.generator(1)
    values = sorted(drawn.draw(generator) for _ in range(20_000))
    assert median(values) < 2.1 * 50 * US
    assert sum(values[-1000:]) > sum(values) // 3, "5 % of them take more than a third of the time"


def test_the_share_that_is_refused() -> None:
    drawn = plan("always", "70", percent="25")
    generator = drawn.generator(1)
    values = [drawn.draw(generator) for _ in range(10_000)]
    assert set(values) == {0, 70 * US}
    assert stats.binomtest(sum(v > 0 for v in values), 10_000, 0.25).pvalue > 0.01


def test_the_seed_alone_decides_and_each_context_has_its_own() -> None:
    def draws(seed: str, context: int) -> list[int]:
        drawn = plan("uniform", "0 1000", seed=seed)
        generator = drawn.generator(context)
        return [drawn.draw(generator) for _ in range(20)]

    assert draws("7", 1) == draws("7", 1)
    assert len({tuple(draws(seed, n)) for seed in ("7", "8") for n in (1, 2)}) == 4


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("", "sometimes", "sometimes"),
        ("-us", "1", "uniform"),
        ("-us", "", "always"),
        ("-us", "5 3", "uniform"),
        ("-us", "0 3", "heavy-tail"),
        ("-us", "10000001", "always"),
        ("-us", "-1", "always"),
        ("-us", "1e3", "always"),
        ("-us", "٣", "always"),
        ("-percent", "101", "never"),
        ("-percent", "1 2", "never"),
        ("-seed", str(1 << 64), "never"),
        ("-at", "dawn", "never"),
        ("-contexts", "one", "never"),
    ],
)
def test_impossible_properties_are_refused_by_name(name: str, value: str, kind: str) -> None:
    parameters = {"vcoproc,refusal": kind, f"vcoproc,refusal{name}": value}
    with pytest.raises(InvalidArgument) as caught:
        RefusalPlan.read(parameters)
    assert f"vcoproc,refusal{name}" in str(caught.value)


# --- through the executor -------------------------------------------------------------------------


def test_never() -> None:
    reports = rotate(make(plan("never")), 30, 1 * MS)
    assert len(reports) == 30
    assert {(report.refusals, report.refused_ns) for report in reports} == {(0, 0)}


def test_always_for_a_time() -> None:
    reports = rotate(make(plan("always", "150")), 60, 1 * MS)
    assert all(150 * US <= report.refused_ns < 150 * US + BURST_NS for report in reports)


def test_uniform() -> None:
    reports = rotate(make(plan("uniform", "100 300")), 600, 1 * MS)
    refused = [report.refused_ns for report in reports]
    assert not any(report.forced for report in reports)
    assert min(refused) >= 100 * US and max(refused) < 300 * US + BURST_NS
    # The end of a burst is waited for: later than drawn by less than one.
    assert abs(sum(refused) / len(refused) - 200 * US) < BURST_NS


@pytest.mark.parametrize("bound_us", [300, 1000, 5000])
def test_a_heavy_tail_is_cut_at_the_bound(bound_us: int) -> None:
    bound_ns = bound_us * US
    rig = make(plan("heavy-tail", "20 10000"))
    reports = rotate(rig, 900, bound_ns)
    refused = [report.refused_ns for report in reports]
    assert max(refused) < bound_ns + BURST_NS, "the bound, and one burst"
    expected = (20 / bound_us - 20 / 10_000) / (1 - 20 / 10_000)  # P(X > bound)
    forced = sum(report.forced for report in reports)
    assert stats.binomtest(forced, len(reports), expected).pvalue > 0.001
    # Nobody else pays: every slice is whole, and begins when the switch is done.
    for one, next_ in pairwise(reports):
        assert (next_.vcoproc, next_.grant) == (one.next_vcoproc, one.next_grant)
        assert next_.planned_ns == SLICE_NS
        assert next_.ended_ns - one.next_began_ns >= SLICE_NS
        assert next_.ran_ns == next_.ended_ns - one.next_began_ns + next_.refused_ns, "who pays"
    assert [fault.code for fault in rig.faults] == [FORCED] * forced


def test_one_hangs_and_the_others_go_on() -> None:
    rig = make(plan("hang", contexts="2"))
    bound_ns = 2 * MS
    reports = rotate(rig, 60, bound_ns)
    forced = [report for report in reports if report.forced]
    assert len(forced) == 20 and {report.vcoproc for report in forced} == {2}
    assert all(bound_ns <= report.refused_ns < bound_ns + BURST_NS for report in forced)
    others = [report for report in reports if report.vcoproc != 2]
    assert {report.refused_ns for report in others} == {0}
    assert all(SLICE_NS <= report.ran_ns < SLICE_NS + BURST_NS for report in others)
    told = [(level.vcoproc, level.line) for level in rig.said(LineLevel) if level.high]
    assert told == [(2, FAULT_LINE)] * 20, "its domain learns of it, and no other"


def test_a_hang_whose_save_can_be_forced_loses_nothing() -> None:
    rig = make(plan("hang", saves=""))
    reports = rotate(rig, 30, 1 * MS)
    assert not any(report.forced for report in reports)
    assert all(1 * MS <= report.refused_ns < 1 * MS + BURST_NS for report in reports)
    assert rig.faults == []


@pytest.mark.parametrize("end", [Timer(50 * MS), Yield()])
def test_a_job_is_let_finish(end: object) -> None:
    rig = make(plan("job"), drain_after_ns=100 * US)
    rig.platform.contexts[1].program.clear()
    rig.program(1, Compute(700_000), end, Forever())  # type: ignore[arg-type]
    began_ns = rig.clock.now_ns
    rig.grant(1, slice_ns=SLICE_NS)
    rig.grant(2, slice_ns=SLICE_NS, refusal_ns=100 * MS)
    rig.run(2 * MS)
    report = rig.said(Report)[1]
    assert not report.forced
    assert report.ended_ns + report.refused_ns == began_ns + 2_200 + 700_000, "at its end, at once"


def test_without_a_job_it_does_not_refuse() -> None:
    rig = make(plan("job"))
    rig.platform.contexts[1].program.clear()
    rig.program(1, Compute(100))
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    assert rig.said(Report)[-1].refusals == 0


def test_a_job_without_end_is_forced() -> None:
    rig = make(plan("job"), drain_after_ns=100 * US)
    rig.grant(1, slice_ns=SLICE_NS)
    rig.grant(2, slice_ns=SLICE_NS, refusal_ns=1 * MS)
    rig.run(2 * MS)
    assert rig.said(Report)[1].forced


def test_at_switch_in_the_hardware_waits_empty() -> None:
    rig = make(plan("always", "150", at="in"))
    rig.grant(1, slice_ns=SLICE_NS)
    assert rig.executor.phase is Phase.ENTERING
    began_ns = rig.clock.now_ns
    rig.run(140 * US)
    assert rig.said(Report) == []
    rig.run(20 * US)
    (report,) = rig.said(Report)
    assert report.next_began_ns >= began_ns + 150 * US - 200
    rig.grant(2, slice_ns=SLICE_NS, now=True)
    rig.run(200 * US)
    assert [(each.vcoproc, each.next_vcoproc) for each in rig.said(Report)[1:]] == [(1, 0), (0, 2)]


def test_what_can_never_be_entered_is_given_up_and_others_come() -> None:
    rig = make(plan("hang", at="both", contexts="2"))
    rig.grant(2, refusal_ns=3 * MS)
    rig.run(4 * MS)
    (dropped,) = rig.said(GrantDropped)
    assert dropped.why == "SWITCH_TIMEOUT"
    rig.grant(1)
    assert rig.platform.owner == 1


def test_a_switch_in_that_was_given_up_is_asked_anew() -> None:
    """Else the first hang of a context is its last, whatever the share of its switches is."""
    rig = make(plan("hang", at="in", percent="50"))
    owners = []
    for _turn in range(40):
        for vcoproc in (1, 2):
            rig.grant(vcoproc, refusal_ns=1 * MS, now=True)
            rig.run(2 * MS)
            owners.append(rig.platform.owner)
    assert 20 <= owners.count(None) <= 60
    assert {1, 2} <= set(owners[-20:])


def test_a_switch_that_is_undone_is_forgotten() -> None:
    rig = make(plan("always", "400"))
    rig.grant(1, slice_ns=SLICE_NS)
    number = rig.grant(2, now=True)
    rig.run(100 * US)
    rig.revoke(number)
    rig.clear()
    rig.run(1 * MS)
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.LEAVING, "it is asked anew, and refuses anew"
    assert rig.platform.calls == [], "the platform inside has heard nothing of it"


def test_a_platform_inside_that_refuses_too_is_asked_and_let_off() -> None:
    rig = make(plan("never"))
    rig.grant(1)
    rig.platform.leave_script.append(Busy(100 * US))
    number = rig.grant(2, now=True)
    rig.revoke(number)
    assert rig.platform.calls[-2:] == ["switch_from 1 Busy", "cancel_switch 1"]


# --- around a real core ---------------------------------------------------------------------------


def config(**parameters: str) -> PlatformConfig:
    named = {f"vcoproc,{name.replace('_', '-')}": value for name, value in parameters.items()}
    return PlatformConfig("m4", 64 * 1024, 100_000_000, named, StepClock(0))


def test_it_is_installed_and_wraps_a_cortex_m4() -> None:
    assert "vcoproc,refuse" in platform_factories()
    settings = config(wraps="vcoproc,cortex-m4", refusal="hang")
    platform = create_platform("vcoproc,refuse", settings)
    try:
        assert platform.info.compatible == "vcoproc,refuse"
        index = platform.info.index_of
        guest = Guest(1, platform.info.reset_values(), 64 * 1024)
        guest.boot(Thumb(CODE).label("loop").adds(0, 1).b("loop"))
        platform.create_context(guest.spec)
        platform.set_stage2(1)
        platform.switch_to(1)
        platform.write(index["VECTOR_BASE"], CODE - 0x100)
        platform.write(index["CONTROL"], 1)
        assert platform.run(1000, 0).instructions == 1000
        assert isinstance(platform.switch_from(1), Busy)
        assert platform.run(1000, 0).instructions == 1000, "it runs on"
        platform.force_off(1)
        assert guest.shadow[index["FAULT_STATUS"]] == 16
        platform.set_stage2(None)
        platform.destroy_context(1)
    finally:
        platform.close()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (config(wraps="vcoproc,refuse"), InvalidArgument),
        (config(wraps="acme,no-such"), NotFound),
        (config(refusal="maybe"), InvalidArgument),
    ],
)
def test_what_cannot_be_wrapped(settings: PlatformConfig, error: type[Exception]) -> None:
    with pytest.raises(error):
        create_platform("vcoproc,refuse", settings)


def test_ends_are_what_they_are_without_it() -> None:
    rig = make(plan("uniform", "10 20"))
    rig.grant(1, slice_ns=SLICE_NS)
    rig.grant(2, slice_ns=SLICE_NS, now=True)
    rig.run(200 * US)
    assert rig.said(Report)[1].end == EndReason.PREEMPTED
