"""gRPC as all services use it: health, reflection, and errors with a stable reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vcoproc import limits
from vcoproc.errors import (
    InvalidArgument,
    PeerError,
    RequestError,
    VcoprocError,
    WatcherTooSlow,
)
from vcoproc.runtime.grpc_calls import STATUS_KEY, Guard, Interceptor, open_to_all
from vcoproc.runtime.logs import Log
from vcoproc.runtime.tcp import check_address

_MESSAGE_BYTES_MAX: Final = 8 * limits.MIB
"""Of a request."""
_ANSWER_BYTES_MAX: Final = 64 * limits.MIB
"""A picture of the largest cluster has about 10 MiB."""


class RemoteRefusal(RequestError):
    """A service refused; its reason and words, as they came."""

    def __init__(self, reason: str, words: str, metadata: dict[str, str]) -> None:
        super().__init__(words)
        self.reason = reason  # type: ignore[misc]  # the remote's, per instance
        self.metadata = metadata


class RemoteUnavailable(PeerError):
    """A service does not answer."""

    reason = "UNAVAILABLE"

    def __init__(self, words: str) -> None:
        super().__init__(words)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Certificates of a server: its own, its key, the clients' authority. Files in PEM format."""

    certificate: Path
    key: Path
    client_ca: Path

    def credentials(self) -> grpc.ServerCredentials:
        """For a server that takes clients with a certificate only.

        A file that is renewed counts from the next connection on.

        Raises:
            InvalidArgument: one of them cannot be read.
        """
        seen = [self._look()]

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            now = self._look()
            if now == seen[0]:
                return None
            try:
                configuration = self._configuration()
            except InvalidArgument:
                return None  # half written; what was read before stays
            seen[0] = now
            return configuration

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            renewed,  # type: ignore[arg-type]  # None: as before
            require_client_authentication=True,
        )

    def _look(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for path in (self.certificate, self.key, self.client_ca):
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_ino))
            except OSError:
                found.append(None)
        return found

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        try:
            pair = (self.key.read_bytes(), self.certificate.read_bytes())
            client_ca = self.client_ca.read_bytes()
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            raise InvalidArgument("TLS certificates", why) from None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=client_ca)


def _public_options() -> tuple[tuple[str, int], ...]:
    """Bounds of connections, and of clients that fell silent."""
    return (
        ("grpc.max_allowed_incoming_connections", limits.CONNECTIONS_MAX),
        ("grpc.max_concurrent_streams", limits.CALLS_PER_CONNECTION_MAX),
        ("grpc.server_handshake_timeout_ms", limits.PING_TIMEOUT_NS // limits.MS),
        ("grpc.keepalive_time_ms", limits.PING_INTERVAL_NS // limits.MS),
        ("grpc.keepalive_timeout_ms", limits.PING_TIMEOUT_NS // limits.MS),
        ("grpc.keepalive_permit_without_calls", 1),
        # Of the pings by which gRPC measures a connection. They come first, and without this a
        # client that answers none is only found after a minute.
        ("grpc.http2.ping_timeout_ms", limits.PING_TIMEOUT_NS // limits.MS),
    )


def serve(
    target: str,
    add: Callable[[grpc.Server], None],
    *,
    service_names: Sequence[str],
    log: Log,
    threads: int = 4,
    guard: Guard = open_to_all,
    listen: tuple[str, TlsFiles] | None = None,
    bound: Callable[[str], None] = lambda _address: None,
    public: bool = False,
) -> grpc.Server:
    """Starts a server. Its handlers raise VcoprocError to refuse.

    Args:
        target: "unix:/path".
        add: registers the servicers.
        service_names: full names, for health and reflection.
        threads: for calls whose requests have come; a stream holds one as long as it is open.
        guard: stands around every call.
        listen: also serve over TLS, at this "host:port"; port 0 takes a free one.
        bound: is told the "host:port" that was taken.
        public: clients may be anybody's: their connections are bounded, and those that do not
            answer are closed.

    Raises:
        InvalidArgument: that address or those certificates cannot be used.
    """
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    others = limits.REQUESTS_AWAITED_MAX + limits.OTHER_STREAMS_MAX
    server = grpc.server(
        ThreadPoolExecutor(threads + others, thread_name_prefix="grpc"),
        interceptors=[Interceptor(log, guard)],
        options=(
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
            *(_public_options() if public else ()),
        ),
    )
    add(server)
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *service_names):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    server.add_insecure_port(target)
    if listen is not None:
        address, files = listen
        check_address("listen", address)
        try:
            port = server.add_secure_port(address, files.credentials())
        except RuntimeError as error:
            raise InvalidArgument("listen", f"{address}: {error}") from None
        bound(f"{address.rpartition(':')[0]}:{port}")
    server.start()
    return server


_CHANNEL_OPTIONS: Final = (
    # Not min_reconnect_backoff_ms: it bounds each attempt, and a busy machine is slow.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", _ANSWER_BYTES_MAX),
)
"""A channel that reconnects quickly, as peers on one machine restart quickly."""


def channel(target: str, tls: tuple[bytes, bytes, bytes] | None = None) -> grpc.Channel:
    """A channel to a service.

    Args:
        target: "unix:/path" or "host:port".
        tls: over TLS: certificate of the authority, own certificate, own key, in PEM format.
    """
    if tls is None:
        return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return grpc.secure_channel(target, _credentials(tls), options=_CHANNEL_OPTIONS)


def async_channel(target: str, tls: tuple[bytes, bytes, bytes] | None = None) -> grpc.aio.Channel:
    """The same for asyncio."""
    if tls is None:
        return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(target, _credentials(tls), options=_CHANNEL_OPTIONS)


def _credentials(tls: tuple[bytes, bytes, bytes]) -> grpc.ChannelCredentials:
    ca, certificate, key = tls
    return grpc.ssl_channel_credentials(ca, key, certificate)


def error_info(error: grpc.Call | grpc.aio.AioRpcError) -> tuple[str, str, dict[str, str]] | None:
    """Reason, words and metadata that a service of ours gave; None when gRPC itself failed."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_KEY:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason, status.message, dict(info.metadata)
    return None


def to_error(error: grpc.RpcError) -> VcoprocError:
    """What a failed call means, for callers that know only our errors."""
    assert isinstance(error, grpc.Call)
    words = error.details() or str(error.code())
    if info := error_info(error):
        return RemoteRefusal(*info)
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return RemoteUnavailable(words)
    return RemoteRefusal(bare_reason(error.code()), words, {})


def bare_reason(code: grpc.StatusCode) -> str:
    """The reason of an error that came without details."""
    # A stream that was cut has no room for any; nothing else of ours is ABORTED.
    return WatcherTooSlow.reason if code is grpc.StatusCode.ABORTED else code.name


assert grpc.StatusCode.NOT_FOUND.value[0] == code_pb2.NOT_FOUND
