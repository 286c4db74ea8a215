"""Policies for tests: one that fails at random, and one that keeps a table of times."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from vcoproc.limits import MS
from vcoproc_scheduler.policies.api import NOBODY, Decision, Parameter, PolicyConfig, Scope, Usage
from vcoproc_scheduler.policies.rr import RoundRobin

NONSENSE: tuple[Any, ...] = (
    Decision(4711, 5 * MS),
    Decision(0, 5 * MS),
    Decision(-1, 5 * MS),
    Decision(1, -5 * MS),
    Decision(1, 0),
    Decision(1, 1 << 70),
    Decision(1, 5 * MS, not_before_ns=-1),
    Decision(1, 5 * MS, until_ns=1),
    Decision(None, 0, vacate="yes"),  # type: ignore[arg-type]
    None,
    7,
    (1, 5 * MS),
)


class Hostile(RoundRobin):
    """Raises or answers nonsense, once in a while, wherever it is called.

    chance_ppm: of a failure for each call after the first `calm_calls`. Seeded by `seed`, so that a
    run can be repeated.
    """

    PARAMETERS = (
        *RoundRobin.PARAMETERS,
        Parameter("chance_ppm", Scope.COPROC, "ppm", 0, 1_000_000, 20_000, ""),
        Parameter("calm_calls", Scope.COPROC, "", 0, 1 << 32, 0, ""),
        Parameter("seed", Scope.COPROC, "", 0, 1 << 32, 0, ""),
    )

    def __init__(self) -> None:
        super().__init__()
        self._random = Random(0)
        self._chance_ppm = 0
        self._calm_calls = 0

    def init(self, config: PolicyConfig) -> None:
        super().init(config)
        self._random = Random(config.parameters["seed"])
        self._chance_ppm = config.parameters["chance_ppm"]
        self._calm_calls = config.parameters["calm_calls"]

    def _fails(self) -> bool:
        self._calm_calls -= 1
        return self._calm_calls < 0 and self._random.randrange(1_000_000) < self._chance_ppm

    def _maybe_raise(self) -> None:
        if self._fails():
            raise self._random.choice((ValueError("v"), KeyError(3), SystemExit(1), Wordless()))

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._maybe_raise()
        super().admit(vcoproc_id, parameters)

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        super().add(vcoproc_id, parameters)
        self._maybe_raise()  # after the deed: what it did is void with it

    def remove(self, vcoproc_id: int) -> None:
        self._maybe_raise()
        super().remove(vcoproc_id)

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        super().wake(vcoproc_id, now_ns)
        self._maybe_raise()

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._maybe_raise()
        super().sleep(vcoproc_id, now_ns)

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._maybe_raise()

    def yield_(self, vcoproc_id: int, now_ns: int) -> None:
        self._maybe_raise()

    def charge(self, usage: Usage) -> None:
        super().charge(usage)
        self._maybe_raise()

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._maybe_raise()
        if self._fails():
            answer: Decision = self._random.choice(NONSENSE)
            return answer
        return super().pick(now_ns, current)

    def next_deadline_ns(self) -> int | None:
        self._maybe_raise()
        return "soon" if self._fails() else None  # type: ignore[return-value]

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        self._maybe_raise()
        return 5 if self._fails() else super().export_accounting()  # type: ignore[return-value]

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        self._maybe_raise()
        super().import_accounting(carried)

    def deinit(self) -> None:
        self._maybe_raise()


class Wordless(BaseException):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Table(RoundRobin):
    """Windows in absolute time: `offset_us` and `length_us` of each vcoproc in every `frame_us`.

    Nothing like a finished algorithm: it uses all that a decision can say about times.
    """

    PARAMETERS = (
        Parameter("frame_us", Scope.COPROC, "us", 1, 1 << 32, 20_000, ""),
        Parameter("offset_us", Scope.VCOPROC, "us", 0, 1 << 32, 0, ""),
        Parameter("length_us", Scope.VCOPROC, "us", 1, 1 << 32, 5_000, ""),
    )

    def __init__(self) -> None:
        super().__init__()
        self._frame_ns = 0
        self._windows: dict[int, tuple[int, int]] = {}

    def init(self, config: PolicyConfig) -> None:
        super().init(config)
        self._frame_ns = config.parameters["frame_us"] * 1000

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        pass

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        super().add(vcoproc_id, {"slice_us": 0})
        begin_ns = parameters["offset_us"] * 1000
        self._windows[vcoproc_id] = (begin_ns, begin_ns + parameters["length_us"] * 1000)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        """The next window that has not begun, or the present one if its owner is not there."""
        best: tuple[int, int, int] | None = None
        for vcoproc in self._queue:
            begin_ns, end_ns = self._windows[vcoproc]
            frame_ns = now_ns - now_ns % self._frame_ns
            while frame_ns + end_ns <= now_ns or (
                vcoproc == current and frame_ns + begin_ns <= now_ns
            ):
                frame_ns += self._frame_ns
            window = (frame_ns + begin_ns, frame_ns + end_ns, vcoproc)
            best = min(best, window) if best else window
        if best is None:
            return NOBODY
        begin_ns, end_ns, vcoproc = best
        slice_ns = end_ns - begin_ns
        return Decision(vcoproc, slice_ns, preempt=True, not_before_ns=begin_ns, until_ns=end_ns)


class Cap(RoundRobin):
    """Runs `on_us` of each 10 ms, for all together; then the coprocessor stays empty."""

    PARAMETERS = (*RoundRobin.PARAMETERS,)
    ON_NS = 4 * MS
    PERIOD_NS = 10 * MS

    def pick(self, now_ns: int, current: int | None) -> Decision:
        phase_ns = now_ns % self.PERIOD_NS
        self._deadline_ns = (
            now_ns - phase_ns + (self.ON_NS if phase_ns < self.ON_NS else self.PERIOD_NS)
        )
        if phase_ns >= self.ON_NS:
            return Decision(None, vacate=True, preempt=True)
        return super().pick(now_ns, current)

    def next_deadline_ns(self) -> int | None:
        return self._deadline_ns if self._queue else None
