"""`vcoproc up` with the real processes: starts, refusals, deaths, and what is left: nothing."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster as Client
from vcoproc.client import calls
from vcoproc.errors import InvalidArgument, InvalidConfig
from vcoproc_toolstack.cli.supervisor import StartFailed
from vcoproc_toolstack.cli.up import Cluster, RunDirBusy

EXAMPLES = Path(__file__).parents[3] / "examples"
DEMO = EXAMPLES / "demo.dts"
TEMPLATE = EXAMPLES / "template.dts"
COMMAND = (sys.executable, "-m", "vcoproc_toolstack.cli.app")
WAIT_S = 60
PROCESSES = {"toolstack", "scheduler", "irq-router", "dsp0"}

pytestmark = pytest.mark.slow


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def run(run_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *arguments, "--run-dir", str(run_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


class Foreground:
    """`vcoproc up` as a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "up", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> list[str]:
        """Waits until it is ready; gives what it printed."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                return lines
        pytest.fail(f"it ended: {self.process.communicate()}")

    def end(self, number: int) -> tuple[int, str, str]:
        """Sends a signal; gives exit code, and what it still printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for tests that leave it as it was."""
    run_dir = Path(f"/dev/shm/vc-up-{os.getpid()}")
    with Cluster(DEMO, run_dir) as cluster:
        yield cluster
    assert not run_dir.exists()


def test_every_process_of_the_tree_runs(cluster: Cluster) -> None:
    pids = cluster.pids()
    assert set(pids) == PROCESSES
    assert all(alive(pid) for pid in pids.values())


def test_the_whole_life_of_a_domain(cluster: Cluster, tmp_path: Path) -> None:
    file = str(EXAMPLES / "fir.cfg")
    created = run(cluster.run_dir, "domain", "create", file, "-o", "json")
    assert (created.returncode, created.stderr) == (0, "")
    assert json.loads(created.stdout)["name"] == "domains/fir"
    shown = json.loads(run(cluster.run_dir, "domain", "show", "fir", "-o", "json").stdout)
    [audio] = shown["vcoprocs"]
    assert audio["state"] == "STATE_SLEEPING"
    assert audio["accounting"]["run_ns"] == 0
    again = run(cluster.run_dir, "domain", "create", file)
    assert again.returncode == 1
    destroyed = run(cluster.run_dir, "domain", "destroy", "fir")
    assert destroyed.returncode == 0
    assert list((cluster.run_dir / "memory").iterdir()) == []
    events = run(cluster.run_dir, "events", "-o", "json").stdout.splitlines()
    kinds = [json.loads(line)["kind"] for line in events]
    assert kinds[-2:] == ["KIND_CREATED", "KIND_DESTROYED"]


def test_a_parameter_that_the_algorithm_does_not_know_leaves_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Refused by the scheduler, a few steps into the creation."""
    file = tmp_path / "x.cfg"
    file.write_text('name = "x"\nvcoproc = ["coproc=dsp0,name=v,no_such_parameter=1"]\n')
    result = run(cluster.run_dir, "domain", "create", str(file))
    assert result.returncode == 2
    assert "no_such_parameter" in result.stderr
    assert list((cluster.run_dir / "memory").iterdir()) == []
    assert json.loads(run(cluster.run_dir, "domain", "list", "-o", "json").stdout)["domains"] == []


def test_a_second_cluster_in_the_same_place_is_refused(cluster: Cluster) -> None:
    with pytest.raises(RunDirBusy, match=f"in use by process {os.getpid()}"):
        Cluster(DEMO, cluster.run_dir).start()
    result = run(cluster.run_dir, "up", "--tree", str(DEMO))
    assert result.returncode == 1
    assert f"{cluster.run_dir} is in use by process {os.getpid()}" in result.stderr
    assert "--run-dir" in result.stderr
    assert run(cluster.run_dir, "coproc", "list").returncode == 0, "the first one is unharmed"


