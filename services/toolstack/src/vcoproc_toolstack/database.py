"""The one connection to the database: SQLite or PostgreSQL. Everything that differs is here.

Theory of operation:
    A toolstack has its database for itself: a lock that ends with the process keeps others away.
    There is one connection, used by one thread at a time. Work is one transaction. When the
    connection breaks before the commit was sent, nothing of it is kept: the connection is made
    anew, once, and the work done again. When it breaks during the commit, nobody knows whether it
    is kept: it is `in_doubt`, and whoever knows the contents reads them again.
Durability:
    What was committed outlasts the end of this process and a loss of power. SQLite: a write-ahead
    log, synced at each commit (synchronous=FULL; on a tmpfs, where `vcoproc up` keeps it, a sync is
    free). PostgreSQL: as the server's synchronous_commit says.
Secrets:
    A URL may hold a password. It is in no name, no log and no error.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool

from vcoproc import limits
from vcoproc.errors import InvalidArgument, StoreUnavailable
from vcoproc_toolstack.target import POSTGRESQL

T = TypeVar("T")

_ENGINE: Final[dict[str, Any]] = {
    "poolclass": NullPool,
    # Nothing is left to be rolled back; asking a broken connection to do it would be told in a log.
    "pool_reset_on_return": None,
    "hide_parameters": True,
}
_LOCK_CLASS: Final = int.from_bytes(b"vcop", "big")
"""First half of the number of the advisory lock; the second one is of the schema."""


class Database(ABC):
    """A database of which this process is the only writer. Safe for any number of threads.

    Args:
        name: what people call it.
        check: is asked of each connection but the first whether the contents are still those that
            this process knows; raises when they are not.

    Attributes:
        in_doubt: whether the last work is kept is not known. Set back by whoever finds out.
    """

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.in_doubt = False
        self.check: Callable[[Connection], None] = lambda _connection: None
        self._engine = engine
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def run(self, work: Callable[[Connection], T]) -> T:
        """Does some work in one transaction. It may be done twice, but is kept once.

        Raises:
            StoreUnavailable: nothing of it is kept, unless `in_doubt`.
        """
        with self._lock:
            try:
                return self._attempt(self._ready(), work)
            except _Broken:
                pass
            try:
                return self._attempt(self._ready(), work)
            except _Broken as broken:
                raise self._unavailable(broken.error) from broken.error

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _ready(self) -> Connection:
        if self._connection is None or not self._same():
            self._drop()
            self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        try:
            connection = self._engine.connect()
        except (sa.exc.DBAPIError, OSError) as error:
            raise self._unavailable(error) from error
        self._connection = connection
        try:
            self._attempt(connection, self._begin)
            self._attempt(connection, self.check)
        except _Broken as broken:
            raise self._unavailable(broken.error) from broken.error
        except BaseException:
            self._drop()
            raise

    def _attempt(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        with self._bounded(connection):
            try:
                transaction = connection.begin()
                result = work(connection)
            except BaseException as error:
                self._roll_back(connection)
                if isinstance(error, sa.exc.DBAPIError) and not _is_bug(error):
                    if self._connection is None:
                        raise _Broken(error) from error
                    raise self._unavailable(error) from error
                raise
            try:
                transaction.commit()
            except sa.exc.DBAPIError as error:
                self._roll_back(connection)
                self.in_doubt = self.in_doubt or self._connection is None
                raise self._unavailable(error) from error
        return result

    def _roll_back(self, connection: Connection) -> None:
        """Ends what is under way; drops the connection when it is broken."""
        try:
            connection.rollback()
        except sa.exc.DBAPIError:
            self._drop()
        if connection.invalidated:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()
            self._connection.close()
            self._connection = None

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(self.name, self._words(error))

    def _words(self, error: Exception) -> str:
        """Why, in the database's own words, on one line."""
        text = str(getattr(error, "orig", None) or error)
        return " ".join(text.split())

    # --- what differs -----------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, connection: Connection) -> None:
        """Makes a new connection fit, and holds the lock.

        Raises:
            StoreUnavailable: it does not fit, or another toolstack has the lock.
        """

    def _same(self) -> bool:
        """Whether the connection is to what is found under that name now."""
        return True

    @contextmanager
    def _bounded(self, connection: Connection) -> Iterator[None]:
        """Breaks the connection when what is done inside takes too long."""
        yield


class _Broken(Exception):
    """The connection broke before the commit was sent."""

    def __init__(self, error: sa.exc.DBAPIError) -> None:
        super().__init__()
        self.error = error


def _is_bug(error: sa.exc.DBAPIError) -> bool:
    """Whether it is the work that is wrong, and not the database."""
    return isinstance(error, sa.exc.IntegrityError | sa.exc.DataError)


