"""NVIC and System Control Block of the Cortex-M4: what is pending, enabled, active, how urgent.

Theory of operation: sets of exceptions are integers with one bit for each exception number (DDI
0403 table B1-4; external interrupt n is number 16 + n), so that "does anything want attention" is
one AND. The register file of the page at 0xE000_E000 is decoded here; nothing here touches the
core: its IPSR, PRIMASK, BASEPRI and FAULTMASK are arguments. 4 bits of priority are implemented, as
on most M4 parts.

Not handled: NMI (no source), debug, the MPU (MPU_TYPE reads 0), unprivileged access to this page
(it is answered like a privileged one), UNALIGN_TRP and DIV_0_TRP (stored, without effect).
"""

from __future__ import annotations

from typing import Final

from vcoproc_sim.platforms.cortex_m4_info import EXTERNAL_INTERRUPT_COUNT
from vcoproc_sim.platforms.cortex_m4_systick import SysTick

NMI: Final = 2
HARD_FAULT: Final = 3
MEM_MANAGE: Final = 4
BUS_FAULT: Final = 5
USAGE_FAULT: Final = 6
SVCALL: Final = 11
PENDSV: Final = 14
SYSTICK: Final = 15
EXTERNAL: Final = 16
EXCEPTION_COUNT: Final = EXTERNAL + EXTERNAL_INTERRUPT_COUNT

LOWEST_PRIORITY: Final = 256
"""Priority of thread mode with nothing active; every exception is more urgent."""
PRIORITY_MASK: Final = 0xF0
"""The 4 implemented bits."""

CCR_NONBASETHRDENA: Final = 1 << 0
CCR_STKALIGN: Final = 1 << 9
SCR_SLEEPONEXIT: Final = 1 << 1
SCR_SEVONPEND: Final = 1 << 4
HFSR_FORCED: Final = 1 << 30
HFSR_DEBUGEVT: Final = 1 << 31
# CFSR: UFSR in [31:16], BFSR in [15:8], MMFSR in [7:0]; DDI 0403 B3.2.15.
CFSR_IMPRECISERR: Final = 1 << 10
CFSR_UNDEFINSTR: Final = 1 << 16
CFSR_INVSTATE: Final = 1 << 17
CFSR_INVPC: Final = 1 << 18
CFSR_NOCP: Final = 1 << 19
CFSR_UNALIGNED: Final = 1 << 24

_ALWAYS_ENABLED: Final = 1 << NMI | 1 << HARD_FAULT | 1 << SVCALL | 1 << PENDSV | 1 << SYSTICK
_EXTERNAL_MASK: Final = (1 << EXCEPTION_COUNT) - (1 << EXTERNAL)
_CPUID: Final = 0x410F_C241
"""Cortex-M4 r0p1."""
_VECTKEY: Final = 0x05FA
_VECTKEYSTAT: Final = 0xFA05
# SHCSR: (bit, exception number) of its three kinds of flags; DDI 0403 B3.2.13.
_SHCSR_ACTIVE: Final = ((0, MEM_MANAGE), (1, BUS_FAULT), (3, USAGE_FAULT), (7, SVCALL),
                        (10, PENDSV), (11, SYSTICK))  # fmt: skip
_SHCSR_PENDING: Final = ((12, USAGE_FAULT), (13, MEM_MANAGE), (14, BUS_FAULT), (15, SVCALL))
_SHCSR_ENABLE: Final = ((16, MEM_MANAGE), (17, BUS_FAULT), (18, USAGE_FAULT))
# Registers that are plain storage, with the bits that can be written.
_STORAGE: Final = {
    0xD14: CCR_NONBASETHRDENA | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 8 | CCR_STKALIGN,
    0xD34: 0xFFFF_FFFF,  # MMFAR
    0xD38: 0xFFFF_FFFF,  # BFAR
    0xD88: 0x00F0_0000,  # CPACR: the FPU is always enabled, whatever is written
    0xF38: 0xFFFF_FFF8,  # FPCAR
    0xF3C: 0x07C0_0000,  # FPDSCR
}
_CONSTANT: Final = {
    0xD00: _CPUID,
    0xF34: 1 << 31,  # FPCCR: ASPEN; LSPEN is 0, state is stacked at once
    0xF40: 0x1011_0021,  # MVFR0 and MVFR1 of the single-precision FPU
    0xF44: 0x1100_0011,
}
_BYTE_WRITABLE: Final = (range(0x400, 0x410), range(0xD18, 0xD24), range(0xD28, 0xD2C))
"""IPR, SHPR and CFSR; a narrow write elsewhere is UNPREDICTABLE and ignored here."""


