"""The run loop of the Cortex-M4: bursts, interrupts, sleep and time.

Theory of operation: `run` alternates between "is there an exception to take" and a counted burst of
the engine, until the budget is used up or there is something to tell. Pending exceptions are looked
at before every burst, and a burst ends behind every instruction that may have changed the answer:
a write to the PPB, an exception return, an SVC. What the engine does not tell is that firmware has
unmasked interrupts (CPSIE, MSR); so while an exception waits behind PRIMASK, BASEPRI or FAULTMASK,
bursts are `MASKED_BURST` instructions long, which bounds the delay.

Accounting: the engine's counter, exact; one instruction is one cycle for SysTick, and bursts end at
its expiry. Exception entry and return take none. An IT block is never divided, so a run may go up
to 4 instructions over its budget; they are charged to the next run (`Context.debt`).

Sleep: WFI sleeps until an exception that would preempt if PRIMASK were 0. WFE has its event
register, but the engine executes SEV without telling; so after a WFE that did not sleep the next
`EVENT_WATCH` instructions are single-stepped and looked at. A WFE that follows within them knows
whether the register is clear, and sleeps; a WFE that does not know falls through, as it may.
While a context sleeps its SysTick follows the coproc's clock; preempted, it stands still.

Not handled: cycle-exact timing.
"""

from __future__ import annotations

from typing import Final

from vcoproc.errors import TranslationFault
from vcoproc.limits import PAGE_BYTES, S
from vcoproc.mmu import AccessKind
from vcoproc_sim.engine import BurstEnd, Engine
from vcoproc_sim.platforms.api import Fault, RunResult, StopReason
from vcoproc_sim.platforms.cortex_m4_context import Context, Sleep
from vcoproc_sim.platforms.cortex_m4_exceptions import CoreFault, ExceptionUnit
from vcoproc_sim.platforms.cortex_m4_info import (
    DEVICE_EVENT,
    DEVICE_IPA,
    DEVICE_IRQ_SET,
    DEVICE_IRQ_STATUS,
    DEVICE_PRIVATE_SIZE,
    DEVICE_YIELD,
    LINE_EVENT,
    FaultCode,
)
from vcoproc_sim.platforms.cortex_m4_ppb import (
    BUS_FAULT,
    CFSR_IMPRECISERR,
    CFSR_INVSTATE,
    CFSR_NOCP,
    CFSR_UNALIGNED,
    CFSR_UNDEFINSTR,
    HARD_FAULT,
    HFSR_DEBUGEVT,
    SVCALL,
    SYSTICK,
    USAGE_FAULT,
)

MASKED_BURST: Final = 256
"""Instructions until an unmasking is noticed, at most."""
EVENT_WATCH: Final = 64
_EXTERNALLY_MASKED: Final = (0, 0, 0)

# Numbers of the engine's exceptions (QEMU target/arm/cpu.h).
_EXCP_SWI: Final = 2
_EXCP_BKPT: Final = 7
_EXCP_EXCEPTION_EXIT: Final = 8
_EXCP_NOCP: Final = 17
_EXCP_INVSTATE: Final = 18
_EXCP_UNALIGNED: Final = 22
_USAGE_BITS: Final = {
    _EXCP_NOCP: CFSR_NOCP,
    _EXCP_INVSTATE: CFSR_INVSTATE,
    _EXCP_UNALIGNED: CFSR_UNALIGNED,
}


