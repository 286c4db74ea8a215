"""How long turns are: slices, given times, an empty coprocessor on purpose, the least time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scheduler_executor_model import FREE, Costs
from scheduler_hostile import Cap, Table
from scheduler_rig import SLICE_NS, Rig

from vcoproc.errors import NotAdmitted
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US, S
from vcoproc.model.run_state import RunState
from vcoproc.testing.network import Faults
from vcoproc.wire.messages import (
    EndReason,
    Grant,
    GrantDropped,
    Register,
    Report,
    Revoke,
    Sleep,
    Vacate,
    Wake,
)
from vcoproc_scheduler.accounting import TurnEnded
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.decisions import Why
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOnline,
    Effect,
    Event,
    SetAlgorithm,
    SetVcoprocParameters,
    Tick,
)
from vcoproc_scheduler.policies.api import NOBODY, Decision, Usage
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin

CLOCK_NS = 1000 * MS
"""The coproc's clock when ours is 0."""
FAR_NS = 1000 * S
"""When a policy wants to be asked again: not in these tests."""


class Scripted(RoundRobin):
    """Answers what it is told to. plans, usages: what it was told."""

    answer: Decision = NOBODY

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[int, int | None]] = []
        self.usages: list[Usage] = []

    def pick(self, now_ns: int, current: int | None) -> Decision:
        return self.answer

    def next_deadline_ns(self) -> int | None:
        return FAR_NS

    def planned(self, vcoproc_id: int, slice_ns: int | None) -> None:
        self.plans.append((vcoproc_id, slice_ns))

    def charge(self, usage: Usage) -> None:
        super().charge(usage)
        self.usages.append(usage)


class Bench:
    """1 runs since 0 ms of our clock, 2 waits; the policy says what the test says."""

    def __init__(self, **parameters: int) -> None:
        self.core = CoprocSchedulerCore("dsp0", Catalogue({"scripted": Scripted}), validate=True)
        self.ms = 0
        Scripted.answer = NOBODY
        self.step(SetAlgorithm("scripted", SLICE_NS, SWITCH_DEADLINE_NS, parameters))
        self.step(AddVcoproc(1, {}))
        self.step(AddVcoproc(2, {}))
        self.step(CoprocOnline())
        self.step(Register("dsp0", CLOCK_NS, 0, ((1, True, False), (2, False, False))))
        self.say(Decision(1, SLICE_NS))
        Scripted.answer = NOBODY
        self.report(0, 1, 1)
        self.step(Wake(2, CLOCK_NS, False))

    def step(self, event: Event) -> list[Effect]:
        effects = self.core.step(event, self.ms * MS)
        return [effect for effect in effects if not isinstance(effect, TurnEnded)]

    def say(self, decision: Decision) -> list[Effect]:
        Scripted.answer = decision
        return self.step(Tick())

    def report(
        self, old: int, new: int, grant: int, end: EndReason = EndReason.SLICE, **others: int
    ) -> list[Effect]:
        at_ns = CLOCK_NS + self.ms * MS
        report = Report(
            0, old, grant, new, end, old != 0, SLICE_NS if old else 0, 0, 0, 0, False, 0, 0,
            0, 0, at_ns, at_ns if new else 0,
        )  # fmt: skip
        return self.step(replace(report, **others))

    @property
    def policy(self) -> Scripted:
        policy = self.core._policy.policy
        assert isinstance(policy, Scripted)
        return policy

    def states(self) -> list[RunState | None]:
        return [self.core.run_state(1), self.core.run_state(2)]

    def whys(self) -> list[Why]:
        return [each.why for each in self.core.decisions.after(0)]


RUNNING, WAITING = RunState.RUNNING, RunState.WAITING


# --- slices ---------------------------------------------------------------------------------------


def test_another_slice_replaces_a_grant() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS))
    assert bench.say(Decision(2, 1 * MS)) == [Grant(3, 2, 1 * MS, False, SWITCH_DEADLINE_NS)]
    assert bench.say(Decision(2, 1 * MS)) == [], "told once"


