"""Life cycle, moves and snapshots over real gRPC: every field checked, streams bounded."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from toolstack_operations import ending
from toolstack_picture import picture, run_firmware, write_memory
from toolstack_rig import NO_REQUEST, NOTHING, TWO_VCOPROCS, one_vcoproc
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc import limits
from vcoproc.api.v1 import audit_pb2 as audit
from vcoproc.api.v1 import snapshot_pb2 as snapshot
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.model.domain_state import DomainState

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAME = "domains/fir"
AUDIO = "domains/fir/vcoprocs/audio"


@pytest.fixture
def full(server: Server) -> Server:
    """All coprocs online, and the domain of TWO_VCOPROCS, which has used what it has."""
    server.online()
    server.create(TWO_VCOPROCS)
    write_memory(server.rig)
    run_firmware(server.rig)
    return server


def state(server: Server, name: str = NAME) -> str:
    domain = server.call("GetDomain", api.GetDomainRequest(name=name))
    return api.Domain.State.Name(domain.state).removeprefix("STATE_")


def save(server: Server, **fields: Any) -> bytes:
    request = snapshot.SaveDomainRequest(name=NAME, **fields)
    chunks = list(server.api.SaveDomain(request, timeout=TIMEOUT_S))
    assert all(0 < len(chunk.data) <= limits.SNAPSHOT_CHUNK_BYTES for chunk in chunks)
    return b"".join(chunk.data for chunk in chunks)


def upload(data: bytes, **options: Any) -> Iterator[snapshot.RestoreDomainRequest]:
    yield snapshot.RestoreDomainRequest(options=snapshot.RestoreDomainOptions(**options))
    for at in range(0, len(data), 1000):
        yield snapshot.RestoreDomainRequest(data=data[at : at + 1000])


def restore(server: Server, data: bytes, **options: Any) -> api.Domain:
    return server.call("RestoreDomain", upload(data, **options))  # type: ignore[no-any-return]


def wait_until_ended(server: Server) -> str:
    """What came of the newest change, when all are over.

    A call that was cancelled is over for its client before it is over for the server.
    """
    for _ in range(10_000):
        entries = server.call("ListAuditEntries", audit.ListAuditEntriesRequest()).entries
        if all(entry.outcome for entry in entries):
            return str(entries[0].outcome)
    pytest.fail("a call does not end")


# --- states ---------------------------------------------------------------------------------------


def test_each_verb_answers_with_the_domain_as_it_is_then(full: Server) -> None:
    verbs: list[tuple[str, Any, str]] = [
        ("PauseDomain", api.PauseDomainRequest(name=NAME), "PAUSED"),
        ("ResumeDomain", api.ResumeDomainRequest(name=NAME), "RUNNING"),
        ("ShutDownDomain", api.ShutDownDomainRequest(name=NAME, timeout_us=1000), "STOPPED"),
        ("StartDomain", api.StartDomainRequest(name=NAME), "RUNNING"),
        ("CrashDomain", api.CrashDomainRequest(name=NAME, why="a bug"), "CRASHED"),
    ]
    for method, request, expected in verbs:
        answer = full.call(method, request)
        assert api.Domain.State.Name(answer.state) == f"STATE_{expected}"
        got = full.call("GetDomain", api.GetDomainRequest(name=NAME))
        for vcoproc in got.vcoprocs:
            vcoproc.ClearField("accounting")
        assert got == answer
    assert answer.state_reason == "a bug"


def test_a_domain_says_when_it_was_made_and_what_follows(server: Server) -> None:
    server.online()
    domain = server.create(TWO_VCOPROCS + 'on_poweroff = "destroy"\non_crash="restart"\n')
    assert domain.create_time_ns >= 1_000_000_000
    assert (domain.on_poweroff, domain.on_crash) == ("destroy", "restart")
    assert domain.unknown_keys == []
    assert server.create(one_vcoproc("other")).on_crash == "preserve"


def test_vcoprocs_show_what_their_domain_lets_them(full: Server) -> None:
    def states() -> set[str]:
        listed = full.call("ListVcoprocs", api.ListVcoprocsRequest())
        return {api.Vcoproc.State.Name(vcoproc.state) for vcoproc in listed.vcoprocs}

    full.call("PauseDomain", api.PauseDomainRequest(name=NAME))
    assert states() == {"STATE_PAUSED"}
    full.call("ShutDownDomain", api.ShutDownDomainRequest(name=NAME))
    assert states() == {"STATE_STOPPED"}


def test_a_domain_is_created_stopped_or_only_looked_at(server: Server) -> None:
    server.online()
    request = api.CreateDomainRequest(config=TWO_VCOPROCS, stopped=True, validate_only=True)
    would = server.call("CreateDomain", request)
    assert (would.domid, would.state, len(would.vcoprocs)) == (0, api.Domain.STATE_STOPPED, 2)
    assert server.call("ListDomains", api.ListDomainsRequest()).domains == []
    request.validate_only = False
    made = server.call("CreateDomain", request)
    assert made.state == api.Domain.STATE_STOPPED
    assert server.rig.services.held() == NOTHING
    spec = api.CreateVcoprocRequest(domain=NAME, spec="coproc=dsp1,name=x", validate_only=True)
    assert server.call("CreateVcoproc", spec).vcoproc_id == 0
    assert len(server.call("GetDomain", api.GetDomainRequest(name=NAME)).vcoprocs) == 2
    with refused(INVALID, "INVALID_CONFIG", "test.cfg:1: "):
        bad = api.CreateDomainRequest(config="name = 5", file_name="test.cfg", validate_only=True)
        server.call("CreateDomain", bad)


def test_what_is_only_looked_at_may_have_only_parameters_that_its_algorithm_takes(
    server: Server,
) -> None:
    """As when it is made: a dry run that finds it good would be a promise that is not kept."""
    server.online()
    text = 'name = "fir"\nmemory = 1\nvcoproc = ["coproc=dsp0,name=audio,PARAMETER"]\n'
    for parameter, words in (("depth=3", "no such parameter"), ("weight=70000", "outside of")):
        request = api.CreateDomainRequest(config=text.replace("PARAMETER", parameter))
        request.validate_only = True
        with refused(INVALID, "INVALID_ARGUMENT", "of vcoproc audio: ") as error:
            server.call("CreateDomain", request)
        assert words in str(error.value.details())
    server.create(TWO_VCOPROCS)
    spec = api.CreateVcoprocRequest(domain=NAME, spec="coproc=dsp1,name=x,depth=3")
    spec.validate_only = True
    with refused(INVALID, "INVALID_ARGUMENT", "depth of vcoproc x: "):
        server.call("CreateVcoproc", spec)


def test_a_domain_that_is_gone_after_its_shutdown_is_shown_as_it_was(server: Server) -> None:
    server.online()
    ending("on_poweroff", "destroy")(server.rig)
    answer = server.call("ShutDownDomain", api.ShutDownDomainRequest(name=NAME))
    assert (answer.state, answer.state_reason) == (api.Domain.STATE_DESTROYING, "shut down")
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        state(server)


def test_a_rename_and_a_move(full: Server) -> None:
    moved = full.call("MoveVcoproc", api.MoveVcoprocRequest(name=AUDIO, coproc="coprocs/ncore-0"))
    assert (moved.name, moved.coproc) == (AUDIO, "coprocs/ncore-0")
    renamed = full.call("RenameDomain", api.RenameDomainRequest(name=NAME, new_name="sobel"))
    assert renamed.name == "domains/sobel"
    assert [v.coproc for v in renamed.vcoprocs] == ["coprocs/ncore-0", "coprocs/dsp1"]
    assert state(full, "domains/sobel") == "RUNNING"


REQUESTS: list[tuple[str, Any]] = [
    ("StartDomain", api.StartDomainRequest),
    ("PauseDomain", api.PauseDomainRequest),
    ("ResumeDomain", api.ResumeDomainRequest),
    ("ShutDownDomain", api.ShutDownDomainRequest),
    ("CrashDomain", api.CrashDomainRequest),
]


@pytest.mark.parametrize(("method", "kind"), REQUESTS)
def test_fields_that_all_verbs_have_are_checked(full: Server, method: str, kind: Any) -> None:
    for fields, words in (
        ({"name": "fir"}, "name: must have the form domains/"),
        ({"name": "domains/" + "x" * 64}, "longer than 63"),
        ({"name": NAME, "request_id": "x" * 64}, "request_id: is longer than 63"),
        ({"name": NAME, "request_id": "a\n"}, "request_id: has characters"),
    ):
        with refused(INVALID, "INVALID_ARGUMENT", words):
            full.call(method, kind(**fields))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "domain 'nope' does not exist"):
        full.call(method, kind(name="domains/nope"))


BAD_REQUESTS = [
    (
        "ShutDownDomain",
        api.ShutDownDomainRequest(name=NAME, timeout_us=60_000_001),
        "timeout_us: 60000001 is not between 0 and 60000000",
    ),
    (
        "ShutDownDomain",
        api.ShutDownDomainRequest(name=NAME, timeout_us=2**64 - 1),
        "timeout_us: 18446744073709551615 is not",
    ),
    (
        "CrashDomain",
        api.CrashDomainRequest(name=NAME, why="\u2603" * 342),
        "why: is longer than 1024 bytes",
    ),
    ("RenameDomain", api.RenameDomainRequest(name=NAME), "new_name: the name is empty"),
    (
        "RenameDomain",
        api.RenameDomainRequest(name=NAME, new_name="domains/x"),
        "new_name: the name 'domains/x' must be of",
    ),
    ("RenameDomain", api.RenameDomainRequest(new_name="x"), "name: must have the form"),
    ("MoveVcoproc", api.MoveVcoprocRequest(name=NAME), "name: must have the form"),
    ("MoveVcoproc", api.MoveVcoprocRequest(name=AUDIO), "coproc: must have the form coprocs/"),
    ("MoveVcoproc", api.MoveVcoprocRequest(name=AUDIO, coproc="dsp1"), "coproc: must have"),
]


@pytest.mark.parametrize(("method", "request_message", "words"), BAD_REQUESTS)
def test_a_wrong_field_is_refused_by_its_name(
    full: Server, method: str, request_message: Any, words: str
) -> None:
    before = picture(full.rig)
    with refused(INVALID, "INVALID_ARGUMENT", words):
        full.call(method, request_message)
    assert picture(full.rig) == before


def test_other_refusals_have_their_codes(full: Server) -> None:
    failed = grpc.StatusCode.FAILED_PRECONDITION
    with refused(failed, "WRONG_STATE", "'fir' is RUNNING; this needs STOPPED or CRASHED"):
        full.call("StartDomain", api.StartDomainRequest(name=NAME))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "coproc 'x' does not exist"):
        full.call("MoveVcoproc", api.MoveVcoprocRequest(name=AUDIO, coproc="coprocs/x"))
    full.create(one_vcoproc("other"))
    with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"):
        full.call("RenameDomain", api.RenameDomainRequest(name=NAME, new_name="other"))
    full.rig.services.down = {"coproc/dsp0"}
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST"):
        full.call("PauseDomain", api.PauseDomainRequest(name=NAME))


def test_one_id_is_for_one_request(full: Server) -> None:
    request = api.PauseDomainRequest(name=NAME, request_id="r")
    first = full.call("PauseDomain", request)
    full.call("ResumeDomain", api.ResumeDomainRequest(name=NAME))
    assert full.call("PauseDomain", request) == first
    assert state(full) == "RUNNING", "nothing is done twice"
    with refused(INVALID, "INVALID_ARGUMENT", "'r' was used for another request"):
        full.call("ResumeDomain", api.ResumeDomainRequest(name=NAME, request_id="r"))


# --- snapshots ------------------------------------------------------------------------------------


def test_a_saved_domain_comes_back_with_another_name(full: Server) -> None:
    data = save(full)
    assert state(full) == "RUNNING"
    copy = restore(full, data, new_name="copy", paused=True, coprocs={"audio": "coprocs/ncore-1"})
    assert (copy.name, copy.state) == ("domains/copy", api.Domain.STATE_PAUSED)
    assert [v.coproc for v in copy.vcoprocs] == ["coprocs/ncore-1", "coprocs/dsp1"]


def test_a_domain_that_is_saved_and_shut_down(full: Server) -> None:
    data = save(full, shut_down=True)
    assert state(full) == "STOPPED"
    full.call("DestroyDomain", api.DestroyDomainRequest(name=NAME))
    assert restore(full, data).state == api.Domain.STATE_RUNNING


def test_a_context_is_saved_and_loaded(full: Server) -> None:
    request = snapshot.SaveVcoprocRequest(name=AUDIO)
    data = b"".join(chunk.data for chunk in full.api.SaveVcoproc(request, timeout=TIMEOUT_S))
    run_firmware(full.rig, "later")

    def parts(name: str) -> Iterator[snapshot.RestoreVcoprocRequest]:
        options = snapshot.RestoreVcoprocOptions(name=name, request_id="r")
        yield snapshot.RestoreVcoprocRequest(options=options)
        yield snapshot.RestoreVcoprocRequest(data=data)

    for _ in range(2):
        assert full.call("RestoreVcoproc", parts(AUDIO)).name == AUDIO
    assert full.rig.services.attached["dsp0"][1].label == "worked"
    with refused(INVALID, "INVALID_ARGUMENT", "used for another request"):
        full.call("RestoreVcoproc", parts("domains/fir/vcoprocs/video"))


def test_a_restoration_that_is_repeated_must_be_of_the_same_bytes(full: Server) -> None:
    data = save(full)
    first = restore(full, data, new_name="copy", request_id="r")
    assert restore(full, data, new_name="copy", request_id="r") == first
    with refused(INVALID, "INVALID_ARGUMENT", "'r' was used for another request"):
        restore(full, data + b"x", new_name="copy", request_id="r")


def test_a_damaged_snapshot_is_refused(full: Server) -> None:
    data = save(full)
    before = picture(full.rig)
    with refused(INVALID, "BAD_SNAPSHOT", "snapshot: "):
        restore(full, data[:-100], new_name="copy")
    assert picture(full.rig) == before


def options_only(**fields: Any) -> list[snapshot.RestoreDomainRequest]:
    options = snapshot.RestoreDomainOptions(**fields)
    return [snapshot.RestoreDomainRequest(options=options)]


DATA = snapshot.RestoreDomainRequest(data=b"x")
MANY = {f"v{n}": "coprocs/dsp0" for n in range(33)}


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "options: must be the first message"),
        ([DATA], "options: must be the first message"),
        ([snapshot.RestoreDomainRequest()], "options: must be the first message"),
        (options_only() * 2, "options: must be the first message, and only that"),
        ([*options_only(), snapshot.RestoreDomainRequest()], "and only that"),
        (
            [*options_only(), snapshot.RestoreDomainRequest(data=bytes(limits.MIB + 1))],
            "data: has more than 1048576 bytes",
        ),
        (options_only(new_name="a b"), "options.new_name: the name 'a b'"),
        (options_only(coprocs={"audio": "dsp0"}), "options.coprocs: must have the form coprocs/"),
        (options_only(coprocs={"a b": "coprocs/x"}), "options.coprocs: the name 'a b'"),
        (options_only(coprocs=MANY), "options.coprocs: are 33, at most 32"),
        ([*options_only(request_id="x" * 64), DATA], "request_id: is longer"),
    ],
)
def test_a_wrong_stream_is_refused(full: Server, requests: list[Any], words: str) -> None:
    before = picture(full.rig)
    with refused(INVALID, "INVALID_ARGUMENT", words):
        full.call("RestoreDomain", iter(requests))
    assert picture(full.rig) == before


def test_an_empty_snapshot_is_none(full: Server) -> None:
    with refused(INVALID, "BAD_SNAPSHOT", "is no archive"):
        full.call("RestoreDomain", iter(options_only()))


def test_a_wrong_name_of_a_vcoproc_is_refused(full: Server) -> None:
    options = snapshot.RestoreVcoprocOptions(name="domains/fir")
    with refused(INVALID, "INVALID_ARGUMENT", "options.name: must have the form"):
        full.call("RestoreVcoproc", iter([snapshot.RestoreVcoprocRequest(options=options)]))
    with refused(INVALID, "INVALID_ARGUMENT", "name: must have the form"):
        list(full.api.SaveVcoproc(snapshot.SaveVcoprocRequest(name=NAME), timeout=TIMEOUT_S))
    with refused(INVALID, "INVALID_ARGUMENT", "name: must have the form"):
        list(full.api.SaveDomain(snapshot.SaveDomainRequest(name=AUDIO), timeout=TIMEOUT_S))


def noisy(server: Server) -> None:
    """Memory that no transport takes in one go: the server waits for its client."""
    server.rig.changes.destroy_domain("fir", NO_REQUEST)
    server.create(TWO_VCOPROCS.replace("memory = 1", "memory = 64"))
    noise = random.Random(1)
    [domain] = server.rig.domains()
    with server.rig.memory.path_of(domain.memory_file).open("r+b") as file:
        for _ in range(64):
            file.write(noise.randbytes(limits.MIB))


@pytest.mark.slow
def test_a_client_that_cancels_a_save_lets_the_domain_go_on(full: Server) -> None:
    noisy(full)
    stream = full.api.SaveDomain(
        snapshot.SaveDomainRequest(name=NAME, shut_down=True), timeout=TIMEOUT_S
    )
    next(stream)
    assert state(full) == "PAUSED"
    stream.cancel()
    assert full.rig.marks.wait() == ["domain/2"]
    assert full.rig.repairer.repair("domain/2")
    assert state(full) == "RUNNING"
    assert full.rig.domains()[0].state is DomainState.RUNNING
    assert wait_until_ended(full) == "CANCELLED"


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_cut_off_and_hurts_nobody(
    full: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_STALL_NS", 200 * limits.MS)
    noisy(full)
    stream = full.api.SaveDomain(
        snapshot.SaveDomainRequest(name=NAME, shut_down=True), timeout=TIMEOUT_S
    )
    next(stream)
    full.create(one_vcoproc("other"))  # others are served meanwhile
    assert full.rig.marks.wait() == ["domain/2"]
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert full.rig.repairer.repair("domain/2")
    assert state(full) == "RUNNING"
    wait_until_ended(full)


@pytest.mark.slow
def test_a_client_that_sends_nothing_is_cut_off_and_leaves_nothing(
    full: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_STALL_NS", 200 * limits.MS)
    before = picture(full.rig)
    ended = threading.Event()

    def half() -> Iterator[snapshot.RestoreDomainRequest]:
        yield from options_only(new_name="copy")
        yield DATA
        ended.wait(TIMEOUT_S)

    with pytest.raises(grpc.RpcError) as caught:
        full.call("RestoreDomain", half())
    ended.set()
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert wait_until_ended(full) == "CANCELLED"
    assert picture(full.rig) == before


def test_snapshots_at_the_same_time_are_bounded(full: Server) -> None:
    blocked = threading.Event()

    def waits() -> Iterator[snapshot.RestoreDomainRequest]:
        yield from options_only(new_name="copy")
        blocked.wait(TIMEOUT_S)

    calls = [full.api.RestoreDomain.future(waits()) for _ in range(limits.SNAPSHOTS_MAX)]
    taken = full.gateway._snapshots
    while taken._value:  # type: ignore[attr-defined]
        full.call("GetDomain", api.GetDomainRequest(name=NAME))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "snapshots at the same"):
        save(full)
    blocked.set()
    for call in calls:
        with pytest.raises(grpc.RpcError):
            call.result(timeout=TIMEOUT_S)
    wait_until_ended(full)
    save(full)
