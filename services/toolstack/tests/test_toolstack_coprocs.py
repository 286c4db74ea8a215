"""Coprocs come and go while the cluster runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from toolstack_coprocs import add, addition, drain, replace_with, seal, tree
from toolstack_rig import NO_REQUEST, REFUSED, TREE, TWO_VCOPROCS, Rig, one_vcoproc, seal_vcoproc

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    PeerLost,
    RequestError,
    StoreUnavailable,
    VcoprocError,
    WrongState,
)
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.moves import Passage
from vcoproc_toolstack.records import CoprocState
from vcoproc_toolstack.repair import FALLBACK
from vcoproc_toolstack.schedules import Setting, Wish
from vcoproc_toolstack.steps import AttachVcoproc, DetachVcoproc, LoadContext, MoveLines
from vcoproc_toolstack.turns import Request
from vcoproc_toolstack.view import State

ONCE = Request("once", b"print")
NPU = tree("npu")


@pytest.fixture
def full(rig: Rig) -> Rig:
    """A domain "fir" with "audio" on dsp0 and "video" on dsp1, which have worked."""
    rig.create(TWO_VCOPROCS)
    work(rig)
    return rig


def work(rig: Rig) -> None:
    """Every context becomes one that can be known again: by the name of its vcoproc."""
    for seats in rig.services.attached.values():
        for seat in seats.values():
            seat.label = seat.step.vcoproc.name
            rig.services.latest[seat.step.vcoproc.vcoproc_id, seat.label] = seat.run_count


def seats(rig: Rig) -> dict[str, dict[str, bool]]:
    """Labels of the contexts on each coproc that has any; whether they may run."""
    return {
        name: {seat.label: not seat.paused for seat in held.values()}
        for name, held in rig.services.attached.items()
        if held
    }


def on(rig: Rig) -> dict[str, str]:
    """Where the store says that each vcoproc is."""
    return {
        vcoproc.resource.removeprefix("domains/"): vcoproc.coproc
        for domain in rig.domains()
        for vcoproc in domain.vcoprocs
    }


def holds(rig: Rig) -> list[tuple[str, int]]:
    with rig.store.read() as view:
        return [(hold.coproc, hold.vcoproc_id) for hold in view.holds()]


def limit(rig: Rig, name: str, memory_bytes: int) -> None:
    """A coproc gets a memory limit, as if its tree said so."""
    present = rig.leases.set
    entries = [
        replace(entry, memory_bytes_max=memory_bytes) if entry.name == name else entry
        for entry in present.tree.coprocs
    ]
    records = [
        replace(record, config=replace(record.config, memory_bytes_max=memory_bytes))
        if record.name == name and record.config
        else record
        for record in present.records.values()
    ]
    rig.leases.apply(CoprocSet.of(replace(present.tree, coprocs=tuple(entries)), records))


def kinds(rig: Rig, name: str) -> list[str]:
    return [kind for each, kind in rig.events() if each == f"coprocs/{name}"]


# --- adding ---------------------------------------------------------------------------------------


def test_one_that_is_added_is_used_like_those_of_the_tree(rig: Rig) -> None:
    assert add(rig, NPU) == b"npu:0a"
    assert rig.leases.state("npu") is CoprocState.OFFLINE
    with pytest.raises(WrongState, match="coproc 'npu' is OFFLINE"):
        rig.create(one_vcoproc("x", "npu"))
    assert rig.lease() == "npu", "a coproc-sim that takes any gets it"
    for name, reference in (("x", "npu"), ("y", "/added/core@e0000000")):
        rig.create(one_vcoproc(name, reference))
    assert on(rig) == {"x/vcoprocs/v": "npu", "y/vcoprocs/v": "npu"}
    assert kinds(rig, "npu") == ["CREATED"]


def test_who_hears_of_one_that_was_added_finds_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for events is woken when everybody sees the coproc already."""
    publish = rig.store._publish
    known: list[bool] = []

    def look(state: State) -> None:
        known.append("npu" in rig.leases.coprocs)
        publish(state)

    monkeypatch.setattr(rig.store, "_publish", look)
    add(rig, NPU)
    rig.removals.remove("npu", NO_REQUEST)
    assert known == [True, True, False], "added, about to be removed, removed"


