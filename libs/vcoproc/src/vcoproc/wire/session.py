"""A session: the state that both ends of a link keep, without any socket.

Theory of operation:
    The client says hello (version in the header, credential in the body), the server answers with
    welcome or reject. From then on each side numbers its messages 1, 2, 3, ..., acknowledges what
    it has accepted in the header of whatever it sends, and announces how many more it will take. A
    side that has used up its credit keeps messages in its own queue, so nothing is ever dropped by
    a socket's high-water mark.
Invariants:
    sent - acknowledged <= the credit that the peer announced. Received numbers have no gap.
Not handled:
    Retransmission inside a session: the transports used are reliable while they are connected.
    After a lost connection the client says hello again and the two sides exchange their whole
    state.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from vcoproc.errors import LimitExceeded, PeerRejected, RemoteProtocolError
from vcoproc.wire.codec import MINOR, Header, decode, encode, take_apart
from vcoproc.wire.messages import Bye, Credit, Hello, Message, Reject, Role, Welcome

_HANDSHAKE: Final = frozenset((Hello.TYPE, Welcome.TYPE, Reject.TYPE))
SEQ_MASK: Final = 0xFFFF_FFFF
"""Sequence numbers on the wire are modulo 2**32: at 100,000 messages a second that is 12 hours."""
BACKLOG_MAX: Final = 65_536
"""Messages waiting for credit on one session; then LimitExceeded to the sender."""


class Session:
    """One end of an open link.

    Args:
        epoch: our incarnation, 1 to 2**32-1.
        peer_epoch: the peer's, from its handshake.
        window: messages that we let the peer have unacknowledged, 1 to 65535.
        peer_credit: what the peer announced in its handshake.
        keep_unacked: keep sent messages until they are acknowledged, see `unacked`.
    """

    __slots__ = (
        "_accepted",
        "_acked_by_us",
        "_backlog",
        "_keep",
        "_peer_acked",
        "_peer_credit",
        "_sent",
        "_unacked",
        "epoch",
        "peer_epoch",
        "window",
    )

    def __init__(
        self,
        *,
        epoch: int,
        peer_epoch: int,
        window: int,
        peer_credit: int,
        keep_unacked: bool = False,
    ) -> None:
        self.epoch = epoch
        self.peer_epoch = peer_epoch
        self.window = window
        self._peer_credit = peer_credit
        self._peer_acked = 0
        self._sent = 0
        self._accepted = 0
        self._acked_by_us = 0
        self._backlog: deque[Message] = deque()
        self._keep = keep_unacked
        self._unacked: deque[tuple[int, Message]] = deque()

    @property
    def last_sent(self) -> int:
        """Sequence number of the newest message sent; 0 before the first."""
        return self._sent & SEQ_MASK

    @property
    def accepted(self) -> int:
        """Sequence number of the newest message received; 0 before the first."""
        return self._accepted & SEQ_MASK

    @property
    def peer_acked(self) -> int:
        """Highest of our sequence numbers that the peer has accepted."""
        return self._peer_acked & SEQ_MASK

    @property
    def backlog_count(self) -> int:
        return len(self._backlog)

    @property
    def room(self) -> int:
        """How many messages would leave at once."""
        if self._backlog:
            return 0
        return max(0, self._peer_credit - (self._sent - self._peer_acked))

    def can_send(self) -> bool:
        """Whether a message would leave at once."""
        return not self._backlog and self._sent - self._peer_acked < self._peer_credit

    def unacked(self) -> list[Message]:
        """Messages that the peer has not said it accepted, oldest first, the waiting ones included.

        For a session made with `keep_unacked`: what a new session must say again.
        """
        return [message for _seq, message in self._unacked] + list(self._backlog)

    def send(self, message: Message) -> bytes | None:
        """The frame to send now, or None: the message waits for credit.

        Raises:
            LimitExceeded: too many messages wait; the peer takes nothing.
        """
        if self._backlog or self._sent - self._peer_acked >= self._peer_credit:
            if len(self._backlog) >= BACKLOG_MAX:
                raise LimitExceeded("messages waiting for a peer", BACKLOG_MAX)
            self._backlog.append(message)
            return None
        return self._frame(message)

    def _frame(self, message: Message) -> bytes:
        self._sent += 1
        self._acked_by_us = self._accepted
        if self._keep:
            self._unacked.append((self._sent, message))
        return encode(
            message,
            credit=self.window,
            epoch=self.epoch,
            seq=self._sent & SEQ_MASK,
            ack=self._accepted & SEQ_MASK,
        )

    def receive(self, frame: bytes) -> Message | None:
        """The message in a frame, or None for a mere credit.

        Raises:
            RemoteProtocolError: invalid, out of sequence, beyond the credit, from another
                incarnation, or a handshake message.
            VersionMismatch: another wire format.
            PeerRejected: the peer has closed the session.
        """
        kind, credit, epoch, seq, ack, message = take_apart(frame)
        if kind in _HANDSHAKE:
            if isinstance(message, Reject):
                raise PeerRejected(message.error, message.detail)
            raise RemoteProtocolError(f"{type(message).__name__} inside a session")
        if epoch != self.peer_epoch:
            raise RemoteProtocolError(f"epoch {epoch}, session has {self.peer_epoch}")
        # Forward from what was acknowledged; a number that goes back comes out far too high.
        acked = self._peer_acked + ((ack - self._peer_acked) & SEQ_MASK)
        if acked > self._sent:
            raise RemoteProtocolError(
                f"acknowledges {ack}, sent {self.peer_acked} to {self.last_sent}"
            )
        self._peer_acked = acked
        self._peer_credit = credit
        if self._keep:
            unacked = self._unacked
            while unacked and unacked[0][0] <= acked:
                unacked.popleft()
        if kind == Credit.TYPE:
            return None
        count = self._accepted + 1
        if seq != count & SEQ_MASK:
            raise RemoteProtocolError(f"sequence {seq} after {self.accepted}")
        # A peer that has used up its credit may still close the session.
        if count - self._acked_by_us > self.window and kind != Bye.TYPE:
            raise RemoteProtocolError(f"more than {self.window} messages without credit")
        self._accepted = count
        return message

    def flush(self) -> list[bytes]:
        """Frames that can leave since credit came, and a credit message when one is due.

        To be called after each round of `receive`.
        """
        frames: list[bytes] = []
        while self._backlog and self._sent - self._peer_acked < self._peer_credit:
            frames.append(self._frame(self._backlog.popleft()))
        # A quarter of the window: seldom enough to cost nothing, early enough never to stall.
        if (self._accepted - self._acked_by_us) * 4 >= self.window:
            frames.append(self.credit())
        return frames

    def credit(self) -> bytes:
        """A frame that acknowledges everything accepted so far."""
        self._acked_by_us = self._accepted
        return encode(Credit(), credit=self.window, epoch=self.epoch, ack=self.accepted)

    def bye(self, why: str) -> bytes:
        """The frame that closes the session."""
        return self._frame(Bye(why))


def hello_frame(role: Role, credential: bytes, name: str, *, epoch: int, window: int) -> bytes:
    """The client's first frame. credential: at most 64 bytes. window: credit for the server."""
    return encode(Hello(role, credential, MINOR, 0, name), credit=window, epoch=epoch)


