"""What a report means: one turn ended, another one began, and where the time went.

And what it means for the time of a vcoproc that its grant came to nothing.
"""

from __future__ import annotations

from typing import Final

from vcoproc.errors import SwitchTimeout
from vcoproc.model.run_state import ON_COPROC, RunEvent, RunState
from vcoproc.wire.messages import EndReason, GrantDropped, Report
from vcoproc_scheduler.accounting import Account, Bucket, TurnEnded
from vcoproc_scheduler.granting import Granting, Pending
from vcoproc_scheduler.policy_side import PolicySide
from vcoproc_scheduler.record import BUCKETS, CoprocClock, Record, Turn
from vcoproc_scheduler.vcoprocs import Vcoprocs

WANTS_AS_BEFORE: Final = frozenset({"REPLACED", "LATE"})
"""`GrantDropped.why` that says nothing about the vcoproc."""


def was_refused(dropped: GrantDropped) -> bool:
    """Whether the coprocessor refused to take its vcoproc in."""
    return bool(dropped.refused_ns or dropped.refusals)


class Turns:
    """Takes the reports of one coproc. The time of a switch is nobody's slice: the turn of the next
    one begins when the switch is over, and a refusal before it is charged to who refused: the one
    that did not leave, or the one that was not taken in."""

    def __init__(
        self,
        vcoprocs: Vcoprocs,
        policy: PolicySide,
        granting: Granting,
        clock: CoprocClock,
        turn: Turn,
    ) -> None:
        self.switch_count = 0
        self.switch_max_ns = 0
        """Longest switch, refusals not counted."""
        self._vcoprocs = vcoprocs
        self._policy = policy
        self._granting = granting
        self._clock = clock
        self._turn = turn

    def report(self, report: Report) -> TurnEnded | None:
        """Takes a report about the current vcoproc."""
        self._clock.tell(max(report.ended_ns, report.next_began_ns))
        order = self._granting.begun(report.next_grant, report.next_vcoproc)
        ended, left_ns = None, 0
        if report.vcoproc and report.vcoproc == report.next_vcoproc:
            ended = self._renew(report, order)
        else:
            if report.vcoproc:
                ended, left_ns = self._end_turn(report, order)
            self._vcoprocs.current = 0
            if report.next_vcoproc:
                self._begin_turn(report, order, left_ns)
        self._clock.tell(left_ns)
        return ended

    def _end_turn(self, report: Report, order: Pending | None) -> tuple[TurnEnded, int]:
        """Gives also when it had left."""
        record = self._vcoprocs[report.vcoproc]
        account = record.account
        account.move(Bucket.REFUSED, report.ended_ns)
        account.move(Bucket.SWITCH, report.ended_ns + report.refused_ns)
        if report.refused_ns or report.refusals or report.forced:
            account.refusals.add(report.refused_ns, report.refusals, forced=report.forced)
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
        ended = self._close_turn(record, report, order, left=True)
        self._policy.sync(record)
        record.machine.sleep_requested = False
        asleep = record.machine.state is RunState.SLEEPING
        if report.end == EndReason.REMOVED and asleep and not record.added:
            self._vcoprocs.forget(record)
        return ended, left_ns

    def _begin_turn(self, report: Report, order: Pending | None, left_ns: int) -> None:
        record = self._vcoprocs.known(report.next_vcoproc)
        account = record.account
        began_ns = report.next_began_ns
        taken_ns = max(left_ns, began_ns - report.mmu_ns - report.restore_ns)
        if report.switch_in_refused_ns or report.switch_in_refusals:
            account.move(Bucket.REFUSED, taken_ns - report.switch_in_refused_ns)
            account.switch_in_refusals.add(report.switch_in_refused_ns, report.switch_in_refusals)
        account.move(Bucket.SWITCH, taken_ns)
        account.switches += 1
        self.switch_count += 1
        told_ns = report.ended_ns + report.refused_ns if report.vcoproc else began_ns
        phases_ns = report.save_ns + report.mmu_ns + report.restore_ns
        self.switch_max_ns = max(self.switch_max_ns, phases_ns, began_ns - told_ns)
        self._vcoprocs.current = record.id
        self._open_turn(record, report, order)

    def dropped(self, record: Record, dropped: GrantDropped) -> None:
        """Takes the news that a grant for a vcoproc came to nothing."""
        refused, given_up = was_refused(dropped), dropped.why == SwitchTimeout.reason
        if refused:
            self._not_taken_in(record.account, dropped, given_up=given_up)
        # Also of a grant that was replaced since: that its vcoproc cannot run is true all the same.
        if dropped.why not in WANTS_AS_BEFORE:
            self._vcoprocs.move(record, RunEvent.DROP, dropped.clock_ns)
        if given_up and record.awake:  # then that was its turn
            self._policy.begin(record)
        if refused or given_up:
            stopped_ns = dropped.clock_ns - dropped.refused_ns
            self._policy.charge(record, stopped_ns=stopped_ns, ended=given_up, left=given_up)
        self._policy.sync(record)

    def _not_taken_in(self, account: Account, dropped: GrantDropped, *, given_up: bool) -> None:
        """It waited before, and does so afterwards: what lies between is its refusal."""
        bucket = account.bucket
        assert bucket is not None
        account.move(Bucket.REFUSED, dropped.clock_ns - dropped.refused_ns)
        account.move(bucket, dropped.clock_ns)
        account.switch_in_refusals.add(dropped.refused_ns, dropped.refusals, given_up=given_up)

    def _renew(self, report: Report, order: Pending | None) -> TurnEnded:
        """The current one has got another slice; nothing was switched."""
        record = self._vcoprocs[report.vcoproc]
        record.account.move(BUCKETS[record.machine.state], report.ended_ns)
        ended = self._close_turn(record, report, order, left=False)
        self._open_turn(record, report, order)
        return ended

    def _close_turn(
        self, record: Record, report: Report, order: Pending | None, *, left: bool
    ) -> TurnEnded:
        account = record.account
        account.instructions += report.instructions
        overtime_ns = account.end_slice(
            report.planned_ns, full=report.end == EndReason.SLICE and self._in_time(report, order)
        )
        if report.end == EndReason.YIELD:
            self._policy.yielded(record)
            account.yielded()
        self._policy.charge(
            record, stopped_ns=report.ended_ns, overtime_ns=overtime_ns, ended=True, left=left
        )
        began_ns = self._turn.began_ns
        return TurnEnded(
            vcoproc=record.id,
            began_ns=began_ns,
            ended_ns=max(began_ns, report.ended_ns),
            planned_ns=report.planned_ns,
            end=report.end,
            refused_ns=report.refused_ns,
            save_ns=report.save_ns,
            mmu_ns=report.mmu_ns,
            restore_ns=report.restore_ns,
        )

    def _in_time(self, report: Report, order: Pending | None) -> bool:
        """Whether a slice that was over could end: the coproc knew what comes next by then."""
        turn = self._turn
        if turn.slice_ns is None:
            return False
        over_ns = turn.slice_began_ns + report.planned_ns
        if order is None:
            return bool(turn.until_ns) and not report.next_vcoproc
        return max(order.told_ns, order.not_before_ns) <= over_ns

    def _open_turn(self, record: Record, report: Report, order: Pending | None) -> None:
        began_ns = report.next_began_ns
        self._vcoprocs.move(record, RunEvent.BEGIN, began_ns)
        record.account.begin_slice()
        slice_ns, until_ns = (order.slice_ns, order.until_ns) if order else (None, 0)
        self._turn.begin(began_ns, slice_ns, until_ns)
        self._policy.sync(record)
        self._policy.begin(record, slice_ns)
