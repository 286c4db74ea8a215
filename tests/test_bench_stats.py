"""The figures' arithmetic; the measurements themselves are not tested by time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.effort import FULL, QUICK
from bench.stats import Ratio, Series, percentile, ratio
from bench.table import Row, timed_row, to_json, to_text


@pytest.mark.parametrize(
    ("percent", "value"),
    # The example of nearest rank that NIST's and Wikipedia's articles share.
    [(5, 15), (30, 20), (40, 20), (50, 35), (100, 50)],
)
def test_percentile_is_the_nearest_rank(percent: int, value: int) -> None:
    assert percentile([35, 20, 15, 50, 40], percent) == value


def test_percentile_of_a_hundred_values_leaves_the_largest_out() -> None:
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7], 99) == 7


@pytest.mark.parametrize("percent", [0, 101, -1])
def test_percentile_outside_of_1_to_100_is_refused(percent: int) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile([1], percent)


def test_nothing_measured_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    with pytest.raises(ValueError, match="without samples"):
        Series().add_round([])


def test_ratio_compares_each_round_with_its_neighbour() -> None:
    # The machine is three times slower in the last round: both are, so the ratio is not.
    subject = Series([[10, 20, 30], [20, 20, 20], [66, 66, 66]])
    floor = Series([[10, 10, 10], [10, 10, 10], [30, 30, 30]])
    assert ratio(subject, floor) == Ratio(2, 2, 2.2)


def test_ratio_needs_as_many_rounds_of_the_one_as_of_the_other() -> None:
    with pytest.raises(ValueError, match="2 rounds beside 1"):
        ratio(Series([[1], [1]]), Series([[1]]))
    with pytest.raises(ValueError, match="no values"):
        ratio(Series(), Series())


@pytest.mark.parametrize(("limit", "met"), [(1.5, True), (1.49, False)])
def test_goal_is_about_the_ratio(limit: float, met: bool) -> None:
    row = timed_row("trap", "x", Series([[1500]]), Series([[1000]]), "y", ratio_max=limit)
    assert (row.met, row.p50, row.floor, row.unit) == (met, 1.5, 1.0, "us")


def test_row_without_a_goal_is_neither_met_nor_missed() -> None:
    row = timed_row("trap", "x", Series([[1500]]), Series([[1000]]), "y", unit="ns")
    assert (row.met, row.goal, row.p50) == (None, "", 1500)


def test_limit_itself_is_too_much() -> None:
    row = Row("idle", "x", "MiB", 80.0)
    assert row.with_limit(80).met is False
    assert row.with_limit(80.5).met is True


def test_json_and_table_hold_every_row() -> None:
    rows = [
        timed_row("trap", "one", Series([[1500]]), Series([[1000]]), "floor", ratio_max=1.3),
        Row("idle", "two", "%", 0.25).with_limit(1),
    ]
    document = json.loads(json.dumps(to_json(rows, quick=True)))
    assert [(row["what"], row["met"]) for row in document["rows"]] == [
        ("one", False),
        ("two", True),
    ]
    assert document["rows"][0]["ratio"] == {"value": 1.5, "low": 1.5, "high": 1.5}
    assert document["quick"] is True
    assert document["machine"]["cpus"] >= 1
    lines = to_text(rows).splitlines()
    assert lines[0].split() == [
        "what", "unit", "p50", "p99", "floor", "ratio", "goal", "met", "beside"
    ]  # fmt: skip
    assert [("NO" in line, "yes" in line) for line in lines[2:]] == [(True, False), (False, True)]


def test_unknown_section_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as refused:
        command.main(["--only", "trap,nonsense", "--json", str(out)])
    assert refused.value.code == 2
    assert "nonsense" in capsys.readouterr().err
    assert not out.exists()


def test_every_goal_is_measured_by_the_quick_run_too() -> None:
    assert (3, 5000) in QUICK.shares
    wanted = {(n, us) for n in (2, 4, 8, 16) for us in (1000, 5000, 10_000)} | {(3, 5000)}
    assert set(FULL.shares) == wanted
