"""What a cluster costs before it does anything: time to start, CPU and memory of each process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from bench.effort import Effort
from bench.pausing import pause
from bench.rig import Rig, scratch, write_tree
from bench.stats import Series, ratio
from bench.table import Row
from vcoproc.limits import MIB, MS, S

READY_S_MAX: Final = 2
CPU_PERCENT_MAX: Final = 1
RSS_MIB_MAX: Final = 80
PROCESSES: Final = 4
"""Of a cluster with one coproc, the `vcoproc` command itself aside."""
_UP: Final = "from vcoproc_toolstack.cli.app import main; main()"
_BARE: Final = "import grpc, zmq"
_SETTLE_NS: Final = 1500 * MS


def starts(effort: Effort) -> list[Row]:
    """`vcoproc up`, from the command to its word that it is ready."""
    found, floor = Series(), Series()
    for _ in range(effort.starts):
        found.add_round([_start_s()])
        floor.add_round([_interpreters_s()])
    return [
        Row(
            "start",
            "`vcoproc up` until ready",
            "s",
            found.p50,
            max(found.samples),
            f"{PROCESSES} interpreters that import gRPC and ZeroMQ",
            floor.p50,
            ratio(found, floor),
            f"< {READY_S_MAX} s",
            found.p50 < READY_S_MAX,
            effort.starts,
        )
    ]


class NotReady(Exception):
    """`vcoproc up` ended instead."""


def _start_s() -> float:
    with scratch() as folder:
        command = [sys.executable, "-c", _UP, "up", "--tree", str(write_tree(folder))]
        began_ns = time.monotonic_ns()
        with subprocess.Popen(
            [*command, "--run-dir", str(folder / "run")], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.startswith("ready"):
                    break
            else:
                raise NotReady(f"exit code {child.wait()}")
            elapsed_ns = time.monotonic_ns() - began_ns
            child.send_signal(signal.SIGINT)
            child.stdout.read()
    return elapsed_ns / S


def _interpreters_s() -> float:
    began_ns = time.monotonic_ns()
    children = [subprocess.Popen([sys.executable, "-c", _BARE]) for _ in range(PROCESSES)]
    for child in children:
        child.wait()
    return (time.monotonic_ns() - began_ns) / S


def idle(rig: Rig, effort: Effort) -> list[Row]:
    """CPU and resident memory of each process while all firmware waits for an interrupt."""
    pause(_SETTLE_NS)
    pids = dict(rig.cluster.pids())
    before = {name: cpu_ns(pid) for name, pid in pids.items()}
    began_ns = time.monotonic_ns()
    pause(effort.idle_ns)
    elapsed_ns = time.monotonic_ns() - began_ns
    rows = []
    for name, pid in pids.items():
        percent = 100 * (cpu_ns(pid) - before[name]) / elapsed_ns
        rows.append(Row("idle", f"idle CPU of {name}", "%", percent).with_limit(CPU_PERCENT_MAX))
    for name, pid in pids.items():
        row = Row("idle", f"resident memory of {name}", "MiB", rss_mib(pid))
        rows.append(row.with_limit(RSS_MIB_MAX))
    return rows


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process that are alive."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def rss_mib(pid: int) -> float:
    """Resident memory, shared pages included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / MIB
    raise ProcessLookupError(pid)
