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

from vcoproc.api.v1 import toolstack_pb2
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.limits import CONTROL_CREDIT, DECISION_WATCHERS_MAX, MS, SWITCH_DEADLINE_NS
from vcoproc.runtime.grpc_kit import channel, to_error
from vcoproc.runtime.link import LinkClient, LinkDown, LinkUp, Received
from vcoproc.runtime.process import new_epoch
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import (
    EndReason,
    Eoi,
    Grant,
    GrantDropped,
    Message,
    Register,
    Report,
    Role,
    Wake,
)

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


def test_refusals_are_shown_out_and_in(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    coproc.listed = ((1, True, False), (2, True, False))
    coproc.until(lambda: coproc.ups == 1)
    set_up(control, 1, 2)
    coproc.until(lambda: len(coproc.grants) >= 1)
    first = coproc.grants[0]
    # Not taken in before it has been given up once; then it refuses to leave.
    coproc.link.send(GrantDropped(first.grant, 1, "SWITCH_TIMEOUT", 5 * MS, 4 * MS, 9))
    coproc.until(lambda: coproc.grants[-1].vcoproc == 2)
    coproc.link.send(GrantDropped(coproc.grants[-1].grant, 2, "NOT_RUNNABLE", 5 * MS))
    coproc.link.send(Wake(1, 5 * MS, False))
    coproc.until(lambda: coproc.grants[-1].vcoproc == 1)
    number = coproc.grants[-1].grant
    coproc.link.send(
        Report(0, 0, number, 1, 2, False, 0, 0, 0, 0, False, 0, 0, 0, 0, 6 * MS, 6 * MS, MS, 2)
    )
    coproc.link.send(
        Report(number, 1, 0, 0, 3, False, MS, MS, 3 * MS, 5, True, 0, 0, 0, 0, 7 * MS, 0)
    )

    def seen() -> control_pb2.VcoprocSchedule:
        request = control_pb2.GetScheduleRequest(coproc="dsp0")
        return control.GetSchedule(request, timeout=LIMIT_S).vcoprocs[0]

    coproc.until(lambda: seen().refusals.count == 1)
    found = seen()
    out, entries = found.refusals, found.switch_in_refusals
    assert (out.busy_count, out.forced_count, out.given_up_count) == (5, 1, 0)
    assert (out.total_ns, out.max_ns) == (3 * MS, 3 * MS)
    assert (entries.count, entries.busy_count) == (2, 11)
    assert (entries.forced_count, entries.given_up_count) == (0, 1)
    assert (entries.total_ns, entries.max_ns) == (5 * MS, 4 * MS)
    assert {place: count for place, count in enumerate(entries.counts) if count} == {10: 1, 12: 1}
    assert found.accounting.refused_ns == 8 * MS


def test_accounts_can_begin_with_what_was_used_elsewhere(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub
) -> None:
    set_up(control)
    used = toolstack_pb2.Accounting(
        run_ns=1, wait_ns=2, refused_ns=3, overtime_ns=4, switch_ns=5, switch_count=6,
        wake_count=7, instruction_count=8,
    )  # fmt: skip
    add = control_pb2.AddVcoprocRequest(coproc="dsp0", vcoproc_id=1, accounting=used)
    control.AddVcoproc(add, timeout=5)
    control.AddVcoproc(add, timeout=5)
    (account,) = control.ListAccounts(control_pb2.ListAccountsRequest(), timeout=5).coprocs
    assert account.vcoprocs[0].accounting == used
    used.run_ns = 1 << 63
    add = control_pb2.AddVcoprocRequest(coproc="dsp0", vcoproc_id=2, accounting=used)
    with pytest.raises(grpc.RpcError) as caught:
        control.AddVcoproc(add, timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


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


def test_everything_about_scheduling_can_be_read_and_set(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    coproc.listed = ((1, True, False), (2, True, False))
    coproc.until(lambda: coproc.ups == 1)
    found = control.ListAlgorithms(
        control_pb2.ListAlgorithmsRequest(), timeout=LIMIT_S, wait_for_ready=True
    )
    algorithms = {each.name: each for each in found.algorithms}
    (own_slice,) = [each for each in algorithms["rr"].parameters if each.name == "slice_us"]
    assert own_slice.per_vcoproc and own_slice.unit == "us" and own_slice.doc
    assert algorithms["rr"].summary == "round robin."
    assert not next(e for e in algorithms["rr"].parameters if e.name == "min_run_us").per_vcoproc
    set_up(control, 1, 2)
    coproc.until(lambda: len(coproc.grants) >= 1)
    both = control.SetVcoprocParameters(
        control_pb2.SetVcoprocParametersRequest(
            coproc="dsp0", vcoproc_id=2, parameters={"slice_us": 700}
        ),
        timeout=LIMIT_S,
    )
    assert dict(both.parameters) == {"slice_us": 700}
    answer = control.SetCoproc(
        control_pb2.SetCoprocRequest(
            coproc="dsp0", algorithm="rr", parameters={"min_run_us": 50}, keep=True
        ),
        timeout=LIMIT_S,
    )
    assert not answer.lost
    view = control.GetSchedule(control_pb2.GetScheduleRequest(coproc="dsp0"), timeout=LIMIT_S)
    assert (view.algorithm, view.wanted_algorithm, view.slice_ns) == ("rr", "rr", 2 * MS)
    assert dict(view.parameters) == {"min_run_us": 50}
    assert {each.vcoproc_id: dict(each.parameters) for each in view.vcoprocs} == {
        1: {"slice_us": 0},
        2: {"slice_us": 700},
    }
    assert not view.HasField("fallback") and view.fallback_count == 0
    refusals = view.vcoprocs[0].refusals
    assert len(refusals.counts) == len(view.refusal_bounds_us) + 1
    analysis = control.AnalyseSchedule(
        control_pb2.AnalyseScheduleRequest(coproc="dsp0", switch_ns=100_000), timeout=LIMIT_S
    )
    assert (analysis.algorithm, analysis.switch_ns) == ("rr", 100_000)
    first, second = analysis.vcoprocs
    # The other's slice, and two switches with two refusals each.
    refusals_ns = analysis.refusal_ns + analysis.switch_in_refusal_ns
    assert analysis.refusal_ns == analysis.switch_in_refusal_ns == SWITCH_DEADLINE_NS
    worst_ns = 700_000 + 2 * (100_000 + refusals_ns)
    assert (first.vcoproc_id, first.worst_wait_ns) == (1, worst_ns)
    assert second.worst_wait_ns == worst_ns + 2 * MS - 700_000
    with pytest.raises(grpc.RpcError) as caught:
        control.GetSchedule(control_pb2.GetScheduleRequest(coproc="nowhere"), timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_decisions_are_followed_as_they_are_made(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    coproc.until(lambda: coproc.ups == 1)
    set_up(control, 1, 2)
    watch = control.WatchDecisions(
        control_pb2.WatchDecisionsRequest(coproc="dsp0"), timeout=LIMIT_S
    )
    before = scheduler.cpu_ticks()
    coproc.link.send(Wake(1, 1000, False))
    coproc.until(lambda: bool(coproc.grants))
    (first,) = next(watch).decisions
    assert (first.number, first.vcoproc_id, first.why, first.algorithm) == (1, 1, "IDLE", "rr")
    coproc.link.send(Report(0, 0, 1, 1, 2, False, 0, 0, 0, 0, False, 0, 0, 0, 0, 0, 2000))
    coproc.link.send(Wake(2, 3000, False))
    coproc.until(lambda: len(coproc.grants) == 2)
    (second,) = next(watch).decisions
    assert (second.number, second.vcoproc_id, second.current_vcoproc_id) == (2, 2, 1)
    assert (second.why, second.planned_ns, second.grant) == ("SLICE", 2 * MS, 2)
    again = control.ListDecisions(
        control_pb2.ListDecisionsRequest(coproc="dsp0", after_number=1), timeout=LIMIT_S
    )
    assert list(again.decisions) == [second] and again.last_number == 2
    never = socket.socketpair()
    never[0].settimeout(0.5)
    with pytest.raises(TimeoutError):
        never[0].recv(1)  # a watcher waits, and nothing happens
    for each in never:
        each.close()
    assert scheduler.cpu_ticks() - before <= 10
    code, log = scheduler.stop()
    assert code == 0, log
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_watchers_are_bounded_and_leave_room_when_they_go(
    scheduler: Process, control: control_pb2_grpc.SchedulerControlServiceStub, coproc: Coproc
) -> None:
    coproc.listed = ((1, True, False),)
    coproc.until(lambda: coproc.ups == 1)
    set_up(control, 1)
    coproc.until(lambda: bool(coproc.grants))
    request = control_pb2.WatchDecisionsRequest(coproc="dsp0")
    for _ in range(2):
        watches = []
        for _ in range(DECISION_WATCHERS_MAX):
            watches.append(control.WatchDecisions(request, timeout=LIMIT_S))
            assert next(watches[-1]).decisions
        with pytest.raises(grpc.RpcError) as caught:
            next(control.WatchDecisions(request, timeout=LIMIT_S))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert control.ListAccounts(control_pb2.ListAccountsRequest(), timeout=LIMIT_S).coprocs
        for each in watches:
            each.cancel()
        # The last one has gone when there is room again for one.
        for _ in range(1000):
            probe = control.WatchFallbacks(control_pb2.WatchFallbacksRequest(), timeout=LIMIT_S)
            one = control.WatchDecisions(request, timeout=LIMIT_S)
            try:
                assert next(one).decisions
            except grpc.RpcError:
                continue
            else:
                break
            finally:
                one.cancel()
                probe.cancel()
        else:
            pytest.fail("no room again")


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
