"""What the scheduler is told, and so what it believes.

The only place that makes messages for the scheduler, and the only one that changes
`Vcoproc.told_runnable`: the two cannot disagree, and so no wake is lost and none is told twice.
"""

from __future__ import annotations

from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    Report,
    Sleep,
    Vacate,
    Wake,
)
from vcoproc_sim.switching import Entered, Entering, Left
from vcoproc_sim.vcoprocs import FaultSeen, Outbox, Vcoproc, detail


class Notices:
    """See the module."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def registered(self, vcoproc: Vcoproc, *, runnable: bool) -> None:
        """A `Register` says so."""
        vcoproc.told_runnable = runnable

    def wake(self, vcoproc: Vcoproc, now_ns: int, *, resumed: bool) -> None:
        """It wants to run. Told only to a scheduler that does not believe so already."""
        if not vcoproc.told_runnable:
            vcoproc.told_runnable = True
            self._outbox.to_scheduler.append(Wake(vcoproc.id, now_ns, resumed))

    def sleep(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """It is idle and stays on the hardware."""
        if vcoproc.told_runnable:
            vcoproc.told_runnable = False
            self._outbox.to_scheduler.append(Sleep(vcoproc.id, now_ns))

    def held_back(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """It waited, and is kept from running."""
        vcoproc.told_runnable = False
        self._outbox.to_scheduler.append(GrantDropped(0, vcoproc.id, "PAUSED", now_ns))

    def faulted(self, vcoproc: Vcoproc, fault: FaultSeen, now_ns: int) -> None:
        """It does not run again before a reset."""
        vcoproc.told_runnable = False
        message = Faulted(vcoproc.id, fault.code, fault.address, detail(fault.why), now_ns)
        self._outbox.to_scheduler.append(message)

    def nobody_to_vacate(self, order: Vacate, now_ns: int) -> None:
        """An order to vacate came to nothing: nobody is on the hardware."""
        self._outbox.to_scheduler.append(GrantDropped(order.grant, 0, "EMPTY", now_ns))

    def dropped(
        self,
        grant: Grant,
        why: str,
        now_ns: int,
        *,
        vcoproc: Vcoproc | None = None,
        entering: Entering | None = None,
    ) -> None:
        """A grant came to nothing.

        Args:
            vcoproc: whose, if the scheduler takes it for asleep now.
            entering: for how long the hardware refused it, if it did.
        """
        self._outbox.to_scheduler.append(
            GrantDropped(
                grant.grant,
                grant.vcoproc,
                why,
                now_ns,
                refused_ns=now_ns - entering.since_ns if entering is not None else 0,
                refusals=entering.refusals if entering is not None else 0,
            )
        )
        if vcoproc is not None:
            vcoproc.told_runnable = False

    def report(
        self,
        left: Left | None,
        entered: Entered | None,
        *,
        runnable: bool,
        at_ns: int,
        vacate: int = 0,
    ) -> None:
        """The hardware has changed hands, or a slice has followed another.

        Args:
            left: None: it was empty. entered: None: it is empty.
            runnable: whether the one that left still wants to run.
            at_ns: when a switch onto empty hardware began.
            vacate: number of the `Vacate` that is carried out with it.
        """
        old = left.turn if left is not None else None
        new = entered.turn if entered is not None else None
        if old is not None:
            old.vcoproc.told_runnable = runnable
        if new is not None:
            new.vcoproc.told_runnable = True
        self._outbox.to_scheduler.append(
            Report(
                grant=old.grant if old is not None else 0,
                vcoproc=old.vcoproc.id if old is not None else 0,
                next_grant=new.grant if new is not None else vacate,
                next_vcoproc=new.vcoproc.id if new is not None else 0,
                end=left.end if left is not None else EndReason.IDLE,
                runnable=runnable,
                planned_ns=old.slice_ns if old is not None else 0,
                ran_ns=old.ran_ns if old is not None else 0,
                refused_ns=left.refused_ns if left is not None else 0,
                refusals=left.refusals if left is not None else 0,
                forced=left.forced if left is not None else False,
                instructions=old.instructions if old is not None else 0,
                save_ns=left.save_ns if left is not None else 0,
                mmu_ns=entered.mmu_ns if entered is not None else 0,
                restore_ns=entered.restore_ns if entered is not None else 0,
                ended_ns=left.ended_ns if left is not None else at_ns,
                next_began_ns=new.slice_began_ns if new is not None else 0,
                switch_in_refused_ns=entered.refused_ns if entered is not None else 0,
                switch_in_refusals=entered.refusals if entered is not None else 0,
            )
        )
