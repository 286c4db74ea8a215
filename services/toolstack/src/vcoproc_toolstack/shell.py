"""The toolstack as a process: store, servers, repair thread, and their orderly end."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vcoproc.api.v1 import cluster_pb2_grpc as cluster_rpc
from vcoproc.api.v1 import toolstack_pb2_grpc as api_rpc
from vcoproc.config import SystemConfig
from vcoproc.errors import InvalidArgument, InvariantViolation
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.logs import Log
from vcoproc.runtime.process import notify_ready, notify_stopping
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack import gateway, lease, translate
from vcoproc_toolstack.access import Access, AccessFile
from vcoproc_toolstack.audit import Guard
from vcoproc_toolstack.audit_gateway import describe
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.cluster_gateway import ClusterGateway
from vcoproc_toolstack.cluster_queries import ClusterQueries
from vcoproc_toolstack.coproc_changes import CoprocChanges
from vcoproc_toolstack.coproc_removal import Removals
from vcoproc_toolstack.coproc_set import check_tree
from vcoproc_toolstack.endings import Endings
from vcoproc_toolstack.event_hub import EventHub
from vcoproc_toolstack.fallbacks import FallbackWatch
from vcoproc_toolstack.first_domain import FIRST_MARK, FirstDomain
from vcoproc_toolstack.gateway_domains import Verbs
from vcoproc_toolstack.health import HealthWatch
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.lifecycle import Lifecycle
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.moves import Moves
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import EventKind
from vcoproc_toolstack.repair import Marks, Repairer
from vcoproc_toolstack.restoring import Restoring
from vcoproc_toolstack.saving import Saving
from vcoproc_toolstack.schedule_changes import ScheduleChanges
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.services import GrpcServices
from vcoproc_toolstack.steps import IRQ_ROUTER, SCHEDULER, STORE
from vcoproc_toolstack.store import Store
from vcoproc_toolstack.streams import OpenStreams

API_SERVICE = "vcoproc.api.v1.ToolstackService"
CLUSTER_SERVICE = "vcoproc.api.v1.ClusterService"
LEASE_SERVICE = "vcoproc.internal.v1.LeaseService"
_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class Listen:
    """How the public API is served over TCP. address: "host:port"."""

    address: str
    tls: grpc_kit.TlsFiles
    access_file: Path


def store_path(run_dir: RunDir) -> Path:
    """Where the store is when nobody says otherwise."""
    return run_dir.path / "toolstack.db"


class Shell:
    """All parts of a running toolstack."""

    def __init__(
        self,
        run_dir: RunDir,
        system: SystemConfig,
        store: Path | str,
        log: Log,
        listen: Listen | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._listen = listen
        self._log = log
        self._exit = ExitStack()
        self._failed = False
        self._marks = Marks()
        self._store = Store(store, time.time_ns, failed=lambda: self._marks.mark(STORE))
        self._exit.callback(self._store.close)
        with self._store.read() as view:
            records = view.coproc_records()
        check_tree(system, records)
        self._leases = Leases(system, records)
        self._audit_log = AuditLog(self._store, time.time_ns)
        self._guard = Guard(
            Access(AccessFile(listen.access_file, log) if listen else None),
            self._audit_log,
            lambda name: describe(self._store, self._leases, name),
            log,
        )
        self._memory = MemoryDir(run_dir.memory_dir)
        self._services = GrpcServices(run_dir, self._memory, self._leases)
        self._exit.callback(self._services.close)
        self._changes = Changes(
            self._store, self._leases, self._services, self._memory, log, mark=self._marks.mark
        )
        self._queries = Queries(
            self._store,
            self._leases,
            self._services,
            self._memory,
            trap_endpoint=lambda coproc: run_dir.ipc(f"trap-{coproc}"),
            irq_endpoint=run_dir.ipc("irq-domain"),
        )
        self._schedule_changes = ScheduleChanges(
            self._changes,
            self._store,
            self._leases,
            (self._services, self._services.scheduling),
            mark=self._marks.mark,
        )
        self._schedules = ScheduleQueries(self._store, self._leases, self._services.scheduling)
        endings = Endings(self._changes, translate.seal_domain)
        self._lifecycle = Lifecycle(self._changes, endings, translate.seal_domain)
        moves, removals = Moves(self._changes), Removals(self._changes)
        self._verbs = Verbs(
            self._changes,
            self._lifecycle,
            moves,
            Saving(self._changes, endings),
            Restoring(self._changes),
            CoprocChanges(self._changes, moves, removals, self._services.scheduling),
            removals,
        )
        self._repairer = Repairer(self._changes, endings, removals, FirstDomain(self._changes))

    def start(self) -> None:
        """Repairs what an earlier one left, then serves."""
        self._repairer.start()
        self._audit_log.complete_cut_off()
        self._marks.mark(FIRST_MARK)
        self._serve_leases()
        self._serve_api()
        thread = threading.Thread(target=self._repair, name="repair", daemon=True)
        thread.start()
        self._exit.callback(thread.join)
        self._exit.callback(self._marks.stop)
        for name, channel in (
            (SCHEDULER, self._services.scheduler_channel),
            (IRQ_ROUTER, self._services.router_channel),
        ):
            watch = HealthWatch(
                name, channel, self._log, came=self._came(name), went=self._went(name)
            )
            watch.start()
            self._exit.callback(watch.stop)
        fallbacks = FallbackWatch(self._store, self._services.scheduling, self._log)
        fallbacks.start()
        self._exit.callback(fallbacks.stop)
        self._exit.callback(self._services.cancel)

    def _repair(self) -> None:
        try:
            self._repairer.run(self._marks)
        except BaseException:
            self._die()
            raise

    def _die(self) -> None:
        """A thread ended by a bug. The toolstack would seem well and be wrong: it ends, and whoever
        keeps it alive starts another one."""
        self._failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def check(self) -> None:
        """Raises: InvariantViolation (a thread of ours died)."""
        if self._failed:
            raise InvariantViolation("a thread of the toolstack died, see the trace")

    def stop(self) -> None:
        """Ends everything, newest first."""
        self._exit.close()

    def _serve_leases(self) -> None:
        servicer = lease.LeaseGateway(
            self._store,
            self._leases,
            self._log,
            endpoints=(self._run_dir.ipc("schedule"), self._run_dir.ipc("irq-coproc")),
            credential=self._run_dir.cluster_key(),
            mark=self._leased,
        )
        self._serve(
            "lease",
            lambda server: rpc.add_LeaseServiceServicer_to_server(servicer, server),
            (LEASE_SERVICE,),
            lease.THREADS,
        )

    def _leased(self, service: str) -> None:
        """Something is to be repaired after a lease; and perhaps the first domain waited for it."""
        self._marks.mark(service)
        self._marks.mark(FIRST_MARK)

    def _serve_api(self) -> None:
        hub = EventHub(self._store, self._leases, self._log, self._die)
        hub.start()
        self._exit.callback(hub.stop)
        streams = OpenStreams()
        servicer = gateway.Gateway(
            self._verbs, self._queries, self._schedule_changes, self._schedules, (hub, streams)
        )
        looking = self._services.looking
        queries = ClusterQueries(self._store, self._leases, looking, self._queries)
        of_cluster = ClusterGateway(queries, streams, self._guard, self._audit_log)

        def add(server: grpc.Server) -> None:
            api_rpc.add_ToolstackServiceServicer_to_server(servicer, server)
            cluster_rpc.add_ClusterServiceServicer_to_server(of_cluster, server)

        self._serve(
            "toolstack",
            add,
            (API_SERVICE, CLUSTER_SERVICE),
            gateway.THREADS,
            public=True,
            guard=self._guard,
            listen=(self._listen.address, self._listen.tls) if self._listen else None,
            bound=lambda address: self._log.info("listens", address=address),
        )
        self._exit.callback(streams.stop)
        self._exit.callback(self._lifecycle.stop)

    def _serve(
        self,
        name: str,
        add: Callable[[grpc.Server], None],
        services: tuple[str, ...],
        threads: int,
        **options: Any,
    ) -> None:
        server = grpc_kit.serve(
            self._run_dir.grpc(name),
            add,
            service_names=services,
            log=self._log,
            threads=threads,
            **options,
        )
        self._exit.callback(lambda: server.stop(_GRACE_S).wait())

    def _came(self, name: str) -> Callable[[], None]:
        def came() -> None:
            self._note(name, EventKind.ONLINE, "serves")
            self._marks.mark(name)

        return came

    def _went(self, name: str) -> Callable[[], None]:
        return lambda: self._note(name, EventKind.OFFLINE, "does not answer")

    def _note(self, name: str, kind: EventKind, text: str) -> None:
        self._store.note(lambda change: change.add_event(f"services/{name}", kind, text))
        self._log.info(f"{name} {text}")


def lock_run_dir(run_dir: RunDir) -> int:
    """Makes sure that no other toolstack has this run directory; gives the descriptor to keep.

    Raises:
        InvalidArgument: another one has it.
    """
    path = run_dir.path / "toolstack.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InvalidArgument("run directory", f"{path.parent} has a toolstack already") from None
    return descriptor


def run(
    run_dir: RunDir, system: SystemConfig, store: str, log: Log, listen: Listen | None = None
) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        store: a path or a postgresql:// URL; empty for a file in the run directory.

    Raises:
        InvalidArgument: the store, the run directory, the address or the certificates cannot be
            used.
    """
    # Blocked in every thread and waited for in this one: a handler would only run once this thread
    # does, and a signal that comes just before it begins to wait would not end the wait.
    ending = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    run_dir.create()
    lock = lock_run_dir(run_dir)
    try:
        shell = Shell(run_dir, system, store or store_path(run_dir), log, listen)
        try:
            shell.start()
            log.info("toolstack serves", coprocs=len(system.coprocs))
            notify_ready()
            signal.sigwait(ending)
            shell.check()
            notify_stopping()
        finally:
            shell.stop()
    finally:
        os.close(lock)
