"""The platform as the front end uses it."""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    WrongState,
)
from vcoproc.limits import PAGE_BYTES
from vcoproc_sim.platforms.api import ContextSpec, Done, MemoryRegion, Platform, StopReason
from vcoproc_sim.platforms.cortex_m4_context import PhysicalSpace
from vcoproc_sim.testing import RAM, Rig, Thumb
from vcoproc_sim.testing.m4_rig import CODE, STACK

DEVICE = 0x4000_0000
MBOX = 0x4000_1000
PRIVATE = 0x2000_0000
NVIC_ISER = 0xE000_E100
OUT = RAM + 0x4000


def code() -> Thumb:
    return Thumb(CODE)


def wait_loop() -> Thumb:
    """Enables all interrupts and sleeps; each doorbell n makes the handler set IRQ_STATUS 1."""
    t = code().ldr_const(4, DEVICE).movs(5, 1).movs(6, 0)
    t.ldr_const(0, NVIC_ISER).ldr_const(1, 0xFFFF).str(1, 0)
    t.label("loop").wfi().b("loop")
    return t.label("handler").adds(6, 1).str(5, 4, 4).bx(14)


def test_a_core_in_reset_does_not_run() -> None:
    with Rig() as rig:
        rig.switch(rig.guests[0])
        assert not rig.platform.wants_to_run()
        assert rig.run().reason is StopReason.IDLE
        assert rig.run().instructions == 0
        assert rig.read("STATUS") == 0
        assert rig.read("ID").to_bytes(4, "little") == b"VCM4"
        assert rig.read("PRIVATE_SIZE") == 64 * 1024


def test_release_takes_stack_and_entry_from_the_vectors() -> None:
    with Rig() as rig:
        t = code().mrs(0, "msp").ldr_const(1, OUT).str(0, 1).mov(2, 15).str(2, 1, 4).wfi()
        guest = rig.start(t, stack=STACK + 2)
        assert rig.platform.wants_to_run()
        assert rig.read("STATUS") == 1
        assert rig.run().reason is StopReason.IDLE
        # SP[1:0] is always zero; r15 reads 4 beyond the instruction.
        assert guest.words(OUT, 2) == [STACK, CODE + 2 * 4 + 4 - 0]


def test_doorbell_wakes_runs_the_handler_and_raises_the_line() -> None:
    with Rig() as rig:
        rig.start(wait_loop(), {16 + 3: "handler"})
        assert rig.run().reason is StopReason.IDLE
        assert not rig.platform.wants_to_run()
        assert rig.read("STATUS") == 3
        rig.write("DOORBELL", 1 << 3)
        assert rig.platform.wants_to_run()
        assert rig.read("STATUS") == 1
        result = rig.run()
        assert result.reason is StopReason.ATTENTION
        assert result.instructions == 2  # adds, str
        assert rig.read("IRQ_STATUS") == 1
        assert rig.run().reason is StopReason.IDLE
        rig.write("DOORBELL", 1 << 3)
        assert rig.run().reason is StopReason.IDLE  # the status bit was set already: no news
        rig.write("IRQ_STATUS", 1)
        assert rig.read("IRQ_STATUS") == 0


def test_a_doorbell_that_is_not_enabled_does_not_wake() -> None:
    with Rig() as rig:
        rig.start(code().label("loop").wfi().b("loop"))
        rig.run()
        rig.write("DOORBELL", 0xFFFF)
        assert not rig.platform.wants_to_run()
        assert rig.run().reason is StopReason.IDLE


def test_event_and_yield_stop_at_once_in_order() -> None:
    with Rig() as rig:
        t = code().ldr_const(4, DEVICE).str(0, 4, 8).str(0, 4, 12).movs(0, 1)
        rig.start(t.label("end").b("end"))
        first = rig.run()
        assert (first.reason, first.instructions) == (StopReason.ATTENTION, 2)
        assert list(rig.platform.take_edges()) == [1]
        assert list(rig.platform.take_edges()) == []
        second = rig.run()
        assert (second.reason, second.instructions) == (StopReason.YIELD, 1)
        assert rig.run(10).reason is StopReason.BUDGET


