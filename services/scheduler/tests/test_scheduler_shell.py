"""The scheduler process as it is: ZeroMQ, gRPC, signals; without sleeping anywhere."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import zmq

from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.limits import CONTROL_CREDIT, MS
from vcoproc.runtime.grpc_kit import channel, to_error
from vcoproc.runtime.link import LinkClient, LinkDown, LinkUp, Received
from vcoproc.runtime.process import new_epoch
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import EndReason, Eoi, Grant, Message, Register, Report, Role, Wake

LIMIT_S = 20
pytestmark = pytest.mark.slow


class Process:
    """A scheduler process, ready to serve."""

    def __init__(self, run_dir: RunDir, *arguments: str) -> None:
        self.run_dir = run_dir
        notify = run_dir.path / f"notify{new_epoch()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(LIMIT_S)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vcoproc_scheduler", "--run-dir", str(run_dir.path),
                 "--validate", *arguments],
                env={**os.environ, "NOTIFY_SOCKET": str(notify), "PYTHONWARNINGS": "error"},
                stderr=subprocess.PIPE,
            )  # fmt: skip
            assert ready.recv(100).startswith(b"READY=1")

    def cpu_ticks(self) -> int:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _out, error = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, error.decode()


class Coproc:
    """A coproc-sim's end of the schedule link."""

    def __init__(self, run_dir: RunDir, name: str, key: bytes | None = None) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.name = name
        self.clock_ns = 0
        self.grants: list[Message] = []
        self.ups = 0
        self.refusals: list[str] = []
        self.listed: tuple[tuple[int, bool, bool], ...] = ()
        self.current = 0
        self.link = LinkClient(
            self.context,
            run_dir.ipc("schedule"),
            role=Role.COPROC,
            credential=run_dir.cluster_key() if key is None else key,
            name=name,
            epoch=new_epoch(),
            window=CONTROL_CREDIT,
        )

    def until(self, done: Callable[[], bool]) -> None:
        """Serves the link until something holds."""
        poller = zmq.Poller()
        for each in self.link.sockets:
            poller.register(each, zmq.POLLIN)
        end_ns = time.monotonic_ns() + LIMIT_S * 10**9
        while not done():
            assert time.monotonic_ns() < end_ns, "it never came"
            poller.poll(20)
            for event in self.link.receive():
                if isinstance(event, LinkUp):
                    self.ups += 1
                    self.link.send(Register(self.name, self.clock_ns, self.current, self.listed))
                elif isinstance(event, LinkDown):
                    self.refusals.append(str(event.error))
                elif isinstance(event, Received):
                    self.grants.append(event.message)
            self.link.flush()

    def close(self) -> None:
        self.link.close()
        self.context.term()


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    with tempfile.TemporaryDirectory(prefix="vcp") as path:  # short: sockets have short paths
        made = RunDir(Path(path))
        made.create()
        yield made


@pytest.fixture
def scheduler(run_dir: RunDir) -> Iterator[Process]:
    process = Process(run_dir)
    yield process
    if process.process.poll() is None:
        process.stop(signal.SIGKILL)


@pytest.fixture
def control(run_dir: RunDir) -> Iterator[control_pb2_grpc.SchedulerControlServiceStub]:
    with channel(run_dir.grpc("scheduler")) as opened:
        yield control_pb2_grpc.SchedulerControlServiceStub(opened)


@pytest.fixture
def coproc(run_dir: RunDir) -> Iterator[Coproc]:
    made = Coproc(run_dir, "dsp0")
    yield made
    made.close()


def set_up(control: control_pb2_grpc.SchedulerControlServiceStub, *vcoprocs: int) -> None:
    request = control_pb2.SetCoprocRequest(coproc="dsp0", algorithm="rr", slice_ns=2 * MS)
    control.SetCoproc(request, timeout=LIMIT_S, wait_for_ready=True)
    for vcoproc in vcoprocs:
        add = control_pb2.AddVcoprocRequest(coproc="dsp0", vcoproc_id=vcoproc)
        control.AddVcoproc(add, timeout=LIMIT_S)


