"""Real firmware that goes from one engine to another in the middle of its work."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from random import Random

import pytest

from vcoproc.errors import BadSnapshot
from vcoproc.limits import KIB, MIB, MS, PAGE_BYTES, SWITCH_DEADLINE_NS
from vcoproc.wire.messages import Grant, Message, Read, Reply, Write
from vcoproc_sim import saving
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import ContextSpec, MemoryRegion, PlatformConfig
from vcoproc_sim.platforms.cortex_m4 import create
from vcoproc_sim.testing import RAM, Thumb, vector_table
from vcoproc_sim.testing.fake_platform import StepClock
from vcoproc_sim.testing.m4_rig import CODE, STACK, mixer
from vcoproc_sim.vcoprocs import Outbox

PRELUDE = RAM + 0x6000
TICKS, RINGS = RAM + 0x7000, RAM + 0x7004
RAM_BYTES = 64 * KIB
TICK, IRQ0 = 15, 16
BURSTS = 40
MINE, NEIGHBOUR = 1, 2


class Memory:
    """A domain's memory, which stays where it is."""

    def __init__(self, number: int) -> None:
        self.ram = mmap.mmap(-1, RAM_BYTES)
        self.mbox = mmap.mmap(-1, PAGE_BYTES)
        body = mixer(number)
        for label, counter in (("tick", TICKS), ("ring", RINGS)):
            body.label(label).ldr_const(0, counter).ldr(1, 0).adds(1, 1).str(1, 0).bx(14)
        prelude = Thumb(PRELUDE)
        for address, value in (
            (0xE000_E014, 1234), (0xE000_E018, 0), (0xE000_E010, 7), (0xE000_E100, 1),
        ):  # fmt: skip
            prelude.ldr_const(0, address).ldr_const(1, value).str(1, 0)
        prelude.ldr_const(0, CODE | 1).bx(0)
        self._load(CODE, body.assemble())
        self._load(PRELUDE, prelude.assemble())
        handlers = {TICK: body.address("tick"), IRQ0: body.address("ring")}
        self._load(RAM, vector_table(STACK, PRELUDE | 1, handlers))

    def _load(self, address: int, data: bytes) -> None:
        self.ram[address - RAM : address - RAM + len(data)] = data

    def word(self, address: int) -> int:
        at = address - RAM
        return int.from_bytes(self.ram[at : at + 4], "little")

    def whole(self) -> tuple[bytes, bytes]:
        return bytes(self.ram), bytes(self.mbox)


class Coproc:
    """An executor with an engine of its own. neighbour: somebody else runs between the bursts."""

    def __init__(self, began_ns: int, *, private_bytes: int = 16 * KIB) -> None:
        self.clock = StepClock(began_ns)
        self.platform = create(PlatformConfig("dsp", private_bytes, 100_000_000))
        self.outbox = Outbox()
        frontend = FrontEnd(self.platform, self.outbox)
        self.executor = Executor("dsp", self.platform, frontend, self.outbox, self.clock)
        self.grants = 0

    def attach(self, vcoproc_id: int, memory: Memory, *, paused: bool = False) -> None:
        spec = ContextSpec(
            vcoproc_id,
            (MemoryRegion(RAM, memoryview(memory.ram)),),
            (memoryview(memory.mbox),),
            self.platform.info.reset_values(),
        )
        self.executor.attach(vcoproc_id, f"v{vcoproc_id}", spec, paused=paused)

    def say(self, vcoproc_id: int, message: Message) -> Message:
        self.executor.trap(self.executor.vcoprocs[vcoproc_id], "driver", 1, message)
        (_origin, reply) = self.outbox.replies.pop()
        return reply

    def write(self, vcoproc_id: int, name: str, value: int) -> None:
        register = self.platform.info.registers[self.platform.info.index_of[name]]
        assert isinstance(self.say(vcoproc_id, Write(0, register.offset, 4, value)), Reply)

    def start(self, vcoproc_id: int) -> None:
        self.write(vcoproc_id, "VECTOR_BASE", RAM)
        self.write(vcoproc_id, "CONTROL", 1)

    def burst(self, vcoproc_id: int) -> None:
        """Puts it on the hardware, if it is not there, and lets it run."""
        turn = self.executor.turn
        if turn is None or turn.vcoproc.id != vcoproc_id:
            self.grants += 1
            self.executor.grant(Grant(self.grants, vcoproc_id, 100 * MS, True, SWITCH_DEADLINE_NS))
        self.executor.burst()
        self.clock.advance(200_000)

    def take(self, vcoproc_id: int) -> bytes:
        self.executor.pause(vcoproc_id, 0, lambda _end: None)
        image = self.executor.save(vcoproc_id, (), moving=True)
        return b"".join(image.pieces(self.platform.info))

    def put(self, vcoproc_id: int, blob: bytes) -> None:
        self.executor.restore(vcoproc_id, saving.read(memoryview(blob), self.platform))

    def snapshot(self, vcoproc_id: int) -> bytes:
        self.executor.pause(vcoproc_id, 0, lambda _end: None)
        return b"".join(self.platform.snapshot(vcoproc_id, 0).pieces())