def test_firmware_reads_irq_status_and_private_size() -> None:
    with Rig(private_bytes=8192) as rig:
        t = code().ldr_const(4, DEVICE).ldr_const(5, OUT).movs(0, 5).str(0, 4, 4)
        t.ldr(1, 4, 0x10).str(1, 5).ldr(2, 4, 0x14).str(2, 5, 4).wfi()
        guest = rig.start(t)
        assert rig.run().reason is StopReason.ATTENTION
        rig.write("IRQ_STATUS", 1)
        assert rig.run().reason is StopReason.IDLE
        assert guest.words(OUT, 2) == [4, 8192]


def test_the_budget_is_kept_and_an_it_block_is_charged_to_the_next_run() -> None:
    with Rig() as rig:
        t = code().label("loop").cmp(7, 0).it("eq", "tttt")
        t.adds(0, 1).adds(1, 1).adds(2, 1).adds(3, 1).b("loop")
        guest = rig.start(t)
        total = 0
        for _ in range(100):
            result = rig.run(3)
            assert (result.reason, result.instructions) == (StopReason.BUDGET, 3)
            total += 3
        result = rig.run(7000 - total)
        assert result.instructions == 7000 - total
        assert 0 <= rig.read("CYCLES") - 7000 <= 4
        rig.switch(None)
        assert guest.shadow[rig.place["CYCLES"]] >= 7000


@pytest.mark.parametrize(
    ("address", "store"),
    [(0x5000_0004, False), (0x0000_0000, False), (0xFFFF_FFFC, True), (RAM + 0x10_0000, True)],
)
def test_an_access_outside_of_everything_faults_the_vcoproc(address: int, store: bool) -> None:
    with Rig() as rig:
        t = code().ldr_const(1, address)
        rig.start(t.str(0, 1) if store else t.ldr(0, 1))
        result = rig.run()
        assert result.reason is StopReason.FAULT
        assert result.fault is not None
        assert (result.fault.code, result.fault.address) == (1, address)
        assert rig.read("FAULT_STATUS") == 1
        assert rig.read("FAULT_ADDRESS") == address
        assert rig.read("STATUS") == 5
        assert not rig.platform.wants_to_run()
        assert rig.platform.is_faulted(1)
        assert rig.run().reason is StopReason.FAULT


@pytest.mark.parametrize("address", [DEVICE, MBOX, 0xE000_E000, 0x7000_0000, 0xFFFF_FFF0])
def test_executing_devices_or_nothing_faults_the_vcoproc(address: int) -> None:
    with Rig() as rig:
        rig.start(code().ldr_const(1, address | 1).bx(1))
        result = rig.run()
        assert result.fault is not None
        assert (result.fault.code, result.fault.address) == (1, address)


def test_a_stage_2_fault_does_not_reach_the_firmware() -> None:
    with Rig() as rig:
        t = code().ldr_const(1, 0xE000_ED24).ldr_const(2, 0x0007_0000).str(2, 1)
        t.ldr_const(1, 0x5000_0000).ldr(0, 1).label("handler").label("loop").b("loop")
        rig.start(t, {3: "handler", 4: "handler", 5: "handler"})
        result = rig.run()
        assert result.fault is not None
        assert result.fault.code == 1


def test_permissions_of_a_region() -> None:
    with Rig() as rig:
        guest = rig.guests[0]
        rig.platform.destroy_context(1)
        constant = mmap.mmap(-1, PAGE_BYTES)
        guest.spec = ContextSpec(
            1,
            (
                *guest.spec.regions,
                MemoryRegion(0x7000_0000, memoryview(constant), writable=False, executable=False),
            ),
            guest.spec.mapped,
            guest.shadow,
        )
        rig.platform.create_context(guest.spec)
        rig.start(code().ldr_const(1, 0x7000_0010).ldr(0, 1).str(0, 1))
        result = rig.run()
        assert result.fault is not None
        assert (result.fault.code, result.fault.address) == (1, 0x7000_0010)
        assert rig.read("CYCLES") == 3  # the load was allowed


