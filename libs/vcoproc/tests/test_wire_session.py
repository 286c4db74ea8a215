"""Sessions: two real ones over a pipe that delivers whenever it likes, and one against a liar."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from vcoproc.errors import (
    LimitExceeded,
    PeerRejected,
    RemoteProtocolError,
    VersionMismatch,
)
from vcoproc.wire.codec import encode
from vcoproc.wire.messages import Bye, Credit, Eoi, Hello, Message, Reject, Role
from vcoproc.wire.session import (
    BACKLOG_MAX,
    Session,
    client_session,
    hello_frame,
    read_hello,
    reject_frame,
    server_session,
    welcome_frame,
)

CREDIT_TYPE = 0x04
CLIENT_EPOCH, SERVER_EPOCH = 7, 9


def shake_hands(
    client_window: int, server_window: int, *, keep_unacked: bool = False
) -> tuple[Session, Session]:
    """The client's and the server's end of a new session."""
    hello = hello_frame(Role.DOMAIN, b"secret", "dom1", epoch=CLIENT_EPOCH, window=client_window)
    header, _hello = read_hello(hello)
    server = server_session(
        header, epoch=SERVER_EPOCH, window=server_window, keep_unacked=keep_unacked
    )
    client = client_session(
        welcome_frame("srv", epoch=SERVER_EPOCH, window=server_window),
        epoch=CLIENT_EPOCH,
        window=client_window,
        keep_unacked=keep_unacked,
    )
    return client, server


class End:
    """A session, the pipe that leads away from it, and what the test knows of it by itself."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.pipe: deque[bytes] = deque()
        self.said: list[Message] = []
        self.heard: list[Message] = []
        self.left_count = 0
        """Numbered frames that went into the pipe."""
        self.acked_count = 0
        """How many of them the frames that came back acknowledge."""

    def put(self, frame: bytes) -> None:
        self.pipe.append(frame)
        self.left_count += frame[3] != CREDIT_TYPE

    def say(self) -> None:
        message = Eoi(len(self.said))
        self.said.append(message)
        frame = self.session.send(message)
        if frame is not None:
            self.put(frame)

    def take(self, frame: bytes) -> None:
        (ack,) = struct.unpack_from("<I", frame, 16)
        self.acked_count += (ack - self.acked_count) % 2**32
        message = self.session.receive(frame)
        if message is not None:
            self.heard.append(message)

    def flush(self) -> None:
        for frame in self.session.flush():
            self.put(frame)


class TwoSessions(RuleBasedStateMachine):
    @initialize(
        windows=st.tuples(st.integers(1, 6), st.integers(1, 6)),
        keep=st.booleans(),
        late=st.booleans(),
    )
    def open(self, windows: tuple[int, int], keep: bool, late: bool) -> None:
        client, server = shake_hands(*windows, keep_unacked=keep)
        self.keep = keep
        self.base = 2**32 - 5 if late else 0  # a session that has lived for hours
        if late:
            for session in (client, server):
                session._sent = session._peer_acked = self.base
                session._accepted = session._acked_by_us = self.base
        self.ends = (End(client), End(server))
        for end in self.ends:
            end.acked_count = end.left_count = self.base
        self.windows = (windows[1], windows[0])
        """What each end may have unacknowledged: the other one's window."""

    @rule(who=st.integers(0, 1), count=st.integers(1, 12))
    def say(self, who: int, count: int) -> None:
        for _ in range(count):
            self.ends[who].say()

    @rule(who=st.integers(0, 1), count=st.integers(1, 12))
    def deliver(self, who: int, count: int) -> None:
        pipe = self.ends[who].pipe
        for _ in range(min(count, len(pipe))):
            self.ends[1 - who].take(pipe.popleft())

    @rule(who=st.integers(0, 1))
    def flush(self, who: int) -> None:
        self.ends[who].flush()

    @invariant()
    def nothing_is_lost_doubled_reordered_or_beyond_credit(self) -> None:
        for who, end in enumerate(self.ends):
            heard = self.ends[1 - who].heard
            assert heard == end.said[: len(heard)]
            outstanding = end.left_count - end.acked_count
            assert 0 <= outstanding <= self.windows[who]
            waiting = len(end.said) - (end.left_count - self.base)
            assert end.session.backlog_count == waiting
            assert end.session.room == (0 if waiting else self.windows[who] - outstanding)
            assert end.session.can_send() == (end.session.room > 0)
            assert end.session.last_sent == end.left_count % 2**32
            assert end.session.peer_acked == end.acked_count % 2**32
            if self.keep:
                assert end.session.unacked() == end.said[end.acked_count - self.base :]

    def teardown(self) -> None:
        """However long it was held up, everything arrives once both sides are served."""
        for _ in range(4 * sum(len(end.said) for end in self.ends) + 4):
            for who in (0, 1):
                self.deliver(who, 1000)
                self.flush(who)
        for who, end in enumerate(self.ends):
            assert self.ends[1 - who].heard == end.said
            assert end.session.backlog_count == 0


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)


