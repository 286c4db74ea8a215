"""Reading configuration files: the only I/O of this package, with that of `preprocess`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from vcoproc import limits
from vcoproc.config.problems import shown
from vcoproc.errors import ConfigProblem, InvalidConfig, NotFound


class Unreadable(Exception):
    """A file that a tree includes cannot be had; says why."""


def read_source(path: str | Path) -> bytes:
    """The bytes of a configuration file, at most one more than a file may have.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            # One byte too many is enough for the parser to see that the file is too large.
            return file.read(limits.CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound("file", str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidConfig([ConfigProblem(str(path), 0, "cannot read the file", why)]) from error


class IncludedFiles:
    """What one tree includes, within the bounds of `limits`.

    A name is looked for as `dtc` does: in the folder of the file that includes it, then in the
    given folders in their order. An absolute one is taken as it is.

    Args:
        folders: of option --include.
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self._folders = tuple(Path(folder) for folder in folders)
        self._file_count = 0
        self._bytes_left = limits.DTS_INCLUDED_BYTES_MAX

    def read(self, name: str, beside: str) -> tuple[str, bytes]:
        """Path and bytes of an included file. beside: path of the file that includes it.

        Raises:
            Unreadable: it is nowhere, no regular file, too large, or one too many.
        """
        self._file_count += 1
        if self._file_count > limits.DTS_FILES_MAX:
            raise Unreadable(f"more than {limits.DTS_FILES_MAX} files are included")
        for folder in (Path(beside).parent, *self._folders):
            path = folder / name
            if (content := self._try(path)) is not None:
                return str(path), content
        raise Unreadable(f"{name!r} is neither beside {shown(beside)} nor in a folder of --include")

    def _try(self, path: Path) -> bytes | None:
        def open_now(name: str, flags: int) -> int:
            # Not blocking: a pipe that somebody put there must not hang the reader.
            return os.open(name, flags | os.O_NONBLOCK)

        try:
            with open(path, "rb", opener=open_now) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Unreadable(f"{shown(str(path))} is no regular file")
                content = file.read(min(limits.CONFIG_BYTES_MAX, self._bytes_left) + 1)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            why = getattr(error, "strerror", None) or str(error)
            raise Unreadable(f"{shown(str(path))}: {why}") from None
        if len(content) > limits.CONFIG_BYTES_MAX:
            raise Unreadable(f"{shown(str(path))} is larger than {limits.CONFIG_BYTES_MAX} bytes")
        if len(content) > self._bytes_left:
            bytes_max = limits.DTS_INCLUDED_BYTES_MAX
            raise Unreadable(f"the files included have more than {bytes_max} bytes together")
        self._bytes_left -= len(content)
        return content
