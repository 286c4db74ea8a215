"""The calls by which coprocs come and go, over real gRPC; and what their coproc-sims learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from toolstack_coprocs import tree
from toolstack_rig import CORTEX_M4, TREE, TWO_VCOPROCS, one_vcoproc
from toolstack_server import TIMEOUT_S, Server, lease_request, refused
from typer.testing import CliRunner

from vcoproc.api.v1 import audit_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc_toolstack.cli.app import app

INVALID = grpc.StatusCode.INVALID_ARGUMENT
STATE = grpc.StatusCode.FAILED_PRECONDITION
NPU = tree("npu").encode()


@pytest.fixture
def full(server: Server) -> Server:
    """All coprocs online, and the domain of TWO_VCOPROCS."""
    server.online()
    server.create(TWO_VCOPROCS)
    return server


class Leasing:
    """Asks for leases, as coproc-sims do, which all end in good order."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.streams: dict[str, Any] = {}

    def __call__(self, coproc: str = "", incarnation: int | None = None) -> tuple[Any, Any]:
        request = lease_request(coproc)
        if incarnation is not None:
            request.incarnation = incarnation
        stream = self.server.lease.LeaseCoproc(request, timeout=TIMEOUT_S)
        got = next(iter(stream))
        self.streams[got.coproc] = stream
        return stream, got

    def end(self, coproc: str) -> None:
        """Ends a lease as the death of a coproc-sim does, and waits until that is known."""
        rig = self.server.rig
        with rig.store.read() as view:
            revision = view.revision()
        lasts = rig.leases.get(coproc) is not None
        self.streams.pop(coproc).cancel()
        if lasts:
            rig.store.wait_for_events(revision, lambda: False)


@pytest.fixture
def lease(server: Server) -> Iterator[Leasing]:
    leasing = Leasing(server)
    yield leasing
    for name in [*leasing.streams]:
        leasing.end(name)


def coproc(server: Server, name: str) -> api.Coproc:
    return server.call("GetCoproc", api.GetCoprocRequest(name=f"coprocs/{name}"))  # type: ignore[no-any-return]


# --- calls ----------------------------------------------------------------------------------------


def test_what_was_added_is_described_completely(server: Server) -> None:
    text = tree("npu", entry="max-vcoprocs = <3>; refusal-deadline-us = <400>;")
    text = text.replace("chosen", "aliases { big-npu = &npu; };\nchosen", 1)
    answer = server.call("AddCoprocs", api.AddCoprocsRequest(tree=text.encode()))
    assert list(answer.coprocs) == [
        api.Coproc(
            name="coprocs/npu",
            path="/added/core@e0000000",
            compatible=CORTEX_M4,
            state=api.Coproc.STATE_OFFLINE,
            scheduler="rr",
            slice_us=5000,
            vcoproc_count_max=3,
            private_memory_bytes=65536,
            clock_hz=100_000_000,
            refusal_us=400,
            refusal_drain_us=10_000,
            revision=2,
            added=True,
            aliases=["big-npu"],
        )
    ]
    assert answer.coprocs[0] == coproc(server, "npu")
    listed = server.call("ListCoprocs", api.ListCoprocsRequest())
    assert "coprocs/npu" in [each.name for each in listed.coprocs]


def test_the_answer_has_the_order_of_the_tree(server: Server) -> None:
    request = api.AddCoprocsRequest(tree=tree("z", "a", "m").encode(), names=["a", "z"])
    answer = server.call("AddCoprocs", request)
    assert [each.name for each in answer.coprocs] == ["coprocs/z", "coprocs/a"]


def test_those_of_templates_say_so_and_are_listed_when_asked_for(server: Server) -> None:
    all_of_them = server.call("ListCoprocs", api.ListCoprocsRequest(show_unused=True)).coprocs
    assert {each.name: each.template for each in all_of_them} == {
        "coprocs/dsp0": "",
        "coprocs/dsp1": "",
        **{f"coprocs/ncore-{number}": "ncore" for number in range(3)},
    }
    assert len(server.call("ListCoprocs", api.ListCoprocsRequest()).coprocs) == 2


