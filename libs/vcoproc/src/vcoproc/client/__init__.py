"""Programs steer a cluster: `Cluster`, or `AsyncCluster` for asyncio. See docs/client.md."""

from vcoproc.client.aio import AsyncCluster
from vcoproc.client.cluster import Cluster
from vcoproc.client.connection import Tls, Unreachable
from vcoproc.runtime.grpc_kit import RemoteRefusal

__all__ = ["AsyncCluster", "Cluster", "RemoteRefusal", "Tls", "Unreachable"]
