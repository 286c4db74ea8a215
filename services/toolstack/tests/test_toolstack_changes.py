"""Changes are complete or undone, whatever fails and whenever the toolstack dies."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from toolstack_rig import (
    NO_REQUEST,
    NOTHING,
    REFUSED,
    TWO_VCOPROCS,
    Killed,
    Rig,
    kill_at,
    one_vcoproc,
    refuse_at,
    seal_vcoproc,
)

from vcoproc import limits
from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    PeerLost,
    StoreUnavailable,
    VcoprocError,
    WrongState,
)
from vcoproc_toolstack.records import Life
from vcoproc_toolstack.steps import AttachVcoproc, DetachVcoproc, RemoveMemory
from vcoproc_toolstack.turns import Request

CREATE_STEPS = 12
"""Three files, the domain, and four steps for each of two vcoprocs."""
DESTROY_STEPS = 12
"""The same without telling the scheduler of two coprocs, and forgetting contexts that wait."""


def complete(rig: Rig) -> dict[str, object]:
    """What the services hold when the domain of TWO_VCOPROCS is there and nothing else."""
    [domain] = rig.domains()
    audio, video = (vcoproc.vcoproc_id for vcoproc in domain.vcoprocs)
    return {
        "scheduler": {"dsp0": {audio: (("weight", 512),)}, "dsp1": {video: ()}},
        "domids": {domain.domid},
        "lines": {audio: domain.domid, video: domain.domid},
        "attached": {"dsp0": {audio}, "dsp1": {video}},
        "files": [f"domain-{domain.domid}", f"vcoproc-{audio}.1", f"vcoproc-{video}.1"],
    }


def test_a_domain_is_made_of_all_its_parts(rig: Rig) -> None:
    assert rig.create() == b"fir 1"
    [domain] = rig.domains()
    assert domain.life is Life.ALIVE
    assert [(v.name, v.coproc, v.life) for v in domain.vcoprocs] == [
        ("audio", "dsp0", Life.ALIVE),
        ("video", "dsp1", Life.ALIVE),
    ]
    assert rig.services.held() == complete(rig)
    assert len(rig.services.performed) == CREATE_STEPS
    assert rig.events() == [("domains/fir", "CREATED")]


def test_memory_files_are_private_and_of_the_right_size(rig: Rig) -> None:
    rig.create()
    sizes = {}
    for path in rig.memory_dir.iterdir():
        status = path.stat()
        sizes[path.name] = status.st_size
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_blocks == 0, "sparse until it is touched"
    assert sizes == {"domain-1": limits.MIB, "vcoproc-1.1": 4096, "vcoproc-2.1": 4096}


def test_every_secret_is_another_one(rig: Rig) -> None:
    rig.create()
    rig.create(one_vcoproc("other"))
    domains = rig.domains()
    secrets = [domain.irq_credential for domain in domains]
    secrets += [vcoproc.trap_credential for domain in domains for vcoproc in domain.vcoprocs]
    assert len(set(secrets)) == len(secrets) == 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", range(CREATE_STEPS))
def test_a_refused_step_leaves_nothing_of_a_creation(rig: Rig, place: int, when: str) -> None:
    setattr(rig.services, when, refuse_at(place, REFUSED))
    with pytest.raises(InvalidArgument) as caught:
        rig.create()
    assert caught.value is REFUSED
    assert rig.services.held() == NOTHING
    assert rig.domains() == []
    assert rig.events() == []
    rig.create()  # the name is free
    assert rig.services.held() == complete(rig)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", range(CREATE_STEPS))
def test_a_toolstack_killed_while_creating_finds_and_undoes_it(
    rig: Rig, place: int, when: str
) -> None:
    setattr(rig.services, when, kill_at(place))
    with pytest.raises(Killed):
        rig.create()
    rig.restart()
    assert rig.services.held() == NOTHING
    assert rig.domains() == []
    assert rig.events() == [("domains/fir", "DESTROYED")]
    rig.create()
    assert rig.services.held() == complete(rig)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", range(DESTROY_STEPS))
def test_a_toolstack_killed_while_destroying_finishes_it(rig: Rig, place: int, when: str) -> None:
    rig.create()
    setattr(rig.services, when, kill_at(place))
    with pytest.raises(Killed):
        rig.changes.destroy_domain("fir", NO_REQUEST)
    assert rig.domains()[0].life is Life.DESTROYING
    rig.restart()
    assert rig.services.held() == NOTHING
    assert rig.domains() == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", range(5))
def test_a_toolstack_killed_while_adding_a_vcoproc_undoes_only_that(
    rig: Rig, place: int, when: str
) -> None:
    rig.create()
    before = rig.services.held()
    setattr(rig.services, when, kill_at(place))
    with pytest.raises(Killed):
        rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", NO_REQUEST, seal_vcoproc)
    rig.restart()
    assert rig.services.held() == before == complete(rig)


@pytest.mark.parametrize("service", ["scheduler", "irq-router", "coproc/dsp0", "coproc/dsp1"])
def test_a_silent_service_fails_a_creation_and_is_cleaned_when_it_is_back(
    rig: Rig, service: str
) -> None:
    rig.services.down.add(service)
    with pytest.raises(PeerLost):
        rig.create()
    assert rig.domains() == []
    rig.services.down.clear()
    rig.repair_all()
    assert rig.services.held() == NOTHING


@pytest.mark.parametrize("service", ["scheduler", "irq-router", "coproc/dsp0", "coproc/dsp1"])
def test_a_domain_can_be_destroyed_while_a_service_is_silent(rig: Rig, service: str) -> None:
    rig.create()
    rig.services.down.add(service)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert rig.domains() == []
    assert rig.services.held() != NOTHING, "the silent one still holds its share"
    rig.services.check_reach()
    assert rig.marks.wait() == [service]
    rig.services.down.clear()
    assert rig.repairer.repair(service)
    assert rig.services.held() == NOTHING


def test_a_step_that_was_done_though_nobody_said_so_is_undone(rig: Rig) -> None:
    """The coproc-sim attaches and then falls silent: it is cleaned once it answers again."""

    def silence(step: object) -> None:
        if isinstance(step, AttachVcoproc):
            raise PeerLost("coproc dsp0")

    rig.services.after = silence
    with pytest.raises(PeerLost):
        rig.create(one_vcoproc("fir"))
    held = {**NOTHING, "attached": {"dsp0": {1}}, "files": ["domain-1", "vcoproc-1.1"]}
    assert rig.services.held() == held
    assert rig.marks.wait() == ["coproc/dsp0"]
    assert rig.repairer.repair("coproc/dsp0")
    assert rig.services.held() == NOTHING


def test_a_silent_service_is_asked_once_only_on_the_way_back(rig: Rig) -> None:
    rig.create('name="a"\nvcoproc=["coproc=dsp1,name=x","coproc=dsp1,name=y"]\n')
    asked = []

    def silence(step: object) -> None:
        if isinstance(step, DetachVcoproc):
            asked.append(step)
            raise PeerLost("coproc dsp1")

    rig.services.before = silence
    rig.changes.destroy_domain("a", NO_REQUEST)
    assert len(asked) == 1


def test_destroying_gives_the_memory_free_after_everything_else(rig: Rig) -> None:
    rig.create()
    rig.services.performed.clear()
    rig.changes.destroy_domain("fir", NO_REQUEST)
    kinds = [isinstance(step, RemoveMemory) for step in rig.services.performed]
    assert kinds.count(True) == 3
    assert len(kinds) == DESTROY_STEPS
    assert kinds == sorted(kinds)
    assert rig.services.held() == NOTHING
    assert rig.events() == [("domains/fir", "CREATED"), ("domains/fir", "DESTROYED")]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('memory = 1\nvcoproc = ["coproc=dsp0"]', InvalidConfig, "test.cfg: name: is missing"),
        ('name = "x"\nvcoproc = ["coproc=dps0"]', InvalidConfig, "did you mean 'dsp0'"),
        ('name = "x"\nvcoproc = ["coproc=dsp0,irq=5"]', InvalidConfig, "test.cfg:2:"),
        ('name = "x"\nvcoproc = ["coproc=ncore"]', WrongState, "ncore-0"),
        ('name = "x"\nmemory = 9999', InvalidConfig, "9999 is not between"),
        ("", InvalidConfig, "name"),
    ],
)
def test_a_wrong_file_is_refused_and_changes_nothing(
    rig: Rig, text: str, error: type[VcoprocError], words: str
) -> None:
    with pytest.raises(error, match=words):
        rig.create(text)
    assert rig.services.performed == []
    assert rig.domains() == []


def test_a_second_domain_of_one_name_is_refused(rig: Rig) -> None:
    rig.create()
    before = rig.services.held()
    with pytest.raises(AlreadyExists, match="'fir'"):
        rig.create()
    assert rig.services.held() == before


def test_an_offline_coproc_is_refused(rig: Rig) -> None:
    rig.unlease("dsp1")
    with pytest.raises(WrongState, match=r"dsp1.*OFFLINE.*ONLINE"):
        rig.create()
    assert rig.services.performed == []


def test_a_failed_coproc_is_refused_until_it_is_leased_anew(rig: Rig) -> None:
    rig.leases.fail("dsp1", "broken")
    with pytest.raises(WrongState, match="FAILED"):
        rig.create()
    rig.unlease("dsp1")
    rig.lease("dsp1")
    rig.create()


def test_a_coproc_takes_no_more_than_the_tree_says(rig: Rig) -> None:
    for name in "abc":
        rig.create(one_vcoproc(name, "dsp0"))
    with pytest.raises(LimitExceeded, match="dsp0: at most 3"):
        rig.create(one_vcoproc("d", "dsp0"))
    rig.changes.destroy_domain("b", NO_REQUEST)
    rig.create(one_vcoproc("d", "dsp0"))


def test_a_coproc_takes_no_more_than_its_type_can_hold(rig: Rig) -> None:
    for name in "abcd":
        rig.create(one_vcoproc(name, "dsp1"))
    with pytest.raises(LimitExceeded, match="dsp1: at most 4"):
        rig.create(one_vcoproc("e", "dsp1"))


def test_more_memory_than_there_is_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    status = rig.memory_dir

    class Small:
        f_bavail = 300
        f_frsize = 4096

    monkeypatch.setattr("os.statvfs", lambda path: Small if Path(path) == status else None)
    rig.create(one_vcoproc("a"))  # 1 MiB of 1.17
    with pytest.raises(LimitExceeded, match="memory of all domains"):
        rig.create(one_vcoproc("b"))
    assert [domain.name for domain in rig.domains()] == ["a"]


def test_the_number_of_domains_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOMAINS_MAX", 2)
    rig.create('name = "a"')
    rig.create('name = "b"')
    with pytest.raises(LimitExceeded, match="domains: at most 2"):
        rig.create('name = "c"')


def test_numbers_of_vcoprocs_never_come_back(rig: Rig) -> None:
    seen = []
    for _ in range(3):
        rig.create(one_vcoproc("a"))
        seen.append(rig.domains()[0].vcoprocs[0].vcoproc_id)
        rig.changes.destroy_domain("a", NO_REQUEST)
        rig.restart()
    assert seen == [1, 2, 3]


def test_a_change_waits_for_a_coproc_that_just_restarts(rig: Rig) -> None:
    """The toolstack was started again, and its coproc-sims have not leased their coprocs yet."""
    waited: list[tuple[list[str], int]] = []

    def come_back(names: Iterable[str], timeout_ns: int) -> None:
        waited.append((sorted(names), timeout_ns))
        for name in waited[-1][0]:
            if rig.leases.get(name) is None:
                rig.lease(name)

    rig.leases.wait_online = come_back  # type: ignore[method-assign]
    rig.unlease("dsp1")
    rig.create()
    held = rig.services.attached.copy()
    rig.unlease("dsp1")
    rig.services.attached.update(held)
    rig.changes.destroy_domain("fir", NO_REQUEST)
    assert rig.services.held() == NOTHING
    assert [names for names, _ in waited] == [["dsp0", "dsp1"]] * 2


def test_destroying_what_is_not_there(rig: Rig) -> None:
    with pytest.raises(NotFound, match="domain 'fir' does not exist"):
        rig.changes.destroy_domain("fir", NO_REQUEST)


def test_a_store_that_fails_at_the_end_is_repaired_once_it_works(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up between the steps and their conclusion."""
    real = rig.store.change
    calls = iter([real, None])

    def change() -> object:
        chosen = next(calls)
        if chosen is None:
            raise StoreUnavailable("store", "disk full")
        return chosen()

    monkeypatch.setattr(rig.store, "change", change)
    with pytest.raises(StoreUnavailable, match="disk full"):
        rig.create()
    assert [domain.life for domain in rig.domains()] == [Life.CREATING]
    assert "store" in rig.marks.wait()
    calls = iter([None, real])
    assert not rig.repairer.repair("store")
    assert rig.repairer.repair("store")
    assert (rig.domains(), rig.services.held()) == ([], NOTHING)


