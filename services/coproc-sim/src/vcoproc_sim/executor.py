"""The executor: who is on the hardware, and how it changes hands.

Theory of operation:
    The scheduler sends grants ahead. The executor holds the turn that runs and the next grant, and
    switches on its own clock: at the end of the slice, when the firmware idles or yields, when the
    vcoproc faults, or at once if the grant says so. It reports afterwards. With no next grant the
    current vcoproc runs on (overtime), and an idle one stays on the hardware until another is
    granted, so that waking it costs nothing.
    A coprocessor that refuses to be left (Busy) goes on running and is asked again, until the
    grant's bound is reached; then it is forced off by reset. One that refuses to take the next one
    in stays empty and is asked again, until the same bound; then the grant is dropped. One that
    fails is quarantined: all its vcoprocs have faulted, and it takes no more grants. The switcher
    does all of that.
    Who must leave, for good or until he is resumed, does so by `vcoproc_sim.departures`.
Invariants (`check_invariants`):
    At most one context is on the hardware, and stage 2 is that context's. Queued writes are done
    before the first instruction. Of every vcoproc that wants to run and is not on the hardware the
    scheduler believes so.
Not handled:
    Choosing: that is the scheduler's. Decoding register accesses: that is the front end's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from vcoproc.errors import AlreadyExists, LimitExceeded, NotFound, PlatformFailure
from vcoproc.wire.messages import EndReason, Grant, LineSync, Message, Register, Vacate
from vcoproc_sim import saving
from vcoproc_sim.departures import Departures, Paused
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.invariants import check_switcher
from vcoproc_sim.platforms.api import ContextSpec, Fault, Platform, StopReason
from vcoproc_sim.saving import VcoprocImage
from vcoproc_sim.switcher import Switcher
from vcoproc_sim.switching import Phase, Turn
from vcoproc_sim.vcoprocs import FaultSeen, Outbox, Vcoproc

BURST_INSTRUCTIONS: Final = 20_000
"""Instructions between two looks at the sockets: 100 to 200 us, and exact slices in its steps.

