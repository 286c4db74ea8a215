"""A cluster of real processes for each test module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_kit import EXAMPLES, Running, start_cluster, stop_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def cluster_of_one() -> Iterator[Running]:
    running = start_cluster(EXAMPLES / "demo.dts")
    yield running
    stop_cluster(running)


@pytest.fixture(scope="module")
def cluster_of_two() -> Iterator[Running]:
    running = start_cluster(EXAMPLES / "two-coprocs.dts")
    yield running
    stop_cluster(running)


@pytest.fixture
def one_coproc(cluster_of_one: Running) -> Iterator[Running]:
    """A running cluster with one coproc and no domain."""
    yield cluster_of_one
    cluster_of_one.destroy_domains()


@pytest.fixture
def two_coprocs(cluster_of_two: Running) -> Iterator[Running]:
    """A running cluster with two coprocs and no domain."""
    yield cluster_of_two
    cluster_of_two.destroy_domains()


@pytest.fixture
def fragile() -> Iterator[Running]:
    """A cluster for one test, which may kill parts of it."""
    running = start_cluster(EXAMPLES / "two-coprocs.dts")
    yield running
    stop_cluster(running)
