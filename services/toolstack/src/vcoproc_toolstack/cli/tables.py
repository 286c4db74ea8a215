"""Answers of the cluster as tables for people. Nothing is cut off; on no terminal no colours."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vcoproc import limits
from vcoproc.api.v1 import audit_pb2, cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client.names import short_name

_GOOD = ("ONLINE", "RUNNING")
_BAD = ("CRASHED", "FAULTED", "FAILED", "LOST", "OFFLINE")
_WIDTH_OF_A_PIPE = 10_000
"""Columns are never folded for a program that reads them."""


class _Console(Console):
    """One that leaves it to the command what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Where tables go."""
    if sys.stdout.isatty():
        return _Console(highlight=False)
    return _Console(highlight=False, no_color=True, width=_WIDTH_OF_A_PIPE)


def show(headings: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Prints a table, or a sentence when it has no rows. A heading with > is of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify: Any = "right" if heading.endswith(">") else "left"
        # A file's line, a reason or a figure that is cut off is worth nothing: fold it instead.
        table.add_column(heading.rstrip(">"), justify=justify, overflow="fold")
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


def domain_state(found: api.Domain) -> str:
    """A domain in one line."""
    state = _enum(api.Domain.State.Name(found.state))
    why = f" ({found.state_reason})" if found.state_reason else ""
    name = _last(found.name)
    number = found.domid if found.create_time_ns else "-"  # what is only looked at has none
    return f"domain {name}: domid {number}, {state}{why}, {_size(found.memory_bytes)}"


def domain(found: api.Domain) -> None:
    out = console()
    out.print(domain_state(found), markup=False)
    if found.unknown_keys:
        out.print(f"keys of its file that are not used: {', '.join(found.unknown_keys)}")
    out.print()
    _with_places(found.vcoprocs)


def vcoproc(found: api.Vcoproc) -> None:
    _with_places([found])


def _with_places(found: Sequence[api.Vcoproc]) -> None:
    vcoprocs(found)
    console().print()
    show(
        ("VCOPROC", "PLACE", "WHERE", "KIND"),
        (row for vcoproc in found for row in _places(vcoproc)),
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
                short_name(vcoproc.name),
                str(vcoproc.vcoproc_id or "-"),
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


def coprocs(found: Iterable[api.Coproc]) -> None:
    show(
        ("NAME", "STATE", "TYPE", "SCHEDULER", "SLICE>", "VCOPROCS>", "CURRENT", "SWITCHES>"),
        (
            (
                _last(coproc.name),
                _coproc_state(coproc),
                coproc.compatible,
                coproc.scheduler,
                f"{coproc.slice_us} us",
                f"{coproc.vcoproc_count}/{coproc.vcoproc_count_max}",
                short_name(coproc.current_vcoproc) or "-",
                str(coproc.switch_count),
            )
            for coproc in found
        ),
        empty="no coprocs",
    )


def coproc(found: api.Coproc) -> None:
    rows = (
        ("name", _last(found.name)),
        ("state", _coproc_state(found)),
        ("type", found.compatible),
        ("node", found.path),
        ("scheduler", f"{found.scheduler}, slice {found.slice_us} us"),
        ("vcoprocs", f"{found.vcoproc_count} of at most {found.vcoproc_count_max}"),
        ("on it now", found.current_vcoproc or "-"),
        ("switches", str(found.switch_count)),
        ("private memory", _size(found.private_memory_bytes)),
        ("clock", f"{found.clock_hz} Hz"),
        ("refusals", f"asked for {found.refusal_drain_us} us, at most {found.refusal_us} us"),
        ("memory of its domains", _memory(found)),
        ("from", "added at run time" if found.added else "the system's device tree"),
    )
    show(("COPROC", ""), rows, empty="")


def _coproc_state(found: api.Coproc) -> str:
    state = _enum(api.Coproc.State.Name(found.state))
    return f"{state}, draining" if found.draining else state


def _memory(found: api.Coproc) -> str:
    limit = f" of at most {_size(found.memory_bytes_max)}" if found.memory_bytes_max else ""
    return f"{_size(found.memory_bytes)}{limit}"


def coproc_types(found: Iterable[api.CoprocType]) -> None:
    show(
        ("TYPE", "COPROCS>", "AVAILABLE>", "VCOPROCS>", "FREE>", "MOST ROOM"),
        (
            (
                each.compatible,
                str(each.coproc_count),
                str(each.available_count),
                str(each.vcoproc_count),
                str(each.free_count),
                ", ".join(f"{_last(room.coproc)} {room.free_count}" for room in each.rooms[:3])
                or "-",
            )
            for each in found
        ),
        empty="no coprocessor types",
    )


def lines(found: Iterable[cluster_pb2.Line]) -> None:
    show(
        ("LINE", "COPROC", "IRQ>", "KIND", "STATE", "RAISED>", "INJECTED>", "MERGED>"),
        (
            (
                _line_name(line.name),
                _last(line.coproc),
                str(line.irq),
                "level" if line.level else "edge",
                " ".join(
                    word
                    for word, holds in (
                        ("high", line.high),
                        ("pending", line.pending),
                        ("active", line.active),
                        ("masked", not line.enabled),
                    )
                    if holds
                )
                or "-",
                str(line.raised_count),
                str(line.injected_count),
                str(line.merged_count),
            )
            for line in found
        ),
        empty="no interrupt lines",
    )


def _line_name(name: str) -> str:
    vcoproc, _, line = name.partition("/lines/")
    return f"{short_name(vcoproc)}/{line}"


def faults(found: Iterable[cluster_pb2.Fault]) -> None:
    show(
        ("REVISION>", "TIME", "WHO", "NOW", "CODE>", "ADDRESS>", "WHY"),
        (
            (
                str(each.revision),
                _clock(each.time_ns),
                short_name(each.name),
                "FAULTED" if each.current else "-",
                str(each.code),
                f"{each.address:#010x}",
                each.why,
            )
            for each in found
        ),
        empty="no faults",
    )


def audit(found: Iterable[audit_pb2.AuditEntry]) -> None:
    show(
        ("NUMBER>", "TIME", "CALLER", "ROLE", "CALL", "WHAT", "OUTCOME"),
        (
            (
                str(each.number),
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.time_ns // limits.S)),
                each.caller,
                _enum(audit_pb2.Caller.Role.Name(each.role)).lower(),
                each.method,
                short_name(each.name) or "-",
                each.outcome or "under way",
            )
            for each in found
        ),
        empty="no changes yet",
    )


def picture(found: cluster_pb2.Cluster) -> None:
    out = console()
    services = ", ".join(
        f"{each.name} {'ONLINE' if each.online else 'OFFLINE'}" for each in found.services
    )
    out.print(f"revision {found.revision}; {services}", markup=False)
    for gap in found.gaps:
        out.print(f"could not be asked: {gap}", markup=False)
    out.print()
    coprocs(found.coprocs)
    out.print()
    domains(api.ListDomainsResponse(domains=found.domains))


def _clock(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, limits.S)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    return f"{clock}.{rest_ns // limits.MS:03}"


def event_line(event: api.Event) -> str:
    """One event in one line."""
    kind = _enum(api.Event.Kind.Name(event.kind))
    head = f"{event.revision:>6}  {_clock(event.time_ns)}  {kind:<9}  {event.name}"
    tail = f"  [{event.actor}]" if event.actor else ""
    return f"{head}  {event.description}{tail}"


def processes(rows: Iterable[tuple[str, int, str]]) -> None:
    show(
        ("PROCESS", "PID>", "WHAT"),
        ((name, str(pid), what) for name, pid, what in rows),
        empty="",
    )
