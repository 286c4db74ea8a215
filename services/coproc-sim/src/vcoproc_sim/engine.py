"""The instruction engine of an Armv7-M core. With `engine_binding` the only file with unicorn.

Theory of operation: one `Uc` executes counted bursts of Thumb code. Its MMU is ours: UC_TLB_VIRTUAL
with a TLB-fill hook that asks `translate` for every page and access kind that its TLB does not
hold. Memory is mapped by pointer (`map_window`), so nothing is ever copied.

How a burst ends is told by the engine's own instruction counter and its limit (`engine_binding`):

* the number of executed instructions is exact, whatever ended the burst;
* WFI is told from an expired count: an ended burst whose counter is not above its limit can only
  have halted;
* an MMIO callback stops the burst behind its own instruction by lowering the limit to the counter
  (`stop_soon`). `uc_emu_stop` would leave the PC at the instruction that has just been executed.

An IT block is one unit for the limit: a burst may run up to 4 instructions over. They are counted.

Invariants: every run is counted (an uncounted one would translate blocks that ignore counts later);
the syndrome register holds no exception between bursts, so that after UC_ERR_INSN_INVALID it tells
an undefined instruction from WFE and YIELD, which set none; no Python exception crosses C.

Not handled: stopping from another thread; writes of the host to code that has been executed (those
of firmware are seen): `flush_translations`.
"""

from __future__ import annotations

import ctypes
import enum
import mmap
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from unicorn import unicorn_const as ucc

from vcoproc.errors import PlatformFailure, TranslationFault
from vcoproc.limits import PAGE_BYTES
from vcoproc.mmu import AccessKind, Translation
from vcoproc_sim.engine_binding import LIBRARY, UNICORN, RegisterBank, counter_of, new_core
from vcoproc_sim.engine_tlb import TlbGuard

Translate: TypeAlias = Callable[[int, AccessKind], Translation]
"""(address, access) -> Translation, or raises TranslationFault."""
MmioRead: TypeAlias = Callable[[int, int], int]
"""(offset in the range, size_bytes) -> value."""
MmioWrite: TypeAlias = Callable[[int, int, int], None]
"""(offset in the range, size_bytes, value)."""
EngineContext: TypeAlias = Any
"""All core registers, in the engine's own form. Good in the engine that made it, and only there."""

PHYSICAL_ADDRESS_BITS: Final = 40

_ACCESS_KINDS: Final = {
    ucc.UC_MEM_READ: AccessKind.READ,
    ucc.UC_MEM_WRITE: AccessKind.WRITE,
    ucc.UC_MEM_FETCH: AccessKind.EXECUTE,
}
XPSR_T: Final = 1 << 24
"""Thumb state bit of the xPSR (DDI 0403 B1.4.2)."""
_SYNDROME_UNCATEGORIZED: Final = 1 << 25
"""Of an undefined instruction and of an invalid state (QEMU syn_uncategorized)."""
_HINT_WFE: Final = (0xBF20, 0x8002)  # WFE, and the second halfword of WFE.W (DDI 0403 A7.7.262)
_SCRATCH_PA: Final = (1 << PHYSICAL_ADDRESS_BITS) - PAGE_BYTES
"""Above everything else that is ever mapped."""


class BurstEnd(enum.Enum):
    """Why `burst` returned."""

    COUNT = "count"
    """The count is used up, or `stop_soon` was called."""
    WFI = "wfi"
    WFE = "wfe"
    YIELD = "yield"
    """The YIELD hint, which does nothing on this core."""
    EXCEPTION = "exception"
    """`Engine.exception` has QEMU's number; `pc` as the architecture wants it stacked."""
    UNDEFINED = "undefined"
    """Undefined instruction at `pc`."""
    INVALID_STATE = "invalid_state"
    """The T bit is clear at `pc`."""
    TRANSLATION = "translation"
    """`Engine.fault` has the fault; the instruction at `pc` has not been executed."""


