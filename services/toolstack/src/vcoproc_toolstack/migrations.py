"""Makes the tables of a new store, and brings an older one up to date.

Theory of operation:
    What an older store lacks is what `tables` has more: tables, and columns with a default. Both
    are made from `tables` alone. Everything happens in one transaction, of which a killed toolstack
    leaves nothing; the next one begins again.
Versions:
    1  the first one
    2  table schedules
    3  PostgreSQL; what `tables` says is since version 3
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.schema import CreateColumn

from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.tables import META, METADATA, SCHEMA_VERSION

_VERSION: Final = "schema_version"


def prepare(connection: Connection, name: str) -> None:
    """Makes the database one of this version.

    Args:
        name: of the database, for errors.

    Raises:
        InvalidArgument: it belongs to something else, or to a newer version.
    """
    found = set(sa.inspect(connection).get_table_names())
    ours = found & METADATA.tables.keys()
    version = _version(connection) if META.name in found else None
    if version is None and ours:
        why = f"{name} has tables of something else: {', '.join(sorted(ours))}"
        raise InvalidArgument("store", why)
    if version is not None and version > SCHEMA_VERSION:
        why = f"{name} has version {version}, this program knows {SCHEMA_VERSION} and older"
        raise InvalidArgument("store", why)
    if version == SCHEMA_VERSION:
        return
    METADATA.create_all(connection)
    for table in ours:
        _add_columns(connection, METADATA.tables[table])
    row = {"key": _VERSION, "value": SCHEMA_VERSION}
    if version is None:
        connection.execute(META.insert(), row)
    else:
        connection.execute(META.update().where(META.c.key == _VERSION), row)


def _version(connection: Connection) -> int | None:
    """None when a table of the name `meta` is of something else."""
    has = {column["name"] for column in sa.inspect(connection).get_columns(META.name)}
    if not has >= set(META.columns.keys()):
        return None
    query = sa.select(META.c.value).where(META.c.key == _VERSION)
    return connection.execute(query).scalar()


def _add_columns(connection: Connection, table: sa.Table) -> None:
    has = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in has:
            _add_column(connection, column)


def _add_column(connection: Connection, column: sa.Column[Any]) -> None:
    assert column.nullable or column.server_default is not None, f"{column} needs a default"
    what = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {what}")
