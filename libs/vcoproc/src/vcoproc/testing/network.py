"""A network on virtual time, with faults from a seed.

Theory of operation:
    A link carries `Message` objects both ways, like a ZeroMQ connection: within one direction of
    one link nothing is lost, doubled or reordered as long as it is up. What a real one can do to us
    is to be slow (delay), to stop for a while (stall), and to break (cut): then everything under
    way is lost, both ends are told, and after a while the client connects again.
Invariants:
    An end hears of nothing between `on_down` and `on_up`. The same seed and the same calls give the
    same deliveries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from vcoproc.limits import IRQ_CREDIT, MS, US
from vcoproc.testing.clock import VirtualClock
from vcoproc.wire.messages import Message
from vcoproc.wire.session import Session

PER_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Faults:
    """How bad the network is.

    Chances are per million messages; times are ranges, both ends included.
    through_codec: every message goes as the bytes of a real session: numbered, acknowledged, within
    its credit; and only what can be sent is sent.
    """

    delay_ns: tuple[int, int] = (20 * US, 100 * US)
    stall_chance: int = 0
    stall_ns: tuple[int, int] = (1 * MS, 20 * MS)
    cut_chance: int = 0
    reconnect_ns: tuple[int, int] = (1 * MS, 50 * MS)
    through_codec: bool = False


PERFECT: Final = Faults()


@dataclass(slots=True)
class End:
    """What one end of a link does when something comes in."""

    on_message: Callable[[Message], None]
    on_up: Callable[[], None] = lambda: None
    on_down: Callable[[], None] = lambda: None


class SimLink:
    """A connection between a client and a server. Make it with `SimNetwork.connect`."""

    def __init__(self, network: SimNetwork, name: str, client: End, server: End) -> None:
        self.name = name
        self.up = False
        self.sent_count = 0
        self.lost_count = 0
        self.cut_count = 0
        self._network = network
        self._client = client
        self._server = server
        self._session = 0
        # For each direction: when what was sent last arrives.
        self._last_ns = {True: 0, False: 0}
        self._server_end, self._client_end = _sessions()
        self._closed = False

    def to_server(self, message: Message) -> bool:
        """The client sends. False: the link is down, nothing was sent."""
        return self._send(message, to_server=True)

    def to_client(self, message: Message) -> bool:
        """The server sends. False: the link is down, nothing was sent."""
        return self._send(message, to_server=False)

    def _send(self, message: Message, *, to_server: bool) -> bool:
        if not self.up:
            self.lost_count += 1
            return False
        network, faults = self._network, self._network.faults
        if network.chance(faults.cut_chance):
            self.lost_count += 1
            self.cut()
            return False
        self.sent_count += 1
        if not faults.through_codec:
            self._carry(message, to_server=to_server)
            return True
        sender = self._client_end if to_server else self._server_end
        frame = sender.send(message)
        if frame is not None:  # else it waits for credit
            self._carry(frame, to_server=to_server)
        return True

    def _carry(self, what: Message | bytes, *, to_server: bool) -> None:
        network, faults = self._network, self._network.faults
        delay_ns = network.between(faults.delay_ns)
        if network.chance(faults.stall_chance):
            delay_ns += network.between(faults.stall_ns)
        # Order within a direction holds: what waits behind a slow message is as slow.
        arrives_ns = max(network.clock.now_ns + delay_ns, self._last_ns[to_server])
        self._last_ns[to_server] = arrives_ns
        session = self._session
        network.clock.call_at(arrives_ns, lambda: self._deliver(session, what, to_server=to_server))

    def _deliver(self, session: int, what: Message | bytes, *, to_server: bool) -> None:
        if self._session != session:
            return
        end = self._server if to_server else self._client
        if isinstance(what, Message):
            end.on_message(what)
            return
        receiver = self._server_end if to_server else self._client_end
        message = receiver.receive(what)
        if message is not None:
            end.on_message(message)
        if self._session == session:
            for frame in receiver.flush():
                self._carry(frame, to_server=not to_server)

    def cut(self, *, reconnect: bool = True) -> None:
        """Breaks the connection; what is under way is lost."""
        if self.up:
            self.up = False
            self.cut_count += 1
            self._session += 1
            self._client.on_down()
            self._server.on_down()
        if reconnect and not self._closed:
            network = self._network
            network.clock.call_after(network.between(network.faults.reconnect_ns), self.connect)

    def connect(self) -> None:
        """Makes the connection. The server's end is up first, as it sees the hello first."""
        if self.up or self._closed:
            return
        self.up = True
        self._session += 1
        self._last_ns = {True: 0, False: 0}
        self._server_end, self._client_end = _sessions()
        self._server.on_up()
        self._client.on_up()

    def close(self) -> None:
        """Breaks it for good."""
        self._closed = True
        self.cut(reconnect=False)


def _sessions() -> tuple[Session, Session]:
    """Both ends of a new session, after the handshake; the server's first."""
    server = Session(epoch=1, peer_epoch=2, window=IRQ_CREDIT, peer_credit=IRQ_CREDIT)
    client = Session(epoch=2, peer_epoch=1, window=IRQ_CREDIT, peer_credit=IRQ_CREDIT)
    return server, client


class SimNetwork:
    """All links of a simulated cluster.

    Args:
        clock: when things arrive.
        seed: of every delay and fault. Said when a test fails, it repeats the run.
        faults: may be replaced while it runs: no faults for a liveness phase.
    """

    def __init__(self, clock: VirtualClock, seed: int, faults: Faults = PERFECT) -> None:
        self.clock = clock
        self.seed = seed
        self.faults = faults
        self.links: list[SimLink] = []
        self._random = Random(seed)

    def connect(self, name: str, client: End, server: End) -> SimLink:
        """A link that is up at once."""
        link = SimLink(self, name, client, server)
        self.links.append(link)
        link.connect()
        return link

    def chance(self, per_million: int) -> bool:
        return per_million > 0 and self._random.randrange(PER_MILLION) < per_million

    def between(self, bounds: tuple[int, int]) -> int:
        return self._random.randint(*bounds)
