"""Many coprocs in one scheduler: what control asks of all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from scheduler_rig import CATALOGUE, SLICE_NS

from vcoproc.errors import (
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RemoteProtocolError,
)
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import (
    COPROCS_MAX,
    MS,
    SLICE_NS_DEFAULT,
    SWITCH_DEADLINE_NS,
    SWITCH_IN_NS_MIN,
    US,
)
from vcoproc.wire.messages import EndReason, Eoi, Grant, Message, Register, Report, Wake
from vcoproc_scheduler.decisions import Why
from vcoproc_scheduler.events import CoprocView, FellBack, LostParameter, SetAlgorithm
from vcoproc_scheduler.grpc_api import SchedulerControl
from vcoproc_scheduler.policies.api import Decision, Parameter, Policy, Scope
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin
from vcoproc_scheduler.service import SchedulerService


class Bench:
    def __init__(self, classes: dict[str, type[Policy]] | None = None) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.fallbacks: list[FellBack] = []
        self.changes = 0
        self.service = SchedulerService(
            Catalogue(classes) if classes else CATALOGUE,
            lambda coproc, message: self.sent.append((coproc, message)),
            validate=True,
            fell_back=self.fallbacks.append,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def set(
        self, coproc: str, algorithm: str = "rr", slice_ns: int = 0, refusal_ns: int = 0
    ) -> None:
        self.service.set_coproc(coproc, SetAlgorithm(algorithm, slice_ns, refusal_ns, {}), 0)

    def views(self) -> list[CoprocView]:
        return [self.service.view(coproc, 0) for coproc in self.service.coprocs()]

    def online(self, coproc: str, *runnable: int) -> None:
        self.service.opened(coproc, 0)
        listed = tuple((vcoproc, True, False) for vcoproc in runnable)
        self.service.received(coproc, Register(coproc, 0, 0, listed), 0)


def test_each_coproc_is_scheduled_by_itself() -> None:
    bench = Bench()
    for coproc in ("dsp0", "dsp1"):
        bench.set(coproc, slice_ns=SLICE_NS)
        bench.online(coproc)
    bench.service.add_vcoproc("dsp0", 1, {}, 0)
    bench.service.add_vcoproc("dsp1", 2, {}, 0)
    bench.service.received("dsp1", Wake(2, 0, False), 0)
    assert bench.sent == [("dsp1", Grant(1, 2, SLICE_NS, True, SWITCH_DEADLINE_NS))]
    views = {view.coproc: view for view in bench.views()}
    assert [each.vcoproc for each in views["dsp0"].vcoprocs] == [1]
    assert bench.service.next_deadline_ns() is None, "round robin needs no timer"


def test_a_register_is_kept_until_control_sets_the_coproc() -> None:
    bench = Bench()
    bench.online("dsp0", 7)
    assert bench.views() == []
    with pytest.raises(NotFound):
        bench.service.add_vcoproc("dsp0", 7, {}, 0)
    bench.set("dsp0")
    bench.service.add_vcoproc("dsp0", 7, {}, 0)
    assert [(coproc, type(message)) for coproc, message in bench.sent] == [("dsp0", Grant)]


def test_a_coproc_that_control_never_set_is_forgotten_when_it_goes() -> None:
    bench = Bench()
    for number in range(2 * COPROCS_MAX):
        bench.service.check_coproc(f"x{number}")
        bench.online(f"x{number}", 1)
        bench.service.closed(f"x{number}", 0)


def test_coprocs_are_bounded() -> None:
    bench = Bench()
    for number in range(COPROCS_MAX):
        bench.set(f"x{number}")
    bench.service.check_coproc("x0")
    with pytest.raises(LimitExceeded):
        bench.service.check_coproc("one more")
    with pytest.raises(LimitExceeded):
        bench.set("one more")


def test_a_coproc_that_is_removed_leaves_nothing() -> None:
    """However many come and go, offline or with a session that ends a little later."""
    bench = Bench()
    for number in range(2 * COPROCS_MAX):
        bench.set(f"x{number}")
        bench.service.add_vcoproc(f"x{number}", 7, {}, 0)
        if number % 2:
            bench.online(f"x{number}", 7)
        bench.service.remove_coproc(f"x{number}", 0)
        bench.service.remove_coproc(f"x{number}", 0)  # idempotent
        with pytest.raises(NotFound):
            bench.service.schedule(f"x{number}", 0)
        if number % 2:
            bench.service.closed(f"x{number}", 0)
    assert bench.views() == []


def test_a_coproc_that_goes_while_accounts_are_listed_is_left_out() -> None:
    bench = Bench()
    for name in ("dsp0", "dsp1", "dsp2"):
        bench.set(name)

    class Loop:
        """The loop's thread, on which dsp1 is removed after the first account."""

        calls = 0

        def call(self, act: Callable[[], Any]) -> Any:
            self.calls += 1
            if self.calls == 3:
                bench.service.remove_coproc("dsp1", 0)
            return act()

    control = SchedulerControl(cast(Any, Loop()), bench.service, cast(Any, None), cast(Any, None))
    answer = control.ListAccounts(control_pb2.ListAccountsRequest(), cast(Any, None))
    assert [each.coproc for each in answer.coprocs] == ["dsp0", "dsp2"]


