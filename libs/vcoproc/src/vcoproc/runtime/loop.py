"""The poll loop of a service's shell.

One thread owns all sockets and cores. Other threads (gRPC handlers) hand it work through `call`.
"""

from __future__ import annotations

import contextlib
import operator
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import FrameType
from typing import Any, TypeVar

import zmq
from zmq.backend import zmq_poll

from vcoproc.errors import PeerTimeout
from vcoproc.runtime.timerfd import TimerFd

T = TypeVar("T")
_source_of = operator.itemgetter(0)


class Loop:
    """Waits for sockets, a deadline, other threads' calls and signals, without ever polling idly.

    Args:
        handle_signals: SIGTERM and SIGINT set `stopping`; only in a main thread.
    """

    def __init__(self, *, handle_signals: bool = True) -> None:
        self.stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._timer = TimerFd()
        self._timer_fd = self._timer.fileno()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._poller = zmq.Poller()
        self._poller.register(self._wake_read, zmq.POLLIN)
        self._poller.register(self._timer_fd, zmq.POLLIN)
        self._closed = False
        self._close_lock = threading.Lock()
        if handle_signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            # A handler of Python's runs only between bytecodes: a signal just before poll begins to
            # wait would not be seen. The C level writes into the pipe, which poll does see.
            signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._handles_signals = handle_signals

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop()

    def watch(self, source: zmq.Socket[Any] | int) -> None:
        """From now on `wait` returns when this socket or descriptor can be read."""
        self._poller.register(source, zmq.POLLIN)

    def wait(self, deadline_ns: int | None) -> set[Any]:
        """Sleeps until something happens; gives the sockets and descriptors that can be read.

        Args:
            deadline_ns: `time.monotonic_ns` at which to return at the latest, or None. A past one
                makes this a mere look.
        """
        if self._calls or self.stopping or (deadline_ns and deadline_ns <= time.monotonic_ns()):
            ready = zmq_poll(self._poller.sockets, 0)
        else:
            self._timer.arm(deadline_ns)
            ready = zmq_poll(self._poller.sockets, -1)
        sources = set(map(_source_of, ready))
        if self._timer_fd in sources:
            sources.discard(self._timer_fd)
            self._timer.clear()
        if self._wake_read in sources:
            sources.discard(self._wake_read)
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_read, 512):
                    pass
        return sources

    def has_calls(self) -> bool:
        return bool(self._calls)

    def run_calls(self) -> None:
        """Does what other threads asked for. To be called once a round by the loop's thread."""
        while self._calls:
            work, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except Exception as error:  # handed to the thread that asked
                future.set_exception(error)

    def call(self, work: Callable[[], T], timeout_s: float = 1.0) -> T:
        """Runs `work` on the loop's thread and gives its result. For other threads.

        Raises:
            PeerTimeout: the loop did not come to it in time; it will not be done later.
        """
        future: Future[T] = Future()
        self._calls.append((work, future))
        self._wake()
        try:
            return future.result(timeout_s)
        except FutureTimeout:
            if future.cancel():
                raise PeerTimeout("service loop", int(timeout_s * 1e9)) from None
            return future.result(timeout_s)

    def stop(self) -> None:
        """Makes `stopping` true and wakes the loop. Safe from signal handlers and threads."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        # Closed while another thread was about to call: nobody is left to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Releases the descriptors; calls still waiting fail."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
        while self._calls:
            _work, future = self._calls.popleft()
            future.cancel()
        if self._handles_signals:
            signal.set_wakeup_fd(-1)
        self._timer.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
