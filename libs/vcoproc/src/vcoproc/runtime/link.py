"""Sessions over ZeroMQ sockets: the client's end of a hot link, and what both ends share.

Neither end has a thread. The owner watches the sockets in its loop, calls `receive` when they can
be read and `flush` once a round. The server's end is in `vcoproc.runtime.link_server`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import zmq
from zmq.backend import Socket as BackendSocket
from zmq.backend import zmq_poll

from vcoproc.errors import (
    LimitExceeded,
    PeerError,
    PeerRejected,
    RemoteProtocolError,
    VcoprocError,
)
from vcoproc.limits import FRAME_BYTES_MAX, MS
from vcoproc.wire.messages import Bye, Message, Role
from vcoproc.wire.session import Session, client_session, hello_frame

RETRY_NS_MIN: Final = 20 * MS
RETRY_NS_MAX: Final = 1000 * MS
HELLO_REQUIRED: Final = "HELLO_REQUIRED"
"""Reject of a frame that belongs to no session, for example one of the server's predecessor."""

# On the hot path pyzmq's enumerations and exceptions cost more than the calls that they belong to:
# plain integers as flags, and a look before a second receive instead of the error of a vain one.
NOBLOCK: Final = int(zmq.NOBLOCK)
NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
POLLIN: Final = int(zmq.POLLIN)
_ANSWER_MS_MAX: Final = 100
"""How long `LinkClient.receive_answer` does not see that the connection was lost."""


def configure(socket: zmq.Socket[Any]) -> None:
    """What holds for both ends."""
    socket.linger = 0
    # Credit bounds what is under way; a high-water mark of ZeroMQ's would drop in silence.
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)


