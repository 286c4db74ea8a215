"""Collections that never change behave as a dict and a list do, and stay as they were."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcoproc_toolstack.frozen import FrozenMap, FrozenRing

KEYS = st.one_of(st.integers(-3, 600), st.text(max_size=2))


@given(st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers())), max_size=20))
def test_a_map_is_a_dict_whose_past_stays(steps: list[tuple[int | str, int | None]]) -> None:
    """None takes the key away."""
    model: dict[int | str, int] = {}
    frozen: FrozenMap[int | str, int] = FrozenMap()
    past = []
    for key, value in steps:
        past.append((frozen, dict(model)))
        if value is None:
            model.pop(key, None)
            frozen = frozen.minus(key)
        else:
            model[key] = value
            frozen = frozen.plus(key, value)
        assert (len(frozen), frozen.get(key)) == (len(model), model.get(key))
    for then, copy in [*past, (frozen, model)]:
        assert dict(then) == copy
    assert dict(FrozenMap(model.items())) == model


@given(st.integers(0, 5), st.lists(st.integers(1, 4), max_size=20))
def test_a_ring_keeps_the_newest(newest: int, kept_max: list[int]) -> None:
    ring: FrozenRing[str] = FrozenRing.of([], newest)
    model: list[str] = []
    for bound in kept_max:
        before = ring
        ring = ring.plus(f"entry {ring.newest + 1}", bound)
        model = [*model, f"entry {ring.newest}"][-bound:]
        kept = [ring[number] for number in range(ring.oldest, ring.newest + 1)]
        assert kept == model
        assert before.newest == ring.newest - 1
        assert FrozenRing.of(model, ring.newest) == ring
    if model:
        other = ring.replaced(ring.newest, "other")
        assert (other[other.newest], ring[ring.newest]) == ("other", model[-1])
