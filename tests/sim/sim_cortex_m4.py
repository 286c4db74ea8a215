"""The real Cortex-M4 platform with real firmware, in the simulation: time is its instructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim_domain import Access, Driver

from vcoproc.guest.elf import load_plan
from vcoproc.limits import GUEST_RAM_BASE_IPA, KIB, PAGE_BYTES
from vcoproc_sim.platforms.api import (
    ContextSpec,
    MemoryRegion,
    Platform,
    PlatformConfig,
    RunResult,
    SwitchResult,
)
from vcoproc_sim.platforms.cortex_m4 import create
from vcoproc_sim.testing.fake_platform import StepClock

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
RAM_BYTES = 256 * KIB
CLOCK_HZ = 100_000_000
INSTRUCTION_NS = 10
MBOX = 1
READY_WORD, COUNT_WORD = 4, 8


class ClockedPlatform:
    """A platform whose calls take time of a virtual clock: fixed, and for each instruction."""

    def __init__(self, inner: Platform, clock: StepClock) -> None:
        self.inner = inner
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def run(self, budget: int, now_ns: int) -> RunResult:
        result = self.inner.run(budget, now_ns)
        self._clock.advance(1_000 + INSTRUCTION_NS * result.instructions)
        return result

    def switch_from(self, vcoproc_id: int) -> SwitchResult:
        self._clock.advance(5_000)
        return self.inner.switch_from(vcoproc_id)

    def switch_to(self, vcoproc_id: int) -> SwitchResult:
        self._clock.advance(5_000)
        return self.inner.switch_to(vcoproc_id)


def make_m4(clock: StepClock) -> Platform:
    return ClockedPlatform(create(PlatformConfig("m4", 64 * KIB, CLOCK_HZ)), clock)


class FirmwareMaker:
    """Makes contexts with a firmware in their memory."""

    def __init__(self, name: str) -> None:
        data = (FIRMWARE / name / f"{name}.elf").read_bytes()
        self.plan = load_plan(data, name, [(GUEST_RAM_BASE_IPA, RAM_BYTES)])

    def spec(self, shadow: Callable[[], list[int]]) -> Callable[[int], ContextSpec]:
        def make(vcoproc_id: int) -> ContextSpec:
            ram = memoryview(bytearray(RAM_BYTES))
            for segment in self.plan.segments:
                at = segment.ipa - GUEST_RAM_BASE_IPA
                ram[at : at + len(segment.data)] = segment.data
            regions = (MemoryRegion(GUEST_RAM_BASE_IPA, ram),)
            mailbox = memoryview(bytearray(PAGE_BYTES))
            return ContextSpec(vcoproc_id, regions, (mailbox,), shadow())

        return make


class M4Driver(Driver):
    """The driver of `hello`: a job is a ring, and the firmware counts them in its mailbox."""

    vector_base = 0

    def start_accesses(self) -> list[Access]:
        return [
            (True, *self.addresses["CONTROL"], 0),
            (True, *self.addresses["FAULT_STATUS"], 0xFF),
            (True, *self.addresses["IRQ_STATUS"], 0xFFFF_FFFF),
            (True, *self.addresses["IRQ_ENABLE"], 1),
            (True, MBOX, 4 * READY_WORD, 4, 0),
            (True, MBOX, 4 * COUNT_WORD, 4, 0),
            (True, *self.addresses["VECTOR_BASE"], self.vector_base),
            (True, *self.addresses["CONTROL"], 1),
        ]

    def done_access(self) -> Access:
        return (False, MBOX, 4 * COUNT_WORD, 4, 0)

    def doorbell(self) -> int:
        return 1


def driver_of(firmware: FirmwareMaker) -> type[M4Driver]:
    class Bound(M4Driver):
        vector_base = firmware.plan.vector_base

    return Bound
