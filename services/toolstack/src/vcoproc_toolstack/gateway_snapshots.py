"""The part of the public API that streams snapshots in and out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from vcoproc import limits
from vcoproc.api.v1 import snapshot_pb2 as pb
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import InvalidArgument, LimitExceeded
from vcoproc_toolstack.gateway_domains import Verbs, shortened
from vcoproc_toolstack.restoring import Wishes
from vcoproc_toolstack.translate import (
    check_name,
    parse_name,
    read_request,
    seal_domain,
    seal_vcoproc,
)


class SnapshotCalls:
    """A part of ToolstackService."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._snapshots = threading.BoundedSemaphore(limits.SNAPSHOTS_MAX)

    def SaveDomain(
        self, request: pb.SaveDomainRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SnapshotChunk]:
        [name] = parse_name("name", request.name, "domains")
        with self._transfer(context) as stall:
            pieces = self._verbs.saving.save_domain(name, shut_down=request.shut_down)
            yield from _chunks(pieces, stall)

    def SaveVcoproc(
        self, request: pb.SaveVcoprocRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SnapshotChunk]:
        domain, name = parse_name("name", request.name, "domains", "vcoprocs")
        with self._transfer(context) as stall:
            yield from _chunks(self._verbs.saving.save_vcoproc(domain, name), stall)

    def RestoreDomain(
        self, requests: Iterator[pb.RestoreDomainRequest], context: grpc.ServicerContext
    ) -> api.Domain:
        restoring = self._verbs.restoring
        with self._transfer(context) as stall:
            options = _first(requests, stall).options
            wishes = Wishes(
                new_name=check_name("options.new_name", options.new_name)
                if options.new_name
                else "",
                paused=options.paused,
                coprocs=_coprocs(options.coprocs),
            )
            with restoring.take_in(_data(requests, stall)) as upload:
                asked = read_request(options, upload.sha256)
                with shortened():
                    answer = restoring.restore_domain(upload, wishes, asked, seal_domain)
        return api.Domain.FromString(answer)

    def RestoreVcoproc(
        self, requests: Iterator[pb.RestoreVcoprocRequest], context: grpc.ServicerContext
    ) -> api.Vcoproc:
        restoring = self._verbs.restoring
        with self._transfer(context) as stall:
            options = _first(requests, stall).options
            domain, name = parse_name("options.name", options.name, "domains", "vcoprocs")
            with restoring.take_in(_data(requests, stall)) as upload:
                asked = read_request(options, upload.sha256)
                answer = restoring.restore_vcoproc(upload, (domain, name), asked, seal_vcoproc)
        return api.Vcoproc.FromString(answer)

    @contextmanager
    def _transfer(self, context: grpc.ServicerContext) -> Iterator[_Stall]:
        """A place among those who transfer snapshots, and an end for one that does not move.

        Raises:
            LimitExceeded: there is none.
        """
        if not self._snapshots.acquire(blocking=False):
            raise LimitExceeded("snapshots at the same time", limits.SNAPSHOTS_MAX)
        stall = _Stall(context.cancel)
        try:
            yield stall
        finally:
            stall.end()
            self._snapshots.release()


class _Stall:
    """Ends a call whose client neither sends nor takes anything for too long.

    Args:
        cancel: ends the call, from any thread.
    """

    def __init__(self, cancel: Callable[[], Any]) -> None:
        self._cancel = cancel
        self._ended = threading.Event()
        self._since_ns: int | None = None
        threading.Thread(target=self._watch, name="transfer", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside it is the client's turn."""
        self._since_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self._since_ns = None

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        look_s = limits.SNAPSHOT_STALL_NS / limits.S / 4
        while not self._ended.wait(look_s):
            since_ns = self._since_ns
            now_ns = time.monotonic_ns()
            if since_ns is not None and now_ns - since_ns >= limits.SNAPSHOT_STALL_NS:
                self._cancel()
                return


def _chunks(pieces: Iterable[bytes], stall: _Stall) -> Iterator[pb.SnapshotChunk]:
    """Pieces of any size as messages of about one size."""
    waiting = b""
    for piece in pieces:
        waiting += piece
        while len(waiting) >= limits.SNAPSHOT_CHUNK_BYTES:
            with stall.waiting():
                yield pb.SnapshotChunk(data=waiting[: limits.SNAPSHOT_CHUNK_BYTES])
            waiting = waiting[limits.SNAPSHOT_CHUNK_BYTES :]
    if waiting:
        with stall.waiting():
            yield pb.SnapshotChunk(data=waiting)


def _first(requests: Iterator[Any], stall: _Stall) -> Any:
    """The message that says how. Raises: InvalidArgument."""
    with stall.waiting():
        first = next(requests, None)
    if first is None or first.WhichOneof("part") != "options":
        raise InvalidArgument("options", "must be the first message")
    return first


def _data(requests: Iterator[Any], stall: _Stall) -> Iterator[bytes]:
    """The bytes of the other messages. Raises: InvalidArgument."""
    while True:
        with stall.waiting():
            request = next(requests, None)
        if request is None:
            return
        if request.WhichOneof("part") != "data":
            raise InvalidArgument("options", "must be the first message, and only that")
        if len(request.data) > limits.SNAPSHOT_CHUNK_BYTES_MAX:
            why = f"has more than {limits.SNAPSHOT_CHUNK_BYTES_MAX} bytes"
            raise InvalidArgument("data", why)
        yield request.data


def _coprocs(given: Any) -> dict[str, str]:
    """Coprocs by vcoproc. Raises: InvalidArgument."""
    if len(given) > limits.VCOPROCS_PER_DOMAIN_MAX:
        why = f"are {len(given)}, at most {limits.VCOPROCS_PER_DOMAIN_MAX}"
        raise InvalidArgument("options.coprocs", why)
    return {
        check_name("options.coprocs", vcoproc): parse_name("options.coprocs", coproc, "coprocs")[0]
        for vcoproc, coproc in given.items()
    }
