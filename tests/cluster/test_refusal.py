"""A coprocessor that refuses, as real processes: one refuses, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_kit import EXAMPLES, Running, S, ring, start_cluster, start_firmware, stop_cluster
from vcoproc.api.v1 import toolstack_pb2
from vcoproc.guest import RemoteprocState

FORCED_OFF = 16
BOUND_NS = 20_000_000
"""`refusal-deadline-us` of the example."""


def refuse(tmp_path: Path, kind: str, rest: str) -> Iterator[Running]:
    """As the example, but of the first vcoproc alone, and otherwise."""
    text = (EXAMPLES / "refuse.dts").read_text()
    text = text.replace('"heavy-tail"', f'"{kind}"').replace("refusal-percent", "refusal-contexts")
    text = text.replace("<25>", "<1>").replace("vcoproc,refusal-us = <50 30000>;", rest)
    tree = tmp_path / "refuse.dts"
    tree.write_text(text)
    running = start_cluster(tree)
    yield running
    stop_cluster(running)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Running]:
    """The first vcoproc hangs whenever it shall leave."""
    yield from refuse(tmp_path, "hang", "")


@pytest.fixture
def refusing_in(tmp_path: Path) -> Iterator[Running]:
    """The first vcoproc is taken in late, each time."""
    rest = 'vcoproc,refusal-us = <3000>; vcoproc,refusal-at = "in";'
    yield from refuse(tmp_path, "always", rest)


def test_one_hangs_and_the_other_goes_on(refusing: Running) -> None:
    hog = refusing.create("hog", "dsp0")
    polite = refusing.create("polite", "dsp0")
    spinning = start_firmware(hog, "spin")
    start_firmware(polite, "hello")
    assert [ring(polite) for _ in range(10)] == list(range(1, 11))
    # Its domain is told, by the line and by the register; its driver can start it again.
    interrupt = hog.wait_irq(10 * S)
    assert interrupt is not None and interrupt.line == "fault"
    core = hog.vcoproc("v0")
    assert core.read32("FAULT_STATUS") == FORCED_OFF
    assert spinning.state is RemoteprocState.CRASHED
    hog.eoi(interrupt)
    spinning.recover()
    assert ring(polite) == 11
    accounts = {
        name: refusing.vcoproc(f"domains/{name}/vcoprocs/v0").accounting
        for name in ("hog", "polite")
    }
    assert accounts["hog"].refused_ns >= BOUND_NS, "the refuser pays"
    assert accounts["polite"].refused_ns == 0


def test_one_is_taken_in_late_and_pays(refusing_in: Running) -> None:
    hog = refusing_in.create("hog", "dsp0")
    polite = refusing_in.create("polite", "dsp0")
    start_firmware(hog, "spin")
    start_firmware(polite, "hello")
    assert [ring(polite) for _ in range(10)] == list(range(1, 11))
    request = toolstack_pb2.GetScheduleRequest(coproc="coprocs/dsp0")
    schedule = refusing_in.toolstack.GetSchedule(request, timeout=20)
    late, other = schedule.vcoprocs
    assert (late.vcoproc, other.vcoproc) == tuple(
        f"domains/{name}/vcoprocs/v0" for name in ("hog", "polite")
    )
    figures = late.switch_in_refusals
    assert figures.refusal_count >= 1, "however fast the other one is served"
    assert figures.total_ns >= figures.refusal_count * 3_000_000
    assert figures.busy_count >= figures.refusal_count
    assert sum(figures.bucket_counts) == figures.refusal_count
    assert late.accounting.refused_ns == figures.total_ns, "it pays"
    assert late.refusals.refusal_count == other.switch_in_refusals.refusal_count == 0
    assert other.accounting.refused_ns == 0


def test_a_driver_that_knows_yields_and_learns_when_it_is_back(refusing: Running) -> None:
    first = refusing.create("unused", "dsp0")  # the one that would hang has no firmware
    first.close()
    a, b = refusing.create("a", "dsp0"), refusing.create("b", "dsp0")
    for domain in (a, b):
        start_firmware(domain, "spin")
    core = a.vcoproc("v0")
    core.write32("NOTIFY", 1)
    for count in range(1, 6):
        interrupt = a.wait_irq(10 * S)
        assert interrupt is not None and interrupt.line == "event"
        assert core.read32("BACK_COUNT") >= count
        a.eoi(interrupt)
        core.write32("YIELD", 1)