def test_another_choice_for_a_free_coproc_does_not_end_the_turn_that_just_began() -> None:
    """It was told to begin the one before, and may have done so: that one has its slice."""
    bench = Bench()
    bench.report(1, 0, 0)  # both want to run, nobody does
    (first,) = bench.say(Decision(2, SLICE_NS))
    assert isinstance(first, Grant) and first.now
    assert bench.states() == [RunState.WAITING, RunState.SWITCHING_IN]
    (second,) = bench.say(Decision(1, SLICE_NS))
    assert isinstance(second, Grant) and not second.now, "on a free coproc it begins all the same"
    assert bench.states() == [RunState.SWITCHING_IN, RunState.WAITING]
    (second,) = bench.say(Decision(1, 2 * SLICE_NS))
    assert isinstance(second, Grant) and not second.now, "nor with another slice"
    assert isinstance(bench.say(NOBODY)[0], Revoke)
    (second,) = bench.say(Decision(1, SLICE_NS))
    assert isinstance(second, Grant) and not second.now, "nor when it had been taken back"
    assert bench.report(0, 2, first.grant) == []
    assert bench.states() == [RunState.WAITING, RunState.RUNNING]
    (third,) = bench.say(Decision(1, SLICE_NS, preempt=True))
    assert isinstance(third, Grant) and third.now, "unless it may preempt"
    # The one before came to nothing, and nobody began.
    bench = Bench()
    bench.report(1, 0, 0)
    (first,) = bench.say(Decision(2, SLICE_NS))
    (second,) = bench.say(Decision(1, SLICE_NS))
    assert isinstance(first, Grant) and isinstance(second, Grant)
    assert bench.step(GrantDropped(first.grant, 2, "REPLACED", CLOCK_NS, 5, 1)) == []
    bench.report(0, 1, second.grant)
    assert bench.states() == [RunState.RUNNING, RunState.WAITING]


def test_what_is_left_of_a_window_replaces_nothing() -> None:
    bench = Bench()
    until_ns = CLOCK_NS + 9 * MS
    bench.say(Decision(2, 9 * MS, until_ns=until_ns))
    assert bench.say(Decision(2, 8 * MS, until_ns=until_ns)) == []


def test_a_policy_is_told_of_a_turn_that_began_on_an_earlier_answer() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS))
    bench.say(Decision(2, 1 * MS))  # order 3; but grant 2 has begun
    Scripted.answer = NOBODY
    bench.report(1, 2, 2)
    assert bench.policy.plans == [(2, SLICE_NS)]
    assert bench.states() == [WAITING, RUNNING]


def test_a_policy_is_told_that_a_slice_is_not_known() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS))
    bench.step(CoprocOnline())
    bench.step(Register("dsp0", CLOCK_NS, 2, ((1, True, False), (2, True, False))))
    assert bench.policy.plans == [(2, None)]
    # Of so many orders the oldest is forgotten.
    orders = [bench.say(Decision(1, SLICE_NS + number))[0] for number in range(66)]
    assert isinstance(orders[0], Grant) and isinstance(orders[1], Grant)
    bench.report(2, 1, orders[0].grant)
    assert bench.policy.plans[1:] == [(1, None)]
    bench.report(1, 1, orders[1].grant)
    assert bench.policy.plans[2:] == [(1, SLICE_NS + 1)]


def test_a_usage_says_when_its_vcoproc_ran_last() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS))
    Scripted.answer = NOBODY
    bench.ms = 8
    refused = {"refused_ns": 2 * MS, "refusals": 1, "save_ns": 1 * MS}
    bench.report(1, 2, 2, ended_ns=CLOCK_NS + 5 * MS, **refused)
    bench.ms = 9
    bench.step(Sleep(2, CLOCK_NS + 9 * MS))
    assert [(each.run_ns, each.now_ns, each.stopped_ns) for each in bench.policy.usages] == [
        (5 * MS, CLOCK_NS + 8 * MS, CLOCK_NS + 5 * MS),
        (1 * MS, CLOCK_NS + 9 * MS, CLOCK_NS + 9 * MS),
    ]
    # The clock of a new process begins anew, and the policy's goes on.
    bench.step(CoprocOnline())
    bench.step(Register("dsp0", 0, 1, ((1, True, False), (2, False, False))))
    bench.ms = 12
    bench.step(Sleep(1, 2 * MS))
    last = bench.policy.usages[-1]
    assert (last.now_ns, last.stopped_ns) == (CLOCK_NS + 11 * MS, CLOCK_NS + 11 * MS)


