"""gRPC as all services use it: health, reflection, and errors with a stable reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vcoproc import errors
from vcoproc.errors import (
    DeviceFault,
    GuestError,
    InvalidArgument,
    PeerError,
    RequestError,
    VcoprocError,
)
from vcoproc.runtime.logs import Log

ERROR_DOMAIN: Final = "vcoproc"
_STATUS_KEY: Final = "grpc-status-details-bin"
_MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_TRAILER_BYTES_MAX: Final = 7000
_VALUE_MAX: Final = 200
"""What is longer of an error is cut: gRPC takes 8 KiB of trailers, and loses all of more."""

_CODES: Final[dict[str, grpc.StatusCode]] = {
    errors.NotFound.reason: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists.reason: grpc.StatusCode.ALREADY_EXISTS,
    errors.WrongState.reason: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAdmitted.reason: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LimitExceeded.reason: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.RevisionGone.reason: grpc.StatusCode.OUT_OF_RANGE,
    errors.WatcherTooSlow.reason: grpc.StatusCode.ABORTED,
    errors.Unauthenticated.reason: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied.reason: grpc.StatusCode.PERMISSION_DENIED,
    errors.StoreUnavailable.reason: grpc.StatusCode.UNAVAILABLE,
    errors.SwitchTimeout.reason: grpc.StatusCode.DEADLINE_EXCEEDED,
}


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


def _code(error: VcoprocError) -> grpc.StatusCode:
    if code := _CODES.get(error.reason):
        return code
    match error:
        case PeerError():
            return grpc.StatusCode.UNAVAILABLE
        case DeviceFault():
            return grpc.StatusCode.FAILED_PRECONDITION
        case RequestError() | GuestError():
            return grpc.StatusCode.INVALID_ARGUMENT
        case _:
            return grpc.StatusCode.INTERNAL


def _cut(words: str) -> str:
    """As much of a text as the trailers of a call have room for."""
    room_thirds = 3 * _TRAILER_BYTES_MAX
    for place, letter in enumerate(words):
        # Twice in the trailers: percent-encoded, and as a message in base64.
        code = letter.encode(errors="replace")
        room_thirds -= len(code) * (3 * (1 if 0x20 <= code[0] < 0x7F else 3) + 4)
        if room_thirds < 0:
            return words[:place]
    return words


def _abort(context: grpc.ServicerContext, error: VcoprocError) -> None:
    code = _code(error)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=ERROR_DOMAIN,
        metadata={
            key: str(value)[:_VALUE_MAX]
            for key, value in vars(error).items()
            if not key.startswith("_") and isinstance(value, (str, int))
        },
    )
    words = _cut(str(error))
    status = status_pb2.Status(code=code.value[0], message=words)
    status.details.add().Pack(info)
    context.set_trailing_metadata(((_STATUS_KEY, status.SerializeToString()),))
    context.abort(code, words)


Guard: TypeAlias = Callable[
    [str, Any, grpc.ServicerContext], AbstractContextManager[Callable[[Any], None]]
]
"""What stands around every call: gets the method's full name, the request (None when it is a
stream) and the context; raises VcoprocError to refuse. What it gives is told the answer."""


def _open_to_all(
    _method: str, _request: Any, _context: grpc.ServicerContext
) -> AbstractContextManager[Callable[[Any], None]]:
    return nullcontext(lambda _answer: None)


class _Interceptor(grpc.ServerInterceptor):
    """Turns exceptions of handlers into statuses; handlers only raise."""

    def __init__(self, log: Log, guard: Guard) -> None:
        self._log = log
        self._guard = guard

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        if handler is None:
            return None
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        method = details.method
        if handler.unary_unary:
            unary = self._unary(method, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(unary, **coding)
        if handler.stream_unary:
            unary = self._unary(method, handler.stream_unary, streamed=True)
            return grpc.stream_unary_rpc_method_handler(unary, **coding)
        if handler.unary_stream:
            stream = self._stream(method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream, **coding)
        assert handler.stream_stream is not None, "the only kind that is left"
        stream = self._stream(method, handler.stream_stream, streamed=True)
        return grpc.stream_stream_rpc_method_handler(stream, **coding)

    def _fail(self, context: grpc.ServicerContext, error: Exception) -> None:
        if isinstance(error, VcoprocError):
            _abort(context, error)
        self._log.error("bug in a call", error=repr(error), trace=traceback.format_exc())
        context.abort(grpc.StatusCode.INTERNAL, "internal error, see the log of the service")

    def _unary(
        self, method: str, behavior: Callable[..., Any], *, streamed: bool = False
    ) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                with self._guard(method, None if streamed else request, context) as answered:
                    answer = behavior(request, context)
                    answered(answer)
                    return answer
            except Exception as error:
                self._fail(context, error)

        return guarded

    def _stream(
        self, method: str, behavior: Callable[..., Any], *, streamed: bool = False
    ) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                with self._guard(method, None if streamed else request, context):
                    yield from behavior(request, context)
            except Exception as error:
                self._fail(context, error)

        return guarded


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


def serve(
    target: str,
    add: Callable[[grpc.Server], None],
    *,
    service_names: Sequence[str],
    log: Log,
    threads: int = 4,
    guard: Guard = _open_to_all,
    listen: tuple[str, TlsFiles] | None = None,
    bound: Callable[[str], None] = lambda _address: None,
) -> grpc.Server:
    """Starts a server. Its handlers raise VcoprocError to refuse.

    Args:
        target: "unix:/path".
        add: registers the servicers.
        service_names: full names, for health and reflection.
        threads: a stream holds one as long as it is open.
        guard: stands around every call.
        listen: also serve over TLS, at this "host:port"; port 0 takes a free one.
        bound: is told the "host:port" that was taken.

    Raises:
        InvalidArgument: that address or those certificates cannot be used.
    """
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        interceptors=[_Interceptor(log, guard)],
        options=(
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
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
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
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
        if key == _STATUS_KEY:
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
    return RemoteRefusal(error.code().name, words, {})


assert grpc.StatusCode.NOT_FOUND.value[0] == code_pb2.NOT_FOUND
