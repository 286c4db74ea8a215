"""The public API over real gRPC: every field checked, pages, events, secrets."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
from toolstack_rig import TWO_VCOPROCS, one_vcoproc
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.records import VcoprocState

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def full(server: Server) -> Server:
    """All coprocs online, and the domain of TWO_VCOPROCS."""
    server.online()
    server.create(TWO_VCOPROCS)
    return server


def test_a_created_domain_is_described_completely(server: Server) -> None:
    server.online()
    domain = server.create(TWO_VCOPROCS + 'kernel = "/vmlinuz"\n')
    assert domain.name == "domains/fir"
    assert (domain.domid, domain.memory_bytes) == (1, limits.MIB)
    assert domain.state == api.Domain.STATE_RUNNING
    assert domain.unknown_keys == ["kernel"]
    audio, video = domain.vcoprocs
    assert (audio.name, audio.coproc) == ("domains/fir/vcoprocs/audio", "coprocs/dsp0")
    assert audio.compatible == "vcoproc,cortex-m4"
    assert audio.state == api.Vcoproc.STATE_SLEEPING
    assert dict(audio.parameters) == {"weight": 512}
    assert [(r.name, r.size_bytes, r.mapped) for r in audio.ranges] == [
        ("ctrl", 4096, False),
        ("mbox", 4096, True),
    ]
    assert [(line.name, line.irq, line.level) for line in video.lines] == [
        ("irq", 67, True),
        ("event", 68, False),
        ("fault", 69, True),
    ]
    got = server.call("GetDomain", api.GetDomainRequest(name="domains/fir"))
    for vcoproc in got.vcoprocs:
        assert vcoproc.HasField("accounting")
        vcoproc.ClearField("accounting")
    assert got == domain


def test_opening_a_domain_gives_its_secrets_and_places(full: Server) -> None:
    access = full.call("OpenDomain", api.OpenDomainRequest(name="domains/fir"))
    memory_dir = full.run_dir.memory_dir
    [memory] = access.memory
    assert (memory.base_ipa, memory.size_bytes) == (limits.GUEST_RAM_BASE_IPA, limits.MIB)
    assert memory.path == str(memory_dir / "domain-1")
    [record] = full.rig.domains()
    assert access.irq_credential == record.irq_credential
    assert access.irq_endpoint == "ipc://irq"
    for opened, vcoproc, kept in zip(
        access.vcoprocs, access.domain.vcoprocs, record.vcoprocs, strict=True
    ):
        assert opened.name == vcoproc.name == kept.resource
        assert opened.trap_credential == kept.trap_credential
        assert opened.trap_endpoint == f"ipc:///{kept.coproc}.sock"
        [mapped] = opened.mapped
        assert mapped.base_ipa == vcoproc.ranges[1].base_ipa
        assert mapped.path == str(memory_dir / f"vcoproc-{kept.vcoproc_id}.1")
        assert [register.name for register in opened.registers] == ["ID"]


def test_a_domain_can_be_opened_while_its_coproc_is_away(full: Server) -> None:
    full.rig.unlease("dsp1")
    access = full.call("OpenDomain", api.OpenDomainRequest(name="domains/fir"))
    assert access.vcoprocs[1].trap_endpoint == "ipc://somewhere/dsp1"
    assert [register.name for register in access.vcoprocs[1].registers] == ["ID"]
    assert access.domain.vcoprocs[1].state == api.Vcoproc.STATE_LOST


# --- states ---------------------------------------------------------------------------------------


def states(server: Server) -> list[str]:
    listed = server.call("ListVcoprocs", api.ListVcoprocsRequest())
    return [api.Vcoproc.State.Name(vcoproc.state) for vcoproc in listed.vcoprocs]


def test_states_are_those_of_the_scheduler(full: Server) -> None:
    full.rig.services.states = {1: VcoprocState.RUNNING, 2: VcoprocState.FAULTED}
    assert states(full) == ["STATE_RUNNING", "STATE_FAULTED"]


def test_without_a_scheduler_the_coprocs_are_asked(full: Server) -> None:
    full.rig.services.states = {1: VcoprocState.RUNNING}
    full.rig.services.down = {"scheduler"}
    assert states(full) == ["STATE_RUNNING", "STATE_SLEEPING"]
    listed = full.call("ListVcoprocs", api.ListVcoprocsRequest())
    assert not any(vcoproc.HasField("accounting") for vcoproc in listed.vcoprocs)


def test_without_anybody_to_ask_the_state_is_not_made_up(full: Server) -> None:
    full.rig.services.down = {"scheduler", "coproc/dsp0"}
    assert states(full) == ["STATE_UNSPECIFIED", "STATE_SLEEPING"]


def test_a_coproc_is_shown_as_it_is(full: Server) -> None:
    coproc = full.call("GetCoproc", api.GetCoprocRequest(name="coprocs/dsp1"))
    assert coproc == api.Coproc(
        name="coprocs/dsp1",
        path="/soc/dsp@f1000000",
        compatible="vcoproc,cortex-m4",
        state=api.Coproc.STATE_ONLINE,
        scheduler="rr",
        slice_us=2000,
        vcoproc_count=1,
        vcoproc_count_max=limits.VCOPROCS_PER_COPROC_MAX,
        private_memory_bytes=65536,
        clock_hz=100_000_000,
        switch_count=5,
        memory_bytes=limits.MIB,
        refusal_us=500_000,
        refusal_drain_us=10_000,
        aliases=["codec", "video"],
    )
    full.rig.leases.fail("dsp1", "broken")
    coproc = full.call("GetCoproc", api.GetCoprocRequest(name="coprocs/dsp1"))
    assert (coproc.state, coproc.state_reason) == (api.Coproc.STATE_FAILED, "broken")


def test_coprocs_made_on_demand_are_listed_once_they_were_there(server: Server) -> None:
    def listed() -> list[tuple[str, int]]:
        answer = server.call("ListCoprocs", api.ListCoprocsRequest())
        return [(coproc.name, coproc.state) for coproc in answer.coprocs]

    offline, online = api.Coproc.STATE_OFFLINE, api.Coproc.STATE_ONLINE
    assert listed() == [("coprocs/dsp0", offline), ("coprocs/dsp1", offline)]
    server.rig.lease("ncore-1")
    assert listed()[2:] == [("coprocs/ncore-1", online)]
    server.rig.unlease("ncore-1")
    assert listed()[2:] == [("coprocs/ncore-1", offline)]


# --- wrong requests -------------------------------------------------------------------------------

LONG = "x" * 64
BAD_REQUESTS = [
    ("CreateDomain", api.CreateDomainRequest(), "config: is empty"),
    ("CreateDomain", api.CreateDomainRequest(config="x" * (limits.MIB + 1)), "config: is longer"),
    (
        "CreateDomain",
        api.CreateDomainRequest(config='name="a"', file_name="f" * 5000),
        "file_name: is longer than 512",
    ),
    (
        "CreateDomain",
        api.CreateDomainRequest(config='name="a"', request_id=LONG),
        "request_id: is longer than 63",
    ),
    (
        "CreateDomain",
        api.CreateDomainRequest(config='name="a"', request_id="a\n"),
        "request_id: has characters",
    ),
    ("DestroyDomain", api.DestroyDomainRequest(name="fir"), "name: must have the form domains/"),
    ("DestroyDomain", api.DestroyDomainRequest(name="domains/"), "name: the name is empty"),
    ("DestroyDomain", api.DestroyDomainRequest(name="domains/fir", request_id=LONG), "request_id"),
    ("GetDomain", api.GetDomainRequest(), "name: must have the form"),
    ("GetDomain", api.GetDomainRequest(name="domains/" + LONG), "longer than 63"),
    ("GetDomain", api.GetDomainRequest(name="domains/a b"), "must be of A-Z"),
    ("GetDomain", api.GetDomainRequest(name="domains/" + "a/" * 5000), "must have the form"),
    ("OpenDomain", api.OpenDomainRequest(name="coprocs/dsp0"), "must have the form domains/"),
    ("GetCoproc", api.GetCoprocRequest(name="domains/fir"), "must have the form coprocs/"),
    ("CreateVcoproc", api.CreateVcoprocRequest(domain="fir", spec="coproc=dsp0"), "domain: must"),
    ("CreateVcoproc", api.CreateVcoprocRequest(domain="domains/fir"), "spec: is empty"),
    (
        "CreateVcoproc",
        api.CreateVcoprocRequest(domain="domains/fir", spec="coproc=dsp0", request_id=LONG),
        "request_id",
    ),
    (
        "DestroyVcoproc",
        api.DestroyVcoprocRequest(name="domains/fir"),
        "must have the form domains/{domain}/vcoprocs/{vcoproc}",
    ),
    (
        "DestroyVcoproc",
        api.DestroyVcoprocRequest(name="domains/fir/vcoprocs/audio", request_id=LONG),
        "request_id",
    ),
    ("GetVcoproc", api.GetVcoprocRequest(name="domains/fir/vcoprocs/.a"), "name: the name"),
    ("ListVcoprocs", api.ListVcoprocsRequest(domain="fir"), "domain: must have the form"),
]


@pytest.mark.parametrize(("method", "request_message", "words"), BAD_REQUESTS)
def test_a_wrong_field_is_refused_by_its_name(
    full: Server, method: str, request_message: Any, words: str
) -> None:
    before = full.rig.services.held()
    with refused(INVALID, "INVALID_ARGUMENT", words):
        full.call(method, request_message)
    assert full.rig.services.held() == before


LISTS = [
    ("ListDomains", api.ListDomainsRequest),
    ("ListCoprocs", api.ListCoprocsRequest),
    ("ListVcoprocs", api.ListVcoprocsRequest),
]


def token(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(("method", "kind"), LISTS)
@pytest.mark.parametrize(
    "fields",
    [
        {"page_size": -1},
        {"page_size": 1001},
        {"page_token": "?"},
        {"page_token": "é"},
        {"page_token": "x" * 2000},
        {"page_token": token()},
        {"page_token": token("domains")},
        {"page_token": token("something else", "a")},
        {"page_token": token("domains", 5)},
        {"page_token": base64.urlsafe_b64encode(b"[" * 700).decode()},
        {"filter": "name"},
        {"filter": "nonsense=1"},
        {"filter": "state=SOMEWHERE"},
        {"filter": "name=" + "x" * 1020},
    ],
)
def test_a_wrong_page_is_refused(
    full: Server, method: str, kind: Any, fields: dict[str, Any]
) -> None:
    field = next(iter(fields))
    with refused(INVALID, "INVALID_ARGUMENT", f"{field}: "):
        full.call(method, kind(**fields))


def test_a_file_with_more_problems_than_an_answer_holds(full: Server) -> None:
    """gRPC takes 8 KiB of trailers; a longer text would lose its reason."""
    for word in ("x" * 70, "\u2603" * 60):
        specs = ",\n".join(f'"coproc=dsp0,{word}{n}=no"' for n in range(31))
        with refused(INVALID, "INVALID_CONFIG", "too many problems: ") as caught:
            full.create(f'name = "a"\nvcoproc = [{specs}]\n')
        listed = str(caught.value.details()).splitlines()
        assert len(listed) > 5
        assert listed[0].startswith("test.cfg:2: ")


NOT_THERE = [
    ("GetDomain", api.GetDomainRequest(name="domains/nope")),
    ("OpenDomain", api.OpenDomainRequest(name="domains/nope")),
    ("DestroyDomain", api.DestroyDomainRequest(name="domains/nope")),
    ("GetCoproc", api.GetCoprocRequest(name="coprocs/nope")),
    ("GetCoproc", api.GetCoprocRequest(name="coprocs/ncore")),
    ("CreateVcoproc", api.CreateVcoprocRequest(domain="domains/nope", spec="coproc=dsp0")),
    ("GetVcoproc", api.GetVcoprocRequest(name="domains/nope/vcoprocs/v")),
    ("GetVcoproc", api.GetVcoprocRequest(name="domains/fir/vcoprocs/nope")),
    ("DestroyVcoproc", api.DestroyVcoprocRequest(name="domains/fir/vcoprocs/nope")),
    ("ListVcoprocs", api.ListVcoprocsRequest(domain="domains/nope")),
]


@pytest.mark.parametrize(("method", "request_message"), NOT_THERE)
def test_what_is_not_there_is_not_found(full: Server, method: str, request_message: Any) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "does not exist"):
        full.call(method, request_message)


def test_other_refusals_have_their_codes(full: Server) -> None:
    with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        full.create(TWO_VCOPROCS)
    with refused(INVALID, "INVALID_CONFIG", "test.cfg:1: "):
        full.create("name = 5")
    for name in "ab":
        full.create(one_vcoproc(name))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED"):
        full.create(one_vcoproc("c"))
    full.rig.unlease("ncore-0")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE"):
        full.create(one_vcoproc("c", "ncore-0"))
    full.rig.services.down = {"irq-router"}
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST", "irq-router has gone away"):
        full.create(one_vcoproc("c", "dsp1"))


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 6])
def test_pages_together_are_the_whole_list(server: Server, page_size: int) -> None:
    server.online()
    names = ["delta", "alpha", "echo", "bravo", "charlie"]
    for name in names:
        server.create(one_vcoproc(name, "dsp1" if name > "c" else "dsp0"))
    cases: list[tuple[str, Any, str, list[str]]] = [
        ("ListDomains", api.ListDomainsRequest, "domains", sorted(names)),
        (
            "ListVcoprocs",
            api.ListVcoprocsRequest,
            "vcoprocs",
            [f"{name}/vcoprocs/v" for name in sorted(names)],
        ),
        (
            "ListCoprocs",
            api.ListCoprocsRequest,
            "coprocs",
            ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"],
        ),
    ]
    for method, kind, field, expected in cases:
        got: list[str] = []
        page_token = ""
        while True:
            answer = server.call(method, kind(page_size=page_size, page_token=page_token))
            page = getattr(answer, field)
            assert 1 <= len(page) <= page_size
            got += [each.name.partition("/")[2] for each in page]
            page_token = answer.next_page_token
            if not page_token:
                break
        assert got == expected


def test_a_page_goes_on_after_what_was_deleted_meanwhile(server: Server) -> None:
    server.online()
    for name in ("a", "b", "c"):
        server.create(f'name = "{name}"')
    first = server.call("ListDomains", api.ListDomainsRequest(page_size=1))
    server.call("DestroyDomain", api.DestroyDomainRequest(name="domains/a"))
    rest = server.call("ListDomains", api.ListDomainsRequest(page_token=first.next_page_token))
    assert [domain.name for domain in rest.domains] == ["domains/b", "domains/c"]


def test_a_token_is_for_its_own_list_only(full: Server) -> None:
    full.create(one_vcoproc("other"))
    page = full.call("ListVcoprocs", api.ListVcoprocsRequest(page_size=1))
    with refused(INVALID, "INVALID_ARGUMENT", "page_token: "):
        full.call(
            "ListVcoprocs",
            api.ListVcoprocsRequest(domain="domains/fir", page_token=page.next_page_token),
        )


def test_vcoprocs_of_one_domain(full: Server) -> None:
    full.create(one_vcoproc("other"))
    answer = full.call("ListVcoprocs", api.ListVcoprocsRequest(domain="domains/fir"))
    assert [vcoproc.name.rpartition("/")[2] for vcoproc in answer.vcoprocs] == ["audio", "video"]


# --- repeated requests ----------------------------------------------------------------------------


def test_a_repeated_request_is_answered_and_not_done_again(server: Server) -> None:
    server.online()
    request = api.CreateDomainRequest(config=TWO_VCOPROCS, file_name="a.cfg", request_id="once")
    first = server.call("CreateDomain", request)
    steps = len(server.rig.services.performed)
    assert server.call("CreateDomain", request) == first
    assert len(server.rig.services.performed) == steps
    request.config = one_vcoproc("other")
    with refused(INVALID, "INVALID_ARGUMENT", "request_id: 'once' was used for another request"):
        server.call("CreateDomain", request)
    destroy = api.DestroyDomainRequest(name="domains/fir", request_id="once")
    with refused(INVALID, "INVALID_ARGUMENT", "request_id"):
        server.call("DestroyDomain", destroy)


def test_vcoprocs_come_and_go_idempotently(full: Server) -> None:
    create = api.CreateVcoprocRequest(
        domain="domains/fir", spec="coproc=dsp1,name=late", request_id="c"
    )
    vcoproc = full.call("CreateVcoproc", create)
    assert vcoproc.name == "domains/fir/vcoprocs/late"
    assert full.call("CreateVcoproc", create) == vcoproc
    destroy = api.DestroyVcoprocRequest(name=vcoproc.name, request_id="d")
    full.call("DestroyVcoproc", destroy)
    full.call("DestroyVcoproc", destroy)
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        full.call("GetVcoproc", api.GetVcoprocRequest(name=vcoproc.name))


# --- events ---------------------------------------------------------------------------------------


def take(stream: Any, count: int) -> list[tuple[int, str, str]]:
    """(revision, name, kind) of the next events."""
    got = []
    for event in stream:
        got.append((event.revision, event.name, api.Event.Kind.Name(event.kind)))
        if len(got) == count:
            break
    return got


def test_a_watch_after_a_list_misses_nothing_and_can_be_resumed(server: Server) -> None:
    server.online()
    revision = server.call("ListDomains", api.ListDomainsRequest()).revision
    server.create('name = "a"')
    stream = server.api.WatchEvents(api.WatchEventsRequest(revision=revision), timeout=TIMEOUT_S)
    assert take(stream, 1) == [(revision + 1, "domains/a", "KIND_CREATED")]
    server.create('name = "b"')
    server.call("DestroyDomain", api.DestroyDomainRequest(name="domains/a"))
    expected = [
        (revision + 2, "domains/b", "KIND_CREATED"),
        (revision + 3, "domains/a", "KIND_DESTROYED"),
    ]
    assert take(stream, 2) == expected
    stream.cancel()
    again = server.api.WatchEvents(api.WatchEventsRequest(revision=revision + 1), timeout=TIMEOUT_S)
    assert take(again, 2) == expected
    again.cancel()


def test_a_watch_from_now_on_begins_with_what_comes(server: Server) -> None:
    server.create('name = "a"')
    stream = server.api.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)
    stream.initial_metadata()  # the watch is open
    server.create('name = "b"')
    [(_, name, _)] = take(stream, 1)
    assert name == "domains/b"
    stream.cancel()


def test_a_watch_of_what_is_gone_must_list_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 3)
    for name in "abcdef":
        server.create(f'name = "{name}"')
    for revision in (1, 2, 999, 2**64 - 1):
        with refused(grpc.StatusCode.OUT_OF_RANGE, "REVISION_GONE"):
            stream = server.api.WatchEvents(
                api.WatchEventsRequest(revision=revision), timeout=TIMEOUT_S
            )
            next(iter(stream))


def test_watchers_are_bounded_and_give_their_places_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(limits.WATCHERS_MAX - 1):
        server.streams._places.acquire()
    first = server.api.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)
    first.initial_metadata()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "open streams"):
        next(iter(server.api.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)))
    first.cancel()
    assert server.streams._places.acquire(timeout=TIMEOUT_S)


def test_a_stop_ends_the_watches(server: Server) -> None:
    stream = server.api.WatchEvents(api.WatchEventsRequest(), timeout=TIMEOUT_S)
    stream.initial_metadata()
    server.streams.stop()
    assert list(stream) == []


def test_reads_do_not_wait_for_a_change_that_hangs(server: Server) -> None:
    """Inside a step of a creation: everything can be read, and the domain is seen half made."""
    server.online()
    seen: list[int] = []

    def look(_step: object) -> None:
        server.rig.services.before = lambda _step: None
        answer = server.call("ListDomains", api.ListDomainsRequest())
        seen.extend(domain.state for domain in answer.domains)
        server.call("ListCoprocs", api.ListCoprocsRequest())
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "CREATING"):
            server.call("OpenDomain", api.OpenDomainRequest(name="domains/fir"))

    server.rig.services.before = look
    server.create(TWO_VCOPROCS)
    assert seen == [api.Domain.STATE_CREATING]
