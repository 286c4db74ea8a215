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
from vcoproc_sim.testing.thumb import Thumb, vector_table

RAM: Final = GUEST_RAM_BASE_IPA
CODE: Final = RAM + 0x100
"""Behind a vector table of 32 words."""
STACK: Final = RAM + 0x8000


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
        return self.platform.snapshot(vcoproc_id, now_ns).to_bytes()

    def restore(self, vcoproc_id: int, blob: bytes, now_ns: int = 0) -> None:
        self.platform.restore(vcoproc_id, self.platform.read_snapshot(blob), now_ns)

    def run(self, budget: int = 1000, now_ns: int = 0) -> RunResult:
        return self.platform.run(budget, now_ns)
