"""ClusterService over gRPC: what concerns more than one resource."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import grpc

from vcoproc import limits
from vcoproc.api.v1 import cluster_pb2
from vcoproc.api.v1 import cluster_pb2_grpc as rpc
from vcoproc_toolstack import filter_fields
from vcoproc_toolstack import translate_cluster as translate
from vcoproc_toolstack.audit import Guard
from vcoproc_toolstack.audit_gateway import AuditGateway
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.cluster_queries import ClusterQueries, Line
from vcoproc_toolstack.filters import Filter, parse_filter
from vcoproc_toolstack.lists import read_asked, read_position
from vcoproc_toolstack.streams import OpenStreams

_Item = TypeVar("_Item")
_PAUSE_FACTOR: Final = 5
"""A watch of lines waits at least so many times as long as it took to look, and looks again."""


class ClusterGateway(AuditGateway, rpc.ClusterServiceServicer):
    """Implements ClusterService."""

    def __init__(
        self, queries: ClusterQueries, streams: OpenStreams, guard: Guard, audit_log: AuditLog
    ) -> None:
        super().__init__(guard, audit_log)
        self._cluster = queries
        self._samples = LineSamples(queries.lines)
        self._streams = streams

    def GetCluster(
        self, _request: cluster_pb2.GetClusterRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.Cluster:
        return translate.cluster_message(self._cluster.cluster())

    def GetStatistics(
        self, _request: cluster_pb2.GetStatisticsRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.Statistics:
        return translate.statistics_message(self._cluster.counters())

    def ListLines(
        self, request: cluster_pb2.ListLinesRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.ListLinesResponse:
        asked = read_asked(request, "lines", filter_fields.LINES, 3)
        lines = self._cluster.lines()
        after = asked.after or ("", "", "")
        page, token = asked.page(translate.line_message(each) for each in lines if each.key > after)
        return cluster_pb2.ListLinesResponse(lines=page, next_page_token=token)

    def WatchLines(
        self, request: cluster_pb2.WatchLinesRequest, context: grpc.ServicerContext
    ) -> LineStream:
        wanted = parse_filter(request.filter, filter_fields.LINES)
        interval_ns = translate.read_interval_ns(request.interval_us)
        stream = LineStream(self._samples, interval_ns, wanted)
        self._streams.open(stream, context)
        return stream

    def ListFaults(
        self, request: cluster_pb2.ListFaultsRequest, _context: grpc.ServicerContext
    ) -> cluster_pb2.ListFaultsResponse:
        asked = read_asked(request, "faults", filter_fields.FAULTS, 1)
        before = read_position(asked.after)
        faults = map(translate.fault_message, self._cluster.faults())
        older = (each for each in faults if not before or each.revision < before)
        page, token = asked.page(older, lambda fault: (str(fault.revision),))
        return cluster_pb2.ListFaultsResponse(faults=page, next_page_token=token)


class LineSamples:
    """What the irq-router has, seen once for all who watch."""

    def __init__(self, lines: Callable[[], Iterable[Line]]) -> None:
        self._lines = lines
        self._lock = threading.Lock()
        self._messages: list[cluster_pb2.Line] = []
        self._taken_ns: int | None = None

    def take(self, age_ns_max: int) -> list[cluster_pb2.Line]:
        """All lines as they were no longer ago than this. Raises: PeerError."""
        with self._lock:
            now_ns = time.monotonic_ns()
            if self._taken_ns is None or now_ns - self._taken_ns > age_ns_max:
                self._messages = [translate.line_message(line) for line in self._lines()]
                self._taken_ns = now_ns
            return self._messages


class LineStream(Iterator[cluster_pb2.WatchLinesResponse]):
    """Lines that have changed between two samples, first all of them; until `cancel`.

    Raises:
        PeerError: the irq-router does not answer; its counts may begin again.
    """

    def __init__(
        self, samples: LineSamples, interval_ns: int, wanted: Filter[cluster_pb2.Line]
    ) -> None:
        self._samples = samples
        self._interval_ns = interval_ns
        self._wanted = wanted
        self._ended = threading.Event()
        self._known: dict[str, cluster_pb2.Line] | None = None
        self._found: deque[cluster_pb2.WatchLinesResponse] = deque()
        self._pause_ns = 0

    def __next__(self) -> cluster_pb2.WatchLinesResponse:
        while not self._found:
            if self._ended.wait(self._pause_ns / limits.S):
                raise StopIteration
            began_ns = time.monotonic_ns()
            self._look()
            # Where there are very many lines, looking at them must not be all that is done.
            taken_ns = time.monotonic_ns() - began_ns
            self._pause_ns = max(self._interval_ns, _PAUSE_FACTOR * taken_ns)
        return self._found.popleft()

    def _look(self) -> None:
        # Watchers of one interval ask the irq-router as often as one of them would.
        lines = self._samples.take(self._interval_ns // 2)
        seen = {line.name: line for line in lines if self._wanted.matches(line)}
        before = self._known or {}
        changed = [line for name, line in seen.items() if before.get(name) != line]
        removed = [name for name in before if name not in seen]
        self._found.extend(cluster_pb2.WatchLinesResponse(lines=p) for p in _parts(changed))
        self._found.extend(cluster_pb2.WatchLinesResponse(removed=p) for p in _parts(removed))
        if self._known is None and not self._found:
            self._found.append(cluster_pb2.WatchLinesResponse())
        self._known = seen

    def cancel(self) -> None:
        """Ends it, from any thread."""
        self._ended.set()


def _parts(found: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """As many at a time as one message is to have."""
    for first in range(0, len(found), limits.PAGE_SIZE_MAX):
        yield found[first : first + limits.PAGE_SIZE_MAX]
