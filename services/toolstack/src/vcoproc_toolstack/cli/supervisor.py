"""Keeps the processes of a cluster alive: starts them, hears when they serve, restarts, stops.

Theory of operation:
    One thread owns all children, from the first fork to the last wait. It sleeps in poll until a
    child says that it serves (a datagram as of sd_notify(3)), a child ends (its pidfd becomes
    readable), somebody wants something (an eventfd), or a restart is due. Children may be added and
    dismissed while it runs.
Invariants:
    The thread ends only when no child is left. It lives as long as its children, because the kernel
    delivers the parent-death signal when the thread that forked ends, not the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.errors import PeerError
from vcoproc.runtime.process import DIE_WITH_PARENT, EXIT_REMOVED

_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 8
_CREDENTIALS: Final = struct.Struct("iII")
"""struct ucred of unix(7): pid, uid, gid."""
_DATAGRAM_BYTES: Final = 4096
_NOISE: Final = ("time", "service")


class StartFailed(PeerError):
    """A process of the cluster did not start.

    Attributes:
        exit_code: its exit code; negative for the signal that ended it; None when it was too slow.
    """

    reason = "START_FAILED"

    def __init__(self, process: str, exit_code: int | None, words: str, limit_ns: int = 0) -> None:
        limit_s = limit_ns // limits.S
        how = f"did not serve within {limit_s} s" if exit_code is None else _ending(exit_code)
        super().__init__(f"{process} {how}" + (f":\n{words}" if words else ""))
        self.process = process
        self.exit_code = exit_code
        self.words = words


class StartAborted(PeerError):
    """Somebody asked for the end before everything served."""

    reason = "START_ABORTED"

    def __init__(self) -> None:
        super().__init__("stopped before the cluster was ready")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep alive. log: where its stderr is appended; None for our own stderr.

    environ: variables of this process alone.
    """

    name: str
    command: tuple[str, ...]
    log: Path | None
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    pidfd: int = -1
    ready: bool = False
    served: bool = False
    """It, or one before it, has served."""
    log_offset: int = 0
    started_ns: int = 0
    delay_ns: int = limits.RESTART_DELAY_NS_MIN
    restart_ns: int | None = None
    """When it is to be started again; None while it runs."""
    needless: bool = False
    """It said that there is nothing for it to do, and has not served since."""
    kill_ns: int | None = None
    """It is dismissed: when it is ended by force. None while it is to be kept alive."""
    successor: ChildSpec | None = None
    """Who is started once this one, which is dismissed, has ended."""


@dataclass(slots=True)
class _Outcome:
    """What the starter waits for."""

    done: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None


