"""Platform `vcoproc,cortex-m4`: a Cortex-M4 that domains share.

Theory of operation: one engine, one on-chip private RAM, one context on them. A switch saves and
restores registers inside the engine, copies the private RAM, and exchanges the exception state,
which is one object of the context. Stage 2 is set apart from it (`set_stage2`), with a TLB flush.
The core never refuses a switch: between two calls of `run` every instruction is complete.

Invariants: the engine's memory accesses are translated by the tables that `set_stage2` named, by
none while there is none; private memory is zero in a new context, and leaves with its context.

Not handled: two contexts that share code pages and modify them (the one sees the other's change
after its next release of reset).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from typing import Final

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    TranslationFault,
    WrongState,
)
from vcoproc.limits import PAGE_BYTES, PRIVATE_MEMORY_BYTES_MAX
from vcoproc.mmu import AccessKind, Stage2Tables, Translation
from vcoproc_sim.engine import Engine
from vcoproc_sim.platforms.api import (
    ContextImage,
    ContextSpec,
    Done,
    PlatformConfig,
    PlatformInfo,
    RunResult,
    SwitchResult,
)
from vcoproc_sim.platforms.cortex_m4_context import (
    DEVICE_PA,
    PPB_PA,
    Context,
    MemoryMapper,
    Sleep,
)
from vcoproc_sim.platforms.cortex_m4_core import Core
from vcoproc_sim.platforms.cortex_m4_info import (
    CONTROL_RUN,
    DOORBELL_MASK,
    LINE_EVENT,
    NOTIFY_BACK,
    STATUS_FAULTED,
    STATUS_IDLE,
    STATUS_RUNNING,
    VECTOR_BASE_MASK,
    FaultCode,
    make_info,
)
from vcoproc_sim.platforms.cortex_m4_ppb import EXTERNAL
from vcoproc_sim.platforms.cortex_m4_snapshot import RegisterFile, Snapshot

_WORD_MASK: Final = 0xFFFF_FFFF


class CortexM4:
    """Implements `Platform`."""

    info: PlatformInfo

    def __init__(self, config: PlatformConfig) -> None:
        """Makes the core.

        Raises:
            InvalidArgument: the configuration is impossible.
            PlatformFailure: the engine does not work here.
        """
        size_bytes = config.private_bytes
        if not 0 < size_bytes <= PRIVATE_MEMORY_BYTES_MAX or size_bytes % PAGE_BYTES:
            raise InvalidArgument("private_bytes", f"{size_bytes} is not 1 page to 16 MiB of pages")
        if config.clock_hz < 1:
            raise InvalidArgument("clock_hz", f"{config.clock_hz} is not positive")
        self.info = make_info(size_bytes)
        index = self.info.index_of
        self._control = index["CONTROL"]
        self._vector_base = index["VECTOR_BASE"]
        self._status = index["STATUS"]
        self._cycles = index["CYCLES"]
        self._fault_status = index["FAULT_STATUS"]
        self._notify, self._back_count = index["NOTIFY"], index["BACK_COUNT"]
        self._private_bytes = size_bytes
        self._contexts: dict[int, Context] = {}
        self._current: Context | None = None
        self._tables: Stage2Tables | None = None
        self._engine = Engine(self._translate)
        self._ram_file = os.memfd_create("cortex-m4 private RAM", os.MFD_CLOEXEC)
        os.ftruncate(self._ram_file, size_bytes)
        self._ram = mmap.mmap(self._ram_file, size_bytes)
        self._ram_view = memoryview(self._ram)
        self._mapper = MemoryMapper(self._engine, self._ram_file, size_bytes)
        self._core = Core(
            self._engine,
            config.clock_hz,
            size_bytes,
            irq_status=index["IRQ_STATUS"],
            fault_status=self._fault_status,
            fault_address=index["FAULT_ADDRESS"],
        )
        self._engine.map_mmio(
            DEVICE_PA, PAGE_BYTES, self._core.device_read, self._core.device_write
        )
        self._engine.map_mmio(PPB_PA, PAGE_BYTES, self._core.ppb_read, self._core.ppb_write)
        self._register_file = RegisterFile(self._engine)
        self._readers: dict[int, Callable[[Context], int]] = {
            self._status: _status_of,
            self._cycles: lambda context: context.instructions & _WORD_MASK,
            index["DIAG_PC"]: lambda context: context.pc,
        }
        self._writers: dict[int, Callable[[Context, int], None]] = {
            self._control: self._write_control,
            self._vector_base: self._write_vector_base,
            index["DOORBELL"]: _ring_doorbell,
            index["IRQ_STATUS"]: self._clearer(index["IRQ_STATUS"]),
            index["IRQ_ENABLE"]: self._setter(index["IRQ_ENABLE"]),
            self._fault_status: self._clearer(self._fault_status),
            index["YIELD"]: lambda _context, _value: None,  # for whoever shares the core
            self._notify: self._write_notify,
        }

    def _translate(self, address: int, access: AccessKind) -> Translation:
        tables = self._tables
        if tables is None:
            raise TranslationFault(address, access.value, 2, 0, "no stage-2 tables are set")
        return tables.translate(address, access)

    # --- contexts ---------------------------------------------------------------------------------

    def create_context(self, spec: ContextSpec) -> None:
        """See `Platform`.

        Raises:
            AlreadyExists, InvalidArgument: the context cannot be.
            LimitExceeded: no room for it.
        """
        if spec.vcoproc_id in self._contexts:
            raise AlreadyExists("context", str(spec.vcoproc_id))
        if len(self._contexts) >= self.info.features.contexts_max:
            raise LimitExceeded("contexts of a coproc", self.info.features.contexts_max)
        if len(spec.shadow) != len(self.info.registers):
            raise InvalidArgument("shadow", "has not one entry for each register")
        context = Context(
            spec=spec,
            memory=self._mapper.build(spec),
            registers=self._engine.fresh_context(),
            private=bytearray(self._private_bytes),
            live=list(spec.shadow),
        )
        if spec.shadow[self._control] & CONTROL_RUN:
            context.release(spec.shadow[self._vector_base])
        self._contexts[spec.vcoproc_id] = context

    def destroy_context(self, vcoproc_id: int) -> None:
        context = self._off(vcoproc_id, "destroy")
        if self._tables is context.memory.tables:
            self.set_stage2(None)
        del self._contexts[vcoproc_id]
        self._mapper.destroy(context.memory)

    def _find(self, vcoproc_id: int) -> Context:
        context = self._contexts.get(vcoproc_id)
        if context is None:
            raise NotFound("context", str(vcoproc_id))
        return context

    def _off(self, vcoproc_id: int, what: str) -> Context:
        context = self._find(vcoproc_id)
        if context is self._current:
            raise WrongState(f"context {vcoproc_id}", "on the hardware", f"it off, to {what} it")
        return context

    def _on(self) -> Context:
        if self._current is None:
            raise WrongState("the coprocessor", "empty", "a context on it")
        return self._current

    # --- switching --------------------------------------------------------------------------------

    def switch_from(self, vcoproc_id: int) -> SwitchResult:
        context = self._find(vcoproc_id)
        if context is not self._current:
            raise WrongState(f"context {vcoproc_id}", "off the hardware", "it on")
        self._engine.save(context.registers)
        context.private[:] = self._ram_view
        shadow = context.spec.shadow
        shadow[:] = context.live
        self._store_status(context)
        self._core.leave()
        self._current = None
        return Done()

    def set_stage2(self, vcoproc_id: int | None) -> None:
        self._tables = None if vcoproc_id is None else self._find(vcoproc_id).memory.tables
        self._engine.flush_tlb()

    def switch_to(self, vcoproc_id: int) -> SwitchResult:
        if self._current is not None:
            raise WrongState("the coprocessor", "taken", "it empty")
        context = self._find(vcoproc_id)
        context.live[:] = context.spec.shadow
        self._ram_view[:] = context.private
        self._engine.restore(context.registers)
        self._current = self._core.context = context
        if context.live[self._notify] & NOTIFY_BACK:
            context.live[self._back_count] = context.live[self._back_count] + 1 & _WORD_MASK
            self._core.edges.append(LINE_EVENT)
        return Done()

    def cancel_switch(self, vcoproc_id: int) -> None:
        """This core never refuses, so there is never anything to undo."""

    def force_off(self, vcoproc_id: int) -> None:
        context = self._find(vcoproc_id)
        if context is self._current:
            self.switch_from(vcoproc_id)
        context.hold()
        shadow = context.spec.shadow
        shadow[self._control] = 0
        shadow[self._fault_status] |= FaultCode.FORCED_OFF
        self._store_status(context)

    def _store_status(self, context: Context) -> None:
        context.spec.shadow[self._status] = _status_of(context)
        context.spec.shadow[self._cycles] = context.instructions & _WORD_MASK

    # --- registers --------------------------------------------------------------------------------

    def read(self, index: int) -> int:
        context = self._on()
        reader = self._readers.get(index)
        return context.live[index] if reader is None else reader(context)

    def write(self, index: int, value: int) -> None:
        context = self._on()
        writer = self._writers.get(index)
        if writer is None:
            raise InvalidArgument("index", f"{self.info.registers[index].name} is read-only")
        writer(context, value)

    def _write_control(self, context: Context, value: int) -> None:
        old = context.live[self._control]
        context.live[self._control] = value & CONTROL_RUN
        self._run_changed(context, old, value, context.live[self._vector_base])

    def _write_vector_base(self, context: Context, value: int) -> None:
        context.live[self._vector_base] = value & VECTOR_BASE_MASK

    def _write_notify(self, context: Context, value: int) -> None:
        context.live[self._notify] = value & NOTIFY_BACK

    @staticmethod
    def _run_changed(context: Context, old: int, new: int, vector_base: int) -> None:
        if new & ~old & CONTROL_RUN:
            context.release(vector_base)
        elif old & ~new & CONTROL_RUN:
            context.hold()

    @staticmethod
    def _clearer(index: int) -> Callable[[Context, int], None]:
        def clear(context: Context, value: int) -> None:
            context.live[index] &= ~value

        return clear

    @staticmethod
    def _setter(index: int) -> Callable[[Context, int], None]:
        def store(context: Context, value: int) -> None:
            context.live[index] = value & _WORD_MASK

        return store

    def shadow_written(self, vcoproc_id: int, index: int, old: int) -> None:
        context = self._off(vcoproc_id, "write its shadow")
        shadow = context.spec.shadow
        if index == self._control:
            self._run_changed(context, old, shadow[index], shadow[self._vector_base])
            shadow[index] &= CONTROL_RUN
            self._store_status(context)
        elif index == self._vector_base:
            shadow[index] &= VECTOR_BASE_MASK
        elif index == self._notify:
            shadow[index] &= NOTIFY_BACK

    def is_faulted(self, vcoproc_id: int) -> bool:
        return self._find(vcoproc_id).fault is not None

    # --- execution --------------------------------------------------------------------------------

    def wants_to_run(self) -> bool:
        return self._current is not None and self._current.wants_to_run()

    def shadow_wants_to_run(self, vcoproc_id: int) -> bool:
        return self._find(vcoproc_id).wants_to_run()

    def wake_after_ns(self, vcoproc_id: int, idle_ns: int) -> int | None:
        return self._core.wake_after_ns(self._find(vcoproc_id), idle_ns)

    def run(self, budget: int, now_ns: int) -> RunResult:
        self._on()
        return self._core.run(budget, now_ns)

    def take_edges(self) -> Sequence[int]:
        edges = tuple(self._core.edges)
        self._core.edges.clear()
        return edges

    def reset_context(self, vcoproc_id: int) -> None:
        context = self._find(vcoproc_id)
        context.hold()
        values = self.info.reset_values()
        if context is self._current:
            context.live[:] = values
        else:
            context.spec.shadow[:] = values
            self._store_status(context)

    # --- snapshots --------------------------------------------------------------------------------

    def snapshot(self, vcoproc_id: int, now_ns: int) -> Snapshot:
        """See `Platform`.

        Raises:
            WrongState: the context is on the hardware.
        """
        context = self._off(vcoproc_id, "write it down")
        self._core.settle(context, now_ns)
        current = self._engine.new_context()
        self._engine.restore(context.registers)
        registers = self._register_file.read()
        self._engine.restore(current)
        return Snapshot.of(context, registers, self.info, now_ns)

    def read_snapshot(self, blob: memoryview) -> Snapshot:
        return Snapshot.read(blob, self._private_bytes, self.info)

    def restore(self, vcoproc_id: int, image: ContextImage, now_ns: int) -> None:
        context = self._off(vcoproc_id, "restore it")
        assert isinstance(image, Snapshot)
        current = self._engine.new_context()
        self._engine.reset_registers()
        self._register_file.write(image.registers)
        self._engine.save(context.registers)
        self._engine.restore(current)
        image.load(context, now_ns)
        self._engine.flush_translations()  # private memory has other bytes, and may hold code

    def close(self) -> None:
        """Releases the engine and every buffer. Idempotent."""
        self._current = self._core.context = None
        self._tables = None
        for vcoproc_id in list(self._contexts):
            self.destroy_context(vcoproc_id)
        self._engine.close()
        if not self._ram.closed:
            self._ram_view.release()
            self._ram.close()
            os.close(self._ram_file)


def _status_of(context: Context) -> int:
    status = STATUS_RUNNING if context.is_running else 0
    if context.sleep is not Sleep.AWAKE and not context.is_woken():
        status |= STATUS_IDLE
    if context.fault is not None:
        status |= STATUS_FAULTED
    return status


def _ring_doorbell(context: Context, value: int) -> None:
    if not context.is_running:
        return  # the interrupt controller is in reset
    for number in range((value & DOORBELL_MASK).bit_length()):
        if value >> number & 1:
            context.system.set_pending(EXTERNAL + number)


def create(config: PlatformConfig) -> CortexM4:
    """The factory of the entry point ``vcoproc,cortex-m4``."""
    return CortexM4(config)
