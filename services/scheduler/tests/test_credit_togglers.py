"""``credit`` and those that sleep and wake: they gain nothing, and they lose nothing.

Used is what a vcoproc takes from the others: running and being switched. All on virtual time, by
the policy alone; ``tests/sim/test_sim_scheduling.py`` has the same with all cores together.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from policy_machine import Guest, PolicyMachine, jain

from vcoproc.limits import MS, US, S
from vcoproc_scheduler.policies.credit import Credit

SLICE_NS = 5 * MS
TOGGLER = 9
"""The first one; more have the numbers after it."""


def used_ns(guest: Guest) -> int:
    return guest.run_ns + guest.switch_ns + guest.refused_ns


class Togglers:
    """Vcoprocs that sleep for a pause after each burst of work.

    bursts, pauses: each gives the next one, in ns. awake_ns: in all, of each.
    """

    def __init__(self, machine: PolicyMachine) -> None:
        self.machine = machine
        self.awake_ns: dict[int, int] = {}
        self.worst_lead_ns = 0
        self._woke_ns: dict[int, int] = {}
        self._turn: dict[int, tuple[Callable[[], int], Callable[[], int]]] = {}
        self._shares: dict[int, float] = {}
        self._began_ns = machine.now_ns
        machine.idled = self._idled

    def add(
        self,
        vcoproc_id: int,
        bursts: Callable[[], int],
        pauses: Callable[[], int],
        *,
        weight: int = 256,
        share: float = 1.0,
    ) -> Guest:
        guest = self.machine.add(vcoproc_id, weight=weight)
        self._turn[vcoproc_id] = bursts, pauses
        self._shares[vcoproc_id] = share
        self.awake_ns[vcoproc_id] = 0
        self._wake(vcoproc_id)
        return guest

    def _wake(self, vcoproc_id: int) -> None:
        self._woke_ns[vcoproc_id] = self.machine.now_ns
        self.machine.work(vcoproc_id, self._turn[vcoproc_id][0]())

    def _idled(self, guest: Guest) -> None:
        now_ns = self.machine.now_ns
        self.awake_ns[guest.id] += now_ns - self._woke_ns[guest.id]
        lead_ns = used_ns(guest) - int((now_ns - self._began_ns) * self._shares[guest.id])
        self.worst_lead_ns = max(self.worst_lead_ns, lead_ns)
        pause_ns = self._turn[guest.id][1]()
        self.machine.at(now_ns + pause_ns, lambda: self._wake(guest.id))


def always(value: int) -> Callable[[], int]:
    return lambda: value


def some_bursts(random: Random, slice_ns: int) -> Callable[[], int]:
    """Of one kind: as short as possible, about a slice or several, or any."""
    kind = random.randrange(4)
    if kind == 0:
        return always(random.choice((1, 20, 300)) * US)
    if kind == 1:
        slices = random.randint(1, 3)
        return always(slices * slice_ns + random.choice((-100, -1, 0, 1, 100)) * US)
    longest_ns = slice_ns * (1 if kind == 2 else 4)
    return lambda: random.randint(1 * US, longest_ns)


def some_pauses(random: Random, slice_ns: int) -> Callable[[], int]:
    if random.random() < 0.5:
        return always(random.choice((1, 5, 50)) * US)
    longest_ns = slice_ns * random.choice((1, 4))
    return lambda: random.randint(1 * US, longest_ns)


# --- no gain --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_a_toggler_has_at_most_one_percent_over_its_share(seed: int) -> None:
    """In a time in which its share is a hundred slices: the last slice alone is one percent."""
    random = Random(seed)
    slice_ns = random.choice((500 * US, 1 * MS, 5 * MS, 10 * MS, 30 * MS))
    weights = [random.choice((64, 128, 256, 512)) for _ in range(random.randint(1, 5))]
    weight = random.choice((128, 256, 512, 2048))
    machine = PolicyMachine(
        Credit(), slice_ns=slice_ns, switch_ns=random.choice((0, 10)) * US, asks=1
    )
    for vcoproc_id, each in enumerate(weights, 1):
        machine.add(vcoproc_id, weight=each)
        machine.work(vcoproc_id, None)
    machine.run(random.randint(0, 20 * slice_ns))
    togglers = Togglers(machine)
    total = sum(weights) + weight
    guest = togglers.add(
        TOGGLER,
        some_bursts(random, slice_ns),
        some_pauses(random, slice_ns),
        weight=weight,
        share=weight / total,
    )
    hogs_before_ns = {each.id: used_ns(each) for each in machine.guests.values()}
    time_ns = 100 * slice_ns * total // weight
    machine.run(time_ns)
    assert used_ns(guest) * total <= time_ns * weight * 101 // 100
    # It is never ahead by more than the turn that it has just had.
    assert togglers.worst_lead_ns <= slice_ns + 2 * machine.switch_ns
    for vcoproc_id, each in enumerate(weights, 1):
        got_ns = used_ns(machine.guests[vcoproc_id]) - hogs_before_ns[vcoproc_id]
        assert got_ns >= time_ns * each // total - 2 * slice_ns


@pytest.mark.parametrize("work_us", [100, 4_999, 5_000, 5_001, 9_000])
@pytest.mark.parametrize("pause_us", [50, 1_000, 6_000])
@pytest.mark.parametrize("hogs", [1, 3])
def test_a_toggler_gains_nothing_in_a_second(work_us: int, pause_us: int, hogs: int) -> None:
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS, switch_ns=10 * US, asks=1)
    for vcoproc_id in range(1, hogs + 1):
        machine.add(vcoproc_id)
        machine.work(vcoproc_id, None)
    guest = Togglers(machine).add(TOGGLER, always(work_us * US), always(pause_us * US))
    machine.run(1 * S)
    assert guest.turns > 10
    assert guest.run_ns <= 1 * S // (hogs + 1) * 101 // 100
    assert jain([machine.guests[each].run_ns for each in range(1, hogs + 1)]) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_togglers_take_nothing_from_the_others_together(seed: int) -> None:
    """At least 99 % of its share is left to each of the others."""
    random = Random(seed)
    slice_ns = random.choice((1 * MS, 5 * MS))
    machine = PolicyMachine(Credit(), slice_ns=slice_ns, switch_ns=10 * US, asks=1)
    hogs = [random.choice((128, 256, 512)) for _ in range(random.randint(1, 3))]
    for vcoproc_id, weight in enumerate(hogs, 1):
        machine.add(vcoproc_id, weight=weight)
        machine.work(vcoproc_id, None)
    togglers, total = Togglers(machine), sum(hogs)
    for vcoproc_id in range(TOGGLER, TOGGLER + random.randint(2, 4)):
        weight = random.choice((128, 256, 512))
        bursts, pauses = some_bursts(random, slice_ns), some_pauses(random, slice_ns)
        togglers.add(vcoproc_id, bursts, pauses, weight=weight)
        total += weight
    time_ns = 100 * slice_ns * total // min(hogs)
    machine.run(time_ns)
    for vcoproc_id, weight in enumerate(hogs, 1):
        assert used_ns(machine.guests[vcoproc_id]) * total >= time_ns * weight * 99 // 100


# --- no loss --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("work_us", [2_000, 3_000, 6_000, 7_000, 12_000])
@pytest.mark.parametrize("hogs", [3, 6])
def test_one_that_pauses_between_jobs_has_its_share_of_the_time_it_wants(
    work_us: int, hogs: int
) -> None:
    """What it was behind when it fell asleep is not lost."""
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS, asks=1)
    for vcoproc_id in range(1, hogs + 1):
        machine.add(vcoproc_id)
        machine.work(vcoproc_id, None)
    togglers = Togglers(machine)
    guest = togglers.add(TOGGLER, always(work_us * US), always(50 * US))
    machine.run(4 * S)
    assert guest.run_ns >= togglers.awake_ns[TOGGLER] / (hogs + 1) * 0.95


def test_a_newcomer_has_neither_credit_nor_debt() -> None:
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS)
    for vcoproc_id in (1, 2):
        machine.add(vcoproc_id)
        machine.work(vcoproc_id, None)
    newcomer = machine.add(3)
    machine.run(10 * S)
    machine.work(3, None)
    assert machine.policy.export_accounting()[3]["credit_ns"] == 0
    for _ in range(40):
        machine.run(3 * SLICE_NS)
        share_ns = (machine.now_ns - 11 * S) // 3
        assert abs(newcomer.run_ns - share_ns) <= SLICE_NS


def credits_of(machine: PolicyMachine) -> dict[int, int]:
    return {each: v["credit_ns"] for each, v in machine.policy.export_accounting().items()}


def pause(machine: PolicyMachine, vcoproc_id: int) -> None:
    """One that waits does not want to run any more."""
    machine.guests[vcoproc_id].work_ns = 0
    machine.guests[vcoproc_id].waiting_since_ns = None
    machine.policy.sleep(vcoproc_id, machine.now_ns)


def waited(*paused: int, refused_ns: int = 0) -> PolicyMachine:
    """Four of them; the first one has run and refused to leave, and some that waited are paused."""
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS)
    machine.refuse_ns = lambda guest: refused_ns
    for vcoproc_id in (1, 2, 3, 4):
        machine.add(vcoproc_id)
        machine.work(vcoproc_id, None)
    machine.run(SLICE_NS)
    machine.refuse_ns = lambda guest: 0
    for vcoproc_id in paused:
        pause(machine, vcoproc_id)
    return machine


def test_a_sleeper_keeps_the_credit_that_it_had() -> None:
    machine = waited()
    machine.run(1 * MS)
    pause(machine, 4)
    # Its share of the time for which it has waited.
    assert credits_of(machine)[4] == pytest.approx(6 * MS // 4, abs=1)
    machine.run(1 * S)
    assert credits_of(machine)[4] == pytest.approx(6 * MS // 4, abs=1)
    machine.work(4, None)
    assert credits_of(machine)[4] == pytest.approx(6 * MS // 4, abs=1)


def test_a_sleeper_keeps_at_most_a_slice() -> None:
    machine = waited(refused_ns=100 * MS)
    assert credits_of(machine)[4] > 20 * MS
    pause(machine, 4)
    machine.run(1 * MS)
    machine.work(4, None)
    assert credits_of(machine)[4] == pytest.approx(SLICE_NS, abs=1)


def test_all_sleepers_together_keep_at_most_a_slice_the_latest_first() -> None:
    machine = waited(refused_ns=12 * MS)
    assert credits_of(machine)[3] == credits_of(machine)[4] == pytest.approx(17 * MS / 4, abs=1)
    pause(machine, 3)
    pause(machine, 4)
    left_ns = credits_of(machine)
    assert left_ns[3] + left_ns[4] == pytest.approx(SLICE_NS, abs=2)
    assert left_ns[4] > left_ns[3] > 0


def test_one_that_falls_asleep_in_debt_pays_before_it_runs_again() -> None:
    """As fast as if it had stayed awake, and no faster: its weight counts as long as it owes."""
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS)
    for vcoproc_id in (1, 2, 3):
        machine.add(vcoproc_id, weight=256)
    machine.work(1, SLICE_NS)
    for vcoproc_id in (2, 3):
        machine.work(vcoproc_id, None)
    machine.run(SLICE_NS)
    debt_ns = -credits_of(machine)[1]
    assert debt_ns == pytest.approx(SLICE_NS * 2 // 3, abs=1)
    machine.run(SLICE_NS)
    assert -credits_of(machine)[1] == pytest.approx(SLICE_NS // 3, abs=1)
    machine.run(SLICE_NS)
    assert credits_of(machine)[1] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("seed", range(20))
def test_credits_and_debts_cancel_each_other_out(seed: int) -> None:
    """Those of sleepers included; nobody is owed what nobody owes, whoever comes and goes. And the
    queue's virtual time never goes back, so that nobody who comes is put before those who wait."""
    random = Random(seed)
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS, switch_ns=10 * US)
    machine.refuse_ns = lambda guest: random.choice((0, 1, 20)) * MS
    for vcoproc_id in range(1, 7):
        machine.add(vcoproc_id, weight=random.choice((1, 64, 256, 1024)))
    virtual = machine.policy._virtual
    for _ in range(300):
        guest = machine.guests[random.randint(1, 6)]
        if guest is not machine.resident and guest.work_ns and random.random() < 0.3:
            pause(machine, guest.id)
        else:
            machine.work(guest.id, random.choice((20, 900, 5_000, 23_000)) * US)
        machine.run(random.choice((0, 10, 700, 6_000, 40_000)) * US)
        assert machine.policy._virtual >= virtual
        virtual = machine.policy._virtual
        credits_ns = credits_of(machine)
        uncharged_ns = machine.now_ns - machine.charged_ns if machine.running else 0
        assert abs(sum(credits_ns.values())) <= uncharged_ns + len(credits_ns)
        asleep = [each.id for each in machine.guests.values() if not each.work_ns]
        assert sum(max(0, credits_ns[each]) for each in asleep) <= SLICE_NS + len(asleep)


