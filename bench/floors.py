"""Bare ZeroMQ: the floors of the hot paths.

The same frames over the same kind of socket in the same run directory, between processes that do
nothing else: no session, no decoding, a plain receive that blocks. Run as a program
(`python -m bench.floors ROLE ...`) this is the other process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import zmq

from vcoproc.limits import FRAME_BYTES_MAX
from vcoproc.wire.codec import encode
from vcoproc.wire.messages import Inject, LineLevel

ROOT: Final = Path(__file__).resolve().parents[1]
_TYPE_AT: Final = 3
"""Place of the message's type in a frame's header."""
_STAMP_BYTES: Final = 8
"""msgpack's form of a 64-bit time at the end of a frame, big endian."""


def configure(socket: zmq.Socket[Any]) -> None:
    """The options of `vcoproc.runtime.link`."""
    socket.linger = 0
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)


def router(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    socket: zmq.Socket[Any] = context.socket(zmq.ROUTER)
    configure(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.bind(endpoint)
    return socket


def dealer(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[Any]:
    socket: zmq.Socket[Any] = context.socket(zmq.DEALER)
    configure(socket)
    socket.connect(endpoint)
    return socket


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this module, killed in the end."""
    child = subprocess.Popen([sys.executable, "-m", "bench.floors", *arguments], cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


class Echo:
    """An echo server of its own process, and our socket to it."""

    def __init__(self, child: subprocess.Popen[bytes], socket: zmq.Socket[Any]) -> None:
        self.pid = child.pid
        self._socket = socket

    def round_trip(self, frame: bytes) -> None:
        self._socket.send(frame)
        self._socket.recv()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)


@contextmanager
def echo(directory: Path, replies: Mapping[bytes, bytes]) -> Iterator[Echo]:
    """An echo that answers a frame with the reply to the frame of that type; others with nothing.

    Args:
        directory: for its socket.
        replies: by request; one for each type of message at most.
    """
    endpoint = f"ipc://{directory / 'echo.sock'}"
    pairs = [f"{request[_TYPE_AT]}={reply.hex()}" for request, reply in replies.items()]
    with process("echo", endpoint, *pairs) as child:
        socket = dealer(zmq.Context.instance(), endpoint)
        try:
            one = Echo(child, socket)
            one.round_trip(next(iter(replies)))  # it serves
            yield one
        finally:
            socket.close()


class Relay:
    """Two hops: a source in one process, a forwarder in another, and us at the end."""

    def __init__(
        self, pids: tuple[int, int], trigger: zmq.Socket[Any], end: zmq.Socket[Any]
    ) -> None:
        self.source_pid, self.forwarder_pid = pids
        self._trigger = trigger
        self._end = end

    def latency_ns(self) -> int:
        """From the source's clock reading before it sends, to ours when we have the frame."""
        self._trigger.send(b"")
        frame = self._end.recv()
        return time.monotonic_ns() - int.from_bytes(frame[-_STAMP_BYTES:], "big")


@contextmanager
def relay(directory: Path) -> Iterator[Relay]:
    trigger_at, first_at, second_at = (
        f"ipc://{directory / name}.sock" for name in ("trigger", "hop1", "hop2")
    )
    with (
        process("source", trigger_at, first_at) as source,
        process("forward", first_at, second_at) as forwarder,
    ):
        context: zmq.Context[Any] = zmq.Context.instance()
        trigger, end = dealer(context, trigger_at), dealer(context, second_at)
        try:
            end.send(b"")  # says who we are
            end.recv()
            one = Relay((source.pid, forwarder.pid), trigger, end)
            one.latency_ns()
            yield one
        finally:
            trigger.close()
            end.close()


# --- the other process ----------------------------------------------------------------------------


def run_echo(endpoint: str, *pairs: str) -> None:
    replies = {}
    for pair in pairs:
        kind, _, digits = pair.partition("=")
        replies[int(kind)] = bytes.fromhex(digits)
    socket = router(zmq.Context(), endpoint)
    while True:
        identity, frame = socket.recv_multipart()
        reply = replies.get(frame[_TYPE_AT])
        if reply is not None:
            socket.send_multipart((identity, reply))


def run_source(trigger_at: str, first_at: str) -> None:
    context = zmq.Context()
    trigger, out = router(context, trigger_at), dealer(context, first_at)
    while True:
        trigger.recv_multipart()
        now_ns = time.monotonic_ns()
        out.send(encode(LineLevel(1, 0, True, 1, now_ns), credit=1024, epoch=1, seq=1))


def run_forward(first_at: str, second_at: str) -> None:
    context = zmq.Context()
    first, second = router(context, first_at), router(context, second_at)
    target, _ = second.recv_multipart()
    second.send_multipart((target, b""))
    inject = encode(Inject(64, True, time.monotonic_ns()), credit=256, epoch=1, seq=1)
    while True:
        _, frame = first.recv_multipart()
        second.send_multipart((target, inject[:-_STAMP_BYTES] + frame[-_STAMP_BYTES:]))


_ROLES: Final[dict[str, Callable[..., None]]] = {
    "echo": run_echo,
    "source": run_source,
    "forward": run_forward,
}

if __name__ == "__main__":
    _ROLES[sys.argv[1]](*sys.argv[2:])
