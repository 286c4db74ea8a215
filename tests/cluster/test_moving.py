"""Vcoprocs that are paused, written down, restored and moved, as real processes.

The toolstack's part is played here, by the calls that it makes to the other services.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import grpc
import pytest

from cluster_kit import ALL_BITS, COUNT_WORD, FIRMWARE, Running, S, ring, start_firmware
from vcoproc.api.v1 import toolstack_pb2
from vcoproc.errors import VcoprocGone
from vcoproc.guest import Domain, Remoteproc, Vcoproc, WorkItem, WorkRing
from vcoproc.guest.trap_link import Place, TrapRefused
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc
from vcoproc.limits import IMAGE_CHUNK_BYTES, KIB, MIB
from vcoproc.runtime.grpc_kit import channel, to_error

LIMIT_S = 20
DEADLINE_US = 100_000


class Toolstack:
    """What moves a vcoproc: all that the toolstack does for it, without its store."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.channels: list[grpc.Channel] = []
        self.coprocs = {
            name: control_pb2_grpc.CoprocSimServiceStub(self._channel(f"coproc-{name}"))
            for name in ("dsp0", "dsp1")
        }
        self.scheduler = control_pb2_grpc.SchedulerControlServiceStub(self._channel("scheduler"))
        self.router = control_pb2_grpc.IrqControlServiceStub(self._channel("irq-router"))
        self.home: dict[int, str] = {}
        self.attached: dict[int, pb.AttachVcoprocRequest] = {}

    def _channel(self, name: str) -> grpc.Channel:
        made = channel(f"unix:{self.running.run_dir}/{name}.grpc")
        self.channels.append(made)
        return made

    def close(self) -> None:
        for made in self.channels:
            made.close()

    def take_over(self, domain: Domain, name: str = "v0", coproc: str = "dsp0") -> int:
        """From now on this one says where that vcoproc is. Gives its number."""
        core = domain.vcoproc(name)
        access = self.running.toolstack.OpenDomain(
            toolstack_pb2.OpenDomainRequest(name=f"domains/{domain.name}"), timeout=LIMIT_S
        )
        one = next(each for each in access.vcoprocs if each.name.endswith(f"/{name}"))
        number = core.vcoproc_id
        self.home[number] = coproc
        self.attached[number] = pb.AttachVcoprocRequest(
            vcoproc_id=number,
            memory=access.memory,
            mapped=one.mapped,
            trap_credential=one.trap_credential,
            name=name,
            paused=True,
        )
        core.traps._find = lambda _ns: Place(
            f"ipc://{self.running.run_dir}/trap-{self.home[number]}.sock", one.trap_credential
        )
        return number

    def sim(self, number: int) -> Any:
        return self.coprocs[self.home[number]]

    def status(self, number: int) -> pb.VcoprocStatus:
        status = self.sim(number).GetStatus(pb.GetStatusRequest(), timeout=LIMIT_S)
        return next(each for each in status.vcoprocs if each.vcoproc_id == number)

    def pause(self, number: int) -> bool:
        request = pb.PauseVcoprocRequest(vcoproc_id=number, deadline_us=DEADLINE_US)
        return bool(self.sim(number).PauseVcoproc(request, timeout=LIMIT_S).forced)

    def resume(self, number: int) -> None:
        request = pb.ResumeVcoprocRequest(vcoproc_id=number)
        self.sim(number).ResumeVcoproc(request, timeout=LIMIT_S)

    def save(self, number: int, *, moving: bool = False) -> bytes:
        request = pb.SaveVcoprocRequest(vcoproc_id=number, moving=moving)
        chunks = self.sim(number).SaveVcoproc(request, timeout=LIMIT_S)
        return b"".join(chunk.data for chunk in chunks)

    def restore(self, number: int, blob: bytes, *, size: int = IMAGE_CHUNK_BYTES) -> None:
        def requests() -> Iterator[pb.RestoreVcoprocRequest]:
            yield pb.RestoreVcoprocRequest(vcoproc_id=number)
            for at in range(0, len(blob), size):
                yield pb.RestoreVcoprocRequest(data=blob[at : at + size])

        self.sim(number).RestoreVcoproc(requests(), timeout=LIMIT_S)

    def accounting(self, number: int) -> toolstack_pb2.Accounting:
        accounts = self.scheduler.ListAccounts(pb.ListAccountsRequest(), timeout=LIMIT_S)
        return next(
            each.accounting
            for coproc in accounts.coprocs
            if coproc.coproc == self.home[number]
            for each in coproc.vcoprocs
            if each.vcoproc_id == number
        )

    def move(self, number: int) -> None:
        """To the other coproc, in the order in which the toolstack does it."""
        old = self.home[number]
        new = "dsp1" if old == "dsp0" else "dsp0"
        self.pause(number)
        blob = self.save(number, moving=True)
        add = pb.AddVcoprocRequest(
            coproc=new, vcoproc_id=number, accounting=self.accounting(number)
        )
        self.scheduler.AddVcoproc(add, timeout=LIMIT_S)
        self.coprocs[new].AttachVcoproc(self.attached[number], timeout=LIMIT_S)
        self.home[number] = new
        self.restore(number, blob)
        lines = pb.MoveLinesRequest(vcoproc_id=number, coproc=new)
        self.router.MoveLines(lines, timeout=LIMIT_S)
        detach = pb.DetachVcoprocRequest(vcoproc_id=number, deadline_us=DEADLINE_US, moved=True)
        self.coprocs[old].DetachVcoproc(detach, timeout=LIMIT_S)
        remove = pb.RemoveVcoprocRequest(coproc=old, vcoproc_id=number)
        self.scheduler.RemoveVcoproc(remove, timeout=LIMIT_S)
        self.resume(number)

    def bring_home(self, number: int) -> None:
        """To where the real toolstack believes it to be."""
        if self.home[number] != "dsp0":
            self.move(number)


