"""A vcoproc goes to another coproc with all that it has, or stays with all that it has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toolstack_operations import paused, running, seal_vcoproc, stopped
from toolstack_picture import picture
from toolstack_rig import CORTEX_M4, NO_REQUEST, PLATFORM, REFUSED, Rig, one_vcoproc

from vcoproc.errors import (
    LimitExceeded,
    NotFound,
    PeerLost,
    PeerTimeout,
    VcoprocError,
    WrongState,
)
from vcoproc_toolstack.leases import Offer
from vcoproc_toolstack.records import Accounting, VcoprocStatus
from vcoproc_toolstack.steps import (
    AddVcoproc,
    DetachVcoproc,
    LoadContext,
    PauseVcoproc,
    Step,
)
from vcoproc_toolstack.turns import Request


def move(rig: Rig, coproc: str = "ncore-0", request: Request = NO_REQUEST) -> bytes:
    return rig.moves.move("fir", "audio", coproc, request, seal_vcoproc)


def where(rig: Rig) -> str:
    [domain] = rig.domains()
    return next(v.coproc for v in domain.vcoprocs if v.name == "audio")


def test_everything_goes_and_nothing_stays(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    assert move(rig) == b"domains/fir/vcoprocs/audio ncore-0"
    after = picture(rig)
    audio = "domains/fir/vcoprocs/audio"
    assert after["coprocs"][f"ncore-0 {audio}"] == before["coprocs"][f"dsp0 {audio}"]
    assert after["scheduler"]["ncore-0"] == before["scheduler"]["dsp0"]
    assert after["lines"][audio] == ("domains/fir", "ncore-0")
    assert after["memory"] == before["memory"]
    assert not any(f"dsp0 {audio}" in of for of in after.values())
    assert "dsp0" not in after["scheduler"]
    assert rig.services.told_moved == [("dsp0", 1)], "its driver is told to look elsewhere"
    assert rig.events()[-1] == (audio, "CHANGED")


def test_a_vcoproc_keeps_its_number_its_places_and_its_secrets(rig: Rig) -> None:
    running(rig)
    [before] = rig.domains()
    move(rig)
    [after] = rig.domains()
    revision = before.vcoprocs[0].revision  # the move is a change too
    assert replace(after.vcoprocs[0], coproc="dsp0", revision=revision) == before.vcoprocs[0]


def test_what_it_has_used_goes_along(rig: Rig) -> None:
    running(rig)
    used = Accounting(7, 6, 5, 4, 3, 2, 1, 8)
    rig.services.used["dsp0", 1] = used
    move(rig)
    assert rig.services.used["ncore-0", 1] == used
    assert ("dsp0", 1) not in rig.services.used


def test_there_and_back_again_is_as_if_nothing_had_been(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    move(rig, "ncore-0")
    move(rig, "dsp0")
    assert picture(rig) == before


def test_a_paused_vcoproc_stays_paused(rig: Rig) -> None:
    paused(rig)
    move(rig)
    seat = rig.services.attached["ncore-0"][1]
    assert (seat.paused, seat.label, seat.run_count) == (True, "worked", 1)


def test_a_vcoproc_of_a_stopped_domain_only_gets_another_place(rig: Rig) -> None:
    stopped(rig)
    move(rig)
    assert where(rig) == "ncore-0"
    assert rig.services.performed == []
    rig.lifecycle.start("fir", NO_REQUEST)
    assert set(rig.services.attached["ncore-0"]) == {1}


def test_moving_to_where_it_is_changes_nothing(rig: Rig) -> None:
    running(rig)
    before, steps = picture(rig), len(rig.services.performed)
    assert move(rig, "dsp0") == b"domains/fir/vcoprocs/audio dsp0"
    assert (picture(rig), len(rig.services.performed)) == (before, steps)


def test_a_repeated_request_gets_the_first_answer(rig: Rig) -> None:
    running(rig)
    request = Request("r", b"print")
    first = move(rig, "ncore-0", request)
    move(rig, "ncore-1")
    assert move(rig, "ncore-0", request) == first
    assert where(rig) == "ncore-1"


def test_a_coproc_that_cannot_be_had_is_refused(rig: Rig) -> None:
    running(rig)
    for name in "abcd":
        rig.create(one_vcoproc(name, "ncore-0"))
    rig.unlease("ncore-1")
    rig.leases.fail("ncore-2", "broken")
    before = picture(rig)
    cases: list[tuple[str, type[VcoprocError], str]] = [
        ("nowhere", NotFound, "coproc 'nowhere' does not exist"),
        ("ncore", NotFound, "coproc 'ncore'"),
        ("ncore-0", LimitExceeded, "vcoprocs on coproc ncore-0: at most 4"),
        ("ncore-1", WrongState, "'ncore-1' is OFFLINE; this needs ONLINE"),
        ("ncore-2", WrongState, "'ncore-2' is FAILED; this needs ONLINE"),
    ]
    for coproc, error, words in cases:
        with pytest.raises(error, match=words):
            move(rig, coproc)
    with pytest.raises(NotFound, match="vcoproc 'fir/nobody'"):
        rig.moves.move("fir", "nobody", "dsp1", NO_REQUEST, seal_vcoproc)
    with pytest.raises(NotFound, match="domain 'nobody'"):
        rig.moves.move("nobody", "v", "dsp1", NO_REQUEST, seal_vcoproc)
    assert picture(rig) == before


def test_a_coproc_of_another_type_or_make_is_refused(rig: Rig) -> None:
    running(rig)
    coprocs = dict(rig.leases.coprocs)
    coprocs["ncore-0"] = replace(coprocs["ncore-0"], compatible="other,core")
    object.__setattr__(rig.leases, "coprocs", coprocs)
    with pytest.raises(WrongState, match="'ncore-0' is a other,core; this needs a vcoproc,cortex"):
        move(rig)
    rig.unlease("ncore-1")
    lines = (*PLATFORM.lines[1:], PLATFORM.lines[0])
    other = replace(PLATFORM, lines=lines)
    rig.leases.take(Offer("ncore-1", "unix:/x", "ipc:///x", "rig", {CORTEX_M4: other}))
    words = "'ncore-1' is of another make; this needs a vcoproc,cortex-m4 with the ranges"
    with pytest.raises(WrongState, match=words):
        move(rig, "ncore-1")
    assert where(rig) == "dsp0"


@pytest.mark.parametrize("step", [PauseVcoproc, AddVcoproc, LoadContext])
@pytest.mark.parametrize("error", [REFUSED, PeerTimeout("x", 1)], ids=["refused", "silent"])
def test_what_cannot_go_stays_and_runs_on(rig: Rig, step: type[Step], error: VcoprocError) -> None:
    running(rig)
    before = picture(rig)

    def fail(each: Step) -> None:
        if isinstance(each, step):
            rig.services.before = lambda _step: None
            raise error

    rig.services.before = fail
    with pytest.raises(type(error)):
        move(rig)
    rig.settle()
    assert picture(rig) == before


def test_a_silent_scheduler_refuses_a_move_before_anything_is_paused(rig: Rig) -> None:
    running(rig)
    rig.services.down.add("scheduler")
    rig.services.performed.clear()
    with pytest.raises(PeerLost, match="scheduler"):
        move(rig)
    assert rig.services.performed == []


def test_a_scheduler_that_does_not_know_it_begins_with_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been started anew a moment ago."""
    running(rig)
    monkeypatch.setattr(rig.services, "accounts", lambda _timeout_ns: ())
    move(rig)
    assert rig.services.used["ncore-0", 1] == Accounting(0, 0, 0, 0, 0, 0, 0, 0)