# --- one more vcoproc -----------------------------------------------------------------------------


def test_a_vcoproc_is_added_beside_the_others(rig: Rig) -> None:
    rig.create()
    rig.changes.create_vcoproc("fir", "coproc=dsp0,name=late,weight=3", NO_REQUEST, seal_vcoproc)
    vcoprocs = {vcoproc.name: vcoproc for vcoproc in rig.domains()[0].vcoprocs}
    assert set(vcoprocs) == {"audio", "video", "late"}
    spans = sorted(
        (place.ipa, place.ipa + place.size_bytes)
        for vcoproc in vcoprocs.values()
        for place in vcoproc.ranges
    )
    assert all(end <= base for (_, end), (base, _) in pairwise(spans))
    irqs = [line.irq for vcoproc in vcoprocs.values() for line in vcoproc.lines]
    assert len(set(irqs)) == len(irqs) == 9
    assert vcoprocs["late"].params == (("weight", 3),)
    assert ("domains/fir/vcoprocs/late", "CREATED") in rig.events()


def test_adding_and_removing_a_vcoproc_is_as_if_nothing_had_been(rig: Rig) -> None:
    rig.create()
    before = rig.services.held()
    rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", NO_REQUEST, seal_vcoproc)
    assert rig.services.held() != before
    rig.changes.destroy_vcoproc("fir", "late", NO_REQUEST)
    assert rig.services.held() == before


