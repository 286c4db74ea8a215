"""Maps the files that back domain memory."""

from __future__ import annotations

import contextlib
import mmap
import os
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
    if offset_bytes % PAGE_BYTES or size_bytes % PAGE_BYTES or not size_bytes:
        raise InvalidArgument("memory region", f"{path}: not of whole pages of {PAGE_BYTES} bytes")
    if Path(path).resolve().parent != folder.resolve():
        raise InvalidArgument("memory region", f"{path} is not in {folder}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise InvalidArgument("memory region", f"{path}: {error.strerror}") from None
    try:
        # Touching a mapping beyond the end of its file would be SIGBUS.
        if os.fstat(descriptor).st_size < offset_bytes + size_bytes:
            raise InvalidArgument("memory region", f"{path} is shorter than the region")
        mapped = mmap.mmap(descriptor, size_bytes, offset=offset_bytes)
    finally:
        os.close(descriptor)
    return Mapping(memoryview(mapped), mapped)
