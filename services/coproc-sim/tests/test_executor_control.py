"""The executor: vcoprocs that come and go."""

from __future__ import annotations

import pytest

from vcoproc.errors import AlreadyExists, LimitExceeded, NotFound
from vcoproc.limits import MS, US
from vcoproc.wire.messages import EndReason, GrantDropped, Report, Wake
from vcoproc_sim.platforms.api import Busy
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, job, make_spec


@pytest.fixture
def rig() -> CoreRig:
    rig = CoreRig(contexts_max=3)
    rig.attach(1, 2)
    rig.clear()
    return rig


def test_a_number_is_given_once(rig: CoreRig) -> None:
    with pytest.raises(AlreadyExists):
        rig.attach(1)
    assert set(rig.executor.vcoprocs) == {1, 2}


def test_a_platform_holds_only_so_many(rig: CoreRig) -> None:
    rig.attach(3)
    with pytest.raises(LimitExceeded):
        rig.attach(4)
    rig.detach(2)
    rig.attach(4)
    assert set(rig.platform.contexts) == {1, 3, 4}


def test_a_context_that_cannot_be_made_leaves_nothing(rig: CoreRig) -> None:
    def refuse(_spec: object) -> None:
        raise LimitExceeded("memory", 1)

    rig.platform.create_context = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(LimitExceeded):
        rig.executor.attach(3, "v3", make_spec(3, rig.platform.info))
    assert set(rig.executor.vcoprocs) == {1, 2}


def test_one_that_is_not_there_cannot_be_destroyed(rig: CoreRig) -> None:
    with pytest.raises(NotFound):
        rig.detach(9)


def test_a_new_one_sleeps_until_its_driver_wants_something(rig: CoreRig) -> None:
    assert rig.to_scheduler == []
    rig.write(1, "DOORBELL", job(1))
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]


def test_destroying_one_that_is_out_is_done_at_once(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    rig.clear()
    rig.detach(2)
    assert rig.gone == {2: [False]}
    assert set(rig.platform.contexts) == {1}
    assert rig.to_scheduler == [], "the scheduler hears it from control"
    assert rig.platform.owner == 1


def test_destroying_the_next_one(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    number = rig.grant(2)
    rig.clear()
    rig.detach(2)
    assert rig.to_scheduler == [GrantDropped(number, 2, "REMOVED", rig.clock.now_ns)]
    rig.run(5 * MS)
    assert rig.platform.owner == 1


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("next_held", [False, True])
def test_destroying_the_one_on_the_hardware(rig: CoreRig, idle: bool, next_held: bool) -> None:
    if idle:
        rig.program(1, Compute(10))
    else:
        rig.hog(1)
    rig.hog(2)
    rig.grant(1, slice_ns=100 * MS)
    rig.settle() if idle else rig.step()
    if next_held and not idle:
        rig.grant(2)
    rig.clear()
    rig.detach(1)
    assert rig.gone == {1: [False]}
    (report,) = rig.to_scheduler
    assert isinstance(report, Report)
    assert (report.vcoproc, report.end, report.runnable) == (1, EndReason.REMOVED, False)
    assert (report.next_vcoproc, rig.platform.owner or 0) == (
        (2, 2) if next_held and not idle else (0, 0)
    )
    assert set(rig.platform.contexts) == {2}


def test_destroying_one_that_was_to_have_another_slice(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1, slice_ns=100 * MS)
    number = rig.grant(1)
    rig.clear()
    rig.detach(1)
    dropped, report = rig.to_scheduler
    assert dropped == GrantDropped(number, 1, "REMOVED", rig.clock.now_ns - 3_000)
    assert isinstance(report, Report) and report.end == EndReason.REMOVED
    assert rig.executor.phase is Phase.EMPTY


def test_its_driver_is_served_until_it_is_gone(rig: CoreRig) -> None:
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(100 * US))
    rig.detach(1)
    assert rig.value(1, "ID") == 0x454B_4146
    rig.run(300 * US)
    assert rig.gone == {1: [False]}


def test_the_number_of_one_that_is_gone_can_be_used_again(rig: CoreRig) -> None:
    """Nothing of the old one is left: no doorbell, no wake, no level."""
    rig.hog(2)
    rig.grant(2)
    rig.write(1, "DOORBELL", job(1))
    rig.write(1, "IRQ_ENABLE", 7)
    rig.detach(1)
    rig.clear()
    rig.attach(1, running=False)
    assert rig.value(1, "IRQ_ENABLE") == 1
    assert rig.to_scheduler == []
    assert not rig.vcoproc(1).replay


def test_all_can_be_destroyed_and_the_coprocessor_used_again(rig: CoreRig) -> None:
    rig.hog(1, 2)
    rig.grant(1)
    rig.detach(1)
    rig.detach(2)
    assert rig.executor.phase is Phase.EMPTY
    assert rig.platform.stage2 is None
    rig.attach(3)
    rig.hog(3)
    rig.grant(3)
    assert rig.platform.owner == 3
