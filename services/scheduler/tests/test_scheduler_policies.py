"""The policy interface: parameters, the loader, and round robin by itself."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vcoproc.errors import BadPlugin, InvalidArgument, NotFound
from vcoproc.limits import MS, SLICE_NS_MAX
from vcoproc.model.run_state import RunState
from vcoproc.wire.messages import Grant, GrantDropped, Register, Revoke, Wake
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    FellBack,
    SetAlgorithm,
    Tick,
)
from vcoproc_scheduler.policies.api import (
    ENTRY_POINT_GROUP,
    NOBODY,
    POLICY_API_VERSION,
    Decision,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
    resolve_parameters,
)
from vcoproc_scheduler.policies.loader import BUILT_IN, Catalogue, load_catalogue
from vcoproc_scheduler.policies.rr import RoundRobin

SLICE_NS = 5 * MS


class Complete(RoundRobin):
    """Everything there."""


class Incomplete(Policy):
    API_VERSION = POLICY_API_VERSION

    def init(self, config: PolicyConfig) -> None: ...

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None: ...

    def remove(self, vcoproc_id: int) -> None: ...

    def wake(self, vcoproc_id: int, now_ns: int) -> None: ...


class TooNew(RoundRobin):
    API_VERSION = POLICY_API_VERSION + 1


class Unversioned:
    pass


class Twice(RoundRobin):
    PARAMETERS = RoundRobin.PARAMETERS * 2


class Grabber(RoundRobin):
    PARAMETERS = (Parameter("min_run_us", Scope.COPROC, "us", 0, 1, 0, ""),)


class Untyped(RoundRobin):
    PARAMETERS = ("slice_us",)  # type: ignore[assignment]


class Undescribed(RoundRobin):
    PARAMETERS = None  # type: ignore[assignment]


@pytest.fixture
def plugins() -> Iterator[str]:
    """A module that entry points can name."""
    module = ModuleType("vcoproc_test_plugins")
    for each in (Complete, Incomplete, TooNew, Unversioned, Twice, Grabber, Untyped, Undescribed):
        setattr(module, each.__name__, each)
    module.number = 5  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=ENTRY_POINT_GROUP)


def test_an_algorithm_is_found_by_its_exact_name(plugins: str) -> None:
    catalogue = load_catalogue([entry("mine", f"{plugins}:Complete")])
    assert catalogue.policy_class("mine") is Complete
    assert {"mine", "rr"} <= set(catalogue.names)
    for name in ("min", "mine2", "", "RR"):  # the ancestor matched prefixes
        with pytest.raises(NotFound):
            catalogue.policy_class(name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Incomplete", "misses charge, pick, sleep"),
        ("TooNew", f"version {POLICY_API_VERSION + 1}"),
        ("Unversioned", "version None"),
        ("Twice", "same name twice"),
        ("Grabber", "the core's own min_run_us"),
        ("Untyped", "something else than Parameter"),
        ("Undescribed", "no sequence of Parameter"),
        ("number", "not a class"),
        ("Absent", "cannot be loaded"),
    ],
)
def test_a_bad_plugin_is_refused_by_name(plugins: str, name: str, why: str) -> None:
    with pytest.raises(BadPlugin, match=why) as caught:
        load_catalogue([entry("theirs", f"{plugins}:{name}")])
    assert "'theirs'" in str(caught.value)


def test_a_missing_module_is_refused_by_name() -> None:
    with pytest.raises(BadPlugin, match=r"'theirs'.*cannot be loaded"):
        load_catalogue([entry("theirs", "no_such_module:Thing")])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("class Thing(:", "SyntaxError"),
        ("Thing = undefined", "NameError: name 'undefined'"),
        ("from vcoproc_scheduler.policies.api import *\nParameter('x', 0, '', 0, 1, 5, '')", "'x'"),
    ],
    ids=["syntax", "name", "parameter"],
)
def test_an_error_in_the_code_of_a_plugin_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    (tmp_path / "vcoproc_broken_plugin.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadPlugin, match=rf"'theirs'.*cannot be loaded: .*{why}"):
        load_catalogue([entry("theirs", "vcoproc_broken_plugin:Thing")])


def test_a_name_that_is_taken_is_refused(plugins: str) -> None:
    with pytest.raises(BadPlugin, match="taken"):
        load_catalogue([entry("rr", f"{plugins}:Complete")])
    same = [entry("a", f"{plugins}:Complete"), entry("a", f"{plugins}:TooNew")]
    with pytest.raises(BadPlugin, match="taken"):
        load_catalogue(same)


def test_the_installed_ones_load() -> None:
    assert "rr" in load_catalogue().names


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_header_of_each_of_ours_says_all(name: str) -> None:
    """Theory, parameters with unit, range and default, cost and limits."""
    cls = load_catalogue(()).policy_class(name)
    module = inspect.getmodule(cls)
    assert module is not None and module.__doc__ is not None
    header = module.__doc__
    for section in ("Theory:", "Parameters:", "Cost:", "Limits:"):
        assert f"\n{section}" in header, section
    parameters = header.partition("\nParameters:")[2].partition("\nCost:")[0]
    for each in cls.PARAMETERS:
        unit = f"{re.escape(each.unit)}, " if each.unit else ""
        described = rf"{unit}{each.minimum}\.\.{each.maximum}, default {each.default}\b"
        # In the same sentence as the name.
        assert re.search(rf"\b{each.name}\b[^.]*?: {described}", parameters), each.name


PARAMETERS = (
    Parameter("weight", Scope.VCOPROC, "", 1, 65535, 256, "Share."),
    Parameter("cap", Scope.VCOPROC, "%", 0, 100, 0, "Bound."),
    Parameter("window", Scope.COPROC, "ns", 1, 9, 3, "Window."),
)


def test_parameters_are_checked_and_completed() -> None:
    assert resolve_parameters(PARAMETERS, Scope.VCOPROC, {"cap": 50}) == {"weight": 256, "cap": 50}
    assert resolve_parameters(PARAMETERS, Scope.COPROC, {}) == {"window": 3}
    for given, why in (
        ({"wait": 1}, "it has: cap, weight"),
        ({"window": 1}, "no such parameter"),
        ({"cap": 101}, "101 % is outside of 0 to 100 %"),
        ({"weight": 0}, "0 is outside of 1 to 65535"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            resolve_parameters(PARAMETERS, Scope.VCOPROC, given)


@pytest.mark.parametrize(
    "wrong",
    [{"name": 5}, {"scope": "vcoproc"}, {"unit": None}, {"doc": None},
     {"minimum": 0.5}, {"maximum": 1 << 64}, {"default": True}],
)  # fmt: skip
def test_a_description_that_cannot_be_shown_is_a_bug_of_the_plugin(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"name": "x", "scope": Scope.VCOPROC, "unit": "", "doc": "It."}
    right |= {"minimum": 0, "maximum": 9, "default": 1}
    Parameter(**right)
    with pytest.raises(ValueError, match="parameter"):
        Parameter(**(right | wrong))


def test_a_default_out_of_range_is_a_bug_of_the_plugin() -> None:
    with pytest.raises(ValueError, match="weight"):
        Parameter("weight", Scope.VCOPROC, "", 1, 10, 0, "")


# --- round robin ----------------------------------------------------------------------------------


def usage(vcoproc_id: int, *, ended: bool = True) -> Usage:
    return Usage(vcoproc_id, SLICE_NS, 0, 0, 0, 0, ended, True, True, 0, 0)


def round_robin(*awake: int) -> RoundRobin:
    policy = RoundRobin()
    policy.init(PolicyConfig(SLICE_NS, {}))
    for vcoproc_id in awake:
        policy.add(vcoproc_id, {"slice_us": 0})
        policy.wake(vcoproc_id, 0)
    return policy


def test_rr_takes_turns() -> None:
    policy = round_robin(1, 2, 3)
    current, order = None, []
    for _ in range(7):
        decision = policy.pick(0, current)
        assert decision == policy.pick(0, current), "asking changes nothing"
        assert decision.slice_ns == SLICE_NS and not decision.preempt
        if current is not None:
            policy.charge(usage(current))
        current = decision.vcoproc_id
        order.append(current)
    assert order == [1, 2, 3, 1, 2, 3, 1]


def test_rr_puts_who_wakes_at_the_tail() -> None:
    policy = round_robin(1, 2, 3)
    policy.sleep(1, 0)
    policy.wake(1, 0)
    assert policy.pick(0, None).vcoproc_id == 2
    policy.remove(2)
    policy.remove(3)
    assert policy.pick(0, 1) == NOBODY


def test_rr_carries_run_time_over() -> None:
    policy = round_robin(1, 2)
    policy.charge(usage(1, ended=False))
    other = round_robin(1)
    other.import_accounting(policy.export_accounting())
    assert other.export_accounting() == {1: {"run_ns": SLICE_NS}}


# --- what the core does with a policy -------------------------------------------------------------


class Scripted(RoundRobin):
    """Answers what it is told to."""

    answers: list[Decision] = []
    deadline_ns: int | None = None
    seen_ns = 0

    def pick(self, now_ns: int, current: int | None) -> Decision:
        type(self).seen_ns = now_ns
        return self.answers[0] if self.answers else super().pick(now_ns, current)

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns


@pytest.fixture
def core() -> Iterator[CoprocSchedulerCore]:
    made = CoprocSchedulerCore("dsp0", Catalogue({"scripted": Scripted}), validate=True)
    made.step(SetAlgorithm("scripted", SLICE_NS, 0, {}), 0)
    for vcoproc in (1, 2):
        made.step(AddVcoproc(vcoproc, {}), 0)
    made.step(CoprocOnline(), 0)
    made.step(Register("dsp0", 1000 * MS, 1, ((1, True, False), (2, False, False))), 0)
    yield made
    Scripted.answers, Scripted.deadline_ns = [], None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Decision(3, SLICE_NS), "picks vcoproc 3"),
        (Decision(-1, SLICE_NS), "picks vcoproc -1"),
        (Decision(True, SLICE_NS), "picks vcoproc True"),
        (Decision("2", SLICE_NS), "picks vcoproc '2'"),  # type: ignore[arg-type]
        (Decision(2, SLICE_NS_MAX + 1), "gives a slice of 10000000001 ns"),
        (Decision(2, 0), "gives a slice of 0 ns"),
        (Decision(2, -SLICE_NS), "gives a slice of -5000000 ns"),
        (Decision(2, 5e6), "gives a slice of 5000000.0 ns"),  # type: ignore[arg-type]
        (Decision(2, SLICE_NS, preempt=1), "preempt that is no bool"),  # type: ignore[arg-type]
        (Decision(2, SLICE_NS, vacate=True), "picks vcoproc 2 and nobody"),
        (Decision(2, SLICE_NS, not_before_ns=-1), "not_before_ns of -1"),
        (Decision(2, SLICE_NS, until_ns=1 << 64), "until_ns of 18446744073709551616"),
        (Decision(2, SLICE_NS, until_ns=10**5000), "until_ns of a int"),
        (Decision(2, SLICE_NS, until_ns=1000 * MS), "before it can begin"),
        (Decision(2, SLICE_NS, not_before_ns=2000 * MS, until_ns=1500 * MS), "before it can begin"),
        (None, "gives a NoneType"),
        (2, "gives a int"),
    ],
    ids=lambda each: str(each)[:60] if isinstance(each, str) else "",
)
def test_nonsense_makes_the_coproc_fall_back(
    core: CoprocSchedulerCore, answer: Decision, why: str
) -> None:
    Scripted.answers = [answer]
    fell_back, grant = core.step(Wake(2, 1000 * MS, False), 0)
    assert isinstance(fell_back, FellBack)
    assert (fell_back.coproc, fell_back.algorithm) == ("dsp0", "scripted")
    assert why in fell_back.why
    assert isinstance(grant, Grant) and (grant.vcoproc, grant.slice_ns) == (2, SLICE_NS)
    assert core.view(0).algorithm == "rr"
    assert core.algorithm is not None and core.algorithm.algorithm == "scripted"
    assert core.step(core.algorithm, 1) == [], "control repeats itself: nothing happens"


def test_a_policy_may_preempt(core: CoprocSchedulerCore) -> None:
    core.step(Wake(2, 1000 * MS, False), 0)
    Scripted.answers = [Decision(2, SLICE_NS, preempt=True)]
    (effect,) = core.step(Tick(), 1)
    assert isinstance(effect, Grant) and (effect.vcoproc, effect.now) == (2, True)
    assert core.step(Tick(), 2) == [], "told once"


def test_a_policy_may_give_the_current_one_another_slice(core: CoprocSchedulerCore) -> None:
    Scripted.answers = [Decision(1, SLICE_NS)]
    (effect,) = core.step(Wake(2, 1000 * MS, False), 0)
    assert isinstance(effect, Grant) and (effect.vcoproc, effect.now) == (1, False)


def test_a_policy_may_withhold_and_ask_to_be_asked_again(core: CoprocSchedulerCore) -> None:
    Scripted.answers = [NOBODY]
    Scripted.deadline_ns = 1007 * MS  # of the coproc's clock, which was 1000 ms at our time 0
    assert core.step(Wake(2, 1000 * MS, False), 2 * MS) == []
    assert core.next_deadline_ns() == 7 * MS
    Scripted.answers = []
    (effect,) = core.step(Tick(), 7 * MS)
    assert isinstance(effect, Grant) and effect.vcoproc == 2


def test_a_preempting_grant_that_comes_to_nothing_lets_the_current_one_stay(
    core: CoprocSchedulerCore,
) -> None:
    Scripted.answers = [Decision(2, SLICE_NS, preempt=True)]
    (effect,) = core.step(Wake(2, 1000 * MS, False), 0)
    assert isinstance(effect, Grant)
    assert core.run_state(1) is RunState.SWITCHING_OUT
    Scripted.answers = [NOBODY]
    assert core.step(GrantDropped(effect.grant, 2, "NOT_RUNNABLE", 1000 * MS), 1) == []
    assert core.run_state(1) is RunState.RUNNING


def test_a_grant_that_need_not_preempt_any_more_is_taken_back(core: CoprocSchedulerCore) -> None:
    Scripted.answers = [Decision(2, SLICE_NS, preempt=True)]
    core.step(Wake(2, 1000 * MS, False), 0)
    Scripted.answers = [NOBODY]
    assert core.step(Tick(), 1) == [Revoke(1)]
    assert core.run_state(1) is RunState.RUNNING


def test_the_clock_that_a_policy_sees_never_goes_back(core: CoprocSchedulerCore) -> None:
    core.step(Wake(2, 1500 * MS, False), 500 * MS)
    assert Scripted.seen_ns == 1500 * MS
    core.step(CoprocOffline(), 600 * MS)
    core.step(CoprocOnline(), 700 * MS)
    # Another process: its clock begins anew.
    core.step(Register("dsp0", 1 * MS, 0, ((2, True, False),)), 700 * MS)
    assert Scripted.seen_ns >= 1500 * MS
    before_ns = Scripted.seen_ns
    core.step(Wake(1, 11 * MS, False), 710 * MS)
    assert Scripted.seen_ns == before_ns + 10 * MS, "and it goes on at its own pace"
