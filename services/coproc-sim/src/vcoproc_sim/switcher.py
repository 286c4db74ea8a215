"""The switcher: how the hardware changes hands.

Theory of operation:
    Asked by the executor, it ends turns and begins others: save, stage 2, restore, queued writes,
    report. Everything that the hardware may answer meanwhile (Busy, Failed) is a state here, and
    nothing blocks.
    One that refuses to leave climbs a ladder. It runs on and is asked again when it said. After
    `drain_after_ns` it drains: the platform is told that it shall begin nothing new, and it is
    asked at the end of its job (it idles or yields). At the bound of the refusal its context is
    saved by force, if the platform can do that, or else it is reset.
    Hardware that refuses to take one in stays empty, and is asked again for that one until the
    bound; then its grant is dropped. It is that one's refusal: it pays, and if another one is
    granted meanwhile, that one is tried at once and with a bound of its own.
Invariants:
    A switch that is under way has somebody to come, or somebody who must go: he is destroyed or
    paused, his turn is over, or the hardware is to be vacated. The bound of a refusal to leave is
    counted from its beginning, whoever is granted meanwhile. Every refusal to take one in is told,
    whatever comes of it: with its turn, or with the grant that comes to nothing.
Not handled:
    Running instructions, and who is granted what: the executor and the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vcoproc.errors import PlatformFailure, SwitchTimeout
from vcoproc.limits import (
    REFUSALS_MAX,
    SWITCH_DEADLINE_NS,
    SWITCH_IN_NS_MIN,
    SWITCH_RETRY_NS_MAX,
    SWITCH_RETRY_NS_MIN,
    US,
)
from vcoproc.wire.messages import EndReason, Grant, Vacate
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.lines import LineWatch
from vcoproc_sim.notices import Notices
from vcoproc_sim.platforms.api import Busy, Done, Failed, Platform
from vcoproc_sim.switching import Entered, Entering, Leaving, Left, Phase, Turn
from vcoproc_sim.vcoprocs import COPROC_FAILED_CODE, FORCED_CODE, FaultSeen, Outbox, Vcoproc


class Switcher:
    """Holds the turn on the hardware and the next grant.

    Args:
        vcoprocs: the executor's, by id.
        gone: called when a vcoproc with `removing` or `paused` has left, with whether force was
            needed.
    """

    def __init__(
        self,
        coproc: str,
        platform: Platform,
        frontend: FrontEnd,
        outbox: Outbox,
        clock: Callable[[], int],
        gone: Callable[[Vcoproc, bool], None],
    ) -> None:
        self.vcoprocs: dict[int, Vcoproc] = {}
        self.turn: Turn | None = None
        self.next: Grant | Vacate | None = None
        """The last order, not begun yet; see also `coming`."""
        self.leaving: Leaving | None = None
        self.entering: Entering | None = None
        self.failure = ""
        """Why nothing runs any more; empty while all is well."""
        self.drain_after_ns: int | None = None
        """How long one that refuses to leave is only asked; None: until it is forced."""
        self.lines = LineWatch(platform, outbox)
        self.notices = Notices(outbox)
        self._coproc = coproc
        self._platform = platform
        self._frontend = frontend
        self._outbox = outbox
        self._clock = clock
        self._gone = gone

    @property
    def phase(self) -> Phase:
        if self.failure:
            return Phase.FAILED
        if self.leaving is not None:
            return Phase.LEAVING
        if self.entering is not None:
            return Phase.ENTERING
        return Phase.EMPTY if self.turn is None else Phase.RESIDENT

    @property
    def due_ns(self) -> int | None:
        """When `retry` and `consider` are to be called; while firmware runs they are anyway."""
        turn, order = self.turn, self.next
        under_way = self.leaving or self.entering
        dues = [under_way.due_ns] if under_way is not None else []
        if isinstance(order, Grant) and order.until_ns:
            dues.append(order.until_ns)
        if under_way is None and (turn is None or turn.idle):
            if turn is not None and turn.until_ns:
                dues.append(turn.until_ns)
            if isinstance(order, Grant) and order.not_before_ns:
                dues.append(order.not_before_ns)
        return min(dues, default=None)

    @property
    def now_ns(self) -> int:
        return self._clock()

    def coming(self, now_ns: int) -> Grant | Vacate | None:
        """The next order, if its time has come; until then it is as if it were not there."""
        order = self.next
        if isinstance(order, Grant) and now_ns < order.not_before_ns:
            return None
        return order

    def must_go(self, leaving: Leaving, now_ns: int) -> bool:
        """Whether the one that leaves does so even if nobody comes."""
        return leaving.end is EndReason.REMOVED or leaving.turn.is_over(now_ns)

    # --- who wants to run -------------------------------------------------------------------------

    def on_hardware(self, vcoproc: Vcoproc) -> bool:
        return self.turn is not None and self.turn.vcoproc is vcoproc

    def poke(self, vcoproc: Vcoproc) -> None:
        """Looks whether a vcoproc's wish to run or its lines changed: after accesses and timers."""
        turn = self.turn
        now_ns = self._clock()
        if turn is None or turn.vcoproc is not vcoproc:
            self.lines.levels(vcoproc, now_ns, on_hardware=False)
            if self.runnable(vcoproc):
                self.notices.wake(vcoproc, now_ns, resumed=False)
            elif self.entering is not None and self.entering.grant.vcoproc == vcoproc.id:
                self.drop_next("NOT_RUNNABLE")  # the hardware is empty for nobody
            return
        self.lines.edges(vcoproc, now_ns)
        self.lines.levels(vcoproc, now_ns, on_hardware=True)
        if turn.idle and (vcoproc.timer_due or self._platform.wants_to_run()):
            turn.resume(now_ns)
            if not vcoproc.paused:  # else it is only that it refuses to leave
                self.notices.wake(vcoproc, now_ns, resumed=True)

    def runnable(self, vcoproc: Vcoproc) -> bool:
        """Whether it would execute something, if it were on the hardware."""
        if self.failure or vcoproc.removing or vcoproc.paused:
            return False
        if self.turn is not None and self.turn.vcoproc is vcoproc:
            return not self.turn.idle
        if vcoproc.replay or vcoproc.held or vcoproc.timer_due:
            return True
        return self._platform.shadow_wants_to_run(vcoproc.id)

    # --- giving the hardware to the next one ------------------------------------------------------

    def consider(self) -> None:
        """Begins a switch if it is time for one."""
        now_ns = self._clock()
        self._drop_late(now_ns)
        order, turn = self.coming(now_ns), self.turn
        if self.leaving is not None or self.entering is not None:
            return
        if turn is None:
            if isinstance(order, Grant):
                self._enter(None)
            elif order is not None:
                self.drop_next("EMPTY")
            return
        over = turn.is_over(now_ns)
        if order is None and not over:
            return
        if turn.idle:
            faulted = self._platform.is_faulted(turn.vcoproc.id)
            self.switch(EndReason.FAULT if faulted else EndReason.IDLE)
        elif over or now_ns - turn.slice_began_ns >= turn.slice_ns:
            self.switch(EndReason.SLICE)
        elif order is not None and order.now:
            self.switch(EndReason.PREEMPTED)

    def switch(self, end: EndReason) -> None:
        """Gives the hardware to the next one, if that one can run, or to nobody if that is due."""
        turn, now_ns = self.turn, self._clock()
        assert turn is not None and self.leaving is None
        order = self.coming(now_ns)
        refusal_ns = turn.refusal_ns if order is None else order.refusal_ns
        if isinstance(order, Grant):
            vcoproc = self.vcoprocs[order.vcoproc]
            if not self.runnable(vcoproc):
                self.drop_next("NOT_RUNNABLE")
                if not turn.is_over(now_ns):
                    return
            elif vcoproc is turn.vcoproc:
                # A turn ends and another begins without a switch.
                self.next = None
                turn.stop(now_ns)
                self.turn = Turn.begin(order, vcoproc, now_ns)
                self._end_switch(Left(turn, EndReason.SLICE, now_ns), Entered(self.turn), now_ns)
                return
        self.leave(end, min(refusal_ns, SWITCH_DEADLINE_NS))

    def retry(self) -> None:
        """Asks a refusing coprocessor again, if it is time."""
        now_ns = self._clock()
        self._drop_late(now_ns)
        under_way = self.leaving or self.entering
        if under_way is None or now_ns < under_way.due_ns:
            return
        if self.leaving is not None:
            self._try_leave(self.leaving, now_ns)
        else:
            self._enter(None)

    def _drop_late(self, now_ns: int) -> None:
        """A grant whose turn would be over before it began comes to nothing."""
        order = self.next
        if isinstance(order, Grant) and order.until_ns:
            began_ns = max(now_ns, order.not_before_ns)
            if began_ns >= order.until_ns:
                self.drop_next("LATE")

    # --- leaving ----------------------------------------------------------------------------------

    def leave(self, end: EndReason, refusal_ns: int) -> None:
        """Tells the current one to leave; after `refusal_ns` it is forced."""
        assert self.turn is not None
        now_ns = self._clock()
        self.leaving = Leaving(self.turn, end, now_ns, now_ns + refusal_ns)
        if self.drain_after_ns is not None:
            self.leaving.drain_at_ns = now_ns + self.drain_after_ns
        self._try_leave(self.leaving, now_ns)

    def job_ended(self) -> None:
        """The firmware idles or yields: one that drains is asked now."""
        if self.leaving is not None and self.leaving.draining:
            self._try_leave(self.leaving, self._clock())

    def _is_let_off(self, leaving: Leaving, now_ns: int) -> bool:
        """Whether nobody wants it to leave any more; then that is undone."""
        order = self.coming(now_ns)
        if isinstance(order, Grant) and leaving.end is not EndReason.REMOVED:
            vcoproc = self.vcoprocs[order.vcoproc]
            if not self.runnable(vcoproc):
                # It fell asleep while this one refused: nobody is to come, so nobody has to go.
                self.drop_next("NOT_RUNNABLE")
            elif vcoproc is leaving.turn.vcoproc:
                self.stay()
                self.consider()
        return self.leaving is not leaving

    def _try_leave(self, leaving: Leaving, now_ns: int) -> None:
        if self._is_let_off(leaving, now_ns):
            return
        assert self.coming(now_ns) is not None or self.must_go(leaving, now_ns)
        vcoproc = leaving.turn.vcoproc
        result = self._platform.switch_from(vcoproc.id)
        if isinstance(result, Failed):
            self._fail(result.why)
            return
        forced = False
        if isinstance(result, Busy):
            if now_ns < leaving.deadline_ns and leaving.refusals < REFUSALS_MAX:
                leaving.refusals += 1
                leaving.retry_at_ns = now_ns + _retry_ns(result)
                self._drain(leaving, now_ns)
                return
            forced = not self._saved_by_force(leaving)
            if forced:
                self._platform.force_off(vcoproc.id)
        done_ns = self._clock()
        leaving.turn.stop(now_ns)
        self._off(vcoproc, done_ns)
        left = Left(
            leaving.turn,
            leaving.end,
            ended_ns=leaving.since_ns,
            refused_ns=now_ns - leaving.since_ns,
            refusals=leaving.refusals,
            forced=forced,
            save_ns=done_ns - now_ns,
        )
        if left.forced:
            self._forced(left)
        if isinstance(self.coming(done_ns), Grant):
            self._enter(left)
        else:
            self._stay_empty(left)

    def _drain(self, leaving: Leaving, now_ns: int) -> None:
        if leaving.draining or leaving.drain_at_ns is None or now_ns < leaving.drain_at_ns:
            return
        leaving.draining = True
        drain: Any = getattr(self._platform, "drain", None)  # see `platforms.api.Draining`
        if drain is not None:
            drain(leaving.turn.vcoproc.id)

    def _saved_by_force(self, leaving: Leaving) -> bool:
        """Whether the context of one that refuses could be saved nevertheless."""
        force_save: Any = getattr(self._platform, "force_save", None)
        if force_save is None or leaving.turn.vcoproc.removing:  # what for?
            return False
        return isinstance(force_save(leaving.turn.vcoproc.id), Done)

    def _off(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """The hardware is free. What rises on a line from now on is not this vcoproc's."""
        self.turn = None
        self.leaving = None
        self.lines.edges(vcoproc, now_ns)
        self.lines.levels(vcoproc, now_ns, on_hardware=False)

    def _forced(self, left: Left) -> None:
        vcoproc = left.turn.vcoproc
        vcoproc.wake_at_ns = None  # the reset has stopped its timers
        vcoproc.timer_due = False
        if vcoproc.removing:
            return
        why = f"forced off: it refused to leave for {left.refused_ns // US} us"
        seen = FaultSeen(vcoproc.id, FORCED_CODE, 0, why)
        self._outbox.faults.append(seen)
        if self._platform.is_faulted(vcoproc.id):
            self.notices.faulted(vcoproc, seen, left.left_ns)

    # --- entering ---------------------------------------------------------------------------------

    def _enter(self, left: Left | None) -> None:
        """Puts the next one on the empty hardware. left: who has just left it, not reported yet."""
        grant = self.next
        assert isinstance(grant, Grant) and self.turn is None
        vcoproc = self.vcoprocs[grant.vcoproc]
        if not self.runnable(vcoproc):
            self._stay_empty(left)
            self.drop_next("NOT_RUNNABLE")
            return
        # Each phase begins where the one before it ended, so that together they are the whole time.
        began_ns = self._clock() if left is None else left.left_ns
        if grant.until_ns and began_ns >= grant.until_ns:
            self._stay_empty(left)
            self.drop_next("LATE")
            return
        self._platform.set_stage2(vcoproc.id)
        mapped_ns = self._clock()
        result = self._platform.switch_to(vcoproc.id)
        if isinstance(result, Failed):
            self._stay_empty(left)
            self._fail(result.why)
        elif isinstance(result, Busy):
            self._stay_empty(left)
            self._wait_to_enter(grant, began_ns, result)
        else:
            self._on(left, grant, began_ns, mapped_ns)

    def _on(self, left: Left | None, grant: Grant, began_ns: int, mapped_ns: int) -> None:
        """The hardware has taken the next one in: its turn begins."""
        vcoproc = self.vcoprocs[grant.vcoproc]
        entering, self.entering = self.entering, None
        self.next = None
        self.lines.epoch = self.lines.epoch + 1 & 0xFFFF_FFFF
        touched = bool(vcoproc.replay or vcoproc.held)
        self._frontend.replay(vcoproc)
        self._frontend.release(vcoproc, on_hardware=True, now_ns=mapped_ns)
        self._frontend.yielded = False  # said long ago, by an access that was held
        now_ns = self._clock()
        turn = self.turn = Turn.begin(grant, vcoproc, now_ns)
        self.lines.edges(vcoproc, now_ns)  # a platform may say so that it is back
        if touched:
            self.lines.levels(vcoproc, now_ns, on_hardware=True)
        entered = Entered(
            turn,
            mmu_ns=mapped_ns - began_ns,
            restore_ns=now_ns - mapped_ns,
            refused_ns=began_ns - entering.since_ns if entering is not None else 0,
            refusals=entering.refusals if entering is not None else 0,
        )
        self._end_switch(left, entered, began_ns)
        if turn.is_over(now_ns):  # restoring it took until then: it runs nothing
            self.consider()

    def _stay_empty(self, left: Left | None) -> None:
        self._platform.set_stage2(None)
        if left is not None:
            self._end_switch(left, None, 0)

    def _wait_to_enter(self, grant: Grant, began_ns: int, busy: Busy) -> None:
        entering = self.entering
        if entering is None:
            bound_ns = min(max(grant.refusal_ns, SWITCH_IN_NS_MIN), SWITCH_DEADLINE_NS)
            entering = self.entering = Entering(grant, began_ns, began_ns + bound_ns)
        entering.refusals += 1
        now_ns = self._clock()
        if now_ns < entering.deadline_ns:
            entering.retry_at_ns = now_ns + _retry_ns(busy)
        else:
            self.drop_next(SwitchTimeout.reason)

    def enter_instead(self, grant: Grant) -> None:
        """The next grant is another one than before, while the hardware refuses."""
        assert self.entering is not None
        if self.entering.grant.vcoproc == grant.vcoproc:
            self.entering.grant = grant
        else:
            self.stop_entering()

    def stop_entering(self) -> None:
        """Nobody waits any more for hardware that refuses to take him in, if anybody did."""
        entering, self.entering = self.entering, None
        if entering is not None:
            self.notices.dropped(entering.grant, "REPLACED", self._clock(), entering=entering)

    def _end_switch(self, left: Left | None, entered: Entered | None, at_ns: int) -> None:
        runnable = left is not None and self.runnable(left.turn.vcoproc)
        vacate = 0
        if isinstance(self.next, Vacate) and entered is None:  # whyever it has left
            vacate, self.next = self.next.grant, None
        self.notices.report(left, entered, runnable=runnable, at_ns=at_ns, vacate=vacate)
        if left is not None and (left.turn.vcoproc.removing or left.turn.vcoproc.paused):
            self._gone(left.turn.vcoproc, left.forced)

    # --- what comes to nothing --------------------------------------------------------------------

    def drop_next(self, why: str) -> None:
        """The next grant comes to nothing; the scheduler is told, and what holds instead."""
        grant, self.next = self.next, None
        assert grant is not None
        now_ns = self._clock()
        if isinstance(grant, Vacate):
            self.notices.nobody_to_vacate(grant, now_ns)
            return
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        if vcoproc is not None and (why == "LATE" or self.on_hardware(vcoproc)):
            vcoproc = None  # the scheduler knows what that one does
        entering = self.entering
        if entering is not None and entering.grant.vcoproc == grant.vcoproc:
            self.entering = None
        else:
            entering = None
        self.notices.dropped(grant, why, now_ns, vcoproc=vcoproc, entering=entering)
        # The scheduler takes it for asleep now; if it is not, it must be told again.
        if vcoproc is not None and self.runnable(vcoproc):
            self.notices.wake(vcoproc, now_ns, resumed=False)
        self.nobody_next()

    def nobody_next(self) -> None:
        """A switch that was under way is undone, unless the one that leaves must go."""
        self.stop_entering()
        if self.leaving is not None and not self.must_go(self.leaving, self._clock()):
            self.stay()

    def stay(self) -> None:
        """The one that refuses to leave may stay."""
        assert self.leaving is not None
        turn, self.leaving = self.leaving.turn, None
        self._platform.cancel_switch(turn.vcoproc.id)
        if turn.idle:
            self.notices.sleep(turn.vcoproc, self._clock())

    def _fail(self, why: str) -> None:
        """The coprocessor is quarantined: nothing of it runs again."""
        now_ns = self._clock()
        turn = self.turn
        self.failure = why
        error = self._frontend.failure = PlatformFailure(self._coproc, why)
        if turn is not None:
            turn.stop(now_ns)
            self._platform.force_off(turn.vcoproc.id)  # the last thing to try
            self._off(turn.vcoproc, now_ns)
            self._stay_empty(Left(turn, EndReason.FAULT, now_ns, forced=True))
        if self.next is not None:
            self.drop_next("PLATFORM_FAILURE")
        self._outbox.faults.append(FaultSeen(0, COPROC_FAILED_CODE, 0, why))
        for vcoproc in self.vcoprocs.values():
            vcoproc.wake_at_ns = None
            vcoproc.replay.clear()
            self._frontend.abandon(vcoproc, error)
            seen = FaultSeen(vcoproc.id, COPROC_FAILED_CODE, 0, why)
            self.notices.faulted(vcoproc, seen, now_ns)


def _retry_ns(busy: Busy) -> int:
    return max(SWITCH_RETRY_NS_MIN, min(busy.retry_after_ns, SWITCH_RETRY_NS_MAX))
