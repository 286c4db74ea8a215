"""What every simulation has: time, chance, a network, and coprocs with their schedulers."""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random

from sim_coproc import ROUND_NS, CoprocNode
from sim_services import SchedulerNode

from vcoproc.testing.clock import VirtualClock
from vcoproc.testing.network import PERFECT, End, Faults, SimNetwork
from vcoproc_scheduler.events import SetAlgorithm
from vcoproc_sim.platforms.api import Platform
from vcoproc_sim.testing.fake_platform import FakePlatform, StepClock


class Simulation:
    """Nothing but time, at first.

    seed: of everything that is random.
    """

    def __init__(self, seed: int, faults: Faults = PERFECT) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, seed ^ 0x5EED, faults)
        self.coprocs: dict[str, CoprocNode] = {}
        self.schedulers: dict[str, SchedulerNode] = {}

    @property
    def now_ns(self) -> int:
        return self.clock.now_ns

    def between(self, bounds: tuple[int, int]) -> int:
        return self.random.randint(*bounds)

    def run(self, duration_ns: int) -> None:
        self.clock.advance(duration_ns)

    def note(self, *what: object) -> None:
        """Something happened. Made to text only by those who want it: it takes its time."""

    def check_coproc(self, node: CoprocNode) -> None:
        """After every round of its loop: one owner, and its tables."""
        node.executor.check_invariants()
        turn = node.executor.turn
        owner = turn.vcoproc.id if turn is not None else None
        platform = node.platform
        if isinstance(platform, FakePlatform):
            assert platform.owner == owner
            assert platform.stage2 == owner

    def add_scheduled(
        self,
        name: str,
        make_platform: Callable[[StepClock], Platform],
        algorithm: SetAlgorithm,
        *,
        wrap: Callable[[Platform, StepClock], Platform] | None = None,
        round_ns: int = ROUND_NS,
    ) -> CoprocNode:
        """A coproc, its scheduler and the link between the two."""
        node = CoprocNode(self, name, make_platform, wrap, round_ns=round_ns)
        scheduler = SchedulerNode(self, name, algorithm)
        self.coprocs[name], self.schedulers[name] = node, scheduler
        node.schedule = scheduler.link = self.network.connect(
            f"schedule-{name}",
            End(node.schedule_message, node.schedule_is_up, node.schedule_is_down),
            End(scheduler.message, scheduler.up, scheduler.down),
        )
        return node


def seeds(count: int, together: int) -> list[range]:
    """The seeds 0 to count - 1, so many in one test; only SEED, if the environment has it."""
    if seed := os.environ.get("SEED"):
        return [range(int(seed), int(seed) + 1)]
    return [range(first, min(first + together, count)) for first in range(0, count, together)]


def seed_id(part: range) -> str:
    """Names a test by its seeds."""
    return str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}"
