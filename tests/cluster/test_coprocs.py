"""Coprocs come and go while firmware runs, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cluster_kit import (
    EXAMPLES,
    Running,
    ring,
    start_cluster,
    start_firmware,
    stop_cluster,
    wait_for,
)
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster as Client
from vcoproc.errors import VcoprocError
from vcoproc.guest import Domain
from vcoproc.runtime.process import EXIT_REMOVED
from vcoproc.runtime.rundir import RunDir
from vcoproc_toolstack.cli.up import Cluster

LIMIT_S = 30
DEMO = EXAMPLES / "demo.dts"
ONLINE, DESTROYED = api.Event.KIND_ONLINE, api.Event.KIND_DESTROYED


def tree(name: str, at: int = 0xE000_0000, *, template: int = 0) -> str:
    """The demo's coproc under another name and address; or a template of so many."""
    text = DEMO.read_text().replace("dsp0", name)
    text = text.replace("f0000000", f"{at:x}").replace("0xf0001000", f"{at + 0x1000:#x}")
    entry = f"instances = <{template}>;" if template else ""
    return text.replace("max-vcoprocs = <16>;", entry)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/dev/shm") as path:
        yield Path(path)


@pytest.fixture
def demo() -> Iterator[tuple[Running, Client]]:
    running = start_cluster(DEMO)
    with Client(running.run_dir) as client:
        yield running, client
    stop_cluster(running)


def online(client: Client, name: str) -> None:
    """Waits until a coproc has a coproc-sim."""
    wait_for(
        client,
        ONLINE,
        f"coprocs/{name}",
        lambda: client.coproc(name).state == api.Coproc.STATE_ONLINE,
    )


def add(client: Client, name: str, at: int = 0xE000_0000) -> None:
    client.add_coprocs(tree(name, at), file_name=f"{name}.dts")
    online(client, name)


def ended(running: Running, name: str) -> None:
    """Waits until a coproc-sim has ended, and is not started again."""
    end_s = time.monotonic() + LIMIT_S
    while name in running.cluster.pids():
        assert time.monotonic() < end_s, "it did not end"
        os.sched_yield()


