"""The bugs of the Xen framework of 2016 to 2019 that this one continues: none of them is here.

Each test is named by what went wrong there. What concerns policies, configuration and the router is
tested with them.
"""

from __future__ import annotations

import pytest

from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    LineEdge,
    LineLevel,
    Post,
    Read,
    Reply,
    Report,
    TrapError,
    Wake,
    Write,
)
from vcoproc_sim.executor import BURST_INSTRUCTIONS
from vcoproc_sim.platforms.api import Busy, Failed
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    CTRL,
    EVENT_LINE,
    IRQ_LINE,
    Compute,
    Costs,
    Pulse,
    Raise,
    Yield,
    job,
)


@pytest.fixture
def rig() -> CoreRig:
    """Vcoproc 1 on the hardware, 2 waiting, both for ever."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1)
    rig.clear()
    return rig


def test_a_wake_that_comes_while_going_to_sleep_is_lost() -> None:
    """schedule.c: "What to do if we came with state ASKED_TO_SLEEP?" """
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Compute(10))
    rig.hog(2)
    rig.grant(1)
    rig.settle()  # it sleeps
    rig.platform.leave_script.append(Busy(50 * US))
    rig.grant(2)  # and is asked to go
    assert rig.executor.phase is Phase.LEAVING
    rig.write(1, "DOORBELL", job(3))
    rig.run(100 * US)
    assert rig.platform.owner == 2
    assert rig.said(Report)[-1].runnable or [wake.vcoproc for wake in rig.said(Wake)][-1] == 1
    rig.grant(1, now=True)
    rig.run(1 * MS)
    assert rig.value(1, "DONE") == 1


def test_a_register_read_while_waiting_gives_another_domains_value(rig: CoreRig) -> None:
    """It returned whatever the hardware had, which was the running domain's."""
    rig.write(1, "IRQ_ENABLE", 0x11)
    rig.write(2, "IRQ_ENABLE", 0x22)
    for vcoproc_id in (2, 1, 2):
        rig.grant(vcoproc_id, now=True)
        assert rig.value(1, "IRQ_ENABLE") == 0x11
        assert rig.value(2, "IRQ_ENABLE") == 0x22


def test_a_write_while_waiting_reaches_the_running_domain(rig: CoreRig) -> None:
    rig.write(2, "CONTROL", 0)
    rig.write(2, "DOORBELL", job(1))
    assert rig.executor.wants_cpu(), "the other one was not reset"
    assert rig.platform.contexts[1].rung == []


def test_an_interrupt_in_waiting_is_dropped() -> None:
    """And the one it was raised for never heard of it, or everybody did."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.program(1, Raise(1), Pulse())
    rig.hog(2)
    rig.grant(1)
    rig.grant(2)
    rig.step()
    rig.platform._edges.append(EVENT_LINE)  # of the one that still has the hardware
    rig.run(1 * MS)
    assert rig.platform.owner == 2
    assert [(each.vcoproc, each.line, each.high) for each in rig.said(LineLevel)] == [
        (1, IRQ_LINE, True)
    ]
    assert [each.vcoproc for each in rig.said(LineEdge)] == [1, 1]
    assert rig.executor.line_syncs()[0].high_mask == 1 << IRQ_LINE


def test_a_failure_to_stop_is_reported_as_success(rig: CoreRig) -> None:
    """One int meant done, wait and dead; negative became zero became done."""
    rig.platform.leave_script.append(Failed("half-stopped"))
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.FAILED
    assert rig.platform.owner is None, "it was not simply put on top"
    assert "switch_to 2 Done" not in rig.platform.calls
    assert [fault.vcoproc_id for fault in rig.faults] == [0]


@pytest.mark.parametrize("where", ["leave_script", "enter_script"])
def test_one_failing_device_takes_everything_down(rig: CoreRig, where: str) -> None:
    """panic() of the host. Now it is one coproc's state, and its calls still work."""
    getattr(rig.platform, where).append(Failed("dead"))
    rig.grant(2, now=True)
    assert {fault.vcoproc for fault in rig.said(Faulted)} == {1, 2}
    rig.run(10 * MS)
    assert rig.value(2, "ID") == 0x454B_4146
    rig.detach(1)
    rig.detach(2)


def test_the_next_one_asleep_while_the_current_one_is_half_stopped(rig: CoreRig) -> None:
    rig.platform.leave_script.append(Busy(100 * US))
    rig.grant(2, now=True)
    rig.write(2, "CONTROL", 0)
    rig.run(1 * MS)
    assert rig.platform.owner == 1 and rig.executor.wants_cpu()
    assert rig.platform.calls == ["switch_from 1 Busy", "cancel_switch 1"]
    assert [dropped.why for dropped in rig.said(GrantDropped)] == ["NOT_RUNNABLE"]


