"""Domains that share coprocessors, as real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_kit import ALL_BITS, FIRMWARE, Running, S, ring, start_firmware, wait_until
from vcoproc.api.v1 import toolstack_pb2
from vcoproc.errors import BadFirmware
from vcoproc.guest import Remoteproc, RemoteprocState
from vcoproc.guest.vcoproc import TrapRefused

TESTS = Path(__file__).parents[1]


def test_one_domain_uses_two_coprocs(two_coprocs: Running) -> None:
    with two_coprocs.create("both", "dsp0", "dsp1") as domain:
        start_firmware(domain, "hello", "v0")
        start_firmware(domain, "hello", "v1")
        assert [ring(domain, "v0") for _ in range(3)] == [1, 2, 3]
        assert ring(domain, "v1") == 1
        assert ring(domain, "v0") == 4


def test_two_vcoprocs_of_one_coproc_in_one_domain(one_coproc: Running) -> None:
    """The ancestor answered EEXIST to the second."""
    domain = one_coproc.create("twice", "dsp0", "dsp0")
    # Both load at the same address of the same domain, so the second must not start the first's
    # memory anew: they share the code and have mailboxes and private memory of their own.
    start_firmware(domain, "hello", "v0")
    start_firmware(domain, "hello", "v1")
    assert ring(domain, "v0") == 1
    assert ring(domain, "v1") == 1
    assert ring(domain, "v0") == 2


def test_a_hog_and_a_polite_domain_share(one_coproc: Running) -> None:
    polite = one_coproc.create("polite", "dsp0")
    hog = one_coproc.create("hog", "dsp0")
    start_firmware(polite, "hello")
    spinning = start_firmware(hog, "spin")
    counts = [ring(polite) for _ in range(10)]
    assert counts == list(range(1, 11))
    turns = hog.vcoproc("v0").mapped("mbox").cast("I")
    before = turns[8]
    wait_until(lambda: turns[8] != before, hog.vcoproc("v0"))
    account = one_coproc.vcoproc("domains/polite/vcoprocs/v0").accounting
    assert account.switch_count >= 2
    assert account.wake_count >= 2
    assert account.wait_ns > 0
    spinning.stop()


def test_every_policy_of_a_switched_out_register(one_coproc: Running) -> None:
    victim = one_coproc.create("victim", "dsp0")
    other = one_coproc.create("other", "dsp0")
    start_firmware(victim, "hello")
    spinning = start_firmware(other, "spin")  # takes the coprocessor for good
    core = victim.vcoproc("v0")
    ring(victim)
    for _ in range(2000):
        current = one_coproc.toolstack.GetCoproc(
            toolstack_pb2.GetCoprocRequest(name="coprocs/dsp0"), timeout=10
        ).current_vcoproc
        if current == "domains/other/vcoprocs/v0":
            break
    assert current == "domains/other/vcoprocs/v0"
    assert core.read32("ID") == 0x344D_4356  # const
    core.write32("IRQ_ENABLE", 0x55)  # shadow
    assert core.read32("IRQ_ENABLE") == 0x55
    with pytest.raises(TrapRefused) as denied:
        core.read32("DIAG_PC")  # deny
    assert denied.value.reason == "REGISTER_DENIED"
    assert core.read32("CYCLES") > 0  # hold: waits for its turn
    core.write32("IRQ_ENABLE", ALL_BITS)
    assert ring(victim) == 2  # replay
    spinning.stop()


def test_bad_accesses_are_errors_to_that_driver_alone(one_coproc: Running) -> None:
    domain = one_coproc.create("clumsy", "dsp0")
    core = domain.vcoproc("v0")
    cases = [
        (lambda: core.read32(0x7F0), "BAD_REGISTER"),
        (lambda: core.read(0, 0x10, 2), "BAD_ACCESS_SIZE"),
        (lambda: core.read(9, 0, 4), "BAD_REGISTER"),
        (lambda: core.write32("ID", 1), "BAD_REGISTER"),
        (lambda: core.read32("DOORBELL"), "BAD_REGISTER"),
        (lambda: core.read(1, 0x1000, 4), "BAD_REGISTER"),
    ]
    for access, reason in cases:
        with pytest.raises(TrapRefused) as refused:
            access()
        assert refused.value.reason == reason
    core.post32(0x7F0, 1)
    with pytest.raises(TrapRefused):
        core.flush()
    with pytest.raises(TrapRefused) as in_batch:
        core.batch().read32("ID").read32(0x7F0).write32("IRQ_ENABLE", 1).run()
    assert in_batch.value.index == 1
    assert core.read32("ID") == 0x344D_4356
    assert core.read32("IRQ_ENABLE") == 0


@pytest.mark.parametrize("doorbell", [0, 1, 2, 3, 4])
def test_wild_firmware_faults_itself_and_recovers(one_coproc: Running, doorbell: int) -> None:
    wild = one_coproc.create(f"wild{doorbell}", "dsp0")
    good = one_coproc.create(f"good{doorbell}", "dsp0")
    start_firmware(good, "hello")
    revision = one_coproc.revision()
    rproc = start_firmware(wild, "wild")
    core = wild.vcoproc("v0")
    core.write32("DOORBELL", 1 << doorbell)
    interrupt = wild.wait_irq(10 * S)
    assert interrupt is not None
    assert interrupt.line == "fault"
    assert rproc.state is RemoteprocState.CRASHED
    assert core.read32("FAULT_STATUS") != 0
    assert core.mapped("mbox").cast("I")[9] == 0, "the act had an effect"
    assert ring(good) == 1
    stream = one_coproc.events(revision)
    faulted = next(event for event in stream if event.kind == toolstack_pb2.Event.KIND_FAULTED)
    stream.cancel()
    assert faulted.name == f"domains/wild{doorbell}/vcoprocs/v0"
    core.write32("FAULT_STATUS", ALL_BITS)
    wild.eoi(interrupt)
    rproc.recover()
    assert rproc.state is RemoteprocState.RUNNING
    rproc.stop()


def test_firmware_for_another_machine_is_refused_by_name(one_coproc: Running) -> None:
    domain = one_coproc.create("loader", "dsp0")
    rproc = Remoteproc(domain, domain.vcoproc("v0"))
    with pytest.raises(BadFirmware, match="x86"):
        rproc.load(sys.executable)
    with pytest.raises(BadFirmware, match="No such file"):
        rproc.load(FIRMWARE / "missing.elf")


def test_a_stopped_driver_process_holds_nobody_up(one_coproc: Running) -> None:
    """SIGSTOP is what a paused domain looks like from outside."""
    one_coproc.create("sleepy", "dsp0").close()
    awake = one_coproc.create("awake", "dsp0")
    start_firmware(awake, "hello")
    program = (
        "import sys; sys.path[:0] = [sys.argv[3]]; from cluster_kit import ring, start_firmware;"
        "from pathlib import Path; from vcoproc.guest import Domain;"
        "d = Domain('sleepy', Path(sys.argv[1])); start_firmware(d, 'hello'); ring(d);"
        "print('up', flush=True);\n"
        "d.vcoproc('v0').write32('DOORBELL', 1);\n"
        "print('rung', flush=True); sys.stdin.readline(); i = d.wait_irq();"
        "print(i is not None and i.line, flush=True)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(one_coproc.run_dir), "", str(TESTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    with driver:
        assert driver.stdout.readline() == "up\n"
        assert driver.stdout.readline() == "rung\n"
        driver.send_signal(signal.SIGSTOP)
        assert [ring(awake) for _ in range(20)] == list(range(1, 21))
        driver.send_signal(signal.SIGCONT)
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == "irq\n"  # held for it
    assert driver.returncode == 0


def test_an_interrupt_waits_for_a_domain_that_is_away(one_coproc: Running) -> None:
    domain = one_coproc.create("away", "dsp0")
    start_firmware(domain, "hello")
    domain.vcoproc("v0").write32("DOORBELL", 1)
    domain.close()
    with one_coproc.open("away") as again:
        interrupt = again.wait_irq(10 * S)
        assert interrupt is not None
        assert interrupt.line == "irq"
        again.vcoproc("v0").write32("IRQ_STATUS", ALL_BITS)
        again.eoi(interrupt)
        assert ring(again) == 2
        assert again.wait_irq(100_000_000) is None  # and not twice


def test_destroying_a_running_domain_leaves_the_others(one_coproc: Running) -> None:
    doomed = one_coproc.create("doomed", "dsp0")
    stays = one_coproc.create("stays", "dsp0")
    start_firmware(stays, "hello")
    start_firmware(doomed, "spin")
    one_coproc.toolstack.DestroyDomain(
        toolstack_pb2.DestroyDomainRequest(name="domains/doomed"), timeout=20
    )
    assert ring(stays) == 1
    names = [path.name for path in (one_coproc.run_dir / "memory").iterdir()]
    assert not [name for name in names if "doomed" in name]
