"""What sharing costs: the total work of many domains against that of one alone.

Time in which the coproc-sim wanted to run and some other program of this machine had the core is
not counted; time in which it waited for anything else, for a grant for example, is.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from bench.effort import Effort
from bench.pausing import pause
from bench.rig import COPROC, Guest, Rig, rig
from bench.stats import Series, ratio
from bench.table import Row
from vcoproc.limits import MS

GOAL: Final = (3, 5000)
"""Domains, and slice in us, for which there is a goal."""
COST_MAX: Final = 0.05
_SETTLE_NS: Final = 30 * MS
"""After a start: the first translation of the firmware's code is not what is measured."""


def sharing(effort: Effort) -> list[Row]:
    """One row for each of `effort.shares`; a cluster for each slice."""
    rows: list[Row] = []
    for slice_us in sorted({slice_us for _, slice_us in effort.shares}):
        counts = [domains for domains, of_slice in effort.shares if of_slice == slice_us]
        with rig(slice_us=slice_us) as cluster:
            guests = [cluster.guest(f"spin{n}", "spin") for n in range(max(counts))]
            guests[0].start()
            rows.append(_one_alone(cluster, slice_us, effort))
            rows += [_share(cluster, guests[:n], slice_us, effort) for n in counts]
    return rows


def _work(cluster: Rig, duration_ns: int) -> float:
    """Millions of instructions a second, of all domains together."""
    pause(_SETTLE_NS)
    began_ns, began = _own_time_ns(cluster), cluster.instructions()
    pause(duration_ns)
    ended_ns, ended = _own_time_ns(cluster), cluster.instructions()
    return (ended - began) * 1000 / (ended_ns - began_ns)


def _own_time_ns(cluster: Rig) -> int:
    """A clock that stands still while the loop of the coproc-sim waits for a core."""
    # The second number: time on the run queue (Documentation/scheduler/sched-stats.rst).
    waited_ns = int(Path(f"/proc/{cluster.pid(COPROC)}/schedstat").read_text().split()[1])
    return time.monotonic_ns() - waited_ns


def _one_alone(cluster: Rig, slice_us: int, effort: Effort) -> Row:
    found = Series([[_work(cluster, effort.work_ns)] for _ in range(effort.work_rounds)])
    what = f"total work of 1 domain, {_ms(slice_us)} slices"
    return Row("sharing", what, "M/s", found.p50, samples=effort.work_rounds)


def _share(cluster: Rig, guests: list[Guest], slice_us: int, effort: Effort) -> Row:
    """The first guest computes all the time; the others are started and stopped, round by round."""
    has_goal = (len(guests), slice_us) == GOAL
    rounds = effort.work_rounds * (2 if has_goal else 1)
    shared, alone = Series(), Series()
    for _ in range(rounds):
        alone.add_round([_work(cluster, effort.work_ns)])
        for guest in guests[1:]:
            guest.start()
        shared.add_round([_work(cluster, effort.work_ns)])
        for guest in guests[1:]:
            guest.stop()
    found = ratio(shared, alone)
    return Row(
        "sharing",
        f"total work of {len(guests)} domains, {_ms(slice_us)} slices",
        "M/s",
        shared.p50,
        floor_what="one domain alone",
        floor=alone.p50,
        ratio=found,
        goal=f"ratio >= {1 - COST_MAX:g}" if has_goal else "",
        met=found.value >= 1 - COST_MAX if has_goal else None,
        samples=rounds,
    )


def _ms(slice_us: int) -> str:
    return f"{slice_us // 1000} ms"
