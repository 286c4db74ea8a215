"""What a signal ends in a coproc-sim, whenever it comes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from vcoproc_sim.__main__ import _ENDING, _Signals


@pytest.fixture
def signals() -> Iterator[_Signals]:
    kept = {number: signal.getsignal(number) for number in _ENDING}
    yield _Signals()
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", _ENDING)
def test_one_that_came_before_there_was_a_loop_ends_the_loop_too(
    signals: _Signals, number: signal.Signals
) -> None:
    done: list[str] = []
    signals.do(lambda: done.append("no lease"))
    signal.raise_signal(number)
    assert (done, signals.came) == (["no lease"], True)
    signals.do(lambda: done.append("no loop"))
    assert done == ["no lease", "no loop"]


def test_one_that_is_held_back_is_heard_afterwards(signals: _Signals) -> None:
    done: list[str] = []
    signals.do(lambda: done.append("before"))
    signals.hold_back()
    signal.raise_signal(signal.SIGTERM)
    assert (done, signals.came) == ([], True)
    signals.do(lambda: done.append("after"))
    assert done == ["after"]
