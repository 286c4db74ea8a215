"""The queue of `credit`: against a list that is searched, and how deep its tree is."""

from __future__ import annotations

import pickle
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcoproc_scheduler.policies.eligible_queue import EligibleQueue

CALLS = st.lists(
    st.tuples(st.integers(0, 12), st.none() | st.tuples(st.integers(0, 20), st.integers(0, 20))),
    max_size=60,
)


@given(calls=CALLS, at=st.integers(-1, 21))
def test_it_finds_what_a_search_finds(
    calls: list[tuple[int, tuple[int, int] | None]], at: int
) -> None:
    queue = EligibleQueue()
    entries: dict[int, tuple[int, int, int]] = {}  # start, end, when it came
    for number, (vcoproc_id, times) in enumerate(calls):
        if times is None:
            queue.drop(vcoproc_id)
            entries.pop(vcoproc_id, None)
        else:
            queue.put(vcoproc_id, *times)
            entries[vcoproc_id] = (*times, number)
        ends = [(end, came, each) for each, (start, end, came) in entries.items() if start <= at]
        starts = [(start, came, each) for each, (start, _, came) in entries.items()]
        first_end, first_start = queue.first_end(at), queue.first_start()
        assert first_end == ((min(ends)[0], min(ends)[2]) if ends else None)
        assert first_start == ((min(starts)[0], min(starts)[2]) if starts else None)
    assert pickle.loads(pickle.dumps(queue)).first_end(at) == queue.first_end(at)


@pytest.mark.parametrize("order", ["rising", "falling", "equal", "zigzag", "random"])
def test_its_tree_is_shallow_in_whatever_order_they_come(order: str) -> None:
    count, random = 4096, Random(1)
    queue = EligibleQueue()
    for number in range(count):
        start = {
            "rising": number,
            "falling": -number,
            "equal": 0,
            "zigzag": number if number % 2 else -number,
            "random": random.randrange(count),
        }[order]
        queue.put(number, start, start)
    level, depth = [queue._root], 0
    while level:
        depth += 1
        level = [below for node in level if node for below in (node.low, node.high) if below]
    assert depth <= 4 * count.bit_length()
