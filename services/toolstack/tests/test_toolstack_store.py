"""The store: what is kept, numbers, revisions, answers; on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_kit import add_events, contents, domain, domains, make, vcoproc

from vcoproc import limits
from vcoproc.errors import InvalidArgument, LimitExceeded, RevisionGone
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import (
    DomainRecord,
    Ending,
    EventKind,
    FaultRecord,
    Hold,
    Life,
    Then,
    VcoprocRecord,
)
from vcoproc_toolstack.schedules import Setting
from vcoproc_toolstack.store import Store


@pytest.fixture
def store(target: Path | str) -> Iterator[Store]:
    store = make(target)
    yield store
    store.close()


def again(store: Store, target: Path | str) -> Store:
    """The toolstack ends and another one begins."""
    store.close()
    return make(target)


def test_contents_outlast_the_process(store: Store, target: Path | str) -> None:
    with store.change() as change:
        change.add_domain(domain(3, "a", vcoproc(1, 3, "a"), vcoproc(2, 3, "a", "w", "dsp1")))
        change.put_setting("dsp0", Setting("credit", 1000, (("cap", 5),)))
        change.put_fallback_ns("dsp1", 77)
        change.add_event("domains/a", EventKind.CREATED, "made")
    before = contents(store)
    store = again(store, target)
    assert contents(store) == before
    store.close()


def test_a_change_that_fails_leaves_nothing(store: Store, target: Path | str) -> None:
    with pytest.raises(ValueError, match="no"), store.change() as change:
        change.add_domain(domain(1, "a"))
        change.add_event("domains/a", EventKind.CREATED, "")
        raise ValueError("no")
    assert (domains(store), contents(store)["revision"]) == ([], 1)
    store = again(store, target)
    assert (domains(store), contents(store)["revision"]) == ([], 1)
    store.close()


def test_a_change_sees_itself_and_others_see_it_when_it_is_complete(store: Store) -> None:
    with store.change() as change:
        change.add_domain(domain(1, "a", vcoproc(1, 1, "a")))
        change.set_vcoproc_params(1, (("weight", 7),))
        change.set_domain_life(1, Life.DESTROYING)
        change.add_event("domains/a", EventKind.CHANGED, "")
        made = change.domain("a")
        assert made is not None
        assert made.vcoprocs[0] == replace(
            vcoproc(1, 1, "a"), params=(("weight", 7),), life=Life.DESTROYING, revision=2
        )
        assert change.counts() == {"dsp0": 1}
        assert change.memory_bytes() == 4096
        assert change.revision() == 2
        with store.read() as view:
            assert (view.domains(), view.counts(), view.revision()) == ([], {}, 1)
    assert domains(store) == [made]


def test_what_has_to_be_done_with_a_change_is_done_before_anybody_sees_it(store: Store) -> None:
    seen: list[int] = []

    def look() -> None:
        with store.read() as view:
            seen.append(view.revision())

    with store.change() as change:
        change.add_event("domains/a", EventKind.CREATED, "")
        change.when_kept(look)
    assert (seen, contents(store)["revision"]) == ([1], 2)
    with pytest.raises(ValueError, match="no"), store.change() as change:
        change.when_kept(look)
        raise ValueError("no")
    assert seen == [1]


def test_a_view_stays_as_it_is(store: Store) -> None:
    with store.change() as change:
        change.add_domain(domain(1, "a"))
    with store.read() as view:
        with store.change() as change:
            change.delete_domain(1)
            change.add_domain(domain(2, "b"))
            change.add_event("domains/b", EventKind.CREATED, "")
        assert [each.name for each in view.domains()] == ["a"]
        assert view.revision() == 1
    assert [each.name for each in domains(store)] == ["b"]


def test_what_is_replaced_is_as_it_was_put(store: Store, target: Path | str) -> None:
    with store.change() as change:
        change.add_domain(domain(1, "a", vcoproc(1, 1, "a"), vcoproc(2, 1, "a", "w")))
    moved = replace(vcoproc(1, 1, "renamed"), coproc="dsp1")
    renamed = domain(1, "renamed", moved, vcoproc(3, 1, "renamed", "z"))
    with store.change() as change:
        change.update_domain(domain(1, "renamed"))
        change.set_vcoproc_coproc(1, "dsp1")
        change.delete_vcoproc(2)
        change.add_vcoproc(vcoproc(3, 1, "renamed", "z"))
    store = again(store, target)
    assert domains(store) == [renamed]
    with store.read() as view:
        assert view.domain("a") is None
        assert view.counts() == {"dsp0": 1, "dsp1": 1}
        assert view.vcoproc(2) is None
        assert view.vcoproc(3) == renamed.vcoprocs[1]
    store.close()


def test_a_name_is_free_again_within_one_change(store: Store, target: Path | str) -> None:
    with store.change() as change:
        change.add_domain(domain(1, "a", vcoproc(1, 1, "a")))
    with store.change() as change:
        change.delete_domain(1)
        change.add_domain(domain(2, "a", vcoproc(2, 2, "a")))
        change.delete_vcoproc(2)
        change.add_vcoproc(vcoproc(3, 2, "a"))
        change.delete_vcoproc(99)
    store = again(store, target)
    assert domains(store) == [domain(2, "a", vcoproc(3, 2, "a"))]
    store.close()


def test_a_setting_can_be_forgotten(store: Store, target: Path | str) -> None:
    for setting in (Setting("rr", 5, ()), Setting("credit", 7, (("cap", 5),)), None):
        with store.change() as change:
            change.put_setting("dsp0", setting)
        store = again(store, target)
        with store.read() as view:
            assert view.settings().get("dsp0") == setting
    store.close()


# --- lists ----------------------------------------------------------------------------------------


def fill(store: Store) -> None:
    with store.change() as change:
        for domid, name in ((1, "b"), (2, "c"), (3, "a")):
            vcoprocs = [vcoproc(10 * domid + n, domid, name, f"v{n}", f"dsp{n}") for n in (1, 2)]
            change.add_domain(domain(domid, name, *vcoprocs))


def names(found: list[DomainRecord] | list[VcoprocRecord]) -> list[str]:
    return [each.resource.removeprefix("domains/").replace("/vcoprocs/", ".") for each in found]


def test_lists_are_sorted_and_go_on_where_the_last_page_ended(store: Store) -> None:
    fill(store)
    with store.read() as view:
        assert names(view.domains()) == ["a", "b", "c"]
        assert names(view.domains(limit=2)) == ["a", "b"]
        assert names(view.domains(after="a", limit=1)) == ["b"]
        assert names(view.domains(after="aa")) == ["b", "c"]
        assert names(view.domains(after="c")) == []
        assert names(view.vcoprocs(limit=3)) == ["a.v1", "a.v2", "b.v1"]
        assert names(view.vcoprocs(after=("a", "v2"), limit=2)) == ["b.v1", "b.v2"]
        assert names(view.vcoprocs(after=("b", "v1"))) == ["b.v2", "c.v1", "c.v2"]
        assert names(view.vcoprocs(domain="b", after=("b", "v1"))) == ["b.v2"]
        assert names(view.vcoprocs(domain="nobody")) == []
        assert names(view.vcoprocs_on("dsp1")) == ["a.v1", "b.v1", "c.v1"]
        assert view.vcoprocs_on("dsp9") == []
        assert view.counts() == {"dsp1": 3, "dsp2": 3}


# --- numbers --------------------------------------------------------------------------------------


def test_domids_rise_and_begin_again_at_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DOMID_MAX", 4)
    with store.change() as change:
        assert [change.next_domid() for _ in range(3)] == [1, 2, 3]
        change.add_domain(domain(1, "a"))
        change.add_domain(domain(4, "b"))
        assert [change.next_domid() for _ in range(3)] == [2, 3, 2]


def test_there_are_no_more_domains_than_the_bound(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DOMAINS_MAX", 1)
    with store.change() as change:
        change.add_domain(domain(change.next_domid(), "a"))
        with pytest.raises(LimitExceeded):
            change.next_domid()


def test_no_number_of_a_vcoproc_comes_back(store: Store, target: Path | str) -> None:
    with store.change() as change:
        assert change.next_vcoproc_id() == 1
        change.add_domain(domain(1, "a", vcoproc(change.next_vcoproc_id(), 1, "a")))
        change.delete_domain(1)
    store = again(store, target)
    with store.change() as change:
        assert change.next_vcoproc_id() == 3
    store.close()


# --- events ---------------------------------------------------------------------------------------


def test_revisions_rise_by_one_and_a_list_before_the_first_event_says_1(store: Store) -> None:
    """0 would mean "from now on" to a watch: what comes between list and watch would be lost."""
    with store.read() as view:
        assert view.revision() == 1
        assert view.events(1) == []
    add_events(store, 3)
    with store.read() as view:
        assert [event.revision for event in view.events(1)] == [2, 3, 4]
        assert [event.revision for event in view.events(3)] == [4]
        assert [event.time_ns for event in view.events(1)] == [1, 2, 3]


def test_old_events_go_and_a_late_watcher_is_told(
    store: Store, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 5)
    add_events(store, 20)
    for kept in (store, again(store, target)):
        with kept.read() as view:
            assert view.revision() == 21
            assert [event.revision for event in view.events(16)] == [17, 18, 19, 20, 21]
            for gone in (0, 1, 15):
                with pytest.raises(RevisionGone) as caught:
                    view.events(gone)
                assert caught.value.oldest == 17
    kept.close()


def test_a_change_may_have_more_events_than_are_kept(
    store: Store, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_KEPT_MAX", 3)
    add_events(store, 2)
    with store.change() as change:
        for _ in range(5):
            change.add_event("domains/a", EventKind.CHANGED, "")
    store = again(store, target)
    with store.read() as view:
        assert [event.revision for event in view.events(5)] == [6, 7, 8]
    store.close()


def test_a_revision_that_never_was_is_gone(store: Store) -> None:
    """A watcher of another store, that was lost: it must list again."""
    with store.read() as view:
        for never in (2, 2**63, 2**64 - 1):
            with pytest.raises(RevisionGone):
                view.events(never)


def test_revisions_have_no_gap_after_a_change_that_failed_and_a_restart(
    store: Store, target: Path | str
) -> None:
    add_events(store, 2)
    with pytest.raises(ValueError, match="no"), store.change() as change:
        change.add_event("domains/a", EventKind.CHANGED, "never happened")
        raise ValueError("no")
    store = again(store, target)
    add_events(store, 1)
    with store.read() as view:
        assert [event.revision for event in view.events(1)] == [2, 3, 4]
    store.close()


def test_a_waiter_is_woken_by_an_event(store: Store) -> None:
    got: list[int] = []
    waits = threading.Event()

    def stopped() -> bool:
        waits.set()
        return False

    def wait() -> None:
        got.extend(event.revision for event in store.wait_for_events(1, stopped))

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(10)
    add_events(store, 1)
    thread.join(10)
    assert got == [2]


def test_a_waiter_can_be_told_to_stop(store: Store) -> None:
    stop = threading.Event()
    waits = threading.Event()
    got: list[object] = []

    def stopped() -> bool:
        waits.set()
        return stop.is_set()

    thread = threading.Thread(target=lambda: got.append(store.wait_for_events(1, stopped)))
    thread.start()
    assert waits.wait(10)
    stop.set()
    store.wake()
    thread.join(10)
    assert got == [[]]


def test_a_text_that_a_database_cannot_keep_is_kept_without_what_it_cannot(
    store: Store, target: Path | str
) -> None:
    """A coproc-sim says why it failed in words of its own."""
    with store.change() as change:
        change.add_event("coprocs/dsp0", EventKind.FAULTED, "a\0b \U0001f4a5 'q' \\")
    for kept in (store, again(store, target)):
        with kept.read() as view:
            [event] = view.events(1)
            assert event.description == "a\ufffdb \U0001f4a5 'q' \\"
    kept.close()


# --- what an event carries ------------------------------------------------------------------------


def test_an_event_carries_what_changed_as_it_was_then(store: Store, target: Path | str) -> None:
    first = domain(1, "a", vcoproc(1, 1, "a"))
    with store.change() as change:
        change.add_event("domains/a", EventKind.CREATED, "told before it is made")
        change.add_domain(first)
    with store.change() as change:
        change.set_vcoproc_params(1, (("weight", 9),))
        change.add_event("domains/a/vcoprocs/v", EventKind.CHANGED, "")
    with store.change() as change:
        change.delete_domain(1)
        change.add_event("domains/a", EventKind.DESTROYED, "")
        change.add_event("coprocs/dsp0", EventKind.ONLINE, "")
    with store.read() as view:
        found = [event.resource for event in view.events(1)]
    changed = replace(vcoproc(1, 1, "a"), params=(("weight", 9),), revision=3)
    assert found == [first, changed, None, None]
    store = again(store, target)
    with store.read() as view:
        found = [event.resource for event in view.events(1)]
    open_vcoproc = replace(vcoproc(1, 1, "a"), trap_credential=b"")
    assert found == [
        replace(first, irq_credential=b"", vcoprocs=(open_vcoproc,)),
        replace(changed, trap_credential=b""),
        None,
        None,
    ], "the same, without secrets"
    store.close()


def test_a_resource_says_which_event_changed_it_last(store: Store, target: Path | str) -> None:
    def revisions() -> dict[str, int]:
        with store.read() as view:
            found = [each for d in view.domains() for each in (d, *d.vcoprocs)]
            return {each.resource: each.revision for each in found} | view.coproc_revisions()

    with store.change() as change:
        for number, name in enumerate("ab", 1):
            vcoprocs = [vcoproc(10 * number + n, number, name, f"v{n}") for n in range(2)]
            change.add_domain(domain(number, name, *vcoprocs))
            change.add_event(f"domains/{name}", EventKind.CREATED, "")
    a, b = "domains/a", "domains/b"
    made = dict.fromkeys((a, f"{a}/vcoprocs/v0", f"{a}/vcoprocs/v1"), 2)
    made |= dict.fromkeys((b, f"{b}/vcoprocs/v0", f"{b}/vcoprocs/v1"), 3)
    assert revisions() == made
    with store.change() as change:
        change.add_event(f"{a}/vcoprocs/v1", EventKind.FAULTED, "", FaultRecord(11, 3, 2**64 - 1))
        change.delete_vcoproc(20)
        change.add_event(f"{b}/vcoprocs/v0", EventKind.DESTROYED, "")
        change.add_event("coprocs/dsp0", EventKind.ONLINE, "")
        change.add_event("coprocs/dsp0/schedule", EventKind.CHANGED, "")
        change.add_event("services/scheduler", EventKind.ONLINE, "")
    expected = made | {a: 4, f"{a}/vcoprocs/v1": 4, b: 5, "dsp0": 7}
    del expected[f"{b}/vcoprocs/v0"]
    assert revisions() == expected
    store = again(store, target)
    assert revisions() == expected
    with store.read() as view:
        [fault] = view.faults()
    assert (fault.revision, fault.fault) == (4, FaultRecord(11, 3, 2**64 - 1))
    store.close()


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_kept_up_to_their_bound(
    store: Store, target: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_KEPT_MAX", 2)
    for name in ("a", "b", "c"):
        with store.change() as change:
            change.add_answer(name, b"print", name.encode())
    for kept in (store, again(store, target)):
        with kept.read() as view:
            assert [view.answer(name, b"print") for name in ("a", "b", "c")] == [None, b"b", b"c"]
            with pytest.raises(InvalidArgument, match="another request"):
                view.answer("b", b"another print")
    with kept.change() as change:
        change.add_answer("a", b"print", b"anew")  # it was forgotten, so its name is free
    with kept.read() as view:
        assert view.answer("a", b"print") == b"anew"
    kept.close()


# --- where a domain is in its life ----------------------------------------------------------------


def test_what_changes_of_a_domain_is_kept(store: Store, target: Path | str) -> None:
    ending = Ending(Then.RESTART, "request", b"print")
    changed = replace(domain(1, "a").become(DomainState.STOPPED, "why"), name="b", ending=ending)
    with store.change() as change:
        change.add_domain(domain(1, "a"), "text")
        change.update_domain(changed)
    kept = again(store, target)
    with kept.read() as view:
        assert view.domain("b") == view.domain_of(1) == changed
        assert view.domain("a") is None
        assert (view.domain_count(), view.domain_text(1)) == (1, "text")
    kept.close()


def test_memory_is_that_of_domains_that_have_any(store: Store, target: Path | str) -> None:
    lives = [
        (DomainState.RUNNING, Life.ALIVE),
        (DomainState.STOPPED, Life.ALIVE),
        (DomainState.STOPPED, Life.STOPPING),
        (DomainState.CRASHED, Life.ALIVE),
    ]
    with store.change() as change:
        for number, (state, life) in enumerate(lives, 1):
            change.add_domain(domain(number, f"d{number}").become(state, life=life))
        assert change.memory_bytes() == 3 * 4096
    kept = again(store, target)
    with kept.read() as view:
        assert view.memory_bytes() == 3 * 4096
    kept.close()


def test_holds_are_kept_until_they_are_deleted(store: Store, target: Path | str) -> None:
    first, second = Hold("dsp0", 7, ("domain-1",)), Hold("dsp1", 7, ("domain-1", "vcoproc-7.1"))
    with store.change() as change:
        for hold in (first, second, first):
            change.add_hold(hold)
    kept = again(store, target)
    with kept.change() as change:
        assert change.holds() == [first, second]
        assert change.holds("dsp1") == [second]
        change.delete_hold("dsp0", 7)
        change.delete_hold("dsp0", 8)
        assert change.holds() == [second]
    kept.close()