def test_only_looking_changes_nothing(server: Server) -> None:
    request = api.AddCoprocsRequest(tree=NPU, validate_only=True)
    assert [each.name for each in server.call("AddCoprocs", request).coprocs] == ["coprocs/npu"]
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        coproc(server, "npu")


ADDITIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"tree": b""}, "INVALID_ARGUMENT", "tree: must have 1 to 1048576 bytes, has 0"),
    ({"tree": b" " * (1 << 20) + b" "}, "INVALID_ARGUMENT", "tree: must have 1 to 1048576"),
    ({"tree": NPU, "file_name": "x" * 513}, "INVALID_ARGUMENT", "file_name: is longer than 512"),
    ({"tree": NPU, "names": ["a/b"]}, "INVALID_ARGUMENT", "names: the name"),
    ({"tree": NPU, "names": [""]}, "INVALID_ARGUMENT", "names: the name is empty"),
    ({"tree": NPU, "names": [f"x{n}" for n in range(257)]}, "INVALID_ARGUMENT", "are 257"),
    ({"tree": NPU, "names": ["nqu"]}, "INVALID_ARGUMENT", "did you mean 'npu'"),
    ({"tree": NPU, "request_id": "\n"}, "INVALID_ARGUMENT", "request_id"),
    ({"tree": b"\xff\xfe"}, "INVALID_CONFIG", "UTF-8"),
    ({"tree": b"nonsense", "file_name": "bad.dts"}, "INVALID_CONFIG", "bad.dts:1"),
]


@pytest.mark.parametrize(("fields", "reason", "words"), ADDITIONS)
def test_a_wrong_addition_is_refused_by_its_field(
    server: Server, fields: dict[str, Any], reason: str, words: str
) -> None:
    before = server.rig.leases.set
    with refused(INVALID, reason, words):
        server.call("AddCoprocs", api.AddCoprocsRequest(**fields))
    assert server.rig.leases.set == before


def test_one_that_is_there_already_is_refused(server: Server) -> None:
    with refused(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", "'dsp0'"):
        server.call("AddCoprocs", api.AddCoprocsRequest(tree=TREE.encode()))


NAMED = [
    ("DrainCoproc", api.DrainCoprocRequest),
    ("UndrainCoproc", api.UndrainCoprocRequest),
    ("RemoveCoproc", api.RemoveCoprocRequest),
]


@pytest.mark.parametrize(("method", "request_of"), NAMED)
def test_names_are_checked(server: Server, method: str, request_of: Any) -> None:
    for name in ("", "dsp0", "coprocs/", "coprocs/a/b", "domains/dsp0", "coprocs/.x"):
        with refused(INVALID, "INVALID_ARGUMENT", "name"):
            server.call(method, request_of(name=name))
    for name in ("nope", "ncore", "ncore-3"):
        with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", name):
            server.call(method, request_of(name=f"coprocs/{name}"))
    with refused(INVALID, "INVALID_ARGUMENT", "request_id"):
        server.call(method, request_of(name="coprocs/dsp0", request_id="x" * 64))


def test_names_of_a_replacement_are_checked(full: Server) -> None:
    request = api.ReplaceCoprocRequest(name="coprocs/dsp0", replacement="dsp1")
    with refused(INVALID, "INVALID_ARGUMENT", "replacement: must have the form coprocs/{coproc}"):
        full.call("ReplaceCoproc", request)
    request.replacement = "coprocs/dsp0"
    with refused(INVALID, "INVALID_ARGUMENT", "replacement: is the coproc that is"):
        full.call("ReplaceCoproc", request)
    request.replacement = "coprocs/npu"
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "npu"):
        full.call("ReplaceCoproc", request)