def test_credit_comes_before_the_sender_stalls_and_not_with_every_message() -> None:
    client, server = shake_hands(256, 256)
    credits = 0
    for number in range(10_000):
        frame = client.send(Eoi(number % 1000))
        assert frame is not None, "the sender stalls although it is being served"
        assert server.receive(frame) is not None
        for back in server.flush():
            credits += 1
            client.receive(back)
    assert credits == 10_000 // 64


def test_an_idle_session_sends_nothing() -> None:
    client, server = shake_hands(4, 4)
    frame = client.send(Eoi(1))
    assert frame is not None
    server.receive(frame)
    assert len(server.flush()) == 1
    assert server.flush() == [] and client.flush() == []


def test_two_idle_sessions_do_not_answer_each_others_credits_for_ever() -> None:
    client, server = shake_hands(1, 1)
    frame = client.send(Eoi(1))
    assert frame is not None
    server.receive(frame)
    (credit,) = server.flush()
    assert client.receive(credit) is None
    assert client.flush() == []


def test_a_peer_that_takes_nothing_is_given_up_at_a_bound() -> None:
    client, _server = shake_hands(4, 4)
    for number in range(BACKLOG_MAX + 4):
        client.send(Eoi(number))
    with pytest.raises(LimitExceeded):
        client.send(Eoi(0))
    assert client.backlog_count == BACKLOG_MAX


# --- a peer that lies -----------------------------------------------------------------------------


def from_client(message: Message, **header: int) -> bytes:
    return encode(message, **{"credit": 4, "epoch": CLIENT_EPOCH, **header})


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (from_client(Eoi(1), seq=2), "sequence 2 after 0"),
        (from_client(Eoi(1), seq=0), "sequence 0 after 0"),
        (from_client(Eoi(1), seq=2**32 - 1), "sequence"),
        (from_client(Eoi(1), seq=1, epoch=CLIENT_EPOCH + 1), "epoch 8"),
        (from_client(Eoi(1), seq=1, epoch=0), "epoch 0"),
        (from_client(Credit(), epoch=3), "epoch 3"),
        (from_client(Eoi(1), seq=1, ack=1), "acknowledges 1"),
        (from_client(Credit(), ack=1), "acknowledges 1"),
        (from_client(Credit(), ack=2**32 - 1), "acknowledges"),
        (hello_frame(Role.DOMAIN, b"", "x", epoch=CLIENT_EPOCH, window=4), "Hello inside"),
        (welcome_frame("x", epoch=CLIENT_EPOCH, window=4), "Welcome inside"),
    ],
)
def test_an_illegal_frame_is_refused(frame: bytes, words: str) -> None:
    _client, server = shake_hands(4, 4)
    with pytest.raises(RemoteProtocolError, match=words):
        server.receive(frame)


def test_a_duplicate_is_refused() -> None:
    client, server = shake_hands(4, 4)
    frame = client.send(Eoi(1))
    assert frame is not None
    server.receive(frame)
    with pytest.raises(RemoteProtocolError, match="sequence 1 after 1"):
        server.receive(frame)


def test_a_gap_is_refused() -> None:
    client, server = shake_hands(4, 4)
    client.send(Eoi(1))
    second = client.send(Eoi(2))
    assert second is not None
    with pytest.raises(RemoteProtocolError, match="sequence 2 after 0"):
        server.receive(second)


def test_an_acknowledgement_that_goes_back_is_refused() -> None:
    client, server = shake_hands(4, 4)
    for number in (1, 2):
        frame = server.send(Eoi(number))
        assert frame is not None
        client.receive(frame)
    server.receive(from_client(Credit(), ack=2))
    with pytest.raises(RemoteProtocolError, match="acknowledges 1"):
        server.receive(from_client(Credit(), ack=1))


