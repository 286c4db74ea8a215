"""The front end: order, bounds and the exactly one answer of every access."""

from __future__ import annotations

import pytest

from vcoproc.errors import RemoteProtocolError
from vcoproc.limits import (
    BATCH_OPS_MAX,
    HOLD_LIMIT_NS,
    HOLD_QUEUE_MAX,
    MS,
    REPLAY_QUEUE_MAX,
    TRAP_TIMEOUT_NS,
)
from vcoproc.wire.messages import (
    Batch,
    LineLevel,
    Message,
    Post,
    Read,
    Reply,
    TrapError,
    Wake,
    Welcome,
    Write,
)
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import CTRL, IRQ_LINE, MBOX, PAGE, Crash, Raise, job


@pytest.fixture
def rig() -> CoreRig:
    """Vcoproc 1 is switched out, vcoproc 2 runs for ever."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(2)
    rig.grant(2)
    rig.clear()
    return rig


def error_of(answer: Message | None) -> str:
    assert isinstance(answer, TrapError), answer
    return answer.error


def read(rig: CoreRig, name: str) -> Read:
    return Read(*rig.address(name))


def access(rig: CoreRig, name: str, value: int | None = None) -> tuple[bool, int, int, int, int]:
    place, offset, width_bytes = rig.address(name)
    return (value is not None, place, offset, width_bytes, value or 0)


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcoproc", [1, 2], ids=["out", "on"])
def test_accesses_that_hit_no_register_are_refused(rig: CoreRig, vcoproc: int) -> None:
    for message, reason in (
        (Read(9, 0, 4), "BAD_REGISTER"),
        (Read(CTRL, 0xF00, 4), "BAD_REGISTER"),
        (Read(CTRL, 0x05, 4), "BAD_REGISTER"),
        (Read(CTRL, 0xFFFF_FFFF, 4), "BAD_REGISTER"),
        (Read(CTRL, 0x04, 2), "BAD_ACCESS_SIZE"),
        (Read(CTRL, 0x24, 4), "BAD_ACCESS_SIZE"),
        (Read(CTRL, 0x04, 0), "BAD_ACCESS_SIZE"),
        (Write(CTRL, 0x24, 1, 0x100), "BAD_REGISTER"),
        (Write(CTRL, 0x00, 4, 0), "BAD_REGISTER"),
        (Read(CTRL, 0x08, 4), "BAD_REGISTER"),
    ):
        seq = rig.send(vcoproc, message)
        answer = rig.answer(seq)
        assert isinstance(answer, TrapError)
        assert (answer.error, answer.index) == (reason, 0)
        assert answer.detail


def test_a_narrow_register_takes_its_width(rig: CoreRig) -> None:
    assert isinstance(rig.write(1, "BYTE", 0xFF), Reply)
    assert rig.value(1, "BYTE") == 0xFF


def test_a_message_that_is_no_access_is_a_protocol_error(rig: CoreRig) -> None:
    with pytest.raises(RemoteProtocolError):
        rig.send(1, Welcome(0, 0, "?"))
    assert not rig.replies


@pytest.mark.parametrize("width_bytes", [1, 2, 4])
@pytest.mark.parametrize("vcoproc", [1, 2], ids=["out", "on"])
def test_mapped_ranges_can_be_reached_by_message(
    rig: CoreRig, vcoproc: int, width_bytes: int
) -> None:
    value = 0x8899_AABB & (1 << 8 * width_bytes) - 1
    offset = PAGE - width_bytes
    seq = rig.send(vcoproc, Write(MBOX, offset, width_bytes, value))
    assert rig.answer(seq) == Reply(seq, ())
    storage = rig.platform.contexts[vcoproc].spec.mapped[0]
    assert int.from_bytes(storage[offset:], "little") == value
    seq = rig.send(vcoproc, Read(MBOX, offset, width_bytes))
    assert rig.answer(seq) == Reply(seq, (value,))
    other = rig.platform.contexts[3 - vcoproc].spec.mapped[0]
    assert not any(other), "the page belongs to the vcoproc"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Read(MBOX, 2, 4), "BAD_ACCESS_SIZE"),
        (Read(MBOX, 0, 3), "BAD_ACCESS_SIZE"),
        (Read(MBOX, 0, 8), "BAD_ACCESS_SIZE"),
        (Read(MBOX, 0, 0), "BAD_ACCESS_SIZE"),
        (Read(MBOX, PAGE, 4), "BAD_REGISTER"),
        (Read(MBOX, 0xFFFF_FFFC, 4), "BAD_REGISTER"),
        (Write(MBOX, 0, 2, 0x1_0000), "BAD_REGISTER"),
    ],
)
def test_bad_accesses_to_a_mapped_range_are_refused(
    rig: CoreRig, message: Message, reason: str
) -> None:
    assert error_of(rig.answer(rig.send(1, message))) == reason


# --- posted writes --------------------------------------------------------------------------------


def test_a_posted_write_is_answered_only_by_an_error(rig: CoreRig) -> None:
    assert rig.answer(rig.post(1, "IRQ_ENABLE", 3)) is None
    assert rig.value(1, "IRQ_ENABLE") == 3
    assert error_of(rig.answer(rig.post(1, "DONE", 3))) == "BAD_REGISTER"
    waiting = rig.post(1, "HOLD_RW", 5)
    rig.grant(1, now=True)
    assert rig.answer(waiting) is None
    assert rig.value(1, "HOLD_RW") == 5


# --- doorbells ------------------------------------------------------------------------------------


def test_doorbells_are_replayed_in_order_before_the_first_instruction(rig: CoreRig) -> None:
    rung = [job(1, tag=tag) for tag in (3, 1, 2)]
    for value in rung:
        assert isinstance(rig.write(1, "DOORBELL", value), Reply)
    assert rig.platform.contexts[1].rung == []
    assert rig.platform.contexts[1].instructions == 0
    rig.grant(1, now=True)
    assert rig.platform.contexts[1].rung == rung
    assert rig.platform.contexts[1].instructions == 0
    assert not rig.vcoproc(1).replay


def test_a_doorbell_wakes_and_only_the_first_one_says_so(rig: CoreRig) -> None:
    for tag in range(3):
        rig.write(1, "DOORBELL", job(1, tag=tag))
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]
    assert not rig.said(Wake)[0].resumed


def test_the_queue_of_doorbells_is_bounded_and_says_so(rig: CoreRig) -> None:
    for tag in range(REPLAY_QUEUE_MAX):
        assert isinstance(rig.write(1, "DOORBELL", job(0, tag=tag)), Reply)
    assert error_of(rig.write(1, "DOORBELL", 0)) == "QUEUE_FULL"
    rig.grant(1, now=True)
    rung = rig.platform.contexts[1].rung
    assert [value >> 20 for value in rung] == list(range(REPLAY_QUEUE_MAX))
    assert isinstance(rig.write(1, "DOORBELL", 0), Reply), "there is room again"


def test_different_registers_are_replayed_in_one_order(rig: CoreRig) -> None:
    """A doorbell queued before and after another replayed register keeps its place."""
    seen: list[tuple[str, int]] = []
    real = rig.platform.write

    def spy(index: int, value: int) -> None:
        seen.append((rig.platform.info.registers[index].name, value))
        real(index, value)

    rig.platform.write = spy  # type: ignore[method-assign]
    rig.write(1, "REPLAY_RW", 1)
    rig.write(1, "DOORBELL", job(0))
    rig.write(1, "REPLAY_RW", 2)
    rig.grant(1, now=True)
    assert seen == [("REPLAY_RW", 1), ("DOORBELL", job(0)), ("REPLAY_RW", 2)]
    assert rig.value(1, "REPLAY_RW") == 2


def test_a_reset_voids_the_doorbells_before_it_and_not_those_after(rig: CoreRig) -> None:
    """As on the hardware: the interrupt controller of the core comes out of reset empty."""
    rig.write(1, "DOORBELL", job(1, tag=1))
    rig.write(1, "CONTROL", 1)  # nothing changes: no reset
    rig.write(1, "DOORBELL", job(1, tag=2))
    rig.write(1, "CONTROL", 0)
    rig.write(1, "CONTROL", 1)
    rig.write(1, "DOORBELL", job(1, tag=3))
    rig.grant(1, now=True)
    assert rig.platform.contexts[1].rung == [job(1, tag=3)]


# --- held accesses --------------------------------------------------------------------------------


def test_a_held_access_wakes_its_vcoproc(rig: CoreRig) -> None:
    assert rig.read(1, "CYCLES") is None
    assert [wake.vcoproc for wake in rig.said(Wake)] == [1]


def test_what_comes_behind_a_held_access_waits_and_keeps_its_order(rig: CoreRig) -> None:
    sent = [
        rig.send(1, read(rig, "CYCLES")),
        rig.send(1, Write(*rig.address("IRQ_ENABLE"), 0x5A)),
        rig.send(1, read(rig, "IRQ_ENABLE")),
        rig.send(1, read(rig, "DONE")),
    ]
    assert [rig.answer(seq) for seq in sent] == [None] * 4
    assert rig.platform.contexts[1].spec.shadow[rig.platform.info.index_of["IRQ_ENABLE"]] == 1
    rig.clear()
    rig.grant(1, now=True)
    assert [message for _origin, message in rig.replies] == [
        Reply(sent[0], (0,)),
        Reply(sent[1], ()),
        Reply(sent[2], (0x5A,)),
        Reply(sent[3], (0,)),
    ]


def test_a_held_access_is_given_up_at_its_limit_and_not_before(rig: CoreRig) -> None:
    seq = rig.send(1, read(rig, "CYCLES"))
    sent_ns = rig.clock.now_ns
    assert rig.executor.next_deadline_ns() == sent_ns + HOLD_LIMIT_NS
    rig.clock.now_ns = sent_ns + HOLD_LIMIT_NS - 1
    rig.executor.tick()
    rig.collect()
    assert rig.answer(seq) is None
    rig.clock.now_ns += 1
    rig.executor.tick()
    rig.collect()
    assert error_of(rig.answer(seq)) == "HOLD_TIMEOUT"
    assert rig.executor.next_deadline_ns() is None


def test_nobody_waits_longer_than_the_limit_behind_others(rig: CoreRig) -> None:
    """Limits count from arrival: a queue of them does not add up beyond the driver's patience."""
    arrivals = {}
    for _ in range(HOLD_QUEUE_MAX):
        arrivals[rig.send(1, read(rig, "CYCLES"))] = rig.clock.now_ns
        rig.clock.advance(3 * MS)
    answered: dict[int, int] = {}
    for _ in range(2 * HOLD_LIMIT_NS // MS):
        rig.clock.advance(1 * MS)
        rig.executor.tick()
        rig.collect()
        for seq in arrivals:
            if seq not in answered and rig.answer(seq) is not None:
                answered[seq] = rig.clock.now_ns
    assert answered.keys() == arrivals.keys()
    for seq, arrived_ns in arrivals.items():
        assert answered[seq] - arrived_ns <= HOLD_LIMIT_NS + 1 * MS < TRAP_TIMEOUT_NS


def test_when_one_is_given_up_those_behind_it_go_on(rig: CoreRig) -> None:
    """What then happens to lines and doorbells is noticed, although its vcoproc is out."""
    rig.platform.contexts[1].program.append(Raise(1))
    rig.grant(1, now=True)
    rig.settle()
    assert rig.said(LineLevel)[-1].high
    rig.grant(2, now=True)
    held = rig.send(1, read(rig, "CYCLES"))
    clears = rig.post(1, "IRQ_STATUS", 1)
    rings = rig.post(1, "DOORBELL", job(1))
    rig.clock.advance(HOLD_LIMIT_NS)
    rig.executor.tick()
    rig.collect()
    assert error_of(rig.answer(held)) == "HOLD_TIMEOUT"
    assert rig.answer(clears) is None and rig.answer(rings) is None
    last = rig.said(LineLevel)[-1]
    assert (last.vcoproc, last.line, last.high) == (1, IRQ_LINE, False)
    assert rig.vcoproc(1).replay
    assert rig.vcoproc(1).told_runnable


def test_the_queue_of_held_accesses_is_bounded(rig: CoreRig) -> None:
    sent = [rig.send(1, read(rig, "CYCLES")) for _ in range(HOLD_QUEUE_MAX)]
    assert error_of(rig.read(1, "DONE")) == "QUEUE_FULL"
    rig.grant(1, now=True)
    assert all(isinstance(rig.answer(seq), Reply) for seq in sent)


def test_a_fault_answers_what_waits_for_the_one_that_faulted() -> None:
    """Nothing can be held when it faults, since it is on the hardware; but later it could be."""
    rig = CoreRig()
    rig.attach(1, 2)
    rig.hog(2)
    rig.program(1, Crash())
    rig.grant(1)
    rig.settle()
    rig.grant(2)
    assert error_of(rig.read(1, "CYCLES")) == "VCOPROC_FAULTED"
    assert error_of(rig.write(1, "DOORBELL", job(1))) == "VCOPROC_FAULTED"
    rig.write(1, "CONTROL", 0)
    rig.write(1, "CONTROL", 1)
    assert isinstance(rig.write(1, "DOORBELL", job(1)), Reply), "a reset has cured it"


def test_destroying_a_vcoproc_answers_what_it_holds(rig: CoreRig) -> None:
    held = rig.send(1, read(rig, "CYCLES"))
    behind = rig.send(1, read(rig, "DONE"))
    posted = rig.post(1, "DOORBELL", job(1))
    rig.detach(1)
    for seq in (held, behind, posted):
        assert error_of(rig.answer(seq)) == "NOT_FOUND"


# --- batches --------------------------------------------------------------------------------------


def test_an_empty_batch_is_a_fence(rig: CoreRig) -> None:
    fence = rig.send(1, Batch(()))
    assert rig.answer(fence) == Reply(fence, ())
    held = rig.send(1, read(rig, "CYCLES"))
    fence = rig.send(1, Batch(()))
    assert rig.answer(fence) is None
    rig.grant(1, now=True)
    assert rig.answer(held) == Reply(held, (0,))
    assert rig.answer(fence) == Reply(fence, ())


def test_a_batch_with_a_held_access_in_its_middle(rig: CoreRig) -> None:
    seq = rig.send(
        1,
        Batch(
            (
                access(rig, "IRQ_ENABLE", 7),
                access(rig, "IRQ_ENABLE"),
                access(rig, "CYCLES"),
                access(rig, "IRQ_ENABLE", 9),
                access(rig, "HOLD_RW"),
                access(rig, "IRQ_ENABLE"),
            )
        ),
    )
    assert rig.answer(seq) is None
    enable = rig.platform.info.index_of["IRQ_ENABLE"]
    assert rig.platform.contexts[1].spec.shadow[enable] == 7, "what came before it is done"
    rig.grant(1, now=True)
    reset = rig.platform.info.registers[rig.platform.info.index_of["HOLD_RW"]].reset
    assert rig.answer(seq) == Reply(seq, (7, 0, reset, 9))
    assert rig.platform.contexts[1].live[enable] == 9


def test_a_batch_ends_at_its_first_error(rig: CoreRig) -> None:
    seq = rig.send(
        1,
        Batch(
            (
                access(rig, "IRQ_ENABLE", 7),
                access(rig, "DONE", 1),
                access(rig, "IRQ_ENABLE", 9),
            )
        ),
    )
    answer = rig.answer(seq)
    assert isinstance(answer, TrapError)
    assert (answer.index, answer.error) == (1, "BAD_REGISTER")
    assert rig.value(1, "IRQ_ENABLE") == 7


def test_a_batch_given_up_says_where_it_stood(rig: CoreRig) -> None:
    seq = rig.send(1, Batch((access(rig, "DONE"), access(rig, "CYCLES"), access(rig, "DONE"))))
    rig.clock.advance(HOLD_LIMIT_NS)
    rig.executor.tick()
    rig.collect()
    answer = rig.answer(seq)
    assert isinstance(answer, TrapError)
    assert (answer.index, answer.error) == (1, "HOLD_TIMEOUT")


def test_a_batch_of_the_largest_size(rig: CoreRig) -> None:
    seq = rig.send(1, Batch((access(rig, "ID"),) * BATCH_OPS_MAX))
    assert rig.answer(seq) == Reply(seq, (0x454B_4146,) * BATCH_OPS_MAX)


def test_more_doorbells_in_a_batch_than_the_queue_takes(rig: CoreRig) -> None:
    seq = rig.send(1, Batch((access(rig, "DOORBELL", job(0)),) * (REPLAY_QUEUE_MAX + 1)))
    answer = rig.answer(seq)
    assert isinstance(answer, TrapError)
    assert (answer.index, answer.error) == (REPLAY_QUEUE_MAX, "QUEUE_FULL")


# --- sessions -------------------------------------------------------------------------------------


def test_an_answer_goes_to_the_session_that_asked(rig: CoreRig) -> None:
    """A driver that comes back must not get answers to what it asked in its life before."""
    rig.executor.trap(rig.vcoproc(1), "old", 7, read(rig, "CYCLES"))
    rig.executor.trap(rig.vcoproc(1), "old", 8, Post(*rig.address("DOORBELL"), job(1)))
    rig.executor.trap(rig.vcoproc(1), "new", 7, read(rig, "ID"))
    rig.collect()
    rig.grant(1, now=True)
    assert rig.replies == [("old", Reply(7, (0,))), ("new", Reply(7, (0x454B_4146,)))]
    assert rig.platform.contexts[1].rung == [job(1)], "the old doorbell still rings"
