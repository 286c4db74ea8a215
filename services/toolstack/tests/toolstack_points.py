"""Where an operation can be cut off or disturbed, and what may be found then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolstack_operations import Operation, seal_domain
from toolstack_picture import picture
from toolstack_rig import Rig

Hook = Callable[[str], None]


def make_rig(path: Path, operation: Operation) -> Rig:
    """What is there before the operation."""
    path.mkdir()
    rig = Rig(path)
    rig.seal_domain = seal_domain
    operation.prepare(rig)
    rig.settle()
    return rig


def watch(rig: Rig, hook: Hook) -> None:
    """The hook is called at each point."""
    rig.services.before = lambda _step: hook("before a call")
    rig.services.after = lambda _step: hook("after a call")
    rig.services.scheduling.before = lambda _what: hook("before a call")
    rig.services.scheduling.after = lambda _what: hook("after a call")
    rig.grave.commit = lambda when: hook(f"{when} a commit")
    rig.grave.file = lambda: hook("before a file")


def unwatch(rig: Rig) -> None:
    watch(rig, lambda _kind: None)


def undisturbed(path: Path, operation: Operation) -> tuple[Any, Any, bytes, Counter[str]]:
    """Pictures of before and after, the answer, and how many points of each kind there are."""
    rig = make_rig(path, operation)
    old = picture(rig)
    points: Counter[str] = Counter()
    watch(rig, lambda kind: points.update([kind]))
    answer = operation.act(rig)
    unwatch(rig)
    rig.settle()
    new = picture(rig)
    rig.services.check_reach()
    rig.close()
    return old, new, answer, points


def differences(operation: Operation, old: Any, new: Any, found: Any) -> list[str]:
    """How what was found differs from what was there before, and from what is there after it.

    Nothing, when it is one of the two, or the one thing between.
    """
    if found in (old, new):
        return []
    if operation.between and found["domains"]["fir"]["state"] == operation.between:
        return []
    return [
        f"{key}: {found[key]}; before {old[key]}; after {new[key]}"
        for key in found
        if found[key] not in (old[key], new[key])
    ] or ["some of it is as before, the rest as after"]


def ask_again(
    rig: Rig,
    operation: Operation,
    where: str,
    *,
    answer: bytes,
    new: Any,
    look: Callable[[Any], Any] = lambda found: found,
) -> None:
    """The client asks for the same, with the same id, and everybody is well."""
    again = operation.act(rig)
    rig.settle()
    assert again == answer or again == operation.also, where
    assert look(picture(rig)) == look(new), where
    rig.services.check_reach()