class Engine:
    """One Cortex-M4 core without exceptions and peripherals. See the module's text."""

    def __init__(self, translate: Translate) -> None:
        """Makes the engine and proves that its counter can be read.

        Raises:
            PlatformFailure: this build of unicorn does not fit.
        """
        self._translate = translate
        self._uc: Any = new_core()
        self._uc.ctl_set_tlb_mode(ucc.UC_TLB_VIRTUAL)
        self._handle = self._uc._uch
        self._windows: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._hook_error: BaseException | None = None
        self._scratch = mmap.mmap(-1, PAGE_BYTES)
        self._is_diagnosing = False
        self.exception = 0
        self.fault: TranslationFault | None = None
        self.executed = 0
        self.pc = 0
        self.xpsr = 0
        self._after_burst = self.bank("pc", "xpsr")
        self._syndrome = self.bank("esr")
        self._epsr = self.bank("epsr")
        self._uc.hook_add(ucc.UC_HOOK_TLB_FILL, self._on_tlb_fill)
        self._uc.hook_add(ucc.UC_HOOK_INTR, self._on_exception)
        self.map_window(_SCRATCH_PA, memoryview(self._scratch))
        self._counter, self._limit = counter_of(self._uc)
        self._tlb = TlbGuard(self._uc)
        self._pristine = self.new_context()

    # --- physical address space -------------------------------------------------------------------

    def map_window(self, pa: int, backing: memoryview) -> None:
        """Shows a writable buffer of whole pages at a physical address. Zero copy.

        The buffer stays exported until `unmap_window`; an mmap cannot be closed before that.
        """
        holder = (ctypes.c_char * backing.nbytes).from_buffer(backing)
        self._uc.mem_map_ptr(pa, backing.nbytes, ucc.UC_PROT_ALL, ctypes.addressof(holder))
        self._windows[pa] = holder

    def unmap_window(self, pa: int) -> None:
        """Takes a window away, with every translation, and releases its buffer."""
        # Unicorn drops the translations of a range by fetching its address as a virtual one, which
        # asks the TLB hook for an unrelated page. That must not reach the owner's tables.
        translate, self._translate = self._translate, _translate_nothing
        try:
            self._uc.mem_unmap(pa, ctypes.sizeof(self._windows[pa]))
        finally:
            self._translate = translate
        del self._windows[pa]
        self.flush_translations()
        self.flush_tlb()

    def map_mmio(self, pa: int, size_bytes: int, read: MmioRead, write: MmioWrite) -> None:
        """Gives a physical range to callbacks. They may call `stop_soon` and `begun`."""

        def on_read(_uc: Any, offset: int, access_bytes: int, _data: object) -> int:
            if self._is_diagnosing:
                return 0
            try:
                return read(offset, access_bytes)
            except BaseException as error:
                self._keep(error)
                return 0

        def on_write(_uc: Any, offset: int, access_bytes: int, value: int, _data: object) -> None:
            if self._is_diagnosing:
                return
            try:
                write(offset, access_bytes, value)
            except BaseException as error:
                self._keep(error)

        self._uc.mmio_map(pa, size_bytes, on_read, None, on_write, None)

    # --- TLB and translations ---------------------------------------------------------------------

    def flush_tlb(self) -> None:
        """Forgets all filled pages. Translated code stays; it is keyed by physical address."""
        self._tlb.flush()

    def flush_translations(self) -> None:
        """Drops all translated code. Needed when the host has written to code."""
        self._uc.ctl_flush_tb()

    # --- execution --------------------------------------------------------------------------------

    def burst(self, pc: int, is_thumb: bool, count: int) -> BurstEnd:
        """Executes up to `count` instructions (1 or more) from `pc`.

        Afterwards `pc`, `xpsr` and `executed` are set, and `exception` or `fault` where the result
        says so. An instruction that faulted counts as executed.

        Raises:
            PlatformFailure: the engine failed in a way that no firmware can cause.
            Exception: whatever a callback raised.
        """
        assert count > 0
        self.exception = 0
        self.fault = None
        status = LIBRARY.uc_emu_start(self._handle, pc | is_thumb, 0, 0, count)
        if self._hook_error is not None:
            error, self._hook_error = self._hook_error, None
            raise error
        begun: int = self._counter.value
        self.pc, self.xpsr = self._after_burst.read()
        if status == ucc.UC_ERR_OK and not self.exception:
            if begun > self._limit.value:
                self.executed = begun - 1  # the last one was counted and not executed
                return BurstEnd.COUNT
            self.executed = begun
            return BurstEnd.WFI
        self.executed = begun
        syndrome = self._syndrome.read()[0]
        if syndrome:
            self._syndrome.write((0,))
        if status == ucc.UC_ERR_OK:
            return BurstEnd.EXCEPTION
        if status == ucc.UC_ERR_INSN_INVALID:
            return self._classify_invalid(syndrome)
        if status == ucc.UC_ERR_EXCEPTION and self.fault is not None:
            return BurstEnd.TRANSLATION
        raise PlatformFailure(
            "engine", f"unicorn stopped with {UNICORN.UcError(status)} at {self.pc:#x}"
        )

    def _classify_invalid(self, syndrome: int) -> BurstEnd:
        # WFE and YIELD leave in it what a load or store has left there: no class, bit 24 set.
        if syndrome == _SYNDROME_UNCATEGORIZED or syndrome >> 26:
            return BurstEnd.UNDEFINED if self.xpsr & XPSR_T else BurstEnd.INVALID_STATE
        is_wfe = self._halfword_before_pc() in _HINT_WFE
        return BurstEnd.WFE if is_wfe else BurstEnd.YIELD

    def _halfword_before_pc(self) -> int:
        try:
            found = self._translate(self.pc - 2 & 0xFFFF_FFFF, AccessKind.EXECUTE)
            raw = self._uc.mem_read(found.pa, 2)
        except (TranslationFault, UNICORN.UcError):
            return 0  # it was executable a moment ago; another writer was quicker
        return int.from_bytes(raw, "little")

    def stop_soon(self) -> None:
        """Ends the burst behind the instruction that is being executed. For callbacks only."""
        begun = self._counter.value
        if begun < self._limit.value:
            self._limit.value = begun

    @property
    def begun(self) -> int:
        """Instructions of this burst so far, with the one being executed. For callbacks only."""
        value: int = self._counter.value
        return value

    def locate_fault(self, pc: int) -> int:
        """The exact data address of the TRANSLATION fault that has just ended a burst.

        The TLB hook is told the page only. So the instruction is executed once more with a scratch
        page in place of what is missing, and with a hook on memory accesses. Registers are put
        back, MMIO callbacks are not called. Slow (all translations are dropped).
        """
        assert self.fault is not None
        page = self.fault.address & -PAGE_BYTES
        offsets: list[int] = []

        def on_access(
            _uc: Any, _kind: int, pa: int, _size: int, _value: int, _data: object
        ) -> None:
            if not offsets and pa & -PAGE_BYTES == _SCRATCH_PA:
                offsets.append(pa & PAGE_BYTES - 1)
            self._forget_it_state()

        saved = self.new_context()
        fault = self.fault
        self._is_diagnosing = True
        hook = self._uc.hook_add(ucc.UC_HOOK_MEM_READ | ucc.UC_HOOK_MEM_WRITE, on_access)
        try:
            self.flush_translations()  # code without the hook's instrumentation
            LIBRARY.uc_emu_start(self._handle, pc | 1, 0, 0, 1)
        finally:
            self._is_diagnosing = False
            self._uc.hook_del(hook)
            self.flush_translations()
            self.flush_tlb()
            self.restore(saved)
            self.fault = fault
            self._scratch[:] = bytes(PAGE_BYTES)  # it must not carry data between domains
        return page | offsets[0] if offsets else page

    # --- registers --------------------------------------------------------------------------------

    def bank(self, *names: str) -> RegisterBank:
        """Registers by lower-case name: r0..r12, sp, lr, pc, msp, psp, xpsr, d0..d15 ..."""
        return RegisterBank(self._uc, names)

    def new_context(self) -> EngineContext:
        """A copy of all registers as they are now."""
        return self._uc.context_save()

    def fresh_context(self) -> EngineContext:
        """All registers in reset state, and nothing of whoever is on the engine now."""
        current = self.new_context()
        self.reset_registers()
        fresh = self.new_context()
        self.restore(current)
        return fresh

    def save(self, context: EngineContext) -> None:
        self._uc.context_update(context)

    def restore(self, context: EngineContext) -> None:
        self._uc.context_restore(context)

    def reset_registers(self) -> None:
        """Puts all registers, the FPU's too, into the state of a new engine."""
        self._uc.context_restore(self._pristine)

    def close(self) -> None:
        """Releases all buffers. Idempotent."""
        for pa in list(self._windows):
            self.unmap_window(pa)
        self._scratch.close()

    # --- hooks ------------------------------------------------------------------------------------

    def _on_tlb_fill(self, _uc: Any, address: int, kind: int, entry: Any, _data: object) -> bool:
        try:
            found = self._translate(address, _ACCESS_KINDS[kind])
        except TranslationFault as fault:
            if self._is_diagnosing and kind != ucc.UC_MEM_FETCH:
                entry.paddr = _SCRATCH_PA
                entry.perms = ucc.UC_PROT_READ | ucc.UC_PROT_WRITE
                self._forget_it_state()
                return True
            self.fault = fault.with_traceback(None)  # frames would keep buffers exported
            return False
        except BaseException as error:
            self._keep(error)
            return False
        entry.paddr = found.pa
        perms = ucc.UC_PROT_READ if found.readable else 0
        if found.writable:
            perms |= ucc.UC_PROT_WRITE
        if found.executable:
            perms |= ucc.UC_PROT_EXEC
        entry.perms = perms
        if kind != ucc.UC_MEM_FETCH:
            self._forget_it_state()
        return True

    def _forget_it_state(self) -> None:
        """Repairs what unicorn breaks when it calls a hook for a data access inside an IT block.

        It restores the architectural state for the hook, ITSTATE with it, and the translated code
        goes on; but that code holds ITSTATE at zero inside a block. What is left would make the
        first instructions of the next block conditional, and a loop of such blocks never ends.
        If the access faults after all, ITSTATE is restored again.
        """
        self._epsr.write((XPSR_T,))

    def _on_exception(self, _uc: Any, number: int, _data: object) -> None:
        self.exception = number
        self._uc.emu_stop()

    def _keep(self, error: BaseException) -> None:
        """Remembers the first exception of a callback; the burst ends and raises it."""
        if self._hook_error is None:
            self._hook_error = error
        self.stop_soon()


def _translate_nothing(address: int, access: AccessKind) -> Translation:
    raise TranslationFault(address, access.value, 2, 0, "no context is on the engine")
