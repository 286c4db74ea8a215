"""The states of a domain: every pair of the table, and every absent one."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from vcoproc.errors import WrongState
from vcoproc.model.domain_state import HELD, TRANSITIONS, DomainState, DomainVerb, after

S, V = DomainState, DomainVerb


@pytest.mark.parametrize(("state", "verb"), list(product(DomainState, DomainVerb)))
def test_a_verb_leads_where_the_table_says_or_is_refused(
    state: DomainState, verb: DomainVerb
) -> None:
    if (state, verb) in TRANSITIONS:
        assert after(state, verb) is TRANSITIONS[state, verb]
    else:
        with pytest.raises(WrongState) as caught:
            after(state, verb, "domain 'fir'")
        assert caught.value.state == state.value
        fitting = caught.value.want.split(" or ")
        assert fitting == [old.value for old, each in TRANSITIONS if each is verb]


def test_every_state_can_be_reached_and_left() -> None:
    assert {new for (old, _), new in TRANSITIONS.items() if old is not new} == set(DomainState)
    assert {old for (old, _), new in TRANSITIONS.items() if old is not new} == set(DomainState)


def test_every_domain_can_be_destroyed() -> None:
    assert all(after(state, V.DESTROY) is S.ABSENT for state in S if state is not S.ABSENT)


def test_nobody_interferes_with_what_is_being_saved_or_shut_down_but_by_ending_it() -> None:
    """What those two work on must not change under them."""
    by_others = set(V) - {V.STOP, V.GO_ON, V.STAY_PAUSED}
    for state in (S.SAVING, S.SHUTTING_DOWN):
        assert {verb for verb in by_others if (state, verb) in TRANSITIONS} == {V.CRASH, V.DESTROY}


def test_what_asks_for_the_state_that_is_there_already_is_no_mistake() -> None:
    for state, verb in ((S.PAUSED, V.PAUSE), (S.RUNNING, V.RESUME), (S.CRASHED, V.CRASH)):
        assert after(state, verb) is state


def test_no_vcoproc_of_a_held_domain_is_let_run_but_by_its_end() -> None:
    assert {S.PAUSED, S.SAVING, S.CRASHED} == HELD
    assert after(S.PAUSED, V.ATTACH) in HELD
    assert after(S.CRASHED, V.MOVE) in HELD


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "lifecycle.md").read_text()
    states = [state for state in S if state is not S.ABSENT]
    for verb in V:
        ends = [TRANSITIONS.get((state, verb)) for state in states]
        cells = ["-" if end is None else f"`{end.value}`" for end in ends]
        row = f"| {verb.value} | {' | '.join(cells)} |".replace("`ABSENT`", "gone")
        assert (row in page) is any(ends), row
