"""The scheduler of one coproc: who is granted the coprocessor, decided ahead of time.

Theory of operation:
    The coproc-sim holds the running vcoproc and the next grant, switches on its own clock and reports
    afterwards. So this core mirrors what the coproc said last (`current`) and remembers what it was
    told last (`pending`). After every event the policy is asked who is next; only when the answer is
    another one than the pending one is a grant sent, which replaces it. With nobody waiting there is
    no grant at all, and the current one runs on. When nothing runs, the grant says: now.
    Messages of one session come in order, so `current` is never a guess, only late. A grant may begin
    before the next one replaces it: then the newer one is still pending, which its number tells.
Invariants (`check_invariants`):
    At most one vcoproc is on the coprocessor. Whoever waits while a pick is possible has a grant
    pending in front of him or is withheld by the policy. The policy knows exactly who wants to run.
    The times of each account add up.
Not handled:
    The link: order, credit and old incarnations are the session's business. Saving any of this: after
    a restart the coproc registers what it holds and control says again what it wants.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, assert_never

from vcoproc.errors import (
    InvariantViolation,
    LimitExceeded,
    PlatformFailure,
    RemoteProtocolError,
    RequestError,
)
from vcoproc.limits import VCOPROCS_KNOWN_MAX
from vcoproc.model.run_state import ON_COPROC, RunEvent, RunState
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    Register,
    Report,
    Revoke,
    Sleep,
    Wake,
)
from vcoproc_scheduler.accounting import Bucket, TurnEnded
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    CoprocView,
    Effect,
    Event,
    RemoveVcoproc,
    SetAlgorithm,
    Tick,
    VcoprocView,
)
from vcoproc_scheduler.policies.api import Decision
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.record import BUCKETS, CoprocClock, Record

STORY_EVENTS_MAX: Final = 64
GRANT_NUMBER_MAX: Final = 0xFFFF_FFFF
REPLACED: Final = "REPLACED"
"""`GrantDropped.why` of a grant that another one replaced: says nothing about its vcoproc."""
END_REASONS: Final = frozenset(int(reason) for reason in EndReason)


@dataclass(frozen=True, slots=True)
class _Pending:
    """The grant that the coproc was told last and has not begun, as far as is known."""

    grant: int
    vcoproc: int
    slice_ns: int
    now: bool


class CoprocSchedulerCore:
    """Scheduler of one coproc.

    Args:
        coproc: its name.
        catalogue: where algorithms are found by name.
        validate: check all invariants after each step.
    """

    def __init__(self, coproc: str, catalogue: Catalogue, *, validate: bool = False) -> None:
        self.coproc = coproc
        self.switch_count = 0
        self.stale_count = 0
        """Messages ignored because the coproc had not registered in its session."""
        self._validate = validate
        self._clock = CoprocClock()
        self._policy = PolicySide(catalogue, self._clock)
        self._records: dict[int, Record] = {}
        self._registered = False
        self._current = 0
        self._turn_began_ns = 0
        self._slice_ns: int | None = None  # of the present turn; None: not granted by us
        self._pending: _Pending | None = None
        self._grant_number = 0
        self._withheld = False  # somebody waits, but the policy picks nobody
        self._failed = False  # the coproc takes no grant any more
        self._story: deque[tuple[int, Event]] = deque(maxlen=STORY_EVENTS_MAX)
        self._effects: list[Effect] = []

    # --- the only way in --------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Takes one event.

        Args:
            event: what happened.
            now_ns: the caller's monotonic clock.

        Returns:
            What to send to the coproc, and turns that ended, in order.

        Raises:
            RemoteProtocolError: the coproc contradicts itself; nothing has changed. Drop it: when it
                registers again, everything is rebuilt.
            RequestError: control asks for something impossible; nothing has changed.
            InvariantViolation, InvalidTransition: a bug, of the core or of the policy.
        """
        assert now_ns >= self._clock.now_ns, "the clock went back"
        self._clock.now_ns = now_ns
        self._story.append((now_ns, event))
        effects: list[Effect] = []
        self._effects = effects
        self._apply(event)
        self._decide()
        if self._validate:
            self.check_invariants()
        return effects

    def next_deadline_ns(self) -> int | None:
        """When a `Tick` is due, on the clock of `now_ns`; None: not before something happens."""
        return self._policy.next_deadline_ns() if self._registered else None

    @property
    def online(self) -> bool:
        return self._registered

    @property
    def algorithm(self) -> SetAlgorithm | None:
        return self._policy.algorithm

    @property
    def current(self) -> int:
        """The vcoproc on the coprocessor, running or idle; 0 for none."""
        return self._current

    def run_state(self, vcoproc: int) -> RunState | None:
        """None: not known."""
        record = self._records.get(vcoproc)
        return record.machine.state if record else None

    def view(self, now_ns: int) -> CoprocView:
        """Everything about the coproc. Times reach up to now as well as it is known."""
        clock_ns = self._clock.estimate_ns(now_ns) if self._registered else None
        algorithm = self._policy.algorithm
        return CoprocView(
            coproc=self.coproc,
            online=self._registered,
            current=self._current,
            switches=self.switch_count,
            algorithm=algorithm.algorithm if algorithm else "",
            vcoprocs=tuple(
                VcoprocView(each.id, each.machine.state.value, each.account.view(clock_ns))
                for each in self._records.values()
                if each.added
            ),
        )

    def story(self) -> list[str]:
        """The latest events, oldest first, for error reports."""
        return [f"{now_ns} ns: {event}" for now_ns, event in self._story]

    def _apply(self, event: Event) -> None:
        if not self._registered and isinstance(
            event, Report | Wake | Sleep | GrantDropped | Faulted
        ):
            self.stale_count += 1
            return
        match event:
            case Report():
                self._on_report(event)
            case Wake():
                self._on_wake(event)
            case Sleep():
                self._on_sleep(event)
            case GrantDropped():
                self._on_dropped(event)
            case Faulted():
                self._on_faulted(event)
            case Register():
                self._on_register(event)
            case AddVcoproc():
                self._on_add(event)
            case RemoveVcoproc():
                self._on_remove(event)
            case SetAlgorithm():
                self._on_algorithm(event)
            case CoprocOnline() | CoprocOffline():
                self._lose()
            case Tick():
                pass  # asking the policy again is all there is to do
            case _:
                assert_never(event)

    # --- what the coproc says ---------------------------------------------------------------------

    def _on_report(self, report: Report) -> None:
        if report.vcoproc != self._current:
            raise RemoteProtocolError(
                f"report of a turn of vcoproc {report.vcoproc}, but {self._current} has the coproc"
            )
        if report.end not in END_REASONS:
            raise RemoteProtocolError(f"report with unknown end {report.end}")
        self._clock.tell(max(report.ended_ns, report.next_began_ns))
        left_ns = report.ended_ns
        if report.vcoproc and report.vcoproc == report.next_vcoproc:
            self._renew(report)
        else:
            if report.vcoproc:
                left_ns = self._end_turn(report)
            self._current = 0
            if report.next_vcoproc:
                self._begin_turn(report, left_ns)
        self._clock.tell(left_ns)

    def _end_turn(self, report: Report) -> int:
        """Gives when it had left."""
        record = self._records[report.vcoproc]
        account = record.account
        account.move(Bucket.REFUSED, report.ended_ns)
        account.move(Bucket.SWITCH, report.ended_ns + report.refused_ns)
        left_ns = report.ended_ns + report.refused_ns + report.save_ns
        if report.next_vcoproc:
            left_ns = min(left_ns, max(report.ended_ns, report.next_began_ns))
        removed = record.machine.sleep_requested
        if report.runnable:
            event = RunEvent.LEFT_RUNNABLE
        elif report.end == EndReason.FAULT and record.machine.state in ON_COPROC:
            event = RunEvent.FAULT
        else:
            event = RunEvent.LEFT_IDLE
        self._move(record, event, left_ns)
        self._close_turn(record, report, left=True)
        self._policy.sync(record)
        if removed:
            del self._records[record.id]
        return left_ns

    def _begin_turn(self, report: Report, left_ns: int) -> None:
        record = self._known(report.next_vcoproc)
        account = record.account
        began_ns = report.next_began_ns
        account.move(Bucket.SWITCH, max(left_ns, began_ns - report.mmu_ns - report.restore_ns))
        account.switches += 1
        self.switch_count += 1
        self._current = record.id
        self._open_turn(record, report)

    def _renew(self, report: Report) -> None:
        """The current one has got another slice; nothing was switched."""
        record = self._records[report.vcoproc]
        record.account.move(BUCKETS[record.machine.state], report.ended_ns)
        self._close_turn(record, report, left=False)
        self._open_turn(record, report)

    def _close_turn(self, record: Record, report: Report, *, left: bool) -> None:
        account = record.account
        account.instructions += report.instructions
        overtime_ns = account.end_slice(report.planned_ns)
        self._effects.append(
            TurnEnded(
                vcoproc=record.id,
                began_ns=self._turn_began_ns,
                ended_ns=max(self._turn_began_ns, report.ended_ns),
                planned_ns=report.planned_ns,
                end=report.end,
                refused_ns=report.refused_ns,
                save_ns=report.save_ns,
                mmu_ns=report.mmu_ns,
                restore_ns=report.restore_ns,
            )
        )
        if report.end == EndReason.YIELD:
            self._policy.yielded(record)
        self._policy.charge(record, overtime_ns=overtime_ns, ended=True, left=left)

    def _open_turn(self, record: Record, report: Report) -> None:
        self._move(record, RunEvent.BEGIN, report.next_began_ns)
        record.account.begin_slice()
        self._turn_began_ns = report.next_began_ns
        pending = self._pending
        self._slice_ns = None
        if pending and (pending.grant, pending.vcoproc) == (report.next_grant, record.id):
            self._slice_ns = pending.slice_ns
            self._pending = None
        self._policy.sync(record)
        self._policy.begin(record)

    def _on_wake(self, wake: Wake) -> None:
        if wake.resumed and wake.vcoproc != self._current:
            raise RemoteProtocolError(
                f"vcoproc {wake.vcoproc} resumed, but {self._current} has the coproc"
            )
        record = self._known(wake.vcoproc)
        record.account.wakes += 1
        event = RunEvent.RESUME if wake.resumed else RunEvent.WAKE
        self._clock.tell(wake.clock_ns)
        self._move(record, event, wake.clock_ns)
        self._policy.sync(record)

    def _on_sleep(self, sleep: Sleep) -> None:
        if sleep.vcoproc != self._current:
            raise RemoteProtocolError(
                f"vcoproc {sleep.vcoproc} sleeps, but {self._current} has the coproc"
            )
        record = self._records[sleep.vcoproc]
        self._clock.tell(sleep.clock_ns)
        self._move(record, RunEvent.IDLE, sleep.clock_ns)
        # When it wakes where it is, it gets a new slice.
        overtime_ns = 0 if self._slice_ns is None else record.account.end_slice(self._slice_ns)
        self._policy.charge(record, overtime_ns=overtime_ns)
        self._policy.sync(record)

    def _on_dropped(self, dropped: GrantDropped) -> None:
        self._clock.tell(dropped.clock_ns)
        record = self._records.get(dropped.vcoproc)
        # Also of a grant that was replaced since: that its vcoproc cannot run is true all the same.
        if record is not None and dropped.why != REPLACED:
            self._move(record, RunEvent.DROP, dropped.clock_ns)
            self._policy.sync(record)
        if self._pending is not None and self._pending.grant == dropped.grant:
            self._forget_pending()
        if dropped.why == PlatformFailure.reason:
            # Its hardware is broken until the process is restarted; granting on would never end.
            self._failed = True

    def _on_faulted(self, faulted: Faulted) -> None:
        record = self._known(faulted.vcoproc)
        self._clock.tell(faulted.clock_ns)
        self._move(record, RunEvent.FAULT, faulted.clock_ns)
        self._policy.sync(record)

    def _on_register(self, register: Register) -> None:
        listed = {vcoproc: (runnable, faulted) for vcoproc, runnable, faulted in register.vcoprocs}
        if register.coproc != self.coproc:
            raise RemoteProtocolError(f"{self.coproc} registers as {register.coproc}")
        if len(listed) != len(register.vcoprocs) or 0 in listed:
            raise RemoteProtocolError("register lists a vcoproc twice, or vcoproc 0")
        if register.current and register.current not in listed:
            raise RemoteProtocolError(f"register does not list its current {register.current}")
        self._lose()
        self._clock.restart(register.clock_ns)
        self._registered = True
        self._current = register.current
        self._turn_began_ns = register.clock_ns
        self._slice_ns = None
        for record in self._records.values():
            record.account.open(Bucket.SLEEP, register.clock_ns)
        for vcoproc, (runnable, faulted) in listed.items():
            record = self._known(vcoproc)
            if faulted:
                self._move(record, RunEvent.FAULT, register.clock_ns)
            elif runnable and vcoproc == register.current:
                self._move(record, RunEvent.BEGIN, register.clock_ns)
                record.account.begin_slice()
            elif runnable:
                self._move(record, RunEvent.WAKE, register.clock_ns)
            self._policy.sync(record)
            if vcoproc == register.current and record.awake:
                self._policy.begin(record)

    def _lose(self) -> None:
        """Nothing is known of the coproc until it registers; what was only remembered is void."""
        self._registered = False
        self._current = 0
        self._pending = None
        self._withheld = False
        self._failed = False
        for record in list(self._records.values()):
            record.account.close(self._clock.told_ns)
            record.machine.sleep_requested = False
            record.machine.apply(RunEvent.LOST)
            self._policy.sync(record)
            if not record.added:
                del self._records[record.id]

    # --- what control says ------------------------------------------------------------------------

    def _on_add(self, event: AddVcoproc) -> None:
        parameters = dict(event.parameters)
        record = self._records.get(event.vcoproc)
        if record is not None and record.added and record.parameters == parameters:
            return
        if record is not None:
            machine = record.machine
            leaving, machine.sleep_requested = machine.sleep_requested, False
            try:
                self._policy.add(record, parameters)
            except RequestError:
                machine.sleep_requested = leaving
                raise
            if leaving and not (self._pending and self._pending.now):
                self._stay(record)
            return
        if len(self._records) >= VCOPROCS_KNOWN_MAX:
            raise LimitExceeded(f"vcoprocs of {self.coproc}", VCOPROCS_KNOWN_MAX)
        record = Record(event.vcoproc)
        self._policy.add(record, parameters)
        self._keep(record)

    def _on_remove(self, event: RemoveVcoproc) -> None:
        record = self._records.get(event.vcoproc)
        if record is None or not record.added:
            return
        self._policy.remove(record)
        if record.id != self._current:
            del self._records[record.id]
            return
        record.machine.sleep_requested = True
        if record.machine.state is RunState.RUNNING:
            self._transit(record, RunEvent.LEAVE)

    def _on_algorithm(self, event: SetAlgorithm) -> None:
        if event != self._policy.algorithm:
            added = [record for record in self._records.values() if record.added]
            self._policy.replace(event, added, self._current)

    # --- deciding ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        if not self._registered:
            return
        if self._failed:
            self._withheld = True
            self._revoke()
            return
        current = self._records[self._current] if self._current else None
        state = current.machine.state if current is not None else None
        staying = self._current if current and current.awake and state in ON_COPROC else 0
        others = self._policy.wanting - (1 if staying else 0)
        if not others:  # also no renewal: alone, it runs on without grants
            self._withheld = False
            self._revoke()
            return
        decision = self._policy.pick(self._records, staying or None, self.story)
        self._withheld = decision.vcoproc_id is None
        if decision.vcoproc_id is None:
            self._revoke()
            return
        preempt = decision.preempt and decision.vcoproc_id != self._current
        now = state is not RunState.RUNNING or preempt
        pending = self._pending
        if pending and pending.vcoproc == decision.vcoproc_id:
            # One that was granted for the end of a turn goes on an idle coprocessor untold.
            taken = pending.now or state not in ON_COPROC
            if taken or not now:
                record = self._records[pending.vcoproc]
                (self._place if taken else self._unplace)(record)
                return
        self._grant(decision, now)

    def _grant(self, decision: Decision, now: bool) -> None:
        assert decision.vcoproc_id is not None
        assert self._policy.algorithm is not None
        replaced = self._pending
        if replaced is not None:
            self._unplace(self._records.get(replaced.vcoproc))
        self._grant_number = self._grant_number % GRANT_NUMBER_MAX + 1
        self._pending = _Pending(
            self._grant_number, decision.vcoproc_id, decision.slice_ns, now
        )
        if now:
            current = self._records.get(self._current)
            if current is not None and current.machine.state is RunState.RUNNING:
                self._transit(current, RunEvent.LEAVE)
            self._place(self._records[decision.vcoproc_id])
        self._effects.append(
            Grant(
                grant=self._grant_number,
                vcoproc=decision.vcoproc_id,
                slice_ns=decision.slice_ns,
                now=now,
                refusal_ns=self._policy.algorithm.refusal_ns,
            )
        )

    def _revoke(self) -> None:
        if self._pending is not None:
            self._effects.append(Revoke(self._pending.grant))
            self._forget_pending()

    def _forget_pending(self) -> None:
        assert self._pending is not None
        self._unplace(self._records.get(self._pending.vcoproc))
        self._pending = None
        current = self._records.get(self._current)
        if current is not None and not current.machine.sleep_requested:
            self._stay(current)

    def _stay(self, record: Record) -> None:
        if record.machine.state is RunState.SWITCHING_OUT:
            self._transit(record, RunEvent.STAY)

    def _place(self, record: Record | None) -> None:
        if record is not None and record.machine.state is RunState.WAITING:
            self._transit(record, RunEvent.PLACE)

    def _unplace(self, record: Record | None) -> None:
        if record is not None and record.machine.state is RunState.SWITCHING_IN:
            self._transit(record, RunEvent.UNPLACE)

    # --- helpers ----------------------------------------------------------------------------------

    def _known(self, vcoproc: int) -> Record:
        """The record of a vcoproc; one that control has not added (yet) is remembered."""
        record = self._records.get(vcoproc)
        if record is not None:
            return record
        if not vcoproc:
            raise RemoteProtocolError("message about vcoproc 0")
        if len(self._records) >= VCOPROCS_KNOWN_MAX:
            forgettable = (
                each.id
                for each in self._records.values()
                if not each.added and each.id != self._current
            )
            if (oldest := next(forgettable, None)) is not None:
                del self._records[oldest]
        record = Record(vcoproc)
        self._keep(record)
        return record

    def _keep(self, record: Record) -> None:
        self._records[record.id] = record
        if self._registered:
            record.account.open(Bucket.SLEEP, self._clock.told_ns)

    def _transit(self, record: Record, event: RunEvent) -> RunState:
        return record.machine.apply(event, f"vcoproc {record.id} of {self.coproc}", self.story)

    def _move(self, record: Record, event: RunEvent, clock_ns: int) -> None:
        """Changes the state at a time of the coproc's clock."""
        record.account.move(BUCKETS[self._transit(record, event)], clock_ns)

    def check_invariants(self) -> None:
        """Checks everything that must always hold.

        Raises:
            InvariantViolation: something does not; carries the story.
        """
        for problem in self._problems():
            raise InvariantViolation("\n  ".join((f"{self.coproc}: {problem}", *self.story())))

    def _problems(self) -> list[str]:
        found = []
        pending = self._pending
        for record in self._records.values():
            state = record.machine.state
            if state in ON_COPROC and record.id != self._current:
                found.append(f"vcoproc {record.id} is {state.value}, {self._current} has the coproc")
            if state is RunState.SWITCHING_IN and not (pending and pending.vcoproc == record.id):
                found.append(f"vcoproc {record.id} is SWITCHING_IN without a grant")
            if self._policy.policy and record.awake != (record.added and record.machine.wants()):
                found.append(f"the policy is wrong about vcoproc {record.id}")
            if not record.account.adds_up():
                found.append(f"the times of vcoproc {record.id} do not add up")
            if (record.account.bucket is not None) != self._registered:
                found.append(f"the account of vcoproc {record.id} is not open while online")
            if state is RunState.WAITING and record.awake and not (pending or self._withheld):
                found.append(f"vcoproc {record.id} waits and nobody is granted")
        if self._policy.wanting != sum(record.awake for record in self._records.values()):
            found.append("the count of those who want to run is wrong")
        if self._current and self._current not in self._records:
            found.append(f"current {self._current} is not known")
        if pending and not (self._registered and self._policy.policy):
            found.append("a grant is pending on a coproc that is not online")
        if pending and not self._records[pending.vcoproc].awake:
            found.append(f"the grant for vcoproc {pending.vcoproc} is for one who cannot run")
        return found
