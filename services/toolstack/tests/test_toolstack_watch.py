"""Watching events: what comes, from where on, and what becomes of those who do not keep up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import TWO_VCOPROCS, Rig, one_vcoproc
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster
from vcoproc.errors import StoreUnavailable
from vcoproc.limits import MS, S
from vcoproc.runtime import grpc_kit
from vcoproc_toolstack.event_hub import EventHub
from vcoproc_toolstack.records import EventKind, EventRecord, FaultRecord

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def small(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that shares few events among watchers."""
    monkeypatch.setattr(limits, "EVENTS_RECENT_MAX", 8)
    monkeypatch.setattr(limits, "EVENTS_TAKEN_MAX", 3)
    server = Server(short_path / "run")
    yield server
    server.close()


def watch(server: Server, revision: int, filter_: str = "") -> Any:
    request = api.WatchEventsRequest(revision=revision, filter=filter_)
    stream = server.api.WatchEvents(request, timeout=TIMEOUT_S)
    stream.initial_metadata()
    return stream


def take(stream: Any, count: int) -> list[api.Event]:
    return [next(stream) for _ in range(count)]


def happen(server: Server, count: int, words: str = "") -> None:
    """So many events, each of a change of its own."""
    for _ in range(count):
        with server.rig.store.change() as change:
            change.add_event("services/test", EventKind.CHANGED, words)


@pytest.fixture
def eventful(server: Server) -> Server:
    """Something has happened to everything, after revision 1."""
    server.online()
    server.create(TWO_VCOPROCS)
    server.call(
        "CreateVcoproc", api.CreateVcoprocRequest(domain="domains/fir", spec="coproc=dsp1,name=w")
    )
    server.call("SetSchedule", api.SetScheduleRequest(coproc="coprocs/dsp0", slice_us=700))
    with server.rig.store.change() as change:
        fault = FaultRecord(1, 4, 0xFFFF_FFFF_FFFF_FFF0)
        change.add_event("domains/fir/vcoprocs/audio", EventKind.FAULTED, "broken", fault)
        change.add_event("coprocs/dsp1", EventKind.OFFLINE, "gone")
        change.add_event("services/scheduler", EventKind.ONLINE, "serves")
    server.call("DestroyDomain", api.DestroyDomainRequest(name="domains/fir"))
    return server


EVENTS = [
    (2, "domains/fir", "CREATED"),
    (3, "domains/fir/vcoprocs/w", "CREATED"),
    (4, "coprocs/dsp0/schedule", "CHANGED"),
    (5, "domains/fir/vcoprocs/audio", "FAULTED"),
    (6, "coprocs/dsp1", "OFFLINE"),
    (7, "services/scheduler", "ONLINE"),
    (8, "domains/fir", "DESTROYED"),
]
FILTERS = [
    ("", [2, 3, 4, 5, 6, 7, 8]),
    ("type=domain", [2, 8]),
    ("type=vcoproc", [3, 5]),
    ("type=coproc", [6]),
    ("type=schedule", [4]),
    ("type=service", [7]),
    ("type!=service kind!=CREATED", [4, 5, 6, 8]),
    ("kind=KIND_FAULTED", [5]),
    ("kind=O*LINE", [6, 7]),
    ("name=domains/fir*", [2, 3, 5, 8]),
    ("name=fir", [2, 8]),
    ("name=coprocs/dsp0*", [4]),
    ("type=domain kind=destroyed", [8]),
]


def told(event: api.Event) -> tuple[int, str, str]:
    return (
        event.revision,
        event.name,
        api.Event.Kind.Name(event.kind).removeprefix("KIND_"),
    )


@pytest.mark.parametrize(("filter_", "expected"), FILTERS)
def test_events_are_filtered(eventful: Server, filter_: str, expected: list[int]) -> None:
    stream = watch(eventful, 1, filter_)
    found = take(stream, len(expected))
    assert [told(event) for event in found] == [EVENTS[revision - 2] for revision in expected]
    eventful.create('name = "last"\nmemory = 1\n')  # and nothing else comes before this one
    if filter_ in ("", "type=domain"):
        assert next(stream).name == "domains/last"
    stream.cancel()
    listed = eventful.call("ListEvents", api.ListEventsRequest(filter=filter_))
    assert [event.revision for event in listed.events if event.revision <= 8] == expected


