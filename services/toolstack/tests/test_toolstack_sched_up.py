"""`vcoproc sched` with the real processes: what is set stays set, whoever dies."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster as Client
from vcoproc.client import calls
from vcoproc_toolstack.cli.up import Cluster

EXAMPLES = Path(__file__).parents[3] / "examples"
COMMAND = (sys.executable, "-m", "vcoproc_toolstack.cli.app")
WAIT_S = 60
DOMAIN = 'name = "{name}"\nmemory = 1\nvcoproc = ["coproc=dsp0,name=v{more}"]\n'
BROKEN = '''
"""An algorithm that fails as soon as it decides."""
from vcoproc_scheduler.policies.rr import RoundRobin


class Broken(RoundRobin):
    def next_deadline_ns(self):
        raise ValueError("no idea")
'''

pytestmark = pytest.mark.slow


def run(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments, "--run-dir", str(cluster.run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def ask(cluster: Cluster, *arguments: str) -> Any:
    """The answer of a `sched` command that must succeed."""
    result = run(cluster, "sched", *arguments, "-o", "json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def create(cluster: Cluster, path: Path, name: str, more: str = "") -> int:
    file = path / f"{name}.cfg"
    file.write_text(DOMAIN.format(name=name, more=more))
    return run(cluster, "domain", "create", str(file)).returncode


@pytest.fixture
def reports() -> queue.SimpleQueue[str]:
    """What the cluster says of its processes."""
    return queue.SimpleQueue()


@pytest.fixture
def cluster(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, reports: queue.SimpleQueue[str]
) -> Iterator[Cluster]:
    """A cluster whose scheduler has one algorithm more; with a domain a, its vcoproc v on dsp0."""
    plugin = short_path / "plugin"
    info = plugin / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (plugin / "broken_policy.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vcoproc.schedulers]\nbroken = broken_policy:Broken\n")
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    with Cluster(EXAMPLES / "demo.dts", short_path / "run", report=reports.put) as cluster:
        assert create(cluster, short_path, "a") == 0
        yield cluster


def wait_for(cluster: Cluster, revision: int, name: str, kind: int) -> api.Event:
    with Client(cluster.run_dir) as client:
        for event in client.watch(revision=revision):
            if event.name == name and event.kind == kind:
                return event
    raise AssertionError("the toolstack has ended")


def kill(cluster: Cluster, reports: queue.SimpleQueue[str], name: str) -> None:
    """Ends a process, and waits until another one has taken its place."""
    before = revision(cluster)
    os.kill(cluster.pids()[name], signal.SIGKILL)
    while f"{name} serves again" not in reports.get(timeout=WAIT_S):
        pass
    wait_for(cluster, before, "services/scheduler", api.Event.KIND_ONLINE)


def revision(cluster: Cluster) -> int:
    with Client(cluster.run_dir) as client:
        number: int = client.whole(calls.domains("")).revision
        return number


def test_every_algorithm_can_be_set_and_read_back(cluster: Cluster) -> None:
    names = [each["name"] for each in ask(cluster, "algorithms")["algorithms"]]
    assert {"rr", "credit", "edf", "broken"} <= set(names)
    for name in names:
        if name == "broken":
            continue
        got = ask(cluster, "set", "dsp0", name)["schedule"]
        assert (got["algorithm"], got["wanted_algorithm"], got["fallback"]) == (name, name, "")
        assert ask(cluster, "show", "dsp0") == got
        infos = ask(cluster, "params", "a/v")["parameters"]
        assert {each["name"]: each["value"] for each in infos} == got["vcoprocs"][0]["parameters"]
        analysed = ask(cluster, "analyse", "dsp0")
        assert analysed["vcoprocs"][0]["vcoproc"] == "domains/a/vcoprocs/v"


def test_the_page_describes_every_parameter_as_it_is(cluster: Cluster) -> None:
    page = (EXAMPLES.parent / "docs" / "scheduling.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    documented = {
        (row[0].strip("`"), name.strip("` .")): row[2:6]
        for row in rows
        if len(row) == 7 and row[0].startswith("`")
        for name in row[1].split(",")
    }
    lacking = []
    for algorithm in ask(cluster, "algorithms")["algorithms"]:
        for info in algorithm["parameters"]:
            if algorithm["name"] == "broken" or info["name"] == "min_run_us":
                continue
            # The third window of a table is described with the second and the fourth.
            name = info["name"].replace("3_us", "2_us").replace("start4", "... start4")
            name = name.replace("window4", "... window4")
            wanted = [
                "coproc" if info["per_coproc"] else "vcoproc",
                info["unit"] or "-",
                f"{info['minimum']}..{info['maximum']}",
                str(info["default_value"]),
            ]
            names = {name, name.removeprefix("... "), name.replace("... ", "... `")}
            if not any(documented.get((algorithm["name"], each)) == wanted for each in names):
                lacking.append((algorithm["name"], info["name"]))
    assert lacking == []


def test_what_is_set_outlasts_scheduler_and_toolstack(
    cluster: Cluster, short_path: Path, reports: queue.SimpleQueue[str]
) -> None:
    assert create(cluster, short_path, "b") == 0
    edf = ("edf", "--slice-us", "1500", "-p", "min_run_us=7")
    refused = run(cluster, "sched", "set", "dsp0", *edf, "-v", "all:budget_us=6000")
    assert refused.returncode == 1
    assert "[NOT_ADMITTED]" in refused.stderr
    assert ask(cluster, "show", "dsp0")["algorithm"] == "rr"
    ask(cluster, "set", "dsp0", *edf, "-v", "all:budget_us=4000")
    assert run(cluster, "sched", "rtds", "-d", "b", "-p", "20000").returncode == 0
    wanted = ask(cluster, "show", "dsp0")
    assert (wanted["slice_us"], wanted["parameters"]["min_run_us"]) == (1500, 7)
    for name in ("scheduler", "toolstack"):
        kill(cluster, reports, name)
        # The repair that begins then is done before the next change is.
        ask(cluster, "params", "a/v", "-p", "extratime=0")
        after = ask(cluster, "show", "dsp0")
        keys = ("algorithm", "slice_us", "parameters", "overridden")
        assert [after[key] for key in keys] == [wanted[key] for key in keys]
        values = [each["parameters"] for each in after["vcoprocs"]]
        assert [each["budget_us"] for each in values] == [4000, 4000]
        assert [each["period_us"] for each in values] == [10_000, 20_000]
    # A domain that does not fit is refused whole, with the words of the algorithm.
    file = short_path / "c.cfg"
    file.write_text(DOMAIN.format(name="c", more=",budget_us=5000"))
    result = run(cluster, "domain", "create", str(file))
    assert result.returncode == 1
    assert "vcoproc v: " in result.stderr
    assert "[NOT_ADMITTED]" in result.stderr
    listed = json.loads(run(cluster, "domain", "list", "-o", "json").stdout)
    assert [domain["name"] for domain in listed["domains"]] == ["domains/a", "domains/b"]
    assert create(cluster, short_path, "c", ",budget_us=3000") == 0


def test_an_algorithm_that_fails_is_an_event_and_is_tried_again_when_named(
    cluster: Cluster, reports: queue.SimpleQueue[str]
) -> None:
    before = revision(cluster)
    got = ask(cluster, "set", "dsp0", "broken")["schedule"]
    event = wait_for(cluster, before, "coprocs/dsp0/schedule", api.Event.KIND_FELL_BACK)
    assert "broken failed, rr has taken over" in event.description
    assert "no idea" in event.description
    got = ask(cluster, "show", "dsp0")
    assert (got["algorithm"], got["wanted_algorithm"]) == ("rr", "broken")
    assert "no idea" in got["fallback"]
    ask(cluster, "set", "dsp0", "broken")
    wait_for(cluster, event.revision, "coprocs/dsp0/schedule", api.Event.KIND_FELL_BACK)
    assert ask(cluster, "show", "dsp0")["fallback_count"] == 2
    # A toolstack that begins anew is told of the last one again, and has told of it.
    last = revision(cluster)
    kill(cluster, reports, "toolstack")
    ask(cluster, "set", "dsp0", "credit")
    with Client(cluster.run_dir) as client:
        for each in client.watch(revision=last):
            assert each.kind != api.Event.KIND_FELL_BACK
            if each.name == "coprocs/dsp0/schedule" and each.kind == api.Event.KIND_CHANGED:
                break


def test_unknown_names_are_told_with_a_hint(cluster: Cluster) -> None:
    result = run(cluster, "sched", "set", "dsp0", "credti")
    assert result.returncode == 2
    assert "did you mean 'credit'?" in result.stderr
    result = run(cluster, "sched", "params", "dsp0", "-p", "min_run=1")
    assert result.returncode == 2
    assert "did you mean 'min_run_us'? (0 to 500000 us)" in result.stderr
