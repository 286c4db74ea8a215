"""Edges that the irq-router may not have taken: said again, kept with a paused one, or gone."""

from __future__ import annotations

import pytest

from vcoproc.wire.messages import Fence, LineEdge, LineLevel
from vcoproc_sim.router_side import RouterSide
from vcoproc_sim.testing.fake_platform import make_info, make_spec
from vcoproc_sim.vcoprocs import Vcoproc

INFO = make_info()


@pytest.fixture
def vcoprocs() -> dict[int, Vcoproc]:
    return {n: Vcoproc(n, f"v{n}", make_spec(n, INFO), [False] * 3) for n in (1, 2)}


@pytest.fixture
def side(vcoprocs: dict[int, Vcoproc]) -> RouterSide:
    return RouterSide(vcoprocs)


def edge(vcoproc: int, line: int = 1, raised_ns: int = 7) -> LineEdge:
    return LineEdge(vcoproc, line, 1, raised_ns)


def test_what_could_not_be_said_is_said_after_the_next_welcome_and_once(side: RouterSide) -> None:
    side.keep(edge(1))
    side.keep(edge(1, raised_ns=9))
    side.keep(edge(2))
    assert side.linked([]) == [edge(1), edge(2)]
    assert side.linked([]) == []


def test_what_was_not_acknowledged_comes_first_and_levels_do_not_come_at_all(
    side: RouterSide,
) -> None:
    side.keep(edge(2))
    unacked = [edge(1), LineLevel(1, 0, True, 1, 7), edge(1)]
    assert side.linked(unacked) == [edge(1), edge(1), edge(2)]


def test_edges_of_a_paused_one_wait_with_it(side: RouterSide, vcoprocs: dict[int, Vcoproc]) -> None:
    vcoprocs[1].stand_still(5)
    side.keep(edge(1, line=2))
    assert side.linked([edge(1), edge(2), edge(1)]) == [edge(2)]
    assert side.linked([]) == [], "nor after the welcome after that"
    assert side.unsaid_of(1, []) == [1, 2]
    vcoprocs[1].go_on(9)
    assert side.resumed(1) == [edge(1), edge(1, line=2)]
    assert side.resumed(1) == []


def test_those_of_one_that_is_gone_go_with_it(
    side: RouterSide, vcoprocs: dict[int, Vcoproc]
) -> None:
    side.keep(edge(1))
    side.forget(1)
    del vcoprocs[1]
    assert side.linked([edge(1), edge(2)]) == [edge(2)]


def test_what_goes_along_with_a_vcoproc_is_all_that_is_not_sure(side: RouterSide) -> None:
    side.keep(edge(1, line=2))
    assert side.unsaid_of(1, [edge(1), edge(2), edge(1)]) == [1, 2]
    assert side.unsaid_of(2, [edge(1)]) == []


def test_what_came_along_replaces_what_was_there_and_waits(
    side: RouterSide, vcoprocs: dict[int, Vcoproc]
) -> None:
    vcoprocs[1].stand_still(5)
    side.keep(edge(1))
    side.restored(1, [2], epoch=8)
    assert side.linked([]) == []
    vcoprocs[1].go_on(9)
    assert side.resumed(1) == [LineEdge(1, 2, 8, 0)]


def test_a_fence_is_passed_once_when_it_comes_back(side: RouterSide) -> None:
    passed: list[str] = []
    first = side.fence(lambda: passed.append("first"))
    second = side.fence(lambda: passed.append("second"))
    assert (first, second) == (Fence(1), Fence(2))
    side.fenced(77)
    side.fenced(1)
    side.fenced(1)
    assert passed == ["first"]
    side.unlinked()
    side.fenced(2)
    assert passed == ["first", "second"]
