"""Looking at all services at once, over real gRPC: nobody waits for one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import CORTEX_M4, PLATFORM, TREE

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import parse_system
from vcoproc.errors import NotFound, PeerLost
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.limits import MS, S
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.logs import Log
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.looking import Sight
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.records import Accounting, VcoprocState, VcoprocStatus
from vcoproc_toolstack.services import GrpcServices

COPROCS = ("dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2")


class Peers:
    """Stand-ins for all services. before: is called before any of them answers."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.run_dir = RunDir(folder)
        self.run_dir.create()
        self.before: Callable[[str], None] = lambda _who: None
        self._stack = stack
        self.leases = Leases(parse_system(TREE, "tree.dts"))
        self.services = GrpcServices(self.run_dir, MemoryDir(self.run_dir.memory_dir), self.leases)
        stack.callback(self.services.close)
        stack.callback(self.services.cancel)

    def serve(self, name: str, add: Callable[[Any, grpc.Server], None], servicer: Any) -> None:
        server = grpc_kit.serve(
            self.run_dir.grpc(name),
            lambda server: add(servicer, server),
            service_names=(),
            log=Log(name),
            threads=16,
        )
        self._stack.callback(lambda: server.stop(0).wait())

    def serve_all(self) -> None:
        self.serve("scheduler", rpc.add_SchedulerControlServiceServicer_to_server, Scheduler(self))
        self.serve("irq-router", rpc.add_IrqControlServiceServicer_to_server, Router(self))
        for name in COPROCS:
            self.lease(name)
            add = rpc.add_CoprocSimServiceServicer_to_server
            self.serve(f"coproc-{name}", add, CoprocSim(self, name))

    def lease(self, name: str) -> None:
        target = f"unix:{self.run_dir.path}/coproc-{{coproc}}.grpc"
        self.leases.take(Offer(name, target, "ipc://x", "test", {CORTEX_M4: PLATFORM}))

    def look(self, *, timeout_ns: int = 10 * S, schedules: bool = True) -> Sight:
        return self.services.looking.look(
            schedules=COPROCS if schedules else (), coprocs=COPROCS, timeout_ns=timeout_ns
        )


class Scheduler(rpc.SchedulerControlServiceServicer):
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def ListAccounts(self, _request: Any, _context: Any) -> pb.ListAccountsResponse:
        self._peers.before("scheduler")
        vcoproc = pb.VcoprocAccount(
            vcoproc_id=1,
            run_state="RUNNING",
            accounting=api.Accounting(run_ns=5, switch_count=6),
            refusal_count=7,
        )
        account = pb.CoprocAccount(
            coproc="dsp0", current_vcoproc_id=1, switch_count=8, algorithm="edf", vcoprocs=[vcoproc]
        )
        return pb.ListAccountsResponse(coprocs=[account])

    def GetSchedule(self, request: pb.GetScheduleRequest, _context: Any) -> pb.GetScheduleResponse:
        self._peers.before("scheduler")
        if request.coproc == "ncore-2":
            raise NotFound("coproc", request.coproc)
        return pb.GetScheduleResponse(coproc=request.coproc, algorithm="edf", slice_ns=9)


class Router(rpc.IrqControlServiceServicer):
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def ListLines(self, _request: Any, _context: Any) -> pb.ListLinesResponse:
        self._peers.before("irq-router")
        line = pb.LineStatus(
            domid=1, vcoproc_id=1, line=2, irq=66, high=True, raised_count=3, merged_count=1
        )
        return pb.ListLinesResponse(lines=[line])


class CoprocSim(rpc.CoprocSimServiceServicer):
    def __init__(self, peers: Peers, name: str) -> None:
        self._peers = peers
        self._name = name

    def GetStatus(self, _request: Any, _context: Any) -> pb.CoprocStatus:
        self._peers.before(self._name)
        status = pb.CoprocStatus(coproc=self._name, current_vcoproc_id=1, trap_count=11)
        status.vcoprocs.add(vcoproc_id=1, runnable=True, trap_count=10)
        status.vcoprocs.add(vcoproc_id=2, trap_count=1)
        return status


