"""The executor and a coprocessor that refuses or fails to be switched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vcoproc.errors import PlatformFailure
from vcoproc.limits import (
    MS,
    REFUSALS_MAX,
    SWITCH_DEADLINE_NS,
    SWITCH_IN_NS_MIN,
    SWITCH_RETRY_NS_MAX,
    SWITCH_RETRY_NS_MIN,
    US,
)
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    LineLevel,
    Read,
    Register,
    Report,
    Sleep,
    TrapError,
    Wake,
)
from vcoproc_sim.platforms.api import Busy, Done, Failed, SwitchResult
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    FAULT_LINE,
    FORCED,
    Compute,
    Costs,
    Crash,
    Forever,
    Timer,
    job,
)


def always(result: SwitchResult) -> Callable[[int], SwitchResult]:
    return lambda _vcoproc_id: result


@pytest.fixture
def rig() -> CoreRig:
    """Vcoproc 1 runs for ever; 2 and 3 would."""
    rig = CoreRig(costs=Costs(instruction_ns=1))  # bursts of 20 us
    rig.attach(1, 2, 3)
    rig.hog(1, 2, 3)
    rig.grant(1, slice_ns=1 * MS)
    rig.clear()
    return rig


def last_report(rig: CoreRig) -> Report:
    return rig.said(Report)[-1]


# --- leaving --------------------------------------------------------------------------------------


def test_a_refusing_one_is_asked_again_when_it_said(rig: CoreRig) -> None:
    told_ns = rig.clock.now_ns
    rig.platform.leave_script.extend([Busy(100 * US), Busy(300 * US)])
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.LEAVING
    assert rig.executor.next_deadline_ns() == told_ns + 100 * US
    rig.run(100 * US - 1)
    assert rig.platform.calls == ["switch_from 1 Busy"]
    rig.run(1)
    rig.step()
    assert rig.platform.calls == ["switch_from 1 Busy"] * 2
    assert rig.executor.next_deadline_ns() == told_ns + 400 * US
    rig.run(1 * MS)
    report = last_report(rig)
    assert (report.end, report.refusals, report.forced) == (EndReason.PREEMPTED, 2, False)
    assert report.ended_ns == told_ns
    assert report.refused_ns == 400 * US
    assert report.next_began_ns == told_ns + 400 * US + 3_000 + 200 + 2_000
    assert rig.platform.owner == 2


def test_the_refuser_runs_on_and_pays_for_it(rig: CoreRig) -> None:
    before = rig.platform.contexts[1].instructions
    rig.platform.leave_script.extend([Busy(200 * US)])
    assert rig.executor.turn is not None
    began_ns = rig.executor.turn.slice_began_ns
    rig.grant(2, now=True)
    rig.run(1 * MS)
    report = last_report(rig)
    assert rig.platform.contexts[1].instructions - before == 200_000
    assert report.ran_ns == report.ended_ns + 200 * US - began_ns, "refusals included"


@pytest.mark.parametrize(
    ("said_ns", "waited_ns"),
    [(0, SWITCH_RETRY_NS_MIN), (-5, SWITCH_RETRY_NS_MIN), (1 << 60, SWITCH_RETRY_NS_MAX)],
)
def test_what_a_platform_says_about_time_is_bounded(
    rig: CoreRig, said_ns: int, waited_ns: int
) -> None:
    rig.platform.leave_script.append(Busy(said_ns))
    rig.grant(2, now=True)
    assert rig.executor.next_deadline_ns() == rig.clock.now_ns + waited_ns


@pytest.mark.parametrize("refusal_ns", [0, 1, 250 * US])
def test_at_the_bound_it_is_forced_off(rig: CoreRig, refusal_ns: int) -> None:
    rig.platform.leave_rule = always(Busy(100 * US))
    told_ns = rig.clock.now_ns
    rig.write(1, "IRQ_ENABLE", 3)
    rig.grant(2, slice_ns=5 * MS, now=True, refusal_ns=refusal_ns)
    rig.run(300 * US)
    report = last_report(rig)
    assert (report.vcoproc, report.next_vcoproc) == (1, 2)
    assert (report.forced, report.runnable) == (True, False)
    assert report.end == EndReason.PREEMPTED
    assert refusal_ns <= report.refused_ns < refusal_ns + 20 * US, "late by a burst at most"
    assert report.ended_ns == told_ns
    assert rig.platform.contexts[1].forced == 1
    # Its driver is told: by the fault line, and by reading why.
    assert [(level.vcoproc, level.line, level.high) for level in rig.said(LineLevel)] == [
        (1, FAULT_LINE, True)
    ]
    assert rig.value(1, "FAULT_STATUS") == FORCED
    # The operator is told.
    assert [(fault.vcoproc_id, fault.code) for fault in rig.faults] == [(1, FORCED)]
    # After a reset it goes on.
    rig.clear()
    rig.write(1, "CONTROL", 1)
    rig.write(1, "DOORBELL", job(1))
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]


def test_a_reset_by_force_stops_the_timers_of_the_refuser() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Timer(1 * MS))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.platform.leave_rule = always(Busy(100 * US))
    rig.grant(2, refusal_ns=0)
    assert last_report(rig).forced
    rig.clear()
    rig.run(3 * MS)
    assert rig.said(Wake) == []


def test_refusing_very_often_is_bounded_too(rig: CoreRig) -> None:
    rig.platform.leave_rule = always(Busy(1))
    rig.platform.costs = Costs(instruction_ns=0)  # asked again and again in no time but this
    rig.grant(2, now=True)
    for _ in range(2 * REFUSALS_MAX):
        rig.clock.advance(SWITCH_RETRY_NS_MIN)
        rig.executor.tick()
        rig.collect()
    report = last_report(rig)
    assert report.forced
    assert report.refusals == REFUSALS_MAX
    assert report.refused_ns < SWITCH_DEADLINE_NS


def test_other_grants_do_not_give_the_refuser_more_time(rig: CoreRig) -> None:
    rig.platform.leave_rule = always(Busy(50 * US))
    told_ns = rig.clock.now_ns
    for round_ in range(12):
        rig.grant(2 + round_ % 2, now=True, refusal_ns=500 * US)
        rig.run(50 * US)
    report = rig.said(Report)[0]
    assert report.vcoproc == 1 and report.forced
    assert report.next_began_ns - told_ns < 600 * US
    assert rig.said(GrantDropped) == []


def test_a_revoked_switch_is_undone(rig: CoreRig) -> None:
    rig.platform.leave_script.append(Busy(100 * US))
    number = rig.grant(2, now=True)
    rig.revoke(number)
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    assert rig.executor.phase is Phase.RESIDENT
    rig.run(5 * MS)
    assert rig.platform.owner == 1
    assert rig.to_scheduler == []


def test_a_new_slice_for_the_refuser_undoes_the_switch(rig: CoreRig) -> None:
    rig.platform.leave_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    number = rig.grant(1, slice_ns=2 * MS)
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    rig.run(2 * MS)
    report = last_report(rig)
    assert (report.vcoproc, report.next_vcoproc, report.next_grant) == (1, 1, number)


def test_the_next_one_falls_asleep_while_the_current_one_is_half_gone(rig: CoreRig) -> None:
    """The ancestor went on to stop the current one for nobody."""
    rig.platform.leave_script.append(Busy(100 * US))
    number = rig.grant(2, now=True)
    rig.write(2, "CONTROL", 0)
    rig.run(200 * US)
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    (dropped,) = rig.to_scheduler
    assert isinstance(dropped, GrantDropped)
    assert (dropped.grant, dropped.why) == (number, "NOT_RUNNABLE")
    assert rig.executor.wants_cpu() and rig.platform.owner == 1


def test_the_next_one_is_destroyed_while_the_current_one_refuses(rig: CoreRig) -> None:
    rig.platform.leave_script.append(Busy(100 * US))
    number = rig.grant(2, now=True)
    rig.detach(2)
    assert rig.gone == {2: [False]}
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    assert rig.to_scheduler == [GrantDropped(number, 2, "REMOVED", rig.clock.now_ns)]
    assert rig.platform.owner == 1


def test_a_refuser_that_idles_meanwhile_is_not_told_asleep_twice() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(30_000))
    rig.hog(2)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(1 * MS))
    rig.grant(2, now=True)
    rig.clear()
    rig.run(500 * US)
    assert rig.executor.phase is Phase.LEAVING and not rig.executor.wants_cpu()
    assert rig.to_scheduler == []
    rig.run(600 * US)
    report = last_report(rig)
    assert rig.to_scheduler == [report]
    assert (report.end, report.runnable, report.ran_ns) == (EndReason.PREEMPTED, False, 300 * US)


def test_a_refuser_that_idled_and_may_stay_is_told_asleep() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(30_000))
    rig.hog(2)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(1 * MS))
    number = rig.grant(2, now=True)
    rig.run(500 * US)
    rig.clear()
    rig.revoke(number)
    assert rig.to_scheduler == [Sleep(1, rig.clock.now_ns)]


def test_a_refuser_that_wakes_meanwhile_runs_on_and_wants_more() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(100))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.platform.leave_script.extend([Busy(1 * MS)])
    rig.grant(2)
    rig.clear()
    rig.program(1, Forever())
    assert rig.to_scheduler == [Wake(1, rig.clock.now_ns, True)]
    rig.run(1200 * US)
    report = last_report(rig)
    assert (report.end, report.runnable) == (EndReason.IDLE, True)
    assert rig.to_scheduler[1:] == [report]


def test_a_refuser_that_faults_meanwhile() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(30_000), Crash())
    rig.hog(2)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(1 * MS))
    rig.grant(2, now=True)
    rig.clear()
    rig.run(1200 * US)
    faulted, report = rig.to_scheduler
    assert isinstance(faulted, Faulted) and isinstance(report, Report)
    assert report.runnable is False
    assert rig.platform.owner == 2


def test_a_destroyed_one_that_refuses_is_forced_off_at_its_deadline(rig: CoreRig) -> None:
    rig.platform.leave_rule = always(Busy(100 * US))
    rig.detach(1, deadline_ns=350 * US)
    assert rig.gone == {1: []}
    rig.grant(1)  # too late
    assert [dropped.why for dropped in rig.said(GrantDropped)] == ["NOT_FOUND"]
    number = rig.grant(2)
    rig.revoke(number)
    rig.run(300 * US)
    assert rig.gone == {1: []}, "taking back a grant does not save it"
    rig.run(100 * US)
    assert rig.gone == {1: [True]}
    report = last_report(rig)
    assert (report.vcoproc, report.next_vcoproc) == (1, 0)
    assert (report.end, report.runnable, report.forced) == (EndReason.REMOVED, False, True)
    assert 1 not in rig.executor.vcoprocs
    assert rig.faults == [], "that is no fault of anybody"
    assert rig.executor.phase is Phase.EMPTY


def test_destroying_one_that_refuses_already_uses_the_tighter_bound(rig: CoreRig) -> None:
    rig.platform.leave_rule = always(Busy(50 * US))
    rig.grant(2, now=True, refusal_ns=10 * MS)
    rig.detach(1, deadline_ns=200 * US)
    rig.detach(1, deadline_ns=5 * MS)
    rig.run(300 * US)
    assert rig.gone == {1: [True, True]}, "both who asked are told"
    assert last_report(rig).end == EndReason.REMOVED
    assert rig.platform.owner == 2


# --- entering -------------------------------------------------------------------------------------


def test_hardware_that_refuses_the_next_one_is_reported_empty(rig: CoreRig) -> None:
    rig.platform.enter_script.extend([Busy(100 * US), Busy(50 * US)])
    number = rig.grant(2, now=True)
    told_ns = rig.clock.now_ns
    report = last_report(rig)
    assert rig.to_scheduler == [report]
    assert (report.vcoproc, report.next_vcoproc, report.runnable) == (1, 0, True)
    assert (report.mmu_ns, report.restore_ns, report.next_began_ns) == (0, 0, 0)
    assert rig.executor.phase is Phase.ENTERING
    rig.clear()
    rig.run(200 * US)
    entered = last_report(rig)
    assert rig.to_scheduler == [entered]
    assert (entered.vcoproc, entered.next_vcoproc, entered.next_grant) == (0, 2, number)
    assert (entered.refusals, entered.refused_ns) == (0, 0), "nobody refused to leave"
    assert entered.next_began_ns == entered.ended_ns + entered.mmu_ns + entered.restore_ns
    assert entered.ended_ns >= told_ns + 150 * US
    assert entered.switch_in_refusals == 2
    left_ns = report.ended_ns + report.refused_ns + report.save_ns
    assert entered.switch_in_refused_ns == entered.ended_ns - left_ns, "no time is missing"
    assert [call for call in rig.platform.calls if "switch_to" in call] == [
        "switch_to 2 Busy",
        "switch_to 2 Done",
    ]


def test_its_slice_is_whole_and_the_refusal_is_told_once(rig: CoreRig) -> None:
    rig.platform.enter_script.append(Busy(700 * US))
    rig.grant(2, slice_ns=1 * MS, now=True)
    rig.run(800 * US)
    began_ns = last_report(rig).next_began_ns
    rig.grant(3)
    rig.run(2 * MS)
    report = last_report(rig)
    assert (report.vcoproc, report.planned_ns, report.refused_ns) == (2, 1 * MS, 0)
    assert report.ended_ns - began_ns >= 1 * MS
    assert (report.switch_in_refusals, report.switch_in_refused_ns) == (0, 0)


@pytest.mark.parametrize(
    ("refusal_ns", "bound_ns"),
    [(0, SWITCH_IN_NS_MIN), (5 * MS, 5 * MS), (1 << 60, SWITCH_DEADLINE_NS)],
)
def test_hardware_that_stays_refusing_drops_the_grant_and_not_the_wake(
    rig: CoreRig, refusal_ns: int, bound_ns: int
) -> None:
    rig.platform.enter_rule = always(Busy(10 * MS))
    number = rig.grant(2, now=True, refusal_ns=refusal_ns)
    left_ns = last_report(rig).ended_ns + last_report(rig).save_ns
    rig.clear()
    rig.run(bound_ns - 10 * US)
    assert rig.to_scheduler == []
    rig.run(20 * MS)
    dropped, wake = rig.to_scheduler
    assert isinstance(dropped, GrantDropped)
    assert (dropped.grant, dropped.vcoproc, dropped.why) == (number, 2, "SWITCH_TIMEOUT")
    assert dropped.refused_ns == dropped.clock_ns - left_ns
    assert bound_ns <= dropped.refused_ns <= bound_ns + rig.platform.costs.mmu_ns
    assert dropped.refusals == 2 + (bound_ns - 1) // (10 * MS), "the first and the last, too"
    assert wake == Wake(2, dropped.clock_ns, False)
    assert rig.executor.phase is Phase.EMPTY
    rig.platform.enter_rule = always(Done())
    rig.grant(2)
    assert rig.platform.owner == 2
    assert last_report(rig).switch_in_refusals == 0


@pytest.mark.parametrize(
    ("what", "whys"),
    [
        ("revoke", ["REPLACED"]),
        ("vacate", ["REPLACED", "EMPTY"]),
        ("later", ["REPLACED"]),
        ("unknown", ["NOT_FOUND", "REPLACED"]),
        ("register", []),
        ("detach", ["REMOVED"]),
        ("sleep", ["NOT_RUNNABLE"]),
        ("late", ["LATE"]),
        ("fail", ["PLATFORM_FAILURE"]),
    ],
)
def test_the_next_one_goes_while_it_is_being_entered(
    rig: CoreRig, what: str, whys: list[str]
) -> None:
    """Whatever comes of it, the refusal until then is told: once, and as its own."""
    rig.platform.enter_script.extend([Busy(100 * US)] * 3)
    until_ns = rig.clock.now_ns + 180 * US if what == "late" else 0
    number = rig.grant(2, now=True, until_ns=until_ns)
    left_ns = last_report(rig).ended_ns + last_report(rig).save_ns
    assert rig.executor.phase.value == "entering"
    rig.run(120 * US)
    rig.clear()
    match what:
        case "revoke":
            rig.revoke(number)
        case "vacate":
            rig.vacate()
        case "later":
            rig.grant(2, not_before_ns=rig.clock.now_ns + 1000 * MS)
        case "unknown":
            rig.grant(77)
        case "register":
            assert rig.executor.register_message().current == 0
            rig.collect()
        case "detach":
            rig.detach(2)
            assert rig.gone == {2: [False]}
        case "sleep":
            rig.write(2, "CONTROL", 0)
            assert rig.executor.phase is Phase.EMPTY, "at once: others wait"
        case "fail":
            rig.platform.enter_script.clear()
            rig.platform.enter_script.append(Failed("dead"))
    rig.run(150 * US)
    assert [dropped.why for dropped in rig.said(GrantDropped)] == whys
    told = [each for each in rig.said(GrantDropped) if each.refusals]
    if whys:
        (dropped,) = told
        assert (dropped.grant, dropped.vcoproc, dropped.refusals) == (number, 2, 2)
        assert dropped.refused_ns == dropped.clock_ns - left_ns
    assert rig.executor.phase is (Phase.FAILED if what == "fail" else Phase.EMPTY)
    rig.run(1 * MS)
    assert rig.said(Report) == []
    rig.platform.enter_script.clear()
    if what != "fail":
        rig.grant(1)
        assert rig.platform.owner == 1
        assert last_report(rig).switch_in_refusals == 0


def test_another_one_is_granted_while_one_is_being_entered(rig: CoreRig) -> None:
    """It does not wait until the first one would have been tried again, nor pays for it."""
    rig.platform.enter_script.append(Busy(100 * MS))
    first = rig.grant(2, now=True)
    rig.run(40 * US)
    now_ns = rig.clock.now_ns
    number = rig.grant(3)
    assert rig.platform.owner == 3
    report = last_report(rig)
    assert (report.next_grant, report.ended_ns, report.switch_in_refusals) == (number, now_ns, 0)
    (dropped,) = rig.said(GrantDropped)
    assert (dropped.grant, dropped.vcoproc, dropped.why) == (first, 2, "REPLACED")
    assert (dropped.clock_ns, dropped.refusals) == (now_ns, 1)
    assert rig.said(Wake) == [], "the scheduler still takes it for one that waits"


def test_each_one_that_is_refused_has_its_own_bound(rig: CoreRig) -> None:
    rig.platform.enter_rule = always(Busy(100 * US))
    rig.grant(2, now=True, refusal_ns=2 * MS)
    rig.run(1500 * US)
    began_ns = rig.clock.now_ns
    rig.grant(3, refusal_ns=2 * MS)
    rig.run(3 * MS)
    replaced, dropped = rig.said(GrantDropped)
    assert (replaced.vcoproc, replaced.why) == (2, "REPLACED")
    assert (dropped.vcoproc, dropped.why) == (3, "SWITCH_TIMEOUT")
    assert dropped.clock_ns - dropped.refused_ns == began_ns
    assert dropped.refused_ns >= 2 * MS


def test_other_grants_for_it_do_not_give_the_refused_one_more_time(rig: CoreRig) -> None:
    rig.platform.enter_rule = always(Busy(100 * US))
    rig.grant(2, now=True, refusal_ns=2 * MS)
    for _ in range(3):
        rig.run(500 * US)
        number = rig.grant(2, refusal_ns=2 * MS)
    assert rig.said(GrantDropped) == []
    rig.run(600 * US)
    (dropped,) = rig.said(GrantDropped)
    assert (dropped.grant, dropped.why) == (number, "SWITCH_TIMEOUT")
    assert 2 * MS <= dropped.refused_ns < 2 * MS + 1 * US


def test_the_one_that_left_comes_back_because_the_other_could_not_enter(rig: CoreRig) -> None:
    rig.platform.enter_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    rig.grant(1)
    rig.run(200 * US)
    assert [(each.vcoproc, each.next_vcoproc) for each in rig.said(Report)] == [(1, 0), (0, 1)]


def test_the_one_that_left_is_destroyed_while_the_other_is_being_entered(rig: CoreRig) -> None:
    rig.platform.enter_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    rig.detach(1)
    assert rig.gone == {1: [False]}
    rig.run(200 * US)
    assert rig.platform.owner == 2


# --- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["leave", "enter", "enter-empty"])
def test_a_coprocessor_that_fails_is_quarantined(rig: CoreRig, where: str) -> None:
    """The ancestor paniced; here everybody concerned is told and everything else goes on."""
    held = rig.send(3, _cycles(rig))
    if where == "leave":
        rig.platform.leave_script.append(Failed("the engine is on fire"))
    else:
        rig.platform.enter_script.append(Failed("the engine is on fire"))
    if where == "enter-empty":
        rig.detach(1)
        rig.clear()
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.FAILED
    assert "on fire" in rig.executor.failure
    assert rig.faults[-1].vcoproc_id == 0 and "on fire" in rig.faults[-1].why
    # The scheduler knows that nothing runs, and that nobody will.
    if where != "enter-empty":
        report = last_report(rig)
        assert (report.vcoproc, report.next_vcoproc) == (1, 0)
    assert {fault.vcoproc for fault in rig.said(Faulted)} == set(rig.executor.vcoprocs)
    assert [dropped.why for dropped in rig.said(GrantDropped)] == ["PLATFORM_FAILURE"]
    after_faults = rig.to_scheduler[rig.to_scheduler.index(rig.said(Faulted)[0]) :]
    assert not [message for message in after_faults if isinstance(message, Wake)]
    # Drivers are told, now and later.
    answer = rig.answer(held)
    assert isinstance(answer, TrapError) and answer.error == "PLATFORM_FAILURE"
    for seq in (rig.send(3, _cycles(rig)), rig.post(3, "DOORBELL", job(1))):
        answer = rig.answer(seq)
        assert isinstance(answer, TrapError) and answer.error == "PLATFORM_FAILURE"
    assert rig.value(3, "ID") == 0x454B_4146


def _cycles(rig: CoreRig) -> Read:
    return Read(*rig.address("CYCLES"))


def test_a_failed_coprocessor_stays_calm(rig: CoreRig) -> None:
    """A grant for it is dropped without a wake, or the two processes would talk for ever."""
    rig.platform.leave_script.append(Failed("dead"))
    rig.grant(2, now=True)
    rig.clear()
    number = rig.grant(3)
    assert rig.to_scheduler == [GrantDropped(number, 3, "PLATFORM_FAILURE", rig.clock.now_ns)]
    rig.write(3, "CONTROL", 0)
    rig.write(3, "CONTROL", 1)
    rig.run(2000 * MS)
    assert len(rig.to_scheduler) == 1
    register = rig.executor.register_message()
    assert register == Register(
        "dsp0", rig.clock.now_ns, 0, tuple((number, False, True) for number in (1, 2, 3))
    )


def test_a_failed_coprocessor_takes_no_more_and_lets_go(rig: CoreRig) -> None:
    rig.platform.leave_script.append(Failed("dead"))
    rig.grant(2, now=True)
    with pytest.raises(PlatformFailure):
        rig.attach(4)
    for vcoproc_id in (1, 2, 3):
        rig.detach(vcoproc_id)
    assert rig.gone == {1: [False], 2: [False], 3: [False]}
    assert not rig.platform.contexts


def test_one_that_was_to_be_destroyed_is_gone_when_the_coprocessor_fails(rig: CoreRig) -> None:
    rig.platform.leave_script.extend([Busy(100 * US), Failed("dead")])
    rig.detach(1)
    rig.run(200 * US)
    assert rig.gone == {1: [True]}
    assert 1 not in rig.platform.contexts
