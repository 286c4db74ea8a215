"""The scheduler process: one loop around the cores, the only place with sockets and a clock."""

from __future__ import annotations

import hmac
import time
from typing import Any, Final

import grpc
import zmq

from vcoproc.errors import PeerRejected, RemoteProtocolError
from vcoproc.internal.v1 import control_pb2_grpc
from vcoproc.limits import CONTROL_CREDIT, DECISION_WATCHERS_MAX, FALLBACK_WATCHERS_MAX
from vcoproc.runtime.grpc_kit import serve
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.process import new_epoch, notify_ready, notify_stopping
from vcoproc.runtime.rundir import RunDir
from vcoproc.wire.messages import Hello, Message, Role
from vcoproc_scheduler.events import FellBack
from vcoproc_scheduler.grpc_api import SERVICE_NAME, SchedulerControl
from vcoproc_scheduler.policies.loader import load_catalogue
from vcoproc_scheduler.service import SchedulerService
from vcoproc_scheduler.watching import Watchers

NAME: Final = "scheduler"
THREADS: Final = 4 + DECISION_WATCHERS_MAX + FALLBACK_WATCHERS_MAX
"""Of gRPC: a watcher holds one."""
STOP_GRACE_S: Final = 0.2
"""How long calls under way may take when the process stops."""


class SchedulerShell:
    """Owns the process's sockets. Make it, `run` it, `close` it, all on one thread.

    Args:
        run_dir: where the sockets and the cluster's secret are.
        loop: given by tests; else one that stops on SIGTERM and SIGINT.
        validate: check every invariant after every step.
    """

    def __init__(
        self, run_dir: RunDir, *, loop: Loop | None = None, validate: bool = False
    ) -> None:
        self.loop = loop if loop is not None else Loop()
        self._log = Log(NAME)
        run_dir.create()
        self._key = run_dir.cluster_key()
        self._watchers = Watchers()
        # Of their own: decisions are many, and who waits for a fallback need not wake for each.
        self._fallback_watchers = Watchers(FALLBACK_WATCHERS_MAX)
        self.service = SchedulerService(
            load_catalogue(),
            self._send,
            validate=validate,
            fell_back=self._on_fallback,
            changed=self._watchers.changed,
        )
        self._context: zmq.Context[Any] = zmq.Context()
        self._link = LinkServer(
            self._context,
            run_dir.ipc("schedule"),
            name=NAME,
            epoch=new_epoch(),
            window=CONTROL_CREDIT,
            authorize=self._authorize,
            on_open=self._on_open,
            on_close=self._on_close,
        )
        self.loop.watch(self._link.socket)
        self._server: grpc.Server = serve(
            run_dir.grpc(NAME),
            self._add_servicer,
            service_names=(SERVICE_NAME,),
            log=self._log,
            threads=THREADS,
        )

    def _add_servicer(self, server: grpc.Server) -> None:
        control_pb2_grpc.add_SchedulerControlServiceServicer_to_server(
            SchedulerControl(self.loop, self.service, self._watchers, self._fallback_watchers),
            server,
        )

    def run(self) -> None:
        """Serves until the loop is told to stop. Waits without using the processor."""
        notify_ready()
        self._log.info("serving")
        while not self.loop.stopping:
            self.loop.wait(self.service.next_deadline_ns())
            self.loop.run_calls()
            self._serve_messages()
            deadline_ns = self.service.next_deadline_ns()
            if deadline_ns is not None and deadline_ns <= (now_ns := time.monotonic_ns()):
                self.service.tick(now_ns)
            self._link.flush()
        notify_stopping()

    def _serve_messages(self) -> None:
        # What is left over makes the next wait return at once; meanwhile control has its turn.
        for peer, _seq, message in self._link.receive():
            coproc = str(peer.key)
            if self._link.peer(peer.key) is not peer:
                continue  # of a session that has ended since; what it held is registered anew
            try:
                self.service.received(coproc, message, time.monotonic_ns())
            except RemoteProtocolError as error:
                self._log.error("coproc dropped", coproc=coproc, why=str(error))
                self._link.drop(peer, error)

    def _authorize(self, hello: Hello) -> str:
        if hello.role != Role.COPROC or not hmac.compare_digest(hello.credential, self._key):
            raise PeerRejected("UNAUTHORIZED", "not a coproc of this cluster")
        self.service.check_coproc(hello.name)
        return hello.name

    def _on_open(self, peer: Peer) -> None:
        self._log.info("coproc connected", coproc=str(peer.key))
        self.service.opened(str(peer.key), time.monotonic_ns())

    def _on_close(self, peer: Peer, why: str) -> None:
        self._log.warning("coproc disconnected", coproc=str(peer.key), why=why)
        self.service.closed(str(peer.key), time.monotonic_ns())

    def _on_fallback(self, notice: FellBack) -> None:
        self._log.error(
            "algorithm failed, rr takes over",
            coproc=notice.coproc,
            algorithm=notice.algorithm,
            why=notice.why,
        )
        self._fallback_watchers.changed()

    def _send(self, coproc: str, message: Message) -> None:
        peer = self._link.peer(coproc)
        if peer is not None:
            self._link.send(peer, message)

    def close(self) -> None:
        """Ends calls under way and closes every socket."""
        self._watchers.close()
        self._fallback_watchers.close()
        stopped = self._server.stop(STOP_GRACE_S)
        self.loop.close()
        stopped.wait()
        self._link.close()
        self._context.term()