def test_messages_beyond_the_credit_are_refused() -> None:
    _client, server = shake_hands(4, 3)
    for seq in (1, 2, 3):
        server.receive(from_client(Eoi(seq), seq=seq))
    with pytest.raises(RemoteProtocolError, match="more than 3 messages"):
        server.receive(from_client(Eoi(4), seq=4))


def test_the_last_words_need_no_credit() -> None:
    client, server = shake_hands(4, 1)
    first = client.send(Eoi(1))
    assert first is not None
    server.receive(first)
    assert server.receive(client.bye("stopping")) == Bye("stopping")


def test_a_reject_inside_a_session_ends_it_with_the_peers_reason() -> None:
    client, _server = shake_hands(4, 4)
    with pytest.raises(PeerRejected) as caught:
        client.receive(reject_frame("QUEUE_FULL", "too much", epoch=SERVER_EPOCH))
    assert (caught.value.their_reason, caught.value.detail) == ("QUEUE_FULL", "too much")


def test_credit_may_be_taken_away_and_is_then_respected() -> None:
    client, _server = shake_hands(4, 4)
    client.receive(encode(Credit(), epoch=SERVER_EPOCH, credit=0))
    assert client.send(Eoi(1)) is None
    client.receive(encode(Credit(), epoch=SERVER_EPOCH, credit=1))
    assert len(client.flush()) == 1


# --- handshakes -----------------------------------------------------------------------------------


def hello(role: int = Role.COPROC, *, epoch: int = 1, window: int = 1) -> bytes:
    return encode(Hello(role, b"", 0, 0, "x"), credit=window, epoch=epoch)


@pytest.mark.parametrize(
    "frame",
    [
        hello(role=0),
        hello(role=3),
        hello(epoch=0),
        hello(window=0),
        welcome_frame("x", epoch=1, window=1),
        encode(Reject("X", "")),
        encode(Eoi(1), credit=1, epoch=1, seq=1),
        encode(Credit(), credit=1, epoch=1),
        b"",
    ],
)
def test_a_client_must_begin_with_a_valid_hello(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read_hello(frame)


def test_a_hello_says_who_and_with_how_much_credit() -> None:
    header, said = read_hello(hello_frame(Role.COPROC, b"key", "dsp0", epoch=5, window=64))
    assert (header.epoch, header.credit, header.seq, header.ack) == (5, 64, 0, 0)
    assert (said.role, said.credential, said.name) == (Role.COPROC, b"key", "dsp0")


@pytest.mark.parametrize(
    "frame",
    [
        welcome_frame("x", epoch=0, window=1),
        welcome_frame("x", epoch=1, window=0),
        hello(),
        encode(Eoi(1), credit=1, epoch=1, seq=1),
        encode(Credit(), credit=1, epoch=1),
    ],
)
def test_a_server_must_answer_with_a_valid_welcome(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        client_session(frame, epoch=1, window=1)


def test_a_refused_hello_tells_why() -> None:
    with pytest.raises(PeerRejected) as caught:
        client_session(reject_frame("BAD_CREDENTIAL", "no", epoch=1), epoch=1, window=1)
    assert caught.value.their_reason == "BAD_CREDENTIAL"


@pytest.mark.parametrize("detail", ["x" * 10_000, "\u00e4" * 10_000, "\U0001f600" * 10_000])
def test_a_long_reason_is_cut_so_that_the_client_can_read_it(detail: str) -> None:
    with pytest.raises(PeerRejected) as caught:
        client_session(reject_frame("X" * 200, detail, epoch=1), epoch=1, window=1)
    assert detail.startswith(caught.value.detail) and caught.value.detail


@pytest.mark.parametrize(
    "read", [read_hello, lambda frame: client_session(frame, epoch=1, window=1)]
)
def test_another_version_is_named_in_the_handshake(read: object) -> None:
    frame = bytearray(welcome_frame("x", epoch=1, window=1))
    frame[2] += 1
    assert callable(read)
    with pytest.raises(VersionMismatch):
        read(bytes(frame))


def test_the_welcome_says_how_much_the_server_takes() -> None:
    session = client_session(welcome_frame("srv", epoch=9, window=33), epoch=7, window=5)
    assert (session.peer_epoch, session.room) == (9, 33)
