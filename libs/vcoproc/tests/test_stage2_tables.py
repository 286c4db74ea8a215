"""Stage-2 tables: golden descriptors, refusals that change nothing, order of stores."""

from __future__ import annotations

import mmap
import struct

import pytest

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    InvariantViolation,
    LimitExceeded,
    NotFound,
    TranslationFault,
)
from vcoproc.mmu import VTCR_EL2, AccessKind, Region, Stage2Tables

PAGE = 0x1000
BLOCK = 0x20_0000
GIB = 0x4000_0000
POOL_PA = 0x1_0000_0000
RAM_IPA = 0x6000_0000
RAM_PA = 0x8000_0000


class Pool:
    """Table memory of `page_count` pages that reads as hardware would read it."""

    def __init__(self, page_count: int = 16) -> None:
        self.data = bytearray(page_count * PAGE)
        self.tables = Stage2Tables(memoryview(self.data), POOL_PA)

    def word(self, page: int, index: int) -> int:
        value: int = struct.unpack_from("<Q", self.data, page * PAGE + index * 8)[0]
        return value

    def used_words(self) -> dict[tuple[int, int], int]:
        words = struct.unpack(f"<{len(self.data) // 8}Q", self.data)
        return {divmod(place, 512): word for place, word in enumerate(words) if word}


@pytest.fixture
def pool() -> Pool:
    return Pool()


# --- golden descriptors ---------------------------------------------------------------------------
# Computed by hand from Arm DDI 0487, section D8, "Block descriptor and Page descriptor formats",
# stage 2. Normal write-back memory, inner shareable, access flag set, readable:
#     MemAttr[5:2] = 0b1111 -> 0x03C    S2AP[7:6] = 0b01 (read) -> 0x040, 0b11 (and write) -> 0x0C0
#     SH[9:8] = 0b11 -> 0x300           AF[10] -> 0x400
#     XN[54:53] = 0b10 -> 1 << 54 = 0x0040_0000_0000_0000
#     page (level 3) and table: 0b11    block (levels 1, 2): 0b01
@pytest.mark.parametrize(
    ("writable", "executable", "page_descriptor", "block_descriptor"),
    [
        (True, True, 0x0000_0000_8000_17FF, 0x0000_0000_8020_07FD),
        (True, False, 0x0040_0000_8000_17FF, 0x0040_0000_8020_07FD),
        (False, True, 0x0000_0000_8000_177F, 0x0000_0000_8020_077D),
        (False, False, 0x0040_0000_8000_177F, 0x0040_0000_8020_077D),
    ],
)
def test_golden_descriptors(
    pool: Pool, writable: bool, executable: bool, page_descriptor: int, block_descriptor: int
) -> None:
    # IPA 0x6000_0000: level-1 index 1 (bits 38:30), level-2 index 256 (29:21), level-3 index 0.
    pool.tables.map(0x6000_0000, 0x8000_1000, PAGE, writable=writable, executable=executable)
    pool.tables.map(0x6020_0000, 0x8020_0000, BLOCK, writable=writable, executable=executable)
    assert pool.used_words() == {
        (0, 1): 0x1_0000_1003,  # root -> level 2 in page 1 of the pool
        (1, 256): 0x1_0000_2003,  # level 2 -> level 3 in page 2
        (2, 0): page_descriptor,
        (1, 257): block_descriptor,
    }
    assert pool.tables.root_pa == POOL_PA


def test_golden_descriptors_at_the_ends_of_both_address_spaces(pool: Pool) -> None:
    # The last page of 39 bits of IPA shows the last page of 40 bits of PA: all indexes are 511.
    pool.tables.map(0x7F_FFFF_F000, 0xFF_FFFF_F000, PAGE, writable=True, executable=True)
    assert pool.word(0, 511) == 0x1_0000_1003
    assert pool.word(1, 511) == 0x1_0000_2003
    assert pool.word(2, 511) == 0x0000_00FF_FFFF_F7FF