def test_what_was_added_outlasts_a_restart(rig: Rig) -> None:
    add(rig, tree("npu", "pack", entry="instances = <2>;"), "pack")
    add(rig, NPU)
    rig.lease("npu")
    rig.create(one_vcoproc("x", "npu"))
    before = rig.leases.set
    rig.restart()
    assert rig.leases.set == before
    assert [*rig.leases.coprocs][:3] == ["dsp0", "dsp1", "npu"]
    assert rig.leases.state("npu") is CoprocState.ONLINE
    rig.create(one_vcoproc("y", "npu"))


def test_those_that_a_template_makes_are_answered_and_listed_once_they_are_used(rig: Rig) -> None:
    assert add(rig, tree("pack", entry="instances = <3>;")) == b"pack-0:0a pack-1:0a pack-2:0a"
    assert kinds(rig, "pack") == ["CREATED"]
    listed, _ = rig.queries.coprocs("")
    assert not [each for each in listed if each.template == "pack"]
    listed, _ = rig.queries.coprocs("", show_unused=True)
    assert [each.config.name for each in listed if each.template == "pack"] == [
        "pack-0", "pack-1", "pack-2",
    ]  # fmt: skip
    assert rig.lease() == "pack-0"
    listed, _ = rig.queries.coprocs("")
    assert [each.config.name for each in listed if each.added] == ["pack-0"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('scheduler = "nice";', "added.dts:4: coproc npu: algorithm: 'nice' is not installed"),
        ("scheduler-params { depth = <3>; };", "rr has no such parameter for a coproc"),
        ("scheduler-params { weight = <101>; };", "101 is outside of 0 to 100"),
    ],
)
def test_a_schedule_that_the_scheduler_does_not_know_is_refused(
    rig: Rig, entry: str, words: str
) -> None:
    text = tree("npu", entry=entry)
    with pytest.raises(InvalidConfig) as caught:
        add(rig, text)
    assert words in str(caught.value)
    assert "npu" not in rig.leases.coprocs
    rig.services.down.add("scheduler")
    assert add(rig, text) == b"npu:0a", "nobody can tell while the scheduler does not answer"


def test_all_are_added_or_none(rig: Rig) -> None:
    both = tree("npu", "dsp0")
    with pytest.raises(AlreadyExists, match="'dsp0'"):
        add(rig, both)
    assert "npu" not in rig.leases.coprocs
    assert add(rig, both, "npu") == b"npu:0a"
    rig.restart()
    assert "npu" in rig.leases.coprocs


def test_an_addition_that_is_only_looked_at_changes_nothing(rig: Rig) -> None:
    before, events = rig.leases.set, rig.events()
    assert rig.coproc_changes.check(addition(NPU), seal) == b"npu:0a"
    with pytest.raises(AlreadyExists):
        rig.coproc_changes.check(addition(tree("dsp1")), seal)
    assert (rig.leases.set, rig.events()) == (before, events)
    rig.restart()
    assert "npu" not in rig.leases.coprocs


# --- draining -------------------------------------------------------------------------------------


def test_a_draining_one_keeps_what_it_has_and_takes_nothing_new(full: Rig) -> None:
    assert drain(full, "dsp0") == b"dsp0:1d"
    for ask in (
        lambda: full.create(one_vcoproc("x")),
        lambda: full.changes.create_vcoproc("fir", "coproc=dsp0,name=y", NO_REQUEST, seal_vcoproc),
        lambda: full.moves.move("fir", "video", "dsp0", NO_REQUEST, seal_vcoproc),
    ):
        with pytest.raises(WrongState, match="coproc 'dsp0' is draining"):
            ask()
    assert seats(full) == {"dsp0": {"audio": True}, "dsp1": {"video": True}}
    full.restart()
    with pytest.raises(WrongState, match="draining"):
        full.create(one_vcoproc("x"))
    assert full.coproc_changes.undrain("dsp0", NO_REQUEST, seal) == b"dsp0:1"
    full.create(one_vcoproc("x"))
    assert kinds(full, "dsp0") == ["CHANGED", "CHANGED"]
    with full.store.read() as view:
        assert view.coproc_records() == [], "it is as its tree says again"


