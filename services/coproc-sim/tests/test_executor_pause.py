"""The executor: a paused vcoproc is off the hardware, stays off, and goes on where it was."""

from __future__ import annotations

import pytest

from vcoproc.errors import NotFound
from vcoproc.limits import HOLD_LIMIT_NS, MS, US, S
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    LineSync,
    Read,
    Reply,
    Report,
    Sleep,
    TrapError,
    Wake,
)
from vcoproc_sim.departures import PauseEnd
from vcoproc_sim.platforms.api import Busy, Done, Failed, SwitchResult
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, Raise, Timer, job

OFF, FORCED, RESUMED = [PauseEnd.OFF], [PauseEnd.FORCED], [PauseEnd.RESUMED]


@pytest.fixture
def rig() -> CoreRig:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.clear()
    return rig


def ran(rig: CoreRig, vcoproc_id: int) -> int:
    return rig.platform.contexts[vcoproc_id].instructions


# --- one that is out ------------------------------------------------------------------------------


def test_one_that_sleeps_is_paused_without_a_word(rig: CoreRig) -> None:
    assert rig.pause(1) == OFF
    assert rig.to_scheduler == []
    rig.resume(1)
    assert rig.to_scheduler == []


def test_one_that_waits_counts_as_asleep_until_it_is_resumed(rig: CoreRig) -> None:
    rig.hog(1)
    rig.clear()
    assert rig.pause(1) == OFF
    assert rig.to_scheduler == [GrantDropped(0, 1, "PAUSED", rig.clock.now_ns)]
    rig.run(1 * MS)
    rig.resume(1)
    assert rig.said(Wake) == [Wake(1, rig.clock.now_ns, False)]
    rig.grant(1)
    rig.step()
    assert ran(rig, 1) > 0


