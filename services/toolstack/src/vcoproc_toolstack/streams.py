"""The streams of a server that are open, so that all of them can be ended."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import grpc


class Cancellable(Protocol):
    def cancel(self) -> None:
        """Ends it, from any thread."""


class OpenStreams:
    """Streams end when their clients go, and when the server stops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[Cancellable] = weakref.WeakSet()
        self._stopping = False

    def open(self, stream: Cancellable, context: grpc.ServicerContext) -> None:
        """Lets a stream end with its call. The client learns at once that it is open."""
        with self._lock:
            self._streams.add(stream)
            stopping = self._stopping
        if stopping or not context.add_callback(stream.cancel):
            stream.cancel()
            return
        # Before the first answer, which may be long in coming.
        context.send_initial_metadata(())

    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        """Ends all of them, and those that come later."""
        with self._lock:
            self._stopping = True
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()