def read_hello(frame: bytes) -> tuple[Header, Hello]:
    """What a client says first.

    Raises:
        RemoteProtocolError: it says something else.
        VersionMismatch: another wire format.
    """
    header, message = decode(frame)
    if not isinstance(message, Hello):
        raise RemoteProtocolError(f"{type(message).__name__} before hello")
    if message.role not in (Role.DOMAIN, Role.COPROC):
        raise RemoteProtocolError(f"unknown role {message.role}")
    if header.epoch == 0 or header.credit == 0:
        raise RemoteProtocolError("hello without epoch or credit")
    return header, message


def welcome_frame(name: str, *, epoch: int, window: int) -> bytes:
    return encode(Welcome(MINOR, 0, name), credit=window, epoch=epoch)


def reject_frame(error: str, detail: str, *, epoch: int) -> bytes:
    """error: a stable reason of `vcoproc.errors`."""
    return encode(Reject(error[:64], detail[:256]), epoch=epoch)


def server_session(
    header: Header, *, epoch: int, window: int, keep_unacked: bool = False
) -> Session:
    """The server's end, after it decided to welcome the hello with this header."""
    return Session(
        epoch=epoch,
        peer_epoch=header.epoch,
        window=window,
        peer_credit=header.credit,
        keep_unacked=keep_unacked,
    )


def client_session(frame: bytes, *, epoch: int, window: int, keep_unacked: bool = False) -> Session:
    """The client's end, from the server's answer to hello.

    Raises:
        PeerRejected: the server refused.
        RemoteProtocolError: the answer is no handshake message, or has no epoch or credit.
        VersionMismatch: another wire format.
    """
    header, message = decode(frame)
    if isinstance(message, Reject):
        raise PeerRejected(message.error, message.detail)
    if not isinstance(message, Welcome):
        raise RemoteProtocolError(f"{type(message).__name__} instead of welcome")
    if header.epoch == 0 or header.credit == 0:
        raise RemoteProtocolError("welcome without epoch or credit")
    return Session(
        epoch=epoch,
        peer_epoch=header.epoch,
        window=window,
        peer_credit=header.credit,
        keep_unacked=keep_unacked,
    )
