"""The cluster in containers, on a real engine: the commands of docker-compose.yml.

Needs an engine that answers. `.ci/run` brings one up and sets VCOPROC_REQUIRE_ENGINE, so that there
its absence is a failure; elsewhere the test says that it did not run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Compose:
    """One compose project of its own, so that a cluster of the user's is left alone."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.project = f"vcoproc-test-{uuid.uuid4().hex[:8]}"
        self._environment = {**os.environ, "VCOPROC_DEMO_OUT": str(out)}

    def __call__(self, *arguments: str, timeout_s: int = 300) -> str:
        done = subprocess.run(
            ["docker", "compose", "--project-name", self.project, "--profile", "demo", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(
        ["docker", "compose", "ls"], capture_output=True, timeout=30, check=False
    )
    return asked.returncode == 0


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    if not engine_answers():
        if os.environ.get("VCOPROC_REQUIRE_ENGINE"):
            pytest.fail("no container engine answers, and VCOPROC_REQUIRE_ENGINE is set")
        pytest.skip("no container engine with compose answers here; CI runs this test")
    out = tmp_path_factory.mktemp("out")
    out.chmod(0o777)  # the container's user is another one
    run = Compose(out)
    run("build", timeout_s=800)
    try:
        yield run
    finally:
        run("down", "--volumes", "--remove-orphans", "--timeout", "5")


def coprocs(compose: Compose) -> dict[str, str]:
    listed = compose("exec", "-T", "toolstack", "vcoproc", "coproc", "list", "--output", "json")
    return {coproc["name"]: coproc["state"] for coproc in json.loads(listed)["coprocs"]}


def test_demo_runs_in_containers_and_coprocs_scale(compose: Compose) -> None:
    services = ("irq-router", "scheduler", "toolstack", "coproc-sim")
    compose("up", "--detach", "--wait", "--no-build", *services)
    online = [name for name, state in coprocs(compose).items() if state == "STATE_ONLINE"]
    assert len(online) == 1

    printed = compose("run", "--rm", "--no-TTY", "demo", timeout_s=180)
    assert "sha256" in printed
    out = compose.out
    assert {"filtered.wav", "edges.png", "timeline.png"} <= {path.name for path in out.iterdir()}

    compose("up", "--detach", "--wait", "--no-build", "--scale", "coproc-sim=3", *services)
    wanted = 3
    for _ in range(50):  # each look takes a command's time; the leases come within one or two
        online = [name for name, state in coprocs(compose).items() if state == "STATE_ONLINE"]
        if len(online) == wanted:
            break
    assert len(online) == wanted
    assert len(set(online)) == wanted