def test_what_a_removed_coproc_still_says_is_nothing_to_the_next_of_its_name() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.service.add_vcoproc("dsp0", 1, {}, 0)
    bench.online("dsp0", 1)
    bench.sent.clear()
    bench.service.remove_coproc("dsp0", 0)
    bench.service.received("dsp0", Wake(1, 0, False), 0)
    bench.set("dsp0")
    bench.service.add_vcoproc("dsp0", 2, {}, 0)
    assert bench.sent == [], "the session is of a coproc that is no more"
    bench.service.closed("dsp0", 0)
    bench.online("dsp0", 2)
    assert [type(message) for _, message in bench.sent] == [Grant]
    [view] = bench.views()
    assert [each.vcoproc for each in view.vcoprocs] == [2]


def test_defaults_and_bounds_of_a_coproc() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.online("dsp0", 1)
    bench.service.add_vcoproc("dsp0", 1, {}, 0)
    assert bench.sent == [("dsp0", Grant(1, 1, SLICE_NS_DEFAULT, True, SWITCH_DEADLINE_NS))]
    for wrong in ({"slice_ns": 1}, {"slice_ns": 2**63}, {"refusal_ns": SWITCH_DEADLINE_NS + 1}):
        with pytest.raises(InvalidArgument):
            bench.set("dsp1", **wrong)
    for name in ("", "x" * 64):
        with pytest.raises(InvalidArgument):
            bench.set(name)
    with pytest.raises(NotFound):
        bench.set("dsp1", "edf2")
    assert [view.coproc for view in bench.views()] == ["dsp0"], "refusals left nothing"


class Other(RoundRobin):
    PARAMETERS = (
        Parameter("slice_us", Scope.VCOPROC, "us", 0, 1000, 0, ""),
        Parameter("depth", Scope.COPROC, "", 0, 9, 3, ""),
    )


def test_another_algorithm_takes_over_and_what_is_lost_is_said() -> None:
    bench = Bench({"rr": RoundRobin, "other": Other})
    first = SetAlgorithm("other", 0, 0, {"depth": 5, "min_run_us": 7})
    assert bench.service.set_coproc("dsp0", first, 0) == ()
    bench.service.add_vcoproc("dsp0", 1, {"slice_us": 700}, 0)
    swap = SetAlgorithm("rr", 0, 0, {}, keep=True)
    assert bench.service.set_coproc("dsp0", swap, 0) == (LostParameter(0, "depth", 5),)
    assert bench.service.set_coproc("dsp0", swap, 0) == (), "idempotent"
    view = bench.service.schedule("dsp0", 0)
    assert view.wanted.algorithm == view.coproc.algorithm == "rr"
    assert view.wanted.parameters == {"min_run_us": 7}
    assert view.parameters == {1: {"slice_us": 700}}
    assert bench.service.set_vcoproc_parameters("dsp0", 1, {"slice_us": 5000}, 0) == {
        "slice_us": 5000
    }
    back = SetAlgorithm("other", 2 * MS, 0, {"depth": 1})
    assert bench.service.set_coproc("dsp0", back, 0) == (LostParameter(1, "slice_us", 5000),)
    view = bench.service.schedule("dsp0", 0)
    assert view.parameters == {1: {"slice_us": 0}}, "it was out of range"
    assert view.wanted.parameters == {"min_run_us": 0, "depth": 1}, "not kept: not asked for"
    keep = SetAlgorithm("other", 0, 0, {}, keep=True)
    bench.service.set_coproc("dsp0", keep, 0)
    view = bench.service.schedule("dsp0", 0)
    assert (view.wanted.slice_ns, view.wanted.parameters["depth"]) == (2 * MS, 1)


