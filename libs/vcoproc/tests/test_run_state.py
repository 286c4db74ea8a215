"""The run state table: every pair, present and absent, and the intents that it remembers."""

from __future__ import annotations

import pytest

from vcoproc.errors import InvalidTransition
from vcoproc.model.run_state import ON_COPROC, TRANSITIONS, RunEvent, RunMachine, RunState

COLUMNS = ["SLEEPING", "WAITING", "SWITCHING_IN", "RUNNING", "SWITCHING_OUT", "FAULTED"]
# Written from the meaning of the events, not from the table. Letters: Sleeping, Waiting, switching
# In, Running, switching Out, Faulted; "." is no transition.
GRID = """
                S W I R O F
WAKE            W W I R O W
RESUME          R R R R O R
IDLE            S W I S S F
PLACE           . I . . . .
UNPLACE         . . W . . .
LEAVE           . . . O . .
STAY            . . . . R .
BEGIN           R R R R O R
LEFT_RUNNABLE   W W W W W W
LEFT_IDLE       S W W S S F
DROP            S S S R O F
FAULT           F F F F F F
LOST            S S S S S S
"""
LETTER = dict(zip("SWIROF", COLUMNS, strict=True))
ROWS = {words[0]: words[1:] for words in (line.split() for line in GRID.splitlines()[2:]) if words}


def machine(state: RunState, *, wake: bool = False, sleep: bool = False) -> RunMachine:
    made = RunMachine(state)
    made.wake_pending, made.sleep_requested = wake, sleep
    return made


@pytest.mark.parametrize("event", RunEvent, ids=lambda each: each.value)
@pytest.mark.parametrize("state", RunState, ids=lambda each: each.value)
def test_every_pair(state: RunState, event: RunEvent) -> None:
    letter = ROWS[event.value][COLUMNS.index(state.value)]
    subject = machine(state)
    if letter == ".":
        with pytest.raises(InvalidTransition) as caught:
            subject.apply(event, "vcoproc 7", lambda: ["it was born", "it woke"])
        assert subject.state is state
        assert caught.value.story == ("it was born", "it woke")
        assert "vcoproc 7" in str(caught.value) and "it woke" in str(caught.value)
    else:
        assert subject.apply(event).value == LETTER[letter]
        assert subject.state.value == LETTER[letter]


def test_the_table_has_no_pair_that_the_grid_has_not() -> None:
    present = sum(letter != "." for row in ROWS.values() for letter in row)
    assert len(TRANSITIONS) == present
    assert set(ROWS) == {event.value for event in RunEvent}


@pytest.mark.parametrize("state", sorted(ON_COPROC, key=lambda each: each.value))
@pytest.mark.parametrize("end", [RunEvent.LEFT_IDLE, RunEvent.IDLE])
def test_a_wake_on_the_coprocessor_is_remembered_until_it_has_left(
    state: RunState, end: RunEvent
) -> None:
    subject = machine(state)
    subject.apply(RunEvent.WAKE)
    assert subject.wake_pending
    assert subject.apply(end) is RunState.WAITING
    assert not subject.wake_pending


@pytest.mark.parametrize("event", [RunEvent.BEGIN, RunEvent.FAULT, RunEvent.LOST])
def test_a_new_turn_a_fault_and_a_lost_coproc_use_up_a_pending_wake(event: RunEvent) -> None:
    subject = machine(RunState.RUNNING, wake=True)
    subject.apply(event)
    assert not subject.wake_pending


def test_who_is_asked_to_sleep_does_not_want_the_coprocessor_but_keeps_its_state() -> None:
    subject = machine(RunState.SWITCHING_OUT, sleep=True)
    assert not subject.wants()
    assert subject.apply(RunEvent.LEFT_RUNNABLE) is RunState.WAITING
    assert not subject.wants()
    subject.sleep_requested = False
    assert subject.wants()


@pytest.mark.parametrize("state", RunState, ids=lambda each: each.value)
def test_who_sleeps_or_has_faulted_wants_nothing(state: RunState) -> None:
    assert machine(state).wants() == (state not in (RunState.SLEEPING, RunState.FAULTED))
