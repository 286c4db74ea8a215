"""Where the processes of a measurement run.

A domain and its coprocessor have a core each, as on real hardware: the measuring process is the
domain. Left to itself, the kernel puts both ends of a quick exchange now on one core, where a
wakeup costs a third, and now on two; a subject and its floor would be compared across that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cores() -> tuple[int, int] | None:
    """(core of the domain, core of the coprocessor), or None where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else None


def pin(pid: int, cpus: set[int]) -> None:
    """Puts every thread of a process on these cores. Threads that it starts later follow."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cpus)
        except ProcessLookupError:
            continue  # the thread has ended meanwhile


@contextmanager
def on_two_cores(domain_pids: list[int], coproc_pids: list[int]) -> Iterator[None]:
    """Pins us and `domain_pids` to the domain's core, `coproc_pids` to the coprocessor's."""
    places = cores()
    if places is None:
        yield
        return
    everywhere = os.sched_getaffinity(0)
    domain_pids = [os.getpid(), *domain_pids]
    for pid in domain_pids:
        pin(pid, {places[0]})
    for pid in coproc_pids:
        pin(pid, {places[1]})
    try:
        yield
    finally:
        for pid in (*domain_pids, *coproc_pids):
            if Path(f"/proc/{pid}").exists():
                pin(pid, everywhere)
