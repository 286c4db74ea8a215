"""``credit``, ``fixed``, ``priority`` and ``null`` with the core, a link and the model executor."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from policy_machine import jain
from scheduler_executor_model import Costs
from scheduler_rig import SLICE_NS, Rig

from vcoproc.errors import RequestError
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US, S
from vcoproc.testing.network import Faults
from vcoproc_scheduler.events import AddVcoproc, SetAlgorithm

LINK = Faults(delay_ns=(20 * US, 80 * US))
REFUSING = Costs(refuse_ns=(0, 300 * US))


def algorithm(name: str, parameters: Mapping[str, int] | None = None) -> SetAlgorithm:
    return SetAlgorithm(name, SLICE_NS, SWITCH_DEADLINE_NS, parameters or {})


def rig_of(
    name: str,
    *vcoprocs: Mapping[str, int],
    parameters: Mapping[str, int] | None = None,
    costs: Costs | None = None,
    work_ns: int | None = None,
) -> Rig:
    rig = Rig(3, faults=LINK, costs=costs, algorithm=algorithm(name, parameters))
    for vcoproc, values in enumerate(vcoprocs, 1):
        rig.step(AddVcoproc(vcoproc, values))
        rig.executor.attach(vcoproc)
        rig.executor.work(vcoproc, work_ns)
    return rig


def ran(rig: Rig) -> list[int]:
    return [rig.executor.guests[vcoproc].run_ns for vcoproc in sorted(rig.executor.guests)]


@pytest.mark.parametrize("name", ["credit", "fixed", "priority"])
def test_equals_share_equally(name: str) -> None:
    rig = rig_of(name, {}, {}, {}, {}, {}, costs=REFUSING)
    rig.clock.advance(10 * S)
    assert jain(ran(rig)) >= 0.999
    assert not rig.fallbacks


def test_credit_keeps_the_proportion_of_weights() -> None:
    """Share error at most 0.1 % plus one slice: of the time that each takes from the others."""
    weights = (128, 256, 512, 1024)
    rig = rig_of("credit", *({"weight": weight} for weight in weights))
    rig.clock.advance(20 * S)
    accounts = [each.account for each in rig.core.view(rig.clock.now_ns).vcoprocs]
    used = [each.run_ns + each.switch_ns + each.refused_ns for each in accounts]
    for used_ns, weight in zip(used, weights, strict=True):
        due_ns = sum(used) * weight // sum(weights)
        assert abs(used_ns - due_ns) <= sum(used) // 1000 + SLICE_NS
    assert sum(used) >= 20 * S - 1 * MS


@pytest.mark.parametrize("cap", [10, 50, 90])
def test_credit_caps_one_that_is_alone(cap: int) -> None:
    rig = rig_of("credit", {"cap": cap})
    rig.clock.advance(10 * S)
    assert ran(rig)[0] / (10 * S) == pytest.approx(cap / 100, rel=0.02)
    assert rig.vacates and not rig.fallbacks


def test_credit_caps_one_among_others() -> None:
    rig = rig_of("credit", {"cap": 20}, {}, {}, costs=REFUSING)
    rig.clock.advance(10 * S)
    # What it takes from the others; its own part of that is less by its refusals and switches.
    account = rig.core.view(rig.clock.now_ns).vcoprocs[0].account
    used_ns = account.run_ns + account.refused_ns + account.switch_ns
    assert 10 * S * 199 // 1000 <= used_ns <= 10 * S * 20 // 100 + 2 * SLICE_NS
    capped, *others = ran(rig)
    assert capped >= 10 * S * 18 // 100
    assert jain(others) >= 0.999


def test_fixed_keeps_shares_whoever_else_runs() -> None:
    """Within 0.1 % plus one slice, beginning anywhere in a period."""
    for shares in ((250, 600), (250,), (100, 200, 700)):
        rig = rig_of("fixed", *({"share_permille": share} for share in shares))
        rig.clock.advance(1 * S)
        before = rig.core.view(rig.clock.now_ns)
        rig.clock.advance(10 * S)
        after = rig.core.view(rig.clock.now_ns)
        for then, now, share in zip(before.vcoprocs, after.vcoprocs, shares, strict=True):
            used_ns = now.account.run_ns + now.account.switch_ns
            used_ns -= then.account.run_ns + then.account.switch_ns
            assert abs(used_ns - 10 * S * share // 1000) <= 10 * S // 1000 + SLICE_NS


def test_priority_is_strict_and_nobody_starves() -> None:
    rig = rig_of(
        "priority", {"priority": 200}, {"priority": 0}, parameters={"max_wait_us": 100_000}
    )
    rig.clock.advance(10 * S)
    high, low = ran(rig)
    assert low / (high + low) == pytest.approx(5 / 105, rel=0.1)
    assert max(turn.ended_ns - turn.began_ns for turn in rig.turns) <= SLICE_NS + 200 * US


def test_priority_serves_a_wake_at_once() -> None:
    rig = rig_of("priority", {"priority": 1}, {"priority": 2}, work_ns=0)
    rig.executor.work(1, None)
    rig.clock.advance(1 * MS)
    rig.executor.work(2, 1 * MS)
    rig.clock.advance(1 * MS + 300 * US)  # two messages and a switch
    assert rig.executor.guests[2].run_ns == 1 * MS


def test_null_never_switches() -> None:
    rig = rig_of("null", {})
    rig.clock.advance(10 * S)
    assert len(rig.grants) == 1
    with pytest.raises(RequestError, match="algorithm null, which vcoproc 1 has"):
        rig.step(AddVcoproc(2, {}))


@pytest.mark.parametrize("name", ["credit", "fixed", "priority", "null"])
def test_no_work_is_lost_and_then_there_is_rest(name: str) -> None:
    count = 1 if name == "null" else 4
    rig = rig_of(name, *[{}] * count, costs=REFUSING, work_ns=0)
    for round_ in range(200):
        rig.executor.work(1 + round_ % count, (1 + round_ % 7) * MS // 4)
        if round_ % 9 == 0:
            rig.executor.yield_()
        rig.clock.advance((1 + round_ % 11) * MS // 3)
    rig.clock.advance(20 * S)
    assert all(guest.work_ns == 0 for guest in rig.executor.guests.values())
    events = rig.events
    rig.clock.advance(10 * S)
    assert rig.events == events, "an idle scheduler is woken by nothing"


def test_no_weight_is_lost_in_silence_when_the_algorithm_changes() -> None:
    """Qubes 10778: it was, when the default algorithm changed."""
    rig = rig_of("credit", {"weight": 768}, {"weight": 256})
    rig.clock.advance(1 * S)
    rig.step(algorithm("credit", {"cap_period_us": 50_000}))
    before = ran(rig)
    rig.clock.advance(4 * S)
    first, second = (now - then for now, then in zip(ran(rig), before, strict=True))
    assert first / (first + second) == pytest.approx(0.75, abs=0.003)
    assert not rig.lost
    rig.step(algorithm("rr"))
    assert {(each.vcoproc, each.name, each.value) for each in rig.lost} >= {(1, "weight", 768)}
