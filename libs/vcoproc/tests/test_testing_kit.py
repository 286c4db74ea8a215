"""The virtual clock and the simulated network."""

from __future__ import annotations

import pytest

from vcoproc.errors import RemoteProtocolError
from vcoproc.limits import IRQ_CREDIT, MS, US
from vcoproc.testing.clock import VirtualClock
from vcoproc.testing.network import End, Faults, SimNetwork
from vcoproc.wire.messages import Message, Sleep, Wake


def test_events_come_by_time_then_priority_then_making() -> None:
    clock = VirtualClock()
    seen: list[str] = []
    clock.call_at(20, lambda: seen.append("d"))
    clock.call_at(10, lambda: seen.append("b"))
    clock.call_at(10, lambda: seen.append("c"))
    clock.call_at(10, lambda: seen.append("a"), priority=-1)
    assert clock.next_ns() == 10
    clock.run_until(15)
    assert (seen, clock.now_ns) == (["a", "b", "c"], 15)
    clock.advance(5)
    assert seen[-1] == "d"
    assert clock.next_ns() is None and not clock.run_next()


def test_a_cancelled_call_is_not_made_and_the_past_means_now() -> None:
    clock = VirtualClock(start_ns=100)
    seen: list[int] = []
    timer = clock.call_at(110, lambda: seen.append(1))
    clock.cancel(timer)
    clock.cancel(None)
    clock.call_at(5, lambda: seen.append(clock.now_ns))
    clock.run_until(200)
    clock.cancel(timer)
    assert seen == [100]


def test_a_call_may_make_another_one_at_the_same_time() -> None:
    clock = VirtualClock()
    seen: list[int] = []

    def again() -> None:
        seen.append(clock.now_ns)
        if len(seen) < 3:
            clock.call_after(0, again)

    clock.call_at(7, again)
    clock.run_until(7)
    assert seen == [7, 7, 7]


class Two:
    """A link with a log of what each end hears."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, seed, faults)
        self.client: list[object] = []
        self.server: list[object] = []
        self.link = self.network.connect("link", self._end(self.client), self._end(self.server))

    def _end(self, log: list[object]) -> End:
        return End(log.append, lambda: log.append("up"), lambda: log.append("down"))


def wake(number: int) -> Message:
    return Wake(number, 0, False)


def test_order_within_a_link_is_kept_through_delays_and_stalls() -> None:
    two = Two(1, Faults(delay_ns=(1 * US, 900 * US), stall_chance=300_000, through_codec=True))
    for number in range(1, 200):
        two.link.to_server(wake(number))
        two.link.to_client(Sleep(number, 0))
        two.clock.advance(10 * US)
    two.clock.run_until(10_000 * MS)
    assert two.server == ["up", *(wake(number) for number in range(1, 200))]
    assert two.client == ["up", *(Sleep(number, 0) for number in range(1, 200))]


def test_a_cut_loses_what_is_under_way_and_tells_both_ends() -> None:
    two = Two(1, Faults(delay_ns=(50, 50), reconnect_ns=(1000, 1000)))
    two.link.to_server(wake(1))
    two.clock.advance(49)
    two.link.cut()
    assert not two.link.to_server(wake(2)) and not two.link.to_client(wake(2))
    assert two.server == ["up", "down"] and two.client == ["up", "down"]
    two.clock.advance(1000)
    assert two.link.to_server(wake(3))
    two.clock.advance(50)
    assert two.server == ["up", "down", "up", wake(3)]
    two.link.close()
    two.clock.advance(10_000)
    assert two.server[-1] == "down" and not two.link.up


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_seed_gives_the_same_faults(seed: int) -> None:
    def run(seed: int) -> tuple[list[object], int]:
        faults = Faults((1, 999), 100_000, cut_chance=100_000, reconnect_ns=(1, 999))
        two = Two(seed, faults)
        for number in range(1, 300):
            two.link.to_server(wake(number))
            two.clock.advance(200 * US)
        return two.server, two.link.cut_count

    assert run(seed) == run(seed)
    assert run(seed)[1] > 10
    assert run(seed) != run(seed + 100)


def test_only_what_can_be_sent_arrives() -> None:
    two = Two(1, Faults(through_codec=True))
    two.link.to_server(Wake("one", 0, False))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError):
        two.clock.advance(1 * MS)


def test_what_has_no_credit_waits_for_it() -> None:
    two = Two(1, Faults(delay_ns=(10, 10), through_codec=True))
    numbers = range(1, 2 * IRQ_CREDIT)
    for number in numbers:
        two.link.to_server(wake(number))
    two.clock.advance(10)
    assert two.server == ["up", *(wake(number) for number in numbers[:IRQ_CREDIT])]
    two.clock.advance(1000)
    assert two.server == ["up", *(wake(number) for number in numbers)]
