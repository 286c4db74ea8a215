"""Events on their way to watchers: each is read once, whoever watches.

Theory of operation:
    One thread reads every event that a change adds, makes a message of it, and keeps the newest
    ones for all watchers together. A watcher is a position: the revision of the newest event that
    it has sent or left out. It takes what is newer from here, or from the store while it is further
    back than what is kept here; so it may begin at any revision that the store still has. A watcher
    costs a thread and a few messages, however slowly its client reads, and nothing waits for it.
Invariants:
    A watcher gets each event after its position once, in the order of revisions.
Not handled:
    A client that does not read at all: whoever serves it ends its stream (`vcoproc.runtime`).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import RevisionGone, VcoprocError, WatcherTooSlow
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.event_messages import Told, tell
from vcoproc_toolstack.filters import Filter
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.lists import Asked
from vcoproc_toolstack.records import EventRecord
from vcoproc_toolstack.store import Store, View


class EventHub:
    """Has new events for everybody who watches.

    Args:
        died: is told when its thread ends by a bug, after which nobody would hear of anything.
    """

    def __init__(
        self, store: Store, leases: Leases, log: Log, died: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._leases = leases
        self._log = log
        self._died = died
        self._lock = threading.Condition()
        self._recent: deque[Told] = deque(maxlen=limits.EVENTS_RECENT_MAX)
        self._newest = self._before = self.revision()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and with it what all watchers wait for."""
        self._stop.set()
        self._store.wake()
        self.wake()
        self._thread.join()

    def revision(self) -> int:
        """Of the newest event."""
        with self._store.read() as view:
            return view.revision()

    def watch(self, after: int, wanted: Filter[EventRecord]) -> EventStream:
        """Events after a revision, those to come included. after: 0 for those to come alone.

        Raises:
            RevisionGone: some of them are no longer kept, or that revision never was.
        """
        with self._store.read() as view:
            newest = view.revision()
            if after:
                view.events(after)
        return EventStream(self, after or newest, wanted)

    def page(self, asked: Asked[EventRecord], after: int) -> tuple[list[api.Event], str, int]:
        """One page of the events after a revision, its token, and the revision of the newest.

        Raises:
            RevisionGone: as `watch`.
        """
        with self._store.read() as view:
            events = _events(view, after or _before_oldest(view))
            page, token = asked.page(events, lambda event: (str(event.revision),))
            told = tell(view, self._leases, page)
            return [each.message for each in told], token, view.revision()

    def kept_after(self) -> int:
        """All events after this revision are here."""
        with self._lock:
            return self._before

    def take(self, after: int, ended: Callable[[], bool]) -> Sequence[Told]:
        """The oldest few events after a revision; waits for the first. Empty once it has ended.

        Args:
            ended: is asked again after `wake`.

        Raises:
            RevisionGone: some of them are no longer kept.
        """
        with self._lock:
            while after >= self._before:
                if self._stop.is_set() or ended():
                    return ()
                if self._newest > after:
                    newer = itertools.takewhile(
                        lambda told: told.event.revision > after, reversed(self._recent)
                    )
                    return [*newer][::-1][: limits.EVENTS_TAKEN_MAX]
                self._lock.wait()
        with self._store.read() as view:
            events = view.events(after)[: limits.EVENTS_TAKEN_MAX]
            return tell(view, self._leases, events)

    def wake(self) -> None:
        """Lets everybody in `take` look again."""
        with self._lock:
            self._lock.notify_all()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException:
            self._died()
            raise

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                events = self._store.wait_for_events(self._newest, self._stop.is_set)
                with self._store.read() as view:
                    self._add(tell(view, self._leases, events))
            except RevisionGone as error:
                # One change had more events than are kept; whoever has not got them is told.
                with self._lock:
                    self._recent.clear()
                    self._newest = self._before = error.oldest - 1
            except VcoprocError as error:
                self._log.error("events cannot be read", why=str(error))
                self._stop.wait(limits.REPAIR_DELAY_NS_MIN / limits.S)

    def _add(self, told: Sequence[Told]) -> None:
        with self._lock:
            for each in told:
                if len(self._recent) == self._recent.maxlen:
                    self._before = self._recent[0].event.revision
                self._recent.append(each)
                self._newest = each.event.revision
            self._lock.notify_all()


class EventStream(Iterator[api.Event]):
    """Events for one watcher, as messages; until `cancel`.

    Raises:
        RevisionGone: events that it has not got are no longer kept.
        WatcherTooSlow: its client did not read for a while, and too much came meanwhile.
    """

    def __init__(self, hub: EventHub, after: int, wanted: Filter[EventRecord]) -> None:
        self._hub = hub
        self._revision = after
        self._wanted = wanted
        self._ended = threading.Event()
        self._taken: deque[Told] = deque()
        self._sending: Told | None = None
        self._sending_since_ns = 0

    def __next__(self) -> api.Event:
        self._note_sent()
        while not self._ended.is_set():
            if not self._taken:
                self._taken.extend(self._hub.take(self._revision, self._ended.is_set))
            if not self._taken:
                break
            told = self._taken.popleft()
            if self._wanted.matches(told.event):
                self._sending, self._sending_since_ns = told, time.monotonic_ns()
                return told.message
            self._revision = told.event.revision
        raise StopIteration

    def _note_sent(self) -> None:
        """Who asks for the next one has sent the one before. Raises: WatcherTooSlow."""
        if self._sending is None:
            return
        self._revision = self._sending.event.revision
        self._sending = None
        blocked_ns = time.monotonic_ns() - self._sending_since_ns
        behind = self._revision < self._hub.kept_after()
        if behind and blocked_ns > limits.WATCHER_BLOCKED_NS_MAX:
            raise self.too_slow()

    def too_slow(self) -> WatcherTooSlow:
        """What a client is told that does not read. All up to that revision was sent."""
        return WatcherTooSlow(self._revision)

    def cancel(self) -> None:
        """Ends it, from any thread."""
        self._ended.set()
        self._hub.wake()


def _events(view: View, after: int) -> Iterator[EventRecord]:
    """All events after a revision, oldest first."""
    while events := view.events(after):
        yield from events
        after = events[-1].revision


def _before_oldest(view: View) -> int:
    """The revision before the oldest event that is kept."""
    before_first = 1  # see `View.revision`
    try:
        view.events(before_first)
    except RevisionGone as error:
        return error.oldest - 1
    return before_first
