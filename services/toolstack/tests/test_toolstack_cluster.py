"""ClusterService over real gRPC: the whole picture, counters, lines and faults."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from toolstack_looking import line
from toolstack_rig import TWO_VCOPROCS, one_vcoproc
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc import limits
from vcoproc.api.v1 import cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc_toolstack.records import VcoprocState

INVALID = grpc.StatusCode.INVALID_ARGUMENT
AUDIO, VIDEO, OTHER = (
    "domains/fir/vcoprocs/audio",
    "domains/fir/vcoprocs/video",
    "domains/other/vcoprocs/v",
)


@pytest.fixture
def full(server: Server) -> Server:
    """fir has audio (1) on dsp0 and video (2) on dsp1; other has v (3) on dsp0."""
    server.online()
    server.create(TWO_VCOPROCS)
    server.create(one_vcoproc("other"))
    server.rig.repair_all()
    return server


def cluster(server: Server) -> cluster_pb2.Cluster:
    return server.call("GetCluster", cluster_pb2.GetClusterRequest())  # type: ignore[no-any-return]


def statistics(server: Server) -> cluster_pb2.Statistics:
    return server.call(  # type: ignore[no-any-return]
        "GetStatistics", cluster_pb2.GetStatisticsRequest()
    )


# --- everything at once ---------------------------------------------------------------------------


def test_a_picture_has_everything(full: Server) -> None:
    full.rig.services.states = {1: VcoprocState.RUNNING}
    full.rig.services.looking.lines_held = [line(2, 1, pending=True), line(1, 0), line(99, 0)]
    found = cluster(full)
    newest = full.hub.revision()
    assert found.revision == newest
    assert [domain.name for domain in found.domains] == ["domains/fir", "domains/other"]
    states = {v.name: v.state for domain in found.domains for v in domain.vcoprocs}
    assert states[AUDIO] == api.Vcoproc.STATE_RUNNING
    assert states[VIDEO] == api.Vcoproc.STATE_SLEEPING
    names = ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"]
    assert [coproc.name for coproc in found.coprocs] == [f"coprocs/{name}" for name in names]
    assert [coproc.vcoproc_count for coproc in found.coprocs] == [2, 1, 0, 0, 0]
    assert found.coprocs[0].memory_bytes == 2 * limits.MIB
    schedules = {each.coproc: [v.vcoproc for v in each.vcoprocs] for each in found.schedules}
    assert schedules["coprocs/dsp0"] == [AUDIO, OTHER]
    assert [each.name for each in found.lines] == [f"{AUDIO}/lines/irq", f"{VIDEO}/lines/event"]
    assert found.lines[1].pending
    services = {service.name: service.online for service in found.services}
    assert services == {"scheduler": True, "irq-router": True}
    assert list(found.gaps) == []


def test_a_picture_says_how_many_vcoprocs_still_fit(full: Server) -> None:
    """dsp0 may have three by the tree, and every one of the type four."""
    full.rig.unlease("ncore-1")
    [found] = cluster(full).types
    assert found.compatible == "vcoproc,cortex-m4"
    assert (found.coproc_count, found.available_count) == (5, 4)
    assert (found.vcoproc_count, found.free_count) == (3, 1 + 3 + 4 + 4)
    rooms = [(room.coproc.removeprefix("coprocs/"), room.free_count) for room in found.rooms]
    assert rooms == [("ncore-0", 4), ("ncore-2", 4), ("dsp1", 3), ("dsp0", 1)]


def test_a_picture_is_of_one_revision(full: Server) -> None:
    """The cluster changes while the services are asked, once: everything is looked at again."""
    looking = full.rig.services.looking

    def change() -> None:
        looking.meanwhile = lambda: None
        full.create(one_vcoproc("late", "dsp1"))

    looking.meanwhile = change
    found = cluster(full)
    assert looking.look_count == 2
    assert found.revision == full.hub.revision()
    assert [domain.name for domain in found.domains][1] == "domains/late"
    assert not found.gaps
    seen = {v.vcoproc for each in found.schedules for v in each.vcoprocs}
    assert seen == {v.name for domain in found.domains for v in domain.vcoprocs}


def test_a_cluster_that_always_changes_is_shown_with_a_gap(full: Server) -> None:
    looking = full.rig.services.looking
    names = iter("abcdefgh")
    looking.meanwhile = lambda: full.create(f'name = "{next(names)}"\nmemory = 1\n') and None
    found = cluster(full)
    assert looking.look_count == limits.PICTURES_MAX
    [gap] = found.gaps
    assert gap.startswith("revision: the cluster changed while it was asked, 3 times; ")
    assert str(found.revision) in gap
    # What is to be is of that revision all the same: of its own last change at the most.
    assert max(domain.revision for domain in found.domains) == found.revision


@pytest.mark.parametrize(
    ("down", "gap"),
    [
        ("scheduler", "scheduler: "),
        ("irq-router", "irq-router: "),
        ("coproc/dsp0", "coproc/dsp0: "),
    ],
)
def test_who_does_not_answer_is_a_gap(full: Server, down: str, gap: str) -> None:
    full.rig.services.looking.lines_held = [line(1, 0)]
    full.rig.services.down = {down}
    found = cluster(full)
    [said] = found.gaps
    assert said.startswith(gap)
    assert len(found.domains) == 2
    services = {service.name: service.online for service in found.services}
    assert services == {name: name != down for name in ("scheduler", "irq-router")}
    assert bool(found.schedules) == (down != "scheduler")
    assert bool(found.lines) == (down != "irq-router")
    assert found.domains[0].vcoprocs[0].state == api.Vcoproc.STATE_SLEEPING, "its coproc says so"
    [said] = statistics(full).gaps
    assert said.startswith(gap)


def test_a_coproc_that_nobody_has_leased_is_no_gap(full: Server) -> None:
    full.rig.unlease("dsp1")
    found = cluster(full)
    assert not found.gaps
    assert found.domains[0].vcoprocs[1].state == api.Vcoproc.STATE_LOST


def test_an_empty_cluster_can_be_seen(server: Server) -> None:
    found = cluster(server)
    assert (found.revision, list(found.domains), list(found.gaps)) == (1, [], [])
    assert [coproc.state for coproc in found.coprocs] == [api.Coproc.STATE_OFFLINE] * 2
    assert len(statistics(server).coprocs) == 2


# --- counters -------------------------------------------------------------------------------------


def test_counters_of_everybody(full: Server) -> None:
    looking = full.rig.services.looking
    looking.traps = {1: 10, 2: 20, 3: 30}
    looking.lines_held = [
        line(1, 0, raised_count=1),
        line(1, 1, raised_count=2),
        line(2, 0, raised_count=4),
    ]
    full.rig.services.states = {3: VcoprocState.WAITING}
    found = statistics(full)
    dsp0, dsp1 = found.coprocs[:2]
    assert (dsp0.coproc, dsp0.state, dsp0.scheduler) == (
        "coprocs/dsp0", api.Coproc.STATE_ONLINE, "rr",
    )  # fmt: skip
    assert (dsp0.switch_count, dsp0.trap_count, dsp0.interrupt_count) == (5, 40, 3)
    assert (dsp1.trap_count, dsp1.interrupt_count) == (20, 4)
    counts = [(v.vcoproc, v.trap_count, v.interrupt_count) for v in dsp0.vcoprocs]
    assert counts == [(AUDIO, 10, 3), (OTHER, 30, 0)]
    assert dsp0.vcoprocs[1].state == api.Vcoproc.STATE_WAITING
    assert dsp0.vcoprocs[0].HasField("accounting")
    later = statistics(full)
    assert later.clock_ns > found.clock_ns > 0
    assert looking.look_count == 2, "a counter needs one look, whatever changes meanwhile"


# --- lines ----------------------------------------------------------------------------------------


@pytest.fixture
def lined(full: Server) -> Server:
    """Three lines: two of audio, one of video."""
    full.rig.services.looking.lines_held = [
        line(2, 2, level=True, high=True, active=True),
        line(1, 1, pending=True, raised_count=3, merged_count=2),
        line(1, 0, enabled=False),
    ]
    return full


def lines(server: Server, **fields: Any) -> list[str]:
    answer = server.call("ListLines", cluster_pb2.ListLinesRequest(**fields))
    return [each.name for each in answer.lines]


IRQ, EVENT, FAULT = f"{AUDIO}/lines/irq", f"{AUDIO}/lines/event", f"{VIDEO}/lines/fault"


def test_a_line_is_shown_as_the_irq_router_has_it(lined: Server) -> None:
    answer = lined.call("ListLines", cluster_pb2.ListLinesRequest(filter="line=event"))
    assert list(answer.lines) == [
        cluster_pb2.Line(
            name=EVENT,
            coproc="coprocs/dsp0",
            irq=65,
            pending=True,
            enabled=True,
            raised_count=3,
            merged_count=2,
        )
    ]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("", [EVENT, IRQ, FAULT]),
        ("domain=fir", [EVENT, IRQ, FAULT]),
        ("domain=other", []),
        ("vcoproc=audio", [EVENT, IRQ]),
        (f"vcoproc={VIDEO}", [FAULT]),
        ("coproc=dsp1", [FAULT]),
        ("line=irq", [IRQ]),
        ("irq=0x40", [IRQ]),
        ("pending=true", [EVENT]),
        ("active=true", [FAULT]),
        ("enabled=false", [IRQ]),
        ("enabled=true pending=false", [FAULT]),
    ],
)
def test_lines_are_filtered(lined: Server, filter_: str, expected: list[str]) -> None:
    assert lines(lined, filter=filter_) == expected


def test_pages_of_lines(lined: Server) -> None:
    first = lined.call("ListLines", cluster_pb2.ListLinesRequest(page_size=2))
    assert [each.name for each in first.lines] == [EVENT, IRQ]
    # One goes and one comes before the next page.
    held = lined.rig.services.looking.lines_held
    held[1:] = [line(1, 0), line(2, 0)]
    rest = lines(lined, page_token=first.next_page_token)
    assert rest == [FAULT, f"{VIDEO}/lines/irq"]


def test_without_an_irq_router_there_are_no_lines_to_list(lined: Server) -> None:
    lined.rig.services.down = {"irq-router"}
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST", "irq-router has gone away"):
        lines(lined)
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST"):
        next(watch_lines(lined))


def watch_lines(server: Server, **fields: Any) -> Any:
    request = cluster_pb2.WatchLinesRequest(interval_us=10_000, **fields)
    return server.cluster.WatchLines(request, timeout=TIMEOUT_S)


def test_a_watch_of_lines_tells_what_has_changed(lined: Server) -> None:
    held = lined.rig.services.looking.lines_held
    stream = watch_lines(lined)
    first = next(stream)
    assert [each.name for each in first.lines] == [EVENT, IRQ, FAULT]
    held[1] = line(1, 1, pending=True, raised_count=4, merged_count=3)
    changed = next(stream)
    assert [(each.name, each.raised_count) for each in changed.lines] == [(EVENT, 4)]
    assert not changed.removed
    del held[0]
    assert list(next(stream).removed) == [FAULT]
    stream.cancel()


def test_a_watch_of_lines_with_a_filter_has_those_that_match(lined: Server) -> None:
    held = lined.rig.services.looking.lines_held
    stream = watch_lines(lined, filter="pending=true")
    assert [each.name for each in next(stream).lines] == [EVENT]
    held[1] = line(1, 1)
    assert list(next(stream).removed) == [EVENT]
    held[2] = line(1, 0, pending=True)
    assert [each.name for each in next(stream).lines] == [IRQ]
    stream.cancel()


def test_a_watch_of_no_lines_says_so(full: Server) -> None:
    stream = watch_lines(full)
    assert next(stream) == cluster_pb2.WatchLinesResponse()
    full.rig.services.looking.lines_held = [line(1, 0)]
    assert [each.name for each in next(stream).lines] == [IRQ]
    stream.cancel()


def test_watchers_of_lines_share_what_is_seen(
    lined: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = lined.rig.services.looking
    request = cluster_pb2.WatchLinesRequest(interval_us=60_000_000)
    streams = [lined.cluster.WatchLines(request, timeout=TIMEOUT_S) for _ in range(20)]
    for stream in streams:
        assert len(next(stream).lines) == 3
    assert looking.look_count == 1
    for stream in streams:
        stream.cancel()


def test_many_lines_come_in_parts(full: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_SIZE_MAX", 2)
    held = full.rig.services.looking.lines_held
    held += [line(number, index) for number in (1, 2, 3) for index in range(3)]
    stream = watch_lines(full)
    parts = [next(stream) for _ in range(5)]
    assert [len(part.lines) for part in parts] == [2, 2, 2, 2, 1]
    held.clear()
    parts = [next(stream) for _ in range(5)]
    assert [len(part.removed) for part in parts] == [2, 2, 2, 2, 1]
    stream.cancel()


def test_a_stop_ends_the_watches_of_lines(lined: Server) -> None:
    stream = lined.cluster.WatchLines(cluster_pb2.WatchLinesRequest(), timeout=TIMEOUT_S)
    next(stream)
    lined.streams.stop()
    assert list(stream) == []


@pytest.mark.parametrize(
    ("method", "request_message", "words"),
    [
        ("ListLines", cluster_pb2.ListLinesRequest(page_size=-1), "page_size: "),
        ("ListLines", cluster_pb2.ListLinesRequest(page_size=1001), "not between 0 and 1000"),
        ("ListLines", cluster_pb2.ListLinesRequest(page_token="?"), "page_token: "),
        ("ListLines", cluster_pb2.ListLinesRequest(filter="irq=2000"), "from 0 to 1019"),
        ("WatchLines", cluster_pb2.WatchLinesRequest(filter="x=1"), "filter: 'x' is no field"),
        (
            "WatchLines",
            cluster_pb2.WatchLinesRequest(interval_us=9_999),
            "interval_us: 9999 is not between 10000 and 60000000",
        ),
        (
            "WatchLines",
            cluster_pb2.WatchLinesRequest(interval_us=2**64 - 1),
            "interval_us: 18446744073709551615 is not between",
        ),
        ("ListFaults", cluster_pb2.ListFaultsRequest(page_size=1001), "page_size: "),
        ("ListFaults", cluster_pb2.ListFaultsRequest(page_token="?"), "page_token: "),
        ("ListFaults", cluster_pb2.ListFaultsRequest(filter="current=maybe"), "true, false"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(
    full: Server, method: str, request_message: Any, words: str
) -> None:
    with refused(INVALID, "INVALID_ARGUMENT", words):
        answer = getattr(full.cluster, method)(request_message, timeout=TIMEOUT_S)
        next(answer)


# --- faults ---------------------------------------------------------------------------------------


def report(server: Server, coproc: str, number: int, code: int, address: int = 0) -> None:
    request = pb.ReportFaultRequest(
        coproc=coproc, vcoproc_id=number, code=code, address=address, why="it broke"
    )
    server.lease.ReportFault(request, timeout=TIMEOUT_S)


def faults(server: Server, **fields: Any) -> list[tuple[str, int, bool]]:
    """(name, code, current) of each."""
    answer = server.call("ListFaults", cluster_pb2.ListFaultsRequest(**fields))
    return [(each.name, each.code, each.current) for each in answer.faults]


def test_a_fault_keeps_code_and_address(full: Server) -> None:
    report(full, "dsp0", 1, 4, 2**64 - 1)
    answer = full.call("ListFaults", cluster_pb2.ListFaultsRequest())
    [fault] = answer.faults
    assert (fault.name, fault.code, fault.address) == (AUDIO, 4, 2**64 - 1)
    assert fault.why.startswith("it broke")
    assert fault.revision == full.hub.revision()
    assert fault.time_ns > 0


def test_a_fault_is_current_until_it_is_reset(full: Server) -> None:
    """Of several of one vcoproc, the newest; as the scheduler says, or its coproc without it."""
    report(full, "dsp0", 1, 1)
    report(full, "dsp1", 2, 2)
    report(full, "dsp0", 1, 3)
    assert faults(full) == [(AUDIO, 3, False), (VIDEO, 2, False), (AUDIO, 1, False)]
    full.rig.services.states = {1: VcoprocState.FAULTED}
    assert faults(full) == [(AUDIO, 3, True), (VIDEO, 2, False), (AUDIO, 1, False)]
    full.rig.services.down = {"scheduler"}
    assert faults(full, filter="current=true") == [(AUDIO, 3, True)]


def test_the_fault_of_an_earlier_vcoproc_of_that_name_is_not_current(full: Server) -> None:
    report(full, "dsp0", 1, 1)
    full.call("DestroyVcoproc", api.DestroyVcoprocRequest(name=AUDIO))
    again = full.call(
        "CreateVcoproc",
        api.CreateVcoprocRequest(domain="domains/fir", spec="coproc=dsp0,name=audio"),
    )
    full.rig.services.states = {again.vcoproc_id: VcoprocState.FAULTED}
    assert faults(full) == [(AUDIO, 1, False)]
    report(full, "dsp0", again.vcoproc_id, 2)
    assert faults(full) == [(AUDIO, 2, True), (AUDIO, 1, False)]


def test_a_fault_stays_current_when_its_domain_is_renamed(full: Server) -> None:
    report(full, "dsp0", 1, 5)
    full.rig.services.states = {1: VcoprocState.FAULTED}
    full.call("RenameDomain", api.RenameDomainRequest(name="domains/fir", new_name="iir"))
    assert faults(full) == [(AUDIO, 5, True)], "the name that it had then"


def test_a_crash_is_current_until_the_domain_is_started_anew(full: Server) -> None:
    full.call("CrashDomain", api.CrashDomainRequest(name="domains/fir", why="watchdog"))
    assert faults(full) == [("domains/fir", 0, True)]
    full.call("StartDomain", api.StartDomainRequest(name="domains/fir"))
    assert faults(full) == [("domains/fir", 0, False)]


def test_the_fault_of_a_coproc_is_current_until_it_is_leased_anew(full: Server) -> None:
    report(full, "dsp1", 0, 0)
    assert faults(full) == [("coprocs/dsp1", 0, True)]
    full.rig.unlease("dsp1")
    full.rig.lease("dsp1")
    assert faults(full) == [("coprocs/dsp1", 0, False)]


def test_faults_are_filtered_and_paged(full: Server) -> None:
    for code in range(1, 6):
        report(full, "dsp0", 1, code)
        report(full, "dsp1", 2, code)
    assert faults(full, filter="code=3") == [(VIDEO, 3, False), (AUDIO, 3, False)]
    assert [code for _, code, _ in faults(full, filter="name=audio")] == [5, 4, 3, 2, 1]
    found: list[int] = []
    token = ""
    while True:
        request = cluster_pb2.ListFaultsRequest(page_size=2, page_token=token, filter="name=video")
        answer = full.call("ListFaults", request)
        found += [fault.code for fault in answer.faults]
        token = answer.next_page_token
        if not token:
            break
        report(full, "dsp1", 2, 9)  # newer ones are not on older pages
    assert found == [5, 4, 3, 2, 1]


def test_faults_of_an_older_store_have_no_code(full: Server) -> None:
    from vcoproc_toolstack.records import EventKind

    with full.rig.store.change() as change:
        change.add_event(AUDIO, EventKind.FAULTED, "hot (code 5, address 0x10)")
    assert faults(full) == [(AUDIO, 0, False)]
