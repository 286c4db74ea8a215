"""What tests do with a cluster of real processes."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from vcoproc.api.v1 import toolstack_pb2, toolstack_pb2_grpc
from vcoproc.client import Cluster as Client
from vcoproc.client import calls
from vcoproc.guest import Domain, Remoteproc
from vcoproc.guest.vcoproc import Vcoproc
from vcoproc.guest.work_ring import MAILBOX_READY_WORD
from vcoproc.runtime.grpc_kit import channel
from vcoproc_toolstack.cli.up import Cluster

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
FIRMWARE = ROOT / "firmware"
ALL_BITS = 0xFFFF_FFFF
COUNT_WORD = 8
S = 1_000_000_000


class Running:
    """A running cluster and what tests do with it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.run_dir = cluster.run_dir
        self.channel = channel(f"unix:{self.run_dir}/toolstack.grpc")
        self.toolstack = toolstack_pb2_grpc.ToolstackServiceStub(self.channel)
        self._domains: list[Domain] = []

    def create(self, name: str, *coprocs: str, memory: int = 1) -> Domain:
        """A new domain with a vcoproc "v0", "v1", ... on each of the coprocs; opened."""
        specs = ", ".join(f'"coproc={coproc},name=v{n}"' for n, coproc in enumerate(coprocs))
        request = toolstack_pb2.CreateDomainRequest(
            config=f'name = "{name}"\nmemory = {memory}\nvcoproc = [{specs}]\n',
            file_name=f"{name}.cfg",
            request_id=uuid.uuid4().hex,
        )
        for attempt in range(10):  # one that was killed answers "unavailable" until it is back
            try:
                self.toolstack.CreateDomain(request, wait_for_ready=True, timeout=20)
                break
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == 9:
                    raise
        return self.open(name)

    def open(self, name: str) -> Domain:
        domain = Domain(name, self.run_dir)
        self._domains.append(domain)
        return domain

    def vcoproc(self, name: str) -> toolstack_pb2.Vcoproc:
        return self.toolstack.GetVcoproc(
            toolstack_pb2.GetVcoprocRequest(name=name), wait_for_ready=True, timeout=20
        )

    def events(self, revision: int) -> Any:
        """The stream of events after a revision; to be cancelled."""
        return self.toolstack.WatchEvents(
            toolstack_pb2.WatchEventsRequest(revision=revision), timeout=30
        )

    def revision(self) -> int:
        listed = self.toolstack.ListDomains(
            toolstack_pb2.ListDomainsRequest(), wait_for_ready=True, timeout=20
        )
        return int(listed.revision)

    def destroy_domains(self) -> None:
        """Closes and destroys every domain."""
        for domain in self._domains:
            domain.close()
        self._domains.clear()
        listed = self.toolstack.ListDomains(
            toolstack_pb2.ListDomainsRequest(), wait_for_ready=True, timeout=20
        )
        for domain in listed.domains:
            self.toolstack.DestroyDomain(
                toolstack_pb2.DestroyDomainRequest(name=domain.name), timeout=20
            )

    def close(self) -> None:
        for domain in self._domains:
            domain.close()
        self.channel.close()


def start_firmware(domain: Domain, name: str, vcoproc: str = "v0") -> Remoteproc:
    """Loads and starts firmware/NAME and waits until it listens."""
    core = domain.vcoproc(vcoproc)
    mailbox = core.mapped("mbox").cast("I")
    mailbox[MAILBOX_READY_WORD] = 0
    rproc = Remoteproc(domain, core)
    rproc.load(FIRMWARE / name / f"{name}.elf")
    rproc.start()
    wait_until(lambda: mailbox[MAILBOX_READY_WORD] != 0, core)
    return rproc


def wait_until(condition: Callable[[], bool], core: Vcoproc, reads: int = 20_000) -> None:
    """Looks again after each of a bounded number of register reads."""
    for _ in range(reads):
        if condition():
            return
        core.read32("STATUS")
    pytest.fail("it did not happen")


def ring(domain: Domain, vcoproc: str = "v0", timeout_ns: int = 10 * S) -> int:
    """Rings doorbell 0 of firmware `hello`, takes its interrupt, gives its count."""
    core = domain.vcoproc(vcoproc)
    core.write32("DOORBELL", 1)
    interrupt = domain.wait_irq(timeout_ns)
    assert interrupt is not None, "no interrupt came"
    assert (interrupt.vcoproc, interrupt.line) == (vcoproc, "irq")
    core.write32("IRQ_STATUS", ALL_BITS)
    domain.eoi(interrupt)
    return int(core.mapped("mbox").cast("I")[COUNT_WORD])


def wait_for(client: Client, kind: int, name: str, met: Callable[[], bool]) -> None:
    """Until a condition is met; looked at again after each event of that kind and name."""
    revision = client.whole(calls.coprocs("")).revision
    if met():
        return
    for event in client.watch(revision=revision):
        if (event.kind, event.name) == (kind, name) and met():
            return


def start_cluster(tree: Path) -> Running:
    folder = Path(tempfile.mkdtemp(prefix="vc-", dir="/dev/shm"))
    cluster = Cluster(tree, folder / "run")
    try:
        cluster.start()
    except BaseException:
        shutil.rmtree(folder)
        raise
    return Running(cluster)


def stop_cluster(running: Running) -> None:
    running.close()
    pids = list(running.cluster.pids().values())
    running.cluster.stop()
    try:
        assert not running.run_dir.exists(), "something is left in the run directory"
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()], "a process is left"
    finally:
        shutil.rmtree(running.run_dir.parent)
