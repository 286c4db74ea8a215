"""The engine: exact counts, exact stops, and memory that is nobody else's."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from vcoproc.errors import TranslationFault
from vcoproc.limits import PAGE_BYTES
from vcoproc.mmu import AccessKind, Translation
from vcoproc_sim.engine import BurstEnd, Engine
from vcoproc_sim.testing import Thumb

CODE = 0x6000_0000
DATA = 0x6000_1000
DEVICE = 0x4000_0000
WINDOW = 0x1_0000_0000
WINDOW_BYTES = 4 * PAGE_BYTES


class Machine:
    """An engine with two pages, a device, and a map that tests may change."""

    def __init__(self) -> None:
        self.ram = mmap.mmap(-1, WINDOW_BYTES)
        self.map = {CODE: (WINDOW, True, True), DATA: (WINDOW + PAGE_BYTES, True, False)}
        self.fills: list[tuple[int, AccessKind]] = []
        self.accesses: list[tuple[str, int, int, int]] = []
        self.stop_at = -1
        self.error: Exception | None = None
        self.engine = Engine(self.translate)
        self.engine.map_window(WINDOW, memoryview(self.ram))
        self.engine.map_mmio(DEVICE, PAGE_BYTES, self.read, self.write)
        self.map[DEVICE] = (DEVICE, True, False)

    def translate(self, address: int, access: AccessKind) -> Translation:
        self.fills.append((address, access))
        page = self.map.get(address & -PAGE_BYTES)
        denied = page is None or (access is AccessKind.WRITE and not page[1])
        if page is None or denied or (access is AccessKind.EXECUTE and not page[2]):
            raise TranslationFault(address, access.value, 2, 3, "translation fault")
        return Translation(page[0] + address % PAGE_BYTES, PAGE_BYTES, page[1], page[2], True)

    def read(self, offset: int, size_bytes: int) -> int:
        self.accesses.append(("r", offset, size_bytes, 0))
        self._act(offset)
        return 0x1234_5678

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        self.accesses.append(("w", offset, size_bytes, value))
        self._act(offset)

    def _act(self, offset: int) -> None:
        if self.error is not None:
            raise self.error
        if offset == self.stop_at:
            self.engine.stop_soon()

    def load(self, code: Thumb) -> None:
        data = code.assemble()
        at = code.base - CODE
        self.ram[at : at + len(data)] = data
        self.engine.flush_translations()

    def set(self, **registers: int) -> None:
        self.engine.bank(*registers).write(tuple(registers.values()))

    def get(self, *names: str) -> list[int]:
        return self.engine.bank(*names).read()


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.engine.close()


def code() -> Thumb:
    return Thumb(CODE)


def test_burst_executes_exactly_the_count(machine: Machine) -> None:
    machine.load(code().label("loop").adds(0, 1).adds(1, 1).b("loop"))
    machine.set(r0=0, r1=0)
    pc = CODE
    total = 0
    for count in (1, 2, 3, 1000, 10_007, 20_000):
        assert machine.engine.burst(pc, True, count) is BurstEnd.COUNT
        assert machine.engine.executed == count
        pc = machine.engine.pc
        total += count
    # Of every three instructions the first is on r0 and the second on r1.
    assert machine.get("r0", "r1") == [(total + 2) // 3, (total + 1) // 3]
    assert pc == CODE + 2 * (total % 3)


def test_wfi_is_told_from_a_count_that_ends_behind_it(machine: Machine) -> None:
    machine.load(code().adds(0, 1).wfi().label("end").b("end"))
    assert machine.engine.burst(CODE, True, 1) is BurstEnd.COUNT
    assert machine.engine.burst(CODE, True, 2) is BurstEnd.WFI
    assert (machine.engine.executed, machine.engine.pc) == (2, CODE + 4)
    # The PC behind a WFI that has not been executed: reached by a branch, count used up.
    machine.load(code().b("target").wfi().label("target").b("target"))
    assert machine.engine.burst(CODE, True, 1) is BurstEnd.COUNT
    assert machine.engine.pc == CODE + 4


def test_wfe_is_told_from_an_undefined_instruction_behind_it(machine: Machine) -> None:
    machine.load(code().wfe().udf(0))
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.WFE
    assert (machine.engine.pc, machine.engine.executed) == (CODE + 2, 1)
    assert machine.engine.burst(CODE + 2, True, 10) is BurstEnd.UNDEFINED
    assert machine.engine.pc == CODE + 2
    machine.load(code().b("undefined").wfe().label("undefined").udf(0))
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.UNDEFINED
    machine.load(code().ldr(0, 1).half(0xF8D1, 0).str(0, 1).wfe().udf(0))  # LDR.W r0, [r1]
    machine.set(r1=DATA)
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.WFE
    assert machine.engine.burst(machine.engine.pc, True, 10) is BurstEnd.UNDEFINED
    machine.load(code().half(0xF3AF, 0x8002).nop())  # WFE.W
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.WFE
    machine.load(code().half(0xBF10).nop())
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.YIELD
    assert machine.engine.burst(CODE, False, 10) is BurstEnd.INVALID_STATE


def test_stop_soon_stops_behind_the_instruction_that_called(machine: Machine) -> None:
    machine.load(code().adds(0, 1).str(0, 1, 4).adds(0, 1).label("end").b("end"))
    machine.set(r0=0, r1=DEVICE)
    machine.stop_at = 4
    assert machine.engine.burst(CODE, True, 1000) is BurstEnd.COUNT
    assert (machine.engine.pc, machine.engine.executed) == (CODE + 4, 2)
    assert machine.accesses == [("w", 4, 4, 1)]
    assert machine.get("r0") == [1]


def test_stop_soon_completes_a_store_of_several_words(machine: Machine) -> None:
    machine.load(code().stmia(1, 0, 2, 3).label("end").b("end"))
    machine.set(r0=1, r1=DEVICE, r2=2, r3=3)
    machine.stop_at = 0
    machine.engine.burst(CODE, True, 1000)
    assert machine.accesses == [("w", 0, 4, 1), ("w", 4, 4, 2), ("w", 8, 4, 3)]
    assert (machine.engine.pc, machine.engine.executed) == (CODE + 2, 1)
    assert machine.get("r1") == [DEVICE + 12]


def test_an_it_block_is_completed_and_counted(machine: Machine) -> None:
    block = code().cmp(0, 0).it("eq", "ttt").str(0, 1).adds(2, 1).adds(2, 1)
    machine.load(block.label("end").b("end"))
    machine.set(r0=0, r1=DEVICE, r2=0)
    machine.stop_at = 0
    assert machine.engine.burst(CODE, True, 100) is BurstEnd.COUNT
    assert machine.engine.pc == CODE + 10
    assert machine.engine.executed == 5
    assert machine.get("r2") == [2]


@pytest.mark.parametrize("target", [DATA, DEVICE])
@pytest.mark.parametrize("store", [True, False])
def test_a_tlb_miss_inside_an_it_block_does_not_make_later_code_conditional(
    machine: Machine, target: int, store: bool
) -> None:
    t = code().cmp(0, 0).it("eq")
    t = t.str(0, 1) if store else t.ldr(3, 1)
    t.cmp(0, 1).b("next").label("next").adds(2, 1).adds(2, 1).label("end").b("end")  # Z is 0 now
    machine.load(t)
    for _ in range(2):  # with a miss, and without one
        machine.set(r0=0, r1=target, r2=0)
        machine.engine.burst(CODE, True, 50)
        assert machine.get("r2") == [2]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("target", [DATA, DEVICE])
def test_a_loop_of_it_blocks_with_memory_accesses_ends(
    machine: Machine, target: int, count: int
) -> None:
    t = code().label("loop").half(0xBF27)  # ITTEE cs, and C is 0: the last two are executed
    machine.load(t.half(0xB242, 0x090D).str(2, 5).b("loop"))
    machine.set(r2=0, r5=target)
    assert machine.engine.burst(CODE, True, count) is BurstEnd.COUNT
    assert count <= machine.engine.executed <= count + 4


def test_a_fault_inside_an_it_block_is_located_and_keeps_its_state(machine: Machine) -> None:
    t = code().label("loop").half(0xBF27)
    machine.load(t.half(0xB242, 0x090D).stmia(5, 0, 1, 2, 3).b("loop"))
    machine.set(r5=0x7000_0008)
    assert machine.engine.burst(CODE, True, 100) is BurstEnd.TRANSLATION
    pc, xpsr = machine.engine.pc, machine.engine.xpsr
    assert machine.engine.locate_fault(pc) == 0x7000_0008
    machine.map[0x7000_0000] = machine.map[DATA]
    assert xpsr & 0x0600_FC00  # two instructions of the block are left
    assert machine.get("xpsr", "r5") == [xpsr, 0x7000_0008]
    assert machine.engine.burst(pc, True, 1) is BurstEnd.COUNT
    assert machine.get("r5") == [0x7000_0018]


def test_exceptions_of_callbacks_come_out_of_burst(machine: Machine) -> None:
    machine.load(code().str(0, 1).adds(2, 1).label("end").b("end"))
    machine.set(r1=DEVICE, r2=0)
    machine.error = ZeroDivisionError("a bug of ours")
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        machine.engine.burst(CODE, True, 1000)
    machine.error = None
    assert machine.engine.burst(CODE, True, 5) is BurstEnd.COUNT  # and the engine goes on


def test_exceptions_of_translate_come_out_of_burst(machine: Machine) -> None:
    machine.load(code().ldr(0, 1))
    machine.set(r1=0x7000_0000)
    machine.map[0x7000_0000] = None  # type: ignore[assignment]
    machine.translate = lambda *_: 1 // 0  # type: ignore[assignment]
    machine.engine._translate = machine.translate
    with pytest.raises(ZeroDivisionError):
        machine.engine.burst(CODE, True, 10)


@pytest.mark.parametrize(
    ("offset", "store"), [(0, False), (4, False), (0xFFC, True), (0x124, True)]
)
def test_a_translation_fault_is_located_exactly(machine: Machine, offset: int, store: bool) -> None:
    body = code().adds(0, 1)
    machine.load(body.str(0, 1) if store else body.ldr(0, 1))
    machine.set(r0=0, r1=0x7000_0000 + offset)
    assert machine.engine.burst(CODE, True, 100) is BurstEnd.TRANSLATION
    assert machine.engine.pc == CODE + 2
    assert machine.engine.executed == 2
    fault = machine.engine.fault
    assert fault is not None
    assert fault.access == ("write" if store else "read")
    assert machine.engine.locate_fault(CODE + 2) == 0x7000_0000 + offset
    assert machine.get("r0", "r1") == [1, 0x7000_0000 + offset]  # registers as before
    with pytest.raises(KeyError):
        machine.map[0x7000_0000]


def test_an_access_across_pages_is_located_at_the_missing_page(machine: Machine) -> None:
    machine.load(code().ldr(0, 1))
    machine.set(r1=DATA + 0xFFE)
    assert machine.engine.burst(CODE, True, 1) is BurstEnd.TRANSLATION
    assert machine.engine.locate_fault(CODE) == DATA + 0x1000


def test_locating_a_fault_does_not_touch_devices(machine: Machine) -> None:
    machine.load(code().half(0xE9D1, 0x2300))  # LDRD r2, r3, [r1]: one word here, one beyond
    machine.set(r1=DEVICE + PAGE_BYTES - 4)
    assert machine.engine.burst(CODE, True, 1) is BurstEnd.TRANSLATION
    machine.accesses.clear()
    assert machine.engine.locate_fault(CODE) == DEVICE + PAGE_BYTES
    assert machine.accesses == []


def test_permissions_are_those_of_the_translation(machine: Machine) -> None:
    machine.map[DATA] = (WINDOW + PAGE_BYTES, False, False)
    machine.load(code().ldr(0, 1).str(0, 1))
    machine.set(r1=DATA)
    assert machine.engine.burst(CODE, True, 10) is BurstEnd.TRANSLATION
    assert machine.engine.pc == CODE + 2  # the load was allowed, the store was not
    assert machine.engine.burst(DATA, True, 10) is BurstEnd.TRANSLATION
    assert machine.engine.fault is not None
    assert machine.engine.fault.access == "execute"


def test_pages_are_filled_once_and_again_after_a_flush(machine: Machine) -> None:
    machine.load(code().label("loop").ldr(0, 1).b("loop"))
    machine.set(r1=DATA)
    machine.engine.burst(CODE, True, 100)
    machine.fills.clear()
    machine.engine.burst(CODE, True, 100)
    assert machine.fills == []
    machine.map[DATA] = (WINDOW + 2 * PAGE_BYTES, True, True)
    machine.ram[2 * PAGE_BYTES : 2 * PAGE_BYTES + 4] = b"new!"
    machine.engine.flush_tlb()
    machine.engine.burst(CODE, True, 100)
    assert {access for _, access in machine.fills} == {AccessKind.READ, AccessKind.EXECUTE}
    assert machine.get("r0") == [int.from_bytes(b"new!", "little")]


def test_memory_is_shared_with_the_host_without_copying(machine: Machine) -> None:
    machine.load(code().str(0, 1).ldr(2, 1, 4))
    machine.set(r0=0xCAFE_F00D, r1=DATA, r2=0)
    machine.ram[PAGE_BYTES + 4 : PAGE_BYTES + 8] = (77).to_bytes(4, "little")
    machine.engine.burst(CODE, True, 2)
    assert machine.ram[PAGE_BYTES : PAGE_BYTES + 4] == (0xCAFE_F00D).to_bytes(4, "little")
    assert machine.get("r2") == [77]


def test_code_that_the_host_changed_is_seen_after_a_flush(machine: Machine) -> None:
    machine.load(code().movs(0, 1).label("end").b("end"))
    machine.engine.burst(CODE, True, 2)
    machine.load(code().movs(0, 2).label("end").b("end"))  # flushes
    machine.engine.burst(CODE, True, 2)
    assert machine.get("r0") == [2]


def test_code_that_changes_itself_is_seen_at_once(machine: Machine) -> None:
    # The store replaces the instruction behind the branch: movs r0, #1 becomes movs r0, #9.
    machine.load(code().label("again").strh(2, 1).b("next").label("next").movs(0, 1).bx(3))
    machine.set(r0=0, r1=CODE + 4, r2=0x2009, r3=CODE | 1)
    machine.engine.burst(CODE, True, 3)
    assert machine.get("r0") == [9]
    machine.set(r2=0x2007)
    machine.engine.burst(CODE, True, 3)
    assert machine.get("r0") == [7]


def test_contexts_hold_all_registers_and_a_fresh_one_holds_nothing(machine: Machine) -> None:
    machine.load(code().vmov_to_s(0, 0).vmov_to_s(31, 1).label("end").b("end"))
    machine.set(r0=0x1111, r1=0x2222, r12=0x3333, lr=0x4444, basepri=0x40, primask=1)
    machine.engine.burst(CODE, True, 2)
    names = ("r0", "r1", "r12", "lr", "basepri", "primask", "s0", "s31", "control")
    saved = machine.engine.new_context()
    held = machine.get(*names)
    machine.engine.restore(machine.engine.fresh_context())
    assert machine.get(*names) == [0] * len(names)
    machine.engine.restore(saved)
    assert machine.get(*names) == held
    assert held[6:8] == [0x1111, 0x2222]


def test_unmapping_releases_the_buffer_and_the_address(machine: Machine) -> None:
    other = mmap.mmap(-1, PAGE_BYTES)
    machine.engine.map_window(WINDOW + (1 << 32), memoryview(other))
    machine.map[DATA] = (WINDOW + (1 << 32), True, True)
    machine.load(code().str(0, 1))
    machine.set(r0=5, r1=DATA)
    machine.engine.burst(CODE, True, 1)
    assert other[0] == 5
    machine.engine.unmap_window(WINDOW + (1 << 32))
    other.close()  # BufferError while anything still exports it
    again = mmap.mmap(-1, PAGE_BYTES)
    machine.engine.map_window(WINDOW + (1 << 32), memoryview(again))
    machine.engine.burst(CODE, True, 1)
    assert again[0] == 5


def test_two_engines_do_not_disturb_each_other() -> None:
    first, second = Machine(), Machine()
    for machine, start in ((first, 1), (second, 100)):
        machine.load(code().label("loop").adds(0, 1).b("loop"))
        machine.set(r0=start)
    for _ in range(3):
        first.engine.burst(CODE, True, 20)
        second.engine.burst(CODE, True, 40)
    assert first.get("r0") == [1 + 30]
    assert second.get("r0") == [100 + 60]
    first.engine.close()
    second.engine.close()


def test_the_assembler_of_the_tests_agrees_with_a_real_one() -> None:
    t = Thumb(0)
    t.movs(3, 200).mov(8, 3).mov(13, 1).adds(1, 7).subs(2, 9).cmp(5, 255).adds_reg(1, 2, 3)
    t.eors(4, 5).muls(6, 7).ldr(1, 2, 124).str(7, 0, 4).strh(1, 6, 62).stmia(3, 0, 1, 7)
    t.push(0, 4, 14).pop(0, 4, 15).bx(14).nop().wfe().wfi().sev().svc(7).bkpt(3).udf(1)
    t.cpsie_i().cpsid_i().msr("basepri", 3).msr("faultmask", 3).msr("psp", 1).msr("control", 2)
    t.mrs(5, "primask").mrs(5, "ipsr").isb().vmov_to_s(5, 2).vmov_from_s(3, 31)
    t.vadd(1, 2, 31).vadd(30, 5, 4).it("eq", "tt").movs(0, 1).movs(1, 2)
    t.it("ne", "tete").movs(0, 1).movs(1, 2).movs(0, 3).movs(0, 4)
    t.label("x").b("x").label("y").nop().b("y", "ne")
    # What LLVM's assembler (clang 20, -mcpu=cortex-m4) makes of the same instructions.
    assert t.assemble().hex() == (
        "c82398468d460731093aff2dd1186c407e43d16f4760f18783c311b511bd704700bf20bf30bf40bf07df"
        "03be01de62b672b683f3118883f3138881f3098882f31488eff31085eff30585bff36f8f02ee902a1fee"
        "903a71ee2f0a32ee82fa04bf0120022115bf0120022103200420fee700bffdd1"
    )
