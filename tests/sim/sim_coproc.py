"""A coproc-sim on virtual time: the real front end and executor, and a loop like the shell's.

A burst takes time: what arrives meanwhile waits until it is over, and what the cores say is sent
when they have said it. The coproc's clock is the simulation's, plus an offset that nobody knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vcoproc.limits import US
from vcoproc.testing.network import SimLink
from vcoproc.wire.messages import Grant, LineEdge, Message, Resample, Revoke, Vacate
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import ContextSpec, Platform
from vcoproc_sim.testing.fake_platform import StepClock
from vcoproc_sim.vcoprocs import Outbox

if TYPE_CHECKING:
    from sim_world import World

ROUND_NS = 1 * US
"""A round of the loop takes at least this."""


class TrapSession:
    """One connection of a driver; the origin of its requests."""

    def __init__(self, vcoproc_id: int, link: SimLink) -> None:
        self.vcoproc_id = vcoproc_id
        self.link = link
        self.received = 0
        self.open = True


class CoprocNode:
    """Runs one platform. link_up: the loop has seen the welcome of that link.

    wrap: makes of the platform the one that is driven; checkers look at the one inside.
    """

    def __init__(
        self,
        world: World,
        name: str,
        make_platform: Callable[[StepClock], Platform],
        wrap: Callable[[Platform, StepClock], Platform] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.offset_ns = world.random.randrange(1 << 40)
        self.clock = StepClock(world.now_ns + self.offset_ns)
        self.platform = make_platform(self.clock)
        self.outbox = Outbox()
        hardware = self.platform if wrap is None else wrap(self.platform, self.clock)
        self.frontend = FrontEnd(hardware, self.outbox)
        self.executor = Executor(name, hardware, self.frontend, self.outbox, self.clock)
        self.schedule: SimLink | None = None
        self.irq: SimLink | None = None
        self.pulses_told = 0
        self.edges_merged = 0
        self._schedule_session = 0
        self._schedule_up = False
        self._irq_up = False
        self._edges_unsaid: dict[tuple[int, int], LineEdge] = {}
        self._edges_sent: deque[LineEdge] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_at_ns: int | None = None
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
        if self._wake_at_ns is None or at_ns < self._wake_at_ns:
            self._wake_at_ns = at_ns
            self.world.clock.call_at(at_ns, lambda: self._round(at_ns))

    def attach(self, vcoproc_id: int, spec: ContextSpec) -> None:
        self.put(lambda: self.executor.attach(vcoproc_id, f"v{vcoproc_id}", spec))

    def detach(self, vcoproc_id: int, deadline_ns: int, done: Callable[[bool], None]) -> None:
        self.put(lambda: self.executor.detach(vcoproc_id, deadline_ns, done))

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
        assert isinstance(message, Resample)
        self.put(lambda: self.executor.resample(message.vcoproc, message.line))

    def irq_is_up(self) -> None:
        def act() -> None:
            self._irq_up = True
            unsaid = [*self._edges_sent, *self._edges_unsaid.values()]
            self._edges_sent.clear()
            self._edges_unsaid.clear()
            self.outbox.to_router[:0] = [*self.executor.line_syncs(), *unsaid]

        self.put(act)

    def irq_is_down(self) -> None:
        def act() -> None:
            self._irq_up = False

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
        session = self._sessions[vcoproc_id]
        session.received += 1
        seq = session.received

        def act() -> None:
            vcoproc = self.executor.vcoprocs.get(vcoproc_id)
            if vcoproc is not None:
                self.executor.trap(vcoproc, session, seq, message)

        self.put(act)

    # --- the loop ---------------------------------------------------------------------------------

    def _round(self, at_ns: int) -> None:
        if self._wake_at_ns != at_ns:
            return  # an earlier call took its place
        self._wake_at_ns = None
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
        clock.now_ns += ROUND_NS
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
            self.world.note(f"{self.name} fault {fault}")
        for effects in (outbox.to_router, outbox.replies, outbox.to_scheduler, outbox.faults):
            effects.clear()

    def _tell_scheduler(self, session: int, message: Message) -> None:
        # What was said in a session that has ended since is in the Register of the next one.
        if session == self._schedule_session and self.schedule is not None:
            self.world.note(f"{self.name} -> scheduler {message}")
            self.schedule.to_server(message)

    def _tell_router(self, message: Message) -> None:
        sent = self._irq_up and self.irq is not None and self.irq.up
        if isinstance(message, LineEdge):
            if sent:
                self._edges_sent.append(message)
            elif (message.vcoproc, message.line) in self._edges_unsaid:
                self.edges_merged += 1
            else:
                self._edges_unsaid[message.vcoproc, message.line] = message
        if sent:
            assert self.irq is not None
            self.world.note(f"{self.name} -> router {message}")
            self.irq.to_server(message)

    def _reply(self, session: TrapSession, message: Message) -> None:
        if session.open:
            self.world.note(f"{self.name} -> driver {session.vcoproc_id} {message}")
            session.link.to_client(message)
