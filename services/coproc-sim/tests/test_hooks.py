"""The hooks for drivers and firmware that know that they share: yield now, and "I am back"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vcoproc.limits import MS, US, S
from vcoproc.wire.messages import (
    Batch,
    EndReason,
    Grant,
    LineEdge,
    Read,
    Reply,
    Report,
    TrapError,
    Write,
)
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import Access, WhenOut
from vcoproc_sim.platforms.cortex_m4_info import DEVICE_IPA, DEVICE_YIELD, LINE_EVENT
from vcoproc_sim.testing import RAM, Guest, Rig, Thumb
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Costs, StepClock
from vcoproc_sim.testing.m4_rig import CODE
from vcoproc_sim.vcoprocs import Outbox

# --- a driver's yield, on any platform ------------------------------------------------------------


@pytest.fixture
def rig() -> CoreRig:
    """Vcoproc 1 is on the hardware; all would run for ever."""
    rig = CoreRig(costs=Costs(instruction_ns=1))
    rig.attach(1, 2)
    rig.hog(1, 2)
    rig.grant(1, slice_ns=5 * MS)
    rig.clear()
    return rig


def test_the_write_of_a_driver_makes_room_for_the_next_one(rig: CoreRig) -> None:
    rig.grant(2, slice_ns=5 * MS)
    assert isinstance(rig.write(1, "YIELD", 1), Reply)
    (report,) = rig.said(Report)
    assert (report.end, report.runnable, report.next_vcoproc) == (EndReason.YIELD, True, 2)


@pytest.mark.parametrize("next_", ["nobody", "itself", "later", "vacate"])
def test_when_nobody_else_may_come_it_changes_nothing(rig: CoreRig, next_: str) -> None:
    match next_:
        case "itself":
            rig.grant(1, slice_ns=5 * MS)
        case "later":
            rig.grant(2, not_before_ns=rig.clock.now_ns + 1 * MS)
        case "vacate":
            rig.vacate()
    rig.write(1, "YIELD", 1)
    rig.run(100 * US)
    assert rig.said(Report) == [] and rig.platform.owner == 1


def test_of_one_that_is_switched_out_it_means_nothing(rig: CoreRig) -> None:
    rig.grant(2, now=True, slice_ns=5 * MS)
    rig.grant(1, slice_ns=5 * MS)
    rig.clear()
    rig.write(1, "YIELD", 1)
    rig.run(100 * US)
    assert rig.said(Report) == [] and rig.platform.owner == 2


def test_said_by_an_access_that_was_held_it_means_nothing(rig: CoreRig) -> None:
    place, offset, width = rig.address("YIELD")
    cycles = (False, *rig.address("CYCLES"), 0)
    rig.send(2, Batch((cycles, (True, place, offset, width, 1))))
    rig.grant(2, now=True, slice_ns=5 * MS)
    rig.grant(1, slice_ns=5 * MS)
    rig.clear()
    rig.write(2, "BYTE", 1)
    rig.run(100 * US)
    assert rig.said(Report) == [] and rig.platform.owner == 2


def test_it_cannot_be_read(rig: CoreRig) -> None:
    answer = rig.read(1, "YIELD")
    assert isinstance(answer, TrapError) and answer.error == "BAD_REGISTER"


# --- vcoproc,cortex-m4 ----------------------------------------------------------------------------


class M4:
    """Front end and executor on a real core; two guests that count in their memory."""

    def __init__(self, rig: Rig, code: Thumb | None = None) -> None:
        self.platform = rig.platform
        self.clock = StepClock(1 * S)
        self.outbox = Outbox()
        self.frontend = FrontEnd(rig.platform, self.outbox)
        self.executor = Executor("m4", rig.platform, self.frontend, self.outbox, self.clock)
        self.index = rig.platform.info.index_of
        for number in (1, 2):
            guest = Guest(number, rig.platform.info.reset_values(), 64 * 1024)
            own = code if code is not None and number == 1 else counter()
            guest.boot(own)
            self.executor.attach(number, f"v{number}", guest.spec)
            self.write(number, "VECTOR_BASE", RAM)
            self.write(number, "CONTROL", 1)

    def offset(self, name: str) -> int:
        return self.platform.info.registers[self.index[name]].offset

    def write(self, vcoproc: int, name: str, value: int) -> None:
        message = Write(0, self.offset(name), 4, value)
        self.executor.trap(self.executor.vcoprocs[vcoproc], "driver", 1, message)
        assert self.outbox.replies.pop()[1] == Reply(1, ())

    def read(self, vcoproc: int, name: str) -> int:
        message = Read(0, self.offset(name), 4)
        self.executor.trap(self.executor.vcoprocs[vcoproc], "driver", 1, message)
        reply = self.outbox.replies.pop()[1]
        assert isinstance(reply, Reply)
        return reply.values[0]

    def reports(self) -> list[Report]:
        return [each for each in self.outbox.to_scheduler if isinstance(each, Report)]

    def edges(self) -> list[tuple[int, int]]:
        """Vcoproc and line of each edge since the last look."""
        found = [
            (edge.vcoproc, edge.line)
            for edge in self.outbox.to_router
            if isinstance(edge, LineEdge)
        ]
        self.outbox.to_router.clear()
        return found


def counter() -> Thumb:
    return Thumb(CODE).label("loop").adds(0, 1).b("loop")


def yielder() -> Thumb:
    t = Thumb(CODE).ldr_const(1, DEVICE_IPA)
    return t.label("loop").adds(0, 1).str(0, 1, DEVICE_YIELD).b("loop")


@pytest.fixture
def rig4() -> Iterator[Rig]:
    with Rig(0) as rig:
        yield rig


def test_where_they_are(rig4: Rig) -> None:
    registers = {register.name: register for register in rig4.platform.info.registers}
    assert [
        (register.offset, register.access, register.when_out)
        for register in (registers["YIELD"], registers["NOTIFY"], registers["BACK_COUNT"])
    ] == [
        (0x60, Access.WO, WhenOut.SHADOW),
        (0x64, Access.RW, WhenOut.SHADOW),
        (0x68, Access.RO, WhenOut.SHADOW),
    ]


def test_firmware_yields_through_its_device_register(rig4: Rig) -> None:
    m4 = M4(rig4, yielder())
    m4.executor.grant(Grant(1, 1, 1 * S, False, 0))
    m4.executor.burst()
    assert len(m4.reports()) == 1, "nobody else is granted"
    m4.executor.grant(Grant(2, 2, 1 * S, False, 0))
    m4.executor.burst()
    report = m4.reports()[1]
    assert (report.vcoproc, report.end, report.runnable) == (1, EndReason.YIELD, True)
    assert report.next_vcoproc == 2


def test_a_driver_yields(rig4: Rig) -> None:
    m4 = M4(rig4)
    m4.executor.grant(Grant(1, 1, 1 * S, False, 0))
    m4.executor.grant(Grant(2, 2, 1 * S, False, 0))
    m4.executor.burst()
    m4.write(2, "YIELD", 1)
    assert len(m4.reports()) == 1
    m4.write(1, "YIELD", 1)
    assert (m4.reports()[1].end, m4.reports()[1].next_vcoproc) == (EndReason.YIELD, 2)


def test_a_driver_learns_when_it_is_back(rig4: Rig) -> None:
    m4 = M4(rig4)
    m4.write(2, "NOTIFY", 0xFFFF_FFFF)
    assert m4.read(2, "NOTIFY") == 1
    number = 0

    def grant(vcoproc: int) -> None:
        nonlocal number
        number += 1
        m4.executor.grant(Grant(number, vcoproc, 1 * S, True, 0))

    for turn in range(1, 4):
        grant(1)
        assert m4.edges() == [], "vcoproc 1 does not want to know"
        assert m4.read(2, "BACK_COUNT") == turn - 1, "also while it is out"
        grant(2)
        assert m4.edges() == [(2, LINE_EVENT)], "at once, not after a burst"
        assert m4.read(2, "BACK_COUNT") == turn
        m4.executor.burst()
        assert m4.edges() == []
    m4.write(2, "NOTIFY", 0)
    grant(1)
    grant(2)
    assert m4.edges() == []
    assert (m4.read(2, "BACK_COUNT"), m4.read(1, "BACK_COUNT")) == (3, 0)