def test_control_run_resets_and_restarts() -> None:
    with Rig() as rig:
        t = code().ldr_const(4, OUT).ldr(0, 4).adds(0, 1).str(0, 4).ldr_const(1, 0x5000_0000)
        guest = rig.start(t.ldr(2, 1))
        assert rig.run().reason is StopReason.FAULT
        rig.write("CONTROL", 1)  # already 1: nothing happens
        assert rig.run().reason is StopReason.FAULT
        rig.write("CONTROL", 0)
        assert not rig.platform.is_faulted(1)
        assert rig.read("STATUS") == 0
        assert rig.read("FAULT_STATUS") == 1  # the driver's to clear
        rig.write("FAULT_STATUS", 1)
        rig.write("CONTROL", 1)
        assert rig.run().reason is StopReason.FAULT
        assert guest.word(OUT) == 2


def test_new_firmware_is_seen_after_a_restart() -> None:
    with Rig() as rig:
        guest = rig.start(code().movs(0, 1).ldr_const(1, OUT).str(0, 1).wfi())
        rig.run()
        rig.write("CONTROL", 0)
        guest.boot(code().movs(0, 2).ldr_const(1, OUT).str(0, 1).wfi())
        rig.write("CONTROL", 1)
        rig.run()
        assert guest.word(OUT) == 2


def test_control_written_while_switched_out() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        t = code().ldr_const(4, OUT).ldr(0, 4).adds(0, 1).str(0, 4).label("loop").wfi().b("loop")
        first.boot(t)
        rig.switch(second)
        assert not rig.platform.shadow_wants_to_run(1)
        rig.write_shadow(first, "VECTOR_BASE", RAM)
        rig.write_shadow(first, "CONTROL", 1)
        assert rig.platform.shadow_wants_to_run(1)
        assert first.shadow[rig.place["STATUS"]] == 1
        rig.switch(first)
        rig.run()
        assert first.word(OUT) == 1
        rig.switch(second)
        assert not rig.platform.shadow_wants_to_run(1)
        # 1, 0, 1 while it is out is a restart, though the shadow looks as before.
        rig.write_shadow(first, "CONTROL", 0)
        assert first.shadow[rig.place["STATUS"]] == 0
        rig.write_shadow(first, "CONTROL", 1)
        rig.switch(first)
        rig.run()
        assert first.word(OUT) == 2
        rig.switch(second)
        rig.write_shadow(first, "CONTROL", 0)
        rig.switch(first)
        assert not rig.platform.wants_to_run()


def test_a_doorbell_right_after_a_release_while_out_is_not_lost() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        first.boot(wait_loop(), {16: "handler"})
        rig.switch(second)
        rig.write_shadow(first, "VECTOR_BASE", RAM)
        rig.write_shadow(first, "CONTROL", 1)
        rig.switch(first)
        rig.write("DOORBELL", 1)  # replayed before the first instruction
        assert rig.run().reason is StopReason.ATTENTION


def test_private_memory_is_zero_at_first_and_belongs_to_the_context() -> None:
    with Rig(2, private_bytes=8192) as rig:
        t = code().ldr_const(4, PRIVATE + 4096).ldr_const(5, OUT).ldr(0, 4).str(0, 5)
        t.adds(0, 7).str(0, 4).label("again").wfi().ldr(0, 4).str(0, 5, 4).b("again")
        for guest in rig.guests:
            guest.boot(t)
            rig.switch(guest)
            rig.release()
            assert rig.run().reason is StopReason.IDLE
            assert guest.word(OUT) == 0
        # The second context ran with its own bytes; the first finds its own again.
        rig.switch(rig.guests[0])
        rig.platform.reset_context(2)
        assert bytes(rig.platform._ram[4096:4100]) == (7).to_bytes(4, "little")


def test_code_in_private_memory_is_the_own_context_s() -> None:
    with Rig(2) as rig:
        for number, guest in enumerate(rig.guests, start=1):
            # Writes "movs r0, #number; bx lr" to private memory and calls it for ever.
            t = code().ldr_const(4, PRIVATE).ldr_const(5, 0x4770_2000 | number).str(5, 4)
            t.ldr_const(6, OUT).ldr_const(7, PRIVATE | 1)
            t.label("loop").half(0x47B8).str(0, 6).b("loop")  # BLX r7
            guest.boot(t)
        for guest in rig.guests:
            rig.switch(guest)
            rig.release()
            rig.run(500)
        for guest in rig.guests * 3:
            rig.switch(guest)
            guest.load(OUT, bytes(4))
            rig.run(500)
            assert guest.word(OUT) == guest.id


