"""Every policy of a register, for every kind of access, wherever its vcoproc is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vcoproc.limits import HOLD_LIMIT_NS, SWITCH_DEADLINE_NS
from vcoproc.wire.messages import Message, Read, Reply, TrapError
from vcoproc_sim.platforms.api import Access, Busy, WhenOut
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, Crash

LIVE = 0x1111
SAVED = 0x2222
WRITTEN = 0x0230
"""Shares one bit with each of the two."""


def _out(rig: CoreRig) -> None:
    rig.attach(1)


def _on(rig: CoreRig) -> None:
    rig.attach(1)
    rig.hog(1)
    rig.grant(1)
    assert rig.executor.phase is Phase.RESIDENT


def _on_and_idle(rig: CoreRig) -> None:
    rig.attach(1)
    rig.program(1, Compute(10))
    rig.grant(1)
    rig.settle()
    assert rig.executor.turn is not None and rig.executor.turn.idle


def _leaving(rig: CoreRig) -> None:
    _on(rig)
    rig.attach(2)
    rig.hog(2)
    rig.platform.leave_script.append(Busy(100))
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.LEAVING


def _entering(rig: CoreRig) -> None:
    rig.attach(1)
    rig.hog(1)
    rig.platform.enter_script.append(Busy(100))
    rig.grant(1)
    assert rig.executor.phase is Phase.ENTERING


def _just_left(rig: CoreRig) -> None:
    """The other one is being entered."""
    _on(rig)
    rig.attach(2)
    rig.hog(2)
    rig.platform.enter_script.append(Busy(100))
    rig.grant(2, now=True)
    assert rig.executor.phase is Phase.ENTERING


def _faulted_on(rig: CoreRig) -> None:
    rig.attach(1)
    rig.program(1, Crash())
    rig.grant(1)
    rig.settle()
    assert rig.platform.is_faulted(1) and rig.platform.owner == 1


def _faulted_out(rig: CoreRig) -> None:
    _faulted_on(rig)
    rig.attach(2)
    rig.hog(2)
    rig.grant(2)
    assert rig.platform.is_faulted(1) and rig.platform.owner == 2


ON_HARDWARE: list[Callable[[CoreRig], None]] = [_on, _on_and_idle, _leaving, _faulted_on]
OUT: list[Callable[[CoreRig], None]] = [_out, _entering, _just_left, _faulted_out]


def _error(answer: Message | None) -> str:
    assert isinstance(answer, TrapError), answer
    return answer.error


def _expected(
    situation: Callable[[CoreRig], None], when: WhenOut, access: Access, *, write: bool
) -> str | int | None:
    """What the interface promises: an error's reason, a value, or None for "it waits"."""
    if (write and access is Access.RO) or (not write and access is Access.WO):
        return "BAD_REGISTER"
    if situation in ON_HARDWARE:
        return LIVE
    faulted = situation is _faulted_out
    match when:
        case WhenOut.SHADOW:
            return SAVED
        case WhenOut.REPLAY:
            return "VCOPROC_FAULTED" if write and faulted else SAVED
        case WhenOut.HOLD:
            return "VCOPROC_FAULTED" if faulted else None
        case WhenOut.CONST:
            return "BAD_REGISTER" if write else 0xFFFF  # 0xFFFF stands for the reset value
        case WhenOut.DENY:
            return "REGISTER_DENIED"


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize("access", Access, ids=lambda access: access.value)
@pytest.mark.parametrize("when", WhenOut, ids=lambda when: when.value)
@pytest.mark.parametrize("situation", ON_HARDWARE + OUT, ids=lambda call: call.__name__[1:])
def test_an_access_does_what_its_policy_says(
    situation: Callable[[CoreRig], None], when: WhenOut, access: Access, write: bool
) -> None:
    rig = CoreRig()
    situation(rig)
    name = f"{when.name}_{access.name}"
    index = rig.platform.info.index_of[name]
    context = rig.platform.contexts[1]
    context.live[index], context.spec.shadow[index] = LIVE, SAVED
    expected = _expected(situation, when, access, write=write)
    answer = rig.write(1, name, WRITTEN) if write else rig.read(1, name)
    if isinstance(expected, str):
        assert _error(answer) == expected
        assert (context.live[index], context.spec.shadow[index]) == (LIVE, SAVED)
        assert not rig.vcoproc(1).replay and not rig.vcoproc(1).held
    elif expected is None:
        assert answer is None, "it waits"
        assert len(rig.vcoproc(1).held) == 1
    elif write:
        assert isinstance(answer, Reply) and answer.values == ()
        _check_written(rig, when, access, index, on_hardware=expected == LIVE)
    else:
        reset = rig.platform.info.registers[index].reset
        assert isinstance(answer, Reply)
        assert answer.values == (reset if expected == 0xFFFF else expected,)


def _check_written(
    rig: CoreRig, when: WhenOut, access: Access, index: int, *, on_hardware: bool
) -> None:
    context = rig.platform.contexts[1]
    live, saved = LIVE, SAVED
    if on_hardware:
        live = LIVE & ~WRITTEN if access is Access.W1C else WRITTEN
    elif when is WhenOut.SHADOW:
        saved = SAVED & ~WRITTEN if access is Access.W1C else WRITTEN
    else:
        assert list(rig.vcoproc(1).replay) == [(index, WRITTEN)]
    assert (context.live[index], context.spec.shadow[index]) == (live, saved)


@pytest.mark.parametrize("access", [Access.RW, Access.RO, Access.W1C])
def test_what_waits_is_answered_by_the_hardware(access: Access) -> None:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(2)
    rig.grant(2)
    name = f"HOLD_{access.name}"
    seq = rig.send(1, _read(rig, name))
    assert rig.answer(seq) is None
    rig.platform.contexts[1].spec.shadow[rig.platform.info.index_of[name]] = 0x77
    rig.grant(1, now=True)
    assert rig.answer(seq) == Reply(seq, (0x77,))


def _read(rig: CoreRig, name: str) -> Message:
    return Read(*rig.address(name))


def test_limits_of_waiting_lie_below_each_other() -> None:
    """A refusing coprocessor is forced off before a held access is given up."""
    assert SWITCH_DEADLINE_NS < HOLD_LIMIT_NS
