"""The watchers of the public API: how many there may be, and how they end."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

import grpc

from vcoproc import limits
from vcoproc.errors import LimitExceeded


class Watching(Protocol):
    """What a watcher gets, as it comes."""

    def cancel(self) -> None:
        """Ends it, from any thread."""


class OpenStreams:
    """Streams end when their clients go, and when the toolstack stops."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(limits.WATCHERS_MAX)
        self._streams: weakref.WeakSet[Watching] = weakref.WeakSet()
        self._stopping = False

    def open(self, stream: Watching, context: grpc.ServicerContext) -> None:
        """Gives a stream a place, and lets it end with its call.

        Raises:
            LimitExceeded: there is no place.
        """
        if not self._places.acquire(blocking=False):
            raise LimitExceeded("open streams", limits.WATCHERS_MAX)

        def ended() -> None:
            self._places.release()
            stream.cancel()

        if not context.add_callback(ended):
            ended()
            return
        with self._lock:
            self._streams.add(stream)
            stopping = self._stopping
        if stopping:
            stream.cancel()
        else:
            # The client learns at once that it is open, before the first answer comes.
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
