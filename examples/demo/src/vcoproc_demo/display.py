"""Shows what goes on: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from vcoproc.limits import S

LINE_NS: Final = 1 * S
"""Between two lines about the same step, where there is no terminal."""


class Display:
    """Steps and the progress of the drivers in each; a context manager.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, str] = {}
        self._told_ns = 0

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("  {task.description:8}"),
                BarColumn(40),
                MofNCompleteColumn(),
                TextColumn("pieces"),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def step(self, text: str, names: Sequence[str] = ()) -> None:
        """A new step begins, in which the drivers of these names work."""
        if self._bars is not None:
            self._bars.refresh()
        self._counts.clear()
        self._told_ns = time.monotonic_ns()
        self.console.print(text, highlight=False)
        if self._bars is None:
            return
        for name, task in self._tasks.items():
            self._bars.update(task, visible=name in names)
        for name in names:
            if name in self._tasks:
                self._bars.reset(self._tasks[name], total=None)
            else:
                self._tasks[name] = self._bars.add_task(name, total=None)

    def progress(self, name: str, done: int, total: int) -> None:
        """A driver has come this far in the present step."""
        if self._bars is not None:
            self._bars.update(self._tasks[name], completed=done, total=total)
            return
        self._counts[name] = f"{name} {done}/{total}"
        now_ns = time.monotonic_ns()
        if done == total or now_ns - self._told_ns >= LINE_NS:
            self._told_ns = now_ns
            self.console.print("  " + "  ".join(self._counts.values()), highlight=False)
