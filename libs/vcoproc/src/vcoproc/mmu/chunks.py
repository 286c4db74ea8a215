"""Ranges of addresses: checked, and cut where the tables change from one descriptor to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vcoproc.errors import InvalidArgument
from vcoproc.limits import BLOCK_BYTES, PAGE_BYTES
from vcoproc.mmu import descriptors as d


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a range inside one 2 MiB of IPA space: one level-2 descriptor."""

    ipa: int
    pa: int
    page_count: int

    @property
    def l3_index(self) -> int:
        """Place of its first page in a level-3 table."""
        return self.ipa >> d.PAGE_SHIFT & d.TABLE_ENTRIES - 1

    @property
    def is_whole(self) -> bool:
        return self.page_count == d.TABLE_ENTRIES

    @property
    def as_block(self) -> bool:
        """Whether one block descriptor can map it."""
        return self.is_whole and self.pa % BLOCK_BYTES == 0


def chunks(ipa: int, pa: int, size_bytes: int) -> Iterator[Chunk]:
    """Cuts a checked range at every 2 MiB of IPA."""
    end = ipa + size_bytes
    while ipa < end:
        step = min(end, (ipa | BLOCK_BYTES - 1) + 1) - ipa
        yield Chunk(ipa, pa, step // PAGE_BYTES)
        ipa += step
        pa += step


def check_range(field: str, address: int, size_bytes: int, limit: int) -> None:
    """Raises InvalidArgument unless the range is whole pages, not empty, and below the limit."""
    if size_bytes <= 0 or size_bytes % PAGE_BYTES:
        raise InvalidArgument("size_bytes", f"{size_bytes} is not a positive number of pages")
    if address % PAGE_BYTES:
        raise InvalidArgument(field, f"{address:#x} is not page aligned")
    if not 0 <= address <= limit - size_bytes:
        end = address + size_bytes
        raise InvalidArgument(field, f"{address:#x}..{end:#x} is not within 0..{limit:#x}")
