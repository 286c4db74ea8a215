"""The driver's end of the trap link: each request is done once, wherever the vcoproc goes."""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zmq

from vcoproc.errors import (
    DomainGone,
    PeerLost,
    PeerRejected,
    QueueFull,
    VcoprocError,
    VcoprocGone,
    VcoprocMoved,
)
from vcoproc.guest.trap_link import Place, TrapLink, TrapRefused
from vcoproc.limits import TRAP_CREDIT
from vcoproc.runtime.grpc_kit import RemoteUnavailable
from vcoproc.runtime.link_server import LinkServer, Peer
from vcoproc.wire.messages import (
    Batch,
    Hello,
    Message,
    Moved,
    Post,
    Read,
    Reply,
    TrapError,
    Write,
)

PATIENCE_S = 20
SECRET = b"the driver's secret"
HOLD = 0x40
"""Accesses to this register wait while the coproc holds."""
REFUSED = 0x44


def post(value: int, offset: int = 0) -> Post:
    return Post(0, offset, 4, value)


class Request:
    def __init__(self, peer: Peer, seq: int, message: Message) -> None:
        self.peer = peer
        self.seq = seq
        self.message = message
        self.position = 0
        self.values: list[int] = []


class Coproc:
    """A coproc-sim as its driver sees it, in a thread.

    done: every access that was done, in order. holding: accesses to HOLD wait, and all behind them.
    frozen: all wait, and the driver gets no credit.
    """

    def __init__(self, context: zmq.Context[Any], path: Path, done: list[tuple[Any, ...]]) -> None:
        self.endpoint = f"ipc://{path}"
        self.done = done
        self.holding = False
        self.frozen = False
        self.taken = 0
        self.link = LinkServer(
            context, self.endpoint, name="dsp", epoch=9, window=TRAP_CREDIT,
            authorize=self._authorize, on_open=self._came, on_close=lambda _peer, _why: None,
        )  # fmt: skip
        self._knows = True
        self._held: deque[Request] = deque()
        self._orders: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = (
            queue.SimpleQueue()
        )
        self._stopping = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def place(self) -> Place:
        return Place(self.endpoint, SECRET)

    def _authorize(self, hello: Hello) -> str:
        if not self._knows or hello.credential != SECRET:
            raise PeerRejected("UNAUTHENTICATED", "nobody's")
        return "v"

    def _came(self, peer: Peer) -> None:
        peer.served = not self.frozen

    # --- orders from the test ---------------------------------------------------------------------

    def do(self, order: Callable[[], None]) -> None:
        """In the thread; returns when it is done."""
        finished = threading.Event()
        self._orders.put((order, finished))
        assert finished.wait(PATIENCE_S)

    def hold(self, *, frozen: bool = False) -> None:
        def order() -> None:
            self.holding, self.frozen = True, frozen
            peer = self.link.peer("v")
            if peer is not None:
                peer.served = not frozen

        self.do(order)

    def leave(self, error: VcoprocError | None = None, *, farewell: bool = True) -> None:
        """The vcoproc goes elsewhere, or is gone."""

        def order() -> None:
            self._knows = False
            peer = self.link.peer("v")
            if peer is None:
                return
            if farewell:
                self.link.send(peer, self._farewell(peer))
            self.link.drop(peer, error or VcoprocMoved("v"))

        self.do(order)

    def _farewell(self, peer: Peer) -> Moved:
        for request in self._held:
            if request.peer is peer:
                return Moved(request.seq - 1, request.position, tuple(request.values))
        return Moved(peer.session.accepted, 0, ())

    def until_taken(self, count: int) -> None:
        """Until it has taken so many requests."""
        for _ in range(PATIENCE_S * 1000):
            if self.taken >= count:
                return
            self.do(lambda: None)
        pytest.fail("they never came")

    def close(self) -> None:
        self._stopping = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self.link.close()

    # --- its thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self.link.socket.poll(1)
            for peer, seq, message in self.link.receive():
                self._held.append(Request(peer, seq, message))
                self.taken += 1
            while self._held and self._advance(self._held[0]):
                self._held.popleft()
            self.link.flush()
            while not self._orders.empty():
                order, finished = self._orders.get()
                order()
                finished.set()

    def _advance(self, request: Request) -> bool:
        """Does its accesses; False: it waits."""
        if self.frozen:
            return False
        match request.message:
            case Read(_place, offset, _width):
                accesses = ((False, 0, offset, 4, 0),)
            case Write(_place, offset, _width, value) | Post(_place, offset, _width, value):
                accesses = ((True, 0, offset, 4, value),)
            case Batch():
                accesses = request.message.accesses  # type: ignore[assignment]
        for is_write, _place, offset, _width, value in accesses[request.position :]:
            if offset == HOLD and self.holding:
                return False
            if offset == REFUSED:
                error = TrapError(request.seq, request.position, "REGISTER_DENIED", "no")
                self.link.send(request.peer, error)
                return True
            self.done.append(("write", offset, value) if is_write else ("read", offset))
            request.position += 1
            if not is_write:
                request.values.append(len(self.done))
        if not isinstance(request.message, Post):
            self.link.send(request.peer, Reply(request.seq, tuple(request.values)))
        return True


