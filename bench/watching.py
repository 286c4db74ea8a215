"""How far behind a change its event is, for one watcher and for many."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.effort import Effort
from bench.rig import Rig
from bench.stats import Series, ratio
from bench.table import Row
from vcoproc.limits import MS

WATCHERS: Final = 50
BEHIND_MS_MAX: Final = 50
_ROOT: Final = Path(__file__).resolve().parents[1]


def watching(rig: Rig, effort: Effort) -> list[Row]:
    """The time from a change, made durable, until the last watcher has its event."""
    many, one = Series(), Series()
    for number in range(effort.rounds):
        for series, count in ((many, WATCHERS), (one, 1)):
            with _watchers(rig, count) as behind_ms:
                samples = []
                for each in range(effort.changes):
                    with rig.bare_domain(f"w{number}-{each}"):
                        samples.append(behind_ms())
                    samples.append(behind_ms())
                series.add_round(samples)
    return [
        Row(
            "watch",
            f"event behind its change, to the last of {WATCHERS} watchers",
            "ms",
            many.p50,
            many.p99,
            "the same to one watcher",
            one.p50,
            ratio(many, one),
            f"p99 < {BEHIND_MS_MAX} ms",
            many.p99 < BEHIND_MS_MAX,
            len(many.samples),
        )
    ]


@contextmanager
def _watchers(rig: Rig, count: int) -> Iterator[Callable[[], float]]:
    """That many watchers; gives what waits for the next event and tells how far behind it was."""
    command = (sys.executable, "-m", "bench.watchers", rig.target, str(count))
    with subprocess.Popen(
        command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        told = child.stdout
        assert told.readline() == "ready\n"
        yield lambda: int(told.readline()) / MS
        child.stdin.close()