class Core:
    """Executes the context that is on the hardware.

    Args:
        irq_status, fault_status, fault_address: places in `Context.live`.
    """

    def __init__(
        self,
        engine: Engine,
        clock_hz: int,
        private_bytes: int,
        *,
        irq_status: int,
        fault_status: int,
        fault_address: int,
    ) -> None:
        self.context: Context | None = None
        self.edges: list[int] = []
        self._engine = engine
        self._clock_hz = clock_hz
        self._private_bytes = private_bytes
        self._irq_status = irq_status
        self._fault_status = fault_status
        self._fault_address = fault_address
        self._unit = ExceptionUnit(engine)
        self._attention = False
        self._yielded = False
        self._bus_error: int | None = None
        self._ticked = 0  # instructions of the burst that SysTick has counted already

    # --- the loop ---------------------------------------------------------------------------------

    def run(self, budget: int, now_ns: int) -> RunResult:
        """See `Platform.run`."""
        context = self.context
        assert context is not None
        if context.fault is not None:
            return RunResult(StopReason.FAULT, 0, fault=context.fault)
        if not context.is_running:
            return RunResult(StopReason.IDLE, 0)
        self._catch_up(context, now_ns)
        before = context.instructions - context.debt
        context.debt = 0
        try:
            reason = self._loop(context, before + budget)
        except CoreFault as fault:
            self._fault(context, fault)
            reason = StopReason.FAULT
        used = context.instructions - before
        if used > budget:
            context.debt = used - budget
            used = budget
        if reason is StopReason.IDLE:
            if context.idle_since_ns is None:
                context.idle_since_ns = now_ns
                context.idle_counted_cycles = 0
            wake_after_ns = self.wake_after_ns(context, now_ns - context.idle_since_ns)
            return RunResult(reason, used, wake_after_ns=wake_after_ns)
        return RunResult(reason, used, fault=context.fault)

    def _loop(self, context: Context, stop_at: int) -> StopReason:
        while True:
            if context.needs_start:
                self._start(context)
            if self._attention:
                self._attention = False
                return StopReason.ATTENTION
            if self._yielded:
                self._yielded = False
                return StopReason.YIELD
            if context.sleep is not Sleep.AWAKE:
                if not context.is_woken():
                    return StopReason.IDLE
                if context.sleep is Sleep.WFE:
                    context.system.event = False
                context.sleep = Sleep.AWAKE
                context.idle_since_ns = None
            is_masked = self._deliver(context)
            left = stop_at - context.instructions
            if left <= 0:
                return StopReason.BUDGET
            self._burst(context, min(left, MASKED_BURST) if is_masked else left)

    def _burst(self, context: Context, count: int) -> None:
        if not context.is_thumb:  # B1.5.14: INVSTATE at the first instruction
            context.instructions += 1
            context.system.cfsr |= CFSR_INVSTATE
            self._unit.raise_fault(context, USAGE_FAULT, context.pc)
            return
        system = context.system
        if system.systick.raises_exception:
            count = min(count, system.systick.cycles_to_expiry())
        if context.event_known_clear:
            count = 1
            self._watch(context)
        self._ticked = 0
        engine = self._engine
        end = engine.burst(context.pc, True, count)
        context.pc = engine.pc
        context.instructions += engine.executed
        self._tick(context, engine.executed)
        if end is not BurstEnd.COUNT:
            self._ended(context, end)
        if self._bus_error is not None:
            self._take_bus_error(context)
        if system.reset_requested:
            self._restart(context)

    def _ended(self, context: Context, end: BurstEnd) -> None:
        match end:
            case BurstEnd.WFI:
                self._sleep(context, Sleep.WFI)
            case BurstEnd.WFE:
                self._wait_for_event(context)
            case BurstEnd.YIELD | BurstEnd.COUNT:
                pass
            case BurstEnd.EXCEPTION:
                self._exception(context, self._engine.exception)
            case BurstEnd.UNDEFINED:
                self._usage_fault(context, CFSR_UNDEFINSTR)
            case BurstEnd.INVALID_STATE:
                self._usage_fault(context, CFSR_INVSTATE)
            case BurstEnd.TRANSLATION:
                self._translation_fault(context)

    # --- exceptions -------------------------------------------------------------------------------

    def _deliver(self, context: Context) -> bool:
        """Takes the most urgent exception if it preempts. Returns whether one waits, masked."""
        system = context.system
        if not system.pending & system.enabled:
            return False
        number = system.most_urgent()
        if system.preempts(number, self._unit.execution_priority(context)):
            self._unit.enter(context, number, context.pc)
            return False
        return system.preempts(number, system.execution_priority(*_EXTERNALLY_MASKED))

    def _exception(self, context: Context, number: int) -> None:
        if number == _EXCP_EXCEPTION_EXIT:
            self._exception_exit(context)
        elif number == _EXCP_SWI:
            # Escalates when its priority does not allow it (B1.5.10); the PC is behind it already.
            self._unit.raise_fault(context, SVCALL, context.pc)
        elif number == _EXCP_BKPT:
            context.system.hfsr |= HFSR_DEBUGEVT  # no debugger, DebugMonitor not implemented
            self._unit.raise_fault(context, HARD_FAULT, context.pc)
        else:
            self._usage_fault(context, _USAGE_BITS.get(number, CFSR_UNDEFINSTR))

    def _exception_exit(self, context: Context) -> None:
        if not self._engine.xpsr & 0x1FF:
            # EXC_RETURN means something in handler mode only; this is a jump to no memory.
            raise CoreFault(FaultCode.TRANSLATION, context.pc, f"jump to {context.pc:#x}")
        if self._unit.leave(context, context.pc | 1):
            self._sleep(context, Sleep.WFI)

    def _usage_fault(self, context: Context, cfsr: int) -> None:
        context.system.cfsr |= cfsr
        self._unit.raise_fault(context, USAGE_FAULT, context.pc)

    def _translation_fault(self, context: Context) -> None:
        fault = self._engine.fault
        assert fault is not None
        page = fault.address & -PAGE_BYTES
        if fault.access == AccessKind.EXECUTE.value:
            # The hook sees the page. An instruction may begin on the page before.
            address = context.pc if context.pc & -PAGE_BYTES == page else page
        else:
            address = self._engine.locate_fault(context.pc)
        exact = TranslationFault(address, fault.access, fault.stage, fault.level, fault.why)
        raise CoreFault(FaultCode.TRANSLATION, address, str(exact))

    def _take_bus_error(self, context: Context) -> None:
        """The device page refused an access. As with a buffered write, that is noticed after it."""
        address, self._bus_error = self._bus_error, None
        assert address is not None
        context.system.cfsr |= CFSR_IMPRECISERR
        try:
            self._unit.raise_fault(context, BUS_FAULT, context.pc)
        except CoreFault as fault:
            if fault.code is FaultCode.BUS:
                raise CoreFault(fault.code, address, fault.why) from None
            raise

    def _fault(self, context: Context, fault: CoreFault) -> None:
        context.fault = Fault(int(fault.code), fault.address, fault.why)
        context.live[self._fault_status] |= fault.code
        context.live[self._fault_address] = fault.address
        context.sleep = Sleep.AWAKE
        self._bus_error = None

    # --- reset ------------------------------------------------------------------------------------

    def _start(self, context: Context) -> None:
        """After release of reset. The domain may have loaded other code meanwhile."""
        self._engine.reset_registers()
        self._engine.flush_translations()
        self._unit.start(context)

    def _restart(self, context: Context) -> None:
        """AIRCR.SYSRESETREQ: the firmware starts again from where reset was released."""
        context.release(context.vector_base)

    # --- sleep and time ---------------------------------------------------------------------------

    def _sleep(self, context: Context, kind: Sleep) -> None:
        _, basepri, faultmask = self._unit.masks()
        context.wake_priority = context.system.execution_priority(0, basepri, faultmask)
        context.sleep = kind

    def _wait_for_event(self, context: Context) -> None:
        system = context.system
        is_known = system.event or context.event_known_clear
        context.event_known_clear = EVENT_WATCH
        if not system.event and is_known:
            self._sleep(context, Sleep.WFE)
        system.event = False

    def _watch(self, context: Context) -> None:
        """Looks whether the next instruction is SEV: 0xBF40, or 0xF3AF 0x8004 (A7.7.129)."""
        context.event_known_clear -= 1
        try:
            first = context.memory.read(context.pc, 2, AccessKind.EXECUTE)
            is_sev = first == b"\x40\xbf" or (
                first == b"\xaf\xf3"
                and context.memory.read(context.pc + 2, 2, AccessKind.EXECUTE) == b"\x04\x80"
            )
        except TranslationFault:
            return
        if is_sev:
            context.system.event = True

    def _tick(self, context: Context, executed: int) -> None:
        """Brings SysTick up to `executed` instructions of this burst."""
        if context.system.systick.advance(executed - self._ticked):
            context.system.set_pending(SYSTICK)
        self._ticked = executed

    def _catch_up(self, context: Context, now_ns: int) -> None:
        """Counts the time that a context has slept, on the hardware or not."""
        if context.idle_since_ns is None:
            return
        # From the whole sleep, so that looking often neither loses nor gains time.
        slept_cycles = (now_ns - context.idle_since_ns) * self._clock_hz // S
        cycles = max(0, slept_cycles - context.idle_counted_cycles)
        context.idle_counted_cycles += cycles
        if context.system.systick.advance(cycles):
            context.system.set_pending(SYSTICK)

    def settle(self, context: Context, now_ns: int) -> None:
        """Counts the time that a context has slept, but for the rest of a cycle."""
        if context.idle_since_ns is None:
            return
        self._catch_up(context, now_ns)
        context.idle_since_ns += -(-context.idle_counted_cycles * S // self._clock_hz)
        context.idle_counted_cycles = 0

    def wake_after_ns(self, context: Context, idle_ns: int) -> int | None:
        """Time until SysTick wakes a context that has slept for `idle_ns`, 0 or more."""
        system = context.system
        if context.sleep is Sleep.AWAKE or not system.systick.raises_exception:
            return None
        if not system.preempts(SYSTICK, context.wake_priority):
            return None
        cycles = context.idle_counted_cycles + system.systick.cycles_to_expiry()
        return max(0, -(-cycles * S // self._clock_hz) - idle_ns)

    # --- what firmware reaches by MMIO ------------------------------------------------------------

    def device_read(self, offset: int, size_bytes: int) -> int:
        context = self.context
        assert context is not None
        if size_bytes == 4 and offset == DEVICE_IRQ_STATUS:
            return context.live[self._irq_status]
        if size_bytes == 4 and offset == DEVICE_PRIVATE_SIZE:
            return self._private_bytes
        self._refuse(offset)
        return 0

    def device_write(self, offset: int, size_bytes: int, value: int) -> None:
        context = self.context
        assert context is not None
        if size_bytes != 4:
            self._refuse(offset)
        elif offset == DEVICE_IRQ_SET:
            old = context.live[self._irq_status]
            context.live[self._irq_status] = old | value & 0xFFFF_FFFF
            if old | value != old:
                self._attention = True
                self._engine.stop_soon()
        elif offset == DEVICE_EVENT:
            self.edges.append(LINE_EVENT)
            self._attention = True
            self._engine.stop_soon()
        elif offset == DEVICE_YIELD:
            self._yielded = True
            self._engine.stop_soon()
        else:
            self._refuse(offset)

    def _refuse(self, offset: int) -> None:
        self._bus_error = DEVICE_IPA + offset
        self._engine.stop_soon()

    def ppb_read(self, offset: int, size_bytes: int) -> int:
        context = self.context
        assert context is not None
        ipsr = 0
        if offset < 0x20:
            self._tick(context, self._engine.begun - 1)
        elif offset & ~3 == 0xD04:
            ipsr = self._unit.ipsr()
        return context.system.read(offset, size_bytes, ipsr)

    def ppb_write(self, offset: int, size_bytes: int, value: int) -> None:
        context = self.context
        assert context is not None
        if offset < 0x20:  # what is written counts from the next instruction on
            self._tick(context, self._engine.begun)
        context.system.write(offset, size_bytes, value)
        self._engine.stop_soon()

    def leave(self) -> None:
        """The context goes off the hardware: nothing of it may reach the next one."""
        self.context = None
        self._attention = False
        self._yielded = False
        self._bus_error = None
