"""Sessions over ZeroMQ sockets: the server's and the client's end of a hot link.

Neither has a thread. The owner watches the sockets in its loop, calls `receive` when they can be
read and `flush` once a round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator
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
from vcoproc.wire.messages import Bye, Hello, Message, Role
from vcoproc.wire.session import (
    Session,
    client_session,
    hello_frame,
    read_hello,
    reject_frame,
    server_session,
    welcome_frame,
)

RETRY_NS_MIN: Final = 20 * MS
RETRY_NS_MAX: Final = 1000 * MS
HELLO_REQUIRED: Final = "HELLO_REQUIRED"
"""Reject of a frame that belongs to no session, for example one of the server's predecessor."""

# On the hot path pyzmq's enumerations and exceptions cost more than the calls that they belong to:
# plain integers as flags, and a look before a second receive instead of the error of a vain one.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN: Final = int(zmq.POLLIN)
_ANSWER_MS_MAX: Final = 100
"""How long `LinkClient.receive_answer` does not see that the connection was lost."""


def _configure(socket: zmq.Socket[Any]) -> None:
    socket.linger = 0
    # Credit bounds what is under way; a high-water mark of ZeroMQ's would drop in silence.
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)


def _direct(socket: zmq.Socket[Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(send, recv) of a socket without the Python layer that pyzmq puts around the compiled one."""
    return BackendSocket.send.__get__(socket), BackendSocket.recv.__get__(socket)


class Peer:
    """A client that was welcomed. key: what `authorize` said of it."""

    __slots__ = ("identity", "key", "name", "session")

    def __init__(self, identity: bytes, key: Hashable, name: str, session: Session) -> None:
        self.identity = identity
        self.key = key
        self.name = name
        self.session = session


class LinkServer:
    """The ROUTER end: many clients, each with its session.

    Args:
        endpoint: ZeroMQ address to bind.
        window: messages that each client may have unacknowledged.
        authorize: gives the key of a client from its hello, or raises VcoprocError to refuse it.
            A second client with the key of a first one replaces it.
        on_open, on_close: told of each session's begin and end.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        *,
        name: str,
        epoch: int,
        window: int,
        authorize: Callable[[Hello], Hashable],
        on_open: Callable[[Peer], None],
        on_close: Callable[[Peer, str], None],
        keep_unacked: bool = False,
    ) -> None:
        self.socket = context.socket(zmq.ROUTER)
        _configure(self.socket)
        # Without it a ROUTER drops what it cannot deliver and tells nobody.
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.bind(endpoint)
        self._look = [(self.socket, _POLLIN)]
        self._send_part, self._recv_part = _direct(self.socket)
        self.garbage_count = 0
        self.dropped_count = 0
        self._name = name
        self._epoch = epoch
        self._window = window
        self._authorize = authorize
        self._on_open = on_open
        self._on_close = on_close
        self._keep = keep_unacked
        self._peers: dict[bytes, Peer] = {}
        self._by_key: dict[Hashable, Peer] = {}
        self._touched: dict[bytes, Peer] = {}

    def peer(self, key: Hashable) -> Peer | None:
        """The client of that key, if it is connected."""
        return self._by_key.get(key)

    def receive(self, limit: int = 64) -> list[tuple[Peer, int, Message]]:
        """What came in: (peer, sequence number, message), at most `limit` frames."""
        return list(self.incoming(limit))

    def incoming(self, limit: int = 64) -> Iterator[tuple[Peer, int, Message]]:
        """As `receive`, one by one: an answer can leave before the next message is looked for."""
        for count in range(limit):
            if count and not zmq_poll(self._look, 0):
                break
            try:
                identity = self._recv_part(_NOBLOCK)
            except zmq.Again:
                break
            part = self._recv_part(_NOBLOCK, False)
            peer = self._peers.get(identity)
            if part.more:
                while part.more:
                    part = self._recv_part(_NOBLOCK, False)
                self._refuse_garbage(identity, peer, RemoteProtocolError("not one frame"))
            elif peer is None:
                self._handshake(identity, part.bytes)
            else:
                message = self._take(peer, part.bytes)
                if message is not None:
                    yield peer, peer.session.accepted, message

    def _take(self, peer: Peer, frame: bytes) -> Message | None:
        try:
            message = peer.session.receive(frame)
        except PeerError as error:
            self._refuse_garbage(peer.identity, peer, error)
            return None
        self._touched[peer.identity] = peer
        if type(message) is Bye:
            self._close(peer, message.why)
            return None
        return message

    def _handshake(self, identity: bytes, frame: bytes) -> None:
        try:
            header, hello = read_hello(frame)
        except PeerError as error:
            self.garbage_count += 1
            # A well-formed message without a session comes from a client that has outlived the
            # server it knew; it is told to say hello. Everything else is garbage.
            known = isinstance(error, RemoteProtocolError) and error.why.endswith("before hello")
            self._reply(identity, reject_frame(
                HELLO_REQUIRED if known else error.reason, str(error), epoch=self._epoch
            ))  # fmt: skip
            return
        try:
            key = self._authorize(hello)
        except VcoprocError as error:
            self.dropped_count += 1
            self._reply(identity, reject_frame(error.reason, str(error), epoch=self._epoch))
            return
        if old := self._by_key.get(key):
            self._close(old, "replaced by a newer session")
        session = server_session(
            header, epoch=self._epoch, window=self._window, keep_unacked=self._keep
        )
        peer = Peer(identity, key, hello.name, session)
        if not self._reply(
            identity, welcome_frame(self._name, epoch=self._epoch, window=self._window)
        ):
            return
        self._peers[identity] = peer
        self._by_key[key] = peer
        self._on_open(peer)

    def _refuse_garbage(self, identity: bytes, peer: Peer | None, error: PeerError) -> None:
        self.garbage_count += 1
        if peer is not None:
            self.drop(peer, error)
        else:
            self._reply(identity, reject_frame(error.reason, str(error), epoch=self._epoch))

    def _reply(self, identity: bytes, frame: bytes) -> bool:
        try:
            self._send_part(identity, _NOBLOCK_MORE)
            self._send_part(frame, _NOBLOCK)
        except zmq.ZMQError:
            return False  # it has gone already
        return True

    def drop(self, peer: Peer, error: VcoprocError) -> None:
        """Ends a client's session and tells it why."""
        self.dropped_count += 1
        self._reply(peer.identity, reject_frame(error.reason, str(error), epoch=self._epoch))
        self._close(peer, str(error))

    def _close(self, peer: Peer, why: str) -> None:
        self._touched.pop(peer.identity, None)
        if self._peers.get(peer.identity) is peer:
            del self._peers[peer.identity]
        if self._by_key.get(peer.key) is peer:
            del self._by_key[peer.key]
        self._on_close(peer, why)

    def send(self, peer: Peer, message: Message) -> None:
        """Sends now or when the client gives credit. To a client that has gone: closes it."""
        if self._peers.get(peer.identity) is not peer:
            return
        try:
            frame = peer.session.send(message)
        except LimitExceeded as error:
            self.drop(peer, error)
            return
        if frame is not None and not self._reply(peer.identity, frame):
            self._close(peer, "gone")

    def flush(self) -> None:
        """Sends what credit allows now, and credit where it is due. Once a round."""
        if not self._touched:
            return
        touched, self._touched = self._touched, {}
        for peer in touched.values():
            for frame in peer.session.flush():
                if not self._reply(peer.identity, frame):
                    self._close(peer, "gone")
                    break

    def close(self) -> None:
        for peer in list(self._peers.values()):
            if peer.session.can_send():
                self._reply(peer.identity, peer.session.bye("stopping"))
        self.socket.close()


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
        _configure(self.socket)
        # Queue only to a live connection: what was meant for a dead server must not reach the next.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        self.socket.setsockopt(zmq.RCVTIMEO, _ANSWER_MS_MAX)
        self._monitor: zmq.Socket[Any] = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._monitor.linger = 0
        self._look = [(self.socket, _POLLIN), (self._monitor, _POLLIN)]
        self._send_frame, self._recv_frame = _direct(self.socket)
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
                frame = self._recv_frame(_NOBLOCK)
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
                frames = self._monitor.recv_multipart(_NOBLOCK)
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
            self._send_frame(frame, _NOBLOCK)
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
