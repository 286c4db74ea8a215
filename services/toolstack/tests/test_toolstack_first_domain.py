"""The first domain: made by itself when the system's tree asks for it, and nobody else's to end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from toolstack_operations import archive
from toolstack_rig import NO_REQUEST, Rig, one_vcoproc, seal_vcoproc

from vcoproc.errors import InvalidArgument, WrongState
from vcoproc.limits import DOMID_FIRST, DOMID_MIN
from vcoproc_toolstack.first_domain import FIRST_MARK
from vcoproc_toolstack.restoring import Wishes

FIRST = "Domain-0"


@pytest.fixture
def asked(rig: Rig) -> Rig:
    """A rig whose tree asks for a first domain with a vcoproc on dsp0 and one on dsp1."""
    rig.ask_for_first_domain("coproc=dsp0,name=a,weight=7", "coproc=dsp1,name=b")
    return rig


@pytest.fixture
def made(asked: Rig) -> Rig:
    assert asked.first_domain.make()
    return asked


def test_it_is_made_once_its_coprocs_are_online(asked: Rig) -> None:
    asked.unlease("dsp1")
    assert not asked.first_domain.make()
    assert asked.domains() == []
    asked.lease("dsp1")
    assert asked.first_domain.make()
    [domain] = asked.domains()
    assert (domain.name, domain.domid, domain.memory_bytes) == (FIRST, DOMID_FIRST, 1 << 20)
    assert [(v.name, v.coproc, v.params) for v in domain.vcoprocs] == [
        ("a", "dsp0", (("weight", 7),)),
        ("b", "dsp1", ()),
    ]
    assert set(asked.services.domids) == {DOMID_FIRST}
    assert asked.events() == [(f"domains/{FIRST}", "CREATED")]


def test_the_repair_thread_makes_it_when_it_is_marked(asked: Rig) -> None:
    assert asked.repairer.repair(FIRST_MARK)
    assert [domain.name for domain in asked.domains()] == [FIRST]


def test_a_tree_that_does_not_ask_gets_none(rig: Rig) -> None:
    assert rig.first_domain.make()
    assert rig.domains() == []


def test_it_is_kept_as_it_was_last_whatever_the_tree_says(made: Rig) -> None:
    made.changes.destroy_vcoproc(FIRST, "b", NO_REQUEST)
    made.changes.create_vcoproc(FIRST, "coproc=ncore-0,name=c", NO_REQUEST, seal_vcoproc)
    made.moves.move(FIRST, "a", "ncore-1", NO_REQUEST, seal_vcoproc)
    made.restart()
    assert made.first_domain.make()
    [domain] = made.domains()
    assert [(v.name, v.coproc) for v in domain.vcoprocs] == [("a", "ncore-1"), ("c", "ncore-0")]
    assert len([kind for _, kind in made.events() if kind == "CREATED"]) == 2


def test_why_it_cannot_be_made_is_said_once(asked: Rig) -> None:
    asked.coproc_changes.drain("dsp1", NO_REQUEST, lambda *_: b"")
    before = len(asked.events())
    for _ in range(3):
        assert not asked.first_domain.make()
    assert asked.events()[before:] == [(f"domains/{FIRST}", "CHANGED")]
    with asked.store.read() as view:
        *_, event = view.events(1)
    assert event.description == (
        "cannot be made yet: coproc 'dsp1' is draining; this needs one that takes new vcoprocs"
    )
    asked.coproc_changes.undrain("dsp1", NO_REQUEST, lambda *_: b"")
    assert asked.first_domain.make()


def test_a_service_that_does_not_answer_yet_is_no_news(asked: Rig) -> None:
    asked.services.down.add("irq-router")
    assert not asked.first_domain.make()
    assert asked.events() == []
    assert asked.domains() == []
    asked.services.down.clear()
    assert asked.first_domain.make()


VERBS: dict[str, Callable[[Rig], object]] = {
    "destroy": lambda rig: rig.changes.destroy_domain(FIRST, NO_REQUEST),
    "rename": lambda rig: rig.lifecycle.rename(FIRST, "x", NO_REQUEST),
    "pause": lambda rig: rig.lifecycle.pause(FIRST, NO_REQUEST),
    "resume": lambda rig: rig.lifecycle.resume(FIRST, NO_REQUEST),
    "start": lambda rig: rig.lifecycle.start(FIRST, NO_REQUEST),
    "shut down": lambda rig: rig.lifecycle.shut_down(FIRST, 0, NO_REQUEST),
    "crash": lambda rig: rig.lifecycle.crash(FIRST, "", NO_REQUEST),
    "save": lambda rig: list(rig.saving.save_domain(FIRST, shut_down=False)),
    "save and shut down": lambda rig: list(rig.saving.save_domain(FIRST, shut_down=True)),
}


@pytest.mark.parametrize("verb", VERBS)
def test_its_life_is_that_of_the_system(made: Rig, verb: str) -> None:
    before = made.domains(), made.services.held()
    with pytest.raises(WrongState, match=r"'Domain-0' is (the first|what the system's)"):
        VERBS[verb](made)
    assert (made.domains(), made.services.held()) == before


def test_once_no_tree_asks_for_it_it_can_be_destroyed(made: Rig) -> None:
    made.ask_for_first_domain()
    made.changes.destroy_domain(FIRST, NO_REQUEST)
    assert made.domains() == []


def test_nobody_else_gets_its_name_or_number(rig: Rig) -> None:
    rig.create(one_vcoproc("x"))
    words = "Domain-0 is the first domain's"
    for ask in (
        lambda: rig.create(one_vcoproc(FIRST)),
        lambda: rig.changes.check_domain(one_vcoproc(FIRST), "x"),
        lambda: rig.lifecycle.rename("x", FIRST, NO_REQUEST),
    ):
        with pytest.raises(InvalidArgument, match=words):
            ask()
    with (
        rig.restoring.take_in([archive()]) as upload,
        pytest.raises(InvalidArgument, match=words),
    ):
        rig.restoring.restore_domain(upload, Wishes(FIRST, False, {}), NO_REQUEST, rig.seal_domain)
    assert [domain.domid for domain in rig.domains()] == [DOMID_MIN]
