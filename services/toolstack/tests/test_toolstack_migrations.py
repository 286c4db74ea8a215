"""Older stores become newer ones with everything that is in them; strange and newer ones do not.

data/store-v*.sql were dumped from files that the toolstack of that version had written.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgresql_server import PostgresqlServer
from store_kit import add_events, at, contents, domain, make, vcoproc

from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    Life,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    VcoprocLine,
    VcoprocRange,
    VcoprocRecord,
)
from vcoproc_toolstack.schedules import Setting
from vcoproc_toolstack.store import Store
from vcoproc_toolstack.tables import METADATA, SCHEMA_VERSION

DATA = Path(__file__).parent / "data"
M4 = "vcoproc,cortex-m4"
NS = 1_700_000_000_000_000_000


def of_version(path: Path, version: int) -> Path:
    """A file as the toolstack of that version left it."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript((DATA / f"store-v{version}.sql").read_text())
    connection.close()
    return path


def old_vcoproc(number: int, domid: int, of: str, name: str, coproc: str) -> VcoprocRecord:
    return VcoprocRecord(
        number, domid, of, name, coproc, M4, Life.ALIVE, bytes([number]) * 32, (),
        (
            VcoprocRange("ctrl", 0x0A00_0000, 4096, False),
            VcoprocRange("mbox", 0x0A00_1000, 4096, True),
        ),
        (VcoprocLine(0, "irq", 64, True), VcoprocLine(1, "event", 65, False)),
    )  # fmt: skip


def check_old_contents(store: Store, version: int) -> None:
    """Everything of data/store-v{version}.sql."""
    audio = replace(old_vcoproc(1, 1, "fir", "audio", "dsp0"), params=(("weight", 512),))
    video = replace(old_vcoproc(2, 1, "fir", "video", "dsp1"), life=Life.DESTROYING)
    fir = DomainRecord(
        1, "fir", Life.ALIVE, 1 << 20, b"irq" + bytes([1]) * 29, ("kernel", "maxmem"),
        (audio, video),
    )  # fmt: skip
    edges = old_vcoproc(3, 2, "sobel", "edges", "dsp0")
    sobel = DomainRecord(
        2, "sobel", Life.ALIVE, 1 << 20, b"irq" + bytes([2]) * 29, (), (edges,)
    )  # fmt: skip
    platform = PlatformRecord(
        M4,
        (PlatformRange("ctrl", 4096, False), PlatformRange("mbox", 4096, True)),
        (PlatformLine("irq", True), PlatformLine("event", False)),
        (PlatformRegister("ctrl", "ID", 0, 4, "ro", "const", "who it is"),),
        64,
    )
    events = [
        (2, "coprocs/dsp0", EventKind.ONLINE, "leased to sim", NS, None),
        (3, "domains/fir", EventKind.CREATED, "domid 1", NS + 1000, None),
        (4, "domains/sobel", EventKind.CREATED, "domid 2", NS + 2000, None),
        (
            5, "coprocs/dsp0", EventKind.CHANGED, "algorithm credit, slice 2000 us, cap=50",
            NS + 3000, None,
        ),
    ]  # fmt: skip
    with store.read() as view:
        assert view.domains() == [fir, sobel]
        assert view.platform(M4) == platform
        found = [
            (e.revision, e.name, e.kind, e.description, e.time_ns, e.resource)
            for e in view.events(1)
        ]
        assert found == events[: len(found)]
        assert view.revision() == version + 3
        assert view.answer("create-fir", b"print of fir") == b"answer of fir"
        assert view.answer("create-sobel", b"print of sobel") == b"answer of sobel"
        if version >= 2:
            assert view.settings() == {"dsp0": Setting("credit", 2_000_000, (("cap", 50),))}
            assert view.fallback_ns("dsp1") == NS + 500_000_000


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_file_keeps_everything(tmp_path: Path, version: int) -> None:
    path = of_version(tmp_path / "store.db", version)
    for _ in range(2):  # the second time it is of this version
        store = make(path)
        check_old_contents(store, version)
        store.close()
    store = make(path)
    with store.change() as change:
        assert (change.next_domid(), change.next_vcoproc_id()) == (3, 4)
        change.put_setting("dsp1", Setting("rr", 1, ()))
        change.add_domain(domain(3, "new", vcoproc(4, 3, "new")))
        change.add_event("domains/new", EventKind.CREATED, "")
        change.add_answer("create-new", b"print", b"answer")
        change.delete_domain(1)
    before = contents(store)
    store.close()
    store = make(path)
    assert contents(store) == before
    with store.read() as view:
        assert view.revision() == version + 4
    store.close()


def columns_of(path: Path) -> dict[str, set[str]]:
    connection = sqlite3.connect(path)
    tables = [
        row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'")
    ]
    found = {
        table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for table in tables
    }
    connection.close()
    return found


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_file_has_all_tables_and_columns_then(tmp_path: Path, version: int) -> None:
    path = of_version(tmp_path / "store.db", version)
    make(path).close()
    found = columns_of(path)
    for table in METADATA.tables.values():
        assert found[table.name] == set(table.columns.keys())


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from vcoproc_toolstack.store import Store

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def kill(connection, cursor, statement, parameters, context, many):
    if statement.startswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

