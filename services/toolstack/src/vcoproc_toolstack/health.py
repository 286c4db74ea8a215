"""Tells when a service comes and goes, by its gRPC health stream: no polling."""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from vcoproc import limits
from vcoproc.errors import VcoprocError
from vcoproc.runtime.logs import Log


class HealthWatch:
    """Watches one service from a thread of its own.

    Args:
        came, went: are called, in that thread, when the service begins and ceases to serve.
    """

    def __init__(
        self,
        name: str,
        channel: grpc.Channel,
        log: Log,
        *,
        came: Callable[[], None],
        went: Callable[[], None],
    ) -> None:
        self._channel = channel
        self._log = log
        self._came = came
        self._went = went
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name=f"health {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stop.set()
            if self._call is not None:
                self._call.cancel()
        self._thread.join()

    def _run(self) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        stub = health_pb2_grpc.HealthStub(self._channel)
        serving = health_pb2.HealthCheckResponse.SERVING
        while not self._stop.is_set():
            with self._lock:
                if self._stop.is_set():
                    return
                # Waits for the service as long as it takes; the channel's own backoff is short.
                call = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)
                self._call = call
            up = False
            try:
                for answer in call:
                    if (answer.status == serving) != up:
                        up = not up
                        self._tell(up)
            except grpc.RpcError as error:
                self._log.debug("health stream ended", why=str(error))
            if up:
                self._tell(False)
            # A service that ends the stream at once is not asked again at once.
            self._stop.wait(limits.REPAIR_DELAY_NS_MIN / limits.S)

    def _tell(self, up: bool) -> None:
        try:
            if up:
                self._came()
            elif not self._stop.is_set():
                self._went()
        except VcoprocError as error:
            self._log.error("cannot note a change of health", why=str(error))
