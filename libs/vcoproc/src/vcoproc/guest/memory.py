"""A domain's view of its shared memory."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcoproc.errors import InvalidArgument


@dataclass(slots=True)
class Region:
    """Memory at a guest-physical address. buffer: writable, `size_bytes` long."""

    base_ipa: int
    size_bytes: int
    buffer: memoryview
    _map: mmap.mmap
    _inode: tuple[int, int]

    def is_behind(self, path: str) -> bool:
        """Whether that file, as it is now, is what is mapped here."""
        try:
            found = Path(path).stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # the caller still holds a slice of it
            self.buffer.release()
            self._map.close()


def map_region(region: Any) -> Region:
    """Maps an `api.v1.MemoryRegion`.

    Raises:
        InvalidArgument: its file cannot be opened here.
    """
    try:
        descriptor = os.open(region.path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument("memory region", f"{region.path}: {error.strerror}") from None
    try:
        mapped = mmap.mmap(descriptor, region.size_bytes, offset=region.offset_bytes)
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    inode = (found.st_dev, found.st_ino)
    return Region(region.base_ipa, region.size_bytes, memoryview(mapped), mapped, inode)
