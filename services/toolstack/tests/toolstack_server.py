"""The rig behind real gRPC servers, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import CORTEX_M4, Rig

from vcoproc.api.v1 import cluster_pb2_grpc as cluster_rpc
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as api_rpc
from vcoproc.errors import VcoprocError
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as rpc
from vcoproc.runtime import grpc_kit
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack import translate
from vcoproc_toolstack.access import Access, AccessFile
from vcoproc_toolstack.audit import Guard
from vcoproc_toolstack.audit_gateway import describe
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.cluster_gateway import ClusterGateway
from vcoproc_toolstack.cluster_queries import ClusterQueries
from vcoproc_toolstack.event_hub import EventHub
from vcoproc_toolstack.gateway import THREADS, Gateway
from vcoproc_toolstack.lease import LeaseGateway
from vcoproc_toolstack.shell import API_SERVICE, CLUSTER_SERVICE, LEASE_SERVICE
from vcoproc_toolstack.streams import OpenStreams

TIMEOUT_S = 20


class Server:
    """A rig, its servers, and stubs to call them."""

    def __init__(
        self,
        path: Path,
        *,
        listen: tuple[str, grpc_kit.TlsFiles] | None = None,
        roles: Path | None = None,
    ) -> None:
        self.run_dir = RunDir(path)
        self.run_dir.create()
        self.rig = Rig(path, lease=False)
        rig = self.rig
        rig.seal_domain = translate.seal_domain
        self.hub = EventHub(rig.store, rig.leases, rig.log)
        self.hub.start()
        self.streams = OpenStreams()
        self.gateway = Gateway(
            rig.verbs,
            rig.queries,
            rig.schedule_changes,
            rig.schedules,
            (self.hub, self.streams),
        )
        self.audit_log = AuditLog(rig.store, lambda: next(rig.clock))
        guard = Guard(
            Access(AccessFile(roles, rig.log) if roles else None),
            self.audit_log,
            lambda name: describe(rig.store, rig.leases, name),
            rig.log,
        )
        cluster_queries = ClusterQueries(rig.store, rig.leases, rig.services.looking, rig.queries)
        self.cluster_gateway = ClusterGateway(cluster_queries, self.streams, guard, self.audit_log)
        self.leases = LeaseGateway(
            self.rig.store,
            self.rig.leases,
            self.rig.log,
            endpoints=("ipc://schedule", "ipc://irq-coproc"),
            credential=b"cluster key",
            mark=self.rig.marks.mark,
        )
        self.address = ""
        """host:port, when it listens."""
        self._servers = [
            grpc_kit.serve(
                self.run_dir.grpc("toolstack"),
                self._add,
                service_names=(API_SERVICE, CLUSTER_SERVICE),
                log=self.rig.log,
                threads=THREADS,
                guard=guard,
                listen=listen,
                bound=self._bound,
            ),
            grpc_kit.serve(
                self.run_dir.grpc("lease"),
                lambda server: rpc.add_LeaseServiceServicer_to_server(self.leases, server),
                service_names=(LEASE_SERVICE,),
                log=self.rig.log,
                threads=8,
            ),
        ]
        self._channels = [
            grpc_kit.channel(self.run_dir.grpc("toolstack")),
            grpc_kit.channel(self.run_dir.grpc("lease")),
        ]
        self.api = api_rpc.ToolstackServiceStub(self._channels[0])
        self.cluster = cluster_rpc.ClusterServiceStub(self._channels[0])
        self.lease = rpc.LeaseServiceStub(self._channels[1])

    def _bound(self, address: str) -> None:
        self.address = address

    def _add(self, server: grpc.Server) -> None:
        api_rpc.add_ToolstackServiceServicer_to_server(self.gateway, server)
        cluster_rpc.add_ClusterServiceServicer_to_server(self.cluster_gateway, server)

    def call(self, method: str, request: Any) -> Any:
        """A call of the public API that must succeed."""
        stub = self.api if hasattr(self.api, method) else self.cluster
        return getattr(stub, method)(request, timeout=TIMEOUT_S)

    def online(self) -> None:
        """Leases every coproc, as a coproc-sim would, but without a stream."""
        for _ in range(5):
            self.rig.lease()

    def create(self, text: str) -> api.Domain:
        request = api.CreateDomainRequest(config=text, file_name="test.cfg")
        return self.call("CreateDomain", request)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.streams.stop()
        for channel in self._channels:
            channel.close()
        for server in self._servers:
            server.stop(0).wait()
        self.hub.stop()
        self.rig.close()


@contextmanager
def refused(
    code: grpc.StatusCode, reason: str, words: str = ""
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """A call inside must be refused with this code, reason, and words in its text."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is code, error.details()
    assert words in (error.details() or "")
    known: VcoprocError = grpc_kit.to_error(error)
    if code is not grpc.StatusCode.UNAVAILABLE:
        assert known.reason == reason


def lease_request(coproc: str = "", **changes: Any) -> pb.LeaseCoprocRequest:
    """What a coproc-sim for the Cortex-M4 asks. changes: of fields of the platform."""
    platform = pb.PlatformDescription(
        compatible=CORTEX_M4,
        ranges=[
            pb.RangeDescription(name="ctrl", size_bytes=4096),
            pb.RangeDescription(name="mbox", size_bytes=4096, mapped=True),
        ],
        lines=[
            pb.LineDescription(name="irq", level=True),
            pb.LineDescription(name="event"),
            pb.LineDescription(name="fault", level=True),
        ],
        registers=[
            api.RegisterInfo(range="ctrl", name="ID", width_bytes=4, access="ro", when_out="const")
        ],
        contexts_max=4,
    )
    for field, value in changes.items():
        platform.ClearField(field)  # type: ignore[arg-type]
        platform.MergeFrom(pb.PlatformDescription(**{field: value}))
    return pb.LeaseCoprocRequest(
        coproc=coproc,
        control_target="unix:/run/{coproc}.grpc",
        trap_endpoint="ipc:///run/{coproc}.sock",
        holder="sim",
        platforms=[platform],
    )
