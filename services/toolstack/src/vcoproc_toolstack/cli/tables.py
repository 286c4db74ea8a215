"""Answers of the cluster as tables for people. On no terminal: no colours, nothing cut off."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api

_GOOD = ("ONLINE", "RUNNING")
_BAD = ("FAULTED", "FAILED", "LOST", "OFFLINE")
_WIDTH_OF_A_PIPE = 10_000
"""Columns are never folded for a program that reads them."""


def console() -> Console:
    """Where tables go."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, no_color=True, width=_WIDTH_OF_A_PIPE)


def show(headings: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Prints a table, or a sentence when it has no rows. A heading with > is of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify: Any = "right" if heading.endswith(">") else "left"
        table.add_column(heading.rstrip(">"), justify=justify)
    for row in rows:
        table.add_row(*(_coloured(cell) for cell in row))
    out = console()
    out.print(table if table.row_count else empty)


def _coloured(cell: str) -> Text:
    style = "green" if cell in _GOOD else "red" if cell in _BAD else ""
    return Text(cell, style=style)


def _last(resource: str) -> str:
    return resource.rpartition("/")[2]


def _enum(name: str) -> str:
    """ "STATE_RUNNING" without the part that the column says already."""
    word = name.partition("_")[2]
    return "-" if word == "UNSPECIFIED" else word


def _size(size_bytes: int) -> str:
    for unit, name in ((limits.MIB, "MiB"), (limits.KIB, "KiB")):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def _ms(time_ns: int) -> str:
    return f"{time_ns // limits.MS}.{time_ns % limits.MS // 100_000} ms"


def domains(answer: api.ListDomainsResponse) -> None:
    show(
        ("NAME", "DOMID>", "STATE", "MEMORY>", "VCOPROCS"),
        (
            (
                _last(domain.name),
                str(domain.domid),
                _enum(api.Domain.State.Name(domain.state)),
                _size(domain.memory_bytes),
                ", ".join(_last(vcoproc.name) for vcoproc in domain.vcoprocs) or "-",
            )
            for domain in answer.domains
        ),
        empty="no domains; make one with `vcoproc domain create FILE`",
    )


def domain(found: api.Domain) -> None:
    out = console()
    state = _enum(api.Domain.State.Name(found.state))
    out.print(
        f"domain {_last(found.name)}: domid {found.domid}, {state}, {_size(found.memory_bytes)}"
    )
    if found.unknown_keys:
        out.print(f"keys of its file that are not used: {', '.join(found.unknown_keys)}")
    out.print()
    vcoprocs(found.vcoprocs)
    out.print()
    show(
        ("VCOPROC", "PLACE", "WHERE", "KIND"),
        (row for vcoproc in found.vcoprocs for row in _places(vcoproc)),
        empty="",
    )


def _places(vcoproc: api.Vcoproc) -> list[tuple[str, str, str, str]]:
    name = _last(vcoproc.name)
    ranges = [
        (
            name,
            f"range {place.name}",
            f"{place.base_ipa:#010x} +{place.size_bytes:#x}",
            "shared memory" if place.mapped else "trapped",
        )
        for place in vcoproc.ranges
    ]
    lines = [
        (name, f"line {line.name}", f"irq {line.irq}", "level" if line.level else "edge")
        for line in vcoproc.lines
    ]
    return ranges + lines


def vcoprocs(found: Iterable[api.Vcoproc]) -> None:
    show(
        ("NAME", "ID>", "COPROC", "STATE", "RAN>", "WAITED>", "SWITCHES>", "PARAMETERS"),
        (
            (
                vcoproc.name.removeprefix("domains/").replace("/vcoprocs/", "/"),
                str(vcoproc.vcoproc_id),
                _last(vcoproc.coproc),
                _enum(api.Vcoproc.State.Name(vcoproc.state)),
                *_figures(vcoproc),
                " ".join(f"{k}={v}" for k, v in sorted(vcoproc.parameters.items())) or "-",
            )
            for vcoproc in found
        ),
        empty="no vcoprocs",
    )


def _figures(vcoproc: api.Vcoproc) -> tuple[str, str, str]:
    if not vcoproc.HasField("accounting"):
        return ("-", "-", "-")
    figures = vcoproc.accounting
    return (_ms(figures.run_ns), _ms(figures.wait_ns), str(figures.switch_count))


def coprocs(answer: api.ListCoprocsResponse) -> None:
    show(
        ("NAME", "STATE", "TYPE", "SCHEDULER", "SLICE>", "VCOPROCS>", "CURRENT", "SWITCHES>"),
        (
            (
                _last(coproc.name),
                _enum(api.Coproc.State.Name(coproc.state)),
                coproc.compatible,
                coproc.scheduler,
                f"{coproc.slice_us} us",
                f"{coproc.vcoproc_count}/{coproc.vcoproc_count_max}",
                coproc.current_vcoproc.removeprefix("domains/").replace("/vcoprocs/", "/") or "-",
                str(coproc.switch_count),
            )
            for coproc in answer.coprocs
        ),
        empty="no coprocs",
    )


def coproc(found: api.Coproc) -> None:
    rows = (
        ("name", _last(found.name)),
        ("state", _enum(api.Coproc.State.Name(found.state))),
        ("type", found.compatible),
        ("node", found.path),
        ("scheduler", f"{found.scheduler}, slice {found.slice_us} us"),
        ("vcoprocs", f"{found.vcoproc_count} of at most {found.vcoproc_count_max}"),
        ("on it now", found.current_vcoproc or "-"),
        ("switches", str(found.switch_count)),
        ("private memory", _size(found.private_memory_bytes)),
        ("clock", f"{found.clock_hz} Hz"),
    )
    show(("COPROC", ""), rows, empty="")


def event_line(event: api.Event) -> str:
    """One event in one line."""
    seconds, rest_ns = divmod(event.time_ns, limits.S)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    kind = _enum(api.Event.Kind.Name(event.kind))
    head = f"{event.revision:>6}  {clock}.{rest_ns // limits.MS:03}  {kind:<9}  {event.name}"
    return f"{head}  {event.description}"


def processes(rows: Iterable[tuple[str, int, str]]) -> None:
    show(
        ("PROCESS", "PID>", "WHAT"),
        ((name, str(pid), what) for name, pid, what in rows),
        empty="",
    )