def test_the_mbox_page_is_shared_with_the_driver() -> None:
    with Rig(2) as rig:
        t = code().ldr_const(4, MBOX).ldr(0, 4).adds(0, 1).str(0, 4, 4).wfi()
        for guest in rig.guests:
            guest.mbox[0:4] = (100 * guest.id).to_bytes(4, "little")
            guest.boot(t)
            rig.switch(guest)
            rig.release()
            rig.run()
        assert [guest.mbox[4] for guest in rig.guests] == [101, 201]


def test_line_registers_live_in_the_shadow_while_out() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        rig.switch(first)
        rig.write("IRQ_ENABLE", 0xFF)
        rig.switch(second)
        assert first.shadow[rig.place["IRQ_ENABLE"]] == 0xFF
        assert rig.read("IRQ_ENABLE") == 0
        rig.write_shadow(first, "IRQ_ENABLE", 0x0F)
        first.shadow[rig.place["IRQ_STATUS"]] = 6
        rig.switch(first)
        assert (rig.read("IRQ_ENABLE"), rig.read("IRQ_STATUS")) == (0x0F, 6)
        rig.write("IRQ_STATUS", 2)
        assert rig.read("IRQ_STATUS") == 4


def test_misaligned_vector_base_counts_as_aligned() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        rig.switch(first)
        rig.write("VECTOR_BASE", RAM + 0x7F)
        assert rig.read("VECTOR_BASE") == RAM
        rig.write_shadow(second, "VECTOR_BASE", RAM + 0xFF)
        assert second.shadow[rig.place["VECTOR_BASE"]] == RAM + 0x80


def test_sysresetreq_starts_again_at_the_vectors() -> None:
    with Rig() as rig:
        t = code().ldr_const(4, OUT).ldr(0, 4).adds(0, 1).str(0, 4)
        t.cmp(0, 3).b("end", "eq")
        t.ldr_const(1, 0xE000_ED0C).ldr_const(2, 0x05FA_0004).str(2, 1)
        t.label("end").b("end")
        guest = rig.start(t)
        assert rig.run().reason is StopReason.BUDGET
        assert guest.word(OUT) == 3


def test_force_off_leaves_a_core_in_reset_that_can_be_started() -> None:
    with Rig() as rig:
        guest = rig.start(code().label("loop").b("loop"))
        rig.run(10)
        rig.platform.force_off(1)
        rig.current = None
        assert guest.shadow[rig.place["CONTROL"]] == 0
        assert guest.shadow[rig.place["FAULT_STATUS"]] == 16
        assert not rig.platform.shadow_wants_to_run(1)
        rig.switch(guest)
        rig.write("CONTROL", 1)
        assert rig.run(10).reason is StopReason.BUDGET


def test_reset_context_clears_registers_on_and_off_the_hardware() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        rig.start(code().udf(0))
        assert rig.run().reason is StopReason.FAULT
        rig.platform.reset_context(1)
        assert not rig.platform.is_faulted(1)
        assert (rig.read("FAULT_STATUS"), rig.read("CONTROL")) == (0, 0)
        rig.release()
        rig.run()
        rig.switch(second)
        assert first.shadow[rig.place["STATUS"]] == 5
        rig.platform.reset_context(1)
        reset_values = rig.platform.info.reset_values()
        reset_values[rig.place["CYCLES"]] = 2  # goes on counting
        assert first.shadow == reset_values


