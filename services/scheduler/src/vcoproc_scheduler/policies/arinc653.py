"""``arinc653``: a table of times that repeats for ever.

Theory:
    Time is cut into major frames; frame k begins at k * `major_frame_us` of the coproc's clock.
    Each vcoproc has up to WINDOWS_MAX windows, at fixed times of each frame, and runs in them and
    nowhere else: a window whose vcoproc sleeps stays empty, and so do gaps between windows. Every
    order names the absolute times of its window (`not_before_ns`, `until_ns`), reckoned from the
    number of the frame and never from the order before, so no lateness is carried on: the 10 000th
    frame begins as exactly as the first. The next window is ordered ahead of its time.
    As long as no vcoproc has a window of its own, all have equal ones, one after the other, which
    fill the frame without a gap. From the first window that is set, those without one do not run.
Parameters:
    major_frame_us of the coproc: us, 100..60000000, default 100000.
    window_start_us, start2_us, start3_us, start4_us of a vcoproc: us, 0..60000000, default 0.
    window_us, window2_us, window3_us, window4_us of a vcoproc: us, 0..10000000, default 0: none.
    `admit` refuses a table longer than its frame and windows that overlap.
Cost: `pick` O(log n); adding and removing O(n log n).
Limits: the switch to a vcoproc, and the refusal of the one before, are taken from the window: leave
    a gap in front of it where that matters. A vcoproc that wakes with less than SLICE_NS_MIN of its
    window left waits for the next. Response times are as long as the frame.
Sources: ARINC 653 part 1, partition scheduling; xen/common/sched/arinc653.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from vcoproc.errors import InvalidArgument, LimitExceeded, NotAdmitted
from vcoproc.limits import MS, SLICE_NS_MAX, SLICE_NS_MIN, US, S
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
)

WINDOWS_MAX: Final = 4
MAJOR_FRAME_NS_MAX: Final = 60 * S
GRACE_NS: Final = 1 * MS
"""A coproc that should have ended a window by itself is told so only after this."""


def _names(number: int) -> tuple[str, str]:
    """Parameters of a vcoproc's window: where it begins, and its length."""
    if number == 1:
        return "window_start_us", "window_us"
    return f"start{number}_us", f"window{number}_us"


def _window_parameters(number: int) -> tuple[Parameter, Parameter]:
    start, length = _names(number)
    return (
        Parameter(
            name=start,
            scope=Scope.VCOPROC,
            unit="us",
            minimum=0,
            maximum=MAJOR_FRAME_NS_MAX // US,
            default=0,
            doc=f"Where its window {number} begins in the major frame.",
        ),
        Parameter(
            name=length,
            scope=Scope.VCOPROC,
            unit="us",
            minimum=0,
            maximum=SLICE_NS_MAX // US,
            default=0,
            doc=f"Length of its window {number}, at least {SLICE_NS_MIN // US} us; 0 for none.",
        ),
    )


class Window(NamedTuple):
    """Of a vcoproc, in the major frame."""

    start_ns: int
    end_ns: int
    vcoproc_id: int


def windows_of(vcoproc_id: int, parameters: Mapping[str, int]) -> list[Window]:
    """The windows that its parameters ask for."""
    found = []
    for number in range(1, WINDOWS_MAX + 1):
        start, length = (parameters[name] * US for name in _names(number))
        if length:
            found.append(Window(start, start + length, vcoproc_id))
    return found


