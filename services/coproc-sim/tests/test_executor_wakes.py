"""No wake, no doorbell and no interrupt is lost, whatever the executor is doing when it comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vcoproc.limits import MS, US
from vcoproc.wire.messages import (
    EndReason,
    GrantDropped,
    LineEdge,
    LineLevel,
    LineSync,
    Register,
    Report,
    Sleep,
    Wake,
)
from vcoproc_sim.platforms.api import Busy
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    EVENT_LINE,
    FAULT_LINE,
    IRQ_LINE,
    Compute,
    Crash,
    Forever,
    Pulse,
    Raise,
    Then,
    Timer,
    job,
)

JOB = job(2, tag=5)


def believed(rig: CoreRig) -> set[int]:
    """Who wants to run, as a scheduler that listens must believe."""
    awake: set[int] = set()
    for message in rig.to_scheduler:
        match message:
            case Wake():
                awake.add(message.vcoproc)
            case Sleep():
                awake.discard(message.vcoproc)
            case GrantDropped():
                turn = rig.executor.turn
                if turn is None or turn.vcoproc.id != message.vcoproc:
                    awake.discard(message.vcoproc)
            case Report():
                awake.discard(message.vcoproc)
                if message.runnable:
                    awake.add(message.vcoproc)
                if message.next_vcoproc:
                    awake.add(message.next_vcoproc)
    return awake


# --- the moment at which the doorbell of vcoproc 1 rings ------------------------------------------


def _new(rig: CoreRig) -> None:
    rig.attach(1, 2)


def _running(rig: CoreRig) -> None:
    _new(rig)
    rig.program(1, Compute(10_000))
    rig.grant(1)


def _idle_on_hardware(rig: CoreRig) -> None:
    _running(rig)
    rig.settle()


def _told_to_leave_while_idle(rig: CoreRig) -> None:
    _idle_on_hardware(rig)
    rig.hog(2)
    rig.platform.leave_script.append(Busy(50 * US))
    rig.grant(2)
    assert rig.executor.phase is Phase.LEAVING


def _told_to_leave_while_running(rig: CoreRig) -> None:
    _running(rig)
    rig.hog(2)
    rig.platform.leave_script.append(Busy(5 * US))
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.LEAVING


def _half_stopped_and_idle(rig: CoreRig) -> None:
    """It fell asleep after it was told to leave: the ancestor's ASKED_TO_SLEEP."""
    _told_to_leave_while_running(rig)
    rig.platform.leave_script.append(Busy(500 * US))
    rig.run(200 * US)
    assert rig.executor.phase is Phase.LEAVING and not rig.executor.wants_cpu()


def _just_left(rig: CoreRig) -> None:
    _idle_on_hardware(rig)
    rig.hog(2)
    rig.platform.enter_script.append(Busy(50 * US))
    rig.grant(2)
    assert rig.executor.phase is Phase.ENTERING


def _out(rig: CoreRig) -> None:
    _idle_on_hardware(rig)
    rig.hog(2)
    rig.grant(2)


def _being_entered(rig: CoreRig) -> None:
    _new(rig)
    rig.hog(1)
    rig.platform.enter_script.append(Busy(50 * US))
    rig.grant(1)


def _granted(rig: CoreRig) -> None:
    _new(rig)
    rig.hog(1, 2)
    rig.grant(2)
    rig.grant(1)


def _grant_came_to_nothing(rig: CoreRig) -> None:
    _out(rig)
    rig.grant(1)
    assert rig.said(GrantDropped)


def _a_timer_runs(rig: CoreRig) -> None:
    _new(rig)
    rig.program(1, Timer(300 * US))
    rig.grant(1)
    rig.settle()
    rig.hog(2)
    rig.grant(2)


