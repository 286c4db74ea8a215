"""The stage-2 table walk, as the architecture defines it.

Theory of operation: start at level 1, take nine bits of the address per level, follow table
descriptors, stop at a block or a page. One `read64` per level, at most three; nothing is cached.

The tables are not trusted. Whatever bytes they hold, the walk ends after three reads with a
`Translation` or a `TranslationFault`, never with another error. Faults are checked in the order of
the architecture (DDI 0487, section D8, "MMU fault prioritization"): input address size, external
abort on the walk, translation, output address size, access flag, permission.

Not handled: the contiguous bit (a hint), hardware update of the access flag and dirty state
(VTCR_EL2.HA and HD are 0), and bits [54:53] = 0b01 and 0b11, which FEAT_XNX gives to EL0 and EL1
separately. A coprocessor has no exception levels, so these two count as not executable.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vcoproc.errors import InvalidArgument, TranslationFault
from vcoproc.limits import PAGE_BYTES
from vcoproc.mmu import descriptors as d

WHY_TRANSLATION: Final = "translation fault"
"""Nothing is mapped there, or the address is beyond 39 bits (then at level 0)."""
WHY_ADDRESS_SIZE: Final = "address size fault"
"""A descriptor holds an address beyond 40 bits."""
WHY_ACCESS_FLAG: Final = "access flag fault"
WHY_PERMISSION: Final = "permission fault"
WHY_EXTERNAL_ABORT: Final = "external abort on table walk"
"""A descriptor points to a table where there is no table memory."""


class AccessKind(enum.Enum):
    READ = "read"
    WRITE = "write"
    EXECUTE = "execute"


@dataclass(frozen=True, slots=True)
class Translation:
    """Where an address leads.

    pa: physical address of the very byte that was asked for, not of its page.
    page_bytes: size of the page or block that holds it: 4 KiB, 2 MiB (or 1 GiB in foreign tables).
    writable, executable, readable: what stage 2 permits there, whatever was asked for.
    """

    pa: int
    page_bytes: int
    writable: bool
    executable: bool
    readable: bool


def walk(read64: Callable[[int], int], root_pa: int, ipa: int, access: AccessKind) -> Translation:
    """Translates one address. An access that crosses a page needs one walk for each page.

    Args:
        read64: reads the 64-bit little-endian word at a physical address (a multiple of 8). Raises
            any LookupError (KeyError, IndexError) where there is no table memory.
        root_pa: the level-1 table, page aligned (VTTBR_EL2.BADDR).
        ipa: the address.
        access: what the engine is about to do there.

    Raises:
        TranslationFault: `why` is one of the WHY_ constants.
        InvalidArgument: the root is not page aligned.
    """
    if root_pa % PAGE_BYTES:
        raise InvalidArgument("root_pa", f"{root_pa:#x} is not page aligned")
    if not 0 <= ipa < d.IPA_LIMIT:
        raise _fault(ipa, access, 0, WHY_TRANSLATION)
    table_pa = root_pa
    shift = d.IPA_BITS - d.LEVEL_BITS
    for level in range(d.START_LEVEL, d.LAST_LEVEL + 1):
        index = ipa >> shift & d.TABLE_ENTRIES - 1
        try:
            descriptor = read64(table_pa + index * d.DESCRIPTOR_BYTES)
        except LookupError:
            raise _fault(ipa, access, level, WHY_EXTERNAL_ABORT) from None
        if not descriptor & d.VALID:
            raise _fault(ipa, access, level, WHY_TRANSLATION)
        is_table_or_page = descriptor & d.TYPE_MASK == d.TYPE_TABLE
        if level == d.LAST_LEVEL and not is_table_or_page:  # 0b01 is reserved at level 3
            raise _fault(ipa, access, level, WHY_TRANSLATION)
        if descriptor & d.OVERSIZE_MASK:
            raise _fault(ipa, access, level, WHY_ADDRESS_SIZE)
        if level == d.LAST_LEVEL or not is_table_or_page:
            return _leaf(descriptor, 1 << shift, ipa, access, level)
        table_pa = descriptor & d.ADDRESS_MASK
        shift -= d.LEVEL_BITS
    raise AssertionError("level 3 is always a leaf or a fault")


def _leaf(
    descriptor: int, page_bytes: int, ipa: int, access: AccessKind, level: int
) -> Translation:
    if not descriptor & d.AF:
        raise _fault(ipa, access, level, WHY_ACCESS_FLAG)
    found = Translation(
        # A block's address bits below its size are RES0: masked, so that they cannot leak in.
        pa=descriptor & d.ADDRESS_MASK & -page_bytes | ipa & page_bytes - 1,
        page_bytes=page_bytes,
        writable=bool(descriptor & d.S2AP_WRITE),
        executable=not descriptor & d.XN_MASK,
        readable=bool(descriptor & d.S2AP_READ),
    )
    if not permits(found, access):
        raise _fault(ipa, access, level, WHY_PERMISSION)
    return found


def permits(found: Translation, access: AccessKind) -> bool:
    """Whether stage 2 permits the access. Fetching needs XN = 0 only, not read permission."""
    if access is AccessKind.READ:
        return found.readable
    if access is AccessKind.WRITE:
        return found.writable
    return found.executable


def _fault(ipa: int, access: AccessKind, level: int, why: str) -> TranslationFault:
    return TranslationFault(ipa, access.value, 2, level, why)
