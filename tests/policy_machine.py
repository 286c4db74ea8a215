"""A coprocessor for one policy, on virtual time, that does exactly what a `Decision` says.

For tests of policies alone: no core, no link, no delay. It calls a policy in the order that
`vcoproc_scheduler.policies.api` promises, and checks each answer against what a policy promises.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from vcoproc.limits import MS, SLICE_NS_MAX, SLICE_NS_MIN
from vcoproc_scheduler.policies.api import (
    Decision,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
    resolve_parameters,
)

CALLS_AT_ONCE_MAX = 100
"""Decisions at one moment; more, and time never goes on."""


@dataclass(slots=True)
class Guest:
    """work_ns: how long it still runs before it idles; None: for ever. Times are its books."""

    id: int
    work_ns: int | None = 0
    run_ns: int = 0
    switch_ns: int = 0
    refused_ns: int = 0
    turns: int = 0
    waiting_since_ns: int | None = None
    wait_ns_max: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """One slice of one guest."""

    id: int
    began_ns: int
    ended_ns: int
    planned_ns: int


@dataclass(slots=True)
class PolicyMachine:
    """One coproc under one policy.

    switch_ns: what leaving costs, and what coming costs. refuse_ns: for how long a guest refuses
    when it is made to leave. refuse_in_ns: for how long the hardware refuses to take a guest in,
    which is given up after bound_ns. idled: told of each guest that has nothing more to do. asks:
    how often each decision is asked for; more must change nothing.
    """

    policy: Policy
    slice_ns: int = 5 * MS
    parameters: Mapping[str, int] = field(default_factory=dict)
    switch_ns: int = 0
    refuse_ns: Callable[[Guest], int] = lambda guest: 0
    refuse_in_ns: Callable[[Guest], int] = lambda guest: 0
    bound_ns: int = 50 * MS
    idled: Callable[[Guest], None] = lambda guest: None
    asks: int = 2
    now_ns: int = 1000 * MS
    guests: dict[int, Guest] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)
    decisions: int = 0
    resident: Guest | None = None
    running: bool = False
    began_ns: int = 0
    charged_ns: int = 0
    planned_ns: int = 0
    until_ns: int = 0
    switched_ns: dict[int, int] = field(default_factory=dict)
    refused_in_ns: dict[int, int] = field(default_factory=dict)
    events: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    order: int = 0

    def __post_init__(self) -> None:
        values = resolve_parameters(self.policy.PARAMETERS, Scope.COPROC, self.parameters)
        self.policy.init(PolicyConfig(self.slice_ns, values))

    # --- what happens to it -----------------------------------------------------------------------

    def add(self, vcoproc_id: int, **parameters: int) -> Guest:
        values = resolve_parameters(self.policy.PARAMETERS, Scope.VCOPROC, parameters)
        self.policy.admit(vcoproc_id, values)
        self.policy.add(vcoproc_id, values)
        guest = self.guests[vcoproc_id] = Guest(vcoproc_id)
        return guest

    def change(self, vcoproc_id: int, **parameters: int) -> None:
        """New parameters, as the core gives them."""
        values = resolve_parameters(self.policy.PARAMETERS, Scope.VCOPROC, parameters)
        self.policy.admit(vcoproc_id, values)
        if self.running:
            self._charge(ended=False)
        carried = self.policy.export_accounting().get(vcoproc_id, {})
        self.policy.remove(vcoproc_id)
        self.policy.add(vcoproc_id, values)
        self.policy.import_accounting({vcoproc_id: carried})
        if self.guests[vcoproc_id].work_ns != 0:
            self.policy.wake(vcoproc_id, self.now_ns)
            if self.running and self.resident is self.guests[vcoproc_id]:
                self.policy.begin(vcoproc_id, self.now_ns)

    def remove(self, vcoproc_id: int) -> None:
        guest = self.guests.pop(vcoproc_id)
        self.policy.remove(vcoproc_id)
        if guest is self.resident:
            self.resident, self.running = None, False

    def swap(self, policy: Policy, parameters: Mapping[str, int] | None = None) -> None:
        """Another algorithm takes over, as the core does it."""
        values = resolve_parameters(policy.PARAMETERS, Scope.COPROC, parameters or {})
        policy.init(PolicyConfig(self.slice_ns, values))
        defaults = resolve_parameters(policy.PARAMETERS, Scope.VCOPROC, {})
        for vcoproc_id in self.guests:
            policy.admit(vcoproc_id, defaults)
            policy.add(vcoproc_id, defaults)
        if self.running:
            self._charge(ended=False)
        policy.import_accounting(self.policy.export_accounting())
        self.policy.deinit()
        self.policy = policy
        for guest in sorted(self.guests.values(), key=lambda each: each is not self.resident):
            if guest.work_ns != 0:
                policy.wake(guest.id, self.now_ns)
        if self.running:
            assert self.resident is not None
            policy.begin(self.resident.id, self.now_ns)

    def work(self, vcoproc_id: int, work_ns: int | None) -> None:
        """A doorbell."""
        guest = self.guests[vcoproc_id]
        self._settle()
        slept = guest.work_ns == 0
        if work_ns is None or guest.work_ns is None:
            guest.work_ns = None
        else:
            guest.work_ns += work_ns
        if not slept:
            return
        self.policy.wake(vcoproc_id, self.now_ns)
        if guest is self.resident:
            self.running = True
            self.began_ns = self.charged_ns = self.now_ns
        else:
            guest.waiting_since_ns = self.now_ns

    def yield_(self) -> None:
        """The running one gives up its slice, if anybody else wants it."""
        if not self.running:
            return
        assert self.resident is not None
        decision = self._ask()
        if decision.vcoproc_id not in (None, self.resident.id):
            self.policy.yield_(self.resident.id, self.now_ns)
            self._leave(forced=False)

    def at(self, when_ns: int, call: Callable[[], None]) -> None:
        """Calls something at a time."""
        self.order += 1
        heapq.heappush(self.events, (when_ns, self.order, call))

    # --- time -------------------------------------------------------------------------------------

    def run(self, for_ns: int) -> None:
        end_ns = self.now_ns + for_ns
        busy = 0
        while True:
            self._settle()
            while self.events and self.events[0][0] <= self.now_ns:
                heapq.heappop(self.events)[2]()
            before_ns = self.now_ns
            decision = self._ask()
            next_ns = self._next_ns(decision)
            assert next_ns is None or next_ns >= self.now_ns
            if next_ns is None or next_ns > end_ns:
                self._advance(max(end_ns, self.now_ns))  # a switch may have taken longer
                self._settle()
                return
            self._advance(next_ns)
            self._obey(decision)
            busy = busy + 1 if self.now_ns == before_ns else 0
            assert busy <= CALLS_AT_ONCE_MAX, f"time stands still: {decision}"

    def _settle(self) -> None:
        """One that has nothing more to do idles; if another one waits, that comes at once."""
        if self.running and self.resident is not None and self.resident.work_ns == 0:
            self._idle()
            decision = self._ask()
            if decision.vcoproc_id is not None:
                self._obey(decision)

    def _ask(self) -> Decision:
        current = self.resident.id if self.running and self.resident is not None else None
        answers = [self.policy.pick(self.now_ns, current) for _ in range(self.asks)]
        self.decisions += 1
        decision = answers[0]
        assert all(each == decision for each in answers), f"asking changes the answer: {answers}"
        if decision.vcoproc_id is not None:
            guest = self.guests.get(decision.vcoproc_id)
            assert guest is not None, f"{decision} is unknown"
            assert guest.work_ns != 0, f"{decision} does not want to run"
            assert SLICE_NS_MIN <= decision.slice_ns <= SLICE_NS_MAX, decision
            assert not decision.vacate, decision
        assert decision.not_before_ns >= 0, decision
        assert decision.until_ns >= 0, decision
        return decision

    def _end_ns(self, decision: Decision) -> int | None:
        """When the present turn ends or, without one, when the next begins; None: not foreseen."""
        until_ns = self.until_ns or None
        if not self.running:
            if decision.vcoproc_id is None:
                return None
            return max(self.now_ns, decision.not_before_ns)
        end_ns: int | None
        if decision.vcoproc_id is None and not decision.vacate:
            end_ns = None
        elif decision.preempt:
            end_ns = max(self.now_ns, decision.not_before_ns)
        else:
            end_ns = max(self.began_ns + self.planned_ns, decision.not_before_ns)
        ends = [each for each in (end_ns, until_ns) if each is not None]
        return max(self.now_ns, min(ends)) if ends else None

    def _next_ns(self, decision: Decision) -> int | None:
        deadline_ns = self.policy.next_deadline_ns()
        times = [self._end_ns(decision)]
        if deadline_ns is not None:
            times.append(max(self.now_ns, deadline_ns))
        if self.events:
            times.append(self.events[0][0])
        if self.running and self.resident is not None and self.resident.work_ns is not None:
            times.append(self.now_ns + self.resident.work_ns)
        return min((each for each in times if each is not None), default=None)

    def _obey(self, decision: Decision) -> None:
        if self.running and self.resident is not None and self.resident.work_ns == 0:
            return  # it idles first
        end_ns = self._end_ns(decision)
        if end_ns is None or end_ns > self.now_ns:
            return
        if self.running:
            assert self.resident is not None
            if decision.vcoproc_id == self.resident.id and self.now_ns != self.until_ns:
                self._close_turn()
                self._charge(ended=True)
                self._open_turn(decision)
                return
            self._leave(forced=True)
            decision = self._ask()
            end_ns = self._end_ns(decision)
            if end_ns is None or end_ns > self.now_ns:
                return
        if decision.until_ns and decision.until_ns <= self.now_ns:
            return
        self._enter(decision)

    def _advance(self, to_ns: int) -> None:
        passed_ns = to_ns - self.now_ns
        self.now_ns = to_ns
        if self.running:
            assert self.resident is not None
            self.resident.run_ns += passed_ns
            if self.resident.work_ns is not None:
                self.resident.work_ns -= passed_ns
                assert self.resident.work_ns >= 0

    # --- turns ------------------------------------------------------------------------------------

    def _charge(self, *, ended: bool, left: bool = False, refused_ns: int = 0) -> None:
        guest = self.resident
        assert guest is not None
        stopped_ns = self.now_ns - refused_ns - (self.switch_ns if left else 0)
        run_ns = max(0, stopped_ns - self.charged_ns) if self.running else 0
        switch_ns = self.switched_ns.pop(guest.id, 0) + (self.switch_ns if left else 0)
        refused_ns += self.refused_in_ns.pop(guest.id, 0)
        guest.switch_ns += switch_ns
        guest.refused_ns += refused_ns
        overtime_ns = max(0, stopped_ns - self.began_ns - self.planned_ns) if self.running else 0
        usage = Usage(
            vcoproc_id=guest.id,
            run_ns=run_ns,
            refused_ns=refused_ns,
            switch_ns=switch_ns,
            overtime_ns=overtime_ns,
            instructions=run_ns // 10,
            ended=ended,
            left=left,
            runnable=guest.work_ns != 0,
            now_ns=self.now_ns,
            stopped_ns=stopped_ns,
        )
        self.policy.charge(usage)
        self.charged_ns = self.now_ns

    def _close_turn(self) -> None:
        assert self.resident is not None
        self.turns.append(Turn(self.resident.id, self.began_ns, self.now_ns, self.planned_ns))

    def _idle(self) -> None:
        assert self.resident is not None
        self._close_turn()
        self._charge(ended=False)
        self.running = False
        self.policy.sleep(self.resident.id, self.now_ns)
        self.idled(self.resident)

    def _leave(self, *, forced: bool) -> None:
        """The resident goes; nobody runs until the next one comes."""
        guest = self.resident
        assert guest is not None
        self._close_turn()
        refused_ns = self.refuse_ns(guest) if forced else 0
        self.now_ns += refused_ns + self.switch_ns
        self._charge(ended=True, left=True, refused_ns=refused_ns)
        self.resident, self.running, self.until_ns = None, False, 0
        guest.waiting_since_ns = self.now_ns

    def _enter(self, decision: Decision) -> None:
        assert decision.vcoproc_id is not None
        if self.resident is not None:  # idle
            if self.resident.id == decision.vcoproc_id:
                self.resident = None
            else:
                self.now_ns += self.switch_ns
                self._charge(ended=True, left=True)
        guest = self.guests[decision.vcoproc_id]
        if not self._taken_in(guest, decision):
            return
        self.now_ns += self.switch_ns
        self.switched_ns[guest.id] = self.switched_ns.get(guest.id, 0) + self.switch_ns
        if guest.waiting_since_ns is not None:
            guest.wait_ns_max = max(guest.wait_ns_max, self.now_ns - guest.waiting_since_ns)
            guest.waiting_since_ns = None
        self.resident, self.running = guest, True
        guest.turns += 1
        self._open_turn(decision)

    def _taken_in(self, guest: Guest, decision: Decision) -> bool:
        """Waits while the hardware refuses it; False: its turn comes to nothing."""
        refused_ns = self.refuse_in_ns(guest)
        until_ns = decision.until_ns or self.now_ns + self.bound_ns
        patience_ns = min(self.bound_ns, until_ns - self.now_ns)
        if refused_ns <= patience_ns:
            self.now_ns += refused_ns
            self.refused_in_ns[guest.id] = refused_ns
            return True
        self.resident, self.until_ns = None, 0
        stopped_ns = self.now_ns
        self.now_ns += patience_ns
        guest.refused_ns += patience_ns
        given_up = patience_ns == self.bound_ns
        if given_up:
            self.policy.begin(guest.id, self.now_ns)
        usage = Usage(
            vcoproc_id=guest.id,
            run_ns=0,
            refused_ns=patience_ns,
            switch_ns=0,
            overtime_ns=0,
            instructions=0,
            ended=given_up,
            left=given_up,
            runnable=not given_up,
            now_ns=self.now_ns,
            stopped_ns=stopped_ns,
        )
        self.policy.charge(usage)
        if given_up:  # else it is late, and wants to run as before
            self.policy.sleep(guest.id, self.now_ns)
            self.policy.wake(guest.id, self.now_ns)
        return False

    def _open_turn(self, decision: Decision) -> None:
        assert decision.vcoproc_id is not None
        self.began_ns = self.charged_ns = self.now_ns
        self.planned_ns = decision.slice_ns
        self.until_ns = decision.until_ns
        self.policy.begin(decision.vcoproc_id, self.now_ns)


def shares(machine: PolicyMachine) -> dict[int, float]:
    """The part of all run time that each guest had."""
    total = sum(guest.run_ns for guest in machine.guests.values())
    return {guest.id: guest.run_ns / total for guest in machine.guests.values()}


def jain(values: list[int]) -> float:
    """Jain's fairness index, 1.0 for equal shares: (sum x)^2 / (n * sum x^2)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def lines_of(call: Callable[[], object]) -> int:
    """Lines of Python that a call runs: a measure of its cost that no other process disturbs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