def test_parameters_of_a_vcoproc_that_is_not_there() -> None:
    bench = Bench()
    bench.set("dsp0")
    for coproc, vcoproc in (("dsp0", 1), ("dsp9", 1)):
        with pytest.raises(NotFound):
            bench.service.set_vcoproc_parameters(coproc, vcoproc, {}, 0)
    bench.service.add_vcoproc("dsp0", 1, {}, 0)
    with pytest.raises(InvalidArgument, match="weight"):
        bench.service.set_vcoproc_parameters("dsp0", 1, {"weight": 3}, 0)
    with pytest.raises(InvalidArgument, match="min_run_us"):
        too_long = SetAlgorithm("rr", 0, 0, {"min_run_us": 500_001})
        bench.service.set_coproc("dsp0", too_long, 0)


class Broken(RoundRobin):
    def pick(self, now_ns: int, current: int | None) -> Decision:
        raise RuntimeError("out of ideas")


def test_a_failing_algorithm_of_one_coproc_leaves_the_others_alone() -> None:
    """Xen once had state shared between two pools."""
    bench = Bench({"rr": RoundRobin, "broken": Broken, "other": Other})
    for coproc, algorithm in (("dsp0", "other"), ("dsp1", "broken"), ("dsp2", "broken")):
        bench.set(coproc, algorithm)
        bench.service.add_vcoproc(coproc, 1, {}, 0)
    bench.online("dsp0", 1)
    bench.online("dsp1", 1)
    assert [notice.coproc for notice in bench.fallbacks] == ["dsp1"]
    assert bench.changes > 0
    algorithms = [view.algorithm for view in bench.views()]
    assert algorithms == ["other", "rr", "broken"]
    ((notice, count),) = bench.service.fallbacks()
    assert (notice.why, count) == ("pick raised RuntimeError: out of ideas", 1)
    assert [coproc for coproc, message in bench.sent if isinstance(message, Grant)] == [
        "dsp0",
        "dsp1",
    ]
    again = SetAlgorithm("broken", 0, 0, {}, restart=True)
    bench.service.set_coproc("dsp1", again, 0)
    assert bench.service.fallbacks()[0][1] == 2, "it was tried again"


def test_two_coprocs_with_one_algorithm_share_nothing() -> None:
    """Xen's d0561ac8: static state of an algorithm was shared between two pools."""
    bench = Bench()
    for coproc in ("dsp0", "dsp1"):
        bench.set(coproc)
        bench.service.add_vcoproc(coproc, 1, {"slice_us": 700 if coproc == "dsp0" else 900}, 0)
        bench.online(coproc, 1)
    assert [message.slice_ns for _, message in bench.sent if isinstance(message, Grant)] == [
        700_000,
        900_000,
    ]
    bench.service.set_coproc("dsp0", SetAlgorithm("rr", 1 * MS, 0, {}), 0)
    bench.service.remove_vcoproc("dsp0", 1, 0)
    view = bench.service.schedule("dsp1", 0)
    assert view.wanted.slice_ns == SLICE_NS_DEFAULT
    assert view.parameters == {1: {"slice_us": 900}}