class World:
    """Coprocs one after the other; the toolstack's word is `place`."""

    def __init__(self, folder: Path) -> None:
        self.context: zmq.Context[Any] = zmq.Context.instance()
        self.folder = folder
        self.done: list[tuple[Any, ...]] = []
        self.coprocs: list[Coproc] = []
        self.looks = 0
        self.unavailable = 0
        self.gone: VcoprocError | None = None
        self.place = self.coproc().place
        self.link = TrapLink("v", self.place, self.find, epoch=7)

    @property
    def here(self) -> Coproc:
        return self.coprocs[-1]

    def coproc(self) -> Coproc:
        path = self.folder / f"{len(self.coprocs)}.sock"
        self.coprocs.append(Coproc(self.context, path, self.done))
        return self.coprocs[-1]

    def find(self, _timeout_ns: int) -> Place:
        self.looks += 1
        if self.unavailable:
            self.unavailable -= 1
            raise RemoteUnavailable("not now")
        if self.gone is not None:
            raise self.gone
        return self.place

    def move(self, **how: Any) -> None:
        """To a new coproc, as the toolstack does it."""
        old = self.here
        self.place = self.coproc().place
        old.leave(**how)

    def in_background(self, work: Callable[[], Any]) -> Background:
        return Background(work)

    def close(self) -> None:
        self.link.close()
        for coproc in self.coprocs:
            coproc.close()


