"""A stand-in for the scheduler as far as schedules are read and set; judges as the real one."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vcoproc.config import CoprocConfig
from vcoproc.errors import NotAdmitted, NotFound, PeerLost
from vcoproc_toolstack.records import Accounting, VcoprocState
from vcoproc_toolstack.schedules import (
    Algorithm,
    Analysis,
    Assumptions,
    Decision,
    Fallback,
    ParameterInfo,
    Refusals,
    ScheduleView,
    Setting,
    Slices,
    VcoprocAnalysis,
    VcoprocSchedule,
    check_parameters,
    resolved,
)
from vcoproc_toolstack.steps import SCHEDULER, SetCoproc

T = TypeVar("T")
Params = tuple[tuple[str, int], ...]


def _info(
    name: str, high: int, default: int, *, unit: str = "", coproc: bool = False
) -> ParameterInfo:
    return ParameterInfo(name, unit, 0, high, default, f"what {name} means", coproc)


_MIN_RUN = _info("min_run_us", 500_000, 0, unit="us", coproc=True)
ALGORITHMS = (
    Algorithm(
        "credit",
        "Shares by weight.",
        (
            _MIN_RUN,
            _info("cap_period_us", 1_000_000, 30_000, unit="us", coproc=True),
            _info("weight", 65_535, 256),
            _info("cap", 100, 0, unit="%"),
        ),
    ),
    Algorithm(
        "edf",
        "Budgets in periods.",
        (
            _MIN_RUN,
            _info("period_us", 1_000_000, 10_000, unit="us"),
            _info("budget_us", 1_000_000, 6_000, unit="us"),
            _info("extratime", 1, 1),
        ),
    ),
    Algorithm(
        "rr",
        "Everybody in turn.",
        (_MIN_RUN, _info("weight", 100, 1, coproc=True), _info("weight", 65_535, 256)),
    ),
)
ZEROES = Accounting(0, 0, 0, 0, 0, 0, 0, 0)


class FakeStream(Generic[T]):
    """What is put is told; None ends it with an error, as a scheduler that goes away does."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self.cancelled = False

    def __iter__(self) -> Iterator[T]:
        while (item := self.items.get(timeout=20)) is not None:
            yield item
        raise PeerLost(SCHEDULER)

    def cancel(self) -> None:
        self.cancelled = True
        self.items.put(None)


