"""The scheduler of one coproc: who is granted the coprocessor, decided ahead of time.

Theory of operation:
    The coproc-sim holds the running vcoproc and the next grant, switches on its own clock and
    reports afterwards. So this core mirrors what the coproc said last (`current`) and remembers
    what it was told last (`pending`). After every event the policy is asked who is next; only when
    the answer is another one than the pending one is a grant sent, which replaces it. With nobody
    waiting there is no grant at all, and the current one runs on. When nothing runs, the grant
    says: now. Messages of one session come in order, so `current` is never a guess, only late. A
    grant may begin before the next one replaces it: then the newer one is still pending, which its
    number tells.
Invariants (`check_invariants`):
    At most one vcoproc is on the coprocessor. Whoever waits while a pick is possible has a grant
    pending in front of him or is withheld by the policy. The policy knows exactly who wants to run.
    The times of each account add up.
Not handled:
    The link: order, credit and old incarnations are the session's business. Saving any of this:
    after a restart the coproc registers what it holds and control says again what it wants.
"""

from __future__ import annotations

from collections import deque
from typing import Final, assert_never

from vcoproc.errors import (
    InvariantViolation,
    PlatformFailure,
    RemoteProtocolError,
    RequestError,
)
from vcoproc.model.run_state import ON_COPROC, RunEvent, RunState
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    Register,
    Report,
    Sleep,
    Wake,
)
from vcoproc_scheduler.accounting import Account, Bucket, TurnEnded
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
from vcoproc_scheduler.granting import Granting
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.record import BUCKETS, CoprocClock, Record
from vcoproc_scheduler.vcoprocs import Vcoprocs

