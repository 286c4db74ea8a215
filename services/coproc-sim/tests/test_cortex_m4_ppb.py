"""NVIC, SCB and SysTick without a core, against DDI 0403."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vcoproc_sim.platforms.cortex_m4_ppb import (
    BUS_FAULT,
    EXTERNAL,
    HARD_FAULT,
    PENDSV,
    SYSTICK,
    USAGE_FAULT,
    SystemControl,
)
from vcoproc_sim.platforms.cortex_m4_systick import SysTick

ISER, ICER, ISPR, ICPR, IABR, IPR = 0x100, 0x180, 0x200, 0x280, 0x300, 0x400
ICSR, VTOR, AIRCR, SHPR3, SHCSR, CFSR = 0xD04, 0xD08, 0xD0C, 0xD20, 0xD24, 0xD28


def naive_systick(value: int, reload: int, cycles: int) -> tuple[int, int]:
    """One cycle at a time, as B3.3.1 tells it: (value, number of 1 to 0 transitions)."""
    expiries = 0
    for _ in range(cycles):
        if value == 0:
            value = reload
        else:
            value -= 1
            expiries += value == 0
    return value, expiries


@given(
    value=st.integers(0, 40),
    reload=st.integers(0, 40),
    steps=st.lists(st.integers(0, 200), max_size=5),
)
def test_systick_counts_like_one_cycle_at_a_time(value: int, reload: int, steps: list[int]) -> None:
    tick = SysTick()
    tick.csr, tick.reload, tick.value = 3, reload, value
    for cycles in steps:
        value, expiries = naive_systick(value, reload, cycles)
        assert tick.advance(cycles) == (expiries > 0)
        assert tick.value == value


@given(value=st.integers(0, 40), reload=st.integers(1, 40))
def test_cycles_to_expiry_is_the_first_cycle_that_expires(value: int, reload: int) -> None:
    tick = SysTick()
    tick.csr, tick.reload, tick.value = 3, reload, value
    cycles = tick.cycles_to_expiry()
    assert naive_systick(value, reload, cycles)[1] == 1
    assert naive_systick(value, reload, cycles - 1)[1] == 0


def test_systick_without_tickint_sets_only_the_count_flag() -> None:
    tick = SysTick()
    tick.write(4, 9)
    tick.write(0, 1)
    assert not tick.raises_exception
    assert not tick.advance(10)
    assert tick.read(0) == 1 << 16 | 1
    assert tick.read(0) == 1  # reading cleared it
    tick.advance(10)
    tick.write(8, 123)
    assert tick.read(8) == 0
    assert tick.read(0) == 1


def test_enable_and_pending_sets_and_clears_by_ones() -> None:
    system = SystemControl()
    system.write(ISER, 4, 0xF0001)
    assert system.read(ISER, 4, 0) == system.read(ICER, 4, 0) == 0x0001  # 16 interrupts exist
    system.write(ISPR, 4, 0x8003)
    system.write(ICPR, 4, 0x0002)
    assert system.read(ISPR, 4, 0) == 0x8001
    assert system.most_urgent() == EXTERNAL  # 15 is pending and not enabled
    system.write(ICER, 4, 1)
    assert system.most_urgent() == 0


def test_four_bits_of_priority_and_bytes_of_ipr() -> None:
    system = SystemControl()
    system.write(IPR + 5, 1, 0xFF)
    assert system.read(IPR + 4, 4, 0) == 0x0000_F000
    assert system.read(IPR + 5, 1, 0) == 0xF0
    system.write(IPR + 4, 4, 0x4050_6070)
    assert [system.priority[EXTERNAL + n] for n in range(4, 8)] == [0x70, 0x60, 0x50, 0x40]


def test_most_urgent_is_the_lowest_priority_then_the_lowest_number() -> None:
    system = SystemControl()
    system.write(ISER, 4, 0xFFFF)
    system.write(ISPR, 4, 0b1110)
    system.write(IPR, 4, 0x4080_4000)
    assert system.most_urgent() == EXTERNAL + 1  # 0x40 twice: number decides
    system.write(ICSR, 4, 1 << 28)  # PENDSV at priority 0
    assert system.most_urgent() == PENDSV


def test_subpriority_orders_but_does_not_preempt() -> None:
    system = SystemControl()
    system.write(AIRCR, 4, 0x05FA << 16 | 6 << 8)  # PRIGROUP 6: bit 7 preempts, [6:0] order
    system.write(ISER, 4, 3)
    system.write(IPR, 2, 0)
    system.write(IPR, 1, 0x60)
    system.write(IPR + 1, 1, 0x40)
    system.write(ISPR, 4, 3)
    assert system.most_urgent() == EXTERNAL + 1
    system.active = 1 << EXTERNAL
    assert system.execution_priority(0, 0, 0) == 0
    assert not system.preempts(EXTERNAL + 1, system.execution_priority(0, 0, 0))
    system.write(AIRCR, 4, 0x05FA << 16)
    assert system.preempts(EXTERNAL + 1, system.execution_priority(0, 0, 0))


def test_execution_priority_of_the_masks() -> None:
    system = SystemControl()
    assert system.execution_priority(0, 0, 0) == 256
    assert system.execution_priority(0, 0x45, 0) == 0x40
    assert system.execution_priority(1, 0x40, 0) == 0
    assert system.execution_priority(1, 0x40, 1) == -1
    system.active = 1 << HARD_FAULT
    assert system.execution_priority(0, 0, 0) == -1


def test_aircr_needs_its_key() -> None:
    system = SystemControl()
    system.write(AIRCR, 4, 0x1234 << 16 | 7 << 8 | 1 << 2)
    assert not system.reset_requested
    assert system.read(AIRCR, 4, 0) == 0xFA05_0000
    system.write(AIRCR, 4, 0x05FA << 16 | 1 << 2)
    assert system.reset_requested


def test_shcsr_shows_and_sets_enable_pending_and_active() -> None:
    system = SystemControl()
    system.write(SHCSR, 4, 1 << 18 | 1 << 14 | 1 << 11)
    assert system.enabled >> USAGE_FAULT & 1
    assert system.pending >> BUS_FAULT & 1
    assert system.active >> SYSTICK & 1
    assert system.read(SHCSR, 4, 0) == 1 << 18 | 1 << 14 | 1 << 11
    system.write(SHCSR, 4, 0)
    assert (system.active, system.pending) == (0, 0)


def test_cfsr_clears_by_ones_and_by_bytes() -> None:
    system = SystemControl()
    system.cfsr = 0x0203_0481
    system.write(CFSR + 2, 2, 0x0001)
    assert system.cfsr == 0x0202_0481
    system.write(CFSR, 1, 0xFF)
    assert system.cfsr == 0x0202_0400
    system.write(CFSR, 4, 0xFFFF_FFFF)
    assert system.cfsr == 0


def test_vtor_icsr_and_the_constants() -> None:
    system = SystemControl()
    system.write(VTOR, 4, 0x2000_00FF)
    assert system.read(VTOR, 4, 0) == 0x2000_0080
    system.write(ISER, 4, 4)
    system.write(ISPR, 4, 4)
    system.active = 1 << 20
    icsr = system.read(ICSR, 4, 20)
    assert icsr == 20 | (EXTERNAL + 2) << 12 | 1 << 11 | 1 << 22
    assert system.read(0xD00, 4, 0) >> 4 & 0xFFF == 0xC24  # CPUID part number of the M4
    assert system.read(0xD90, 4, 0) == 0  # no MPU
    assert system.read(SHPR3, 4, 0) == 0


@given(
    writes=st.lists(
        st.tuples(st.integers(0, 0xFFF), st.sampled_from((1, 2, 4)), st.integers(0, 2**32 - 1)),
        max_size=60,
    )
)
def test_any_access_is_answered(writes: list[tuple[int, int, int]]) -> None:
    system = SystemControl()
    for offset, size_bytes, value in writes:
        aligned = offset & -size_bytes
        system.write(aligned, size_bytes, value & (1 << 8 * size_bytes) - 1)
        assert 0 <= system.read(aligned, size_bytes, 0) < 1 << 8 * size_bytes
        assert 0 <= system.most_urgent() < 32
        system.execution_priority(0, 0, 0)