@dataclass
class FakeScheduling:
    """scheduled: parameters of vcoprocs by coproc. answers: raises when the scheduler is down.

    before, after: are called with what is done, before and after it takes effect, and may raise.
    failed: coprocs whose algorithm has failed. opened: streams of fallbacks, as they are opened.
    """

    scheduled: dict[str, dict[int, Params]]
    answers: Callable[[str], None]
    before: Callable[[str], None] = lambda _what: None
    after: Callable[[str], None] = lambda _what: None
    settings: dict[str, Setting] = field(default_factory=dict)
    set_count: int = 0
    restarts: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    kept: dict[str, list[Decision]] = field(default_factory=dict)
    followed: queue.SimpleQueue[tuple[int, FakeStream[tuple[Decision, int]]]] = field(
        default_factory=queue.SimpleQueue
    )
    opened: queue.SimpleQueue[FakeStream[Fallback]] = field(default_factory=queue.SimpleQueue)
    accounting: Mapping[int, VcoprocSchedule] = field(default_factory=dict)
    installed: tuple[Algorithm, ...] = ALGORITHMS

    def algorithms(self) -> tuple[Algorithm, ...]:
        self.answers(SCHEDULER)
        return self.installed

    def _algorithm(self, name: str) -> Algorithm:
        for each in self.installed:
            if each.name == name:
                return each
        raise NotFound("scheduling algorithm", name)

    def _admit(self, algorithm: Algorithm, vcoprocs: Mapping[int, Params]) -> None:
        promised = 0
        for number, params in vcoprocs.items():
            check_parameters(algorithm, dict(params), per_coproc=False, of=f"vcoproc {number}")
            values = resolved(algorithm, params, per_coproc=False)
            if algorithm.name == "edf":
                promised += values["budget_us"] * 1_000_000 // values["period_us"]
        if promised > 1_000_000:
            raise NotAdmitted("vcoprocs", f"would need {promised} ppm")

    def schedule(self, coproc: str) -> ScheduleView:
        self.answers(SCHEDULER)
        setting = self.settings.get(coproc)
        if setting is None:
            raise NotFound("coproc", coproc)
        algorithm = self._algorithm(setting.algorithm)
        failed = coproc in self.failed
        return ScheduleView(
            algorithm="rr" if failed else setting.algorithm,
            wanted=setting.algorithm,
            slice_ns=setting.slice_ns,
            refusal_ns=500_000_000,
            parameters=resolved(algorithm, setting.parameters, per_coproc=True),
            vcoprocs=tuple(
                VcoprocSchedule(
                    number,
                    VcoprocState.SLEEPING,
                    resolved(algorithm, params, per_coproc=False),
                    Accounting(3_000_000 * number, 2_000_000, 9, 8, 7, 6, 5, 4),
                    Slices(3, 30_000, 31_000, 2, 900, 800),
                    Refusals(2, 5, 1, 0, 9_000, 8, (0, 0, 1, 0, 1)),
                    1_000_000 * number,
                    Refusals(3, 7, 0, 2, 3_100_000, 1_500, (0, 1, 0, 2, 0)),
                )
                for number, params in self.scheduled[coproc].items()
            ),
            current=min(self.scheduled[coproc], default=0),
            switch_count=5,
            fallback=f"{setting.algorithm} failed: a bug" if failed else "",
            fallback_count=int(failed),
        )

    def set_coproc(self, step: SetCoproc, *, restart: bool = False) -> None:
        self.answers(SCHEDULER)
        self.before(f"set {step.coproc.scheduler}")
        coproc: CoprocConfig = step.coproc
        setting = Setting.of(coproc)
        algorithm = self._algorithm(setting.algorithm)
        check_parameters(algorithm, dict(setting.parameters), per_coproc=True, of=coproc.name)
        vcoprocs = dict(self.scheduled.get(coproc.name, {}))
        known = algorithm.infos(per_coproc=False)
        for number, params in vcoprocs.items():
            vcoprocs[number] = tuple((n, v) for n, v in params if n in known)
        for number, params in step.vcoprocs:
            assert number in vcoprocs, "the real one refuses vcoprocs that were not added"
            vcoprocs[number] = params
        self._admit(algorithm, vcoprocs)
        if (setting, vcoprocs) != (self.settings.get(coproc.name), self.scheduled.get(coproc.name)):
            self.set_count += 1
            self.failed.discard(coproc.name)
        if restart:
            self.restarts.append(coproc.name)
            self.failed.discard(coproc.name)
        self.settings[coproc.name] = setting
        self.scheduled[coproc.name] = vcoprocs
        self.after(f"set {step.coproc.scheduler}")

    def add(self, coproc: str, number: int, params: Params) -> None:
        vcoprocs = {**self.scheduled[coproc], number: params}
        self._admit(self._algorithm(self.settings[coproc].algorithm), vcoprocs)
        self.scheduled[coproc] = vcoprocs

    def set_parameters(self, coproc: str, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self.answers(SCHEDULER)
        self.before("parameters")
        old = dict(self.scheduled[coproc][vcoproc_id])
        self.add(coproc, vcoproc_id, tuple(sorted({**old, **parameters}.items())))
        self.after("parameters")

    def decisions(self, coproc: str, after: int) -> list[Decision]:
        self.answers(SCHEDULER)
        if coproc not in self.settings:
            raise NotFound("coproc", coproc)
        return [each for each in self.kept.get(coproc, []) if each.number > after]

    def follow(self, coproc: str, after: int) -> FakeStream[tuple[Decision, int]]:
        self.answers(SCHEDULER)
        stream: FakeStream[tuple[Decision, int]] = FakeStream()
        for each in self.decisions(coproc, after):
            stream.items.put((each, 0))
        self.followed.put((after, stream))
        return stream

    def fallbacks(self) -> FakeStream[Fallback]:
        stream: FakeStream[Fallback] = FakeStream()
        self.opened.put(stream)
        return stream

    def analyse(self, coproc: str, assumed: Assumptions) -> Analysis:
        self.answers(SCHEDULER)
        numbers = sorted(self.scheduled[coproc])
        return Analysis(
            self.settings[coproc].algorithm,
            assumed.switch_ns or 1_500,
            assumed.refusal_ns or 2_000,
            assumed.work_ns or 3_000,
            tuple(
                VcoprocAnalysis(
                    number,
                    250_000 * place,
                    7_000 * place,
                    7_001,
                    "turns",
                    9_000 * place,
                    8_000 * place,
                )
                for place, number in enumerate(numbers)
            ),
            assumed.refusal_ns or 4_000,
            assumed.work_ns // 10_000 * 10_000 or 3_000,
        )


def decision(number: int, vcoproc: int, why: str = "slice") -> Decision:
    """One decision; its other figures follow from its number."""
    return Decision(number, vcoproc, 0, "rr", why, 5_000_000, number * 1_000_000, 0, 0)
