"""Which steps make which change, in which order, and what takes each of them back."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from toolstack_rig import PLATFORM, TREE

from vcoproc.config import parse_domain, parse_system
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.placing import place_domain
from vcoproc_toolstack.plans import (
    Move,
    domain_steps,
    move_steps,
    pause_steps,
    removal_steps,
    resume_steps,
)
from vcoproc_toolstack.records import DomainRecord, Life
from vcoproc_toolstack.steps import (
    AttachVcoproc,
    DetachVcoproc,
    LoadContext,
    MakeMemory,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    RemoveCoproc,
    RemoveMemory,
    ResumeDomain,
    ResumeVcoproc,
    SetCoproc,
    Step,
    TakeMemory,
    service_of,
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


def test_a_domain_that_is_held_is_paused_before_it_gets_lines() -> None:
    steps = domain_steps(DOMAIN.become(DomainState.PAUSED), COPROCS)
    assert names(steps)[3:6] == ["AddDomain", "PauseDomain", "SetCoproc"]
    assert [step.paused for step in steps if isinstance(step, AttachVcoproc)] == [True, True]


def test_a_removal_takes_the_hardware_first_and_the_memory_last() -> None:
    each = ["DetachVcoproc", "RemoveVcoproc", "UnmapLines"]
    assert names(removal_steps(DOMAIN)) == [
        *["ForgetContext"] * 2,
        *each,
        *each,
        "RemoveDomain",
        *["RemoveMemory"] * 3,
    ]
    paused = DOMAIN.become(DomainState.PAUSED)
    assert names(removal_steps(paused)) == names(removal_steps(DOMAIN)), "nothing goes on first"
    [audio, _] = DOMAIN.vcoprocs
    assert names(removal_steps(DOMAIN, audio)) == ["ForgetContext", *each, "RemoveMemory"]


def test_what_somebody_may_still_reach_is_not_removed() -> None:
    steps = removal_steps(DOMAIN, kept={"domain-1", "vcoproc-11.1"})
    assert [each for each in steps if isinstance(each, RemoveMemory)] == [
        RemoveMemory("vcoproc-10.1")
    ]


def test_a_detach_says_what_the_vcoproc_can_reach_until_then() -> None:
    files = [step.files for step in removal_steps(DOMAIN) if isinstance(step, DetachVcoproc)]
    assert files == [("domain-1", "vcoproc-11.1"), ("domain-1", "vcoproc-10.1")]


def make_move(state: DomainState = DomainState.RUNNING) -> Move:
    domain = DOMAIN.become(state)
    [audio, _] = domain.vcoprocs
    moved = replace(audio, coproc="dsp1")
    return Move(domain, audio, moved, COPROCS["dsp1"])


def test_a_move_leaves_the_old_coproc_only_after_its_commit() -> None:
    before, after = move_steps([make_move()])
    assert names(before) == [
        "SetCoproc",
        "AttachVcoproc",
        "PauseVcoproc",
        "SaveContext",
        "AddVcoproc",
        "LoadContext",
        "MoveLines",
    ]
    assert names(after) == [
        "DetachVcoproc",
        "RemoveVcoproc",
        "PauseVcoproc",
        "ForgetContext",
        "ResumeVcoproc",
    ]
    detach = after[0]
    assert isinstance(detach, DetachVcoproc)
    assert (detach.coproc, detach.moved) == ("dsp0", True)


def test_many_stand_still_no_longer_than_their_contexts_take() -> None:
    before, after = move_steps([make_move(), make_move()])
    still = names(before)[names(before).index("PauseVcoproc") :]
    assert still == 2 * [
        "PauseVcoproc",
        "SaveContext",
        "AddVcoproc",
        "LoadContext",
        "MoveLines",
    ]
    assert names(after)[:2] == ["DetachVcoproc", "DetachVcoproc"]


def test_a_held_vcoproc_is_not_let_run_by_its_move() -> None:
    before, after = move_steps([make_move(DomainState.CRASHED)])
    assert "ResumeVcoproc" not in names(after)
    undos = [undo_of(step) for step in before]
    assert not any(isinstance(undo, ResumeVcoproc) for undo in undos)
    assert PauseVcoproc("dsp0", 10, again=True) in undos, "its driver waits no longer"


def test_only_the_coproc_of_the_tree_and_what_only_looks_are_not_undone() -> None:
    steps = [*STEPS, *move_steps([make_move()])[0]]
    assert {type(step) for step in steps if undo_of(step) is None} == {SetCoproc, LoadContext}


def test_undoing_twice_is_doing_it_again() -> None:
    pairs: list[Step] = [
        PauseDomain(1),
        ResumeDomain(1),
        PauseVcoproc("dsp0", 10),
        ResumeVcoproc("dsp0", 10),
        MoveLines(10, "dsp1", "dsp0"),
    ]
    for step in pairs:
        undo = undo_of(step)
        assert undo is not None
        assert undo != step
        assert undo_of(undo) == step


EVERY_STEP: list[Step] = [
    *STEPS,
    *removal_steps(DOMAIN),
    *(step for steps in move_steps([make_move()]) for step in steps),
    *pause_steps(DOMAIN),
    *resume_steps(DOMAIN),
    TakeMemory("domain-1", "staged-1"),
    RemoveCoproc("dsp0"),
]


def test_every_step_has_a_service_that_performs_it() -> None:
    assert {type(step) for step in EVERY_STEP} == set(get_args(Step))
    services = {service_of(step) for step in EVERY_STEP}
    assert services == {"memory", "irq-router", "scheduler", "coproc/dsp0", "coproc/dsp1"}
