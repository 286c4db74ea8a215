"""The first domain that a tree asks for, with real processes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster_kit import EXAMPLES, Running, ring, start_firmware, wait_for
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster as Client
from vcoproc.config import FIRST_DOMAIN
from vcoproc.errors import VcoprocError
from vcoproc_toolstack.cli.up import Cluster

TREE = EXAMPLES / "first-domain.dts"
CREATED = api.Event.KIND_CREATED


@pytest.fixture
def store() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vc-", dir="/dev/shm") as path:
        yield Path(path) / "store.db"


@contextmanager
def cluster(store: Path) -> Iterator[tuple[Running, Client]]:
    """One whose first domain is there."""
    with Cluster(TREE, store.with_name("run"), store=store) as children:
        running = Running(children)
        try:
            with Client(running.run_dir) as client:
                wait_for(client, CREATED, f"domains/{FIRST_DOMAIN}", lambda: bool(names(client)))
                yield running, client
        finally:
            running.close()


def names(client: Client) -> list[str]:
    return [each.name for each in client.domains()]


def test_it_is_there_and_stays_as_it_is_whoever_is_killed(store: Path) -> None:
    with cluster(store) as (running, client):
        assert client.domain(FIRST_DOMAIN).domid == 0
        with pytest.raises(VcoprocError, match="is what the system's tree asks for") as refused:
            client.destroy_domain(FIRST_DOMAIN)
        assert refused.value.reason == "WRONG_STATE"
        domain = running.open(FIRST_DOMAIN)
        start_firmware(domain, "hello", "audio")
        assert ring(domain, "audio") == 1
        for number, service in enumerate(("toolstack", "irq-router", "scheduler"), 2):
            os.kill(running.cluster.pids()[service], signal.SIGKILL)
            assert ring(domain, "audio") == number
        assert client.domain(FIRST_DOMAIN).domid == 0
        client.create_domain('name = "x"\nmemory = 1\n')
        assert client.domain("x").domid == 1
        client.destroy_domain("x")


def test_what_was_changed_of_it_outlasts_its_cluster(store: Path) -> None:
    with cluster(store) as (_, client):
        client.create_vcoproc(FIRST_DOMAIN, "coproc=dsp1,name=other")
        client.destroy_vcoproc(f"{FIRST_DOMAIN}/audio")
    with cluster(store) as (running, client):
        [vcoproc] = client.domain(FIRST_DOMAIN).vcoprocs
        assert (vcoproc.name, vcoproc.coproc) == (
            f"domains/{FIRST_DOMAIN}/vcoprocs/other",
            "coprocs/dsp1",
        )
        domain = running.open(FIRST_DOMAIN)
        start_firmware(domain, "hello", "other")
        assert ring(domain, "other") == 1
