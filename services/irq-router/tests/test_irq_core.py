"""Histories of the irq-router, each with the one thing that must hold in it."""

from __future__ import annotations

import pytest

from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RequestError,
)
from vcoproc.limits import DOMAINS_MAX, UNMAPPED_COPROCS_MAX, UNMAPPED_VCOPROCS_MAX
from vcoproc.wire.messages import Eoi, Inject, LineEdge, LineEnable, LineLevel, LineSync, Resample
from vcoproc_irq_router.core import IrqRouterCore
from vcoproc_irq_router.events import (
    AddDomain,
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    DropDomain,
    Effect,
    Event,
    LineView,
    MapLines,
    MappedLine,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    SendInject,
    SendResample,
    UnmapLines,
)

EDGE, LEVEL = 0, 1
"""Line numbers of every vcoproc here; their interrupts are 64 and 65, in every domain."""
LINES = (MappedLine(EDGE, 64, False), MappedLine(LEVEL, 65, True))


class Bench:
    """Domains 1 and 2 with vcoprocs 11 and 22 on coproc dsp0; both listen."""

    def __init__(self) -> None:
        self.core = IrqRouterCore(validate=True)
        self.now_ns = 0
        for domid, vcoproc_id in ((1, 11), (2, 22)):
            self(AddDomain(domid, bytes([domid]) * 16))
            self(MapLines(domid, vcoproc_id, "dsp0", LINES))
            self(DomainUp(domid, 5, 16))

    def __call__(self, event: Event) -> list[Effect]:
        self.now_ns += 10
        return self.core.step(event, self.now_ns)

    def edge(self, vcoproc_id: int, at_ns: int = 0, coproc: str = "dsp0") -> list[Effect]:
        return self(CoprocSaid(coproc, LineEdge(vcoproc_id, EDGE, 1, at_ns)))

    def level(self, vcoproc_id: int, high: bool, at_ns: int = 0) -> list[Effect]:
        return self(CoprocSaid("dsp0", LineLevel(vcoproc_id, LEVEL, high, 1, at_ns)))

    def eoi(self, domid: int, irq: int) -> list[Effect]:
        return self(DomainSaid(domid, Eoi(irq)))

    def enable(self, domid: int, irq: int, enabled: bool) -> list[Effect]:
        return self(DomainSaid(domid, LineEnable(irq, enabled)))

    def line(self, domid: int, irq: int) -> LineView:
        return next(
            view for view in self.core.list_lines() if (view.domid, view.irq) == (domid, irq)
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def inject(domid: int, irq: int, raised_ns: int = 0) -> SendInject:
    return SendInject(domid, Inject(irq, irq == 65, raised_ns))


# --- what the framework before us got wrong -------------------------------------------------------


def test_an_interrupt_of_a_waiting_vcoproc_is_delivered(bench: Bench) -> None:
    """It used to be logged and dropped when its vcoproc was in the run queue."""
    # Who is on the hardware is not even asked: a line of 22 while 11 runs is 22's all the same.
    bench.edge(11)
    assert bench.edge(22, 7) == [inject(2, 64, 7)]


def test_an_interrupt_goes_to_its_owner_and_nobody_else(bench: Bench) -> None:
    """One driver of old injected into all domains."""
    for domid in range(3, 20):
        bench(AddDomain(domid, bytes([domid]) * 16))
        bench(MapLines(domid, domid * 11, "dsp0", LINES))
        bench(DomainUp(domid, 5, 16))
    assert bench.edge(22) == [inject(2, 64)]
    assert [view.domid for view in bench.core.list_lines() if view.raised_count] == [2]


def test_a_late_interrupt_goes_to_the_vcoproc_that_caused_it(bench: Bench) -> None:
    """It used to go to whoever was on the hardware when the handler ran."""
    bench(CoprocSaid("dsp0", LineEdge(22, EDGE, 2, 200)))  # switch epoch 2: 22 is on it
    late = bench(CoprocSaid("dsp0", LineEdge(11, EDGE, 1, 100)))  # rose in epoch 1, said later
    assert late == [inject(1, 64, 100)]


def test_a_level_line_interrupts_until_the_driver_has_served_it(bench: Bench) -> None:
    """Level lines used to be sent once, as if they were edges."""
    assert bench.level(11, True, 50) == [inject(1, 65, 50)]
    assert bench.eoi(1, 65) == [SendResample("dsp0", Resample(11, LEVEL))]
    assert bench.level(11, True, 60) == [inject(1, 65, 60)], "still high: again"
    assert bench.level(11, False) == []
    assert bench.eoi(1, 65) == []
    assert not bench.line(1, 65).active


def test_an_eoi_that_overtakes_the_falling_line_interrupts_nobody(bench: Bench) -> None:
    """The driver clears the cause on one connection and says EOI on another one."""
    assert bench.level(11, True, 50) == [inject(1, 65, 50)]
    assert bench.eoi(1, 65) == [SendResample("dsp0", Resample(11, LEVEL))]
    assert bench.level(11, False) == [], "the word that it fell, late"
    assert bench.level(11, False) == [], "the answer"
    assert bench.level(11, True, 70) == [inject(1, 65, 70)], "and risen again: a new one"


# --- edges and levels -----------------------------------------------------------------------------


def test_an_edge_while_its_interrupt_is_active_comes_after_eoi(bench: Bench) -> None:
    assert bench.edge(11, 1) == [inject(1, 64, 1)]
    assert bench.edge(11, 2) == []
    assert bench.edge(11, 3) == [], "merges with the one that is pending"
    assert bench.eoi(1, 64) == [inject(1, 64, 2)]
    assert bench.eoi(1, 64) == []
    view = bench.line(1, 64)
    assert (view.raised_count, view.injected_count, view.merged_count) == (3, 2, 1)


def test_a_level_that_falls_before_injection_is_withdrawn(bench: Bench) -> None:
    bench(PauseDomain(1))
    bench.level(11, True)
    bench.level(11, False)
    assert bench(ResumeDomain(1)) == []
    assert bench.line(1, 65).injected_count == 0


def test_an_edge_is_never_withdrawn(bench: Bench) -> None:
    bench(PauseDomain(1))
    bench.edge(11)
    bench(CoprocSaid("dsp0", LineSync(11, 0, 1)))
    bench(CoprocDown("dsp0"))
    assert bench(ResumeDomain(1)) == [inject(1, 64)]


def test_masked_stays_pending_until_unmasked(bench: Bench) -> None:
    assert bench.enable(1, 64, False) == []
    assert bench.edge(11, 9) == []
    assert bench.line(1, 64).pending
    assert bench.enable(1, 64, True) == [inject(1, 64, 9)]
    assert bench.enable(1, 64, True) == []


def test_a_level_that_falls_while_masked_leaves_nothing(bench: Bench) -> None:
    bench.enable(1, 65, False)
    bench.level(11, True)
    bench.level(11, False)
    assert bench.enable(1, 65, True) == []


def test_masking_an_active_interrupt_holds_the_next_one(bench: Bench) -> None:
    bench.level(11, True)
    bench.enable(1, 65, False)
    assert bench.eoi(1, 65) == [SendResample("dsp0", Resample(11, LEVEL))]
    assert bench.level(11, True) == []
    assert bench.enable(1, 65, True) == [inject(1, 65)]


@pytest.mark.parametrize("irq", [64, 65, 66])
def test_eoi_of_what_is_not_active_is_counted_and_changes_nothing(bench: Bench, irq: int) -> None:
    before = bench.core.list_lines()
    assert bench.eoi(1, irq) == []
    assert bench.core.guest_error_count == 1
    assert bench.core.list_lines() == before


def test_eoi_of_a_pending_interrupt_does_not_lose_it(bench: Bench) -> None:
    bench.enable(1, 64, False)
    bench.edge(11)
    bench.eoi(1, 64)
    assert bench.core.guest_error_count == 1
    assert bench.enable(1, 64, True) == [inject(1, 64)]


def test_enabling_an_interrupt_that_the_domain_does_not_have_is_counted(bench: Bench) -> None:
    bench.enable(1, 999, True)
    assert bench.core.guest_error_count == 1


def test_a_domain_cannot_end_another_ones_interrupt(bench: Bench) -> None:
    bench.edge(22)
    bench.eoi(1, 64)
    assert bench.line(2, 64).active


# --- coprocs --------------------------------------------------------------------------------------


def test_a_coproc_that_the_vcoproc_is_not_on_is_refused(bench: Bench) -> None:
    assert bench.edge(11, coproc="dsp1") == []
    assert bench(CoprocSaid("dsp1", LineSync(11, 2, 1))) == []
    assert bench.core.refused_count == 2
    assert bench.line(1, 64).raised_count == 0


@pytest.mark.parametrize(
    "message",
    [
        LineLevel(11, EDGE, True, 1, 0),
        LineEdge(11, LEVEL, 1, 0),
        LineEdge(11, 2, 1, 0),
        LineEdge(11, 255, 1, 0),
        LineSync(11, 1 << EDGE, 1),
    ],
)
def test_a_message_that_does_not_fit_the_line_is_refused(
    bench: Bench, message: LineLevel | LineEdge | LineSync
) -> None:
    assert bench(CoprocSaid("dsp0", message)) == []
    assert bench.core.refused_count == 1


def test_sync_sets_every_level_line(bench: Bench) -> None:
    assert bench(CoprocSaid("dsp0", LineSync(11, 1 << LEVEL, 1))) == [inject(1, 65)]
    assert bench(CoprocSaid("dsp0", LineSync(11, 1 << LEVEL, 1))) == [], "said twice"
    assert bench(CoprocSaid("dsp0", LineSync(11, 0, 1))) == []
    assert bench.eoi(1, 65) == []


def test_a_coproc_that_is_gone_drives_no_line_until_it_says_so_again(bench: Bench) -> None:
    bench.level(11, True)
    bench(CoprocDown("dsp0"))
    assert bench.eoi(1, 65) == [], "nobody could make the line fall: no storm"
    assert bench(CoprocSaid("dsp0", LineSync(11, 1 << LEVEL, 1))) == [inject(1, 65)]


def test_another_coprocs_end_changes_nothing(bench: Bench) -> None:
    bench.level(11, True)
    bench(CoprocDown("dsp1"))
    assert bench.eoi(1, 65) == [SendResample("dsp0", Resample(11, LEVEL))]
    assert bench.level(11, True) == [inject(1, 65)]


# --- before the lines are mapped ------------------------------------------------------------------


def test_what_came_before_the_lines_were_mapped_comes_then(bench: Bench) -> None:
    said = (LineEdge(33, EDGE, 1, 40), LineEdge(33, EDGE, 1, 41), LineLevel(33, LEVEL, True, 1, 42))
    for message in said:
        assert bench(CoprocSaid("dsp0", message)) == []
    lines = (MappedLine(EDGE, 70, False), MappedLine(LEVEL, 71, True))
    assert bench(MapLines(1, 33, "dsp0", lines)) == [
        SendInject(1, Inject(70, False, 40)),
        SendInject(1, Inject(71, True, 42)),
    ]
    assert bench.line(1, 70).merged_count == 1
    assert bench.core.refused_count == 0


def test_a_level_that_fell_before_the_lines_were_mapped_is_forgotten(bench: Bench) -> None:
    bench.level(33, True)
    bench.level(33, False)
    bench(CoprocSaid("dsp0", LineSync(34, 3, 1)))
    bench(CoprocSaid("dsp0", LineSync(34, 0, 1)))
    bench.level(35, True)
    bench(CoprocDown("dsp0"))
    for vcoproc_id, irq in ((33, 70), (34, 71), (35, 72)):
        assert bench(MapLines(1, vcoproc_id, "dsp0", (MappedLine(LEVEL, irq, True),))) == []
    assert bench.core.refused_count == 0


def test_an_early_edge_survives_what_withdraws_an_early_level(bench: Bench) -> None:
    bench.edge(33, 1)
    bench.level(33, True, 2)
    bench(CoprocDown("dsp0"))
    lines = (MappedLine(EDGE, 70, False), MappedLine(LEVEL, 71, True))
    assert bench(MapLines(1, 33, "dsp0", lines)) == [inject(1, 70, 1)]


def test_an_early_level_that_is_said_again_keeps_its_time(bench: Bench) -> None:
    bench.level(33, True, 42)
    bench(CoprocSaid("dsp0", LineSync(33, 1 << LEVEL, 1)))
    effects = bench(MapLines(1, 33, "dsp0", (MappedLine(LEVEL, 71, True),)))
    assert effects == [SendInject(1, Inject(71, True, 42))]


def test_early_words_of_another_coproc_are_refused(bench: Bench) -> None:
    bench.edge(33, coproc="dsp1")
    assert bench(MapLines(1, 33, "dsp0", (MappedLine(EDGE, 70, False),))) == []
    assert bench.core.refused_count == 1


def test_early_words_of_a_vcoproc_that_is_unmapped_are_forgotten(bench: Bench) -> None:
    bench.edge(33)
    bench(UnmapLines(33))
    assert bench(MapLines(1, 33, "dsp0", (MappedLine(EDGE, 70, False),))) == []


def test_early_words_that_fit_no_line_are_refused_when_mapped(bench: Bench) -> None:
    bench.edge(33)
    assert bench(MapLines(1, 33, "dsp0", (MappedLine(EDGE, 70, True),))) == []
    assert bench.core.refused_count == 1
    assert bench.line(1, 70).raised_count == 0


def test_early_words_are_bounded_the_oldest_go_first(bench: Bench) -> None:
    first = 1000
    for vcoproc_id in range(first, first + UNMAPPED_VCOPROCS_MAX + 1):
        bench.edge(vcoproc_id)
    assert bench.core.early.forgotten_count == 1
    assert bench(MapLines(1, first, "dsp0", (MappedLine(EDGE, 70, False),))) == []
    assert bench(MapLines(1, first + 1, "dsp0", (MappedLine(EDGE, 71, False),))) != []


def test_early_words_of_too_many_coprocs_are_refused(bench: Bench) -> None:
    for number in range(UNMAPPED_COPROCS_MAX):
        bench.edge(33, coproc=f"coproc{number}")
    assert bench.core.refused_count == 0
    bench.edge(33, coproc="one-more")
    assert bench.core.refused_count == 1


# --- domains come and go --------------------------------------------------------------------------


def test_held_while_nobody_listens_then_delivered_in_order(bench: Bench) -> None:
    bench(DomainDown(1))
    assert bench.level(11, True, 1) == []
    assert bench.edge(11, 2) == []
    assert bench(DomainUp(1, 5, 16)) == [inject(1, 65, 1), inject(1, 64, 2)]


def test_what_a_lost_domain_had_not_finished_is_injected_again(bench: Bench) -> None:
    bench.edge(11, 1)
    bench.level(11, True, 2)
    bench.edge(11, 3)
    bench(DomainDown(1))
    assert bench(DomainUp(1, 6, 16)) == [inject(1, 64, 3), inject(1, 65, 2)]
    assert bench.eoi(1, 64) == [inject(1, 64, 3)], "the edge that waited behind it"
    assert bench.eoi(1, 64) == []


def test_what_was_lost_comes_before_what_had_not_come_yet(bench: Bench) -> None:
    bench.edge(11, 1)
    bench(PauseDomain(1))
    bench.level(11, True, 2)
    bench(DomainDown(1))
    bench(DomainUp(1, 6, 16))
    assert bench(ResumeDomain(1)) == [inject(1, 64, 1), inject(1, 65, 2)]


def test_a_finished_interrupt_is_not_injected_again(bench: Bench) -> None:
    bench.edge(11)
    bench.eoi(1, 64)
    bench(DomainDown(1))
    assert bench(DomainUp(1, 6, 16)) == []


def test_a_level_that_fell_while_its_domain_was_away_is_over(bench: Bench) -> None:
    bench.level(11, True)
    bench(DomainDown(1))
    bench.level(11, False)
    assert bench(DomainUp(1, 6, 16)) == []
    assert not bench.line(1, 65).active


def test_eoi_after_a_reconnection_ends_what_was_not_injected_again_yet(bench: Bench) -> None:
    bench.edge(11)
    bench(PauseDomain(1))
    bench(DomainDown(1))
    bench(DomainUp(1, 5, 16))
    bench.eoi(1, 64)
    assert bench.core.guest_error_count == 0
    assert bench(ResumeDomain(1)) == []


def test_a_new_incarnation_finds_everything_unmasked(bench: Bench) -> None:
    bench.enable(1, 64, False)
    bench.edge(11)
    assert bench(DomainUp(1, 5, 16)) == [], "the same incarnation: it still wants it masked"
    assert bench(DomainUp(1, 6, 16)) == [inject(1, 64)]


def test_paused_holds_and_resumed_delivers(bench: Bench) -> None:
    bench(PauseDomain(1))
    bench(PauseDomain(1))
    assert bench.edge(11) == []
    assert bench.edge(22) == [inject(2, 64)], "another domain does not notice"
    assert bench(DomainUp(1, 6, 16)) == [], "a paused domain that reconnects is still paused"
    assert bench(ResumeDomain(1)) == [inject(1, 64)]
    assert bench(ResumeDomain(1)) == []


def test_a_stuck_domain_keeps_its_lines_pending_here(bench: Bench) -> None:
    bench(DomainUp(1, 5, 1))
    assert bench.edge(11, 1) == [inject(1, 64, 1)]
    assert bench.core.starved == {1}
    for _ in range(1000):
        assert bench.edge(11, 2) == []
        assert bench.level(11, True, 3) == []
    assert bench.edge(22) == [inject(2, 64)], "another domain does not notice"
    assert bench.level(11, False) == [] and bench.level(11, True, 4) == []
    assert bench(DomainRoom(1, 1)) == [inject(1, 65, 4)]
    assert bench.eoi(1, 64) == []
    assert bench(DomainRoom(1, 1)) == [inject(1, 64, 2)]
    assert bench.core.starved == {1}
    bench(DomainDown(1))
    assert bench.core.starved == set()


def test_first_come_first_injected_when_room_is_scarce(bench: Bench) -> None:
    many = tuple(MappedLine(line, 100 - line, False) for line in range(8))
    bench(MapLines(1, 33, "dsp0", many))
    bench(DomainUp(1, 5, 0))
    order = [5, 0, 7, 3]
    for line in [*order, *order]:
        bench(CoprocSaid("dsp0", LineEdge(33, line, 1, 0)))
    injected = [bench(DomainRoom(1, 1)) for _ in order]
    assert injected == [[inject(1, 100 - line)] for line in order]


# --- control --------------------------------------------------------------------------------------

MAP_11 = MapLines(1, 11, "dsp0", LINES)


@pytest.mark.parametrize(
    "event",
    [
        AddDomain(1, b"\1" * 16),
        MAP_11,
        UnmapLines(99),
        RemoveDomain(99),
        ResumeDomain(1),
        DomainDown(99),
        DomainRoom(99, 4),
        DomainSaid(99, Eoi(64)),
        CoprocDown("nobody"),
    ],
)
def test_repeating_a_change_or_naming_the_gone_does_nothing(bench: Bench, event: Event) -> None:
    bench.edge(11)
    before = bench.core.list_lines()
    assert bench(event) == []
    assert bench.core.list_lines() == before


def mapped(*lines: tuple[int, int]) -> tuple[MappedLine, ...]:
    return tuple(MappedLine(line, irq, False) for line, irq in lines)


def test_the_first_domain_has_number_0(bench: Bench) -> None:
    bench(AddDomain(0, b"x" * 16))
    bench(MapLines(0, 33, "dsp0", mapped((0, 70))))
    assert [line.irq for line in bench.core.list_lines() if line.domid == 0] == [70]


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (AddDomain(0x7FF0, b"x" * 16), InvalidArgument),
        (AddDomain(3, b""), InvalidArgument),
        (AddDomain(3, b"x" * 65), InvalidArgument),
        (AddDomain(3, b"\1" * 16), InvalidArgument),  # domain 1's secret
        (AddDomain(1, b"x" * 16), AlreadyExists),
        (MapLines(3, 33, "dsp0", ()), NotFound),
        (MapLines(1, 0, "dsp0", ()), InvalidArgument),
        (MapLines(1, 33, "", ()), InvalidArgument),
        (MapLines(1, 33, "x" * 64, ()), InvalidArgument),
        (MapLines(2, 11, "dsp0", LINES), AlreadyExists),
        (MapLines(1, 11, "dsp1", LINES), AlreadyExists),
        (MapLines(1, 11, "dsp0", LINES[:1]), AlreadyExists),
        (MapLines(1, 33, "dsp0", mapped((0, 70), (1, 64))), AlreadyExists),  # 64 is 11's
        (MapLines(1, 33, "dsp0", mapped((0, 70), (0, 71))), InvalidArgument),
        (MapLines(1, 33, "dsp0", mapped((0, 70), (1, 70))), InvalidArgument),
        (MapLines(1, 33, "dsp0", mapped((0, 70), (32, 71))), InvalidArgument),
        (MapLines(1, 33, "dsp0", mapped((0, 70), (1, 31))), InvalidArgument),
        (MapLines(1, 33, "dsp0", mapped((0, 70), (1, 1020))), InvalidArgument),
        (PauseDomain(3), NotFound),
        (ResumeDomain(3), NotFound),
    ],
)
def test_a_refused_request_changes_nothing(
    bench: Bench, event: Event, error: type[RequestError]
) -> None:
    bench.edge(33)
    before = bench.core.list_lines()
    with pytest.raises(error):
        bench(event)
    assert bench.core.list_lines() == before
    assert dict(bench.core.credentials()) == {1: b"\1" * 16, 2: b"\2" * 16}
    # The early edge of 33 has not been used up by what was refused.
    assert bench(MapLines(1, 33, "dsp0", mapped((EDGE, 70)))) == [inject(1, 70)]


