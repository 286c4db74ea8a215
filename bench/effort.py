"""How much is measured: everything in some five minutes, or a quick look in fifty seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vcoproc.limits import MS, S


@dataclass(frozen=True, slots=True)
class Effort:
    """Sizes of the measurements.

    rounds, samples: of the exchanges, and how many in each round. switch_ns: how long switches are
    collected. work_ns, work_rounds: one measurement of total work, and how often. shares: (domains,
    slice in us). starts: of the cluster. idle_ns: how long idle processes are watched. share_ns:
    how long shares are compared with weights. swap_ns: how long algorithms are swapped.
    domains: that the toolstack has at once. changes: domains made and unmade in each round while
    events are watched.
    """

    rounds: int
    samples: int
    switch_ns: int
    work_ns: int
    work_rounds: int
    shares: tuple[tuple[int, int], ...]
    starts: int
    idle_ns: int
    share_ns: int
    swap_ns: int
    domains: int
    changes: int


FULL: Final = Effort(
    rounds=15,
    samples=400,
    switch_ns=2 * S,
    work_ns=150 * MS,
    work_rounds=13,
    shares=(
        *((domains, 1000) for domains in (2, 4, 8, 16)),
        *((domains, 5000) for domains in (2, 3, 4, 8, 16)),
        *((domains, 10_000) for domains in (2, 4, 8, 16)),
    ),
    starts=5,
    idle_ns=10 * S,
    share_ns=10 * S,
    swap_ns=60 * S,
    domains=1000,
    changes=20,
)
QUICK: Final = Effort(
    rounds=5,
    samples=200,
    switch_ns=500 * MS,
    work_ns=150 * MS,
    work_rounds=6,
    shares=((3, 5000), (4, 1000)),
    starts=2,
    idle_ns=2 * S,
    share_ns=3 * S,
    swap_ns=5 * S,
    domains=50,
    changes=10,
)