def table_of(parameters: Mapping[int, Mapping[str, int]], frame_ns: int) -> list[Window]:
    """The table of all vcoprocs, in the order of time.

    Args:
        parameters: of each vcoproc, in the order in which they were added.
    """
    table = [
        window
        for vcoproc_id, values in parameters.items()
        for window in windows_of(vcoproc_id, values)
    ]
    if not table:
        ids = list(parameters)[: frame_ns // SLICE_NS_MIN]
        ends = [frame_ns * number // len(ids) for number in range(len(ids) + 1)] if ids else []
        table = [Window(ends[at], ends[at + 1], vcoproc_id) for at, vcoproc_id in enumerate(ids)]
    return sorted(table)


class Arinc653(Policy):
    """Each in its windows."""

    API_VERSION = 1
    PARAMETERS = (
        Parameter(
            name="major_frame_us",
            scope=Scope.COPROC,
            unit="us",
            minimum=SLICE_NS_MIN // US,
            maximum=MAJOR_FRAME_NS_MAX // US,
            default=100 * MS // US,
            doc="The table of windows repeats after this time.",
        ),
        *(each for number in range(1, WINDOWS_MAX + 1) for each in _window_parameters(number)),
    )

    def __init__(self) -> None:
        self._frame_ns = 0
        self._parameters: dict[int, Mapping[str, int]] = {}
        self._table: list[Window] = []
        self._starts_ns: list[int] = []
        self._edges_ns: list[int] = [0]  # every time of a frame at which something may change
        self._awake: set[int] = set()
        self._run_ns: dict[int, int] = {}
        self._now_ns = 0
        self._resident: int | None = None
        self._until_ns = 0  # when the coproc ends its turn; 0: not known
        self._answer = NOBODY

    def init(self, config: PolicyConfig) -> None:
        self._frame_ns = config.parameters["major_frame_us"] * US

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        others = {key: each for key, each in self._parameters.items() if key != vcoproc_id}
        windows = windows_of(vcoproc_id, parameters)
        taken = [window for key, each in others.items() for window in windows_of(key, each)]
        if not windows and not taken and (len(others) + 1) * SLICE_NS_MIN > self._frame_ns:
            raise LimitExceeded("equal windows in the major frame", self._frame_ns // SLICE_NS_MIN)
        for window in windows:
            self._check_fits(window)
            length_ns = window.end_ns - window.start_ns
            for other in taken:
                if window.start_ns < other.end_ns and other.start_ns < window.end_ns:
                    whose = "its own" if other.vcoproc_id == vcoproc_id else other.vcoproc_id
                    raise NotAdmitted(
                        "window_us",
                        f"{_text(window)} overlaps {_text(other)} of vcoproc {whose}; "
                        f"{self._free_text(taken, length_ns)}",
                    )
            taken.append(window)

    def _check_fits(self, window: Window) -> None:
        if window.end_ns - window.start_ns < SLICE_NS_MIN:
            raise InvalidArgument(
                "window_us", f"{_text(window)} is shorter than {SLICE_NS_MIN // US} us"
            )
        if window.end_ns > self._frame_ns:
            raise InvalidArgument(
                "window_us",
                f"{_text(window)} ends after the major frame, {self._frame_ns // US} us: "
                "a table longer than its frame",
            )

    def _free_text(self, taken: Iterable[Window], length_ns: int) -> str:
        gaps, free_ns = [], 0
        for start_ns, end_ns, _ in [*sorted(taken), Window(self._frame_ns, self._frame_ns, 0)]:
            if start_ns - free_ns >= SLICE_NS_MIN:
                gaps.append((free_ns, start_ns))
            free_ns = max(free_ns, end_ns)
        if not gaps:
            return "nothing is free"
        wide = [gap for gap in gaps if gap[1] - gap[0] >= length_ns]
        start_ns, end_ns = wide[0] if wide else max(gaps, key=lambda gap: gap[1] - gap[0])
        return f"free is {start_ns // US} to {end_ns // US} us"

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._parameters[vcoproc_id] = dict(parameters)
        self._run_ns[vcoproc_id] = 0
        self._rebuild()

    def remove(self, vcoproc_id: int) -> None:
        del self._parameters[vcoproc_id]
        del self._run_ns[vcoproc_id]
        self._awake.discard(vcoproc_id)
        if vcoproc_id == self._resident:
            self._until_ns = 0  # its windows may be others when it comes back
        self._rebuild()

    def _rebuild(self) -> None:
        self._table = table_of(self._parameters, self._frame_ns)
        self._starts_ns = [window.start_ns for window in self._table]
        edges = {edge for window in self._table for edge in (window.start_ns, window.end_ns)}
        self._edges_ns = sorted({each % self._frame_ns for each in edges}) or [0]

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._awake.add(vcoproc_id)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._awake.discard(vcoproc_id)

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._resident = vcoproc_id
        self._until_ns = self._answer.until_ns if self._answer.vcoproc_id == vcoproc_id else 0

    def charge(self, usage: Usage) -> None:
        self._run_ns[usage.vcoproc_id] += usage.run_ns
        if usage.left and usage.vcoproc_id == self._resident:
            self._resident = None
            self._until_ns = 0

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._now_ns = max(self._now_ns, now_ns)
        self._answer = self._choose(now_ns, current)
        return self._answer

    def _choose(self, now_ns: int, current: int | None) -> Decision:
        if not self._table:
            return Decision(None, vacate=True, preempt=True) if current is not None else NOBODY
        frame, at_ns = divmod(now_ns, self._frame_ns)
        number = bisect_right(self._starts_ns, at_ns) - 1
        ahead = self._ahead(frame, number + 1, current)
        if number >= 0 and at_ns < self._table[number].end_ns:
            window = self._table[number]
            until_ns = frame * self._frame_ns + window.end_ns
            if window.vcoproc_id == current:
                if ahead.vcoproc_id is None and self._until_ns != until_ns:
                    return Decision(None, vacate=True)
                return ahead
            left_ns = window.end_ns - at_ns
            if window.vcoproc_id in self._awake and left_ns >= SLICE_NS_MIN:
                return Decision(window.vcoproc_id, _slice(left_ns), preempt=True, until_ns=until_ns)
        in_time = current is not None and current == self._resident
        if current is None or (in_time and now_ns < self._until_ns + GRACE_NS):
            return ahead
        return Decision(None, vacate=True, preempt=True)

    def _ahead(self, frame: int, number: int, current: int | None) -> Decision:
        """The order for the window after the present time."""
        if number == len(self._table):
            frame, number = frame + 1, 0
        window = self._table[number]
        if window.vcoproc_id not in self._awake:
            return NOBODY
        return Decision(
            window.vcoproc_id,
            _slice(window.end_ns - window.start_ns),
            preempt=window.vcoproc_id != current,
            not_before_ns=frame * self._frame_ns + window.start_ns,
            until_ns=frame * self._frame_ns + window.end_ns,
        )

    def next_deadline_ns(self) -> int | None:
        if not self._awake or not self._table:
            return None
        frame, at_ns = divmod(self._now_ns, self._frame_ns)
        number = bisect_right(self._edges_ns, at_ns)
        if number == len(self._edges_ns):
            frame, number = frame + 1, 0
        edge_ns = frame * self._frame_ns + self._edges_ns[number]
        overdue_ns = self._until_ns + GRACE_NS
        if self._until_ns and self._now_ns < overdue_ns:
            return min(edge_ns, overdue_ns)
        return edge_ns

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {vcoproc_id: {"run_ns": run_ns} for vcoproc_id, run_ns in self._run_ns.items()}

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            if vcoproc_id in self._run_ns:
                self._run_ns[vcoproc_id] = values.get("run_ns", 0)


def _slice(wanted_ns: int) -> int:
    return min(max(wanted_ns, SLICE_NS_MIN), SLICE_NS_MAX)


def _text(window: Window) -> str:
    return f"the window from {window.start_ns // US} to {window.end_ns // US} us"