def test_credit_and_debt_survive_a_change_of_parameters_and_of_the_algorithm() -> None:
    """About: each one that goes and comes again changes the mean a little."""
    machine = waited()
    machine.run(1 * MS)
    before_ns = credits_of(machine)
    assert machine.resident is not None
    before_ns[machine.resident.id] -= 1 * MS  # which it has run, but was not charged for
    machine.change(3, weight=256)
    machine.swap(Credit())
    after_ns = credits_of(machine)
    assert after_ns == {each: pytest.approx(ns, abs=300 * US) for each, ns in before_ns.items()}
    assert sum(after_ns.values()) == pytest.approx(0, abs=4)


@pytest.mark.parametrize("credit_ns", [10**18, -(10**18)])
def test_what_another_algorithm_thought_of_one_counts_for_a_slice_at_most(credit_ns: int) -> None:
    machine = PolicyMachine(Credit(), slice_ns=SLICE_NS)
    for vcoproc_id in (1, 2, 3):
        machine.add(vcoproc_id)
    machine.policy.import_accounting({each: {"credit_ns": credit_ns} for each in (2, 3)})
    for vcoproc_id in (1, 2, 3):
        machine.work(vcoproc_id, None)
    machine.run(1 * S)
    for guest in machine.guests.values():
        assert guest.run_ns == pytest.approx(S // 3, abs=2 * SLICE_NS)