def test_a_stopped_domain_starts_again_on_a_draining_coproc(rig: Rig) -> None:
    """It had its place before."""
    rig.changes.create_domain(TWO_VCOPROCS, "x", NO_REQUEST, rig.seal_domain, stopped=True)
    drain(rig, "dsp0")
    rig.lifecycle.start("fir", NO_REQUEST)
    assert on(rig)["fir/vcoprocs/audio"] == "dsp0"


def test_a_drain_moves_everybody_to_where_most_room_is(rig: Rig) -> None:
    for number in range(3):
        rig.create(one_vcoproc(f"d{number}"))
    rig.create(one_vcoproc("there", "ncore-0"))
    work(rig)
    assert drain(rig, "dsp0", move=True) == b"dsp0:0d"
    # Four contexts each: dsp1, ncore-1 and ncore-2 are empty.
    assert on(rig) == {
        "d0/vcoprocs/v": "dsp1",
        "d1/vcoprocs/v": "ncore-1",
        "d2/vcoprocs/v": "ncore-2",
        "there/vcoprocs/v": "ncore-0",
    }
    assert "dsp0" not in seats(rig)
    assert all(runs for held in seats(rig).values() for runs in held.values())
    assert holds(rig) == []
    moved = [name for name, kind in rig.events() if kind == "CHANGED"]
    assert moved == [*(f"domains/d{n}/vcoprocs/v" for n in range(3)), "coprocs/dsp0"]


def test_a_drain_waits_for_others_that_just_restart(full: Rig) -> None:
    """The toolstack was started again, and nobody has leased the coproc that is to take them."""
    asked: list[list[str]] = []

    def come_back(names: Iterable[str], _timeout_ns: int) -> None:
        asked.append(sorted(names))
        for name in asked[-1]:
            if full.leases.get(name) is None:
                full.lease_again(name, full.simulated[name])
        full.settle()

    full.restart()
    for name in full.leases.online():
        full.leases.release(full.leases.need(name))
    full.leases.wait_online = come_back  # type: ignore[method-assign]
    assert drain(full, "dsp0", move=True) == b"dsp0:0d"
    assert on(full)["fir/vcoprocs/audio"] == "dsp1"
    full.coproc_changes.undrain("dsp0", NO_REQUEST, seal)
    drain(full, "dsp1", move=True)
    waited = [names for names in asked if names]
    assert waited == [["dsp0", "dsp1"], ["dsp1"]], "for nobody else when there is room"


