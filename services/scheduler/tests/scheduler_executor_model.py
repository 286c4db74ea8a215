"""An honest model of a coproc-sim's executor, for tests of the scheduler alone.

It follows the rules of the schedule link: one current and one next grant; a new grant replaces the
one that has not begun; at the end of the slice, or when the current one idles or faults, it
switches to the next one if that can run, else says GrantDropped; without a next one the current
runs on, or stays while idle; it reports afterwards. A grant that may not begin yet is as if it were
not there; a turn with a bound ends at that time though nobody comes; an order to vacate takes the
place of the next grant. Hardware that refuses the next one is reported empty, and asked again until
the bound. It keeps its own books, from its own events, with which the scheduler's accounting must
agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from vcoproc.limits import SWITCH_DEADLINE_NS, SWITCH_IN_NS_MIN, US
from vcoproc.testing.clock import Timer, VirtualClock
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    Message,
    Register,
    Report,
    Revoke,
    Sleep,
    Vacate,
    Wake,
)


@dataclass(slots=True)
class Guest:
    """A vcoproc of the model. work_ns: how long it still runs before it idles; None: for ever.

    run_ns, overtime_ns, turns: the model's own books. waits: turns of others since it began to
    wait.
    """

    id: int
    work_ns: int | None = 0
    faulted: bool = False
    told: bool = False
    run_ns: int = 0
    refused_ns: int = 0
    entries_ns: list[int] = field(default_factory=list)
    """How long it was refused each time when it was to be taken in; part of refused_ns."""
    given_up: int = 0
    turns: int = 0
    waits: int = 0

    @property
    def runnable(self) -> bool:
        return not self.faulted and self.work_ns != 0


@dataclass(slots=True)
class Costs:
    """Times of a switch, and how long one refuses to leave and to be taken in, as ranges."""

    save_ns: tuple[int, int] = (5 * US, 20 * US)
    mmu_ns: tuple[int, int] = (1 * US, 2 * US)
    restore_ns: tuple[int, int] = (5 * US, 20 * US)
    refuse_ns: tuple[int, int] = (0, 0)
    refuse_in_ns: tuple[int, int] = (0, 0)


FREE = Costs((0, 0), (0, 0), (0, 0), (0, 0))


@dataclass(slots=True)
class Switch:
    """A switch under way. vacated: number of the order that is carried out by it, or 0.

    refused_in_since_ns: since when the next one was refused, if it was.
    """

    end: EndReason
    leaver: Guest | None
    grant: Grant | None
    vacated: int
    ended_ns: int
    refused_ns: int
    save_ns: int
    mmu_ns: int
    restore_ns: int
    runnable: bool
    refused_in_since_ns: int | None = None


@dataclass(slots=True)
class Entering:
    """The hardware refuses the next one. until_ns: of the refusal; deadline_ns: of the patience."""

    vcoproc: int
    since_ns: int
    until_ns: int
    deadline_ns: int


@dataclass(slots=True)
class ExecutorModel:
    """One coproc.

    clock_offset_ns: its clock less the simulation's: nobody may compare the two. early_reports: a
    report tells whether the leaver wants to run as it was when the switch began; a wake during the
    switch goes ahead of the report then. Both ways are allowed.
    """

    clock: VirtualClock
    send: Callable[[Message], bool | None]
    random: Random
    coproc: str = "dsp0"
    costs: Costs = field(default_factory=lambda: FREE)
    clock_offset_ns: int = 0
    early_reports: bool = False
    guests: dict[int, Guest] = field(default_factory=dict)
    current: Guest | None = None
    next: Grant | Vacate | None = None
    switch: Switch | None = None
    entering: Entering | None = None
    grant_number: int = 0
    slice_ns: int = 0
    until_ns: int = 0
    slice_began_ns: int = 0
    full_slice_ns: int = 0
    turn_run_ns: int = 0
    turn_refused_ns: int = 0
    running_since_ns: int | None = None
    timer: Timer | None = None
    idle_told: bool = False
    now_wanted: bool = False
    detached: set[int] = field(default_factory=set)
    dropped: list[str] = field(default_factory=list)

    def now(self) -> int:
        return self.clock.now_ns + self.clock_offset_ns

    # --- what guests do ---------------------------------------------------------------------------

    def attach(self, vcoproc: int) -> None:
        if vcoproc not in self.detached:  # numbers are never used again
            self.guests.setdefault(vcoproc, Guest(vcoproc))

    def detach(self, vcoproc: int) -> None:
        guest = self.guests.pop(vcoproc, None)
        if guest is None:
            return
        self.detached.add(vcoproc)
        granted = self.switch.grant if self.switch is not None else None
        if granted is not None and granted.vcoproc == vcoproc:
            assert self.switch is not None
            self.switch.grant = None
            self._send_dropped(granted, "REMOVED", self.switch.refused_in_since_ns)
        if self.entering is not None and self.entering.vcoproc == vcoproc:
            self._drop("REMOVED")
        if self.current is guest and self.switch is None:
            self._stop_clock()
            self._begin_switch(EndReason.REMOVED)
        else:
            self._consider()

    def work(self, vcoproc: int, work_ns: int | None) -> None:
        """A doorbell: work for a guest; also resets one that has faulted."""
        guest = self.guests.get(vcoproc)
        if guest is None:
            return
        guest.faulted = False
        self._account()
        if work_ns is None or guest.work_ns is None:
            guest.work_ns = None
        else:
            guest.work_ns += work_ns
        if self.current is guest and self.switch is None:
            if self.running_since_ns is None and guest.runnable:
                self._begin_slice(self.full_slice_ns)
                self._start_clock()
                guest.told = True
                self.send(Wake(vcoproc, self.now(), True))
        elif guest.runnable and not guest.told:
            guest.told = True
            guest.waits = 0
            self.send(Wake(vcoproc, self.now(), False))
        self._consider()

    def fault(self, vcoproc: int) -> None:
        guest = self.guests.get(vcoproc)
        if guest is None or guest.faulted:
            return
        self._account()
        guest.faulted = True
        guest.work_ns = 0
        guest.told = False
        if self.current is guest:
            self._stop_clock()
        if self.switch is not None and self.switch.leaver is guest:
            self.switch.runnable = False
        self.send(Faulted(vcoproc, 3, 0x1000, "stage 2", self.now()))
        self._consider()

    def yield_(self) -> None:
        """The current one says that this is a good moment."""
        if self.running_since_ns is None or self.switch is not None:
            return
        if isinstance(self.next, Grant) and self._may_begin(self.next):
            self._account()
            if self._next_can_run() and not self._late(self.next):
                self._begin_switch(EndReason.YIELD)

    # --- what the scheduler says ------------------------------------------------------------------

    def receive(self, message: Message) -> None:
        entering = self.entering
        if isinstance(message, Revoke):
            if self.next is not None and self.next.grant == message.grant:
                self._stop_entering()
                self.next = None
        elif isinstance(message, Vacate):
            self._stop_entering()
            self.next = message
            if self.current is None and self.switch is None:
                self._drop("EMPTY")
        else:
            assert isinstance(message, Grant)
            guest = self.guests.get(message.vcoproc)
            if entering is not None and entering.vcoproc != message.vcoproc:
                self._stop_entering()
            self.next = message
            if guest is None or not self._can_run(guest):
                self._drop("NOT_RUNNABLE" if guest else "NOT_FOUND")
            elif not self._may_begin(message):
                self._stop_entering()
        self._consider()

    def register(self) -> None:
        """After each welcome."""
        self.next = self.entering = None
        if self.switch is not None:
            self.switch.grant = None
            # What is listed here counts from now on, also in the report that follows.
            self.switch.runnable = self.switch.leaver is not None and self.switch.leaver.runnable
        self._account()
        for guest in self.guests.values():
            guest.told = self._can_run(guest)
        current = self.switch.leaver if self.switch is not None else self.current
        gone = current is not None and current.id not in self.guests
        listed = [(each.id, each.told, each.faulted) for each in self.guests.values()]
        if gone:
            assert current is not None
            listed.append((current.id, False, False))
        self.send(Register(self.coproc, self.now(), current.id if current else 0, tuple(listed)))
        self._consider()

    # --- the machine ------------------------------------------------------------------------------

    def _can_run(self, guest: Guest) -> bool:
        if guest is self.current and self.switch is None:
            return self.running_since_ns is not None
        return guest.runnable

    def _account(self) -> None:
        """Brings the books up to now."""
        if self.running_since_ns is not None:
            guest = self.current
            assert guest is not None
            ran_ns = self.now() - self.running_since_ns
            guest.run_ns += ran_ns
            self.turn_run_ns += ran_ns
            if guest.work_ns is not None:
                guest.work_ns -= ran_ns
                assert guest.work_ns >= 0
            self.running_since_ns = self.now()

    def _start_clock(self) -> None:
        self.running_since_ns = self.now()

    def _stop_clock(self) -> None:
        self._account()
        self.running_since_ns = None

    def _may_begin(self, grant: Grant) -> bool:
        return self.now() >= grant.not_before_ns

    def _late(self, grant: Grant) -> bool:
        return bool(grant.until_ns) and self.now() >= grant.until_ns

    def _next_can_run(self) -> bool:
        assert isinstance(self.next, Grant)
        guest = self.guests.get(self.next.vcoproc)
        return guest is not None and self._can_run(guest)

    def _drop(self, why: str) -> None:
        assert self.next is not None
        order, self.next = self.next, None
        self.dropped.append(why)
        if not isinstance(order, Grant):
            self.send(GrantDropped(order.grant, 0, why, self.now()))
            return
        entering, self.entering = self.entering, None
        self._send_dropped(order, why, entering.since_ns if entering is not None else None)
        guest = self.guests.get(order.vcoproc)
        if guest is None or guest is self.current or why == "LATE":
            return
        guest.told = False
        if guest.runnable:
            guest.told = True
            guest.waits = 0
            self.send(Wake(guest.id, self.now(), False))

    def _send_dropped(self, grant: Grant, why: str, refused_since_ns: int | None) -> None:
        """refused_since_ns: since when the hardware refused to take its vcoproc in, if it did."""
        refused_ns = 0
        guest = self.guests.get(grant.vcoproc)
        if refused_since_ns is not None:
            refused_ns = self.now() - refused_since_ns
            self._book_entry(guest, refused_ns)
            if guest is not None:
                guest.given_up += why == "SWITCH_TIMEOUT"
        refusals = int(refused_since_ns is not None)
        self.send(GrantDropped(grant.grant, grant.vcoproc, why, self.now(), refused_ns, refusals))

    def _book_entry(self, guest: Guest | None, refused_ns: int) -> None:
        if guest is not None:
            guest.refused_ns += refused_ns
            guest.entries_ns.append(refused_ns)

    def _stop_entering(self) -> None:
        """The one that the hardware refuses is not wanted any more."""
        entering, self.entering = self.entering, None
        if entering is not None:
            assert isinstance(self.next, Grant)
            self._send_dropped(self.next, "REPLACED", entering.since_ns)
            self.next = None

    def _consider(self) -> None:
        """Does what is due, and sets the timer for what will be."""
        if self.switch is not None:
            return
        if self.entering is not None:
            self._set_entering_timer(self.entering)
            return
        self._account()
        current = self.current
        if current is not None and self.running_since_ns is not None and current.work_ns == 0:
            self._stop_clock()
            self.idle_told = False
        idle = self.running_since_ns is None
        ended = current is not None and bool(self.until_ns) and self.now() >= self.until_ns
        over = ended or self.now() - self.slice_began_ns >= self.slice_ns
        order = self.next
        if isinstance(order, Grant) and not self._may_begin(order):
            order = None
        if isinstance(order, Vacate) and current is None:
            self._drop("EMPTY")
            order = None
        if isinstance(order, Grant) and (idle or over or order.now):
            if self._late(order):
                self._drop("LATE")
                order = None
            elif not self._next_can_run():
                self._drop("NOT_RUNNABLE")
                order = None
            elif current is not None and order.vcoproc == current.id:
                self._renew()
                ended = False
                order = None
        if (order is not None and (idle or over or order.now)) or ended:
            faulted = current is not None and current.faulted
            end = EndReason.FAULT if faulted else EndReason.IDLE
            if not idle:
                end = EndReason.SLICE if over else EndReason.PREEMPTED
            self._begin_switch(end, order)
            return
        if idle and current is not None and not self.idle_told and not current.faulted:
            self.idle_told = True
            current.told = False
            self.send(Sleep(current.id, self.now()))
        self._set_timer()

    def _set_timer(self) -> None:
        self.clock.cancel(self.timer)
        self.timer = None
        due = []
        if isinstance(self.next, Grant) and not self._may_begin(self.next):
            due.append(self.next.not_before_ns)
        if self.current is not None and self.until_ns:
            due.append(self.until_ns)
        if self.running_since_ns is not None:
            assert self.current is not None
            if self.current.work_ns is not None:
                due.append(self.now() + self.current.work_ns)
            if isinstance(self.next, Vacate) or (self.next and self._may_begin(self.next)):
                due.append(self.slice_began_ns + self.slice_ns)
        if due:
            self.timer = self.clock.call_at(min(due) - self.clock_offset_ns, self._consider)

    def _renew(self) -> None:
        assert isinstance(self.next, Grant) and self.current is not None
        now_ns = self.now()
        switch = Switch(EndReason.SLICE, self.current, self.next, 0, now_ns, 0, 0, 0, 0, True)
        self.send(self._report(switch, self.current, now_ns))
        self._open_turn(self.next)
        self.next = None

    def _open_turn(self, grant: Grant) -> None:
        self.grant_number = grant.grant
        self.until_ns = grant.until_ns
        self.full_slice_ns = grant.slice_ns
        self._begin_slice(grant.slice_ns)
        self.turn_run_ns = self.turn_refused_ns = 0
        self.idle_told = False

    def _begin_slice(self, slice_ns: int) -> None:
        self.slice_began_ns = self.now()
        self.slice_ns = slice_ns
        if self.until_ns:
            self.slice_ns = min(slice_ns, max(0, self.until_ns - self.now()))

    def _begin_switch(self, end: EndReason, order: Grant | Vacate | None = None) -> None:
        self.clock.cancel(self.timer)
        self._stop_clock()
        leaver, grant, vacated = self.current, None, 0
        if isinstance(self.next, Grant) and (order is not None or self._may_begin(self.next)):
            grant, self.next = self.next, None
        elif isinstance(self.next, Vacate):
            vacated, self.next = self.next.grant, None
        between, costs = self.random.randint, self.costs
        refused_ns = save_ns = mmu_ns = restore_ns = 0
        if leaver is not None:
            # Only one that is made to leave refuses.
            if end in (EndReason.SLICE, EndReason.PREEMPTED):
                bound_ns = grant.refusal_ns if grant is not None else SWITCH_DEADLINE_NS
                refused_ns = min(between(*costs.refuse_ns), bound_ns)
            save_ns = between(*costs.save_ns)
        if grant is not None:
            mmu_ns, restore_ns = between(*costs.mmu_ns), between(*costs.restore_ns)
        self.switch = Switch(
            end, leaver, grant, vacated, self.now(), refused_ns, save_ns, mmu_ns, restore_ns,
            leaver is not None and leaver.runnable,
        )  # fmt: skip
        if leaver is not None:
            leaver.refused_ns += refused_ns
            self.turn_refused_ns = refused_ns
            leaver.told = leaver.runnable and leaver.id in self.guests
            leaver.waits = 0
        refuse_in_ns = between(*costs.refuse_in_ns) if grant is not None else 0
        if refuse_in_ns:
            self.clock.call_after(refused_ns + save_ns, lambda: self._refuse_in(refuse_in_ns))
        else:
            self.clock.call_after(refused_ns + save_ns + mmu_ns + restore_ns, self._end_switch)

    def _refuse_in(self, refuse_ns: int) -> None:
        """The hardware is free, but does not take the next one in."""
        switch = self.switch
        assert switch is not None
        grant = switch.grant
        guest = self.guests.get(grant.vcoproc) if grant is not None else None
        gone = grant is None or guest is None or not guest.runnable or self._late(grant)
        if gone or self.next is not None:  # then it is as if it did
            self.clock.call_after(switch.mmu_ns + switch.restore_ns, self._end_switch)
            return
        assert grant is not None
        self.switch = self.current = None
        self.until_ns = 0
        if switch.leaver is not None:
            self.send(self._report(switch, None, self.now()))
        self.next = grant
        bound_ns = min(max(grant.refusal_ns, SWITCH_IN_NS_MIN), SWITCH_DEADLINE_NS)
        now_ns = self.now()
        self.entering = Entering(grant.vcoproc, now_ns, now_ns + refuse_ns, now_ns + bound_ns)
        self._consider()

    def _set_entering_timer(self, entering: Entering) -> None:
        self.clock.cancel(self.timer)
        assert isinstance(self.next, Grant)
        due = [entering.until_ns, entering.deadline_ns]
        if self.next.until_ns:
            due.append(self.next.until_ns)
        at_ns = max(min(due) - self.clock_offset_ns, self.clock.now_ns)
        self.timer = self.clock.call_at(at_ns, self._ask_again)

    def _ask_again(self) -> None:
        entering, grant = self.entering, self.next
        assert entering is not None and isinstance(grant, Grant)
        if self._late(grant):
            self._drop("LATE")
        elif not self._next_can_run():
            self._drop("NOT_RUNNABLE")
        elif self.now() < entering.until_ns:
            self._drop("SWITCH_TIMEOUT")
        else:
            self.next = self.entering = None
            mmu_ns = self.random.randint(*self.costs.mmu_ns)
            restore_ns = self.random.randint(*self.costs.restore_ns)
            self.switch = Switch(
                EndReason.IDLE, None, grant, 0, self.now(), 0, 0, mmu_ns, restore_ns, False,
                entering.since_ns,
            )  # fmt: skip
            self.clock.call_after(mmu_ns + restore_ns, self._end_switch)
        self._consider()

    def _end_switch(self) -> None:
        switch = self.switch
        assert switch is not None
        self.switch = None
        grant = switch.grant
        enters = None
        if grant is not None:
            enters = self.guests.get(grant.vcoproc)
            if self._late(grant):
                self.dropped.append("LATE")
                self._send_dropped(grant, "LATE", switch.refused_in_since_ns)
                enters = None
            elif enters is None or not enters.runnable:
                self._send_dropped(grant, "NOT_RUNNABLE", switch.refused_in_since_ns)
                if enters is not None:
                    enters.told = False
                enters = None
        if enters is not None or switch.leaver is not None:
            self.send(self._report(switch, enters, self.now()))
        self.current = enters
        self.until_ns = 0
        if enters is not None:
            assert grant is not None
            self._open_turn(grant)
            enters.turns += 1
            enters.told = True
            for guest in self.guests.values():
                if guest is not enters and guest.runnable:
                    guest.waits += 1
            self._start_clock()
        self._consider()

    def _report(self, switch: Switch, enters: Guest | None, now_ns: int) -> Report:
        leaver = switch.leaver
        runnable = False
        if leaver is not None and leaver.id in self.guests:
            runnable = switch.runnable
            if not self.early_reports:
                runnable = leaver.told = leaver.runnable
        refused_in_ns = 0
        if enters is not None and switch.refused_in_since_ns is not None:
            refused_in_ns = switch.ended_ns - switch.refused_in_since_ns
            self._book_entry(enters, refused_in_ns)
        return Report(
            grant=self.grant_number if leaver else 0,
            vcoproc=leaver.id if leaver else 0,
            next_grant=switch.grant.grant if enters and switch.grant else switch.vacated,
            next_vcoproc=enters.id if enters else 0,
            end=switch.end,
            runnable=runnable,
            planned_ns=self.slice_ns if leaver else 0,
            ran_ns=self.turn_run_ns + self.turn_refused_ns if leaver else 0,
            refused_ns=switch.refused_ns,
            refusals=1 if switch.refused_ns else 0,
            forced=False,
            instructions=self.turn_run_ns // 10 if leaver else 0,
            save_ns=switch.save_ns,
            mmu_ns=switch.mmu_ns if enters else 0,
            restore_ns=switch.restore_ns if enters else 0,
            ended_ns=switch.ended_ns,
            next_began_ns=now_ns if enters else 0,
            switch_in_refused_ns=refused_in_ns,
            switch_in_refusals=1 if refused_in_ns else 0,
        )