@pytest.fixture
def coprocs() -> Iterator[list[Coproc]]:
    made = [Coproc(10**9), Coproc(77 * 10**9)]
    for coproc in made:
        coproc.attach(NEIGHBOUR, Memory(3))
        coproc.start(NEIGHBOUR)
    yield made
    for coproc in made:
        coproc.platform.close()


def unmoved(number: int, rings: set[int]) -> tuple[tuple[bytes, bytes], bytes, Memory]:
    coproc, memory = Coproc(0), Memory(number)
    coproc.attach(MINE, memory)
    coproc.start(MINE)
    for burst in range(BURSTS):
        if burst in rings:
            coproc.write(MINE, "DOORBELL", 1)
        coproc.burst(MINE)
    context = coproc.snapshot(MINE)
    coproc.platform.close()
    return memory.whole(), context, memory


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moved_firmware_ends_byte_identical_to_firmware_that_stayed(
    coprocs: list[Coproc], seed: int
) -> None:
    """Memory, registers, exceptions, SysTick: all; with rings before, while and after it moves."""
    random = Random(seed)
    rings = set(random.sample(range(BURSTS), 8))
    moves = set(random.sample(range(BURSTS), 12)) | set(random.sample(sorted(rings), 3))
    number = random.choice((1, 2))
    whole, context, reference = unmoved(number, rings)
    assert reference.word(TICKS) > 500 and reference.word(RINGS) == len(rings)

    memory, here, there = Memory(number), *coprocs
    here.attach(MINE, memory)
    here.start(MINE)
    for burst in range(BURSTS):
        rung = burst not in rings
        if burst in moves:
            if not rung and random.random() < 0.5:
                here.executor.pause(MINE, 0, lambda _end: None)
                here.write(MINE, "DOORBELL", 1)  # it waits, and goes along
                rung = True
            blob = here.take(MINE)
            there.attach(MINE, memory, paused=True)
            there.put(MINE, blob)
            here.executor.detach(MINE, 0, lambda _forced: None, moved=True)
            here, there = there, here
            if not rung:
                here.write(MINE, "DOORBELL", 1)
                rung = True
            here.executor.resume(MINE)
        if random.random() < 0.5:
            here.burst(NEIGHBOUR)
        if not rung:
            here.write(MINE, "DOORBELL", 1)
        here.burst(MINE)
    assert memory.whole() == whole
    assert here.snapshot(MINE) == context


def test_what_is_of_another_size_is_refused_and_changes_nothing(coprocs: list[Coproc]) -> None:
    small, large = coprocs[0], Coproc(0, private_bytes=1 * MIB)
    large.attach(NEIGHBOUR, Memory(1), paused=True)
    blob = small.take(NEIGHBOUR)
    before = large.snapshot(NEIGHBOUR)
    with pytest.raises(BadSnapshot, match="private"):
        large.put(NEIGHBOUR, blob)
    assert large.snapshot(NEIGHBOUR) == before
    large.platform.close()


def test_a_driver_sees_its_registers_on_the_other_coproc(coprocs: list[Coproc]) -> None:
    here, there = coprocs
    here.write(NEIGHBOUR, "IRQ_ENABLE", 0x1234)
    here.burst(NEIGHBOUR)
    blob = here.take(NEIGHBOUR)
    there.executor.pause(NEIGHBOUR, 0, lambda _end: None)
    there.put(NEIGHBOUR, blob)
    info = there.platform.info
    for name, value in (("IRQ_ENABLE", 0x1234), ("STATUS", 1), ("CONTROL", 1)):
        offset = info.registers[info.index_of[name]].offset
        assert there.say(NEIGHBOUR, Read(0, offset, 4)) == Reply(1, (value,))
