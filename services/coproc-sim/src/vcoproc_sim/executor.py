"""The executor: who is on the hardware, and how it changes hands.

Theory of operation:
    The scheduler sends grants ahead. The executor holds the turn that runs and the next grant, and
    switches on its own clock: at the end of the slice, when the firmware idles or yields, when the
    vcoproc faults, or at once if the grant says so. It reports afterwards. With no next grant the
    current vcoproc runs on (overtime), and an idle one stays on the hardware until another is
    granted, so that waking it costs nothing.
    A coprocessor that refuses to be switched (Busy) goes on running and is asked again, until the
    grant's bound is reached; then it is forced off by reset.
Invariants:
    At most one context is on the hardware, and stage 2 is that context's. Queued writes are replayed
    before the first instruction. A wake is told to the scheduler exactly when a vcoproc that it
    believes not runnable becomes runnable.
Not handled:
    Choosing: that is the scheduler's. Decoding register accesses: that is the front end's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vcoproc.errors import AlreadyExists, InvariantViolation, LimitExceeded, NotFound
from vcoproc.limits import SWITCH_DEADLINE_NS, SWITCH_RETRY_NS_MIN, US
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    LineEdge,
    LineLevel,
    LineSync,
    Message,
    Register,
    Report,
    Sleep,
    Wake,
)

from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import (
    Busy,
    ContextSpec,
    Done,
    Failed,
    Platform,
    RunResult,
    StopReason,
    Trigger,
)
from vcoproc_sim.vcoprocs import FaultSeen, Outbox, Vcoproc

BURST_INSTRUCTIONS: Final = 20_000
"""Instructions between two looks at the sockets: 100 to 200 us, and exact slices in its steps."""
FORCED_CODE: Final = 16
"""FAULT_STATUS of a vcoproc that was forced off."""


class Phase(enum.Enum):
    EMPTY = "empty"
    """Nobody is on the hardware."""
    RESIDENT = "resident"
    """A context is on it, running or idle."""
    LEAVING = "leaving"
    """It was told to leave and refuses; it runs on meanwhile."""
    ENTERING = "entering"
    """The next one was told to enter and the hardware is not ready."""
    FAILED = "failed"
    """The hardware cannot be switched any more."""


@dataclass(slots=True)
class Turn:
    """One stay on the hardware. slice_began_ns moves when a new slice begins without a switch."""

    grant: int
    vcoproc: Vcoproc
    slice_ns: int
    slice_began_ns: int
    ran_ns: int = 0
    resumed_ns: int = 0
    idle: bool = False
    instructions: int = 0


@dataclass(slots=True)
class Leaving:
    """A switch in progress: since when, why, how often refused, when to ask again."""

    since_ns: int
    end: EndReason
    deadline_ns: int
    refusals: int = 0
    retry_at_ns: int = 0
    forced: bool = False
    save_ns: int = 0
    left_ns: int = 0
    refused_ns: int = 0
    vcoproc: Vcoproc | None = None
    turn: Turn | None = None


class Executor:
    """Runs grants on one platform.

    Args:
        coproc: its name.
        clock: the coproc's clock in nanoseconds; times the phases of a switch.
        outbox: shared with the front end.
    """

    def __init__(
        self,
        coproc: str,
        platform: Platform,
        frontend: FrontEnd,
        outbox: Outbox,
        clock: Callable[[], int],
    ) -> None:
        self.coproc = coproc
        self.phase = Phase.EMPTY
        self.vcoprocs: dict[int, Vcoproc] = {}
        self.turn: Turn | None = None
        self.switch_count = 0
        self.failure = ""
        self._platform = platform
        self._frontend = frontend
        self._outbox = outbox
        self._clock = clock
        self._next: Grant | None = None
        self._leaving: Leaving | None = None
        self._removing: dict[int, Callable[[bool], None]] = {}
        info = platform.info
        self._level_lines = [
            (
                number,
                info.index_of[line.status],
                info.index_of[line.enable] if line.enable else None,
            )
            for number, line in enumerate(info.lines)
            if line.trigger is Trigger.LEVEL
        ]

    # --- life of vcoprocs -------------------------------------------------------------------------

    def attach(self, vcoproc_id: int, name: str, spec: ContextSpec) -> None:
        """Creates the context of a vcoproc; it sleeps.

        Raises:
            AlreadyExists: that number is taken.
            LimitExceeded: the platform takes no more.
        """
        if vcoproc_id in self.vcoprocs:
            raise AlreadyExists("vcoproc", str(vcoproc_id))
        contexts_max = self._platform.info.features.contexts_max
        if len(self.vcoprocs) >= contexts_max:
            raise LimitExceeded(f"vcoprocs of {self.coproc}", contexts_max)
        self._platform.create_context(spec)
        levels = [False] * len(self._platform.info.lines)
        self.vcoprocs[vcoproc_id] = Vcoproc(vcoproc_id, name, spec, levels)

    def detach(
        self, vcoproc_id: int, deadline_ns: int, done: Callable[[bool], None], now_ns: int
    ) -> None:
        """Takes a vcoproc off the hardware, at the deadline by force, and forgets it.

        Args:
            deadline_ns: duration, 0 or more.
            done: called when it is gone, with whether force was needed; possibly before this
                returns.

        Raises:
            NotFound: there is no such vcoproc.
        """
        vcoproc = self.vcoprocs.get(vcoproc_id)
        if vcoproc is None:
            raise NotFound("vcoproc", str(vcoproc_id))
        if self._next is not None and self._next.vcoproc == vcoproc_id:
            self._drop_next("REMOVED", now_ns)
        self._removing[vcoproc_id] = done
        if self.turn is not None and self.turn.vcoproc is vcoproc:
            if self._leaving is None:
                self._leave(EndReason.REMOVED, now_ns, deadline_ns)
            else:  # it refuses already: this bound counts if it is the tighter one
                self._leaving.end = EndReason.REMOVED
                self._leaving.deadline_ns = min(self._leaving.deadline_ns, now_ns + deadline_ns)
        elif not (self._leaving is not None and self._leaving.vcoproc is vcoproc):
            self._forget(vcoproc, forced=False)

    def _forget(self, vcoproc: Vcoproc, *, forced: bool) -> None:
        self._frontend.abandon(vcoproc, "it is being destroyed")
        del self.vcoprocs[vcoproc.id]
        self._platform.destroy_context(vcoproc.id)
        self._removing.pop(vcoproc.id)(forced)

    # --- what comes in ----------------------------------------------------------------------------

    def on_hardware(self, vcoproc: Vcoproc) -> bool:
        return self.turn is not None and self.turn.vcoproc is vcoproc

    def grant(self, grant: Grant, now_ns: int) -> None:
        """Takes a grant; it replaces one that has not begun."""
        if self.phase is Phase.FAILED:
            self._dropped(grant, "PLATFORM_FAILURE", now_ns)
            return
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        if vcoproc is None or vcoproc.id in self._removing:
            self._dropped(grant, "NOT_FOUND", now_ns)
            return
        if not self._runnable(vcoproc):
            self._dropped(grant, "NOT_RUNNABLE", now_ns)
            return
        self._next = grant
        leaving, turn = self._leaving, self.turn
        if leaving is not None and turn is not None and turn.vcoproc is vcoproc:
            if leaving.end is not EndReason.REMOVED:
                self._cancel_leaving(turn, now_ns)
        self.consider(now_ns)

    def revoke(self, number: int, now_ns: int) -> None:
        """Takes a grant back if it has not begun; a switch that was under way for it is undone."""
        if self._next is None or self._next.grant != number:
            return
        self._next = None
        leaving = self._leaving
        if self.phase is Phase.LEAVING and leaving is not None and self.turn is not None:
            if leaving.end is not EndReason.REMOVED:
                self._cancel_leaving(self.turn, now_ns)
        elif self.phase is Phase.ENTERING:
            self._finish_switch(None, 0, 0)

    def _cancel_leaving(self, turn: Turn, now_ns: int) -> None:
        self._platform.cancel_switch(turn.vcoproc.id)
        self._leaving = None
        self.phase = Phase.RESIDENT
        if turn.idle and turn.vcoproc.told_runnable:
            turn.vcoproc.told_runnable = False
            self._outbox.to_scheduler.append(Sleep(turn.vcoproc.id, now_ns))

    def register_message(self, now_ns: int) -> Register:
        """What the scheduler must know after a welcome. What it granted before counts no more."""
        self._next = None
        states = []
        for vcoproc in self.vcoprocs.values():
            vcoproc.told_runnable = self._runnable(vcoproc)
            faulted = self._platform.is_faulted(vcoproc.id)
            states.append((vcoproc.id, vcoproc.told_runnable, faulted))
        current = self.turn.vcoproc.id if self.turn is not None else 0
        return Register(self.coproc, now_ns, current, tuple(states))

    def line_syncs(self) -> list[Message]:
        """What the irq-router must know after a welcome."""
        return [
            LineSync(
                vcoproc.id,
                sum(1 << number for number, high in enumerate(vcoproc.levels) if high),
                self.switch_count,
            )
            for vcoproc in self.vcoprocs.values()
        ]

    # --- time -------------------------------------------------------------------------------------

    def wants_cpu(self) -> bool:
        """Whether `burst` has something to run now."""
        turn = self.turn
        return (
            turn is not None
            and not turn.idle
            and (self.phase is Phase.RESIDENT or self.phase is Phase.LEAVING)
        )

    def next_deadline_ns(self) -> int | None:
        """When `tick` must be called at the latest, on the coproc's clock."""
        deadlines = [
            vcoproc.wake_at_ns
            for vcoproc in self.vcoprocs.values()
            if vcoproc.wake_at_ns is not None
        ]
        deadlines += [
            vcoproc.held[0].deadline_ns for vcoproc in self.vcoprocs.values() if vcoproc.held
        ]
        if self._leaving is not None:
            deadlines.append(min(self._leaving.retry_at_ns, self._leaving.deadline_ns))
        return min(deadlines, default=None)

    def tick(self, now_ns: int) -> None:
        """Does what has become due: timers of firmware, refusals, deadlines of held accesses."""
        for vcoproc in self.vcoprocs.values():
            if vcoproc.wake_at_ns is not None and now_ns >= vcoproc.wake_at_ns:
                vcoproc.wake_at_ns = None
                vcoproc.timer_due = True
                self.poke(vcoproc, now_ns)
            if vcoproc.held and now_ns >= vcoproc.held[0].deadline_ns > 0:
                self._frontend.release(
                    vcoproc, on_hardware=self.on_hardware(vcoproc), now_ns=now_ns
                )
        leaving = self._leaving
        if leaving is not None and now_ns >= min(leaving.retry_at_ns, leaving.deadline_ns):
            if self.phase is Phase.LEAVING:
                self._try_leave(now_ns)
            elif self.phase is Phase.ENTERING:
                self._try_enter(now_ns)
        self.consider(now_ns)

    def burst(self, now_ns: int) -> None:
        """Runs some instructions of the current vcoproc and acts on how they ended."""
        turn = self.turn
        assert turn is not None and not turn.idle
        turn.vcoproc.wake_at_ns = None
        turn.vcoproc.timer_due = False
        result = self._platform.run(BURST_INSTRUCTIONS, now_ns)
        now_ns = self._clock()
        turn.instructions += result.instructions
        turn.vcoproc.instruction_count += result.instructions
        self._edges(turn.vcoproc, now_ns)
        if result.reason is not StopReason.BUDGET:
            self._levels(turn.vcoproc, now_ns)
            self._stopped(turn, result, now_ns)
        self.consider(now_ns)

    def _stopped(self, turn: Turn, result: RunResult, now_ns: int) -> None:
        vcoproc = turn.vcoproc
        match result.reason:
            case StopReason.IDLE | StopReason.FAULT:
                turn.idle = True
                turn.ran_ns += now_ns - turn.resumed_ns
                if result.wake_after_ns is not None:
                    vcoproc.wake_at_ns = now_ns + result.wake_after_ns
                if result.fault is not None:
                    fault = result.fault
                    vcoproc.replay.clear()
                    self._frontend.abandon(vcoproc, fault.why)
                    vcoproc.told_runnable = False
                    self._outbox.to_scheduler.append(
                        Faulted(vcoproc.id, fault.code, fault.address, fault.why[:1000], now_ns)
                    )
                    self._outbox.faults.append(
                        FaultSeen(vcoproc.id, fault.code, fault.address, fault.why)
                    )
                if not self._leave_for_next(now_ns) and result.fault is None:
                    vcoproc.told_runnable = False
                    self._outbox.to_scheduler.append(Sleep(vcoproc.id, now_ns))
            case StopReason.YIELD:
                if self._next is not None and self._leaving is None:
                    self._leave(EndReason.YIELD, now_ns, self._refusal_ns())
            case StopReason.BUDGET | StopReason.ATTENTION:
                pass

    def _leave_for_next(self, now_ns: int) -> bool:
        """An idle or faulted vcoproc makes room at once, if somebody is to come."""
        if self._next is None or self._leaving is not None:
            return self._leaving is not None
        self.consider(now_ns)
        return self.turn is None or self._leaving is not None or not self.turn.idle

    # --- wakes and lines --------------------------------------------------------------------------

    def poke(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """Looks whether a vcoproc's wish to run or its lines changed: after accesses and timers."""
        self._levels(vcoproc, now_ns)
        turn = self.turn
        if turn is not None and turn.vcoproc is vcoproc:
            if turn.idle and (vcoproc.timer_due or self._platform.wants_to_run()):
                turn.idle = False
                # A new slice: the one before ended with the sleep.
                turn.slice_began_ns = turn.resumed_ns = now_ns
                vcoproc.told_runnable = True
                self._outbox.to_scheduler.append(Wake(vcoproc.id, now_ns, True))
            return
        if not vcoproc.told_runnable and self._runnable(vcoproc):
            vcoproc.told_runnable = True
            self._outbox.to_scheduler.append(Wake(vcoproc.id, now_ns, False))

    def _runnable(self, vcoproc: Vcoproc) -> bool:
        if self.turn is not None and self.turn.vcoproc is vcoproc:
            return not self.turn.idle
        if vcoproc.replay or vcoproc.held or vcoproc.timer_due:
            return True
        return self._platform.shadow_wants_to_run(vcoproc.id)

    def _levels(self, vcoproc: Vcoproc, now_ns: int) -> None:
        resident = self.turn is not None and self.turn.vcoproc is vcoproc
        for number, status, enable in self._level_lines:
            if resident:
                value = self._platform.read(status)
                if enable is not None:
                    value &= self._platform.read(enable)
            else:
                value = vcoproc.shadow[status]
                if enable is not None:
                    value &= vcoproc.shadow[enable]
            high = value != 0
            if high != vcoproc.levels[number]:
                vcoproc.levels[number] = high
                self._outbox.to_router.append(
                    LineLevel(vcoproc.id, number, high, self.switch_count, now_ns)
                )

    def _edges(self, vcoproc: Vcoproc, now_ns: int) -> None:
        for number in self._platform.take_edges():
            self._outbox.to_router.append(LineEdge(vcoproc.id, number, self.switch_count, now_ns))

    # --- switching --------------------------------------------------------------------------------

    def consider(self, now_ns: int) -> None:
        """Begins a switch if it is time for one."""
        if self._next is None or self._leaving is not None or self.phase is Phase.FAILED:
            return
        grant = self._next
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        turn = self.turn
        if turn is None:
            if vcoproc is None or not self._runnable(vcoproc):
                self._drop_next("NOT_RUNNABLE", now_ns)
                return
            self._leaving = Leaving(now_ns, EndReason.IDLE, now_ns + SWITCH_DEADLINE_NS)
            self._leaving.left_ns = now_ns
            self._try_enter(now_ns)
            return
        over = now_ns - turn.slice_began_ns >= turn.slice_ns
        if not (grant.now or turn.idle or over):
            return
        if vcoproc is turn.vcoproc:
            if turn.idle:
                self._drop_next("NOT_RUNNABLE", now_ns)
            else:
                self._renew(grant, turn, now_ns)
            return
        if vcoproc is None or not self._runnable(vcoproc):
            self._drop_next("NOT_RUNNABLE", now_ns)
            return
        if turn.idle:
            faulted = self._platform.is_faulted(turn.vcoproc.id)
            end = EndReason.FAULT if faulted else EndReason.IDLE
        else:
            end = EndReason.SLICE if over else EndReason.PREEMPTED
        self._leave(end, now_ns, grant.refusal_ns)

    def _renew(self, grant: Grant, turn: Turn, now_ns: int) -> None:
        """The same vcoproc goes on with a new slice: a turn ends and begins without a switch."""
        self._next = None
        turn.ran_ns += now_ns - turn.resumed_ns
        leaving = Leaving(now_ns, EndReason.SLICE, now_ns, vcoproc=turn.vcoproc, turn=turn)
        leaving.left_ns = now_ns
        new = Turn(grant.grant, turn.vcoproc, grant.slice_ns, now_ns, resumed_ns=now_ns)
        self._report(leaving, new, 0, 0)
        self.turn = new

    def _refusal_ns(self) -> int:
        return self._next.refusal_ns if self._next is not None else SWITCH_DEADLINE_NS

    def _leave(self, end: EndReason, now_ns: int, refusal_ns: int) -> None:
        turn = self.turn
        assert turn is not None
        self._leaving = Leaving(now_ns, end, now_ns + refusal_ns, vcoproc=turn.vcoproc, turn=turn)
        self.phase = Phase.LEAVING
        self._try_leave(now_ns)

    def _try_leave(self, now_ns: int) -> None:
        leaving, turn = self._leaving, self.turn
        assert leaving is not None and turn is not None
        began_ns = self._clock()
        result = self._platform.switch_from(turn.vcoproc.id)
        match result:
            case Busy(retry_after_ns):
                if now_ns < leaving.deadline_ns:
                    leaving.refusals += 1
                    leaving.retry_at_ns = now_ns + max(retry_after_ns, SWITCH_RETRY_NS_MIN)
                    return
                self._platform.force_off(turn.vcoproc.id)
                leaving.forced = True
                why = f"refused to leave for {(now_ns - leaving.since_ns) // US} us"
                self._outbox.faults.append(FaultSeen(turn.vcoproc.id, FORCED_CODE, 0, why))
            case Failed(why):
                self._fail(why)
                return
            case Done():
                pass
        done_ns = self._clock()
        leaving.save_ns = done_ns - began_ns
        leaving.left_ns = began_ns
        leaving.refused_ns = began_ns - leaving.since_ns if leaving.refusals else 0
        if not turn.idle:
            turn.ran_ns += began_ns - turn.resumed_ns
        self._left(turn, leaving, done_ns)

    def _left(self, turn: Turn, leaving: Leaving, now_ns: int) -> None:
        """The hardware is free. What rises on a line from now on is not this vcoproc's."""
        self._edges(turn.vcoproc, now_ns)
        self.turn = None
        self.phase = Phase.EMPTY
        vcoproc = turn.vcoproc
        self._levels(vcoproc, now_ns)
        vcoproc.told_runnable = self._runnable(vcoproc)
        if self._next is None:
            self._finish_switch(None, 0, 0)
        else:
            leaving.deadline_ns = now_ns + self._next.refusal_ns
            self._try_enter(now_ns)

    def _try_enter(self, now_ns: int) -> None:
        grant, leaving = self._next, self._leaving
        assert grant is not None and leaving is not None
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        if vcoproc is None or not self._runnable(vcoproc):
            self._drop_next("NOT_RUNNABLE", now_ns)
            self._finish_switch(None, 0, 0)
            return
        before_ns = self._clock()
        self._platform.set_stage2(vcoproc.id)
        mmu_ns = self._clock() - before_ns
        result = self._platform.switch_to(vcoproc.id)
        match result:
            case Busy(retry_after_ns):
                self._platform.set_stage2(None)
                if now_ns < leaving.deadline_ns:
                    self.phase = Phase.ENTERING
                    leaving.retry_at_ns = now_ns + max(retry_after_ns, SWITCH_RETRY_NS_MIN)
                    return
                self._drop_next("SWITCH_TIMEOUT", now_ns)
                self._finish_switch(None, 0, 0)
                return
            case Failed(why):
                self._fail(why)
                return
            case Done():
                pass
        self._next = None
        entered_ns = self._clock()
        vcoproc.told_runnable = True
        self.phase = Phase.RESIDENT
        self.turn = Turn(grant.grant, vcoproc, grant.slice_ns, entered_ns, resumed_ns=entered_ns)
        self.switch_count += 1
        self._frontend.replay(vcoproc)
        restore_ns = self._clock() - before_ns - mmu_ns
        self._finish_switch(self.turn, mmu_ns, restore_ns)
        self._frontend.release(vcoproc, on_hardware=True, now_ns=entered_ns)
        self._levels(vcoproc, entered_ns)

    def _finish_switch(self, turn: Turn | None, mmu_ns: int, restore_ns: int) -> None:
        leaving = self._leaving
        assert leaving is not None
        self._leaving = None
        if turn is None:
            self._platform.set_stage2(None)
            self.phase = Phase.EMPTY
        if turn is not None or leaving.vcoproc is not None:
            self._report(leaving, turn, mmu_ns, restore_ns)
        gone = leaving.vcoproc
        if gone is not None and gone.id in self._removing:
            self._forget(gone, forced=leaving.forced)

    def _report(self, leaving: Leaving, turn: Turn | None, mmu_ns: int, restore_ns: int) -> None:
        old = leaving.turn
        out = leaving.vcoproc
        self._outbox.to_scheduler.append(
            Report(
                grant=old.grant if old is not None else 0,
                vcoproc=out.id if out is not None else 0,
                next_grant=turn.grant if turn is not None else 0,
                next_vcoproc=turn.vcoproc.id if turn is not None else 0,
                end=leaving.end,
                runnable=self._still_wants(out, turn),
                planned_ns=old.slice_ns if old is not None else 0,
                ran_ns=old.ran_ns if old is not None else 0,
                refused_ns=leaving.refused_ns,
                refusals=leaving.refusals,
                forced=leaving.forced,
                instructions=old.instructions if old is not None else 0,
                save_ns=leaving.save_ns,
                mmu_ns=mmu_ns,
                restore_ns=restore_ns,
                ended_ns=leaving.left_ns,
                next_began_ns=turn.slice_began_ns if turn is not None else 0,
            )
        )

    def _still_wants(self, out: Vcoproc | None, turn: Turn | None) -> bool:
        if out is None or out.id in self._removing:
            return False
        if turn is not None and turn.vcoproc is out:
            return True
        # Told by this very report: a later wake is news again.
        out.told_runnable = self._runnable(out)
        return out.told_runnable

    def _drop_next(self, why: str, now_ns: int) -> None:
        grant, self._next = self._next, None
        assert grant is not None
        self._dropped(grant, why, now_ns)

    def _dropped(self, grant: Grant, why: str, now_ns: int) -> None:
        self._outbox.to_scheduler.append(GrantDropped(grant.grant, grant.vcoproc, why, now_ns))
        vcoproc = self.vcoprocs.get(grant.vcoproc)
        if vcoproc is None or vcoproc.id in self._removing or self.on_hardware(vcoproc):
            return
        # The scheduler takes it for asleep now; if it is not, it must be told again.
        vcoproc.told_runnable = self._runnable(vcoproc)
        if vcoproc.told_runnable:
            self._outbox.to_scheduler.append(Wake(vcoproc.id, now_ns, False))

    def _fail(self, why: str) -> None:
        self.phase = Phase.FAILED
        self.failure = why
        self.turn = None
        self._next = None
        self._leaving = None
        self._outbox.faults.append(FaultSeen(0, 0, 0, why))
        for vcoproc in self.vcoprocs.values():
            self._frontend.abandon(vcoproc, why)
        for vcoproc_id in list(self._removing):
            self._forget(self.vcoprocs[vcoproc_id], forced=True)

    def check_invariants(self) -> None:
        """Raises InvariantViolation when the state contradicts itself; for tests."""
        if (self.turn is None) != (self.phase in (Phase.EMPTY, Phase.ENTERING, Phase.FAILED)):
            raise InvariantViolation(f"phase {self.phase} with turn {self.turn}")
        if (self._leaving is None) != (self.phase not in (Phase.LEAVING, Phase.ENTERING)):
            raise InvariantViolation(f"phase {self.phase} with switch {self._leaving}")
        if self.turn is not None and self.turn.vcoproc.replay:
            raise InvariantViolation("queued writes of the vcoproc on the hardware")
        for vcoproc in self.vcoprocs.values():
            if self.on_hardware(vcoproc) or vcoproc.id in self._removing:
                continue
            if self._runnable(vcoproc) and not vcoproc.told_runnable:
                raise InvariantViolation(f"wake of vcoproc {vcoproc.id} was not told")
