"""The crew, with small scripts in the place of drivers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vcoproc_demo.crew import Crew, DriverFailed, Outcome
from vcoproc_demo.workload import Job

pytestmark = pytest.mark.slow  # each test starts processes

RIGHT = """
import json, sys
for line in sys.stdin:
    job = json.loads(line)
    print('{"event": "ready"}', flush=True)
    sys.stdin.readline()
    print('{"event": "progress", "done": 1, "total": 2}', flush=True)
    print(json.dumps({"event": "done", "pieces": 2, "began_ns": 5, "ended_ns": 9,
                      "trap_ns": [len(job["domain"])], "irq_ns": []}), flush=True)
"""
GIVES_UP = """
import sys
sys.stdin.readline()
print('{"event": "failed", "why": "no firmware"}', flush=True)
"""
DIES = """
import sys
sys.stdin.readline()
sys.exit("out of luck")
"""


def _job(name: str) -> Job:
    return Job("fir", name, "f", "i", "o", "r")


def _crew(names: list[str], folder: Path, script: str) -> Crew:
    return Crew(names, folder, (sys.executable, "-c", script))


def _processes(crew: Crew) -> list[int]:
    return [driver.process.pid for driver in crew._drivers.values()]


def _assert_gone(pids: list[int]) -> None:
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_drivers_do_one_job_after_the_other_and_go(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    with _crew(["a", "bb"], tmp_path, RIGHT) as crew:
        pids = _processes(crew)
        both = crew.run({"a": _job("a"), "bb": _job("bb")}, lambda *one: seen.append(one))
        again = crew.run({"bb": _job("four")}, lambda *one: None)
    assert both == {"a": Outcome(2, 5, 9, [1], []), "bb": Outcome(2, 5, 9, [2], [])}
    assert again["bb"].trap_ns == [4]
    assert sorted(seen) == [("a", 1, 2), ("a", 2, 2), ("bb", 1, 2), ("bb", 2, 2)]
    _assert_gone(pids)


def test_a_driver_that_gives_up_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(DriverFailed, match="driver a: no firmware"),
        _crew(["a"], tmp_path, GIVES_UP) as crew,
    ):
        pids = _processes(crew)
        crew.run({"a": _job("a")}, lambda *one: None)
    _assert_gone(pids)


def test_a_driver_that_dies_leaves_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(DriverFailed, match=r"its process ended \(1\) out of luck"),
        _crew(["a"], tmp_path, DIES) as crew,
    ):
        crew.run({"a": _job("a")}, lambda *one: None)


def test_an_interrupt_ends_drivers_in_the_middle_of_their_work(tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), _crew(["a"], tmp_path, RIGHT) as crew:
        pids = _processes(crew)
        crew.run({"a": _job("a")}, interrupt)
    _assert_gone(pids)
