from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcoproc_demo.stats import Times, percentile_ns, times_of
from vcoproc_demo.turns import Turn, Window, contended, held_ns, middle, switches_ns, whole

TURNS = [
    Turn(1, 100, 200, 5),
    Turn(2, 210, 300, 0),
    Turn(3, 310, 330, 7),
    Turn(1, 340, 440, 6),
    Turn(2, 450, 460, 0),
    Turn(3, 470, 900, 0),
]


def test_windows() -> None:
    assert whole(TURNS, (1, 2, 3)) == Window(100, 900)
    assert whole(TURNS, (2,)) == Window(210, 460)
    assert whole(TURNS, (9,)) == Window(0, 0)
    # From the moment the last of them began to the moment the first of them ended.
    assert contended(TURNS, (1, 2, 3)) == Window(310, 440)
    assert contended(TURNS, (1, 2)) == Window(210, 440)


def test_no_contention_is_an_empty_window() -> None:
    alone = [Turn(1, 0, 10, 0), Turn(2, 20, 30, 0)]
    assert contended(alone, (1, 2)).length_ns == 0
    assert contended([], (1, 2)).length_ns == 0


def test_held_time_is_clipped_to_the_window() -> None:
    window = Window(310, 440)
    assert [held_ns(TURNS, one, window) for one in (1, 2, 3)] == [100, 0, 20]
    assert held_ns(TURNS, 1, Window(150, 360)) == 50 + 20


def test_only_real_switches_count() -> None:
    assert switches_ns(TURNS, 1) == [5, 6]
    assert switches_ns(TURNS, 2) == []


def test_the_middle_lies_in_the_window_and_begins_with_a_turn() -> None:
    assert middle(TURNS, Window(100, 900), 200) == Window(450, 650)
    assert middle(TURNS, Window(100, 200), 200) == Window(100, 200)
    assert middle(TURNS, Window(100, 900), 790) == Window(110, 900)


def test_percentiles_by_nearest_rank() -> None:
    # The worked example of nearest rank: of 15 20 35 40 50 the 40th percentile is 20.
    assert percentile_ns([15, 20, 35, 40, 50], 40) == 20
    assert percentile_ns([15, 20, 35, 40, 50], 50) == 35
    assert percentile_ns([7], 99) == 7
    hundred = list(range(1, 101))
    assert (percentile_ns(hundred, 99), percentile_ns(hundred, 100)) == (99, 100)
    assert times_of([30, 10, 20]) == Times(3, 20, 30, 30)
    assert times_of([]) == Times(0, 0, 0, 0)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.integers(1, 100))
def test_a_percentile_is_one_of_the_sample_with_enough_below(sample: list[int], rank: int) -> None:
    found = percentile_ns(sorted(sample), rank)
    assert found in sample
    assert sum(value <= found for value in sample) * 100 >= rank * len(sample)
    assert sum(value < found for value in sample) * 100 < rank * len(sample)
