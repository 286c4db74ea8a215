"""Whatever is changed, the rows say the same as the memory."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from postgresql_server import PostgresqlServer
from store_kit import contents, domain, domains, make, on_disk, vcoproc

from vcoproc_toolstack.records import (
    CoprocLife,
    CoprocRecord,
    EventKind,
    Hold,
    Life,
    VcoprocRecord,
)
from vcoproc_toolstack.schedules import Setting
from vcoproc_toolstack.store import Change

NAMES = st.sampled_from(["a", "b", "c", "d"])
COPROCS = st.sampled_from(["dsp0", "dsp1"])
LIVES = st.sampled_from(Life)
COPROC_LIVES = st.sampled_from(CoprocLife)


class Refused(Exception):
    """A change that ends badly."""


class Rows(RuleBasedStateMachine):
    """Random changes of up to four domains with up to four vcoprocs each."""

    target: Path | str

    def __init__(self) -> None:
        super().__init__()
        self.store = make(self.target)
        with self.store.change() as change:
            for each in change.domains():
                change.delete_domain(each.domid)

    @rule(name=NAMES, coprocs=st.lists(COPROCS, max_size=4))
    def create(self, name: str, coprocs: list[str]) -> None:
        with self.store.change() as change:
            if change.domain(name) is None:
                domid = change.next_domid()
                made = [
                    vcoproc(change.next_vcoproc_id(), domid, name, f"v{n}", coproc)
                    for n, coproc in enumerate(coprocs)
                ]
                change.add_domain(domain(domid, name, *made), f"name = {name!r}")
                change.add_event(f"domains/{name}", EventKind.CREATED, "made")
                change.add_answer(f"request {change.revision()}", b"print", name.encode())

    @rule(name=NAMES, again=st.booleans(), refused=st.booleans())
    def destroy(self, name: str, again: bool, refused: bool) -> None:
        try:
            with self.store.change() as change:
                if found := change.domain(name):
                    change.delete_domain(found.domid)
                    if again:
                        change.add_domain(found)
                    change.add_event(f"domains/{name}", EventKind.DESTROYED, "")
                if refused:
                    raise Refused
        except Refused:
            pass

    @rule(name=NAMES, new=NAMES, life=LIVES)
    def rename(self, name: str, new: str, life: Life) -> None:
        with self.store.change() as change:
            found = change.domain(name)
            if found and change.domain(new) is None:
                change.update_domain(replace(found, name=new, life=life))

    @rule(name=NAMES, coproc=COPROCS, add=st.booleans())
    def attach(self, name: str, coproc: str, add: bool) -> None:
        with self.store.change() as change:
            found = change.domain(name)
            if found and add and len(found.vcoprocs) < 4:
                number = change.next_vcoproc_id()
                change.add_vcoproc(vcoproc(number, found.domid, name, f"n{number}", coproc))
            elif found and found.vcoprocs:
                change.delete_vcoproc(found.vcoprocs[-1].vcoproc_id)

    @rule(name=NAMES, coproc=COPROCS, weight=st.integers(0, 9))
    def move(self, name: str, coproc: str, weight: int) -> None:
        with self.store.change() as change:
            for each in self._vcoprocs(change, name):
                change.put_vcoproc(replace(each, coproc=coproc, params=(("weight", weight),)))

    @staticmethod
    def _vcoprocs(change: Change, name: str) -> list[VcoprocRecord]:
        found = change.domain(name)
        return list(found.vcoprocs) if found else []

    @rule(
        coproc=COPROCS,
        number=st.integers(1, 2),
        add=st.booleans(),
        life=st.sampled_from(CoprocLife),
    )
    def hold(self, coproc: str, number: int, add: bool, life: CoprocLife) -> None:
        with self.store.change() as change:
            if add:
                change.add_hold(Hold(coproc, number, ("domain-1",)))
            else:
                change.delete_hold(coproc, number)
            change.put_coproc(CoprocRecord(coproc, draining=add, life=life))

    @rule(coproc=COPROCS, number=st.integers(0, 3))
    def set(self, coproc: str, number: int) -> None:
        with self.store.change() as change:
            change.put_setting(coproc, Setting("rr", number, ()) if number else None)
            change.put_fallback_ns(coproc, number)

    @rule()
    def restart(self) -> None:
        before, written = contents(self.store), on_disk(self.store)
        self.store.close()
        self.store = make(self.target)
        assert contents(self.store) == before
        assert on_disk(self.store) == written
        assert before["memory"] == sum(each.memory_bytes for each in domains(self.store))

    def teardown(self) -> None:
        self.restart()
        self.store.close()


def check(target: Path | str) -> None:
    machine = type("RowsOf", (Rows,), {"target": target})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=15, stateful_step_count=20, deadline=None)
    )


@pytest.mark.slow
def test_rows_of_sqlite(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        check(Path(folder) / "store.db")


@pytest.mark.slow
def test_rows_of_postgresql(postgresql: PostgresqlServer) -> None:
    check(postgresql.new_schema())
