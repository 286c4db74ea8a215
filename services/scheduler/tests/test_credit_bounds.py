"""The bounds of ``credit``: exact where that is known, and never exceeded by whatever loads do.

Loads are random, or are changed again and again for the better of those that make one wait long.
First with the policy alone, then with the core, a link with delays and the model executor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from policy_machine import Guest, PolicyMachine
from scheduler_executor_model import Costs
from scheduler_rig import Rig

from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.testing.network import Faults
from vcoproc.wire.messages import Message, Report, Sleep
from vcoproc_scheduler.analysis import Bounds, Member, Question, analyse
from vcoproc_scheduler.events import AddVcoproc, SetAlgorithm
from vcoproc_scheduler.policies.api import Scope, resolve_parameters
from vcoproc_scheduler.policies.credit import Credit
from vcoproc_scheduler.policy_guard import MIN_RUN, descriptions

SLICE_NS = 1 * MS
FOREVER_NS = 1000 * SLICE_NS
BURSTS_MAX = 1000
"""So that a test ends soon: an empty coproc lets one wake a million times in a second."""


@dataclass(frozen=True)
class Scene:
    """switch_ns: out and in together. refusal_ns: the longest. min_run_us: with the core only."""

    weights: tuple[int, ...]
    caps: tuple[int, ...] = ()
    switch_ns: int = 0
    refusal_ns: int = 0
    slice_ns: int = SLICE_NS
    min_run_us: int = 0

    def cap(self, vcoproc_id: int) -> int:
        return self.caps[vcoproc_id - 1] if self.caps else 0

    def bounds(self, vcoproc_id: int, work_ns: int = SLICE_NS) -> Bounds:
        members = {
            each: Member(
                resolve_parameters(
                    Credit.PARAMETERS, Scope.VCOPROC, {"weight": weight, "cap": self.cap(each)}
                ),
                work_ns,
            )
            for each, weight in enumerate(self.weights, 1)
        }
        given = {MIN_RUN: self.min_run_us}
        parameters = resolve_parameters(descriptions(Credit), Scope.COPROC, given)
        question = Question(
            "credit", self.slice_ns, parameters, members, self.switch_ns, self.refusal_ns
        )
        return {each.vcoproc: each.bounds for each in analyse(question)}[vcoproc_id]


@dataclass(frozen=True)
class Load:
    """What one does: pauses and bursts in turn, in ns, BURSTS_MAX at most; and parts of the refusal
    bound, in turn."""

    first_ns: int
    cycles: tuple[tuple[int, int], ...]
    refusals: tuple[float, ...] = (0.0,)


@dataclass
class Seen:
    """The longest wait of each vcoproc, and all responses: work, and how long it took."""

    waits_ns: dict[int, int] = field(default_factory=dict)
    responses: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def worst(self, scene: Scene) -> float:
        """Of all that was seen, the greatest part of its bound; more than 1: exceeded."""
        worst = 0.0
        for vcoproc_id, wait_ns in self.waits_ns.items():
            bounds = scene.bounds(vcoproc_id)
            assert bounds.wait_ns is not None
            worst = max(worst, wait_ns / bounds.wait_ns)
        for vcoproc_id, responses in self.responses.items():
            for work_ns, took_ns in responses:
                bounds = scene.bounds(vcoproc_id, work_ns)
                assert bounds.response_ns is not None
                worst = max(worst, took_ns / bounds.response_ns)
        return worst


def machine_of(scene: Scene) -> PolicyMachine:
    assert scene.switch_ns % 2 == 0
    machine = PolicyMachine(
        Credit(), slice_ns=scene.slice_ns, switch_ns=scene.switch_ns // 2, asks=1
    )
    for vcoproc_id, weight in enumerate(scene.weights, 1):
        machine.add(vcoproc_id, weight=weight, cap=scene.cap(vcoproc_id))
    return machine


def waker(wake: Callable[[int], None], vcoproc_id: int) -> Callable[[], None]:
    return lambda: wake(vcoproc_id)


def play(scene: Scene, loads: Sequence[Load], time_ns: int) -> Seen:
    """With the policy alone."""
    machine, seen = machine_of(scene), Seen()
    bursts = dict.fromkeys(machine.guests, 0)
    refused = dict.fromkeys(machine.guests, 0)
    woke: dict[int, tuple[int, int]] = {}

    def wake(vcoproc_id: int) -> None:
        cycles = loads[vcoproc_id - 1].cycles
        burst_ns = cycles[bursts[vcoproc_id] % len(cycles)][1]
        woke[vcoproc_id] = machine.now_ns, burst_ns
        bursts[vcoproc_id] += 1
        machine.work(vcoproc_id, burst_ns)

    def idled(guest: Guest) -> None:
        since_ns, burst_ns = woke[guest.id]
        seen.responses.setdefault(guest.id, []).append((burst_ns, machine.now_ns - since_ns))
        cycles = loads[guest.id - 1].cycles
        pause_ns = cycles[bursts[guest.id] % len(cycles)][0]
        if bursts[guest.id] < BURSTS_MAX:
            machine.at(machine.now_ns + pause_ns, lambda: wake(guest.id))

    def refuse_ns(guest: Guest) -> int:
        parts = loads[guest.id - 1].refusals
        refused[guest.id] += 1
        return int(parts[refused[guest.id] % len(parts)] * scene.refusal_ns)

    machine.idled, machine.refuse_ns = idled, refuse_ns
    for vcoproc_id, load in enumerate(loads, 1):
        machine.at(machine.now_ns + load.first_ns, waker(wake, vcoproc_id))
    machine.run(time_ns)
    for guest in machine.guests.values():
        present_ns = machine.now_ns - (guest.waiting_since_ns or machine.now_ns)
        seen.waits_ns[guest.id] = max(guest.wait_ns_max, present_ns)
    return seen


# --- loads ----------------------------------------------------------------------------------------


def random_cycle(random: Random, slice_ns: int) -> tuple[int, int]:
    pause_ns = random.choice((1, 10, random.random() * slice_ns, random.uniform(0, 20) * slice_ns))
    burst_ns = random.choice(
        (
            1 * US,
            random.random() * slice_ns,
            slice_ns + random.choice((-1, 0, 1)) * US,
            random.uniform(0, 3) * slice_ns,
            40 * slice_ns,
        )
    )
    return max(1, int(pause_ns)), max(1 * US, int(burst_ns))


def random_load(random: Random, slice_ns: int = SLICE_NS) -> Load:
    return Load(
        int(random.uniform(0, 5) * slice_ns),
        tuple(random_cycle(random, slice_ns) for _ in range(random.randint(1, 6))),
        tuple(random.choice((0.0, 1.0, random.random())) for _ in range(random.randint(1, 3))),
    )


def changed(random: Random, load: Load) -> Load:
    """A little different."""
    cycles = list(load.cycles)
    number = random.randrange(len(cycles))
    match random.randrange(5):
        case 0:
            return replace(load, first_ns=int(random.uniform(0, 5) * SLICE_NS))
        case 1:
            return replace(load, refusals=random_load(random).refusals)
        case 2 if len(cycles) > 1:
            cycles.pop(number)
        case 3:
            cycles.insert(number, random_cycle(random, SLICE_NS))
        case _:
            pause_ns, burst_ns = cycles[number]
            pause_ns, burst_ns = (
                int(each * random.uniform(0.7, 1.3)) for each in (pause_ns, burst_ns)
            )
            cycles[number] = max(1, pause_ns), max(1 * US, burst_ns)
    return replace(load, cycles=tuple(cycles))


def random_scene(random: Random, *, slice_ns: int = SLICE_NS, capped: bool = False) -> Scene:
    count = random.randint(2, 5)
    choices = random.choice(((256,), (64, 256, 1024), (1, 2, 4), (1, 10, 100, 1000)))
    return Scene(
        tuple(random.choice(choices) for _ in range(count)),
        tuple(random.choice((0, 5, 10, 20, 40, 60)) for _ in range(count)) if capped else (),
        random.choice((0, 0, 40)) * US,
        random.choice((0, 0, 500, 5_000)) * US,
        slice_ns,
    )


# --- where it is known ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 8, 32])
@pytest.mark.parametrize("switch_ns", [0, 40 * US])
def test_equals_that_always_run_wait_for_one_turn_of_each_other(count: int, switch_ns: int) -> None:
    """The bound is three times that and a turn: of the others and of its own, each may be ahead by
    a turn, and sleepers by a slice."""
    scene = Scene((256,) * count, switch_ns=switch_ns)
    machine = machine_of(scene)
    for vcoproc_id in machine.guests:
        machine.work(vcoproc_id, None)
    turn_ns = SLICE_NS + switch_ns
    machine.run(5 * count * turn_ns)  # the first turns are uneven: nobody has paid for a switch
    for guest in machine.guests.values():
        guest.wait_ns_max = 0
    machine.run(20 * count * turn_ns)
    exact_ns = (count - 1) * turn_ns + switch_ns // 2
    assert {guest.wait_ns_max for guest in machine.guests.values()} == {exact_ns}
    bound_ns = scene.bounds(1).wait_ns
    assert bound_ns is not None
    assert exact_ns <= bound_ns <= 3 * (count - 1) * turn_ns + turn_ns + switch_ns + count


def test_two_equals_at_the_worst() -> None:
    """The other one waits for two turns of it, runs for a moment after each, and is owed a slice.
    It wakes when the next turn has just begun: so that is a debt too, and it has three slices."""
    scene = Scene((256, 256))
    machine = machine_of(scene)
    machine.work(1, None)
    for burst_ns in (1, 1, FOREVER_NS):
        machine.run(1 * US)
        machine.work(2, burst_ns)
        machine.run(SLICE_NS)
    machine.run(20 * SLICE_NS)
    bound_ns = scene.bounds(1).wait_ns
    assert bound_ns == 4 * SLICE_NS
    assert machine.guests[1].wait_ns_max >= bound_ns * 3 // 4 - 1 * US


def test_by_hand() -> None:
    def bound(scene: Scene, vcoproc_id: int, work_ns: int = SLICE_NS) -> tuple[int, int]:
        bounds = scene.bounds(vcoproc_id, work_ns)
        assert bounds.wait_ns is not None and bounds.response_ns is not None
        return bounds.wait_ns, bounds.response_ns

    alone = Scene((256,), switch_ns=40 * US, refusal_ns=60 * US)
    assert bound(alone, 1, 7 * MS) == (100 * US, 7100 * US)
    # 1 and 3. The debt of the light one: 1 + 3/4 ms, of which the other makes 3 times as much; and
    # 3 ms less one for a later end, and a turn.
    assert bound(Scene((1, 3)), 1) == (10_000 * US, 11_000 * US)
    # That of the heavy one: 1 + 1/4 ms, of which the other makes a third; and a turn.
    assert bound(Scene((1, 3)), 2)[0] == 2_666_667
    # Two slices more, of which the others make six each, and one more switch for each slice.
    lossy = Scene((1, 3, 3), switch_ns=100 * US)
    more = tuple(b - a for a, b in zip(bound(lossy, 1), bound(lossy, 1, 3 * MS), strict=True))
    assert more == (0, 2 * 1100 * US * 6 + 200 * US + 2 * MS)
    # 3 ms in each 30 ms: nothing for 27 ms, and less than the shortest slice is not granted.
    capped = Scene((256,), (10,))
    assert bound(capped, 1)[0] == 27_100 * US
    assert capped.bounds(1).share_ppm == 100_000


# --- against what happens -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("part", range(4))
def test_no_random_load_exceeds_the_bounds(part: int, capped: bool) -> None:
    closest = 0.0
    for seed in range(30 * part, 30 * part + 30):
        random = Random(seed)
        scene = random_scene(random, capped=capped)
        loads = [random_load(random) for _ in scene.weights]
        worst = play(scene, loads, 100 * SLICE_NS).worst(scene)
        assert worst <= 1, f"seed {seed}: {scene}"
        closest = max(closest, worst)
    assert closest >= 0.7, "the bounds say nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scene", "reached"),
    [
        (Scene((1, 1)), 0.7),
        (Scene((1, 1, 1)), 0.6),
        (Scene((1, 1, 1, 1)), 0.5),
        (Scene((1, 4)), 0.6),
        (Scene((4, 1)), 0.3),
        (Scene((1, 4, 2)), 0.5),
        (Scene((1, 1, 1), switch_ns=40 * US, refusal_ns=2 * MS), 0.5),
        (Scene((1, 1), (0, 30)), 0.7),
    ],
)
def test_no_load_that_is_searched_for_makes_the_first_one_wait_for_longer(
    scene: Scene, reached: float
) -> None:
    """It climbs: of two loads it keeps the one with the longer wait."""
    bound_ns = scene.bounds(1).wait_ns
    assert bound_ns is not None
    longest_ns = 0
    for seed in range(2):
        random = Random(seed)
        loads = [random_load(random) for _ in scene.weights]
        best_ns = 0
        for _ in range(150):
            others = list(loads)
            for _ in range(random.choice((1, 1, 2, 4))):
                number = random.randrange(len(others))
                others[number] = changed(random, others[number])
            wait_ns = play(scene, others, 50 * SLICE_NS).waits_ns[1]
            assert wait_ns <= bound_ns, f"{scene}: {others}"
            if wait_ns >= best_ns:
                loads, best_ns = others, wait_ns
        longest_ns = max(longest_ns, best_ns)
    assert longest_ns >= bound_ns * reached


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_not_even_when_those_who_wait_come_and_go(part: int) -> None:
    """As when their domains are paused: what a sleeper is owed cannot be used again and again."""
    for seed in range(20 * part, 20 * part + 20):
        random = Random(seed)
        scene = random_scene(random, capped=seed % 2 == 1)
        machine = machine_of(scene)
        machine.refuse_ns = lambda guest: random.choice((0, 1)) * scene.refusal_ns  # noqa: B023
        for vcoproc_id in machine.guests:
            machine.work(vcoproc_id, FOREVER_NS if vcoproc_id == 1 else 1 * US)
        for _ in range(400):
            guest = machine.guests[random.randint(2, len(scene.weights))]
            if not guest.work_ns:
                machine.work(guest.id, random_cycle(random, SLICE_NS)[1])
            elif guest is not machine.resident:
                guest.work_ns, guest.waiting_since_ns = 0, None
                machine.policy.sleep(guest.id, machine.now_ns)
            machine.run(random.choice((0, 0, 1, random.randrange(SLICE_NS))))
        bound_ns = scene.bounds(1).wait_ns
        assert bound_ns is not None
        assert machine.guests[1].wait_ns_max <= bound_ns, f"seed {seed}: {scene}"


def test_one_that_the_cap_lets_in_does_not_bring_the_time_that_another_one_was_alone() -> None:
    """Nothing happens while one runs alone, so nobody had reckoned up to that moment."""
    scene = Scene((1, 1), (0, 40))
    loads = [Load(0, ((1, FOREVER_NS),)), Load(10 * US, ((1, FOREVER_NS),))]
    seen = play(scene, loads, 200 * MS)
    assert seen.waits_ns[1] <= 2 * SLICE_NS


# --- with the core --------------------------------------------------------------------------------

DELAY_NS = 80 * US
COSTS = Costs()
SWITCH_NS = COSTS.save_ns[1] + COSTS.mmu_ns[1] + COSTS.restore_ns[1] + 3 * DELAY_NS
"""With the time until a report, the order that it causes and what replaces that have arrived."""


def play_all(seed: int, scene: Scene, loads: Sequence[Load], time_ns: int) -> Seen:
    """With the core, the link and the executor; responses are the executor's, waits the core's."""
    rig = Rig(
        seed,
        faults=Faults(delay_ns=(20 * US, DELAY_NS)),
        costs=replace(COSTS, refuse_ns=(0, scene.refusal_ns)),
        algorithm=SetAlgorithm(
            "credit", scene.slice_ns, SWITCH_DEADLINE_NS, {MIN_RUN: scene.min_run_us}
        ),
    )
    seen, send = Seen(), rig.executor.send
    bursts = dict.fromkeys(range(1, len(loads) + 1), 0)
    woke: dict[int, tuple[int, int]] = {}

    def wake(vcoproc_id: int) -> None:
        cycles = loads[vcoproc_id - 1].cycles
        burst_ns = cycles[bursts[vcoproc_id] % len(cycles)][1]
        woke[vcoproc_id] = rig.executor.now(), burst_ns
        bursts[vcoproc_id] += 1
        rig.executor.work(vcoproc_id, burst_ns)

    def watch(message: Message) -> bool | None:
        match message:
            case Sleep(vcoproc_id, ended_ns):
                done(vcoproc_id, ended_ns)
            case Report() if message.vcoproc and not rig.executor.guests[message.vcoproc].work_ns:
                done(message.vcoproc, message.ended_ns)
        return send(message)

    def done(vcoproc_id: int, ended_ns: int) -> None:
        if vcoproc_id not in woke:
            return
        since_ns, burst_ns = woke.pop(vcoproc_id)
        seen.responses.setdefault(vcoproc_id, []).append((burst_ns, ended_ns - since_ns))
        cycles = loads[vcoproc_id - 1].cycles
        pause_ns = cycles[bursts[vcoproc_id] % len(cycles)][0]
        if bursts[vcoproc_id] < BURSTS_MAX:
            rig.clock.call_after(pause_ns, lambda: wake(vcoproc_id))

    rig.executor.send = watch
    for vcoproc_id, weight in enumerate(scene.weights, 1):
        rig.step(AddVcoproc(vcoproc_id, {"weight": weight, "cap": scene.cap(vcoproc_id)}))
        rig.executor.attach(vcoproc_id)
        rig.clock.call_after(loads[vcoproc_id - 1].first_ns, waker(wake, vcoproc_id))
    rig.clock.advance(time_ns)
    assert not rig.fallbacks
    for each in rig.core.view(rig.clock.now_ns).vcoprocs:
        seen.waits_ns[each.vcoproc] = each.account.wait_max_ns
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("part", range(3))
def test_with_the_core_no_random_load_exceeds_the_bounds(part: int, capped: bool) -> None:
    closest = 0.0
    for seed in range(20 * part, 20 * part + 20):
        random = Random(seed)
        scene = random_scene(random, slice_ns=random.choice((1, 5)) * MS, capped=capped)
        loads = [random_load(random, scene.slice_ns) for _ in scene.weights]
        if capped:
            scene = replace(scene, min_run_us=random.choice((0, 0, 2_000)))
        seen = play_all(seed, scene, loads, 60 * scene.slice_ns)
        worst = seen.worst(replace(scene, switch_ns=SWITCH_NS))
        assert worst <= 1, f"seed {seed}: {scene}"
        closest = max(closest, worst)
    assert closest >= 0.6, "the bounds say nothing"
