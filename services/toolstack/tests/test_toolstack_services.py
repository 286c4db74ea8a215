"""What steps become on the wire: each against a server that notes what it was asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import CORTEX_M4, PLATFORM, TREE

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import parse_domain, parse_system
from vcoproc.errors import LimitExceeded, NotFound, PeerLost, WrongState
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.model.domain_state import DomainState
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.logs import Log
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.placing import place_domain
from vcoproc_toolstack.records import DomainRecord, Life, LineNow, VcoprocState
from vcoproc_toolstack.services import GrpcServices
from vcoproc_toolstack.steps import (
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    MapLines,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    ResumeDomain,
    ResumeVcoproc,
    SaveContext,
    TakeMemory,
)

SYSTEM = parse_system(TREE, "tree.dts")


def make_domain() -> DomainRecord:
    config = parse_domain('name = "fir"\nmemory = 1\nvcoproc = ["coproc=dsp0,name=a"]', "fir.cfg")
    new = place_domain(config, SYSTEM, lambda _coproc: PLATFORM)
    records = tuple(each.record(7, 1, "fir", b"secret") for each in new)
    domain = DomainRecord(1, "fir", Life.ALIVE, config.memory_bytes, b"secret", (), records)
    return domain.become(DomainState.RUNNING)


DOMAIN = make_domain()
[AUDIO] = DOMAIN.vcoprocs


class Noting:
    """Answers every call, and notes what it was. saved: pieces of a context."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.saved = [b"one ", b"two"]
        self.refuse = False

    def _note(self, request: Any, answer: Any) -> Any:
        if self.refuse:
            raise WrongState("vcoproc 7", "running", "a paused one")
        self.asked.append(request)
        return answer


class Coproc(Noting, rpc.CoprocSimServiceServicer):
    def AttachVcoproc(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.AttachVcoprocResponse())

    def DetachVcoproc(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.DetachVcoprocResponse())

    def PauseVcoproc(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.PauseVcoprocResponse())

    def ResumeVcoproc(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.ResumeVcoprocResponse())

    def SaveVcoproc(self, request: Any, _context: Any) -> Iterator[Any]:
        self._note(request, None)
        for piece in self.saved:
            yield pb.VcoprocChunk(data=piece)

    def RestoreVcoproc(self, requests: Any, _context: Any) -> Any:
        return self._note(list(requests), pb.RestoreVcoprocResponse())

    def GetStatus(self, _request: Any, _context: Any) -> Any:
        return pb.CoprocStatus(
            vcoprocs=[
                pb.VcoprocStatus(vcoproc_id=7, paused=True, name="domains/fir/vcoprocs/a"),
                pb.VcoprocStatus(vcoproc_id=8, runnable=True),
            ]
        )


class Router(Noting, rpc.IrqControlServiceServicer):
    def PauseDomain(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.PauseDomainResponse())

    def ResumeDomain(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.ResumeDomainResponse())

    def MapLines(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.MapLinesResponse())

    def MoveLines(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.MoveLinesResponse())

    def ListLines(self, _request: Any, _context: Any) -> Any:
        level: dict[str, Any] = {"level": True, "coproc": "dsp0"}
        edge: dict[str, Any] = {"level": False, "coproc": "dsp0"}
        return pb.ListLinesResponse(
            lines=[
                pb.LineStatus(domid=1, vcoproc_id=7, line=0, pending=True, enabled=True, **level),
                pb.LineStatus(domid=1, vcoproc_id=7, line=1, active=True, enabled=True, **edge),
                pb.LineStatus(domid=1, vcoproc_id=7, line=2, pending=True, **edge),
                pb.LineStatus(domid=1, vcoproc_id=7, line=3, enabled=True, **edge),
            ],
            domids=[1, 2],
            paused_domids=[2],
        )


