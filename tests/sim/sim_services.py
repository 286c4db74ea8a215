"""The scheduler and the irq-router on virtual time: the real cores, checked after every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vcoproc.limits import US
from vcoproc.testing.clock import Timer
from vcoproc.testing.network import SimLink
from vcoproc.wire.messages import Eoi, Fence, LineEdge, LineEnable, LineLevel, LineSync, Message
from vcoproc_irq_router.core import IrqRouterCore
from vcoproc_irq_router.events import (
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    SendInject,
    SendResample,
)
from vcoproc_irq_router.events import Event as RouterEvent
from vcoproc_scheduler.accounting import TurnEnded
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    CoprocOffline,
    CoprocOnline,
    FellBack,
    SetAlgorithm,
    Tick,
)
from vcoproc_scheduler.events import Event as SchedulerEvent
from vcoproc_scheduler.policies.loader import load_catalogue

if TYPE_CHECKING:
    from sim_base import Simulation
    from sim_world import World

CATALOGUE = load_catalogue(())


class SchedulerNode:
    """The scheduler of one coproc."""

    def __init__(self, world: Simulation, coproc: str, algorithm: SetAlgorithm) -> None:
        self.world = world
        self.coproc = coproc
        self.link: SimLink | None = None
        self.turns: list[TurnEnded] = []
        self.fallbacks: list[FellBack] = []
        self._algorithm = algorithm
        self._timer: Timer | None = None
        self.core = self._new_core()

    def _new_core(self) -> CoprocSchedulerCore:
        core = CoprocSchedulerCore(self.coproc, CATALOGUE, validate=True)
        core.step(self._algorithm, self.world.now_ns)
        return core

    def restart(self) -> None:
        """A new process, that control has told nothing but the algorithm."""
        self.core = self._new_core()

    def step(self, event: SchedulerEvent) -> None:
        self.world.note("scheduler", self.coproc, event)
        for effect in self.core.step(event, self.world.now_ns):
            if isinstance(effect, TurnEnded):
                self.turns.append(effect)
            elif isinstance(effect, FellBack):
                self.fallbacks.append(effect)
            elif isinstance(effect, Message) and self.link is not None:
                self.world.note("scheduler ->", self.coproc, effect)
                self.link.to_client(effect)
        self._arm()

    def _arm(self) -> None:
        self.world.clock.cancel(self._timer)
        deadline_ns = self.core.next_deadline_ns()
        self._timer = None
        if deadline_ns is not None:
            self._timer = self.world.clock.call_at(deadline_ns, lambda: self.step(Tick()))

    def message(self, message: Message) -> None:
        self.step(message)  # type: ignore[arg-type]  # it is one of the link

    def up(self) -> None:
        self.step(CoprocOnline())

    def down(self) -> None:
        self.step(CoprocOffline())


class RouterNode:
    """The irq-router. room: how many injections a domain takes before it gives credit again."""

    def __init__(self, world: World, room: tuple[int, int] = (1, 4)) -> None:
        self.world = world
        self.core = IrqRouterCore(validate=True)
        self.coproc_links: dict[str, SimLink] = {}
        self.domain_links: dict[int, SimLink] = {}
        self.edges_taken = 0
        self.on_edge: Callable[[str], None] = lambda _coproc: None
        self._room = room

    def step(self, event: RouterEvent) -> None:
        self.world.note("router", event)
        for effect in self.core.step(event, self.world.now_ns):
            if isinstance(effect, SendInject):
                self.world.note("router -> domain", effect.domid, effect.message)
                self.domain_links[effect.domid].to_client(effect.message)
            elif isinstance(effect, SendResample):
                self.world.note("router ->", effect.coproc, effect.message)
                self.coproc_links[effect.coproc].to_client(effect.message)
        for domid in list(self.core.starved):
            self.world.clock.call_after(50 * US, partial(self._give_room, domid))

    def _give_room(self, domid: int) -> None:
        if domid in self.core.starved:
            self.step(DomainRoom(domid, self.world.random.randint(*self._room)))

    def coproc_message(self, coproc: str, message: Message) -> None:
        if isinstance(message, Fence):
            self.coproc_links[coproc].to_client(message)
            return
        assert isinstance(message, LineLevel | LineEdge | LineSync)
        if isinstance(message, LineEdge):
            self.edges_taken += 1
            self.on_edge(coproc)
        self.step(CoprocSaid(coproc, message))

    def coproc_down(self, coproc: str) -> None:
        self.step(CoprocDown(coproc))

    def domain_message(self, domid: int, message: Message) -> None:
        assert isinstance(message, Eoi | LineEnable)
        self.step(DomainSaid(domid, message))

    def domain_up(self, domid: int, epoch: int) -> None:
        self.step(DomainUp(domid, epoch, self.world.random.randint(*self._room)))

    def domain_down(self, domid: int) -> None:
        self.step(DomainDown(domid))
