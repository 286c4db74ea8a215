"""`vcoproc top`: a live view on a terminal, or one look after the other."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import typer
from rich.console import Console
from rich.console import Group as Lines
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vcoproc.api.v1 import cluster_pb2
from vcoproc.client import Cluster
from vcoproc.errors import VcoprocError
from vcoproc_toolstack.cli import top_model
from vcoproc_toolstack.cli.tables import console

_HELP: Final = "keys: s sort by the next column, r reverse, / filter, p pause, h help, q quit"
_COLUMNS: Final = (
    ("SHARE", "SHARE", "share"),
    ("WAIT", "WAIT", "wait"),
    ("SWITCH/s", "SW/s", "switches"),
    ("REFUSED/s", "REF/s", "refusals"),
    ("TRAPS/s", "TRAP/s", "traps"),
    ("IRQ/s", "IRQ/s", "interrupts"),
)
"""Headings, also those for few columns, and the rates that they are of."""
_WIDE: Final = 100
"""Columns of a terminal from which on the owners have a column of their own."""


@dataclass(slots=True)
class View:
    """What somebody at the keys has chosen. typing: the filter that is being typed, or None."""

    sort: str = "name"
    reverse: bool = False
    pattern: str = ""
    paused: bool = False
    help: bool = False
    typing: str | None = None
    quit: bool = False

    def key(self, key: str) -> None:
        """Takes one key."""
        if self.typing is not None:
            self._type(key)
        elif key in ("q", "\x03", "\x04"):
            self.quit = True
        elif key == "s":
            place = top_model.SORT_KEYS.index(self.sort) + 1
            self.sort = top_model.SORT_KEYS[place % len(top_model.SORT_KEYS)]
        elif key == "r":
            self.reverse = not self.reverse
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "/":
            self.typing = ""
        elif key in ("h", "?"):
            self.help = not self.help

    def _type(self, key: str) -> None:
        assert self.typing is not None
        if key in ("\r", "\n"):
            self.pattern, self.typing = self.typing, None
        elif key in ("\x1b", "\x03"):
            self.typing = None
        elif key in ("\x7f", "\x08"):
            self.typing = self.typing[:-1]
        elif key.isprintable():
            self.typing += key


def run(cluster: Cluster, *, interval_s: float, batch: bool, count: int) -> None:
    """Looks until somebody quits, or so often (0: without end).

    Raises:
        VcoprocError: the first look fails. Later ones are told and tried again.
    """
    if batch or not (sys.stdin.isatty() and sys.stdout.isatty()):
        _run_batch(cluster, interval_s, count)
    else:
        _run_live(cluster, interval_s, count)


def _run_batch(cluster: Cluster, interval_s: float, count: int) -> None:
    out = console()
    before = None
    looks = 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                now = cluster.statistics()
            except VcoprocError as why:
                if before is None:
                    raise
                typer.echo(f"error: {why}", err=True)
            else:
                # The first look has no rates; it is shown only if it is the only one.
                if before is not None or count == 1:
                    out.print(render(now, before, View())[0])
            looks += 1
            if count and looks >= count:
                return
            before = now
            select.select([], [], [], interval_s)


def _run_live(cluster: Cluster, interval_s: float, count: int) -> None:
    view = View()
    before: cluster_pb2.Statistics | None = None
    now = cluster.statistics()
    looks, error = 1, ""
    out = Console(highlight=False)
    with _keys() as keys, Live(console=out, screen=True, auto_refresh=False) as live:
        due_s = time.monotonic() + interval_s
        while not view.quit:
            live.update(_fitted(now, before, view, error, out), refresh=True)
            for key in keys(max(0.0, due_s - time.monotonic())):
                view.key(key)
            if time.monotonic() < due_s or view.quit:
                continue
            due_s = time.monotonic() + interval_s
            if view.paused:
                continue
            if count and looks >= count:
                return
            looks += 1
            try:
                now, before, error = cluster.statistics(), now, ""
            except VcoprocError as why:
                error = str(why)


@contextlib.contextmanager
def _keys() -> Iterator[_Keys]:
    """The terminal gives key by key, and gets its settings back at the end."""
    descriptor = sys.stdin.fileno()
    kept = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)


class _Keys:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, timeout_s: float) -> str:
        """Keys that come within a time; at its end, or with the first ones."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        except KeyboardInterrupt:
            return "\x03"
        if not ready:
            return ""
        # No bytes: the terminal has gone.
        return os.read(self._descriptor, 64).decode(errors="ignore") or "q"


