"""Another algorithm while vcoprocs run, and algorithms that fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from scheduler_executor_model import FREE, Costs
from scheduler_hostile import Cap, Hostile, Table
from scheduler_rig import SLICE_NS, Rig

from vcoproc.errors import BadPlugin, InvalidArgument
from vcoproc.limits import MS, SLICE_NS_MIN, SWITCH_DEADLINE_NS, TICKS_IN_VAIN_MAX, US
from vcoproc.model.run_state import RunState
from vcoproc.testing.network import Faults
from vcoproc_scheduler import grpc_translate
from vcoproc_scheduler.accounting import AccountView
from vcoproc_scheduler.events import AddVcoproc, LostParameter, SetAlgorithm, SetVcoprocParameters
from vcoproc_scheduler.policies.api import Decision, Parameter, PolicyConfig, Scope, Usage
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin

LINK = Faults(delay_ns=(30 * US, 200 * US))


def algorithm(name: str, slice_ns: int = SLICE_NS, **parameters: int) -> SetAlgorithm:
    return SetAlgorithm(name, slice_ns, SWITCH_DEADLINE_NS, parameters)


class Weighted(RoundRobin):
    """Another one, which shares a parameter with rr and does not know the rest."""

    PARAMETERS = (
        *RoundRobin.PARAMETERS,
        Parameter("weight", Scope.VCOPROC, "", 1, 65535, 256, ""),
        Parameter("depth", Scope.COPROC, "", 0, 9, 3, ""),
    )


class Refusing(RoundRobin):
    """Takes two vcoprocs at most, and none with a slice of its own."""

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        if parameters["slice_us"]:
            raise InvalidArgument("slice_us", "not with me")
        if len(self._run_ns) >= 2 and vcoproc_id not in self._run_ns:
            raise InvalidArgument("vcoprocs", "two at most")


class Recording(RoundRobin):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        super().wake(vcoproc_id, now_ns)
        self.calls.append(("wake", vcoproc_id))

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self.calls.append(("begin", vcoproc_id))

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        super().import_accounting(carried)
        self.calls.append(("import", {key: dict(value) for key, value in carried.items()}))


CLASSES = {
    "rr": RoundRobin,
    "weighted": Weighted,
    "refusing": Refusing,
    "recording": Recording,
    "hostile": Hostile,
    "cap": Cap,
    "table": Table,
}


def rig(seed: int = 1, costs: Costs = FREE, **extra: Any) -> Rig:
    return Rig(seed, costs=costs, faults=LINK, catalogue=Catalogue(CLASSES | extra))


def policy(made: Rig) -> Any:
    return made.core._policy.policy


def figures(made: Rig) -> dict[int, AccountView]:
    """But for the longest wait under the present schedule."""
    vcoprocs = made.core.view(made.clock.now_ns).vcoprocs
    return {each.vcoproc: replace(each.account, wait_watched_ns=0) for each in vcoprocs}


# --- swaps ----------------------------------------------------------------------------------------


def test_a_swap_tells_the_new_one_all_that_holds() -> None:
    made = rig()
    made.add(1, 2, 3, 4)
    for vcoproc in (3, 1, 2):
        made.executor.work(vcoproc, None)
        made.clock.advance(1 * MS)
    made.clock.advance(12 * MS)
    current = made.core.current
    waiting = [vcoproc for vcoproc in (3, 1, 2) if vcoproc != current]
    before = made.core.view(made.clock.now_ns).vcoprocs  # with the present turn so far
    made.step(algorithm("recording"))
    kind, carried = policy(made).calls[0]
    assert kind == "import"
    assert carried == {each.vcoproc: {"run_ns": each.account.run_ns} for each in before}
    assert sum(each["run_ns"] for each in carried.values()) > 9 * MS
    woken = [vcoproc for name, vcoproc in policy(made).calls if name == "wake"]
    assert woken[0] == current and sorted(woken[1:]) == sorted(waiting)
    assert ("begin", current) in policy(made).calls
    assert ("wake", 4) not in policy(made).calls, "it sleeps"


LONG = {
    "credit": {},
    "edf": {"budget_us": 2000, "extratime": 0},
    "fixed": {"share_permille": 300},
    "priority": {},
    "rr": {},
}
"""Algorithms with parameters of vcoprocs under which two get the same."""


@pytest.mark.parametrize("new", LONG)
@pytest.mark.parametrize("old", LONG)
def test_nobody_pays_for_what_it_has_run_before_a_change(old: str, new: str) -> None:
    """One that was alone has run on for long, and nothing was told of it until then."""
    parameters = LONG[new]
    made = Rig(costs=FREE, faults=LINK, algorithm=algorithm(old))
    made.step(AddVcoproc(1, {"extratime": 1} if old == "edf" else LONG[old]))
    made.executor.attach(1)
    made.executor.work(1, None)
    made.clock.advance(10_000 * MS)
    if old == new:
        made.step(SetVcoprocParameters(1, parameters))
    else:
        made.step(replace(algorithm(new), vcoprocs={1: parameters}))
    made.step(AddVcoproc(2, parameters))
    made.executor.attach(2)
    made.executor.work(2, None)
    before = made.run_ns()[1]
    made.clock.advance(1000 * MS)
    run_ns = made.run_ns()
    assert run_ns[2] > 150 * MS
    # The present turn, or the budget of the present period, may have been promised before.
    assert run_ns[1] - before == pytest.approx(run_ns[2], abs=31 * MS)
    charged_ns = policy(made).export_accounting()[1]["run_ns"]
    assert charged_ns == pytest.approx(run_ns[1], abs=2 * SLICE_NS), "each ns once"


def test_a_wait_is_held_against_the_schedule_under_which_it_began() -> None:
    """What was observed under another one says nothing about the bounds of this one."""
    made = Rig(costs=FREE, faults=LINK, algorithm=algorithm("priority"))
    for vcoproc in (1, 2):
        made.step(AddVcoproc(vcoproc, {"priority": vcoproc}))
        made.executor.attach(vcoproc)
        made.executor.work(vcoproc, None)

    def waits_ns() -> tuple[int, int]:
        account = made.core.view(made.clock.now_ns).vcoprocs[0].account
        return account.wait_max_ns, account.wait_watched_ns

    made.clock.advance(2000 * MS)
    assert min(waits_ns()) > 400 * MS, "until it has aged"
    made.step(algorithm("rr"))
    assert waits_ns()[0] > 400 * MS and waits_ns()[1] == 0
    made.clock.advance(100 * MS)
    assert waits_ns()[0] > 400 * MS and SLICE_NS <= waits_ns()[1] < SLICE_NS + MS
    made.step(algorithm("rr", 1 * MS))
    made.clock.advance(100 * MS)
    assert MS <= waits_ns()[1] < 2 * MS, "without the wait for the slice before the change"
    made.step(SetVcoprocParameters(2, {"slice_us": 3000}))
    assert waits_ns()[1] == 0


def test_who_never_sleeps_is_watched_if_it_woke_after_the_change() -> None:
    """Nobody had a turn then that could be longer than the present bounds know."""
    made = rig()
    made.add(1, 2)
    for vcoproc in (1, 2):
        made.executor.work(vcoproc, None)
    made.clock.advance(30 * MS)
    assert made.core.response_ns(1, 1 * MS, made.clock.now_ns) >= 1 * MS
    assert made.core.response_ns(2, 10 * MS, made.clock.now_ns) >= 20 * MS
    made.step(algorithm("weighted"))
    made.clock.advance(30 * MS)
    assert made.core.response_ns(2, 10 * MS, made.clock.now_ns) == 0, "it woke before"


def test_a_swap_disturbs_nobody_who_runs() -> None:
    """None is stopped for longer than a switch: the present turn goes on to its end."""
    made = rig()
    made.add(1, 2, 3)
    for vcoproc in (1, 2, 3):
        made.executor.work(vcoproc, None)
    made.clock.advance(23 * MS)
    ended, guest = len(made.turns), made.executor.current
    for name in ("weighted", "recording", "rr") * 5:
        made.step(algorithm(name))
        made.clock.advance(50 * US)
        assert made.executor.current is guest and made.executor.running_since_ns is not None
    made.clock.advance(50 * MS)
    assert {turn.ended_ns - turn.began_ns for turn in made.turns[ended:]} == {SLICE_NS}


@pytest.mark.parametrize("seed", range(4))
def test_swapping_at_random_times_loses_nothing(seed: int) -> None:
    made = rig(seed, Costs(refuse_ns=(0, 300 * US)))
    random = Random(seed)
    made.add(*range(1, 7))
    asked_ns = dict.fromkeys(range(1, 7), 0)
    names = ["rr", "weighted", "recording", "hostile", "cap", "table"]
    for turn in range(400):
        vcoproc = random.randint(1, 6)
        work_ns = random.randint(1, 5 * MS)
        asked_ns[vcoproc] += work_ns
        made.executor.work(vcoproc, work_ns)
        made.clock.advance(random.randint(1, 4 * MS))
        name = random.choice(names)
        parameters = {}
        if name == "hostile":
            # Calm while it is told what holds, mostly; else it would only ever be refused.
            calm_calls = random.choice([0, 25, 30])
            parameters = {"seed": turn, "chance_ppm": 200_000, "calm_calls": calm_calls}
        before = figures(made)
        try:
            made.step(algorithm(name, random.choice([1, 5]) * MS, **parameters))
        except BadPlugin:
            assert name == "hostile"
        assert before == figures(made), "figures of everybody are the same"
    made.step(algorithm("rr"))
    made.settle()
    view = {each.vcoproc: each.account for each in made.core.view(made.clock.now_ns).vcoprocs}
    for vcoproc, guest in made.executor.guests.items():
        assert guest.work_ns == 0, "all that was asked for is done"
        assert view[vcoproc].run_ns == guest.run_ns == asked_ns[vcoproc]
        assert view[vcoproc].refused_ns == guest.refused_ns
        assert made.state(vcoproc) is RunState.SLEEPING
    assert made.fallbacks, "the hostile one did fail"
    assert len({account.elapsed_ns for account in view.values()}) == 1


def test_parameters_that_both_know_are_kept_and_others_are_reported() -> None:
    made = rig()
    made.step(algorithm("weighted", depth=5, min_run_us=70))
    made.add(1, 2)
    made.step(SetVcoprocParameters(1, {"weight": 512}))
    made.step(SetVcoprocParameters(1, {"slice_us": 700}))
    made.step(SetAlgorithm("rr", SLICE_NS, SWITCH_DEADLINE_NS, {}, keep=True))
    assert made.lost == [LostParameter(0, "depth", 5), LostParameter(1, "weight", 512)]
    view = made.core.schedule(made.clock.now_ns)
    assert view.parameters == {1: {"slice_us": 700}, 2: {"slice_us": 0}}
    assert view.wanted.parameters == {"min_run_us": 70}


def test_a_refused_swap_leaves_everything_as_it_was() -> None:
    """Xen left pointers stale after a failed move, and crashed after a failed creation."""
    made = rig()
    made.add(1, 2, 3)
    made.step(SetVcoprocParameters(1, {"slice_us": 700}))
    for vcoproc in (1, 2, 3):
        made.executor.work(vcoproc, None)
    made.clock.advance(8 * MS)
    old, before = policy(made), made.core.schedule(made.clock.now_ns)
    pending = made.core._granting.pending
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="not with me"):
            made.step(algorithm("refusing"))
        with pytest.raises(InvalidArgument, match="chance_ppm"):
            made.step(algorithm("hostile", chance_ppm=-1))
        with pytest.raises(BadPlugin, match="raised"):
            made.step(algorithm("hostile", chance_ppm=1_000_000))
        with pytest.raises(InvalidArgument, match="slice_us"):
            made.step(SetVcoprocParameters(2, {"slice_us": 1}))
    assert policy(made) is old
    assert made.core.schedule(made.clock.now_ns) == before
    assert made.core._granting.pending == pending
    made.clock.advance(100 * MS)
    assert not made.fallbacks and min(made.run_ns().values()) > 3 * MS


def test_a_vcoproc_that_is_refused_leaves_everything_as_it_was() -> None:
    made = rig()
    made.step(algorithm("refusing"))
    made.add(1, 2)
    made.executor.work(1, None)
    made.clock.advance(8 * MS)
    before = made.core.schedule(made.clock.now_ns)
    with pytest.raises(InvalidArgument, match="two at most"):
        made.step(AddVcoproc(3, {}))
    assert made.core.schedule(made.clock.now_ns) == before
    assert made.core.run_state(3) is None


# --- failures -------------------------------------------------------------------------------------


class Failing(RoundRobin):
    """Raises in one hook once it is armed; `RoundRobin` has every hook."""

    hook = ""
    error: BaseException = RuntimeError("broken")

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name != type(self).hook:
            return found

        def fails(*_arguments: Any) -> Any:
            raise type(self).error

        return fails


@pytest.fixture
def arm() -> Any:
    def set_hook(hook: str, error: BaseException | None = None) -> None:
        Failing.hook = hook
        Failing.error = error or RuntimeError("broken")

    yield set_hook
    Failing.hook = ""


HOOKS = ("admit", "add", "remove", "wake", "sleep", "yield_", "begin", "charge", "pick",
         "next_deadline_ns", "import_accounting")  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_in_any_hook_makes_the_coproc_fall_back_and_guests_keep_running(
    arm: Callable[..., None], hook: str
) -> None:
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1, 2, 3)
    made.executor.work(1, None)
    made.executor.work(2, None)
    made.clock.advance(13 * MS)
    before = made.run_ns()
    arm(hook)
    made.executor.work(3, 2 * MS)
    made.clock.advance(4 * MS)
    made.executor.yield_()
    made.clock.advance(12 * MS)
    made.step(SetVcoprocParameters(2, {"slice_us": 900}))
    made.add(4)
    made.remove(1)
    made.executor.work(4, 1 * MS)
    made.clock.advance(40 * MS)
    assert [(each.algorithm, each.why) for each in made.fallbacks] == [
        ("failing", "fails raised RuntimeError: broken")
    ]
    assert made.core.view(0).algorithm == "rr"
    now = made.run_ns()
    assert now[2] > before[2] + 20 * MS
    assert made.executor.guests[3].work_ns == made.executor.guests[4].work_ns == 0
    assert made.core.schedule(0).parameters[2] == {"slice_us": 900}


@pytest.mark.parametrize("error", [KeyError(1), SystemExit(3), RecursionError(), MemoryError()])
def test_any_kind_of_error_is_contained(arm: Callable[..., None], error: BaseException) -> None:
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1)
    arm("pick", error)
    made.executor.work(1, 1 * MS)
    made.settle()
    assert len(made.fallbacks) == 1 and made.executor.guests[1].work_ns == 0


def test_what_cannot_be_written_is_told_all_the_same(arm: Callable[..., None]) -> None:
    """Else nobody could be told of the fallback, and nobody see the coproc again."""
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1)
    arm("pick", OSError("no file na\udcefve\n\x1b[2J"))
    made.executor.work(1, 1 * MS)
    made.settle()
    (notice,) = made.fallbacks
    assert grpc_translate.fell_back(notice).why == (
        "fails raised OSError: no file na\\udcefve\\n\\x1b[2J"
    )


def test_an_interrupt_by_the_user_is_no_failure(arm: Callable[..., None]) -> None:
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1)
    arm("pick", KeyboardInterrupt())
    made.executor.work(1, 1 * MS)
    with pytest.raises(KeyboardInterrupt):
        made.settle()


def test_what_was_used_is_carried_over_to_the_fallback(arm: Callable[..., None]) -> None:
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1, 2)
    made.executor.work(1, None)
    made.executor.work(2, None)
    made.clock.advance(52 * MS)
    used = policy(made).export_accounting()
    arm("charge")
    made.clock.advance(4 * MS)
    carried = policy(made).export_accounting()
    assert all(carried[vcoproc]["run_ns"] >= used[vcoproc]["run_ns"] > 20 * MS for vcoproc in used)


class Restless(RoundRobin):
    """Wants to be asked again at once, for ever."""

    def next_deadline_ns(self) -> int | None:
        return 0


def test_one_that_wants_to_be_asked_for_ever_is_out() -> None:
    made = rig(restless=Restless)
    made.step(algorithm("restless"))
    made.add(1)
    made.executor.work(1, None)
    made.clock.advance(10 * MS)
    assert [each.why for each in made.fallbacks] == ["wants to be asked again at once, for ever"]
    assert made.events < TICKS_IN_VAIN_MAX + 100
    events = made.events
    made.clock.advance(1000 * MS)
    assert made.events == events


class Forgetful(RoundRobin):
    """Picks nobody after a while, and does not want to be asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self.turns += 1

    def pick(self, now_ns: int, current: int | None) -> Decision:
        decision = super().pick(now_ns, current)
        return decision if self.turns < 5 else Decision(None, vacate=True)


