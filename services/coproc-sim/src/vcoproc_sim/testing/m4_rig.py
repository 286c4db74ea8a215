"""A Cortex-M4 with contexts on it, without front end, for tests."""

from __future__ import annotations

import mmap
import struct
from types import TracebackType
from typing import Final

from vcoproc.limits import GUEST_RAM_BASE_IPA, PAGE_BYTES
from vcoproc_sim.platforms.api import (
    ContextSpec,
    MemoryRegion,
    PlatformConfig,
    RunResult,
)
from vcoproc_sim.platforms.cortex_m4 import CortexM4, create
from vcoproc_sim.platforms.cortex_m4_info import MBOX_IPA, PRIVATE_IPA
from vcoproc_sim.testing.thumb import Thumb, vector_table

RAM: Final = GUEST_RAM_BASE_IPA
CODE: Final = RAM + 0x100
"""Behind a vector table of 32 words."""
STACK: Final = RAM + 0x8000
PRIVATE: Final = PRIVATE_IPA
MBOX: Final = MBOX_IPA


def mixer(number: int) -> Thumb:
    """A generator of its own kind for each number, over domain, private and mbox memory.

    It uses calls, the stack, conditional blocks and the FPU; r4 counts, r5 mixes.
    """
    t = Thumb(CODE).ldr_const(4, 0x1234_5600 + number).ldr_const(5, 0x9E37_79B1)
    t.ldr_const(6, RAM + 0x2000).ldr_const(7, PRIVATE + 0x200)
    t.label("loop").adds(4, 2 * number + 1).muls(4, 5).eors(5, 4)
    t.mov(0, 4).push(0, 4, 5).str(4, 7, 4 * number).ldr(1, 7, 4 * number).pop(0, 2, 3)
    if number == 2:
        t.half(0x07C2).it("mi", "tett").adds(3, 1).subs(3, 1).adds(3, 2).adds(
            3, 3
        )  # LSLS r2,r0,#31
    t.vmov_to_s(number, 4).vadd(3, number, number).vmov_from_s(1, 3)
    t.half(0x0549).half(0x0D89)  # LSLS r1, r1, #21; LSRS r1, r1, #22: 0..1023
    t.half(0x0089).adds_reg(1, 1, 6)  # LSLS r1, r1, #2
    t.ldr(3, 1).eors(3, 4).str(3, 1)
    # Conditional accesses: a switch makes them miss the TLB in the middle of their IT block.
    t.half(0x07E2).it("mi", "tte").ldr(3, 1).str(4, 6, 16).str(5, 6, 20).cmp(2, 1)  # LSLS r2,r4,#31
    t.b("part").label("part").adds(4, 1).adds(5, 1)
    t.ldr_const(2, MBOX).str(3, 2, 4 * number)
    return t.b("loop")


class Guest:
    """A domain's memory and the shadow of its vcoproc."""

    def __init__(self, vcoproc_id: int, shadow: list[int], ram_bytes: int) -> None:
        self.id = vcoproc_id
        self.ram = mmap.mmap(-1, ram_bytes)
        self.mbox = mmap.mmap(-1, PAGE_BYTES)
        self.spec = ContextSpec(
            vcoproc_id,
            (MemoryRegion(RAM, memoryview(self.ram)),),
            (memoryview(self.mbox),),
            shadow,
        )

    @property
    def shadow(self) -> list[int]:
        return self.spec.shadow

    def load(self, address: int, data: bytes) -> None:
        self.ram[address - RAM : address - RAM + len(data)] = data

    def word(self, address: int) -> int:
        value: int = struct.unpack_from("<I", self.ram, address - RAM)[0]
        return value

    def words(self, address: int, count: int) -> list[int]:
        return list(struct.unpack_from(f"<{count}I", self.ram, address - RAM))

    def boot(self, code: Thumb, handlers: dict[int, str] | None = None, stack: int = STACK) -> None:
        """Loads code that begins at CODE, and vectors. handlers: labels by exception number."""
        self.load(CODE, code.assemble())
        others = {number: code.address(label) for number, label in (handlers or {}).items()}
        self.load(RAM, vector_table(stack, CODE | 1, others))


class Rig:
    """One platform; a context manager."""

    def __init__(
        self, guests: int = 1, private_bytes: int = 64 * 1024, clock_hz: int = 100_000_000
    ) -> None:
        self.platform: CortexM4 = create(PlatformConfig("m4", private_bytes, clock_hz))
        self.place = self.platform.info.index_of
        self.guests: list[Guest] = []
        self.current: Guest | None = None
        for number in range(1, guests + 1):
            self.add(number)

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.platform.close()

    def add(self, number: int, ram_bytes: int = 64 * 1024) -> Guest:
        guest = Guest(number, self.platform.info.reset_values(), ram_bytes)
        self.platform.create_context(guest.spec)
        self.guests.append(guest)
        return guest

    def switch(self, guest: Guest | None) -> None:
        if self.current is not None:
            self.platform.switch_from(self.current.id)
        self.platform.set_stage2(None if guest is None else guest.id)
        if guest is not None:
            self.platform.switch_to(guest.id)
        self.current = guest

    def read(self, name: str) -> int:
        return self.platform.read(self.place[name])

    def write(self, name: str, value: int) -> None:
        self.platform.write(self.place[name], value)

    def write_shadow(self, guest: Guest, name: str, value: int) -> None:
        """What the front end does for a switched-out vcoproc (a register that is not W1C)."""
        index = self.place[name]
        old = guest.shadow[index]
        guest.shadow[index] = value
        self.platform.shadow_written(guest.id, index, old)

    def release(self, vector_base: int = RAM) -> None:
        self.write("VECTOR_BASE", vector_base)
        self.write("CONTROL", 1)

    def start(
        self, code: Thumb, handlers: dict[int, str] | None = None, stack: int = STACK
    ) -> Guest:
        """Boots the first guest."""
        guest = self.guests[0]
        guest.boot(code, handlers, stack)
        self.switch(guest)
        self.release()
        return guest

    def snapshot(self, vcoproc_id: int, now_ns: int = 0) -> bytes:
        return b"".join(self.platform.snapshot(vcoproc_id, now_ns).pieces())

    def restore(self, vcoproc_id: int, blob: bytes, now_ns: int = 0) -> None:
        image = self.platform.read_snapshot(memoryview(blob))
        self.platform.restore(vcoproc_id, image, now_ns)

    def run(self, budget: int = 1000, now_ns: int = 0) -> RunResult:
        return self.platform.run(budget, now_ns)
