"""How long a server's threads wait for clients.

Theory of operation:
    A thread that serves a call waits for its client in two places: for the request, of which
    nothing but the beginning may ever come, and until the client has taken an answer of a stream,
    which it may never do. Neither wait ends by itself, and a server has a bounded number of
    threads. `ClientWaits` knows who waits and since when, and gives up calls that wait too long; if
    there may be only so many, then also the one that has waited longest when one more comes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vcoproc.limits import S


class GivenUp(Exception):
    """The call was given up meanwhile; its thread has nothing more to do."""


class ClientWaits:
    """Waits of one kind. Safe for threads.

    Args:
        limit_ns: how long one may last.
        count_max: how many there may be at the same time; 0 for any number.
    """

    def __init__(self, limit_ns: int, count_max: int = 0) -> None:
        self._limit_ns = limit_ns
        self._count_max = count_max
        self._lock = threading.Condition()
        self._numbers = itertools.count()
        # In the order in which they began, which is the order in which their time is over.
        self._waits: dict[int, tuple[int, Callable[[], None]]] = {}
        self._watched = False

    @contextmanager
    def bounded(self, give_up: Callable[[], None]) -> Iterator[None]:
        """What is done inside waits for a client, and ends when `give_up` is called.

        Args:
            give_up: ends the call; comes from any thread.

        Raises:
            GivenUp: it was called.
        """
        number = self._begin(give_up)
        try:
            yield
        finally:
            with self._lock:
                kept = self._waits.pop(number, None) is not None
        if not kept:
            raise GivenUp

    def _begin(self, give_up: Callable[[], None]) -> int:
        oldest = None
        with self._lock:
            if self._count_max and len(self._waits) >= self._count_max:
                oldest = self._waits.pop(next(iter(self._waits)))
            number = next(self._numbers)
            self._waits[number] = (time.monotonic_ns(), give_up)
            if not self._watched:
                # One that ends by itself: a server has nothing to stop.
                threading.Thread(target=self._watch, name="client waits", daemon=True).start()
                self._watched = True
        if oldest is not None:
            oldest[1]()
        return number

    def _watch(self) -> None:
        """Gives up those whose time is over, as long as anybody waits."""
        try:
            while (give_up := self._overdue()) is not None:
                give_up()
        except BaseException:
            # A bug. The next one who waits starts another thread.
            with self._lock:
                self._watched = False
            raise

    def _overdue(self) -> Callable[[], None] | None:
        """Waits for the next one whose time is over; None when nobody waits any more."""
        with self._lock:
            while self._waits:
                number = next(iter(self._waits))
                left_ns = self._waits[number][0] + self._limit_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return self._waits.pop(number)[1]
                self._lock.wait(left_ns / S)
            self._watched = False
            return None