class SystemControl:
    """Exception state of one context. All of it is plain data."""

    def __init__(self) -> None:
        self.systick = SysTick()
        self.reset(0)

    def reset(self, vector_base: int) -> None:
        self.systick = SysTick()
        self.pending = 0
        self.active = 0
        self.enabled = _ALWAYS_ENABLED
        self.priority = [0] * EXCEPTION_COUNT
        self.priority[NMI] = -2
        self.priority[HARD_FAULT] = -1
        self.vtor = vector_base
        self.prigroup = 0
        self.scr = 0
        self.cfsr = 0
        self.hfsr = 0
        self.event = False
        """The event register of WFE (DDI 0403 B1.5.18)."""
        self.storage = dict.fromkeys(_STORAGE, 0)
        self.storage[0xD14] = CCR_STKALIGN
        self.reset_requested = False

    # --- priorities -------------------------------------------------------------------------------

    def set_pending(self, number: int) -> None:
        bit = 1 << number
        if self.scr & SCR_SEVONPEND and not self.pending & bit:
            self.event = True
        self.pending |= bit

    def group_priority(self, priority: int) -> int:
        """Priority without its subpriority bits; those do not preempt. DDI 0403 B1.5.4."""
        if priority < 0:
            return priority
        return priority >> (self.prigroup + 1) << (self.prigroup + 1)

    def execution_priority(self, primask: int, basepri: int, faultmask: int) -> int:
        """Priority below which (numerically) an exception preempts. DDI 0403 B1.5.4."""
        current = LOWEST_PRIORITY
        active = self.active
        while active:
            bit = active & -active
            current = min(current, self.group_priority(self.priority[bit.bit_length() - 1]))
            active ^= bit
        if basepri & PRIORITY_MASK:
            current = min(current, self.group_priority(basepri & PRIORITY_MASK))
        if primask:
            current = min(current, 0)
        if faultmask:
            current = min(current, -1)
        return current

    def most_urgent(self) -> int:
        """Number of the pending and enabled exception that would be taken first, or 0."""
        ready = self.pending & self.enabled
        best = 0
        best_priority = LOWEST_PRIORITY
        while ready:  # in order of number, so that the lower number wins a tie
            bit = ready & -ready
            number = bit.bit_length() - 1
            if self.priority[number] < best_priority:
                best, best_priority = number, self.priority[number]
            ready ^= bit
        return best

    def preempts(self, number: int, execution_priority: int) -> bool:
        """Whether an exception (0: none) is urgent enough."""
        return bool(number) and (self.group_priority(self.priority[number]) < execution_priority)

    # --- the register page ------------------------------------------------------------------------

    def read(self, offset: int, size_bytes: int, ipsr: int) -> int:
        """offset: within the page at 0xE000_E000. Unknown registers read as zero."""
        word = self._read_word(offset & ~3, ipsr)
        shifted = word >> (8 * (offset & 3))
        return shifted & (1 << (8 * size_bytes)) - 1

    def write(self, offset: int, size_bytes: int, value: int) -> None:
        place = offset & ~3
        if size_bytes < 4:
            if not any(offset in narrow for narrow in _BYTE_WRITABLE):
                return
            shift = 8 * (offset & 3)
            mask = (1 << (8 * size_bytes)) - 1 << shift
            # CFSR clears where a 1 is written: the bytes beside the written one must be 0.
            beside = 0 if place == 0xD28 else self._read_word(place, 0) & ~mask
            value = (beside | value << shift & mask) & 0xFFFF_FFFF
        self._write_word(place, value)

    def _read_word(self, offset: int, ipsr: int) -> int:
        if 0x010 <= offset < 0x020:
            return self.systick.read(offset - 0x010)
        if 0x400 <= offset < 0x410:
            return self._priorities(EXTERNAL + offset - 0x400)
        if 0xD18 <= offset < 0xD24:
            return self._priorities(4 + offset - 0xD18) & self._shpr_mask(offset)
        match offset:
            case 0x100 | 0x180:
                return self.enabled >> EXTERNAL
            case 0x200 | 0x280:
                return self.pending >> EXTERNAL
            case 0x300:
                return self.active >> EXTERNAL
            case 0xD04:
                return self._icsr(ipsr)
            case 0xD08:
                return self.vtor
            case 0xD0C:
                return _VECTKEYSTAT << 16 | self.prigroup << 8
            case 0xD10:
                return self.scr
            case 0xD24:
                return self._shcsr()
            case 0xD28:
                return self.cfsr
            case 0xD2C:
                return self.hfsr
        return _CONSTANT.get(offset) or self.storage.get(offset, 0)

    def _write_word(self, offset: int, value: int) -> None:
        if 0x010 <= offset < 0x020:
            self.systick.write(offset - 0x010, value)
        elif 0x400 <= offset < 0x410:
            self._set_priorities(EXTERNAL + offset - 0x400, value)
        elif 0xD18 <= offset < 0xD24:
            self._set_priorities(4 + offset - 0xD18, value & self._shpr_mask(offset))
        elif offset in _STORAGE:
            self.storage[offset] = value & _STORAGE[offset]
        elif offset < 0xD00 or offset == 0xF00:
            self._write_nvic(offset, value)
        else:
            self._write_scb(offset, value)

    def _write_nvic(self, offset: int, value: int) -> None:
        bits = value << EXTERNAL & _EXTERNAL_MASK
        match offset:
            case 0x100:
                self.enabled |= bits
            case 0x180:
                self.enabled &= ~bits
            case 0x200:
                while bits:
                    bit = bits & -bits
                    self.set_pending(bit.bit_length() - 1)
                    bits ^= bit
            case 0x280:
                self.pending &= ~bits
            case 0xF00:  # STIR
                if value & 0x1FF < EXTERNAL_INTERRUPT_COUNT:
                    self.set_pending(EXTERNAL + (value & 0x1FF))

    def _write_scb(self, offset: int, value: int) -> None:
        match offset:
            case 0xD04:
                for set_bit, clear_bit, number in ((28, 27, PENDSV), (26, 25, SYSTICK)):
                    if value >> set_bit & 1:
                        self.set_pending(number)
                    elif value >> clear_bit & 1:
                        self.pending &= ~(1 << number)
            case 0xD08:
                self.vtor = value & 0xFFFF_FF80
            case 0xD0C:
                if value >> 16 == _VECTKEY:
                    self.prigroup = value >> 8 & 7
                    self.reset_requested = bool(value & 1 << 2)  # SYSRESETREQ
            case 0xD10:
                self.scr = value & (SCR_SLEEPONEXIT | 1 << 2 | SCR_SEVONPEND)
            case 0xD24:
                self._set_shcsr(value)
            case 0xD28:
                self.cfsr &= ~value
            case 0xD2C:
                self.hfsr &= ~value

    def _priorities(self, first: int) -> int:
        return sum(
            (self.priority[first + i] & PRIORITY_MASK) << 8 * i
            for i in range(4)
            if first + i < EXCEPTION_COUNT
        )

    def _set_priorities(self, first: int, value: int) -> None:
        for i in range(4):
            if first + i < EXCEPTION_COUNT:
                self.priority[first + i] = value >> 8 * i & PRIORITY_MASK

    @staticmethod
    def _shpr_mask(offset: int) -> int:
        """Priorities of the exceptions that exist: 4..6, 11, 14 and 15 (12: no debug monitor)."""
        return {0xD18: 0x00FF_FFFF, 0xD1C: 0xFF00_0000, 0xD20: 0xFFFF_0000}[offset]

    def _icsr(self, ipsr: int) -> int:
        value = ipsr & 0x1FF | self.most_urgent() << 12
        if not self.active & ~(1 << ipsr):
            value |= 1 << 11  # RETTOBASE
        if self.pending & _EXTERNAL_MASK:
            value |= 1 << 22  # ISRPENDING
        value |= (self.pending >> SYSTICK & 1) << 26
        return value | (self.pending >> PENDSV & 1) << 28

    def _shcsr(self) -> int:
        value = 0
        for flags, where in (
            (_SHCSR_ACTIVE, self.active),
            (_SHCSR_PENDING, self.pending),
            (_SHCSR_ENABLE, self.enabled),
        ):
            for bit, number in flags:
                value |= (where >> number & 1) << bit
        return value

    def _set_shcsr(self, value: int) -> None:
        for flags, name in (
            (_SHCSR_ACTIVE, "active"),
            (_SHCSR_PENDING, "pending"),
            (_SHCSR_ENABLE, "enabled"),
        ):
            bits: int = getattr(self, name)
            for bit, number in flags:
                bits = bits & ~(1 << number) | (value >> bit & 1) << number
            setattr(self, name, bits)
