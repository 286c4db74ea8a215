"""Exceptions, sleep and time. Expectations are the rules of DDI 0403 (Armv7-M), chapter B1.5."""

from __future__ import annotations

import struct

import pytest

from vcoproc_sim.platforms.api import StopReason
from vcoproc_sim.platforms.cortex_m4_core import MASKED_BURST
from vcoproc_sim.testing import RAM, Guest, Rig, Thumb
from vcoproc_sim.testing.m4_rig import CODE, STACK

OUT = RAM + 0x4000
PROCESS_STACK = RAM + 0x6000
DEVICE = 0x4000_0000
ISER, ICSR, AIRCR, SCR = 0xE000_E100, 0xE000_ED04, 0xE000_ED0C, 0xE000_ED10
CCR, SHPR2, SHPR3, SHCSR, CFSR, HFSR = (
    0xE000_ED14, 0xE000_ED1C, 0xE000_ED20, 0xE000_ED24, 0xE000_ED28, 0xE000_ED2C,
)  # fmt: skip
IPR = 0xE000_E400
SYSTICK = 0xE000_E010
HARD, MEM, BUS, USAGE, SVC, PENDSV, TICK, IRQ0 = 3, 4, 5, 6, 11, 14, 15, 16


def code() -> Thumb:
    return Thumb(CODE)


def poke(t: Thumb, address: int, value: int) -> Thumb:
    """Stores a word; uses r0 and r1."""
    return t.ldr_const(0, address).ldr_const(1, value).str(1, 0)


def note(t: Thumb, value: int) -> Thumb:
    """Appends a number to the list that r7 walks along; uses r0."""
    return t.movs(0, value).str(0, 7).adds(7, 4)


def notes(guest: Guest) -> list[int]:
    found = guest.words(OUT, 64)
    return found[: found.index(0)]


def registers(rig: Rig, *names: str) -> list[int]:
    return rig.platform._engine.bank(*names).read()


# --- frames ---------------------------------------------------------------------------------------


def test_the_basic_frame() -> None:
    """B1.5.6 PushStack: r0-r3, r12, lr, return address, xPSR; LR = 0xFFFFFFF9 from thread, MSP."""
    with Rig() as rig:
        t = code()
        for register in range(4):
            t.movs(register, 0x10 + register)
        t.movs(4, 0xC).mov(12, 4).movs(4, 0xE).mov(14, 4).movs(4, 0).subs(4, 1)  # N = 1, C = 0
        t.label("there").svc(0).label("back").b("back")
        t.label("svc").mov(5, 14).mov(6, 13).mrs(7, "ipsr").label("stop").b("stop")
        guest = rig.start(t, {SVC: "svc"})
        rig.run(100)
        frame = STACK - 32
        assert registers(rig, "r5", "r6", "r7", "sp") == [0xFFFF_FFF9, frame, SVC, frame]
        assert guest.words(frame, 8) == [
            0x10, 0x11, 0x12, 0x13, 0xC, 0xE, t.address("back") & ~1, 0x8100_0000,
        ]  # fmt: skip


@pytest.mark.parametrize("stkalign", [True, False])
def test_the_frame_is_aligned_to_8_bytes_if_stkalign(stkalign: bool) -> None:
    """Bit 9 of the stacked xPSR tells that 4 bytes were left free; the return adds them again."""
    with Rig() as rig:
        t = code() if stkalign else poke(code(), CCR, 0)
        t.push(0).svc(0).mov(5, 13).label("stop").b("stop")
        t.label("svc").mov(6, 13).bx(14)
        guest = rig.start(t, {SVC: "svc"})
        rig.run(100)
        before = STACK - 4
        frame = before - 32 & ~7 if stkalign else before - 32
        assert registers(rig, "r5", "r6") == [before, frame]
        assert guest.word(frame + 28) >> 9 & 1 == (1 if stkalign else 0)