MOMENTS: list[Callable[[CoreRig], None]] = [
    _new, _running, _idle_on_hardware, _told_to_leave_while_idle, _told_to_leave_while_running,
    _half_stopped_and_idle, _just_left, _out, _being_entered, _granted, _grant_came_to_nothing,
    _a_timer_runs,
]  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda call: call.__name__[1:])
def test_a_doorbell_is_heard_whenever_it_rings(moment: Callable[[CoreRig], None]) -> None:
    rig = CoreRig()
    moment(rig)
    rig.write(1, "DOORBELL", JOB)
    # A scheduler that knows only what it was told gives everybody who wants it the hardware.
    for _ in range(40):
        rig.run(100 * US)
        awake = believed(rig)
        turn = rig.executor.turn
        current = turn.vcoproc.id if turn is not None else 0
        if rig.executor.phase in (Phase.EMPTY, Phase.RESIDENT):
            for vcoproc_id in sorted(awake - {current}):
                rig.grant(vcoproc_id, slice_ns=100 * US)
        if rig.platform.contexts[1].rung == [JOB]:
            break
    else:
        pytest.fail("nobody heard it")
    if not any(isinstance(op, Forever) for op in rig.platform.contexts[1].program):
        rig.run(2 * MS)
        for _ in range(10):
            rig.grant(1, slice_ns=100 * US, now=True)
            rig.run(200 * US)
        index = rig.platform.info.index_of["DONE"]
        context = rig.platform.contexts[1]
        live = context.live if rig.platform.owner == 1 else context.spec.shadow
        assert live[index] == 1
    assert rig.platform.contexts[1].rung == [JOB], "heard once"


def test_waking_often_says_so_once() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(2)
    rig.grant(2)
    rig.clear()
    for _ in range(50):
        rig.write(1, "DOORBELL", JOB)
        rig.write(1, "IRQ_ENABLE", 1)
    assert len(rig.said(Wake)) == 1


def test_a_write_to_a_running_one_wakes_nobody() -> None:
    rig = CoreRig()
    rig.attach(1)
    rig.hog(1)
    rig.grant(1)
    rig.clear()
    rig.write(1, "DOORBELL", JOB)
    assert rig.to_scheduler == []


# --- lines ----------------------------------------------------------------------------------------


def levels(rig: CoreRig) -> list[tuple[int, int, bool]]:
    return [(each.vcoproc, each.line, each.high) for each in rig.said(LineLevel)]


def test_a_level_follows_the_hardware_and_the_shadow() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(0b101), Compute(10))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    assert levels(rig) == [(1, IRQ_LINE, True)]
    rig.write(1, "IRQ_STATUS", 0b001)  # only bit 0 is enabled
    assert levels(rig)[1:] == [(1, IRQ_LINE, False)]
    rig.write(1, "IRQ_ENABLE", 0b100)
    assert levels(rig)[2:] == [(1, IRQ_LINE, True)]
    rig.grant(2)
    assert levels(rig)[3:] == [], "leaving the hardware changes nothing"


def test_clearing_the_cause_lowers_the_line_while_switched_out() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(1))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    rig.clear()
    rig.write(1, "IRQ_STATUS", 1)
    assert levels(rig) == [(1, IRQ_LINE, False)]
    # Also by masking it, and the mask is what counts, not the cause.
    rig.write(1, "IRQ_ENABLE", 0)
    assert levels(rig) == [(1, IRQ_LINE, False)]


def test_unmasking_raises_the_line_while_switched_out() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(2))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    assert levels(rig) == []
    rig.write(1, "IRQ_ENABLE", 2)
    assert levels(rig) == [(1, IRQ_LINE, True)]
    assert rig.to_router[-1].epoch == rig.executor.switch_count == 2  # type: ignore[attr-defined]


