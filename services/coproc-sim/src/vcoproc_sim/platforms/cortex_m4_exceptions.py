"""Exception entry, exception return and fault escalation of the Cortex-M4.

Source of every rule: Armv7-M Architecture Reference Manual, DDI 0403, B1.5. Simplifications, all
visible to firmware only through FPCCR or timing: floating-point state is stacked at once (LSPEN is
0), entry and return take no instruction, and a stack or a vector table that cannot be reached locks
the core up at once (the architecture would try a HardFault first, with the same stack and table).
The engine sets CONTROL.FPCA with the first floating-point instruction of a piece of translated code
only; if that one is conditional and skipped, those that follow there may leave FPCA clear.
The exclusive monitor is not cleared on entry and return; STREX compares the value instead.
"""

from __future__ import annotations

import struct
from typing import Final

from vcoproc.errors import TranslationFault
from vcoproc_sim.engine import XPSR_T, Engine
from vcoproc_sim.platforms.cortex_m4_context import Context
from vcoproc_sim.platforms.cortex_m4_info import FaultCode
from vcoproc_sim.platforms.cortex_m4_ppb import (
    BUS_FAULT,
    CCR_NONBASETHRDENA,
    CCR_STKALIGN,
    CFSR_INVPC,
    HARD_FAULT,
    HFSR_FORCED,
    NMI,
    SCR_SLEEPONEXIT,
    USAGE_FAULT,
)

_CCR: Final = 0xD14
_CONTROL_NPRIV: Final = 1 << 0
_CONTROL_SPSEL: Final = 1 << 1
_CONTROL_FPCA: Final = 1 << 2
_XPSR_EXCEPTION: Final = 0x1FF
_XPSR_FLAGS: Final = 0xF80F_0000
"""N Z C V Q and GE."""
_XPSR_ALIGNED: Final = 1 << 9
"""In a stacked xPSR: 4 bytes were left free above the frame."""
_BASIC: Final = struct.Struct("<8I")
_EXTENDED: Final = struct.Struct("<8I8Q2I")
"""r0-r3, r12, lr, return address, xPSR: 0x20 bytes. Then d0-d7, FPSCR, a reserved word: 0x68."""
_RESET_HARD_FAULT_PRIORITY: Final = -1


class CoreFault(Exception):
    """The core cannot go on: the vcoproc faults."""

    def __init__(self, code: FaultCode, address: int, why: str) -> None:
        super().__init__(why)
        self.code = code
        self.address = address & 0xFFFF_FFFF
        self.why = why