def test_a_drained_one_is_shown_so_and_refuses_vcoprocs(full: Server) -> None:
    drained = full.call("DrainCoproc", api.DrainCoprocRequest(name="coprocs/dsp0"))
    assert (drained.draining, drained.vcoproc_count) == (True, 1)
    assert drained == coproc(full, "dsp0")
    with refused(STATE, "WRONG_STATE", "coproc 'dsp0' is draining"):
        full.create(one_vcoproc("x"))
    back = full.call("UndrainCoproc", api.UndrainCoprocRequest(name="coprocs/dsp0"))
    assert not back.draining


def test_a_drain_that_moves_answers_with_an_empty_coproc(full: Server) -> None:
    request = api.DrainCoprocRequest(name="coprocs/dsp0", move_vcoprocs=True)
    assert full.call("DrainCoproc", request).vcoproc_count == 0
    for name in ("ncore-0", "ncore-1", "ncore-2"):
        full.call("DrainCoproc", api.DrainCoprocRequest(name=f"coprocs/{name}"))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "of its type take"):
        request = api.DrainCoprocRequest(name="coprocs/dsp1", move_vcoprocs=True)
        full.call("DrainCoproc", request)
    assert not coproc(full, "dsp1").draining


def test_a_replacement_answers_with_the_one_that_took_over(full: Server) -> None:
    request = api.ReplaceCoprocRequest(
        name="coprocs/dsp0", replacement="coprocs/ncore-0", request_id="r"
    )
    answer = full.call("ReplaceCoproc", request)
    assert (answer.name, answer.vcoproc_count) == ("coprocs/ncore-0", 1)
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "dsp0"):
        coproc(full, "dsp0")
    assert full.call("ReplaceCoproc", request) == answer
    with refused(INVALID, "INVALID_ARGUMENT", "'r' was used for another request"):
        full.call("RemoveCoproc", api.RemoveCoprocRequest(name="coprocs/dsp1", request_id="r"))


def test_one_in_use_is_only_removed_with_its_vcoprocs(full: Server) -> None:
    request = api.RemoveCoprocRequest(name="coprocs/dsp0")
    with refused(STATE, "WRONG_STATE", "'dsp0' is used by 1 vcoprocs"):
        full.call("RemoveCoproc", request)
    request.destroy_vcoprocs = True
    full.call("RemoveCoproc", request)
    listed = full.call("ListVcoprocs", api.ListVcoprocsRequest()).vcoprocs
    assert [each.name for each in listed] == ["domains/fir/vcoprocs/video"]


def test_types_are_sorted_and_say_who_has_room(full: Server) -> None:
    text = tree("acme", type="acme,npu")
    full.call("AddCoprocs", api.AddCoprocsRequest(tree=text.encode()))
    acme, cortex = full.call("ListCoprocTypes", api.ListCoprocTypesRequest()).types
    assert acme == api.CoprocType(compatible="acme,npu", coproc_count=1)
    assert (cortex.compatible, cortex.coproc_count, cortex.available_count) == (CORTEX_M4, 5, 5)
    assert [(room.coproc, room.free_count) for room in cortex.rooms] == [
        *((f"coprocs/ncore-{number}", 4) for number in range(3)),
        ("coprocs/dsp1", 3),
        ("coprocs/dsp0", 2),
    ]
    assert (cortex.vcoproc_count, cortex.free_count) == (2, 17)


def test_the_audit_log_says_whether_one_was_draining(full: Server) -> None:
    full.call("DrainCoproc", api.DrainCoprocRequest(name="coprocs/dsp0"))
    [entry] = full.cluster.ListAuditEntries(audit_pb2.ListAuditEntriesRequest(page_size=1)).entries
    assert (entry.method, entry.name) == ("DrainCoproc", "coprocs/dsp0")
    assert '"draining":false' in entry.before
    assert '"draining":true' in entry.after


# --- leases ---------------------------------------------------------------------------------------


