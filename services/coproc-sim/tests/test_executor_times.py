"""Grants that name times: not before, until; and the order to leave for nobody."""

from __future__ import annotations

import pytest

from vcoproc.limits import MS, US
from vcoproc.wire.messages import EndReason, GrantDropped, Report, Sleep, Wake
from vcoproc_sim.platforms.api import Busy, Done, Failed
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, Costs, Crash, Forever, Timer, Yield

BURST_NS = 20 * US
COSTS = Costs(instruction_ns=1)
SWITCH_NS = COSTS.save_ns + COSTS.mmu_ns + COSTS.restore_ns


@pytest.fixture
def rig() -> CoreRig:
    """Vcoproc 1 is on the hardware and runs for ever; 2 and 3 would."""
    rig = CoreRig(costs=COSTS)
    rig.attach(1, 2, 3)
    rig.hog(1, 2, 3)
    rig.grant(1, slice_ns=1 * MS)
    rig.clear()
    return rig


@pytest.fixture
def idle() -> CoreRig:
    """Vcoproc 1 is on the hardware and idle; 2 and 3 would run for ever."""
    rig = CoreRig(costs=COSTS)
    rig.attach(1, 2, 3)
    rig.program(1, Compute(100))
    rig.hog(2, 3)
    rig.grant(1, slice_ns=1 * MS)
    rig.settle()
    rig.clear()
    return rig


@pytest.fixture
def empty() -> CoreRig:
    rig = CoreRig(costs=COSTS)
    rig.attach(1, 2, 3)
    rig.hog(1, 2, 3)
    rig.clear()
    return rig


def turns(rig: CoreRig) -> list[tuple[int, int]]:
    return [(report.vcoproc, report.next_vcoproc) for report in rig.said(Report)]


def whys(rig: CoreRig) -> list[str]:
    return [dropped.why for dropped in rig.said(GrantDropped)]


# --- not before -----------------------------------------------------------------------------------


def test_a_grant_waits_in_front_of_empty_hardware_and_begins_on_time(empty: CoreRig) -> None:
    at_ns = empty.clock.now_ns + 700 * US
    empty.grant(1, not_before_ns=at_ns)
    assert empty.executor.next_deadline_ns() == at_ns
    empty.run(700 * US - 1)
    assert empty.said(Report) == [] and empty.platform.calls == []
    empty.run(100 * US)
    (report,) = empty.said(Report)
    assert report.ended_ns == at_ns, "to the nanosecond: nobody runs"
    assert report.next_began_ns == at_ns + COSTS.mmu_ns + COSTS.restore_ns


def test_the_current_one_runs_on_though_its_slice_is_over(rig: CoreRig) -> None:
    at_ns = rig.clock.now_ns + 3 * MS
    rig.grant(2, not_before_ns=at_ns)
    rig.run(2900 * US)
    assert rig.said(Report) == []
    rig.run(200 * US)
    (report,) = rig.said(Report)
    assert report.end == EndReason.SLICE
    assert at_ns <= report.ended_ns < at_ns + BURST_NS


@pytest.mark.parametrize("now", [False, True])
def test_when_its_time_has_come_it_counts_like_one_that_has_just_come(
    rig: CoreRig, now: bool
) -> None:
    began_ns = rig.executor.turn.slice_began_ns if rig.executor.turn else 0
    at_ns = rig.clock.now_ns + 300 * US
    rig.grant(2, now=now, not_before_ns=at_ns)
    rig.run(2 * MS)
    report = rig.said(Report)[0]
    due_ns, end = (at_ns, EndReason.PREEMPTED) if now else (began_ns + 1 * MS, EndReason.SLICE)
    assert report.end == end
    assert due_ns <= report.ended_ns < due_ns + BURST_NS


