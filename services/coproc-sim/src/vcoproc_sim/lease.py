"""Which coproc this process is: a lease from the toolstack, held open by a stream.

A thread of its own keeps the lease. When the toolstack goes away the coproc runs on; the lease of
the same coproc is asked for again until the toolstack is back. When the toolstack says that there
is no such coproc, or no longer, that is the end of the lease.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final

import grpc

from vcoproc.errors import NotFound
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.grpc_kit import channel, to_error
from vcoproc.runtime.logs import Log
from vcoproc_sim.vcoprocs import FaultSeen

RETRY_S: Final = 0.2
FAULTS_WAITING_MAX: Final = 1024
"""Faults that the toolstack has not taken yet; further ones are only logged."""


class LeaseKeeper:
    """Holds the lease and reports faults.

    Args:
        target: gRPC target of the toolstack's LeaseService.
        request: what is asked for; once leased, always the same coproc again.

    Attributes:
        removed: set once there is no such coproc, or no longer.
    """

    def __init__(self, target: str, request: control_pb2.LeaseCoprocRequest, log: Log) -> None:
        self._request = request
        self._log = log
        self.removed = threading.Event()
        self._on_removed: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self._channel = channel(target)
        self._stub = control_pb2_grpc.LeaseServiceStub(self._channel)
        self._leased: queue.SimpleQueue[control_pb2.CoprocLease | None] = queue.SimpleQueue()
        self._stream: grpc.Call | None = None
        self._faults: queue.Queue[control_pb2.ReportFaultRequest | None] = queue.Queue(
            FAULTS_WAITING_MAX
        )
        self._threads = [
            threading.Thread(target=self._keep, name="lease", daemon=True),
            threading.Thread(target=self._report, name="faults", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_lease(self) -> control_pb2.CoprocLease | None:
        """The lease, as soon as there is one; None when `close` came first, or it is `removed`."""
        return self._leased.get()

    def when_removed(self, call: Callable[[], None]) -> None:
        """Has `call` called, from any thread, once the coproc is `removed`."""
        self._on_removed = call
        if self.removed.is_set():
            call()

    def report(self, coproc: str, fault: FaultSeen) -> None:
        """Tells the toolstack of a fault, without waiting."""
        request = control_pb2.ReportFaultRequest(
            coproc=coproc,
            vcoproc_id=fault.vcoproc_id,
            code=fault.code,
            address=fault.address,
            why=fault.why,
        )
        try:
            self._faults.put_nowait(request)
        except queue.Full:
            self._log.warning("fault not reported", error="the toolstack takes none")

    def _keep(self) -> None:
        told = False
        refused = ""
        while not self._stopping.is_set():
            try:
                stream = self._stub.LeaseCoproc(self._request, wait_for_ready=True)
                self._stream = stream
                for lease in stream:
                    self._request.coproc = lease.coproc
                    self._request.incarnation = lease.incarnation
                    refused = ""
                    if not told:
                        told = True
                        self._leased.put(lease)
            except grpc.RpcError as error:
                refusal = to_error(error)
                if refusal.reason == NotFound.reason:
                    self._end()
                    return
                words = str(refusal)
                if not self._stopping.is_set() and words != refused:
                    refused = words
                    self._log.warning("no lease", error=words)
            self._stopping.wait(RETRY_S)

    def _end(self) -> None:
        self._log.warning("there is no such coproc, or no longer", coproc=self._request.coproc)
        self.removed.set()
        self._leased.put(None)
        self._on_removed()

    def _report(self) -> None:
        while (request := self._faults.get()) is not None and not self._stopping.is_set():
            try:
                self._stub.ReportFault(request, timeout=5, wait_for_ready=True)
            except grpc.RpcError as error:
                self._log.warning("fault not reported", error=str(to_error(error)))

    def close(self) -> None:
        self._stopping.set()
        self._leased.put(None)
        with contextlib.suppress(queue.Full):  # then the thread sees `_stopping` soon enough
            self._faults.put_nowait(None)
        if self._stream is not None:
            self._stream.cancel()
        self._channel.close()