@pytest.fixture
def peers(short_path: Path) -> Iterator[Peers]:
    with ExitStack() as stack:
        yield Peers(short_path / "run", stack)


def test_what_is_seen(peers: Peers) -> None:
    peers.serve_all()
    sight = peers.look()
    assert sight.gaps == (), "the scheduler has not heard of ncore-2 yet: that is no gap"
    assert sight.accounts is not None and sight.lines is not None
    [account] = sight.accounts
    assert (account.coproc, account.current, account.algorithm) == ("dsp0", 1, "edf")
    accounting = Accounting(5, 0, 0, 0, 0, 6, 0, 0)
    assert account.vcoprocs == ((1, VcoprocStatus(VcoprocState.RUNNING, accounting, 7)),)
    assert sorted(sight.schedules) == list(COPROCS[:4])
    assert sight.schedules["dsp1"].slice_ns == 9
    counts = sight.coprocs["dsp0"]
    assert (counts.trap_count, counts.trap_counts) == (11, {1: 10, 2: 1})
    assert counts.states == {1: VcoprocState.RUNNING, 2: VcoprocState.SLEEPING}
    [line] = sight.lines
    assert (line.vcoproc_id, line.index, line.irq, line.high) == (1, 2, 66, True)
    assert (line.raised_count, line.merged_count) == (3, 1)
    assert peers.services.looking.lines(10 * S) == sight.lines


def test_all_are_asked_at_once(peers: Peers) -> None:
    """Nobody answers before everybody was asked."""
    peers.serve_all()
    together = threading.Barrier(len(COPROCS) + 2)
    peers.before = lambda _who: together.wait(10) and None
    assert peers.look(schedules=False).gaps == ()


@pytest.mark.slow
def test_those_who_hang_are_gaps_and_cost_the_others_nothing(peers: Peers) -> None:
    peers.serve_all()
    free = threading.Event()

    def hang(who: str) -> None:
        if who in ("dsp1", "ncore-0", "irq-router"):
            free.wait(20)

    peers.before = hang
    sight = peers.look(timeout_ns=300 * MS)
    assert sight.gaps == (
        "coproc dsp1: did not answer within 300 ms",
        "coproc ncore-0: did not answer within 300 ms",
        "irq-router: did not answer within 300 ms",
    )
    assert sorted(sight.coprocs) == ["dsp0", "ncore-1", "ncore-2"]
    assert sight.lines is None
    assert sight.accounts is not None
    free.set()


@pytest.mark.slow
def test_who_is_not_there_is_a_gap_once(peers: Peers) -> None:
    """dsp0 is leased, and its process has gone; nobody has leased the others."""
    peers.lease("dsp0")
    sight = peers.look(timeout_ns=limits.ACCOUNTS_TIMEOUT_NS)
    who = [gap.partition(":")[0] for gap in sight.gaps]
    assert who == ["coproc dsp0", "irq-router", "scheduler"]
    assert (sight.accounts, sight.lines) == (None, None)
    assert not (sight.schedules or sight.coprocs)


def test_a_look_is_given_up_when_the_toolstack_stops(peers: Peers) -> None:
    peers.serve_all()
    asked = threading.Barrier(len(COPROCS) + 3)
    free = threading.Event()

    def hang(_who: str) -> None:
        asked.wait(10)
        free.wait(20)

    peers.before = hang
    found: list[Sight] = []
    thread = threading.Thread(target=lambda: found.append(peers.look(schedules=False)))
    thread.start()
    asked.wait(10)
    peers.services.cancel()
    thread.join(10)
    assert found[0].accounts is None
    free.set()
    with pytest.raises(PeerLost):
        peers.look()
