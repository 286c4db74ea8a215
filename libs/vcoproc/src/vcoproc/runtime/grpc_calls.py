"""How a server handles calls: errors become statuses, and no client is waited for without end."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from vcoproc import errors, limits
from vcoproc.errors import (
    DeviceFault,
    GuestError,
    InvalidArgument,
    LimitExceeded,
    PeerError,
    RequestError,
    VcoprocError,
    WatcherTooSlow,
)
from vcoproc.runtime.client_waits import ClientWaits, GivenUp
from vcoproc.runtime.logs import Log

ERROR_DOMAIN: Final = "vcoproc"
STATUS_KEY: Final = "grpc-status-details-bin"
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


def _words(words: str) -> str:
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
    words = _words(str(error))
    status = status_pb2.Status(code=code.value[0], message=words)
    status.details.add().Pack(info)
    context.set_trailing_metadata(((STATUS_KEY, status.SerializeToString()),))
    context.abort(code, words)


def _cut(context: grpc.ServicerContext, error: VcoprocError) -> None:
    """Ends a call from another thread than its own, whatever that one waits for.

    The client gets code and words, after everything that was sent before. There is no room for a
    reason.
    """
    code = _code(error)
    try:
        # What gRPC for Python offers in public says CANCELLED, and nothing of why.
        call = context._rpc_event.call  # type: ignore[attr-defined]
        call.cancel(code.value[0], _words(str(error)))
    except AttributeError:
        context.cancel()


Guard: TypeAlias = Callable[
    [str, Any, grpc.ServicerContext], AbstractContextManager[Callable[[Any], None]]
]
"""What stands around every call: gets the method's full name, the request (None when it is a
stream) and the context; raises VcoprocError to refuse. What it gives is told the answer."""


def open_to_all(
    _method: str, _request: Any, _context: grpc.ServicerContext
) -> AbstractContextManager[Callable[[Any], None]]:
    return nullcontext(lambda _answer: None)


@runtime_checkable
class Resumable(Protocol):
    """A stream of answers that knows what to tell a client that does not read them."""

    def __iter__(self) -> Iterator[Any]: ...

    def too_slow(self) -> VcoprocError:
        """Why it is ended, from another thread than the one that iterates."""


class Interceptor(grpc.ServerInterceptor):
    """Turns exceptions of handlers into statuses; handlers only raise.

    Every handler gets its requests one by one, so that here is where clients are waited for.
    """

    def __init__(self, log: Log, guard: Guard) -> None:
        self._log = log
        self._guard = guard
        self._requests = ClientWaits(limits.REQUEST_WAIT_NS, limits.REQUESTS_AWAITED_MAX)
        self._answers = ClientWaits(limits.ANSWER_WAIT_NS)
        self._others = threading.BoundedSemaphore(limits.OTHER_STREAMS_MAX)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        if handler is None:
            return None
        serializer = handler.response_serializer
        if handler.response_streaming:
            stream = self._stream(details.method, handler)
            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serializer)
        unary = self._unary(details.method, handler)
        return grpc.stream_unary_rpc_method_handler(unary, response_serializer=serializer)

    def _fail(self, context: grpc.ServicerContext, error: Exception) -> None:
        if isinstance(error, VcoprocError):
            _abort(context, error)
        if isinstance(error, GivenUp):
            context.abort(grpc.StatusCode.CANCELLED, "")  # it was told already
        if isinstance(error, grpc.RpcError):
            raise error  # the client has gone
        self._log.error("bug in a call", error=repr(error), trace=traceback.format_exc())
        context.abort(grpc.StatusCode.INTERNAL, "internal error, see the log of the service")

    def _unary(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
        behavior = handler.stream_unary or handler.unary_unary
        assert behavior is not None, "one of the two"

        def guarded(parts: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            try:
                requests = self._incoming(parts, context, handler)
                request = requests if handler.request_streaming else _only(requests)
                guarded_request = None if handler.request_streaming else request
                with self._guard(method, guarded_request, context) as answered:
                    answer = behavior(request, context)
                    answered(answer)
                    return answer
            except Exception as error:
                self._fail(context, error)

        return guarded

    def _stream(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[..., Any]:
        behavior = handler.stream_stream or handler.unary_stream
        assert behavior is not None, "one of the two"

        def guarded(parts: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                requests = self._incoming(parts, context, handler)
                request = requests if handler.request_streaming else _only(requests)
                guarded_request = None if handler.request_streaming else request
                with self._place(method), self._guard(method, guarded_request, context):
                    yield from self._taken(behavior(request, context), context)
            except Exception as error:
                self._fail(context, error)

        return guarded

    def _incoming(
        self,
        parts: Iterator[bytes],
        context: grpc.ServicerContext,
        handler: grpc.RpcMethodHandler[Any, Any],
    ) -> Iterator[Any]:
        """Requests as they come.

        Raises:
            InvalidArgument: one is no message of its type.
        """
        parse = handler.request_deserializer or bytes
        why = f"did not come whole within {limits.REQUEST_WAIT_NS // limits.S} s"
        late = InvalidArgument("request", why)
        while True:
            with self._requests.bounded(lambda: _cut(context, late)):
                part = next(parts, None)
            if part is None:
                return
            try:
                yield parse(part)
            except DecodeError:
                raise InvalidArgument("request", "is no message of the call's type") from None

    def _taken(self, answers: Iterable[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        """Answers, as the client takes them."""

        def give_up() -> None:
            slow = answers.too_slow() if isinstance(answers, Resumable) else WatcherTooSlow()
            _cut(context, slow)

        try:
            for answer in answers:
                with self._answers.bounded(give_up):
                    yield answer
        finally:
            if isinstance(answers, Generator):
                answers.close()  # now, whoever still knows of it

    def _place(self, method: str) -> AbstractContextManager[Any]:
        """Our own streams bound themselves; those of the libraries do not."""
        if not method.startswith("/grpc."):
            return nullcontext()
        if not self._others.acquire(blocking=False):
            what = "open streams of health and reflection"
            raise LimitExceeded(what, limits.OTHER_STREAMS_MAX)
        stack = ExitStack()
        stack.callback(self._others.release)
        return stack


def _only(requests: Iterator[Any]) -> Any:
    """Raises: InvalidArgument (there is none)."""
    for request in requests:
        return request
    raise InvalidArgument("request", "is missing")