def test_thread_mode_on_the_process_stack() -> None:
    """From thread mode with SPSEL the frame goes to PSP, and EXC_RETURN is 0xFFFFFFFD."""
    with Rig() as rig:
        t = code().ldr_const(0, PROCESS_STACK).msr("psp", 0).movs(0, 2).msr("control", 0).isb()
        t.movs(0, 0x77).svc(0).mrs(4, "control").mov(5, 13).label("stop").b("stop")
        t.label("svc").mov(6, 14).mov(7, 13).mrs(3, "control").bx(14)
        guest = rig.start(t, {SVC: "svc"})
        rig.run(100)
        assert registers(rig, "r6", "r7", "r4", "r5") == [
            0xFFFF_FFFD, STACK, 2, PROCESS_STACK,
        ]  # fmt: skip
        assert guest.word(PROCESS_STACK - 32) == 0x77


def test_a_handler_interrupted_by_another_returns_to_handler_mode() -> None:
    with Rig() as rig:
        t = poke(code(), IPR, 0x0080)  # 0 is less urgent than 1
        poke(t, ISER, 3).ldr_const(7, OUT)
        t.label("loop").wfi().b("loop")
        note(t.label("low"), 1).ldr_const(1, 0xE000_E200).movs(0, 2).str(0, 1)
        note(t.nop(), 3).bx(14)
        note(t.label("high"), 2).mov(6, 14).mrs(5, "ipsr").bx(14)
        guest = rig.start(t, {IRQ0: "low", IRQ0 + 1: "high"})
        rig.run()
        rig.write("DOORBELL", 1)
        assert rig.run().reason is StopReason.IDLE
        assert notes(guest) == [1, 2, 3]
        assert registers(rig, "r6", "r5") == [0xFFFF_FFF1, IRQ0 + 1]


def test_the_extended_frame_has_the_floating_point_registers() -> None:
    """FPCA set: 0x68 bytes, S0-S15 at +0x20, FPSCR at +0x60; EXC_RETURN bit 4 is 0."""
    with Rig() as rig:
        t = code().ldr_const(0, 0x3F80_0000).vmov_to_s(0, 0).vmov_to_s(15, 0).vmov_to_s(16, 0)
        t.svc(0).vmov_from_s(2, 0).vmov_from_s(3, 16).label("stop").b("stop")
        t.label("svc").mov(6, 14).mov(5, 13).movs(0, 0).vmov_to_s(0, 0).bx(14)
        guest = rig.start(t, {SVC: "svc"})
        rig.run(100)
        assert registers(rig, "r6", "r5", "r2", "r3", "sp") == [
            0xFFFF_FFE9, STACK - 0x68, 0x3F80_0000, 0x3F80_0000, STACK,
        ]  # fmt: skip
        frame = guest.words(STACK - 0x68, 26)
        assert (frame[8], frame[8 + 15], frame[24]) == (0x3F80_0000, 0x3F80_0000, 0)
        assert registers(rig, "control")[0] & 4


def test_unprivileged_thread_mode_takes_interrupts_and_goes_on() -> None:
    with Rig() as rig:
        t = poke(code(), ISER, 1).ldr_const(7, OUT)
        t.ldr_const(0, PROCESS_STACK).msr("psp", 0).movs(0, 3).msr("control", 0).isb()
        t.movs(4, 0).label("loop").adds(4, 1).b("loop")
        note(t.label("irq"), 1).mrs(5, "control").bx(14)
        guest = rig.start(t, {IRQ0: "irq"})
        rig.run(100)
        (before,) = registers(rig, "r4")
        rig.write("DOORBELL", 1)
        rig.run(100)
        assert notes(guest) == [1]
        assert registers(rig, "r5", "control") == [1, 3]  # SPSEL reads 0 in handler mode
        assert registers(rig, "r4")[0] > before


# --- order and masks ------------------------------------------------------------------------------