def test_decisions_are_numbered_and_can_be_followed() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.online("dsp0", 1, 2)
    assert bench.service.decisions("dsp0", 0) == ([], 0)
    for vcoproc in (1, 2):
        bench.service.add_vcoproc("dsp0", vcoproc, {}, 0)
    (idle,), last = bench.service.decisions("dsp0", 0)
    assert (idle.why, idle.vcoproc, idle.current, last) == (Why.IDLE, 1, 0, 1)
    assert (idle.planned_ns, idle.grant, idle.algorithm) == (SLICE_NS_DEFAULT, 1, "rr")
    current = 0
    for turn in range(1, 5001):
        following = 1 if current != 1 else 2
        report = Report(
            turn - 1, current, turn, following, EndReason.SLICE, current != 0, MS, MS, 0, 0, False,
            0, 0, 0, 0, turn * MS, turn * MS,
        )  # fmt: skip
        bench.service.received("dsp0", report, turn * MS)
        current = following
    decisions, last = bench.service.decisions("dsp0", 0)
    assert (len(decisions), last) == (4096, 5001), "the newest are kept"
    assert [each.number for each in decisions] == list(range(906, 5002))
    assert decisions[-1].why is Why.SLICE and decisions[-1].clock_ns == 5000 * MS
    assert [each.number for each in bench.service.decisions("dsp0", 4999)[0]] == [5000, 5001]
    assert [each.number for each in bench.service.decisions("dsp0", 0, 2)[0]] == [906, 907]
    assert bench.service.decisions("dsp0", 9999) == ([], 5001)


def test_removing_what_is_not_there_succeeds() -> None:
    bench = Bench()
    bench.service.remove_vcoproc("nowhere", 1, 0)
    bench.set("dsp0")
    bench.service.remove_vcoproc("dsp0", 1, 0)
    with pytest.raises(InvalidArgument):
        bench.service.add_vcoproc("dsp0", 0, {}, 0)


def test_turns_are_listed_from_a_time_on() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.online("dsp0", 1, 2)
    for vcoproc in (1, 2):
        bench.service.add_vcoproc("dsp0", vcoproc, {}, 0)
    current = 0
    for turn in range(1, 5001):
        following = 1 + turn % 2
        at_ns = turn * MS
        report = Report(
            turn - 1, current, turn, following, EndReason.SLICE, current != 0, MS, MS, 0, 0, False,
            0, 0, 0, 0, at_ns, at_ns,
        )  # fmt: skip
        bench.service.received("dsp0", report, at_ns)
        current = following
    turns = bench.service.turns("dsp0", 0)
    assert len(turns) == 4096, "the newest are kept"
    assert [turn.began_ns for turn in turns] == [number * MS for number in range(904, 5000)]
    assert [turn.began_ns for turn in bench.service.turns("dsp0", 4997 * MS)] == [
        4998 * MS,
        4999 * MS,
    ]
    with pytest.raises(NotFound):
        bench.service.turns("dsp9", 0)


@pytest.mark.parametrize(
    ("bound_ns", "in_ns"), [(100 * US, SWITCH_IN_NS_MIN), (20 * MS, 20 * MS), (0, 500 * MS)]
)
def test_an_analysis_reckons_with_both_refusals_of_a_turn(bound_ns: int, in_ns: int) -> None:
    """The others are taken in late, and leave late."""
    bench = Bench()
    bench.set("dsp0", refusal_ns=bound_ns)
    for vcoproc in (1, 2, 3):
        bench.service.add_vcoproc("dsp0", vcoproc, {}, 0)
    out_ns = bound_ns or SWITCH_DEADLINE_NS
    question, found = bench.service.analyse("dsp0", 0)
    assert (question.refusal_ns, question.switch_in_refusal_ns) == (out_ns + in_ns, in_ns)
    want_ns = 2 * SLICE_NS_DEFAULT + 3 * (out_ns + in_ns)
    assert {each.bounds.wait_ns for each in found} == {want_ns}
    question, found = bench.service.analyse("dsp0", 0, refusal_ns=7 * US, switch_ns=5 * US)
    assert (question.refusal_ns, question.switch_in_refusal_ns) == (14 * US, 7 * US)
    assert found[0].bounds.wait_ns == 2 * SLICE_NS_DEFAULT + 3 * 19 * US


def test_a_message_of_another_link_is_a_protocol_error() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.online("dsp0")
    with pytest.raises(RemoteProtocolError, match="Eoi"):
        bench.service.received("dsp0", Eoi(5), 0)
