"""Rows of results, as JSON and as a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import zmq

from bench.stats import Ratio, Series, ratio

NS_PER_US: Final = 1000
_HEADINGS: Final = ("what", "unit", "p50", "p99", "floor", "ratio", "goal", "met", "beside")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    section: what `--only` selects it by. p50, p99: in `unit`; p99 is None where there is one value.
    floor: median of `floor_what` in the same unit. ratio: of the medians, round by round.
    goal, met: empty and None for a figure without a goal.
    """

    section: str
    what: str
    unit: str
    p50: float
    p99: float | None = None
    floor_what: str = ""
    floor: float | None = None
    ratio: Ratio | None = None
    goal: str = ""
    met: bool | None = None
    samples: int = 1

    def with_limit(self, limit: float) -> Row:
        """The same figure with the goal that its median stays below `limit`."""
        return replace(self, goal=f"< {limit:g} {self.unit}", met=self.p50 < limit)


def timed_row(
    section: str,
    what: str,
    subject: Series,
    floor: Series,
    floor_what: str,
    *,
    ratio_max: float | None = None,
    unit: str = "us",
) -> Row:
    """A row from samples in nanoseconds. ratio_max: the goal; unit: us, or ns."""
    scale = NS_PER_US if unit == "us" else 1
    found = ratio(subject, floor)
    return Row(
        section,
        what,
        unit,
        subject.p50 / scale,
        subject.p99 / scale,
        floor_what,
        floor.p50 / scale,
        found,
        "" if ratio_max is None else f"ratio <= {ratio_max:g}",
        None if ratio_max is None else found.value <= ratio_max,
        len(subject.samples),
    )


def to_json(rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    """Everything, for programs. Keys are those of `Row`."""
    return {"machine": machine(), **more, "rows": [asdict(row) for row in rows]}


def to_text(rows: Sequence[Row]) -> str:
    """The table for people."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    lines = ["  ".join(map(_pad, line, widths, range(len(widths)))).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _pad(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if _HEADINGS[column] in ("p50", "p99", "floor") else cell.ljust(width)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        row.unit,
        _number(row.p50),
        _number(row.p99),
        _number(row.floor),
        "" if row.ratio is None else _ratio(row.ratio),
        row.goal,
        {True: "yes", False: "NO", None: ""}[row.met],
        row.floor_what,
    )


def _ratio(found: Ratio) -> str:
    return f"{found.value:.3g} ({found.low:.3g}..{found.high:.3g})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"
