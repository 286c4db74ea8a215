"""The saga: every step forward, every way back."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolstack_rig import PLATFORM, REFUSED, TREE

from vcoproc.config import parse_domain, parse_system
from vcoproc.errors import InvalidTransition, PeerLost
from vcoproc_toolstack.placing import place_domain
from vcoproc_toolstack.records import DomainRecord, Life
from vcoproc_toolstack.steps import (
    TRANSITIONS,
    AddDomain,
    MakeMemory,
    RemoveMemory,
    Saga,
    SagaState,
    SetCoproc,
    Step,
    StepDone,
    StepFailed,
    domain_steps,
    undo_of,
)

SYSTEM = parse_system(TREE, "tree.dts")
COPROCS = {coproc.name: coproc for coproc in SYSTEM.coprocs}


def make_domain(vcoprocs: str) -> DomainRecord:
    config = parse_domain(f'name = "fir"\nmemory = 1\nvcoproc = {vcoprocs}', "fir.cfg")
    new = place_domain(config, SYSTEM, lambda _coproc: PLATFORM)
    records = tuple(each.record(n, 1, "fir", b"secret") for n, each in enumerate(new, 10))
    return DomainRecord(1, "fir", Life.CREATING, config.memory_bytes, b"secret", (), records)


DOMAIN = make_domain('["coproc=dsp0,name=a", "coproc=dsp1,name=b"]')
STEPS = domain_steps(DOMAIN, COPROCS)


def names(steps: list[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def test_the_steps_of_a_domain_with_two_vcoprocs() -> None:
    each = ["SetCoproc", "MapLines", "AddVcoproc", "AttachVcoproc"]
    assert names(STEPS) == [*["MakeMemory"] * 3, "AddDomain", *each, *each]
    files = [step.file_name for step in STEPS if isinstance(step, MakeMemory)]
    assert files == ["domain-1", "vcoproc-10.1", "vcoproc-11.1"]


def walk(saga: Saga, fail_at: int | None = None) -> list[Step]:
    """Performs a saga; the step with that number fails."""
    done: list[Step] = []
    while (step := saga.current()) is not None:
        saga.step(StepFailed(REFUSED) if len(done) == fail_at else StepDone())
        done.append(step)
    return done


def test_all_steps_done_is_committed() -> None:
    saga = Saga(STEPS)
    assert walk(saga) == STEPS
    assert (saga.state, saga.error, saga.leftovers) == (SagaState.COMMITTED, None, [])


@pytest.mark.parametrize("place", range(len(STEPS)))
def test_a_failure_undoes_everything_begun_in_reverse(place: int) -> None:
    saga = Saga(STEPS)
    done = walk(saga, fail_at=place)
    begun = STEPS[: place + 1]
    assert done[: place + 1] == begun
    undone = done[place + 1 :]
    assert undone == [undo for step in reversed(begun) if (undo := undo_of(step)) is not None]
    assert saga.state is SagaState.ROLLED_BACK
    assert saga.error is REFUSED


def test_a_destruction_takes_the_hardware_first_and_the_memory_last() -> None:
    saga = Saga.undoing(STEPS)
    done = names(walk(saga))
    each = ["DetachVcoproc", "RemoveVcoproc", "UnmapLines"]
    assert done == [*each, *each, "RemoveDomain", *["RemoveMemory"] * 3]
    assert saga.state is SagaState.ROLLED_BACK
    assert saga.error is None


def test_what_cannot_be_undone_is_left_over_and_the_rest_is_undone() -> None:
    lost = PeerLost("dsp1")
    saga = Saga.undoing(STEPS)
    first = saga.current()
    saga.step(StepFailed(lost))
    rest = walk(saga)
    assert saga.leftovers == [(first, lost)]
    assert len(rest) == len(walk(Saga.undoing(STEPS))) - 1


def test_only_the_coproc_of_the_tree_is_not_undone() -> None:
    assert {type(step) for step in STEPS if undo_of(step) is None} == {SetCoproc}


@pytest.mark.parametrize(
    ("state", "outcome"), list(product(SagaState, (StepDone(), StepFailed(REFUSED))))
)
def test_every_pair_of_the_table_and_every_absent_one(
    state: SagaState, outcome: StepDone | StepFailed
) -> None:
    saga = Saga([AddDomain(DOMAIN)])
    saga.state = state
    if (state, type(outcome)) in TRANSITIONS:
        saga.step(outcome)
        assert saga.state in TRANSITIONS[state, type(outcome)]
    else:
        before = saga.current()
        with pytest.raises(InvalidTransition):
            saga.step(outcome)
        assert saga.current() is before


def test_no_steps_are_done_at_once() -> None:
    assert Saga([]).state is SagaState.COMMITTED
    assert Saga.undoing([]).state is SagaState.ROLLED_BACK


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 12))
def test_whatever_fails_each_begun_step_is_undone_once_or_left_over(
    outcomes: list[bool], count: int
) -> None:
    steps: list[Step] = [MakeMemory(f"domain-{n}", 4096) for n in range(count)]
    saga = Saga(steps)
    held: set[str] = set()
    fates = iter(outcomes)
    while (step := saga.current()) is not None:
        good = next(fates, True)
        if isinstance(step, MakeMemory):
            held.add(step.file_name)  # even a failed step may have been done
        elif good:
            assert isinstance(step, RemoveMemory)
            held.remove(step.file_name)
        saga.step(StepDone() if good else StepFailed(REFUSED))
    left = {step.file_name for step, _ in saga.leftovers if isinstance(step, RemoveMemory)}
    if saga.state is SagaState.COMMITTED:
        assert held == {f"domain-{n}" for n in range(count)}
    else:
        assert held == left
