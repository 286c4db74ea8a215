"""One context of the Cortex-M4: its memory map, and the state that a switch exchanges.

Theory of operation: the 40-bit physical address space of the engine holds, for each context, a
window on every region of its domain, one on its mbox page, and an alias of the one on-chip private
RAM. Stage-2 tables, in a pool of their own, lead the fixed addresses that firmware uses to them. A
window lies at the same offset within 2 MiB as its IPA, so that large regions become blocks.

Why aliases: translated code is keyed by the host address of its page. With one address for the
private RAM of all contexts, the code of the last one would run after a switch has exchanged the
bytes. So each context maps the same pages of the RAM once more.
"""

from __future__ import annotations

import enum
import mmap
from bisect import insort
from dataclasses import dataclass, field
from typing import Final

from vcoproc.errors import InvalidArgument, LimitExceeded, TranslationFault
from vcoproc.limits import BLOCK_BYTES, PAGE_BYTES
from vcoproc.mmu import AccessKind, Stage2Tables
from vcoproc_sim.engine import Engine, EngineContext
from vcoproc_sim.platforms.api import ContextSpec, Fault
from vcoproc_sim.platforms.cortex_m4_info import (
    DEVICE_IPA,
    MBOX_IPA,
    PPB_IPA,
    PRIVATE_IPA,
    VECTOR_BASE_MASK,
)
from vcoproc_sim.platforms.cortex_m4_ppb import SystemControl

DEVICE_PA: Final = DEVICE_IPA
PPB_PA: Final = PPB_IPA
WINDOWS_PA: Final = 0x1_0000_0000
WINDOWS_END_PA: Final = 0x80_0000_0000
TABLES_PA: Final = 0x80_0000_0000
TABLES_END_PA: Final = 0x81_0000_0000
IPA_LIMIT: Final = 1 << 32
"""A Cortex-M4 has 32-bit addresses."""
REGIONS_MAX: Final = 64
"""Of one context; then LimitExceeded."""


class Sleep(enum.IntEnum):
    """What a core waits for. The numbers are part of the snapshot's form."""

    AWAKE = 0
    WFI = 1
    WFE = 2


class PhysicalSpace:
    """First-fit allocator of physical addresses; ranges are reused after `release`."""

    def __init__(self, base: int, end: int) -> None:
        self._base = base
        self._end = end
        self._used: list[tuple[int, int]] = []  # (start, end), sorted

    def allocate(self, size_bytes: int, like: int = 0) -> int:
        """Address of a free range with the offset of `like` within 2 MiB.

        Raises:
            LimitExceeded: no free range is long enough.
        """
        offset = like % BLOCK_BYTES
        at = self._base + offset
        for start, end in self._used:
            if at + size_bytes <= start:
                break
            if end > at:
                at = (end - offset + BLOCK_BYTES - 1) // BLOCK_BYTES * BLOCK_BYTES + offset
        if at + size_bytes > self._end:
            raise LimitExceeded("physical address space", self._end - self._base, "bytes")
        insort(self._used, (at, at + size_bytes))
        return at

    def release(self, at: int) -> None:
        self._used = [used for used in self._used if used[0] != at]


class ContextMemory:
    """The memory of one context, as its core reaches it: everything goes through its tables."""

    def __init__(self, tables: Stage2Tables, windows: list[tuple[int, memoryview]]) -> None:
        self.tables = tables
        self.windows = windows
        self._pages: dict[tuple[int, AccessKind], tuple[memoryview, int]] = {}

    def read(self, ipa: int, size_bytes: int, access: AccessKind = AccessKind.READ) -> bytes:
        """Reads as the core would.

        Raises:
            TranslationFault: not mapped, or a device.
        """
        view, at = self._at(ipa, access)
        rest = PAGE_BYTES - ipa % PAGE_BYTES
        if size_bytes <= rest:
            return bytes(view[at : at + size_bytes])
        return bytes(view[at : at + rest]) + self.read(
            ipa + rest & IPA_LIMIT - 1, size_bytes - rest, access
        )

    def write(self, ipa: int, data: bytes) -> None:
        """Writes as the core would; all or nothing, for up to a page of data.

        Raises:
            TranslationFault: not mapped, not writable, or a device.
        """
        rest = PAGE_BYTES - ipa % PAGE_BYTES
        view, at = self._at(ipa, AccessKind.WRITE)
        if len(data) <= rest:
            view[at : at + len(data)] = data
            return
        second, second_at = self._at(ipa + rest & IPA_LIMIT - 1, AccessKind.WRITE)
        view[at : at + rest] = data[:rest]
        second[second_at : second_at + len(data) - rest] = data[rest:]

    def _at(self, ipa: int, access: AccessKind) -> tuple[memoryview, int]:
        page = ipa & -PAGE_BYTES
        found = self._pages.get((page, access))
        if found is None:
            pa = self.tables.translate(ipa, access).pa & -PAGE_BYTES
            for start, view in self.windows:
                if start <= pa < start + len(view):
                    found = (view, pa - start)
                    break
            else:
                raise TranslationFault(ipa, access.value, 2, 3, "no memory there, but a device")
            self._pages[page, access] = found
        return found[0], found[1] + ipa % PAGE_BYTES


