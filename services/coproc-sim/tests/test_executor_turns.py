"""The executor: grants, turns, and the reports about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vcoproc.limits import MS, SLICE_NS_MIN, SWITCH_DEADLINE_NS, US
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    Message,
    Report,
    Sleep,
    Wake,
)
from vcoproc_sim.executor import BURST_INSTRUCTIONS
from vcoproc_sim.platforms.api import Busy, Done, SwitchResult
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, Costs, Crash, Forever, Op, Timer, Yield, job

INSTRUCTION_NS = 10
BURST_NS = BURST_INSTRUCTIONS * INSTRUCTION_NS
SAVE_NS, MMU_NS, RESTORE_NS = 3_000, 200, 2_000


@pytest.fixture
def rig() -> CoreRig:
    """Three vcoprocs out of reset, asleep, and an empty coprocessor."""
    rig = CoreRig(costs=Costs(INSTRUCTION_NS, 0, SAVE_NS, MMU_NS, RESTORE_NS))
    rig.attach(1, 2, 3)
    rig.clear()
    return rig


def last_report(rig: CoreRig) -> Report:
    return rig.said(Report)[-1]


def owner(rig: CoreRig) -> int | None:
    return rig.platform.owner


# --- beginnings -----------------------------------------------------------------------------------


def test_a_turn_on_empty_hardware_is_reported_as_coming_from_nobody(rig: CoreRig) -> None:
    rig.hog(1)
    told_ns = rig.clock.now_ns
    rig.grant(1, slice_ns=5 * MS)
    assert rig.to_scheduler == [
        Wake(1, told_ns, False),
        Report(
            grant=0,
            vcoproc=0,
            next_grant=1,
            next_vcoproc=1,
            end=EndReason.IDLE,
            runnable=False,
            planned_ns=0,
            ran_ns=0,
            refused_ns=0,
            refusals=0,
            forced=False,
            instructions=0,
            save_ns=0,
            mmu_ns=MMU_NS,
            restore_ns=RESTORE_NS,
            ended_ns=told_ns,
            next_began_ns=told_ns + MMU_NS + RESTORE_NS,
        ),
    ]
    assert owner(rig) == 1
    assert rig.platform.calls == ["set_stage2 1", "switch_to 1 Done"]


def test_with_no_next_grant_the_current_one_runs_on(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1, slice_ns=SLICE_NS_MIN)
    rig.clear()
    rig.run(50 * MS)
    assert rig.to_scheduler == []
    assert owner(rig) == 1
    assert rig.platform.contexts[1].instructions * INSTRUCTION_NS >= 50 * MS


def test_overtime_is_charged_to_who_ran_it(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=1 * MS)
    rig.run(30 * MS)
    rig.clear()
    rig.grant(2)
    report = last_report(rig)
    assert (report.planned_ns, report.ran_ns) == (1 * MS, 30 * MS)
    assert report.end == EndReason.SLICE


def test_a_slice_ends_when_it_is_over_and_not_before(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=5 * BURST_NS)
    rig.clear()
    rig.grant(2, slice_ns=1 * MS)
    assert owner(rig) == 1
    assert rig.executor.turn is not None
    began_ns = rig.executor.turn.slice_began_ns
    rig.run(5 * BURST_NS - 1)  # the last burst is done
    ended_ns = began_ns + 5 * BURST_NS
    assert rig.to_scheduler == [
        Report(
            grant=1,
            vcoproc=1,
            next_grant=2,
            next_vcoproc=2,
            end=EndReason.SLICE,
            runnable=True,
            planned_ns=5 * BURST_NS,
            ran_ns=5 * BURST_NS,
            refused_ns=0,
            refusals=0,
            forced=False,
            instructions=5 * BURST_INSTRUCTIONS,
            save_ns=SAVE_NS,
            mmu_ns=MMU_NS,
            restore_ns=RESTORE_NS,
            ended_ns=ended_ns,
            next_began_ns=ended_ns + SAVE_NS + MMU_NS + RESTORE_NS,
        )
    ]
    assert rig.platform.calls == [
        "switch_from 1 Done",
        "set_stage2 2",
        "switch_to 2 Done",
    ]


def test_a_slice_is_late_by_less_than_a_burst(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=2 * BURST_NS + 1)
    rig.grant(2)
    rig.run(5 * BURST_NS)
    assert last_report(rig).ran_ns == 3 * BURST_NS


# --- idling ---------------------------------------------------------------------------------------


def test_an_idle_one_makes_room_at_once(rig: CoreRig) -> None:
    rig.program(1, Compute(100))
    rig.hog(2)
    rig.grant(1, slice_ns=50 * MS)
    rig.grant(2)
    rig.clear()
    rig.step()
    (report,) = rig.to_scheduler
    assert isinstance(report, Report)
    assert (report.vcoproc, report.next_vcoproc) == (1, 2)
    assert (report.end, report.runnable) == (EndReason.IDLE, False)
    assert report.ran_ns == 100 * INSTRUCTION_NS
    assert report.instructions == 100


def test_an_idle_one_stays_if_nobody_is_to_come(rig: CoreRig) -> None:
    rig.program(1, Compute(100))
    rig.grant(1)
    rig.clear()
    rig.settle()
    assert rig.to_scheduler == [Sleep(1, rig.clock.now_ns)]
    assert owner(rig) == 1
    assert not rig.executor.wants_cpu()
    assert rig.executor.next_deadline_ns() is None


def test_an_idle_one_on_the_hardware_resumes_at_once_with_a_new_slice(rig: CoreRig) -> None:
    rig.program(1, Compute(100))
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.settle()
    rig.clock.advance(100 * MS)
    rig.clear()
    woken_ns = rig.clock.now_ns
    rig.hog(1)
    assert rig.to_scheduler == [Wake(1, woken_ns, True)]
    rig.hog(2)
    rig.grant(2)
    assert owner(rig) == 1, "its slice has just begun"
    rig.run(2 * BURST_NS - 1)
    report = last_report(rig)
    assert (report.vcoproc, report.end, report.runnable) == (1, EndReason.SLICE, True)
    assert report.ended_ns == woken_ns + 2 * BURST_NS
    assert report.ran_ns == 100 * INSTRUCTION_NS + 2 * BURST_NS, "the sleep is not in it"


def test_a_grant_for_another_takes_the_hardware_from_an_idle_one(rig: CoreRig) -> None:
    rig.program(1, Compute(100))
    rig.hog(2)
    rig.grant(1, slice_ns=100 * MS)
    rig.settle()
    rig.clear()
    rig.grant(2)
    report = last_report(rig)
    assert (report.vcoproc, report.end, report.runnable) == (1, EndReason.IDLE, False)
    assert rig.to_scheduler == [report]
    assert owner(rig) == 2


# --- other ends -----------------------------------------------------------------------------------


def test_now_does_not_wait_for_the_end_of_the_slice(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=100 * MS)
    rig.run(BURST_NS)
    rig.grant(2, now=True)
    report = last_report(rig)
    assert (report.end, report.runnable) == (EndReason.PREEMPTED, True)
    assert report.ran_ns == BURST_NS


def test_a_yield_makes_room_for_the_next_one(rig: CoreRig) -> None:
    rig.program(1, Compute(100), Yield(), Forever())
    rig.hog(2)
    rig.grant(1, slice_ns=100 * MS)
    rig.grant(2)
    rig.step()
    report = last_report(rig)
    assert (report.end, report.runnable) == (EndReason.YIELD, True)
    assert report.ran_ns == 100 * INSTRUCTION_NS
    assert owner(rig) == 2


def test_a_yield_to_nobody_changes_nothing(rig: CoreRig) -> None:
    rig.program(1, Compute(100), Yield(), Forever())
    rig.grant(1)
    rig.clear()
    rig.run(1 * MS)
    assert rig.to_scheduler == []
    assert owner(rig) == 1


def test_a_yield_to_one_that_fell_asleep_changes_nothing_but_the_grant(rig: CoreRig) -> None:
    rig.program(1, Compute(100), Yield(), Forever())
    rig.hog(2)
    rig.grant(1)
    rig.grant(2, slice_ns=1 * MS)
    rig.write(2, "CONTROL", 0)
    rig.clear()
    rig.step()
    assert rig.to_scheduler == [GrantDropped(2, 2, "NOT_RUNNABLE", rig.clock.now_ns)]
    assert rig.platform.calls == [], "nobody was asked to leave"
    assert rig.executor.wants_cpu()


def test_a_yield_of_one_that_has_the_next_slice_too_changes_nothing(rig: CoreRig) -> None:
    rig.program(1, Compute(100), Yield(), Forever())
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.clear()
    rig.step()
    assert rig.to_scheduler == []


@pytest.mark.parametrize("next_held", [True, False])
def test_a_fault_is_told_and_the_next_one_comes(rig: CoreRig, next_held: bool) -> None:
    rig.program(1, Compute(50), Crash(code=2, address=0x77))
    rig.hog(2)
    rig.grant(1)
    if next_held:
        rig.grant(2)
    rig.clear()
    rig.step()
    faulted, *rest = rig.to_scheduler
    assert isinstance(faulted, Faulted)
    assert (faulted.vcoproc, faulted.code, faulted.address) == (1, 2, 0x77)
    assert faulted.why
    assert [(fault.vcoproc_id, fault.code) for fault in rig.faults] == [(1, 2)]
    if not next_held:
        assert rest == []
        assert not rig.executor.wants_cpu()
        rig.grant(2)
    report = last_report(rig)
    assert (report.vcoproc, report.end, report.runnable) == (1, EndReason.FAULT, False)
    assert report.ran_ns == 50 * INSTRUCTION_NS
    assert owner(rig) == 2


def test_a_faulted_one_on_the_hardware_runs_again_after_a_reset(rig: CoreRig) -> None:
    rig.program(1, Crash())
    rig.grant(1)
    rig.settle()
    rig.clear()
    rig.write(1, "DOORBELL", job(1))
    assert rig.to_scheduler == [], "it hears nothing before the reset"
    rig.write(1, "CONTROL", 0)
    rig.write(1, "CONTROL", 1)
    rig.write(1, "DOORBELL", job(1))
    assert rig.to_scheduler == [Wake(1, rig.clock.now_ns, True)]
    rig.settle()
    assert rig.value(1, "DONE") == 1


# --- renewal, replacing, revoking -----------------------------------------------------------------


def test_a_grant_for_the_current_one_is_a_new_slice_without_a_switch(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.grant(1, slice_ns=3 * BURST_NS)
    rig.clear()
    assert rig.executor.turn is not None
    began_ns = rig.executor.turn.slice_began_ns
    rig.run(2 * BURST_NS - 1)
    report = last_report(rig)
    assert rig.to_scheduler == [report]
    assert (report.grant, report.vcoproc) == (1, 1)
    assert (report.next_grant, report.next_vcoproc) == (2, 1)
    assert (report.end, report.runnable) == (EndReason.SLICE, True)
    assert report.ended_ns == report.next_began_ns == began_ns + 2 * BURST_NS
    assert (report.save_ns, report.mmu_ns, report.restore_ns) == (0, 0, 0)
    assert rig.platform.calls == []
    rig.grant(2)
    rig.run(3 * BURST_NS - 1)
    second = last_report(rig)
    assert (second.grant, second.planned_ns, second.ran_ns) == (2, 3 * BURST_NS, 3 * BURST_NS)
    assert second.instructions == 3 * BURST_INSTRUCTIONS, "only its own"


def test_a_grant_for_the_current_one_now(rig: CoreRig) -> None:
    """Also in the very round in which its turn began: no time is negative."""
    rig.hog(1)
    rig.grant(1, slice_ns=100 * MS)
    rig.grant(1, now=True)
    report = last_report(rig)
    assert (report.grant, report.next_grant, report.end) == (1, 2, EndReason.SLICE)
    assert report.ran_ns == 0


def test_a_new_grant_replaces_the_one_that_has_not_begun(rig: CoreRig) -> None:
    rig.hog(1, 2, 3)
    rig.grant(1)
    rig.clear()
    rig.grant(2)
    rig.grant(3)
    rig.run(2 * MS)
    assert [report.next_vcoproc for report in rig.said(Report)] == [3]
    assert rig.said(GrantDropped) == []


def test_a_replaced_grant_does_not_begin_even_if_the_new_one_cannot(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    rig.clear()
    rig.grant(2)
    number = rig.grant(3)
    assert rig.to_scheduler == [GrantDropped(number, 3, "NOT_RUNNABLE", rig.clock.now_ns)]
    rig.run(5 * MS)
    assert owner(rig) == 1


def test_a_revoked_grant_does_not_begin(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    number = rig.grant(2)
    rig.clear()
    rig.revoke(number - 1)  # that one has begun
    rig.revoke(99)  # nobody knows it
    assert owner(rig) == 1
    rig.revoke(number)
    rig.run(5 * MS)
    assert owner(rig) == 1
    assert rig.to_scheduler == []


# --- grants that come to nothing ------------------------------------------------------------------


def test_a_grant_for_one_that_is_not_there(rig: CoreRig) -> None:
    rig.grant(77)
    assert rig.to_scheduler == [GrantDropped(1, 77, "NOT_FOUND", rig.clock.now_ns)]


def test_a_grant_for_one_that_sleeps(rig: CoreRig) -> None:
    rig.grant(1)
    assert rig.to_scheduler == [GrantDropped(1, 1, "NOT_RUNNABLE", rig.clock.now_ns)]
    assert rig.platform.calls == []


def test_a_grant_for_the_idle_one_on_the_hardware(rig: CoreRig) -> None:
    rig.program(1, Compute(1))
    rig.grant(1)
    rig.settle()
    rig.clear()
    rig.grant(1)
    assert rig.to_scheduler == [GrantDropped(2, 1, "NOT_RUNNABLE", rig.clock.now_ns)]
    rig.clear()
    rig.hog(1)
    assert rig.to_scheduler == [Wake(1, rig.clock.now_ns, True)]


def test_a_grant_whose_vcoproc_fell_asleep_while_it_waited(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.grant(2)
    rig.write(2, "CONTROL", 0)
    rig.clear()
    rig.run(5 * BURST_NS)
    (dropped,) = rig.to_scheduler
    assert isinstance(dropped, GrantDropped)
    assert (dropped.grant, dropped.vcoproc, dropped.why) == (2, 2, "NOT_RUNNABLE")
    assert owner(rig) == 1 and rig.executor.wants_cpu()
    rig.clear()
    rig.write(2, "CONTROL", 1)
    rig.hog(2)
    assert rig.to_scheduler == [Wake(2, rig.clock.now_ns, False)], "a wake is news again"


def test_a_faulted_one_cannot_be_granted(rig: CoreRig) -> None:
    rig.program(1, Crash())
    rig.hog(2)
    rig.grant(1)
    rig.grant(2)
    rig.step()
    rig.clear()
    rig.grant(1)
    assert rig.to_scheduler == [GrantDropped(3, 1, "NOT_RUNNABLE", rig.clock.now_ns)]


# --- timers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [True, False], ids=["out", "on"])
def test_a_timer_wakes_its_vcoproc_wherever_it_is(rig: CoreRig, out: bool) -> None:
    rig.program(1, Compute(100), Timer(700 * US), Forever())
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    slept_ns = rig.clock.now_ns
    if out:
        rig.grant(2)
    rig.clear()
    assert rig.executor.next_deadline_ns() == slept_ns + 700 * US
    rig.run(700 * US + BURST_NS)
    (wake,) = rig.said(Wake)
    assert (wake.vcoproc, wake.resumed) == (1, not out)
    assert slept_ns + 700 * US <= wake.clock_ns <= slept_ns + 700 * US + BURST_NS


def test_a_timer_that_was_overtaken_by_a_doorbell_still_expires(rig: CoreRig) -> None:
    rig.program(1, Timer(700 * US), Compute(1), Timer(700 * US), Forever())
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.grant(2, now=True)
    rig.write(1, "DOORBELL", job(1))
    rig.grant(1, now=True)
    rig.clear()
    rig.run(2 * MS)
    assert [wake.resumed for wake in rig.said(Wake)] == [True, True]
    assert rig.executor.wants_cpu()


def test_a_timer_that_has_been_heard_wakes_nobody_again(rig: CoreRig) -> None:
    rig.program(1, Timer(700 * US), Compute(1), Timer(900 * MS))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.run(800 * US)
    rig.grant(2)
    rig.clear()
    rig.write(1, "IRQ_ENABLE", 1)
    rig.run(50 * MS)
    assert rig.to_scheduler == []
    assert not rig.vcoproc(1).told_runnable


# --- times ----------------------------------------------------------------------------------------


def test_the_times_of_reports_add_up_exactly(rig: CoreRig) -> None:
    """Each nanosecond belongs to a turn, a refusal, a phase of a switch, or a sleep."""
    began_ns = rig.clock.now_ns
    rig.hog(1, 2)
    naps: list[Op] = [op for _ in range(40) for op in (Compute(5_000), Timer(130 * US))]
    rig.program(3, *naps)
    rig.platform.leave_rule = _sometimes_busy()
    rig.grant(1)
    for round_ in range(120):
        rig.run((37 + 61 * (round_ % 7)) * US)
        rig.grant(1 + round_ % 3, slice_ns=(100 + 50 * (round_ % 4)) * US)
    rig.run(20 * MS)
    reports, slept_ns = rig.said(Report), _sleeps(rig.to_scheduler)
    assert len(reports) > 50
    assert {report.end for report in reports} >= {EndReason.SLICE, EndReason.IDLE}
    assert sum(report.refusals for report in reports) > 10
    assert reports[0].ended_ns == began_ns
    previous = reports[0]
    for report in reports[1:]:
        assert report.vcoproc == previous.next_vcoproc
        assert report.grant == previous.next_grant
        held_ns = report.ended_ns + report.refused_ns - previous.next_began_ns
        if report.end == EndReason.IDLE:
            held_ns -= report.refused_ns  # it was idle while it refused
        assert report.ran_ns == held_ns - slept_ns.get(report.grant, 0)
        if report.next_vcoproc:
            phases_ns = report.save_ns + report.mmu_ns + report.restore_ns
            assert report.next_began_ns == report.ended_ns + report.refused_ns + phases_ns
        previous = report
    total = {
        vcoproc: sum(report.instructions for report in reports if report.vcoproc == vcoproc)
        for vcoproc in (1, 2, 3)
    }
    turn = rig.executor.turn
    assert turn is not None
    total[turn.vcoproc.id] += turn.instructions
    assert total == {
        number: context.instructions for number, context in rig.platform.contexts.items()
    }


def _sometimes_busy() -> Callable[[int], SwitchResult]:
    asked = 0

    def rule(_vcoproc: int) -> SwitchResult:
        nonlocal asked
        asked += 1
        return Busy(7 * US) if asked % 3 else Done()

    return rule


def _sleeps(messages: list[Message]) -> dict[int, int]:
    """Time that each turn slept on the hardware, by its grant: from Sleep to Wake or the end."""
    slept: dict[int, int] = {}
    since_ns: int | None = None
    for message in messages:
        if isinstance(message, Sleep):
            since_ns = message.clock_ns
        elif isinstance(message, Wake) and message.resumed and since_ns is not None:
            slept[0] = slept.get(0, 0) + message.clock_ns - since_ns
            since_ns = None
        elif isinstance(message, Report):
            if since_ns is not None:
                slept[0] = slept.get(0, 0) + message.ended_ns - since_ns
                since_ns = None
            slept[message.grant] = slept.pop(0, 0)
    return slept


def test_the_phases_are_not_taken_from_the_slice_of_the_next_one() -> None:
    rig = CoreRig(costs=Costs(INSTRUCTION_NS, 0, 5 * MS, 3 * MS, 4 * MS))
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1, slice_ns=2 * BURST_NS)
    rig.grant(2, slice_ns=2 * BURST_NS)
    rig.step()
    rig.step()
    assert owner(rig) == 2
    rig.clear()
    rig.grant(1, slice_ns=2 * BURST_NS)
    assert owner(rig) == 2
    rig.step()
    rig.step()
    assert last_report(rig).ran_ns == 2 * BURST_NS


def test_the_bound_of_a_grant_is_not_beyond_that_of_the_system() -> None:
    """Grants come from another process; a bound of centuries is one of half a second."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1)
    rig.platform.leave_rule = lambda _vcoproc: Busy(1 * MS)
    rig.executor.grant(Grant(2, 2, 1 * MS, True, (1 << 64) - 1))
    rig.run(SWITCH_DEADLINE_NS + 10 * MS)
    assert rig.said(Report)[-1].forced