def test_only_the_owner_can_look_into_the_run_directory(cluster: Cluster) -> None:
    assert cluster.run_dir.stat().st_mode & 0o077 == 0


# --- starts that fail -----------------------------------------------------------------------------


def test_a_wrong_tree_starts_nothing(short_path: Path) -> None:
    tree = short_path / "bad.dts"
    tree.write_text(DEMO.read_text().replace("coproc = <&dsp0>;", 'coproc = "/soc/nope";'))
    with pytest.raises(InvalidConfig, match=r"bad\.dts:\d+: .*nope"):
        Cluster(tree, short_path / "run")
    assert list(short_path.iterdir()) == [tree]


@pytest.mark.parametrize("instances", [0, 9])
def test_more_instances_than_the_template_has(short_path: Path, instances: int) -> None:
    with pytest.raises(InvalidArgument, match="not between 1 and 8, as ncore has"):
        Cluster(TEMPLATE, short_path / "run", instances=instances)


def test_a_run_directory_that_is_too_deep(short_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="too long for socket paths"):
        Cluster(DEMO, short_path / ("x" * 60))


@pytest.mark.parametrize("made_before", [False, True])
def test_a_process_that_cannot_start_leaves_nothing_behind(
    short_path: Path, made_before: bool
) -> None:
    """The store is no store, so the toolstack ends with its reason."""
    store = short_path / "store.db"
    store.write_bytes(b"this is not a database " * 100)
    run_dir = short_path / "run"
    if made_before:
        run_dir.mkdir(mode=0o700)
        (run_dir / "mine.txt").touch()
    cluster = Cluster(DEMO, run_dir, store=store)
    with pytest.raises(StartFailed, match="toolstack ended with exit code 2") as caught:
        cluster.start()
    assert "file is not a database" in caught.value.words
    assert cluster.pids() == {}
    left = [path.name for path in run_dir.iterdir()] if made_before else run_dir.exists()
    assert left == (["mine.txt"] if made_before else False)
    result = run(run_dir, "up", "--tree", str(DEMO), "--store", str(store))
    assert result.returncode == 2
    assert "file is not a database" in result.stderr
    assert result.stderr.splitlines()[-2].endswith(" [START_FAILED]")
    assert result.stderr.splitlines()[-1].startswith("next: ")


@pytest.mark.parametrize("option", ["--run-dir", "--log-dir"])
def test_a_directory_that_cannot_be_made_is_told(short_path: Path, option: str) -> None:
    file = short_path / "file"
    file.touch()
    directories = {"--run-dir": short_path / "run"} | {option: file / "x"}
    words = [str(word) for pair in directories.items() for word in pair]
    command = [*COMMAND, "up", "--tree", str(DEMO), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    why, advice = result.stderr.splitlines()
    assert why == f"error: the cluster cannot be started: {file}/x: Not a directory [START_FAILED]"
    assert (advice[:6], result.returncode) == ("next: ", 1)
    assert [path.name for path in short_path.iterdir()] == ["file"]


# --- in the foreground ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_cleanly(short_path: Path, number: int) -> None:
    foreground = Foreground("--tree", str(DEMO), "--run-dir", str(short_path / "run"))
    lines = [line.split() for line in foreground.ready()]
    assert lines[0][:2] == ["ready", "in"]
    pids = {line[0]: int(line[1]) for line in lines[2:-1]}
    assert set(pids) == PROCESSES
    code, _, err = foreground.end(number)
    assert (code, err) == (0, "")
    assert not any(alive(pid) for pid in pids.values())
    assert list(short_path.iterdir()) == []


def test_kill_9_takes_the_children_along_and_the_next_one_goes_on(short_path: Path) -> None:
    run_dir = short_path / "run"
    foreground = Foreground("--tree", str(DEMO), "--run-dir", str(run_dir))
    lines = [line.split() for line in foreground.ready()]
    assert run(run_dir, "domain", "create", str(EXAMPLES / "fir.cfg")).returncode == 0
    pidfds = [os.pidfd_open(int(line[1])) for line in lines[2:-1]]
    foreground.end(signal.SIGKILL)
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], WAIT_S)[0], "a child lives on"
        os.close(pidfd)
    # The store was not lost: the domain is there again, attached to new processes.
    with Cluster(DEMO, run_dir) as cluster:
        listed = json.loads(run(cluster.run_dir, "vcoproc", "list", "-o", "json").stdout)
        [vcoproc] = listed["vcoprocs"]
        assert vcoproc["name"] == "domains/fir/vcoprocs/audio"
    assert {path.name for path in run_dir.iterdir()} == set()


