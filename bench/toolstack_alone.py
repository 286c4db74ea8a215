"""The toolstack's own share of a creation: no other process, no gRPC, services that do nothing.

What grows with the number of domains shows here. Run as a program
(`python -m bench.toolstack_alone`) it tells where the time goes.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.many import VCOPROCS, coprocs_for, domain_file, write_many
from bench.rig import scratch
from bench.stats import Series
from bench.table import Row
from vcoproc.config import parse_system
from vcoproc.limits import MS, VCOPROCS_PER_COPROC_MAX
from vcoproc.runtime.logs import Log
from vcoproc_toolstack import translate
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.records import (
    CoprocAccount,
    CoprocView,
    DomainRecord,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    RouterView,
)
from vcoproc_toolstack.steps import MakeMemory, RemoveMemory, Step
from vcoproc_toolstack.store import Store
from vcoproc_toolstack.turns import Request

_M4: Final = "vcoproc,cortex-m4"
_PLATFORM: Final = PlatformRecord(
    compatible=_M4,
    ranges=(PlatformRange("ctrl", 0x1000, False), PlatformRange("mbox", 0x1000, True)),
    lines=(PlatformLine("irq", True), PlatformLine("event", False), PlatformLine("fault", True)),
    registers=(),
    contexts_max=VCOPROCS_PER_COPROC_MAX,
)
_OPENED: Final = 5
_PROFILED: Final = 50


class NoServices:
    """Implements `ports.Services` for nobody. Memory files are made."""

    def __init__(self, memory: MemoryDir) -> None:
        self._memory = memory

    def perform(self, step: Step) -> None:
        match step:
            case MakeMemory():
                self._memory.make(step)
            case RemoveMemory():
                self._memory.remove(step.file_name)

    def accounts(self, timeout_ns: int) -> tuple[CoprocAccount, ...]:
        return ()

    def router(self) -> RouterView:
        return RouterView(frozenset(), {})

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        return CoprocView(0, 0, ())


class Alone:
    """A toolstack with nobody to speak to."""

    def __init__(self, folder: Path, tree: str) -> None:
        self._path = folder / "store.db"
        (folder / "memory").mkdir()
        memory = MemoryDir(folder / "memory")
        leases = Leases(parse_system(tree, "many.dts"))
        for name in leases.coprocs:
            leases.take(Offer(name, "unix:/nowhere", "ipc:///nowhere", "bench", {_M4: _PLATFORM}))
        self._store = Store(self._path, time.time_ns)
        self._changes = Changes(
            self._store, leases, NoServices(memory), memory, Log("bench"), mark=lambda _name: None
        )

    def create(self, name: str, text: str) -> None:
        self._changes.create_domain(text, name, Request(name, b""), _seal)

    def open_ms(self) -> float:
        """How long a new toolstack takes to read the store."""
        self._store.close()
        began_ns = time.monotonic_ns()
        self._store = Store(self._path, time.time_ns)
        return (time.monotonic_ns() - began_ns) / MS

    def close(self) -> None:
        self._store.close()


def _seal(domain: DomainRecord) -> bytes:
    return translate.domain_message(domain, {}).SerializeToString()


@contextmanager
def _alone(tree: str) -> Iterator[Alone]:
    with scratch() as folder:
        toolstack = Alone(folder, tree)
        try:
            yield toolstack
        finally:
            toolstack.close()


def _number(toolstack: Alone, number: int, coprocs: int) -> None:
    name = f"d{number}"
    toolstack.create(name, domain_file(name, number * VCOPROCS, coprocs))


def alone(domains: int) -> list[Row]:
    """Creates so many domains, and reads them."""
    coprocs = coprocs_for(domains)
    took = Series()
    with _alone(write_many(coprocs)) as toolstack:
        for number in range(domains):
            began_ns = time.monotonic_ns()
            _number(toolstack, number, coprocs)
            took.add_round([(time.monotonic_ns() - began_ns) / MS])
        opened = Series([[toolstack.open_ms() for _ in range(_OPENED)]])
    tenth = max(1, domains // 10)
    first, last = Series(took.rounds[:tenth]), Series(took.rounds[-tenth:])
    what = "toolstack alone: "
    return [
        Row("toolstack", f"{what}create one of the first tenth", "ms", first.p50, first.p99),
        Row("toolstack", f"{what}create one of the last tenth", "ms", last.p50, last.p99),
        Row("toolstack", f"{what}read a store of {domains} domains", "ms", opened.p50),
    ]


def main() -> None:
    """Says where the time of a creation goes, beside as many domains as the argument says."""
    domains = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    coprocs = coprocs_for(domains + _PROFILED)
    with _alone(write_many(coprocs)) as toolstack:
        for number in range(domains):
            _number(toolstack, number, coprocs)
        profile = cProfile.Profile()
        with profile:
            for number in range(domains, domains + _PROFILED):
                _number(toolstack, number, coprocs)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(50)


if __name__ == "__main__":
    main()
