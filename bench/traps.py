"""The driver's paths: trap round trip, posted and batched writes, mapped access."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from bench.effort import Effort
from bench.floors import Echo, echo
from bench.placing import cores, on_two_cores
from bench.rig import Guest, Rig
from bench.stats import Series
from bench.table import NS_PER_US, Row, timed_row
from vcoproc.limits import TRAP_CREDIT
from vcoproc.wire.codec import encode
from vcoproc.wire.messages import Batch, Message, Post, Read, Reply

TRAP_RATIO_MAX: Final = 1.3
BURST_INSTRUCTIONS: Final = 20_000
"""Of coproc-sim: what it executes between two looks at its sockets."""
REGISTER: Final = "IRQ_STATUS"
"""What a driver reads first in every interrupt."""
POSTS: Final = 128
"""Below the credit of a driver, so that no credit is waited for."""
BATCH: Final = 64
WORDS: Final = 1000
assert POSTS < TRAP_CREDIT


def _frame(message: Message) -> bytes:
    return encode(message, credit=TRAP_CREDIT, epoch=0x9E37_79B9, seq=1000, ack=999)


def _times(action: Callable[[], object], count: int) -> list[float]:
    """Nanoseconds of each of `count` calls."""
    clock = time.perf_counter_ns
    found: list[float] = []
    for _ in range(count):
        began_ns = clock()
        action()
        found.append(clock() - began_ns)
    return found


def _in_turn(
    subject: Callable[[], object], floor: Callable[[], object], rounds: int, count: int
) -> tuple[Series, Series]:
    """Measures both, round by round; the first round of each is for warming up."""
    found = (Series(), Series())
    for number in range(rounds + 1):
        for series, action in zip(found, (subject, floor), strict=True):
            samples = _times(action, count)
            if number:
                series.add_round(samples)
    return found


def traps(rig: Rig, guest: Guest, busy: Guest, effort: Effort) -> list[Row]:
    """Trap round trip, with the coprocessor idle and busy, against a bare echo."""
    status = guest.vcoproc.address(REGISTER)
    request = _frame(Read(status.place, status.offset, status.width_bytes))
    replies = {request: _frame(Reply(1000, (0,)))}

    def trap() -> int:
        return guest.vcoproc.read32(REGISTER)

    with echo(rig.scratch, replies) as bare:

        def floor() -> None:
            bare.round_trip(request)

        rows = []
        if cores() is not None:
            rows.append(_placed_as_it_falls(trap, floor, effort))
        with on_two_cores(rig.others(), [rig.pid("dsp0"), bare.pid]):
            idle, idle_floor = _in_turn(trap, floor, effort.rounds, effort.samples)
            rows.insert(
                0,
                timed_row(
                    "trap", "trap round trip, coprocessor idle", idle, idle_floor,
                    "bare echo of the same frames", ratio_max=TRAP_RATIO_MAX,
                ),
            )  # fmt: skip
            rows.insert(1, _busy(rig, busy, trap, idle, effort))
    return rows


def _placed_as_it_falls(
    trap: Callable[[], object], floor: Callable[[], object], effort: Effort
) -> Row:
    found, found_floor = _in_turn(trap, floor, effort.rounds, effort.samples)
    what = "trap round trip, cores chosen by the kernel"
    return timed_row("trap", what, found, found_floor, "the same echo, likewise")


def _busy(rig: Rig, busy: Guest, trap: Callable[[], object], idle: Series, effort: Effort) -> Row:
    """A trap while another domain's firmware computes may cost one burst more, and no more."""
    busy.start()
    try:
        began_ns, began = time.perf_counter_ns(), rig.instructions()
        found = Series()
        for _ in range(effort.rounds):
            found.add_round(_times(trap, max(effort.samples // 2, 50)))
        elapsed_ns = time.perf_counter_ns() - began_ns
        burst_ns = BURST_INSTRUCTIONS * elapsed_ns / (rig.instructions() - began)
    finally:
        busy.stop()
    floor = Series([[statistics.median(idle.samples) + burst_ns]] * effort.rounds)
    what = f"idle round trip + one burst of {burst_ns / NS_PER_US:.0f} us"
    return timed_row("trap", "trap round trip, coprocessor busy", found, floor, what, ratio_max=1.0)


def posted(rig: Rig, guest: Guest, effort: Effort) -> list[Row]:
    """Writes that are not answered, ended by one fence; time of each."""
    enable = guest.vcoproc.address("IRQ_ENABLE")
    post = _frame(Post(enable.place, enable.offset, enable.width_bytes, 1))
    fence = _frame(Batch(()))

    def subject() -> None:
        for _ in range(POSTS):
            guest.vcoproc.post32("IRQ_ENABLE", 1)
        guest.vcoproc.flush()

    with echo(rig.scratch, {fence: _frame(Reply(1000, ()))}) as bare:

        def floor() -> None:
            for _ in range(POSTS):
                bare.send(post)
            bare.round_trip(fence)

        with on_two_cores(rig.others(), [rig.pid("dsp0"), bare.pid]):
            found, found_floor = _in_turn(subject, floor, effort.rounds, effort.samples // 20)
    what = f"posted write, one of {POSTS} and a fence"
    beside = "the same frames one way, and an echo"
    return [timed_row("post", what, _each(found, POSTS), _each(found_floor, POSTS), beside)]


def _each(series: Series, count: int) -> Series:
    return Series([[sample / count for sample in samples] for samples in series.rounds])


def batched(rig: Rig, guest: Guest, effort: Effort) -> list[Row]:
    """Writes in one message, against as many single echoes and against the same message."""
    enable = guest.vcoproc.address("IRQ_ENABLE")
    access = (True, enable.place, enable.offset, enable.width_bytes, 1)
    request = _frame(Batch((access,) * BATCH))
    single = _frame(Read(enable.place, enable.offset, enable.width_bytes))
    replies = {request: _frame(Reply(1000, ())), single: _frame(Reply(1000, (0,)))}

    def subject() -> None:
        batch = guest.vcoproc.batch()
        for _ in range(BATCH):
            batch.write32("IRQ_ENABLE", 1)
        batch.run()

    with (
        echo(rig.scratch, replies) as bare,
        on_two_cores(rig.others(), [rig.pid("dsp0"), bare.pid]),
    ):
        count = effort.samples // 4
        same = _in_turn(subject, lambda: bare.round_trip(request), effort.rounds, count)
        many = _in_turn(subject, lambda: _echo_many(bare, single), effort.rounds, count // 10)
    what = f"batch of {BATCH} writes"
    return [
        timed_row("batch", what, *many, f"{BATCH} bare echoes of one access"),
        timed_row("batch", what, *same, "bare echo of the same frames"),
    ]


def _echo_many(bare: Echo, frame: bytes) -> None:
    for _ in range(BATCH):
        bare.round_trip(frame)


def mapped(guest: Guest, effort: Effort) -> list[Row]:
    """Words of a mapped range, against words of any memory."""
    range_words = guest.vcoproc.mapped("mbox").cast("I")
    plain_words = memoryview(bytearray(len(range_words) * 4)).cast("I")
    rows = []
    for what, action in (("read", _read_words), ("write", _write_words)):
        found, floor = _in_turn(
            lambda action=action: action(range_words),  # type: ignore[misc]
            lambda action=action: action(plain_words),  # type: ignore[misc]
            effort.rounds,
            effort.samples,
        )
        rows.append(
            timed_row(
                "mapped", f"{what} of a mapped word", _each(found, WORDS), _each(floor, WORDS),
                "the same of plain memory", unit="ns",
            )
        )  # fmt: skip
    return rows


def _read_words(words: memoryview) -> None:
    for _ in range(WORDS):
        words[40]


def _write_words(words: memoryview) -> None:
    for _ in range(WORDS):
        words[40] = 1
