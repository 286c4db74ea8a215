"""The tables of the store. How an older store becomes a newer one: `migrations`.

To keep one more field of a record:
    1. Append a column of the field's name here, with a server_default: what rows of older stores
       get. Raise SCHEMA_VERSION, once for each release.
    2. Append the field to the record (`records`), with the same default.
    3. Where the column's type does not take the field as it is, add a codec (`rows`).
Nothing else: rows are read, compared and written column by column. For a new table of records with
a key each, add a `Keyed` (`rows`). What is too much for the memory is written by `Change.write` and
read by `View.select`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION: Final = 3
"""Rises with a release that changes anything below."""

METADATA: Final = MetaData()

META: Final = Table(
    # Numbers that belong to the whole store: its version, what is given out next.
    "meta",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
PLATFORMS: Final = Table(
    "platforms",
    METADATA,
    Column("compatible", Text, primary_key=True),
    Column("description", Text, nullable=False),  # JSON
)
DOMAINS: Final = Table(
    "domains",
    METADATA,
    Column("domid", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    Column("life", Text, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("irq_credential", LargeBinary, nullable=False),
    Column("unknown_keys", Text, nullable=False),  # JSON
    # Since version 3: of the event that changed it last.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    # Since version 3: where it is in its life, and how that goes on.
    Column("state", Text, nullable=False, server_default="RUNNING"),
    Column("state_reason", Text, nullable=False, server_default=""),
    Column("create_time_ns", BigInteger, nullable=False, server_default="0"),
    Column("on_poweroff", Text, nullable=False, server_default="preserve"),
    Column("on_crash", Text, nullable=False, server_default="preserve"),
    Column("ending", Text, nullable=False, server_default=""),  # JSON, or empty
)
DOMAIN_FILES: Final = Table(
    # Since version 3: the text that a domain was created from. It is not kept in memory.
    "domain_files",
    METADATA,
    Column("domid", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)
HOLDS: Final = Table(
    # Since version 3: coproc-sims that may have a vcoproc that they are not to have.
    "holds",
    METADATA,
    Column("coproc", Text, primary_key=True),
    Column("vcoproc_id", BigInteger, primary_key=True, autoincrement=False),
    Column("files", Text, nullable=False),  # JSON
)
VCOPROCS: Final = Table(
    "vcoprocs",
    METADATA,
    Column("vcoproc_id", BigInteger, primary_key=True, autoincrement=False),
    Column("domid", Integer, ForeignKey("domains.domid"), nullable=False),
    Column("name", Text, nullable=False),
    Column("coproc", Text, nullable=False),
    Column("compatible", Text, nullable=False),
    Column("life", Text, nullable=False),
    Column("trap_credential", LargeBinary, nullable=False),
    Column("params", Text, nullable=False),  # JSON, as the next two
    Column("ranges", Text, nullable=False),
    Column("lines", Text, nullable=False),
    # Since version 3, as of a domain.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("domid", "name"),
)
SCHEDULES: Final = Table(
    # Since version 2: how coprocs are scheduled that were set at run time.
    "schedules",
    METADATA,
    Column("coproc", Text, primary_key=True),
    Column("algorithm", Text, nullable=False),
    Column("slice_ns", BigInteger, nullable=False),
    Column("params", Text, nullable=False),  # JSON
)
COPROCS: Final = Table(
    # Since version 3: what was changed of the coprocs at run time.
    "coprocs",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("config", Text),  # JSON; null for one of the tree, and for one that a template makes
    Column("draining", Boolean, nullable=False),
    Column("life", Text, nullable=False),
    Column("incarnation", BigInteger, nullable=False),
)
EVENTS: Final = Table(
    "events",
    METADATA,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("actor", Text, nullable=False, server_default=""),  # since version 3
    # Since version 3: what changed, as of then; JSON, deflated. See `rows.pack_resource`.
    Column("resource", LargeBinary, nullable=True),
    # Since version 3: what faulted, with code and address; JSON.
    Column("fault", Text, nullable=True),
)
REQUESTS: Final = Table(
    "requests",
    METADATA,
    Column("serial", BigInteger, primary_key=True, autoincrement=False),
    Column("request_id", Text, nullable=False, unique=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)
AUDIT: Final = Table(
    # Since version 3: who asked for which change. It is not kept in memory.
    "audit",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("time_ns", BigInteger, nullable=False),
    Column("caller", Text, nullable=False),
    Column("role", Integer, nullable=False),
    Column("method", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("request", Text, nullable=False),  # JSON, as the next two
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("outcome", Text, nullable=False),
)
