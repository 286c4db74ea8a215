"""A domain's view of its shared memory."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from typing import Any

from vcoproc.errors import InvalidArgument


@dataclass(slots=True)
class Region:
    """Memory at a guest-physical address. buffer: writable, `size_bytes` long."""

    base_ipa: int
    size_bytes: int
    buffer: memoryview
    _map: mmap.mmap

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
    finally:
        os.close(descriptor)
    return Region(region.base_ipa, region.size_bytes, memoryview(mapped), mapped)
