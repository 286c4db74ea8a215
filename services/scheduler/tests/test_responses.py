"""How long a vcoproc took from a wake until it had run for so long: by hand, and by brute force."""

from __future__ import annotations

from random import Random

import pytest

from vcoproc.limits import MS, US, S
from vcoproc_scheduler.accounting import Account, Bucket
from vcoproc_scheduler.responses import WORK_STEPS_NS, Responses, work_step_ns

BEGAN_NS = 500 * MS


def account() -> Account:
    made = Account()
    made.open(Bucket.SLEEP, 0)
    made.watch(0)
    return made


def play(made: Account, at_ns: int, *stretches: tuple[Bucket, int]) -> int:
    """Gives when the last one ended."""
    for bucket, for_ns in stretches:
        made.move(bucket, at_ns)
        at_ns += for_ns
    return at_ns


SLEEP, WAIT, SWITCH, RUN, REFUSED, FAULT = Bucket


def test_steps_have_one_digit() -> None:
    assert WORK_STEPS_NS[:11] == tuple(each * US for each in (*range(10, 100, 10), 100, 200))
    assert WORK_STEPS_NS[-1] == 1000 * S
    assert list(WORK_STEPS_NS) == sorted(set(WORK_STEPS_NS))
    for work_ns, step_ns in (
        (0, 0), (10 * US - 1, 0), (10 * US, 10 * US), (1_999 * US, 1 * MS), (3 * MS, 3 * MS),
        (1 << 62, 1000 * S),
    ):  # fmt: skip
        assert work_step_ns(work_ns) == step_ns


def test_a_job_in_two_turns() -> None:
    made = account()
    end_ns = play(
        made, BEGAN_NS, (WAIT, 2 * MS), (SWITCH, 10 * US), (RUN, 1 * MS), (SWITCH, 10 * US),
        (WAIT, 4 * MS), (REFUSED, 5 * US), (SWITCH, 10 * US), (RUN, 2 * MS),
    )  # fmt: skip
    made.move(SLEEP, end_ns)
    first_ns, second_ns = 2010 * US, 2010 * US + 4025 * US
    assert made.response_ns(10 * US, None) == first_ns + 10 * US
    assert made.response_ns(1 * MS, None) == first_ns + 1 * MS
    assert made.response_ns(2 * MS, None) == second_ns + 2 * MS
    assert made.response_ns(2_999 * US, None) == second_ns + 2 * MS
    assert made.response_ns(3 * MS, None) == second_ns + 3 * MS == end_ns - BEGAN_NS
    assert made.response_ns(1 * S, None) == end_ns - BEGAN_NS, "it never wanted more"
    assert made.response_ns(9_999, None) == 0, "less than the first step"


def test_the_longest_counts() -> None:
    """A short job that waited for long is one with no more work than that."""
    made = account()
    at_ns = play(made, BEGAN_NS, (WAIT, 9 * MS), (RUN, 150 * US), (SLEEP, 1 * S))
    at_ns = play(made, at_ns, (WAIT, 1 * MS), (RUN, 5 * MS), (SLEEP, 1 * S))
    made.move(SLEEP, at_ns)
    assert made.response_ns(100 * US, None) == 9_100 * US
    assert made.response_ns(200 * US, None) == 9_150 * US
    assert made.response_ns(5 * MS, None) == 9_150 * US
    at_ns = play(made, at_ns, (WAIT, 5 * MS), (RUN, 5 * MS))
    made.move(SLEEP, at_ns)
    assert made.response_ns(5 * MS, None) == 10 * MS
    assert made.response_ns(4 * MS, None) == 9_150 * US


def test_the_present_job_counts() -> None:
    made = account()
    play(made, BEGAN_NS, (WAIT, 0))
    assert made.response_ns(1 * MS, None) == 0
    assert made.response_ns(1 * MS, BEGAN_NS + 7 * MS) == 7 * MS, "it waits still"
    play(made, BEGAN_NS + 8 * MS, (RUN, 0))
    now_ns = BEGAN_NS + 8 * MS + 1500 * US
    assert made.response_ns(1 * MS, now_ns) == 9 * MS
    assert made.response_ns(2 * MS, now_ns) == 9_500 * US
    assert made.response_ns(2 * MS, None) == 0, "to ask changes nothing"
    made.move(SLEEP, now_ns)
    assert made.response_ns(2 * MS, now_ns + 1 * S) == 9_500 * US, "it sleeps"