def test_one_that_may_stay_after_all_is_granted_one_slice_and_after_the_present_one() -> None:
    """It refused to leave until nobody else was nearer to his deadline. When that slice was granted
    for now, the next one was too, and so on for ever, as fast as messages could go."""
    bench = Bench()
    bench.say(Decision(2, SLICE_NS, preempt=True))
    assert bench.states() == [RunState.SWITCHING_OUT, RunState.SWITCHING_IN]
    assert bench.say(Decision(1, 1 * MS)) == [Grant(3, 1, 1 * MS, False, SWITCH_DEADLINE_NS)]
    assert bench.states() == [RUNNING, WAITING]
    bench.ms = 5
    Scripted.answer = Decision(1, 2 * MS)
    assert bench.report(1, 1, 3) == [Grant(4, 1, 2 * MS, False, SWITCH_DEADLINE_NS)]
    assert bench.states() == [RUNNING, WAITING]


# --- vacate ---------------------------------------------------------------------------------------


def test_vacate_at_the_end_of_the_slice_then_now_then_done() -> None:
    bench = Bench()
    later = Decision(None, vacate=True)
    assert bench.say(later) == [Vacate(2, False, SWITCH_DEADLINE_NS)]
    assert bench.say(later) == [], "told once"
    assert bench.states() == [RUNNING, WAITING]
    now = Decision(None, vacate=True, preempt=True)
    assert bench.say(now) == [Vacate(3, True, SWITCH_DEADLINE_NS)]
    assert bench.states() == [RunState.SWITCHING_OUT, WAITING]
    assert bench.say(later) == [], "it is leaving already"
    assert bench.report(1, 0, 3, EndReason.PREEMPTED) == []
    assert bench.states() == [WAITING, WAITING]
    assert bench.say(now) == [], "nobody is there to leave"
    assert bench.say(Decision(2, SLICE_NS)) == [Grant(4, 2, SLICE_NS, True, SWITCH_DEADLINE_NS)]
    # Withheld before: 1 when it registered, 2 when it woke.
    assert bench.whys() == [Why.WITHHELD, Why.IDLE, Why.WITHHELD, Why.VACATE, Why.VACATE, Why.IDLE]


def test_an_order_to_vacate_is_taken_back_or_replaced() -> None:
    bench = Bench()
    bench.say(Decision(None, vacate=True, preempt=True))
    assert bench.say(NOBODY) == [Revoke(2)]
    assert bench.states() == [RUNNING, WAITING]
    bench.say(Decision(None, vacate=True))
    assert bench.say(Decision(2, SLICE_NS)) == [Grant(4, 2, SLICE_NS, False, SWITCH_DEADLINE_NS)]


def test_vacate_crosses_a_turn_that_ended_by_itself() -> None:
    bench = Bench()
    bench.say(Decision(None, vacate=True))
    assert bench.report(1, 0, 0) == [Revoke(2)], "of no use any more; it may still be on its way"
    assert bench.step(GrantDropped(2, 0, "EMPTY", CLOCK_NS)) == []
    assert bench.states() == [WAITING, WAITING]


def test_vacate_crosses_a_turn_that_began() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS))
    bench.say(Decision(None, vacate=True))  # order 3; but grant 2 has begun
    Scripted.answer = NOBODY
    assert bench.report(1, 2, 2) == [Revoke(3)]
    assert bench.states() == [WAITING, RUNNING]


def test_an_idle_resident_is_vacated_too() -> None:
    bench = Bench()
    Scripted.answer = Decision(None, vacate=True)
    assert bench.step(Sleep(1, CLOCK_NS)) == [Vacate(2, True, SWITCH_DEADLINE_NS)]


def test_a_capped_coproc_is_empty_for_its_gaps() -> None:
    rig = Rig(
        costs=FREE,
        faults=Faults(delay_ns=(20 * US, 20 * US)),
        catalogue=Catalogue({"cap": Cap}),
        algorithm=SetAlgorithm("cap", 1 * MS, SWITCH_DEADLINE_NS, {}),
    )
    rig.add(1, 2)
    rig.executor.work(1, None)
    rig.clock.advance(1000 * MS)
    alone_ns = rig.executor.guests[1].run_ns
    assert abs(alone_ns - 400 * MS) <= 5 * MS
    rig.executor.work(2, None)
    rig.clock.advance(1000 * MS)
    both_ns = [guest.run_ns for guest in rig.executor.guests.values()]
    assert abs(sum(both_ns) - 800 * MS) <= 10 * MS
    assert rig.executor.current is None or rig.clock.now_ns % (10 * MS) < 5 * MS
    assert not rig.fallbacks


