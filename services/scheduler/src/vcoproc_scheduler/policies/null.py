"""``null``: one vcoproc that has the coprocessor for itself.

Theory:
    For a coproc that is not shared: its vcoproc is put there at its first wake and stays there for
    good, idle or not, so there is no switch and no timer. A second vcoproc is refused. After Xen's
    `null` scheduler (xen/common/sched/null.c), which assigns each unit a processor of its own.
Parameters: none.
Cost: O(1), no deadline.
Limits: one vcoproc. To share the coproc, set another algorithm first.
"""

from __future__ import annotations

from collections.abc import Mapping

from vcoproc.errors import LimitExceeded
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Policy,
    PolicyConfig,
    Usage,
)


class Null(Policy):
    """No choice, hence no decision."""

    API_VERSION = 1
    PARAMETERS = ()

    def __init__(self) -> None:
        self._slice_ns = 0
        self._only: int | None = None
        self._awake = False
        self._run_ns = 0

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        if self._only not in (None, vcoproc_id):
            raise LimitExceeded(
                f"vcoprocs of a coproc with algorithm null, which vcoproc {self._only} has", 1
            )

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._only = vcoproc_id

    def remove(self, vcoproc_id: int) -> None:
        self._only = None
        self._awake = False
        self._run_ns = 0

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._awake = True

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._awake = False

    def charge(self, usage: Usage) -> None:
        self._run_ns += usage.run_ns

    def pick(self, now_ns: int, current: int | None) -> Decision:
        if self._awake and current != self._only:
            return Decision(self._only, self._slice_ns)
        return NOBODY

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {} if self._only is None else {self._only: {"run_ns": self._run_ns}}

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        if self._only is not None and self._only in carried:
            self._run_ns = carried[self._only].get("run_ns", 0)
