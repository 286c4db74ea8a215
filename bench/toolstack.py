"""The control plane with many domains: creating and listing them, watching, and a restart.

The processes are those of `vcoproc up`, and the client is one: it creates a domain when it has the
one before. The store is where `vcoproc up` has it, in the run directory.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from bench.effort import Effort
from bench.many import VCOPROCS, coprocs_for, domain_file, write_many
from bench.processes import rss_mib
from bench.rig import scratch
from bench.stats import Series
from bench.table import Row
from bench.toolstack_alone import alone
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc
from vcoproc.limits import MS, S
from vcoproc.runtime.grpc_kit import channel
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.cli.up import Cluster

CREATE_ALL_S_MAX: Final = 60
LIST_MS_MAX: Final = 200
WATCH_MS_MAX: Final = 50
RESTART_S_MAX: Final = 5
GOAL_DOMAINS: Final = 1000
"""What the goals are for; with fewer there is none."""
_CALL_S: Final = 60
_WATCHED: Final = 50


def toolstack(effort: Effort) -> list[Row]:
    """On a cluster of its own; and the toolstack's own share of a creation, without processes."""
    with scratch() as folder, many(folder, effort.domains) as cluster:
        rows = [
            *cluster.create(),
            cluster.list_domains(),
            cluster.list_vcoprocs(),
            cluster.watch(),
            cluster.restart(),
            cluster.memory(),
        ]
    return [*rows, *alone(effort.domains)]


@contextmanager
def many(folder: Path, domains: int) -> Iterator[Many]:
    """A running cluster with coprocs for so many domains."""
    path = folder / "many.dts"
    path.write_text(write_many(coprocs_for(domains)))
    with (
        Cluster(path, folder / "run") as cluster,
        channel(RunDir(cluster.run_dir).grpc("toolstack")) as to_toolstack,
    ):
        yield Many(cluster, toolstack_pb2_grpc.ToolstackServiceStub(to_toolstack), domains)


class Many:
    """A cluster, and the measurements on it in their order."""

    def __init__(
        self, cluster: Cluster, stub: toolstack_pb2_grpc.ToolstackServiceStub, domains: int
    ) -> None:
        self._cluster = cluster
        self._stub = stub
        self._domains = domains
        self._coprocs = len(cluster.coprocs)
        self._what = f"{domains} domains with {VCOPROCS} vcoprocs"

    def create(self) -> list[Row]:
        """All of them, one after the other."""
        took = Series()
        began_ns = time.monotonic_ns()
        for number in range(self._domains):
            one_ns = time.monotonic_ns()
            self._create(f"d{number}", number * VCOPROCS)
            took.add_round([(time.monotonic_ns() - one_ns) / MS])
        elapsed_s = (time.monotonic_ns() - began_ns) / S
        last = Series(took.rounds[-max(1, self._domains // 10) :])
        return [
            self._goal(f"create {self._what}", "s", elapsed_s, CREATE_ALL_S_MAX),
            Row("toolstack", "create one of them", "ms", took.p50, took.p99, samples=self._domains),
            Row("toolstack", "create one of the last tenth", "ms", last.p50, last.p99),
        ]

    def _create(self, name: str, first: int) -> None:
        request = api.CreateDomainRequest(
            config=domain_file(name, first, self._coprocs), file_name=name, request_id=f"new {name}"
        )
        self._stub.CreateDomain(request, timeout=_CALL_S, wait_for_ready=True)

    def _destroy(self, name: str) -> None:
        request = api.DestroyDomainRequest(name=f"domains/{name}")
        self._stub.DestroyDomain(request, timeout=_CALL_S)

    def list_domains(self) -> Row:
        """All in one page, with states and accounting of all vcoprocs."""
        took = Series()
        for _ in range(20):
            began_ns = time.monotonic_ns()
            listed = self._list()
            took.add_round([(time.monotonic_ns() - began_ns) / MS])
            assert len(listed) == self._domains
        return self._goal(f"list {self._what}", "ms", took.p50, LIST_MS_MAX, took.p99)

    def _list(self) -> list[api.Domain]:
        request = api.ListDomainsRequest()
        answer = self._stub.ListDomains(request, timeout=_CALL_S, wait_for_ready=True)
        return list(answer.domains)

    def list_vcoprocs(self) -> Row:
        """All, page by page."""
        began_ns = time.monotonic_ns()
        request = api.ListVcoprocsRequest()
        count = 0
        while True:
            answer = self._stub.ListVcoprocs(request, timeout=_CALL_S)
            count += len(answer.vcoprocs)
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        assert count == self._domains * VCOPROCS
        elapsed_ms = (time.monotonic_ns() - began_ns) / MS
        return Row("toolstack", f"list their {count} vcoprocs, by pages", "ms", elapsed_ms)

    def watch(self) -> Row:
        """From the time that an event has, until the watcher has it; while all domains are there.

        What the event tells is kept and shown to everybody in between.
        """
        arrived: queue.SimpleQueue[float] = queue.SimpleQueue()
        events = self._stub.WatchEvents(api.WatchEventsRequest())

        def read() -> None:
            try:
                for event in events:
                    arrived.put((time.time_ns() - event.time_ns) / MS)
            except grpc.RpcError:
                return  # cancelled below

        events.initial_metadata()  # it watches
        reader = threading.Thread(target=read)
        reader.start()
        for number in range(_WATCHED):
            self._create(f"watched{number}", 0)
            self._destroy(f"watched{number}")
        took = Series([[arrived.get(timeout=_CALL_S) for _ in range(2 * _WATCHED)]])
        events.cancel()
        reader.join()
        return self._goal("event behind its change", "ms", took.p50, WATCH_MS_MAX, took.p99)

    def restart(self) -> Row:
        """From the death of the toolstack until it knows how everything is, and takes changes."""
        began_ns = time.monotonic_ns()
        os.kill(self._cluster.pids()["toolstack"], signal.SIGKILL)
        while not self._is_back():
            pass  # each look takes a while
        self._create("after", 0)
        elapsed_s = (time.monotonic_ns() - began_ns) / S
        return self._goal(f"restart with {self._what}", "s", elapsed_s, RESTART_S_MAX)

    def _is_back(self) -> bool:
        try:
            listed = self._list()
        except grpc.RpcError:
            return False  # the old one has just died
        states = {vcoproc.state for domain in listed for vcoproc in domain.vcoprocs}
        return len(listed) == self._domains and states == {api.Vcoproc.STATE_SLEEPING}

    def memory(self) -> Row:
        pids = self._cluster.pids()
        what = f"resident memory of the toolstack with {self._what}"
        return Row("toolstack", what, "MiB", rss_mib(pids["toolstack"]))

    def _goal(
        self, what: str, unit: str, value: float, limit: float, p99: float | None = None
    ) -> Row:
        row = Row("toolstack", what, unit, value, p99)
        return row.with_limit(limit) if self._domains >= GOAL_DOMAINS else row
