"""The run directory: where the processes of one cluster find each other.

It holds every socket, the memory files of domains and the cluster's secret. Only its owner may
enter.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from vcoproc.errors import InvalidArgument
from vcoproc.limits import NAME_BYTES_MAX, SOCKET_PATH_BYTES_MAX

KEY_BYTES: Final = 32
_LONGEST_SOCKET_NAME: Final = len("/coproc-.grpc") + NAME_BYTES_MAX


def default_run_dir() -> Path:
    """$VCOPROC_RUN_DIR, else vcoproc/ in $XDG_RUNTIME_DIR, else a private one in /dev/shm.

    All but the first are on tmpfs, since domain memory lives there.
    """
    if explicit := os.environ.get("VCOPROC_RUN_DIR"):
        return Path(explicit)
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "vcoproc"
    return Path("/dev/shm") / f"vcoproc-{os.getuid()}"


class RunDir:
    """Names of everything in a run directory.

    Raises:
        InvalidArgument: a socket's path in it would be longer than the kernel takes.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        length = len(os.fsencode(self.path)) + _LONGEST_SOCKET_NAME
        if length > SOCKET_PATH_BYTES_MAX:
            room = SOCKET_PATH_BYTES_MAX - _LONGEST_SOCKET_NAME
            raise InvalidArgument(
                "run directory",
                f"{self.path} is too long for socket paths, at most {room} bytes",
            )

    def create(self) -> None:
        """Makes the directory, for its owner alone.

        Raises:
            InvalidArgument: it exists and belongs to somebody else, or others may enter it and it
                has files: it may be theirs too, as /tmp is.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.path.stat()
        if status.st_uid != os.getuid():
            raise InvalidArgument("run directory", f"{self.path} belongs to user {status.st_uid}")
        if stat.S_IMODE(status.st_mode) & 0o077:
            # Another service that makes it at the same time closes it before it has a file.
            if any(self.path.iterdir()) and stat.S_IMODE(self.path.stat().st_mode) & 0o077:
                why = f"{self.path}: others may enter it, and it has files; name one of its own"
                raise InvalidArgument("run directory", why)
            self.path.chmod(0o700)
        self.memory_dir.mkdir(mode=0o700, exist_ok=True)

    @property
    def memory_dir(self) -> Path:
        """Where the files are that back domain memory."""
        return self.path / "memory"

    def socket_path(self, name: str) -> Path:
        return self.path / f"{name}.sock"

    def ipc(self, name: str) -> str:
        """ZeroMQ endpoint of that name."""
        return f"ipc://{self.socket_path(name)}"

    def grpc(self, name: str) -> str:
        """gRPC target of that name."""
        return f"unix:{self.path / f'{name}.grpc'}"

    def cluster_key(self) -> bytes:
        """The secret with which coprocs show that they belong to the cluster.

        Whoever asks first makes it; a hard link makes that atomic.
        """
        path = self.path / "cluster.key"
        if not path.exists():
            scratch = self.path / f"cluster.key.{os.getpid()}.{secrets.token_hex(4)}"
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                os.link(scratch, path)
            except FileExistsError:
                pass  # somebody else was first, theirs counts
            finally:
                scratch.unlink()
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise InvalidArgument("cluster key", f"{path} has {len(key)} bytes, not {KEY_BYTES}")
        return key
