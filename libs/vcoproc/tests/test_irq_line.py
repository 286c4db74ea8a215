"""The line state machine, against a table written down from the GIC architecture by hand.

ARM IHI 0048B (GICv2), 3.2.4 "Interrupt handling state machine": an edge makes an inactive interrupt
pending and an active one active and pending; a level-sensitive one is pending as long as its signal
is asserted, and stays active and pending when the processor takes it while it is. ORPHANED is ours:
the processor that had taken it is gone.
"""

from __future__ import annotations

import itertools

import pytest

from vcoproc.errors import InvalidTransition
from vcoproc.model.irq_line import TRANSITIONS, IrqLine, LineEvent, LineState

# Rows: state; columns as in the header; "-": no such transition.
EDGE = """
                  PULSE             RISE  FALL  INJECT          EOI       LOSE
INACTIVE          PENDING           -     -     -               -         INACTIVE
PENDING           PENDING           -     -     ACTIVE          -         PENDING
ACTIVE            ACTIVE_PENDING    -     -     -               INACTIVE  ORPHANED
ACTIVE_PENDING    ACTIVE_PENDING    -     -     -               PENDING   ORPHANED_PENDING
ORPHANED          ORPHANED_PENDING  -     -     ACTIVE          INACTIVE  ORPHANED
ORPHANED_PENDING  ORPHANED_PENDING  -     -     ACTIVE_PENDING  PENDING   ORPHANED_PENDING
SAMPLING          -                 -     -     -               -         -
"""
LEVEL = """
                  PULSE  RISE            FALL      INJECT          EOI       LOSE
INACTIVE          -      PENDING         INACTIVE  -               -         INACTIVE
PENDING           -      PENDING         INACTIVE  ACTIVE_PENDING  -         PENDING
ACTIVE            -      ACTIVE_PENDING  ACTIVE    -               INACTIVE  INACTIVE
ACTIVE_PENDING    -      ACTIVE_PENDING  ACTIVE    -               SAMPLING  PENDING
ORPHANED          -      -               -         -               -         -
ORPHANED_PENDING  -      -               -         -               -         -
SAMPLING          -      PENDING         INACTIVE  -               -         SAMPLING
"""


def cells(text: str) -> dict[tuple[str, str], str]:
    header, *rows = (line.split() for line in text.strip("\n").splitlines())
    return {
        (row[0], event): after for row in rows for event, after in zip(header, row[1:], strict=True)
    }


EXPECTED = {False: cells(EDGE), True: cells(LEVEL)}
ALL_PAIRS = list(itertools.product((False, True), LineState, LineEvent))


@pytest.mark.parametrize(("level", "state", "event"), ALL_PAIRS)
def test_every_pair_of_state_and_event_does_what_the_table_says(
    level: bool, state: LineState, event: LineEvent
) -> None:
    line = IrqLine(7, 3, 64, level=level)
    line.state = state
    after = EXPECTED[level][state.name, event.name]
    if after == "-":
        with pytest.raises(InvalidTransition) as caught:
            line.apply(event)
        assert line.state is state, "an illegal event must change nothing"
        assert (caught.value.state, caught.value.event) == (state.name, event.name)
        assert (state, event) not in TRANSITIONS[level]
    else:
        line.apply(event)
        assert line.state is LineState[after]
        assert TRANSITIONS[level][state, event] is LineState[after]


def test_edges_while_pending_merge_and_are_counted() -> None:
    line = IrqLine(7, 0, 64, level=False)
    line.pulse(100)
    line.pulse(200)
    line.pulse(300)
    assert (line.raised_count, line.merged_count, line.raised_ns) == (3, 2, 100)


def test_several_edges_at_once_count_like_one_after_the_other() -> None:
    once, each = IrqLine(7, 0, 64, level=False), IrqLine(7, 0, 64, level=False)
    once.pulse(100, times=3)
    for _ in range(3):
        each.pulse(100)
    assert (once.state, once.raised_count, once.merged_count) == (
        each.state, each.raised_count, each.merged_count,
    )  # fmt: skip


def test_an_edge_while_active_is_not_merged_with_the_one_being_handled() -> None:
    line = IrqLine(7, 0, 64, level=False)
    line.pulse(100)
    line.inject()
    line.pulse(200)
    assert (line.merged_count, line.raised_ns) == (0, 200)
    assert line.active and line.pending and not line.deliverable
    line.apply(LineEvent.EOI)
    assert line.deliverable


def test_a_level_said_twice_rises_once() -> None:
    line = IrqLine(7, 0, 64, level=True)
    line.set_level(True, 100)
    line.set_level(True, 200)
    assert (line.raised_count, line.raised_ns) == (1, 100)
    line.set_level(False, 300)
    line.set_level(False, 400)
    line.set_level(True, 500)
    assert (line.raised_count, line.raised_ns) == (2, 500)


def test_a_level_that_still_is_high_at_eoi_has_not_risen_again() -> None:
    """The answer to the question at EOI; it may be out of date, and the line fall before INJECT."""
    line = IrqLine(7, 0, 64, level=True)
    line.set_level(True, 100)
    line.inject()
    line.end()
    line.set_level(True, 200)
    assert (line.state, line.raised_count, line.raised_ns) == (LineState.PENDING, 1, 200)
    line.set_level(False, 300)
    line.set_level(True, 400)
    assert (line.raised_count, line.injected_count) == (2, 1)


def test_high_means_level_only() -> None:
    edge, level = IrqLine(7, 0, 64, level=False), IrqLine(7, 0, 64, level=True)
    edge.pulse(1)
    level.set_level(True, 1)
    assert (edge.high, level.high) == (False, True)
    level.inject()
    assert level.high and level.active
    level.set_level(False, 2)
    assert not level.high and level.active, "the level falls; active stays until EOI"


@pytest.mark.parametrize("state", list(LineState))
def test_a_masked_line_is_never_deliverable(state: LineState) -> None:
    line = IrqLine(7, 0, 64, level=False)
    line.state = state
    line.enabled = False
    assert not line.deliverable
