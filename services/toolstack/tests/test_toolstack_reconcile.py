"""Services that restart, lose things or hold too much are brought back to what the store says."""

from __future__ import annotations

from pathlib import Path

import pytest
from toolstack_operations import seal_vcoproc
from toolstack_picture import picture
from toolstack_rig import NO_REQUEST, NOTHING, REFUSED, Rig, one_vcoproc, refuse_at

from vcoproc import limits
from vcoproc.errors import PeerLost
from vcoproc_toolstack.records import LineNow
from vcoproc_toolstack.repair import Marks
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    SCHEDULER,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    PauseVcoproc,
    ResumeVcoproc,
    Step,
    seat_of,
)


@pytest.fixture
def full(rig: Rig) -> Rig:
    """Two domains with three vcoprocs on two coprocs."""
    rig.create()
    rig.create(one_vcoproc("sobel"))
    return rig


def test_a_scheduler_that_lost_everything_gets_it_back(full: Rig) -> None:
    before = full.services.held()
    full.services.scheduled.clear()
    assert full.repairer.repair(SCHEDULER)
    assert full.services.held() == before
    assert set(full.services.scheduled) == set(full.leases.online()), "idle coprocs too"


def test_an_irq_router_that_lost_everything_gets_it_back(full: Rig) -> None:
    before = full.services.held()
    full.services.forget_lines()
    assert full.repairer.repair(IRQ_ROUTER)
    assert full.services.held() == before


def test_a_new_coproc_sim_gets_the_vcoprocs_of_its_coproc(full: Rig) -> None:
    before = full.services.held()
    full.unlease("dsp0")
    full.lease("dsp0")
    assert full.repairer.repair("coproc/dsp0")
    assert full.services.held() == before


def test_what_nobody_wants_is_taken_away_everywhere(rig: Rig) -> None:
    """A store that was lost: the services hold a domain that the toolstack never heard of."""
    rig.create()
    with rig.store.change() as change:
        change.delete_domain(1)
    rig.repair_all()
    rig.restart()
    assert rig.services.held() == NOTHING


def test_a_domain_without_lines_is_found_too(rig: Rig) -> None:
    rig.services.domids[77] = b"left over"
    rig.repair_all()
    assert rig.services.held() == NOTHING


def test_repairing_what_is_right_changes_nothing(full: Rig) -> None:
    before = full.services.held()
    full.repair_all()
    assert full.services.held() == before


def test_a_coproc_that_died_meanwhile_needs_no_repair(full: Rig) -> None:
    full.unlease("dsp0")
    assert full.repairer.repair("coproc/dsp0")


def test_a_silent_service_is_to_be_asked_again(full: Rig) -> None:
    full.services.down.add(SCHEDULER)
    assert not full.repairer.repair(SCHEDULER)
    full.services.down.clear()
    full.services.before = refuse_at(2, PeerLost(SCHEDULER))
    assert not full.repairer.repair(SCHEDULER)


def test_one_refused_step_does_not_keep_the_others_from_theirs(full: Rig) -> None:
    full.services.scheduled.clear()
    refused: list[int] = []

    def refuse_first(step: object) -> None:
        if isinstance(step, AddVcoproc) and not refused:
            refused.append(step.vcoproc.vcoproc_id)
            raise REFUSED

    full.services.before = refuse_first
    assert full.repairer.repair(SCHEDULER), "asking again would not help"
    held = {number for ids in full.services.scheduled.values() for number in ids}
    assert held == {1, 2, 3} - set(refused)


def test_memory_that_is_gone_is_made_anew_and_told(full: Rig) -> None:
    full.memory.path_of("domain-1").unlink()
    full.restart()
    assert full.memory.path_of("domain-1").stat().st_size == limits.MIB
    assert full.events()[-1] == ("domains/fir", "CHANGED")


def test_memory_that_is_there_is_kept_over_a_restart(full: Rig) -> None:
    path = full.memory.path_of("domain-1")
    with path.open("r+b") as file:
        file.write(b"kept")
    full.restart()
    assert path.read_bytes()[:4] == b"kept"
    assert full.events() == [("domains/fir", "CREATED"), ("domains/sobel", "CREATED")]


def test_stray_memory_files_go_and_files_of_others_stay(full: Rig, tmp_path: Path) -> None:
    stray = full.memory.path_of("domain-99")
    other = full.memory.path_of("notes.txt")
    full.memory.make(MakeMemory("domain-99", 4096))
    other.write_text("mine")
    full.restart()
    assert not stray.exists()
    assert other.exists()


def test_a_vcoproc_whose_coproc_left_the_tree_waits_and_can_be_destroyed(full: Rig) -> None:
    coprocs = {n: c for n, c in full.leases.coprocs.items() if n != "dsp1"}
    object.__setattr__(full.leases, "coprocs", coprocs)
    full.unlease("dsp1")
    full.services.scheduled.clear()
    assert full.repairer.repair(SCHEDULER)
    assert "dsp1" not in full.services.scheduled
    full.changes.destroy_domain("fir", NO_REQUEST)
    assert [domain.name for domain in full.domains()] == ["sobel"]