def test_misuse_is_refused_and_changes_nothing() -> None:
    with Rig(2) as rig:
        first, second = rig.guests
        platform: Platform = rig.platform
        with pytest.raises(WrongState):
            rig.read("ID")
        rig.switch(first)
        with pytest.raises(WrongState):
            platform.destroy_context(1)
        with pytest.raises(WrongState):
            platform.snapshot(1, 0)
        with pytest.raises(WrongState):
            platform.switch_to(2)
        with pytest.raises(WrongState):
            platform.switch_from(2)
        with pytest.raises(NotFound):
            platform.set_stage2(99)
        with pytest.raises(AlreadyExists):
            platform.create_context(second.spec)
        with pytest.raises(InvalidArgument):
            rig.write("STATUS", 1)
        assert platform.switch_from(1) == Done()


@pytest.mark.parametrize(
    ("ipa", "size_bytes"),
    [
        (RAM + 12, PAGE_BYTES),
        (RAM, 100),
        (PRIVATE, PAGE_BYTES),
        (DEVICE, PAGE_BYTES),
        (0xE000_0000, 0x1_0000),
        (0xFFFF_F000, 2 * PAGE_BYTES),
        (RAM + PAGE_BYTES, PAGE_BYTES),
    ],
)
def test_bad_regions_are_refused_and_leave_nothing_behind(ipa: int, size_bytes: int) -> None:
    with Rig() as rig:
        first = rig.guests[0].spec
        buffer = mmap.mmap(-1, size_bytes)
        spec = ContextSpec(
            2,
            (*first.regions, MemoryRegion(ipa, memoryview(buffer))),
            first.mapped,
            rig.platform.info.reset_values(),
        )
        with pytest.raises(InvalidArgument):
            rig.platform.create_context(spec)
        with pytest.raises(NotFound):
            rig.platform.is_faulted(2)
        del spec
        buffer.close()  # nothing exports it any more


def test_contexts_are_limited_and_their_places_reused() -> None:
    with Rig(0) as rig:
        limit = rig.platform.info.features.contexts_max
        for number in range(limit):
            rig.add(number)
        with pytest.raises(LimitExceeded):
            rig.add(limit)
        for _ in range(3):
            rig.platform.destroy_context(0)
            guest = rig.guests.pop(0)
            del guest.spec
            guest.ram.close()
            rig.guests.insert(0, rig.add(0))
            rig.guests.pop()
        guest = rig.guests[0]
        guest.boot(code().movs(0, 9).ldr_const(1, OUT).str(0, 1).wfi())
        rig.switch(guest)
        rig.release()
        rig.run()
        assert guest.word(OUT) == 9


@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    drops=st.lists(st.integers(0, 29), max_size=10),
)
def test_physical_ranges_never_overlap_and_keep_their_offset(
    sizes: list[int], drops: list[int]
) -> None:
    space = PhysicalSpace(1 << 32, 1 << 40)
    taken: dict[int, int] = {}

    def take(pages: int) -> None:
        like = pages * 7 * PAGE_BYTES
        at = space.allocate(pages * PAGE_BYTES, like)
        assert at % (2 << 20) == like % (2 << 20)
        for start, size_bytes in taken.items():
            assert at + pages * PAGE_BYTES <= start or start + size_bytes <= at
        taken[at] = pages * PAGE_BYTES

    for pages in sizes:
        take(pages)
    for drop in drops:
        if taken:
            at = sorted(taken)[drop % len(taken)]
            space.release(at)
            del taken[at]
    for pages in sizes:
        take(pages)


def test_physical_space_is_finite() -> None:
    space = PhysicalSpace(0, 4 << 20)
    space.allocate(4 << 20)
    with pytest.raises(LimitExceeded):
        space.allocate(PAGE_BYTES)


# --- snapshots ------------------------------------------------------------------------------------


def busy_guest(rig: Rig) -> None:
    """A context with something in every part of its state."""
    t = code().ldr_const(0, NVIC_ISER).ldr_const(1, 0x00FF).str(1, 0)
    t.ldr_const(0, 0xE000_E010).ldr_const(1, 5000).str(1, 0, 4).movs(1, 3).str(1, 0)
    t.ldr_const(0, PRIVATE + 64).ldr_const(1, 0x1234_5678).str(1, 0).str(1, 0, 4)
    t.ldr_const(0, MBOX).str(1, 0).vmov_to_s(0, 1).vmov_to_s(31, 1)
    t.ldr_const(2, RAM + 0x6000).msr("psp", 2).movs(2, 3).msr("control", 2).isb()
    t.movs(7, 0).label("loop").adds(7, 1).push(7).pop(7).b("loop")
    rig.start(t.label("tick").ldr_const(3, OUT).ldr(2, 3).adds(2, 1).str(2, 3).bx(14), {15: "tick"})