class Supervisor:
    """Keeps children alive until told to stop.

    Args:
        specs: what to run.
        notify_path: where the socket is made on which children say that they serve.
        report: is told, in words for people, of each death and each return.
        environ: of the children, besides what the supervisor adds.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        notify_path: Path,
        *,
        report: Callable[[str], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._orders: queue.SimpleQueue[ChildSpec | str] = queue.SimpleQueue()
        self._notify_path = notify_path
        self._report = report
        self._environ = dict(os.environ if environ is None else environ)
        self._outcome = _Outcome()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stop_count = 0
        self._notify: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor")
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Starts all children and waits until each of them serves.

        Raises:
            StartFailed: one of them did not; none is left.
            StartAborted: `request_stop` was called.
            OSError: one of them could not be started at all; none is left.
        """
        self._thread.start()
        self._outcome.done.wait()
        if self._outcome.error is not None:
            self._join()
            raise self._outcome.error

    def add(self, spec: ChildSpec) -> None:
        """Starts one more child, and keeps it alive. One of that name that is dismissed comes back.

        Does nothing when there is one already.
        """
        self._order(spec)

    def dismiss(self, name: str) -> None:
        """Ends a child, by force after `limits.STOP_TIMEOUT_NS`; it is not started again."""
        self._order(name)

    def _order(self, order: ChildSpec | str) -> None:
        self._orders.put(order)
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def request_stop(self) -> None:
        """Asks for the end; a second time: without waiting for anybody. Safe in signal handlers."""
        self._stop_count += 1
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Ends all children, by force after `limits.STOP_TIMEOUT_NS`."""
        if self._thread.ident is not None and not self._stop_count:
            self.request_stop()
        self._join()

    def join(self) -> None:
        """Waits for the end that somebody asked for.

        Raises:
            OSError: it came by itself, since the supervisor could not go on.
        """
        self._join()
        if self._outcome.error is not None:
            raise self._outcome.error

    def pids(self) -> dict[str, int]:
        """The processes that run now, by name."""
        return {
            child.spec.name: process.pid
            for child in list(self._children)
            if (process := child.process) is not None
        }

    def _join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._wake)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the cluster
            self._report(text)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.setblocking(False)
                notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                notify.bind(str(self._notify_path))
                self._notify = notify
                try:
                    self._keep_alive()
                finally:
                    self._end_all()
                    self._notify_path.unlink(missing_ok=True)
        except Exception as error:  # whatever it is, the thread that waits must learn of it
            self._outcome.error = error
        finally:
            self._outcome.done.set()

    def _keep_alive(self) -> None:
        limit_ns = limits.START_TIMEOUT_NS
        limit_ns = max(limit_ns, limit_ns * len(self._children) // limits.START_TOGETHER)
        deadline_ns = time.monotonic_ns() + limit_ns
        for child in self._children:
            self._spawn(child)
        while not self._stop_count:
            starting = not self._outcome.done.is_set()
            if starting and all(child.ready or child.needless for child in self._children):
                self._outcome.done.set()
                continue
            if starting and time.monotonic_ns() >= deadline_ns:
                slow = next(c for c in self._children if not (c.ready or c.needless))
                raise StartFailed(slow.spec.name, None, _tail(slow), limit_ns)
            self._wait(deadline_ns if starting else None)
            self._bury()
            self._obey()
            self._respawn()
        if not self._outcome.done.is_set():
            raise StartAborted

    def _wait(self, deadline_ns: int | None) -> None:
        """Sleeps until something happens, and hears who serves."""
        assert self._notify is not None
        times_ns = [(child.restart_ns, child.kill_ns) for child in self._children]
        due = [time_ns for pair in times_ns for time_ns in pair if time_ns is not None]
        if deadline_ns is not None:
            due.append(deadline_ns)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._notify, select.POLLIN)
        for child in self._children:
            if child.process is not None:
                poll.register(child.pidfd, select.POLLIN)
        timeout_ms = None
        if due:
            # Upwards: a millisecond too late is no harm, too early would spin.
            timeout_ms = max(0, -((time.monotonic_ns() - min(due)) // limits.MS))
        poll.poll(timeout_ms)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        self._hear()

    def _hear(self) -> None:
        assert self._notify is not None
        room = socket.CMSG_SPACE(_CREDENTIALS.size)
        with contextlib.suppress(BlockingIOError):
            while True:
                text, ancillary, _flags, _sender = self._notify.recvmsg(_DATAGRAM_BYTES, room)
                for level, kind, blob in ancillary:
                    if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                        pid = _CREDENTIALS.unpack(blob[: _CREDENTIALS.size])[0]
                        if b"READY=1" in text.split(b"\n"):
                            self._serves(pid)

    def _serves(self, pid: int) -> None:
        for child in self._children:
            if child.process is not None and child.process.pid == pid and not child.ready:
                child.ready = True
                child.needless = False
                if self._outcome.done.is_set():
                    self._say(f"{child.spec.name} serves{' again' * child.served} (pid {pid})")
                child.served = True

    def _spawn(self, child: _Child) -> None:
        environ = {
            **self._environ,
            **child.spec.environ,
            "NOTIFY_SOCKET": str(self._notify_path),
            DIE_WITH_PARENT: str(os.getpid()),
        }
        log = None
        try:
            if child.spec.log is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                log = os.open(child.spec.log, flags, 0o600)
                child.log_offset = os.fstat(log).st_size
            child.process = subprocess.Popen(
                child.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                # A group of its own: Ctrl-C is for us alone, and we end the children in order.
                process_group=0,
            )
        finally:
            if log is not None:
                os.close(log)
        child.pidfd = os.pidfd_open(child.process.pid)
        child.started_ns = time.monotonic_ns()
        child.ready = False
        child.restart_ns = None

    def _bury(self) -> None:
        """Looks who has ended, and says when it is to be started again."""
        for child in list(self._children):
            if child.process is None or child.process.poll() is None:
                continue
            exit_code = child.process.returncode
            self._forget(child)
            if child.kill_ns is not None:
                self._children.remove(child)
                if child.successor is not None:
                    self._children.append(_Child(child.successor, restart_ns=0))
                continue
            child.needless = exit_code == EXIT_REMOVED
            if not self._outcome.done.is_set() and not child.needless:
                raise StartFailed(child.spec.name, exit_code, _tail(child))
            now_ns = time.monotonic_ns()
            if now_ns - child.started_ns >= limits.RESTART_FORGIVEN_NS:
                child.delay_ns = limits.RESTART_DELAY_NS_MIN
            child.restart_ns = now_ns + child.delay_ns
            wait_ms = child.delay_ns // limits.MS
            child.delay_ns = min(2 * child.delay_ns, limits.RESTART_DELAY_NS_MAX)
            if child.needless:
                continue  # who knows whether it is to be there will add or dismiss it
            words = _tail(child)
            self._say(
                f"{child.spec.name} {_ending(exit_code)}; starting it again in {wait_ms} ms"
                + (f"\n{words}" if words else "")
            )

    def _obey(self) -> None:
        """Takes on and dismisses children as ordered."""
        while not self._orders.empty():
            order = self._orders.get()
            if isinstance(order, ChildSpec):
                self._take_on(order)
            else:
                self._dismiss(order)
        now_ns = time.monotonic_ns()
        for child in self._children:
            if child.kill_ns is not None and child.process is not None and now_ns >= child.kill_ns:
                self._say(f"{child.spec.name} did not stop in time and is killed")
                child.process.kill()
                child.kill_ns = now_ns + limits.STOP_TIMEOUT_NS

    def _take_on(self, spec: ChildSpec) -> None:
        present = [child for child in self._children if child.spec.name == spec.name]
        if not present:
            self._children.append(_Child(spec, restart_ns=0))
        elif present[0].kill_ns is not None:
            present[0].successor = spec

    def _dismiss(self, name: str) -> None:
        for child in [child for child in self._children if child.spec.name == name]:
            child.successor = None
            if child.process is None:
                self._children.remove(child)
            elif child.kill_ns is None:
                child.process.send_signal(signal.SIGTERM)
                child.kill_ns = time.monotonic_ns() + limits.STOP_TIMEOUT_NS

    def _respawn(self) -> None:
        now_ns = time.monotonic_ns()
        for child in self._children:
            if child.restart_ns is not None and now_ns >= child.restart_ns:
                try:
                    self._spawn(child)
                except OSError as error:
                    child.restart_ns = now_ns + limits.RESTART_DELAY_NS_MAX
                    self._say(f"{child.spec.name} cannot be started: {error}")

    def _end_all(self) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(signal.SIGTERM)
        deadline_ns = time.monotonic_ns() + limits.STOP_TIMEOUT_NS
        left = [child for child in self._children if child.process is not None]
        while left and self._stop_count < 2:
            wait_ns = deadline_ns - time.monotonic_ns()
            if wait_ns <= 0:
                break
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            for child in left:
                poll.register(child.pidfd, select.POLLIN)
            poll.poll(wait_ns // limits.MS + 1)
            left = [child for child in left if child.process and child.process.poll() is None]
        for child in left:
            assert child.process is not None
            self._say(f"{child.spec.name} did not stop in time and is killed")
            child.process.kill()
        for child in self._children:
            if child.process is not None:
                child.process.wait()
                self._forget(child)

    @staticmethod
    def _forget(child: _Child) -> None:
        os.close(child.pidfd)
        child.pidfd = -1
        child.process = None
        child.ready = False


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"was ended by signal {-exit_code}"


def _tail(child: _Child) -> str:
    """The last lines that this incarnation of a child wrote."""
    if child.spec.log is None:
        return ""
    try:
        with child.spec.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(child.log_offset, end - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return ""
    lines = [readable for line in text.splitlines() if (readable := _readable(line))]
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


def _readable(line: str) -> str:
    """A line of a log for people; empty when it tells of no trouble."""
    try:
        record = json.loads(line)
        level, text = record.pop("level"), record.pop("text")
    except (ValueError, KeyError, TypeError, AttributeError):
        return line  # words of a process that could not even log
    if level not in ("warning", "error"):
        return ""
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in _NOISE)
    return f"{level}: {text} {fields}".rstrip()