def test_an_interrupt_of_a_switched_out_one_stays_its_own() -> None:
    """It rose in its turn and is still high when the next one runs."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(1), Pulse(), Compute(10))
    rig.program(2, Compute(10))
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    rig.settle()
    rig.grant(1)
    assert levels(rig) == [(1, IRQ_LINE, True)], "said once, and never for the other one"
    assert [(edge.vcoproc, edge.line) for edge in rig.said(LineEdge)] == [(1, EVENT_LINE)]
    assert {message.epoch for message in rig.to_router} == {1}  # type: ignore[attr-defined]


def test_an_edge_between_the_last_burst_and_the_save_belongs_to_the_one_that_left() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1)
    rig.clear()
    rig.platform._edges.append(EVENT_LINE)
    rig.grant(2, now=True)
    assert [(edge.vcoproc, edge.line, edge.epoch) for edge in rig.said(LineEdge)] == [
        (1, EVENT_LINE, 1)
    ]


def test_an_edge_that_a_drivers_write_makes_is_said_at_once() -> None:
    """Also when the one on the hardware is idle, so that no burst would find it."""
    rig = CoreRig()
    rig.attach(1)
    rig.program(1, Compute(1))
    rig.grant(1)
    rig.settle()
    real = rig.platform.write

    def write(index: int, value: int) -> None:
        real(index, value)
        rig.platform._edges.append(EVENT_LINE)

    rig.platform.write = write  # type: ignore[method-assign]
    rig.write(1, "BYTE", 1)
    assert [edge.vcoproc for edge in rig.said(LineEdge)] == [1]


def test_every_pulse_of_a_burst_is_said() -> None:
    rig = CoreRig()
    rig.attach(1)
    rig.program(1, Pulse(), Pulse(), Compute(10), Pulse())
    rig.grant(1)
    rig.settle()
    assert len(rig.said(LineEdge)) == 3 == rig.platform.pulse_count


def test_a_fault_raises_its_line_before_anybody_else_runs() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Crash(code=4))
    rig.hog(2)
    rig.grant(1)
    rig.grant(2)
    rig.step()
    assert levels(rig) == [(1, FAULT_LINE, True)]
    assert rig.said(LineLevel)[0].epoch == 1
    rig.write(1, "FAULT_STATUS", 4)
    assert levels(rig)[-1] == (1, FAULT_LINE, False)


def test_the_router_is_told_all_levels_after_a_welcome() -> None:
    rig = CoreRig()
    rig.attach(1, 2, 3)
    rig.program(1, Raise(1))
    rig.program(2, Raise(1), Crash())
    rig.hog(3)
    for vcoproc_id in (1, 2, 3):
        rig.grant(vcoproc_id)
        rig.step()
        rig.step()
    assert rig.executor.line_syncs() == [
        LineSync(1, 1 << IRQ_LINE, 3),
        LineSync(2, 1 << IRQ_LINE | 1 << FAULT_LINE, 3),
        LineSync(3, 0, 3),
    ]


def test_a_level_is_said_again_when_the_router_asks() -> None:
    """At EOI: what the driver cleared on another connection may not have arrived there."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(1))
    rig.hog(2)
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    rig.clear()
    rig.executor.resample(1, IRQ_LINE)
    rig.executor.resample(2, IRQ_LINE)
    rig.executor.resample(1, EVENT_LINE)
    rig.executor.resample(1, 31)
    rig.executor.resample(9, IRQ_LINE)
    rig.collect()
    assert levels(rig) == [(1, IRQ_LINE, True), (2, IRQ_LINE, False)]


# --- registering ----------------------------------------------------------------------------------


def test_a_register_says_what_holds_now() -> None:
    rig = CoreRig()
    rig.attach(1, 2, 3, 4)
    rig.program(2, Crash())
    rig.hog(1, 3)
    rig.grant(2)
    rig.settle()
    rig.grant(1)
    register = rig.executor.register_message()
    assert register == Register(
        "dsp0",
        rig.clock.now_ns,
        1,
        ((1, True, False), (2, False, True), (3, True, False), (4, False, False)),
    )


def test_after_a_register_a_wake_is_told_again() -> None:
    """What was told to a scheduler before it was lost counts no more."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(10))
    rig.grant(1)
    rig.settle()
    rig.hog(2)
    rig.clear()
    register = rig.executor.register_message()
    assert register.vcoprocs == ((1, False, False), (2, True, False))
    rig.hog(1)
    assert rig.to_scheduler == [Wake(1, rig.clock.now_ns, True)]


def test_a_register_forgets_the_grants_of_before() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1, slice_ns=100 * US)
    rig.grant(2)
    rig.executor.register_message()
    rig.clear()
    rig.run(5 * MS)
    assert rig.platform.owner == 1
    assert rig.to_scheduler == []


def test_a_register_undoes_a_switch_under_way() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    assert rig.executor.register_message().current == 1
    rig.collect()
    assert rig.executor.phase is Phase.RESIDENT
    assert rig.platform.asked is None


def test_a_register_does_not_save_one_that_is_destroyed() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(100 * US))
    rig.detach(1)
    register = rig.executor.register_message()
    assert (register.current, register.vcoprocs[0]) == (1, (1, False, False))
    rig.clear()
    rig.run(300 * US)
    assert rig.gone == {1: [False]}
    (report,) = rig.to_scheduler
    assert isinstance(report, Report)
    assert (report.vcoproc, report.end, report.next_vcoproc) == (1, EndReason.REMOVED, 0)


def test_a_job_with_a_timer_comes_to_its_end_with_only_wakes_to_go_by() -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(2)
    rig.grant(2, slice_ns=100 * US)
    rig.write(1, "DOORBELL", job(100, Then.TIMER))
    for _ in range(100):
        if 1 in believed(rig) and rig.platform.owner != 1:
            rig.grant(1, slice_ns=100 * US)
        elif rig.platform.owner != 2:
            rig.grant(2, slice_ns=100 * US)
        rig.run(50 * US)
    assert rig.value(1, "DONE") == 1
