"""``fixed`` and ``null`` on virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_machine import PolicyMachine, jain

from vcoproc.errors import LimitExceeded, NotAdmitted
from vcoproc.limits import MS, US, S
from vcoproc_scheduler.policies.api import NOBODY
from vcoproc_scheduler.policies.fixed import Fixed
from vcoproc_scheduler.policies.null import Null

PERIOD_NS = 100 * MS


def machine_of(*shares: int, switch_ns: int = 0) -> PolicyMachine:
    """All of them run for ever."""
    machine = PolicyMachine(Fixed(), switch_ns=switch_ns)
    for vcoproc_id, share in enumerate(shares, 1):
        machine.add(vcoproc_id, share_permille=share)
        machine.work(vcoproc_id, None)
    return machine


@pytest.mark.parametrize("shares", [(1000,), (250,), (500, 500), (100, 250, 650), (1, 10, 100)])
def test_each_has_its_share_exactly(shares: tuple[int, ...]) -> None:
    machine = machine_of(*shares)
    for _ in range(20):
        machine.run(PERIOD_NS)
    for guest, share in zip(machine.guests.values(), shares, strict=True):
        assert abs(guest.run_ns - 2 * S * share // 1000) <= 100 * US


@settings(max_examples=40)
@given(parts=st.lists(st.integers(5, 100), min_size=1, max_size=8), awake=st.integers(1, 255))
def test_a_share_does_not_depend_on_what_the_others_do(parts: list[int], awake: int) -> None:
    """Within 0.1 % plus one slice, switches included, whoever sleeps."""
    shares = [1000 * part // sum(parts) for part in parts]
    machine = PolicyMachine(Fixed(), switch_ns=20 * US)
    for vcoproc_id, share in enumerate(shares):
        machine.add(vcoproc_id + 1, share_permille=share)
        if awake >> vcoproc_id & 1:
            machine.work(vcoproc_id + 1, None)
    machine.run(2 * S)
    for guest, share in zip(machine.guests.values(), shares, strict=True):
        used_ns = guest.run_ns + guest.switch_ns
        due_ns = 2 * S * share // 1000 if guest.work_ns is None else 0
        assert abs(used_ns - due_ns) <= 2 * S // 1000 + 5 * MS


def test_equal_shares_are_equal() -> None:
    machine = machine_of(*[60] * 16, switch_ns=20 * US)
    machine.run(2 * S)
    assert jain([guest.run_ns for guest in machine.guests.values()]) >= 0.999


def test_the_unused_part_stays_empty() -> None:
    machine = machine_of(300)
    machine.run(2 * S)
    assert machine.guests[1].run_ns == 600 * MS
    assert machine.decisions < 20 * 14, "one turn a period, in slices"


def test_more_than_all_is_refused_and_told_what_would_fit() -> None:
    machine = machine_of(300, 450)
    with pytest.raises(NotAdmitted, match=r"have 750 of 1000; at most 250 would fit"):
        machine.add(3, share_permille=251)
    machine.add(3, share_permille=250)
    with pytest.raises(NotAdmitted, match="nothing is left"):
        machine.add(4, share_permille=1)
    # Its own share does not stand in its own way.
    machine.change(2, share_permille=450)
    with pytest.raises(NotAdmitted, match=r"at most 450 would fit"):
        machine.change(2, share_permille=451)
    machine.remove(1)
    machine.change(2, share_permille=750)


def test_a_refuser_pays_and_the_next_one_does_not() -> None:
    machine = machine_of(500, 500)
    machine.refuse_ns = lambda guest: 20 * MS if guest.id == 1 else 0
    machine.run(10 * S)
    refuser, other = machine.guests.values()
    assert refuser.run_ns + refuser.refused_ns <= 5 * S + PERIOD_NS
    assert other.run_ns >= 5 * S - PERIOD_NS


def test_budget_that_nobody_wanted_is_lost() -> None:
    machine = PolicyMachine(Fixed())
    sleeper = machine.add(1, share_permille=200)
    machine.run(10 * S)
    machine.work(1, None)
    machine.run(10 * PERIOD_NS)
    assert sleeper.run_ns <= 10 * 20 * MS + 100 * US


def test_a_share_holds_for_one_that_wakes_where_it_was() -> None:
    machine = PolicyMachine(Fixed())
    guest = machine.add(1, share_permille=100)

    def toggle() -> None:
        if guest.work_ns == 0:
            machine.work(1, 3 * MS)
        machine.at(machine.now_ns + 100 * US, toggle)

    toggle()
    machine.run(2 * S)
    assert guest.run_ns == pytest.approx(200 * MS, abs=5 * MS)


def test_one_that_wakes_where_it_was_is_stopped_when_its_share_is_used_up() -> None:
    machine = PolicyMachine(Fixed())
    guest = machine.add(1, share_permille=30)
    machine.work(1, 2 * MS)
    machine.run(5 * MS)
    machine.work(1, 4 * MS)
    machine.run(90 * MS)
    assert guest.run_ns == 3 * MS
    machine.run(10 * MS)
    assert guest.run_ns == 6 * MS


# --- null -----------------------------------------------------------------------------------------


def test_null_has_room_for_one_and_says_so() -> None:
    machine = PolicyMachine(Null())
    machine.add(7)
    with pytest.raises(LimitExceeded, match=r"algorithm null, which vcoproc 7 has: at most 1"):
        machine.add(8)
    machine.change(7)
    machine.remove(7)
    machine.add(8)


def test_null_never_switches() -> None:
    machine = PolicyMachine(Null(), switch_ns=1 * MS)
    guest = machine.add(1)
    for _ in range(50):
        machine.work(1, 3 * MS)
        machine.run(10 * MS)
        assert machine.policy.pick(machine.now_ns, None) == NOBODY
        assert machine.policy.next_deadline_ns() is None
    assert (guest.turns, guest.switch_ns, guest.run_ns) == (1, 1 * MS, 150 * MS)