def direct_calls(socket: zmq.Socket[Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(send, recv) of a socket without the Python layer that pyzmq puts around the compiled one."""
    return BackendSocket.send.__get__(socket), BackendSocket.recv.__get__(socket)


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The server has welcomed us. unacked: what the session before it may not have taken."""

    unacked: list[Message]


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The session is over; the client goes on trying."""

    error: VcoprocError


@dataclass(frozen=True, slots=True)
class Received:
    seq: int
    message: Message


LinkEvent: TypeAlias = LinkUp | LinkDown | Received


class LinkClient:
    """The DEALER end: one server, found again by itself after it was lost.

    Args:
        endpoint: ZeroMQ address to connect to; the server may start later.
        credential: at most 64 bytes. name: at most 63 bytes.
        window: messages that the server may have unacknowledged.
        keep_unacked: `LinkUp` says which messages must be said again.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        *,
        role: Role,
        credential: bytes,
        name: str,
        epoch: int,
        window: int,
        keep_unacked: bool = False,
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        configure(self.socket)
        # Queue only to a live connection: what was meant for a dead server must not reach the next.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self.socket.setsockopt(zmq.RCVTIMEO, _ANSWER_MS_MAX)
        self._monitor: zmq.Socket[Any] = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._monitor.linger = 0
        self._look = [(self.socket, POLLIN), (self._monitor, POLLIN)]
        self._send_frame, self._recv_frame = direct_calls(self.socket)
        self.session: Session | None = None
        self._late: list[LinkEvent] = []
        self._endpoint = endpoint
        self._hello = hello_frame(role, credential, name, epoch=epoch, window=window)
        self._epoch = epoch
        self._window = window
        self._keep = keep_unacked
        self._unacked: list[Message] = []
        self._connected = False
        self._retry_at_ns: int | None = None
        self._retry_ns = RETRY_NS_MIN
        self.socket.connect(endpoint)

    @property
    def sockets(self) -> tuple[zmq.Socket[Any], zmq.Socket[Any]]:
        """What to watch."""
        return (self.socket, self._monitor)

    @property
    def unacked(self) -> list[Message]:
        """What the server may not have taken, oldest first; with `keep_unacked`."""
        return self._unacked if self.session is None else self.session.unacked()

    def next_deadline_ns(self) -> int | None:
        """When `receive` wants to be called even if no socket can be read."""
        return self._retry_at_ns

    def receive(self, limit: int = 64, wait_ms: int = 0) -> list[LinkEvent]:
        """What happened, at most `limit` frames of it.

        Args:
            wait_ms: how long to wait for the first of it, for an owner without a loop.
        """
        events: list[LinkEvent] = []
        if self._late:
            events, self._late = self._late, events
            wait_ms = 0
        for _ in range(limit):
            ready = zmq_poll(self._look, wait_ms)
            if not ready:
                break
            # Frames first: those of a server that has gone since are still its last words.
            if ready[0][0] is not self.socket:
                self._watch_connection(events)
                break
            wait_ms = 0
            try:
                frame = self._recv_frame(NOBLOCK)
            except zmq.Again:
                continue  # the connection went with what it had brought
            message = self._take(frame, events)
            if message is not None:
                assert self.session is not None
                events.append(Received(self.session.accepted, message))
        if self._retry_at_ns is not None and time.monotonic_ns() >= self._retry_at_ns:
            self._retry_at_ns = None
            self._say_hello()
        return events

    def receive_answer(self) -> Message | None:
        """The next message, if it comes soon. None: go on with `receive`, which says more.

        For an owner without a loop that has asked for something. A receive that blocks takes half
        the time of a poll over two sockets, but does not see the connection go: it ends after
        100 ms.
        """
        try:
            frame = self._recv_frame()
        except zmq.Again:
            return None
        return self._take(frame, self._late)

    def _watch_connection(self, events: list[LinkEvent]) -> None:
        while True:
            try:
                frames = self._monitor.recv_multipart(NOBLOCK)
            except zmq.Again:
                return
            # zmq_socket_monitor(3): 16 bits of event and 32 of value, then the address. The parser
            # of pyzmq would bring in asyncio.
            if int.from_bytes(frames[0][:2], sys.byteorder) == zmq.EVENT_DISCONNECTED:
                self._connected = False
                self._retry_at_ns = None
                self._down(RemoteProtocolError("connection lost"), events)
            else:
                self._connected = True
                self._say_hello()

    def _take(self, frame: bytes, events: list[LinkEvent]) -> Message | None:
        """The message in a frame; anything else that it means goes to `events`."""
        session = self.session
        if session is None:
            self._take_welcome(frame, events)
            return None
        try:
            message = session.receive(frame)
        except PeerError as error:
            self._down(error, events)
            self._retry_later()
            return None
        if type(message) is Bye:
            # The connection's end follows; the next server is greeted when it is there.
            self._down(PeerRejected("BYE", message.why), events)
            return None
        return message

    def _take_welcome(self, frame: bytes, events: list[LinkEvent]) -> None:
        try:
            self.session = client_session(
                frame, epoch=self._epoch, window=self._window, keep_unacked=self._keep
            )
        except PeerError as error:
            # HELLO_REQUIRED answers an older frame, not the hello.
            if not (isinstance(error, PeerRejected) and error.their_reason == HELLO_REQUIRED):
                events.append(LinkDown(error))
                self._retry_later()
            return
        self._retry_ns = RETRY_NS_MIN
        unacked, self._unacked = self._unacked, []
        events.append(LinkUp(unacked))

    def _retry_later(self) -> None:
        if self._connected:
            self._retry_at_ns = time.monotonic_ns() + self._retry_ns
            self._retry_ns = min(2 * self._retry_ns, RETRY_NS_MAX)

    def _down(self, error: VcoprocError, events: list[LinkEvent]) -> None:
        if self.session is None:
            return
        if self._keep:
            self._unacked = self.session.unacked()
        self.session = None
        events.append(LinkDown(error))

    def _say_hello(self) -> None:
        try:
            self.socket.send(self._hello, zmq.NOBLOCK)
        except zmq.Again:  # the connection has gone again already
            self._retry_later()

    def send(self, message: Message) -> bool:
        """Sends now or when the server gives credit. False: there is no session; it is not sent.

        A server that takes nothing for too long loses the session; it is greeted again later.
        """
        session = self.session
        if session is None:
            return False
        try:
            frame = session.send(message)
        except LimitExceeded as error:
            self._down(error, self._late)
            self._retry_later()
            return False
        if frame is not None:
            self._push(frame)
        return True

    def _push(self, frame: bytes) -> None:
        # Again: the connection has just gone; its end is reported by the monitor, and what was
        # not acknowledged is in `LinkUp.unacked`.
        try:  # noqa: SIM105  # contextlib.suppress takes as long as the send
            self._send_frame(frame, NOBLOCK)
        except zmq.Again:
            pass

    def flush(self) -> None:
        """Sends what credit allows now, and credit where it is due. Once a round."""
        if self.session is not None:
            for frame in self.session.flush():
                self._push(frame)

    def close(self) -> None:
        """Says goodbye and disconnects. Does nothing the second time."""
        if self.socket.closed:
            return
        if self.session is not None and self.session.can_send():
            self.socket.linger = 100  # ms, for the last words
            self._push(self.session.bye("stopping"))
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()
