"""The driver processes, seen from the demo: one for each domain, all started and stopped here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from vcoproc.errors import VcoprocError
from vcoproc.limits import S
from vcoproc.runtime.process import DIE_WITH_PARENT
from vcoproc_demo.workload import Job

SILENCE_NS: Final = 40 * S
"""Longer than a driver's own timeout: then its process hangs, and the demo gives up."""
DRIVER: Final = (sys.executable, "-m", "vcoproc_demo.drivers")
LEAVE_S: Final = 2
"""Between the end of a driver's stdin and its kill."""

Progress = Callable[[str, int, int], None]
"""Called with (name of the driver, pieces done, pieces in all)."""


class DriverFailed(VcoprocError):
    """A driver process ended or gave up."""

    reason = "DRIVER_FAILED"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"driver {name}: {why}")
        self.name = name
        self.why = why


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a driver measured. Times of CLOCK_MONOTONIC.

    trap_ns: how long each trap took. irq_ns: from each rise of a line until the driver took it.
    """

    pieces: int
    began_ns: int
    ended_ns: int
    trap_ns: list[int]
    irq_ns: list[int]


class _Driver:
    def __init__(self, name: str, log_dir: Path, command: Sequence[str]) -> None:
        self.name = name
        self._log = log_dir / f"driver-{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, DIE_WITH_PARENT: str(os.getpid())},
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self._partial = b""

    def tell(self, line: str) -> None:
        try:
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            raise self.lost() from None

    def hear(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            raise self.lost()
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        said = [json.loads(line) for line in lines]
        for event in said:
            if event["event"] == "failed":
                raise DriverFailed(self.name, event["why"])
        return said

    def lost(self) -> DriverFailed:
        """Why it has gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(LEAVE_S)
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return DriverFailed(
            self.name, f"its process ended ({self.process.returncode}) {' '.join(last)}".rstrip()
        )

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    def end(self) -> None:
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stdout.close()


class Crew:
    """A driver process for each name; a context manager that ends them all.

    Args:
        names: of the drivers.
        log_dir: where their stderr goes.
        command: that starts a driver.
    """

    def __init__(
        self, names: Iterable[str], log_dir: Path, command: Sequence[str] = DRIVER
    ) -> None:
        self._names = tuple(names)
        self._log_dir = log_dir
        self._command = command
        self._drivers: dict[str, _Driver] = {}

    def __enter__(self) -> Crew:
        try:
            for name in self._names:
                self._drivers[name] = _Driver(name, self._log_dir, self._command)
        except BaseException:
            self._end(kill=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # One in the middle of its work would not look at its stdin.
        self._end(kill=error is not None)

    def _end(self, *, kill: bool) -> None:
        for driver in self._drivers.values():
            if kill:
                driver.process.kill()
            driver.dismiss()
        for driver in self._drivers.values():
            driver.end()

    def run(self, jobs: Mapping[str, Job], progress: Progress) -> dict[str, Outcome]:
        """Has each named driver do its job; all begin at the same moment.

        Raises:
            DriverFailed: one of them did not finish.
        """
        drivers = [self._drivers[name] for name in jobs]
        for driver in drivers:
            driver.tell(json.dumps(dataclasses.asdict(jobs[driver.name])))
        self._until("ready", drivers, progress)
        for driver in drivers:
            driver.tell("")
        done = self._until("done", drivers, progress)
        outcomes = {}
        for name, event in done.items():
            del event["event"]
            outcomes[name] = Outcome(**event)
        return outcomes

    def _until(
        self, wanted: str, drivers: Sequence[_Driver], progress: Progress
    ) -> dict[str, dict[str, Any]]:
        """Listens until each has said `wanted`."""
        heard: dict[str, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for driver in drivers:
                selector.register(driver.stdout, selectors.EVENT_READ, driver)
            while len(heard) < len(drivers):
                ready = selector.select(SILENCE_NS / S)
                if not ready:
                    silent = next(driver for driver in drivers if driver.name not in heard)
                    raise DriverFailed(silent.name, f"nothing heard for {SILENCE_NS // S} s")
                for key, _ in ready:
                    self._note(key.data, wanted, heard, progress)
        return heard

    @staticmethod
    def _note(
        driver: _Driver, wanted: str, heard: dict[str, dict[str, Any]], progress: Progress
    ) -> None:
        for event in driver.hear():
            if event["event"] == "progress":
                progress(driver.name, event["done"], event["total"])
            elif event["event"] == wanted:
                heard[driver.name] = event
                if wanted == "done":
                    progress(driver.name, event["pieces"], event["pieces"])
