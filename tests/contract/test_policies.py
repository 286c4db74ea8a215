"""What every scheduling algorithm must keep, ours or not: each installed one goes through all this.

Everything is derived from what an algorithm says about itself: it is run with the defaults of its
PARAMETERS and with as many vcoprocs as it admits. To check one of another distribution, install it
and run this file with ``-k its-name``.
"""

from __future__ import annotations

import inspect
import pickle
from random import Random

import pytest
from policy_machine import Guest, PolicyMachine, lines_of

from vcoproc.errors import InvalidArgument, RequestError
from vcoproc.limits import MS, SLICE_NS_MAX, SLICE_NS_MIN, US, S
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    resolve_parameters,
)
from vcoproc_scheduler.policies.loader import BUILT_IN, check_policy, load_catalogue

CATALOGUE = load_catalogue()
GUESTS_MAX = 5
HORIZON_NS = 4 * S
UNITS = {"", "ns", "us", "ms", "%", "permille"}

pytestmark = pytest.mark.parametrize("name", CATALOGUE.names)


def make(name: str) -> Policy:
    return CATALOGUE.policy_class(name)()


def fill(machine: PolicyMachine, count: int = GUESTS_MAX) -> list[Guest]:
    """Adds vcoprocs with default parameters until one is refused."""
    added = []
    for vcoproc_id in range(1, count + 1):
        try:
            added.append(machine.add(vcoproc_id))
        except RequestError:
            break
    assert added, "with its defaults, it takes not even one"
    return added


def started(name: str, *, switch_ns: int = 20 * US, count: int = GUESTS_MAX) -> PolicyMachine:
    machine = PolicyMachine(make(name), switch_ns=switch_ns)
    fill(machine, count)
    return machine


def log(machine: PolicyMachine) -> list[tuple[int, int, int, int]]:
    return [(turn.id, turn.began_ns, turn.ended_ns, turn.planned_ns) for turn in machine.turns]


def live(machine: PolicyMachine, seed: int, steps: int = 150) -> None:
    """A random life. The same from the same seed, whatever the policy does."""
    random = Random(seed)
    refusals = Random(seed + 1)
    machine.refuse_ns = lambda guest: refusals.choice((0, 0, 0, 50 * US, 30 * MS))
    machine.refuse_in_ns = lambda guest: refusals.choice((0, 0, 0, 50 * US, 30 * MS, 80 * MS))
    for _ in range(steps):
        vcoproc_id = random.randint(1, GUESTS_MAX)
        what = random.random()
        here = vcoproc_id in machine.guests
        work_ns = random.choice((1 * US, 300 * US, 7 * MS, 100 * MS))
        passes_ns = random.choice((0, 10 * US, 1 * MS, 13 * MS, 150 * MS))
        if what < 0.6 and here:
            machine.work(vcoproc_id, work_ns)
        elif what < 0.7:
            machine.yield_()
        elif what < 0.8 and here:
            machine.remove(vcoproc_id)
        elif what < 0.85 and here:
            machine.change(vcoproc_id)
        elif what < 0.98 and not here:
            try:
                machine.add(vcoproc_id)
            except RequestError:
                assert machine.guests, "refused although it has nobody"
        elif what >= 0.98:
            machine.run(3600 * S)  # a long time is nothing special
        machine.run(passes_ns)


# --- what it says about itself --------------------------------------------------------------------


def test_it_is_complete_and_described(name: str) -> None:
    cls = CATALOGUE.policy_class(name)
    check_policy(name, cls)
    module = inspect.getmodule(cls)
    assert module is not None
    assert module.__doc__ and f"``{name}``" in module.__doc__, "its header does not name it"
    for each in cls.PARAMETERS:
        assert each.doc.strip(), f"{each.name} is not explained"
        assert each.unit in UNITS, f"{each.name}: unit {each.unit!r}"
        assert each.name.isidentifier() and each.name == each.name.lower()
        for unit in ("ns", "us", "ms"):
            assert each.name.endswith(f"_{unit}") == (each.unit == unit), f"{each.name}: unit"