class Ringing:
    """A driver that rings all the time, from a thread of its own."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.counts: list[int] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                count = ring(self.domain, timeout_ns=LIMIT_S * 1_000_000_000)
                with self._progress:
                    self.counts.append(count)
                    self._progress.notify_all()
        except BaseException as error:
            self.error = error
            with self._progress:
                self._progress.notify_all()

    def more(self, count: int = 3) -> None:
        """Waits until it has rung some more times."""
        with self._progress:
            wanted = len(self.counts) + count
            self._progress.wait_for(lambda: len(self.counts) >= wanted or self.error, LIMIT_S)
        assert self.error is None, self.error

    def stop(self) -> None:
        """Ends it; every ring must have been counted once."""
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error
        assert self.counts == list(range(self.counts[0], self.counts[0] + len(self.counts)))


@contextmanager
def ringing(domain: Domain) -> Iterator[Ringing]:
    start_firmware(domain, "hello")
    driver = Ringing(domain)
    try:
        driver.more()
        yield driver
        driver.more()
    finally:
        driver.stop()


def test_one_is_added_used_and_removed(demo: tuple[Running, Client]) -> None:
    running, client = demo
    add(client, "npu")
    domain = running.create("guest", "npu", "dsp0")
    for name in ("v0", "v1"):
        start_firmware(domain, "hello", name)
        assert ring(domain, name) == 1
    assert client.vcoproc("guest/v0").coproc == "coprocs/npu"
    client.remove_coproc("npu", destroy_vcoprocs=True)
    ended(running, "npu")
    assert [each.name for each in client.vcoprocs()] == ["domains/guest/vcoprocs/v1"]
    assert ring(domain, "v1") == 2, "the other one goes on"
    with pytest.raises(VcoprocError, match="'npu' does not exist"):
        client.coproc("npu")


def test_a_drain_moves_firmware_that_runs_and_its_driver_misses_nothing(
    demo: tuple[Running, Client],
) -> None:
    running, client = demo
    add(client, "npu")
    busy = running.create("busy", "dsp0")
    start_firmware(busy, "spin")
    with ringing(running.create("guest", "dsp0")) as driver:
        before = client.vcoproc("guest/v0").accounting.switch_count
        drained = client.drain_coproc("dsp0", move_vcoprocs=True)
        assert (drained.draining, drained.vcoproc_count) == (True, 0)
        driver.more()
        assert {each.coproc for each in client.vcoprocs()} == {"coprocs/npu"}
        assert client.vcoproc("guest/v0").accounting.switch_count >= before
        client.undrain_coproc("dsp0")
        client.drain_coproc("npu", move_vcoprocs=True)
        assert {each.coproc for each in client.vcoprocs()} == {"coprocs/dsp0"}


def test_a_replacement_takes_over_while_firmware_runs(demo: tuple[Running, Client]) -> None:
    running, client = demo
    add(client, "npu")
    with ringing(running.create("guest", "dsp0")) as driver:
        taken = client.replace_coproc("dsp0", "npu")
        assert (taken.name, taken.vcoproc_count) == ("coprocs/npu", 1)
        driver.more()
        ended(running, "dsp0")
        driver.more()
    assert [each.name for each in client.coprocs()] == ["coprocs/npu"]


@pytest.mark.parametrize("change", ["drain", "replace", "remove"])
def test_a_toolstack_that_is_killed_in_between_leaves_all_of_it_or_nothing(
    demo: tuple[Running, Client], change: str
) -> None:
    """Killed at any time: the client asks again with the same request id, and it is done once."""
    running, client = demo
    there, other = "dsp0", "npu0"
    add(client, other)
    with ringing(running.create("guest", there)) as driver:
        for number in range(4):
            killer = threading.Timer(0.02 * number, kill, (running, "toolstack"))
            killer.start()
            try:
                change_it(client, change, there, other)
            finally:
                killer.join()
            driver.more()
            if change == "remove":
                other = f"npu{number + 1}"
                add(client, other, 0xA000_0000 + (number << 24))
                continue
            assert client.vcoproc("guest/v0").coproc == f"coprocs/{other}"
            if change == "drain":
                client.undrain_coproc(there)
                there, other = other, there
            else:
                wait_for(client, DESTROYED, f"coprocs/{there}", partial(gone, client, there))
                there, other = other, f"npu{number + 1}"
                add(client, other, 0xA000_0000 + (number << 24))
    online(client, there)  # the toolstack may just have started again
    assert client.vcoproc("guest/v0").state != api.Vcoproc.STATE_LOST


def kill(running: Running, name: str) -> None:
    os.kill(running.cluster.pids()[name], signal.SIGKILL)


def change_it(client: Client, change: str, there: str, other: str) -> None:
    if change == "drain":
        client.drain_coproc(there, move_vcoprocs=True)
    elif change == "replace":
        client.replace_coproc(there, other)
    else:
        client.remove_coproc(other)
        wait_for(client, DESTROYED, f"coprocs/{other}", lambda: gone(client, other))


def gone(client: Client, name: str) -> bool:
    return f"coprocs/{name}" not in [each.name for each in client.coprocs()]


def test_templates_that_are_added_get_as_many_coproc_sims_as_those_of_the_tree(
    short_path: Path,
) -> None:
    with (
        Cluster(DEMO, short_path / "run", instances=2) as cluster,
        Client(cluster.run_dir) as client,
    ):
        client.add_coprocs(tree("pack", template=3), file_name="pack.dts")
        for name in ("pack-0", "pack-1"):
            online(client, name)
        assert {"pack-0", "pack-1", "dsp0"} <= set(cluster.pids())
        assert "pack-2" not in cluster.pids()


def test_another_cluster_with_the_same_store_has_what_was_changed(short_path: Path) -> None:
    store = short_path / "store.db"
    two = EXAMPLES / "two-coprocs.dts"
    with Cluster(two, short_path / "a", store=store) as cluster, Client(cluster.run_dir) as client:
        add(client, "npu")
        client.remove_coproc("dsp0")
        client.drain_coproc("dsp1")
    said: list[str] = []
    with (
        Cluster(two, short_path / "b", store=store, report=said.append) as cluster,
        Client(cluster.run_dir) as client,
    ):
        online(client, "npu")
        online(client, "dsp1")
        assert [each.name for each in client.coprocs()] == ["coprocs/dsp1", "coprocs/npu"]
        assert client.coproc("dsp1").draining
        client.add_coprocs(two.read_bytes(), names=["dsp0"])
        online(client, "dsp0")
        assert not client.coproc("dsp0").added


# --- coproc-sims without a supervisor -------------------------------------------------------------


@contextmanager
def process(run_dir: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", module, "--run-dir", str(run_dir), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.terminate()
            child.communicate(timeout=LIMIT_S)


def test_coproc_sims_for_any_coproc_take_those_that_are_added_one_after_the_other(
    short_path: Path,
) -> None:
    """As replicas of docker compose do."""
    run_dir = short_path / "run"
    RunDir(run_dir).create()
    with (
        process(run_dir, "vcoproc_toolstack", "--tree", str(DEMO)),
        process(run_dir, "vcoproc_scheduler"),
        process(run_dir, "vcoproc_irq_router"),
        process(run_dir, "vcoproc_sim") as sim,
        client_of(run_dir) as client,
    ):
        online(client, "dsp0")
        at = 0xA000_0000
        for name in ("npu0", "npu1", "npu2"):
            client.remove_coproc(next(iter(client.coprocs())).name)
            client.add_coprocs(tree(name, at), file_name="x")
            online(client, name)
            client.create_domain(f'name = "{name}"\nvcoproc = ["coproc={name},name=v0"]\n')
            with Domain(name, run_dir) as domain:
                start_firmware(domain, "hello")
                assert ring(domain) == 1
            client.destroy_domain(name)
            at += 1 << 24
        assert sim.poll() is None, "it has been the same process all the time"
        sim.terminate()
        assert sim.wait(LIMIT_S) == 0


@contextmanager
def client_of(run_dir: Path) -> Iterator[Client]:
    """As soon as a toolstack serves there."""
    socket = run_dir / "toolstack.grpc"
    while not socket.exists():
        os.sched_yield()
    with Client(run_dir) as client:
        yield client


def test_a_coproc_sim_for_a_coproc_that_is_not_there_says_so_and_ends(short_path: Path) -> None:
    run_dir = short_path / "run"
    RunDir(run_dir).create()
    with (
        process(run_dir, "vcoproc_toolstack", "--tree", str(DEMO)),
        process(run_dir, "vcoproc_sim", "--coproc", "dps0") as sim,
    ):
        _, words = sim.communicate(timeout=LIMIT_S)
        assert sim.returncode == EXIT_REMOVED
        assert "coproc-sim: coproc 'dps0' is not part of the system, or no longer" in words
