"""The store: numbers, revisions, answers, and what it does with files that are not its own."""

from __future__ import annotations

import sqlite3
import stat
import threading
from itertools import count
from pathlib import Path

import pytest

from vcoproc import limits
from vcoproc.errors import InvalidArgument, RevisionGone, StoreUnavailable
from vcoproc_toolstack.records import DomainRecord, EventKind, Life
from vcoproc_toolstack.store import Store


def make(path: Path) -> Store:
    clock = count(1)
    return Store(path / "store.db", lambda: next(clock))


def domain(domid: int, name: str) -> DomainRecord:
    return DomainRecord(domid, name, Life.ALIVE, 4096, b"secret", ("kernel",), ())


def add_events(store: Store, number: int) -> None:
    for _ in range(number):
        with store.change() as change:
            change.add_event("domains/a", EventKind.CHANGED, "something")


def test_the_file_is_private_and_its_contents_outlast_the_process(tmp_path: Path) -> None:
    store = make(tmp_path)
    with store.change() as change:
        change.add_domain(domain(3, "a"))
    store.close()
    assert stat.S_IMODE((tmp_path / "store.db").stat().st_mode) == 0o600
    store = make(tmp_path)
    with store.read() as view:
        assert view.domains() == [domain(3, "a")]
    store.close()


def test_a_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = make(tmp_path)
    with pytest.raises(ValueError, match="no"), store.change() as change:
        change.add_domain(domain(1, "a"))
        change.add_event("domains/a", EventKind.CREATED, "")
        raise ValueError("no")
    with store.read() as view:
        assert (view.domains(), view.revision()) == ([], 1)
    store.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be one" * 50])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "store.db").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"store: cannot use .*store\.db"):
        make(tmp_path)
    assert (tmp_path / "store.db").read_bytes() == content


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    make(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(InvalidArgument, match="version 99"):
        make(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot use"):
        make(tmp_path / "nowhere")


def test_a_disk_that_is_full_is_told_as_such(tmp_path: Path) -> None:
    store = make(tmp_path)
    full = pytest.raises(
        StoreUnavailable, match=r"store .*store\.db cannot be used: database or disk is full"
    )
    with full, store.change() as change:
        # What SQLite itself says when a file may not grow.
        change._connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for number in range(1, 1000):
            change.add_domain(domain(number, f"{number}-" + "x" * 60))
    with store.read() as view:
        assert view.domains() == []
    store.close()


# --- numbers --------------------------------------------------------------------------------------


def test_domids_rise_and_begin_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DOMID_MAX", 4)
    store = make(tmp_path)
    with store.change() as change:
        assert [change.next_domid() for _ in range(3)] == [1, 2, 3]
        change.add_domain(domain(1, "a"))
        change.add_domain(domain(4, "b"))
        assert [change.next_domid() for _ in range(3)] == [2, 3, 2]
    store.close()


# --- events ---------------------------------------------------------------------------------------


def test_revisions_rise_by_one_and_a_list_before_the_first_event_says_1(tmp_path: Path) -> None:
    """0 would mean "from now on" to a watch: what comes between list and watch would be lost."""
    store = make(tmp_path)
    with store.read() as view:
        assert view.revision() == 1
        assert view.events(1) == []
    add_events(store, 3)
    with store.read() as view:
        assert [event.revision for event in view.events(1)] == [2, 3, 4]
        assert [event.revision for event in view.events(3)] == [4]
        assert [event.time_ns for event in view.events(1)] == [1, 2, 3]
    store.close()


def test_old_events_go_and_a_late_watcher_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 5)
    store = make(tmp_path)
    add_events(store, 20)
    with store.read() as view:
        assert view.revision() == 21
        assert [event.revision for event in view.events(16)] == [17, 18, 19, 20, 21]
        for gone in (0, 1, 15):
            with pytest.raises(RevisionGone) as caught:
                view.events(gone)
            assert caught.value.oldest == 17
    store.close()


def test_a_revision_that_never_was_is_gone(tmp_path: Path) -> None:
    """A watcher of another store, that was lost: it must list again."""
    store = make(tmp_path)
    with store.read() as view:
        for never in (2, 2**63, 2**64 - 1):
            with pytest.raises(RevisionGone):
                view.events(never)
    store.close()


def test_revisions_go_on_over_a_restart(tmp_path: Path) -> None:
    store = make(tmp_path)
    add_events(store, 2)
    store.close()
    store = make(tmp_path)
    add_events(store, 1)
    with store.read() as view:
        assert view.revision() == 4
    store.close()


def test_a_waiter_is_woken_by_an_event(tmp_path: Path) -> None:
    store = make(tmp_path)
    got: list[int] = []
    waits = threading.Event()

    def stopped() -> bool:
        waits.set()
        return False

    def wait() -> None:
        got.extend(event.revision for event in store.wait_for_events(1, stopped))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(10)
    add_events(store, 1)
    thread.join(10)
    assert got == [2]
    store.close()


def test_a_waiter_can_be_told_to_stop(tmp_path: Path) -> None:
    store = make(tmp_path)
    stop = threading.Event()
    waits = threading.Event()
    got: list[object] = []

    def stopped() -> bool:
        waits.set()
        return stop.is_set()

    thread = threading.Thread(target=lambda: got.append(store.wait_for_events(1, stopped)))
    thread.start()
    assert waits.wait(10)
    stop.set()
    store.wake()
    thread.join(10)
    assert got == [[]]
    store.close()


def test_reading_does_not_wait_for_a_change(tmp_path: Path) -> None:
    store = make(tmp_path)
    with store.change() as change:
        change.add_domain(domain(1, "a"))
        with store.read() as view:
            assert view.domains() == []
    store.close()


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_kept_up_to_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_KEPT_MAX", 2)
    store = make(tmp_path)
    for name in ("a", "b", "c"):
        with store.change() as change:
            change.add_answer(name, b"print", name.encode())
    with store.read() as view:
        assert [view.answer(name, b"print") for name in ("a", "b", "c")] == [None, b"b", b"c"]
    store.close()
