"""``arinc653``: the table, its times, and what is refused."""

from __future__ import annotations

import pickle
from itertools import pairwise
from random import Random

import pytest
from decision_loop import DecisionLoop, Task

from vcoproc.errors import InvalidArgument, LimitExceeded
from vcoproc.limits import MS, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    PolicyConfig,
    Scope,
    Usage,
    resolve_parameters,
)
from vcoproc_scheduler.policies.arinc653 import GRACE_NS, WINDOWS_MAX, Arinc653


def make(frame_us: int = 100_000) -> Arinc653:
    policy = Arinc653()
    given = {"major_frame_us": frame_us}
    parameters = resolve_parameters(Arinc653.PARAMETERS, Scope.COPROC, given)
    policy.init(PolicyConfig(5 * MS, parameters))
    return policy


def values(*windows: tuple[int, int]) -> dict[str, int]:
    """Windows as (start, length) in us."""
    given = {}
    for number, (start_us, length_us) in enumerate(windows, 1):
        suffix = "" if number == 1 else str(number)
        given[f"start{suffix}_us" if suffix else "window_start_us"] = start_us
        given[f"window{suffix}_us"] = length_us
    return resolve_parameters(Arinc653.PARAMETERS, Scope.VCOPROC, given)


def add(policy: Arinc653, vcoproc: int, *windows: tuple[int, int]) -> None:
    policy.admit(vcoproc, values(*windows))
    policy.add(vcoproc, values(*windows))


def left(vcoproc: int, now_ns: int, *, runnable: bool = True) -> Usage:
    return Usage(vcoproc, 0, 0, 0, 0, 0, True, True, runnable, now_ns, now_ns)


def merged(log: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    result: list[tuple[int, int, int]] = []
    for from_ns, to_ns, who in log:
        if result and result[-1][1:] == (from_ns, who):
            from_ns = result.pop()[0]
        result.append((from_ns, to_ns, who))
    return result


def test_each_runs_in_its_windows_and_nowhere_else() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 2000), (5000, 1000))
    add(policy, 2, (2000, 2500))
    loop = DecisionLoop(policy, [Task(1), Task(2)])
    loop.run(30 * MS)
    frame = [(0, 2000, 1), (2000, 4500, 2), (5000, 6000, 1)]  # gaps stay empty
    assert merged(loop.log) == [
        ((base + from_us) * US, (base + to_us) * US, who)
        for base in (0, 10_000, 20_000)
        for from_us, to_us, who in frame
    ]


def test_the_window_of_one_that_sleeps_stays_empty() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 5000))
    add(policy, 2, (5000, 5000))
    loop = DecisionLoop(policy, [Task(1), Task(2, MS, 40 * MS, first_ns=7 * MS)])
    loop.run(50 * MS)
    assert [each for each in merged(loop.log) if each[2] == 2] == [
        (7 * MS, 8 * MS, 2),
        (47 * MS, 48 * MS, 2),
    ]
    assert sum(to - begin for begin, to, who in loop.log if who == 1) == 25 * MS


def test_a_wake_at_the_very_end_of_a_window_waits_for_the_next() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 5000))
    policy.wake(1, 0)
    until_ns = 5 * MS
    late_ns = until_ns - SLICE_NS_MIN
    assert policy.pick(late_ns, None) == Decision(1, SLICE_NS_MIN, preempt=True, until_ns=until_ns)
    assert policy.pick(late_ns + 1, None) == Decision(
        1, 5 * MS, preempt=True, not_before_ns=10 * MS, until_ns=15 * MS
    )


def test_a_window_is_ordered_ahead_with_absolute_times() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 4000))
    add(policy, 2, (6000, 3000))
    policy.wake(1, 0)
    policy.wake(2, 0)
    base_ns = 7_000_000 * MS
    assert policy.pick(base_ns + MS, None) == Decision(
        1, 3 * MS, preempt=True, until_ns=base_ns + 4 * MS
    )
    policy.begin(1, base_ns + MS)
    ahead = Decision(
        2, 3 * MS, preempt=True, not_before_ns=base_ns + 6 * MS, until_ns=base_ns + 9 * MS
    )
    assert policy.pick(base_ns + 2 * MS, 1) == ahead
    assert policy.next_deadline_ns() == base_ns + 4 * MS
    # It should have left at 4 ms: that is told only when it is late.
    assert policy.pick(base_ns + 4 * MS, 1) == ahead
    assert policy.next_deadline_ns() == base_ns + 4 * MS + GRACE_NS
    assert policy.pick(base_ns + 4 * MS + GRACE_NS, 1) == Decision(None, preempt=True, vacate=True)
    policy.charge(left(1, base_ns + 5500 * US))
    assert policy.pick(base_ns + 5500 * US, None) == ahead


def test_one_that_another_algorithm_left_there_goes_at_once() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 4000))
    add(policy, 2, (6000, 3000))
    policy.wake(1, 5 * MS)
    policy.begin(1, 5 * MS)
    assert policy.pick(5 * MS, 1) == Decision(None, preempt=True, vacate=True)
    policy.wake(2, 6 * MS)
    assert policy.pick(6 * MS, 1) == Decision(2, 3 * MS, preempt=True, until_ns=9 * MS)


def test_without_windows_all_have_equal_ones() -> None:
    policy = make(10_000)
    for vcoproc in (5, 3, 9):
        add(policy, vcoproc)
    loop = DecisionLoop(policy, [Task(5), Task(3), Task(9)])
    loop.run(10 * MS)
    assert [who for _, _, who in merged(loop.log)] == [5, 3, 9]
    add(policy, 7, (0, 1000))  # from now on the others have none
    policy.wake(7, 10 * MS)
    assert policy.pick(11 * MS, None) == Decision(
        7, MS, preempt=True, not_before_ns=20 * MS, until_ns=21 * MS
    )
    policy.remove(7)
    assert policy.pick(11 * MS, None).vcoproc_id == 5