# --- bounds in absolute time ----------------------------------------------------------------------


def test_bounds_are_of_the_coprocs_clock_and_told_once() -> None:
    bench = Bench()
    window = Decision(
        2, SLICE_NS, preempt=True, not_before_ns=CLOCK_NS + 7 * MS, until_ns=CLOCK_NS + 9 * MS
    )
    want = Grant(2, 2, SLICE_NS, True, SWITCH_DEADLINE_NS, CLOCK_NS + 7 * MS, CLOCK_NS + 9 * MS)
    assert bench.say(window) == [want]
    assert bench.states() == [RUNNING, WAITING], "nobody leaves before that time"
    bench.ms = 3
    assert bench.say(window) == []
    bench.ms = 7
    assert bench.say(window) == [] and bench.states() == [RUNNING, RunState.SWITCHING_IN]
    Scripted.answer = NOBODY
    assert bench.report(1, 2, 2, EndReason.PREEMPTED) == []
    assert bench.states() == [WAITING, RUNNING]


def test_other_bounds_replace_a_grant() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS, until_ns=CLOCK_NS + 9 * MS))
    (effect,) = bench.say(Decision(2, SLICE_NS, until_ns=CLOCK_NS + 8 * MS))
    assert isinstance(effect, Grant) and (effect.grant, effect.until_ns) == (3, CLOCK_NS + 8 * MS)
    (effect,) = bench.say(Decision(2, SLICE_NS, not_before_ns=CLOCK_NS + 1 * MS))
    assert isinstance(effect, Grant)
    assert (effect.grant, effect.not_before_ns, effect.until_ns) == (4, CLOCK_NS + 1 * MS, 0)


def test_a_late_grant_says_nothing_about_its_vcoproc() -> None:
    bench = Bench()
    bench.say(Decision(2, SLICE_NS, until_ns=CLOCK_NS + 1 * MS))
    bench.ms = 1
    Scripted.answer = Decision(2, SLICE_NS, until_ns=CLOCK_NS + 5 * MS)
    (effect,) = bench.step(GrantDropped(2, 2, "LATE", CLOCK_NS + 1 * MS))
    assert isinstance(effect, Grant) and (effect.grant, effect.vcoproc) == (3, 2)
    assert bench.states() == [RUNNING, WAITING]


def test_windows_are_kept_to_the_nanosecond_though_the_link_is_slow() -> None:
    rig = Rig(
        costs=FREE,
        faults=Faults(delay_ns=(300 * US, 900 * US)),
        catalogue=Catalogue({"table": Table}),
        algorithm=SetAlgorithm("table", SLICE_NS, SWITCH_DEADLINE_NS, {"frame_us": 20_000}),
    )
    windows = {1: (0, 5), 2: (7, 4), 3: (13, 7)}  # a gap of 2 ms after each of the first two
    rig.add(1, 2, 3)
    for vcoproc, (offset_ms, length_ms) in windows.items():
        rig.step(
            SetVcoprocParameters(
                vcoproc, {"offset_us": offset_ms * 1000, "length_us": length_ms * 1000}
            )
        )
        rig.executor.work(vcoproc, None)
    rig.clock.advance(20 * MS * 200)
    assert not rig.fallbacks
    assert rig.executor.dropped == []
    whole = rig.turns[3:]
    assert len(whole) >= 3 * 198
    for turn in whole:
        offset_ms, length_ms = windows[turn.vcoproc]
        assert turn.began_ns % (20 * MS) == offset_ms * MS, "no drift at all"
        assert turn.ended_ns - turn.began_ns == turn.planned_ns == length_ms * MS
    # The books of both sides agree, and a slice is as long as it was planned.
    view = {each.vcoproc: each.account for each in rig.core.view(rig.clock.now_ns).vcoprocs}
    for vcoproc, guest in rig.executor.guests.items():
        assert view[vcoproc].slices.error_max_ns == 0
        assert view[vcoproc].slices.full_count >= 197
        assert guest.run_ns >= 198 * windows[vcoproc][1] * MS


