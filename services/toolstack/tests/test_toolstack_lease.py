"""Leases over real gRPC: who gets which coproc, how long, and what the toolstack learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import CORTEX_M4, PLATFORM, TREE, TWO_VCOPROCS
from toolstack_server import TIMEOUT_S, Server, lease_request, refused

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import parse_system
from vcoproc.errors import LimitExceeded
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.records import CoprocState
from vcoproc_toolstack.translate import lease_message

EXAMPLES = Path(__file__).parents[3] / "examples"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def lease(server: Server, coproc: str = "") -> tuple[Any, pb.CoprocLease]:
    stream = server.lease.LeaseCoproc(lease_request(coproc), timeout=TIMEOUT_S)
    return stream, next(iter(stream))


def end(server: Server, stream: Any, coproc: str) -> None:
    """Ends a lease as the death of a coproc-sim does, and waits until that is known."""
    with server.rig.store.read() as view:
        revision = view.revision()
    stream.cancel()
    events = server.rig.store.wait_for_events(revision, lambda: False)
    assert [(event.name, event.kind.value) for event in events] == [
        (f"coprocs/{coproc}", "OFFLINE")
    ]


def test_a_lease_says_everything_that_a_coproc_sim_needs(server: Server) -> None:
    stream, got = lease(server, "dsp1")
    assert got == pb.CoprocLease(
        coproc="dsp1",
        compatible=CORTEX_M4,
        private_memory_bytes=65536,
        clock_hz=100_000_000,
        schedule_endpoint="ipc://schedule",
        irq_endpoint="ipc://irq-coproc",
        credential=b"cluster key",
        refusal_drain_ns=10_000_000,
    )
    held = server.rig.leases.get("dsp1")
    assert held is not None
    assert held.control_target == "unix:/run/dsp1.grpc"
    assert held.trap_endpoint == "ipc:///run/dsp1.sock"
    end(server, stream, "dsp1")


def test_fixed_coprocs_are_given_out_before_those_made_on_demand(server: Server) -> None:
    leases = [lease(server) for _ in range(5)]
    assert [got.coproc for _, got in leases] == ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"]
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "leased"):
        lease(server)
    end(server, leases[3][0], "ncore-1")
    assert lease(server)[1].coproc == "ncore-1"


def test_the_lease_lasts_as_long_as_the_stream(server: Server) -> None:
    stream, _ = lease(server, "dsp0")
    assert server.rig.leases.state("dsp0") is CoprocState.ONLINE
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "leased to sim"):
        lease(server, "dsp0")
    end(server, stream, "dsp0")
    assert server.rig.leases.state("dsp0") is CoprocState.OFFLINE
    stream, _ = lease(server, "dsp0")
    assert server.rig.events() == [
        ("coprocs/dsp0", "ONLINE"),
        ("coprocs/dsp0", "OFFLINE"),
        ("coprocs/dsp0", "ONLINE"),
    ]


def test_a_lease_asks_for_the_repair_of_coproc_and_scheduler(server: Server) -> None:
    stream, _ = lease(server, "dsp0")
    found = server.rig.marks.wait()
    while len(found) < 2:
        found += server.rig.marks.wait()
    assert sorted(found) == ["coproc/dsp0", "scheduler"]
    end(server, stream, "dsp0")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"compatible": ""}, "platforms.compatible: is empty"),
    ({"compatible": "x" * 2000}, "platforms.compatible: is longer"),
    ({"contexts_max": 0}, "platforms.contexts_max"),
    ({"ranges": [pb.RangeDescription(name="", size_bytes=4096)]}, "the name is empty"),
    ({"ranges": [pb.RangeDescription(name="ctrl", size_bytes=100)]}, "size_bytes"),
    ({"ranges": [pb.RangeDescription(name="ctrl", size_bytes=0)]}, "size_bytes"),
    ({"ranges": [pb.RangeDescription(name=f"r{n}", size_bytes=4096) for n in range(17)]}, "17"),
    ({"lines": [pb.LineDescription(name=f"l{n}") for n in range(33)]}, "platforms.lines: are 33"),
    ({"lines": [pb.LineDescription(name="a/b")]}, "the name"),
    ({"registers": [api.RegisterInfo(range="mbox", name="A")]}, "'mbox' is no trapped range"),
    ({"registers": [api.RegisterInfo(range="ctrl", name="")]}, "registers.name: is empty"),
    (
        {"registers": [api.RegisterInfo(range="ctrl", name="A", width_bytes=3)]},
        "registers.width_bytes: 3",
    ),
    (
        {"registers": [api.RegisterInfo(range="ctrl", name="A", offset=1 << 31, width_bytes=4)]},
        "registers.offset",
    ),
    (
        {"registers": [api.RegisterInfo(range="ctrl", name="A", width_bytes=4, access="x")]},
        "registers.access: 'x'",
    ),
    (
        {
            "registers": [
                api.RegisterInfo(
                    range="ctrl", name="A", width_bytes=4, access="ro", when_out="never"
                )
            ]
        },
        "registers.when_out: 'never'",
    ),
    # Right by itself, but not what the node in the tree has.
    ({"ranges": [pb.RangeDescription(name="ctrl", size_bytes=4096)]}, "has no range 'mbox'"),
    ({"lines": [pb.LineDescription(name="irq")]}, "has no line 'event'"),
    ({"compatible": "acme,npu"}, "none is 'vcoproc,cortex-m4'"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG)
def test_a_wrong_platform_is_refused_by_its_field(
    server: Server, changes: dict[str, Any], words: str
) -> None:
    request = lease_request("dsp0", **({"registers": []} | changes))
    with refused(INVALID, "INVALID_ARGUMENT", words):
        next(iter(server.lease.LeaseCoproc(request, timeout=TIMEOUT_S)))
    assert server.rig.leases.online() == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("control_target", "", "control_target: is empty"),
        ("trap_endpoint", "", "trap_endpoint: is empty"),
        ("trap_endpoint", "x" * 2000, "trap_endpoint: is longer"),
        ("holder", "x" * 2000, "holder: is longer"),
        ("coproc", "../x", "coproc: the name"),
    ],
)
def test_a_wrong_asker_is_refused(server: Server, field: str, value: str, words: str) -> None:
    request = lease_request()
    setattr(request, field, value)
    with refused(INVALID, "INVALID_ARGUMENT", words):
        next(iter(server.lease.LeaseCoproc(request, timeout=TIMEOUT_S)))


def test_no_platform_or_too_many_are_refused(server: Server) -> None:
    request = lease_request()
    platform = request.platforms[0]
    for count in (0, 65):
        del request.platforms[:]
        request.platforms.extend([platform] * count)
        with refused(INVALID, "INVALID_ARGUMENT", f"are {count}"):
            next(iter(server.lease.LeaseCoproc(request, timeout=TIMEOUT_S)))


@pytest.mark.parametrize("name", ["nope", "ncore", "ncore-3", "ncore-01"])
def test_a_coproc_that_is_not_in_the_tree(server: Server, name: str) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", name):
        lease(server, name)


def test_a_fault_of_a_vcoproc_becomes_an_event(server: Server) -> None:
    server.online()
    server.create(TWO_VCOPROCS)
    report = pb.ReportFaultRequest(
        coproc="dsp0", vcoproc_id=1, code=2, address=0x60000004, why="undefined instruction"
    )
    server.lease.ReportFault(report, timeout=TIMEOUT_S)
    with server.rig.store.read() as view:
        event = view.events(view.revision() - 1)[0]
    assert (event.name, event.kind.value) == ("domains/fir/vcoprocs/audio", "FAULTED")
    assert event.description == "undefined instruction (code 2, address 0x60000004)"
    assert server.rig.leases.state("dsp0") is CoprocState.ONLINE


def test_a_failure_of_a_coproc_becomes_its_state(server: Server) -> None:
    server.online()
    report = pb.ReportFaultRequest(coproc="dsp0", why="it does not switch")
    server.lease.ReportFault(report, timeout=TIMEOUT_S)
    assert server.rig.leases.state("dsp0") is CoprocState.FAILED
    assert server.rig.leases.state("dsp1") is CoprocState.ONLINE
    assert server.rig.events()[-1] == ("coprocs/dsp0", "FAULTED")


@pytest.mark.parametrize(
    ("report", "code", "reason"),
    [
        (pb.ReportFaultRequest(coproc="nope"), INVALID, "INVALID_ARGUMENT"),
        (pb.ReportFaultRequest(coproc="dsp0", why="x" * 2000), INVALID, "INVALID_ARGUMENT"),
        (
            pb.ReportFaultRequest(coproc="dsp0", vcoproc_id=99),
            grpc.StatusCode.NOT_FOUND,
            "NOT_FOUND",
        ),
        # Vcoproc 1 is on dsp0: nobody may speak for another coproc's vcoprocs.
        (
            pb.ReportFaultRequest(coproc="dsp1", vcoproc_id=1),
            grpc.StatusCode.NOT_FOUND,
            "NOT_FOUND",
        ),
    ],
)
def test_a_wrong_report_is_refused(
    server: Server, report: pb.ReportFaultRequest, code: grpc.StatusCode, reason: str
) -> None:
    server.online()
    server.create(TWO_VCOPROCS)
    before = server.rig.events()
    with refused(code, reason):
        server.lease.ReportFault(report, timeout=TIMEOUT_S)
    assert server.rig.events() == before


def test_a_platform_that_wraps_another_has_its_registers_and_gets_its_parameters() -> None:
    tree = (EXAMPLES / "refuse.dts").read_text().replace("vcoproc,cortex-m4", "acme,npu")
    leases = Leases(parse_system(tree, "refuse.dts"))
    own = replace(PLATFORM, compatible="vcoproc,refuse", registers=())
    inside = replace(PLATFORM, compatible="acme,npu")
    platforms = {"vcoproc,refuse": own, "acme,npu": inside}
    held = leases.take(Offer("", "unix:/run/sim.grpc", "ipc:///run/sim.sock", "sim", platforms))
    assert held.platform == replace(inside, compatible="vcoproc,refuse")
    message = lease_message(held, schedule_endpoint="s", irq_endpoint="i", credential=b"")
    assert (message.compatible, message.refusal_drain_ns) == ("vcoproc,refuse", 2_000_000)
    assert dict(message.platform_parameters) == {
        "vcoproc,wraps": "acme,npu",
        "vcoproc,refusal": "heavy-tail",
        "vcoproc,refusal-us": "50 30000",
        "vcoproc,refusal-percent": "25",
        "vcoproc,refusal-seed": "1",
    }


def test_no_more_are_leased_than_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates make more coprocs than there is room for: each lease keeps a thread."""
    leases = Leases(parse_system(TREE, "tree.dts"))
    monkeypatch.setattr(limits, "COPROCS_MAX", 2)
    offer = Offer("", "unix:/run/sim.grpc", "ipc:///run/sim.sock", "sim", {CORTEX_M4: PLATFORM})
    first = leases.take(offer)
    leases.take(offer)
    with pytest.raises(LimitExceeded, match="coprocs leased at the same time: at most 2"):
        leases.take(offer)
    leases.release(first)
    leases.take(offer)