def test_the_switch_is_taken_from_the_slice_of_the_next_one() -> None:
    slice_ns = 4 * BURST_INSTRUCTIONS
    rig = CoreRig(costs=Costs(instruction_ns=1, save_ns=2 * MS, mmu_ns=1 * MS, restore_ns=2 * MS))
    rig.attach(1, 2)
    rig.hog(1, 2)
    for vcoproc_id in (1, 2, 1, 2, 1, 2):
        rig.grant(vcoproc_id, slice_ns=slice_ns)
        rig.run(slice_ns)
    assert {report.ran_ns for report in rig.said(Report)[1:]} == {slice_ns}
    assert {context.instructions for context in rig.platform.contexts.values()} == {3 * slice_ns}


def test_refusing_for_ever(rig: CoreRig) -> None:
    """The reference driver there could say "wait" as often as it liked."""
    rig.platform.leave_rule = lambda _vcoproc_id: Busy(500 * MS)
    told_ns = rig.clock.now_ns
    rig.grant(2, now=True)
    rig.run(SWITCH_DEADLINE_NS + 1 * MS)
    assert rig.platform.owner == 2
    report = rig.said(Report)[-1]
    assert report.forced and report.next_began_ns - told_ns <= SWITCH_DEADLINE_NS + 1 * MS


def test_a_restore_that_wants_to_wait(rig: CoreRig) -> None:
    """ctx_switch_to could not say so; BUG()."""
    rig.platform.enter_script.append(Busy(200 * US))
    rig.grant(2, now=True)
    rig.run(1 * MS)
    assert rig.platform.owner == 2


def test_a_wait_of_milliseconds_is_taken_for_nanoseconds(rig: CoreRig) -> None:
    """One value there had three units. Here it is asked again after exactly what it said."""
    rig.platform.leave_script.append(Busy(2 * MS))
    rig.grant(2, now=True)
    rig.run(2 * MS - 200 * US)
    assert rig.platform.calls.count("switch_from 1 Busy") == 1
    rig.run(400 * US)
    assert rig.platform.owner == 2


@pytest.mark.parametrize("vcoproc_id", [1, 2], ids=["on", "out"])
def test_an_unexpected_write_of_a_guest_stops_the_host(rig: CoreRig, vcoproc_id: int) -> None:
    """BUG() on a register or a value that the driver did not know."""
    for message in (
        Write(CTRL, 0xFFC, 4, 0xDEAD),
        Write(CTRL, 0x08, 4, 0xFFFF_FFFF),
        Write(0xFF, 0, 4, 0),
        Post(CTRL, 0x00, 4, 1),
        Read(CTRL, 0x02, 1),
    ):
        answer = rig.answer(rig.send(vcoproc_id, message))
        assert isinstance(answer, Reply | TrapError)
    rig.run(5 * MS)
    assert rig.executor.failure == ""


def test_destroying_a_running_one_waits_without_bound(rig: CoreRig) -> None:
    """-EBUSY, -ERESTART, and again."""
    rig.platform.leave_rule = lambda _vcoproc_id: Busy(1 * MS)
    rig.detach(1, deadline_ns=10 * MS)
    rig.run(11 * MS)
    assert rig.gone == {1: [True]}


def test_an_instance_is_destroyed_while_it_is_still_scheduled(rig: CoreRig) -> None:
    """d2abf98c10 freed a scheduled coproc; the fake asserts that none is on the hardware."""
    rig.grant(2)
    rig.detach(1)
    rig.detach(2)
    assert rig.executor.phase is Phase.EMPTY
    assert not rig.platform.contexts


def test_a_yield_is_a_hook_that_nobody_uses(rig: CoreRig) -> None:
    rig.platform.contexts[1].program.appendleft(Yield())
    rig.grant(2)
    rig.step()
    assert rig.said(Report)[-1].end == EndReason.YIELD
    assert rig.platform.owner == 2


def test_a_doorbell_in_waiting_is_counted_and_not_ordered(rig: CoreRig) -> None:
    """gx6xxx kept a count; what was written with it was gone."""
    values = [job(1, tag=tag) for tag in (7, 9, 8, 7)]
    for value in values:
        rig.post(2, "DOORBELL", value)
    rig.grant(2, now=True)
    assert rig.platform.contexts[2].rung == values
