"""The toolstack is killed at each step of each operation: nothing half is left, nothing is lost.

A point is a call of another service or a change of the store, before and after it takes effect, or
a use of a memory file. What dies there has no effect any more, not even by a `finally`. Another
toolstack takes its place over the same store and files; coproc-sims come back to it one by one.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from toolstack_fakes import Killed
from toolstack_operations import OPERATIONS, Operation
from toolstack_picture import picture
from toolstack_points import ask_again, differences, make_rig, undisturbed, unwatch, watch
from toolstack_rig import Rig


def kill_at(rig: Rig, kind: str, place: int) -> None:
    seen: Counter[str] = Counter()

    def hook(each: str) -> None:
        if each == kind and seen[kind] == place:
            rig.grave.dead = True
            raise Killed
        seen[each] += 1

    watch(rig, hook)


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_killed_at_any_point_nothing_half_is_left(short_path: Path, operation: Operation) -> None:
    old, new, answer, points = undisturbed(short_path / "undisturbed", operation)
    assert points["before a commit"] == points["after a commit"]
    assert points["before a call"] >= points["after a call"], "who is offline is called in vain"
    for kind, count in points.items():
        for place in range(count):
            rig = make_rig(short_path / f"{kind} {place}".replace(" ", "-"), operation)
            kill_at(rig, kind, place)
            with pytest.raises(Killed):
                operation.act(rig)
            unwatch(rig)
            rig.reborn()
            rig.services.check_reach()
            rig.settle()
            where = f"killed {kind} {place}"
            found = picture(rig)
            differs = differences(operation, old, new, found)
            assert not differs, where
            if not (operation.once and found == new):
                ask_again(rig, operation, where, answer=answer, new=new)
            rig.close()
