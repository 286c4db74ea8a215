"""A coprocessor that refuses, as real processes: one hangs, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_kit import EXAMPLES, Running, S, ring, start_cluster, start_firmware, stop_cluster
from vcoproc.guest import RemoteprocState
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.grpc_kit import channel

FORCED_OFF = 16
BOUND_NS = 20_000_000
"""`refusal-deadline-us` of the example."""


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Running]:
    """As the example, but the first vcoproc hangs whenever it shall leave, and no other refuses."""
    text = (EXAMPLES / "refuse.dts").read_text()
    text = text.replace('"heavy-tail"', '"hang"').replace("refusal-percent", "refusal-contexts")
    text = text.replace("<25>", "<1>").replace("vcoproc,refusal-us = <50 30000>;", "")
    tree = tmp_path / "hang.dts"
    tree.write_text(text)
    running = start_cluster(tree)
    yield running
    stop_cluster(running)


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


def test_one_that_hangs_is_paused_by_force_and_detached_once(refusing: Running) -> None:
    """Two who ask for the same at once are both told."""
    hog = refusing.create("hog", "dsp0")
    start_firmware(hog, "spin")
    number = hog.vcoproc("v0").vcoproc_id
    with channel(f"unix:{refusing.run_dir}/coproc-dsp0.grpc") as to_sim:
        sim = control_pb2_grpc.CoprocSimServiceStub(to_sim)
        pause = control_pb2.PauseVcoprocRequest(vcoproc_id=number, deadline_us=50_000)
        first, second = (sim.PauseVcoproc.future(pause, timeout=20) for _ in range(2))
        assert first.result().forced, "it has hung"
        second.result()
        status = sim.GetStatus(control_pb2.GetStatusRequest(), timeout=20).vcoprocs[0]
        assert (status.paused, status.runnable) == (True, False)
        assert hog.vcoproc("v0").read32("FAULT_STATUS") == FORCED_OFF
        sim.ResumeVcoproc(control_pb2.ResumeVcoprocRequest(vcoproc_id=number), timeout=20)
        start_firmware(hog, "spin")
        detach = control_pb2.DetachVcoprocRequest(vcoproc_id=number, deadline_us=50_000)
        for call in [sim.DetachVcoproc.future(detach, timeout=20) for _ in range(3)]:
            call.result()
        assert not sim.GetStatus(control_pb2.GetStatusRequest(), timeout=20).vcoprocs


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
