"""LeaseService over gRPC: coproc-sims come, get a coproc, and go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc

from vcoproc import limits
from vcoproc.config import name_problem
from vcoproc.errors import InvalidArgument, NotFound, WrongState
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime.logs import Log
from vcoproc_toolstack import translate
from vcoproc_toolstack.leases import Lease, Leases, Offer
from vcoproc_toolstack.records import EventKind, FaultRecord
from vcoproc_toolstack.steps import SCHEDULER
from vcoproc_toolstack.store import Change, Store

THREADS = limits.COPROCS_MAX + 16
"""A lease holds one as long as it lasts; the rest is for reports and refused askers."""


class LeaseGateway(rpc.LeaseServiceServicer):
    """Implements LeaseService.

    Args:
        endpoints: of the scheduler and of the irq-router, for coprocs.
        credential: the cluster's.
        mark: is told what has to be repaired.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        log: Log,
        *,
        endpoints: tuple[str, str],
        credential: bytes,
        mark: Callable[[str], None],
    ) -> None:
        self._store = store
        self._leases = leases
        self._log = log
        self._schedule_endpoint, self._irq_endpoint = endpoints
        self._credential = credential
        self._mark = mark

    def LeaseCoproc(
        self, request: pb.LeaseCoprocRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.CoprocLease]:
        offer = translate.read_offer(request)
        ended, removed = threading.Event(), threading.Event()

        def remove() -> None:
            removed.set()
            ended.set()

        if not context.add_callback(ended.set):
            return  # the asker has gone already
        lease = self._take(offer, remove)
        try:
            self._store.note(lambda change: self._came(change, lease))
            self._log.info("coproc leased", coproc=lease.coproc.name, holder=lease.holder)
            yield translate.lease_message(
                lease,
                schedule_endpoint=self._schedule_endpoint,
                irq_endpoint=self._irq_endpoint,
                credential=self._credential,
            )
            self._mark(SCHEDULER)
            self._mark(f"coproc/{lease.coproc.name}")
            ended.wait()
        finally:
            self._end(lease)
        if removed.is_set():
            raise NotFound("coproc", lease.coproc.name)

    def _take(self, offer: Offer, removed: Callable[[], None]) -> Lease:
        """As `Leases.take`. Whoever holds vcoprocs that are wanted is not told to end."""
        try:
            return self._leases.take(offer, removed)
        except NotFound:
            with self._store.read() as view:
                used = view.counts().get(offer.wanted, 0)
            if not used or offer.wanted in self._leases.coprocs:
                raise
        what, state = f"coproc {offer.wanted!r}", "not in the tree, and yet has vcoprocs"
        raise WrongState(what, state, "a tree that has it")

    def _end(self, lease: Lease) -> None:
        if not self._leases.release(lease):
            return
        words = f"{lease.holder} has gone"
        self._store.note(
            lambda change: change.add_event(self._name(lease), EventKind.OFFLINE, words)
        )
        self._log.info("lease ended", coproc=lease.coproc.name, holder=lease.holder)

    def _came(self, change: Change, lease: Lease) -> None:
        change.put_platform(lease.platform)
        change.add_event(self._name(lease), EventKind.ONLINE, f"leased to {lease.holder}")

    @staticmethod
    def _name(lease: Lease) -> str:
        return f"coprocs/{lease.coproc.name}"

    def ReportFault(
        self, request: pb.ReportFaultRequest, _context: grpc.ServicerContext
    ) -> pb.ReportFaultResponse:
        why = translate.check_text("why", request.why, limits.WHY_BYTES_MAX)
        if name_problem(request.coproc) or self._leases.get(request.coproc) is None:
            shown = request.coproc[: limits.NAME_BYTES_MAX]
            raise InvalidArgument("coproc", f"{shown!r} is not leased")
        name = f"coprocs/{request.coproc}"
        if request.vcoproc_id:
            with self._store.read() as view:
                vcoproc = view.vcoproc(request.vcoproc_id)
            if vcoproc is None or vcoproc.coproc != request.coproc:
                raise NotFound("vcoproc", str(request.vcoproc_id))
            name = vcoproc.resource
        else:
            self._leases.fail(request.coproc, why)
        text = f"{why} (code {request.code}, address {request.address:#x})"
        fault = FaultRecord(request.vcoproc_id, request.code, request.address)
        self._store.note(lambda change: change.add_event(name, EventKind.FAULTED, text, fault))
        return pb.ReportFaultResponse()
