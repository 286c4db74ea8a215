"""Keeps unicorn's TLB small, so that flushing it stays cheap.

Unicorn's TLB grows when it is flushed more than 70 % full, as its count of used entries says
(`n_used_entries`, QEMU's accel/tcg/cputlb.c). Filling a page again whose entry waits in the victim
TLB lowers that count twice; stores do it again and again when their page shares an entry with
another page. The count falls below zero, which as an unsigned number is more than full: the table
doubles at each flush, up to a million entries, and a switch takes 180 ms instead of 10 us.

So the count is put back to zero, before each flush that would find it below. It is found as the
engine's instruction counter is (`engine_binding`): by searching for values that a trial must leave
there. Where it is not found nothing is mended, and switches may be slow.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from pathlib import Path
from typing import Any, Final

from unicorn import unicorn_const as ucc

from vcoproc.limits import PAGE_BYTES
from vcoproc_sim.engine_binding import LIBRARY, RegisterBank, check, new_core

_POINTERS: Final = 1024
"""Words of the engine structure that are looked at for pointers to its processor."""
_REACH_BYTES: Final = 64 * 1024
"""How far behind such a pointer the count is looked for."""
_CODE: Final = 0x1000
_DATA: Final = 0x2000  # next to the code: no two of these pages share an entry
# 0: ldr r2,[r0]; adds r0,r1; subs r3,#1; bne 0; b .
_PROGRAM: Final = b"\x02\x68\x40\x18\x01\x3b\xfb\xd1\xfe\xe7"


class TlbGuard:
    """Flushes the TLB of an engine. core: its unicorn object."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._used: Any = None
        found = _place()
        core.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)  # and there is a processor
        if found is not None:
            pointer_at, offset = found
            base = ctypes.c_size_t.from_address(int(core._uch.value) + pointer_at).value
            self._used = ctypes.c_ssize_t.from_address(base + offset)

    @property
    def is_mended(self) -> bool:
        """Whether the count was found."""
        return self._used is not None

    def flush(self) -> None:
        """Forgets all filled pages."""
        if self._used is not None and self._used.value < 0:
            self._used.value = 0
        self._core.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)


@functools.cache
def _place() -> tuple[int, int] | None:
    """Offset of a pointer in the engine structure, and of the count behind it; None: not found.

    Two engines have to agree: what only happens to lie behind a pointer lies elsewhere in another.
    """
    cores = (new_core(), new_core())
    found = _trial(cores[0]) & _trial(cores[1])
    places = {
        ctypes.c_size_t.from_address(int(cores[0]._uch.value) + pointer_at).value + offset
        for pointer_at, offset in found
    }
    return min(found) if len(places) == 1 else None


def _trial(core: Any) -> set[tuple[int, int]]:
    """Places that have the right count after each of several runs."""

    def fill(_uc: Any, address: int, _kind: int, entry: Any, _data: object) -> bool:
        entry.paddr = address & -PAGE_BYTES
        entry.perms = ucc.UC_PROT_ALL
        return True

    core.ctl_set_tlb_mode(ucc.UC_TLB_VIRTUAL)
    core.hook_add(ucc.UC_HOOK_TLB_FILL, fill)
    core.mem_map(_CODE, PAGE_BYTES)
    core.mem_write(_CODE, _PROGRAM)
    core.mem_map(_DATA, 64 * PAGE_BYTES)
    registers = RegisterBank(core, ("r0", "r1", "r3"))
    found: set[tuple[int, int]] | None = None
    for pages in (37, 53, 19):
        core.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)
        registers.write((_DATA, PAGE_BYTES, pages))
        check(LIBRARY.uc_emu_start(core._uch, _CODE | 1, 0, 0, 4 * pages + 10))
        # Each load has filled one entry, and the code another one.
        now = _search(int(core._uch.value), pages + 1)
        found = now if found is None else found & now
    assert found is not None
    return found


def _search(base: int, wanted: int) -> set[tuple[int, int]]:
    """Words with that value. Through the file, so that no read can kill the process."""
    needle = wanted.to_bytes(8, "little")
    found: set[tuple[int, int]] = set()
    memory = os.open(Path("/proc/self/mem"), os.O_RDONLY)
    try:
        structure = os.pread(memory, _POINTERS * 8, base)
        for at, (pointer,) in enumerate(struct.iter_unpack("<Q", structure)):
            if pointer % 16 or not 0x1_0000 < pointer < 1 << 47:
                continue
            raw = _read(memory, pointer)
            offset = raw.find(needle)
            while offset >= 0:
                if offset % 8 == 0:
                    found.add((at * 8, offset))
                offset = raw.find(needle, offset + 1)
    finally:
        os.close(memory)
    return found


def _read(memory: int, address: int) -> bytes:
    try:
        return os.pread(memory, _REACH_BYTES, address)
    except OSError:
        return b""
