"""Lines that go to another coproc with their vcoproc, or begin as they once were, or wait."""

from __future__ import annotations

import pytest

from vcoproc.errors import AlreadyExists, InvalidArgument, NotFound
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
    Effect,
    Event,
    LineView,
    MapLines,
    MappedLine,
    MoveLines,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    SendInject,
    SendResample,
)

EDGE, LEVEL, SECOND = 0, 1, 2
LINES = (MappedLine(EDGE, 64, False), MappedLine(LEVEL, 65, True), MappedLine(SECOND, 66, True))
ASKED = [SendResample("dsp1", Resample(11, line)) for line in (LEVEL, SECOND)]


class Router:
    """Vcoproc 11 of domain 1 is on dsp0."""

    def __init__(self, lines: tuple[MappedLine, ...] = LINES) -> None:
        self.core = IrqRouterCore(validate=True)
        self.now_ns = 0
        self.step(AddDomain(1, b"0123456789abcdef"))
        self.step(DomainUp(1, 1, 100))
        self.mapping = MapLines(1, 11, "dsp0", lines)
        self.told = self.step(self.mapping)

    def step(self, event: Event) -> list[Effect]:
        self.now_ns += 1
        return self.core.step(event, self.now_ns)

    def said(self, coproc: str, message: LineEdge | LineLevel | LineSync) -> list[Effect]:
        return self.step(CoprocSaid(coproc, message))

    def edge(self, coproc: str) -> list[Effect]:
        return self.said(coproc, LineEdge(11, EDGE, 1, 7))

    def level(self, coproc: str, high: bool, line: int = LEVEL) -> list[Effect]:
        return self.said(coproc, LineLevel(11, line, high, 1, 7))

    def eoi(self, irq: int) -> list[Effect]:
        return self.step(DomainSaid(1, Eoi(irq)))

    def move(self, coproc: str = "dsp1") -> list[Effect]:
        return self.step(MoveLines(11, coproc))

    def line(self, irq: int) -> LineView:
        return next(view for view in self.core.list_lines() if view.irq == irq)


@pytest.fixture
def router() -> Router:
    return Router()


def inject(irq: int, raised_ns: int = 7) -> SendInject:
    return SendInject(1, Inject(irq, irq != 64, raised_ns))


# --- to another coproc ----------------------------------------------------------------------------


def test_what_lines_are_they_stay(router: Router) -> None:
    router.edge("dsp0")
    router.level("dsp0", True)
    router.step(DomainSaid(1, LineEnable(66, False)))
    before = router.core.list_lines()
    assert router.move() == ASKED
    assert router.core.list_lines() == [line._replace(coproc="dsp1") for line in before]
    assert (router.line(64).active, router.line(65).active) == (True, True)
    assert not router.line(66).enabled
    assert router.line(64).raised_count == 1


def test_the_other_coproc_speaks_for_them_and_the_former_one_no_more(router: Router) -> None:
    router.move()
    assert router.edge("dsp0") == []
    assert router.level("dsp0", True) == []
    assert router.said("dsp0", LineSync(11, 1 << LEVEL, 1)) == []
    assert router.core.refused_count == 3
    assert router.edge("dsp1") == [inject(64)]
    assert router.level("dsp1", True) == [inject(65)]


def test_the_new_one_says_the_levels(router: Router) -> None:
    """High there as it was here, or fallen meanwhile."""
    router.level("dsp0", True)
    router.level("dsp0", True, SECOND)
    router.move()
    assert router.level("dsp1", True) == []
    assert router.level("dsp1", False, SECOND) == []
    assert router.eoi(65) == [SendResample("dsp1", Resample(11, LEVEL))]
    assert router.eoi(66) == []


def test_a_question_to_the_former_one_is_answered_by_the_new_one(router: Router) -> None:
    router.level("dsp0", True)
    assert router.eoi(65) == [SendResample("dsp0", Resample(11, LEVEL))]
    assert router.move() == ASKED
    assert router.level("dsp0", True) == [], "its answer is late"
    assert router.level("dsp1", True) == [inject(65)]


def test_the_end_of_the_former_one_does_not_touch_them(router: Router) -> None:
    router.level("dsp0", True)
    router.move()
    router.step(CoprocDown("dsp0"))
    assert router.line(65).high
    router.step(CoprocDown("dsp1"))
    assert not router.line(65).high