@pytest.mark.parametrize(
    ("windows", "why"),
    [
        ([(0, 10_001)], "a table longer than its frame"),
        ([(9_950, 100)], "a table longer than its frame"),
        ([(20_000, 100)], "a table longer than its frame"),
        ([(0, 99)], "shorter than 100 us"),
        ([(500, 1000)], "overlaps the window from 1000 to 3000 us of vcoproc 1"),
        ([(2999, 100)], r"overlaps .* free is 0 to 1000 us"),
        ([(0, 500), (400, 500)], "overlaps .* of vcoproc its own"),
        ([(1000, 7500)], "free is 3000 to 10000 us"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(windows: list[tuple[int, int]], why: str) -> None:
    policy = make(10_000)
    add(policy, 1, (1000, 2000))
    before = pickle.dumps(policy)
    with pytest.raises(InvalidArgument, match=why):
        policy.admit(2, values(*windows))
    assert pickle.dumps(policy) == before


def test_a_full_table_says_so() -> None:
    policy = make(1000)
    add(policy, 1, (0, 1000))
    with pytest.raises(InvalidArgument, match="nothing is free"):
        policy.admit(2, values((0, 100)))
    add(policy, 1, (0, 500))  # its own old window does not count
    equal = make(1000)
    for vcoproc in range(10):
        add(equal, vcoproc)
    with pytest.raises(LimitExceeded):
        equal.admit(10, values())


def test_pick_is_repeatable() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 4000))
    policy.wake(1, 0)
    first = policy.pick(MS, None)
    assert pickle.loads(pickle.dumps(policy)).pick(MS, None) == policy.pick(MS, None) == first


# --- bugs of Xen ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("switch_us", [0, 37])
def test_xen_f2927d83_frames_do_not_drift_over_10000_frames(switch_us: int) -> None:
    """There, each began when the one before was noticed to be over: the 21st 3.5 ms late."""
    random = Random(switch_us)
    refusals_ns = tuple(random.randrange(200) * US for _ in range(7)) if switch_us else (0,)
    policy = make(10_000)
    add(policy, 1, (0, 4000))
    add(policy, 2, (4500, 5500))
    tasks = [Task(1, refuses_ns=refusals_ns), Task(2)]
    loop = DecisionLoop(policy, tasks, switch_ns=switch_us * US)
    loop.run(10_000 * 10 * MS)
    for vcoproc, start_ns in ((1, 0), (2, 4500 * US)):
        begun = [at_ns for who, at_ns in loop.begun if who == vcoproc]
        assert len(begun) == 10_000
        # The first one comes to an empty coprocessor: nobody is saved.
        late_ns = [at_ns - frame * 10 * MS - start_ns for frame, at_ns in enumerate(begun)]
        assert late_ns[0] == switch_us * US // 2
        # Vcoproc 1 comes right after vcoproc 2, which is saved within its window.
        assert set(late_ns[1:]) == {switch_us * US // (1 if vcoproc == 1 else 2)}


def test_xen_5a112163_a_full_table_takes_all_its_windows() -> None:
    """There, the table had no room for the end of a schedule with as many entries as it could."""
    policy = make(100 * 64 * WINDOWS_MAX)
    for vcoproc in range(64):
        first_us = vcoproc * WINDOWS_MAX * 100
        add(policy, vcoproc, *((first_us + 100 * at, 100) for at in range(WINDOWS_MAX)))
        policy.wake(vcoproc, 0)
    for slot in range(64 * WINDOWS_MAX):
        for frame in (0, 3):
            now_ns = (frame * 64 * WINDOWS_MAX + slot) * 100 * US
            decision = policy.pick(now_ns, None)
            assert decision.vcoproc_id == slot // WINDOWS_MAX
            assert decision.until_ns == now_ns + 100 * US


@pytest.mark.parametrize("count", [1, 3, 7])
def test_xen_6d412c05_the_default_table_has_no_idle_gap(count: int) -> None:
    policy = make(10_000)
    for vcoproc in range(count):
        add(policy, vcoproc)
    loop = DecisionLoop(policy, [Task(vcoproc) for vcoproc in range(count)])
    loop.run(50 * MS)
    assert loop.log[0][0] == 0
    assert all(one[1] == two[0] for one, two in pairwise(loop.log))
    assert loop.log[-1][1] == 50 * MS


def test_xen_d0561ac8_two_pools_share_nothing() -> None:
    one, two = make(10_000), make(20_000)
    add(one, 1, (0, 10_000))
    add(two, 1, (0, 20_000))
    one.wake(1, 0)
    assert two.pick(0, None) == NOBODY
    two.wake(1, 0)
    assert one.pick(0, None).until_ns == 10 * MS
    assert two.pick(0, None).until_ns == 20 * MS


def test_xen_23792cc0_a_failed_change_leaves_everything_as_it_was() -> None:
    policy = make(10_000)
    add(policy, 1, (0, 4000))
    add(policy, 2, (4000, 4000))
    policy.wake(1, 0)
    before = pickle.dumps(policy)
    for vcoproc in (1, 2, 3):
        with pytest.raises(InvalidArgument):
            policy.admit(vcoproc, values((3000, 2000), (9000, 2000)))
    assert pickle.dumps(policy) == before
    assert policy.pick(0, None) == Decision(1, 4 * MS, preempt=True, until_ns=4 * MS)
