"""Context switches inside coproc-sim, by phase, against what no switch can leave out."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from typing import Any, Final

import unicorn
from unicorn import arm_const as arm
from unicorn import unicorn_const as ucc

from bench.effort import Effort
from bench.pausing import pause
from bench.rig import Rig, rig
from bench.stats import Series
from bench.table import Row, timed_row
from vcoproc.internal.v1 import control_pb2
from vcoproc.limits import KIB, MIB, MS, US

PRIVATE_SIZES: Final = (64 * KIB, 1 * MIB)
GOAL_NS: Final = 100 * US
"""At the median, with 64 KiB."""
ROUNDS: Final = 5
SLICE_US: Final = 1000
_FLOOR_SAMPLES: Final = 200
_PHASES: Final[tuple[tuple[str, Callable[[control_pb2.Turn], int]], ...]] = (
    ("save", lambda turn: turn.save_ns),
    ("mmu", lambda turn: turn.mmu_ns),
    ("restore", lambda turn: turn.restore_ns),
    ("all", lambda turn: turn.save_ns + turn.mmu_ns + turn.restore_ns),
)


class Bare:
    """The least that a switch does: registers and private memory out, TLB flushed, both in."""

    def __init__(self, private_bytes: int) -> None:
        make: Any = unicorn.Uc  # type: ignore[attr-defined]  # the package has no types
        mode = ucc.UC_MODE_THUMB | ucc.UC_MODE_MCLASS
        self._engine = make(ucc.UC_ARCH_ARM, mode, arm.UC_CPU_ARM_CORTEX_M4)
        self._out, self._in = self._engine.context_save(), self._engine.context_save()
        self._memory = memoryview(mmap.mmap(-1, private_bytes))
        self._out_copy = bytearray(b"\1" * private_bytes)
        self._in_copy = bytearray(b"\2" * private_bytes)

    def times(self) -> tuple[int, int, int]:
        """Nanoseconds of save, mmu and restore."""
        clock = time.perf_counter_ns
        began_ns = clock()
        self._engine.context_update(self._out)
        self._out_copy[:] = self._memory
        saved_ns = clock()
        self._engine.ctl(ucc.UC_CTL_TLB_FLUSH, ucc.UC_CTL_IO_WRITE)
        flushed_ns = clock()
        self._memory[:] = self._in_copy
        self._engine.context_restore(self._in)
        restored_ns = clock()
        return saved_ns - began_ns, flushed_ns - saved_ns, restored_ns - flushed_ns


def switches(effort: Effort) -> list[Row]:
    """Two domains that compute all the time, at slices of 1 ms."""
    return [row for size in PRIVATE_SIZES for row in _of_size(size, effort)]


def _of_size(private_bytes: int, effort: Effort) -> list[Row]:
    names = [name for name, _ in _PHASES]
    found = {name: Series() for name in names}
    floors = {name: Series() for name in names}
    bare = Bare(private_bytes)
    with rig(slice_us=SLICE_US, private_bytes=private_bytes) as cluster:
        for name in ("left", "right"):
            cluster.guest(name, "spin").start()
        last_ns = max((turn.began_ns for turn in cluster.turns(0)), default=0)
        for _ in range(ROUNDS):
            pause(effort.switch_ns // ROUNDS)
            turns = _switched(cluster, last_ns)
            last_ns = turns[-1].began_ns
            for name, phase in _PHASES:
                found[name].add_round([phase(turn) for turn in turns])
            times = [bare.times() for _ in range(_FLOOR_SAMPLES)]
            for place, name in enumerate(names[:3]):
                floors[name].add_round([sample[place] for sample in times])
            floors["all"].add_round([sum(sample) for sample in times])
    size = f"{private_bytes // KIB} KiB" if private_bytes < MIB else f"{private_bytes // MIB} MiB"
    rows = []
    for name in names:
        what = f"switch, {size} private: {name}"
        row = timed_row("switch", what, found[name], floors[name], "copy, save, flush alone")
        if name == "all" and private_bytes == 64 * KIB:
            row = row.with_limit(GOAL_NS / US)
        rows.append(row)
    return rows


def _switched(cluster: Rig, after_ns: int) -> list[control_pb2.Turn]:
    """Turns that ended with a switch."""
    deadline_ns = time.monotonic_ns() + 5000 * MS
    while True:
        turns = [turn for turn in cluster.turns(after_ns) if turn.save_ns and turn.restore_ns]
        if turns:
            return turns
        if time.monotonic_ns() > deadline_ns:
            raise RuntimeError("two domains that compute are not switched")
        pause(50 * MS)
