"""The scheduler core, event by event: messages that cross, and what control may do when."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_rig import CATALOGUE, SLICE_NS, rr

from vcoproc.errors import (
    InvalidArgument,
    InvalidTransition,
    LimitExceeded,
    NotFound,
    RemoteProtocolError,
    WrongState,
)
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, VCOPROCS_KNOWN_MAX
from vcoproc.model.run_state import RunEvent, RunState
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
from vcoproc_scheduler.accounting import TurnEnded
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    Effect,
    Event,
    RemoveVcoproc,
    SetAlgorithm,
)

S = RunState
REPORT = dict.fromkeys(Report.__slots__, 0) | {"runnable": False, "forced": False}


class Bench:
    """A core, and short words for what happens to it. Time is in milliseconds on both clocks."""

    def __init__(self, *added: int, register: bool = True, policy: bool = True) -> None:
        self.core = CoprocSchedulerCore("dsp0", CATALOGUE, validate=True)
        self.ms = 0
        if policy:
            self(rr())
        for vcoproc in added:
            self(AddVcoproc(vcoproc, {}))
        if register:
            self.register()

    def __call__(self, event: Event) -> list[Effect]:
        return self.core.step(event, self.ms * MS)

    def register(self, current: int = 0, **flags: str) -> list[Effect]:
        """v1="r" runnable, "f" faulted, "s" asleep."""
        self(CoprocOnline())
        listed = tuple((int(name[1:]), flag == "r", flag == "f") for name, flag in flags.items())
        return self(Register("dsp0", self.ms * MS, current, listed))

    def wake(self, vcoproc: int, *, resumed: bool = False) -> list[Effect]:
        return self(Wake(vcoproc, self.ms * MS, resumed))

    def sleep(self, vcoproc: int) -> list[Effect]:
        return self(Sleep(vcoproc, self.ms * MS))

    def fault(self, vcoproc: int) -> list[Effect]:
        return self(Faulted(vcoproc, 1, 0, "why", self.ms * MS))

    def drop(
        self, grant: int, vcoproc: int, why: str = "NOT_RUNNABLE", *, refused_ms: int = 0
    ) -> list[Effect]:
        refusals = 3 if refused_ms else 0
        return self(GrantDropped(grant, vcoproc, why, self.ms * MS, refused_ms * MS, refusals))

    def report(self, vcoproc: int, to: int, next_grant: int = 0, **fields: Any) -> list[Effect]:
        """A switch in no time from one to another now; next_grant: that of the one that began."""
        values: dict[str, Any] = REPORT | {
            "vcoproc": vcoproc,
            "next_vcoproc": to,
            "next_grant": next_grant,
            "end": EndReason.SLICE,
            "runnable": vcoproc != 0,
            "planned_ns": SLICE_NS if vcoproc else 0,
            "ended_ns": self.ms * MS,
            "next_began_ns": self.ms * MS if to else 0,
        }
        effects = self(Report(**(values | fields)))
        return [effect for effect in effects if not isinstance(effect, TurnEnded)]

    def running(self, *ids: int) -> None:
        """The first one runs, the others wait; grants are numbered 1, 2."""
        for vcoproc in ids:
            self.wake(vcoproc)
        self.report(0, ids[0], next_grant=1)

    def states(self, *ids: int) -> list[RunState | None]:
        return [self.core.run_state(vcoproc) for vcoproc in ids]

    def account(self, vcoproc: int) -> Any:
        views = self.core.view(self.ms * MS).vcoprocs
        return next(each.account for each in views if each.vcoproc == vcoproc)


def grant(number: int, vcoproc: int, *, now: bool) -> Grant:
    return Grant(number, vcoproc, SLICE_NS, now, SWITCH_DEADLINE_NS)


# --- grants ---------------------------------------------------------------------------------------


def test_a_wake_on_an_idle_coproc_is_granted_for_now() -> None:
    bench = Bench(1)
    assert bench.wake(1) == [grant(1, 1, now=True)]
    assert bench.states(1) == [S.SWITCHING_IN]
    assert bench.report(0, 1, next_grant=1) == []
    assert bench.states(1) == [S.RUNNING]


def test_the_next_one_is_granted_while_the_current_one_runs() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1)
    assert bench.wake(2) == [grant(2, 2, now=False)]
    assert bench.wake(3) == []
    assert bench.states(1, 2, 3) == [S.RUNNING, S.WAITING, S.WAITING]
    bench.ms = 5
    assert bench.report(1, 2, next_grant=2) == [grant(3, 3, now=False)]
    bench.ms = 10
    assert bench.report(2, 3, next_grant=3) == [grant(4, 1, now=False)]


def test_nobody_waits_nobody_is_granted() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.ms = 3
    assert bench.report(1, 2, next_grant=2, end=EndReason.IDLE, runnable=False) == []
    assert bench.states(1, 2) == [S.SLEEPING, S.RUNNING]


def test_a_yield_goes_to_the_tail() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    bench.ms = 1
    effects = bench.report(1, 2, next_grant=2, end=EndReason.YIELD)
    assert effects == [grant(3, 3, now=False)]
    bench.ms = 2
    assert bench.report(2, 3, next_grant=3, end=EndReason.YIELD) == [grant(4, 1, now=False)]


def test_grant_numbers_begin_again_after_the_highest() -> None:
    bench = Bench(1, 2)
    bench.core._granting.number = 0xFFFF_FFFE
    assert bench.wake(1) == [grant(0xFFFF_FFFF, 1, now=True)]
    bench.report(0, 1, next_grant=0xFFFF_FFFF)
    assert bench.wake(2) == [grant(1, 2, now=False)]


# --- messages that cross --------------------------------------------------------------------------


def test_a_grant_that_began_before_it_was_replaced_leaves_the_newer_one_pending() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2)  # grant 2 is for 2
    bench(RemoveVcoproc(2))
    bench(AddVcoproc(2, {}))
    bench.wake(3)
    bench.fault(2)  # so grant 3 is for 3; meanwhile 2 had begun on grant 2
    assert bench.core._granting.pending is not None
    newer = bench.core._granting.pending
    assert newer.vcoproc == 3
    bench.ms = 5
    assert bench.report(1, 2, next_grant=2) == [], "grant 3 still stands"
    assert bench.core._granting.pending == newer
    bench.ms = 6
    assert bench.report(2, 3, next_grant=newer.grant) == [grant(newer.grant + 1, 1, now=False)]


def test_wake_while_going_to_sleep() -> None:
    """The ancestor lost a wake that came while the vcoproc was asked to sleep."""
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.wake(1)  # said before the report of the switch that was under way
    bench.ms = 5
    effects = bench.report(1, 2, next_grant=2, end=EndReason.IDLE, runnable=False)
    assert bench.states(1) == [S.WAITING]
    assert effects == [grant(3, 1, now=False)]


def test_wake_of_an_idle_resident_crosses_the_report_that_says_not_runnable() -> None:
    bench = Bench(1, 2)
    bench.running(1)
    bench.sleep(1)
    assert bench.wake(2) == [grant(2, 2, now=True)]
    assert bench.wake(1) == [], "the switch to 2 is under way: 1 is no longer resident"
    assert bench.report(1, 2, next_grant=2, end=EndReason.IDLE, runnable=False) == [
        grant(3, 1, now=False)
    ]


def test_an_idle_resident_resumes_without_a_grant() -> None:
    bench = Bench(1)
    bench.running(1)
    bench.ms = 2
    assert bench.sleep(1) == []
    assert bench.states(1) == [S.SLEEPING]
    bench.ms = 9
    assert bench.wake(1, resumed=True) == []
    assert bench.states(1) == [S.RUNNING]
    assert bench.core.current == 1


def test_an_idle_resident_that_did_not_resume_is_granted() -> None:
    bench = Bench(1)
    bench.running(1)
    bench.sleep(1)
    assert bench.wake(1) == [grant(2, 1, now=True)]
    assert bench.drop(2, 1) == []
    assert bench.states(1) == [S.SLEEPING]
    assert bench.wake(1, resumed=True) == []
    assert bench.states(1) == [S.RUNNING]


def test_a_grant_for_the_end_of_a_slice_counts_as_now_when_the_current_one_idles() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    assert bench.states(2) == [S.WAITING]
    assert bench.sleep(1) == [], "the coproc holds grant 2 and needs no other"
    assert bench.states(2) == [S.SWITCHING_IN]
    assert bench.wake(1, resumed=True) == []
    assert bench.states(1, 2) == [S.RUNNING, S.WAITING]


def test_a_dropped_grant_makes_way_for_the_following_one() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    assert bench.drop(2, 2) == [grant(3, 3, now=False)]
    assert bench.states(2) == [S.SLEEPING]
    assert bench.wake(2) == []
    assert bench.report(1, 3, next_grant=3) == [grant(4, 2, now=False)], "2 woke before 1 left"


def test_a_dropped_grant_that_was_replaced_since_still_tells_that_its_vcoproc_sleeps() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    bench.drop(2, 2)
    bench.wake(2)  # 3 is granted, 2 waits
    assert bench.drop(2, 2) == []
    assert bench.states(2) == [S.SLEEPING]


def test_a_replaced_grant_tells_nothing_about_its_vcoproc() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.drop(1, 2, why="REPLACED")
    assert bench.states(2) == [S.WAITING]


def test_the_next_one_falls_asleep_while_the_current_one_is_half_stopped() -> None:
    """The ancestor left the current one stopped for ever."""
    bench = Bench(1, 2, 3)
    bench.running(1, 2)
    bench.drop(2, 2)  # told before the report of the switch that it spoiled
    assert bench.wake(3) == [grant(3, 3, now=False)]
    assert bench.report(1, 0) == [], "3 was granted; the empty coproc takes it at once"
    assert bench.states(1, 2, 3) == [S.WAITING, S.SLEEPING, S.SWITCHING_IN]
    assert bench.report(0, 3, next_grant=3) == [grant(4, 1, now=False)]


def test_it_left_for_nobody_and_wants_to_run_on() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.drop(2, 2)
    assert bench.report(1, 0) == [grant(3, 1, now=True)]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("told_first", [True, False])
def test_a_fault_takes_it_out_until_it_wakes_again(told_first: bool) -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    if told_first:
        bench.fault(1)
    bench.report(1, 2, next_grant=2, end=EndReason.FAULT, runnable=False)
    if not told_first:
        bench.fault(1)
    assert bench.states(1, 2) == [S.FAULTED, S.RUNNING]
    assert bench.wake(1) == [grant(3, 1, now=False)]


def test_a_reset_that_comes_before_the_report_of_the_fault_is_not_lost() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.fault(1)
    bench.wake(1)
    effects = bench.report(1, 2, next_grant=2, end=EndReason.FAULT, runnable=False)
    assert effects == [grant(3, 1, now=False)]


def test_the_next_one_faults_while_it_waits() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    assert bench.fault(2) == [grant(3, 3, now=False)]
    assert bench.fault(3) == [Revoke(3)]


def test_a_faulted_resident_is_reset_where_it_is() -> None:
    bench = Bench(1)
    bench.running(1)
    bench.fault(1)
    assert bench.wake(1, resumed=True) == []
    assert bench.states(1) == [S.RUNNING]


def test_a_broken_platform_is_granted_nothing_until_it_registers_again() -> None:
    bench = Bench(1)
    bench.wake(1)
    assert bench.drop(1, 1, why="PLATFORM_FAILURE") == []
    assert bench.wake(1) == [], "granting and dropping would go on for ever"
    assert bench.register(v1="r") == [grant(2, 1, now=True)]


# --- control --------------------------------------------------------------------------------------


def test_a_wake_before_the_add_is_remembered() -> None:
    bench = Bench()
    assert bench.wake(5) == []
    assert bench(AddVcoproc(5, {})) == [grant(1, 5, now=True)]


def test_an_add_before_the_coproc_knows_it_waits_for_the_wake() -> None:
    bench = Bench(5)
    assert bench.states(5) == [S.SLEEPING]
    assert bench.wake(5) == [grant(1, 5, now=True)]


def test_control_comes_after_the_register() -> None:
    bench = Bench(policy=False)
    bench.register(current=1, v1="r", v2="r", v3="s", v4="f")
    assert bench.states(1, 2, 3, 4) == [S.RUNNING, S.WAITING, S.SLEEPING, S.FAULTED]
    assert bench(rr()) == []
    assert bench(AddVcoproc(2, {})) == [grant(1, 2, now=False)], "the running one ends its slice"
    assert bench(AddVcoproc(1, {})) == []
    assert bench.report(1, 2, next_grant=1) == [grant(2, 1, now=False)]


def test_control_comes_before_the_register() -> None:
    bench = Bench(1, 2, 3, register=False)
    assert bench.states(1, 2) == [S.SLEEPING, S.SLEEPING]
    assert bench.register(current=1, v1="r", v2="r", v3="s") == [grant(1, 2, now=False)]


def test_an_idle_resident_registers() -> None:
    bench = Bench(1, 2, register=False)
    assert bench.register(current=1, v1="s", v2="s") == []
    assert bench.core.current == 1
    assert bench.wake(1, resumed=True) == []
    assert bench.wake(2) == [grant(1, 2, now=False)]


def test_removal_of_the_current_one_puts_another_one_there_now() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2)
    assert bench(RemoveVcoproc(1)) == [grant(3, 2, now=True)], "grant 2 was for the slice's end"
    assert bench.states(1, 2) == [S.SWITCHING_OUT, S.SWITCHING_IN]
    assert bench.wake(3) == []
    bench.ms = 1
    effects = bench.report(1, 2, next_grant=3, end=EndReason.PREEMPTED, runnable=True)
    assert effects == [grant(4, 3, now=False)]
    bench.ms = 9
    assert bench.report(2, 3, next_grant=4) == [grant(5, 2, now=False)], "1 is not granted again"


def test_removal_of_the_only_one_leaves_it_to_the_coproc() -> None:
    bench = Bench(1)
    bench.running(1)
    assert bench(RemoveVcoproc(1)) == []
    assert bench.report(1, 0, end=EndReason.REMOVED, runnable=False) == []
    assert bench.states(1) == [None]


def test_removal_of_the_next_one_replaces_or_revokes_its_grant() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    assert bench(RemoveVcoproc(2)) == [grant(3, 3, now=False)]
    assert bench(RemoveVcoproc(3)) == [Revoke(3)]


def test_the_removed_next_one_had_begun_before_the_revoke_came() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    assert bench(RemoveVcoproc(2)) == [Revoke(2)]
    bench.ms = 5
    assert bench.report(1, 2, next_grant=2) == [grant(3, 1, now=False)]
    bench.ms = 6
    bench.report(2, 1, next_grant=3, end=EndReason.REMOVED, runnable=False)
    assert bench.states(1, 2) == [S.RUNNING, None]


def test_removed_and_added_again_while_it_runs() -> None:
    bench = Bench(1, 2)
    bench.running(1)
    bench(RemoveVcoproc(1))
    assert bench(AddVcoproc(1, {})) == []
    assert bench.states(1) == [S.RUNNING]
    assert bench.wake(2) == [grant(2, 2, now=False)]


def test_removed_and_added_again_while_it_waits_keeps_what_it_wants() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench(RemoveVcoproc(2))
    assert bench(AddVcoproc(2, {})) == [grant(3, 2, now=False)]
    assert bench.account(2).wakes == 0, "but its account begins anew"


def test_control_may_repeat_itself() -> None:
    bench = Bench(1)
    bench.running(1)
    before = bench.core.view(0)
    assert bench(rr()) == bench(AddVcoproc(1, {})) == bench(RemoveVcoproc(99)) == []
    assert bench.core.view(0) == before


def test_refusals_of_control_change_nothing() -> None:
    bench = Bench(1)
    bench.running(1)
    before = bench.core.view(0)
    with pytest.raises(InvalidArgument, match="weight"):
        bench(AddVcoproc(1, {"weight": 5}))
    with pytest.raises(InvalidArgument, match="slice_us"):
        bench(AddVcoproc(2, {"slice_us": 1}))
    with pytest.raises(NotFound, match="nosuch"):
        bench(SetAlgorithm("nosuch", SLICE_NS, 0, {}))
    with pytest.raises(InvalidArgument, match="quantum"):
        bench(SetAlgorithm("rr", SLICE_NS, 0, {"quantum": 1}))
    assert bench.core.view(0) == before
    with pytest.raises(WrongState):
        Bench(policy=False)(AddVcoproc(1, {}))


def test_other_parameters_of_a_vcoproc_that_waits() -> None:
    bench = Bench(1, 2)
    bench.running(1)
    bench(AddVcoproc(2, {"slice_us": 700}))
    (effect,) = bench.wake(2)
    assert isinstance(effect, Grant) and effect.slice_ns == 700_000
    (effect,) = bench(AddVcoproc(2, {"slice_us": 900}))
    assert isinstance(effect, Grant) and effect.slice_ns == 900_000
    assert bench.states(2) == [S.WAITING]


def test_another_slice_while_vcoprocs_run_loses_none_of_them() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    bench(rr(1 * MS))
    bench.ms = 5
    (effect,) = bench.report(1, 2, next_grant=2)
    assert isinstance(effect, Grant)
    assert (effect.vcoproc, effect.slice_ns) == (3, 1 * MS)


def test_how_many_vcoprocs_are_remembered_is_bounded() -> None:
    bench = Bench(1)
    bench.core._validate = False  # quadratic here
    for vcoproc in range(2, VCOPROCS_KNOWN_MAX + 50):
        bench.wake(vcoproc)
    assert len(list(bench.core._vcoprocs)) == VCOPROCS_KNOWN_MAX
    assert bench.core.run_state(1) is S.SLEEPING, "one that control has added is never forgotten"
    full = Bench(register=False)
    full.core._validate = False
    for vcoproc in range(1, VCOPROCS_KNOWN_MAX + 1):
        full(AddVcoproc(vcoproc, {}))
    with pytest.raises(LimitExceeded):
        full(AddVcoproc(VCOPROCS_KNOWN_MAX + 1, {}))


# --- sessions -------------------------------------------------------------------------------------


def test_what_an_old_session_said_is_ignored() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench(CoprocOffline())
    assert bench.states(1, 2) == [S.SLEEPING, S.SLEEPING]
    assert bench.report(1, 2, next_grant=2) == bench.wake(2) == bench.sleep(1) == []
    assert bench.drop(2, 2) == bench.fault(1) == []
    assert bench.core.stale_count == 5
    assert bench.states(1, 2) == [S.SLEEPING, S.SLEEPING]


def test_a_register_rebuilds_everything() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2)
    bench.ms = 50
    effects = bench.register(current=2, v1="s", v2="r", v3="r")
    assert effects == [grant(3, 3, now=False)]
    assert bench.states(1, 2, 3) == [S.SLEEPING, S.RUNNING, S.WAITING]


def test_a_register_forgets_what_was_only_remembered() -> None:
    bench = Bench(1)
    bench.wake(9)
    assert bench.states(9) == [S.WAITING]
    bench.register(v1="s")
    assert bench.states(9) == [None]


def test_a_turn_granted_by_a_former_scheduler_ends() -> None:
    bench = Bench(1, 2, register=False)
    assert bench.register(current=1, v1="r", v2="r") == [grant(1, 2, now=False)]
    bench.ms = 4
    assert bench.report(1, 2, next_grant=1, grant=4711) == [grant(2, 1, now=False)]


@pytest.mark.parametrize(
    "event",
    [
        Sleep(2, 0),
        Wake(2, 0, True),
        Wake(0, 0, False),
        Faulted(0, 1, 0, "", 0),
        Report(**(REPORT | {"vcoproc": 2, "end": 1})),
        Report(**(REPORT | {"vcoproc": 1, "end": 77})),
        Register("dsp1", 0, 0, ()),
        Register("dsp0", 0, 7, ((1, True, False),)),
        Register("dsp0", 0, 1, ((1, True, False), (1, True, False))),
        Register("dsp0", 0, 0, ((0, True, False),)),
    ],
    ids=str,
)
def test_a_coproc_that_contradicts_itself_is_refused_and_nothing_changes(event: Event) -> None:
    bench = Bench(1, 2)
    bench.running(1)
    before = bench.core.view(0)
    with pytest.raises(RemoteProtocolError):
        bench(event)
    bench.core.check_invariants()
    assert bench.core.view(0) == before


def test_a_bug_comes_with_the_story() -> None:
    bench = Bench(1)
    bench.wake(1)
    with pytest.raises(InvalidTransition, match=r"vcoproc 1 of dsp0[^$]*Wake"):
        bench.core._vcoprocs.transit(bench.core._vcoprocs[1], RunEvent.STAY)


# --- accounting -----------------------------------------------------------------------------------


def test_where_the_time_went() -> None:
    bench = Bench(1, 2)
    bench.ms = 10
    bench.wake(1)
    bench.ms = 12  # restore and MMU took 1 ms of it
    bench.report(0, 1, next_grant=1, mmu_ns=MS // 4, restore_ns=MS - MS // 4)
    bench.wake(2)
    bench.ms = 30
    (turn,) = [
        effect
        for effect in bench(
            Report(
                **(
                    REPORT
                    | {
                        "grant": 1,
                        "vcoproc": 1,
                        "next_grant": 2,
                        "next_vcoproc": 2,
                        "end": EndReason.SLICE,
                        "runnable": True,
                        "planned_ns": SLICE_NS,
                        "ran_ns": 12 * MS,
                        "refused_ns": 2 * MS,
                        "refusals": 1,
                        "instructions": 12345,
                        "save_ns": 1 * MS,
                        "mmu_ns": 1 * MS,
                        "restore_ns": 2 * MS,
                        "ended_ns": 22 * MS,
                        "next_began_ns": 28 * MS,
                    }
                )
            )
        )
        if isinstance(effect, TurnEnded)
    ]
    assert turn == TurnEnded(1, 12 * MS, 22 * MS, SLICE_NS, EndReason.SLICE, 2 * MS, MS, MS, 2 * MS)
    bench.ms = 40  # told at 30 that the coproc's clock was 28 then: so it is 38 now
    first, second = bench.account(1), bench.account(2)
    assert (first.sleep_ns, first.wait_ns, first.switch_ns) == (10 * MS, (1 + 13) * MS, 2 * MS)
    assert (first.run_ns, first.refused_ns, first.overtime_ns) == (10 * MS, 2 * MS, 5 * MS)
    assert (first.instructions, first.wakes, first.switches) == (12345, 1, 1)
    assert (second.sleep_ns, second.wait_ns) == (12 * MS, 13 * MS)
    assert (second.switch_ns, second.run_ns) == (3 * MS, 10 * MS)
    assert first.elapsed_ns == second.elapsed_ns == 38 * MS


def test_a_refusal_at_switch_in_is_paid_by_who_is_not_taken_in() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.ms = 6  # 1 was told to leave at 5 and was saved at 6; 2 is refused until 9
    bench.report(1, 0, save_ns=MS, ended_ns=5 * MS)
    bench.ms = 11
    refused = {"switch_in_refused_ns": 3 * MS, "switch_in_refusals": 4}
    phases = {"mmu_ns": MS // 2, "restore_ns": MS // 2, "ended_ns": 9 * MS}
    bench.report(0, 2, next_grant=2, next_began_ns=10 * MS, **phases, **refused)
    bench.ms = 12
    first, second = bench.account(1), bench.account(2)
    assert (first.run_ns, first.switch_ns, first.refused_ns) == (5 * MS, 1 * MS, 0)
    assert first.wait_ns == 5 * MS, "told at 11 that the coproc's clock was 10: so it is 11 now"
    assert (second.wait_ns, second.refused_ns, second.switch_ns) == (6 * MS, 3 * MS, 1 * MS)
    assert second.run_ns == 1 * MS
    assert second.wait_max_ns == 10 * MS, "it has waited until its turn began"
    assert first.elapsed_ns == second.elapsed_ns == 11 * MS
    assert (first.switch_in_refusals.count, second.refusals.count) == (0, 0)
    figures = second.switch_in_refusals
    assert (figures.count, figures.busy_count, figures.given_up_count) == (1, 4, 0)
    assert (figures.total_ns, figures.max_ns) == (3 * MS, 3 * MS)
    assert bench.core.schedule(bench.ms * MS).switch_max_ns == 1 * MS, "refusals not counted"


def test_a_turn_that_is_given_up_is_charged_and_goes_to_the_tail() -> None:
    bench = Bench(1, 2, 3)
    bench.running(1, 2, 3)
    bench.ms = 5
    bench.report(1, 0, end=EndReason.IDLE, runnable=False)
    bench.ms = 9
    assert bench.drop(2, 2, "SWITCH_TIMEOUT", refused_ms=4) == [grant(3, 3, now=True)]
    assert bench.wake(2) == []
    assert bench.states(2, 3) == [S.WAITING, S.SWITCHING_IN]
    bench.report(0, 3, next_grant=3)
    account = bench.account(2)
    assert (account.wait_ns, account.refused_ns, account.sleep_ns) == (5 * MS, 4 * MS, 0)
    figures = account.switch_in_refusals
    assert (figures.count, figures.busy_count, figures.given_up_count) == (1, 3, 1)
    assert (account.switches, bench.core.switch_count) == (0, 2)
    assert account.wait_max_ns == 9 * MS, "it waits still, and has all the time"
    bench.ms = 20
    bench.report(3, 2, next_grant=4)
    assert bench.account(2).wait_max_ns == 20 * MS
    assert bench.account(2).wakes == 2


def test_a_turn_that_an_older_coproc_gives_up_goes_to_the_tail_too() -> None:
    """It does not say for how long it was refused."""
    bench = Bench(1, 2)
    bench.wake(1)
    bench.wake(2)
    bench.ms = 4
    assert bench.drop(1, 1, "SWITCH_TIMEOUT") == [grant(2, 2, now=True)]
    assert bench.wake(1) == []
    account = bench.account(1)
    assert (account.wait_ns, account.refused_ns, account.switch_in_refusals.count) == (4 * MS, 0, 0)


def test_a_refused_one_that_is_not_wanted_any_more_waits_on() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.ms = 5
    bench.report(1, 0, end=EndReason.FAULT, runnable=False)
    assert bench.states(2) == [S.SWITCHING_IN]
    bench.ms = 7
    assert bench.drop(1, 2, "REPLACED", refused_ms=2) == [], "the grant for it still stands"
    assert bench.states(2) == [S.SWITCHING_IN]
    bench.ms = 8
    bench.report(0, 2, next_grant=2)
    account = bench.account(2)
    assert (account.wait_ns, account.refused_ns, account.wait_max_ns) == (6 * MS, 2 * MS, 8 * MS)
    assert (account.switch_in_refusals.count, account.switch_in_refusals.given_up_count) == (1, 0)


def test_a_refused_one_that_fell_asleep_sleeps() -> None:
    bench = Bench(1)
    bench.wake(1)
    bench.ms = 4
    assert bench.drop(1, 1, refused_ms=4) == []
    bench.ms = 6
    account = bench.account(1)
    assert bench.states(1) == [S.SLEEPING]
    assert (account.refused_ns, account.sleep_ns, account.wait_ns) == (4 * MS, 2 * MS, 0)
    bench.wake(1)
    bench.ms = 7
    assert bench.account(1).wait_max_ns == 1 * MS, "another wait: it did sleep"


def test_refusals_of_one_that_control_has_removed_are_no_matter() -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    bench.ms = 5
    bench.report(1, 0)
    bench(RemoveVcoproc(2))
    bench.ms = 6
    assert bench.drop(2, 2, "REPLACED", refused_ms=1) == []
    assert bench.drop(2, 77, "REMOVED", refused_ms=1) == []
    assert [each.vcoproc for each in bench.core.view(bench.ms * MS).vcoprocs] == [1]
    bench(AddVcoproc(2, {}))
    assert bench.states(2) == [S.WAITING]


@pytest.mark.parametrize("why", ["SWITCH_TIMEOUT", "REPLACED"])
def test_nobody_is_refused_by_hardware_that_another_one_has(why: str) -> None:
    bench = Bench(1, 2)
    bench.running(1, 2)
    before = bench.core.view(0)
    with pytest.raises(RemoteProtocolError, match="vcoproc 2 is refused, but 1 has the coproc"):
        bench.drop(2, 2, why, refused_ms=1)
    assert bench.core.view(0) == before


def test_a_resident_that_sleeps_and_resumes_has_a_slice_each_time() -> None:
    bench = Bench(1)
    bench.running(1)
    for _ in range(10):
        bench.ms += 4
        bench.sleep(1)
        bench.ms += 1
        bench.wake(1, resumed=True)
    account = bench.account(1)
    assert (account.run_ns, account.sleep_ns, account.overtime_ns) == (40 * MS, 10 * MS, 0)
    bench.ms += 7
    bench.sleep(1)
    assert bench.account(1).overtime_ns == 2 * MS


def test_time_stands_still_while_the_coproc_does_not_answer() -> None:
    bench = Bench(1)
    bench.running(1)
    bench.ms = 5
    bench.sleep(1)
    bench(CoprocOffline())
    bench.ms = 1000
    assert bench.account(1).elapsed_ns == 5 * MS
    bench.core.step(CoprocOnline(), bench.ms * MS)
    # The coproc's process is another one: its clock begins anew.
    bench.core.step(Register("dsp0", 3 * MS, 0, ((1, False, False),)), bench.ms * MS)
    bench.core.step(Wake(1, 4 * MS, False), bench.ms * MS)
    account = bench.account(1)
    assert (account.elapsed_ns, account.run_ns) == (6 * MS, 5 * MS)
