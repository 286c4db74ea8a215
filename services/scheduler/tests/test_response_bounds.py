"""With the core, on virtual time: no wait or response that it observes is beyond its bound.

Of every algorithm, with jobs of any length, some that sleep for a moment only, others that never
do; some refuse, some yield. Times are observed by the accounts, and by the test itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pytest
from scheduler_executor_model import Costs
from scheduler_rig import Rig
from test_analysis_bounds import vcoproc_parameters

from vcoproc.errors import RequestError
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.testing.network import Faults
from vcoproc.wire.messages import EndReason, Message, Report, Sleep
from vcoproc_scheduler.analysis import Guarantee, Member, Question, analyse
from vcoproc_scheduler.events import AddVcoproc, SetAlgorithm
from vcoproc_scheduler.responses import WORK_STEPS_NS

DELAY_NS = 80 * US
COSTS = Costs()
SWITCH_NS = COSTS.save_ns[1] + COSTS.mmu_ns[1] + COSTS.restore_ns[1] + 3 * DELAY_NS
"""With the time until a report, the order that it causes and what replaces that have arrived."""
TOGGLER_US, PAUSE_US = (10, 400), (0, 300)
"""Of who wakes as often as it can: its work, and how long it sleeps."""


@dataclass(slots=True)
class Scene:
    """How one coproc is scheduled. refusal_us: at most, to leave and to be taken in."""

    algorithm: str
    slice_ns: int
    coproc: dict[str, int]
    refusal_us: tuple[int, int]
    vcoprocs: list[dict[str, int]]

    @property
    def wanted(self) -> SetAlgorithm:
        return SetAlgorithm(self.algorithm, self.slice_ns, SWITCH_DEADLINE_NS, self.coproc)


def random_scene(algorithm: str, random: Random) -> Scene:
    refusal_us = random.choice((0, 0, 300)), random.choice((0, 0, 300))
    coproc: dict[str, int] = {}
    if algorithm == "edf":
        coproc = {"switch_cost_us": -(-SWITCH_NS // US), "refusal_us": sum(refusal_us)}
    elif algorithm == "arinc653":
        coproc = {"major_frame_us": 20_000}
    elif algorithm == "priority":
        coproc = {"max_wait_us": random.choice((1_000, 20_000))}
    elif algorithm == "fixed":
        coproc = {"period_us": random.choice((20_000, 50_000))}
    if algorithm in ("credit", "edf", "fixed", "priority"):
        coproc["min_run_us"] = random.choice((0, 0, 2_000))
    vcoprocs = [
        vcoproc_parameters(algorithm, random, number) for number in range(random.randint(2, 5))
    ]
    return Scene(algorithm, random.choice((200 * US, 1 * MS, 5 * MS)), coproc, refusal_us, vcoprocs)


@dataclass(slots=True)
class Play:
    """A scene that goes on. kinds: what each vcoproc does. seen_ns: of each, the jobs that it was
    done with: (work, response), as the test sees it. jobs: the present ones: since when, work."""

    scene: Scene
    random: Random
    rig: Rig
    kinds: dict[int, str] = field(default_factory=dict)
    seen_ns: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    jobs: dict[int, tuple[int, int]] = field(default_factory=dict)
    awake: set[int] = field(default_factory=set)

    def begin(self, *, yields: bool) -> None:
        send, random = self.rig.executor.send, self.random

        def watch(message: Message) -> bool | None:
            sent = send(message)
            match message:
                case Sleep(vcoproc, at_ns):
                    self.done(vcoproc, at_ns)
                case Report() if message.vcoproc:
                    if message.end == EndReason.YIELD:
                        self.jobs.pop(message.vcoproc, None)
                    if not self.rig.executor.guests[message.vcoproc].work_ns:
                        self.done(message.vcoproc, message.ended_ns)
            return sent

        self.rig.executor.send = watch
        for vcoproc, parameters in enumerate(self.scene.vcoprocs, 1):
            try:
                self.rig.step(AddVcoproc(vcoproc, parameters))
            except RequestError:
                continue  # more than there is
            self.rig.executor.attach(vcoproc)
            self.kinds[vcoproc] = random.choice(("toggles", "works", "works", "never sleeps"))
            self._wake_after(vcoproc, random.randint(0, 20_000) * US)
        if yields:
            self._yield()

    def _yield(self) -> None:
        self.rig.executor.yield_()
        self.rig.clock.call_after(self.random.randint(1, 9_000) * US, self._yield)

    def _wake_after(self, vcoproc: int, pause_ns: int) -> None:
        self.rig.clock.call_after(pause_ns, lambda: self.wake(vcoproc))

    def wake(self, vcoproc: int) -> None:
        work_us: int | None = None
        if self.kinds[vcoproc] == "toggles":
            work_us = self.random.randint(*TOGGLER_US)
        elif self.kinds[vcoproc] == "works":
            work_us = self.random.randint(10, self.random.choice((3_000, 20_000)))
        self.awake.add(vcoproc)
        # What began before the first turn was over is not watched.
        if work_us is not None and self.rig.turns:
            self.jobs[vcoproc] = self.rig.executor.now(), work_us * US
        self.rig.executor.work(vcoproc, None if work_us is None else work_us * US)

    def done(self, vcoproc: int, at_ns: int) -> None:
        if vcoproc not in self.awake:
            return  # it sleeps, and now it has left
        self.awake.remove(vcoproc)
        if vcoproc in self.jobs:
            woke_ns, work_ns = self.jobs.pop(vcoproc)
            self.seen_ns.setdefault(vcoproc, []).append((work_ns, at_ns - woke_ns))
        pause_us = self.random.randint(*PAUSE_US)
        if self.kinds[vcoproc] == "works":
            pause_us = self.random.randint(0, self.random.choice((500, 30_000)))
        self._wake_after(vcoproc, pause_us * US)

    def refused(self, vcoproc: int) -> bool:
        return self.rig.executor.guests[vcoproc].refused_ns > 0

    def guarantees(self, work_ns: int) -> list[Guarantee]:
        now_ns = self.rig.clock.now_ns
        view = self.rig.core.schedule(now_ns)
        members = {
            each.vcoproc: Member(
                view.parameters[each.vcoproc],
                work_ns,
                each.account.wait_watched_ns,
                self.rig.core.response_ns(each.vcoproc, work_ns, now_ns),
            )
            for each in view.coproc.vcoprocs
        }
        out_us, in_us = self.scene.refusal_us
        question = Question(
            self.scene.algorithm, self.scene.slice_ns, view.wanted.parameters, members, SWITCH_NS,
            (out_us + in_us) * US, in_us * US,
        )  # fmt: skip
        return analyse(question)


def play(algorithm: str, seed: int, *, yields: bool, time_ns: int = 400 * MS) -> Play:
    random = Random(seed)
    scene = random_scene(algorithm, random)
    out_us, in_us = scene.refusal_us
    costs = replace(COSTS, refuse_ns=(0, out_us * US), refuse_in_ns=(0, in_us * US))
    faults = Faults(delay_ns=(20 * US, DELAY_NS))
    made = Play(scene, random, Rig(seed, faults=faults, costs=costs, algorithm=scene.wanted))
    made.begin(yields=yields)
    made.rig.clock.advance(time_ns)
    assert not made.rig.fallbacks
    return made


@pytest.mark.slow
@pytest.mark.parametrize("yields", [False, True])
@pytest.mark.parametrize("algorithm", ["rr", "priority", "edf", "arinc653", "fixed", "credit"])
def test_nothing_that_is_observed_is_beyond_its_bound(algorithm: str, yields: bool) -> None:
    bounded = closest = 0
    for seed in range(25):
        made = play(algorithm, seed, yields=yields)
        for work_ns in WORK_STEPS_NS[:37]:  # up to 100 ms
            for found in made.guarantees(work_ns):
                if found.bounds.note and made.refused(found.vcoproc):
                    continue  # more often than that bound allows
                where = f"seed {seed}, {made.kinds[found.vcoproc]}, {work_ns} ns: {found}"
                assert found.kept is not False, f"{where} of {made.scene}"
                if found.bounds.response_ns is not None:
                    bounded += 1
                    percent = 100 * found.observed_response_ns // found.bounds.response_ns
                    closest = max(closest, percent)
    assert bounded > 500
    assert closest >= 50, "the bounds say nothing"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rr", "priority", "edf", "arinc653", "fixed", "credit"])
def test_no_response_is_missed(algorithm: str) -> None:
    """What the test saw of jobs that ended, and the accounts of jobs and of one that goes on."""
    count = 0
    for seed in range(6):
        made = play(algorithm, seed, yields=seed % 2 == 1)
        for vcoproc, jobs in made.seen_ns.items():
            count += len(jobs)
            for work_ns in WORK_STEPS_NS[:37]:
                seen_ns = max((took for work, took in jobs if work <= work_ns), default=0)
                now_ns = made.rig.clock.now_ns
                # The latest one that ended may not have been told.
                now_ns += DELAY_NS
                assert made.rig.core.response_ns(vcoproc, work_ns, now_ns) >= seen_ns
    assert count >= 100