@pytest.mark.parametrize("scope", Scope)
def test_domain_wide_parameters_are_validated_like_single_ones(name: str, scope: Scope) -> None:
    """Xen eec1a570: what was checked for one unit was not checked for all of a domain. Here there
    is one check for all scopes; beyond it, `init` and `admit` refuse with an error for operators,
    and what they take works."""
    cls = CATALOGUE.policy_class(name)
    for each in cls.PARAMETERS:
        if each.scope is not scope:
            continue
        for value in (each.minimum - 1, each.maximum + 1):
            with pytest.raises(InvalidArgument, match=each.name):
                resolve_parameters(cls.PARAMETERS, scope, {each.name: value})
        for value in (each.minimum, each.maximum):
            try_extreme(name, each, value)


def try_extreme(name: str, parameter: Parameter, value: int) -> None:
    given = {parameter.name: value}
    machine = None
    try:
        if parameter.scope is Scope.COPROC:
            machine = PolicyMachine(make(name), parameters=given)
            for vcoproc_id in (1, 2):
                machine.add(vcoproc_id)
        else:
            machine = PolicyMachine(make(name))
            machine.add(1, **given)
    except RequestError:
        pass  # then with those it has taken, if it took the parameter itself
    if machine is None:
        return
    for vcoproc_id in machine.guests:
        machine.work(vcoproc_id, None)
    machine.run(200 * MS)


@pytest.mark.parametrize("slice_ns", [SLICE_NS_MIN, SLICE_NS_MAX])
def test_it_works_with_every_slice(name: str, slice_ns: int) -> None:
    machine = PolicyMachine(make(name), slice_ns=slice_ns)
    for guest in fill(machine):
        machine.work(guest.id, None)
    machine.run(max(50 * MS, 3 * slice_ns))
    assert any(guest.run_ns for guest in machine.guests.values())


def test_a_refusal_changes_nothing(name: str) -> None:
    """And neither does the question: who is refused was never there."""
    asked, other = started(name), started(name)
    cls = type(asked.policy)
    for each in cls.PARAMETERS:
        if each.scope is Scope.VCOPROC:
            for value in (each.minimum, each.maximum):
                values = resolve_parameters(cls.PARAMETERS, Scope.VCOPROC, {each.name: value})
                for vcoproc_id in (1, 99):
                    try:
                        asked.policy.admit(vcoproc_id, values)
                    except RequestError as error:
                        assert str(error)
    for machine in (asked, other):
        for guest in machine.guests.values():
            machine.work(guest.id, None)
        machine.run(300 * MS)
    assert log(asked) == log(other)


# --- decisions ------------------------------------------------------------------------------------


def test_with_nobody_there_is_nothing_to_do(name: str) -> None:
    machine = started(name)
    assert machine.policy.pick(machine.now_ns, None) == NOBODY
    machine.run(10 * S)
    assert not machine.turns
    assert machine.decisions <= 2 + 10 * S // SLICE_NS_MIN


def test_a_wake_with_nobody_running_is_served_in_one_decision(name: str) -> None:
    machine = started(name, count=1)
    machine.work(1, None)
    decision = machine.policy.pick(machine.now_ns, None)
    if decision.vcoproc_id is None:  # withheld: then it says until when
        deadline_ns = machine.policy.next_deadline_ns()
        assert deadline_ns is not None and deadline_ns > machine.now_ns
        machine.run(HORIZON_NS)
        assert machine.guests[1].run_ns
    else:
        assert decision.vcoproc_id == 1


@pytest.mark.parametrize("seed", range(6))
def test_asking_more_often_changes_nothing(name: str, seed: int) -> None:
    """`pick` is a question. Each answer is also checked against what a policy promises."""
    once, often = started(name), started(name)
    once.asks, often.asks = 1, 3
    live(once, seed)
    live(often, seed)
    assert log(once) == log(often)


