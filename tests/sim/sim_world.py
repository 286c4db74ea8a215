"""A whole cluster in one process on virtual time: every core is the real one."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Mapping

from sim_base import Simulation
from sim_coproc import CoprocNode
from sim_domain import DomainNode, Driver, Work, irq_of
from sim_services import RouterNode

from vcoproc.limits import MS, US
from vcoproc.testing.network import PERFECT, End, Faults, SimLink
from vcoproc_irq_router.events import AddDomain, MapLines, MappedLine, UnmapLines
from vcoproc_scheduler.events import AddVcoproc, RemoveVcoproc, SetAlgorithm
from vcoproc_sim.platforms.api import ContextSpec, Platform, Trigger
from vcoproc_sim.testing.fake_platform import (
    Costs,
    FakeContext,
    FakePlatform,
    StepClock,
    make_spec,
)

STORY_LINES = 60


class World(Simulation):
    """Everything, and the toolstack's part played by a few functions.

    destroyed_of: vcoprocs that each domain once had.
    """

    def __init__(self, seed: int, faults: Faults = PERFECT) -> None:
        super().__init__(seed, faults)
        self.router = RouterNode(self)
        self.domains: dict[int, DomainNode] = {}
        self.home: dict[int, tuple[int, str]] = {}
        """Domain and coproc of each vcoproc."""
        self.destroyed_of: dict[int, set[int]] = {}
        self.retired: list[tuple[Driver, FakeContext]] = []
        self.trap_links: dict[int, SimLink] = {}
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self.events = 0
        self._hash = hashlib.sha256()
        self._last_vcoproc = 0
        self.router.on_edge = lambda coproc: self.coprocs[coproc].edge_arrived()

    def note(self, *what: object) -> None:
        """One line of the trace."""
        line = " ".join(map(str, (self.now_ns, *what)))
        self.events += 1
        self._hash.update(line.encode())
        self.story.append(line)

    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    # --- the toolstack ----------------------------------------------------------------------------

    def add_coproc(
        self,
        name: str,
        *,
        slice_ns: int = 1 * MS,
        refusal_ns: int = 20 * MS,
        algorithm: str = "rr",
        parameters: Mapping[str, int] | None = None,
        make_platform: Callable[[StepClock], Platform] | None = None,
        wrap: Callable[[Platform, StepClock], Platform] | None = None,
    ) -> CoprocNode:
        if make_platform is None:
            costs = Costs(instruction_ns=10, run_ns=1 * US)

            def make_platform(clock: StepClock) -> Platform:
                return FakePlatform(clock, costs=costs)

        chosen = SetAlgorithm(algorithm, slice_ns, refusal_ns, dict(parameters or {}))
        node = self.add_scheduled(name, make_platform, chosen, wrap=wrap)
        router = self.router
        node.irq = router.coproc_links[name] = self.network.connect(
            f"irq-{name}",
            End(node.irq_message, node.irq_is_up, node.irq_is_down),
            End(
                lambda message: router.coproc_message(name, message),
                on_down=lambda: router.coproc_down(name),
            ),
        )
        return node

    def add_domain(self, domid: int) -> DomainNode:
        domain = self.domains[domid] = DomainNode(self, domid)
        router = self.router
        router.step(AddDomain(domid, domid.to_bytes(16, "little")))
        domain.irq = router.domain_links[domid] = self.network.connect(
            f"irq-domain{domid}",
            End(domain.message),
            End(
                lambda message: router.domain_message(domid, message),
                lambda: router.domain_up(domid, domain.epoch),
                lambda: router.domain_down(domid),
            ),
        )
        return domain

    def add_vcoproc(
        self,
        domid: int,
        coproc: str,
        work: Work,
        *,
        spec: Callable[[int], ContextSpec] | None = None,
        make_driver: Callable[..., Driver] = Driver,
        parameters: Mapping[str, int] | None = None,
    ) -> Driver:
        """Attaches a vcoproc everywhere, and starts its driver."""
        self._last_vcoproc += 1
        vcoproc_id = self._last_vcoproc
        node, domain = self.coprocs[coproc], self.domains[domid]
        info = node.platform.info
        self.home[vcoproc_id] = (domid, coproc)
        node.attach(vcoproc_id, spec(vcoproc_id) if spec else make_spec(vcoproc_id, info))
        lines = tuple(
            MappedLine(number, irq_of(vcoproc_id, number), line.trigger is Trigger.LEVEL)
            for number, line in enumerate(info.lines)
        )
        driver = domain.drivers[vcoproc_id] = make_driver(domain, vcoproc_id, info, work)
        # In an order that differs: any of them may hear of it first.
        steps = [
            lambda: self.router.step(MapLines(domid, vcoproc_id, coproc, lines)),
            lambda: self.schedulers[coproc].step(AddVcoproc(vcoproc_id, dict(parameters or {}))),
            lambda: self._connect_driver(driver, node),
        ]
        self.random.shuffle(steps)
        for step in steps:
            self.clock.call_after(self.between((10 * US, 200 * US)), step)
        return driver

    def _connect_driver(self, driver: Driver, node: CoprocNode) -> None:
        vcoproc_id = driver.vcoproc_id
        link: SimLink

        def up() -> None:
            # Later, since the first time the link is up before it has its name here.
            self.clock.call_after(0, came)

        def came() -> None:
            if link.up:
                node.driver_came(vcoproc_id, link)

        def driver_up() -> None:
            self.clock.call_after(1, driver_came)

        def driver_came() -> None:
            if link.up:
                driver.up()

        link = driver.link = self.trap_links[vcoproc_id] = self.network.connect(
            f"trap-{vcoproc_id}",
            End(driver.message, driver_up, driver.down),
            End(
                lambda message: node.trap_message(vcoproc_id, message),
                up,
                lambda: node.driver_went(vcoproc_id),
            ),
        )

    def remove_vcoproc(self, vcoproc_id: int, deadline_ns: int = 5 * MS) -> None:
        """Destroys a vcoproc everywhere."""
        domid, coproc = self.home.pop(vcoproc_id)
        node = self.coprocs[coproc]
        driver = self.domains[domid].drivers.pop(vcoproc_id)
        self.destroyed_of.setdefault(domid, set()).add(vcoproc_id)
        platform = node.platform
        if isinstance(platform, FakePlatform):
            self.retired.append((driver, platform.contexts[vcoproc_id]))

        def gone(_forced: bool) -> None:
            self.router.step(UnmapLines(vcoproc_id))
            self.trap_links.pop(vcoproc_id).close()

        def detach() -> None:
            node.detach(vcoproc_id, deadline_ns, gone)

        driver.stage = driver.stage.OFF
        self.schedulers[coproc].step(RemoveVcoproc(vcoproc_id))
        self.clock.call_after(self.between((10 * US, 200 * US)), detach)

    def crash_domain(self, domid: int) -> None:
        """The domain goes away with all it knew, and comes back later as a new one."""
        domain = self.domains[domid]
        domain.epoch += 1
        self.note("domain", domid, "crashes")
        for driver in domain.drivers.values():
            driver.crash()
            if driver.link is not None:
                driver.link.cut()
        assert domain.irq is not None
        domain.irq.cut()

    def restart_scheduler(self, coproc: str) -> None:
        scheduler = self.schedulers[coproc]
        self.note("scheduler", coproc, "restarts")
        assert scheduler.link is not None
        scheduler.link.cut()
        scheduler.restart()
        ours = [each for each, (_domid, name) in self.home.items() if name == coproc]

        def add_all() -> None:
            for vcoproc_id in ours:
                if vcoproc_id in self.home:
                    scheduler.step(AddVcoproc(vcoproc_id, {}))

        self.clock.call_after(self.between((100 * US, 5 * MS)), add_all)