@pytest.mark.parametrize("place", range(5))
def test_a_refused_step_leaves_nothing_of_an_added_vcoproc(rig: Rig, place: int) -> None:
    rig.create()
    before = rig.services.held()
    rig.services.after = refuse_at(place, REFUSED)
    with pytest.raises(InvalidArgument):
        rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", NO_REQUEST, seal_vcoproc)
    assert rig.services.held() == before
    assert len(rig.domains()[0].vcoprocs) == 2


@pytest.mark.parametrize(
    ("domain", "spec", "error", "words"),
    [
        ("nobody", "coproc=dsp0", NotFound, "domain 'nobody'"),
        ("fir", "", InvalidArgument, "spec: is empty"),
        ("fir", 'coproc=dsp0"]\nmemory=1', InvalidArgument, "character '\"'"),
        ("fir", "coproc=dsp0\nname=x", InvalidArgument, "character '\\\\n'"),
        ("fir", "coproc=dsp0\\", InvalidArgument, "character"),
        ("fir", "coproc=dsp0," + "x" * 5000, InvalidArgument, "4096"),
        ("fir", "coproc=dsp0,name=audio", AlreadyExists, "vcoproc 'fir/audio'"),
        ("fir", "coproc=nope,name=x", InvalidConfig, "nope"),
        ("fir", "name=x", InvalidConfig, "coproc"),
        ("fir", "coproc=dsp0,name=x,irq=64", InvalidConfig, "irq 64"),
        ("fir", "coproc=dsp0,name=x,addr=0x0a000000", InvalidConfig, "overlaps"),
    ],
)
def test_a_wrong_vcoproc_is_refused(
    rig: Rig, domain: str, spec: str, error: type[VcoprocError], words: str
) -> None:
    rig.create()
    before = rig.services.held()
    with pytest.raises(error, match=words):
        rig.changes.create_vcoproc(domain, spec, NO_REQUEST, seal_vcoproc)
    assert rig.services.held() == before


