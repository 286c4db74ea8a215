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
    A policy may also want the coprocessor to be empty, or turns to begin and end at given times;
    the coproc-sim does both on its own clock. A policy that fails is replaced by ``rr`` at once.
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
from dataclasses import replace
from typing import Final, assert_never

from vcoproc.errors import (
    InvariantViolation,
    NotFound,
    PlatformFailure,
    RemoteProtocolError,
    RequestError,
)
from vcoproc.model.run_state import RunEvent, RunState
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    Register,
    Report,
    Sleep,
    Wake,
)
from vcoproc_scheduler.accounting import Account, Bucket
from vcoproc_scheduler.decisions import DecisionRing
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    CoprocView,
    Effect,
    Event,
    FellBack,
    ParametersLost,
    RemoveVcoproc,
    ScheduleView,
    SetAlgorithm,
    SetVcoprocParameters,
    Tick,
)
from vcoproc_scheduler.granting import Granting
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.record import BUCKETS, CoprocClock, Record, Turn
from vcoproc_scheduler.turns import Turns, was_refused
from vcoproc_scheduler.vcoprocs import Vcoprocs
from vcoproc_scheduler.views import coproc_view, schedule_view

STORY_EVENTS_MAX: Final = 64
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
        self.stale_count = 0
        """Messages ignored because the coproc had not registered in its session."""
        self._validate = validate
        self._clock = CoprocClock()
        self._vcoprocs = Vcoprocs(coproc, self._clock, self.story)
        self._policy = PolicySide(coproc, catalogue, self._clock, self._vcoprocs)
        self._turn = Turn()
        self._granting = Granting(self._vcoprocs, self._policy, self._clock, self._turn)
        self._turns = Turns(self._vcoprocs, self._policy, self._granting, self._clock, self._turn)
        self._deadline_ns: int | None = None
        self._story: deque[tuple[int, Event]] = deque(maxlen=STORY_EVENTS_MAX)
        self._effects: list[Effect] = []

    # --- the only way in --------------------------------------------------------------------------

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        """Takes one event.

        Args:
            event: what happened.
            now_ns: the caller's monotonic clock.

        Returns:
            What to send to the coproc, and what happened, in order.

        Raises:
            RemoteProtocolError: the coproc contradicts itself; nothing has changed. Drop it: when
                it registers again, everything is rebuilt.
            RequestError: control asks for something impossible; nothing has changed.
            InvariantViolation, InvalidTransition: a bug of the core. A bug of the policy raises
                nothing: see `FellBack`.
        """
        assert now_ns >= self._clock.now_ns, "the clock went back"
        self._clock.now_ns = now_ns
        self._story.append((now_ns, event))
        effects: list[Effect] = []
        self._effects = effects
        self._apply(event)
        self._decide()
        fallbacks = self._policy.fallback_count
        self._deadline_ns = self._policy.next_deadline_ns(ticked=isinstance(event, Tick))
        if self._policy.fallback_count != fallbacks:
            self._decide()  # by another policy than before
        if self._validate:
            self.check_invariants()
        return effects

    def _decide(self) -> None:
        order = self._granting.decide()
        self._effects += self._policy.notices
        self._policy.notices.clear()
        if order is not None:
            self._effects.append(order)

    def next_deadline_ns(self) -> int | None:
        """When a `Tick` is due, on the clock of `now_ns`; None: not before something happens."""
        return self._deadline_ns if self._vcoprocs.registered else None

    @property
    def unsettled(self) -> bool:
        """An event was refused, but the policy failed with it: a `Tick` is due at once."""
        return bool(self._policy.notices)

    @property
    def online(self) -> bool:
        return self._vcoprocs.registered

    @property
    def algorithm(self) -> SetAlgorithm | None:
        """What control has set; after a fallback `view` names another one."""
        return self._policy.wanted

    @property
    def decisions(self) -> DecisionRing:
        """The newest decisions."""
        return self._granting.ring

    @property
    def fallback(self) -> FellBack | None:
        """The last time that an algorithm failed."""
        return self._policy.fallback

    @property
    def fallback_count(self) -> int:
        return self._policy.fallback_count

    @property
    def switch_count(self) -> int:
        return self._turns.switch_count

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
        clock_ns = self._clock.estimate_ns(now_ns) if self.online else None
        return coproc_view(self.coproc, self._vcoprocs, self._policy, self._turns, clock_ns)

    def response_ns(self, vcoproc: int, work_ns: int, now_ns: int) -> int:
        """The longest response that was observed for so much work; see `Account.response_ns`."""
        clock_ns = self._clock.estimate_ns(now_ns) if self.online else None
        return self._vcoprocs[vcoproc].account.response_ns(work_ns, clock_ns)

    def schedule(self, now_ns: int) -> ScheduleView:
        """How the coproc is scheduled; control must have set an algorithm."""
        view = schedule_view(
            self.view(now_ns), self._vcoprocs, self._policy, self._granting, self._turns
        )
        return replace(view, clock_ns=self._clock.estimate_ns(now_ns)) if self.online else view

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
            case SetVcoprocParameters():
                self._on_parameters(event)
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
        ended = self._turns.report(report)
        if ended is not None:
            self._effects.append(ended)

    def _on_wake(self, wake: Wake) -> None:
        if wake.resumed:
            self._check_current("it resumed", wake.vcoproc)
        record = self._vcoprocs.known(wake.vcoproc)
        record.account.wakes += 1
        event = RunEvent.RESUME if wake.resumed else RunEvent.WAKE
        self._clock.tell(wake.clock_ns)
        if wake.resumed:
            self._turn.resume(wake.clock_ns)
        self._vcoprocs.move(record, event, wake.clock_ns)
        self._policy.sync(record)

    def _on_sleep(self, sleep: Sleep) -> None:
        self._check_current("it sleeps", sleep.vcoproc)
        record = self._vcoprocs[sleep.vcoproc]
        self._clock.tell(sleep.clock_ns)
        self._vcoprocs.move(record, RunEvent.IDLE, sleep.clock_ns)
        # When it wakes where it is, it gets a new slice.
        slice_ns = self._turn.slice_ns
        overtime_ns = 0 if slice_ns is None else record.account.end_slice(slice_ns)
        self._policy.charge(record, stopped_ns=sleep.clock_ns, overtime_ns=overtime_ns)
        self._policy.sync(record)

    def _on_dropped(self, dropped: GrantDropped) -> None:
        record = self._vcoprocs.get(dropped.vcoproc)
        if was_refused(dropped) and self._vcoprocs.current:
            raise RemoteProtocolError(
                f"vcoproc {dropped.vcoproc} is refused, but {self._vcoprocs.current} has the coproc"
            )
        self._clock.tell(dropped.clock_ns)
        if record is not None:
            self._turns.dropped(record, dropped)
        self._granting.dropped(dropped.grant)
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
        self._turn.unknown(register.clock_ns)
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
            machine, added = record.machine, record.added
            leaving, machine.sleep_requested = machine.sleep_requested, False
            try:
                self._policy.add(record, parameters)
            except RequestError:
                machine.sleep_requested = leaving
                raise
            if not added:
                record.account.carry(event.used)
            pending = self._granting.pending
            if leaving and not (pending and pending.now):
                self._vcoprocs.stay(record)
            return
        self._vcoprocs.check_room()
        record = Record(event.vcoproc)
        self._policy.add(record, parameters)
        record.account.carry(event.used)
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
        lost = self._policy.replace(event)
        if lost:
            self._effects.append(ParametersLost(lost))

    def _on_parameters(self, event: SetVcoprocParameters) -> None:
        record = self._vcoprocs.get(event.vcoproc)
        if record is None or not record.added:
            raise NotFound(f"vcoproc of {self.coproc}", str(event.vcoproc))
        self._on_add(AddVcoproc(event.vcoproc, {**record.parameters, **event.parameters}))

    def check_invariants(self) -> None:
        """Checks everything that must always hold.

        Raises:
            InvariantViolation: something does not; carries the story.
        """
        for problem in self._vcoprocs.problems() + self._granting.problems():
            raise InvariantViolation("\n  ".join((f"{self.coproc}: {problem}", *self.story())))
