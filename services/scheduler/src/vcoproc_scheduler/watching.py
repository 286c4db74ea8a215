"""Lets gRPC threads wait until there is something new to read, without asking again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from vcoproc.errors import LimitExceeded, PeerLost
from vcoproc.limits import DECISION_WATCHERS_MAX

T = TypeVar("T")


class Watchers:
    """Open streams of one service. `changed` is for the loop's thread, the rest for gRPC's."""

    def __init__(self, count_max: int = DECISION_WATCHERS_MAX) -> None:
        self._count_max = count_max
        self._count = 0
        self._version = 0
        self._closed = False
        self._condition = threading.Condition()

    def changed(self) -> None:
        """There is something new."""
        if not self._count:
            return  # who comes later reads before it waits
        with self._condition:
            self._version += 1
            self._condition.notify_all()

    def close(self) -> None:
        """All streams end."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def follow(self, context: grpc.ServicerContext, read: Callable[[], T | None]) -> Iterator[T]:
        """What `read` gives, each time that something is new, until the caller has gone.

        Args:
            read: gives None when it has nothing for this caller; is asked again at once until then.

        Raises:
            LimitExceeded: too many watch already.
            PeerLost: the service stops.
        """
        with self._counted(context):
            while context.is_active():
                version = self._version
                while context.is_active() and (found := read()) is not None:
                    yield found
                with self._condition:
                    self._condition.wait_for(
                        lambda version=version: (  # type: ignore[misc]
                            self._closed or self._version != version or not context.is_active()
                        )
                    )
                    if self._closed:
                        raise PeerLost("scheduler")

    @contextmanager
    def _counted(self, context: grpc.ServicerContext) -> Iterator[None]:
        with self._condition:
            if self._count >= self._count_max:
                raise LimitExceeded("watchers of the scheduler", self._count_max)
            self._count += 1
        try:
            if context.add_callback(self._gone):
                yield
        finally:
            with self._condition:
                self._count -= 1

    def _gone(self) -> None:
        with self._condition:
            self._condition.notify_all()