@pytest.mark.parametrize("seed", range(3))
def test_a_pickled_one_goes_on_as_if_nothing_had_been(name: str, seed: int) -> None:
    plain, pickled = started(name), started(name)
    for machine in (plain, pickled):
        live(machine, seed, steps=60)
    # One that pytest loaded under a name of its own could not be found again by that name.
    pickled.policy = pickle.loads(pickle.dumps(pickled.policy))
    for machine in (plain, pickled):
        live(machine, seed + 100, steps=60)
    assert log(plain) == log(pickled)


def test_state_is_not_shared_between_two_pools(name: str) -> None:
    """Xen d0561ac8: static state of a scheduler was shared between two pools."""
    alone = started(name)
    live(alone, 1)
    first, second = started(name), started(name)
    live(first, 2, steps=40)
    live(second, 1)
    assert log(second) == log(alone)
    third = PolicyMachine(make(name), slice_ns=1 * MS)
    fill(third, 1)
    assert set(third.policy.export_accounting()) <= {1}


# --- nobody is forgotten --------------------------------------------------------------------------


def test_nobody_starves(name: str) -> None:
    machine = started(name)
    for guest in machine.guests.values():
        machine.work(guest.id, None)
    machine.run(HORIZON_NS)
    for guest in machine.guests.values():
        assert guest.run_ns > HORIZON_NS // 200, f"vcoproc {guest.id} of {len(machine.guests)}"


@pytest.mark.parametrize("seed", range(3))
def test_all_work_is_done_in_the_end(name: str, seed: int) -> None:
    machine = started(name)
    random = Random(seed)
    for _ in range(60):
        vcoproc_id = random.choice(list(machine.guests))
        machine.work(vcoproc_id, random.choice((3 * US, 200 * US, 9 * MS)))
        machine.run(random.choice((0, 5 * US, 2 * MS, 40 * MS)))
    machine.run(HORIZON_NS)
    assert {guest.id: guest.work_ns for guest in machine.guests.values()} == dict.fromkeys(
        machine.guests, 0
    )
    machine.run(HORIZON_NS)
    assert machine.policy.pick(machine.now_ns, None) == NOBODY


def test_a_refuser_takes_nobody_out_of_the_game(name: str) -> None:
    machine = started(name)
    machine.refuse_ns = lambda guest: 1 * MS if guest.id == 1 else 0
    for guest in machine.guests.values():
        machine.work(guest.id, None)
    machine.run(HORIZON_NS)
    for guest in machine.guests.values():
        assert guest.run_ns > HORIZON_NS // 500, f"vcoproc {guest.id}"


@pytest.mark.parametrize("refused_ns", [1 * MS, 3 * MS])
def test_one_that_is_refused_at_switch_in_takes_nobody_out_of_the_game(
    name: str, refused_ns: int
) -> None:
    """Taken in late, or never: its turns are given up after 2 ms."""
    machine = started(name)
    machine.bound_ns = 2 * MS
    machine.refuse_in_ns = lambda guest: refused_ns if guest.id == 1 else 0
    for guest in machine.guests.values():
        machine.work(guest.id, None)
    machine.run(HORIZON_NS)
    for guest in machine.guests.values():
        if guest.id == 1 and refused_ns > machine.bound_ns:
            assert not guest.turns
        else:
            assert guest.run_ns > HORIZON_NS // 500, f"vcoproc {guest.id}"


@pytest.mark.parametrize("when", ["running", "waiting", "sleeping"])
def test_one_that_is_removed_is_forgotten(name: str, when: str) -> None:
    machine = started(name)
    awake = [each for each in machine.guests if when != "sleeping" or each != 1]
    for vcoproc_id in awake:
        machine.work(vcoproc_id, None)
    machine.run(12 * MS)
    running = machine.resident.id if machine.resident is not None else 1
    others = [each for each in machine.guests if each != running]
    gone = running if when == "running" or not others else others[0] if when == "waiting" else 1
    machine.remove(gone)
    assert gone not in machine.policy.export_accounting()
    machine.run(1 * S)  # the machine knows nobody of that number any more
    again = machine.add(gone)
    machine.work(gone, None)
    machine.run(HORIZON_NS)
    assert again.run_ns