# --- where vcoprocs are ---------------------------------------------------------------------------


def move(rig: Rig) -> None:
    rig.moves.move("fir", "audio", "ncore-0", NO_REQUEST, seal_vcoproc)


def test_a_vcoproc_on_another_coproc_than_its_own_is_sent_home(full: Rig) -> None:
    """The store says dsp0; ncore-0 has it too, since a move was cut off."""
    before = picture(full)
    move(full)
    there = full.services.attached["ncore-0"][1]
    with full.store.change() as change:
        change.set_vcoproc_coproc(1, "dsp0")
    full.repair_all()
    assert picture(full) == before
    assert full.services.told_moved[-1] == ("ncore-0", 1)
    assert there is not full.services.attached["dsp0"][1]


def test_lines_of_another_coproc_are_moved_and_not_mapped_anew(full: Rig) -> None:
    full.services.coproc_of_lines[1] = "ncore-2"
    full.services.lines_now[1] = (LineNow(1, True, False),)
    assert full.repairer.repair(IRQ_ROUTER)
    assert full.services.coproc_of_lines[1] == "dsp0"
    assert full.services.lines_now[1], "what waits is not lost"


def test_a_scheduler_that_has_it_twice_keeps_the_right_one(full: Rig) -> None:
    before = picture(full)
    move(full)
    with full.store.change() as change:
        change.set_vcoproc_coproc(1, "dsp0")
    assert full.repairer.repair(SCHEDULER)
    assert picture(full)["scheduler"] == before["scheduler"]


def test_a_context_that_waits_is_loaded_before_its_vcoproc_runs(full: Rig) -> None:
    """The coproc-sim died after the commit of a move: the context is still there."""
    full.memory.write("context-1", [full.services.attached["dsp0"][1].context()], 10_000)
    full.unlease("dsp0")
    full.lease("dsp0")
    full.services.performed.clear()
    assert full.repairer.repair("coproc/dsp0")
    steps = [type(step) for step in full.services.performed if seat_of(step) == ("dsp0", 1)]
    assert steps == [AttachVcoproc, LoadContext, PauseVcoproc, ForgetContext, ResumeVcoproc]
    assert full.memory.contexts() == frozenset()


def test_a_context_of_a_vcoproc_that_is_there_is_forgotten(full: Rig) -> None:
    """It has loaded it, or is what it was made from; accesses of its driver came since."""
    before = picture(full)
    seat = full.services.attached["dsp0"][1]
    seat.paused = True
    full.memory.write("context-1", [b"old 0\n" + bytes(4096)], 10_000)
    assert full.repairer.repair("coproc/dsp0")
    assert picture(full) == before
    assert seat.label == "reset"


def test_a_context_that_is_refused_is_given_up(full: Rig) -> None:
    """Better a vcoproc in reset than none that ever runs again."""
    full.memory.write("context-1", [full.services.attached["dsp0"][1].context()], 10_000)
    full.unlease("dsp0")
    full.lease("dsp0")

    def refuse(step: Step) -> None:
        if isinstance(step, LoadContext):
            raise REFUSED

    full.services.before = refuse
    assert not full.repairer.repair("coproc/dsp0")
    assert full.services.attached["dsp0"][1].paused
    assert full.repairer.repair("coproc/dsp0")
    assert not full.services.attached["dsp0"][1].paused
    assert full.memory.contexts() == frozenset()


def test_a_detach_that_is_refused_is_tried_again(full: Rig) -> None:
    full.services.down.add("coproc/dsp0")
    full.changes.destroy_domain("sobel", NO_REQUEST)
    full.services.down.clear()

    def refuse(step: Step) -> None:
        if isinstance(step, DetachVcoproc):
            raise REFUSED

    full.services.before = refuse
    assert not full.repairer.repair("coproc/dsp0"), "memory waits for it"
    full.services.check_reach()
    full.services.before = lambda _step: None
    assert full.repairer.repair("coproc/dsp0")
    assert "domain-2" not in full.services.held()["files"]  # type: ignore[operator]


# --- when to repair -------------------------------------------------------------------------------


def test_marks_are_taken_once_and_together() -> None:
    marks = Marks()
    marks.mark(SCHEDULER)
    marks.mark(IRQ_ROUTER)
    marks.mark(SCHEDULER)
    assert marks.wait() == [IRQ_ROUTER, SCHEDULER]
    marks.stop()
    assert marks.wait() == []


def test_who_does_not_answer_is_asked_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns[0])
    marks = Marks()
    waits = []

    def wait(timeout_s: float | None) -> bool:
        assert timeout_s is not None
        waits.append(round(timeout_s * 1000))
        now_ns[0] += int(timeout_s * limits.S)
        return False

    monkeypatch.setattr(marks._condition, "wait", wait)
    for _ in range(7):
        marks.again(SCHEDULER)
        assert marks.wait() == [SCHEDULER]
    assert waits == [100, 200, 400, 800, 1600, 2000, 2000]


def test_a_new_mark_overrides_the_delay() -> None:
    marks = Marks()
    marks.again(SCHEDULER)
    marks.mark(SCHEDULER)
    assert marks.wait() == [SCHEDULER]
