"""A timer that a poll loop can watch, exact to microseconds.

zmq_poll and epoll time out in whole milliseconds; Python has timerfd from 3.13 on only, so it is
reached through libc.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_CLOEXEC: Final = os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


class TimerFd:
    """One-shot timer on CLOCK_MONOTONIC, the clock of `time.monotonic_ns`."""

    def __init__(self) -> None:
        self._fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._armed_ns = 0

    def fileno(self) -> int:
        return self._fd

    def arm(self, deadline_ns: int | None) -> None:
        """Fires at that monotonic time (in the past: at once); None disarms."""
        # The kernel reads 0 as "disarm".
        want = 0 if deadline_ns is None else max(deadline_ns, 1)
        if want == self._armed_ns:
            return
        self._spec.value.sec, self._spec.value.nsec = divmod(want, 1_000_000_000)
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        self._armed_ns = want

    def clear(self) -> None:
        """Takes note that it fired."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._armed_ns = 0

    def close(self) -> None:
        os.close(self._fd)
