"""A simulated cluster whose vcoprocs are paused and moved, by a toolstack that may change its mind.

Everything that the toolstack does takes a while, and anything may happen in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from sim_coproc import CoprocNode
from sim_domain import DomainNode, Driver, Work
from sim_world import World

from vcoproc.limits import MS, US
from vcoproc.testing.network import PERFECT, Faults
from vcoproc.wire.messages import Batch, Message, Moved, Reply, TrapError
from vcoproc_irq_router.events import MoveLines, PauseDomain, ResumeDomain
from vcoproc_scheduler.accounting import Used
from vcoproc_scheduler.events import AddVcoproc, RemoveVcoproc
from vcoproc_sim.departures import PauseEnd
from vcoproc_sim.platforms.api import ContextSpec, PlatformInfo
from vcoproc_sim.testing.fake_platform import FakePlatform

STEP_NS = (10 * US, 2 * MS)
"""Between two steps of the toolstack."""
DEADLINE_NS = 5 * MS


class MovingDriver(Driver):
    """Follows its vcoproc, as the guest SDK does. moves: how often it has."""

    def __init__(self, domain: DomainNode, vcoproc_id: int, info: PlatformInfo, work: Work) -> None:
        super().__init__(domain, vcoproc_id, info, work)
        self.moves = 0
        self._again: list[tuple[Message, Callable[[Message], None]]] | None = None
        """What is to be said where it goes; None: it is not on its way."""

    def message(self, message: Message) -> None:
        if not isinstance(message, Moved):
            super().message(message)
            return
        self.moves += 1
        self._again = [
            self._rest(request, then, message) if seq == message.done + 1 else (request, then)
            for seq, request, then in self._waiting
            if seq > message.done
        ]
        self._waiting.clear()
        world = self.world
        assert isinstance(world, MovingWorld)
        world.follow(self)

    @staticmethod
    def _rest(
        request: Message, then: Callable[[Message], None], moved: Moved
    ) -> tuple[Message, Callable[[Message], None]]:
        """Of a batch that was begun, what was not done; its answer is the answer to all of it."""
        if not moved.position:
            return request, then
        assert isinstance(request, Batch)

        def whole(answer: Message) -> None:
            if isinstance(answer, Reply):
                answer = Reply(answer.request, moved.values + answer.values)
            elif isinstance(answer, TrapError):
                index = answer.index + moved.position
                answer = TrapError(answer.request, index, answer.error, answer.detail)
            then(answer)

        return Batch(request.accesses[moved.position :]), whole

    def _send(self, message: Message, then: Callable[[Message], None]) -> None:
        if self._again is not None:
            self._again.append((message, then))
        else:
            super()._send(message, then)

    def up(self) -> None:
        again, self._again = self._again, None
        if again is None:
            super().up()
            return
        self._sent = 0
        for message, then in again:
            self._send(message, then)

    def down(self) -> None:
        if self._again is None:  # else it has let go of the old connection itself
            super().down()

    def lost_on_the_way(self) -> None:
        """The connection to where it goes broke before it was used: what is under way is lost."""
        self._again = None
        self.down()


class MovingWorld(World):
    """busy: vcoprocs that something is done to. ended: moves and pauses, by how they ended."""

    def __init__(self, seed: int, faults: Faults = PERFECT) -> None:
        super().__init__(seed, faults)
        self.busy: set[int] = set()
        self.ended: dict[str, int] = {}
        self._still: dict[str, dict[int, int]] = {}

    def add_vcoproc(
        self,
        domid: int,
        coproc: str,
        work: Work,
        *,
        spec: Callable[[int], ContextSpec] | None = None,
        make_driver: Callable[..., Driver] = MovingDriver,
        parameters: Mapping[str, int] | None = None,
    ) -> Driver:
        return super().add_vcoproc(
            domid, coproc, work, spec=spec, make_driver=make_driver, parameters=parameters
        )

    def _count(self, what: str) -> None:
        self.ended[what] = self.ended.get(what, 0) + 1

    def _later(self, step: Callable[[], None]) -> None:
        self.clock.call_after(self.between(STEP_NS), step)

    # --- paused -----------------------------------------------------------------------------------

    def pause_for(self, vcoproc_id: int, duration_ns: int) -> None:
        """Pauses a vcoproc, and resumes it later, perhaps before it has left."""
        if vcoproc_id in self.busy:
            return
        self.busy.add(vcoproc_id)
        node = self.coprocs[self.home[vcoproc_id][1]]
        node.pause(vcoproc_id, DEADLINE_NS, lambda end: self._count(f"pause {end.value}"))

        def resume() -> None:
            node.resume(vcoproc_id)
            self.busy.discard(vcoproc_id)

        self.clock.call_after(duration_ns, resume)

    def pause_domain_for(self, domid: int, duration_ns: int) -> None:
        """The domain, and all its vcoprocs that nothing else is done to."""
        self.router.step(PauseDomain(domid))
        for vcoproc_id, (owner, _coproc) in list(self.home.items()):
            if owner == domid and vcoproc_id in self.trap_links:
                self.pause_for(vcoproc_id, duration_ns)
        self.clock.call_after(duration_ns, lambda: self.router.step(ResumeDomain(domid)))

    # --- moved ------------------------------------------------------------------------------------

    def move(self, vcoproc_id: int, to: str, *, give_up: bool = False) -> None:
        """Begins to move a vcoproc. give_up: and undoes it before the end."""
        _domid, old = self.home[vcoproc_id]
        if vcoproc_id in self.busy or old == to:
            return
        self.busy.add(vcoproc_id)
        self.note(f"move {vcoproc_id} from {old} to {to}")
        node = self.coprocs[old]

        def paused(end: PauseEnd) -> None:
            assert end is not PauseEnd.RESUMED
            self._later(lambda: node.save(vcoproc_id, saved, moving=True))

        def saved(blob: bytes) -> None:
            self._later(lambda: self._arrive(vcoproc_id, to, blob, give_up=give_up))

        node.pause(vcoproc_id, DEADLINE_NS, paused)

    def _used(self, vcoproc_id: int, coproc: str) -> Used:
        """What the scheduler knows; it must have heard of the last turn."""
        view = self.schedulers[coproc].core.view(self.now_ns)
        for each in view.vcoprocs:
            if each.vcoproc == vcoproc_id:
                account = each.account
                return Used(
                    account.run_ns, account.wait_ns, account.switch_ns, account.refused_ns,
                    account.overtime_ns, account.instructions, account.wakes, account.switches,
                )  # fmt: skip
        return Used()  # the scheduler has been restarted

    def _arrive(self, vcoproc_id: int, to: str, blob: bytes, *, give_up: bool) -> None:
        _domid, old = self.home[vcoproc_id]
        if self.schedulers[old].core.current == vcoproc_id:
            self._later(lambda: self._arrive(vcoproc_id, to, blob, give_up=give_up))
            return
        node, new = self.coprocs[old], self.coprocs[to]
        used = self._used(vcoproc_id, old)
        self.schedulers[to].step(AddVcoproc(vcoproc_id, {}, used))
        there = node.executor.vcoprocs[vcoproc_id].spec
        spec = ContextSpec(
            vcoproc_id, there.regions, there.mapped, new.platform.info.reset_values()
        )
        new.attach(vcoproc_id, spec, paused=True)
        new.restore(vcoproc_id, blob)

        def lines() -> None:
            self.router.step(MoveLines(vcoproc_id, to))
            self._later(undo if give_up else commit)

        def commit() -> None:
            self.home[vcoproc_id] = (self.home[vcoproc_id][0], to)
            self._later(partial(node.detach, vcoproc_id, DEADLINE_NS, detached, moved=True))

        def detached(_forced: bool) -> None:
            self.schedulers[old].step(RemoveVcoproc(vcoproc_id))
            self._later(finish)

        def finish() -> None:
            self.schedulers[to].step(AddVcoproc(vcoproc_id, {}))  # if it was restarted meanwhile
            new.resume(vcoproc_id)
            self._count("moved")
            self.busy.discard(vcoproc_id)

        def undo() -> None:
            self.router.step(MoveLines(vcoproc_id, old))
            new.detach(vcoproc_id, DEADLINE_NS, undone)

        def undone(_forced: bool) -> None:
            self.schedulers[to].step(RemoveVcoproc(vcoproc_id))
            node.resume(vcoproc_id)
            self._count("given up")
            self.busy.discard(vcoproc_id)

        self._later(lines)

    # --- its driver -------------------------------------------------------------------------------

    def follow(self, driver: MovingDriver) -> None:
        """A driver was told that its vcoproc has gone elsewhere."""
        vcoproc_id = driver.vcoproc_id
        old = self.trap_links.get(vcoproc_id)
        if old is None:
            return  # it is being destroyed
        old.close()
        delay_ns = self.between((10 * US, 200 * US))
        self.clock.call_after(delay_ns, lambda: self._connect_driver(driver, self._node(driver)))

    def _node(self, driver: Driver) -> CoprocNode:
        _domid, coproc = self.home[driver.vcoproc_id]
        return self.coprocs[coproc]

    def _connect_driver(self, driver: Driver, node: CoprocNode) -> None:
        """As the one before; a link that breaks and comes back may find the vcoproc elsewhere."""
        if driver.vcoproc_id not in self.home:
            return
        super()._connect_driver(driver, node)
        link = driver.link
        assert link is not None
        connect = link.connect

        def connect_there() -> None:
            if driver.vcoproc_id not in self.home or self._node(driver) is node:
                connect()
            elif not link._closed:
                link.close()
                if isinstance(driver, MovingDriver):
                    driver.lost_on_the_way()
                self._connect_driver(driver, self._node(driver))

        link.connect = connect_there  # type: ignore[method-assign]

    # --- checking ---------------------------------------------------------------------------------

    def check_coproc(self, node: CoprocNode) -> None:
        """After every round: also, that who is paused does nothing."""
        super().check_coproc(node)
        platform = node.platform
        assert isinstance(platform, FakePlatform)
        here = {
            vcoproc_id
            for vcoproc_id, vcoproc in node.executor.vcoprocs.items()
            if vcoproc.stands_still and self.home.get(vcoproc_id, (0, ""))[1] == node.name
        }
        still = self._still.setdefault(node.name, {})
        for vcoproc_id in [each for each in still if each not in here]:
            del still[vcoproc_id]
        for vcoproc_id in here:
            instructions = platform.contexts[vcoproc_id].instructions
            before = still.setdefault(vcoproc_id, instructions)
            assert instructions == before, f"{vcoproc_id} ran while it was paused"

    def check_places(self) -> None:
        """Everybody may run in one place at most."""
        for vcoproc_id in self.home:
            awake = [
                name
                for name, node in self.coprocs.items()
                if (each := node.executor.vcoprocs.get(vcoproc_id)) and not each.paused
            ]
            assert len(awake) <= 1, f"{vcoproc_id} may run on {awake}"