def test_pending_interrupts_are_taken_by_priority_then_number() -> None:
    with Rig() as rig:
        t = poke(code(), IPR, 0x2010_2030)
        poke(t, ISER, 0xF).ldr_const(7, OUT).label("loop").wfi().b("loop")
        for number in range(4):
            note(t.label(f"irq{number}"), number + 1).bx(14)
        guest = rig.start(t, {IRQ0 + n: f"irq{n}" for n in range(4)})
        rig.run()
        rig.write("DOORBELL", 0xF)
        rig.run()
        assert notes(guest) == [3, 2, 4, 1]


def test_tail_chaining_does_not_stack_again() -> None:
    """B1.5.12: the second handler finds the first one's frame, untouched by a new stacking."""
    with Rig() as rig:
        t = poke(code(), ISER, 3).ldr_const(7, OUT).movs(4, 0x44).label("loop").wfi().b("loop")
        # The first handler destroys the stacked r0; tail chaining leaves it destroyed.
        t.label("first").movs(0, 0x99).half(0x9000).mov(5, 13).bx(14)  # STR r0, [sp, #0]
        t.label("second").half(0x9800).str(0, 7).mov(6, 13).mov(4, 14).bx(14)  # LDR r0, [sp, #0]
        guest = rig.start(t, {IRQ0: "first", IRQ0 + 1: "second"})
        rig.run()
        rig.write("DOORBELL", 3)
        rig.run()
        assert guest.word(OUT) == 0x99
        r5, r6, r4 = registers(rig, "r5", "r6", "r4")
        assert (r5, r6, r4) == (STACK - 32, STACK - 32, 0xFFFF_FFF9)
        assert registers(rig, "sp", "r0") == [STACK, 0x99]


@pytest.mark.parametrize("mask", ["primask", "basepri", "faultmask"])
def test_a_masked_interrupt_is_taken_soon_after_the_unmasking(mask: str) -> None:
    with Rig() as rig:
        t = poke(code(), IPR, 0x40)
        poke(t, ISER, 1).ldr_const(7, OUT).movs(0, 1 if mask != "basepri" else 0x40)
        t.msr(mask, 0).isb().ldr_const(2, 2000)
        t.label("masked").subs(2, 1).b("masked", "ne").movs(0, 0).msr(mask, 0)
        t.movs(4, 0).label("loop").adds(4, 1).b("loop")
        note(t.label("irq"), 1).mov(5, 4).bx(14)
        guest = rig.start(t, {IRQ0: "irq"})
        rig.run(100)
        rig.write("DOORBELL", 1)
        rig.run(2000)
        assert guest.word(OUT) == 0
        rig.run(10_000)
        assert notes(guest) == [1]
        assert registers(rig, "r5")[0] <= MASKED_BURST  # instructions are two per count of r4


def test_wfi_wakes_from_a_masked_interrupt_without_taking_it() -> None:
    """B1.5.19: WFI wakes for what would preempt if PRIMASK were 0. The race-free idle loop."""
    with Rig() as rig:
        t = poke(code(), ISER, 1).ldr_const(7, OUT).cpsid_i().wfi()
        note(t, 1).cpsie_i().isb()
        note(t.nop(), 3).label("loop").wfi().b("loop")
        note(t.label("irq"), 2).bx(14)
        guest = rig.start(t, {IRQ0: "irq"})
        assert rig.run().reason is StopReason.IDLE
        assert not rig.platform.wants_to_run()
        rig.write("DOORBELL", 1)
        assert rig.platform.wants_to_run()
        assert rig.run().reason is StopReason.IDLE
        assert sorted(notes(guest)) == [1, 2, 3]
        assert notes(guest)[0] == 1


def test_wfi_does_not_wake_for_what_basepri_masks() -> None:
    with Rig() as rig:
        t = poke(code(), IPR, 0x80)
        poke(t, ISER, 3).movs(0, 0x80).msr("basepri", 0).label("loop").wfi().b("loop")
        t.label("irq").bx(14)
        rig.start(t, {IRQ0: "irq", IRQ0 + 1: "irq"})
        rig.run()
        rig.write("DOORBELL", 1)
        assert not rig.platform.wants_to_run()
        rig.write("DOORBELL", 2)
        assert rig.platform.wants_to_run()


