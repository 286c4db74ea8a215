"""``rr``: round robin.

Theory:
    For vcoprocs of equal importance. Who wants to run stands in one queue; the head runs for its
    slice and goes to the tail. Who wakes goes to the tail too, so nobody gets ahead by sleeping and
    waking often. Who yields goes to the tail as if its slice were over.
Parameters: slice_us of a vcoproc, its own slice: us, 0..10000000, default 0: the coproc's.
Cost: O(1) for each call, no deadline.
Limits: of n that want to run, each waits for the slices of n - 1 others, however urgent it is. Who
    sleeps before the end of its slice gets less than the others, and nothing in return.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from vcoproc.errors import InvalidArgument
from vcoproc.limits import SLICE_NS_MAX, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
)


class RoundRobin(Policy):
    """First in, first out, one slice each."""

    API_VERSION = 1
    PARAMETERS = (
        Parameter(
            name="slice_us",
            scope=Scope.VCOPROC,
            unit="us",
            minimum=0,
            maximum=SLICE_NS_MAX // US,
            default=0,
            doc="Its own time slice; 0 for the coproc's.",
        ),
    )

    def __init__(self) -> None:
        # An OrderedDict, not a dict: taking the head of a dict again and again costs O(n).
        self._queue: OrderedDict[int, None] = OrderedDict()
        self._slice_ns = 0
        self._own_slice_ns: dict[int, int] = {}
        self._run_ns: dict[int, int] = {}

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        slice_us = parameters["slice_us"]
        if 0 < slice_us * US < SLICE_NS_MIN:
            raise InvalidArgument("slice_us", f"{slice_us} us is less than {SLICE_NS_MIN // US} us")

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._run_ns[vcoproc_id] = 0
        self._own_slice_ns[vcoproc_id] = parameters["slice_us"] * US

    def remove(self, vcoproc_id: int) -> None:
        del self._own_slice_ns[vcoproc_id]
        self._queue.pop(vcoproc_id, None)
        del self._run_ns[vcoproc_id]

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._queue[vcoproc_id] = None

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        del self._queue[vcoproc_id]

    def charge(self, usage: Usage) -> None:
        self._run_ns[usage.vcoproc_id] += usage.run_ns
        if usage.ended and usage.vcoproc_id in self._queue:
            self._queue.move_to_end(usage.vcoproc_id)

    def pick(self, now_ns: int, current: int | None) -> Decision:
        for vcoproc_id in self._queue:  # the second at the latest
            if vcoproc_id != current:
                return Decision(vcoproc_id, self._own_slice_ns[vcoproc_id] or self._slice_ns)
        return NOBODY

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {vcoproc_id: {"run_ns": run_ns} for vcoproc_id, run_ns in self._run_ns.items()}

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            if vcoproc_id in self._run_ns:
                self._run_ns[vcoproc_id] = values.get("run_ns", 0)
