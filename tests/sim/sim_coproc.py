"""A coproc-sim on virtual time: the real front end and executor, and a loop like the shell's.

A burst takes time: what arrives meanwhile waits until it is over, and what the cores say is sent
when they have said it. The coproc's clock is the simulation's, plus an offset that nobody knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from vcoproc.limits import US
from vcoproc.testing.clock import Timer
from vcoproc.testing.network import SimLink
from vcoproc.wire.messages import Fence, Grant, LineEdge, Message, Resample, Revoke, Vacate
from vcoproc_sim import saving
from vcoproc_sim.departures import Paused, PauseEnd
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd, farewell
from vcoproc_sim.platforms.api import ContextSpec, Platform
from vcoproc_sim.router_side import RouterSide
from vcoproc_sim.testing.fake_platform import StepClock
from vcoproc_sim.vcoprocs import Outbox, Vcoproc

if TYPE_CHECKING:
    from sim_base import Simulation

ROUND_NS = 1 * US
"""A round of the loop takes this, besides what it does."""


class TrapSession:
    """One connection of a driver; the origin of its requests.

    received: messages that have come; taken: those that the loop has seen.
    """

    def __init__(self, vcoproc_id: int, link: SimLink) -> None:
        self.vcoproc_id = vcoproc_id
        self.link = link
        self.received = 0
        self.taken = 0
        self.open = True


class CountingRouterSide(RouterSide):
    """merged: edges that merged with one that was kept. gone: those of vcoprocs that are gone.
    brought: those that came with what was written down."""

    def __init__(self, vcoprocs: Mapping[int, Vcoproc]) -> None:
        super().__init__(vcoprocs)
        self.merged = 0
        self.gone = 0
        self.brought = 0

    def restored(self, vcoproc_id: int, lines: Sequence[int], epoch: int) -> None:
        self.brought += len(lines)
        super().restored(vcoproc_id, lines, epoch)

    def keep(self, edge: LineEdge) -> None:
        self.merged += (edge.vcoproc, edge.line) in self._unsaid
        super().keep(edge)

    def linked(self, unacked: Iterable[Message]) -> list[LineEdge]:
        kept = [*unacked, *self._unsaid.values()]
        self.gone += sum(
            isinstance(each, LineEdge) and each.vcoproc not in self._vcoprocs for each in kept
        )
        return super().linked(unacked)

    def forget(self, vcoproc_id: int) -> None:
        self.gone += len(self.resumed(vcoproc_id))


class CoprocNode:
    """Runs one platform. link_up: the loop has seen the welcome of that link.

    wrap: makes of the platform the one that is driven; checkers look at the one inside.
    """

    def __init__(
        self,
        world: Simulation,
        name: str,
        make_platform: Callable[[StepClock], Platform],
        wrap: Callable[[Platform, StepClock], Platform] | None = None,
        *,
        round_ns: int = ROUND_NS,
    ) -> None:
        self.world = world
        self.name = name
        self.round_ns = round_ns
        self.offset_ns = world.random.randrange(1 << 40)
        self.clock = StepClock(world.now_ns + self.offset_ns)
        self.platform = make_platform(self.clock)
        self.outbox = Outbox()
        hardware = self.platform if wrap is None else wrap(self.platform, self.clock)
        self.frontend = FrontEnd(hardware, self.outbox)
        self.executor = Executor(name, hardware, self.frontend, self.outbox, self.clock)
        self.schedule: SimLink | None = None
        self.irq: SimLink | None = None
        self.router_side = CountingRouterSide(self.executor.vcoprocs)
        self.pulses_told = 0
        self._schedule_session = 0
        self._schedule_up = False
        self._irq_up = False
        self._edges_sent: deque[LineEdge] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        self._next_round: Timer | None = None
        self._free_at_ns = 0
        self._sessions: dict[int, TrapSession] = {}

    # --- what arrives -----------------------------------------------------------------------------

    def put(self, work: Callable[[], None]) -> None:
        """To be done in the next round of the loop."""
        self._inbox.append(work)
        self.poke()

    def poke(self) -> None:
        self._wake(max(self.world.now_ns, self._free_at_ns))

    def _wake(self, at_ns: int) -> None:
        if self._next_round is None or at_ns < self._next_round.due_ns:
            self.world.clock.cancel(self._next_round)
            self._next_round = self.world.clock.call_at(at_ns, self._round)

    def attach(self, vcoproc_id: int, spec: ContextSpec, *, paused: bool = False) -> None:
        name = f"v{vcoproc_id}"
        self.put(lambda: self.executor.attach(vcoproc_id, name, spec, paused=paused))

    def detach(
        self,
        vcoproc_id: int,
        deadline_ns: int,
        done: Callable[[bool], None],
        *,
        moved: bool = False,
    ) -> None:
        def act() -> None:
            vcoproc = self.executor.vcoprocs[vcoproc_id]

            def gone(forced: bool) -> None:
                self._emit()
                session = self._sessions.pop(vcoproc_id, None)
                if session is not None and moved:
                    last_words = farewell(vcoproc, session, session.taken)
                    self.outbox.replies.append((session, last_words))
                    self._emit()
                self.router_side.forget(vcoproc_id)
                done(forced)

            self.executor.detach(vcoproc_id, deadline_ns, gone, moved=moved)

        self.put(act)

    def pause(self, vcoproc_id: int, deadline_ns: int, done: Paused) -> None:
        def ended(end: PauseEnd) -> None:
            self._emit()
            self.world.clock.call_at(self.clock.now_ns - self.offset_ns, lambda: done(end))

        self.put(lambda: self.executor.pause(vcoproc_id, deadline_ns, ended))

    def resume(self, vcoproc_id: int) -> None:
        def act() -> None:
            self.executor.resume(vcoproc_id)
            self.outbox.to_router += self.router_side.resumed(vcoproc_id)

        self.put(act)

    def save(self, vcoproc_id: int, done: Callable[[bytes], None], *, moving: bool) -> None:
        """done: called when the router has taken everything, with what was written down."""

        def passed() -> None:
            edges = self.router_side.unsaid_of(vcoproc_id, self._edges_sent)
            image = self.executor.save(vcoproc_id, edges, moving=moving)
            done(b"".join(image.pieces(self.platform.info)))

        def act() -> None:
            self._emit()
            if self._irq_up and self.irq is not None and self.irq.up:
                self.outbox.to_router.append(self.router_side.fence(passed))
            else:
                passed()

        self.put(act)

    def restore(self, vcoproc_id: int, blob: bytes) -> None:
        def act() -> None:
            image = saving.read(memoryview(blob), self.platform)
            self.executor.restore(vcoproc_id, image)
            self.router_side.restored(vcoproc_id, image.edges, self.executor.switch_count)

        self.put(act)

    def schedule_message(self, message: Message) -> None:
        def act() -> None:
            match message:
                case Grant():
                    self.executor.grant(message)
                case Revoke():
                    self.executor.revoke(message.grant)
                case Vacate():
                    self.executor.vacate(message)
                case _:
                    raise AssertionError(f"the scheduler says {message}")

        self.put(act)

    def schedule_is_up(self) -> None:
        def act() -> None:
            self._schedule_up = True
            self.outbox.to_scheduler[:] = [self.executor.register_message()]

        self._schedule_session += 1
        self.put(act)

    def schedule_is_down(self) -> None:
        self._schedule_session += 1

        def act() -> None:
            self._schedule_up = False

        self.put(act)

    def irq_message(self, message: Message) -> None:
        assert isinstance(message, Resample | Fence)
        if isinstance(message, Fence):
            number = message.number
            self.put(lambda: self.router_side.fenced(number))
        else:
            vcoproc_id, line = message.vcoproc, message.line
            self.put(lambda: self.executor.resample(vcoproc_id, line))

    def irq_is_up(self) -> None:
        def act() -> None:
            self._irq_up = True
            edges = self.router_side.linked(self._edges_sent)
            self._edges_sent.clear()
            self.outbox.to_router[:0] = [*self.executor.line_syncs(), *edges]

        self.put(act)

    def irq_is_down(self) -> None:
        def act() -> None:
            self._irq_up = False
            self.router_side.unlinked()

        self.put(act)

    def edge_arrived(self) -> None:
        """The router has taken the oldest edge that is under way."""
        self._edges_sent.popleft()

    def driver_came(self, vcoproc_id: int, link: SimLink) -> None:
        self._sessions[vcoproc_id] = TrapSession(vcoproc_id, link)

    def driver_went(self, vcoproc_id: int) -> None:
        session = self._sessions.pop(vcoproc_id, None)
        if session is not None:
            session.open = False

    def trap_message(self, vcoproc_id: int, message: Message) -> None:
        session = self._sessions.get(vcoproc_id)
        if session is None:
            return  # it was told already that its vcoproc has gone
        session.received += 1
        seq = session.received

        def act() -> None:
            vcoproc = self.executor.vcoprocs.get(vcoproc_id)
            if vcoproc is not None:
                session.taken = seq
                self.executor.trap(vcoproc, session, seq, message)

        self.put(act)

    # --- the loop ---------------------------------------------------------------------------------

    def _round(self) -> None:
        self._next_round = None
        executor, clock = self.executor, self.clock
        clock.now_ns = max(clock.now_ns, self.world.now_ns + self.offset_ns)
        while self._inbox:
            self._inbox.popleft()()
        deadline_ns = executor.next_deadline_ns()
        if deadline_ns is not None and clock.now_ns >= deadline_ns:
            executor.tick()
        self._emit()
        if executor.wants_cpu():
            executor.burst()
            self._emit()
        clock.now_ns += self.round_ns
        self.world.check_coproc(self)
        self._free_at_ns = clock.now_ns - self.offset_ns
        deadline_ns = executor.next_deadline_ns()
        if executor.wants_cpu() or self._inbox:
            self._wake(self._free_at_ns)
        elif deadline_ns is not None:
            self._wake(max(self._free_at_ns, deadline_ns - self.offset_ns))

    def _emit(self) -> None:
        """Sends what was said, at the time that it is now for the coproc."""
        outbox = self.outbox
        now_ns = self.clock.now_ns - self.offset_ns
        call_at = self.world.clock.call_at
        for message in outbox.to_router:
            if isinstance(message, LineEdge):
                self.pulses_told += 1
            call_at(now_ns, partial(self._tell_router, message))
        for origin, message in outbox.replies:
            call_at(now_ns, partial(self._reply, origin, message))
        for message in outbox.to_scheduler:
            session = self._schedule_session
            if self._schedule_up:
                call_at(now_ns, partial(self._tell_scheduler, session, message))
        for fault in outbox.faults:
            self.world.note(self.name, "fault", fault)
        for effects in (outbox.to_router, outbox.replies, outbox.to_scheduler, outbox.faults):
            effects.clear()

    def _tell_scheduler(self, session: int, message: Message) -> None:
        # What was said in a session that has ended since is in the Register of the next one.
        if session == self._schedule_session and self.schedule is not None:
            self.world.note(self.name, "-> scheduler", message)
            self.schedule.to_server(message)

    def _tell_router(self, message: Message) -> None:
        sent = self._irq_up and self.irq is not None and self.irq.up
        if isinstance(message, LineEdge):
            if sent:
                self._edges_sent.append(message)
            else:
                self.router_side.keep(message)
        if sent:
            assert self.irq is not None
            self.world.note(self.name, "-> router", message)
            self.irq.to_server(message)

    def _reply(self, session: TrapSession, message: Message) -> None:
        if session.open:
            self.world.note(self.name, "-> driver", session.vcoproc_id, message)
            session.link.to_client(message)