def test_wfi_with_an_interrupt_pending_does_not_sleep() -> None:
    with Rig() as rig:
        t = poke(code(), ISER, 1).cpsid_i().ldr_const(0, 0xE000_E200).movs(1, 1).str(1, 0)
        t.wfi().wfi().wfi().movs(6, 9).label("loop").b("loop")
        rig.start(t)
        assert rig.run(100).reason is StopReason.BUDGET
        assert registers(rig, "r6") == [9]


def test_pendsv_runs_after_the_interrupt_that_set_it() -> None:
    with Rig() as rig:
        t = poke(code(), SHPR3, 0x00FF_0000)
        poke(t, ISER, 1).ldr_const(7, OUT).label("loop").wfi().b("loop")
        note(t.label("irq"), 1)
        note(poke(t, ICSR, 1 << 28), 2).bx(14)
        note(t.label("pendsv"), 3).bx(14)
        guest = rig.start(t, {IRQ0: "irq", PENDSV: "pendsv"})
        rig.run()
        rig.write("DOORBELL", 1)
        rig.run()
        assert notes(guest) == [1, 2, 3]


def test_priority_grouping_decides_about_preemption() -> None:
    with Rig() as rig:
        t = poke(code(), AIRCR, 0x05FA_0700)  # PRIGROUP 7: no bit preempts
        poke(t, IPR, 0x0080)
        poke(t, ISER, 3).ldr_const(7, OUT).label("loop").wfi().b("loop")
        note(t.label("low"), 1).ldr_const(1, 0xE000_E200).movs(0, 2).str(0, 1)
        note(t, 3).bx(14)
        note(t.label("high"), 2).bx(14)
        guest = rig.start(t, {IRQ0: "low", IRQ0 + 1: "high"})
        rig.run()
        rig.write("DOORBELL", 1)
        rig.run()
        assert notes(guest) == [1, 3, 2]


def test_vtor_moves_the_vectors() -> None:
    with Rig() as rig:
        t = poke(code(), ISER, 1)
        poke(t, 0xE000_ED08, RAM + 0x5000).ldr_const(7, OUT).label("loop").wfi().b("loop")
        note(t.label("old"), 1).bx(14)
        note(t.label("new"), 2).bx(14)
        guest = rig.start(t, {IRQ0: "old"})
        guest.load(RAM + 0x5000 + 4 * IRQ0, struct.pack("<I", t.address("new")))
        rig.run()
        rig.write("DOORBELL", 1)
        rig.run()
        assert notes(guest) == [2]


def test_sleep_on_exit() -> None:
    with Rig() as rig:
        t = poke(code(), ISER, 1)
        poke(t, SCR, 2).movs(6, 0).label("loop").adds(6, 1).b("loop")
        t.label("irq").adds(5, 1).bx(14)
        rig.start(t, {IRQ0: "irq"})
        rig.run(100)
        rig.write("DOORBELL", 1)
        assert rig.run(100).reason is StopReason.IDLE
        (counted,) = registers(rig, "r6")
        rig.write("DOORBELL", 1)
        assert rig.run(100).reason is StopReason.IDLE
        assert registers(rig, "r6") == [counted]


# --- events ---------------------------------------------------------------------------------------


def test_wfe_sleeps_in_its_loop_and_an_interrupt_wakes_it() -> None:
    with Rig() as rig:
        t = poke(code(), ISER, 1).ldr_const(7, OUT)
        t.label("loop").wfe().ldr_const(1, OUT).ldr(0, 1).cmp(0, 0).b("loop", "eq")
        t.movs(6, 1).label("end").b("end")
        note(t.label("irq"), 1).bx(14)
        rig.start(t, {IRQ0: "irq"})
        assert rig.run(500).reason is StopReason.IDLE
        assert not rig.platform.wants_to_run()
        rig.write("DOORBELL", 1)
        assert rig.run(500).reason is StopReason.BUDGET
        assert registers(rig, "r6") == [1]


