"""The audit log in the store: appended to, completed, read by pages. It is not kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vcoproc import limits
from vcoproc_toolstack.records import CUT_OFF, AuditRecord, Role
from vcoproc_toolstack.store import Store
from vcoproc_toolstack.tables import AUDIT


class AuditLog:
    """Safe for threads.

    Args:
        now_ns: Unix time.

    Raises:
        StoreUnavailable: of every method: the database cannot be used; nothing has changed.
    """

    def __init__(self, store: Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._newest = store.execute(_newest)

    def begin(
        self, *, caller: str, role: Role, method: str, name: str, request: str, before: str
    ) -> int:
        """Notes that a change was asked for; gives the number of the entry.

        The oldest beyond `limits.AUDIT_KEPT_MAX` are forgotten.
        """
        with self._lock:
            number = self._newest + 1
            entry = AuditRecord(
                number, self._now_ns(), caller, role, method, name, request, before, "", ""
            )

            def append(connection: Connection) -> None:
                connection.execute(AUDIT.insert(), _row(entry))
                old = AUDIT.c.number <= number - limits.AUDIT_KEPT_MAX
                connection.execute(AUDIT.delete().where(old))

            self._store.execute(append)
            self._newest = number
            return number

    def complete(self, number: int, *, name: str, after: str, outcome: str) -> None:
        """Notes what became of it."""
        values = _printable({"name": name, "after": after, "outcome": outcome})
        statement = AUDIT.update().where(AUDIT.c.number == number).values(values)
        self._store.execute(lambda connection: connection.execute(statement))

    def complete_cut_off(self) -> None:
        """Completes entries that an earlier toolstack could not complete."""
        statement = AUDIT.update().where(AUDIT.c.outcome == "").values(outcome=CUT_OFF)
        self._store.execute(lambda connection: connection.execute(statement))

    def entries(self, before: int, limit: int) -> list[AuditRecord]:
        """Newest first. before: those with a lower number; 0: all."""
        query = sa.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit)
        if before:
            query = query.where(AUDIT.c.number < before)

        def read(connection: Connection) -> list[AuditRecord]:
            rows = connection.execute(query).mappings()
            return [replace(AuditRecord(**row), role=Role(row["role"])) for row in rows]

        return self._store.execute(read)

    def all_before(self, number: int) -> Iterator[AuditRecord]:
        """The same without end, read as far as somebody looks."""
        while found := self.entries(number, limits.PAGE_SIZE_MAX):
            yield from found
            number = found[-1].number


def _newest(connection: Connection) -> int:
    return int(connection.execute(sa.select(sa.func.max(AUDIT.c.number))).scalar() or 0)


def _row(entry: AuditRecord) -> dict[str, object]:
    values = {name: getattr(entry, name) for name in AUDIT.columns.keys()}  # noqa: SIM118
    return _printable({**values, "role": entry.role.value})


def _printable(values: dict[str, object]) -> dict[str, object]:
    """PostgreSQL keeps no text with a zero byte, and part of a request comes from anybody."""
    return {
        name: value.replace("\0", "\ufffd") if isinstance(value, str) else value
        for name, value in values.items()
    }
