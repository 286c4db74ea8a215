"""Sharing must not be felt: a context that takes turns ends exactly as one that runs alone."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc_sim.platforms.api import StopReason
from vcoproc_sim.testing import RAM, Guest, Rig, Thumb, vector_table
from vcoproc_sim.testing.m4_rig import CODE, MBOX, PRIVATE, STACK, mixer

TOTAL = 120_000


def digest(rig: Rig, guest: Guest) -> tuple[bytes, bytes]:
    """All memory, and the whole context: registers, private memory and exception state."""
    rig.switch(None)
    return bytes(guest.ram) + bytes(guest.mbox), rig.snapshot(guest.id)


def alone(number: int, total: int) -> tuple[bytes, bytes]:
    with Rig(3) as rig:
        guest = rig.guests[number - 1]
        guest.boot(mixer(number))
        rig.switch(guest)
        rig.release()
        assert rig.run(total).instructions == total
        return digest(rig, guest)


@pytest.mark.parametrize("slice_instructions", [1000, 10_007, 37])
def test_switched_contexts_end_byte_identical_to_unshared_runs(slice_instructions: int) -> None:
    total = TOTAL if slice_instructions > 100 else 12_000
    expected = [alone(number, total) for number in (1, 2, 3)]
    assert len({ram for ram, _ in expected}) == 3
    with Rig(3) as rig:
        for number, guest in enumerate(rig.guests, start=1):
            guest.boot(mixer(number))
            rig.switch(guest)
            rig.release()
        left = dict.fromkeys((1, 2, 3), total)
        while any(left.values()):
            for guest in rig.guests:
                budget = min(slice_instructions, left[guest.id])
                if budget:
                    rig.switch(guest)
                    result = rig.run(budget)
                    assert (result.reason, result.instructions) == (StopReason.BUDGET, budget)
                    left[guest.id] -= budget
        for guest, whole in zip(rig.guests, expected, strict=True):
            ram, context = digest(rig, guest)
            assert ram == whole[0]
            assert context == whole[1]


def test_contexts_with_the_same_code_pages_in_private_and_domain_memory_stay_apart() -> None:
    with Rig(2) as rig:
        for guest in rig.guests:
            t = Thumb(CODE).ldr_const(1, RAM + 0x4000).ldr(0, 1)
            guest.boot(t.label("loop").adds(0, guest.id).str(0, 1).b("loop"))
            rig.switch(guest)
            rig.release()
        for _ in range(50):
            for guest in rig.guests:
                rig.switch(guest)
                rig.run(300)
        # 15,000 instructions each, 4 of them before the loop of three.
        ones, twos = (guest.word(RAM + 0x4000) for guest in rig.guests)
        assert (ones, twos) == (4999, 2 * 4999)


# --- hostile firmware -----------------------------------------------------------------------------

NASTY = [
    0xBF30, 0xBF20, 0xBF40, 0xDF00, 0x4770, 0xBD00, 0xB662, 0xB672, 0xBF01, 0xBF0C, 0x6008,
    0x6048, 0x6808, 0xE7FE, 0xDE00, 0xBE00, 0x4687, 0x46A5, 0xF380, 0x8814, 0xF3AF, 0x8002,
]  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One rig for all examples: what one firmware leaves behind must not hurt the next."""
    with Rig(2, private_bytes=4096) as rig:
        yield rig


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    nasty=st.lists(st.sampled_from(NASTY), max_size=40),
    stack=st.sampled_from([STACK, PRIVATE + 0x800, RAM + 2, 0, 0xFFFF_FFFF, 0x4000_0010]),
    doorbell=st.integers(0, 0xFFFF),
    vectors=st.sampled_from([RAM, RAM, RAM, 0, 0x4000_0000, 0xE000_E000, 0x2000_0000, 0xFFFF_FF80]),
)
def test_any_bytes_are_firmware_that_ends_in_a_valid_result(
    rig: Rig, seed: int, nasty: list[int], stack: int, doorbell: int, vectors: int
) -> None:
    rng = random.Random(seed)
    for guest in rig.guests:
        body = bytearray(rng.randbytes(0x1000))
        for half in nasty:
            struct.pack_into("<H", body, rng.randrange(0, 0x1000, 2), half)
        guest.load(RAM, bytes(body))
        others = {number: CODE + rng.randrange(0, 0xF00, 2) | 1 for number in range(2, 32)}
        guest.load(RAM, vector_table(stack, CODE | 1, others))
        # r0..r7 and r12 point at something that exists, so that stores reach it.
        targets = [RAM, PRIVATE, 0x4000_0000, MBOX, 0xE000_E000, 0xE000_ED00, 0xE000_E100, STACK]
        t = Thumb(CODE)
        for register in range(8):
            t.ldr_const(register, rng.choice(targets) + rng.randrange(0, 0x100, 4))
        code = t.b("on").label("on").assemble()
        guest.load(CODE, code)
        rig.switch(guest)
        rig.write("CONTROL", 0)
        rig.release(vectors)
    for step in range(6):
        guest = rig.guests[rng.randrange(2)]
        rig.switch(guest)
        rig.write("DOORBELL", doorbell)
        budget = rng.choice([1, 50, 3000])
        result = rig.run(budget, now_ns=step * 1_000_000)
        assert 0 <= result.instructions <= budget
        assert (result.reason is StopReason.FAULT) == (result.fault is not None)
        if result.fault is not None:
            assert result.fault.code in (1, 2, 4, 8)
            assert 0 <= result.fault.address < 2**32
            assert not rig.platform.wants_to_run()
        if result.reason is StopReason.IDLE:
            assert not rig.platform.wants_to_run()
        rig.platform.take_edges()
    rig.switch(None)
    for guest in rig.guests:
        blob = rig.snapshot(guest.id)
        rig.restore(guest.id, blob)
        assert rig.snapshot(guest.id) == blob
