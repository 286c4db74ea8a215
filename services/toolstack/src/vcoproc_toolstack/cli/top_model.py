"""What `vcoproc top` shows: rates out of two looks at the counters, filtered and sorted. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vcoproc.api.v1 import cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client.names import short_name
from vcoproc.limits import S


@dataclass(frozen=True, slots=True)
class Rates:
    """What somebody did between two looks. None: nobody can tell yet.

    share, wait: parts of the time, 0.0 to 1.0; of a coproc, share is the part in which it had a
    vcoproc, and wait the count of vcoprocs that waited on average. The others are per second.
    """

    share: float | None = None
    wait: float | None = None
    switches: float | None = None
    refusals: float | None = None
    traps: float | None = None
    interrupts: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A vcoproc. name: DOMAIN/VCOPROC. state: without its prefix."""

    name: str
    state: str
    current: bool
    rates: Rates


@dataclass(frozen=True, slots=True)
class Group:
    """A coproc with its vcoprocs. current: DOMAIN/VCOPROC, or empty."""

    name: str
    state: str
    scheduler: str
    current: str
    rates: Rates
    rows: tuple[Row, ...]


SORT_KEYS: Final = ("name", "share", "wait", "switches", "refusals", "traps", "interrupts")


def groups(
    now: cluster_pb2.Statistics,
    before: cluster_pb2.Statistics | None,
    *,
    sort: str = "name",
    reverse: bool = False,
    pattern: str = "",
) -> list[Group]:
    """All coprocs with their vcoprocs.

    Args:
        before: an earlier look; None for the first one, which has no rates.
        sort: one of `SORT_KEYS`; vcoprocs are sorted within their coproc.
        pattern: only vcoprocs whose name has this text, or matches it if it has a "*"; coprocs
            without any such vcoproc are left out, unless their own name matches.
    """
    elapsed_ns = now.clock_ns - before.clock_ns if before is not None else 0
    old_coprocs = {each.coproc: each for each in before.coprocs} if before is not None else {}
    found = []
    for coproc in now.coprocs:
        old = old_coprocs.get(coproc.coproc)
        group = _group(coproc, old, elapsed_ns)
        rows = tuple(row for row in group.rows if _matches(row.name, pattern))
        if pattern and not rows and not _matches(group.name, pattern):
            continue
        rows = tuple(sorted(rows, key=lambda row: _key(row.name, row.rates, sort)))
        if reverse:
            rows = rows[::-1]
        found.append(
            Group(group.name, group.state, group.scheduler, group.current, group.rates, rows)
        )
    found.sort(key=lambda group: _key(group.name, group.rates, sort), reverse=reverse)
    return found


def _group(
    coproc: cluster_pb2.CoprocStatistics,
    old: cluster_pb2.CoprocStatistics | None,
    elapsed_ns: int,
) -> Group:
    old_vcoprocs: Mapping[str, cluster_pb2.VcoprocStatistics] = (
        {each.vcoproc: each for each in old.vcoprocs} if old is not None else {}
    )
    rows = tuple(
        Row(
            short_name(each.vcoproc),
            api.Vcoproc.State.Name(each.state).removeprefix("STATE_"),
            each.vcoproc == coproc.current_vcoproc,
            _vcoproc_rates(each, old_vcoprocs.get(each.vcoproc), elapsed_ns),
        )
        for each in coproc.vcoprocs
    )
    return Group(
        short_name(coproc.coproc),
        api.Coproc.State.Name(coproc.state).removeprefix("STATE_"),
        coproc.scheduler,
        short_name(coproc.current_vcoproc),
        _coproc_rates(coproc, old, rows, elapsed_ns),
        rows,
    )


def _vcoproc_rates(
    now: cluster_pb2.VcoprocStatistics, old: cluster_pb2.VcoprocStatistics | None, elapsed_ns: int
) -> Rates:
    if old is None or elapsed_ns <= 0:
        return Rates()
    mine, theirs = now.accounting, old.accounting
    known = now.HasField("accounting") and old.HasField("accounting")
    return Rates(
        share=_part(mine.run_ns - theirs.run_ns, elapsed_ns) if known else None,
        wait=_part(mine.wait_ns - theirs.wait_ns, elapsed_ns) if known else None,
        switches=_rate(mine.switch_count - theirs.switch_count, elapsed_ns) if known else None,
        refusals=_rate(now.refusal_count - old.refusal_count, elapsed_ns) if known else None,
        traps=_rate(now.trap_count - old.trap_count, elapsed_ns),
        interrupts=_rate(now.interrupt_count - old.interrupt_count, elapsed_ns),
    )


def _coproc_rates(
    now: cluster_pb2.CoprocStatistics,
    old: cluster_pb2.CoprocStatistics | None,
    rows: tuple[Row, ...],
    elapsed_ns: int,
) -> Rates:
    if old is None or elapsed_ns <= 0:
        return Rates()
    shares = [row.rates.share for row in rows if row.rates.share is not None]
    waits = [row.rates.wait for row in rows if row.rates.wait is not None]
    refusals = [row.rates.refusals for row in rows if row.rates.refusals is not None]
    return Rates(
        share=min(1.0, sum(shares)),
        wait=sum(waits),
        switches=_rate(now.switch_count - old.switch_count, elapsed_ns),
        refusals=sum(refusals),
        traps=_rate(now.trap_count - old.trap_count, elapsed_ns),
        interrupts=_rate(now.interrupt_count - old.interrupt_count, elapsed_ns),
    )


def _part(time_ns: int, elapsed_ns: int) -> float:
    # Both clocks are read at slightly different times.
    return min(1.0, max(0, time_ns) / elapsed_ns)


def _rate(count: int, elapsed_ns: int) -> float:
    # A counter that fell belongs to a service that has begun anew.
    return max(0, count) * S / elapsed_ns


def _matches(name: str, pattern: str) -> bool:
    if "*" in pattern:
        return fnmatch.fnmatchcase(name, pattern)
    return pattern in name


def _key(name: str, rates: Rates, sort: str) -> tuple[float, str]:
    """The busiest first, and names in their order."""
    value = None if sort == "name" else getattr(rates, sort)
    return (0.0 if value is None else -value, name)
