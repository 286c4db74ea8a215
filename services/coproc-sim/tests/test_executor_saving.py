"""The executor: a paused vcoproc is written down, and goes on later or elsewhere."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcoproc.errors import BadSnapshot, NotFound, WrongState
from vcoproc.limits import HOLD_LIMIT_NS, MS, SAVED_HOLD_LIMIT_NS, SAVED_HOLD_QUEUE_MAX, US, S
from vcoproc.wire.messages import (
    Batch,
    Faulted,
    LineSync,
    Message,
    Moved,
    Post,
    Read,
    Reply,
    TrapError,
    Wake,
)
from vcoproc_sim import saving
from vcoproc_sim.frontend import farewell
from vcoproc_sim.platforms.api import Busy
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Compute, Crash, Pulse, Raise, Timer, job

MBOX = 2
HEAD = struct.Struct("<9sHQ32s")


@pytest.fixture
def rig() -> CoreRig:
    rig = CoreRig()
    rig.attach(1, 2)
    rig.clear()
    return rig


def another() -> CoreRig:
    """Another coproc of the type, which has the vcoproc already, paused. Its clock differs."""
    rig = CoreRig()
    rig.clock.advance(3 * S)
    rig.attach(1, running=False, paused=True)
    rig.clear()
    return rig


def move(rig: CoreRig) -> CoreRig:
    """Vcoproc 1 goes to another coproc, and is not resumed yet."""
    rig.pause(1)
    there = another()
    there.restore(1, rig.save(1, moving=True))
    rig.detach(1, moved=True)
    return there


# --- what goes along ------------------------------------------------------------------------------


def test_work_goes_on_elsewhere_in_the_middle_of_a_job(rig: CoreRig) -> None:
    rig.write(1, "DOORBELL", job(1000))
    rig.write(1, "DOORBELL", job(7, tag=1))
    rig.grant(1)
    rig.run(300 * US)
    done_here = rig.platform.contexts[1].instructions
    assert 0 < done_here < 64_000
    there = move(rig)
    assert there.to_scheduler == [] and there.platform.contexts[1].instructions == done_here
    there.resume(1)
    assert [wake.vcoproc for wake in there.said(Wake)] == [1]
    there.grant(1)
    there.settle()
    assert there.value(1, "DONE") == 2
    assert there.platform.contexts[1].instructions == 64 * 1007
    assert there.platform.contexts[1].rung == [job(1000), job(7, tag=1)]
    assert there.vcoproc(1).instruction_count == 64 * 1007


def test_queued_writes_go_along_in_their_order(rig: CoreRig) -> None:
    for tag in range(5):
        rig.write(1, "DOORBELL", job(1, tag=tag))
    there = move(rig)
    there.resume(1)
    there.grant(1)
    assert there.platform.contexts[1].rung == [job(1, tag=tag) for tag in range(5)]


def test_registers_and_levels_go_along(rig: CoreRig) -> None:
    rig.program(1, Raise(0b101))
    rig.grant(1)
    rig.settle()
    rig.write(1, "IRQ_ENABLE", 4)
    there = move(rig)
    assert there.to_router == [], "its lines are not this coproc's yet"
    there.resume(1)
    assert there.to_router == [LineSync(1, 1, 0)]
    assert (there.value(1, "IRQ_STATUS"), there.value(1, "IRQ_ENABLE")) == (5, 4)


def test_a_timer_goes_along_by_the_time_that_it_has_left(rig: CoreRig) -> None:
    rig.program(1, Timer(1 * MS), Raise(1))
    rig.grant(1)
    rig.run(400 * US)
    there = move(rig)
    there.run(50 * MS)
    resumed_ns = there.clock.now_ns
    there.resume(1)
    there.run(1 * MS)
    (wake,) = there.said(Wake)
    assert abs(wake.clock_ns - resumed_ns - 600 * US) <= 10 * US
    there.grant(1)
    there.settle()
    assert there.value(1, "IRQ_STATUS") == 1


def test_a_timer_that_is_due_goes_along(rig: CoreRig) -> None:
    rig.hog(2)
    rig.program(1, Timer(1 * MS), Raise(1))
    rig.grant(1)
    rig.run(100 * US)
    rig.grant(2, now=True)
    rig.run(2 * MS)
    there = move(rig)
    there.resume(1)
    assert [wake.vcoproc for wake in there.said(Wake)] == [1]


def test_a_fault_goes_along(rig: CoreRig) -> None:
    rig.program(1, Crash(code=4))
    rig.grant(1)
    rig.settle()
    there = move(rig)
    assert [faulted.vcoproc for faulted in there.said(Faulted)] == [1]
    assert there.value(1, "FAULT_STATUS") == 4
    there.resume(1)
    there.write(1, "CONTROL", 0)
    there.write(1, "CONTROL", 1)
    there.write(1, "DOORBELL", job(1))
    there.grant(1)
    there.settle()
    assert there.value(1, "DONE") == 1


def test_edges_not_said_yet_go_along(rig: CoreRig) -> None:
    rig.pause(1)
    assert saving.read(memoryview(rig.save(1, edges=[1])), rig.platform).edges == (1,)


def test_what_mapped_ranges_hold_is_written_down_but_for_a_move(rig: CoreRig) -> None:
    mbox = rig.vcoproc(1).spec.mapped[0]
    mbox[:4] = b"then"
    rig.pause(1)
    copy, moving = rig.save(1), rig.save(1, moving=True)
    mbox[:4] = b"now!"
    rig.restore(1, moving)
    assert bytes(mbox[:4]) == b"now!", "the driver may have written to it since"
    rig.restore(1, copy)
    assert bytes(mbox[:4]) == b"then"


def test_a_vcoproc_can_be_put_back_to_what_it_was(rig: CoreRig) -> None:
    rig.write(1, "DOORBELL", job(100))
    rig.write(1, "IRQ_ENABLE", 3)
    rig.pause(1)
    blob = rig.save(1)
    rig.resume(1)
    rig.grant(1)
    rig.settle()
    rig.write(1, "IRQ_ENABLE", 8)
    rig.pause(1)
    rig.restore(1, blob)
    assert rig.save(1) == blob
    rig.resume(1)
    rig.grant(1)
    rig.settle()
    assert (rig.value(1, "DONE"), rig.value(1, "IRQ_ENABLE")) == (1, 3)


# --- when it cannot be ----------------------------------------------------------------------------


def test_only_one_that_is_off_and_paused_can_be_written_down_or_replaced(rig: CoreRig) -> None:
    rig.pause(1)
    blob = rig.save(1)
    rig.resume(1)
    with pytest.raises(WrongState, match="not paused"):
        rig.save(1)
    with pytest.raises(WrongState, match="not paused"):
        rig.restore(1, blob)
    rig.hog(1)
    rig.grant(1)
    rig.platform.leave_script.append(Busy(100 * US))
    rig.pause(1)
    with pytest.raises(WrongState, match="leaving"):
        rig.save(1)
    with pytest.raises(NotFound):
        rig.save(9)


@given(data=st.data())
def test_a_damaged_one_is_refused_and_changes_nothing(data: st.DataObject) -> None:
    rig = CoreRig()
    rig.attach(1)
    rig.write(1, "DOORBELL", job(1))
    rig.pause(1)
    blob = rig.save(1)
    place = data.draw(st.integers(0, len(blob) - 1))
    bad = blob[:place]
    if data.draw(st.booleans()):
        bad = (
            blob[:place] + bytes([blob[place] ^ data.draw(st.integers(1, 255))]) + blob[place + 1 :]
        )
    with pytest.raises(BadSnapshot):
        rig.restore(1, bad)
    assert rig.save(1) == blob


def forged(blob: bytes, rest: bytes | None = None, **changes: object) -> bytes:
    """With another body, or something else behind it, and a right checksum."""
    at = HEAD.size + 4
    end = at + struct.unpack_from("<I", blob, HEAD.size)[0]
    packed = msgpack.packb({**msgpack.unpackb(blob[at:end]), **changes})
    body = struct.pack("<I", len(packed)) + packed + (blob[end:] if rest is None else rest)
    magic, version, _length, _digest = HEAD.unpack_from(blob)
    return HEAD.pack(magic, version, len(body), hashlib.sha256(body).digest()) + body


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"compatible": "vcoproc,other"}, "vcoproc,other"),
        ({"context_bytes": 1}, "mapped ranges"),
        ({"context_bytes": 1 << 40}, "context_bytes"),
        ({"context_bytes": -1}, "context_bytes"),
        ({"rest": b"junk" + bytes(4096), "context_bytes": 4}, "context"),
        ({"rest": bytes(4096), "context_bytes": 0}, "context"),
        ({"replay": [["CONTROL", 1]]}, "not queued"),
        ({"replay": [["NOWHERE", 1]]}, "not queued"),
        ({"replay": [["DOORBELL", 1 << 32]]}, "no value"),
        ({"replay": [["DOORBELL", -1]]}, "no value"),
        ({"replay": [["DOORBELL"]]}, "another form"),
        ({"replay": [["DOORBELL", 1]] * 257}, "at most 256"),
        ({"edges": ["irq"]}, "no edge line"),
        ({"edges": ["event", "event"]}, "twice"),
        ({"timer_due": 1}, "timer_due"),
        ({"timer_left_ns": -1}, "timer_left_ns"),
        ({"trap_count": -1}, "trap_count"),
        ({"instruction_count": "many"}, "instruction_count"),
        ({"has_mapped": False}, "mapped ranges"),
        ({"has_mapped": 1}, "has_mapped"),
    ],
)
def test_a_forged_one_is_refused_and_changes_nothing(
    rig: CoreRig, changes: dict[str, Any], why: str
) -> None:
    rig.pause(1)
    blob = rig.save(1)
    with pytest.raises(BadSnapshot, match=why):
        rig.restore(1, forged(blob, **changes))
    assert rig.save(1) == blob


def test_another_version_is_refused_by_its_number(rig: CoreRig) -> None:
    rig.pause(1)
    blob = bytearray(rig.save(1))
    blob[9] = 2
    with pytest.raises(BadSnapshot, match="version 2"):
        rig.restore(1, bytes(blob))


# --- accesses while it moves ----------------------------------------------------------------------


def said_to(rig: CoreRig, origin: object) -> list[Message]:
    return [message for who, message in rig.replies if who == origin]


def test_nothing_is_done_to_one_that_has_been_written_down_until_it_goes_on(rig: CoreRig) -> None:
    rig.pause(1)
    rig.save(1, moving=True)
    before = list(rig.vcoproc(1).shadow)
    asked = [
        rig.send(1, Post(*rig.address("IRQ_ENABLE"), 7)),
        rig.send(1, Read(*rig.address("IRQ_ENABLE"))),
        rig.send(1, Batch(((False, *rig.address("ID"), 0),))),
        rig.send(1, Batch(())),
    ]
    rig.run(2 * S)
    assert (rig.replies, rig.vcoproc(1).shadow) == ([], before)
    rig.resume(1)
    answers = [rig.answer(seq) for seq in asked]
    assert answers == [
        None, Reply(asked[1], (7,)), Reply(asked[2], (0x454B_4146,)), Reply(asked[3], ()),
    ]  # fmt: skip


def test_pausing_it_again_ends_the_move_and_its_accesses_are_done(rig: CoreRig) -> None:
    rig.pause(1)
    rig.save(1, moving=True)
    held = rig.send(1, Read(*rig.address("CYCLES")))
    asked = rig.send(1, Read(*rig.address("IRQ_ENABLE")))
    rig.pause(1)
    assert rig.answer(asked) is None, "not past the one that has to wait for the hardware"
    rig.run(HOLD_LIMIT_NS + 1 * US)
    error = rig.answer(held)
    assert isinstance(error, TrapError) and "1000 ms" in error.detail
    assert rig.answer(asked) == Reply(asked, (1,))
    assert rig.value(1, "IRQ_ENABLE") == 1


def test_a_move_that_takes_too_long_is_told_to_those_who_wait(rig: CoreRig) -> None:
    rig.pause(1)
    rig.save(1, moving=True)
    asked = [rig.send(1, message) for message in (Read(*rig.address("ID")), Batch(()))]
    rig.run(SAVED_HOLD_LIMIT_NS + 1 * US)
    for seq in asked:
        error = rig.answer(seq)
        assert isinstance(error, TrapError)
        assert (error.error, "4000 ms" in error.detail) == ("HOLD_TIMEOUT", True)


def test_so_many_can_wait_as_a_driver_can_send(rig: CoreRig) -> None:
    rig.pause(1)
    rig.save(1, moving=True)
    asked = [rig.send(1, Read(*rig.address("ID"))) for _ in range(SAVED_HOLD_QUEUE_MAX)]
    assert rig.replies == []
    over = rig.answer(rig.send(1, Read(*rig.address("ID"))))
    assert isinstance(over, TrapError) and over.error == "QUEUE_FULL"
    rig.resume(1)
    assert all(isinstance(rig.answer(seq), Reply) for seq in asked)


def test_a_driver_is_told_what_is_done_when_its_vcoproc_has_moved(rig: CoreRig) -> None:
    vcoproc = rig.vcoproc(1)
    done = rig.send(1, Read(*rig.address("ID")), "me")
    rig.pause(1)
    rig.save(1, moving=True)
    assert farewell(vcoproc, "me", done) == Moved(done, 0, ())
    newest = [rig.send(1, Post(*rig.address("IRQ_ENABLE"), 1), "me") for _ in range(3)][-1]
    assert farewell(vcoproc, "me", newest) == Moved(done, 0, ())
    assert farewell(vcoproc, "somebody else", 9) == Moved(9, 0, ())
    rig.detach(1, moved=True)
    assert said_to(rig, "me") == [Reply(done, (0x454B_4146,))], "the others are not refused"


def test_a_batch_that_is_half_done_says_so(rig: CoreRig) -> None:
    vcoproc = rig.vcoproc(1)
    accesses = (
        (True, *rig.address("IRQ_ENABLE"), 6),
        (False, *rig.address("IRQ_ENABLE"), 0),
        (False, *rig.address("CYCLES"), 0),
        (True, *rig.address("IRQ_ENABLE"), 9),
    )
    rig.pause(1)
    batch = rig.send(1, Batch(accesses), "me")
    rig.save(1, moving=True)
    assert farewell(vcoproc, "me", batch) == Moved(batch - 1, 2, (6,))
    assert vcoproc.shadow[rig.platform.info.index_of["IRQ_ENABLE"]] == 6


def test_the_mailbox_by_message_waits_too(rig: CoreRig) -> None:
    """A domain that cannot map it; its file goes along as it is, but not past other accesses."""
    rig.pause(1)
    rig.save(1, moving=True)
    rig.send(1, Post(MBOX, 0, 4, 0x1234))
    assert rig.vcoproc(1).spec.mapped[0][0] == 0
    rig.resume(1)
    assert rig.vcoproc(1).spec.mapped[0][0] == 0x34


def test_a_pulse_of_the_past_is_not_pulsed_again_elsewhere(rig: CoreRig) -> None:
    rig.program(1, Pulse(), Compute(10))
    rig.grant(1)
    rig.settle()
    there = move(rig)
    there.resume(1)
    there.grant(1)
    there.run(1 * MS)
    assert there.platform.pulse_count == 0