def test_an_old_coproc_that_is_silent_is_left_later(rig: Rig) -> None:
    """The vcoproc runs on the new one at once; the driver is told when the old one answers."""
    running(rig)

    def silence(step: Step) -> None:
        if isinstance(step, DetachVcoproc):
            rig.services.down.add("coproc/dsp0")
            raise PeerLost("coproc dsp0")

    rig.services.before = silence
    move(rig)
    assert not rig.services.attached["ncore-0"][1].paused
    assert rig.services.told_moved == []
    rig.services.down.clear()
    rig.services.before = lambda _step: None
    rig.settle()
    assert rig.services.told_moved == [("dsp0", 1)]
    assert rig.services.attached["dsp0"] == {}


def test_who_looks_during_a_move_sees_one_vcoproc(rig: Rig) -> None:
    running(rig)
    seen: list[list[str]] = []

    def look(_step: Step) -> None:
        vcoprocs, statuses, _ = rig.queries.vcoprocs("fir", ("", ""), 10)
        assert all(isinstance(status, VcoprocStatus) for status in statuses.values())
        seen.append([v.coproc for v in vcoprocs if v.name == "audio"])

    rig.services.before = look
    move(rig)
    assert {tuple(each) for each in seen} == {("dsp0",), ("ncore-0",)}


def test_a_way_back_tells_a_driver_that_was_not_told_yet(rig: Rig) -> None:
    """dsp0 fell silent before the first move was over, and answers again in time for the second."""
    running(rig)

    def silence(step: Step) -> None:
        if isinstance(step, DetachVcoproc):
            rig.services.before = lambda _step: None
            raise PeerLost("coproc dsp0")

    rig.services.before = silence
    move(rig, "ncore-0")
    assert rig.services.told_moved == []
    move(rig, "dsp0")
    assert rig.services.told_moved == [("dsp0", 1), ("ncore-0", 1)]
    seat = rig.services.attached["dsp0"][1]
    assert (seat.label, seat.paused) == ("worked", False)