@pytest.mark.parametrize("wide", [False, True])
def test_an_event_sent_before_wfe_is_not_lost(wide: bool) -> None:
    with Rig() as rig:
        t = code().wfe().wfe().label("awake").adds(6, 1)
        t = t.half(0xF3AF, 0x8004) if wide else t.sev()
        t.wfe().adds(5, 1).wfe().adds(4, 1).label("end").b("end")
        rig.start(t)
        assert rig.run(500).reason is StopReason.IDLE  # the second WFE, register known clear
        assert registers(rig, "r6", "r5") == [0, 0]
        # With an event sent by the core itself the next WFE falls through, the one after sleeps.
        rig.write("CONTROL", 0)
        guest = rig.guests[0]
        guest.load(CODE, struct.pack("<2H", 0xBF00, 0xBF00))
        rig.write("CONTROL", 1)
        assert rig.run(500).reason is StopReason.IDLE
        assert registers(rig, "r6", "r5", "r4") == [1, 1, 0]


def test_sevonpend_wakes_wfe_for_an_interrupt_that_is_not_enabled() -> None:
    with Rig() as rig:
        rig.start(poke(code(), SCR, 1 << 4).wfe().wfe().movs(6, 1).label("end").b("end"))
        assert rig.run(100).reason is StopReason.IDLE
        rig.write("DOORBELL", 1)
        assert rig.platform.wants_to_run()
        assert rig.run(100).reason is StopReason.BUDGET
        assert registers(rig, "r6") == [1]


# --- faults ---------------------------------------------------------------------------------------


def test_svc_returns_behind_itself_and_an_undefined_instruction_at_itself() -> None:
    with Rig() as rig:
        t = code().ldr_const(7, OUT).svc(1).label("bad").udf(0).label("end").b("end")
        note(t.label("svc"), 1).bx(14)
        # Handlers read the stacked return address, note it, and step over the instruction.
        t.label("hard").half(0x9806).str(0, 7).adds(7, 4).adds(0, 2).half(0x9006)
        t.ldr_const(1, CFSR).ldr(0, 1).str(0, 7).adds(7, 4)
        t.ldr_const(1, HFSR).ldr(0, 1).str(0, 7).adds(7, 4).bx(14)
        guest = rig.start(t, {SVC: "svc", HARD: "hard"})
        assert rig.run(100).reason is StopReason.BUDGET
        # UFSR.UNDEFINSTR is CFSR bit 16; HFSR.FORCED is bit 30.
        assert notes(guest) == [1, t.address("bad") & ~1, 1 << 16, 1 << 30]


def test_usage_fault_is_taken_itself_when_enabled() -> None:
    with Rig() as rig:
        t = poke(code(), SHCSR, 1 << 18).label("bad").udf(0).label("end").b("end")
        t.label("usage").mrs(6, "ipsr").ldr_const(1, HFSR).ldr(5, 1)
        t.label("stop").b("stop")
        rig.start(t, {USAGE: "usage"})
        assert rig.run(100).reason is StopReason.BUDGET
        assert registers(rig, "r6", "r5") == [USAGE, 0]


def test_bkpt_without_a_debugger_is_a_hard_fault() -> None:
    with Rig() as rig:
        t = code().bkpt(0).label("hard").ldr_const(1, HFSR).ldr(5, 1).mrs(6, "ipsr")
        rig.start(t.label("stop").b("stop"), {HARD: "hard"})
        rig.run(100)
        assert registers(rig, "r5", "r6") == [1 << 31, HARD]  # DEBUGEVT


def test_svc_where_its_priority_does_not_allow_it_is_a_hard_fault() -> None:
    with Rig() as rig:
        t = code().cpsid_i().svc(0).label("hard").mrs(6, "ipsr").label("stop").b("stop")
        rig.start(t, {HARD: "hard", SVC: "stop"})
        rig.run(100)
        assert registers(rig, "r6") == [HARD]