class Scheduler(Noting, rpc.SchedulerControlServiceServicer):
    """schedules: of dsp1, one after the other; the last is the one from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.schedules: list[Any] = []

    def GetSchedule(self, request: Any, _context: Any) -> Any:
        if request.coproc != "dsp1":
            raise NotFound("coproc", request.coproc)
        return self.schedules.pop(0) if len(self.schedules) > 1 else self.schedules[0]

    def AddVcoproc(self, request: Any, _context: Any) -> Any:
        return self._note(request, pb.AddVcoprocResponse())


class Wire:
    """All three, and the toolstack's side of them."""

    def __init__(self, path: Path) -> None:
        run_dir = RunDir(path)
        run_dir.create()
        self.coproc, self.router, self.scheduler = Coproc(), Router(), Scheduler()
        log = Log("toolstack")
        self.servers = [
            grpc_kit.serve(run_dir.grpc(name), add, service_names=(), log=log)
            for name, add in (
                ("coproc-dsp0", self._add_coproc),
                ("irq-router", self._add_router),
                ("scheduler", self._add_scheduler),
            )
        ]
        self.memory = MemoryDir(run_dir.memory_dir)
        self.leases = Leases(SYSTEM)
        target = run_dir.grpc("coproc-dsp0")
        self.leases.take(Offer("dsp0", target, "ipc:///x", "rig", {CORTEX_M4: PLATFORM}))
        self.services = GrpcServices(run_dir, self.memory, self.leases)

    def _add_coproc(self, server: grpc.Server) -> None:
        rpc.add_CoprocSimServiceServicer_to_server(self.coproc, server)

    def _add_router(self, server: grpc.Server) -> None:
        rpc.add_IrqControlServiceServicer_to_server(self.router, server)

    def _add_scheduler(self, server: grpc.Server) -> None:
        rpc.add_SchedulerControlServiceServicer_to_server(self.scheduler, server)

    def close(self) -> None:
        self.services.cancel()
        self.services.close()
        for server in self.servers:
            server.stop(0).wait()


@pytest.fixture
def wire(short_path: Path) -> Iterator[Wire]:
    wire = Wire(short_path / "run")
    yield wire
    wire.close()


def test_a_vcoproc_is_attached_paused(wire: Wire) -> None:
    wire.services.perform(AttachVcoproc(AUDIO, "domain-1", limits.MIB, paused=True))
    wire.services.perform(AttachVcoproc(AUDIO, "domain-1", limits.MIB))
    assert [request.paused for request in wire.coproc.asked] == [True, False]
    assert wire.coproc.asked[0].name == "domains/fir/vcoprocs/a"


