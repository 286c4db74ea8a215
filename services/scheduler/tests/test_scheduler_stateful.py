"""Random lives of vcoprocs against the core: whatever happens, the promises hold.

Algorithms are swapped meanwhile, and one of them fails at random.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scheduler_executor_model import Costs
from scheduler_hostile import Cap, Hostile, Table
from scheduler_rig import SLICE_NS, Rig

from vcoproc.errors import RequestError
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.model.run_state import ON_COPROC, RunState
from vcoproc.testing.network import Faults
from vcoproc_scheduler.events import (
    AddVcoproc,
    RemoveVcoproc,
    SetAlgorithm,
    SetVcoprocParameters,
)
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin

CATALOGUE = Catalogue({"rr": RoundRobin, "hostile": Hostile, "cap": Cap, "table": Table})

IDS_MAX = 8
IDS = st.integers(1, IDS_MAX)
WAITS_MAX = 2 * IDS_MAX + 4
"""Turns of others before a waiting one runs: one round of the queue, and as many turns again for
those that came and went at the tail while grants were under way."""


class SchedulerLife(RuleBasedStateMachine):
    """`step` checks the core's own invariants; here are those that it cannot see itself."""

    rig: Rig

    @initialize(
        seed=st.integers(0, 2**32),
        delay_us=st.sampled_from([1, 50, 2000, 20_000]),
        refuse_us=st.sampled_from([0, 200]),
        refuse_in_us=st.sampled_from([0, 300, 3000]),
        bound_ns=st.sampled_from([MS, SWITCH_DEADLINE_NS]),
        early_reports=st.booleans(),
    )
    def start(
        self,
        seed: int,
        delay_us: int,
        refuse_us: int,
        refuse_in_us: int,
        bound_ns: int,
        early_reports: bool,
    ) -> None:
        self.bound_ns = bound_ns
        faults = Faults(delay_ns=(delay_us * US // 2, delay_us * US), reconnect_ns=(MS, 5 * MS))
        costs = Costs(refuse_ns=(0, refuse_us * US), refuse_in_ns=(0, refuse_in_us * US))
        self.rig = Rig(seed, faults=faults, costs=costs, catalogue=CATALOGUE, algorithm=self._rr())
        self.times = False
        self.rig.executor.early_reports = early_reports
        self.rig.add(1, 2)

    def _rr(self, slice_ns: int = SLICE_NS) -> SetAlgorithm:
        return SetAlgorithm("rr", slice_ns, self.bound_ns, {})

    @rule(vcoproc=IDS)
    def add(self, vcoproc: int) -> None:
        self.rig.add(vcoproc)

    @rule(vcoproc=IDS)
    def attach_before_add(self, vcoproc: int) -> None:
        self.rig.executor.attach(vcoproc)
        self.rig.executor.work(vcoproc, 1 * MS)

    @rule(vcoproc=IDS)
    def add_before_attach(self, vcoproc: int) -> None:
        self.rig.step(AddVcoproc(vcoproc, {}))

    @rule(vcoproc=IDS, detach_first=st.booleans(), both=st.booleans())
    def remove(self, vcoproc: int, detach_first: bool, both: bool) -> None:
        if detach_first:
            self.rig.executor.detach(vcoproc)
        if both or not detach_first:
            self.rig.step(RemoveVcoproc(vcoproc))

    @rule(vcoproc=IDS, work_us=st.integers(1, 20_000))
    def work(self, vcoproc: int, work_us: int) -> None:
        self.rig.executor.work(vcoproc, work_us * US)

    @rule(vcoproc=IDS)
    def fault(self, vcoproc: int) -> None:
        self.rig.executor.fault(vcoproc)

    @rule()
    def yield_(self) -> None:
        self.rig.executor.yield_()

    @rule(delta_us=st.one_of(st.integers(1, 300), st.integers(300, 30_000)))
    def advance(self, delta_us: int) -> None:
        self.rig.clock.advance(delta_us * US)

    @rule()
    def cut(self) -> None:
        self.rig.link.cut()

    @rule()
    def restart_scheduler(self) -> None:
        wanted = {each.vcoproc for each in self.rig.core.view(self.rig.clock.now_ns).vcoprocs}
        self.rig.restart_scheduler()
        self.rig.link.connect()
        self.rig.clock.advance(200 * US)
        self.rig.step(self._rr())
        for vcoproc in wanted:
            self.rig.step(AddVcoproc(vcoproc, {}))

    @rule(
        algorithm=st.sampled_from(CATALOGUE.names),
        seed=st.integers(0, 2**32),
        chance_ppm=st.sampled_from([10_000, 200_000]),
        min_run_us=st.sampled_from([0, 500, 20_000]),
        restart=st.booleans(),
    )
    def swap(
        self, algorithm: str, seed: int, chance_ppm: int, min_run_us: int, restart: bool
    ) -> None:
        parameters = {"min_run_us": min_run_us}
        if algorithm == "hostile":
            parameters |= {"seed": seed, "chance_ppm": chance_ppm}
        event = SetAlgorithm(algorithm, SLICE_NS, self.bound_ns, parameters, restart=restart)
        before = self._totals()
        try:
            self.rig.step(event)
        except RequestError:  # a hostile one may refuse
            assert algorithm == "hostile"
        assert self._totals() == before, "a swap loses nobody, and no time of anybody"
        # Windows and gaps are no promise of turns.
        self.times = self.times or algorithm in ("cap", "table")

    def _totals(self) -> dict[int, tuple[int, int, int]]:
        view = self.rig.core.view(self.rig.clock.now_ns)
        return {
            each.vcoproc: (each.account.elapsed_ns, each.account.run_ns, each.account.wakes)
            for each in view.vcoprocs
        }

    @rule(vcoproc=IDS, name=st.sampled_from(["slice_us", "offset_us", "length_us", "weight"]))
    def set_parameter(self, vcoproc: int, name: str) -> None:
        with suppress(RequestError):  # nothing has changed: the invariants say so
            self.rig.step(SetVcoprocParameters(vcoproc, {name: 1000 + vcoproc}))

    @rule(slice_ms=st.sampled_from([1, 5]))
    def change_slice(self, slice_ms: int) -> None:
        self.rig.step(self._rr(slice_ms * MS))

    @invariant()
    def at_most_one_runs(self) -> None:
        if not hasattr(self, "rig"):
            return
        states = [self.rig.state(vcoproc) for vcoproc in range(1, IDS_MAX + 1)]
        assert sum(state in ON_COPROC for state in states if state) <= 1

    @invariant()
    def nobody_starves(self) -> None:
        if not hasattr(self, "rig"):
            return
        known = {each.vcoproc for each in self.rig.core.view(self.rig.clock.now_ns).vcoprocs}
        for guest in self.rig.executor.guests.values():
            if guest.id not in known or self.times:
                guest.waits = 0  # control has not added it, so it has no claim
            assert guest.waits <= WAITS_MAX

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        rig.link.connect()
        rig.executor.costs.refuse_in_ns = (0, 0)  # else one may never be taken in
        rig.step(self._rr())
        for vcoproc in range(1, IDS_MAX + 1):
            rig.step(AddVcoproc(vcoproc, {}))
        rig.settle()
        # No wake was lost: all the work that was asked for is done.
        for guest in rig.executor.guests.values():
            assert guest.work_ns == 0, f"vcoproc {guest.id} never got to its work"
            want = RunState.FAULTED if guest.faulted else RunState.SLEEPING
            assert rig.state(guest.id) is want
        events = rig.events
        rig.clock.advance(100 * SLICE_NS)
        assert rig.events == events, "an idle scheduler is woken by nothing"


SchedulerLife.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
TestSchedulerLife = pytest.mark.slow(SchedulerLife.TestCase)
