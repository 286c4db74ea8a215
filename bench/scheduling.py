"""What the scheduler keeps of its word in real time: shares, slices, and swaps of the algorithm."""

from __future__ import annotations

import itertools
import time
from typing import Final

from bench.effort import Effort
from bench.pausing import pause
from bench.rig import Guest, Rig, rig
from bench.stats import Series
from bench.table import Row
from vcoproc.limits import MS, US, S
from vcoproc.wire.messages import EndReason

WEIGHTS: Final = {"light": 128, "middle": 256, "heavy": 512}
SHARE_ERROR_MAX: Final = 1.0
"""Per cent of the coprocessor."""
OVERRUN_US_MAX: Final = 1000
SWAP_EVERY_NS: Final = 100 * MS
SWAPPED: Final = ("credit", "priority", "rr")
_SETTLE_NS: Final = 300 * MS
_ALL_BITS: Final = 0xFFFF_FFFF
_COUNT_WORD: Final = 8


def scheduling(effort: Effort) -> list[Row]:
    """Weights, slices and swaps, each on a cluster of its own."""
    return [*_weights(effort), _swaps(effort)]


def _weights(effort: Effort) -> list[Row]:
    with rig(slice_us=5000, algorithm="credit") as cluster:
        for name, weight in WEIGHTS.items():
            cluster.guest(name, "spin", f",weight={weight}").start()
        pause(_SETTLE_NS)
        before = cluster.run_ns()
        clock_ns = max(turn.ended_ns for turn in cluster.turns(0))
        pause(effort.share_ns)
        after = cluster.run_ns()
        turns = cluster.turns(clock_ns)
    ran = {name: after[name] - before[name] for name in WEIGHTS}
    errors = [
        abs(100 * ran[name] / sum(ran.values()) - 100 * weight / sum(WEIGHTS.values()))
        for name, weight in WEIGHTS.items()
    ]
    overruns = Series(
        [
            [
                (turn.ended_ns - turn.began_ns - turn.planned_ns) / US
                for turn in turns
                if turn.end == EndReason.SLICE
            ]
        ]
    )
    seconds = effort.share_ns // S
    return [
        Row(
            "sched",
            f"share error, credit, weights 1:2:4, {seconds} s",
            "%",
            max(errors),
            goal=f"<= {SHARE_ERROR_MAX:g} %",
            met=max(errors) <= SHARE_ERROR_MAX,
        ),
        Row(
            "sched",
            "slice overrun",
            "us",
            overruns.p50,
            overruns.p99,
            goal=f"p99 < {OVERRUN_US_MAX} us",
            met=overruns.p99 < OVERRUN_US_MAX,
            samples=len(turns),
        ),
    ]


def _swaps(effort: Effort) -> Row:
    """A driver counts answers while the algorithm changes under it and two others compute."""
    with rig(slice_us=1000) as cluster:
        polite = cluster.guest("polite", "hello")
        for name in ("hog", "glutton"):
            cluster.guest(name, "spin").start()
        polite.start()
        swaps, lost = _swap_and_ring(cluster, polite, effort.swap_ns)
    return Row(
        "sched",
        f"lost in {swaps} swaps of the algorithm, one every 100 ms",
        "",
        lost,
        goal="none lost",
        met=lost == 0,
        samples=swaps,
    )


def _swap_and_ring(cluster: Rig, guest: Guest, duration_ns: int) -> tuple[int, int]:
    algorithms = itertools.cycle(SWAPPED)
    counted = guest.vcoproc.mapped("mbox").cast("I")
    swaps = rings = 0
    began_ns = time.monotonic_ns()
    while (now_ns := time.monotonic_ns()) < began_ns + duration_ns:
        if now_ns >= began_ns + swaps * SWAP_EVERY_NS:
            cluster.set_algorithm(next(algorithms))
            swaps += 1
        guest.vcoproc.write32("DOORBELL", 1)
        rings += 1
        interrupt = guest.domain.wait_irq()
        if interrupt is None:
            break
        guest.vcoproc.write32("IRQ_STATUS", _ALL_BITS)
        guest.domain.eoi(interrupt)
    return swaps, rings - counted[_COUNT_WORD]
