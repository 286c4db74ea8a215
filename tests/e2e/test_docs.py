"""What the pages tell a newcomer to type works as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_kit import EXAMPLES, ROOT, Running, start_cluster, stop_cluster

pytestmark = pytest.mark.slow


def code_blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def cluster() -> Iterator[Running]:
    running = start_cluster(EXAMPLES / "demo.dts")
    yield running
    stop_cluster(running)


def run(cluster: Running, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs what a page says, as somebody does who has this cluster."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            **os.environ,
            "VCOPROC_RUN_DIR": str(cluster.run_dir),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_driver_of_the_page_runs(cluster: Running) -> None:
    cluster.create("fir", "dsp0").close()
    (program,) = code_blocks("docs/driver.md", "python")
    done = run(cluster, sys.executable, "-c", program)
    assert done.stdout == "rung 1 time(s)\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [((), "usage: "), (("nobody",), "error: domain 'nobody' does not exist [NOT_FOUND]")],
)
def test_the_first_driver_says_what_is_wrong(
    cluster: Running, words: tuple[str, ...], told: str
) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "hello_driver.py", *words],
        env={**os.environ, "VCOPROC_RUN_DIR": str(cluster.run_dir)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


def test_the_commands_of_the_page_on_coprocs_run(cluster: Running) -> None:
    (commands,) = code_blocks("docs/coprocs.md", "console")
    online = "until vcoproc coproc show npu0 2>/dev/null | grep -q ONLINE; do :; done"
    steps = ["vcoproc domain create examples/fir.cfg"]
    for line in commands.splitlines():
        steps.append(f"echo '$ {line}'; {line}")
        if line.startswith("vcoproc coproc add examples"):
            steps.append(online)  # a person types slower than a coproc-sim starts
        if "drain dsp0 --move" in line:
            steps.append("vcoproc vcoproc list")
    done = run(cluster, "bash", "-c", "set -e\n" + "\n".join(steps))
    moved = done.stdout.split("--move")[1].split("undrain")[0]
    assert "fir/audio" in moved
    assert "npu0" in moved
    assert "npu0 is removed" in done.stdout
    assert "dsp0 is removed" in done.stdout


def test_the_commands_of_the_page_on_lives_run(tmp_path: Path) -> None:
    (commands,) = code_blocks("docs/lifecycle.md", "console")
    commands = re.sub(r"\b(fir2?\.save|audio\.ctx)\b", rf"{tmp_path}/\1", commands)
    running = start_cluster(EXAMPLES / "two-coprocs.dts")
    try:
        steps = f"vcoproc domain create examples/fir.cfg\n{commands}vcoproc vcoproc list\n"
        done = run(running, "bash", "-ec", steps)
    finally:
        stop_cluster(running)
    states = re.findall(r"^domain (\S+): domid \d+, ([A-Z]+)", done.stdout, re.MULTILINE)
    assert states == [
        ("fir", "RUNNING"),
        ("fir", "PAUSED"),
        ("fir", "RUNNING"),
        ("fir2", "RUNNING"),
        ("fir2", "RUNNING"),
        ("fir2", "CRASHED"),
        ("broken", "CRASHED"),
        ("fir", "STOPPED"),
    ]
    assert "domain broken is destroyed" in done.stdout
    assert re.search(r"^fir/audio +\d+ +dsp1 +STOPPED", done.stdout, re.MULTILINE)


def test_the_queries_of_the_page_run(cluster: Running) -> None:
    (commands,) = code_blocks("docs/queries.md", "sh")
    (program,) = code_blocks("docs/queries.md", "python")
    done = run(cluster, "bash", "-ec", commands)
    assert all(words in done.stdout for words in ("domains/fir", "dsp0"))
    done = run(cluster, sys.executable, "-c", program)
    assert "1 domains/fir 4194304\n2 domains/fir 0\n" in done.stdout


def test_the_clients_of_the_page_run(cluster: Running) -> None:
    waits, awaits = code_blocks("docs/client.md", "python")
    done = run(cluster, sys.executable, "-c", waits)
    assert done.stdout == "domains/fir [64, 65, 66]\n['domains/fir']\nINVALID_CONFIG\n"
    done = run(cluster, sys.executable, "-c", awaits)
    assert done.stdout.startswith("['domains/fir']\ndomains/fir ")


def test_the_firmware_of_the_page_is_the_one_in_the_tree() -> None:
    (shown,) = code_blocks("docs/firmware.md", "c")
    comment = re.compile(r"\s*/\*.*?\*/", re.DOTALL)
    source = (ROOT / "firmware/hello/hello.c").read_text()
    assert comment.sub("", shown).split() == comment.sub("", source).split()


def test_the_tutorial_of_the_readme_runs(tmp_path: Path) -> None:
    tutorial = (ROOT / "README.md").read_text().split("## Tutorial")[1].split("`--output")[0]
    lines = [line.strip() for line in tutorial.splitlines() if line.startswith("    ")]
    assert lines[0].startswith("make demo"), "a test of its own"
    assert lines[1].startswith(". .venv/bin/activate")
    for name in ("examples", "firmware"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    steps = []
    for line in lines[2:]:
        steps.append(line)
        if line.startswith("vcoproc up"):
            # A person types slower than a cluster starts.
            steps.append("until vcoproc coproc list 2>/dev/null | grep -q ONLINE; do :; done")
    try:
        done = subprocess.run(
            ["bash", "-c", "set -em\n" + "\n".join([*steps, "wait"])],
            cwd=tmp_path,
            env={
                **os.environ,
                "VCOPROC_RUN_DIR": str(folder / "run"),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode in (0, 143), done.stdout + done.stderr
        assert "the firmware has counted 3" in done.stdout
        assert not (folder / "run").exists(), "something is left behind"
    finally:
        shutil.rmtree(folder)
