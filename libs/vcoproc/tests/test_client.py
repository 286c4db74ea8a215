"""`vcoproc.client`: every call reaches its method with its arguments, errors mean what they say."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from client_server import METHODS, FakeApi, in_turn

from vcoproc.api.v1 import snapshot_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import AsyncCluster, Cluster, RemoteRefusal, Tls, Unreachable
from vcoproc.client.connection import find_place, retry_delay_s
from vcoproc.client.names import coproc_name, domain_name, short_name, vcoproc_name
from vcoproc.client.watching import Watch
from vcoproc.errors import InvalidArgument
from vcoproc.limits import S


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    folder = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    fake = FakeApi(folder / "run")
    yield fake
    fake.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(fake: FakeApi) -> Iterator[Cluster]:
    with Cluster(fake.run_dir.path) as cluster:
        yield cluster


# --- names ----------------------------------------------------------------------------------------


def test_names_may_be_short_or_whole() -> None:
    assert domain_name("fir") == domain_name("domains/fir") == "domains/fir"
    assert coproc_name("dsp0") == coproc_name("coprocs/dsp0") == "coprocs/dsp0"
    whole = "domains/fir/vcoprocs/audio"
    assert vcoproc_name("fir/audio") == vcoproc_name(whole) == whole
    assert [short_name(each) for each in (whole, "domains/fir", "coprocs/dsp0")] == [
        "fir/audio", "fir", "dsp0",
    ]  # fmt: skip
    assert short_name("services/scheduler") == "services/scheduler"


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (domain_name, ""),
        (domain_name, "fir/audio"),
        (domain_name, "coprocs/dsp0"),
        (coproc_name, "coprocs/"),
        (vcoproc_name, "fir"),
        (vcoproc_name, "fir/"),
        (vcoproc_name, "domains/fir/vcoprocs"),
    ],
)
def test_the_name_of_something_else_is_refused(function: Any, name: str) -> None:
    with pytest.raises(InvalidArgument):
        function(name)


# --- every call -----------------------------------------------------------------------------------

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "add_coprocs": (("/dts-v1/;",), {"names": ["a"]}, 'tree: "/dts-v1/;" names: "a"'),
    "algorithms": ((), {}, ""),
    "analyse": (("dsp0",), {"work_ns": 5}, 'coproc: "coprocs/dsp0" work_ns: 5'),
    "audit": (("caller=a",), {}, 'page_size: 1000 filter: "caller=a"'),
    "caller": ((), {}, ""),
    "configuration": (("dsp0",), {}, 'coproc: "coprocs/dsp0"'),
    "coproc": (("dsp0",), {}, 'name: "coprocs/dsp0"'),
    "coproc_types": ((), {}, ""),
    "coprocs": (("state=ONLINE",), {}, 'page_size: 1000 filter: "state=ONLINE"'),
    "crash_domain": (("d",), {"why": "panic"}, 'name: "domains/d" why: "panic"'),
    "create_domain": (("x",), {"stopped": True}, 'config: "x" stopped: true'),
    "create_vcoproc": (("d", "coproc=c"), {}, 'domain: "domains/d" spec: "coproc=c"'),
    "decisions": (("c",), {"after": 3}, 'coproc: "coprocs/c" after_number: 3'),
    "destroy_domain": (("d",), {}, 'name: "domains/d"'),
    "destroy_vcoproc": (("d/v",), {}, 'name: "domains/d/vcoprocs/v"'),
    "device_tree": (("d",), {}, 'name: "domains/d"'),
    "domain": (("d",), {}, 'name: "domains/d"'),
    "domains": ((), {}, "page_size: 1000"),
    "drain_coproc": (("c",), {"move_vcoprocs": True}, 'name: "coprocs/c" move_vcoprocs: true'),
    "events": (("kind=FAULTED",), {"after_revision": 7},
               'page_size: 1000 filter: "kind=FAULTED" after_revision: 7'),
    "faults": ((), {}, "page_size: 1000"),
    "lines": ((), {}, "page_size: 1000"),
    "move_vcoproc": (("d/v", "c"), {}, 'name: "domains/d/vcoprocs/v" coproc: "coprocs/c"'),
    "open_domain": (("d",), {}, 'name: "domains/d"'),
    "pause_domain": (("d",), {}, 'name: "domains/d"'),
    "picture": ((), {}, ""),
    "remove_coproc": (("c",), {}, 'name: "coprocs/c"'),
    "rename_domain": (("d", "e"), {}, 'name: "domains/d" new_name: "e"'),
    "replace_coproc": (("c", "k"), {}, 'name: "coprocs/c" replacement: "coprocs/k"'),
    "resume_domain": (("d",), {}, 'name: "domains/d"'),
    "schedule": (("c",), {}, 'coproc: "coprocs/c"'),
    "set_parameters": (("d/v", {"weight": 2}), {},
                       'name: "domains/d/vcoprocs/v" parameters { key: "weight" value: 2 }'),
    "set_schedule": (("c",), {"algorithm": "rr", "slice_ns": 5000},
                     'coproc: "coprocs/c" algorithm: "rr" slice_us: 5'),
    "shut_down_domain": (("d",), {"timeout_ns": 3000}, 'name: "domains/d" timeout_us: 3'),
    "start_domain": (("d",), {}, 'name: "domains/d"'),
    "statistics": ((), {}, ""),
    "undrain_coproc": (("c",), {}, 'name: "coprocs/c"'),
    "vcoproc": (("d/v",), {}, 'name: "domains/d/vcoprocs/v"'),
    "vcoprocs": (("d",), {}, 'domain: "domains/d" page_size: 1000'),
    "watch_lines": ((), {"interval_ns": 10**7}, "interval_us: 10000"),
}  # fmt: skip
OTHERS = {"call", "close", "items", "stream", "watch", "whole"}
FILES = {"save_domain", "restore_domain", "save_vcoproc", "restore_vcoproc"}


def public(kind: type) -> dict[str, Any]:
    members = inspect.getmembers(kind, inspect.isfunction)
    return {name: member for name, member in members if not name.startswith("_")}


def test_every_call_of_the_api_can_be_made(fake: FakeApi, cluster: Cluster, tmp_path: Path) -> None:
    for name, (arguments, keywords, _) in CALLS.items():
        made = getattr(cluster, name)(*arguments, **keywords)
        if inspect.isgenerator(made):
            list(made)
    save_and_restore(cluster, tmp_path)
    next(cluster.watch(revision=1))
    assert {method for method, _ in fake.asked} == METHODS.keys()
    assert public(Cluster).keys() == CALLS.keys() | OTHERS | FILES, "a call is not tried here"


def save_and_restore(cluster: Cluster, folder: Path) -> None:
    cluster.save_domain("d", folder / "d")
    cluster.restore_domain(folder / "d")
    cluster.save_vcoproc("d/v", folder / "v")
    cluster.restore_vcoproc("d/v", folder / "v")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_says_what_was_meant(name: str, fake: FakeApi, cluster: Cluster) -> None:
    arguments, keywords, wanted = CALLS[name]
    made = getattr(cluster, name)(*arguments, **keywords)
    if inspect.isgenerator(made):
        list(made)
    ((method, request),) = fake.asked
    if "request_id" in METHODS[method].input_type.fields_by_name:
        assert request.request_id, "a change can be repeated"
        request.ClearField("request_id")
    assert " ".join(str(request).split()) == wanted


def test_the_asynchronous_client_has_the_same_calls() -> None:
    one, other = public(Cluster), public(AsyncCluster)
    assert one.keys() == other.keys()
    for name in one.keys() - OTHERS:
        signature = inspect.signature(one[name])
        assert signature.parameters == inspect.signature(other[name]).parameters, name


def test_the_asynchronous_client_says_the_same(
    fake: FakeApi, cluster: Cluster, tmp_path: Path
) -> None:
    for name, (arguments, keywords, _) in CALLS.items():
        made = getattr(cluster, name)(*arguments, **keywords)
        if inspect.isgenerator(made):
            list(made)
    waiting, fake.asked = fake.asked, []

    async def ask() -> None:
        async with AsyncCluster(fake.run_dir.path) as other:
            for name, (arguments, keywords, _) in CALLS.items():
                made = getattr(other, name)(*arguments, **keywords)
                if isinstance(made, AsyncIterator):
                    [_ async for _ in made]
                else:
                    await made

    asyncio.run(ask())
    for (one, first), (two, second) in zip(waiting, fake.asked, strict=True):
        for request in (first, second):
            if hasattr(request, "request_id"):
                request.request_id = ""
        assert (one, first) == (two, second)


def test_a_request_id_that_is_given_is_kept(fake: FakeApi, cluster: Cluster) -> None:
    cluster.pause_domain("d", request_id="mine")
    assert fake.asked[0][1].request_id == "mine"


def test_lists_come_page_by_page(fake: FakeApi, cluster: Cluster) -> None:
    pages = [
        api.ListDomainsResponse(domains=[api.Domain(name="domains/a")], next_page_token="t"),
        api.ListDomainsResponse(domains=[api.Domain(name="domains/b")]),
    ]
    fake.answers["ListDomains"] = in_turn(*pages)
    assert [domain.name for domain in cluster.domains()] == ["domains/a", "domains/b"]
    assert [request.page_token for _, request in fake.asked] == ["", "t"]


# --- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_is_a_file_that_is_whole_or_not_there(
    fake: FakeApi, cluster: Cluster, tmp_path: Path
) -> None:
    chunks = [snapshot_pb2.SnapshotChunk(data=data) for data in (b"ab", b"c")]
    fake.answers["SaveDomain"] = chunks
    seen: list[int] = []
    cluster.save_domain("d", tmp_path / "d.save", shut_down=True, progress=seen.append)
    assert (tmp_path / "d.save").read_bytes() == b"abc"
    assert seen == [2, 3]
    assert fake.asked[0][1].shut_down
    fake.answers["SaveDomain"] = (grpc.StatusCode.NOT_FOUND, "no such domain")
    with pytest.raises(RemoteRefusal):
        cluster.save_domain("x", tmp_path / "x.save")
    assert [path.name for path in tmp_path.iterdir()] == ["d.save"]


@pytest.mark.parametrize("kind", [Cluster, AsyncCluster])
@pytest.mark.parametrize(
    ("shut_down", "whole", "kept"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_what_may_be_all_that_is_left_of_a_domain_is_kept(
    fake: FakeApi, tmp_path: Path, kind: type, shut_down: bool, whole: bool, kept: bool
) -> None:
    """The toolstack dies after it has sent everything, and perhaps stopped the domain."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("domain.cfg", "name")
    data = archive.getvalue() if whole else archive.getvalue()[:-1]

    def break_off() -> Iterator[snapshot_pb2.SnapshotChunk]:
        yield snapshot_pb2.SnapshotChunk(data=data)
        raise ConnectionResetError

    fake.answers["SaveDomain"] = break_off
    folder = tmp_path / "saved"
    folder.mkdir()

    async def save() -> None:
        async with AsyncCluster(fake.run_dir.path) as cluster:
            await cluster.save_domain("d", folder / "d.save", shut_down=shut_down)

    with pytest.raises(RemoteRefusal):
        if kind is AsyncCluster:
            asyncio.run(save())
        else:
            with Cluster(fake.run_dir.path) as cluster:
                cluster.save_domain("d", folder / "d.save", shut_down=shut_down)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == (
        {"d.save": data} if kept else {}
    )