def test_branching_to_an_even_address_is_invstate() -> None:
    with Rig() as rig:
        t = code().ldr_const(1, CODE).bx(1)
        t.label("hard").ldr_const(1, CFSR).ldr(5, 1).label("stop").b("stop")
        rig.start(t, {HARD: "hard"})
        rig.run(100)
        assert registers(rig, "r5") == [1 << 17]


@pytest.mark.parametrize("exc_return", [0xFFFF_FFF9, 0xFFFF_FFF5, 0xFFFF_FFFF])
def test_a_wrong_exception_return_is_invpc(exc_return: int) -> None:
    """B1.5.8: two handlers active and a return to thread mode, or a reserved EXC_RETURN."""
    with Rig() as rig:
        t = poke(code(), IPR, 0x0080)
        poke(t, ISER, 3).label("loop").wfi().b("loop")
        t.label("low").ldr_const(1, 0xE000_E200).movs(0, 2).str(0, 1).nop().label("x").b("x")
        t.label("high").ldr_const(0, exc_return).bx(0)
        t.label("hard").ldr_const(1, CFSR).ldr(5, 1).mrs(6, "ipsr").label("stop").b("stop")
        rig.start(t, {IRQ0: "low", IRQ0 + 1: "high", HARD: "hard"})
        rig.run()
        rig.write("DOORBELL", 1)
        rig.run(100)
        assert registers(rig, "r5", "r6") == [1 << 18, HARD]


def test_exc_return_in_thread_mode_is_a_jump_to_nothing() -> None:
    with Rig() as rig:
        rig.start(code().ldr_const(0, 0xFFFF_FFF9).bx(0))
        result = rig.run()
        assert result.fault is not None
        assert (result.fault.code, result.fault.address) == (1, 0xFFFF_FFF8)


def test_the_device_page_refuses_with_a_bus_fault() -> None:
    with Rig() as rig:
        t = poke(code(), SHCSR, 1 << 17).ldr_const(1, DEVICE).ldr(2, 1, 0x20).label("end").b("end")
        t.label("bus").mrs(6, "ipsr").ldr_const(1, CFSR).ldr(5, 1).label("stop").b("stop")
        rig.start(t, {BUS: "bus"})
        assert rig.run(100).reason is StopReason.BUDGET
        assert registers(rig, "r6", "r5") == [BUS, 1 << 10]  # IMPRECISERR


@pytest.mark.parametrize(
    ("body", "fault_code"),
    [
        (code().udf(0), 2),
        (code().bkpt(0), 2),
        (code().ldr_const(1, DEVICE).ldr(2, 1, 0x40), 8),
        (code().ldr_const(1, DEVICE).strh(2, 1, 4), 8),
    ],
)
def test_without_a_hard_fault_handler_the_cause_is_told(body: Thumb, fault_code: int) -> None:
    with Rig() as rig:
        rig.start(body)
        result = rig.run()
        assert result.reason is StopReason.FAULT
        assert result.fault is not None
        assert result.fault.code == fault_code
        assert rig.read("FAULT_STATUS") == fault_code


def test_a_fault_in_the_hard_fault_handler_is_a_lockup() -> None:
    with Rig() as rig:
        t = code().udf(0).label("hard").udf(1)
        rig.start(t, {HARD: "hard"})
        result = rig.run()
        assert result.fault is not None
        assert (result.fault.code, result.fault.address) == (4, t.address("hard") & ~1)
        assert rig.read("STATUS") == 5


def test_no_vector_table_or_no_stack_is_a_lockup() -> None:
    with Rig() as rig:
        rig.start(code().nop())
        rig.write("CONTROL", 0)
        rig.write("VECTOR_BASE", 0x1000_0000)
        rig.write("CONTROL", 1)
        fault = rig.run().fault
        assert fault is not None
        assert (fault.code, fault.address) == (4, 0x1000_0000)
    with Rig() as rig:
        rig.start(code().svc(0).label("svc").bx(14), {SVC: "svc"}, stack=0x1000_0010)
        fault = rig.run().fault
        assert fault is not None
        # The frame's last words lie at 0x0FFF_FFF0 and up.
        assert (fault.code, fault.address) == (4, 0x0FFF_FFF0)