@dataclass(slots=True, eq=False)
class Context:
    """All state of one vcoproc on this platform.

    live: the registers of range `ctrl` while the context is on the hardware. private: its private
    memory while it is not. wake_priority: an interrupt more urgent than this ends a sleep.
    idle_since_ns, idle_counted_cycles: when it fell asleep, and how many cycles of the time since
    then its SysTick has counted.
    event_known_clear: for so many instructions more it is watched whether firmware executes SEV.
    debt: instructions that the last burst ran over its budget; the next one is shorter by them.
    """

    spec: ContextSpec
    memory: ContextMemory
    registers: EngineContext
    private: bytearray
    live: list[int]
    system: SystemControl = field(default_factory=SystemControl)
    vector_base: int = 0
    pc: int = 0
    is_thumb: bool = True
    is_running: bool = False
    needs_start: bool = False
    fault: Fault | None = None
    sleep: Sleep = Sleep.AWAKE
    wake_priority: int = 0
    idle_since_ns: int | None = None
    idle_counted_cycles: int = 0
    event_known_clear: int = 0
    instructions: int = 0
    debt: int = 0

    def hold(self) -> None:
        """Puts the core into reset. Its private memory stays as it is, as SRAM does."""
        self.system.reset(0)
        self.is_running = False
        self.needs_start = False
        self.fault = None
        self._awake()

    def release(self, vector_base: int) -> None:
        """Releases reset; `Core` reads the vectors before the first instruction."""
        self.vector_base = vector_base & VECTOR_BASE_MASK
        self.system.reset(self.vector_base)
        self.is_running = True
        self.needs_start = True
        self.fault = None
        self._awake()

    def _awake(self) -> None:
        self.sleep = Sleep.AWAKE
        self.idle_since_ns = None
        self.idle_counted_cycles = 0
        self.event_known_clear = 0
        self.debt = 0

    def is_woken(self) -> bool:
        """Whether what a sleeping core waits for has come. PRIMASK does not count (B1.5.19)."""
        system = self.system
        if self.sleep is Sleep.WFE and system.event:
            return True
        return system.preempts(system.most_urgent(), self.wake_priority)

    def wants_to_run(self) -> bool:
        if not self.is_running or self.fault is not None:
            return False
        return self.sleep is Sleep.AWAKE or self.is_woken()


class MemoryMapper:
    """Builds and takes down the memory map of contexts in one engine."""

    def __init__(self, engine: Engine, ram_file: int, ram_bytes: int) -> None:
        """ram_file: descriptor of the on-chip RAM, one for all contexts."""
        self._engine = engine
        self._ram_file = ram_file
        self._ram_bytes = ram_bytes
        self._windows = PhysicalSpace(WINDOWS_PA, WINDOWS_END_PA)
        self._tables = PhysicalSpace(TABLES_PA, TABLES_END_PA)
        self._parts: dict[int, tuple[int, Stage2Tables, mmap.mmap]] = {}

    def build(self, spec: ContextSpec) -> ContextMemory:
        """Windows and tables of a context. All or nothing.

        Raises:
            InvalidArgument: a region is not whole pages, beyond 32 bits, or overlaps another one
                or a core-local range.
            LimitExceeded: too many regions, or no physical address is left.
        """
        _check(spec)
        alias = mmap.mmap(self._ram_file, self._ram_bytes)
        ranges = [
            (PRIVATE_IPA, memoryview(alias), True, True),
            (MBOX_IPA, spec.mapped[0], True, False),
        ]
        ranges += [(r.ipa, r.backing, r.writable, r.executable) for r in spec.regions]
        # The root, a table for each GiB of the 4, and one at each end of each range.
        pool_bytes = PAGE_BYTES * (5 + 2 * (len(ranges) + 2))
        pool_pa = self._tables.allocate(pool_bytes)
        tables = Stage2Tables(memoryview(bytearray(pool_bytes)), pool_pa)
        memory = ContextMemory(tables, [])
        self._parts[id(memory)] = (pool_pa, tables, alias)
        try:
            for pa in (DEVICE_PA, PPB_PA):
                tables.map(pa, pa, PAGE_BYTES, writable=True, executable=False)
            for ipa, view, writable, executable in ranges:
                pa = self._windows.allocate(view.nbytes, like=ipa)
                try:
                    self._engine.map_window(pa, view)
                except BaseException:
                    self._windows.release(pa)
                    raise
                memory.windows.append((pa, view.cast("B")))
                tables.map(ipa, pa, view.nbytes, writable=writable, executable=executable)
        except BaseException:
            ranges.clear()
            self.destroy(memory)
            raise
        return memory

    def destroy(self, memory: ContextMemory) -> None:
        """Releases every buffer and address of a context that is not on the engine."""
        for pa, view in memory.windows:
            self._engine.unmap_window(pa)
            self._windows.release(pa)
            view.release()
        memory.windows.clear()
        pool_pa, tables, alias = self._parts.pop(id(memory))
        tables.release()
        alias.close()
        self._tables.release(pool_pa)


def _check(spec: ContextSpec) -> None:
    if len(spec.regions) > REGIONS_MAX:
        raise LimitExceeded("memory regions of a context", REGIONS_MAX)
    if len(spec.mapped) != 1 or spec.mapped[0].nbytes != PAGE_BYTES:
        raise InvalidArgument("mapped", "this platform has one mapped range of one page")
    taken = [(PRIVATE_IPA, PRIVATE_IPA + 1), (DEVICE_IPA, MBOX_IPA + PAGE_BYTES)]
    taken.append((PPB_IPA, PPB_IPA + PAGE_BYTES))
    for region in spec.regions:
        size_bytes = region.backing.nbytes
        end = region.ipa + size_bytes
        if not size_bytes or size_bytes % PAGE_BYTES or region.ipa % PAGE_BYTES:
            raise InvalidArgument("regions", f"{region.ipa:#x}: not whole pages")
        if region.ipa < 0 or end > IPA_LIMIT:
            raise InvalidArgument("regions", f"{region.ipa:#x}: beyond 32 bits")
        for start, stop in taken:
            if region.ipa < stop and start < end:
                raise InvalidArgument("regions", f"{region.ipa:#x} overlaps {start:#x}")
        taken.append((region.ipa, end))
