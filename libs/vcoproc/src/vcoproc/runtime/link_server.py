"""Sessions over ZeroMQ sockets: the server's end of a hot link. See `vcoproc.runtime.link`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import zmq
from zmq.backend import zmq_poll

from vcoproc.errors import LimitExceeded, PeerError, RemoteProtocolError, VcoprocError
from vcoproc.runtime.link import (
    HELLO_REQUIRED,
    NOBLOCK,
    NOBLOCK_MORE,
    POLLIN,
    configure,
    direct_calls,
)
from vcoproc.wire.messages import Bye, Hello, Message
from vcoproc.wire.session import (
    Session,
    read_hello,
    reject_frame,
    server_session,
    welcome_frame,
)


class Peer:
    """A client that was welcomed. key: what `authorize` said of it.

    served: False: it gets no credit, so that it stops when it has used up what it has.
    """

    __slots__ = ("identity", "key", "name", "served", "session")

    def __init__(self, identity: bytes, key: Hashable, name: str, session: Session) -> None:
        self.identity = identity
        self.key = key
        self.name = name
        self.served = True
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
        configure(self.socket)
        # Without it a ROUTER drops what it cannot deliver and tells nobody.
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.bind(endpoint)
        self._look = [(self.socket, POLLIN)]
        self._send_part, self._recv_part = direct_calls(self.socket)
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
                identity = self._recv_part(NOBLOCK)
            except zmq.Again:
                break
            part = self._recv_part(NOBLOCK, False)
            peer = self._peers.get(identity)
            if part.more:
                while part.more:
                    part = self._recv_part(NOBLOCK, False)
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
            self._send_part(identity, NOBLOCK_MORE)
            self._send_part(frame, NOBLOCK)
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
        for identity, peer in touched.items():
            if not peer.served:
                self._touched[identity] = peer
                continue
            for frame in peer.session.flush():
                if not self._reply(peer.identity, frame):
                    self._close(peer, "gone")
                    break

    def close(self) -> None:
        for peer in list(self._peers.values()):
            if peer.session.can_send():
                self._reply(peer.identity, peer.session.bye("stopping"))
        self.socket.close()