def test_a_domain_takes_no_more_vcoprocs_than_its_bound(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.create()
    monkeypatch.setattr(limits, "VCOPROCS_PER_DOMAIN_MAX", 2)
    with pytest.raises(LimitExceeded, match="domain fir: at most 2"):
        rig.changes.create_vcoproc("fir", "coproc=dsp1,name=x", NO_REQUEST, seal_vcoproc)


# --- repeated requests ----------------------------------------------------------------------------


def test_a_repeated_request_gets_the_first_answer_and_does_nothing(rig: Rig) -> None:
    request = Request("r1", b"what was asked")
    first = rig.create(TWO_VCOPROCS, request)
    steps = len(rig.services.performed)
    assert rig.create(TWO_VCOPROCS, request) == first
    assert len(rig.services.performed) == steps
    rig.restart()
    steps = len(rig.services.performed)
    assert rig.create(TWO_VCOPROCS, request) == first
    assert len(rig.services.performed) == steps


def test_a_repeated_destruction_is_not_a_mistake(rig: Rig) -> None:
    rig.create()
    request = Request("r2", b"destroy")
    rig.changes.destroy_domain("fir", request)
    rig.changes.destroy_domain("fir", request)
    with pytest.raises(NotFound):
        rig.changes.destroy_domain("fir", NO_REQUEST)


def test_an_id_is_for_one_request_only(rig: Rig) -> None:
    rig.create(TWO_VCOPROCS, Request("r3", b"this"))
    with pytest.raises(InvalidArgument, match=r"request_id.*another request"):
        rig.create(one_vcoproc("x"), Request("r3", b"that"))
    assert len(rig.domains()) == 1


def test_a_failed_request_may_be_tried_again_with_its_id(rig: Rig) -> None:
    request = Request("r4", b"this")
    rig.services.before = refuse_at(5, REFUSED)
    with pytest.raises(InvalidArgument):
        rig.create(TWO_VCOPROCS, request)
    assert rig.create(TWO_VCOPROCS, request) == b"fir 2"


def test_a_request_killed_half_way_is_done_when_repeated(rig: Rig) -> None:
    request = Request("r5", b"this")
    rig.services.before = kill_at(7)
    with pytest.raises(Killed):
        rig.create(TWO_VCOPROCS, request)
    rig.restart()
    rig.create(TWO_VCOPROCS, request)
    assert rig.services.held() == complete(rig)


def test_too_many_changes_at_once_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that waits inside a step holds its place; the last free place is the caller's."""
    refused = []

    def try_another(_step: object) -> None:
        rig.services.before = lambda _step: None
        for _ in range(limits.CHANGES_WAITING_MAX):
            rig.changes._waiting.acquire(blocking=False)
        with pytest.raises(LimitExceeded) as caught:
            rig.create(one_vcoproc("x"))
        refused.append(caught.value)
        for _ in range(limits.CHANGES_WAITING_MAX - 1):
            rig.changes._waiting.release()

    rig.services.before = try_another
    rig.create()
    assert [error.limit for error in refused] == [limits.CHANGES_WAITING_MAX]
