"""Links over real sockets: what becomes of sessions when peers lie, leave, return or are slow."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from vcoproc.errors import BadCredential, PeerRejected
from vcoproc.limits import FRAME_BYTES_MAX
from vcoproc.runtime.link import (
    HELLO_REQUIRED,
    LinkClient,
    LinkDown,
    LinkEvent,
    LinkUp,
    Received,
)
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.wire import session as session_module
from vcoproc.wire.codec import decode, encode
from vcoproc.wire.messages import Eoi, Hello, Message, Reject, Role, Welcome
from vcoproc.wire.session import Session, client_session, hello_frame

PATIENCE_S = 20
"""Upper bound of every wait; nothing here waits for time to pass."""
SECRET = b"the secret"


class Server:
    """A server that knows one secret and takes a client's name as its key."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, *, epoch: int, window: int
    ) -> None:
        self.opened: list[Peer] = []
        self.closed: list[tuple[Peer, str]] = []
        self.got: list[tuple[str, Message]] = []
        self.secret = SECRET
        self.link = LinkServer(
            context, endpoint, name="server", epoch=epoch, window=window,
            authorize=self.authorize, on_open=self.opened.append,
            on_close=lambda peer, why: self.closed.append((peer, why)),
        )  # fmt: skip

    def authorize(self, hello: Hello) -> Hashable:
        if hello.credential != self.secret:
            raise BadCredential(hello.name)
        return hello.name

    @property
    def sockets(self) -> tuple[zmq.Socket[Any], ...]:
        return (self.link.socket,)

    def round(self) -> None:
        for peer, _seq, message in self.link.receive():
            self.got.append((peer.name, message))
        self.link.flush()

    def heard_from(self, name: str) -> list[Message]:
        return [message for who, message in self.got if who == name]