Times of grants are kept with the same precision: while firmware runs, a turn begins or ends at the
end of the burst in which its time comes; on idle or empty hardware at once.
"""
_JOB_ENDS: Final = (StopReason.IDLE, StopReason.YIELD, StopReason.FAULT)


class Executor:
    """Runs grants on one platform.

    Args:
        coproc: its name.
        outbox: shared with the front end.
        clock: the coproc's clock in nanoseconds, the only one it knows: time also passes inside of
            a step, and each phase of a switch is timed.
        drain_after_ns: how long one that refuses to leave is only asked; then it drains, see
            `vcoproc_sim.switcher`. None: it never does.
    """

    def __init__(
        self,
        coproc: str,
        platform: Platform,
        frontend: FrontEnd,
        outbox: Outbox,
        clock: Callable[[], int],
        drain_after_ns: int | None = None,
    ) -> None:
        self.coproc = coproc
        self.platform = self._platform = platform
        self.outbox = self._outbox = outbox
        self._frontend = frontend
        self._clock = clock
        self._switcher = Switcher(
            coproc,
            platform,
            frontend,
            outbox,
            clock,
            lambda *left: self._departures.has_left(*left),
        )
        self._switcher.drain_after_ns = drain_after_ns
        self._departures = Departures(self._switcher, platform, frontend, outbox, clock)

    @property
    def vcoprocs(self) -> dict[int, Vcoproc]:
        """By id; not to be changed."""
        return self._switcher.vcoprocs

    @property
    def turn(self) -> Turn | None:
        """Who is on the hardware."""
        return self._switcher.turn

    @property
    def phase(self) -> Phase:
        return self._switcher.phase

    @property
    def failure(self) -> str:
        """Why nothing runs any more; empty while all is well."""
        return self._switcher.failure

    @property
    def switch_count(self) -> int:
        """Contexts that were put on the hardware; the switch epoch."""
        return self._switcher.lines.epoch

    # --- life of vcoprocs -------------------------------------------------------------------------

    def attach(
        self, vcoproc_id: int, name: str, spec: ContextSpec, *, paused: bool = False
    ) -> None:
        """Creates the context of a vcoproc; it sleeps.

        Args:
            paused: it stands still until it is resumed.

        Raises:
            AlreadyExists: that number is taken.
            LimitExceeded: the platform takes no more.
            PlatformFailure: the coproc is quarantined.
        """
        if vcoproc_id in self.vcoprocs:
            raise AlreadyExists("vcoproc", str(vcoproc_id))
        if self.failure:
            raise PlatformFailure(self.coproc, self.failure)
        contexts_max = self._platform.info.features.contexts_max
        if len(self.vcoprocs) >= contexts_max:
            raise LimitExceeded(f"vcoprocs of {self.coproc}", contexts_max)
        self._platform.create_context(spec)
        levels = [False] * len(self._platform.info.lines)
        vcoproc = self.vcoprocs[vcoproc_id] = Vcoproc(vcoproc_id, name, spec, levels)
        if paused:
            vcoproc.paused = True
            vcoproc.stand_still(self._clock())
        self._switcher.poke(vcoproc)

    def find(self, vcoproc_id: int) -> Vcoproc:
        """The vcoproc of that number.

        Raises:
            NotFound: there is none.
        """
        vcoproc = self.vcoprocs.get(vcoproc_id)
        if vcoproc is None:
            raise NotFound("vcoproc", str(vcoproc_id))
        return vcoproc

    def detach(
        self,
        vcoproc_id: int,
        deadline_ns: int,
        done: Callable[[bool], None],
        *,
        moved: bool = False,
    ) -> None:
        """Takes a vcoproc off the hardware, at the deadline by force, and forgets it.

        Asked again while it refuses to leave: the tighter deadline counts, and both are told.

        Args:
            deadline_ns: duration, 0 or more.
            done: called when it is gone, with whether force was needed; possibly before this
                returns.
            moved: it lives on elsewhere: what is held is not refused, but left undone.

        Raises:
            NotFound: there is no such vcoproc.
        """
        self._departures.detach(self.find(vcoproc_id), deadline_ns, done, moved=moved)

    def pause(self, vcoproc_id: int, deadline_ns: int, done: Paused) -> None:
        """Takes a vcoproc off the hardware, at the deadline by force, and keeps it off.

        Asked again: the tighter deadline counts, and all are told. Accesses to one that has been
        written down to go on elsewhere are done again.

        Args:
            deadline_ns: duration, 0 or more.
            done: called when it is off, or was resumed first; possibly before this returns.

        Raises:
            NotFound: there is no such vcoproc.
        """
        self._departures.pause(self.find(vcoproc_id), deadline_ns, done)

    def resume(self, vcoproc_id: int) -> None:
        """Lets a paused vcoproc run again, with its timers where they stood. Idempotent.

        Raises:
            NotFound: there is no such vcoproc.
        """
        self._departures.resume(self.find(vcoproc_id))

    def save(self, vcoproc_id: int, edges: Sequence[int], *, moving: bool) -> VcoprocImage:
        """Writes a paused vcoproc down.

        Args:
            edges: lines of it whose edge was not said yet.
            moving: from now on no access to it is done here, until it is resumed or paused again.

        Raises:
            NotFound: there is no such vcoproc.
            WrongState: it is not paused, or has not left the hardware yet.
        """
        return saving.take(self.find(vcoproc_id), self._platform, edges, moving=moving)

    def restore(self, vcoproc_id: int, image: VcoprocImage) -> None:
        """Makes a paused vcoproc what the image says, which is of this platform.

        Raises:
            NotFound, WrongState: as for `save`; nothing has changed.
        """
        switcher, now_ns = self._switcher, self._clock()
        vcoproc = self.find(vcoproc_id)
        saving.put(vcoproc, self._platform, switcher.lines, image)
        if self._platform.is_faulted(vcoproc_id):
            seen = FaultSeen(vcoproc_id, 0, 0, "it had faulted when it was written down")
            switcher.notices.faulted(vcoproc, seen, now_ns)
        self._frontend.thaw(vcoproc, now_ns)
        switcher.poke(vcoproc)

    # --- what comes in ----------------------------------------------------------------------------

    def trap(
        self,
        vcoproc: Vcoproc,
        origin: Any,
        seq: int,
        message: Message,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Serves one message of a driver, see `FrontEnd.request`.

        Args:
            answered: called when the answer, if there is one yet, is in the outbox; the driver need
                not wait for what the access sets off.

        Raises:
            RemoteProtocolError: the message is no access; nothing has changed.
        """
        switcher = self._switcher
        self._frontend.request(
            vcoproc,
            origin,
            seq,
            message,
            on_hardware=switcher.on_hardware(vcoproc),
            now_ns=self._clock(),
        )
        answered()
        switcher.poke(vcoproc)
        if self._frontend.yielded:
            self._frontend.yielded = False
            if switcher.turn is not None and not switcher.turn.idle:
                self._yield(switcher.turn)

    def grant(self, grant: Grant) -> None:
        """Takes a grant; it replaces an order that has not begun."""
        switcher = self._switcher
        switcher.next = grant
        due = self._clock() >= grant.not_before_ns
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        if switcher.failure:
            switcher.drop_next("PLATFORM_FAILURE")
        elif vcoproc is None or vcoproc.removing:
            switcher.drop_next("NOT_FOUND")
        elif due and not switcher.runnable(vcoproc):
            switcher.drop_next("NOT_RUNNABLE")
        else:
            if not due:
                switcher.nobody_next()
            elif switcher.entering is not None:
                switcher.enter_instead(grant)
            elif switcher.leaving is not None and switcher.leaving.turn.vcoproc is vcoproc:
                switcher.stay()
            switcher.consider()

    def vacate(self, order: Vacate) -> None:
        """Takes the order that the current one shall leave for nobody; it replaces a grant."""
        switcher = self._switcher
        switcher.next = order
        switcher.stop_entering()
        switcher.consider()

    def revoke(self, number: int) -> None:
        """Takes an order back if it has not begun; a switch that was under way for it is undone."""
        switcher = self._switcher
        if switcher.next is not None and switcher.next.grant == number:
            switcher.next = None
            switcher.nobody_next()

    def register_message(self) -> Register:
        """What the scheduler must know after a welcome. What it granted before counts no more."""
        switcher = self._switcher
        switcher.next = None
        switcher.entering = None  # untold: it was refused in the session before
        switcher.nobody_next()
        states = []
        for vcoproc in self.vcoprocs.values():
            runnable = switcher.runnable(vcoproc)
            switcher.notices.registered(vcoproc, runnable=runnable)
            faulted = bool(self.failure) or self._platform.is_faulted(vcoproc.id)
            states.append((vcoproc.id, runnable, faulted))
        current = switcher.turn.vcoproc.id if switcher.turn is not None else 0
        return Register(self.coproc, self._clock(), current, tuple(states))

    def line_syncs(self) -> list[LineSync]:
        """What the irq-router must know after a welcome."""
        return [self._switcher.lines.sync(vcoproc) for vcoproc in self.vcoprocs.values()]

    def resample(self, vcoproc_id: int, line: int) -> None:
        """The irq-router asks for the level of a line; of a vcoproc that has gone there is none."""
        vcoproc = self.vcoprocs.get(vcoproc_id)
        if vcoproc is not None:
            self._switcher.lines.resample(vcoproc, line, self._clock())

    # --- time -------------------------------------------------------------------------------------

    def wants_cpu(self) -> bool:
        """Whether `burst` has something to run now."""
        turn = self._switcher.turn
        return turn is not None and not turn.idle

    def next_deadline_ns(self) -> int | None:
        """When `tick` must be called at the latest, on the coproc's clock."""
        deadlines = []
        for vcoproc in self.vcoprocs.values():
            if vcoproc.wake_at_ns is not None:
                deadlines.append(vcoproc.wake_at_ns)
            if vcoproc.held:
                deadlines.append(vcoproc.held[0].deadline_ns)
        due_ns = self._switcher.due_ns
        if due_ns is not None:
            deadlines.append(due_ns)
        return min(deadlines, default=None)

    def tick(self) -> None:
        """Does what has become due: timers of firmware, refusals, deadlines of held accesses."""
        switcher = self._switcher
        now_ns = self._clock()
        for vcoproc in self.vcoprocs.values():
            if vcoproc.wake_at_ns is not None and now_ns >= vcoproc.wake_at_ns:
                vcoproc.wake_at_ns = None
                vcoproc.timer_due = True
                switcher.poke(vcoproc)
            if vcoproc.held and now_ns >= vcoproc.held[0].deadline_ns:
                self._frontend.release(vcoproc, on_hardware=False, now_ns=now_ns)
                switcher.poke(vcoproc)  # what came behind it may have rung or cleared something
        switcher.retry()
        switcher.consider()

    def burst(self) -> None:
        """Runs some instructions of the current vcoproc and acts on how they ended."""
        switcher = self._switcher
        turn = switcher.turn
        assert turn is not None and not turn.idle
        vcoproc = turn.vcoproc
        vcoproc.wake_at_ns = None
        vcoproc.timer_due = False
        result = self._platform.run(BURST_INSTRUCTIONS, self._clock() - vcoproc.behind_ns)
        now_ns = self._clock()
        turn.instructions += result.instructions
        vcoproc.instruction_count += result.instructions
        switcher.lines.edges(vcoproc, now_ns)
        switcher.lines.levels(vcoproc, now_ns, on_hardware=True)
        if result.reason is StopReason.IDLE:
            self._idle(turn, result.wake_after_ns, now_ns)
        elif result.reason is StopReason.FAULT:
            assert result.fault is not None, "a platform says what the fault is"
            self._faulted(turn, result.fault, now_ns)
        elif result.reason is StopReason.YIELD:
            self._yield(turn)
        if result.reason in _JOB_ENDS:
            switcher.job_ended()
        switcher.consider()

    def _idle(self, turn: Turn, wake_after_ns: int | None, now_ns: int) -> None:
        switcher = self._switcher
        turn.stop(now_ns)
        if wake_after_ns is not None:
            turn.vcoproc.wake_at_ns = now_ns + wake_after_ns
        switcher.consider()  # who is granted has the hardware at once
        if switcher.turn is turn and switcher.leaving is None:
            switcher.notices.sleep(turn.vcoproc, now_ns)

    def _faulted(self, turn: Turn, fault: Fault, now_ns: int) -> None:
        turn.stop(now_ns)
        seen = FaultSeen(turn.vcoproc.id, fault.code, fault.address, fault.why)
        self._outbox.faults.append(seen)
        self._switcher.notices.faulted(turn.vcoproc, seen, now_ns)

    def _yield(self, turn: Turn) -> None:
        switcher = self._switcher
        order = switcher.coming(self._clock())
        if not isinstance(order, Grant) or switcher.leaving is not None:
            return
        # If it is granted the next slice itself, there is nobody to yield to.
        if order.vcoproc != turn.vcoproc.id:
            switcher.switch(EndReason.YIELD)

    def check_invariants(self) -> None:
        """Raises InvariantViolation when the state contradicts itself; for tests."""
        check_switcher(self._switcher)
