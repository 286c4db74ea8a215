"""A watch that goes on where it was: what to ask for next, and after which errors. Pure."""

from __future__ import annotations

from typing import Final

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client.connection import Unreachable
from vcoproc.errors import VcoprocError, WatcherTooSlow
from vcoproc.runtime.grpc_kit import RemoteRefusal

_AGAIN: Final = (Unreachable.reason, WatcherTooSlow.reason)
_SERVED_S: Final = 1.0
"""A stream that lasts so long is one, and not the next failure of a cluster that is gone."""


class Watch:
    """Where a watch of events is.

    Args:
        revision: events after this one.
        patience_s: how long a cluster that does not answer is asked again.
    """

    def __init__(self, revision: int, filter: str, patience_s: float) -> None:
        self._revision = revision
        self._filter = filter
        self._patience_s = patience_s
        self._silent_since_s: float | None = None
        self._served_since_s: float | None = None

    def request(self) -> api.WatchEventsRequest:
        """What to ask for now."""
        return api.WatchEventsRequest(revision=self._revision, filter=self._filter)

    def seen(self, event: api.Event) -> None:
        """An event came."""
        self._revision = event.revision
        self._silent_since_s = None

    def served(self, now_s: float) -> None:
        """The cluster answers, and streams from now on, be it ever so quiet."""
        self._served_since_s = now_s

    def goes_on(self, error: VcoprocError, now_s: float) -> bool:
        """Whether to ask again after a stream that ended with this error."""
        if error.reason not in _AGAIN:
            return False
        if isinstance(error, RemoteRefusal):
            # What the filter left out counts as seen.
            self._revision = max(self._revision, int(error.metadata.get("revision", 0)))
            return True
        if self._served_since_s is not None and now_s - self._served_since_s >= _SERVED_S:
            self._silent_since_s = None
        self._served_since_s = None
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        return now_s - self._silent_since_s < self._patience_s