def test_vtcr_is_what_hardware_needs_for_these_tables() -> None:
    # DDI 0487, VTCR_EL2: T0SZ 25, SL0 1, IRGN0 1, ORGN0 1, SH0 3, TG0 0, PS 2, bit 31 RES1.
    assert VTCR_EL2 == 0x8002_3559


# --- blocks and pages -----------------------------------------------------------------------------


def test_blocks_are_used_where_both_addresses_are_aligned(pool: Pool) -> None:
    pool.tables.map(
        RAM_IPA + BLOCK - PAGE,
        RAM_PA + BLOCK - PAGE,
        BLOCK + 2 * PAGE,
        writable=True,
        executable=True,
    )
    assert pool.word(1, 257) == RAM_PA + BLOCK | 0x7FD
    sizes = [
        pool.tables.translate(RAM_IPA + offset, AccessKind.READ).page_bytes
        for offset in (BLOCK - PAGE, BLOCK, 2 * BLOCK - 1, 2 * BLOCK)
    ]
    assert sizes == [PAGE, BLOCK, BLOCK, PAGE]


def test_addresses_with_different_offsets_in_a_block_are_mapped_by_pages(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, RAM_PA + PAGE, BLOCK, writable=True, executable=True)
    found = pool.tables.translate(RAM_IPA + BLOCK - 1, AccessKind.WRITE)
    assert (found.pa, found.page_bytes) == (RAM_PA + PAGE + BLOCK - 1, PAGE)


def test_partial_unmap_splits_the_block_and_keeps_the_rest(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=False, executable=False)
    pool.tables.unmap(RAM_IPA + 3 * PAGE, 2 * PAGE)
    # The attributes survive: read only, XN, 0b11 for pages.
    assert pool.word(2, 2) == 0x0040_0000_8000_277F
    assert [pool.word(2, index) for index in (3, 4)] == [0, 0]
    assert pool.word(2, 5) == 0x0040_0000_8000_577F
    assert pool.word(2, 511) == 0x0040_0000_801F_F77F
    assert pool.tables.regions() == (
        Region(RAM_IPA, RAM_PA, 3 * PAGE, writable=False, executable=False),
        Region(RAM_IPA + 5 * PAGE, RAM_PA + 5 * PAGE, 507 * PAGE, writable=False, executable=False),
    )


