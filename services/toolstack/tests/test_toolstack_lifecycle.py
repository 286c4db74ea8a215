"""The verbs of a domain: what each does, in which state, and what follows."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from toolstack_operations import ending, paused, running, stopped
from toolstack_picture import WRITTEN, picture, run_firmware, write_memory
from toolstack_rig import (
    NO_REQUEST,
    NOTHING,
    REFUSED,
    TWO_VCOPROCS,
    Rig,
    one_vcoproc,
    refuse_at,
    seal_domain,
    seal_vcoproc,
)

from vcoproc import limits
from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    PeerLost,
    VcoprocError,
    WrongState,
)
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import DomainRecord, EventKind, EventRecord, Life, VcoprocState
from vcoproc_toolstack.schedules import Wish
from vcoproc_toolstack.turns import Request


def fir(rig: Rig) -> DomainRecord:
    [domain] = [domain for domain in rig.domains() if domain.name == "fir"]
    return domain


def state(rig: Rig) -> DomainState:
    return fir(rig).state


def words(rig: Rig, name: str = "domains/fir") -> list[str]:
    """Descriptions of the events of a domain."""
    with rig.store.read() as view:
        return [event.description for event in view.events(1) if event.name == name]


def paused_seats(rig: Rig) -> list[bool]:
    return [seat.paused for seats in rig.services.attached.values() for seat in seats.values()]


def shown(rig: Rig) -> set[VcoprocState]:
    _, statuses = rig.queries.domain("fir")
    return {status.state for status in statuses.values()}


# --- stopped and started --------------------------------------------------------------------------


def test_a_domain_that_is_created_stopped_has_places_and_nothing_else(rig: Rig) -> None:
    stopped(rig)
    assert rig.services.held() == NOTHING
    domain = fir(rig)
    assert (domain.state, len(domain.vcoprocs)) == (DomainState.STOPPED, 2)
    assert shown(rig) == {VcoprocState.STOPPED}
    assert rig.events() == [("domains/fir", "CREATED")]


def test_starting_gives_a_domain_what_creating_would_have(rig: Rig) -> None:
    stopped(rig)
    before = fir(rig)
    rig.lifecycle.start("fir", NO_REQUEST)
    after = fir(rig)
    assert state(rig) is DomainState.RUNNING
    assert [v.vcoproc_id for v in after.vcoprocs] == [v.vcoproc_id for v in before.vcoprocs]
    assert after.irq_credential == before.irq_credential
    started = picture(rig)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    rig.create(TWO_VCOPROCS)
    assert picture(rig) == started


def test_a_stopped_domain_keeps_its_room_on_the_coprocs_and_gives_up_its_memory(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        rig.changes.create_domain(one_vcoproc(name), "x.cfg", NO_REQUEST, seal_domain, stopped=True)
    with pytest.raises(LimitExceeded, match="dsp0"):
        rig.create(one_vcoproc("d"))

    class Small:
        f_bavail = 300
        f_frsize = 4096

    monkeypatch.setattr("os.statvfs", lambda _path: Small)
    rig.lifecycle.start("a", NO_REQUEST)
    with pytest.raises(LimitExceeded, match="memory of all domains"):
        rig.lifecycle.start("b", NO_REQUEST)
    assert [domain.state.value for domain in rig.domains()] == ["RUNNING", "STOPPED", "STOPPED"]


def test_a_start_on_a_coproc_that_is_away_is_refused(rig: Rig) -> None:
    stopped(rig)
    rig.unlease("dsp1")
    with pytest.raises(PeerLost, match="dsp1"):
        rig.lifecycle.start("fir", NO_REQUEST)
    assert rig.services.held() == NOTHING


def test_vcoprocs_come_to_and_go_from_a_stopped_domain(rig: Rig) -> None:
    stopped(rig)
    rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", NO_REQUEST, seal_vcoproc)
    rig.changes.destroy_vcoproc("fir", "audio", NO_REQUEST)
    assert rig.services.held() == NOTHING
    assert [v.name for v in fir(rig).vcoprocs] == ["late", "video"]
    rig.lifecycle.start("fir", NO_REQUEST)
    assert set(rig.services.attached["dsp1"]) == {2, 3}


def test_repairs_leave_a_stopped_domain_alone(rig: Rig) -> None:
    stopped(rig)
    rig.repair_all()
    rig.restart()
    assert rig.services.held() == NOTHING
    assert state(rig) is DomainState.STOPPED


def test_a_crashed_domain_is_started_with_new_memory_and_new_contexts(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.crash("fir", "a bug", NO_REQUEST)
    rig.lifecycle.start("fir", NO_REQUEST)
    assert state(rig) is DomainState.RUNNING
    assert fir(rig).state_reason == ""
    assert not any(rig.memory.path_of("domain-1").read_bytes())
    assert {seat.label for seat in rig.services.attached["dsp0"].values()} == {"reset"}


def test_a_crashed_domain_is_not_given_up_for_a_start_that_cannot_be(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.crash("fir", "a bug", NO_REQUEST)
    before = picture(rig)
    rig.unlease("ncore-0")
    rig.services.forget_coproc("dsp1")
    rig.leases.release(rig.leases.need("dsp1"))
    with pytest.raises(PeerLost):
        rig.lifecycle.start("fir", NO_REQUEST)
    assert state(rig) is DomainState.CRASHED
    assert picture(rig)["memory"] == before["memory"]


def test_a_stopped_domain_is_scheduled_as_was_said_meanwhile(rig: Rig) -> None:
    stopped(rig)
    parameters = {"weight": 9}
    rig.schedule_changes.set_parameters("fir", "audio", parameters, NO_REQUEST, seal_vcoproc)
    wish = Wish("edf", vcoprocs={"domains/fir/vcoprocs/video": {"budget_us": 7}})
    rig.schedule_changes.set_schedule("dsp1", wish, NO_REQUEST, lambda *_: b"")
    assert not any(rig.services.scheduled.values()), "it has no place in a queue"
    rig.lifecycle.start("fir", NO_REQUEST)
    assert rig.services.scheduled["dsp0"][1] == (("weight", 9),)
    assert rig.services.scheduled["dsp1"][2] == (("budget_us", 7),)


# --- paused and resumed ---------------------------------------------------------------------------


def test_a_paused_domain_is_kept_off_and_its_interrupts_wait(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    rig.lifecycle.pause("fir", NO_REQUEST)
    assert paused_seats(rig) == [True, True]
    assert rig.services.paused_domids == {1}
    assert shown(rig) == {VcoprocState.PAUSED}
    rig.lifecycle.resume("fir", NO_REQUEST)
    assert picture(rig) == before
    assert words(rig)[1:] == ["PAUSED: paused", "RUNNING: goes on"]


def test_pausing_twice_changes_nothing(rig: Rig) -> None:
    paused(rig)
    steps, events = len(rig.services.performed), rig.events()
    rig.lifecycle.pause("fir", NO_REQUEST)
    rig.lifecycle.resume("fir", NO_REQUEST)
    rig.lifecycle.resume("fir", NO_REQUEST)
    assert len(rig.services.performed) == steps + 3
    assert len(rig.events()) == len(events) + 1


@pytest.mark.parametrize("service", ["irq-router", "dsp0", "dsp1", "toolstack"])
def test_a_domain_stays_paused_whoever_is_started_anew(rig: Rig, service: str) -> None:
    paused(rig)
    before = picture(rig)
    if service == "toolstack":
        rig.restart()
    elif service == "irq-router":
        rig.services.forget_lines()
        assert rig.repairer.repair(service)
    else:
        rig.unlease(service)
        rig.lease(service)
        assert rig.repairer.repair(f"coproc/{service}")
        run_firmware(rig)
    assert picture(rig) == before


@pytest.mark.parametrize("service", ["irq-router", "coproc/dsp0"])
def test_what_was_paused_by_nobody_is_let_go_on(rig: Rig, service: str) -> None:
    """A toolstack that died while it paused, or a store that went back to an older one."""
    running(rig)
    before = picture(rig)
    rig.services.paused_domids.add(1)
    rig.services.attached["dsp0"][1].paused = True
    assert rig.repairer.repair("irq-router")
    assert rig.repairer.repair("coproc/dsp0")
    assert picture(rig) == before


def test_a_vcoproc_that_comes_to_a_paused_domain_does_not_run(rig: Rig) -> None:
    paused(rig)
    rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", NO_REQUEST, seal_vcoproc)
    assert rig.services.attached["dsp1"][3].paused
    assert rig.services.attached["dsp1"][3].run_count == 0
    rig.lifecycle.resume("fir", NO_REQUEST)
    assert paused_seats(rig) == [False] * 3


# --- shut down ------------------------------------------------------------------------------------


def test_a_domain_that_is_shut_down_is_stopped(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
    assert rig.services.held() == NOTHING
    assert (state(rig), fir(rig).state_reason) == (DomainState.STOPPED, "shut down")
    assert words(rig)[1:] == ["SHUTTING_DOWN: was told to", "STOPPED: shut down"]


def test_a_shutdown_waits_until_every_vcoproc_sleeps(rig: Rig) -> None:
    running(rig)
    rig.services.states = {1: VcoprocState.RUNNING, 2: VcoprocState.WAITING}
    looks: list[DomainState] = []
    look = rig.services.coproc

    def count_looks(name: str, timeout_ns: int) -> object:
        looks.append(state(rig))
        if len(looks) == 3:
            rig.services.states = {1: VcoprocState.SLEEPING, 2: VcoprocState.FAULTED}
        return look(name, timeout_ns)

    rig.services.coproc = count_looks  # type: ignore[method-assign,assignment]
    rig.lifecycle.shut_down("fir", 10 * limits.S, NO_REQUEST)
    assert set(looks) == {DomainState.SHUTTING_DOWN}
    assert len(looks) > 3
    assert state(rig) is DomainState.STOPPED


def test_a_shutdown_is_over_in_time_whoever_does_not_sleep(rig: Rig) -> None:
    running(rig)
    rig.services.states = {1: VcoprocState.RUNNING}
    rig.lifecycle.shut_down("fir", limits.MS, NO_REQUEST)
    assert state(rig) is DomainState.STOPPED


class Waiting:
    """A shutdown in a thread of its own that waits, and what came of it."""

    def __init__(self, rig: Rig, request: Request = NO_REQUEST) -> None:
        self.rig = rig
        self.outcome: bytes | VcoprocError | None = None
        self.looks = threading.Event()
        rig.services.states = {1: VcoprocState.RUNNING}
        look = rig.services.coproc

        def note(name: str, timeout_ns: int) -> object:
            self.looks.set()
            return look(name, timeout_ns)

        rig.services.coproc = note  # type: ignore[method-assign,assignment]
        self.thread = threading.Thread(target=self._run, args=(request,))
        self.thread.start()
        assert self.looks.wait(20)

    def _run(self, request: Request) -> None:
        try:
            self.outcome = self.rig.lifecycle.shut_down("fir", 50 * limits.S, request)
        except VcoprocError as error:
            self.outcome = error

    def join(self) -> bytes | VcoprocError | None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.outcome


def test_others_are_served_while_a_domain_shuts_down(rig: Rig) -> None:
    running(rig)
    waiting = Waiting(rig)
    rig.create(one_vcoproc("other", "dsp1"))
    with pytest.raises(WrongState, match="'fir' is SHUTTING_DOWN"):
        rig.lifecycle.pause("fir", NO_REQUEST)
    with pytest.raises(WrongState, match="SHUTTING_DOWN"):
        rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
    rig.services.states.clear()
    assert waiting.join() == b"fir 1"
    assert [domain.state.value for domain in rig.domains()] == ["STOPPED", "RUNNING"]


def test_the_same_request_joins_a_shutdown_that_is_under_way(rig: Rig) -> None:
    running(rig)
    request = Request("r", b"print")
    waiting = Waiting(rig, request)
    assert rig.lifecycle.shut_down("fir", 0, request) == b"fir 1"
    rig.services.states.clear()
    assert waiting.join() == b"fir 1"
    assert words(rig).count("STOPPED: shut down") == 1


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        (lambda rig: rig.changes.destroy_domain("fir", NO_REQUEST), NotFound),
        (lambda rig: rig.lifecycle.crash("fir", "", NO_REQUEST), WrongState),
    ],
)
def test_who_shuts_down_learns_that_somebody_did_something_else(
    rig: Rig, verb: Callable[[Rig], bytes], error: type[VcoprocError]
) -> None:
    running(rig)
    waiting = Waiting(rig)
    verb(rig)
    assert isinstance(waiting.join(), error)
    rig.settle()
    assert [domain.state for domain in rig.domains()] in ([], [DomainState.CRASHED])


def test_a_toolstack_that_ends_leaves_the_shutdown_to_the_next_one(rig: Rig) -> None:
    running(rig)
    waiting = Waiting(rig)
    rig.lifecycle.stop()
    assert isinstance(waiting.join(), PeerLost)
    assert state(rig) is DomainState.SHUTTING_DOWN
    rig.restart()
    assert state(rig) is DomainState.STOPPED
    assert rig.services.held() == NOTHING


def test_an_id_that_was_used_for_another_request_meanwhile_does_not_stop_a_shutdown(
    rig: Rig,
) -> None:
    running(rig)
    waiting = Waiting(rig, Request("r", b"shut down"))
    rig.changes.create_domain(
        one_vcoproc("other", "dsp1"), "x", Request("r", b"create"), seal_domain
    )
    rig.services.states.clear()
    assert isinstance(waiting.join(), InvalidArgument)
    rig.settle()
    assert state(rig) is DomainState.STOPPED
    with pytest.raises(InvalidArgument, match="'r' was used for another request"):
        rig.lifecycle.shut_down("fir", 0, Request("r", b"shut down"))


def test_shutdowns_at_the_same_time_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHUTDOWNS_MAX", 1)
    rig.close()
    rig.open()
    running(rig)
    rig.create(one_vcoproc("other", "dsp1"))
    waiting = Waiting(rig)
    with pytest.raises(LimitExceeded, match="shutdowns at the same time: at most 1"):
        rig.lifecycle.shut_down("other", 0, NO_REQUEST)
    rig.services.states.clear()
    waiting.join()
    rig.lifecycle.shut_down("other", 0, NO_REQUEST)


# --- what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["shut down", "crash"])
def test_what_a_file_says_follows(rig: Rig, how: str) -> None:
    def end(action: str) -> None:
        if rig.domains():
            rig.changes.destroy_domain("fir", NO_REQUEST)
        ending("on_poweroff" if how == "shut down" else "on_crash", action)(rig)
        if how == "shut down":
            rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
        else:
            rig.lifecycle.crash("fir", "a bug", NO_REQUEST)

    end("preserve")
    left = DomainState.STOPPED if how == "shut down" else DomainState.CRASHED
    assert state(rig) is left
    end("restart")
    assert state(rig) is DomainState.RUNNING
    assert {seat.label for seat in rig.services.attached["dsp1"].values()} == {"reset"}
    assert not any(rig.memory.path_of(fir(rig).memory_file).read_bytes())
    end("destroy")
    assert (rig.domains(), rig.services.held()) == ([], NOTHING)


def test_a_crashed_domain_keeps_what_it_has_for_whoever_looks_into_it(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    rig.lifecycle.crash("fir", "watchdog", NO_REQUEST)
    after = picture(rig)
    assert (state(rig), fir(rig).state_reason) == (DomainState.CRASHED, "watchdog")
    assert paused_seats(rig) == [True, True]
    assert after["memory"] == before["memory"]
    assert ("domains/fir", "FAULTED") in rig.events()
    assert words(rig)[-1] == "CRASHED: crashed: watchdog"
    rig.lifecycle.crash("fir", "again", NO_REQUEST)
    assert fir(rig).state_reason == "watchdog"


@pytest.mark.parametrize("action", ["restart", "destroy"])
def test_who_watches_for_faults_hears_of_a_crash_whatever_follows(rig: Rig, action: str) -> None:
    ending("on_crash", action)(rig)
    request = Request("r", b"print")

    def told() -> list[EventRecord]:
        with rig.store.read() as view:
            return [each for each in view.events(1) if each.name == "domains/fir"]

    rig.lifecycle.crash("fir", "watchdog", request)
    faults = [each for each in told() if each.kind is EventKind.FAULTED]
    assert ["crashed: watchdog" in each.description for each in faults] == [True], "once"
    assert told()[-1].kind is not EventKind.FAULTED
    before = told()
    rig.lifecycle.crash("fir", "watchdog", request)
    assert told() == before, "the same request is not told again"


def test_a_domain_crashes_although_a_service_is_silent(rig: Rig) -> None:
    running(rig)
    rig.services.down = {"coproc/dsp0", "irq-router"}
    rig.lifecycle.crash("fir", "", NO_REQUEST)
    assert state(rig) is DomainState.CRASHED
    rig.services.down.clear()
    rig.settle()
    assert paused_seats(rig) == [True, True]
    assert rig.services.paused_domids == {1}


def test_a_restart_waits_for_a_coproc_that_is_away(rig: Rig) -> None:
    ending("on_crash", "restart")(rig)
    rig.unlease("dsp1")
    request = Request("r", b"print")
    assert rig.lifecycle.crash("fir", "a bug", request) == b"fir 1"
    assert state(rig) is DomainState.STOPPED
    assert "is started again once that is possible" in fir(rig).state_reason
    assert rig.due() == ["coproc/dsp1", "domain/1"]
    assert not rig.repairer.repair("domain/1")
    events = rig.events()
    assert not rig.repairer.repair("domain/1")
    assert rig.events() == events, "waiting is told once"
    rig.lease("dsp1")
    assert rig.repairer.repair("coproc/dsp1")
    assert rig.repairer.repair("domain/1")
    assert state(rig) is DomainState.RUNNING
    assert rig.lifecycle.crash("fir", "a bug", request) == b"fir 1", "it was answered already"
    assert state(rig) is DomainState.RUNNING


def test_a_restart_that_waits_is_not_tried_again_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPAIR_DELAY_NS_MIN", 1000 * limits.S)
    monkeypatch.setattr(limits, "REPAIR_DELAY_NS_MAX", 1000 * limits.S)
    ending("on_crash", "restart")(rig)
    rig.settle()
    rig.unlease("dsp1")
    rig.lifecycle.crash("fir", "a bug", NO_REQUEST)
    tried: list[int] = []
    go_on = rig.endings.go_on

    def count(domid: int) -> bool:
        tried.append(domid)
        return go_on(domid)

    monkeypatch.setattr(rig.endings, "go_on", count)
    rig.repair_in_rounds()
    assert tried == [1]


def test_a_restart_that_is_refused_is_given_up_with_the_reason(rig: Rig) -> None:
    ending("on_poweroff", "restart")(rig)
    rig.services.before = refuse_at(16, REFUSED)
    rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
    assert state(rig) is DomainState.STOPPED
    assert fir(rig).state_reason == f"could not be started again: {REFUSED}"
    assert rig.due() == []
    rig.lifecycle.start("fir", NO_REQUEST)
    assert state(rig) is DomainState.RUNNING


def test_a_domain_that_waits_to_be_started_can_be_started_or_destroyed_by_hand(rig: Rig) -> None:
    ending("on_crash", "restart")(rig)
    rig.unlease("dsp1")
    rig.lifecycle.crash("fir", "a bug", NO_REQUEST)
    rig.lease("dsp1")
    rig.lifecycle.start("fir", NO_REQUEST)
    rig.lifecycle.pause("fir", NO_REQUEST)
    rig.settle()
    assert state(rig) is DomainState.PAUSED, "nobody starts it once more"
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert rig.services.held() == NOTHING


# --- names ----------------------------------------------------------------------------------------


def test_a_renamed_domain_is_the_same_by_another_name(rig: Rig) -> None:
    running(rig)
    before = picture(rig)
    rig.lifecycle.rename("fir", "sobel", NO_REQUEST)
    [domain] = rig.domains()
    assert (domain.name, domain.domid) == ("sobel", 1)
    after = picture(rig)
    assert after["memory"].keys() == {name.replace("fir", "sobel") for name in before["memory"]}
    attached = {seat.step.vcoproc.resource for seat in rig.services.attached["dsp0"].values()}
    assert attached == {"domains/sobel/vcoprocs/audio"}
    assert rig.events()[-2:] == [("domains/fir", "DESTROYED"), ("domains/sobel", "CREATED")]
    assert words(rig)[-1] == "is domains/sobel from now on"
    rig.create(TWO_VCOPROCS)  # the old name is free


def test_a_name_that_is_taken_is_refused(rig: Rig) -> None:
    running(rig)
    rig.create(one_vcoproc("other"))
    before = picture(rig)
    with pytest.raises(AlreadyExists, match="'other'"):
        rig.lifecycle.rename("fir", "other", NO_REQUEST)
    rig.lifecycle.rename("fir", "fir", NO_REQUEST)
    assert picture(rig) == before


def test_a_paused_domain_stays_paused_by_another_name(rig: Rig) -> None:
    paused(rig)
    rig.lifecycle.rename("fir", "sobel", NO_REQUEST)
    rig.repair_all()
    assert paused_seats(rig) == [True, True]


# --- refusals -------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[Rig], bytes]] = {
    "start": lambda rig: rig.lifecycle.start("fir", NO_REQUEST),
    "pause": lambda rig: rig.lifecycle.pause("fir", NO_REQUEST),
    "resume": lambda rig: rig.lifecycle.resume("fir", NO_REQUEST),
    "shut down": lambda rig: rig.lifecycle.shut_down("fir", 0, NO_REQUEST),
    "crash": lambda rig: rig.lifecycle.crash("fir", "", NO_REQUEST),
    "rename": lambda rig: rig.lifecycle.rename("fir", "x", NO_REQUEST),
    "destroy": lambda rig: rig.changes.destroy_domain("fir", NO_REQUEST),
}
REFUSED_IN = {
    DomainState.RUNNING: {"start"},
    DomainState.PAUSED: {"start"},
    DomainState.STOPPED: {"pause", "resume", "shut down", "crash"},
    DomainState.CRASHED: {"pause", "resume", "shut down"},
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_of_no_domain(rig: Rig, verb: str) -> None:
    with pytest.raises(NotFound, match="domain 'fir' does not exist"):
        VERBS[verb](rig)


@pytest.mark.parametrize("at", REFUSED_IN, ids=lambda at: at.value)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_does_not_fit_is_refused_and_changes_nothing(
    rig: Rig, verb: str, at: DomainState
) -> None:
    (stopped if at is DomainState.STOPPED else running)(rig)
    if at is DomainState.PAUSED:
        rig.lifecycle.pause("fir", NO_REQUEST)
    if at is DomainState.CRASHED:
        rig.lifecycle.crash("fir", "", NO_REQUEST)
    before, steps = picture(rig), len(rig.services.performed)
    if verb not in REFUSED_IN[at]:
        VERBS[verb](rig)
        return
    with pytest.raises(WrongState, match=f"domain 'fir' is {at.value}; this needs "):
        VERBS[verb](rig)
    assert (picture(rig), len(rig.services.performed)) == (before, steps)


def test_an_id_of_another_verb_is_refused(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.pause("fir", Request("r", b"pause"))
    with pytest.raises(InvalidArgument, match="request_id"):
        rig.lifecycle.resume("fir", Request("r", b"resume"))


def test_a_verb_on_what_is_half_done_is_refused(rig: Rig) -> None:
    """The store failed at the end of a detachment, and has not been repaired yet."""
    running(rig)
    with rig.store.change() as change:
        change.set_vcoproc_life(1, Life.DESTROYING)
    with pytest.raises(WrongState, match="vcoproc fir/audio is DESTROYING"):
        rig.lifecycle.pause("fir", NO_REQUEST)


def test_a_stopped_domain_cannot_be_opened(rig: Rig) -> None:
    stopped(rig)
    with pytest.raises(WrongState, match="'fir' is STOPPED; this needs RUNNING"):
        rig.queries.open("fir")


def test_memory_that_was_written_is_what_the_next_start_does_not_see(rig: Rig) -> None:
    running(rig)
    write_memory(rig)
    assert rig.memory.path_of("domain-1").read_bytes().startswith(WRITTEN)
    for _ in range(2):
        rig.lifecycle.shut_down("fir", 0, NO_REQUEST)
        rig.lifecycle.start("fir", NO_REQUEST)
        assert not any(rig.memory.path_of("domain-1").read_bytes())
        write_memory(rig)


# --- only looked at -------------------------------------------------------------------------------


def test_looking_at_a_creation_changes_nothing_and_says_what_would_be(rig: Rig) -> None:
    domain = rig.changes.check_domain(TWO_VCOPROCS, "test.cfg")
    assert (domain.domid, domain.state) == (0, DomainState.RUNNING)
    assert [(v.name, v.vcoproc_id, v.coproc) for v in domain.vcoprocs] == [
        ("audio", 0, "dsp0"),
        ("video", 0, "dsp1"),
    ]
    assert (rig.domains(), rig.services.performed, rig.events()) == ([], [], [])
    rig.create()
    places = [(v.ranges, v.lines) for v in fir(rig).vcoprocs]
    assert [(v.ranges, v.lines) for v in domain.vcoprocs] == places
    assert fir(rig).domid == 1, "no number was used up"


def test_looking_refuses_what_creating_would_refuse(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.create()
    for text, error in (
        (TWO_VCOPROCS, AlreadyExists),
        (one_vcoproc("x", "ncore"), WrongState),
    ):
        with pytest.raises(error):
            rig.changes.check_domain(text, "test.cfg")
    monkeypatch.setattr(limits, "DOMAINS_MAX", 1)
    with pytest.raises(LimitExceeded, match="domains: at most 1"):
        rig.changes.check_domain(one_vcoproc("x"), "test.cfg")


def test_looking_at_one_more_vcoproc(rig: Rig) -> None:
    rig.create()
    before = picture(rig)
    vcoproc = rig.changes.check_vcoproc("fir", "coproc=dsp1,name=late")
    assert (vcoproc.vcoproc_id, vcoproc.resource) == (0, "domains/fir/vcoprocs/late")
    with pytest.raises(AlreadyExists):
        rig.changes.check_vcoproc("fir", "coproc=dsp1,name=audio")
    assert picture(rig) == before