STORY_EVENTS_MAX: Final = 64
REPLACED: Final = "REPLACED"
"""`GrantDropped.why` of a grant that another one replaced: says nothing about its vcoproc."""
END_REASONS: Final = frozenset(int(reason) for reason in EndReason)


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
        self._vcoprocs = Vcoprocs(coproc, self._clock, self.story)
        self._granting = Granting(self._vcoprocs, self._policy)
        self._turn_began_ns = 0
        self._slice_ns: int | None = None  # of the present turn; None: not granted by us
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
            RemoteProtocolError: the coproc contradicts itself; nothing has changed. Drop it: when
                it registers again, everything is rebuilt.
            RequestError: control asks for something impossible; nothing has changed.
            InvariantViolation, InvalidTransition: a bug, of the core or of the policy.
        """
        assert now_ns >= self._clock.now_ns, "the clock went back"
        self._clock.now_ns = now_ns
        self._story.append((now_ns, event))
        effects: list[Effect] = []
        self._effects = effects
        self._apply(event)
        order = self._granting.decide()
        if order is not None:
            effects.append(order)
        if self._validate:
            self.check_invariants()
        return effects

    def next_deadline_ns(self) -> int | None:
        """When a `Tick` is due, on the clock of `now_ns`; None: not before something happens."""
        return self._policy.next_deadline_ns() if self._vcoprocs.registered else None

    @property
    def online(self) -> bool:
        return self._vcoprocs.registered

    @property
    def algorithm(self) -> SetAlgorithm | None:
        return self._policy.algorithm

    @property
    def current(self) -> int:
        """The vcoproc on the coprocessor, running or idle; 0 for none."""
        return self._vcoprocs.current

    def run_state(self, vcoproc: int) -> RunState | None:
        """None: not known."""
        record = self._vcoprocs.get(vcoproc)
        return record.machine.state if record else None

    def view(self, now_ns: int) -> CoprocView:
        """Everything about the coproc. Times reach up to now as well as it is known."""
        clock_ns = self._clock.estimate_ns(now_ns) if self._vcoprocs.registered else None
        algorithm = self._policy.algorithm
        return CoprocView(
            coproc=self.coproc,
            online=self._vcoprocs.registered,
            current=self._vcoprocs.current,
            switches=self.switch_count,
            algorithm=algorithm.algorithm if algorithm else "",
            vcoprocs=tuple(
                VcoprocView(each.id, each.machine.state.value, each.account.view(clock_ns))
                for each in self._vcoprocs
                if each.added
            ),
        )

    def story(self) -> list[str]:
        """The latest events, oldest first, for error reports."""
        return [f"{now_ns} ns: {event}" for now_ns, event in self._story]

    def _apply(self, event: Event) -> None:
        if not self._vcoprocs.registered and isinstance(
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

    def _check_current(self, what: str, vcoproc: int) -> None:
        current = self._vcoprocs.current
        if vcoproc != current:
            raise RemoteProtocolError(f"vcoproc {vcoproc}: {what}, but {current} has the coproc")

    def _on_report(self, report: Report) -> None:
        self._check_current("a turn ended", report.vcoproc)
        if report.end not in END_REASONS:
            raise RemoteProtocolError(f"report with unknown end {report.end}")
        self._clock.tell(max(report.ended_ns, report.next_began_ns))
        left_ns = 0
        if report.vcoproc and report.vcoproc == report.next_vcoproc:
            self._renew(report)
        else:
            if report.vcoproc:
                left_ns = self._end_turn(report)
            self._vcoprocs.current = 0
            if report.next_vcoproc:
                self._begin_turn(report, left_ns)
        self._clock.tell(left_ns)

    def _end_turn(self, report: Report) -> int:
        """Gives when it had left."""
        record = self._vcoprocs[report.vcoproc]
        account = record.account
        account.move(Bucket.REFUSED, report.ended_ns)
        account.move(Bucket.SWITCH, report.ended_ns + report.refused_ns)
        left_ns = report.ended_ns + report.refused_ns + report.save_ns
        if report.next_vcoproc:
            left_ns = min(left_ns, max(report.ended_ns, report.next_began_ns))
        if report.runnable:
            event = RunEvent.LEFT_RUNNABLE
        elif report.end == EndReason.FAULT and record.machine.state in ON_COPROC:
            event = RunEvent.FAULT
        else:
            event = RunEvent.LEFT_IDLE
        self._vcoprocs.move(record, event, left_ns)
        self._close_turn(record, report, left=True)
        self._policy.sync(record)
        record.machine.sleep_requested = False
        asleep = record.machine.state is RunState.SLEEPING
        if report.end == EndReason.REMOVED and asleep and not record.added:
            self._vcoprocs.forget(record)
        return left_ns

    def _begin_turn(self, report: Report, left_ns: int) -> None:
        record = self._vcoprocs.known(report.next_vcoproc)
        account = record.account
        began_ns = report.next_began_ns
        account.move(Bucket.SWITCH, max(left_ns, began_ns - report.mmu_ns - report.restore_ns))
        account.switches += 1
        self.switch_count += 1
        self._vcoprocs.current = record.id
        self._open_turn(record, report)

    def _renew(self, report: Report) -> None:
        """The current one has got another slice; nothing was switched."""
        record = self._vcoprocs[report.vcoproc]
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
        self._vcoprocs.move(record, RunEvent.BEGIN, report.next_began_ns)
        record.account.begin_slice()
        self._turn_began_ns = report.next_began_ns
        self._slice_ns = self._granting.begun(report.next_grant, record.id)
        self._policy.sync(record)
        self._policy.begin(record)

    def _on_wake(self, wake: Wake) -> None:
        if wake.resumed:
            self._check_current("it resumed", wake.vcoproc)
        record = self._vcoprocs.known(wake.vcoproc)
        record.account.wakes += 1
        event = RunEvent.RESUME if wake.resumed else RunEvent.WAKE
        self._clock.tell(wake.clock_ns)
        self._vcoprocs.move(record, event, wake.clock_ns)
        self._policy.sync(record)

    def _on_sleep(self, sleep: Sleep) -> None:
        self._check_current("it sleeps", sleep.vcoproc)
        record = self._vcoprocs[sleep.vcoproc]
        self._clock.tell(sleep.clock_ns)
        self._vcoprocs.move(record, RunEvent.IDLE, sleep.clock_ns)
        # When it wakes where it is, it gets a new slice.
        overtime_ns = 0 if self._slice_ns is None else record.account.end_slice(self._slice_ns)
        self._policy.charge(record, overtime_ns=overtime_ns)
        self._policy.sync(record)

    def _on_dropped(self, dropped: GrantDropped) -> None:
        self._clock.tell(dropped.clock_ns)
        record = self._vcoprocs.get(dropped.vcoproc)
        # Also of a grant that was replaced since: that its vcoproc cannot run is true all the same.
        if record is not None and dropped.why != REPLACED:
            self._vcoprocs.move(record, RunEvent.DROP, dropped.clock_ns)
            self._policy.sync(record)
        pending = self._granting.pending
        if pending is not None and pending.grant == dropped.grant:
            self._granting.forget()
        if dropped.why == PlatformFailure.reason:
            # Its hardware is broken until the process is restarted; granting on would never end.
            self._granting.failed = True

    def _on_faulted(self, faulted: Faulted) -> None:
        record = self._vcoprocs.known(faulted.vcoproc)
        self._clock.tell(faulted.clock_ns)
        self._vcoprocs.move(record, RunEvent.FAULT, faulted.clock_ns)
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
        self._vcoprocs.registered = True
        self._vcoprocs.current = register.current
        self._turn_began_ns = register.clock_ns
        self._slice_ns = None
        for record in self._vcoprocs:
            record.account.open(Bucket.SLEEP, register.clock_ns)
        for vcoproc, (runnable, faulted) in listed.items():
            record = self._vcoprocs.known(vcoproc)
            if faulted:
                self._vcoprocs.move(record, RunEvent.FAULT, register.clock_ns)
            elif runnable and vcoproc == register.current:
                self._vcoprocs.move(record, RunEvent.BEGIN, register.clock_ns)
                record.account.begin_slice()
            elif runnable:
                self._vcoprocs.move(record, RunEvent.WAKE, register.clock_ns)
            self._policy.sync(record)
            if vcoproc == register.current and record.awake:
                self._policy.begin(record)

    def _lose(self) -> None:
        """Nothing is known of the coproc until it registers; what was only remembered is void."""
        self._vcoprocs.registered = False
        self._vcoprocs.current = 0
        self._granting.reset()
        for record in list(self._vcoprocs):
            record.account.close(self._clock.told_ns)
            record.machine.sleep_requested = False
            record.machine.apply(RunEvent.LOST)
            self._policy.sync(record)
            if not record.added:
                self._vcoprocs.forget(record)

    # --- what control says ------------------------------------------------------------------------

    def _on_add(self, event: AddVcoproc) -> None:
        parameters = dict(event.parameters)
        record = self._vcoprocs.get(event.vcoproc)
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
            pending = self._granting.pending
            if leaving and not (pending and pending.now):
                self._vcoprocs.stay(record)
            return
        self._vcoprocs.check_room()
        record = Record(event.vcoproc)
        self._policy.add(record, parameters)
        self._vcoprocs.keep(record)

    def _on_remove(self, event: RemoveVcoproc) -> None:
        record = self._vcoprocs.get(event.vcoproc)
        if record is None or not record.added:
            return
        self._policy.remove(record)
        if not self._vcoprocs.registered:
            self._vcoprocs.forget(record)
            return
        # The coproc may still hold it: should it be added again, what it wants must be known.
        record.account = Account()
        record.account.open(BUCKETS[record.machine.state], self._clock.told_ns)
        if record.id != self._vcoprocs.current:
            return
        record.machine.sleep_requested = True
        self._vcoprocs.leave(record)

    def _on_algorithm(self, event: SetAlgorithm) -> None:
        if event != self._policy.algorithm:
            added = [record for record in self._vcoprocs if record.added]
            self._policy.replace(event, added, self._vcoprocs.current)

    def check_invariants(self) -> None:
        """Checks everything that must always hold.

        Raises:
            InvariantViolation: something does not; carries the story.
        """
        for problem in self._vcoprocs.problems() + self._granting.problems():
            raise InvariantViolation("\n  ".join((f"{self.coproc}: {problem}", *self.story())))
