"""The bits of a VMSAv8-64 stage-2 descriptor, and the registers that make hardware read them.

Source: Arm Architecture Reference Manual for A-profile, DDI 0487, section D8 ("Translation using
the 4KB granule", "Table descriptor format", "Block descriptor and Page descriptor formats") and the
descriptions of the registers VTCR_EL2 and VTTBR_EL2. Bit numbers below are the manual's.

    63       55 54  53 52   51    48 47                  12 11  10 9  8 7    6 5       2 1    0
    | ignored  | XN | C    | RES0   | output address        | 0 |AF| SH | S2AP | MemAttr | type |

`type` is 0b11 for a table (levels 1 and 2) and for a page (level 3), 0b01 for a block (levels 1 and
2); everything else is invalid. At stage 2 a table descriptor has no permissions.
"""

from __future__ import annotations

from typing import Final

from vcoproc.limits import BLOCK_BYTES, PAGE_BYTES

PAGE_SHIFT: Final = 12
"""4 KiB granule."""
LEVEL_BITS: Final = 9
"""512 descriptors of 8 bytes fill one page."""
TABLE_ENTRIES: Final = 1 << LEVEL_BITS
DESCRIPTOR_BYTES: Final = 8
START_LEVEL: Final = 1
LAST_LEVEL: Final = 3
IPA_BITS: Final = 39
"""Exactly what one level-1 table covers, so nothing needs concatenated tables."""
IPA_LIMIT: Final = 1 << IPA_BITS
PA_BITS: Final = 40
PA_LIMIT: Final = 1 << PA_BITS

VTCR_EL2: Final = (
    (64 - IPA_BITS)  # T0SZ  [5:0]   = 25: 39-bit input address
    | 0b01 << 6  # SL0   [7:6]   = 1: start at level 1 (4 KiB granule)
    | 0b01 << 8  # IRGN0 [9:8]   = 1: table walks are inner write-back, write-allocate
    | 0b01 << 10  # ORGN0 [11:10] = 1: and outer
    | 0b11 << 12  # SH0   [13:12] = 3: inner shareable
    | 0b00 << 14  # TG0   [15:14] = 0: 4 KiB granule
    | 0b010 << 16  # PS    [18:16] = 2: 40-bit output address
    | 1 << 31  # RES1
)
"""What hardware would be programmed with: 0x80023559. VTTBR_EL2 gets the root's address, and the
VMID in bits [63:48]."""

TYPE_MASK: Final = 0b11
VALID: Final = 0b01
TYPE_BLOCK: Final = 0b01
TYPE_TABLE: Final = 0b11
TYPE_PAGE: Final = 0b11
MEMATTR_NORMAL_WB: Final = 0b1111 << 2
"""Normal memory, outer and inner write-back."""
S2AP_READ: Final = 1 << 6
S2AP_WRITE: Final = 1 << 7
SH_INNER: Final = 0b11 << 8
AF: Final = 1 << 10
"""Access flag. Always set by us: an access must not fault only because it is the first."""
XN_MASK: Final = 0b11 << 53
XN_ALL: Final = 0b10 << 53
"""Never executable. With FEAT_XNX bits [54:53] = 0b10 mean "at no exception level"; without it bit
54 alone is XN and bit 53 is RES0. So 0b10 means the same on every implementation."""
ADDRESS_MASK: Final = 0x0000_FFFF_FFFF_F000
"""Output address, bits [47:12]."""
OVERSIZE_MASK: Final = ADDRESS_MASK & ~(PA_LIMIT - 1)
"""Output address bits above VTCR_EL2.PS; one that is set is an address size fault."""

_COMMON: Final = AF | SH_INNER | S2AP_READ | MEMATTR_NORMAL_WB

assert PAGE_BYTES == 1 << PAGE_SHIFT
assert BLOCK_BYTES == PAGE_BYTES << LEVEL_BITS
assert PAGE_SHIFT + LEVEL_BITS * (LAST_LEVEL - START_LEVEL + 1) == IPA_BITS
assert VTCR_EL2 == 0x8002_3559


def attributes(*, writable: bool, executable: bool) -> int:
    """Attribute bits of a block or page that can always be read."""
    bits = _COMMON
    if writable:
        bits |= S2AP_WRITE
    if not executable:
        bits |= XN_ALL
    return bits


def block(pa: int, attribute_bits: int) -> int:
    """Descriptor of a 2 MiB block (level 2)."""
    assert pa % BLOCK_BYTES == 0 and 0 <= pa < PA_LIMIT
    return pa | attribute_bits | TYPE_BLOCK


def page(pa: int, attribute_bits: int) -> int:
    """Descriptor of a 4 KiB page (level 3)."""
    assert pa % PAGE_BYTES == 0 and 0 <= pa < PA_LIMIT
    return pa | attribute_bits | TYPE_PAGE


def table(pa: int) -> int:
    """Descriptor that points to the next level's table."""
    assert pa % PAGE_BYTES == 0 and 0 <= pa < PA_LIMIT
    return pa | TYPE_TABLE


def split(block_descriptor: int) -> int:
    """Descriptor of the first page of a block; page n is this + n * PAGE_BYTES."""
    assert block_descriptor & TYPE_MASK == TYPE_BLOCK
    return block_descriptor | TYPE_PAGE