def render(
    now: cluster_pb2.Statistics,
    before: cluster_pb2.Statistics | None,
    view: View,
    rows_max: int | None = None,
    *,
    narrow: bool = False,
) -> tuple[Table, int]:
    """One look as a table: each coproc, and below it its vcoprocs. Names give way to figures.

    Args:
        narrow: for 80 columns; the owner of a coproc stands beside its name.

    Returns:
        The table, and how many rows it had no room for.
    """
    padding = (0, 1, 0, 0) if narrow else (0, 1)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=padding)
    table.add_column("NAME")
    table.add_column("STATE", no_wrap=True)
    if not narrow:
        table.add_column("SCHEDULER / OWNER")
    for wide, short, key in _COLUMNS:
        heading = short if narrow else wide
        shown = f"{heading}{'^' if view.reverse else 'v'}" if key == view.sort else heading
        table.add_column(shown, justify="right", no_wrap=True)
    groups = top_model.groups(
        now, before, sort=view.sort, reverse=view.reverse, pattern=view.pattern
    )
    rows = [row for group in groups for row in _rows(group, narrow=narrow)]
    for row in rows[:rows_max]:
        table.add_row(*row)
    return table, len(rows) - table.row_count


def _rows(group: top_model.Group, *, narrow: bool) -> Iterator[list[Text | str]]:
    name, owner = _cut(group.name, "bold"), _cut(f"{group.scheduler}: {group.current or 'nobody'}")
    if narrow:
        yield [name.append("  ").append(owner), _state(group.state), *_figures(group.rates)]
    else:
        yield [name, _state(group.state), owner, *_figures(group.rates)]
    for row in group.rows:
        cells: list[Text | str] = [_cut(f"{'*' if row.current else ' '} {row.name}")]
        cells += [_state(row.state)] if narrow else [_state(row.state), ""]
        yield [*cells, *_figures(row.rates)]


def _cut(words: str, style: str = "") -> Text:
    """Words that are cut rather than what stands beside them."""
    return Text(words, style=style, no_wrap=True, overflow="ellipsis")


def _fitted(
    now: cluster_pb2.Statistics,
    before: cluster_pb2.Statistics | None,
    view: View,
    error: str,
    out: Console,
) -> Lines:
    """The table with its status line, as far as it has room."""
    words = [f"vcoproc top  {time.strftime('%H:%M:%S')}  sorted by {view.sort}"]
    if view.pattern:
        words.append(f"filter {view.pattern!r}")
    if view.paused:
        words.append("PAUSED")
    words += now.gaps
    if view.typing is not None:
        words = [f"filter (DOMAIN/VCOPROC, part of it or with *): {view.typing}_"]
    elif view.help:
        words = [_HELP]
    head = Text("  ".join(words), style="reverse", no_wrap=True, overflow="ellipsis")
    below = [Text(error, style="red")] if error else []
    # Less the status line, the headings and the line that says what is hidden.
    rows_max = max(1, out.height - 3 - len(below))
    table, hidden = render(now, before, view, rows_max, narrow=out.width < _WIDE)
    if hidden:
        below.append(Text(f"... {hidden} more; / filters", style="dim"))
    return Lines(head, table, *below)


def _state(state: str) -> Text:
    style = {"ONLINE": "green", "RUNNING": "green"}.get(state, "")
    if state in ("FAULTED", "FAILED", "LOST", "OFFLINE"):
        style = "red"
    return Text(state, style=style)


def _figures(rates: top_model.Rates) -> list[str]:
    return [
        _percent(rates.share),
        _percent(rates.wait),
        *(_rate(getattr(rates, key)) for *_, key in _COLUMNS[2:]),
    ]


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
