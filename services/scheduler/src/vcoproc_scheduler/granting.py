"""What the coproc was told last, and what it must be told after each event."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from vcoproc.model.run_state import ON_COPROC, RunState
from vcoproc.wire.messages import Grant, Revoke, Vacate
from vcoproc_scheduler.decisions import DecisionMade, DecisionRing, Why
from vcoproc_scheduler.events import Order
from vcoproc_scheduler.policies.api import NOBODY, Decision
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.record import CoprocClock, Record, Turn
from vcoproc_scheduler.vcoprocs import Vcoprocs

GRANT_NUMBER_MAX: Final = 0xFFFF_FFFF
REPLACED_KEPT_MAX: Final = 64
"""Orders that were replaced since one began. Of an older one that begins all the same it is not
known how long its turn is."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What the coproc was told last and has not begun, as far as is known.

    vcoproc: 0 for an order to vacate. not_before_ns, until_ns, told_ns (when it was told, as well
    as that is known): of the coproc's clock.
    """

    grant: int
    vcoproc: int
    slice_ns: int
    now: bool
    not_before_ns: int
    until_ns: int
    told_ns: int


class Granting:
    """Asks the policy who is next, and says so when the answer is another one than before."""

    def __init__(
        self, vcoprocs: Vcoprocs, policy: PolicySide, clock: CoprocClock, turn: Turn
    ) -> None:
        self.pending: Pending | None = None
        self.failed = False
        """The coproc takes no grant any more."""
        self.number = 0
        """Of the latest grant."""
        self.ring = DecisionRing()
        self._vcoprocs = vcoprocs
        self._policy = policy
        self._clock = clock
        self._turn = turn
        self._withheld = False  # somebody waits, but gets no grant
        # Told before the pending one; one of them may have begun all the same.
        self._replaced: deque[Pending] = deque(maxlen=REPLACED_KEPT_MAX)

    def reset(self) -> None:
        """The coproc knows of no grant any more."""
        self.pending = None
        self.failed = False
        self._withheld = False
        self._replaced.clear()

    # --- deciding ---------------------------------------------------------------------------------

    def decide(self) -> Order | None:
        """What to tell the coproc now."""
        vcoprocs, policy = self._vcoprocs, self._policy
        policy.all_wait = False
        if not vcoprocs.registered:
            return None
        current = vcoprocs.get(vcoprocs.current)
        state = current.machine.state if current is not None else None
        staying = current.id if current and current.awake and state in ON_COPROC else None
        decision = NOBODY
        if policy.wanting and not self.failed:
            decision = policy.pick(staying)
        if decision.vcoproc_id is None:
            waiting = policy.wanting > (staying is not None)
            policy.all_wait = waiting and staying is None and not self.failed
            return self._nobody(decision, current, waiting=waiting)
        self._withheld = False
        not_before_ns = self._clock.from_policy_ns(decision.not_before_ns)
        # One more slice follows the present one, also if it was just told to leave: it may stay.
        now = state is not RunState.RUNNING and decision.vcoproc_id != staying
        if state not in ON_COPROC and self._may_have_begun(decision.vcoproc_id):
            now = False  # it would not take the free coprocessor, but end a turn that just began
        preempts = decision.preempt and decision.vcoproc_id != vcoprocs.current
        if preempts and not now:
            now, not_before_ns = self._preempt(not_before_ns)
        pending = Pending(
            self.number % GRANT_NUMBER_MAX + 1,
            decision.vcoproc_id,
            decision.slice_ns,
            now,
            not_before_ns,
            self._clock.from_policy_ns(decision.until_ns),
            self._clock_ns(),
        )
        if self._stands(pending, state):
            return None
        return self._grant(pending, current, preempts=preempts)

    def _may_have_begun(self, vcoproc: int) -> bool:
        """Whether the coproc may be switching to another one already, on an order before."""
        known = (0, vcoproc, self._vcoprocs.current)
        orders = (*self._replaced, self.pending) if self.pending else self._replaced
        return any(each.vcoproc not in known and self._due(each) for each in orders)

    def _clock_ns(self) -> int:
        return self._clock.estimate_ns(self._clock.now_ns)

    def _preempt(self, not_before_ns: int) -> tuple[bool, int]:
        """Whether and when the running one can be preempted: it runs for the least time first."""
        turn, min_run_ns = self._turn, self._policy.min_run_ns
        earliest_ns = turn.began_ns + min_run_ns
        if not min_run_ns or earliest_ns <= max(not_before_ns, self._clock_ns()):
            return True, not_before_ns
        if turn.slice_ns is not None and earliest_ns >= turn.slice_began_ns + turn.slice_ns:
            return False, not_before_ns  # its slice is over before
        return True, earliest_ns

    def _due(self, pending: Pending) -> bool:
        return pending.not_before_ns <= self._clock_ns()

    def _stands(self, wanted: Pending, state: RunState | None) -> bool:
        """Whether the coproc has been told this already."""
        pending = self.pending
        if pending is None or pending.vcoproc != wanted.vcoproc:
            return False
        # A turn with a bound ends there: what is left of it until now is no other order.
        if pending.slice_ns != wanted.slice_ns and not wanted.until_ns:
            return False
        due, vcoprocs = self._due(wanted), self._vcoprocs
        if pending.until_ns != wanted.until_ns or self._due(pending) != due:
            return False
        if not due and pending.not_before_ns != wanted.not_before_ns:
            return False
        if not due and state in ON_COPROC and pending.now != wanted.now:
            return False
        if pending.now or state not in ON_COPROC:
            # One that was granted for the end of a turn goes on an idle coprocessor untold.
            if due:
                vcoprocs.place(vcoprocs[pending.vcoproc])
            else:
                vcoprocs.unplace(vcoprocs[pending.vcoproc])
            return True
        if wanted.now:
            return False
        vcoprocs.unplace(vcoprocs[pending.vcoproc])
        return True

    def _tell(self, pending: Pending, current: Record | None) -> None:
        vcoprocs = self._vcoprocs
        if self.pending is not None:
            vcoprocs.unplace(vcoprocs.get(self.pending.vcoproc))
            self._replaced.append(self.pending)
        self.pending = pending
        self.number = pending.grant
        if not pending.now or not self._due(pending):
            # An earlier order to leave now is replaced.
            vcoprocs.stay(current)
            if self._due(pending) and _is_free(current):
                vcoprocs.place(vcoprocs.get(pending.vcoproc))
            return
        vcoprocs.leave(current)
        vcoprocs.place(vcoprocs.get(pending.vcoproc))

    def _grant(self, pending: Pending, current: Record | None, *, preempts: bool) -> Grant:
        wanted = self._policy.wanted
        assert wanted is not None
        why = Why.SLICE
        if pending.vcoproc == self._vcoprocs.current:
            why = Why.RENEW
        elif preempts and not _is_free(current):
            why = Why.PREEMPT
        elif pending.now or _is_free(current):
            why = Why.IDLE
        self._log(why, pending)
        self._tell(pending, current)
        return Grant(
            pending.grant,
            pending.vcoproc,
            pending.slice_ns,
            pending.now,
            wanted.refusal_ns,
            pending.not_before_ns,
            pending.until_ns,
        )

    # --- nobody -----------------------------------------------------------------------------------

    def _nobody(
        self, decision: Decision, current: Record | None, *, waiting: bool
    ) -> Revoke | Vacate | None:
        withheld, self._withheld = self._withheld, waiting
        if decision.vacate and current is not None:
            return self._vacate(decision, current)
        if self.pending is not None:
            self._log(Why.REVOKE, None)
            revoke = Revoke(self.pending.grant)
            self.forget()
            return revoke
        if waiting and not withheld:
            self._log(Why.WITHHELD, None)
        return None

    def _vacate(self, decision: Decision, current: Record) -> Vacate | None:
        wanted, pending = self._policy.wanted, self.pending
        assert wanted is not None
        now = decision.preempt or current.machine.state is not RunState.RUNNING
        if pending is not None and not pending.vcoproc and (pending.now or not now):
            return None
        number = self.number % GRANT_NUMBER_MAX + 1
        told = Pending(number, 0, 0, now, 0, 0, self._clock_ns())
        self._log(Why.VACATE, told)
        self._tell(told, current)
        return Vacate(number, now, wanted.refusal_ns)

    def forget(self) -> None:
        """What was pending is void."""
        assert self.pending is not None
        vcoprocs = self._vcoprocs
        vcoprocs.unplace(vcoprocs.get(self.pending.vcoproc))
        self._replaced.append(self.pending)
        self.pending = None
        vcoprocs.stay(vcoprocs.get(vcoprocs.current))

    def begun(self, grant: int, vcoproc: int) -> Pending | None:
        """A turn began, or the coprocessor was vacated; gives what was ordered, None if that is not
        known. If it was replaced meanwhile, the pending order still stands."""
        pending = self.pending
        if pending is not None and (pending.grant, pending.vcoproc) == (grant, vcoproc):
            self.pending = None
            self._replaced.clear()
            return pending
        order = self._taken_out(grant)
        return order if order is not None and order.vcoproc == vcoproc else None

    def dropped(self, grant: int) -> None:
        """An order came to nothing."""
        if self.pending is not None and self.pending.grant == grant:
            self.forget()
        self._taken_out(grant)

    def _taken_out(self, grant: int) -> Pending | None:
        """One of those that were replaced. What was told before it will not begin any more."""
        if all(each.grant != grant for each in self._replaced):
            return None
        while (order := self._replaced.popleft()).grant != grant:
            pass
        return order

    # --- for others to see ------------------------------------------------------------------------

    def _log(self, why: Why, pending: Pending | None) -> None:
        ring = self.ring
        ring.add(
            DecisionMade(
                number=ring.last_number + 1,
                clock_ns=self._clock_ns(),
                vcoproc=pending.vcoproc if pending else 0,
                current=self._vcoprocs.current,
                why=why,
                planned_ns=pending.slice_ns if pending else 0,
                not_before_ns=pending.not_before_ns if pending else 0,
                until_ns=pending.until_ns if pending else 0,
                grant=pending.grant if pending else 0,
                algorithm=self._policy.name,
            )
        )

    def problems(self) -> list[str]:
        """What contradicts itself; nothing, unless there is a bug."""
        found = []
        pending, policy = self.pending, self._policy
        for record in self._vcoprocs:
            state = record.machine.state
            if state is RunState.SWITCHING_IN and not (pending and pending.vcoproc == record.id):
                found.append(f"vcoproc {record.id} is SWITCHING_IN without a grant")
            if state is RunState.WAITING and record.awake and not (pending or self._withheld):
                found.append(f"vcoproc {record.id} waits and nobody is granted")
            if policy.policy and record.awake != (record.added and record.machine.wants()):
                found.append(f"the policy is wrong about vcoproc {record.id}")
        if policy.wanting != sum(record.awake for record in self._vcoprocs):
            found.append("the count of those who want to run is wrong")
        if pending and not (self._vcoprocs.registered and policy.policy):
            found.append("a grant is pending on a coproc that is not online")
        if pending and pending.vcoproc and not self._vcoprocs[pending.vcoproc].awake:
            found.append(f"the grant for vcoproc {pending.vcoproc} is for one who cannot run")
        return found


def _is_free(current: Record | None) -> bool:
    """Whether nobody runs, as far as is known."""
    return current is None or current.machine.state not in ON_COPROC
