"""Services fail at each step of each operation: all of it or nothing, and nothing is left over.

At each call of another service: it refuses, its answer is lost, the service is silent from then on,
or a coproc-sim dies. At each change of the store: it is not kept, or nobody
knows whether it was. Then everybody is well again, and repairs do the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from toolstack_fakes import RESET
from toolstack_operations import OPERATIONS, Operation
from toolstack_picture import picture
from toolstack_points import ask_again, differences, make_rig, undisturbed, unwatch
from toolstack_rig import REFUSED, Rig

from vcoproc.errors import PeerLost, StoreUnavailable, VcoprocError
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.steps import (
    MEMORY,
    ForgetContext,
    SaveContext,
    Step,
    service_of,
)

STORE_LOST = StoreUnavailable("store.db", "the disk is full")
Trouble = Callable[[Rig, Step], None]


def refuse(rig: Rig, step: Step) -> None:
    if service_of(step) == MEMORY:
        rig.marked.append(MEMORY)
    raise REFUSED


def lose(_rig: Rig, step: Step) -> None:
    if service_of(step) != MEMORY:
        raise PeerLost(service_of(step))


def fall_silent(rig: Rig, step: Step) -> None:
    if service_of(step) != MEMORY:
        rig.services.down.add(service_of(step))
        raise PeerLost(service_of(step))


def die(rig: Rig, step: Step) -> None:
    """The coproc-sim of this step dies, with every context that it has."""
    service = service_of(step)
    if service.startswith("coproc/"):
        rig.unlease(service.removeprefix("coproc/"))
        raise PeerLost(service)


CALLS: dict[str, tuple[str, Trouble]] = {
    "refuses": ("before", refuse),
    "loses the answer": ("after", lose),
    "falls silent": ("before", fall_silent),
    "falls silent after it": ("after", fall_silent),
    "dies": ("before", die),
    "dies after it": ("after", die),
}


def disturb(rig: Rig, trouble: str, place: int) -> None:
    """The call with this number goes wrong, once."""
    when, act = CALLS[trouble]
    seen: Counter[str] = Counter()

    def hook(step: Step) -> None:
        seen["calls"] += 1
        if seen["calls"] == place + 1:
            act(rig, step)

    setattr(rig.services, when, hook)


def recover(rig: Rig) -> None:
    """Everybody is well again; coproc-sims that died are started again."""
    rig.services.down.clear()
    unwatch(rig)
    for name in rig.simulated:
        if rig.leases.get(name) is None:
            rig.lease_again(name)
    rig.settle()


def without_labels(found: Any) -> Any:
    """A picture without what is lost with a coproc-sim that dies."""
    seats = {name: (seat[0], *seat[2:]) for name, seat in found["coprocs"].items()}
    return {**found, "coprocs": seats}


@pytest.mark.slow
@pytest.mark.parametrize("trouble", CALLS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_whatever_call_fails_it_is_all_or_nothing(
    short_path: Path, operation: Operation, trouble: str
) -> None:
    old, new, answer, points = undisturbed(short_path / "undisturbed", operation)
    look = without_labels if trouble.startswith("dies") else lambda found: found
    for place in range(points["before a call"]):
        rig = make_rig(short_path / str(place), operation)
        disturb(rig, trouble, place)
        done = False
        with suppress(VcoprocError):
            given = operation.act(rig)
            done = True
            assert given in (answer, operation.also)
        rig.services.check_reach()
        recover(rig)
        if MEMORY in rig.marked:
            rig.restart()  # takes away what could not be removed
        where = f"call {place} {trouble}"
        found = picture(rig)
        if operation.also and trouble == "refuses" and is_given_up(rig):
            rig.close()
            continue  # it was to be started again, and that was refused
        differs = differences(operation, look(old), look(new), look(found))
        assert not differs, where
        if done:
            assert look(found) == look(new), f"{where}; it was acknowledged"
        if not (operation.once and found == new):
            ask_again(rig, operation, where, answer=answer, new=new, look=look)
        rig.close()


def is_given_up(rig: Rig) -> bool:
    """Whether "fir" is left STOPPED and whole, with the reason."""
    [domain] = rig.domains()
    given_up = domain.state is DomainState.STOPPED and domain.ending is None
    if given_up:
        assert "could not be started again" in domain.state_reason
        assert picture(rig)["coprocs"] == picture(rig)["memory"] == {}
    return given_up


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_whatever_change_of_the_store_fails_it_is_all_or_nothing(
    short_path: Path, operation: Operation, when: str
) -> None:
    """after: it was kept, but the connection broke before the store could say so."""
    old, new, answer, points = undisturbed(short_path / "undisturbed", operation)
    for place in range(points["before a commit"]):
        rig = make_rig(short_path / str(place), operation)
        seen: Counter[str] = Counter()

        def fail(each: str, place: int = place, seen: Counter[str] = seen) -> None:
            seen[each] += 1
            if each == when and seen[when] == place + 1:
                raise STORE_LOST

        rig.grave.commit = fail
        done = False
        with suppress(VcoprocError):
            operation.act(rig)
            done = True
        rig.services.check_reach()
        recover(rig)
        where = f"{when} commit {place}"
        found = picture(rig)
        differs = differences(operation, old, new, found)
        assert not differs, where
        if done:
            assert found == new, f"{where}; it was acknowledged"
        if not (operation.once and found == new):
            ask_again(rig, operation, where, answer=answer, new=new)
        rig.close()


MOVE = next(each for each in OPERATIONS if each.name == "move")


@pytest.mark.slow
@pytest.mark.parametrize("coproc", ["dsp0", "ncore-0"])
def test_a_move_keeps_the_context_although_one_of_the_two_dies(
    short_path: Path, coproc: str
) -> None:
    """The old one may die as soon as it has written the context down; the new one at any time until
    the vcoproc is about to run there: from then on it could only go back to what it was."""
    for place in count():
        rig = make_rig(short_path / str(place), MOVE)
        seen: list[Step] = []

        def hook(step: Step, rig: Rig = rig, place: int = place, seen: list[Step] = seen) -> None:
            if len(seen) == place:
                rig.unlease(coproc)
            seen.append(step)

        rig.services.before = hook
        with suppress(VcoprocError):
            MOVE.act(rig)
        if len(seen) == place:
            break  # it died after everything
        recover(rig)
        [label] = {
            seat.label
            for seats in rig.services.attached.values()
            for number, seat in seats.items()
            if number == 1
        }
        done, begun = ({type(step) for step in seen[: place + more]} for more in (0, 1))
        kept = SaveContext in done if coproc == "dsp0" else ForgetContext not in begun
        assert label == ("worked" if kept else RESET), f"call {place}"
        rig.close()
    assert place == 12, "all calls of a move"
    rig.close()
