"""Many coprocs in one scheduler: what control asks of all of them."""

from __future__ import annotations

import pytest
from scheduler_rig import CATALOGUE, SLICE_NS

from vcoproc.errors import (
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RemoteProtocolError,
    WrongState,
)
from vcoproc.limits import COPROCS_MAX, MS, SLICE_NS_DEFAULT, SWITCH_DEADLINE_NS
from vcoproc.wire.messages import EndReason, Eoi, Grant, Message, Register, Report, Wake
from vcoproc_scheduler.events import SetAlgorithm
from vcoproc_scheduler.service import SchedulerService


class Bench:
    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.service = SchedulerService(
            CATALOGUE, lambda coproc, message: self.sent.append((coproc, message)), validate=True
        )

    def set(
        self, coproc: str, algorithm: str = "rr", slice_ns: int = 0, refusal_ns: int = 0
    ) -> None:
        self.service.set_coproc(coproc, SetAlgorithm(algorithm, slice_ns, refusal_ns, {}), 0)

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
    views = {view.coproc: view for view in bench.service.views(0)}
    assert [each.vcoproc for each in views["dsp0"].vcoprocs] == [1]
    assert bench.service.next_deadline_ns() is None, "round robin needs no timer"


def test_a_register_is_kept_until_control_sets_the_coproc() -> None:
    bench = Bench()
    bench.online("dsp0", 7)
    assert bench.service.views(0) == []
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
    assert [view.coproc for view in bench.service.views(0)] == ["dsp0"], "refusals left nothing"


def test_another_algorithm_is_refused() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.set("dsp0")
    core = bench.service._cores["dsp0"]
    core._policy.algorithm = SetAlgorithm("other", SLICE_NS, 0, {})
    with pytest.raises(WrongState, match="scheduled by other"):
        bench.set("dsp0")


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


def test_a_message_of_another_link_is_a_protocol_error() -> None:
    bench = Bench()
    bench.set("dsp0")
    bench.online("dsp0")
    with pytest.raises(RemoteProtocolError, match="Eoi"):
        bench.service.received("dsp0", Eoi(5), 0)
