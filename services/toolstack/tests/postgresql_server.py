"""A PostgreSQL server for tests: private, on a Unix socket alone, gone in the end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg

REQUIRED = "VCOPROC_REQUIRE_POSTGRESQL"
"""Environment variable: without PostgreSQL tests fail instead of being skipped."""
_DEBIAN = Path("/usr/lib/postgresql")
_ROLE = "tester"
_READY_S_MAX = 30


def find_binaries() -> Path | None:
    """The folder with initdb and postgres; None where they are not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(_DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


class PostgresqlServer:
    """One cluster. Everything in it is lost in a crash: it does not sync."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.path = Path(tempfile.mkdtemp(prefix="vc-pg-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = _somebody_else()
            os.chown(self.path, user.pw_uid, user.pw_gid)
            identity = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
            self._as_user = ["setpriv", *identity]
        self._schemas = count(1)
        self._process: subprocess.Popen[str] | None = None
        self._run(
            "initdb", "--pgdata=data", f"--username={_ROLE}", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--no-sync", "--no-instructions",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Starts the server, and returns when it serves."""
        settings = {
            "unix_socket_directories": str(self.path),
            "listen_addresses": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "log_checkpoints": "off",
        }
        options = [word for pair in settings.items() for word in ("-c", "=".join(pair))]
        command = [*self._as_user, str(self._binaries / "postgres"), "-D", "data", *options]
        self._process = subprocess.Popen(
            command, cwd=self.path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert self._process.stderr is not None
        log = _ServerLog(self._process.stderr)
        assert log.ready.wait(_READY_S_MAX) and log.serves, "".join(log.lines)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: ends every session at once; SIGQUIT: as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_READY_S_MAX)
            self._process = None

    def is_running(self) -> bool:
        return self._process is not None

    def url(self, schema: str = "") -> str:
        """Of the whole database, or of one schema of it."""
        options = f"&options={quote(f'-csearch_path={schema}')}" if schema else ""
        return f"postgresql:///postgres?host={quote(str(self.path))}&user={_ROLE}{options}"

    def new_schema(self) -> str:
        """URL of an empty schema."""
        name = f"test{next(self._schemas)}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url(name)

    def execute(self, *statements: str, url: str = "") -> list[tuple[object, ...]]:
        """Executes statements; gives the rows of the last one."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.path)

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / name), *arguments]
        subprocess.run(command, cwd=self.path, check=True, capture_output=True)


class _ServerLog:
    """Reads the server's log, so that it never waits for somebody to do so."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self.ready = threading.Event()
        self.serves = False
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                self.lines.append(line)
                if "ready to accept connections" in line:
                    self.serves = True
                    self.ready.set()
        self.ready.set()


def _somebody_else() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