def test_one_that_is_removed_while_a_drain_waits_for_its_turn(
    full: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways_out = full.coproc_changes._ways_out

    def remove_first(*args: Any) -> list[Passage]:
        monkeypatch.setattr(full.coproc_changes, "_ways_out", ways_out)
        full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
        return ways_out(*args)

    monkeypatch.setattr(full.coproc_changes, "_ways_out", remove_first)
    with pytest.raises(NotFound):
        drain(full, "dsp0", move=True)


def test_contexts_go_along_and_drivers_are_told(full: Rig) -> None:
    drain(full, "dsp0", move=True)
    [(to, labels)] = [(name, held) for name, held in seats(full).items() if "audio" in held]
    assert labels == {"audio": True}
    assert full.services.coproc_of_lines[full.domains()[0].vcoprocs[0].vcoproc_id] == to
    [(left, _)] = full.services.told_moved
    assert left == "dsp0"


def test_whoever_is_paused_stays_so_on_the_other_coproc(full: Rig) -> None:
    full.lifecycle.pause("fir", NO_REQUEST)
    drain(full, "dsp0", move=True)
    assert not any(runs for held in seats(full).values() for runs in held.values())
    full.lifecycle.resume("fir", NO_REQUEST)
    assert all(runs for held in seats(full).values() for runs in held.values())


def test_a_drain_that_nobody_knew_was_kept_is_shown_once_it_is_found_out(rig: Rig) -> None:
    database = rig.store._database
    run = database.run

    def break_after(work: Callable[[Any], Any]) -> Any:
        run(work)
        database.run, database.in_doubt = run, True  # type: ignore[method-assign]
        raise StoreUnavailable("store", "the connection broke")

    database.run = break_after  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        drain(rig, "dsp0")
    assert not rig.leases.set.draining("dsp0")
    with pytest.raises(WrongState, match="coproc 'dsp0' is draining"):
        rig.create(one_vcoproc("x"))


def test_vcoprocs_of_a_stopped_domain_get_another_place(rig: Rig) -> None:
    rig.changes.create_domain(TWO_VCOPROCS, "x", NO_REQUEST, rig.seal_domain, stopped=True)
    assert drain(rig, "dsp0", move=True) == b"dsp0:0d"
    assert on(rig)["fir/vcoprocs/audio"] != "dsp0"
    rig.lifecycle.start("fir", NO_REQUEST)


def test_when_not_all_fit_nobody_moves(full: Rig) -> None:
    full.create(one_vcoproc("x"))
    for name in ("dsp1", "ncore-0", "ncore-1"):
        drain(full, name)
    for number in range(3):
        full.create(one_vcoproc(f"y{number}", "ncore-2"))
    before = on(full), seats(full)
    with pytest.raises(LimitExceeded, match=r"2 vcoprocs of coproc dsp0 .*: at most 1"):
        drain(full, "dsp0", move=True)
    assert (on(full), seats(full)) == before
    full.create(one_vcoproc("z", "dsp0"))  # and it is not draining


@pytest.mark.parametrize("kind", [AttachVcoproc, LoadContext, MoveLines])
@pytest.mark.parametrize("error", [REFUSED, PeerLost("somebody")])
def test_when_one_cannot_be_moved_nobody_is(
    rig: Rig, kind: type[object], error: VcoprocError
) -> None:
    for number in range(3):
        rig.create(one_vcoproc(f"d{number}"))
    work(rig)
    before = on(rig), seats(rig), rig.services.held()
    count = [0]

    def second(step: object) -> None:
        count[0] += isinstance(step, kind)
        if count[0] == 2 and isinstance(step, kind):
            raise error

    rig.services.before = second
    with pytest.raises(type(error)):
        drain(rig, "dsp0", move=True)
    rig.services.before = lambda _step: None
    rig.settle()
    assert (on(rig), seats(rig), rig.services.held()) == before
    assert not rig.leases.set.draining("dsp0")
    assert holds(rig) == []


# --- removing -------------------------------------------------------------------------------------


def test_one_with_vcoprocs_is_only_removed_when_they_are_to_go_too(full: Rig) -> None:
    with pytest.raises(WrongState, match="coproc 'dsp0' is used by 1 vcoprocs"):
        full.removals.remove("dsp0", NO_REQUEST)
    assert seats(full)["dsp0"] == {"audio": True}
    full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    assert "dsp0" not in full.leases.coprocs
    assert on(full) == {"fir/vcoprocs/video": "dsp1"}
    assert seats(full) == {"dsp1": {"video": True}}
    assert "dsp0" not in full.services.scheduled
    files = {path.name for path in full.memory_dir.iterdir()}
    assert files == set(full.domains()[0].files())
    with pytest.raises(NotFound):
        full.removals.remove("dsp0", NO_REQUEST)


def test_one_of_the_tree_stays_removed_until_it_is_added_again(rig: Rig) -> None:
    rig.removals.remove("dsp1", NO_REQUEST)
    rig.restart()
    assert "dsp1" not in rig.leases.coprocs
    with pytest.raises(InvalidConfig, match="'dsp1' is no shared coproc"):
        rig.create(one_vcoproc("x", "dsp1"))
    again = rig.coproc_changes.add(addition(TREE, "dsp1"), NO_REQUEST, seal)
    assert again == b"dsp1:0", "as its tree says"
    rig.restart()
    rig.lease("dsp1")
    rig.create(one_vcoproc("x", "dsp1"))
    assert kinds(rig, "dsp1") == ["CHANGED", "DESTROYED", "CREATED"]


def test_its_schedule_is_forgotten_with_it(rig: Rig) -> None:
    rig.schedule_changes.set_schedule("dsp1", Wish("credit"), NO_REQUEST, lambda *_: b"")
    rig.removals.remove("dsp1", NO_REQUEST)
    add(rig, TREE, "dsp1")
    with rig.store.read() as view:
        assert view.settings() == {}
    rig.lease("dsp1")
    rig.create(one_vcoproc("x", "dsp1"))
    assert rig.services.scheduling.settings["dsp1"] == Setting(FALLBACK, 2_000_000, ())


def test_an_offline_one_can_be_removed(full: Rig) -> None:
    full.unlease("dsp0")
    full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    assert "dsp0" not in full.leases.coprocs
    assert on(full) == {"fir/vcoprocs/video": "dsp1"}
    assert holds(full) == []
    assert {path.name for path in full.memory_dir.iterdir()} == set(full.domains()[0].files())


def test_memory_stays_as_long_as_a_silent_coproc_sim_may_reach_it(full: Rig) -> None:
    [name] = [name for _, name in full.domains()[0].vcoprocs[0].mapped_files()]
    full.services.down.add("coproc/dsp0")
    full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    assert on(full) == {"fir/vcoprocs/video": "dsp1"}
    assert full.leases.set.leaving("dsp0")
    with pytest.raises(WrongState, match="being removed"):
        full.create(one_vcoproc("x"))
    [cortex] = full.queries.coproc_types()
    assert (cortex.coproc_count, cortex.available_count) == (5, 4)
    assert "dsp0" not in [load.name for load in cortex.rooms]
    with pytest.raises(WrongState, match="being removed"):
        full.removals.remove("dsp0", NO_REQUEST)
    full.services.check_reach()
    assert (full.memory_dir / name).exists()
    full.services.down.clear()
    full.settle()
    assert "dsp0" not in full.leases.coprocs
    assert not (full.memory_dir / name).exists()
    assert holds(full) == []


def test_a_silent_coproc_sim_is_asked_once_however_many_vcoprocs_it_has(rig: Rig) -> None:
    """Each question takes seconds, and every other change waits meanwhile."""
    for number in range(3):
        rig.create(one_vcoproc(f"d{number}"))
    asked: list[object] = []

    def silent(step: object) -> None:
        if isinstance(step, DetachVcoproc):
            asked.append(step)
            raise PeerLost("coproc dsp0")

    rig.services.before = silent
    rig.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    assert len(asked) == 2, "to take them all away, and to end the removal"
    assert on(rig) == {}
    assert [number for _, number in holds(rig)] == [1, 2, 3]
    assert rig.events()[-3:] == [(f"domains/d{n}/vcoprocs/v", "DESTROYED") for n in range(3)]
    rig.services.before = lambda _step: None
    rig.settle()
    assert "dsp0" not in rig.leases.coprocs
    assert holds(rig) == []


def test_when_a_silent_coproc_sim_ends_the_removal_does_too(full: Rig) -> None:
    full.services.down.add("coproc/dsp0")
    full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    full.unlease("dsp0")
    full.settle()
    assert "dsp0" not in full.leases.coprocs
    assert holds(full) == []


def test_a_scheduler_that_does_not_answer_forgets_it_later(rig: Rig) -> None:
    rig.create(one_vcoproc("x"))
    rig.changes.destroy_domain("x", NO_REQUEST)
    rig.services.down.add("scheduler")
    rig.removals.remove("dsp0", NO_REQUEST)
    assert "dsp0" in rig.services.scheduled
    rig.services.down.clear()
    rig.settle()
    assert "dsp0" not in rig.services.scheduled


def test_a_domain_that_cannot_lose_a_vcoproc_now_keeps_its_coproc(full: Rig) -> None:
    pieces = full.saving.save_domain("fir", shut_down=True)
    next(iter(pieces))
    with pytest.raises(WrongState, match="SAVING"):
        full.removals.remove("dsp0", NO_REQUEST, destroy_vcoprocs=True)
    assert not full.leases.set.leaving("dsp0")


# --- replacing ------------------------------------------------------------------------------------


def test_a_replacement_takes_everything_over(full: Rig) -> None:
    full.create(one_vcoproc("other"))
    work(full)
    add(full, NPU)
    full.lease("npu")
    assert replace_with(full, "dsp0", "npu") == b"npu:2a"
    assert on(full) == {
        "fir/vcoprocs/audio": "npu",
        "fir/vcoprocs/video": "dsp1",
        "other/vcoprocs/v": "npu",
    }
    assert seats(full) == {"npu": {"audio": True, "v": True}, "dsp1": {"video": True}}
    assert "dsp0" not in full.leases.coprocs
    assert "dsp0" not in full.services.scheduled
    assert {left for left, _ in full.services.told_moved} == {"dsp0"}
    assert holds(full) == []
    full.restart()
    assert "dsp0" not in full.leases.coprocs


def test_drivers_are_told_of_the_move_also_by_a_coproc_sim_that_was_silent(full: Rig) -> None:
    add(full, NPU)
    full.lease("npu")

    def silent(step: object) -> None:
        if isinstance(step, MoveLines):
            full.services.down.add("coproc/dsp0")

    full.services.after = silent
    replace_with(full, "dsp0", "npu")
    assert full.leases.set.leaving("dsp0")
    assert [coproc for coproc, _ in holds(full)] == ["dsp0"]
    full.services.after = lambda _step: None
    full.services.down.clear()
    full.settle()
    assert [coproc for coproc, _ in full.services.told_moved] == ["dsp0"]
    assert "dsp0" not in full.leases.coprocs


REFUSALS: list[tuple[str, type[RequestError], str]] = [
    ("dsp0", InvalidArgument, "is the coproc that is to be replaced"),
    ("nobody", NotFound, "'nobody'"),
    ("other", WrongState, "'other' is a acme,npu; this needs a vcoproc,cortex-m4"),
    ("offline", WrongState, "'offline' is OFFLINE"),
    ("drained", WrongState, "'drained' is draining"),
    ("full", LimitExceeded, "vcoprocs on coproc full: at most 1"),
    ("small", LimitExceeded, "memory of all domains on coproc small: at most 1000000 bytes"),
    ("strict", InvalidArgument, "weight of vcoproc"),
]


@pytest.mark.parametrize(("replacement", "error", "words"), REFUSALS)
def test_a_replacement_that_does_not_do_changes_nothing(
    full: Rig, replacement: str, error: type[RequestError], words: str
) -> None:
    add(full, tree("other", base=0xA000_0000, type="acme,npu"))
    add(full, tree("offline", "drained", base=0xB000_0000))
    add(full, tree("full", base=0xC000_0000, entry="max-vcoprocs = <1>;"))
    add(full, tree("small", base=0xD000_0000))
    limit(full, "small", 1_000_000)
    add(full, tree("strict", base=0xE000_0000, entry='scheduler = "edf";'))
    for name in ("drained", "full", "small", "strict"):
        full.lease(name)
    drain(full, "drained")
    full.create(one_vcoproc("guest", "full"))
    work(full)
    before = on(full), seats(full), full.services.held(), full.leases.set
    with pytest.raises(error, match=words):
        replace_with(full, "dsp0", replacement)
    full.settle()
    assert (on(full), seats(full), full.services.held(), full.leases.set) == before


# --- again ----------------------------------------------------------------------------------------


def test_the_same_request_again_gets_the_same_answer_and_does_nothing(full: Rig) -> None:
    add(full, tree("spare", base=0xC000_0000))
    full.lease("spare")
    for ask in (
        lambda: add(full, NPU, request=Request("a", b"1")),
        lambda: drain(full, "dsp0", move=True, request=Request("b", b"2")),
        lambda: full.coproc_changes.undrain("dsp0", Request("c", b"3"), seal),
        lambda: replace_with(full, "dsp1", "spare", Request("d", b"4")),
        lambda: full.removals.remove("dsp0", Request("e", b"5")),
    ):
        answer = ask()
        events, before = full.events(), (on(full), full.leases.set)
        assert ask() == answer
        assert (full.events(), (on(full), full.leases.set)) == (events, before)
        full.restart()
        assert ask() == answer
        assert full.leases.set == before[1]


# --- memory ---------------------------------------------------------------------------------------


def test_domains_on_a_coproc_may_not_have_more_memory_than_it_allows(rig: Rig) -> None:
    limit(rig, "dsp0", 2 << 20)
    rig.create(one_vcoproc("a"))
    rig.create(one_vcoproc("b"))
    words = "memory of all domains on coproc dsp0: at most 2097152 bytes"
    with pytest.raises(LimitExceeded, match=words):
        rig.create(one_vcoproc("c"))
    rig.create(one_vcoproc("c", "dsp1"))
    with pytest.raises(LimitExceeded, match=words):
        rig.changes.create_vcoproc("c", "coproc=dsp0,name=w", NO_REQUEST, seal_vcoproc)
    with pytest.raises(LimitExceeded, match=words):
        rig.moves.move("c", "v", "dsp0", NO_REQUEST, seal_vcoproc)
    # One that is there already takes no more for another vcoproc.
    rig.changes.create_vcoproc("a", "coproc=dsp0,name=w", NO_REQUEST, seal_vcoproc)
    rig.changes.destroy_domain("b", NO_REQUEST)
    rig.moves.move("c", "v", "dsp0", NO_REQUEST, seal_vcoproc)


def test_a_stopped_domain_has_no_memory_until_it_is_started(rig: Rig) -> None:
    limit(rig, "dsp0", 1 << 20)
    text = one_vcoproc("a")
    rig.changes.create_domain(text, "a", NO_REQUEST, rig.seal_domain, stopped=True)
    rig.create(one_vcoproc("b"))
    with pytest.raises(LimitExceeded, match="on coproc dsp0"):
        rig.lifecycle.start("a", NO_REQUEST)
    assert rig.queries.coproc("dsp0").memory_bytes == 1 << 20
    rig.lifecycle.shut_down("b", 0, NO_REQUEST)
    assert rig.queries.coproc("dsp0").memory_bytes == 0
    rig.lifecycle.start("a", NO_REQUEST)


def test_a_drain_minds_the_memory_of_the_others(rig: Rig) -> None:
    for name in ("ncore-0", "ncore-1", "ncore-2"):
        drain(rig, name)
    rig.create(one_vcoproc("big").replace("memory = 1", "memory = 4"))
    rig.create(one_vcoproc("small"))
    limit(rig, "dsp1", 4 << 20)
    with pytest.raises(LimitExceeded, match="at most 1"):
        drain(rig, "dsp0", move=True)
    add(rig, NPU)
    rig.lease("npu")
    limit(rig, "npu", 1 << 20)
    drain(rig, "dsp0", move=True)
    assert on(rig) == {"big/vcoprocs/v": "dsp1", "small/vcoprocs/v": "npu"}


# --- types ----------------------------------------------------------------------------------------


def test_types_say_how_many_vcoprocs_still_fit(full: Rig) -> None:
    add(full, tree("other", base=0xA000_0000, type="acme,npu"))
    add(full, tree("npu", entry="max-vcoprocs = <2>;"))
    full.lease("npu")
    full.create(one_vcoproc("x", "npu"))
    drain(full, "dsp1")
    full.unlease("ncore-2")
    acme, cortex = full.queries.coproc_types()
    assert (acme.compatible, acme.coproc_count, acme.available_count) == ("acme,npu", 1, 0)
    assert (acme.free_count, acme.rooms) == (0, ())
    # dsp0, dsp1 and three ncore are there, and npu; dsp1 drains and ncore-2 is offline.
    assert (cortex.coproc_count, cortex.available_count, cortex.vcoproc_count) == (6, 4, 3)
    # 4 contexts is what the type has; dsp0 may have 3 and has 1; npu may have 2 and has 1.
    assert [(load.name, load.free_count) for load in cortex.rooms] == [
        ("ncore-0", 4), ("ncore-1", 4), ("dsp0", 2), ("npu", 1),
    ]  # fmt: skip
    assert cortex.free_count == 11
