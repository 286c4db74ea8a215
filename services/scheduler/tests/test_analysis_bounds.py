"""The analysis of guarantees: by hand, and never less than what is observed on virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest
from decision_loop import DecisionLoop, Task

from vcoproc.errors import RequestError
from vcoproc.limits import MS, US
from vcoproc_scheduler.analysis import PPM, Bounds, Guarantee, Member, Question, analyse
from vcoproc_scheduler.policies.api import Policy, PolicyConfig, Scope, resolve_parameters
from vcoproc_scheduler.policies.loader import load_catalogue

CATALOGUE = load_catalogue(())
SLICE_NS = 5 * MS


def ask(
    algorithm: str,
    *vcoprocs: Mapping[str, int],
    coproc: Mapping[str, int] | None = None,
    work_ns: int = MS,
    switch_ns: int = 0,
    refusal_ns: int = 0,
) -> list[Bounds]:
    """Vcoprocs count from 1."""
    known = CATALOGUE.policy_class(algorithm).PARAMETERS
    members = {
        number: Member(resolve_parameters(known, Scope.VCOPROC, given), work_ns)
        for number, given in enumerate(vcoprocs, 1)
    }
    parameters = resolve_parameters(known, Scope.COPROC, coproc or {})
    question = Question(algorithm, SLICE_NS, parameters, members, switch_ns, refusal_ns)
    return [each.bounds for each in analyse(question)]


# --- by hand --------------------------------------------------------------------------------------


def test_rr() -> None:
    # Two others, of 5 and 2 ms; three switches of 0.1 ms and refusals of 0.2 ms.
    bounds = ask("rr", {}, {}, {"slice_us": 2000}, switch_ns=100 * US, refusal_ns=200 * US)
    assert bounds[0] == Bounds(PPM * 50 // 129, 7900 * US, 8900 * US)
    assert bounds[2].wait_ns == 10_900 * US
    # 12 ms of work in turns of 5 ms: three waits.
    assert ask("rr", {}, {}, work_ns=12 * MS)[0].response_ns == 27 * MS
    assert ask("rr", {})[0] == Bounds(PPM, 0, MS)


def test_null_waits_until_it_is_taken_in() -> None:
    question = Question("null", SLICE_NS, {}, {1: Member({})}, 100 * US, 700 * US, 400 * US)
    assert [each.bounds for each in analyse(question)] == [Bounds(PPM, 500 * US, 1500 * US)]


def test_edf() -> None:
    # 4 ms in 10 ms, at worst at 0 to 4 and 16 to 20 ms: 12 ms of nothing between.
    bounds = ask("edf", {"extratime": 0}, {"extratime": 0}, work_ns=5 * MS)
    assert bounds[0] == Bounds(400_000, 12 * MS, 23 * MS)  # 4 ms until 16, then at 22 to 23


def test_edf_promises_nothing_that_it_did_not_reckon_with() -> None:
    (bounds,) = ask("edf", {}, switch_ns=50 * US)
    assert bounds.wait_ns is None
    assert "switch_cost_us below 50" in bounds.note
    (bounds,) = ask("edf", {}, coproc={"switch_cost_us": 50}, switch_ns=50 * US, refusal_ns=1)
    assert "refusal_us below 1" in bounds.note
    for bounds in ask("edf", {}, {}, {}):
        assert bounds.share_ppm is None
        assert "more than there is" in bounds.note


def test_the_least_time_of_a_turn_is_reckoned_with() -> None:
    def bounds(algorithm: str, given: Mapping[str, int], min_run_us: int) -> Bounds:
        known = CATALOGUE.policy_class(algorithm).PARAMETERS
        members = {each: Member(resolve_parameters(known, Scope.VCOPROC, given)) for each in (1, 2)}
        parameters = resolve_parameters(known, Scope.COPROC, {}) | {"min_run_us": min_run_us}
        return analyse(Question(algorithm, SLICE_NS, parameters, members, 0, 0))[0].bounds

    edf = {"budget_us": 2000}
    assert [bounds("edf", edf, each).wait_ns for each in (0, 1000)] == [16 * MS, 18 * MS]
    assert "more than there is" in bounds("edf", edf, 4000).note
    fixed = {"share_permille": 450}
    waits_ns = [bounds("fixed", fixed, each).wait_ns for each in (0, 2000)]
    assert waits_ns == [110_200 * US, 114_200 * US]
    # Never beyond its slice.
    assert bounds("fixed", fixed, 400_000) == bounds("fixed", fixed, 5000)


def test_arinc653() -> None:
    one = {"window_us": 2000, "start2_us": 5000, "window2_us": 1000}
    two = {"window_start_us": 2000, "window_us": 3000}
    coproc = {"major_frame_us": 10_000}
    bounds = ask("arinc653", one, two, coproc=coproc)
    # From 6 to 10 ms nothing; and a wake less than 100 us before 6 ms waits too.
    assert bounds[0] == Bounds(300_000, 4100 * US, 5100 * US)
    assert bounds[1] == Bounds(300_000, 7100 * US, 8100 * US)
    # 7 ms of work, 3 ms in each frame: two frames, and 1 ms more from the worst moment.
    assert ask("arinc653", one, two, coproc=coproc, work_ns=7 * MS)[0].response_ns == 25_100 * US
    late = ask("arinc653", one, two, coproc=coproc, switch_ns=200 * US, refusal_ns=300 * US)
    assert late[1] == Bounds(250_000, 8 * MS, 9 * MS)
    assert ask("arinc653", one, {}, coproc=coproc)[1].share_ppm == 0


def test_fixed_and_null() -> None:
    fixed = ask("fixed", {"share_permille": 500}, {"share_permille": 300}, refusal_ns=300 * MS)
    assert fixed[0].wait_ns is None and "long run" in fixed[0].note
    assert ask("null", {}, switch_ns=50) == [Bounds(PPM, 50, MS + 50)]


def test_credit() -> None:
    """More of it in ``test_credit_bounds.py``."""
    bounds = ask("credit", {"weight": 512}, {}, {"cap": 10})
    assert [each.share_ppm for each in bounds] == [500_000, 250_000, 100_000]
    # Its debt of a slice and half a turn, of which the others make half each, and their turns.
    assert bounds[0] == Bounds(500_000, 25 * MS, 26 * MS)
    # And 27 ms until its cap of 3 ms allows it again, and no grant for less than 100 us.
    assert bounds[2].wait_ns == ask("credit", {"weight": 512}, {}, {})[2].wait_ns + 27_100 * US
    # A turn of 5 ms takes 6 with its switch and its refusal.
    lossy = ask("credit", {}, {}, switch_ns=400 * US, refusal_ns=600 * US)[0]
    assert lossy == Bounds(PPM * 5 // 12, 23 * MS, 24 * MS)
    # A cap that is shorter than a refusal has many periods to pay for it, but still a bound.
    refusing = ask("credit", {"cap": 1}, {}, refusal_ns=30 * MS)[0]
    assert refusing.wait_ns is not None and refusing.response_ns is not None
    assert 101 * 29_700 * US < refusing.wait_ns < refusing.response_ns


def test_an_algorithm_of_others_has_no_bounds() -> None:
    question = Question("theirs", SLICE_NS, {}, {1: Member({})}, 0, 0)
    (guarantee,) = analyse(question)
    assert guarantee.bounds.wait_ns is None
    assert guarantee.kept is None
    assert "theirs" in guarantee.bounds.note


def test_what_was_observed_is_compared() -> None:
    for waited_ns, responded_ns, bounds, kept in (
        (100, 0, Bounds(wait_ns=100), True),
        (101, 0, Bounds(wait_ns=100), False),
        (100, 200, Bounds(wait_ns=100, response_ns=200), True),
        (100, 201, Bounds(wait_ns=100, response_ns=200), False),
        (100, 201, Bounds(wait_ns=100), True),
        (100, 200, Bounds(), None),
    ):
        assert Guarantee(1, bounds, 0, waited_ns, responded_ns).kept is kept


# --- against what happens -------------------------------------------------------------------------


def vcoproc_parameters(algorithm: str, random: Random, number: int) -> dict[str, int]:
    if algorithm == "rr":
        return {"slice_us": random.choice((0, 500, 2000, 7000))}
    if algorithm == "priority":
        return {"priority": random.randint(0, 3)}
    if algorithm == "fixed":
        return {"share_permille": random.randint(100, 400)}
    if algorithm == "credit":
        return {"weight": random.choice((64, 256, 1024)), "cap": random.choice((0, 0, 0, 30))}
    if algorithm == "edf":
        period_us = random.choice((2000, 5000, 8000, 10_000, 20_000))
        budget_us = random.randint(200, period_us // 2)
        return {"period_us": period_us, "budget_us": budget_us, "extratime": random.randint(0, 1)}
    if algorithm == "arinc653":
        given = {"window_start_us": 4000 * number, "window_us": random.randint(800, 1900)}
        if random.random() < 0.5:
            start_us = 4000 * number + random.randint(2000, 2500)
            given |= {"start2_us": start_us, "window2_us": random.randint(800, 1500)}
        return given
    return {}


def random_scene(algorithm: str, seed: int) -> tuple[Policy, Question, list[Task], int]:
    random = Random(seed)
    switch_us = random.choice((0, 20, 100))
    refusal_us = random.choice((0, 0, 150)) if switch_us else 0
    refusal_in_us = random.choice((0, 0, 250)) if switch_us else 0
    coproc: dict[str, int] = {}
    if algorithm == "edf":
        coproc = {"switch_cost_us": switch_us, "refusal_us": refusal_us + refusal_in_us}
    elif algorithm == "arinc653":
        coproc = {"major_frame_us": 20_000}
    elif algorithm == "priority":
        coproc = {"max_wait_us": random.choice((1000, 20_000, 100_000))}
    elif algorithm == "fixed":
        coproc = {"period_us": random.choice((20_000, 50_000))}
    policy_class = CATALOGUE.policy_class(algorithm)
    parameters = resolve_parameters(policy_class.PARAMETERS, Scope.COPROC, coproc)
    policy = policy_class()
    policy.init(PolicyConfig(SLICE_NS, parameters))
    members: dict[int, Member] = {}
    tasks = []
    for number in range(random.randint(2, 5)):
        given = vcoproc_parameters(algorithm, random, number)
        values = resolve_parameters(policy_class.PARAMETERS, Scope.VCOPROC, given)
        vcoproc = number + 1
        try:
            policy.admit(vcoproc, values)
        except RequestError:
            continue
        policy.add(vcoproc, values)
        # As the bound of edf presumes: one wake in a period.
        gap_ns = values.get("period_us", random.randint(100, 40_000)) * US
        work_ns = random.randint(1, 3000) * US
        refuses_in_ns = (random.randint(0, refusal_in_us) * US, 0, refusal_in_us * US)
        if random.random() < 0.4:
            first_ns = random.randrange(20 * MS)
            tasks.append(Task(vcoproc, first_ns=first_ns, refuses_in_ns=refuses_in_ns))
        else:
            gaps_ns = tuple(random.randrange(20 * MS) for _ in range(5))
            # Not before the one before is done: then it would not be a wake.
            period_ns = max(gap_ns, 400 * MS)
            refuses_ns = (0, random.randint(0, refusal_us) * US)
            tasks.append(
                Task(
                    vcoproc,
                    work_ns,
                    period_ns,
                    first_ns=random.randrange(20 * MS),
                    gaps_ns=gaps_ns,
                    refuses_ns=refuses_ns,
                    refuses_in_ns=refuses_in_ns,
                )
            )
        members[vcoproc] = Member(values, work_ns)
    refusal_ns = (refusal_us + refusal_in_us) * US
    question = Question(algorithm, SLICE_NS, parameters, members, switch_us * US, refusal_ns)
    return policy, question, tasks, switch_us * US


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rr", "priority", "edf", "arinc653", "fixed", "credit"])
def test_what_is_observed_is_never_beyond_the_bound(algorithm: str) -> None:
    bounded = closest = 0
    for seed in range(60):
        policy, question, tasks, switch_ns = random_scene(algorithm, seed)
        loop = DecisionLoop(policy, tasks, switch_ns=switch_ns)
        loop.run(2_000 * MS)
        for guarantee in analyse(question):
            bounds, task = guarantee.bounds, loop.tasks[guarantee.vcoproc]
            where = f"seed {seed}: vcoproc {task.id} of {question}"
            if bounds.wait_ns is None or bounds.response_ns is None:
                continue
            bounded += 1
            assert task.wait_ns_max <= bounds.wait_ns, where
            if task.done:
                assert task.responses_ns <= bounds.response_ns, where
            closest = max(closest, 100 * task.wait_ns_max // max(1, bounds.wait_ns))
    assert bounded > 60
    assert closest >= 25, "the bounds say nothing"