def test_coprocs_of_a_template_and_logs_elsewhere(short_path: Path) -> None:
    logs = short_path / "logs"
    with Cluster(TEMPLATE, short_path / "run", instances=2, log_dir=logs) as cluster:
        assert set(cluster.pids()) == PROCESSES - {"dsp0"} | {"ncore-0", "ncore-1"}
        listed = json.loads(run(cluster.run_dir, "coproc", "list", "-o", "json").stdout)
        states = {coproc["name"]: coproc["state"] for coproc in listed["coprocs"]}
        assert states == {"coprocs/ncore-0": "STATE_ONLINE", "coprocs/ncore-1": "STATE_ONLINE"}
    assert {path.name for path in short_path.iterdir()} == {"logs"}
    assert "toolstack.log" in {path.name for path in logs.iterdir()}


# --- deaths ---------------------------------------------------------------------------------------


@pytest.fixture
def fragile(short_path: Path) -> Iterator[tuple[Cluster, queue.SimpleQueue[str]]]:
    """A cluster that may be broken, and what it reports. It has the domain of fir.cfg."""
    reports: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Cluster(DEMO, short_path / "run", report=reports.put) as cluster:
        created = run(cluster.run_dir, "domain", "create", str(EXAMPLES / "fir.cfg"))
        assert created.returncode == 0
        yield cluster, reports


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_a_process_that_dies_finds_its_place_again(
    fragile: tuple[Cluster, queue.SimpleQueue[str]], name: str
) -> None:
    cluster, reports = fragile
    before = cluster.pids()
    with Client(cluster.run_dir) as client:
        revision = client.whole(calls.domains("")).revision
    os.kill(before[name], signal.SIGKILL)
    assert f"{name} was ended by SIGKILL" in reports.get(timeout=WAIT_S)
    assert f"{name} serves again" in reports.get(timeout=WAIT_S)
    # The toolstack tells when the one that died, or the coproc that it lost, is there again.
    wanted = {"dsp0": "coprocs/dsp0", "toolstack": "coprocs/dsp0"}.get(name, f"services/{name}")
    with Client(cluster.run_dir) as client:
        for event in client.watch(revision=revision):
            if event.name == wanted and event.kind == api.Event.KIND_ONLINE:
                break
    after = cluster.pids()
    assert {other for other in PROCESSES if after[other] != before[other]} == {name}
    # The old domain can still be unmade, and a new one made.
    assert run(cluster.run_dir, "domain", "destroy", "fir").returncode == 0
    created = run(cluster.run_dir, "domain", "create", str(EXAMPLES / "sobel.cfg"))
    assert (created.returncode, created.stderr) == (0, "")


def test_a_frozen_coproc_does_not_hold_up_the_rest(
    fragile: tuple[Cluster, queue.SimpleQueue[str]],
) -> None:
    """SIGSTOP of a coproc-sim: a domain can still be destroyed; when it wakes it is cleaned."""
    cluster, _ = fragile
    pid = cluster.pids()["dsp0"]
    os.kill(pid, signal.SIGSTOP)
    try:
        listed = json.loads(run(cluster.run_dir, "vcoproc", "list", "-o", "json").stdout)
        assert len(listed["vcoprocs"]) == 1
        assert run(cluster.run_dir, "domain", "destroy", "fir").returncode == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    created = run(cluster.run_dir, "domain", "create", str(EXAMPLES / "fir.cfg"))
    assert created.returncode == 0