def wait_until_looked_at(running: Running, *coprocs: str) -> None:
    """The real toolstack looks at a coproc once after its start, which may be tried again later.

    It would resume what is paused here behind its back.
    """
    log = running.run_dir / "log" / "toolstack.log"
    looks = [f'"repaired", "of": "coproc/{coproc}"' for coproc in coprocs]
    for _ in range(20_000):
        text = log.read_text()
        if all(look in text for look in looks):
            return
        running.toolstack.ListCoprocs(toolstack_pb2.ListCoprocsRequest(), timeout=LIMIT_S)
    pytest.fail("the toolstack does not look at its coprocs")


@pytest.fixture
def toolstack(two_coprocs: Running) -> Iterator[Toolstack]:
    wait_until_looked_at(two_coprocs, "dsp0", "dsp1")
    toolstack = Toolstack(two_coprocs)
    yield toolstack
    for number in toolstack.home:
        toolstack.bring_home(number)
    toolstack.close()


def count_of(core: Vcoproc) -> int:
    return int(core.mapped("mbox").cast("I")[COUNT_WORD])


def reason_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> str:
    return to_error(error.value).reason


# --- paused ---------------------------------------------------------------------------------------


def test_a_paused_vcoproc_does_not_run_and_goes_on_where_it_was(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    hog, polite = two_coprocs.create("hog", "dsp0"), two_coprocs.create("polite", "dsp0")
    start_firmware(hog, "spin")
    start_firmware(polite, "hello")
    core = hog.vcoproc("v0")
    number = toolstack.take_over(hog)
    assert not toolstack.pause(number)
    assert not toolstack.pause(number)
    status, before = toolstack.status(number), count_of(core)
    assert (status.paused, status.runnable) == (True, False)
    assert [ring(polite) for _ in range(20)] == list(range(1, 21))
    assert (count_of(core), toolstack.status(number)) == (before, status)
    # Its driver is served as that of any switched-out one.
    core.write32("IRQ_ENABLE", 0x55)
    assert core.read32("IRQ_ENABLE") == 0x55
    core.write32("DOORBELL", 1)
    with pytest.raises(TrapRefused) as held:
        core.read32("CYCLES")
    assert held.value.reason == "HOLD_TIMEOUT"
    toolstack.resume(number)
    toolstack.resume(number)
    core.read32("CYCLES")
    assert not toolstack.status(number).paused
    for _ in range(1000):
        if count_of(core) > before:
            break
        core.read32("CYCLES")
    assert count_of(core) > before
    assert ring(polite) == 21


def test_an_interrupt_of_before_the_pause_is_served_and_rung_again_after_it(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    number = toolstack.take_over(domain)
    for count in range(1, 6):
        toolstack.pause(number)
        domain.vcoproc("v0").write32("DOORBELL", 1)
        assert domain.wait_irq(10_000_000) is None
        toolstack.resume(number)
        interrupt = domain.wait_irq(10 * S)
        assert interrupt is not None
        domain.vcoproc("v0").write32("IRQ_STATUS", ALL_BITS)
        domain.eoi(interrupt)
        assert count_of(domain.vcoproc("v0")) == count


def test_control_calls_say_what_is_wrong(two_coprocs: Running, toolstack: Toolstack) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    number = toolstack.take_over(domain)
    sim = toolstack.sim(number)
    with pytest.raises(grpc.RpcError) as error:
        toolstack.save(number)
    assert reason_of(error) == "WRONG_STATE"
    for call, request in (
        (sim.PauseVcoproc, pb.PauseVcoprocRequest(vcoproc_id=9999)),
        (sim.ResumeVcoproc, pb.ResumeVcoprocRequest(vcoproc_id=9999)),
    ):
        with pytest.raises(grpc.RpcError) as error:
            call(request, timeout=LIMIT_S)
        assert reason_of(error) == "NOT_FOUND"


def test_attached_again_by_another_name_it_is_renamed(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    number = toolstack.take_over(domain)
    request = toolstack.attached[number]
    request.name = "another"
    toolstack.sim(number).AttachVcoproc(request, timeout=LIMIT_S)
    assert not toolstack.status(number).paused, "it says nothing of one that is there"
    assert ring(domain) == 1
    other = pb.AttachVcoprocRequest()
    other.CopyFrom(request)
    other.trap_credential = b"another secret, not as long"
    with pytest.raises(grpc.RpcError) as error:
        toolstack.sim(number).AttachVcoproc(other, timeout=LIMIT_S)
    assert reason_of(error) == "ALREADY_EXISTS"


# --- written down ---------------------------------------------------------------------------------


def test_what_was_written_down_comes_back(two_coprocs: Running, toolstack: Toolstack) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    core = domain.vcoproc("v0")
    number = toolstack.take_over(domain)
    assert [ring(domain) for _ in range(3)] == [1, 2, 3]
    toolstack.pause(number)
    blob = toolstack.save(number)
    toolstack.resume(number)
    core.write32("IRQ_ENABLE", 0x5)
    assert [ring(domain) for _ in range(2)] == [4, 5]
    toolstack.pause(number)
    toolstack.restore(number, blob, size=1000)
    assert (count_of(core), core.read32("IRQ_ENABLE")) == (3, ALL_BITS)
    toolstack.resume(number)
    assert ring(domain) == 4


def test_bytes_that_are_no_snapshot_of_it_are_refused_and_nothing_has_changed(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    number = toolstack.take_over(domain)
    assert ring(domain) == 1
    toolstack.pause(number)
    blob = toolstack.save(number)
    random = Random(1)
    place = random.randrange(len(blob))
    damaged = [
        b"",
        blob[:-1],
        blob + b"\0",
        blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :],
        random.randbytes(100 * KIB),
        bytes(40 * MIB),
    ]
    for bad in damaged:
        with pytest.raises(grpc.RpcError) as error:
            toolstack.restore(number, bad)
        assert reason_of(error) == "BAD_SNAPSHOT"
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for requests in (
        [],
        [pb.RestoreVcoprocRequest(data=blob)],
        [pb.RestoreVcoprocRequest(vcoproc_id=number)] * 2,
        [
            pb.RestoreVcoprocRequest(vcoproc_id=number),
            pb.RestoreVcoprocRequest(data=bytes(IMAGE_CHUNK_BYTES + 1)),
        ],
    ):
        with pytest.raises(grpc.RpcError) as error:
            toolstack.sim(number).RestoreVcoproc(iter(requests), timeout=LIMIT_S)
        assert reason_of(error) == "INVALID_ARGUMENT"
    assert toolstack.save(number) == blob
    toolstack.resume(number)
    with pytest.raises(grpc.RpcError) as error:
        toolstack.restore(number, blob)
    assert reason_of(error) == "WRONG_STATE"
    assert ring(domain) == 2


# --- moved ----------------------------------------------------------------------------------------


def test_a_driver_does_not_notice_that_its_vcoproc_moves(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain, neighbour = two_coprocs.create("quick", "dsp0"), two_coprocs.create("far", "dsp1")
    start_firmware(domain, "hello")
    start_firmware(neighbour, "hello")
    number = toolstack.take_over(domain)
    count = 0
    for _ in range(4):
        before = toolstack.accounting(number)
        toolstack.move(number)
        after = toolstack.accounting(number)
        # Times of a turn that is not over yet are estimates.
        for name in ("switch_count", "wake_count", "instruction_count"):
            assert getattr(after, name) >= getattr(before, name), f"{name} goes along"
        assert [ring(domain) for _ in range(3)] == [count + 1, count + 2, count + 3]
        count += 3
    # Not every ring wakes it: it may be about to sleep, or on its way, when one comes.
    used = toolstack.accounting(number)
    assert used.run_ns > 0 and used.wake_count > 0 and used.instruction_count > 0
    assert ring(neighbour) == 1
    lines = toolstack.router.ListLines(pb.ListLinesRequest(), timeout=LIMIT_S)
    assert lines.refused_count == 0, "nobody spoke for it out of turn"


def test_rings_while_it_moves_are_heard_once(two_coprocs: Running, toolstack: Toolstack) -> None:
    """Each ring is answered by its interrupt, while the vcoproc goes to and fro."""
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    number = toolstack.take_over(domain)
    core = domain.vcoproc("v0")
    moved = threading.Event()

    def mover() -> None:
        for _ in range(40):
            toolstack.move(number)
        moved.set()

    thread = threading.Thread(target=mover)
    thread.start()
    rings = 0
    while not moved.is_set():
        rings += 1
        if rings % 2:
            core.post32("DOORBELL", 1)
        else:
            core.batch().read32("STATUS").read32("CYCLES").write32("DOORBELL", 1).run()
        interrupt = domain.wait_irq(LIMIT_S * S)
        assert interrupt is not None, f"ring {rings} was lost"
        core.write32("IRQ_STATUS", ALL_BITS)
        domain.eoi(interrupt)
        assert count_of(core) == rings
    thread.join(LIMIT_S)
    assert domain.wait_irq(10_000_000) is None, "nothing was rung twice"
    assert count_of(core) == rings


def test_work_that_is_moved_in_the_middle_has_the_same_result(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain, hog = two_coprocs.create("hash", "dsp0"), two_coprocs.create("hog", "dsp1")
    spinning = start_firmware(hog, "spin")
    core = domain.vcoproc("v0")
    number = toolstack.take_over(domain)
    base = domain.memory_ipa
    work = WorkRing(domain, core, base + 256 * KIB, 4)
    rproc = Remoteproc(domain, core)
    rproc.load(FIRMWARE / "sha256" / "sha256.elf")
    work.set_up()
    rproc.start()
    work.wait_ready(LIMIT_S * S)
    data = Random(2).randbytes(256 * KIB)
    source, digest, piece = base + 512 * KIB, base + 300 * KIB, 64 * KIB
    domain.at(source, len(data))[:] = data
    items = [
        WorkItem(3),
        *(WorkItem(4, source + at, 0, piece) for at in range(0, len(data), piece)),
        WorkItem(5, 0, digest),
    ]

    def hashed(moves: int) -> bytes:
        """moves: after so many of the items it is moved, while it works on them."""
        domain.at(digest, 32)[:] = bytes(32)
        for number_of_item, item in enumerate(items):
            work.submit(item)
            if number_of_item < moves:
                toolstack.move(number)
            while work.outstanding:
                work.wait(LIMIT_S * S)
        return bytes(domain.at(digest, 32))

    unmoved = hashed(0)
    assert hashed(5) == unmoved == hashlib.sha256(data).digest()
    spinning.stop()


def test_what_its_driver_waits_for_is_answered_where_it_goes(
    two_coprocs: Running, toolstack: Toolstack
) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    number = toolstack.take_over(domain)
    core = domain.vcoproc("v0")
    toolstack.pause(number)
    answers: list[int] = []
    driver = threading.Thread(target=lambda: answers.append(core.read32("CYCLES")))
    before = toolstack.status(number).trap_count
    driver.start()
    for _ in range(2000):
        if toolstack.status(number).trap_count > before:
            break
    toolstack.move(number)
    driver.join(LIMIT_S)
    assert len(answers) == 1 and answers[0] > 0


def test_a_driver_learns_that_its_vcoproc_was_detached(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0", "dsp0")
    start_firmware(domain, "hello")
    two_coprocs.toolstack.DestroyVcoproc(
        toolstack_pb2.DestroyVcoprocRequest(name="domains/quick/vcoprocs/v0"), timeout=LIMIT_S
    )
    for _ in range(2):
        with pytest.raises(VcoprocGone):
            domain.vcoproc("v0").read32("STATUS")
    assert domain.vcoproc("v1").read32("ID") == 0x344D_4356