class ExceptionUnit:
    """Works on the context that is on the engine."""

    def __init__(self, engine: Engine) -> None:
        self._stacked = engine.bank("r0", "r1", "r2", "r3", "r12", "lr")
        self._state = engine.bank("xpsr", "control", "sp", "lr")
        self._xpsr = engine.bank("xpsr_nzcvqg")
        self._masks = engine.bank("primask", "basepri", "faultmask", "control", "xpsr")
        self._faultmask = engine.bank("faultmask")
        self._fpu = engine.bank(*(f"d{n}" for n in range(8)), "fpscr")
        self._msp = engine.bank("msp")
        self._psp = engine.bank("psp")
        # In these orders. In handler mode, where nothing is refused, and IPSR last or first.
        self._entry = engine.bank("xpsr_nzcvqg", "control", "lr")
        self._return = engine.bank("control", "r0", "r1", "r2", "r3", "r12", "lr", "xpsr_nzcvqg")

    # --- state of the core ------------------------------------------------------------------------

    def masks(self) -> tuple[int, int, int]:
        """PRIMASK, BASEPRI, FAULTMASK."""
        primask, basepri, faultmask, control, xpsr = self._masks.read()
        if control & _CONTROL_NPRIV and not xpsr & _XPSR_EXCEPTION:
            # Unprivileged thread mode reads them as zero: look from handler mode.
            self._xpsr.write((xpsr | HARD_FAULT,))
            primask, basepri, faultmask = self._masks.read()[:3]
            self._xpsr.write((xpsr,))
        return primask, basepri, faultmask

    def ipsr(self) -> int:
        """Number of the exception that is being handled; 0 in thread mode."""
        return self._state.read()[0] & _XPSR_EXCEPTION

    def execution_priority(self, context: Context) -> int:
        return context.system.execution_priority(*self.masks())

    def start(self, context: Context) -> None:
        """The reset sequence, on an engine in reset state. DDI 0403 B1.5.5 TakeReset.

        Raises:
            CoreFault: the vectors cannot be read.
        """
        vtor = context.system.vtor
        try:
            stack, reset_vector = struct.unpack("<2I", context.memory.read(vtor, 8))
        except TranslationFault as fault:
            raise CoreFault(FaultCode.LOCKUP, fault.address, "no vector table at reset") from None
        self._state.write((0, 0, stack & 0xFFFF_FFFC, 0xFFFF_FFFF))
        self._jump(context, reset_vector, 0)
        context.needs_start = False

    # --- entry ------------------------------------------------------------------------------------

    def enter(self, context: Context, number: int, return_address: int) -> None:
        """Stacks a frame and goes to a handler. B1.5.6 ExceptionEntry.

        Raises:
            CoreFault: the stack or the vector cannot be reached.
        """
        xpsr, control, stack, _ = self._state.read()
        extended = control & _CONTROL_FPCA
        align = bool(extended) or bool(context.system.storage[_CCR] & CCR_STKALIGN)
        size_bytes = _EXTENDED.size if extended else _BASIC.size
        padded = align and stack & 4
        frame = stack - size_bytes & (0xFFFF_FFF8 if align else 0xFFFF_FFFC)
        stacked_xpsr = xpsr & ~_XPSR_ALIGNED | (_XPSR_ALIGNED if padded else 0)
        words = (*self._stacked.read(), return_address & 0xFFFF_FFFE, stacked_xpsr)
        data = _EXTENDED.pack(*words, *self._fpu.read(), 0) if extended else _BASIC.pack(*words)
        try:
            context.memory.write(frame, data)
        except TranslationFault as fault:
            why = f"no stack for exception {number}"
            raise CoreFault(FaultCode.LOCKUP, fault.address, why) from None
        from_thread = not xpsr & _XPSR_EXCEPTION
        uses_psp = from_thread and control & _CONTROL_SPSEL
        exc_return = 0xFFFF_FFE1 if extended else 0xFFFF_FFF1
        if from_thread:
            exc_return |= 0xC if uses_psp else 0x8
        self.take(context, number, exc_return)
        (self._psp if uses_psp else self._msp).write((frame,))

    def take(self, context: Context, number: int, exc_return: int) -> None:
        """Goes to a handler whose frame is on the stack already. B1.5.6 ExceptionTaken.

        Raises:
            CoreFault: the vector cannot be read.
        """
        system = context.system
        vector = self.vector(context, number)
        xpsr, control = self._state.read()[:2]
        system.pending &= ~(1 << number)
        system.active |= 1 << number
        system.event = True
        # The xPSR first: in handler mode CONTROL may be written.
        self._entry.write((number | XPSR_T, control & _CONTROL_NPRIV, exc_return))
        self._jump(context, vector, xpsr & _XPSR_FLAGS | number)

    def _jump(self, context: Context, vector: int, xpsr: int) -> None:
        context.pc = vector & 0xFFFF_FFFE
        context.is_thumb = bool(vector & 1)
        self._xpsr.write((xpsr | (XPSR_T if vector & 1 else 0),))

    @staticmethod
    def vector(context: Context, number: int) -> int:
        at = context.system.vtor + 4 * number & 0xFFFF_FFFF
        try:
            (vector,) = struct.unpack("<I", context.memory.read(at, 4))
        except TranslationFault:
            raise CoreFault(FaultCode.LOCKUP, at, f"no vector for exception {number}") from None
        return int(vector)

    # --- return -----------------------------------------------------------------------------------

    def leave(self, context: Context, exc_return: int) -> bool:
        """Returns from a handler, or goes straight to the next one. B1.5.8 ExceptionReturn.

        Returns:
            Whether the core has to sleep now (SLEEPONEXIT).

        Raises:
            CoreFault: the frame cannot be read, or the fault of a wrong return locks the core up.
        """
        system = context.system
        xpsr, control = self._state.read()[:2]
        number = xpsr & _XPSR_EXCEPTION
        was_active = system.active >> number & 1
        nested = system.active.bit_count()
        system.active &= ~(1 << number)
        if number != NMI:
            self._faultmask.write((0,))
        to_thread = bool(exc_return & 8)
        valid = exc_return & 0xF in (0x1, 0x9, 0xD) and was_active
        if to_thread and nested != 1 and not system.storage[_CCR] & CCR_NONBASETHRDENA:
            valid = False
        if not valid:
            self._wrong_return(context, exc_return)
            return False
        tail = system.most_urgent()
        if system.preempts(tail, self.execution_priority(context)):
            self.take(context, tail, exc_return)
            return False
        self._unstack(context, exc_return, control)
        system.event = True
        return to_thread and nested == 1 and bool(system.scr & SCR_SLEEPONEXIT)

    def _unstack(self, context: Context, exc_return: int, control: int) -> None:
        extended = not exc_return & 0x10
        uses_psp = exc_return & 0xF == 0xD
        stack_register = self._psp if uses_psp else self._msp
        frame = stack_register.read()[0] & 0xFFFF_FFFC
        layout = _EXTENDED if extended else _BASIC
        try:
            words = layout.unpack(context.memory.read(frame, layout.size))
        except TranslationFault as fault:
            why = "no stack to return from an exception"
            raise CoreFault(FaultCode.LOCKUP, fault.address, why) from None
        if extended:
            self._fpu.write(words[8:17])
        psr = words[7]
        align = extended or context.system.storage[_CCR] & CCR_STKALIGN
        stack = frame + layout.size
        if align and psr & _XPSR_ALIGNED:
            stack |= 4
        control &= _CONTROL_NPRIV
        if uses_psp:
            control |= _CONTROL_SPSEL
        if extended:
            control |= _CONTROL_FPCA
        stack_register.write((stack & 0xFFFF_FFFF,))
        self._return.write((control, *words[:6], psr & ~_XPSR_ALIGNED))
        context.pc = words[6] & 0xFFFF_FFFE
        context.is_thumb = bool(psr & XPSR_T)
        if bool(psr & _XPSR_EXCEPTION) == bool(exc_return & 8):
            # Thread mode with an exception number, or handler mode without one: B1.5.8, INVPC.
            context.system.cfsr |= CFSR_INVPC
            self.raise_fault(context, USAGE_FAULT, context.pc)

    def _wrong_return(self, context: Context, exc_return: int) -> None:
        """INVPC: a UsageFault is taken with the frame that is there. B1.5.8."""
        context.system.cfsr |= CFSR_INVPC
        number = self._escalated(context, USAGE_FAULT, context.pc)
        self.take(context, number, exc_return | 0xF000_0000)

    # --- faults -----------------------------------------------------------------------------------

    def raise_fault(self, context: Context, number: int, return_address: int) -> None:
        """A synchronous exception: taken, escalated to HardFault, or lockup. B1.5.14.

        The caller has set the bits of the fault status registers.

        Raises:
            CoreFault: lockup, or the firmware has no HardFault handler.
        """
        self.enter(context, self._escalated(context, number, return_address), return_address)

    def _escalated(self, context: Context, number: int, address: int) -> int:
        system = context.system
        priority = self.execution_priority(context)
        if number != HARD_FAULT:
            if system.enabled >> number & 1 and system.preempts(number, priority):
                return number
            system.hfsr |= HFSR_FORCED
        if priority <= _RESET_HARD_FAULT_PRIORITY:
            raise CoreFault(FaultCode.LOCKUP, address, "fault while a HardFault was handled")
        if not self.vector(context, HARD_FAULT):
            code = FaultCode.BUS if number == BUS_FAULT else FaultCode.USAGE
            raise CoreFault(code, address, f"exception {number}, and no HardFault handler")
        return HARD_FAULT