def test_an_idle_one_does_not_run_on_outside_of_its_window() -> None:
    rig = Rig(
        costs=FREE,
        catalogue=Catalogue({"table": Table}),
        algorithm=SetAlgorithm("table", SLICE_NS, SWITCH_DEADLINE_NS, {"frame_us": 20_000}),
    )
    rig.add(1)
    rig.executor.work(1, 1 * MS)
    rig.clock.advance(41 * MS)
    assert rig.executor.current is None, "it left at the end of its window, idle"
    runs = []
    for _ in range(50):
        before_ns = rig.executor.guests[1].run_ns
        rig.executor.work(1, 10 * MS)
        rig.clock.advance(20 * MS)
        runs.append(rig.executor.guests[1].run_ns - before_ns)
    assert set(runs) <= {5 * MS}, "5 ms in each frame of 20"


# --- the least time of a turn ---------------------------------------------------------------------


def test_a_preemption_waits_until_the_current_one_has_run_for_the_least_time() -> None:
    bench = Bench(min_run_us=2000)
    bench.ms = 1
    preempt = Decision(2, SLICE_NS, preempt=True)
    assert bench.say(preempt) == [
        Grant(2, 2, SLICE_NS, True, SWITCH_DEADLINE_NS, CLOCK_NS + 2 * MS)
    ]
    assert bench.states() == [RUNNING, WAITING]
    assert bench.say(preempt) == []
    bench.ms = 2
    assert bench.say(preempt) == [], "the coproc does it by itself"
    bench.report(1, 2, 2, EndReason.PREEMPTED)
    bench.ms = 9
    (effect,) = bench.say(Decision(1, SLICE_NS, preempt=True))
    assert isinstance(effect, Grant) and (effect.now, effect.not_before_ns) == (True, 0)
    assert bench.whys()[-1] is Why.PREEMPT


def test_the_least_time_never_makes_a_slice_longer() -> None:
    bench = Bench(min_run_us=6000)
    (effect,) = bench.say(Decision(2, SLICE_NS, preempt=True))
    assert isinstance(effect, Grant)
    assert (effect.now, effect.not_before_ns) == (False, 0), "the slice of 5 ms is over before"


class Eager(RoundRobin):
    """Whoever waits preempts."""

    def pick(self, now_ns: int, current: int | None) -> Decision:
        decision = super().pick(now_ns, current)
        if decision.vcoproc_id is None:
            return decision
        return Decision(decision.vcoproc_id, decision.slice_ns, preempt=True)


def test_the_rate_of_switches_is_bounded() -> None:
    def switches(min_run_us: int) -> int:
        rig = Rig(
            costs=Costs((1, 1), (1, 1), (1, 1)),
            faults=Faults(delay_ns=(5 * US, 5 * US)),
            catalogue=Catalogue({"eager": Eager}),
            algorithm=SetAlgorithm(
                "eager", SLICE_NS, SWITCH_DEADLINE_NS, {"min_run_us": min_run_us}
            ),
        )
        rig.add(1, 2)
        rig.executor.work(1, None)
        rig.executor.work(2, None)
        rig.clock.advance(100 * MS)
        return rig.core.switch_count

    assert switches(0) > 5000
    assert 98 <= switches(1000) <= 102


def edf_rig(min_run_us: int) -> Rig:
    """A steady one, and one with a long period and extra time."""
    rig = Rig(
        costs=FREE,
        algorithm=SetAlgorithm("edf", 20 * MS, SWITCH_DEADLINE_NS, {"min_run_us": min_run_us}),
    )
    steady = {"budget_us": 2000, "period_us": 10_000, "extratime": 0}
    rig.step(AddVcoproc(1, steady))
    rig.step(AddVcoproc(2, {"budget_us": 4000, "period_us": 100_000}))
    return rig


def test_edf_reckons_with_the_least_time_of_a_turn() -> None:
    """It holds the coprocessor like a refusal; without that, budgets would be missed."""
    with pytest.raises(NotAdmitted, match="cannot be guaranteed"):
        edf_rig(20_000)
    rig = edf_rig(2000)
    with pytest.raises(NotAdmitted, match="budget_us"):
        rig.step(SetAlgorithm("edf", 20 * MS, SWITCH_DEADLINE_NS, {"min_run_us": 20_000}))
    for vcoproc in (1, 2):
        rig.executor.attach(vcoproc)
        rig.executor.work(vcoproc, None)
    rig.clock.advance(1000 * MS)
    assert rig.run_ns()[1] >= 198 * MS