def test_each_event_has_what_it_changed_as_it_was_then(eventful: Server) -> None:
    created, attached, scheduled, faulted, gone, service, destroyed = take(watch(eventful, 1), 7)
    assert [vcoproc.name[-5:] for vcoproc in created.domain.vcoprocs] == ["audio", "video"]
    assert (created.domain.state, created.domain.revision) == (api.Domain.STATE_RUNNING, 2)
    assert (attached.vcoproc.coproc, attached.vcoproc.revision) == ("coprocs/dsp1", 3)
    assert (scheduled.coproc.name, scheduled.coproc.slice_us) == ("coprocs/dsp0", 700)
    assert faulted.vcoproc.state == api.Vcoproc.STATE_FAULTED
    assert gone.coproc.name == "coprocs/dsp1"
    assert service.WhichOneof("resource") is None
    assert destroyed.WhichOneof("resource") is None


def test_an_event_says_what_state_its_domain_has(server: Server) -> None:
    server.online()
    server.create(TWO_VCOPROCS)
    stream = watch(server, 0, "type=domain")
    for verb, state in (("Pause", "PAUSED"), ("Resume", "RUNNING"), ("ShutDown", "STOPPED")):
        request = getattr(api, f"{verb}DomainRequest")(name="domains/fir")
        server.call(f"{verb}Domain", request)
        word = ""
        while word != f"STATE_{state}":  # SHUTTING_DOWN comes before STOPPED
            event = next(stream)
            word = api.Domain.State.Name(event.domain.state)
        vcoprocs = {api.Vcoproc.State.Name(v.state) for v in event.domain.vcoprocs}
        # Nobody is asked whether those of a running domain sleep.
        assert vcoprocs == {f"STATE_{'UNSPECIFIED' if state == 'RUNNING' else state}"}
        assert event.domain.revision == event.revision
    stream.cancel()


def test_an_event_has_no_secret(eventful: Server) -> None:
    """Neither one that has just happened nor one that is read again."""
    secrets = [number.to_bytes(32, "big") for number in range(1, 20)]
    for text in map(api.Event.SerializeToString, take(watch(eventful, 1), 7)):
        assert not any(secret in text for secret in secrets)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", range(2, 31))
def test_a_watch_can_be_resumed_from_every_revision(small: Server, revision: int) -> None:
    """Some of them are shared among watchers, the others come from the store."""
    happen(small, 30)
    stream = watch(small, revision)
    found = [event.revision for event in take(stream, 31 - revision)]
    assert found == list(range(revision + 1, 32))
    happen(small, 1)
    assert next(stream).revision == 32
    stream.cancel()


@pytest.mark.slow
def test_nothing_is_missed_or_doubled_by_watchers_that_come_and_go(small: Server) -> None:
    """Watchers resume at random moments while several threads make changes."""
    count, changers = 150, 3
    last = 1 + count * changers
    found: dict[int, list[int]] = {}

    def follow(number: int) -> None:
        chance = random.Random(number)
        seen = found[number] = [1]
        while seen[-1] < last:
            stream = watch(small, seen[-1])
            for event in stream:
                seen.append(event.revision)
                if seen[-1] == last or chance.random() < 0.05:
                    break
            stream.cancel()

    watchers = [threading.Thread(target=follow, args=(number,)) for number in range(8)]
    changes = [threading.Thread(target=happen, args=(small, count)) for _ in range(changers)]
    for thread in [*watchers, *changes]:
        thread.start()
    for thread in [*changes, *watchers]:
        thread.join(60)
    assert all(seen == list(range(1, last + 1)) for seen in found.values())
    assert len(found) == 8


def test_all_watchers_hear_of_a_change(server: Server) -> None:
    streams = [watch(server, 0) for _ in range(limits.WATCHERS_MAX)]
    server.create('name = "a"\nmemory = 1\n')
    assert {next(stream).name for stream in streams} == {"domains/a"}
    for stream in streams:
        stream.cancel()


def test_a_watcher_that_is_filtered_out_moves_on(small: Server) -> None:
    """What the filter leaves out counts as seen: it does not keep a watcher in the past."""
    stream = watch(small, 1, "type=domain")
    happen(small, 50)
    small.create('name = "a"\nmemory = 1\n')
    assert next(stream).revision == 52
    stream.cancel()