def test_a_handler_without_the_thumb_bit_locks_up() -> None:
    with Rig() as rig:
        guest = rig.start(code().udf(0))
        guest.load(RAM + 4 * HARD, struct.pack("<I", CODE))
        result = rig.run()
        assert result.fault is not None
        assert result.fault.code == 4


def test_an_endless_chain_of_exceptions_is_bounded_by_the_budget() -> None:
    with Rig() as rig:
        t = poke(code(), SHCSR, 1 << 18).label("bad").udf(0)
        t.label("usage").bx(14)  # returns to the undefined instruction for ever
        rig.start(t, {USAGE: "usage"})
        result = rig.run(1000)
        assert (result.reason, result.instructions) == (StopReason.BUDGET, 1000)


# --- SysTick --------------------------------------------------------------------------------------


def ticking(reload: int, body: Thumb) -> Thumb:
    poke(body, SYSTICK + 4, reload)
    poke(body, SYSTICK + 8, 0)
    return poke(body, SYSTICK, 7)


def test_systick_fires_at_the_exact_instruction() -> None:
    """Period RELOAD + 1 cycles, one instruction each; every handler takes 2 more."""
    with Rig() as rig:
        t = ticking(99, code()).movs(4, 0).label("loop").adds(4, 1).b("loop")
        t.label("tick").adds(5, 1).bx(14)
        rig.start(t, {TICK: "tick"})
        start = 9 + 1  # three pokes and movs
        rig.run(start)
        assert registers(rig, "r4", "r5") == [0, 0]
        # Enabled by instruction 9 at value 0: reloads with the next, expires 99 later.
        rig.run(99)
        assert registers(rig, "r5") == [0]
        assert rig.run(1).instructions == 1
        assert registers(rig, "r5") == [1]
        rig.run(100 * 50 - 1)
        assert registers(rig, "r5") == [50]
        rig.run(1)
        assert registers(rig, "r5") == [51]


def test_systick_does_not_depend_on_how_the_run_is_divided() -> None:
    def result(slices: list[int]) -> list[int]:
        with Rig() as rig:
            t = ticking(41, code()).movs(4, 0).movs(7, 0)
            t.label("loop").cmp(7, 0).it("eq", "ttt").adds(4, 1).adds(3, 1).adds(4, 2).b("loop")
            t.label("tick").adds(5, 1).eors(6, 4).bx(14)
            rig.start(t, {TICK: "tick"})
            for budget in slices:
                rig.run(budget)
            return registers(rig, "r3", "r4", "r5", "r6", "pc")

    whole = result([30_000])
    assert whole == result([1000] * 30)
    assert whole == result([7] * 4285 + [5])


def test_firmware_reads_systick_exactly() -> None:
    with Rig() as rig:
        t = ticking(999, code()).ldr_const(1, SYSTICK).ldr(2, 1, 8).nop().nop().ldr(3, 1, 8)
        t.label("end").b("end")
        rig.start(t)
        rig.run(50)
        r2, r3 = registers(rig, "r2", "r3")
        # The counter loads with the first instruction after the enabling one.
        assert (r2, r3) == (999, 996)


def test_an_idle_core_is_woken_by_its_timer_in_coproc_time() -> None:
    with Rig(clock_hz=1_000_000) as rig:
        t = ticking(999, code()).label("loop").wfi().adds(4, 1).b("loop")
        t.label("tick").adds(5, 1).bx(14)
        rig.start(t, {TICK: "tick"})
        result = rig.run(1000, now_ns=5_000_000)
        assert result.reason is StopReason.IDLE
        # WFI is the first instruction after the enabling one: the counter has just loaded 999.
        assert result.wake_after_ns == 999_000
        assert rig.platform.wake_after_ns(1, 400_000) == 599_000
        early = rig.run(1000, now_ns=5_998_000)
        assert (early.reason, early.instructions, early.wake_after_ns) == (
            StopReason.IDLE, 0, 1_000,
        )  # fmt: skip
        late = rig.run(1000, now_ns=5_999_000)
        assert late.reason is StopReason.IDLE
        assert late.instructions == 5  # handler, adds, b, wfi
        assert registers(rig, "r4", "r5") == [1, 1]


