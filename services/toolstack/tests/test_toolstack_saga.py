"""The saga: forward to its commit and on, or back, whatever fails."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolstack_rig import REFUSED

from vcoproc.errors import InvalidTransition, PeerLost
from vcoproc_toolstack.saga import (
    COMMIT,
    TRANSITIONS,
    Commit,
    Saga,
    SagaState,
    StepDone,
    StepFailed,
)
from vcoproc_toolstack.steps import (
    DetachVcoproc,
    ForgetContext,
    MakeMemory,
    PauseDomain,
    PauseVcoproc,
    RemoveMemory,
    ResumeDomain,
    ResumeVcoproc,
    Step,
    UnmapLines,
    undo_of,
)

LOST = PeerLost("dsp0")
FILES = ("domain-1", "vcoproc-7.1")
BEFORE: list[Step] = [MakeMemory("domain-1", 4096), PauseDomain(1), PauseVcoproc("dsp0", 7)]
AFTER: list[Step] = [
    DetachVcoproc("dsp0", 7, files=FILES),
    UnmapLines(7),
    RemoveMemory("domain-1"),
]


def walk(saga: Saga, *fail_at: int) -> list[Step | Commit]:
    """Performs a saga; the steps with these numbers fail."""
    done: list[Step | Commit] = []
    while (step := saga.current()) is not None:
        saga.step(StepFailed(LOST) if len(done) in fail_at else StepDone())
        done.append(step)
    return done


def test_everything_is_done_once_and_in_order_with_the_commit_between() -> None:
    saga = Saga(BEFORE, AFTER)
    assert walk(saga) == [*BEFORE, COMMIT, *AFTER]
    assert (saga.state, saga.error, saga.leftovers) == (SagaState.COMMITTED, None, [])


@pytest.mark.parametrize("place", range(len(BEFORE)))
def test_a_failure_before_the_commit_undoes_everything_begun_in_reverse(place: int) -> None:
    saga = Saga(BEFORE, AFTER)
    done = walk(saga, place)
    begun = BEFORE[: place + 1]
    assert done == [*begun, *(undo_of(step) for step in reversed(begun))]
    assert (saga.state, saga.error) == (SagaState.ROLLED_BACK, LOST)


@pytest.mark.parametrize("place", range(len(AFTER)))
def test_a_failure_after_the_commit_is_left_over_and_nothing_is_undone(place: int) -> None:
    saga = Saga((), AFTER)
    done = walk(saga, place + 1)
    assert AFTER[place] in done
    assert not any(undo_of(step) in done for step in AFTER if undo_of(step))
    assert (saga.state, saga.error) == (SagaState.COMMITTED, None)
    assert saga.leftovers[0] == (AFTER[place], LOST)


def test_after_a_commit_that_failed_nothing_more_is_done() -> None:
    """It may have been kept all the same: whoever undid it then would undo what is desired."""
    saga = Saga(BEFORE, AFTER)
    assert walk(saga, len(BEFORE)) == [*BEFORE, COMMIT]
    assert (saga.state, saga.error) == (SagaState.IN_DOUBT, LOST)
    assert saga.steps == (*BEFORE, *AFTER)


def test_memory_is_not_removed_under_a_vcoproc_that_may_be_attached() -> None:
    saga = Saga.finishing(AFTER)
    assert walk(saga, 0) == AFTER[:2]
    assert [step for step, _ in saga.leftovers] == [AFTER[0], AFTER[2]]


def test_memory_that_nobody_reaches_goes_all_the_same() -> None:
    other = RemoveMemory("vcoproc-8.1")
    saga = Saga.finishing([*AFTER, other])
    assert walk(saga, 0) == [*AFTER[:2], other]


def test_memory_that_a_creation_made_is_not_removed_under_it_either() -> None:
    attach = DetachVcoproc("dsp0", 7, files=FILES)
    saga = Saga([MakeMemory("domain-1", 4096), PauseDomain(1)], ())
    walk(saga, 1)
    assert saga.leftovers == []
    saga = Saga.finishing([attach, RemoveMemory("domain-1")])
    walk(saga, 0)
    assert len(saga.leftovers) == 2


def test_a_vcoproc_that_a_step_failed_for_is_not_gone_on_with() -> None:
    """Who cannot be paused once more has lost the context that it was to forget and run with."""
    seat = ("dsp1", 7)
    other = ResumeVcoproc("dsp1", 8)
    steps: list[Step] = [PauseVcoproc(*seat), ForgetContext(*seat), ResumeVcoproc(*seat), other]
    saga = Saga.finishing(steps)
    assert walk(saga, 0) == [steps[0], other]
    assert [step for step, _ in saga.leftovers] == steps[:3]


def test_a_context_that_is_not_forgotten_keeps_nobody_from_leaving() -> None:
    steps: list[Step] = [ForgetContext("dsp0", 7), *AFTER]
    saga = Saga.finishing(steps)
    assert walk(saga, 0) == steps


def test_no_steps_are_only_a_commit() -> None:
    assert walk(Saga()) == [COMMIT]
    assert Saga.finishing([]).state is SagaState.COMMITTED


@pytest.mark.parametrize(
    ("state", "outcome"), list(product(SagaState, (StepDone(), StepFailed(REFUSED))))
)
def test_every_pair_of_the_table_and_every_absent_one(
    state: SagaState, outcome: StepDone | StepFailed
) -> None:
    saga = Saga([ResumeDomain(1)])
    saga.state = state
    if (state, type(outcome)) in TRANSITIONS:
        saga.step(outcome)
        assert saga.state in TRANSITIONS[state, type(outcome)]
    else:
        before = saga.current()
        with pytest.raises(InvalidTransition):
            saga.step(outcome)
        assert saga.current() is before


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 12), st.integers(0, 12))
def test_whatever_fails_what_is_held_is_all_or_nothing_or_left_over(
    outcomes: list[bool], count: int, after_count: int
) -> None:
    """Files of before are made, files of after are removed; a failed step may have been done."""
    made = [MakeMemory(f"domain-{n}", 4096) for n in range(count)]
    removed = [RemoveMemory(f"vcoproc-{n}.1") for n in range(after_count)]
    saga = Saga(made, removed)
    held = {step.file_name for step in removed}
    fates = iter(outcomes)
    committed = False
    while (step := saga.current()) is not None:
        good = next(fates, True)
        if isinstance(step, Commit):
            committed = good
        elif isinstance(step, MakeMemory):
            held.add(step.file_name)
        elif good:
            assert isinstance(step, RemoveMemory)
            held.remove(step.file_name)
        saga.step(StepDone() if good else StepFailed(REFUSED))
    left = {step.file_name for step, _ in saga.leftovers if isinstance(step, RemoveMemory)}
    new, old = {step.file_name for step in made}, {step.file_name for step in removed}
    match saga.state:
        case SagaState.COMMITTED:
            assert committed
            assert held == new | left
        case SagaState.ROLLED_BACK:
            assert not committed
            assert held == old | left
        case _:
            assert saga.state is SagaState.IN_DOUBT
            assert held == new | old


def test_a_domain_is_removed_from_the_irq_router_when_it_was_not_added_for_sure() -> None:
    """The failed step is undone too: who did not answer may have done it."""
    saga = Saga([PauseDomain(3)])
    assert walk(saga, 0) == [PauseDomain(3), ResumeDomain(3)]
