"""`python -m bench`: measures, prints the table and writes the JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.effort import FULL, QUICK, Effort
from bench.interrupts import interrupts
from bench.processes import idle, starts
from bench.rig import rig
from bench.scheduling import scheduling
from bench.sharing import sharing
from bench.switches import switches
from bench.table import Row, to_json, to_text
from bench.toolstack import toolstack
from bench.traps import batched, mapped, posted, traps
from bench.watching import watching
from vcoproc.limits import S

IN_ONE_CLUSTER: Final = ("trap", "post", "batch", "mapped", "irq", "idle", "watch")
SECTIONS: Final = (*IN_ONE_CLUSTER, "switch", "sharing", "sched", "toolstack", "start")


def measure(sections: list[str], effort: Effort) -> Iterator[list[Row]]:
    """The rows of each section, as they come."""
    wanted = [section for section in IN_ONE_CLUSTER if section in sections]
    if wanted:
        with rig() as cluster:
            guest, busy = cluster.guest("driver", "hello"), cluster.guest("busy", "spin")
            guest.start()
            by_section = {
                "trap": lambda: traps(cluster, guest, busy, effort),
                "post": lambda: posted(cluster, guest, effort),
                "batch": lambda: batched(cluster, guest, effort),
                "mapped": lambda: mapped(guest, effort),
                "irq": lambda: interrupts(cluster, guest, effort),
                "idle": lambda: idle(cluster, effort),
                "watch": lambda: watching(cluster, effort),
            }
            for section in wanted:
                yield by_section[section]()
    if "switch" in sections:
        yield switches(effort)
    if "sharing" in sections:
        yield sharing(effort)
    if "sched" in sections:
        yield scheduling(effort)
    if "toolstack" in sections:
        yield toolstack(effort)
    if "start" in sections:
        yield starts(effort)


def main(arguments: list[str] | None = None) -> int:
    """Gives 0 even when a goal is missed: a figure of a busy machine is no test."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples, about 50 s")
    parser.add_argument("--only", default=",".join(SECTIONS), help="of: %(default)s")
    parser.add_argument("--json", type=Path, default=Path("bench-out/bench.json"), metavar="FILE")
    options = parser.parse_args(arguments)
    sections = [section.strip() for section in options.only.split(",")]
    if unknown := [section for section in sections if section not in SECTIONS]:
        parser.error(f"no such section: {', '.join(unknown)}")
    began_ns = time.monotonic_ns()
    rows: list[Row] = []
    for found in measure(sections, QUICK if options.quick else FULL):
        rows += found
        print(f"{found[0].section}: {len(found)} figures", file=sys.stderr, flush=True)
    elapsed_s = (time.monotonic_ns() - began_ns) // S
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = to_json(rows, quick=options.quick, elapsed_s=elapsed_s)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(to_text(rows))
    missed = [row.what for row in rows if row.met is False]
    print(f"\n{elapsed_s} s; {options.json}; goals missed: {', '.join(missed) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