# --- accounting and change of the algorithm -------------------------------------------------------


def test_run_time_is_carried_over(name: str) -> None:
    machine = started(name)
    for guest in machine.guests.values():
        machine.work(guest.id, 30 * MS)
    machine.run(HORIZON_NS)
    exported = machine.policy.export_accounting()
    assert {key: values["run_ns"] for key, values in exported.items()} == {
        guest.id: guest.run_ns for guest in machine.guests.values()
    }
    other = started(name)
    other.policy.import_accounting(exported)
    for key, values in other.policy.export_accounting().items():
        assert values["run_ns"] == exported[key]["run_ns"]


@pytest.mark.parametrize(
    "values",
    [{}, {"theirs": 1}, {"run_ns": 0, "credit_ns": 10**18}, {"run_ns": 7, "credit_ns": -(10**18)}],
)
def test_whatever_another_one_exports_is_taken(name: str, values: dict[str, int]) -> None:
    """Nobody starves of what another algorithm thought of it, and nobody profits for ever."""
    machine = started(name)
    machine.policy.import_accounting({1: values, 4711: values})
    assert 4711 not in machine.policy.export_accounting()
    for guest in machine.guests.values():
        machine.work(guest.id, None)
    machine.run(HORIZON_NS)
    for guest in machine.guests.values():
        assert guest.run_ns > HORIZON_NS // 500, f"vcoproc {guest.id}"


@pytest.mark.parametrize("other", CATALOGUE.names)
def test_it_takes_over_from_any_other_while_vcoprocs_run(name: str, other: str) -> None:
    count = min(len(started(name).guests), len(started(other).guests))
    machine = started(other, count=count)
    for guest in machine.guests.values():
        machine.work(guest.id, None)
    for turn, next_name in enumerate((name, other) * 4):
        machine.run(37 * MS + turn * 1 * MS)
        before = {guest.id: guest.run_ns for guest in machine.guests.values()}
        machine.swap(make(next_name))
        exported = machine.policy.export_accounting()
        for key, values in exported.items():
            assert values["run_ns"] <= before[key], "run time came from nowhere"
    before = {guest.id: guest.run_ns for guest in machine.guests.values()}
    machine.run(HORIZON_NS)
    assert all(guest.run_ns > before[guest.id] for guest in machine.guests.values()), "one is lost"


# --- cost -----------------------------------------------------------------------------------------


def decision_lines(name: str, count: int) -> int:
    policy = make(name)
    cls = type(policy)
    policy.init(PolicyConfig(1 * MS, resolve_parameters(cls.PARAMETERS, Scope.COPROC, {})))
    # As small as possible, so that many are admitted.
    smallest = {each.name: each.minimum for each in cls.PARAMETERS if each.scope is Scope.VCOPROC}
    values = resolve_parameters(cls.PARAMETERS, Scope.VCOPROC, smallest)
    for vcoproc_id in range(1, count + 1):
        try:
            policy.admit(vcoproc_id, values)
        except RequestError:
            break
        policy.add(vcoproc_id, values)
        policy.wake(vcoproc_id, 1000 * MS)
    costs = []
    for step in range(40):
        now_ns = 1000 * MS + step * 1 * MS
        decision = policy.pick(now_ns, None)
        if decision.vcoproc_id is None:
            continue
        policy.begin(decision.vcoproc_id, now_ns)
        costs.append(lines_of(lambda: policy.pick(now_ns, decision.vcoproc_id)))  # noqa: B023
        policy.sleep(decision.vcoproc_id, now_ns)
        policy.wake(decision.vcoproc_id, now_ns)
    return max(costs, default=0)


def test_a_decision_costs_at_most_log_n(name: str) -> None:
    few, many = decision_lines(name, 32), decision_lines(name, 512)
    # That of another distribution may look at each vcoproc once.
    assert many <= (2 * few if name in BUILT_IN else 16 * few) + 40