def test_a_coproc_is_scheduled(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    coproc.listed = ((1, True, False), (2, True, False))
    coproc.until(lambda: coproc.ups == 1)
    set_up(control, 1, 2)
    coproc.until(lambda: len(coproc.grants) >= 1)
    first = coproc.grants[0]
    assert isinstance(first, Grant)
    assert (first.vcoproc, first.slice_ns, first.now) == (1, 2 * MS, True)
    began = Report(0, 0, first.grant, 1, 2, False, 0, 0, 0, 0, False, 0, 0, 1000, 2000, 0, 3000)
    coproc.link.send(began)
    coproc.until(lambda: any(isinstance(m, Grant) and m.vcoproc == 2 for m in coproc.grants))
    following = coproc.grants[-1]
    assert isinstance(following, Grant) and not following.now
    ended_ns = 3000 + 2 * MS
    coproc.link.send(
        Report(first.grant, 1, following.grant, 2, EndReason.SLICE, True, 2 * MS, 2 * MS, 0, 0,
               False, 5555, 10, 20, 30, ended_ns, ended_ns + 60)
    )  # fmt: skip
    count = len(coproc.grants)
    coproc.until(lambda: len(coproc.grants) > count)

    (account,) = control.ListAccounts(control_pb2.ListAccountsRequest(), timeout=5).coprocs
    assert (account.coproc, account.online, account.algorithm) == ("dsp0", True, "rr")
    assert (account.current_vcoproc_id, account.switch_count) == (2, 2)
    states = {each.vcoproc_id: each.run_state for each in account.vcoprocs}
    assert states == {1: "WAITING", 2: "RUNNING"}
    figures = account.vcoprocs[0].accounting
    assert (figures.run_ns, figures.switch_ns, figures.instruction_count) == (2 * MS, 3010, 5555)
    (turn,) = control.ListTurns(control_pb2.ListTurnsRequest(coproc="dsp0"), timeout=5).turns
    assert (turn.vcoproc_id, turn.began_ns, turn.ended_ns, turn.end) == (1, 3000, ended_ns, 1)
    assert (turn.save_ns, turn.mmu_ns, turn.restore_ns) == (10, 20, 30)
    code, log = scheduler.stop()
    assert code == 0, log


def test_idle_costs_no_processor_time(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    set_up(control, 1)
    coproc.until(lambda: coproc.ups == 1)
    control.ListAccounts(control_pb2.ListAccountsRequest(), timeout=5)
    before = scheduler.cpu_ticks()
    never = socket.socketpair()
    never[0].settimeout(1.0)
    with pytest.raises(TimeoutError):
        never[0].recv(1)  # one second of nothing at all
    for each in never:
        each.close()
    # gRPC's own threads may take a tick of 10 ms; a loop that polls would take many.
    assert scheduler.cpu_ticks() - before <= 2


def test_a_restarted_scheduler_is_found_and_told_again(
    run_dir: RunDir, scheduler: Process, coproc: Coproc
) -> None:
    coproc.listed = ((1, True, False), (2, True, False))
    coproc.until(lambda: coproc.ups == 1)
    scheduler.stop(signal.SIGKILL)
    coproc.current, coproc.clock_ns = 1, 50 * MS
    again = Process(run_dir)
    coproc.until(lambda: coproc.ups == 2)
    with channel(run_dir.grpc("scheduler")) as opened:
        set_up(control_pb2_grpc.SchedulerControlServiceStub(opened), 1, 2)
    coproc.until(lambda: bool(coproc.grants))
    grant = coproc.grants[0]
    assert isinstance(grant, Grant) and (grant.vcoproc, grant.now) == (2, False)
    code, log = again.stop()
    assert code == 0, log


def test_refusals_have_a_stable_reason(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub
) -> None:
    cases: list[tuple[Callable[..., object], object, grpc.StatusCode, str]] = [
        (control.SetCoproc, control_pb2.SetCoprocRequest(coproc="a", algorithm="fifo"),
         grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        (control.SetCoproc, control_pb2.SetCoprocRequest(coproc="a", algorithm="rr", slice_ns=1),
         grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (control.AddVcoproc, control_pb2.AddVcoprocRequest(coproc="a", vcoproc_id=1),
         grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        (control.ListTurns, control_pb2.ListTurnsRequest(coproc="a"),
         grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    ]  # fmt: skip
    for call, request, code, reason in cases:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=LIMIT_S, wait_for_ready=True)
        assert caught.value.code() is code
        assert to_error(caught.value).reason == reason
    control.RemoveVcoproc(control_pb2.RemoveVcoprocRequest(coproc="a", vcoproc_id=1), timeout=5)


def test_strangers_and_liars_are_dropped_and_others_are_not(
    run_dir: RunDir,
    scheduler: Process,
    control: control_pb2_grpc.SchedulerControlServiceStub,
    coproc: Coproc,
) -> None:
    set_up(control, 1)
    coproc.until(lambda: coproc.ups == 1)
    stranger = Coproc(run_dir, "dsp0", key=b"x" * 32)
    stranger.until(lambda: bool(stranger.refusals))
    assert "not a coproc of this cluster" in stranger.refusals[0]
    stranger.close()
    liar = Coproc(run_dir, "dsp1")
    for lie in (Eoi(3), Wake(7, 0, True)):
        seen = liar.ups
        liar.until(lambda seen=seen: liar.ups > seen)  # type: ignore[misc]
        refused = len(liar.refusals)
        liar.link.send(lie)
        liar.until(lambda refused=refused: len(liar.refusals) > refused)  # type: ignore[misc]
    liar.close()
    coproc.link.send(Wake(1, 0, False))
    coproc.until(lambda: bool(coproc.grants))
    assert coproc.ups == 1
