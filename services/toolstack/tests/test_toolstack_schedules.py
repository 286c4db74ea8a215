"""Schedules set at run time: in scheduler and store or in neither, and kept over restarts."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from toolstack_rig import NO_REQUEST, Rig, one_vcoproc
from toolstack_scheduling import ALGORITHMS, FakeStream

from vcoproc.errors import (
    InvalidArgument,
    NotAdmitted,
    NotFound,
    PeerLost,
    PeerTimeout,
    VcoprocError,
    WrongState,
)
from vcoproc_toolstack.fallbacks import FallbackWatch, note_fallback
from vcoproc_toolstack.records import VcoprocRecord
from vcoproc_toolstack.schedule_changes import Scheduled
from vcoproc_toolstack.schedules import (
    Algorithm,
    Fallback,
    Setting,
    Wish,
    check_parameters,
    find_algorithm,
    plan_change,
)
from vcoproc_toolstack.steps import SCHEDULER
from vcoproc_toolstack.store import Change
from vcoproc_toolstack.turns import Request

FIR = "domains/fir/vcoprocs/audio"
OTHER = "domains/other/vcoprocs/v"
MS = 1_000_000


@pytest.fixture
def full(rig: Rig) -> Rig:
    """fir/audio (weight 512) and other/v on dsp0, whose tree says weight = 7; fir/video on dsp1."""
    rig.create()
    rig.create(one_vcoproc("other"))
    assert rig.repairer.repair(SCHEDULER)  # which is told of the idle coprocs too
    return rig


def seal(scheduled: Scheduled, lost: tuple[str, ...]) -> bytes:
    return f"{scheduled.view.algorithm} {'; '.join(lost)}".encode()


def seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    return repr(vcoproc.params).encode()


def put(rig: Rig, wish: Wish, request: Request = NO_REQUEST, coproc: str = "dsp0") -> str:
    return rig.schedule_changes.set_schedule(coproc, wish, request, seal).decode()


def put_one(rig: Rig, request: Request = NO_REQUEST, **parameters: int) -> str:
    return rig.schedule_changes.set_parameters(
        "fir", "audio", parameters, request, seal_vcoproc
    ).decode()


def params(rig: Rig) -> dict[str, tuple[tuple[str, int], ...]]:
    """Parameters in the store."""
    return {v.resource: v.params for domain in rig.domains() for v in domain.vcoprocs}


def state(rig: Rig) -> object:
    """Everything that a refused change must leave as it was."""
    with rig.store.read() as view:
        settings = view.settings()
        revision = view.revision()
    scheduling = rig.services.scheduling
    return (settings, params(rig), revision, dict(scheduling.settings), rig.services.held())


def texts(rig: Rig, name: str) -> list[str]:
    with rig.store.read() as view:
        return [each.description for each in view.events(1) if each.name == name]


# --- what is set ----------------------------------------------------------------------------------


def test_another_algorithm_keeps_what_both_know_and_tells_what_is_lost(full: Rig) -> None:
    assert put(full, Wish("credit", 2 * MS, {"min_run_us": 50})) == (
        "credit weight=7 of coprocs/dsp0"
    )
    wanted = Setting("credit", 2 * MS, (("min_run_us", 50),))
    assert full.services.scheduling.settings["dsp0"] == wanted
    assert params(full)[FIR] == (("weight", 512),)
    assert texts(full, "coprocs/dsp0/schedule") == [
        "algorithm credit, slice 2000 us, min_run_us=50, lost: weight=7 of coprocs/dsp0"
    ]
    lost = put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 1000}, OTHER: {"budget_us": 9000}}))
    assert lost == f"edf weight=512 of {FIR}"
    assert params(full)[FIR] == (("budget_us", 1000),)
    assert full.services.scheduling.settings["dsp0"] == Setting("edf", 2 * MS, wanted.parameters)
    assert texts(full, OTHER) == ["parameters: budget_us=9000"]


def test_only_what_is_named_changes(full: Rig) -> None:
    put(full, Wish(slice_ns=3 * MS))
    assert full.services.scheduling.settings["dsp0"] == Setting("rr", 3 * MS, (("weight", 7),))
    put(full, Wish(parameters={"min_run_us": 9}))
    wanted = Setting("rr", 3 * MS, (("min_run_us", 9), ("weight", 7)))
    assert full.services.scheduling.settings["dsp0"] == wanted
    put_one(full, weight=3)
    assert full.services.scheduled["dsp0"] == {1: (("weight", 3),), 3: ()}


def test_what_is_as_in_the_tree_again_is_the_trees(full: Rig) -> None:
    put(full, Wish("credit"))
    with full.store.read() as view:
        assert list(view.settings()) == ["dsp0"]
    put(full, Wish("rr", parameters={"weight": 7}))
    with full.store.read() as view:
        assert view.settings() == {}
    assert not full.schedules.schedule("dsp0").overridden


def test_setting_what_is_set_already_makes_no_event(full: Rig) -> None:
    put(full, Wish("credit"))
    before = state(full)
    put(full, Wish("credit"))
    put_one(full, weight=512)
    assert state(full) == before


def test_a_repeated_request_does_nothing_more(full: Rig) -> None:
    request = Request("once", b"fingerprint")
    first = put(full, Wish("credit"), request)
    put(full, Wish("rr"))
    count = full.services.scheduling.set_count
    assert put(full, Wish("credit"), request) == first
    assert full.services.scheduling.set_count == count
    assert put_one(full, Request("two", b"x"), weight=5) == put_one(
        full, Request("two", b"x"), weight=5
    )
    with pytest.raises(InvalidArgument, match="was used for another request"):
        put(full, Wish("rr"), Request("once", b"another"))


def test_a_new_vcoproc_comes_under_what_was_set(full: Rig) -> None:
    put(full, Wish("credit", 2 * MS))
    full.create('name = "late"\nvcoproc = ["coproc=dsp0,name=v,cap=50"]')
    assert full.services.scheduling.settings["dsp0"] == Setting("credit", 2 * MS, ())
    assert full.services.scheduled["dsp0"][4] == (("cap", 50),)
    assert full.queries.coproc("dsp0").config.scheduler == "credit"
    assert [each.config.slice_ns for each in full.queries.coprocs("")[0][:1]] == [2 * MS]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish("credt"), "algorithm: 'credt' is not installed.*did you mean 'credit'"),
        (Wish("credit", parameters={"weight": 3}), "weight of coproc dsp0: credit has this param"),
        (
            Wish("edf", vcoprocs={FIR: {"buget_us": 1}}),
            r"buget_us of fir/audio: .*did you mean 'budget_us'\? \(0 to 1000000 us\)",
        ),
        (Wish(vcoprocs={FIR: {"weight": 65536}}), "weight of fir/audio: 65536 is outside of 0 to"),
        (Wish(parameters={"min_run_us": -1}), "min_run_us of coproc dsp0: -1 us is outside of 0"),
        (Wish(vcoprocs={"domains/fir/vcoprocs/video": {}}), "is none of coproc dsp0"),
        (Wish(vcoprocs={"domains/x/vcoprocs/y": {"weight": 1}}), "is none of coproc dsp0"),
    ],
)
def test_what_is_wrong_is_refused_with_what_would_be_right(
    full: Rig, wish: Wish, words: str
) -> None:
    before = state(full)
    with pytest.raises(InvalidArgument, match=words):
        put(full, wish)
    assert state(full) == before


def test_what_cannot_be_admitted_changes_nothing(full: Rig) -> None:
    before = state(full)
    with pytest.raises(NotAdmitted):
        put(full, Wish("edf", 9 * MS))
    assert state(full) == before
    put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 1000}}))
    before = state(full)
    with pytest.raises(NotAdmitted):
        put_one(full, budget_us=9000)
    assert state(full) == before
    assert full.marked == [], "nothing is in doubt"


def test_domains_with_parameters_that_do_not_fit_are_refused_whole(full: Rig) -> None:
    put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 4000}}))
    before = state(full)
    for spec, kind in (("budget_us=6000", NotAdmitted), ("wieght=1", InvalidArgument)):
        with pytest.raises(kind):
            full.create(f'name = "late"\nvcoproc = ["coproc=dsp1,name=a", "coproc=dsp0,{spec}"]')
        assert state(full) == before
    full.create('name = "late"\nvcoproc = ["coproc=dsp0,budget_us=0"]')


def test_unknown_things_are_not_found(full: Rig) -> None:
    with pytest.raises(NotFound, match="coproc 'nope'"):
        put(full, Wish("rr"), coproc="nope")
    for domain, name in (("nope", "v"), ("fir", "nope")):
        with pytest.raises(NotFound, match="vcoproc"):
            full.schedule_changes.set_parameters(domain, name, {"a": 1}, NO_REQUEST, seal_vcoproc)
    with pytest.raises(InvalidArgument, match="name at least one"):
        put_one(full)
    with pytest.raises(NotFound):
        full.schedules.schedule("nope")


# --- doubts and restarts --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_scheduler_that_falls_silent_is_told_the_old_state_again(full: Rig, when: str) -> None:
    """Whether it took the change or not: nobody was answered, so it is as if nobody had asked."""
    put_one(full, weight=77)
    before = state(full)
    scheduling = full.services.scheduling

    def silent(what: str) -> None:
        if what in ("set edf", "parameters"):
            raise PeerTimeout(SCHEDULER, 1)

    setattr(scheduling, when, silent)
    with pytest.raises(PeerTimeout):
        put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 1}}))
    with pytest.raises(PeerTimeout):
        put_one(full, weight=78)
    assert full.marked == [SCHEDULER, SCHEDULER]
    setattr(scheduling, when, lambda _what: None)
    assert full.repairer.repair(SCHEDULER)
    assert state(full) == before


def test_a_store_that_cannot_keep_it_takes_it_back(
    full: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(full)

    def fail(*_arguments: object) -> None:
        raise WrongState("store", "full", "a file that can be used")

    with monkeypatch.context() as patch:
        patch.setattr(Change, "add_event", fail)
        with pytest.raises(WrongState, match="full"):
            put(full, Wish("credit"))
        assert full.services.scheduling.settings["dsp0"].algorithm == "credit"
        with pytest.raises(WrongState, match="full"):
            put_one(full, weight=1)
    assert full.marked == [SCHEDULER, SCHEDULER]
    assert full.repairer.repair(SCHEDULER)
    assert state(full) == before


def test_a_scheduler_that_begins_anew_is_told_what_was_set(full: Rig) -> None:
    put(full, Wish("credit", 2 * MS, {"cap_period_us": 10_000}))
    put_one(full, cap=40)
    before = state(full)
    full.services.forget_schedules()
    assert full.repairer.repair(SCHEDULER)
    held = full.services.scheduling.settings
    assert held["dsp0"] == Setting("credit", 2 * MS, (("cap_period_us", 10_000),))
    assert held["dsp1"] == Setting("rr", 2 * MS, ())
    assert full.services.scheduled["dsp0"] == {1: (("cap", 40), ("weight", 512)), 3: ()}
    assert state(full)[:3] == before[:3]  # type: ignore[index]


def test_a_restarted_toolstack_keeps_what_was_set(full: Rig) -> None:
    put(full, Wish("credit", 2 * MS))
    put_one(full, cap=40)
    before = state(full)
    full.restart()
    full.repair_all()
    assert state(full) == before
    assert full.schedules.schedule("dsp0").overridden


def test_a_change_is_judged_beside_all_also_when_the_scheduler_holds_nothing_yet(
    full: Rig,
) -> None:
    put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 4000}}))
    full.services.forget_schedules()
    with pytest.raises(NotAdmitted):
        put_one(full, budget_us=4001)
    put_one(full, budget_us=3999)
    assert set(full.services.scheduled["dsp0"]) == {1, 3}


def test_repair_sets_an_algorithm_and_its_parameters_at_once(full: Rig) -> None:
    """One after the other the scheduler could take neither: edf with defaults is too much."""
    put(full, Wish("edf", vcoprocs={FIR: {"budget_us": 4000}}))
    before = state(full)
    scheduling = full.services.scheduling
    scheduling.settings["dsp0"] = Setting("rr", MS, ())
    full.services.scheduled["dsp0"] = {1: (), 3: ()}
    assert full.repairer.repair(SCHEDULER)
    assert state(full) == before


def test_an_algorithm_that_is_no_longer_there_does_not_stop_its_vcoprocs(full: Rig) -> None:
    put(full, Wish("credit"))
    full.services.forget_schedules()
    full.services.scheduling.installed = tuple(a for a in ALGORITHMS if a.name != "credit")
    assert full.repairer.repair(SCHEDULER)
    assert full.services.scheduled["dsp0"] == {1: (), 3: ()}
    found = full.schedules.schedule("dsp0")
    assert (found.view.algorithm, found.wanted.scheduler) == ("rr", "credit")
    assert full.events()[-1] == ("coprocs/dsp0/schedule", "FELL_BACK")
    told = texts(full, "coprocs/dsp0/schedule")[-1]
    assert "algorithm credit is refused, rr has taken over" in told
    # It comes back, with all that was set.
    full.services.scheduling.installed = ALGORITHMS
    assert full.repairer.repair(SCHEDULER)
    assert full.services.scheduling.settings["dsp0"].algorithm == "credit"
    assert full.services.scheduled["dsp0"] == {1: (("weight", 512),), 3: ()}


def test_an_idle_coproc_whose_algorithm_is_refused_is_left_alone(rig: Rig) -> None:
    rig.services.scheduling.installed = ()
    assert rig.repairer.repair(SCHEDULER)
    assert rig.events() == []


def test_a_failed_algorithm_is_tried_again_only_when_it_is_named(full: Rig) -> None:
    put(full, Wish("credit"))
    scheduling = full.services.scheduling
    scheduling.failed.add("dsp0")
    assert full.repairer.repair(SCHEDULER)
    put(full, Wish(vcoprocs={}))
    assert scheduling.restarts == []
    assert full.schedules.schedule("dsp0").view.fallback == "credit failed: a bug"
    assert put(full, Wish("credit")) == "credit "
    assert scheduling.restarts == ["dsp0"]


def test_a_schedule_that_the_scheduler_does_not_know_yet_is_the_wanted_one(rig: Rig) -> None:
    found = rig.schedules.schedule("dsp0").view
    assert (found.algorithm, found.slice_ns) == ("rr", 5 * MS)
    assert found.parameters == {"min_run_us": 0, "weight": 7}
    rig.services.down.add(SCHEDULER)
    with pytest.raises(PeerLost):
        rig.schedules.schedule("dsp0")


def test_a_store_of_version_1_gets_the_new_table(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.create()
    rig.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("DROP TABLE schedules")
        connection.execute("UPDATE meta SET value = 1 WHERE key = 'schema_version'")
    connection.close()
    rig = Rig(tmp_path)
    rig.repair_all()
    put(rig, Wish("credit"))
    with rig.store.read() as view:
        assert [*view.settings()] == ["dsp0"]
        assert len(view.domains()) == 1
    rig.close()


# --- fallbacks ------------------------------------------------------------------------------------


def test_each_fallback_is_one_event_however_often_it_is_told(full: Rig) -> None:
    told = Fallback("dsp0", "credit", "pick raised ValueError", 5_000)
    assert note_fallback(full.store, told)
    assert not note_fallback(full.store, told)
    full.restart()
    assert not note_fallback(full.store, told)
    assert note_fallback(full.store, Fallback("dsp1", "credit", "x", 5_000))
    assert note_fallback(full.store, Fallback("dsp0", "credit", "y", 6_000))
    kinds = [event for event in full.events() if event[1] == "FELL_BACK"]
    assert kinds == [(f"coprocs/{name}/schedule", "FELL_BACK") for name in ("dsp0", "dsp1", "dsp0")]
    assert texts(full, "coprocs/dsp0/schedule")[0] == (
        "algorithm credit failed, rr has taken over: pick raised ValueError"
    )


def test_the_watch_tells_at_once_and_survives_the_scheduler(full: Rig) -> None:
    scheduling = full.services.scheduling
    watch = FallbackWatch(full.store, scheduling, full.log)
    with full.store.read() as view:
        revision = view.revision()
    watch.start()
    stream: FakeStream[Fallback] = scheduling.opened.get(timeout=20)
    stream.items.put(Fallback("dsp0", "credit", "one", 1))
    [event] = full.store.wait_for_events(revision, lambda: False)
    assert event.description.endswith("one")
    stream.items.put(None)  # the scheduler dies
    again: FakeStream[Fallback] = scheduling.opened.get(timeout=20)
    again.items.put(Fallback("dsp0", "credit", "one", 1))
    again.items.put(Fallback("dsp0", "credit", "two", 2))
    [event] = full.store.wait_for_events(event.revision, lambda: False)
    assert event.description.endswith("two")
    watch.stop()
    assert again.cancelled
    assert "fallbacks" not in {thread.name for thread in threading.enumerate()}


# --- plans ----------------------------------------------------------------------------------------


def test_parameters_out_of_the_new_range_are_lost(full: Rig) -> None:
    put_one(full, weight=60_000)
    infos = tuple(replace(info, maximum=100, default=1) for info in ALGORITHMS[0].parameters)
    small = Algorithm("small", "", infos)
    with full.store.read() as view:
        vcoprocs = view.vcoprocs_on("dsp0")
    plan = plan_change(full.leases.coprocs["dsp0"], vcoprocs, Wish("small"), [small])
    assert plan.vcoprocs == {1: (), 3: ()}
    assert plan.lost == ("weight=7 of coprocs/dsp0", f"weight=60000 of {FIR}")


def test_a_parameter_of_the_other_kind_is_told_apart() -> None:
    credit = find_algorithm(ALGORITHMS, "credit")
    with pytest.raises(InvalidArgument, match="for a coproc, not for a vcoproc"):
        check_parameters(credit, {"cap_period_us": 1}, per_coproc=False, of="v")
    with pytest.raises(VcoprocError, match="there are: none"):
        find_algorithm([], "rr")
