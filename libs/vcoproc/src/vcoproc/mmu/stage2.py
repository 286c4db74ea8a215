"""Stage-2 tables of one domain: IPA to PA, in a pool of memory, as hardware would read them.

Theory of operation: the pool is the only state. Its first page is the root (level 1, 1 GiB an
entry), level-2 tables hold 2 MiB blocks or point to level-3 tables of 4 KiB pages. What is mapped
is read back from the descriptors whenever it is asked; Python keeps a list of free pages and
nothing else. `map` and `unmap` first plan (read only, may refuse), then commit (cannot fail).

Order of stores, so that an MMU may walk the tables at any moment:

* a table is filled, or zeroed, before the descriptor that points to it is written;
* a valid descriptor never changes into another valid one. Splitting a block is break-before-make
  (DDI 0487, section D8, "Using break-before-make when updating translation table entries"): write
  0, invalidate the TLB for the block, write the table descriptor;
* `unmap` clears descriptors, invalidates the TLB, and only then reuses the pages of tables that
  became empty: a stale walk cannot meet a recycled page.

Changing a mapping is `unmap` then `map`, for the same reason; `map` over a mapping is refused.

Invariants: no table but the root is empty; every leaf has its access flag set; no leaf shows any
byte of the pool itself, so a domain cannot reach its own tables.

Not handled: sharing one pool between several instances, concurrent callers, 1 GiB blocks.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    InvariantViolation,
    LimitExceeded,
    NotFound,
)
from vcoproc.limits import BLOCK_BYTES, PAGE_BYTES
from vcoproc.mmu import descriptors as d
from vcoproc.mmu.chunks import Chunk, check_range, chunks
from vcoproc.mmu.walk import AccessKind, Translation, permits, walk

__all__ = ["AccessKind", "Region", "Stage2Tables", "Translation", "walk"]

_L1_SHIFT = d.PAGE_SHIFT + 2 * d.LEVEL_BITS
_L2_SHIFT = d.PAGE_SHIFT + d.LEVEL_BITS
_INDEX_MASK = d.TABLE_ENTRIES - 1
_ZERO_PAGE = bytes(PAGE_BYTES)
_NONE = -1  # no table; tables are known by the index of their first word in the pool


@dataclass(frozen=True, slots=True)
class Region:
    """A run of mapped addresses with one linear translation and one set of permissions."""

    ipa: int
    pa: int
    size_bytes: int
    writable: bool
    executable: bool


class Stage2Tables:
    """The tables of one domain. See the module's text for the order of stores."""

    def __init__(
        self,
        pool: memoryview,
        pool_pa: int,
        *,
        invalidate: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes an empty root in the pool, whatever the pool held before.

        Args:
            pool: writable contiguous memory for tables, at least one page, whole pages only.
            pool_pa: its physical address, page aligned; the whole pool lies below 2**40.
            invalidate: called with (ipa, size_bytes) where hardware needs a TLB invalidation that
                is complete before the next store (TLBI IPAS2E1IS, DSB).

        Raises:
            InvalidArgument: the pool cannot be used.
        """
        if pool.readonly or not pool.c_contiguous:
            raise InvalidArgument("pool", "must be writable and contiguous")
        if pool.nbytes == 0 or pool.nbytes % PAGE_BYTES:
            raise InvalidArgument("pool", f"{pool.nbytes} bytes are not whole pages")
        if pool_pa % PAGE_BYTES or not 0 <= pool_pa <= d.PA_LIMIT - pool.nbytes:
            raise InvalidArgument("pool_pa", f"{pool_pa:#x} is not page aligned below 2**40")
        if sys.byteorder != "little":  # descriptors are read through native 64-bit words
            raise InvariantViolation("stage-2 tables need a little-endian host")
        self._bytes = pool.cast("B")
        self._words = self._bytes.cast("Q")
        self._size_bytes = pool.nbytes
        self._pool_pa = pool_pa
        self._invalidate = invalidate
        page_count = pool.nbytes // PAGE_BYTES
        self._free = list(range(page_count - 1, -1, -1))  # pages of the pool; the lowest goes first
        self._root = self._allocate()

    @property
    def root_pa(self) -> int:
        """The level-1 table, for VTTBR_EL2."""
        return self._pool_pa + self._root * d.DESCRIPTOR_BYTES

    @property
    def free_table_count(self) -> int:
        """Tables that can still be allocated."""
        return len(self._free)

    def release(self) -> None:
        """Gives the pool's buffer back, so that its mmap can be closed. Idempotent."""
        self._words.release()
        self._bytes.release()

    def map(self, ipa: int, pa: int, size_bytes: int, *, writable: bool, executable: bool) -> None:
        """Maps a range of whole pages, readable, as normal write-back memory.

        All or nothing. 2 MiB blocks are used wherever both addresses are aligned to 2 MiB.

        Raises:
            InvalidArgument: not page aligned, empty, beyond 39 bits of IPA or 40 bits of PA, or the
                memory is that of the tables.
            AlreadyExists: a part of the range is mapped already.
            LimitExceeded: the pool has not enough free tables.
        """
        check_range("ipa", ipa, size_bytes, d.IPA_LIMIT)
        check_range("pa", pa, size_bytes, d.PA_LIMIT)
        if pa < self._pool_pa + self._size_bytes and self._pool_pa < pa + size_bytes:
            raise InvalidArgument("pa", f"{pa:#x} would show the tables to the domain")
        self._plan_map(ipa, pa, size_bytes)
        bits = d.attributes(writable=writable, executable=executable)
        for chunk in chunks(ipa, pa, size_bytes):
            l2_slot = self._make_l2_slot(chunk.ipa)
            if chunk.as_block:
                self._words[l2_slot] = d.block(chunk.pa, bits)
                continue
            descriptor = self._words[l2_slot]
            base = self._table_base(descriptor) if descriptor else self._allocate()
            self._fill(base + chunk.l3_index, d.page(chunk.pa, bits), chunk.page_count)
            if not descriptor:
                self._words[l2_slot] = d.table(self._pa_of(base))

    def unmap(self, ipa: int, size_bytes: int) -> None:
        """Unmaps a range, all of which is mapped. All or nothing.

        A block of which a part stays is split, so unmapping may need up to two free tables.

        Raises:
            InvalidArgument: not page aligned, empty or beyond 39 bits.
            NotFound: a part of the range is not mapped.
            LimitExceeded: no free table for a split.
        """
        check_range("ipa", ipa, size_bytes, d.IPA_LIMIT)
        self._plan_unmap(ipa, size_bytes)
        emptied: list[int] = []
        for chunk in chunks(ipa, 0, size_bytes):
            l2_slot = self._l2_slot(chunk.ipa)
            assert l2_slot != _NONE
            descriptor = self._words[l2_slot]
            if descriptor & d.TYPE_MASK == d.TYPE_TABLE:
                base = self._table_base(descriptor)
                self._clear(base + chunk.l3_index, chunk.page_count)
                if self._is_empty(base):
                    self._words[l2_slot] = 0
                    emptied.append(base)
            elif chunk.is_whole:
                self._words[l2_slot] = 0
            else:
                self._split_without(l2_slot, chunk)
            self._drop_empty_l2(chunk.ipa, emptied)
        if self._invalidate is not None:
            self._invalidate(ipa, size_bytes)
        self._free.extend(base // d.TABLE_ENTRIES for base in emptied)

    def translate(self, ipa: int, access: AccessKind) -> Translation:
        """`walk` over the own pool, made quick for an engine's TLB miss.

        Raises:
            TranslationFault: as `walk`.
        """
        if 0 <= ipa < d.IPA_LIMIT:
            words = self._words
            base = self._child(words[self._root + (ipa >> _L1_SHIFT)])
            descriptor = 0 if base == _NONE else words[base + (ipa >> _L2_SHIFT & _INDEX_MASK)]
            page_bytes = BLOCK_BYTES
            if descriptor & d.TYPE_MASK == d.TYPE_TABLE:
                base = self._child(descriptor)
                descriptor = (
                    0 if base == _NONE else words[base + (ipa >> d.PAGE_SHIFT & _INDEX_MASK)]
                )
                # A page ends in 0b11; shown as 0b01 it passes the same test as a block.
                descriptor ^= d.TYPE_PAGE ^ d.TYPE_BLOCK
                page_bytes = PAGE_BYTES
            if (
                descriptor & (d.TYPE_MASK | d.AF) == d.TYPE_BLOCK | d.AF
                and not descriptor & d.OVERSIZE_MASK
            ):
                found = Translation(
                    descriptor & d.ADDRESS_MASK & -page_bytes | ipa & page_bytes - 1,
                    page_bytes,
                    bool(descriptor & d.S2AP_WRITE),
                    not descriptor & d.XN_MASK,
                    bool(descriptor & d.S2AP_READ),
                )
                if permits(found, access):
                    return found
        # Rare and slow: the walk finds the same again and says exactly what is wrong.
        return walk(self.read64, self.root_pa, ipa, access)

    def read64(self, pa: int) -> int:
        """The 64-bit word of the pool at a physical address; for `walk`.

        Raises:
            KeyError: the address is outside the pool.
        """
        offset = pa - self._pool_pa
        if not 0 <= offset < self._size_bytes:
            raise KeyError(pa)
        return self._words[offset >> 3]

    def regions(self) -> tuple[Region, ...]:
        """Everything that is mapped, in order of IPA, read back from the tables."""
        found: list[Region] = []
        for ipa, size_bytes, descriptor in self._leaves():
            pa = descriptor & d.ADDRESS_MASK
            writable = bool(descriptor & d.S2AP_WRITE)
            executable = not descriptor & d.XN_MASK
            if found:
                last = found[-1]
                adjoins = last.ipa + last.size_bytes == ipa and last.pa + last.size_bytes == pa
                if adjoins and (last.writable, last.executable) == (writable, executable):
                    size_bytes += last.size_bytes
                    ipa, pa = last.ipa, last.pa
                    found.pop()
            found.append(Region(ipa, pa, size_bytes, writable, executable))
        return tuple(found)

    # --- planning: reads only ---------------------------------------------------------------------

    def _plan_map(self, ipa: int, pa: int, size_bytes: int) -> None:
        tables = 0
        new_l2_of = _NONE  # the GiB whose level-2 table is counted already
        for chunk in chunks(ipa, pa, size_bytes):
            l2_slot = self._l2_slot(chunk.ipa)
            if l2_slot == _NONE:
                tables += new_l2_of != chunk.ipa >> _L1_SHIFT
                new_l2_of = chunk.ipa >> _L1_SHIFT
                tables += not chunk.as_block
            else:
                descriptor = self._words[l2_slot]
                self._refuse_overlap(descriptor, chunk)
                tables += not descriptor and not chunk.as_block
            if tables > len(self._free):
                raise LimitExceeded("stage-2 table pool", self._page_count, "tables")

    def _refuse_overlap(self, descriptor: int, chunk: Chunk) -> None:
        if not descriptor:
            return
        first_page = 0
        if descriptor & d.TYPE_MASK != d.TYPE_BLOCK:
            entries = self._pages_of(descriptor, chunk)
            if not any(entries):
                return
            first_page = next(place for place, entry in enumerate(entries) if entry)
        at_ipa = chunk.ipa + first_page * PAGE_BYTES
        raise AlreadyExists("stage-2 mapping", f"{at_ipa:#x}")

    def _plan_unmap(self, ipa: int, size_bytes: int) -> None:
        splits = 0
        for chunk in chunks(ipa, 0, size_bytes):
            l2_slot = self._l2_slot(chunk.ipa)
            descriptor = self._words[l2_slot] if l2_slot != _NONE else 0
            if not descriptor:
                raise NotFound("stage-2 mapping", f"{chunk.ipa:#x}")
            if descriptor & d.TYPE_MASK == d.TYPE_BLOCK:
                splits += not chunk.is_whole
                continue
            entries = self._pages_of(descriptor, chunk)
            if not all(entries):
                at_ipa = chunk.ipa + entries.index(0) * PAGE_BYTES
                raise NotFound("stage-2 mapping", f"{at_ipa:#x}")
        if splits > len(self._free):
            raise LimitExceeded("stage-2 table pool", self._page_count, "tables")

    # --- tables -----------------------------------------------------------------------------------

    @property
    def _page_count(self) -> int:
        return self._size_bytes // PAGE_BYTES

    def _allocate(self) -> int:
        page = self._free.pop()
        self._bytes[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = _ZERO_PAGE
        return page * d.TABLE_ENTRIES

    def _pa_of(self, base: int) -> int:
        return self._pool_pa + base * d.DESCRIPTOR_BYTES

    def _child(self, descriptor: int) -> int:
        """The table that a descriptor points to, or _NONE without one inside the pool."""
        offset = (descriptor & d.ADDRESS_MASK) - self._pool_pa
        if descriptor & d.TYPE_MASK != d.TYPE_TABLE or not 0 <= offset < self._size_bytes:
            return _NONE
        return offset // d.DESCRIPTOR_BYTES

    def _table_base(self, descriptor: int) -> int:
        base = self._child(descriptor)
        if base == _NONE:
            raise InvariantViolation(f"stage-2 tables hold {descriptor:#x}, which map never wrote")
        return base

    def _pages_of(self, descriptor: int, chunk: Chunk) -> list[int]:
        first = self._table_base(descriptor) + chunk.l3_index
        return self._words[first : first + chunk.page_count].tolist()

    def _l2_slot(self, ipa: int) -> int:
        """Index of the level-2 descriptor for an address, or _NONE without a level-2 table."""
        descriptor = self._words[self._root + (ipa >> _L1_SHIFT)]
        if not descriptor:
            return _NONE
        return self._table_base(descriptor) + (ipa >> _L2_SHIFT & _INDEX_MASK)

    def _make_l2_slot(self, ipa: int) -> int:
        l2_slot = self._l2_slot(ipa)
        if l2_slot == _NONE:
            base = self._allocate()
            self._words[self._root + (ipa >> _L1_SHIFT)] = d.table(self._pa_of(base))
            l2_slot = base + (ipa >> _L2_SHIFT & _INDEX_MASK)
        return l2_slot

    def _drop_empty_l2(self, ipa: int, emptied: list[int]) -> None:
        base = self._l2_slot(ipa) & ~_INDEX_MASK
        if self._is_empty(base):
            self._words[self._root + (ipa >> _L1_SHIFT)] = 0
            emptied.append(base)

    def _split_without(self, l2_slot: int, hole: Chunk) -> None:
        """Turns a block into pages, less a hole. Break-before-make."""
        descriptor = self._words[l2_slot]
        base = self._allocate()
        self._fill(base, d.split(descriptor), d.TABLE_ENTRIES)
        self._clear(base + hole.l3_index, hole.page_count)
        self._words[l2_slot] = 0
        if self._invalidate is not None:
            self._invalidate(hole.ipa & -BLOCK_BYTES, BLOCK_BYTES)
        self._words[l2_slot] = d.table(self._pa_of(base))

    def _fill(self, first: int, descriptor: int, page_count: int) -> None:
        stop = descriptor + page_count * PAGE_BYTES
        self._words[first : first + page_count] = memoryview(
            array("Q", range(descriptor, stop, PAGE_BYTES))
        )

    def _clear(self, first: int, page_count: int) -> None:
        offset = first * d.DESCRIPTOR_BYTES
        length = page_count * d.DESCRIPTOR_BYTES
        self._bytes[offset : offset + length] = bytes(length)

    def _is_empty(self, base: int) -> bool:
        offset = base * d.DESCRIPTOR_BYTES
        return bytes(self._bytes[offset : offset + PAGE_BYTES]) == _ZERO_PAGE

    def _leaves(self) -> Iterator[tuple[int, int, int]]:
        """(ipa, size, descriptor) of every block and page, in order."""
        for l1_index in range(d.TABLE_ENTRIES):
            gib_ipa = l1_index << _L1_SHIFT
            l2_base = self._l2_slot(gib_ipa)
            if l2_base == _NONE:
                continue
            for l2_index, descriptor in enumerate(self._table_words(l2_base)):
                block_ipa = gib_ipa | l2_index << _L2_SHIFT
                if descriptor & d.TYPE_MASK == d.TYPE_BLOCK:
                    yield block_ipa, BLOCK_BYTES, descriptor
                elif descriptor:
                    pages = self._table_words(self._table_base(descriptor))
                    for l3_index, page in enumerate(pages):
                        if page:
                            yield block_ipa | l3_index << d.PAGE_SHIFT, PAGE_BYTES, page

    def _table_words(self, base: int) -> list[int]:
        return self._words[base : base + d.TABLE_ENTRIES].tolist()
