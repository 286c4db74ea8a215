"""Makes events of algorithms that failed, from a stream of the scheduler: no polling."""

from __future__ import annotations

import threading

from vcoproc import limits
from vcoproc.errors import VcoprocError
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.ports import Scheduling, Stream
from vcoproc_toolstack.records import EventKind
from vcoproc_toolstack.schedules import Fallback, schedule_resource
from vcoproc_toolstack.store import Store


def note_fallback(store: Store, told: Fallback) -> bool:
    """One event for each fallback, however often the scheduler tells of it. False: it was told.

    Raises:
        StoreUnavailable: it cannot be kept; the scheduler tells of it again.
    """
    with store.change() as change:
        if change.fallback_ns(told.coproc) == told.time_ns:
            return False
        change.put_fallback_ns(told.coproc, told.time_ns)
        words = f"algorithm {told.algorithm} failed, rr has taken over: {told.why}"
        change.add_event(schedule_resource(told.coproc), EventKind.FELL_BACK, words)
        return True


class FallbackWatch:
    """Holds the stream open from a thread of its own."""

    def __init__(self, store: Store, scheduling: Scheduling, log: Log) -> None:
        self._store = store
        self._scheduling = scheduling
        self._log = log
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream[Fallback] | None = None
        self._thread = threading.Thread(target=self._run, name="fallbacks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stop.set()
            if self._stream is not None:
                self._stream.cancel()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._lock:
                    if self._stop.is_set():
                        return
                    self._stream = stream = self._scheduling.fallbacks()
                for told in stream:
                    if note_fallback(self._store, told):
                        self._log.warning("an algorithm failed", coproc=told.coproc, why=told.why)
            except VcoprocError as error:
                self._log.debug("stream of fallbacks ended", why=str(error))
            # A scheduler that ends the stream at once is not asked again at once.
            self._stop.wait(limits.REPAIR_DELAY_NS_MIN / limits.S)
