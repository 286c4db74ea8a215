"""The ladder that one climbs who refuses to leave: asked, drained, saved by force, reset."""

from __future__ import annotations

import pytest

from vcoproc.limits import MS, US
from vcoproc.wire.messages import EndReason, Faulted, GrantDropped, Report
from vcoproc_sim.platforms.api import Busy, Done, Failed, SwitchResult
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    Compute,
    Costs,
    FakePlatform,
    Forever,
    Raise,
    Timer,
    Yield,
)

BURST_NS = 20 * US
DRAIN_NS = 200 * US
BOUND_NS = 1 * MS


class Ladder:
    """The optional rungs of a fake platform, and what was asked of them."""

    def __init__(self, platform: FakePlatform, forced: SwitchResult) -> None:
        self.drained: list[tuple[int, int]] = []
        self.saved: list[int] = []
        self._platform = platform
        self._forced = forced
        platform.drain = self.drain  # type: ignore[attr-defined]
        platform.force_save = self.force_save  # type: ignore[attr-defined]

    def drain(self, vcoproc_id: int) -> None:
        self.drained.append((vcoproc_id, self._platform.clock.now_ns))

    def force_save(self, vcoproc_id: int) -> SwitchResult:
        self.saved.append(vcoproc_id)
        if isinstance(self._forced, Done):
            self._platform.leave_script.appendleft(Done())
            return self._platform.switch_from(vcoproc_id)
        return self._forced


def make(*program: object, retry_ns: int = 700 * US) -> CoreRig:
    """Vcoproc 1 is on the hardware, does that, and is always busy; 2 would run for ever."""
    rig = CoreRig(costs=Costs(instruction_ns=1), drain_after_ns=DRAIN_NS)
    rig.attach(1, 2)
    rig.program(1, *program)  # type: ignore[arg-type]
    rig.hog(2)
    rig.grant(1, slice_ns=1 * MS)
    rig.platform.leave_rule = lambda _vcoproc: Busy(retry_ns)
    rig.clear()
    return rig


def last(rig: CoreRig) -> Report:
    return rig.said(Report)[-1]


def asked(rig: CoreRig) -> int:
    return sum(call.startswith("switch_from") for call in rig.platform.calls)


def test_it_is_told_to_drain_when_asking_has_not_helped() -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, Done())
    told_ns = rig.clock.now_ns
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    assert ladder.drained == []
    rig.run(DRAIN_NS + BURST_NS)
    ((vcoproc, drained_ns),) = ladder.drained
    assert vcoproc == 1
    assert told_ns + DRAIN_NS <= drained_ns < told_ns + DRAIN_NS + BURST_NS
    assert asked(rig) == 2, "once more before that"


@pytest.mark.parametrize("end", [Timer(5 * MS), Yield()])
def test_one_that_drains_is_asked_at_the_end_of_its_job(end: object) -> None:
    """It need not wait until it wanted to be asked."""
    rig = make(Compute(450_000), Raise(1), end, Forever())
    rig.platform.leave_script.extend([Busy(700 * US)] * 2)
    rig.platform.leave_rule = lambda _vcoproc: Done()
    began_ns = rig.executor.turn.slice_began_ns if rig.executor.turn else 0
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(1 * MS)
    report = last(rig)
    assert (report.refusals, report.forced, report.end) == (2, False, EndReason.PREEMPTED)
    assert report.ended_ns + report.refused_ns == began_ns + 450_000


def test_before_that_it_is_asked_when_it_said_only() -> None:
    rig = make(Compute(100_000), Timer(5 * MS))
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(DRAIN_NS - 10 * US)
    assert asked(rig) == 1
    rig.run(30 * US)
    assert asked(rig) == 2


def test_at_the_bound_its_save_is_forced() -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, Done())
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(2 * MS)
    report = last(rig)
    assert ladder.saved == [1]
    assert (report.forced, report.runnable) == (False, True), "nothing of it is lost"
    assert BOUND_NS <= report.refused_ns < BOUND_NS + BURST_NS
    assert rig.faults == [] and rig.said(Faulted) == []
    assert rig.platform.contexts[1].forced == 0
    rig.platform.leave_rule = lambda _vcoproc: Done()
    rig.grant(1, now=True)
    assert rig.executor.wants_cpu() and rig.platform.owner == 1


@pytest.mark.parametrize("answer", [Busy(1), Failed("no")])
def test_else_it_is_reset(answer: SwitchResult) -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, answer)
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(2 * MS)
    assert ladder.saved == [1]
    assert (last(rig).forced, last(rig).runnable) == (True, False)
    assert rig.platform.contexts[1].forced == 1
    assert not rig.executor.failure, "the coprocessor is well"


def test_without_these_rungs_it_is_asked_and_reset() -> None:
    rig = make(Forever())
    rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(2 * MS)
    assert last(rig).forced
    assert BOUND_NS <= last(rig).refused_ns < BOUND_NS + BURST_NS


def test_one_that_is_destroyed_is_not_saved() -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, Done())
    rig.detach(1, BOUND_NS)
    rig.run(2 * MS)
    assert (len(ladder.drained), ladder.saved, rig.gone) == (1, [], {1: [True]})


def test_a_bound_before_the_draining_comes_first() -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, Failed("no"))
    rig.grant(2, now=True, refusal_ns=DRAIN_NS - 1)
    rig.run(DRAIN_NS + BURST_NS)
    assert ladder.drained == [] and last(rig).forced


def test_draining_is_undone_with_the_switch() -> None:
    rig = make(Forever())
    ladder = Ladder(rig.platform, Done())
    number = rig.grant(2, now=True, refusal_ns=BOUND_NS)
    rig.run(DRAIN_NS + BURST_NS)
    assert ladder.drained
    rig.revoke(number)
    assert rig.platform.calls[-1] == "cancel_switch 1"
    assert rig.executor.phase is Phase.RESIDENT
    rig.program(1, Yield())
    rig.run(1 * MS)
    assert rig.platform.owner == 1 and rig.said(GrantDropped) == []


def test_the_next_one_has_its_whole_slice() -> None:
    rig = make(Forever())
    rig.grant(2, slice_ns=500 * US, now=True, refusal_ns=BOUND_NS)
    rig.run(BOUND_NS + BURST_NS)
    refused = last(rig)
    rig.platform.leave_rule = lambda _vcoproc: Done()
    rig.write(1, "CONTROL", 1)
    rig.hog(1)
    rig.grant(1)
    rig.run(1 * MS)
    assert refused.ran_ns >= refused.refused_ns >= BOUND_NS, "the refuser pays"
    report = last(rig)
    assert (report.vcoproc, report.planned_ns) == (2, 500 * US)
    assert 500 * US <= report.ran_ns < 500 * US + BURST_NS
    assert report.ended_ns - refused.next_began_ns == report.ran_ns
