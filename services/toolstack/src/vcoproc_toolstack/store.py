"""The durable part of the toolstack: desired state, events and answers, in a database.

Theory of operation:
    Reads are served from memory (`view`) and never wait: not for a change, not for the database. A
    change (`change`) is made on that memory by one thread at a time, its rows are written in one
    transaction (`database`), and only then it is what everybody sees. The rows are read when the
    toolstack starts, and again when nobody knows what became of a transaction.
Failure:
    While the database cannot be written, every change is refused (StoreUnavailable) and changes
    nothing. What has happened already cannot be refused: such notes wait, within a bound, until the
    database is back. `recover`, and every change, tries whether it is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vcoproc import limits
from vcoproc.errors import InvalidArgument, StoreUnavailable
from vcoproc_toolstack.change import CHANGE_COUNT, Change
from vcoproc_toolstack.database import open_database
from vcoproc_toolstack.loading import load, select
from vcoproc_toolstack.migrations import prepare
from vcoproc_toolstack.records import ACTOR, EventKind, EventRecord
from vcoproc_toolstack.rows import NUMBERS, Row
from vcoproc_toolstack.tables import META
from vcoproc_toolstack.view import State, View
from vcoproc_toolstack.writes import Write

__all__ = ["Change", "Store", "View"]

T = TypeVar("T")
Note = Callable[[Change], None]
"""Tells a change what has happened. Must not refuse."""
_NAME: Final = "services/store"
"""Of events about the store itself."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A note that is not kept yet: when it was told, and who caused it; see `ACTOR`."""

    note: Note
    time_ns: int
    actor: str


