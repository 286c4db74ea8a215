"""The demo as users start it: real processes, real input, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from vcoproc.api.v1 import toolstack_pb2, toolstack_pb2_grpc
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.cli.up import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples/demo/data"
EXIT_INTERRUPTED = 130
FINISH_S = 120
"""A busy machine is slow; the demo alone takes less than 15 s."""
MARK = "VCOPROC_TEST_MARK"
# Writes down every temporary folder that the demo makes, so that the test can look for it.
START = """
import os, sys, tempfile
make = tempfile.mkdtemp
def mkdtemp(*arguments, **options):
    made = make(*arguments, **options)
    with open(os.environ["VCOPROC_TEST_MADE"], "a") as file:
        file.write(made + "\\n")
    return made
tempfile.mkdtemp = mkdtemp
from vcoproc_demo.__main__ import main
sys.exit(main())
"""


@dataclass
class Demo:
    """How one demo is started, and what it may have left."""

    folder: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        made = self.folder / "made"
        return subprocess.Popen(
            [sys.executable, "-c", START, "--out", str(self.out), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, MARK: self.mark, "VCOPROC_TEST_MADE": str(made)},
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, error = process.communicate(timeout=FINISH_S)
        return process.returncode, out, error

    def assert_nothing_left(self) -> None:
        assert _marked(self.mark) == []
        made = (self.folder / "made").read_text().split()
        assert made
        assert [path for path in made if Path(path).exists()] == []

    def end(self) -> None:
        for pid in _marked(self.mark):
            os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> list[int]:
    """Processes that descend from a demo: they have inherited its environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has gone, or is another user's
    return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    one = Demo(tmp_path)
    yield one
    one.end()


def _power(samples: Any, low_hz: int, high_hz: int, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    return float(np.sum(spectrum[(hz >= low_hz) & (hz < high_hz)]))


def _samples(path: Path) -> Any:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_three_domains_share_a_coproc_and_every_output_is_right(demo: Demo) -> None:
    code, out, error = demo.run("--output", "json")
    assert code == 0, error
    report = json.loads(out)
    assert report["ok"] is True
    assert report == json.loads((demo.out / "report.json").read_text())
    domains = {domain["name"]: domain for domain in report["domains"]}
    assert set(domains) == {"fir", "sobel", "sha256"}
    for domain in domains.values():
        assert len(domain["checks"]) == 2 and all(check["equal"] for check in domain["checks"])
        # Some hundred milliseconds of work in slices of 5 ms.
        assert domain["switches"] >= 10 and domain["switch"]["count"] >= 10
        assert domain["trap"]["count"] >= 100 and domain["irq"]["count"] >= 20
        assert 0 < domain["trap"]["p50_ns"] <= domain["trap"]["p99_ns"]
        assert 0 < domain["irq"]["p50_ns"] <= domain["irq"]["p99_ns"]
    shares = [domain["share_permille"] for domain in domains.values()]
    assert sum(shares) <= 1000 and max(shares) < 1.5 * min(shares)  # round robin is fair
    # Sharing takes time from each, or it was no sharing.
    assert all(domain["shared_ns"] > domain["unshared_ns"] for domain in domains.values())
    _assert_files_are_good(demo.out)
    demo.assert_nothing_left()


def _assert_files_are_good(out: Path) -> None:
    """What people look at, judged by other means than the demo's own."""
    before, after = _samples(DATA / "speech.wav"), _samples(out / "filtered.wav")
    assert len(after) == len(before)
    assert _power(after, 2000, 8000, 16_000) < 1e-4 * _power(before, 2000, 8000, 16_000)
    assert _power(after, 100, 800, 16_000) > 0.9 * _power(before, 100, 800, 16_000)
    with Image.open(out / "edges.png") as picture:
        edges = np.asarray(picture).astype(int)
    pixels = np.frombuffer((DATA / "camera.pgm").read_bytes()[-512 * 512 :], np.uint8)
    steps = np.abs(np.diff(pixels.reshape(512, 512).astype(int), axis=1))
    assert edges.shape == (512, 512)
    # Bright where the photograph has steps: another measure of the same thing.
    assert np.corrcoef(edges[1:-1, 1:-1].ravel(), steps[1:-1, 1:].ravel())[0, 1] > 0.5
    with Image.open(out / "timeline.png") as picture:
        assert picture.size[0] > 1000 and len(np.unique(np.asarray(picture))) > 3


def test_a_wrong_output_is_told_and_ends_with_1(demo: Demo) -> None:
    firmware = demo.folder / "firmware"
    for name in ("fir", "sobel", "sha256"):
        (firmware / name).mkdir(parents=True)
        shutil.copy(ROOT / f"firmware/{name}/{name}.elf", firmware / name)
    elf = firmware / "sha256/sha256.elf"
    image = elf.read_bytes()
    constant = (0x428A2F98).to_bytes(4, "little")  # the first of the hash's constants
    assert image.count(constant) == 1
    elf.write_bytes(image.replace(constant, (0x428A2F99).to_bytes(4, "little")))
    code, out, error = demo.run("--firmware", str(firmware))
    assert code == 1, error
    assert "sha256 differs from hashlib: byte 0 of 32 is 0x" in " ".join(out.split())
    assert "fir differs" not in out and "sha256 differs from unshared" not in out
    assert json.loads((demo.out / "report.json").read_text())["ok"] is False
    demo.assert_nothing_left()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("starting a cluster", signal.SIGINT),
        ("sobel alone", signal.SIGTERM),
        ("all three on", signal.SIGINT),
    ],
)
def test_an_interrupt_at_any_moment_leaves_nothing(
    demo: Demo, moment: str, number: signal.Signals
) -> None:
    with demo.start() as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith(moment):
                break
        else:
            pytest.fail(f"it ended before it came to that moment:\n{''.join(seen)}")
        process.send_signal(number)
        began_ns = time.monotonic_ns()
        process.communicate(timeout=FINISH_S)
    assert process.returncode == EXIT_INTERRUPTED
    assert time.monotonic_ns() - began_ns < 20_000_000_000
    demo.assert_nothing_left()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Short, for the paths of sockets; a tree whose coproc is not called as in the domain files.
    with (
        tempfile.TemporaryDirectory(prefix="vt", dir="/tmp") as folder,
        Cluster(ROOT / "examples/template.dts", Path(folder) / "run") as running,
    ):
        yield running


def test_a_running_cluster_is_used_and_left_as_it_was(demo: Demo, cluster: Cluster) -> None:
    before = dict(cluster.pids())
    code, out, error = demo.run("--run-dir", str(cluster.run_dir), "--output", "json")
    assert code == 0, error
    assert json.loads(out)["coproc"]["name"] == "ncore-0"
    assert dict(cluster.pids()) == before
    with grpc.insecure_channel(RunDir(cluster.run_dir).grpc("toolstack")) as channel:
        stub = toolstack_pb2_grpc.ToolstackServiceStub(channel)
        assert list(stub.ListDomains(toolstack_pb2.ListDomainsRequest()).domains) == []
    demo.assert_nothing_left()


def test_no_cluster_in_the_run_directory_is_told(demo: Demo) -> None:
    code, out, _ = demo.run("--run-dir", "/tmp/no-such-vcoproc")
    assert code == 1
    assert "no cluster answers in /tmp/no-such-vcoproc" in " ".join(out.split())
    demo.assert_nothing_left()