@pytest.mark.parametrize("revision", [1, 2, 999, 2**64 - 1])
def test_what_is_no_longer_kept_cannot_be_watched(
    server: Server, monkeypatch: pytest.MonkeyPatch, revision: int
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 3)
    happen(server, 6)
    gone = grpc.StatusCode.OUT_OF_RANGE
    with refused(gone, "REVISION_GONE"):
        next(watch(server, revision))
    with refused(gone, "REVISION_GONE"):
        server.call("ListEvents", api.ListEventsRequest(after_revision=revision))


def test_a_change_with_more_events_than_are_kept(
    small: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can be told of all of them; who watched must list again, and others go on."""
    stream = watch(small, 0)
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 20)
    with small.rig.store.change() as change:
        for _ in range(50):
            change.add_event("services/test", EventKind.CHANGED, "")
    with refused(grpc.StatusCode.OUT_OF_RANGE, "REVISION_GONE"):
        next(stream)
    revision = small.call("ListDomains", api.ListDomainsRequest()).revision
    later = watch(small, revision)
    happen(small, 1)
    assert next(later).revision == 52
    later.cancel()


# --- watchers that do not keep up -----------------------------------------------------------------

BIG = "x" * 200_000
"""Some of these fill all buffers between a server and a client."""


@pytest.mark.slow
def test_a_watcher_that_reads_again_is_told_what_it_missed(
    small: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was blocked, and more came meanwhile than is shared: it gets all that was sent, a reason,
    and a revision from which nothing is missed."""
    monkeypatch.setattr(limits, "WATCHER_BLOCKED_NS_MAX", 10 * MS)
    stream = watch(small, 0)
    happen(small, 200, BIG)
    seen = []
    with refused(grpc.StatusCode.ABORTED, "WATCHER_TOO_SLOW") as caught:
        seen += [1]
        for event in stream:
            seen.append(event.revision)
    assert seen == list(range(1, len(seen) + 1))
    assert 1 < len(seen) < 201
    error: Any = grpc_kit.to_error(caught.value)
    assert error.metadata["revision"] == str(seen[-1])
    monkeypatch.setattr(limits, "WATCHER_BLOCKED_NS_MAX", 1000 * S)
    rest = watch(small, seen[-1])
    assert [event.revision for event in take(rest, 201 - seen[-1])] == list(
        range(seen[-1] + 1, 202)
    )
    rest.cancel()


@pytest.mark.slow
def test_a_burst_is_no_reason_to_end_a_watch(small: Server) -> None:
    """Much more comes at once than is shared, and the client reads."""
    stream = watch(small, 0)
    with small.rig.store.change() as change:
        for _ in range(500):
            change.add_event("services/test", EventKind.CHANGED, "")
    assert [event.revision for event in take(stream, 500)] == list(range(2, 502))
    stream.cancel()


@pytest.mark.slow
def test_the_python_client_goes_on_after_its_stream_was_cut(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not read for longer than a thread waits for it; the program notices nothing."""
    monkeypatch.setattr(limits, "ANSWER_WAIT_NS", 100 * MS)
    server = Server(short_path / "run")
    cuts: list[str] = []
    real = grpc_kit.bare_reason
    monkeypatch.setattr(grpc_kit, "bare_reason", lambda code: cuts.append(code.name) or real(code))
    with Cluster(run_dir=server.run_dir.path) as cluster:
        events = cluster.watch(revision=1)
        happen(server, 1, BIG)
        seen = [next(events).revision]
        happen(server, 199, BIG)
        # Whoever serves the stream is stuck, until it is cut and gives its place back.
        while server.streams._places._value < limits.WATCHERS_MAX:
            assert server.hub.revision() == 201
        seen += [next(events).revision for _ in range(199)]
    assert seen == list(range(2, 202))
    assert cuts == ["ABORTED"]
    server.close()


# --- lists of events ------------------------------------------------------------------------------


def test_pages_of_events_together_are_all_of_them(eventful: Server) -> None:
    found: list[int] = []
    token = ""
    while True:
        request = api.ListEventsRequest(page_size=2, page_token=token, filter="type!=service")
        answer = eventful.call("ListEvents", request)
        found += [event.revision for event in answer.events]
        token = answer.next_page_token
        if not token:
            break
        happen(eventful, 1)
    assert found == [2, 3, 4, 5, 6, 8]
    assert answer.revision == 10


def test_events_after_a_revision(eventful: Server) -> None:
    def after(revision: int) -> list[int]:
        answer = eventful.call("ListEvents", api.ListEventsRequest(after_revision=revision))
        return [event.revision for event in answer.events]

    assert after(6) == [7, 8]
    assert after(8) == []
    first = eventful.call("ListEvents", api.ListEventsRequest(after_revision=3, page_size=1))
    token = first.next_page_token
    rest = eventful.call("ListEvents", api.ListEventsRequest(after_revision=3, page_token=token))
    assert [event.revision for event in (*first.events, *rest.events)] == [4, 5, 6, 7, 8]


def test_a_list_of_a_cluster_without_events(server: Server) -> None:
    answer = server.call("ListEvents", api.ListEventsRequest())
    assert (list(answer.events), answer.revision) == ([], 1)


def test_pages_that_are_forgotten_meanwhile_are_no_end_of_the_list(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    happen(server, 10)
    first = server.call("ListEvents", api.ListEventsRequest(page_size=2))
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 5)
    happen(server, 1)
    with refused(grpc.StatusCode.OUT_OF_RANGE, "REVISION_GONE"):
        server.call("ListEvents", api.ListEventsRequest(page_token=first.next_page_token))
    kept = server.call("ListEvents", api.ListEventsRequest())
    assert [event.revision for event in kept.events] == [8, 9, 10, 11, 12]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"filter": "kind=BORN"}, "filter: kind must be one of CREATED, "),
        ({"filter": "type=thing"}, "filter: type must be one of domain, vcoproc, "),
        (
            {"filter": "revision=5"},
            "filter: 'revision' is no field; this list has name, kind, type",
        ),
        ({"filter": "x" * 1025}, "filter: is longer"),
    ],
)
@pytest.mark.parametrize("method", ["WatchEvents", "ListEvents"])
def test_a_wrong_filter_is_refused(
    server: Server, method: str, fields: dict[str, Any], words: str
) -> None:
    kind = getattr(api, f"{method}Request")
    with refused(INVALID, "INVALID_ARGUMENT", words):
        answer = getattr(server.api, method)(kind(**fields), timeout=TIMEOUT_S)
        next(answer)


@pytest.mark.parametrize("page_token", ["?", "WyJldmVudHMiLCAieCJd", "WyJldmVudHMiLCAiLTEiXQ=="])
def test_a_wrong_page_of_events_is_refused(server: Server, page_token: str) -> None:
    with refused(INVALID, "INVALID_ARGUMENT", "page_token: "):
        server.call("ListEvents", api.ListEventsRequest(page_token=page_token))


def test_a_vcoproc_of_another_domain_says_nothing_here(eventful: Server) -> None:
    stream = watch(eventful, 8, "name=domains/fir/*")
    eventful.create(one_vcoproc("first"))
    eventful.create(TWO_VCOPROCS)
    eventful.call("DestroyVcoproc", api.DestroyVcoprocRequest(name="domains/fir/vcoprocs/audio"))
    event = next(stream)
    assert told(event) == (11, "domains/fir/vcoprocs/audio", "DESTROYED")
    stream.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_that_reads_events_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise all watches would be open, and silent for ever."""
    died = threading.Event()

    def bug(_after: int, _stopped: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.store, "wait_for_events", bug)
    hub = EventHub(rig.store, rig.leases, rig.log, died.set)
    hub.start()
    assert died.wait(TIMEOUT_S)
    hub.stop()


def test_events_are_read_again_once_the_store_can_be_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rig.store.wait_for_events
    failures = iter([StoreUnavailable("store", "gone")] * 3)

    def fail(after: int, stopped: Callable[[], bool]) -> list[EventRecord]:
        for failure in failures:
            raise failure
        return real(after, stopped)

    monkeypatch.setattr(rig.store, "wait_for_events", fail)
    hub = EventHub(rig.store, rig.leases, rig.log)
    hub.start()
    with rig.store.change() as change:
        change.add_event("services/test", EventKind.CHANGED, "")
    [told] = hub.take(1, lambda: False)
    assert told.event.revision == 2
    hub.stop()