Store(sys.argv[1], lambda: 0)
"""


def open_and_die(target: Path | str, before: str) -> None:
    """Opens a store in another process, which dies before the first such statement."""
    command = [sys.executable, "-c", KILLED, str(target), before]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("before", ["ALTER TABLE", "UPDATE meta", "SELECT domains"])
def test_a_migration_that_is_killed_leaves_the_old_file(tmp_path: Path, before: str) -> None:
    path = of_version(tmp_path / "store.db", 1)
    old = columns_of(path)
    open_and_die(path, before)
    assert columns_of(path) == old
    store = make(path)
    check_old_contents(store, 1)
    store.close()


@pytest.mark.slow
def test_a_new_file_whose_making_is_killed_is_made_anew(target: Path | str) -> None:
    open_and_die(target, "INSERT INTO meta")
    store = make(target)
    add_events(store, 1)
    assert contents(store)["revision"] == 2
    store.close()


def older_postgresql(server: PostgresqlServer) -> str:
    """A store as one of version 2 would be, if that had known PostgreSQL."""
    url = server.new_schema()
    store = make(url)
    with store.change() as change:
        change.add_domain(domain(1, "a", vcoproc(1, 1, "a")))
        change.add_event("domains/a", EventKind.CREATED, "made")
    store.close()
    server.execute(
        "ALTER TABLE events DROP COLUMN resource, DROP COLUMN fault",
        "ALTER TABLE domains DROP COLUMN revision",
        "ALTER TABLE vcoprocs DROP COLUMN revision",
        "DROP TABLE schedules",
        "UPDATE meta SET value = 2 WHERE key = 'schema_version'",
        url=url,
    )
    return url


def test_an_old_database_gets_what_it_lacks(postgresql: PostgresqlServer) -> None:
    url = older_postgresql(postgresql)
    store = make(url)
    with store.change() as change:
        change.put_setting("dsp0", Setting("rr", 1, ()))
        change.add_event("domains/a", EventKind.CHANGED, "")
    store.close()
    store = make(url)
    with store.read() as view:
        assert view.domains() == [at(3, domain(1, "a", vcoproc(1, 1, "a")))]
        assert view.settings() == {"dsp0": Setting("rr", 1, ())}
        assert [event.resource is None for event in view.events(1)] == [True, False]
    [[version]] = postgresql.execute("SELECT value FROM meta WHERE key = 'schema_version'", url=url)
    assert version == SCHEMA_VERSION
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["ALTER TABLE", "UPDATE meta", "SELECT domains"])
def test_a_migration_that_is_killed_leaves_the_old_database(
    postgresql: PostgresqlServer, before: str
) -> None:
    url = older_postgresql(postgresql)
    open_and_die(url, before)
    tables = (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    )
    assert ("schedules",) not in postgresql.execute(tables, url=url)
    store = make(url)
    with store.read() as view:
        assert view.domains() == [domain(1, "a", vcoproc(1, 1, "a"))]
    store.close()


# --- what is refused ------------------------------------------------------------------------------


def execute(target: Path | str, statement: str) -> None:
    """As somebody else, who has no business there."""
    url = (
        f"sqlite:///{target}" if isinstance(target, Path) else target.replace("://", "+psycopg://")
    )
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def test_a_store_of_a_newer_version_is_refused_untouched(target: Path | str) -> None:
    make(target).close()
    execute(target, "UPDATE meta SET value = 99 WHERE key = 'schema_version'")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="has version 99, this program knows 3 and older"):
            make(target)


@pytest.mark.parametrize(
    "table", ["CREATE TABLE events (what INTEGER)", "CREATE TABLE meta (a TEXT)"]
)
def test_tables_of_something_else_are_left_alone(target: Path | str, table: str) -> None:
    execute(target, table)
    with pytest.raises(InvalidArgument, match=r"has tables of something else: (events|meta)"):
        make(target)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    content = b"not a database at all, but long enough to be one" * 50
    (tmp_path / "store.db").write_bytes(content)
    with pytest.raises(InvalidArgument, match=r"store: cannot use .*store\.db: file is not a data"):
        make(tmp_path / "store.db")
    assert (tmp_path / "store.db").read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot use"):
        make(tmp_path / "nowhere" / "store.db")


def test_what_is_before_a_gap_in_the_revisions_is_forgotten(target: Path | str) -> None:
    """Somebody deleted a row: a watcher must not believe that it has seen everything."""
    store = make(target)
    add_events(store, 5)
    store.close()
    execute(target, "DELETE FROM events WHERE revision = 3")
    store = make(target)
    with store.read() as view:
        assert view.revision() == 6
        assert [event.revision for event in view.events(3)] == [4, 5, 6]
        with pytest.raises(Exception, match="the oldest kept is 4"):
            view.events(2)
    add_events(store, 1)
    store.close()
    store = make(target)
    assert contents(store)["revision"] == 7
    store.close()