def test_the_lease_of_a_removed_coproc_ends_with_that_reason(
    server: Server, lease: Leasing
) -> None:
    stream, got = lease("dsp1")
    server.call("RemoveCoproc", api.RemoveCoprocRequest(name="coprocs/dsp1"))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "'dsp1'"):
        next(iter(stream))
    assert server.rig.leases.online() == []
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "'dsp1'"):
        lease("dsp1", got.incarnation)


def test_whoever_simulated_another_one_of_that_name_does_not_get_it(
    server: Server, lease: Leasing
) -> None:
    _, first = lease("dsp1")
    server.call("RemoveCoproc", api.RemoveCoprocRequest(name="coprocs/dsp1"))
    request = api.AddCoprocsRequest(tree=TREE.encode(), names=["dsp1"])
    server.call("AddCoprocs", request)
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "'dsp1'"):
        lease("dsp1", first.incarnation)
    _, second = lease("dsp1")
    assert second.incarnation > first.incarnation


def test_one_that_came_back_from_a_restart_gets_the_same_coproc_again(
    server: Server, lease: Leasing
) -> None:
    _, got = lease("dsp1")
    lease.end("dsp1")
    _, again = lease("dsp1", got.incarnation)
    assert again.incarnation == got.incarnation


def test_who_waits_for_any_free_coproc_gets_one_that_is_added(
    server: Server, lease: Leasing
) -> None:
    server.online()
    with refused(STATE, "WRONG_STATE", "every coproc of a type on offer is leased"):
        lease()
    server.call("AddCoprocs", api.AddCoprocsRequest(tree=NPU))
    assert lease()[1].coproc == "npu"


def test_one_that_is_being_removed_is_given_back_only_to_whoever_had_it(
    full: Server, lease: Leasing
) -> None:
    """Who had it has to be asked for what is left on it; nobody else can say."""
    full.rig.services.down.add("coproc/dsp0")
    request = api.RemoveCoprocRequest(name="coprocs/dsp0", destroy_vcoprocs=True)
    full.call("RemoveCoproc", request)
    full.rig.unlease("dsp0")
    assert coproc(full, "dsp0").state_reason == "is being removed"
    with refused(STATE, "WRONG_STATE", "'dsp0' is being removed"):
        lease("dsp0")
    with refused(STATE, "WRONG_STATE", "every coproc"):
        lease()
    assert lease("dsp0", 0)[1].coproc == "dsp0"


def test_whoever_holds_vcoprocs_of_a_coproc_that_the_tree_has_lost_is_told_to_wait(
    full: Server, lease: Leasing
) -> None:
    """A tree that was wrong by mistake must not cost contexts that still run."""
    full.rig.unlease("dsp0")
    coprocs, _, _ = full.rig.leases.set.without("dsp0")
    full.rig.leases.apply(coprocs)
    with refused(STATE, "WRONG_STATE", "'dsp0' is not in the tree, and yet has vcoprocs"):
        lease("dsp0", 0)


def test_a_lease_says_which_incarnation_it_is_of(server: Server, lease: Leasing) -> None:
    server.call("AddCoprocs", api.AddCoprocsRequest(tree=NPU))
    _, got = lease("npu")
    with server.rig.store.read() as view:
        [record] = view.coproc_records()
    assert got.incarnation == record.incarnation > 1
    assert isinstance(got, pb.CoprocLease)


# --- the command ----------------------------------------------------------------------------------


def test_the_command_lists_unused_ones_when_asked_to(server: Server) -> None:
    environ = {"VCOPROC_RUN_DIR": str(server.run_dir.path)}
    few = CliRunner().invoke(app, ["coproc", "list"], env=environ)
    every = CliRunner().invoke(app, ["coproc", "list", "--all"], env=environ)
    assert (few.exit_code, every.exit_code) == (0, 0)
    assert "ncore-2" not in few.stdout
    assert "ncore-2" in every.stdout
