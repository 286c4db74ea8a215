"""What the demo found: one row for each domain, as a table, as JSON, and as files."""

from __future__ import annotations

import dataclasses
import json
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vcoproc.limits import MS, US
from vcoproc_demo.control import Account, CoprocInfo
from vcoproc_demo.crew import Outcome
from vcoproc_demo.reference import first_difference
from vcoproc_demo.stats import Times, times_of
from vcoproc_demo.turns import Turn, Window, contended, held_ns, switches_ns

_NO_ACCOUNT = Account(0, 0)


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison of an output with something else.

    against: with what. difference: where it differs first; empty: it is equal.
    """

    against: str
    difference: str = ""

    @property
    def is_equal(self) -> bool:
        return not self.difference


@dataclass(frozen=True, slots=True)
class SharedRun:
    """What was recorded while all domains shared the coproc.

    ids: number of the vcoproc of each domain. turns: of the coproc.
    """

    ids: Mapping[str, int]
    outcomes: Mapping[str, Outcome]
    accounts: Mapping[int, Account]
    turns: Sequence[Turn]

    @property
    def contest(self) -> Window:
        """When all domains had work."""
        return contended(self.turns, self.ids.values())


@dataclass(frozen=True, slots=True)
class Row:
    """One domain.

    Attributes:
        work: what it did, for people.
        share_permille: of the coproc, in the time when all domains had work.
        run_ns, switches: of the scheduler's accounting.
        unshared_ns, shared_ns: from the start of the driver's work to its end, on its clock.
    """

    name: str
    work: str
    share_permille: int
    run_ns: int
    switches: int
    unshared_ns: int
    shared_ns: int
    switch: Times
    trap: Times
    irq: Times
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. notes: sentences for people. files: what was written, by name."""

    coproc: CoprocInfo
    rows: tuple[Row, ...]
    contended_ns: int
    notes: tuple[str, ...]
    files: Mapping[str, str]

    @property
    def is_right(self) -> bool:
        return all(check.is_equal for row in self.rows for check in row.checks)

    def to_json(self) -> str:
        """For programs. Times are nanoseconds."""
        plain: dict[str, Any] = {
            "ok": self.is_right,
            "coproc": dataclasses.asdict(self.coproc),
            "contended_ns": self.contended_ns,
            "domains": [_plain_row(row) for row in self.rows],
            "notes": list(self.notes),
            "files": dict(self.files),
        }
        return json.dumps(plain, indent=2)


def _plain_row(row: Row) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    plain["checks"] = [
        {"against": check.against, "equal": check.is_equal, "difference": check.difference}
        for check in row.checks
    ]
    return plain


def compare(output: bytes, expected: bytes, against: str, row_bytes: int = 0) -> Check:
    """Compares byte for byte.

    Args:
        output: of the shared run.
        expected: what it must be.
        against: whose `expected` is.
        row_bytes: of a picture's row, to say where it differs; else 0.
    """
    place = first_difference(output, expected)
    if place is None:
        return Check(against)
    if place == min(len(output), len(expected)):
        return Check(against, f"{len(output)} bytes, expected {len(expected)}")
    where = f"byte {place} of {len(expected)}"
    if row_bytes:
        where += f" (row {place // row_bytes}, column {place % row_bytes})"
    return Check(against, f"{where} is {output[place]:#04x}, expected {expected[place]:#04x}")


def make_row(
    name: str, work: str, *, run: SharedRun, unshared: Outcome, checks: tuple[Check, ...]
) -> Row:
    """Puts together what is known of one domain."""
    vcoproc_id = run.ids[name]
    shared = run.outcomes[name]
    account = run.accounts.get(vcoproc_id, _NO_ACCOUNT)
    contest = run.contest
    held = held_ns(run.turns, vcoproc_id, contest)
    return Row(
        name=name,
        work=work,
        share_permille=1000 * held // contest.length_ns if contest.length_ns else 0,
        run_ns=account.run_ns,
        switches=account.switch_count,
        unshared_ns=unshared.ended_ns - unshared.began_ns,
        shared_ns=shared.ended_ns - shared.began_ns,
        switch=times_of(switches_ns(run.turns, vcoproc_id)),
        trap=times_of(shared.trap_ns),
        irq=times_of(shared.irq_ns),
        checks=checks,
    )


def print_report(report: Report, console: Console) -> None:
    """The table, the notes, where the files are, and what is wrong. Fits 80 columns."""
    table = Table(title="Three domains on one coprocessor", title_style="bold", box=SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.add_column("\ndomain", style="bold", no_wrap=True)
    for heading in ("share\n%", "run\nms", "\nswitches"):
        table.add_column(heading, justify="right")
    for heading in ("switch", "trap", "irq"):
        table.add_column(f"{heading} us\np50/p99", justify="right", no_wrap=True)
    table.add_column("output\nequals", no_wrap=True)
    for row in report.rows:
        table.add_row(
            row.name,
            f"{row.share_permille / 10:.1f}",
            str(row.run_ns // MS),
            str(row.switches),
            _pair_us(row.switch),
            _pair_us(row.trap),
            _pair_us(row.irq),
            "\n".join(_mark(check) for check in row.checks),
        )
    console.print(table)
    for row in report.rows:
        words = f"{row.name}: {row.work}; {row.unshared_ns // MS} ms alone, "
        _say(console, f"{words}{row.shared_ns // MS} ms sharing")
    for note in report.notes:
        _say(console, note)
    for what, path in report.files.items():
        console.print(f"  {what:9} {path}", highlight=False, markup=False, soft_wrap=True)
    for row in report.rows:
        for check in row.checks:
            if not check.is_equal:
                words = f"{row.name} differs from {check.against}: {check.difference}"
                _say(console, words, style="bold red")


def _say(console: Console, words: str, style: str | None = None) -> None:
    # Names of files are no markup.
    console.print(words, highlight=False, markup=False, style=style)


def _pair_us(times: Times) -> str:
    return f"{times.p50_ns // US}/{times.p99_ns // US}" if times.count else "-"


def _mark(check: Check) -> str:
    return f"[green]✓[/] {check.against}" if check.is_equal else f"[red]✗[/] {check.against}"


def write_wav(path: Path, samples: bytes, rate_hz: int) -> None:
    """16-bit mono samples as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)


def write_png(path: Path, pixels: bytes, width: int, height: int) -> None:
    """The first picture of grey bytes, row by row, as a PNG file."""
    from PIL import Image

    Image.frombytes("L", (width, height), pixels[: width * height]).save(path)
