"""The rows to write for a change: what differs, table by table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Table

from vcoproc_toolstack.rows import KEYED, changed, event_row, key_columns, to_row
from vcoproc_toolstack.tables import DOMAINS, EVENTS, REQUESTS, VCOPROCS
from vcoproc_toolstack.view import Answer, State

Write = tuple[sa.Executable, list[dict[str, Any]]]
"""A statement, and its parameters for each time that it is to be executed."""

_OF: Final = "of_"
"""Begins the parameters that name the row to be changed; no column is called so."""


def domain_writes(base: State, state: State, domids: Iterable[int]) -> Iterator[Write]:
    """domids: of the domains that may differ."""
    # Vcoprocs refer to domains: they go first and come last.
    pairs = [(base.domain_of(domid), state.domain_of(domid)) for domid in sorted(domids)]
    old_vcoprocs = {v.vcoproc_id: v for old, _ in pairs if old for v in old.vcoprocs}
    new_vcoprocs = {v.vcoproc_id: v for _, new in pairs if new for v in new.vcoprocs}
    old_domains = {old.domid: old for old, _ in pairs if old}
    new_domains = {new.domid: new for _, new in pairs if new}
    yield from deletes(VCOPROCS, old_vcoprocs.keys() - new_vcoprocs.keys())
    yield from deletes(DOMAINS, old_domains.keys() - new_domains.keys())
    yield from _puts(DOMAINS, old_domains, new_domains)
    yield from _puts(VCOPROCS, old_vcoprocs, new_vcoprocs)


def keyed_writes(base: State, state: State, keys: Iterable[tuple[str, Any]]) -> Iterator[Write]:
    """keys: of the records that may differ, each with the name of its table."""
    for kind in KEYED:
        before, after = base.records(kind), state.records(kind)
        for name, key in sorted(keys):
            if name != kind.table.name:
                continue
            if key not in after:
                yield from deletes(kind.table, {key} & before.keys())
            elif key in before:
                yield update(kind.table), [_of(kind.table, key) | kind.to_values(after[key])]
            else:
                yield insert(kind.table), [kind.key_values(key) | kind.to_values(after[key])]


def event_writes(base: State, state: State) -> Iterator[Write]:
    before, after = base.events, state.events
    if rows := [event_row(after[revision].event) for revision in after.since(before)]:
        yield insert(EVENTS), rows
    if before.oldest < after.oldest:
        yield forget(EVENTS, after.oldest)


def answer_writes(base: State, state: State) -> Iterator[Write]:
    before, after = base.answers, state.answers
    if rows := [_answer_row(serial, after[serial]) for serial in after.since(before)]:
        yield insert(REQUESTS), rows
    if before.oldest < after.oldest:
        yield forget(REQUESTS, after.oldest)


def deletes(table: Table, keys: Iterable[Any]) -> Iterator[Write]:
    """Deletes the rows of these keys."""
    if rows := [_of(table, key) for key in sorted(keys)]:
        yield _delete(table), rows


def _puts(table: Table, old: Mapping[int, Any], new: Mapping[int, Any]) -> Iterator[Write]:
    """Inserts those that are new, and updates the columns that differ of the others."""
    if rows := [to_row(table, record) for key, record in new.items() if key not in old]:
        yield insert(table), rows
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, record in new.items():
        if key in old and (values := changed(table, old[key], record)):
            by_columns.setdefault(tuple(values), []).append(_of(table, key) | values)
    for rows in by_columns.values():
        yield update(table), rows


def _of(table: Table, key: Any) -> dict[str, Any]:
    """Parameters that name a row. key: a value, or a tuple of several."""
    values = key if isinstance(key, tuple) else (key,)
    names = key_columns(table)
    return {_OF + name: value for name, value in zip(names, values, strict=True)}


def _answer_row(serial: int, kept: Answer) -> dict[str, Any]:
    return {
        "serial": serial,
        "request_id": kept.request_id,
        "fingerprint": kept.fingerprint,
        "answer": kept.answer,
    }


# Made once each: SQLAlchemy takes longer to make a statement than SQLite to execute it.


def _row_of(table: Table) -> sa.ColumnElement[bool]:
    return sa.and_(*(c == sa.bindparam(_OF + c.name) for c in table.primary_key.columns))


@lru_cache
def insert(table: Table) -> sa.Executable:
    return table.insert()


@lru_cache
def update(table: Table) -> sa.Executable:
    """Of the columns that the parameters name."""
    return table.update().where(_row_of(table))


@lru_cache
def _delete(table: Table) -> sa.Executable:
    return table.delete().where(_row_of(table))


@lru_cache
def _forget(table: Table) -> sa.Executable:
    return table.delete().where(table.columns[0] < sa.bindparam("first"))


def forget(table: Table, first: int) -> Write:
    """Deletes the rows with lower numbers in their first column."""
    return _forget(table), [{"first": first}]
