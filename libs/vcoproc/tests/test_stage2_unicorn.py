"""Our stage-2 tables and walk against an independent MMU: Unicorn's AArch64, stage 2 proper.

Unicorn 2.1 carries QEMU's target/arm, whose `get_phys_addr_lpae` was written from the same manual
by other people. It is programmed as a hypervisor would: VTCR_EL2 as `mmu.VTCR_EL2` says, VTTBR_EL2
is our root, HCR_EL2.VM = 1, stage 1 off. Asked in two ways:

* at EL3, ``AT S12E1R`` and ``AT S12E1W``: PAR_EL1 gives the PA, or the kind, level and stage of the
  fault (DDI 0487, "PAR_EL1", FST). This is exact for reads and writes.
* at EL1, by running: fetch, load and store through the tables. This is exact for execution, but
  says only whether there was an abort, not its level.

What it confirms: indexing and levels, blocks of 1 GiB and 2 MiB, pages, table links, output
addresses, S2AP, XN (bit 54), AF, translation, access flag and permission faults with their level,
the 39-bit limit, and that table attributes are ignored.
What it cannot confirm, because this QEMU does not model it: address size faults (it lets addresses
beyond VTCR_EL2.PS pass), external aborts on the walk (table memory that is absent reads as zero),
FEAT_XNX (bit 53 is ignored). These rest on the manual alone; see test_stage2_walk.py.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from unicorn import arm64_const as arm64
from unicorn.unicorn_const import (
    UC_ARCH_ARM64,
    UC_CTL_IO_WRITE,
    UC_CTL_TLB_FLUSH,
    UC_HOOK_INTR,
    UC_MODE_ARM,
)

from vcoproc.errors import AlreadyExists, LimitExceeded, NotFound, TranslationFault
from vcoproc.mmu import (
    VTCR_EL2,
    WHY_ACCESS_FLAG,
    WHY_PERMISSION,
    WHY_TRANSLATION,
    AccessKind,
    Stage2Tables,
    walk,
)

PAGE = 0x1000
BLOCK = 0x20_0000
GIB = 0x4000_0000
PAGES_IN_BLOCK = 512

POOL_PA = 0x1_0000_0000
POOL_PAGES = 10
RAM_PA = 0x8000_0000
RAM_BYTES = 8 * BLOCK
PROBE_PA = 0x1000_0000
"""Code of the AT probes, run at EL3, which stage 2 does not translate."""
EL1H, EL3H = 0x3C5, 0x3CD  # PSTATE.M with DAIF masked
NOP = 0xD503_201F
ISB = 0xD503_3FDF
MRS_X1_PAR_EL1 = 0xD538_7401
AT_S12E1R_X0 = 0xD50C_7880
AT_S12E1W_X0 = 0xD50C_78A0
LDR_X1_X0 = 0xF940_0001
STR_X2_X0 = 0xF900_0002
ABORTS = {3: "prefetch abort", 4: "data abort"}  # QEMU's EXCP_PREFETCH_ABORT, EXCP_DATA_ABORT
FST_WHY = {0b0001: WHY_TRANSLATION, 0b0010: WHY_ACCESS_FLAG, 0b0011: WHY_PERMISSION}
"""PAR_EL1.FST [5:2] (bits [1:0] are the level)."""


@dataclass(frozen=True)
class Fault:
    level: int
    why: str


class ArmMmu:
    """Unicorn's AArch64 with EL2, looking at our table bytes."""

    def __init__(self) -> None:
        # The package says it is typed, and is not: Any keeps the type checker out of it.
        unicorn: Any = importlib.import_module("unicorn")
        self.uc = unicorn.Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self.uc.ctl_set_cpu_model(arm64.UC_CPU_ARM64_A57)
        self.uc.mem_map(POOL_PA, POOL_PAGES * PAGE)
        self.uc.mem_map(RAM_PA, RAM_BYTES)
        self.uc.mem_map(PROBE_PA, PAGE)
        self.uc.mem_write(RAM_PA, struct.pack("<I", NOP) * (RAM_BYTES // 4))
        read = struct.pack("<3I", AT_S12E1R_X0, ISB, MRS_X1_PAR_EL1)
        write = struct.pack("<3I", AT_S12E1W_X0, ISB, MRS_X1_PAR_EL1)
        self.uc.mem_write(PROBE_PA, read + write)
        self._abort: int | None = None
        self.uc.hook_add(UC_HOOK_INTR, self._on_interrupt)
        self._set_system_register((3, 4, 2, 1, 2), VTCR_EL2)
        self._set_system_register((3, 4, 2, 1, 0), POOL_PA)  # VTTBR_EL2: our root, VMID 0
        self._set_system_register((3, 4, 1, 1, 0), 1 << 31 | 1)  # HCR_EL2: RW, VM
        self._set_system_register((3, 6, 1, 1, 0), 1 << 10 | 1)  # SCR_EL3: RW, NS

    def _on_interrupt(self, uc: Any, number: int, _data: object) -> None:
        self._abort = number
        uc.emu_stop()

    def _set_system_register(self, name: tuple[int, int, int, int, int], value: int) -> None:
        op0, op1, crn, crm, op2 = name
        self.uc.reg_write(arm64.UC_ARM64_REG_CP_REG, (crn, crm, op0, op1, op2, value))

    def _enter(self, pstate: int) -> None:
        self.uc.reg_write(arm64.UC_ARM64_REG_PSTATE, pstate)
        # Unicorn 2.1.4 keeps running at the old exception level until something makes it look
        # at PSTATE again; writing SCTLR_EL1 (here its reset value, stage 1 off) does.
        self._set_system_register((3, 0, 1, 0, 0), 0x00C5_0838)

    def show(self, tables: bytes | bytearray) -> None:
        """Puts table bytes at POOL_PA, and forgets what was cached from the old ones."""
        self.uc.mem_write(POOL_PA, bytes(tables))
        self.uc.ctl(UC_CTL_TLB_FLUSH, UC_CTL_IO_WRITE)

    def address_translate(self, ipa: int, access: AccessKind) -> int | Fault:
        """The page's PA, or the fault, from the architecture's own AT instruction."""
        code = PROBE_PA + (12 if access is AccessKind.WRITE else 0)
        self._enter(EL3H)
        self.uc.reg_write(arm64.UC_ARM64_REG_X0, ipa)
        self.uc.emu_start(code, code + 12)
        par: int = self.uc.reg_read(arm64.UC_ARM64_REG_X1)
        if not par & 1:
            return par & 0x0000_FFFF_FFFF_F000
        assert par >> 9 & 1, "PAR_EL1.S: the fault is one of stage 2"
        return Fault(level=par >> 1 & 3, why=FST_WHY[par >> 3 & 0xF])

    def run(self, ipa: int, instruction_count: int, *, x0: int = 0, x2: int = 0) -> str | int:
        """Runs at EL1 from an IPA. The abort that stopped it, or X1."""
        self._abort = None
        self._enter(EL1H)
        for register, value in (("X0", x0), ("X1", 0), ("X2", x2)):
            self.uc.reg_write(getattr(arm64, f"UC_ARM64_REG_{register}"), value)
        self.uc.emu_start(ipa, ipa + 4 * instruction_count, count=instruction_count)
        if self._abort is not None:
            return ABORTS[self._abort]
        value = self.uc.reg_read(arm64.UC_ARM64_REG_X1)
        assert isinstance(value, int)
        return value

    def can_execute(self, ipa: int) -> bool:
        return self.run(ipa & -4, 1) != "prefetch abort"


@pytest.fixture(scope="module")
def arm_mmu() -> ArmMmu:
    return ArmMmu()


def ours(tables: Stage2Tables, ipa: int, access: AccessKind) -> int | Fault:
    """What translate says, in the terms of `ArmMmu.address_translate`."""
    try:
        found = tables.translate(ipa, access)
    except TranslationFault as fault:
        return Fault(fault.level, fault.why)
    assert found.pa % PAGE == ipa % PAGE
    return found.pa & -PAGE


def assert_same(arm_mmu: ArmMmu, tables: Stage2Tables, ipa: int) -> None:
    for access in (AccessKind.READ, AccessKind.WRITE):
        assert ours(tables, ipa, access) == arm_mmu.address_translate(ipa, access), hex(ipa)
    assert isinstance(ours(tables, ipa, AccessKind.EXECUTE), int) == arm_mmu.can_execute(ipa)


def test_a_program_runs_through_our_tables(arm_mmu: ArmMmu) -> None:
    """Fetch, load and store by real instructions; the store lands at the PA that we mapped."""
    data = bytearray(POOL_PAGES * PAGE)
    tables = Stage2Tables(memoryview(data), POOL_PA)
    code_ipa, data_ipa, fixed_ipa = 0x6000_0000, 0x12_3456_7000, 0x7000_0000
    tables.map(code_ipa, RAM_PA + 5 * PAGE, PAGE, writable=False, executable=True)
    tables.map(data_ipa, RAM_PA + 9 * PAGE, PAGE, writable=True, executable=False)
    tables.map(fixed_ipa, RAM_PA + BLOCK, BLOCK, writable=False, executable=False)
    arm_mmu.show(data)
    arm_mmu.uc.mem_write(RAM_PA + 5 * PAGE, struct.pack("<2I", STR_X2_X0, LDR_X1_X0))
    try:
        assert arm_mmu.run(code_ipa, 2, x0=data_ipa + 8, x2=0x1122_3344) == 0x1122_3344
        stored = bytes(arm_mmu.uc.mem_read(RAM_PA + 9 * PAGE + 8, 8))
        assert stored == struct.pack("<Q", 0x1122_3344)
        assert arm_mmu.run(code_ipa, 2, x0=fixed_ipa) == "data abort"  # the store
        assert arm_mmu.run(code_ipa + 4, 1, x0=fixed_ipa) == NOP << 32 | NOP
        assert arm_mmu.run(code_ipa + 4, 1, x0=data_ipa + PAGE) == "data abort"
        assert arm_mmu.run(data_ipa, 1) == "prefetch abort"
    finally:
        nops = struct.pack("<I", NOP) * 1024
        arm_mmu.uc.mem_write(RAM_PA + 5 * PAGE, nops)
        arm_mmu.uc.mem_write(RAM_PA + 9 * PAGE, nops)
        arm_mmu.uc.ctl_flush_tb()


# --- foreign tables: descriptors that map() never writes ------------------------------------------

_ROOT_INDEX, _L2_INDEX, _L3_INDEX = 1, 256, 3
_ATTRIBUTES = st.builds(
    lambda s2ap, af, xn, memattr, sh, high: (
        s2ap << 6 | af << 10 | xn << 54 | memattr << 2 | sh << 8 | high << 55
    ),
    st.integers(0, 3),
    st.sampled_from([1, 1, 1, 0]),
    st.integers(0, 1),
    st.integers(0, 15),
    st.integers(0, 3),
    st.integers(0, 0x1FF),
)
_LEAF_PAGE = st.integers(0, RAM_BYTES // PAGE - 1).map(lambda page: RAM_PA + page * PAGE)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.tuples(*[st.sampled_from([0, 1, 2, 3, 3, 3])] * 3),
    attributes=_ATTRIBUTES,
    leaf_pa=_LEAF_PAGE,
    offset=st.integers(0, PAGE - 1),
)
def test_foreign_tables_are_walked_as_the_arm_mmu_walks_them(
    arm_mmu: ArmMmu, kinds: tuple[int, int, int], attributes: int, leaf_pa: int, offset: int
) -> None:
    """Every type field at every level, every attribute; three levels of tables in our pool.

    RES0 address bits of blocks stay 0: there this QEMU ORs them into the result, where the manual
    leaves it open.
    """
    data = bytearray(POOL_PAGES * PAGE)
    tables = Stage2Tables(memoryview(data), POOL_PA)
    targets = (POOL_PA + PAGE, POOL_PA + 2 * PAGE, leaf_pa)
    sizes = (GIB, BLOCK, PAGE)
    places = (_ROOT_INDEX, 512 + _L2_INDEX, 1024 + _L3_INDEX)
    for level, (kind, target, size, place) in enumerate(
        zip(kinds, targets, sizes, places, strict=True), start=1
    ):
        is_table = kind == 3 and level < 3
        # Table descriptors carry bits too (NSTable and so on): ignored at stage 2.
        bits = attributes & 0xFF80_0000_0000_0000 if is_table else attributes
        address = target if is_table else leaf_pa & -size
        struct.pack_into("<Q", data, place * 8, address | bits | kind)
    arm_mmu.show(data)
    ipa = _ROOT_INDEX * GIB + _L2_INDEX * BLOCK + _L3_INDEX * PAGE + offset
    for access in (AccessKind.READ, AccessKind.WRITE):
        assert ours(tables, ipa, access) == arm_mmu.address_translate(ipa, access)
    executed = ours(tables, ipa, AccessKind.EXECUTE)
    if isinstance(executed, Fault) or RAM_PA <= executed < RAM_PA + RAM_BYTES:
        assert isinstance(executed, int) == arm_mmu.can_execute(ipa)


@pytest.mark.parametrize("ipa", [1 << 39, (1 << 39) + 0x6000_0000, 1 << 40, 1 << 43])
def test_addresses_beyond_39_bits(arm_mmu: ArmMmu, ipa: int) -> None:
    data = bytearray(POOL_PAGES * PAGE)
    tables = Stage2Tables(memoryview(data), POOL_PA)
    tables.map(0x6000_0000, RAM_PA, PAGE, writable=True, executable=True)
    tables.map(0, RAM_PA, PAGE, writable=True, executable=True)
    arm_mmu.show(data)
    assert arm_mmu.address_translate(ipa, AccessKind.READ) == Fault(0, WHY_TRANSLATION)
    assert_same(arm_mmu, tables, ipa)


# --- random map and unmap, against a page dictionary and against the ARM MMU ----------------------

_WINDOW_IPA = 2 * GIB - 2 * BLOCK  # two blocks on each side of a level-1 border
_WINDOW_PAGES = 4 * PAGES_IN_BLOCK
_RAM_PAGES = RAM_BYTES // PAGE
_EDGES = st.integers(0, 4).flatmap(
    lambda block: st.integers(-2, 2).map(lambda nudge: block * PAGES_IN_BLOCK + nudge)
)
_SPOTS = st.one_of(
    st.integers(0, 4).map(lambda block: block * PAGES_IN_BLOCK),
    _EDGES,
    st.integers(0, _WINDOW_PAGES),
).filter(lambda page: 0 <= page <= _WINDOW_PAGES)


@dataclass(frozen=True)
class OraclePage:
    pa: int
    writable: bool
    executable: bool


class Stage2Machine(RuleBasedStateMachine):
    """Random ranges in and out. The oracle is a dict of pages and a set of unsplit blocks."""

    arm_mmu: ArmMmu

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray(POOL_PAGES * PAGE)
        self.tables = Stage2Tables(memoryview(self.data), POOL_PA)
        self.pages: dict[int, OraclePage] = {}
        self.blocks: set[int] = set()
        self.sampled = [0]

    @initialize()
    def start(self) -> None:
        self.arm_mmu.show(self.data)

    def _tables_in_use(self) -> int:
        gibs = {(_WINDOW_IPA // PAGE + page) >> 18 for page in self.pages}
        by_pages = {page // PAGES_IN_BLOCK for page in self.pages} - self.blocks
        return 1 + len(gibs) + len(by_pages)

    def _expect_refusal(
        self, error: type[Exception] | tuple[type[Exception], ...], call: Callable[[], None]
    ) -> None:
        before, free_before = bytes(self.data), self.tables.free_table_count
        with pytest.raises(error):
            call()
        assert self.data == before
        assert self.tables.free_table_count == free_before

    @rule(
        spots=st.tuples(_SPOTS, _SPOTS).filter(lambda pair: pair[0] != pair[1]),
        aligned=st.booleans(),
        ram_page=st.integers(0, _RAM_PAGES - _WINDOW_PAGES),
        writable=st.booleans(),
        executable=st.booleans(),
    )
    def map(
        self,
        spots: tuple[int, int],
        aligned: bool,
        ram_page: int,
        writable: bool,
        executable: bool,
    ) -> None:
        first, end = sorted(spots)
        if aligned:  # same offset in a block: blocks become possible
            ram_page = ram_page // PAGES_IN_BLOCK * PAGES_IN_BLOCK + first % PAGES_IN_BLOCK
        pa = RAM_PA + ram_page * PAGE
        self.sampled = [first - 1, first, (first + end) // 2, end - 1, end]

        def call() -> None:
            self.tables.map(
                _WINDOW_IPA + first * PAGE,
                pa,
                (end - first) * PAGE,
                writable=writable,
                executable=executable,
            )

        if any(page in self.pages for page in range(first, end)):
            # Which refusal comes first is open where the pool is too small as well.
            self._expect_refusal((AlreadyExists, LimitExceeded), call)
            return
        pages_before, blocks_before = dict(self.pages), set(self.blocks)
        for page in range(first, end):
            self.pages[page] = OraclePage(pa + (page - first) * PAGE, writable, executable)
        self.blocks |= {
            block
            for block in range(-(-first // PAGES_IN_BLOCK), end // PAGES_IN_BLOCK)
            if (pa + (block * PAGES_IN_BLOCK - first) * PAGE) % BLOCK == 0
        }
        if self._tables_in_use() > POOL_PAGES:
            self.pages, self.blocks = pages_before, blocks_before
            self._expect_refusal(LimitExceeded, call)
        else:
            call()

    @precondition(lambda self: self.pages)
    @rule(spots=st.tuples(_SPOTS, _SPOTS), choice=st.integers(0, 10_000), grow=st.booleans())
    def unmap(self, spots: tuple[int, int], choice: int, grow: bool) -> None:
        """Takes the run around a mapped page, cut by `spots`; or any range, when `grow`."""
        first, end = sorted(spots)
        if not grow:
            page = sorted(self.pages)[choice % len(self.pages)]
            low = high = page
            while low - 1 in self.pages:
                low -= 1
            while high + 1 in self.pages:
                high += 1
            first, end = max(first, low), min(end, high + 1)
            if first >= end:
                first, end = low, high + 1
        if first == end:
            return
        self.sampled = [first - 1, first, (first + end) // 2, end - 1, end]

        def call() -> None:
            self.tables.unmap(_WINDOW_IPA + first * PAGE, (end - first) * PAGE)

        cut = {
            block
            for block in (first // PAGES_IN_BLOCK, (end - 1) // PAGES_IN_BLOCK)
            if block in self.blocks
            and not (first <= block * PAGES_IN_BLOCK and (block + 1) * PAGES_IN_BLOCK <= end)
        }
        if any(page not in self.pages for page in range(first, end)):
            self._expect_refusal(NotFound, call)
        elif self._tables_in_use() + len(cut) > POOL_PAGES:
            self._expect_refusal(LimitExceeded, call)
        else:
            call()
            for page in range(first, end):
                del self.pages[page]
            whole = range(first // PAGES_IN_BLOCK, -(-end // PAGES_IN_BLOCK))
            self.blocks -= set(whole)

    @invariant()
    def sampled_pages_agree_with_the_oracle_and_the_arm_mmu(self) -> None:
        assert self.tables.free_table_count == POOL_PAGES - self._tables_in_use()
        self.arm_mmu.show(self.data)
        for page in self.sampled:
            ipa = _WINDOW_IPA + page * PAGE + 0x124
            assert_same(self.arm_mmu, self.tables, ipa)
            self._check_page(page)

    def _check_page(self, page: int) -> None:
        ipa = _WINDOW_IPA + page * PAGE
        want = self.pages.get(page)
        for access in AccessKind:
            try:
                found = walk(self.tables.read64, self.tables.root_pa, ipa, access)
            except TranslationFault as fault:
                if want is None:
                    assert fault.why == WHY_TRANSLATION
                else:
                    assert fault.why == WHY_PERMISSION
                    allowed = want.writable if access is AccessKind.WRITE else want.executable
                    assert access is not AccessKind.READ and not allowed
                continue
            assert want is not None
            assert found.pa == want.pa
            assert (found.writable, found.executable) == (want.writable, want.executable)
            is_block = page // PAGES_IN_BLOCK in self.blocks
            assert found.page_bytes == (BLOCK if is_block else PAGE)

    def teardown(self) -> None:
        listed = {
            (region.ipa + offset - _WINDOW_IPA) // PAGE: OraclePage(
                region.pa + offset, region.writable, region.executable
            )
            for region in self.tables.regions()
            for offset in range(0, region.size_bytes, PAGE)
        }
        assert listed == self.pages
        for region in self.tables.regions():
            self.tables.unmap(region.ipa, region.size_bytes)
        assert self.tables.free_table_count == POOL_PAGES - 1
        assert not any(self.data[:PAGE])


def test_random_maps_and_unmaps_agree_with_a_page_dictionary_and_the_arm_mmu(
    arm_mmu: ArmMmu,
) -> None:
    class Machine(Stage2Machine):
        pass

    Machine.arm_mmu = arm_mmu
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