def test_the_timer_goes_on_while_an_idle_context_is_out_and_stands_while_it_is_preempted() -> None:
    with Rig(2, clock_hz=1_000_000) as rig:
        first, second = rig.guests
        t = ticking(999, code()).label("loop").wfi().b("loop")
        t.label("tick").adds(5, 1).bx(14)
        rig.start(t, {TICK: "tick"})
        assert rig.run(1000, now_ns=0).wake_after_ns == 999_000
        rig.switch(second)
        assert not rig.platform.shadow_wants_to_run(1)
        rig.switch(first)
        rig.run(1000, now_ns=999_000)
        assert registers(rig, "r5") == [1]
        # Preempted in a busy loop: 10 ms elsewhere change nothing.
        rig.write("CONTROL", 0)
        t = ticking(999, code()).label("loop").b("loop")
        t.label("tick").adds(5, 1).bx(14)
        first.boot(t, {TICK: "tick"})
        rig.write("CONTROL", 1)
        rig.run(500, now_ns=2_000_000)
        rig.switch(second)
        rig.switch(first)
        rig.run(400, now_ns=12_000_000)
        assert registers(rig, "r5") == [0]
        rig.run(200, now_ns=12_001_000)
        assert registers(rig, "r5") == [1]


def test_a_timer_goes_on_in_another_engine_from_where_it_stood() -> None:
    """Whatever that one's clock says, and also when cycles are no whole nanoseconds."""
    t = ticking(2999, code()).label("loop").wfi().b("loop").label("tick").adds(5, 1).bx(14)
    with Rig(clock_hz=3_000_000) as rig, Rig(clock_hz=3_000_000) as other:
        rig.start(t, {TICK: "tick"})
        due_ns = rig.run(1000, now_ns=70).wake_after_ns
        assert due_ns is not None
        rig.switch(None)
        blob = rig.snapshot(1, now_ns=70 + 400_123)
        other.guests[0].ram[:] = rig.guests[0].ram[:]
        other.restore(1, blob, now_ns=5_000_000_000)
        assert other.snapshot(1, now_ns=5_000_000_000) == blob
        other.switch(other.guests[0])
        left_ns = due_ns - 400_123
        early = other.run(1000, now_ns=5_000_000_000 + left_ns - 1)
        assert (early.reason, early.instructions) == (StopReason.IDLE, 0)
        other.run(1000, now_ns=5_000_000_000 + left_ns)
        assert registers(other, "r5") == [1]


def test_many_short_looks_at_an_idle_core_lose_no_time() -> None:
    with Rig(clock_hz=3_000_000) as rig:
        t = ticking(2999, code()).label("loop").wfi().b("loop").label("tick").adds(5, 1).bx(14)
        rig.start(t, {TICK: "tick"})
        now_ns = 0
        rig.run(1000, now_ns)
        while not registers(rig, "r5")[0]:
            now_ns += 100  # less than a cycle
            rig.run(1000, now_ns)
        assert abs(now_ns - 999_667) <= 433  # 2999 cycles of 333.3 ns, in steps of 100 ns


def test_primask_holds_in_unprivileged_thread_mode_too() -> None:
    """Set while privileged; unprivileged code cannot see or clear it, and it still masks."""
    with Rig() as rig:
        t = poke(code(), ISER, 1).cpsid_i().movs(0, 1).msr("control", 0).isb()
        t.cpsie_i().mrs(6, "primask").movs(4, 0).label("loop").adds(4, 1).b("loop")
        t.label("irq").adds(5, 1).bx(14)
        rig.start(t, {IRQ0: "irq"})
        rig.run(100)
        rig.write("DOORBELL", 1)
        rig.run(2000)
        assert registers(rig, "r5", "r6") == [0, 0]
        assert registers(rig, "r4")[0] > 900