def test_a_hole_in_a_split_block_can_be_mapped_elsewhere(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    pool.tables.unmap(RAM_IPA + PAGE, PAGE)
    pool.tables.map(RAM_IPA + PAGE, 0x9000_0000, PAGE, writable=False, executable=False)
    found = pool.tables.translate(RAM_IPA + PAGE + 4, AccessKind.READ)
    assert (found.pa, found.writable, found.executable) == (0x9000_0004, False, False)
    assert pool.tables.translate(RAM_IPA, AccessKind.WRITE).pa == RAM_PA


def test_unmapping_everything_frees_every_table_but_the_root(pool: Pool) -> None:
    free_before = pool.tables.free_table_count
    pool.tables.map(GIB - PAGE, RAM_PA - PAGE, BLOCK + PAGE, writable=True, executable=True)
    pool.tables.map(5 * GIB, RAM_PA + PAGE, PAGE, writable=True, executable=True)
    # Level 2 for GiB 0, 1 and 5; level 3 for the last page of GiB 0 and the page at 5 GiB.
    assert pool.tables.free_table_count == free_before - 5
    pool.tables.unmap(GIB - PAGE, BLOCK + PAGE)
    pool.tables.unmap(5 * GIB, PAGE)
    assert pool.tables.free_table_count == free_before
    assert pool.tables.regions() == ()
    assert not any(pool.data[:PAGE])


def test_one_unmap_may_span_several_maps(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    pool.tables.map(RAM_IPA + BLOCK, 0x9000_1000, PAGE, writable=False, executable=False)
    pool.tables.unmap(RAM_IPA + PAGE, BLOCK)
    assert pool.tables.regions() == (Region(RAM_IPA, RAM_PA, PAGE, True, True),)


def test_regions_join_only_what_is_one_mapping(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    pool.tables.map(RAM_IPA + PAGE, RAM_PA + PAGE, PAGE, writable=True, executable=True)
    pool.tables.map(RAM_IPA + 2 * PAGE, RAM_PA + 2 * PAGE, PAGE, writable=False, executable=True)
    pool.tables.map(RAM_IPA + 3 * PAGE, RAM_PA, PAGE, writable=False, executable=True)
    assert pool.tables.regions() == (
        Region(RAM_IPA, RAM_PA, 2 * PAGE, True, True),
        Region(RAM_IPA + 2 * PAGE, RAM_PA + 2 * PAGE, PAGE, False, True),
        Region(RAM_IPA + 3 * PAGE, RAM_PA, PAGE, False, True),
    )


# --- refusals change nothing ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ipa", "pa", "size_bytes", "field"),
    [
        (RAM_IPA + 1, RAM_PA, PAGE, "ipa"),
        (RAM_IPA, RAM_PA + 0x800, PAGE, "pa"),
        (RAM_IPA, RAM_PA, PAGE + 1, "size_bytes"),
        (RAM_IPA, RAM_PA, 0, "size_bytes"),
        (RAM_IPA, RAM_PA, -PAGE, "size_bytes"),
        (-PAGE, RAM_PA, PAGE, "ipa"),
        (RAM_IPA, -PAGE, PAGE, "pa"),
        (1 << 39, RAM_PA, PAGE, "ipa"),
        ((1 << 39) - PAGE, RAM_PA, 2 * PAGE, "ipa"),
        (RAM_IPA, 1 << 40, PAGE, "pa"),
        (RAM_IPA, (1 << 40) - PAGE, 2 * PAGE, "pa"),
        (RAM_IPA, POOL_PA, PAGE, "pa"),
        (RAM_IPA, POOL_PA - PAGE, 2 * PAGE, "pa"),
        (RAM_IPA, POOL_PA + 15 * PAGE, PAGE, "pa"),
    ],
)
def test_map_refuses_bad_arguments(
    pool: Pool, ipa: int, pa: int, size_bytes: int, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        pool.tables.map(ipa, pa, size_bytes, writable=True, executable=True)
    assert caught.value.field == field
    assert pool.used_words() == {}


def test_map_takes_memory_right_beside_the_pool(pool: Pool) -> None:
    pool.tables.map(RAM_IPA, POOL_PA - PAGE, PAGE, writable=True, executable=True)
    pool.tables.map(RAM_IPA + PAGE, POOL_PA + 16 * PAGE, PAGE, writable=True, executable=True)
    assert len(pool.tables.regions()) == 2


@pytest.mark.parametrize(
    ("ipa", "size_bytes", "field"),
    [
        (RAM_IPA + 8, PAGE, "ipa"),
        (RAM_IPA, 5, "size_bytes"),
        (RAM_IPA, 0, "size_bytes"),
        ((1 << 39) - PAGE, 2 * PAGE, "ipa"),
    ],
)
def test_unmap_refuses_bad_arguments(pool: Pool, ipa: int, size_bytes: int, field: str) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    before = bytes(pool.data)
    with pytest.raises(InvalidArgument) as caught:
        pool.tables.unmap(ipa, size_bytes)
    assert caught.value.field == field
    assert pool.data == before


@pytest.mark.parametrize(
    ("ipa", "size_bytes", "at_ipa"),
    [
        (RAM_IPA, PAGE, RAM_IPA),  # inside a block
        (RAM_IPA, BLOCK, RAM_IPA),  # a block over a block
        (RAM_IPA - BLOCK, 2 * BLOCK, RAM_IPA),  # the second half overlaps
        (RAM_IPA + BLOCK, BLOCK, RAM_IPA + BLOCK + 7 * PAGE),  # a block over a table of pages
        (RAM_IPA + BLOCK + 6 * PAGE, 3 * PAGE, RAM_IPA + BLOCK + 7 * PAGE),
    ],
)
def test_overlapping_map_is_refused_by_address_and_changes_nothing(
    pool: Pool, ipa: int, size_bytes: int, at_ipa: int
) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    pool.tables.map(RAM_IPA + BLOCK + 7 * PAGE, RAM_PA + PAGE, PAGE, writable=True, executable=True)
    before, free_before = bytes(pool.data), pool.tables.free_table_count
    with pytest.raises(AlreadyExists) as caught:
        pool.tables.map(ipa, 0xC000_0000, size_bytes, writable=True, executable=True)
    assert caught.value.name == hex(at_ipa)
    assert pool.data == before
    assert pool.tables.free_table_count == free_before


@pytest.mark.parametrize(
    ("ipa", "size_bytes", "at_ipa"),
    [
        (5 * GIB, PAGE, 5 * GIB),  # no level-2 table
        (RAM_IPA + 2 * BLOCK, PAGE, RAM_IPA + 2 * BLOCK),  # no level-3 table
        (RAM_IPA, 2 * BLOCK, RAM_IPA + BLOCK),  # a block, then a table that begins with a hole
        (RAM_IPA + BLOCK + 7 * PAGE, 2 * PAGE, RAM_IPA + BLOCK + 8 * PAGE),
    ],
)
def test_unmapping_what_is_not_mapped_is_refused_and_changes_nothing(
    pool: Pool, ipa: int, size_bytes: int, at_ipa: int
) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    pool.tables.map(RAM_IPA + BLOCK + 7 * PAGE, RAM_PA + PAGE, PAGE, writable=True, executable=True)
    before = bytes(pool.data)
    with pytest.raises(NotFound) as caught:
        pool.tables.unmap(ipa, size_bytes)
    assert caught.value.name == hex(at_ipa)
    assert pool.data == before


def test_full_pool_refuses_a_map_and_changes_nothing() -> None:
    pool = Pool(page_count=4)  # the root, one level 2, two level 3
    pool.tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    before = bytes(pool.data)
    with pytest.raises(LimitExceeded) as caught:
        # Two more level-3 tables, one too many; the blocks between them would need none.
        pool.tables.map(
            RAM_IPA + 2 * BLOCK - PAGE,
            RAM_PA + 2 * BLOCK - PAGE,
            BLOCK + 2 * PAGE,
            writable=True,
            executable=True,
        )
    assert caught.value.limit == 4
    assert pool.data == before
    pool.tables.map(RAM_IPA + 2 * BLOCK, RAM_PA + 2 * BLOCK, BLOCK, writable=True, executable=True)
    pool.tables.map(RAM_IPA + BLOCK, RAM_PA, PAGE, writable=True, executable=True)
    assert pool.tables.free_table_count == 0


def test_a_new_gib_counts_its_level_2_table_once() -> None:
    pool = Pool(page_count=4)
    pool.tables.map(RAM_IPA, RAM_PA + PAGE, 2 * BLOCK, writable=True, executable=True)
    assert pool.tables.free_table_count == 0


def test_full_pool_refuses_a_split_and_changes_nothing() -> None:
    pool = Pool(page_count=2)
    pool.tables.map(RAM_IPA, RAM_PA, 2 * BLOCK, writable=True, executable=True)
    before = bytes(pool.data)
    with pytest.raises(LimitExceeded):
        pool.tables.unmap(RAM_IPA + PAGE, PAGE)
    assert pool.data == before
    pool.tables.unmap(RAM_IPA, BLOCK)  # whole blocks need no table
    assert pool.tables.regions() == (Region(RAM_IPA + BLOCK, RAM_PA + BLOCK, BLOCK, True, True),)


def test_both_ends_of_an_unmap_may_split() -> None:
    pool = Pool(page_count=3)
    pool.tables.map(RAM_IPA, RAM_PA, 2 * BLOCK, writable=True, executable=True)
    with pytest.raises(LimitExceeded):  # two splits, one free table
        pool.tables.unmap(RAM_IPA + PAGE, 2 * BLOCK - 2 * PAGE)
    assert pool.tables.regions() == (Region(RAM_IPA, RAM_PA, 2 * BLOCK, True, True),)


# --- order of stores ------------------------------------------------------------------------------


def test_a_split_breaks_before_it_makes() -> None:
    data = bytearray(16 * PAGE)
    seen: list[tuple[int, int, int]] = []

    def invalidate(ipa: int, size_bytes: int) -> None:
        descriptor = struct.unpack_from("<Q", data, PAGE + 256 * 8)[0]
        seen.append((ipa, size_bytes, descriptor))

    tables = Stage2Tables(memoryview(data), POOL_PA, invalidate=invalidate)
    tables.map(RAM_IPA, RAM_PA, BLOCK, writable=True, executable=True)
    assert seen == []  # invalid to valid needs no invalidation
    tables.unmap(RAM_IPA + 3 * PAGE, PAGE)
    assert seen == [
        (RAM_IPA, BLOCK, 0),  # broken: neither the block nor the table is there
        (RAM_IPA + 3 * PAGE, PAGE, POOL_PA + 2 * PAGE | 3),
    ]


def test_emptied_tables_are_free_only_after_the_invalidation() -> None:
    data = bytearray(16 * PAGE)
    free_then: list[int] = []
    tables = Stage2Tables(
        memoryview(data),
        POOL_PA,
        invalidate=lambda ipa, size_bytes: free_then.append(tables.free_table_count),
    )
    tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    tables.unmap(RAM_IPA, PAGE)
    assert free_then == [13]
    assert tables.free_table_count == 15


# --- the pool -------------------------------------------------------------------------------------


def test_the_pool_must_be_usable() -> None:
    good = bytearray(2 * PAGE)
    for pool, pool_pa, field in (
        (memoryview(bytes(PAGE)), POOL_PA, "pool"),  # read only
        (memoryview(good)[::2], POOL_PA, "pool"),  # not contiguous
        (memoryview(good)[:100], POOL_PA, "pool"),
        (memoryview(bytearray()), POOL_PA, "pool"),
        (memoryview(good), POOL_PA + 8, "pool_pa"),
        (memoryview(good), -PAGE, "pool_pa"),
        (memoryview(good), (1 << 40) - PAGE, "pool_pa"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            Stage2Tables(pool, pool_pa)
        assert caught.value.field == field


def test_a_dirty_pool_gives_an_empty_root_and_clean_tables() -> None:
    data = bytearray(b"\xff" * (4 * PAGE))
    tables = Stage2Tables(memoryview(data), POOL_PA)
    assert tables.regions() == ()
    tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    assert tables.regions() == (Region(RAM_IPA, RAM_PA, PAGE, True, True),)


def test_release_lets_the_mmap_of_the_pool_be_closed() -> None:
    memory = mmap.mmap(-1, 4 * PAGE)
    view = memoryview(memory)
    tables = Stage2Tables(view, POOL_PA)
    tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    tables.release()
    tables.release()
    view.release()
    memory.close()


def test_the_tables_are_only_the_pool(pool: Pool) -> None:
    """What the bytes say is what is mapped: nothing is kept beside them."""
    pool.tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    struct.pack_into("<Q", pool.data, 2 * PAGE, 0x9000_077F)  # another page, read only
    found = pool.tables.translate(RAM_IPA, AccessKind.READ)
    assert (found.pa, found.writable) == (0x9000_0000, False)
    struct.pack_into("<Q", pool.data, 2 * PAGE, 0)
    with pytest.raises(TranslationFault):
        pool.tables.translate(RAM_IPA, AccessKind.READ)


@pytest.mark.parametrize("place", [8, PAGE + 256 * 8])
@pytest.mark.parametrize("descriptor", [0x7700_0000_0000 | 3, 2])
def test_foreign_bytes_in_our_own_tables_are_a_bug_not_a_mapping(
    pool: Pool, place: int, descriptor: int
) -> None:
    pool.tables.map(RAM_IPA, RAM_PA, PAGE, writable=True, executable=True)
    struct.pack_into("<Q", pool.data, place, descriptor)
    with pytest.raises(InvariantViolation):
        pool.tables.unmap(RAM_IPA, PAGE)
    with pytest.raises(TranslationFault):
        pool.tables.translate(RAM_IPA, AccessKind.READ)