class Store:
    """The database and its contents. Safe for any number of threads.

    Args:
        target: path of a SQLite file, or postgresql:// URL.
        now_ns: Unix time, for events.
        failed: is told each time that the database could not be used, so that somebody calls
            `recover` later.

    Attributes:
        reread: is told what the store says whenever it had to be read again, before anybody sees
            it. Must not change anything.

    Raises:
        InvalidArgument: it is no store, is of a newer version, or another toolstack has it.
    """

    def __init__(
        self,
        target: Path | str,
        now_ns: Callable[[], int],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._now_ns = now_ns
        self._failed = failed
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._published = 0
        self._notes: deque[_Waiting] = deque(maxlen=limits.NOTES_WAITING_MAX)
        self._notes_in_doubt: list[_Waiting] = []
        self._change_in_doubt = False
        self._notes_lost = 0
        self.reread: Callable[[View], None] = lambda _view: None
        self._database = open_database(target)
        self.name = self._database.name
        try:
            self._state = self._database.run(self._open)
        except StoreUnavailable as error:
            self._database.close()
            raise InvalidArgument("store", f"cannot use {self.name}: {error.why}") from error
        except BaseException:
            self._database.close()
            raise
        self._database.check = self._recognise

    def _open(self, connection: Connection) -> State:
        prepare(connection, self.name)
        state = load(connection)
        # Whoever had it before and comes back finds that it is not what they knew.
        change = Change(state, self._select, self._now_ns)
        _write(connection, change.writes(always=True))
        return change.state

    def _recognise(self, connection: Connection) -> None:
        """Whether a database that was lost for a while is as we left it.

        Raises:
            StoreUnavailable: somebody else has changed it, or it is an older copy.
        """
        query = sa.select(META.c.value).where(META.c.key == CHANGE_COUNT)
        count = connection.execute(query).scalar()
        ours = _count(self._state)
        if count != ours and not (self._database.in_doubt and count == ours + 1):
            why = "it is not as this toolstack left it; restart the toolstack to go on with it"
            raise StoreUnavailable(self.name, why)

    def _select(self, query: sa.Select[Any]) -> list[Row]:
        return self._database.run(lambda connection: select(connection, query))

    @contextmanager
    def read(self) -> Iterator[View]:
        """One moment of the store."""
        yield View(self._state, self._select)

    @contextmanager
    def change(self) -> Iterator[Change]:
        """A change, kept when the block ends without an exception. Watchers are woken.

        Raises:
            StoreUnavailable: it cannot be kept; nothing has changed.
        """
        with self._told(), self._write_lock:
            self._settle()
            change = Change(self._state, self._select, self._now_ns)
            yield change
            try:
                self._keep(change)
            except StoreUnavailable:
                self._change_in_doubt = self._database.in_doubt
                raise

    def execute(self, work: Callable[[Connection], T]) -> T:
        """Does some work, in one transaction, on tables that are not kept in memory.

        Raises:
            StoreUnavailable: nothing of it is kept.
        """
        with self._told(), self._write_lock:
            self._settle()
            return self._database.run(work)

    def note(self, note: Note) -> None:
        """Keeps what has happened and cannot be refused: now, or when the database is back.

        Of those that wait, the oldest beyond `limits.NOTES_WAITING_MAX` are forgotten, and an event
        says so.
        """
        with self._write_lock:
            self._notes_lost += len(self._notes) == self._notes.maxlen
            self._notes.append(_Waiting(note, self._now_ns(), ACTOR.get()))
            try:
                self._settle()
            except StoreUnavailable:
                self._failed()

    def find_out(self) -> None:
        """Finds out whether the last change was kept, if that is in doubt.

        Events and the audit log may be in doubt still: nobody acts on them.

        Raises:
            StoreUnavailable: the database cannot be used yet.
        """
        if self._change_in_doubt:
            with self._write_lock:
                self._read_again()

    def recover(self) -> None:
        """Keeps the notes that wait, and finds out what is in doubt.

        Raises:
            StoreUnavailable: the database cannot be used yet.
        """
        with self._write_lock:
            self._settle()

    def _settle(self) -> None:
        """What is left of the time when the database could not be used. The lock is held.

        Raises:
            StoreUnavailable: it cannot be used yet.
        """
        self._read_again()
        if not self._notes:
            return
        change = Change(self._state, self._select, self._now_ns)
        try:
            for each in self._notes:
                change.happened(each.time_ns, each.actor)
                each.note(change)
            if self._notes_lost:
                words = f"{self._notes_lost} events were lost while it could not be written"
                change.add_event(_NAME, EventKind.CHANGED, words)
            self._keep(change)
        except StoreUnavailable:
            if self._database.in_doubt:
                self._notes_in_doubt = list(self._notes)
            raise
        except BaseException:
            self._notes.clear()  # a bug: it would fail again, and every change with it
            raise
        self._notes.clear()
        self._notes_lost = 0

    def _read_again(self) -> None:
        """Finds out what is in doubt, if anything is. The lock is held. Raises: as `_settle`."""
        if self._database.in_doubt:
            state = self._database.run(load)
            self._database.in_doubt = self._change_in_doubt = False
            if _count(state) > _count(self._state):
                for each in self._notes_in_doubt:
                    if self._notes and self._notes[0] is each:
                        self._notes.popleft()
            self._notes_in_doubt = []
            self.reread(View(state, self._select))
            self._publish(state)

    def _keep(self, change: Change) -> None:
        if writes := change.writes():
            self._database.run(lambda connection: _write(connection, writes))
        change.kept()
        if writes:
            self._publish(change.state)

    def _publish(self, state: State) -> None:
        self._state = state
        with self._changed:
            self._published += 1
            self._changed.notify_all()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable:
            self._failed()
            raise

    def wait_for_events(self, after: int, stopped: Callable[[], bool]) -> list[EventRecord]:
        """Events after a revision; waits until there are some or `stopped` (see `wake`).

        Raises:
            RevisionGone: see `View.events`.
        """
        while True:
            with self._changed:
                seen = self._published
            events = View(self._state, self._select).events(after)
            if events or stopped():
                return events
            with self._changed:
                while self._published == seen and not stopped():
                    self._changed.wait()

    def wake(self) -> None:
        """Lets everybody in `wait_for_events` look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        self._database.close()


def _count(state: State) -> int:
    return state.records(NUMBERS).get(CHANGE_COUNT, 0)


def _write(connection: Connection, writes: list[Write]) -> None:
    for statement, rows in writes:
        connection.execute(statement, rows)