def test_one_that_lets_all_wait_for_ever_is_out() -> None:
    made = rig(forgetful=Forgetful)
    made.step(algorithm("forgetful"))
    made.add(1, 2, 3)
    for vcoproc in (1, 2, 3):
        made.executor.work(vcoproc, 20 * MS)
    made.clock.advance(200 * MS)
    assert [each.why for each in made.fallbacks] == [
        "lets everybody wait, and does not say until when"
    ]
    assert all(guest.work_ns == 0 for guest in made.executor.guests.values())


class Often(RoundRobin):
    """A timer of its own, which is no failure however long nothing else happens."""

    def __init__(self) -> None:
        super().__init__()
        self._due_ns = 0

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._due_ns = now_ns - now_ns % (100 * US) + 100 * US
        return super().pick(now_ns, current)

    def next_deadline_ns(self) -> int | None:
        return self._due_ns


def test_a_timer_is_no_failure() -> None:
    made = rig(often=Often)
    made.step(algorithm("often"))
    made.add(1)
    made.executor.work(1, None)
    made.clock.advance(500 * MS)
    assert not made.fallbacks and made.events > 4900


def test_a_fallen_algorithm_is_tried_again_when_control_says_so(arm: Callable[..., None]) -> None:
    made = rig(failing=Failing)
    made.step(algorithm("failing"))
    made.add(1)
    arm("wake")
    made.executor.work(1, 1 * MS)
    made.settle()
    made.step(algorithm("failing"))
    assert made.core.view(0).algorithm == "rr", "repeated: nothing happens"
    arm("")
    made.step(SetAlgorithm("failing", SLICE_NS, SWITCH_DEADLINE_NS, {}, restart=True))
    assert made.core.view(0).algorithm == "failing"
    view = made.core.schedule(0)
    assert view.fallback_count == 1 and view.fallback is not None, "but it is not forgotten"


