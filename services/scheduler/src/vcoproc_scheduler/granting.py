"""What the coproc was granted last, and what it must be told after each event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vcoproc.model.run_state import ON_COPROC, RunState
from vcoproc.wire.messages import Grant, Revoke
from vcoproc_scheduler.policies.api import Decision
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.vcoprocs import Vcoprocs

GRANT_NUMBER_MAX: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Pending:
    """The grant that the coproc was told last and has not begun, as far as is known."""

    grant: int
    vcoproc: int
    slice_ns: int
    now: bool


class Granting:
    """Asks the policy who is next, and says so when the answer is another one than before."""

    def __init__(self, vcoprocs: Vcoprocs, policy: PolicySide) -> None:
        self.pending: Pending | None = None
        self.failed = False
        """The coproc takes no grant any more."""
        self.number = 0
        """Of the latest grant."""
        self._vcoprocs = vcoprocs
        self._policy = policy
        self._withheld = False  # somebody waits, but gets no grant

    def reset(self) -> None:
        """The coproc knows of no grant any more."""
        self.pending = None
        self.failed = False
        self._withheld = False

    def decide(self) -> Grant | Revoke | None:
        """What to tell the coproc now."""
        vcoprocs, policy = self._vcoprocs, self._policy
        if not vcoprocs.registered:
            return None
        current = vcoprocs[vcoprocs.current] if vcoprocs.current else None
        state = current.machine.state if current is not None else None
        staying = current.id if current and current.awake and state in ON_COPROC else None
        others = policy.wanting - (staying is not None)
        decision = None
        if others and not self.failed:  # else also no renewal: alone, it runs on without grants
            decision = policy.pick(vcoprocs, staying)
        self._withheld = others > 0 and (decision is None or decision.vcoproc_id is None)
        if decision is None or decision.vcoproc_id is None:
            return self._revoke()
        preempt = decision.preempt and decision.vcoproc_id != vcoprocs.current
        now = state is not RunState.RUNNING or preempt
        pending = self.pending
        if pending and pending.vcoproc == decision.vcoproc_id:
            record = vcoprocs[pending.vcoproc]
            if pending.now or state not in ON_COPROC:
                # One that was granted for the end of a turn goes on an idle coprocessor untold.
                vcoprocs.place(record)
                return None
            if not now:
                vcoprocs.unplace(record)
                return None
        return self._grant(decision.vcoproc_id, decision, now)

    def _grant(self, vcoproc: int, decision: Decision, now: bool) -> Grant:
        vcoprocs, algorithm = self._vcoprocs, self._policy.algorithm
        assert algorithm is not None
        if self.pending is not None:
            vcoprocs.unplace(vcoprocs.get(self.pending.vcoproc))
        self.number = self.number % GRANT_NUMBER_MAX + 1
        self.pending = Pending(self.number, vcoproc, decision.slice_ns, now)
        if now:
            vcoprocs.leave(vcoprocs.get(vcoprocs.current))
            vcoprocs.place(vcoprocs[vcoproc])
        return Grant(self.number, vcoproc, decision.slice_ns, now, algorithm.refusal_ns)

    def _revoke(self) -> Revoke | None:
        if self.pending is None:
            return None
        revoke = Revoke(self.pending.grant)
        self.forget()
        return revoke

    def forget(self) -> None:
        """The pending grant is void."""
        assert self.pending is not None
        vcoprocs = self._vcoprocs
        vcoprocs.unplace(vcoprocs.get(self.pending.vcoproc))
        self.pending = None
        vcoprocs.stay(vcoprocs.get(vcoprocs.current))

    def begun(self, grant: int, vcoproc: int) -> int | None:
        """A turn began; gives its slice, or None if the pending grant still stands."""
        pending = self.pending
        if pending is None or (pending.grant, pending.vcoproc) != (grant, vcoproc):
            return None
        self.pending = None
        return pending.slice_ns

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
        if pending and not self._vcoprocs[pending.vcoproc].awake:
            found.append(f"the grant for vcoproc {pending.vcoproc} is for one who cannot run")
        return found