class Client:
    def __init__(self, link: LinkClient) -> None:
        self.link = link
        self.events: list[LinkEvent] = []

    @property
    def sockets(self) -> tuple[zmq.Socket[Any], ...]:
        return self.link.sockets

    def round(self) -> None:
        self.events += self.link.receive()
        self.link.flush()

    def all(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def is_up(self) -> bool:
        return self.link.session is not None

    @property
    def heard(self) -> list[Message]:
        return [event.message for event in self.all(Received)]


class Bench:
    def __init__(self, context: zmq.Context[Any], folder: Path) -> None:
        self.context = context
        self.path = folder / "link.sock"
        self.endpoint = f"ipc://{self.path}"
        self.ends: list[Server | Client] = []
        self.raw_sockets: list[zmq.Socket[Any]] = []

    def server(self, *, epoch: int = 9, window: int = 64) -> Server:
        server = Server(self.context, self.endpoint, epoch=epoch, window=window)
        self.ends.append(server)
        return server

    def client(
        self, name: str = "alice", *, epoch: int = 7, window: int = 64, keep_unacked: bool = False,
        credential: bytes = SECRET,
    ) -> Client:  # fmt: skip
        client = Client(
            LinkClient(
                self.context, self.endpoint, role=Role.DOMAIN, credential=credential, name=name,
                epoch=epoch, window=window, keep_unacked=keep_unacked,
            )
        )  # fmt: skip
        self.ends.append(client)
        return client

    def raw(self) -> zmq.Socket[Any]:
        """A client that says whatever the test wants."""
        raw: zmq.Socket[Any] = self.context.socket(zmq.DEALER)
        raw.linger = 0
        raw.connect(self.endpoint)
        self.raw_sockets.append(raw)
        return raw

    def answer(self, raw: zmq.Socket[Any]) -> bytes:
        frame: list[bytes] = []

        def came() -> bool:
            if raw.poll(0):
                frame.append(raw.recv())
            return bool(frame)

        self.until(came, raw)
        return frame[0]

    def raw_session(self, name: str) -> tuple[zmq.Socket[Any], Session]:
        raw = self.raw()
        raw.send(hello_frame(Role.DOMAIN, SECRET, name, epoch=5, window=8))
        return raw, client_session(self.answer(raw), epoch=5, window=8)

    def end(self, one: Server | Client) -> None:
        """Without a word, as if the process had been killed."""
        self.ends.remove(one)
        one.link.socket.close()
        if isinstance(one, Client):
            one.link._monitor.close()

    def until(self, done: Callable[[], bool], *more: zmq.Socket[Any]) -> None:
        """Serves everybody until it is so."""
        deadline_ns = time.monotonic_ns() + PATIENCE_S * 10**9
        while not done():
            assert time.monotonic_ns() < deadline_ns, "it never came to that"
            sockets = [each for end in self.ends for each in end.sockets]
            zmq.select([*sockets, *more], [], [], 0.01)
            for end in self.ends:
                end.round()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    context: zmq.Context[Any] = zmq.Context()
    bench = Bench(context, tmp_path)
    yield bench
    for end in bench.ends:
        end.link.close()
    for raw in bench.raw_sockets:
        raw.close()
    context.term()


def say(client: Client, first: int, count: int) -> list[Message]:
    said: list[Message] = [Eoi(number) for number in range(first, first + count)]
    for message in said:
        assert client.link.send(message)
    return said


# --- sessions begin and end -----------------------------------------------------------------------


def test_a_client_may_start_long_before_its_server(bench: Bench) -> None:
    client = bench.client()
    assert not client.link.send(Eoi(1)), "down: not sent, and the caller knows"
    server = bench.server()
    bench.until(lambda: client.is_up)
    assert [(peer.key, peer.name) for peer in server.opened] == [("alice", "alice")]
    assert client.all(LinkUp) == [LinkUp([])]


def test_a_server_that_says_bye_is_found_again_when_it_is_back(bench: Bench) -> None:
    client, server = bench.client(), bench.server()
    bench.until(lambda: client.is_up)
    bench.ends.remove(server)
    server.link.close()
    bench.until(lambda: not client.is_up)
    bench.server(epoch=10)
    bench.until(lambda: client.is_up)


def test_a_client_that_says_bye_is_closed_with_its_reason(bench: Bench) -> None:
    client, server = bench.client(), bench.server()
    bench.until(lambda: client.is_up)
    bench.ends.remove(client)
    client.link.close()
    bench.until(lambda: bool(server.closed))
    assert server.closed == [(server.opened[0], "stopping")]


def test_after_every_restart_of_the_server_the_client_comes_back(bench: Bench) -> None:
    client = bench.client()
    for epoch in range(1, 13):
        server = bench.server(epoch=epoch)
        bench.until(lambda: client.is_up)
        said = say(client, epoch, 3)
        bench.until(lambda server=server, said=said: server.heard_from("alice") == said)  # type: ignore[misc]
        bench.end(server)
        bench.until(lambda: not client.is_up)


def test_what_a_dead_server_had_not_acknowledged_is_handed_back(bench: Bench) -> None:
    client, server = bench.client(keep_unacked=True), bench.server(window=8)
    bench.until(lambda: client.is_up)
    said = say(client, 0, 20)  # 8 leave, 12 wait for credit
    bench.end(server)  # it has taken none of them
    bench.until(lambda: not client.is_up)
    new = bench.server(epoch=10)
    bench.until(lambda: client.is_up)
    assert client.all(LinkUp)[1] == LinkUp(said)
    for message in client.all(LinkUp)[1].unacked:
        client.link.send(message)
    bench.until(lambda: len(new.got) == 20)
    assert new.heard_from("alice") == said


def test_what_was_acknowledged_is_not_handed_back(bench: Bench) -> None:
    client, server = bench.client(keep_unacked=True), bench.server(window=4)
    bench.until(lambda: client.is_up)
    say(client, 0, 4)
    bench.until(lambda: client.link.session is not None and client.link.session.peer_acked == 4)
    bench.end(server)
    bench.until(lambda: not client.is_up)
    bench.server(epoch=10)
    bench.until(lambda: client.is_up)
    assert client.all(LinkUp)[1] == LinkUp([])


def test_a_second_client_of_the_same_key_replaces_the_first(bench: Bench) -> None:
    server = bench.server()
    bench.raw_session("alice")
    first = server.opened[0]
    second = bench.client("alice", epoch=8)
    bench.until(lambda: second.is_up)
    assert server.closed == [(first, "replaced by a newer session")]
    assert server.link.peer("alice") is server.opened[1]


# --- refusals -------------------------------------------------------------------------------------


def test_a_wrong_credential_is_refused_with_the_reason_and_may_be_tried_again(bench: Bench) -> None:
    server, client = bench.server(), bench.client()
    server.secret = b"another one"
    bench.until(lambda: len(client.all(LinkDown)) >= 2)
    error = client.all(LinkDown)[0].error
    assert isinstance(error, PeerRejected) and error.their_reason == BadCredential.reason
    assert not server.opened and server.link.dropped_count >= 2
    server.secret = SECRET
    bench.until(lambda: client.is_up)


def test_another_version_is_told_so(bench: Bench) -> None:
    bench.server()
    raw = bench.raw()
    frame = bytearray(hello_frame(Role.DOMAIN, SECRET, "old", epoch=5, window=8))
    frame[2] += 1  # the major version
    raw.send(bytes(frame))
    _header, answer = decode(bench.answer(raw))
    assert isinstance(answer, Reject) and answer.error == "VERSION_MISMATCH"


def test_a_message_without_a_session_is_asked_for_hello(bench: Bench) -> None:
    bench.server()
    raw = bench.raw()
    raw.send(encode(Eoi(1), credit=1, epoch=5, seq=1))
    _header, answer = decode(bench.answer(raw))
    assert isinstance(answer, Reject) and answer.error == HELLO_REQUIRED
    raw.send(hello_frame(Role.DOMAIN, SECRET, "late", epoch=5, window=8))
    assert isinstance(decode(bench.answer(raw))[1], Welcome)


GARBAGE = {
    "empty": [b""],
    "noise": [b"\xff" * 100],
    "several parts": [b"", b"x"],
    "a frame and more": [hello_frame(Role.DOMAIN, SECRET, "x", epoch=5, window=8), b"x"],
    "handshake inside": [hello_frame(Role.DOMAIN, SECRET, "x", epoch=5, window=8)],
    "a gap": [encode(Eoi(1), credit=8, epoch=5, seq=2)],
}


@pytest.mark.parametrize("parts", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_drops_its_sender_and_nobody_else(bench: Bench, parts: list[bytes]) -> None:
    server, good = bench.server(), bench.client("good")
    bench.until(lambda: good.is_up)
    bad, _session = bench.raw_session("bad")
    said = say(good, 0, 5)
    bad.send_multipart(parts)
    said += say(good, 5, 5)
    bench.until(lambda: server.link.peer("bad") is None and len(server.got) == 10)
    assert server.heard_from("good") == said and good.is_up
    assert (server.link.garbage_count, server.link.dropped_count) == (1, 1)
    assert [peer.name for peer, _why in server.closed] == ["bad"]
    assert isinstance(decode(bench.answer(bad))[1], Reject), "it is told"


@pytest.mark.parametrize("parts", [[b""], [b"noise"], [b"a", b"b"], [b"VC"]])
def test_garbage_of_a_stranger_is_counted_and_answered(bench: Bench, parts: list[bytes]) -> None:
    server = bench.server()
    raw = bench.raw()
    raw.send_multipart(parts)
    assert isinstance(decode(bench.answer(raw))[1], Reject)
    assert server.link.garbage_count == 1 and not server.opened and not server.closed


def test_a_frame_too_long_to_be_taken_hurts_its_sender_only(bench: Bench) -> None:
    server, good = bench.server(), bench.client("good")
    bench.until(lambda: good.is_up)
    bad, _session = bench.raw_session("bad")
    bad.send(b"x" * (FRAME_BYTES_MAX + 1))
    said = say(good, 0, 20)
    bench.until(lambda: server.heard_from("good") == said)
    assert good.is_up


def test_something_that_does_not_even_speak_zeromq_hurts_nobody(bench: Bench) -> None:
    server, good = bench.server(), bench.client("good")
    bench.until(lambda: good.is_up)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(bench.path))
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        said = say(good, 0, 20)
        bench.until(lambda: server.heard_from("good") == said)
    assert good.is_up


# --- traffic --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_messages_through_a_small_window_arrive_in_order(bench: Bench) -> None:
    server, client = bench.server(window=8), bench.client(window=8)
    bench.until(lambda: client.is_up)
    said = say(client, 0, 10_000)
    assert server.opened
    for message in said:
        server.link.send(server.opened[0], message)
    bench.until(lambda: len(server.got) + len(client.heard) == 20_000)
    assert server.heard_from("alice") == said
    assert client.heard == said
    assert server.link.garbage_count == 0 and not server.closed


def test_a_client_gone_mid_stream_is_noticed_and_the_others_go_on(bench: Bench) -> None:
    server, other = bench.server(), bench.client("other")
    gone = bench.client("gone")
    bench.until(lambda: gone.is_up and other.is_up)
    peers = {peer.name: peer for peer in server.opened}
    bench.end(gone)

    def noticed() -> bool:
        server.link.send(peers["gone"], Eoi(1))
        return bool(server.closed)

    bench.until(noticed)
    assert server.closed == [(peers["gone"], "gone")]
    server.link.send(peers["gone"], Eoi(2))  # to whom it was: does nothing
    server.link.send(peers["other"], Eoi(3))
    bench.until(lambda: other.heard == [Eoi(3)])


def test_a_client_that_takes_nothing_is_dropped_at_a_bound(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "BACKLOG_MAX", 50)
    server, other = bench.server(), bench.client("other")
    bench.until(lambda: other.is_up)
    bench.raw_session("stuck")  # with a window of 8; never says anything again
    stuck = server.link.peer("stuck")
    assert stuck is not None
    for number in range(58):
        server.link.send(stuck, Eoi(number))
    assert not server.closed
    server.link.send(stuck, Eoi(58))
    assert [peer.name for peer, _why in server.closed] == ["stuck"]
    said = say(other, 0, 5)
    bench.until(lambda: server.heard_from("other") == said)


def test_a_server_that_takes_nothing_is_greeted_anew_at_a_bound(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to end the process of the client."""
    server, client = bench.server(window=4), bench.client()
    bench.until(lambda: client.is_up)
    monkeypatch.setattr(session_module, "BACKLOG_MAX", 10)
    taken = [client.link.send(Eoi(number)) for number in range(20)]
    assert taken[:14] == [True] * 14  # four under way and ten waiting
    assert not any(taken[14:])
    monkeypatch.undo()
    bench.until(lambda: client.is_up and len(server.opened) == 2)
    assert client.link.send(Eoi(99))
    bench.until(lambda: Eoi(99) in server.heard_from("alice"))
    assert "waiting for a peer" in str(client.all(LinkDown)[0].error)


def test_a_dropped_client_says_hello_again_and_goes_on(bench: Bench) -> None:
    server, client = bench.server(), bench.client()
    bench.until(lambda: client.is_up)
    server.link.drop(server.opened[0], BadCredential("alice"))
    bench.until(lambda: len(client.all(LinkUp)) == 2)
    (down,) = client.all(LinkDown)
    assert isinstance(down.error, PeerRejected)
    assert down.error.their_reason == BadCredential.reason
    said = say(client, 0, 5)
    bench.until(lambda: server.heard_from("alice") == said)


def test_messages_to_a_client_stay_between_its_end_and_its_return(bench: Bench) -> None:
    """What was meant for the old session never reaches the new one."""
    server, client = bench.server(), bench.client()
    bench.until(lambda: client.is_up)
    server.link.send(server.opened[0], Eoi(1))
    server.link.drop(server.opened[0], BadCredential("alice"))
    server.link.send(server.opened[0], Eoi(2))
    bench.until(lambda: len(client.all(LinkUp)) == 2)
    server.link.send(server.opened[1], Eoi(3))
    bench.until(lambda: Eoi(3) in client.heard)
    assert client.heard == [Eoi(1), Eoi(3)]