def test_an_idle_one_stays_and_says_so_and_resumes(idle: CoreRig) -> None:
    at_ns = idle.clock.now_ns + 2 * MS
    number = idle.grant(2, now=True, not_before_ns=at_ns)
    idle.run(500 * US)
    assert idle.to_scheduler == []
    idle.program(1, Compute(100))
    assert idle.to_scheduler == [Wake(1, idle.clock.now_ns, True)]
    idle.run(300 * US)
    assert isinstance(idle.to_scheduler[1], Sleep)
    idle.run(2 * MS)
    report = idle.said(Report)[0]
    assert (report.end, report.next_grant) == (EndReason.IDLE, number)
    assert report.ended_ns == at_ns


def test_a_yield_is_ignored_until_then(rig: CoreRig) -> None:
    rig.platform.contexts[1].program.clear()
    rig.program(1, Compute(1000), Yield(), Compute(2_000_000), Yield(), Forever())
    at_ns = rig.clock.now_ns + 1 * MS
    rig.grant(1, slice_ns=10 * MS, now=True)
    rig.clear()
    rig.grant(2, not_before_ns=at_ns)
    rig.run(3 * MS)
    report = rig.said(Report)[0]
    assert report.end == EndReason.YIELD and report.ended_ns > at_ns


def test_whether_it_wants_to_run_is_asked_at_that_time(rig: CoreRig) -> None:
    rig.write(2, "CONTROL", 0)
    number = rig.grant(2, now=True, not_before_ns=rig.clock.now_ns + 500 * US)
    assert rig.said(GrantDropped) == []
    rig.run(300 * US)
    rig.write(2, "CONTROL", 1)
    rig.hog(2)
    rig.run(500 * US)
    assert rig.said(Report)[0].next_grant == number
    # And if it does not:
    rig.clear()
    rig.write(1, "CONTROL", 0)
    rig.grant(1, now=True, not_before_ns=rig.clock.now_ns + 500 * US)
    rig.run(400 * US)
    assert whys(rig) == []
    rig.run(200 * US)
    assert whys(rig) == ["NOT_RUNNABLE"] and rig.platform.owner == 2


@pytest.mark.parametrize("before", ["switch", "vacate", "enter"])
def test_a_later_one_undoes_the_switch_that_it_replaces(rig: CoreRig, before: str) -> None:
    script = rig.platform.enter_script if before == "enter" else rig.platform.leave_script
    script.extend([Busy(100 * US)] * 3)
    rig.vacate(now=True) if before == "vacate" else rig.grant(2, now=True)
    rig.grant(3, now=True, not_before_ns=rig.clock.now_ns + 1 * MS)
    if before == "enter":
        assert rig.executor.phase is Phase.EMPTY
    else:
        assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    script.clear()
    rig.clear()
    rig.run(2 * MS)
    assert turns(rig) == [(0 if before == "enter" else 1, 3)]


# --- until ----------------------------------------------------------------------------------------