def test_moving_them_again_does_nothing_and_back_asks_the_first_one(router: Router) -> None:
    assert router.move() == ASKED
    assert router.move() == []
    back = router.move("dsp0")
    assert back == [SendResample("dsp0", Resample(11, line)) for line in (LEVEL, SECOND)]
    assert router.edge("dsp0") == [inject(64)]


def test_mapping_them_as_they_are_now_does_nothing(router: Router) -> None:
    router.move()
    assert router.step(MapLines(1, 11, "dsp1", LINES)) == []
    with pytest.raises(AlreadyExists):
        router.step(router.mapping)


@pytest.mark.parametrize("coproc", ["", "x" * 64])
def test_a_coproc_without_a_proper_name_gets_nothing(router: Router, coproc: str) -> None:
    with pytest.raises(InvalidArgument):
        router.move(coproc)
    assert router.edge("dsp0") == [inject(64)]


def test_there_is_nothing_to_move(router: Router) -> None:
    with pytest.raises(NotFound):
        router.step(MoveLines(12, "dsp1"))


# --- as they once were ----------------------------------------------------------------------------


def test_an_edge_that_waited_waits_again_and_is_injected_once() -> None:
    router = Router((MappedLine(EDGE, 64, False, pending=True), *LINES[1:]))
    assert router.told == [inject(64, raised_ns=0)]
    line = router.line(64)
    assert (line.raised_count, line.injected_count) == (1, 1)
    assert router.eoi(64) == []


@pytest.mark.parametrize("room", [0, 3])
def test_an_early_edge_merges_with_the_one_that_waited(room: int) -> None:
    """Nothing was injected when the second one came: one interrupt, whatever room there is."""
    core = IrqRouterCore(validate=True)
    core.step(AddDomain(1, b"0123456789abcdef"), 1)
    core.step(DomainUp(1, 1, room), 2)
    core.step(CoprocSaid("dsp0", LineEdge(11, EDGE, 1, 7)), 3)
    told = core.step(MapLines(1, 11, "dsp0", (MappedLine(EDGE, 64, False, pending=True),)), 4)
    told += core.step(DomainRoom(1, 3), 5)
    assert [effect.message.irq for effect in told if isinstance(effect, SendInject)] == [64]
    assert core.step(DomainSaid(1, Eoi(64)), 6) == []


def test_of_a_level_line_the_coproc_says_all() -> None:
    router = Router((LINES[0], MappedLine(LEVEL, 65, True, pending=True)))
    assert router.told == [] and not router.line(65).pending


def test_a_line_that_was_masked_is_masked_until_the_domain_unmasks_it() -> None:
    router = Router((MappedLine(EDGE, 64, False, pending=True, masked=True),))
    assert router.told == []
    assert router.step(DomainUp(1, 1, 100)) == [], "the same incarnation has connected again"
    assert router.step(DomainSaid(1, LineEnable(64, True))) == [inject(64, raised_ns=0)]


def test_the_first_incarnation_finds_masks_and_the_next_one_none() -> None:
    core = IrqRouterCore(validate=True)
    core.step(AddDomain(1, b"0123456789abcdef"), 1)
    core.step(MapLines(1, 11, "dsp0", (MappedLine(EDGE, 64, False, True, True),)), 2)
    assert core.step(DomainUp(1, 5, 10), 3) == []
    assert core.step(DomainUp(1, 6, 10), 4) == [inject(64, raised_ns=0)]


def test_mapped_again_what_they_were_at_first_says_nothing(router: Router) -> None:
    again = tuple(MappedLine(m.line, m.irq, m.level, True, True) for m in LINES)
    assert router.step(MapLines(1, 11, "dsp0", again)) == []
    assert router.line(64).enabled and not router.line(64).pending


# --- while the domain is paused -------------------------------------------------------------------


def test_a_paused_domain_is_paused_for_its_next_connection_too(router: Router) -> None:
    router.step(PauseDomain(1))
    router.step(PauseDomain(1))
    assert router.core.paused_domids() == [1]
    assert router.edge("dsp0") == []
    router.step(DomainDown(1))
    assert router.step(DomainUp(1, 2, 100)) == []
    assert router.move() == ASKED
    assert router.edge("dsp1") == []
    assert router.step(ResumeDomain(1)) == [inject(64)]
    assert router.step(ResumeDomain(1)) == []
    assert router.core.paused_domids() == []


def test_a_domain_that_is_there_again_is_not_paused(router: Router) -> None:
    router.step(PauseDomain(1))
    router.step(RemoveDomain(1))
    router.step(AddDomain(1, b"0123456789abcdef"))
    assert router.core.paused_domids() == []