def test_domains_are_bounded() -> None:
    core = IrqRouterCore()
    for domid in range(1, DOMAINS_MAX + 1):
        core.step(AddDomain(domid, domid.to_bytes(16, "big")), 0)
    with pytest.raises(LimitExceeded):
        core.step(AddDomain(DOMAINS_MAX + 1, b"x" * 16), 0)


def test_unmapped_lines_are_gone_and_can_be_mapped_elsewhere(bench: Bench) -> None:
    bench(PauseDomain(1))
    bench.edge(11)
    bench(UnmapLines(11))
    assert bench(ResumeDomain(1)) == []
    assert bench.eoi(1, 64) == [] and bench.core.guest_error_count == 1
    lines = (MappedLine(EDGE, 80, False),)
    assert bench(MapLines(2, 11, "dsp0", lines)) == []
    assert bench.edge(11) == [inject(2, 80)]


def test_a_removed_domain_is_dropped_with_all_its_lines(bench: Bench) -> None:
    bench(MapLines(1, 12, "dsp0", ()))
    assert bench(RemoveDomain(1)) == [DropDomain(1)]
    assert {view.domid for view in bench.core.list_lines()} == {2}
    bench(AddDomain(1, b"\3" * 16))
    for vcoproc_id in (11, 12):
        assert bench(MapLines(1, vcoproc_id, "dsp0", ())) == []
    bench(RemoveDomain(2))
    assert bench.core.list_lines() == []


def test_removing_a_domain_that_does_not_listen_drops_nobody(bench: Bench) -> None:
    bench(DomainDown(1))
    assert bench(RemoveDomain(1)) == []