def test_a_snapshot_continues_in_another_engine_exactly() -> None:
    with Rig() as rig, Rig() as other:
        busy_guest(rig)
        rig.run(12_345)
        rig.switch(None)
        blob = rig.snapshot(1)
        twin = other.guests[0]
        twin.ram[:], twin.mbox[:] = rig.guests[0].ram[:], rig.guests[0].mbox[:]
        other.restore(1, blob)
        assert other.snapshot(1) == blob
        for each in (rig, other):
            each.switch(each.guests[0])
            each.run(54_321)
            each.switch(None)
        assert rig.snapshot(1) == other.snapshot(1)
        assert rig.guests[0].ram[:] == twin.ram[:]
        assert twin.mbox[:] == rig.guests[0].mbox[:]
        assert twin.word(OUT) > 10  # SysTick went on


def test_snapshot_restore_undoes_what_happened_since() -> None:
    with Rig() as rig:
        busy_guest(rig)
        rig.run(7_000)
        rig.switch(None)
        blob = rig.snapshot(1)
        rig.switch(rig.guests[0])
        rig.run(999)
        rig.write("IRQ_ENABLE", 3)
        rig.switch(None)
        assert rig.snapshot(1) != blob
        rig.restore(1, blob)
        assert rig.snapshot(1) == blob


def test_a_snapshot_holds_nothing_of_other_contexts() -> None:
    with Rig(2) as rig:
        fresh = rig.snapshot(2)
        busy_guest(rig)
        rig.run(5_000)
        assert rig.snapshot(2) == fresh
        rig.add(3)
        third = rig.snapshot(3)
        assert third == fresh


@pytest.fixture(scope="module")
def busy() -> Iterator[Rig]:
    """A context with a past, off the hardware."""
    with Rig(private_bytes=4096) as rig:
        busy_guest(rig)
        rig.run(3_000)
        rig.switch(None)
        yield rig


@given(data=st.data())
def test_a_damaged_snapshot_is_refused_and_changes_nothing(busy: Rig, data: st.DataObject) -> None:
    blob = busy.snapshot(1)
    place = data.draw(st.integers(0, len(blob) - 1))
    cut = data.draw(st.booleans())
    bad = blob[:place] if cut else blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
    with pytest.raises(InvalidArgument):
        busy.restore(1, bad)
    assert busy.snapshot(1) == blob


JUNK: st.SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=9),
    st.text(max_size=9),
    st.lists(st.integers(0, 300), max_size=40),
)


@given(data=st.data())
def test_a_forged_snapshot_is_refused_or_harmless(busy: Rig, data: st.DataObject) -> None:
    """Whoever can write snapshots can give them a right checksum too."""
    good = busy.snapshot(1)
    end = 18 + struct.unpack_from("<I", good, 14)[0]
    head, body = good[:10], msgpack.unpackb(good[18:end], strict_map_key=False)
    spot = body
    while True:
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(spot[key], (dict, list)) and spot[key] and data.draw(st.booleans())
        if not deeper:
            spot[key] = data.draw(JUNK)
            break
        spot = spot[key]
    packed = msgpack.packb(body)
    rest = struct.pack("<I", len(packed)) + packed + good[end:]
    try:
        busy.restore(1, head + struct.pack("<I", zlib.crc32(rest)) + rest)
    except InvalidArgument:
        assert busy.snapshot(1) == good
        return
    busy.switch(busy.guests[0])
    assert 0 <= busy.run(500, now_ns=1).instructions <= 500
    busy.switch(None)
    busy.restore(1, good)


def test_a_snapshot_of_another_private_size_is_refused() -> None:
    with Rig(private_bytes=4096) as small, Rig(private_bytes=8192) as large:
        blob = small.snapshot(1)
        with pytest.raises(InvalidArgument, match="private"):
            large.restore(1, blob)
        assert large.snapshot(1) != blob