def test_what_is_no_file_is_never_replaced(fake: FakeApi, cluster: Cluster, tmp_path: Path) -> None:
    """Replacing a device, as root, would take it from everybody."""
    fake.answers["SaveDomain"] = [snapshot_pb2.SnapshotChunk(data=b"abc")]
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="is no regular file"):
            cluster.save_domain("d", tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert fake.asked == [], "nothing was stopped for it"
    (tmp_path / "link").symlink_to("d.save")
    cluster.save_domain("d", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "d.save").stat().st_mode & 0o777 == 0o600, "it has the domain's memory"


def test_a_restored_file_arrives_in_pieces_after_what_to_do_with_it(
    fake: FakeApi, cluster: Cluster, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 6000
    (tmp_path / "f").write_bytes(data)
    cluster.restore_domain(tmp_path / "f", new_name="n", paused=True, coprocs={"v": "c"})
    ((_, (first, *rest)),) = fake.asked
    assert (first.options.new_name, first.options.paused) == ("n", True)
    assert dict(first.options.coprocs) == {"v": "coprocs/c"}
    assert first.options.request_id
    assert b"".join(piece.data for piece in rest) == data
    assert len(rest) == 2


def test_a_file_that_is_not_there_is_told_as_such(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cluster.restore_domain(tmp_path / "nothing")


# --- where the cluster is -------------------------------------------------------------------------


def test_no_cluster_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no socket"):
        Cluster("/dev/shm/nobody")


def test_an_address_needs_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VCOPROC_TLS_DIR", raising=False)
    with pytest.raises(InvalidArgument, match="TLS only"):
        find_place(None, "host:1", None)
    with pytest.raises(InvalidArgument, match="name one"):
        find_place(tmp_path, "host:1", None)
    monkeypatch.setenv("VCOPROC_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("VCOPROC_ADDRESS", "host:1")
    place = find_place(None, None, None)
    assert (place.target, place.tls) == ("host:1", Tls.of_directory(tmp_path))
    assert find_place(Path("/dev/shm/x"), None, None).socket is not None, "what is given wins"
    with pytest.raises(InvalidArgument, match=r"ca\.crt: No such file"):
        Cluster(address="host:1")


@pytest.mark.parametrize(
    "address", ["host", "host:", ":1", "host:x", "host:99999", "[::1]", "host:" + 5000 * "1"]
)
def test_an_address_has_a_host_and_a_port(address: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is not HOST:PORT"):
        find_place(None, address, Tls.of_directory(tmp_path))


# --- errors and repetitions -----------------------------------------------------------------------


def test_a_refusal_keeps_its_words(fake: FakeApi, cluster: Cluster) -> None:
    fake.answers["GetDomain"] = (grpc.StatusCode.NOT_FOUND, "domain 'x' does not exist")
    with pytest.raises(RemoteRefusal, match="does not exist") as caught:
        cluster.domain("x")
    assert caught.value.reason == "NOT_FOUND"
    assert len(fake.asked) == 1, "a refusal is final"


def test_a_change_that_reached_nobody_is_made_again_with_the_same_id(
    fake: FakeApi, cluster: Cluster
) -> None:
    nobody = (grpc.StatusCode.UNAVAILABLE, "connection reset")
    fake.answers["PauseDomain"] = in_turn(nobody, nobody, api.Domain(name="domains/d"))
    assert cluster.pause_domain("d").name == "domains/d"
    ids = {request.request_id for _, request in fake.asked}
    assert (len(fake.asked), len(ids)) == (3, 1)


def test_a_cluster_that_has_ended_is_not_waited_for(fake: FakeApi, cluster: Cluster) -> None:
    fake.stop()
    shutil.rmtree(fake.run_dir.path)
    with pytest.raises(Unreachable):
        cluster.domain("d")


def test_waiting_between_attempts_grows_and_has_a_bound() -> None:
    delays = [retry_delay_s(attempt) for attempt in range(1, 8)]
    assert delays == sorted(delays)
    assert delays[-1] == delays[-2] <= 1


# --- watches --------------------------------------------------------------------------------------


def events(*revisions: int) -> list[api.Event]:
    return [api.Event(revision=revision) for revision in revisions]


def test_a_watch_goes_on_where_it_was(fake: FakeApi, cluster: Cluster) -> None:
    lost = (grpc.StatusCode.UNAVAILABLE, "connection reset")
    gone = (grpc.StatusCode.OUT_OF_RANGE, "revision 9 is gone")
    fake.answers["WatchEvents"] = in_turn(events(6, 7), lost, events(8), events(9), gone)
    seen = []
    with pytest.raises(RemoteRefusal, match="gone"):
        for event in cluster.watch("type=domain", revision=5):
            seen.append(event.revision)
    assert seen == [6, 7, 8, 9]
    watches = [request for method, request in fake.asked if method == "WatchEvents"]
    assert [request.revision for request in watches] == [5, 7, 7, 8, 9]
    assert {request.filter for request in watches} == {"type=domain"}


def test_a_watch_from_now_on_begins_at_the_newest_revision(fake: FakeApi, cluster: Cluster) -> None:
    fake.answers["ListEvents"] = api.ListEventsResponse(revision=41)
    fake.answers["WatchEvents"] = events(42)
    assert next(cluster.watch()).revision == 42
    assert fake.asked[-1][1].revision == 41


def test_a_watch_gives_up_when_its_patience_ends(fake: FakeApi, cluster: Cluster) -> None:
    fake.answers["WatchEvents"] = (grpc.StatusCode.UNAVAILABLE, "gone")
    with pytest.raises(Unreachable):
        list(cluster.watch(revision=1, patience_ns=S // 10))


def test_a_quiet_watch_has_its_patience_anew_at_each_restart() -> None:
    watch = Watch(5, "", patience_s=60)
    lost = Unreachable("here", "it has ended the watch")
    assert watch.goes_on(lost, 100.0)
    watch.served(101.0)  # and nothing happens for an hour
    assert watch.goes_on(lost, 3700.0)
    assert watch.goes_on(lost, 3750.0)
    watch.served(3751.0)
    assert watch.goes_on(lost, 3751.5), "it failed at once"
    assert not watch.goes_on(lost, 3761.0), "silent for a minute"
