"""What the queries show is what real processes do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from cluster_kit import ALL_BITS, Running, ring, start_firmware
from vcoproc.api.v1 import cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster

S = 1_000_000_000


@pytest.fixture
def client(two_coprocs: Running) -> Iterator[Cluster]:
    with Cluster(run_dir=two_coprocs.run_dir) as cluster:
        yield cluster


def of(statistics: cluster_pb2.Statistics, coproc: str) -> cluster_pb2.CoprocStatistics:
    return next(each for each in statistics.coprocs if each.coproc == f"coprocs/{coproc}")


def test_counters_count_what_a_driver_does(two_coprocs: Running, client: Cluster) -> None:
    busy = two_coprocs.create("busy", "dsp0", "dsp1")
    start_firmware(busy, "hello")
    core = busy.vcoproc("v0")
    before = client.statistics()
    for _ in range(100):
        core.read32("STATUS")
    assert [ring(busy) for _ in range(5)] == [1, 2, 3, 4, 5]
    after = client.statistics()
    assert not before.gaps
    assert not after.gaps
    assert after.clock_ns > before.clock_ns
    grown = of(after, "dsp0").trap_count - of(before, "dsp0").trap_count
    assert grown >= 105
    [was], [now] = of(before, "dsp0").vcoprocs, of(after, "dsp0").vcoprocs
    assert now.trap_count - was.trap_count == grown, "it is the only one there"
    assert now.interrupt_count - was.interrupt_count == 5
    assert of(after, "dsp0").current_vcoproc == "domains/busy/vcoprocs/v0"
    assert now.accounting.run_ns > was.accounting.run_ns
    [idle] = of(after, "dsp1").vcoprocs
    assert (idle.trap_count, idle.interrupt_count) == (0, 0)


def test_lines_are_those_of_the_irq_router(two_coprocs: Running, client: Cluster) -> None:
    domain = two_coprocs.create("waiting", "dsp0")
    start_firmware(domain, "hello")
    stream = client.watch_lines("domain=waiting", interval_ns=10_000_000)
    first = {line.name.rpartition("/")[2]: line for line in next(stream).lines}
    assert set(first) == {"irq", "event", "fault"}
    assert not first["irq"].pending
    domain.vcoproc("v0").write32("DOORBELL", 1)
    interrupt = domain.wait_irq(10 * S)
    assert interrupt is not None
    changed = next(line for answer in stream for line in answer.lines if line.active)
    assert changed.name == "domains/waiting/vcoprocs/v0/lines/irq"
    assert changed.raised_count == first["irq"].raised_count + 1
    assert [line.name for line in client.lines("active=true")] == [changed.name]
    domain.vcoproc("v0").write32("IRQ_STATUS", ALL_BITS)
    domain.eoi(interrupt)
    ended = next(line for answer in stream for line in answer.lines if not line.active)
    assert (ended.name, ended.injected_count) == (changed.name, changed.injected_count)
    client.destroy_domain("waiting")
    gone = next(answer for answer in stream if answer.removed)
    assert len(gone.removed) == 3


def test_a_fault_is_listed_until_it_is_reset(two_coprocs: Running, client: Cluster) -> None:
    wild = two_coprocs.create("wild", "dsp0")
    rproc = start_firmware(wild, "wild")
    core = wild.vcoproc("v0")
    core.write32("DOORBELL", 1)
    interrupt = wild.wait_irq(10 * S)
    assert interrupt is not None
    name = "domains/wild/vcoprocs/v0"
    watched = client.watch(f"name={name} kind=FAULTED", revision=1)
    event = next(event for event in watched if event.vcoproc.state == api.Vcoproc.STATE_FAULTED)
    [fault] = client.faults("name=domains/wild/* current=true")
    assert (fault.name, fault.revision) == (name, event.revision)
    assert (fault.code, fault.address) == (
        core.read32("FAULT_STATUS"),
        core.read32("FAULT_ADDRESS"),
    )
    [vcoproc] = client.vcoprocs(filter="state=FAULTED")
    assert vcoproc.name == name
    core.write32("FAULT_STATUS", ALL_BITS)
    wild.eoi(interrupt)
    rproc.recover()
    # The scheduler hears of it a moment later.
    while [*client.faults("name=domains/wild/* current=true")]:
        core.read32("STATUS")
    [fault] = client.faults("name=domains/wild/*")
    assert not fault.current
    rproc.stop()


def test_a_picture_while_domains_come_and_go(two_coprocs: Running, client: Cluster) -> None:
    """Whatever it is of, its parts fit together."""
    for number in range(6):
        two_coprocs.create(f"d{number}", "dsp0", "dsp1").close()
        if number > 2:
            client.destroy_domain(f"d{number - 3}")
        picture = client.picture()
        assert not picture.gaps
        vcoprocs = {v.name: v for domain in picture.domains for v in domain.vcoprocs}
        assert max(domain.revision for domain in picture.domains) <= picture.revision
        scheduled = {v.vcoproc for schedule in picture.schedules for v in schedule.vcoprocs}
        assert scheduled == set(vcoprocs)
        assert {line.name.partition("/lines/")[0] for line in picture.lines} == set(vcoprocs)
        assert sum(coproc.vcoproc_count for coproc in picture.coprocs) == len(vcoprocs)
        assert all(v.state == api.Vcoproc.STATE_SLEEPING for v in vcoprocs.values())
        assert sum(kind.vcoproc_count for kind in picture.types) == len(vcoprocs)
        assert next(client.events(after_revision=picture.revision), None) is None


def test_a_coproc_that_hangs_is_a_gap(fragile: Running) -> None:
    fragile.create("d", "dsp0", "dsp1").close()
    pid = fragile.cluster.pids()["dsp1"]
    with Cluster(run_dir=fragile.run_dir) as client:
        os.kill(pid, signal.SIGSTOP)
        try:
            statistics = client.statistics()
            assert list(statistics.gaps) == ["coproc dsp1: did not answer within 300 ms"]
            assert of(statistics, "dsp0").vcoprocs[0].HasField("accounting")
            picture = client.picture()
            assert [gap.partition(":")[0] for gap in picture.gaps] == ["coproc dsp1"]
            assert len(picture.schedules) == 2
        finally:
            os.kill(pid, signal.SIGCONT)
        assert not client.statistics().gaps