def test_a_job_that_wakes_where_it_was_does_not_wait() -> None:
    made = account()
    at_ns = play(made, BEGAN_NS, (RUN, 3 * MS), (SLEEP, 4 * MS), (RUN, 2 * MS))
    made.move(SLEEP, at_ns)
    assert made.response_ns(1 * S, None) == 3 * MS


def test_who_sleeps_in_vain_goes_on_waiting() -> None:
    """Its grant came to nothing, and in the same moment it said that it wants to run."""
    made = account()
    play(made, BEGAN_NS, (WAIT, 4 * MS), (SLEEP, 0), (WAIT, 5 * MS), (RUN, 1 * MS), (SLEEP, 0))
    assert made.response_ns(1 * MS, None) == 10 * MS
    made = account()
    play(made, BEGAN_NS, (WAIT, 4 * MS), (SLEEP, 1), (WAIT, 5 * MS), (RUN, 1 * MS), (SLEEP, 0))
    assert made.response_ns(1 * MS, None) == 6 * MS, "it did sleep: another job"


def test_a_wait_that_ends_with_sleep_is_no_response() -> None:
    """Its domain was paused, say: what it had run by then counts, the wait does not."""
    made = account()
    play(made, BEGAN_NS, (WAIT, 1 * MS), (RUN, 1 * MS), (WAIT, 90 * MS), (SLEEP, 1 * S))
    assert made.response_ns(1 * S, None) == 2 * MS
    play(made, BEGAN_NS + 1 * S, (WAIT, 90 * MS), (FAULT, 1 * S), (WAIT, 3 * MS), (RUN, 1 * MS))
    made.close(BEGAN_NS + 3 * S)
    assert made.response_ns(1 * MS, BEGAN_NS + 4 * S) == 4 * MS


@pytest.mark.parametrize("how", ["yield", "watch"])
def test_what_is_not_watched(how: str) -> None:
    """Who yields is not sure of anything; who woke before a change was sure of something else."""
    made = account()
    at_ns = play(made, BEGAN_NS, (WAIT, 1 * MS), (RUN, 1 * MS), (WAIT, 0))
    if how == "yield":
        made.yielded()
    else:
        made.watch(at_ns + 1)
    known_ns = made.response_ns(1 * S, None)
    assert known_ns == (2 * MS if how == "yield" else 0)
    at_ns = play(made, at_ns, (WAIT, 70 * MS), (RUN, 5 * MS), (WAIT, 6 * MS), (RUN, 1 * MS))
    assert made.response_ns(1 * S, at_ns) == known_ns
    view = made.view(at_ns)
    assert (view.wait_max_ns, view.wait_watched_ns) == (70 * MS, 6 * MS), "but the next wait is"
    made.move(SLEEP, at_ns)
    at_ns = play(made, at_ns + 1 * MS, (WAIT, 4 * MS), (RUN, 1 * MS))
    assert made.response_ns(1 * S, at_ns) == 5 * MS, "and the next job"


def test_against_every_nanosecond() -> None:
    """Brute force, on steps of 10 us: when had it run for so long?"""
    for seed in range(30):
        random = Random(seed)
        made, at_ns = Responses(), 0
        jobs: list[list[int]] = []
        """Of each job, when it had run for 10, 20, 30, ... us."""
        for _ in range(random.randint(1, 6)):
            made.wake(at_ns, watched=True)
            woke_ns, ended = at_ns, []
            for _ in range(random.randint(1, 8)):
                at_ns += random.randint(0, 90) * 10 * US
                tens = random.randint(1, 60)
                ended += [at_ns - woke_ns + (ten + 1) * 10 * US for ten in range(tens)]
                at_ns += tens * 10 * US
                made.ran(tens * 10 * US, at_ns)
            made.sleep()
            jobs.append(ended)
            at_ns += random.randint(0, 500) * US
        for work_ns in WORK_STEPS_NS[:40]:
            place = work_ns // (10 * US)
            longest_ns = max(ended[min(place, len(ended)) - 1] for ended in jobs)
            assert made.longest_ns(work_ns) == longest_ns, f"seed {seed}, {work_ns} ns"
