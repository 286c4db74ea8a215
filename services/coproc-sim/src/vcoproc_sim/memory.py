"""Maps the files that back domain memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vcoproc.errors import InvalidArgument
from vcoproc.limits import PAGE_BYTES


@dataclass(slots=True)
class Mapping:
    """One shared mapping; `view` covers exactly the region asked for."""

    view: memoryview
    _map: mmap.mmap

    def close(self) -> None:
        """Unmaps it, or leaves that to the last user of its buffer."""
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()


def map_file(folder: Path, path: str, offset_bytes: int, size_bytes: int) -> Mapping:
    """Maps a piece of a file for reading and writing.

    Args:
        folder: the only folder that the file may be in.
        offset_bytes, size_bytes: multiples of the page size.

    Raises:
        InvalidArgument: not a regular file in the folder, too short, or not of whole pages.
    """
    if offset_bytes % PAGE_BYTES or size_bytes % PAGE_BYTES or size_bytes <= 0 or offset_bytes < 0:
        raise InvalidArgument("memory region", f"{path}: not of whole pages of {PAGE_BYTES} bytes")
    if "\0" in path or Path(path).resolve().parent != folder.resolve():
        raise InvalidArgument("memory region", f"{path!r} is not in {folder}")
    try:
        # O_NOFOLLOW: the last part may have become a link since. O_NONBLOCK: a FIFO would wait.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except OSError as error:
        raise InvalidArgument("memory region", f"{path}: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument("memory region", f"{path} is no regular file")
        # Touching a mapping beyond the end of its file would be SIGBUS.
        if found.st_size < offset_bytes + size_bytes:
            raise InvalidArgument("memory region", f"{path} is shorter than the region")
        mapped = mmap.mmap(descriptor, size_bytes, offset=offset_bytes)
    except OSError as error:
        raise InvalidArgument("memory region", f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return Mapping(memoryview(mapped), mapped)
