"""Reads the whole store into memory."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vcoproc_toolstack.frozen import FrozenMap, FrozenRing
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord
from vcoproc_toolstack.rows import KEYED, Keyed, Row, to_domain, to_event, to_vcoproc
from vcoproc_toolstack.tables import DOMAINS, EVENTS, REQUESTS, VCOPROCS
from vcoproc_toolstack.view import FIRST_REVISION, Answer, KeptEvent, State


def load(connection: Connection) -> State:
    """Everything that the tables hold."""
    events = _tail(connection, EVENTS)
    newest = events[-1]["revision"] if events else FIRST_REVISION
    kept = [KeptEvent(to_event(row), row["resource"] or b"") for row in events]
    requests = _tail(connection, REQUESTS)
    answers = [Answer(row["request_id"], row["fingerprint"], row["answer"]) for row in requests]
    state = State(
        keyed=FrozenMap((kind.table.name, _records(connection, kind)) for kind in KEYED),
        events=FrozenRing.of(kept, newest),
        answers=FrozenRing.of(answers, requests[-1]["serial"] if requests else 0),
        serials=FrozenMap((row["request_id"], row["serial"]) for row in requests),
    )
    for domain in _domains(connection):
        state = state.with_domain(domain.domid, domain)
    return state


def _domains(connection: Connection) -> list[DomainRecord]:
    domains = select(connection, sa.select(DOMAINS))
    owners = {row["domid"]: (row["name"], row["state"]) for row in domains}
    vcoprocs: dict[int, list[VcoprocRecord]] = {domid: [] for domid in owners}
    for row in select(connection, sa.select(VCOPROCS)):
        vcoprocs[row["domid"]].append(to_vcoproc(row, *owners[row["domid"]]))
    return [to_domain(row, vcoprocs[row["domid"]]) for row in domains]


def _records(connection: Connection, kind: Keyed[Any, Any]) -> FrozenMap[Any, Any]:
    rows = select(connection, sa.select(kind.table))
    return FrozenMap((kind.key_of(row), kind.to_record(row)) for row in rows)


def _tail(connection: Connection, table: sa.Table) -> list[Row]:
    """Rows that are numbered by their first column, oldest first: the last ones without a gap.

    What is before a gap, which somebody else has made, is forgotten.
    """
    number = table.columns[0]
    rows = select(connection, sa.select(table).order_by(number))
    first = len(rows) - 1
    while first > 0 and rows[first - 1][number.name] == rows[first][number.name] - 1:
        first -= 1
    if first > 0:
        connection.execute(table.delete().where(number < rows[first][number.name]))
    return rows[first:] if rows else []


def select(connection: Connection, query: sa.Select[Any]) -> list[Row]:
    """All rows of a query."""
    result = connection.execute(query)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]
