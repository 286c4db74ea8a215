"""``lottery``: each slice is drawn by lot, the same way from the same seed.

Theory:
    Everybody who wants to run holds tickets; a ticket is drawn for each slice, and its holder has
    it. In the long run each one's share is that of its tickets. Nobody can plan to be the winner,
    and nobody starves, though there is no bound for the wait. Source: lottery scheduling
    (Waldspurger, Weihl 1994).
Parameters: tickets of a vcoproc; seed of the coproc. See PARAMETERS.
Cost: O(n) for a decision.
Limits: shares are as even as luck is: with n slices, to about the square root of n of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Parameter,
    Policy,
    PolicyConfig,
    Scope,
    Usage,
)

DRAW_BITS = 32


class Lottery(Policy):
    """A slice for the lucky one."""

    # The number, not POLICY_API_VERSION: it says which version this file was written for.
    API_VERSION = 1
    PARAMETERS = (
        Parameter("tickets", Scope.VCOPROC, "", 1, 10_000, 100, "Lots in each draw."),
        Parameter("seed", Scope.COPROC, "", 0, 2**31 - 1, 1, "The same seed draws the same lots."),
    )

    def __init__(self) -> None:
        self._slice_ns = 0
        self._tickets: dict[int, int] = {}
        self._run_ns: dict[int, int] = {}
        self._awake: dict[int, None] = {}  # in the order of waking, which can be repeated
        self._random = Random()
        self._draw = 0

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._random = Random(config.parameters["seed"])
        self._draw = self._random.getrandbits(DRAW_BITS)

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._tickets[vcoproc_id] = parameters["tickets"]
        self._run_ns[vcoproc_id] = 0

    def remove(self, vcoproc_id: int) -> None:
        del self._tickets[vcoproc_id]
        del self._run_ns[vcoproc_id]
        self._awake.pop(vcoproc_id, None)

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._awake[vcoproc_id] = None

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        del self._awake[vcoproc_id]

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        # Here and not in `pick`: that is a question, and may be asked as often as one likes.
        self._draw = self._random.getrandbits(DRAW_BITS)

    def charge(self, usage: Usage) -> None:
        self._run_ns[usage.vcoproc_id] += usage.run_ns

    def pick(self, now_ns: int, current: int | None) -> Decision:
        if not self._awake or list(self._awake) == [current]:
            return NOBODY  # whoever is alone runs on, without slices
        lot = self._draw * sum(self._tickets[each] for each in self._awake) >> DRAW_BITS
        for vcoproc_id in self._awake:
            lot -= self._tickets[vcoproc_id]
            if lot < 0:
                break
        return Decision(vcoproc_id, self._slice_ns)

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {vcoproc_id: {"run_ns": run_ns} for vcoproc_id, run_ns in self._run_ns.items()}

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id in self._run_ns.keys() & carried.keys():
            self._run_ns[vcoproc_id] = carried[vcoproc_id].get("run_ns", 0)