def open_database(target: Path | str) -> Database:
    """target: a path, or a URL as libpq takes it.

    Raises:
        InvalidArgument: it can be neither.
    """
    if isinstance(target, str) and target.startswith(POSTGRESQL):
        return _Postgresql(target)
    if isinstance(target, str) and (found := re.match(r"[a-z+]+://", target)):
        raise InvalidArgument("store", f"is neither a path nor a {POSTGRESQL} URL, but {found[0]}")
    return _Sqlite(Path(target))


# --- SQLite ---------------------------------------------------------------------------------------


class _Sqlite(Database):
    """A file. Made when it does not exist, for its owner alone.

    The lock is on a file beside it: one on the file itself would keep backups out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._holder: int | None = None
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(path)),
            connect_args={"check_same_thread": False},  # by one thread at a time
            **_ENGINE,
        )
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        super().__init__(str(path), engine)

    def _connect(self) -> None:
        try:
            if self._holder is None:
                self._path.touch(mode=0o600)
                self._holder = self._hold()
            status = self._path.stat()  # not a new file in the place of a lost one
        except OSError as error:
            raise self._unavailable(error) from error
        self._identity = (status.st_dev, status.st_ino)
        super()._connect()

    def _hold(self) -> int:
        path = self._path.with_name(self._path.name + ".lock")
        holder = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(holder)
            raise _in_use(self.name) from None
        return holder

    def _begin(self, connection: Connection) -> None:
        """All is done: see `_set_up_sqlite`, and `_connect`."""

    def _words(self, error: Exception) -> str:
        name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
        # "disk I/O error" is many things, a full disk among them.
        return super()._words(error) + (f" ({name})" if name else "")

    def _same(self) -> bool:
        # SQLite would go on writing to a file that nobody finds any more.
        try:
            status = self._path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def close(self) -> None:
        super().close()
        if self._holder is not None:
            os.close(self._holder)
            self._holder = None


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver must not begin transactions by itself: it would not for DDL.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


# --- PostgreSQL -----------------------------------------------------------------------------------


class _Postgresql(Database):
    """A schema of a database, by default `public`. The lock is an advisory one of the session."""

    def __init__(self, url: str) -> None:
        if url.partition("?")[0].count("@") > 1:
            # libpq would take what follows the first one for a host, and tell it in its errors.
            raise InvalidArgument("store", "the URL has more than one @; write %40 in a password")
        try:
            import psycopg
            from psycopg.conninfo import conninfo_to_dict
        except ImportError:
            why = "PostgreSQL needs psycopg: pip install 'vcoproc-toolstack[postgresql]'"
            raise InvalidArgument("store", why) from None
        try:
            parts: dict[str, Any] = conninfo_to_dict(url)
        except psycopg.Error:
            raise InvalidArgument("store", "is not a PostgreSQL URL") from None
        self._password = str(parts.get("password") or "")
        parts.setdefault("connect_timeout", limits.STORE_TIMEOUT_NS // limits.S)
        parts.setdefault("application_name", "vcoproc-toolstack")
        parts["client_encoding"] = "utf8"
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(**parts),
            **_ENGINE,
        )
        where = f"{parts.get('host', '')}:{parts.get('port', '')}".removesuffix(":")
        super().__init__(f"{POSTGRESQL}{where}/{parts.get('dbname', '')}", engine)

    def _words(self, error: Exception) -> str:
        words = super()._words(error)
        return words.replace(self._password, "***") if self._password else words

    def _begin(self, connection: Connection) -> None:
        say = connection.exec_driver_sql
        settings = "SELECT current_setting('server_encoding'), current_schema()"
        encoding, schema = say(settings).one()
        if encoding != "UTF8":
            raise StoreUnavailable(self.name, f"it has the encoding {encoding}, not UTF8")
        if schema is None:
            raise StoreUnavailable(self.name, "there is no such schema")
        # The session of a toolstack whose machine is gone ends, and its lock with it. On a Unix
        # socket these do nothing.
        for name, value in (("idle", 10), ("interval", 5), ("count", 3)):
            say(f"SET tcp_keepalives_{name} = {value}")
        # Also for what waits for a backup that holds a table.
        say(f"SET lock_timeout = '{limits.STORE_LOCK_WAIT_NS // limits.MS}ms'")
        try:
            say(f"SELECT pg_advisory_lock({_LOCK_CLASS}, hashtext(current_schema()))")
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", "") == "55P03":  # lock_not_available
                raise _in_use(self.name) from None
            raise

    @contextmanager
    def _bounded(self, connection: Connection) -> Iterator[None]:
        # A server that stopped without a word keeps the driver waiting for ever; without its
        # socket it gives up.
        driver: Any = connection.connection.dbapi_connection
        with socket.socket(fileno=os.dup(driver.pgconn.socket)) as end:

            def cut() -> None:
                with suppress(OSError):  # it has gone already
                    end.shutdown(socket.SHUT_RDWR)

            timer = threading.Timer(limits.STORE_TIMEOUT_NS / limits.S, cut)
            timer.daemon = True
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                timer.join()


def _in_use(name: str) -> StoreUnavailable:
    return StoreUnavailable(name, "it is in use by another toolstack")
