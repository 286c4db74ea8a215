"""The files that back the memory of domains, in a directory on tmpfs."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Set
from pathlib import Path
from typing import Final

from vcoproc.errors import LimitExceeded, WrongState
from vcoproc_toolstack.steps import MakeMemory, RemoveMemory

_OURS: Final = re.compile(r"domain-\d+|vcoproc-\d+\.\d+", re.ASCII)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MemoryDir:
    """Makes and removes memory files. They are sparse: a page costs memory once it is touched."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, file_name: str) -> Path:
        return self._path / file_name

    def make(self, step: MakeMemory) -> bool:
        """Makes a file of zeros; one of the right size is kept as it is. Says whether it made one.

        Raises:
            LimitExceeded: no space.
            WrongState: the directory cannot be used.
        """
        path = self.path_of(step.file_name)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                if os.fstat(descriptor).st_size == step.size_bytes:
                    return False
                os.ftruncate(descriptor, step.size_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._wrong(error) from error
        return True

    def remove(self, step: RemoveMemory) -> None:
        """Removes a file, if it is there. Whoever has it mapped keeps its pages until it unmaps."""
        try:
            self.path_of(step.file_name).unlink(missing_ok=True)
        except OSError as error:
            raise self._wrong(error) from error

    def remove_others(self, wanted: Set[str]) -> list[str]:
        """Removes memory files that belong to nothing; gives their names."""
        strays = sorted(
            path.name
            for path in self._path.iterdir()
            if _OURS.fullmatch(path.name) and path.name not in wanted
        )
        for name in strays:
            self.remove(RemoveMemory(name))
        return strays

    def check_room(self, size_bytes: int) -> None:
        """Refuses to promise more memory than the directory's file system has.

        A sparse file takes any size, and whoever touches a page that cannot be had gets SIGBUS: a
        coproc-sim would die of a domain that is too large.

        Args:
            size_bytes: memory of all domains together, the new one included.

        Raises:
            LimitExceeded: that is too much.
        """
        status = os.statvfs(self._path)
        if size_bytes <= status.f_bavail * status.f_frsize:
            return  # whatever the files use; there may be thousands to look at
        used = sum(path.stat().st_blocks * 512 for path in self._path.iterdir())
        room = status.f_bavail * status.f_frsize + used
        if size_bytes > room:
            raise LimitExceeded(f"memory of all domains in {self._path}", room, "bytes")

    def _wrong(self, error: OSError) -> LimitExceeded | WrongState:
        if error.errno in _NO_SPACE:
            return LimitExceeded(
                f"memory files in {self._path}: no space left, they", 0, "bytes more"
            )
        return WrongState(
            f"memory directory {self._path}",
            error.strerror or str(error),
            "one that can be written",
        )