class Background:
    """A call of the driver that blocks."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._answer = self._work()
        except BaseException as error:
            self._error = error

    def answer(self) -> Any:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "it never returned"
        if self._error is not None:
            raise self._error
        return self._answer


@pytest.fixture
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="trap-") as folder:
        world = World(Path(folder))
        yield world
        world.close()


def test_what_waits_is_answered_where_the_vcoproc_is_then(world: World) -> None:
    world.link.call(Read(0, 0, 4))
    world.here.hold()
    call = world.in_background(lambda: world.link.call(Read(0, HOLD, 4)))
    world.here.until_taken(2)
    world.move()
    assert call.answer() == (2,)
    assert world.done == [("read", 0), ("read", HOLD)]
    assert world.looks == 1


def test_posted_writes_are_done_once_and_in_order(world: World) -> None:
    for value in range(5):
        world.link.post(post(value))
    world.here.until_taken(5)
    world.here.hold()
    for value in range(5, 10):
        world.link.post(post(value, HOLD))
    world.here.until_taken(10)
    call = world.in_background(lambda: world.link.call(Write(0, 4, 4, 99)))
    world.here.until_taken(11)
    world.move()
    assert call.answer() == ()
    assert world.done == [
        *(("write", 0, value) for value in range(5)),
        *(("write", HOLD, value) for value in range(5, 10)),
        ("write", 4, 99),
    ]


def test_of_a_batch_that_is_half_done_only_the_rest_is_done_elsewhere(world: World) -> None:
    world.link.post(post(1))
    world.here.hold()
    accesses = (
        (True, 0, 8, 4, 5), (False, 0, 12, 4, 0), (False, 0, HOLD, 4, 0), (True, 0, 8, 4, 6),
    )  # fmt: skip
    call = world.in_background(lambda: world.link.call(Batch(accesses)))
    world.here.until_taken(2)
    world.move()
    assert call.answer() == (3, 4)
    assert world.done == [
        ("write", 0, 1), ("write", 8, 5), ("read", 12), ("read", HOLD), ("write", 8, 6),
    ]  # fmt: skip


def test_an_error_in_the_rest_of_a_batch_says_which_access_it_was(world: World) -> None:
    world.here.hold()
    accesses = ((False, 0, 0, 4, 0), (False, 0, HOLD, 4, 0), (False, 0, REFUSED, 4, 0))
    call = world.in_background(lambda: world.link.call(Batch(accesses)))
    world.here.until_taken(1)
    world.move()
    with pytest.raises(TrapRefused) as caught:
        call.answer()
    assert (caught.value.reason, caught.value.index) == ("REGISTER_DENIED", 2)


def test_a_driver_that_does_nothing_meanwhile_notices_nothing(world: World) -> None:
    world.link.call(Read(0, 0, 4))
    world.move()
    assert world.link.call(Read(0, 4, 4)) == (2,)
    world.move()
    world.link.post(post(3))
    assert world.link.call(Read(0, 8, 4)) == (4,)


def test_a_write_that_was_posted_too_late_is_said_again_while_something_else_is_waited_for(
    world: World,
) -> None:
    world.link.call(Read(0, 0, 4))
    assert not world.link.unsure
    world.move()
    world.link.post(post(1))
    assert world.link.unsure
    for _ in range(PATIENCE_S * 100):
        poller = zmq.Poller()
        for source in world.link.sockets:
            poller.register(source, zmq.POLLIN)
        poller.poll(10)
        world.link.serve()
        if world.done[-1] == ("write", 0, 1):
            break
    assert world.done == [("read", 0), ("write", 0, 1)]


def test_it_waits_where_nothing_is_done_any_more_and_goes_on_elsewhere(world: World) -> None:
    """It has credit for 256, and posts more: the others wait here until the vcoproc has moved."""
    world.link.call(Read(0, 0, 4))
    world.here.hold(frozen=True)

    def work() -> tuple[int, ...]:
        for value in range(2 * TRAP_CREDIT):
            world.link.post(post(value))
        return world.link.call(Read(0, 4, 4))

    call = world.in_background(work)
    world.here.until_taken(TRAP_CREDIT)
    world.move()
    assert call.answer() == (2 * TRAP_CREDIT + 2,)
    writes = [("write", 0, value) for value in range(2 * TRAP_CREDIT)]
    assert world.done == [("read", 0), *writes, ("read", 4)]


def test_it_moves_again_before_it_has_arrived(world: World) -> None:
    world.here.hold()
    for value in range(3):
        world.link.post(post(value, HOLD))
    call = world.in_background(lambda: world.link.call(Read(0, 0, 4)))
    world.here.until_taken(4)
    for _ in range(3):
        old = world.here
        new = world.coproc()
        new.hold()
        world.place = new.place
        old.leave()
        new.until_taken(4)
    world.move()
    assert call.answer() == (4,)
    assert world.done == [*(("write", HOLD, value) for value in range(3)), ("read", 0)]


def test_without_a_farewell_nobody_knows_what_was_done(world: World) -> None:
    world.here.hold()
    call = world.in_background(lambda: world.link.call(Read(0, HOLD, 4)))
    world.here.until_taken(1)
    world.move(farewell=False)
    with pytest.raises(PeerLost):
        call.answer()
    assert world.link.call(Read(0, 4, 4)) == (1,)


def test_it_is_looked_for_when_its_coproc_has_gone_without_a_word(world: World) -> None:
    world.link.call(Read(0, 0, 4))
    old = world.here
    world.place = world.coproc().place
    old.close()
    with pytest.raises(PeerLost):
        world.link.call(Read(0, 4, 4))
    assert world.link.call(Read(0, 8, 4)) == (2,)
    world.coprocs.remove(old)


def test_a_toolstack_that_does_not_answer_is_asked_again(world: World) -> None:
    world.link.call(Read(0, 0, 4))
    world.unavailable = 1
    world.move()
    assert world.link.call(Read(0, 4, 4)) == (2,)
    assert world.looks == 2


def test_one_that_is_refused_out_of_turn_is_not_said_again(world: World) -> None:
    world.here.hold()
    world.link.post(post(0, HOLD))
    world.link.post(post(1, HOLD))
    world.here.until_taken(2)

    def refuse() -> None:
        request = world.here._held.pop()
        error = TrapError(request.seq, 0, QueueFull.reason, "full")
        world.here.link.send(request.peer, error)

    world.here.do(refuse)
    call = world.in_background(lambda: world.link.call(Read(0, 0, 4)))
    world.here.until_taken(3)
    world.move()
    with pytest.raises(TrapRefused, match="full"):
        call.answer()
    assert world.done == [("write", HOLD, 0), ("read", 0)]


@pytest.mark.parametrize("known", [False, True])
def test_one_that_is_gone_is_gone_for_good(world: World, known: bool) -> None:
    world.link.call(Read(0, 0, 4))
    if known:
        world.gone = DomainGone("fir", "it was destroyed")
    world.link.post(post(1))
    world.here.until_taken(2)
    world.here.leave(VcoprocGone("v", "it was detached"), farewell=False)
    for _ in range(2):
        with pytest.raises(DomainGone if known else VcoprocGone):
            world.link.call(Read(0, 4, 4))
    with pytest.raises(DomainGone if known else VcoprocGone):
        world.link.post(post(1))
    assert not world.link.unsure, "nobody waits for what is never done"


def test_one_that_is_not_let_in_asks_whether_it_is_in_the_right_place(world: World) -> None:
    world.here.leave()  # before it has connected
    world.place = world.coproc().place
    assert world.link.call(Read(0, 0, 4)) == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_each_is_done_once_and_in_order(world: World, seed: int) -> None:
    """A driver that never stops, and a vcoproc that is moved again and again meanwhile."""
    random = Random(seed)
    want: list[tuple[Any, ...]] = []
    stop = threading.Event()

    def drive() -> None:
        value = 0
        while not stop.is_set() or value < 300:
            value += 1
            offset = random.choice((0, 4, HOLD))
            match random.randrange(4):
                case 0:
                    world.link.call(Write(0, offset, 4, value))
                    want.append(("write", offset, value))
                case 1:
                    world.link.call(Read(0, offset, 4))
                    want.append(("read", offset))
                case 2:
                    accesses = tuple((True, 0, random.choice((8, HOLD)), 4, value + n)
                                     for n in range(random.randrange(5)))  # fmt: skip
                    world.link.call(Batch(accesses))
                    want.extend(("write", offset, value) for _, _, offset, _, value in accesses)
                case _:
                    for _ in range(random.randrange(20)):
                        world.link.post(post(value, offset))
                        want.append(("write", offset, value))
        world.link.call(Batch(()))

    driver = world.in_background(drive)
    mover = Random(seed + 1000)
    for _ in range(12):
        target = mover.randrange(200)
        world.here.until_taken(target)
        world.here.hold(frozen=mover.random() < 0.5)
        world.here.do(lambda: None)
        world.move()
    stop.set()
    driver.answer()
    assert world.done == want
