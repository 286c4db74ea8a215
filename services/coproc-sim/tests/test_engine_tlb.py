"""The TLB of the engine does not grow, whatever the firmware's addresses are."""

from __future__ import annotations

from typing import Any

from unicorn import unicorn_const as ucc

from vcoproc.limits import PAGE_BYTES
from vcoproc_sim.engine_binding import LIBRARY, RegisterBank, check, new_core
from vcoproc_sim.engine_tlb import TlbGuard

CODE = 0x1000
FIRST = 0x10_0000
SECOND = FIRST + 256 * PAGE_BYTES
"""Shares an entry with FIRST in a table of 256, which is the smallest."""
# 0: str r3,[r0]; str r3,[r1]; subs r3,#1; bne 0; b .
PING_PONG = b"\x03\x60\x0b\x60\x01\x3b\xfb\xd1\xfe\xe7"


def test_pages_that_share_an_entry_do_not_drive_the_count_below_zero() -> None:
    core = new_core()
    core.ctl_set_tlb_mode(ucc.UC_TLB_VIRTUAL)
    fills: list[int] = []

    def fill(_uc: Any, address: int, _kind: int, entry: Any, _data: object) -> bool:
        fills.append(address)
        entry.paddr = address & -PAGE_BYTES
        entry.perms = ucc.UC_PROT_ALL
        return True

    core.hook_add(ucc.UC_HOOK_TLB_FILL, fill)
    for base in (CODE, FIRST, SECOND):
        core.mem_map(base, PAGE_BYTES)
    core.mem_write(CODE, PING_PONG)
    guard = TlbGuard(core)
    assert guard.is_mended, "no count found in this build of unicorn: switches may become slow"

    lowest = 0
    for _ in range(20):
        RegisterBank(core, ("r0", "r1", "r3")).write((FIRST, SECOND, 100))
        check(LIBRARY.uc_emu_start(core._uch, CODE | 1, 0, 0, 500))
        lowest = min(lowest, guard._used.value)
        fills.clear()
        guard.flush()
        assert guard._used.value >= 0
    assert lowest < 0, "this unicorn no longer counts wrongly; engine_tlb may go"
