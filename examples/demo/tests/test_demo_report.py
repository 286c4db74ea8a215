from __future__ import annotations

import dataclasses
import io
import json
import wave
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from vcoproc_demo.control import Account, CoprocInfo
from vcoproc_demo.crew import Outcome
from vcoproc_demo.report import (
    Check,
    Report,
    SharedRun,
    compare,
    make_row,
    print_report,
    write_png,
    write_wav,
)
from vcoproc_demo.stats import Times
from vcoproc_demo.turns import Turn

MS = 1_000_000
TURNS = [
    Turn(4, 0, 10 * MS, 20_000),
    Turn(5, 10 * MS, 40 * MS, 30_000),
    Turn(4, 40 * MS, 50 * MS, 40_000),
]


def _report(*checks: Check) -> Report:
    outcome = Outcome(3, 0, 60 * MS, [200_000, 100_000], [900_000])
    run = SharedRun(
        ids={"fir": 4, "sobel": 5},
        outcomes={"fir": outcome, "sobel": outcome},
        accounts={4: Account(run_ns=21 * MS, switch_count=2)},
        turns=TURNS,
    )
    alone = Outcome(3, 0, 30 * MS, [], [])
    rows = tuple(
        make_row(name, "some work", run=run, unshared=alone, checks=checks)
        for name in ("fir", "sobel")
    )
    coproc = CoprocInfo("dsp0", "/soc/dsp", "rr", 5000)
    return Report(coproc, rows, run.contest.length_ns, ("a note",), {"edges": "out/edges.png"})


def test_a_row_takes_the_share_of_the_contended_time_only() -> None:
    fir, sobel = _report(Check("scipy")).rows
    # All had work from 10 to 40 ms: then sobel alone held the coproc.
    assert (fir.share_permille, sobel.share_permille) == (0, 1000)
    assert (fir.run_ns, fir.switches, fir.unshared_ns, fir.shared_ns) == (
        21 * MS,
        2,
        30 * MS,
        60 * MS,
    )
    assert (fir.switch.p50_ns, fir.switch.p99_ns, fir.switch.count) == (20_000, 40_000, 2)
    assert (fir.trap.p50_ns, fir.trap.p99_ns, fir.irq.p50_ns) == (100_000, 200_000, 900_000)
    assert sobel.run_ns == 0  # the scheduler did not answer for it


def test_compare_says_where() -> None:
    assert compare(b"abcd", b"abcd", "scipy").is_equal
    check = compare(b"abcd", b"abXd", "scipy")
    assert check.difference == "byte 2 of 4 is 0x63, expected 0x58"
    assert "(row 1, column 0)" in compare(b"abcd", b"abXd", "scipy", 2).difference
    assert compare(b"abc", b"abcd", "scipy").difference == "3 bytes, expected 4"
    assert compare(b"", b"abcd", "scipy").difference == "0 bytes, expected 4"


def test_one_wrong_output_makes_the_report_wrong() -> None:
    assert _report(Check("scipy"), Check("unshared")).is_right
    assert not _report(Check("scipy"), Check("unshared", "byte 0 of 1 is 0x00")).is_right


def test_json_carries_everything() -> None:
    plain = json.loads(_report(Check("scipy"), Check("unshared", "byte 7")).to_json())
    assert plain["ok"] is False
    assert plain["coproc"]["name"] == "dsp0" and plain["contended_ns"] == 30 * MS
    first = plain["domains"][0]
    assert first["name"] == "fir" and first["switch"]["p99_ns"] == 40_000
    assert first["checks"] == [
        {"against": "scipy", "equal": True, "difference": ""},
        {"against": "unshared", "equal": False, "difference": "byte 7"},
    ]


def test_the_table_shows_numbers_and_differences() -> None:
    text = io.StringIO()
    report = _report(Check("scipy"), Check("unshared", "byte 7 of 9"))
    print_report(report, Console(file=text, width=150))
    shown = text.getvalue()
    assert "20/40" in shown and "100/200" in shown
    assert "✓ scipy" in shown and "✗ unshared" in shown
    assert "fir differs from unshared: byte 7 of 9" in shown
    assert "out/edges.png" in shown and "a note" in shown


def test_the_table_fits_80_columns() -> None:
    text = io.StringIO()
    report = _report(Check("hashlib"), Check("unshared"))
    slow = Times(9, 1_234_000, 12_345_000, 0)
    rows = [dataclasses.replace(row, switch=slow, trap=slow, irq=slow) for row in report.rows]
    report = dataclasses.replace(report, rows=(*rows,))
    print_report(report, Console(file=text, width=80))
    assert "✓ hashlib" in text.getvalue() and "1234/12345" in text.getvalue()
    assert "…" not in text.getvalue()


def test_files_can_be_read_again(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", b"\x01\x00\xff\x7f", 16_000)
    with wave.open(str(tmp_path / "a.wav"), "rb") as file:
        assert (file.getframerate(), file.readframes(9)) == (16_000, b"\x01\x00\xff\x7f")
    write_png(tmp_path / "a.png", bytes(range(12)), 3, 2)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3, 2) and picture.mode == "L"
        assert picture.tobytes() == bytes(range(6))


@pytest.mark.parametrize("markup", ["[red]", "[/]"])
def test_names_of_files_are_not_markup(markup: str) -> None:
    report = _report(Check("scipy"))
    text = io.StringIO()
    odd = Report(report.coproc, report.rows, 0, (f"hash of {markup}",), {"edges": f"{markup}.png"})
    print_report(odd, Console(file=text, width=150))
    assert f"hash of {markup}" in text.getvalue() and f"{markup}.png" in text.getvalue()