def test_control_is_judged_by_the_algorithm_that_it_wants_also_after_a_fallback(
    arm: Callable[..., None],
) -> None:
    """Otherwise a repair that says again what is wanted would be refused."""

    class Both(Failing, Weighted):
        PARAMETERS = Weighted.PARAMETERS

    made = rig(both=Both)
    made.step(algorithm("both"))
    made.add(1)
    Both.hook = "wake"
    made.executor.work(1, 1 * MS)
    made.settle()
    made.step(AddVcoproc(1, {"weight": 512}))
    made.step(AddVcoproc(2, {"weight": 100, "slice_us": 800}))
    view = made.core.schedule(0)
    assert view.coproc.algorithm == "rr"
    assert view.parameters[2] == {"weight": 100, "slice_us": 800}
    with pytest.raises(InvalidArgument):
        made.step(AddVcoproc(1, {"wait": 512}))


class Finer(Failing):
    """Has shorter slices of vcoprocs than ``rr``, under the same name; grants what may be."""

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        pass

    def pick(self, now_ns: int, current: int | None) -> Decision:
        found = super().pick(now_ns, current)
        return replace(found, slice_ns=max(SLICE_NS_MIN, found.slice_ns))


def test_the_fallback_takes_no_parameter_that_it_would_refuse(arm: Callable[..., None]) -> None:
    """Else its own slices would make no sense, and nobody is left to take its place."""
    made = rig(finer=Finer)
    made.step(algorithm("finer"))
    made.add(1, 2)
    made.step(SetVcoprocParameters(1, {"slice_us": 50}))
    made.executor.work(1, None)
    made.executor.work(2, None)
    made.clock.advance(20 * MS)
    arm("charge")
    before = made.run_ns()
    made.clock.advance(40 * MS)
    made.step(SetVcoprocParameters(2, {"slice_us": 60}))
    made.clock.advance(40 * MS)
    assert len(made.fallbacks) == 1 and made.core.view(0).algorithm == "rr"
    assert all(run_ns > before[vcoproc] + 20 * MS for vcoproc, run_ns in made.run_ns().items())
    assert made.core.schedule(0).parameters == {1: {"slice_us": 50}, 2: {"slice_us": 60}}


# --- guards ---------------------------------------------------------------------------------------


def test_a_policy_gets_its_own_parameters_only() -> None:
    seen: list[Mapping[str, int]] = []

    class Curious(RoundRobin):
        def init(self, config: PolicyConfig) -> None:
            super().init(config)
            seen.append(config.parameters)

        def charge(self, usage: Usage) -> None:
            super().charge(usage)

    made = rig(curious=Curious)
    made.step(algorithm("curious", min_run_us=5))
    assert seen == [{}]
    assert made.core._policy.min_run_ns == 5 * US