def test_a_turn_ends_then_though_nobody_comes(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 700 * US
    rig.grant(2, slice_ns=5 * MS, now=True, until_ns=until_ns)
    began_ns = rig.said(Report)[0].next_began_ns
    rig.run(2 * MS)
    report = rig.said(Report)[1]
    assert (report.next_grant, report.next_vcoproc) == (0, 0)
    assert (report.end, report.runnable) == (EndReason.SLICE, True)
    assert until_ns <= report.ended_ns < until_ns + BURST_NS
    assert report.planned_ns == until_ns - began_ns, "cut short when it began"
    assert rig.executor.phase is Phase.EMPTY
    # Nobody is put back by a wake.
    rig.clear()
    rig.write(2, "CONTROL", 0)
    rig.write(2, "CONTROL", 1)
    rig.hog(2)
    rig.run(1 * MS)
    assert rig.said(Report) == []
    rig.grant(2)
    assert rig.platform.owner == 2


def test_it_ends_then_however_late_it_began(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 2 * MS
    rig.platform.leave_script.append(Busy(1500 * US))
    rig.grant(2, slice_ns=1 * MS, now=True, until_ns=until_ns)
    rig.run(3 * MS)
    first, second = rig.said(Report)
    assert first.refused_ns >= 1500 * US
    assert second.planned_ns == until_ns - first.next_began_ns < 500 * US
    assert until_ns <= second.ended_ns < until_ns + BURST_NS


def test_a_slice_that_is_over_before_is_not_made_longer(rig: CoreRig) -> None:
    rig.grant(2, slice_ns=300 * US, now=True, until_ns=rig.clock.now_ns + 5 * MS)
    rig.grant(3)
    rig.run(400 * US)
    report = rig.said(Report)[1]
    assert (report.planned_ns, report.end, report.next_vcoproc) == (300 * US, EndReason.SLICE, 3)


def test_an_idle_one_leaves_then_to_the_nanosecond(idle: CoreRig) -> None:
    until_ns = idle.clock.now_ns + 800 * US
    idle.program(1, Compute(100))
    idle.grant(1, until_ns=until_ns, now=True)
    idle.run(100 * US)
    idle.clear()
    assert idle.executor.next_deadline_ns() == until_ns
    idle.run(1 * MS)
    (report,) = idle.said(Report)
    assert (report.end, report.runnable, report.next_vcoproc) == (EndReason.IDLE, False, 0)
    assert report.ended_ns == until_ns
    idle.clear()
    idle.program(1, Compute(100))
    assert idle.to_scheduler == [Wake(1, idle.clock.now_ns, False)]
    idle.run(1 * MS)
    assert idle.executor.phase is Phase.EMPTY


def test_a_faulted_one_leaves_then(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 800 * US
    rig.platform.contexts[2].program.clear()
    rig.program(2, Compute(100), Crash())
    rig.grant(2, now=True, until_ns=until_ns)
    rig.run(1 * MS)
    report = rig.said(Report)[1]
    assert (report.end, report.ended_ns, report.runnable) == (EndReason.FAULT, until_ns, False)


def test_the_slice_is_cut_again_when_it_resumes(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 1 * MS
    rig.platform.contexts[2].program.clear()
    rig.program(2, Compute(100), Timer(700 * US), Forever())
    rig.grant(2, slice_ns=900 * US, now=True, until_ns=until_ns)
    rig.run(2 * MS)
    report = rig.said(Report)[1]
    (wake,) = rig.said(Wake)
    assert report.planned_ns == until_ns - wake.clock_ns
    assert until_ns <= report.ended_ns < until_ns + BURST_NS


def test_a_grant_that_waits_for_its_time_goes_on_waiting(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 500 * US
    rig.grant(2, now=True, until_ns=until_ns)
    at_ns = until_ns + 300 * US
    rig.grant(3, not_before_ns=at_ns)
    rig.run(1 * MS)
    assert turns(rig) == [(1, 2), (2, 0), (0, 3)]
    assert rig.said(Report)[2].ended_ns == at_ns


def test_one_that_may_begin_then_does_so_without_a_gap(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 500 * US
    rig.grant(2, now=True, until_ns=until_ns)
    rig.grant(3, not_before_ns=until_ns)
    rig.run(1 * MS)
    assert turns(rig) == [(1, 2), (2, 3)]
    report = rig.said(Report)[1]
    assert until_ns <= report.ended_ns < until_ns + BURST_NS
    assert report.next_began_ns == report.ended_ns + SWITCH_NS


def test_one_for_the_same_renews_its_turn_without_a_switch(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 500 * US
    rig.grant(2, now=True, until_ns=until_ns)
    number = rig.grant(2, slice_ns=5 * MS, not_before_ns=until_ns, until_ns=until_ns + 400 * US)
    rig.clear()
    rig.run(2 * MS)
    first, second = rig.said(Report)
    assert (first.next_grant, first.next_vcoproc, first.end) == (number, 2, EndReason.SLICE)
    assert (first.save_ns, first.restore_ns) == (0, 0)
    assert second.planned_ns == until_ns + 400 * US - first.next_began_ns
    assert until_ns + 400 * US <= second.ended_ns < until_ns + 400 * US + BURST_NS


def test_the_next_one_sleeps_at_the_end_of_a_turn(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 500 * US
    rig.grant(2, now=True, until_ns=until_ns)
    rig.grant(3)
    rig.write(3, "CONTROL", 0)
    rig.run(1 * MS)
    assert whys(rig) == ["NOT_RUNNABLE"]
    assert turns(rig) == [(1, 2), (2, 0)]


def test_absolute_times_do_not_drift(rig: CoreRig) -> None:
    """Each turn has its place in the frame, whatever the ones before it have cost."""
    frame_ns, origin_ns = 1 * MS, rig.clock.now_ns + 1 * MS
    rig.platform.leave_rule = lambda _vcoproc: Busy(7 * US) if rig.clock.now_ns % 3 else Done()
    late = []
    for frame in range(1000):
        at_ns = origin_ns + frame * frame_ns
        rig.grant(2 + frame % 2, slice_ns=frame_ns, now=True, not_before_ns=at_ns,
                  until_ns=at_ns + frame_ns)  # fmt: skip
        rig.run(at_ns + 1 - rig.clock.now_ns)
        rig.run(frame_ns // 2)
        late.append(rig.said(Report)[-1].ended_ns - at_ns)
        rig.clear()
    assert max(late) < BURST_NS and min(late) >= 0


# --- late -----------------------------------------------------------------------------------------


def test_a_grant_that_is_over_already_is_dropped(rig: CoreRig) -> None:
    for times in ((0, rig.clock.now_ns), (rig.clock.now_ns + 9, rig.clock.now_ns + 9), (90, 9)):
        rig.grant(2, now=True, not_before_ns=times[0], until_ns=times[1])
    assert whys(rig) == ["LATE"] * 3
    assert rig.platform.calls == [], "nobody left for it"
    assert rig.said(Wake) == [], "it says nothing about the vcoproc"
    rig.write(2, "CONTROL", 1)
    assert rig.said(Wake) == []


def test_one_that_waits_for_a_slice_that_lasts_longer_is_dropped(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 400 * US
    rig.grant(2, until_ns=until_ns)
    rig.run(2 * MS)
    (dropped,) = rig.said(GrantDropped)
    assert dropped.why == "LATE" and until_ns <= dropped.clock_ns < until_ns + BURST_NS
    assert rig.said(Report) == []


def test_a_refusal_that_lasts_longer_ends_with_it(rig: CoreRig) -> None:
    until_ns = rig.clock.now_ns + 400 * US
    rig.platform.leave_script.extend([Busy(1 * MS)] * 2)
    rig.grant(2, now=True, until_ns=until_ns)
    rig.run(500 * US)
    assert whys(rig) == ["LATE"]
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    assert rig.platform.owner == 1


def test_one_that_would_be_entered_too_late_is_dropped(rig: CoreRig) -> None:
    rig.platform.enter_script.extend([Busy(300 * US)] * 3)
    rig.grant(2, now=True, until_ns=rig.clock.now_ns + 500 * US)
    rig.run(2 * MS)
    assert whys(rig) == ["LATE"]
    assert rig.executor.phase is Phase.EMPTY


def test_saving_took_longer(rig: CoreRig) -> None:
    rig.grant(2, now=True, until_ns=rig.clock.now_ns + COSTS.save_ns)
    assert turns(rig) == [(1, 0)]
    assert whys(rig) == ["LATE"]


def test_restoring_took_longer(rig: CoreRig) -> None:
    """That is not known before: it has begun, with no time at all."""
    rig.grant(2, now=True, until_ns=rig.clock.now_ns + COSTS.save_ns + 1)
    assert turns(rig) == [(1, 2), (2, 0)]
    report = rig.said(Report)[1]
    assert (report.planned_ns, report.ran_ns, report.instructions) == (0, 0, 0)


# --- refusing at the end of a turn ----------------------------------------------------------------


def refusing(rig: CoreRig, *, refusal_ns: int = 5 * MS) -> int:
    """Vcoproc 2 shall leave by now, for nobody, and refuses. Gives its until_ns."""
    until_ns = rig.clock.now_ns + 300 * US
    rig.platform.leave_script.extend([Done(), *[Busy(100 * US)] * 100])
    rig.grant(2, now=True, until_ns=until_ns, refusal_ns=refusal_ns)
    rig.run(400 * US)
    assert rig.executor.phase is Phase.LEAVING
    rig.clear()
    return until_ns


def test_it_is_forced_off_at_the_bound_of_its_own_grant(rig: CoreRig) -> None:
    until_ns = refusing(rig, refusal_ns=700 * US)
    rig.run(1 * MS)
    (report,) = rig.said(Report)
    assert (report.forced, report.next_vcoproc, report.end) == (True, 0, EndReason.SLICE)
    assert report.ended_ns + report.refused_ns < until_ns + 700 * US + 2 * BURST_NS


def test_another_one_is_what_it_leaves_for(rig: CoreRig) -> None:
    refusing(rig)
    rig.grant(3)
    rig.platform.leave_script.clear()
    rig.run(200 * US)
    assert turns(rig) == [(2, 3)]


@pytest.mark.parametrize("what", ["revoke", "sleep", "detach", "register"])
def test_it_has_to_leave_though_the_next_one_does_not_come(rig: CoreRig, what: str) -> None:
    refusing(rig)
    number = rig.grant(3)
    match what:
        case "revoke":
            rig.revoke(number)
        case "sleep":
            rig.write(3, "CONTROL", 0)
        case "detach":
            rig.detach(3)
        case "register":
            rig.executor.register_message()
    assert rig.executor.phase is Phase.LEAVING
    rig.platform.leave_script.clear()
    rig.run(200 * US)
    assert turns(rig) == [(2, 0)]


def test_a_new_turn_lets_it_stay(rig: CoreRig) -> None:
    refusing(rig)
    rig.grant(2, slice_ns=1 * MS)
    assert rig.platform.calls == ["cancel_switch 2"]
    assert turns(rig) == [(2, 2)]
    rig.run(500 * US)
    assert rig.platform.owner == 2


def test_a_new_turn_that_may_begin_later_lets_it_stay_then(rig: CoreRig) -> None:
    refusing(rig)
    at_ns = rig.clock.now_ns + 250 * US
    rig.grant(2, slice_ns=1 * MS, not_before_ns=at_ns)
    assert rig.executor.phase is Phase.LEAVING
    rig.run(400 * US)
    assert turns(rig) == [(2, 2)]
    assert rig.said(Report)[0].ended_ns >= at_ns


def test_it_is_destroyed_while_it_refuses_and_a_later_turn_waits_for_it(rig: CoreRig) -> None:
    refusing(rig)
    rig.grant(2, not_before_ns=rig.clock.now_ns + 1 * MS)
    rig.detach(2, 200 * US)
    assert whys(rig) == ["REMOVED"]
    rig.run(300 * US)
    assert rig.gone == {2: [True]}
    assert turns(rig) == [(2, 0)]


# --- vacate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("now", [True, False])
def test_the_current_one_leaves_for_nobody(rig: CoreRig, now: bool) -> None:
    number = rig.vacate(now=now)
    rig.run(500 * US)
    if not now:
        assert rig.said(Report) == []
        rig.run(1 * MS)
    (report,) = rig.said(Report)
    assert (report.next_grant, report.next_vcoproc, report.runnable) == (number, 0, True)
    assert report.end == (EndReason.PREEMPTED if now else EndReason.SLICE)
    assert rig.executor.phase is Phase.EMPTY and rig.platform.stage2 is None
    rig.run(1 * MS)
    assert rig.platform.owner is None
    rig.revoke(number)
    rig.grant(1)
    assert rig.platform.owner == 1


def test_an_idle_one_leaves_at_once_and_wakes_off_the_hardware(idle: CoreRig) -> None:
    number = idle.vacate()
    (report,) = idle.said(Report)
    assert (report.next_grant, report.end, report.runnable) == (number, EndReason.IDLE, False)
    idle.clear()
    idle.program(1, Compute(100))
    assert idle.to_scheduler == [Wake(1, idle.clock.now_ns, False)]
    idle.run(1 * MS)
    assert idle.executor.phase is Phase.EMPTY


def test_there_is_nobody_to_leave(empty: CoreRig) -> None:
    number = empty.vacate()
    assert empty.to_scheduler == [GrantDropped(number, 0, "EMPTY", empty.clock.now_ns)]


def test_there_is_nobody_while_one_is_being_entered(rig: CoreRig) -> None:
    rig.platform.enter_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    rig.vacate()
    assert whys(rig) == ["REPLACED", "EMPTY"], "the refusal until then is told"
    assert rig.executor.phase is Phase.EMPTY


def test_a_yield_is_ignored(rig: CoreRig) -> None:
    rig.platform.contexts[1].program.clear()
    rig.program(1, Yield(), Forever())
    rig.vacate()
    rig.run(500 * US)
    assert rig.said(Report) == []


@pytest.mark.parametrize("by", ["detach", "idle", "fault", "until", "failure"])
def test_it_is_carried_out_whyever_the_current_one_leaves(rig: CoreRig, by: str) -> None:
    if by in ("idle", "fault"):
        rig.platform.contexts[1].program.clear()
        rig.program(1, Compute(1000), *[Crash()] * (by == "fault"))
    if by == "until":
        rig.grant(1, now=True, until_ns=rig.clock.now_ns + 500 * US, slice_ns=9 * MS)
        rig.clear()
    number = rig.vacate()
    if by == "detach":
        rig.detach(1)
    elif by == "failure":
        rig.platform.leave_script.append(Failed("dead"))
    rig.run(1500 * US)
    (report,) = rig.said(Report)
    assert (report.next_grant, report.next_vcoproc) == (number, 0)
    assert whys(rig) == []


def test_it_is_replaced_or_taken_back(rig: CoreRig) -> None:
    rig.vacate()
    number = rig.grant(2)
    rig.run(1100 * US)
    assert rig.said(Report)[0].next_grant == number
    rig.clear()
    rig.revoke(rig.vacate())
    rig.run(3 * MS)
    assert rig.to_scheduler == []
    rig.grant(3)
    rig.grant(1)
    number = rig.vacate(now=True)
    assert rig.said(Report)[1].next_grant == number


@pytest.mark.parametrize("what", ["revoke", "own", "other", "later"])
def test_the_current_one_refuses_to_leave_for_nobody(rig: CoreRig, what: str) -> None:
    rig.platform.leave_script.extend([Busy(100 * US)] * 2)
    number = rig.vacate(now=True, refusal_ns=5 * MS)
    assert rig.executor.phase is Phase.LEAVING
    match what:
        case "revoke":
            rig.revoke(number)
        case "own":
            rig.grant(1)
        case "other":
            rig.grant(2)
        case "later":
            rig.grant(2, not_before_ns=rig.clock.now_ns + 5 * MS)
    rig.run(500 * US)
    stayed = what != "other"
    assert rig.platform.owner == (1 if stayed else 2)
    assert ("cancel_switch 1" in rig.platform.calls) == stayed
    assert turns(rig) == ([] if stayed else [(1, 2)])


def test_it_is_forced_off_at_the_bound_of_the_order(rig: CoreRig) -> None:
    rig.platform.leave_script.extend([Busy(100 * US)] * 100)
    number = rig.vacate(now=True, refusal_ns=350 * US)
    rig.run(500 * US)
    (report,) = rig.said(Report)
    assert (report.forced, report.next_grant) == (True, number)
    assert 350 * US <= report.refused_ns < 350 * US + BURST_NS