def test_a_vcoproc_leaves_for_good_or_for_another_coproc(wire: Wire) -> None:
    wire.services.perform(DetachVcoproc("dsp0", 7, moved=True))
    wire.services.perform(DetachVcoproc("dsp0", 7))
    assert [(r.vcoproc_id, r.moved) for r in wire.coproc.asked] == [(7, True), (7, False)]
    assert {r.deadline_us for r in wire.coproc.asked} == {limits.SWITCH_DEADLINE_NS // limits.US}


def test_pausing_has_a_deadline(wire: Wire) -> None:
    wire.services.perform(PauseVcoproc("dsp0", 7))
    wire.services.perform(ResumeVcoproc("dsp0", 7))
    deadline_us = limits.SWITCH_DEADLINE_NS // limits.US
    assert wire.coproc.asked == [
        pb.PauseVcoprocRequest(vcoproc_id=7, deadline_us=deadline_us),
        pb.ResumeVcoprocRequest(vcoproc_id=7),
    ]


def test_a_context_goes_to_a_file_and_from_there_to_a_coproc_sim(wire: Wire) -> None:
    wire.services.perform(SaveContext("dsp0", 7, "context-7", moving=True))
    assert wire.memory.path_of("context-7").read_bytes() == b"one two"
    assert wire.memory.contexts() == {7}
    assert wire.coproc.asked == [pb.SaveVcoprocRequest(vcoproc_id=7, moving=True)]
    wire.services.perform(LoadContext("dsp0", 7, "context-7"))
    assert wire.coproc.asked[1] == [
        pb.RestoreVcoprocRequest(vcoproc_id=7),
        pb.RestoreVcoprocRequest(data=b"one two"),
    ]
    wire.services.perform(ForgetContext("dsp0", 7))
    wire.services.perform(ForgetContext("dsp0", 7))
    assert wire.memory.contexts() == frozenset()


def test_a_large_context_goes_in_pieces(wire: Wire) -> None:
    wire.coproc.saved = [b"x" * limits.MIB] * 3
    wire.services.perform(SaveContext("dsp0", 7, "staged-1"))
    wire.services.perform(LoadContext("dsp0", 7, "staged-1"))
    sizes = [len(request.data) for request in wire.coproc.asked[1]]
    assert sizes == [0, *[limits.MIB] * 3]


def test_a_context_that_does_not_end_is_not_kept(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTEXT_BYTES_MAX", 5)
    with pytest.raises(LimitExceeded, match="at most 5 bytes"):
        wire.services.perform(SaveContext("dsp0", 7, "context-7"))
    assert list(wire.memory.path_of("").iterdir()) == []


def test_a_refusal_leaves_no_file(wire: Wire) -> None:
    wire.coproc.refuse = True
    for step in (SaveContext("dsp0", 7, "context-7"), PauseVcoproc("dsp0", 7)):
        with pytest.raises(grpc_kit.RemoteRefusal, match="this needs a paused one") as caught:
            wire.services.perform(step)
        assert caught.value.reason == "WRONG_STATE"
    assert list(wire.memory.path_of("").iterdir()) == []


def test_a_coproc_that_nobody_has_leased_does_not_answer(wire: Wire) -> None:
    for step in (PauseVcoproc("dsp1", 7), SaveContext("dsp1", 7, "context-7")):
        with pytest.raises(PeerLost, match="dsp1"):
            wire.services.perform(step)


def test_a_coproc_that_dies_while_it_writes_a_context_leaves_no_file(wire: Wire) -> None:
    def dies() -> Iterator[bytes]:
        yield b"half of it"
        wire.servers[0].stop(0)
        yield b"x" * limits.MIB

    wire.coproc.saved = dies()  # type: ignore[assignment]
    with pytest.raises(PeerLost, match="coproc dsp0"):
        wire.services.perform(SaveContext("dsp0", 7, "context-7"))
    assert list(wire.memory.path_of("").iterdir()) == []


def test_what_a_vcoproc_has_used_goes_to_the_scheduler_once_it_is_off_its_coproc(
    wire: Wire,
) -> None:
    """Its last turn is part of the account only then."""
    numbers = {
        "run_ns": 1,
        "wait_ns": 2,
        "refused_ns": 3,
        "overtime_ns": 4,
        "switch_ns": 5,
        "switch_count": 6,
        "wake_count": 7,
        "instruction_count": 8,
    }
    used = api.Accounting(**numbers)

    def schedule(current: int, accounting: api.Accounting) -> Any:
        own = pb.VcoprocSchedule(vcoproc_id=7, run_state="SLEEPING", accounting=accounting)
        return pb.GetScheduleResponse(current_vcoproc_id=current, vcoprocs=[own])

    wire.scheduler.schedules = [schedule(7, api.Accounting()), schedule(0, used)]
    wire.services.perform(AddVcoproc(AUDIO, used_on="dsp1"))
    wire.services.perform(AddVcoproc(AUDIO, used_on="dsp2"))
    wire.services.perform(AddVcoproc(AUDIO))
    carried, unknown, fresh = wire.scheduler.asked
    assert carried.accounting == used
    assert not unknown.HasField("accounting")
    assert not fresh.HasField("accounting")


def test_lines_begin_as_they_were_and_go_to_another_coproc(wire: Wire) -> None:
    wire.services.perform(MapLines(AUDIO, (LineNow(1, True, False), LineNow(2, False, True))))
    wire.services.perform(MoveLines(7, "dsp1", "dsp0"))
    mapped, moved = wire.router.asked
    assert [(line.line, line.pending, line.masked) for line in mapped.lines] == [
        (0, False, False),
        (1, True, False),
        (2, False, True),
    ]
    assert moved == pb.MoveLinesRequest(vcoproc_id=7, coproc="dsp1")


def test_domains_are_paused_in_the_irq_router(wire: Wire) -> None:
    wire.services.perform(PauseDomain(1))
    wire.services.perform(ResumeDomain(1))
    assert wire.router.asked == [pb.PauseDomainRequest(domid=1), pb.ResumeDomainRequest(domid=1)]


def test_what_is_paused_and_what_waits_is_read(wire: Wire) -> None:
    view = wire.services.router()
    assert (view.domids, view.coprocs, view.paused) == ({1, 2}, {7: "dsp0"}, {2})
    # A level is said again by whoever holds it; an edge that was taken is in nobody's hands then.
    assert view.lines[7] == (
        LineNow(0, False, False),
        LineNow(1, True, False),
        LineNow(2, True, True),
        LineNow(3, False, False),
    )
    status = wire.services.coproc("dsp0", limits.CALL_TIMEOUT_NS)
    assert status.paused == {7}
    assert status.names[7] == AUDIO.resource
    assert dict(status.vcoprocs) == {7: VcoprocState.SLEEPING, 8: VcoprocState.WAITING}


def test_memory_files_are_made_anew_and_taken_once(wire: Wire) -> None:
    memory = wire.memory
    wire.services.perform(MakeMemory("domain-1", 4096))
    memory.path_of("domain-1").write_bytes(b"old" + bytes(4093))
    with memory.path_of("domain-1").open("rb") as old:
        wire.services.perform(MakeMemory("domain-1", 4096))
        assert old.read(3) == b"old", "whoever has the old one keeps it"
    assert memory.path_of("domain-1").read_bytes() == bytes(4096)
    memory.path_of("staged-1").write_bytes(b"new")
    for _ in range(2):
        wire.services.perform(TakeMemory("domain-1", "staged-1"))
        assert memory.path_of("domain-1").read_bytes() == b"new"
