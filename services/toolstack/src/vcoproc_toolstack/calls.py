"""Calls of other services that can all be given up at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc

from vcoproc import limits
from vcoproc.errors import PeerError, PeerLost, PeerTimeout
from vcoproc.runtime import grpc_kit


class Caller:
    """Makes calls that can all be given up at once, so that a stop need not wait for anybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Any] = set()
        self._closed = False

    def call(self, who: str, method: Any, request: Any, timeout_ns: int) -> Any:
        """One call, waiting for a service that is just starting.

        Raises:
            PeerTimeout, PeerLost: it does not answer; or `close` was called.
            RequestError: it refuses.
        """
        return self.start(who, method, request, timeout_ns).result()

    def start(self, who: str, method: Any, request: Any, timeout_ns: int) -> Pending:
        """The same without waiting for the answer, so that many can be asked at once.

        Raises:
            PeerLost: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise PeerLost(who)
            future = method.future(request, timeout=timeout_ns / limits.S, wait_for_ready=True)
            self._open.add(future)
        return Pending(self, who, future, timeout_ns)

    def stream(
        self,
        who: str,
        method: Any,
        request: Any,
        *,
        wait: bool = False,
        timeout_ns: int | None = None,
    ) -> Stream:
        """Opens a stream.

        Args:
            wait: for a service that is not there yet, as long as it takes.
            timeout_ns: the whole stream must have ended by then.

        Raises:
            PeerLost: `close` was called.
        """
        with self._lock:
            if self._closed:
                raise PeerLost(who)
            timeout_s = None if timeout_ns is None else timeout_ns / limits.S
            call = method(request, wait_for_ready=wait, timeout=timeout_s)
            self._open.add(call)
        return Stream(self, who, call)

    def forget(self, call: Any) -> None:
        """A call has ended."""
        with self._lock:
            self._open.discard(call)

    def close(self) -> None:
        """Gives up all open calls; later ones fail at once."""
        with self._lock:
            self._closed = True
            calls = list(self._open)
        for call in calls:
            call.cancel()


class Pending:
    """A call whose answer has not been taken yet; to be taken once."""

    def __init__(self, caller: Caller, who: str, future: Any, timeout_ns: int) -> None:
        self.who = who
        self._caller = caller
        self._future = future
        self._timeout_ns = timeout_ns

    def result(self) -> Any:
        """Waits for the answer. Raises: as `Caller.call`."""
        try:
            return self._future.result()
        except grpc.FutureCancelledError:
            raise PeerLost(self.who) from None
        except grpc.RpcError as error:
            refused = grpc_kit.to_error(error)
            if not isinstance(refused, PeerError):
                raise refused from None
            assert isinstance(error, grpc.Call)
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise PeerTimeout(self.who, self._timeout_ns) from None
            raise PeerLost(self.who) from None
        finally:
            self._caller.forget(self._future)


class Stream:
    """Answers of a service as they come; to be iterated once, to its end or until `cancel`.

    Raises:
        PeerLost: the service went away, or the stream was cancelled.
        RequestError: it refuses.
    """

    def __init__(self, caller: Caller, who: str, call: Any) -> None:
        self._caller = caller
        self._who = who
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            if error.code() is grpc.StatusCode.CANCELLED:
                raise PeerLost(self._who) from None
            refused = grpc_kit.to_error(error)
            if isinstance(refused, PeerError) or error.code() is grpc.StatusCode.UNAVAILABLE:
                raise PeerLost(self._who) from None
            raise refused from None
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends it, from any thread."""
        self._call.cancel()
        self._caller.forget(self._call)
