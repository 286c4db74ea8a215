"""Memory is there as long as a coproc-sim may reach it, and not used again meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toolstack_fakes import Killed
from toolstack_operations import seal_vcoproc
from toolstack_picture import WRITTEN, write_memory
from toolstack_rig import NO_REQUEST, NOTHING, Rig, one_vcoproc

from vcoproc import limits
from vcoproc.errors import LimitExceeded, PeerLost
from vcoproc_toolstack.records import Hold
from vcoproc_toolstack.steps import AttachVcoproc, LoadContext, Step

FILES = ["domain-1", "vcoproc-1.1"]


def files(rig: Rig) -> object:
    return rig.services.held()["files"]


def holds(rig: Rig) -> list[Hold]:
    with rig.store.read() as view:
        return view.holds()


def silence(rig: Rig, coproc: str) -> None:
    rig.services.down.add(f"coproc/{coproc}")


def test_it_goes_once_the_silent_coproc_sim_has_let_go(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))
    silence(rig, "dsp0")
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert files(rig) == FILES
    assert holds(rig) == [Hold("dsp0", 1, tuple(FILES))]
    rig.services.down.clear()
    rig.settle()
    assert (rig.services.held(), holds(rig)) == (NOTHING, [])


def test_it_goes_when_another_coproc_sim_takes_the_coproc(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))
    silence(rig, "dsp0")
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.unlease("dsp0")  # it dies
    rig.services.down.clear()
    assert rig.repairer.repair("coproc/dsp0")
    assert files(rig) == FILES, "as long as nobody says so it is not sure"
    rig.lease("dsp0")
    assert rig.repairer.repair("coproc/dsp0")
    assert rig.services.held() == NOTHING


def test_it_outlasts_a_restart_of_the_toolstack(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))
    silence(rig, "dsp0")
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.reborn()
    rig.services.check_reach()
    assert files(rig) == FILES
    rig.services.down.clear()
    rig.settle()
    assert rig.services.held() == NOTHING


def test_a_toolstack_that_was_killed_in_a_destruction_does_not_remove_it_at_its_start(
    rig: Rig,
) -> None:
    """No coproc-sim has come back to it by then; but they are all there, and have it mapped."""
    rig.create(one_vcoproc("fir"))

    def die(_step: Step) -> None:
        raise Killed

    rig.services.before = die
    with pytest.raises(Killed):
        rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.reborn()
    assert rig.domains() == []
    rig.services.check_reach()
    rig.settle()
    assert rig.services.held() == NOTHING


@pytest.mark.parametrize("silent", ["ncore-0", "dsp0"])
def test_a_move_that_one_of_the_two_did_not_end_holds_it(rig: Rig, silent: str) -> None:
    """ncore-0 falls silent when it has attached, dsp0 when it has given the context away."""
    rig.create(one_vcoproc("fir"))
    last = AttachVcoproc if silent == "ncore-0" else LoadContext

    def fall_silent(step: Step) -> None:
        if isinstance(step, last):
            silence(rig, silent)

    rig.services.after = fall_silent
    try:
        rig.moves.move("fir", "v", "ncore-0", NO_REQUEST, seal_vcoproc)
    except PeerLost:
        assert silent == "ncore-0"
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.services.check_reach()
    assert files(rig) == FILES
    rig.services.down.clear()
    rig.settle()
    assert (rig.services.held(), holds(rig)) == (NOTHING, [])


def test_a_move_that_was_cut_off_holds_it_for_the_new_coproc(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))

    def die(step: Step) -> None:
        if isinstance(step, AttachVcoproc):
            raise Killed

    rig.services.after = die
    with pytest.raises(Killed):
        rig.moves.move("fir", "v", "ncore-0", NO_REQUEST, seal_vcoproc)
    rig.services.forget_coproc("dsp0")  # only the new one has it
    silence(rig, "ncore-0")
    rig.reborn()
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.services.check_reach()
    rig.services.down.clear()
    rig.settle()
    assert rig.services.held() == NOTHING


def test_a_stopped_domain_gets_other_memory_only_when_the_old_one_is_free(rig: Rig) -> None:
    rig.create(one_vcoproc("fir"))
    write_memory(rig)
    silence(rig, "dsp0")
    rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
    assert files(rig) == FILES
    with pytest.raises(PeerLost, match="dsp0"):
        rig.lifecycle.start("fir", NO_REQUEST)
    assert rig.memory.path_of("domain-1").read_bytes().startswith(WRITTEN)
    rig.services.down.clear()
    rig.lifecycle.start("fir", NO_REQUEST)
    rig.services.check_reach()
    assert not any(rig.memory.path_of("domain-1").read_bytes())
    assert holds(rig) == []


def test_a_number_is_not_given_out_again_while_its_memory_is_held(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DOMID_MAX", 2)
    rig.create(one_vcoproc("fir"))
    silence(rig, "dsp0")
    rig.changes.destroy_domain("fir", NO_REQUEST)
    for _ in range(2):
        rig.create(one_vcoproc("a", "dsp1"))
        assert [domain.domid for domain in rig.domains()] == [2]
        rig.services.check_reach()
        rig.changes.destroy_domain("a", NO_REQUEST)
    rig.services.down.clear()
    rig.settle()
    rig.create(one_vcoproc("a", "dsp1"))
    assert [domain.domid for domain in rig.domains()] == [1]


def test_what_is_held_is_not_promised_to_another_domain(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.create(one_vcoproc("fir"))
    rig.memory.path_of("domain-1").write_bytes(b"x" * limits.MIB)
    silence(rig, "dsp0")
    rig.changes.destroy_domain("fir", NO_REQUEST)

    class Small:
        f_bavail = 200
        f_frsize = 4096

    monkeypatch.setattr("os.statvfs", lambda _path: Small)
    with pytest.raises(LimitExceeded, match="memory of all domains"):
        rig.create(one_vcoproc("a", "dsp1"))


def test_one_vcoproc_of_a_domain_is_held_by_itself(rig: Rig) -> None:
    rig.create()
    silence(rig, "dsp0")
    rig.changes.destroy_vcoproc("fir", "audio", NO_REQUEST)
    assert files(rig) == ["domain-1", "vcoproc-1.1", "vcoproc-2.1"]
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert files(rig) == ["domain-1", "vcoproc-1.1"], "the old one reaches the domain's memory too"
    rig.services.check_reach()
    rig.services.down.clear()
    rig.settle()
    assert rig.services.held() == NOTHING


def test_it_goes_when_the_tree_has_the_coproc_no_more(rig: Rig) -> None:
    """Nobody can ever lease it; a coproc-sim that had it is told so, and ends."""
    rig.create(one_vcoproc("fir"))
    rig.create(one_vcoproc("other"))
    entries = [entry for entry in rig.system.coprocs if entry.name != "dsp0"]
    rig.unlease("dsp0")
    rig.system = replace(rig.system, coprocs=tuple(entries))
    rig.restart()
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.settle()
    assert holds(rig) == [Hold("dsp0", 1, tuple(FILES))], "it waits with what it has for the other"
    rig.changes.destroy_domain("other", NO_REQUEST)
    rig.settle()
    assert (rig.services.held(), holds(rig)) == (NOTHING, [])