def test_a_grant_for_one_that_is_paused_comes_to_nothing(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(2)
    number = rig.grant(1)
    rig.clear()
    rig.pause(1)
    assert rig.to_scheduler == [GrantDropped(number, 1, "PAUSED", rig.clock.now_ns)]
    late = rig.grant(1, now=True)
    assert rig.said(GrantDropped)[-1] == GrantDropped(late, 1, "NOT_RUNNABLE", rig.clock.now_ns)
    rig.run(5 * MS)
    assert (rig.platform.owner, ran(rig, 1)) == (2, 0)


def test_a_grant_that_waits_for_its_time_does_not_put_a_paused_one_on(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1, not_before_ns=rig.clock.now_ns + 1 * MS)
    rig.pause(1)
    later = rig.grant(1, not_before_ns=rig.clock.now_ns + 1 * MS)
    rig.run(3 * MS)
    assert rig.executor.phase is Phase.EMPTY
    assert rig.said(GrantDropped)[-1].grant == later
    assert ran(rig, 1) == 0


def test_pausing_the_one_that_the_hardware_refuses_to_take_in(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.platform.enter_script.append(Busy(100 * US))
    rig.grant(1)
    assert rig.executor.phase is Phase.ENTERING
    assert rig.pause(1) == OFF
    assert rig.executor.phase is Phase.EMPTY
    rig.grant(2)
    assert rig.platform.owner == 2


def test_no_access_and_no_timer_wakes_a_paused_one(rig: CoreRig) -> None:
    rig.pause(1)
    rig.clear()
    rig.write(1, "DOORBELL", job(1))
    rig.read(1, "CYCLES")
    rig.program(1, Compute(10))
    assert rig.to_scheduler == []
    rig.resume(1)
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]
    rig.grant(1)
    rig.settle()
    assert rig.platform.contexts[1].rung == [job(1)], "what was queued meanwhile comes then"


# --- the one on the hardware ----------------------------------------------------------------------


@pytest.mark.parametrize("idle", [False, True])
def test_the_one_on_the_hardware_leaves_and_stays_off(rig: CoreRig, idle: bool) -> None:
    rig.program(1, Compute(10)) if idle else rig.hog(1)
    rig.grant(1, slice_ns=100 * MS)
    rig.settle() if idle else rig.step()
    rig.clear()
    assert rig.pause(1) == OFF
    (report,) = rig.to_scheduler
    assert isinstance(report, Report)
    assert (report.end, report.runnable) == (EndReason.REMOVED, False)
    before = ran(rig, 1)
    rig.write(1, "DOORBELL", job(3))
    rig.grant(1)
    rig.run(5 * MS)
    assert (ran(rig, 1), rig.executor.phase) == (before, Phase.EMPTY)
    rig.resume(1)
    rig.grant(1)
    rig.run(1 * MS)
    assert ran(rig, 1) > before


def test_the_next_one_takes_its_place(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=100 * MS)
    rig.grant(2)
    assert rig.pause(1) == OFF
    assert rig.platform.owner == 2


def test_a_grant_of_another_slice_goes_with_it(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    number = rig.grant(1)
    rig.clear()
    rig.pause(1)
    dropped, report = rig.to_scheduler
    assert isinstance(dropped, GrantDropped) and isinstance(report, Report)
    assert (dropped.grant, dropped.why, report.end) == (number, "PAUSED", EndReason.REMOVED)


def test_pausing_twice_does_nothing_more(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.pause(1)
    rig.clear()
    assert rig.pause(1) == OFF
    assert (rig.to_scheduler, rig.platform.calls) == ([], [])
    rig.resume(1)
    rig.clear()
    rig.resume(1)
    assert rig.to_scheduler == []


def test_there_is_nobody_to_pause_or_resume(rig: CoreRig) -> None:
    with pytest.raises(NotFound):
        rig.pause(9)
    with pytest.raises(NotFound):
        rig.resume(9)


# --- one that refuses -----------------------------------------------------------------------------


def test_one_that_refuses_gets_no_turns_meanwhile_and_leaves_when_it_can(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    rig.platform.leave_script.extend([Busy(50 * US)] * 2)
    rig.clear()
    ended = rig.pause(1)
    assert ended == []
    assert rig.to_scheduler == [Sleep(1, rig.clock.now_ns)]
    rig.grant(1, now=True)
    assert rig.executor.phase is Phase.LEAVING
    rig.grant(2)
    rig.run(500 * US)
    assert ended == OFF
    (report,) = rig.said(Report)
    assert (report.end, report.refusals, report.forced) == (EndReason.REMOVED, 2, False)
    assert (report.next_vcoproc, rig.platform.owner) == (2, 2)


def test_it_is_forced_at_the_deadline_and_has_faulted(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_rule = lambda _vcoproc_id: Busy(10 * US)
    first, second = rig.pause(1, 8 * MS), rig.pause(1, 1 * MS)
    began_ns = rig.clock.now_ns
    rig.run(2 * MS)
    assert (first, second) == (FORCED, FORCED)
    (report,) = [report for report in rig.said(Report) if report.vcoproc == 1]
    assert report.forced and report.ended_ns + report.refused_ns <= began_ns + 1 * MS + 250 * US
    assert [(fault.vcoproc_id, fault.code) for fault in rig.faults] == [(1, 16)]
    assert rig.value(1, "FAULT_STATUS") == 16


def test_a_save_by_force_spares_it_the_reset(rig: CoreRig) -> None:
    def force_save(vcoproc_id: int) -> SwitchResult:
        rig.platform.leave_script.append(Done())
        return rig.platform.switch_from(vcoproc_id)

    rig.platform.force_save = force_save  # type: ignore[attr-defined]
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_rule = lambda _vcoproc_id: Busy(10 * US)
    ended = rig.pause(1, 1 * MS)
    rig.run(2 * MS)
    assert (ended, rig.faults) == (OFF, [])
    assert rig.platform.contexts[1].program, "its firmware is what it was"


@pytest.mark.parametrize("idle", [False, True])
def test_one_that_is_resumed_before_it_has_left_stays(rig: CoreRig, idle: bool) -> None:
    rig.program(1, Compute(10)) if idle else rig.hog(1)
    rig.grant(1, slice_ns=100 * MS)
    rig.settle() if idle else rig.step()
    rig.platform.leave_script.extend([Busy(10 * MS)] * 3)
    ended = rig.pause(1)
    rig.clear()
    rig.resume(1)
    assert ended == RESUMED
    assert rig.platform.calls == ["cancel_switch 1"]
    assert rig.to_scheduler == ([] if idle else [Wake(1, rig.clock.now_ns, True)])
    rig.platform.leave_script.clear()
    rig.run(5 * MS)
    assert (rig.platform.owner, rig.executor.phase) == (1, Phase.RESIDENT)


def test_one_that_is_resumed_still_has_to_make_room_for_another(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=100 * MS)
    rig.platform.leave_script.extend([Busy(10 * MS)] * 2)
    rig.pause(1)
    rig.grant(2, now=True)
    rig.resume(1)
    assert rig.executor.phase is Phase.LEAVING
    rig.run(25 * MS)
    assert rig.platform.owner == 2
    assert rig.said(Report)[-1].runnable, "it waits for its next turn"


def test_it_wakes_while_it_refuses_to_be_paused(rig: CoreRig) -> None:
    """The scheduler must not think that it may have more turns."""
    rig.program(1, Compute(10))
    rig.grant(1, slice_ns=100 * MS)
    rig.settle()
    rig.platform.leave_script.extend([Busy(100 * US)] * 2)
    rig.clear()
    rig.pause(1)
    rig.write(1, "DOORBELL", job(2))
    assert rig.to_scheduler == []
    rig.run(1 * MS)
    assert rig.said(Wake) == [] and rig.executor.phase is Phase.EMPTY


# --- beside others --------------------------------------------------------------------------------


def test_a_paused_one_can_be_destroyed(rig: CoreRig) -> None:
    rig.hog(1)
    rig.pause(1)
    rig.detach(1)
    assert rig.gone == {1: [False]}
    assert set(rig.executor.vcoprocs) == {2}


def test_destroyed_while_it_refuses_to_be_paused(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_rule = lambda _vcoproc_id: Busy(10 * US)
    ended = rig.pause(1, 8 * MS)
    rig.detach(1, 1 * MS)
    rig.run(2 * MS)
    assert (ended, rig.gone) == (FORCED, {1: [True]})
    assert rig.faults == [], "nobody is left to whom it would matter"


def test_paused_while_it_refuses_to_be_destroyed(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(10 * US))
    rig.detach(1)
    ended = rig.pause(1)
    rig.run(1 * MS)
    assert (ended, rig.gone) == (OFF, {1: [False]})


def test_a_register_says_that_a_paused_one_sleeps(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.pause(1)
    register = rig.executor.register_message()
    assert register.vcoprocs == ((1, False, False), (2, True, False))


def test_a_coprocessor_that_fails_while_one_is_to_be_paused(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_script.append(Failed("dead"))
    assert rig.pause(1) == FORCED
    assert [faulted.vcoproc for faulted in rig.said(Faulted)] == [1, 2]
    assert rig.pause(2) == OFF


def test_one_can_be_paused_from_the_beginning(rig: CoreRig) -> None:
    rig.attach(3, paused=True)
    rig.write(3, "DOORBELL", job(1))
    assert [wake for wake in rig.said(Wake) if wake.vcoproc == 3] == []
    rig.resume(3)
    assert [wake.vcoproc for wake in rig.said(Wake)] == [3]


def test_the_router_hears_the_levels_again_when_one_goes_on(rig: CoreRig) -> None:
    rig.program(1, Raise(1))
    rig.grant(1)
    rig.settle()
    rig.pause(1)
    rig.clear()
    rig.resume(1)
    assert rig.to_router == [LineSync(1, 1, rig.executor.switch_count)]


# --- its driver -----------------------------------------------------------------------------------


def test_its_driver_is_served_as_that_of_any_switched_out_one(rig: CoreRig) -> None:
    rig.pause(1)
    assert rig.value(1, "ID") == 0x454B_4146
    rig.write(1, "IRQ_ENABLE", 5)
    assert rig.value(1, "IRQ_ENABLE") == 5
    denied = rig.read(1, "PC")
    assert isinstance(denied, TrapError) and denied.error == "REGISTER_DENIED"


def test_a_held_access_times_out_as_ever(rig: CoreRig) -> None:
    rig.pause(1)
    rig.read(1, "CYCLES")
    rig.run(HOLD_LIMIT_NS - 1)
    assert not [reply for _origin, reply in rig.replies if isinstance(reply, TrapError)]
    rig.run(1 * US)
    (refused,) = [reply for _origin, reply in rig.replies if isinstance(reply, TrapError)]
    assert (refused.error, "1000 ms" in refused.detail) == ("HOLD_TIMEOUT", True)


def test_a_held_access_is_done_when_it_goes_on(rig: CoreRig) -> None:
    rig.hog(1)
    rig.pause(1)
    waits = rig.send(1, Read(*rig.address("CYCLES")))
    rig.run(500 * MS)
    rig.resume(1)
    rig.grant(1)
    assert isinstance(rig.answer(waits), Reply)


# --- its timers -----------------------------------------------------------------------------------


def test_timers_stand_still_while_it_is_paused(rig: CoreRig) -> None:
    rig.program(1, Timer(1 * MS), Raise(1))
    rig.grant(1)
    rig.run(300 * US)
    began_ns = rig.clock.now_ns - 300 * US
    rig.pause(1)
    rig.run(1 * S)
    rig.clear()
    resumed_ns = rig.clock.now_ns
    rig.resume(1)
    assert rig.said(Wake) == []
    rig.run(2 * MS)
    (wake,) = rig.said(Wake)
    left_ns = 1 * MS - 300 * US
    assert resumed_ns + left_ns - 10 * US <= wake.clock_ns <= resumed_ns + left_ns + 10 * US
    assert wake.clock_ns - began_ns > 1 * S
    rig.grant(1)
    rig.settle()
    assert rig.value(1, "IRQ_STATUS") == 1, "for the firmware, too, its time has come"


def test_a_timer_that_was_due_is_due_when_it_goes_on(rig: CoreRig) -> None:
    rig.hog(2)
    rig.program(1, Timer(1 * MS), Raise(1))
    rig.grant(1)
    rig.run(100 * US)
    rig.grant(2, now=True)
    rig.run(2 * MS)
    rig.pause(1)
    rig.clear()
    rig.run(5 * MS)
    rig.resume(1)
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]
