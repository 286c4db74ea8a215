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


def test_the_driver_of_the_page_runs(cluster: Running) -> None:
    cluster.create("fir", "dsp0").close()
    (program,) = code_blocks("docs/driver.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "VCOPROC_RUN_DIR": str(cluster.run_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "rung 1 time(s)\n"


def test_the_queries_of_the_page_run(cluster: Running) -> None:
    (commands,) = code_blocks("docs/queries.md", "sh")
    (program,) = code_blocks("docs/queries.md", "python")
    environment = {
        **os.environ,
        "VCOPROC_RUN_DIR": str(cluster.run_dir),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for command, expected in (
        (["bash", "-ec", commands], ("domains/fir", "dsp0")),
        ([sys.executable, "-c", program], ("1 domains/fir 4194304\n2 domains/fir 0\n",)),
    ):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(words in done.stdout for words in expected), done.stdout


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
