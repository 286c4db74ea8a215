"""Platform `vcoproc,refuse`: any other platform, made to refuse to be switched.

Theory of operation:
    Everything goes to the platform inside, but `switch_from` and `switch_to`: when a context is
    asked for the first time, a time is drawn, and until it is over the answer is Busy. Then the
    platform inside is asked. A switch that was undone and is asked for again draws anew. That a
    switch-in was given up is not told; so it counts as undone when another one is asked for.
    `hang` ends by force only. `job` ends when the firmware idles, yields or faults; of firmware
    that does nothing it does not refuse. For studies and tests: see `RefusalPlan`.
Not handled:
    `job` at switch-in: nothing runs then, so it is no refusal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from vcoproc.errors import InvalidArgument
from vcoproc.limits import MS
from vcoproc_sim.platforms.api import (
    Busy,
    ContextSpec,
    Done,
    Platform,
    PlatformConfig,
    PlatformInfo,
    RunResult,
    StopReason,
    SwitchResult,
)
from vcoproc_sim.platforms.refusals import RefusalPlan, SplitMix64
from vcoproc_sim.registry import create_platform

COMPATIBLE: Final = "vcoproc,refuse"
RETRY_NS_MAX: Final = 1 * MS
"""It wants to be asked again no later, also when it does not know how long it will refuse."""
_JOB_ENDS: Final = (StopReason.IDLE, StopReason.YIELD, StopReason.FAULT)


@dataclass(slots=True)
class _Refuser:
    """A context. out_until_ns, in_until_ns: of a refusal that was drawn and has not ended.

    inner_asked: the platform inside refuses, too.
    """

    generator: SplitMix64
    chosen: bool
    out_until_ns: int | None = None
    in_until_ns: int | None = None
    inner_asked: bool = False


class Refuse:
    """Implements `Platform` and `Draining`.

    Args:
        clock: the coproc's.
    """

    info: PlatformInfo

    def __init__(self, inner: Platform, plan: RefusalPlan, clock: Callable[[], int]) -> None:
        self.info = replace(inner.info, compatible=COMPATIBLE)
        self._inner = inner
        self._plan = plan
        self._clock = clock
        self._refusers: dict[int, _Refuser] = {}
        self._created = 0
        self._current: _Refuser | None = None
        self._entering: _Refuser | None = None  # who was asked for last
        # What is not changed is not slowed down.
        self.set_stage2: Final = inner.set_stage2
        self.read: Final = inner.read
        self.write: Final = inner.write
        self.shadow_written: Final = inner.shadow_written
        self.is_faulted: Final = inner.is_faulted
        self.wants_to_run: Final = inner.wants_to_run
        self.shadow_wants_to_run: Final = inner.shadow_wants_to_run
        self.wake_after_ns: Final = inner.wake_after_ns
        self.take_edges: Final = inner.take_edges
        self.reset_context: Final = inner.reset_context
        self.snapshot: Final = inner.snapshot
        self.read_snapshot: Final = inner.read_snapshot
        self.restore: Final = inner.restore
        self.close: Final = inner.close

    def create_context(self, spec: ContextSpec) -> None:
        self._inner.create_context(spec)
        self._created += 1
        chosen = not self._plan.contexts or self._created in self._plan.contexts
        generator = self._plan.generator(self._created)
        self._refusers[spec.vcoproc_id] = _Refuser(generator, chosen)

    def destroy_context(self, vcoproc_id: int) -> None:
        self._inner.destroy_context(vcoproc_id)
        del self._refusers[vcoproc_id]

    def switch_from(self, vcoproc_id: int) -> SwitchResult:
        refuser, now_ns = self._refusers[vcoproc_id], self._clock()
        if refuser.out_until_ns is None:
            refuser.out_until_ns = self._draw(refuser, self._plan.at_out, now_ns)
            if self._plan.kind == "job" and not self._inner.wants_to_run():
                refuser.out_until_ns = now_ns
        if now_ns < refuser.out_until_ns:
            return Busy(min(refuser.out_until_ns - now_ns, RETRY_NS_MAX))
        result = self._inner.switch_from(vcoproc_id)
        refuser.inner_asked = isinstance(result, Busy)
        if isinstance(result, Done):
            self._has_left(refuser)
        return result

    def switch_to(self, vcoproc_id: int) -> SwitchResult:
        refuser, now_ns = self._refusers[vcoproc_id], self._clock()
        if self._entering is not refuser:
            if self._entering is not None:
                self._entering.in_until_ns = None
            self._entering = refuser
        if refuser.in_until_ns is None:
            wanted = self._plan.at_in and self._plan.kind != "job"
            refuser.in_until_ns = self._draw(refuser, wanted, now_ns)
        if now_ns < refuser.in_until_ns:
            return Busy(min(refuser.in_until_ns - now_ns, RETRY_NS_MAX))
        result = self._inner.switch_to(vcoproc_id)
        if isinstance(result, Done):
            refuser.in_until_ns = None
            self._current = refuser
        return result

    def _draw(self, refuser: _Refuser, wanted: bool, now_ns: int) -> int:
        """Until when it refuses; now: it does not."""
        return now_ns + (self._plan.draw(refuser.generator) if wanted and refuser.chosen else 0)

    def _has_left(self, refuser: _Refuser) -> None:
        refuser.out_until_ns = None
        refuser.inner_asked = False
        self._current = None

    def cancel_switch(self, vcoproc_id: int) -> None:
        refuser = self._refusers[vcoproc_id]
        refuser.out_until_ns = None
        if refuser.inner_asked:
            refuser.inner_asked = False
            self._inner.cancel_switch(vcoproc_id)

    def drain(self, vcoproc_id: int) -> None:
        inner: Any = getattr(self._inner, "drain", None)
        if inner is not None and self._refusers[vcoproc_id].inner_asked:
            inner(vcoproc_id)

    def force_save(self, vcoproc_id: int) -> SwitchResult:
        refuser = self._refusers[vcoproc_id]
        if not self._plan.saves:
            return Busy(RETRY_NS_MAX)
        inner: Any = self._inner.switch_from
        if refuser.inner_asked:
            inner = getattr(self._inner, "force_save", inner)
        result: SwitchResult = inner(vcoproc_id)
        if isinstance(result, Done):
            self._has_left(refuser)
        return result

    def force_off(self, vcoproc_id: int) -> None:
        self._inner.force_off(vcoproc_id)
        self._has_left(self._refusers[vcoproc_id])

    def run(self, budget: int, now_ns: int) -> RunResult:
        result = self._inner.run(budget, now_ns)
        if result.reason in _JOB_ENDS and self._plan.kind == "job":
            refuser = self._current
            if refuser is not None and refuser.out_until_ns is not None:
                refuser.out_until_ns = 0
        return result


def create(config: PlatformConfig) -> Refuse:
    """The factory of the entry point ``vcoproc,refuse``.

    Raises:
        InvalidArgument: a property is impossible.
        NotFound: there is no such platform to wrap.
        BadPlugin: it is not what a platform has to be.
    """
    plan = RefusalPlan.read(config.parameters)
    if plan.wraps == COMPATIBLE:
        raise InvalidArgument("vcoproc,wraps", "it cannot wrap itself")
    inner = create_platform(plan.wraps, config)
    return Refuse(inner, plan, config.clock or time.monotonic_ns)
