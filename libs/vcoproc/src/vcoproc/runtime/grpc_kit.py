"""gRPC as all services use it: health, reflection, and errors with a stable reason."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2

from vcoproc import errors
from vcoproc.errors import (
    DeviceFault,
    GuestError,
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


class _ErrorInterceptor(grpc.ServerInterceptor):
    """Turns exceptions of handlers into statuses; handlers only raise."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        if handler is None:
            return None
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(handler.stream_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler

    def _fail(self, context: grpc.ServicerContext, error: Exception) -> None:
        if isinstance(error, VcoprocError):
            _abort(context, error)
        self._log.error("bug in a call", error=repr(error), trace=traceback.format_exc())
        context.abort(grpc.StatusCode.INTERNAL, "internal error, see the log of the service")

    def _unary(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return behavior(request, context)
            except Exception as error:
                self._fail(context, error)

        return guarded

    def _stream(self, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from behavior(request, context)
            except Exception as error:
                self._fail(context, error)

        return guarded


def serve(
    target: str,
    add: Callable[[grpc.Server], None],
    *,
    service_names: Sequence[str],
    log: Log,
    threads: int = 4,
) -> grpc.Server:
    """Starts a server. Its handlers raise VcoprocError to refuse.

    Args:
        target: "unix:/path" or "host:port".
        add: registers the servicers.
        service_names: full names, for health and reflection.
        threads: a stream holds one as long as it is open.
    """
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    server = grpc.server(
        ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        interceptors=[_ErrorInterceptor(log)],
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
    server.start()
    return server


def channel(target: str) -> grpc.Channel:
    """A channel that reconnects quickly, as peers on one machine restart quickly."""
    return grpc.insecure_channel(
        target,
        options=(
            # Not min_reconnect_backoff_ms: it bounds each attempt, and a busy machine is slow.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ),
    )


def to_error(error: grpc.RpcError) -> VcoprocError:
    """What a failed call means, for callers that know only our errors."""
    assert isinstance(error, grpc.Call)
    words = error.details() or str(error.code())
    for key, value in error.trailing_metadata() or ():
        if key == _STATUS_KEY:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return RemoteRefusal(info.reason, status.message, dict(info.metadata))
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return RemoteUnavailable(words)
    return RemoteRefusal(error.code().name, words, {})


assert grpc.StatusCode.NOT_FOUND.value[0] == code_pb2.NOT_FOUND
