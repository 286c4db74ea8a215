"""Waits for clients: each ends, and the one that has lasted longest makes room for another."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from vcoproc.limits import MS, S
from vcoproc.runtime.client_waits import ClientWaits, GivenUp

TIMEOUT_S = 20


@pytest.fixture
def own_threads() -> Callable[[], list[threading.Thread]]:
    """The threads that have begun to watch waits since the test began."""
    before = set(threading.enumerate())
    return lambda: [
        thread
        for thread in threading.enumerate()
        if thread.name == "client waits" and thread not in before
    ]


class Waiter:
    """A thread that waits until it is given up."""

    def __init__(self, waits: ClientWaits) -> None:
        self._waits = waits
        self._given_up = threading.Event()
        self.outcome: BaseException | None = None
        self.began = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.began.wait(TIMEOUT_S)

    def _run(self) -> None:
        try:
            with self._waits.bounded(self._given_up.set):
                self.began.set()
                self._given_up.wait(TIMEOUT_S)
        except GivenUp as error:
            self.outcome = error

    def has_ended(self) -> bool:
        return not self.thread.is_alive()

    def end(self) -> None:
        self._given_up.set()
        self.thread.join(TIMEOUT_S)


def test_one_that_lasts_too_long_is_given_up() -> None:
    waiter = Waiter(ClientWaits(20 * MS))
    waiter.thread.join(TIMEOUT_S)
    assert isinstance(waiter.outcome, GivenUp)


def test_one_that_ends_in_time_is_left_alone() -> None:
    waits = ClientWaits(1000 * S)
    called: list[str] = []
    for _ in range(1000):
        with waits.bounded(lambda: called.append("given up")):
            pass
    assert not called


def test_the_oldest_makes_room() -> None:
    waits = ClientWaits(1000 * S, 3)
    waiters = [Waiter(waits) for _ in range(3)]
    fourth = Waiter(waits)
    waiters[0].thread.join(TIMEOUT_S)
    assert isinstance(waiters[0].outcome, GivenUp)
    assert not any(waiter.has_ended() for waiter in (*waiters[1:], fourth))
    for waiter in (*waiters[1:], fourth):
        waiter.end()
        assert waiter.outcome is None, "it ended by itself"


def test_an_error_inside_comes_out_as_it_is() -> None:
    waits = ClientWaits(1000 * S, 1)
    with pytest.raises(ZeroDivisionError), waits.bounded(lambda: None):
        raise ZeroDivisionError
    given_up = threading.Event()
    with pytest.raises(ZeroDivisionError), waits.bounded(given_up.set):
        with waits.bounded(lambda: None):
            pass
        assert given_up.is_set()
        raise ZeroDivisionError


def test_nothing_runs_when_nobody_waits(own_threads: Callable[[], list[threading.Thread]]) -> None:
    waits = ClientWaits(20 * MS)
    Waiter(waits).thread.join(TIMEOUT_S)
    for thread in own_threads():
        thread.join(TIMEOUT_S)
    assert own_threads() == []
    waiter = Waiter(waits)
    waiter.thread.join(TIMEOUT_S)
    assert isinstance(waiter.outcome, GivenUp), "and it begins anew"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_of_one_does_not_leave_the_others_without_end(
    own_threads: Callable[[], list[threading.Thread]],
) -> None:
    waits = ClientWaits(20 * MS)
    called = threading.Event()

    def bug() -> None:
        called.set()
        raise ZeroDivisionError

    def wait(give_up: Callable[[], None]) -> None:
        with waits.bounded(give_up):
            called.wait(TIMEOUT_S)

    with pytest.raises(GivenUp):
        wait(bug)
    for thread in own_threads():
        thread.join(TIMEOUT_S)
    waiter = Waiter(waits)
    waiter.thread.join(TIMEOUT_S)
    assert isinstance(waiter.outcome, GivenUp)
