"""The walk over tables that nobody vouches for: every fault, and any bytes at all."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc.errors import InvalidArgument, TranslationFault
from vcoproc.mmu import (
    WHY_ACCESS_FLAG,
    WHY_ADDRESS_SIZE,
    WHY_EXTERNAL_ABORT,
    WHY_PERMISSION,
    WHY_TRANSLATION,
    AccessKind,
    Stage2Tables,
    Translation,
    walk,
)

ROOT = 0x4000_0000
L2 = 0x4000_1000
L3 = 0x4000_2000
IPA = 0x6000_0000  # level-1 index 1, level-2 index 256, level-3 index 0
L1_ENTRY, L2_ENTRY, L3_ENTRY = ROOT + 8, L2 + 256 * 8, L3
R, W, X = AccessKind.READ, AccessKind.WRITE, AccessKind.EXECUTE


def tables(**changed: int) -> dict[int, int]:
    """Words by address: a three-level table with one page, then changed entries."""
    memory = dict.fromkeys(range(ROOT, L3 + 0x1000, 8), 0)
    memory |= {L1_ENTRY: L2 | 3, L2_ENTRY: L3 | 3, L3_ENTRY: 0x8000_17FF}
    places = {"l1": L1_ENTRY, "l2": L2_ENTRY, "l3": L3_ENTRY}
    return memory | {places[name]: word for name, word in changed.items()}


def fault_of(memory: dict[int, int], access: AccessKind = R, ipa: int = IPA) -> tuple[int, str]:
    with pytest.raises(TranslationFault) as caught:
        walk(memory.__getitem__, ROOT, ipa, access)
    fault = caught.value
    assert (fault.address, fault.access, fault.stage) == (ipa, access.value, 2)
    return fault.level, fault.why


def test_page_is_found_with_its_offset_and_permissions() -> None:
    assert walk(tables().__getitem__, ROOT, IPA + 0xABC, R) == Translation(
        pa=0x8000_1ABC, page_bytes=0x1000, writable=True, executable=True, readable=True
    )


@pytest.mark.parametrize(
    ("changed", "pa", "page_bytes"),
    [
        ({"l2": 0x8020_07FD}, 0x8020_0000 + 0x12_3456, 0x20_0000),
        # A block's address bits below its size are RES0: they must not reach the result.
        ({"l2": 0x8020_07FD | 0x1F_F000}, 0x8020_0000 + 0x12_3456, 0x20_0000),
        ({"l1": 0x80_8000_07FD}, 0x80_8000_0000 + 0x2012_3456, 0x4000_0000),
    ],
)
def test_blocks_at_levels_1_and_2(changed: dict[str, int], pa: int, page_bytes: int) -> None:
    found = walk(tables(**changed).__getitem__, ROOT, IPA + 0x12_3456, W)
    assert (found.pa, found.page_bytes) == (pa, page_bytes)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"l1": 0}, (1, WHY_TRANSLATION)),
        ({"l1": L2 | 2}, (1, WHY_TRANSLATION)),  # bit 0 clear: invalid, whatever the rest says
        ({"l2": 0}, (2, WHY_TRANSLATION)),
        ({"l2": 0xFFFF_FFFF_FFFF_FFFE}, (2, WHY_TRANSLATION)),
        ({"l3": 0}, (3, WHY_TRANSLATION)),
        ({"l3": 0x8000_17FD}, (3, WHY_TRANSLATION)),  # 0b01 is reserved at level 3
        ({"l1": 1 << 40 | L2 | 3}, (1, WHY_ADDRESS_SIZE)),
        ({"l2": 1 << 47 | L3 | 3}, (2, WHY_ADDRESS_SIZE)),
        ({"l3": 1 << 40 | 0x8000_17FF}, (3, WHY_ADDRESS_SIZE)),
        ({"l2": 1 << 40 | 0x8020_07FD}, (2, WHY_ADDRESS_SIZE)),
        ({"l1": 0x5000_0000 | 3}, (2, WHY_EXTERNAL_ABORT)),  # no table memory there
        ({"l2": 0x5000_0000 | 3}, (3, WHY_EXTERNAL_ABORT)),
        ({"l3": 0x8000_13FF}, (3, WHY_ACCESS_FLAG)),
        ({"l2": 0x8020_03FD}, (2, WHY_ACCESS_FLAG)),
        ({"l1": 0x8000_03FD}, (1, WHY_ACCESS_FLAG)),
        # Priority: address size before access flag before permission.
        ({"l3": 1 << 40 | 0x8000_133F}, (3, WHY_ADDRESS_SIZE)),
        ({"l3": 0x8000_133F}, (3, WHY_ACCESS_FLAG)),
    ],
)
@pytest.mark.parametrize("access", list(AccessKind))
def test_faults_of_every_access(
    changed: dict[str, int], expected: tuple[int, str], access: AccessKind
) -> None:
    assert fault_of(tables(**changed), access) == expected


# S2AP[7:6], XN[54:53]; DDI 0487, "Stage 2 data access permissions" and "... execute permissions".
@pytest.mark.parametrize(
    ("s2ap", "xn", "permitted"),
    [
        (0b00, 0b00, {X}),  # execute only
        (0b01, 0b00, {R, X}),
        (0b10, 0b00, {W, X}),
        (0b11, 0b00, {R, W, X}),
        (0b11, 0b10, {R, W}),
        (0b11, 0b01, {R, W}),  # FEAT_XNX: EL0 only. Counts as never.
        (0b11, 0b11, {R, W}),  # FEAT_XNX: EL1 only. Counts as never.
        (0b00, 0b10, set()),
    ],
)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_permissions(s2ap: int, xn: int, permitted: set[AccessKind], level: int) -> None:
    kind = 3 if level == 3 else 1
    memory = tables(**{f"l{level}": 0x8000_0000 | 0x73C | s2ap << 6 | xn << 53 | kind})
    for access in AccessKind:
        if access in permitted:
            found = walk(memory.__getitem__, ROOT, IPA, access)
            assert found.readable == (R in permitted)
            assert found.writable == (W in permitted)
            assert found.executable == (X in permitted)
        else:
            assert fault_of(memory, access) == (level, WHY_PERMISSION)


@pytest.mark.parametrize("ipa", [1 << 39, (1 << 39) + IPA, 1 << 63, -1, -(1 << 39)])
def test_address_beyond_39_bits_is_a_level_0_translation_fault(ipa: int) -> None:
    assert fault_of(tables(), R, ipa) == (0, WHY_TRANSLATION)


def test_attributes_of_table_descriptors_mean_nothing_at_stage_2() -> None:
    # Bits [63:59] are NSTable, APTable, XNTable, PXNTable at stage 1, and ignored at stage 2.
    memory = tables(l1=0xF8 << 56 | L2 | 3, l2=0xF8 << 56 | L3 | 3)
    assert walk(memory.__getitem__, ROOT, IPA, X).pa == 0x8000_1000


def test_root_outside_table_memory_is_a_fault_and_an_unaligned_one_an_error() -> None:
    with pytest.raises(TranslationFault) as caught:
        walk(dict[int, int]().__getitem__, 0x9000_0000, IPA, R)
    assert (caught.value.level, caught.value.why) == (1, WHY_EXTERNAL_ABORT)
    with pytest.raises(InvalidArgument):
        walk(tables().__getitem__, ROOT + 8, IPA, R)


def test_a_table_that_points_to_itself_ends_after_three_levels() -> None:
    reads: list[int] = []

    def read64(pa: int) -> int:
        reads.append(pa)
        return ROOT | 0x7FF

    found = walk(read64, ROOT, IPA, R)
    assert (found.pa, len(reads)) == (ROOT, 3)


# Descriptors near enough to good ones that every branch is met; and plain noise.
_WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(
        lambda page, low, high: page << 12 | low | high << 48,
        st.integers(ROOT >> 12, (ROOT >> 12) + 7),
        st.sampled_from([0x7FF, 0x7FD, 0x3FF, 0x77F, 0x73D, 3, 1, 0]),
        st.sampled_from([0, 1 << 6, 1 << 5, 0xFFFF]),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    words=st.dictionaries(st.integers(0, 4 * 512 - 1), _WORDS, max_size=40),
    fill=_WORDS,
    ipas=st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5),
)
def test_any_bytes_translate_or_fault_and_both_walks_agree(
    words: dict[int, int], fill: int, ipas: list[int]
) -> None:
    data = bytearray(4 * 0x1000)
    built = Stage2Tables(memoryview(data), ROOT)
    for place in range(4 * 512):
        struct.pack_into("<Q", data, place * 8, words.get(place, fill))

    def read64(pa: int) -> int:  # another reader than Stage2Tables', and another LookupError
        if not ROOT <= pa < ROOT + len(data):
            raise IndexError(pa)
        value: int = struct.unpack_from("<Q", data, pa - ROOT)[0]
        return value

    for ipa in ipas:
        for access in AccessKind:
            assert _outcome(lambda i, a: walk(read64, ROOT, i, a), ipa, access) == _outcome(
                built.translate, ipa, access
            )


def _outcome(
    translate: Callable[[int, AccessKind], Translation], ipa: int, access: AccessKind
) -> object:
    try:
        found = translate(ipa, access)
    except TranslationFault as fault:
        assert 0 <= fault.level <= 3
        return (fault.address, fault.access, fault.stage, fault.level, fault.why)
    assert 0 <= found.pa < 1 << 40
    assert found.pa % found.page_bytes == ipa % found.page_bytes
    return found
