"""A stand-in for looking at all services at once, on top of the other stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vcoproc.errors import NotFound, VcoprocError
from vcoproc_toolstack.looking import CoprocCounts, LineStatus, Sight
from vcoproc_toolstack.steps import IRQ_ROUTER, SCHEDULER

if TYPE_CHECKING:
    from toolstack_rig import FakeServices


@dataclass
class FakeLooking:
    """lines_held: what the irq-router has. traps: by number of the vcoproc.

    meanwhile: is called while the services are looked at.
    """

    services: FakeServices
    lines_held: list[LineStatus] = field(default_factory=list)
    traps: dict[int, int] = field(default_factory=dict)
    meanwhile: Callable[[], None] = lambda: None
    look_count: int = 0

    def look(
        self, *, schedules: Collection[str], coprocs: Collection[str], timeout_ns: int
    ) -> Sight:
        self.look_count += 1
        self.meanwhile()
        gaps: dict[str, str] = {}

        def ask(who: str, question: Callable[[], object]) -> object:
            try:
                self.services._answers(who)
                return question()
            except NotFound:
                return None
            except VcoprocError as error:
                gaps[who] = str(error)
                return None

        scheduling = self.services.scheduling
        seen = {
            name: ask(SCHEDULER, lambda name=name: scheduling.schedule(name)) for name in schedules
        }
        counted = {
            name: ask(f"coproc/{name}", lambda name=name: self._counts(name)) for name in coprocs
        }
        return Sight(
            accounts=ask(SCHEDULER, lambda: self.services.accounts(timeout_ns)),
            schedules={name: each for name, each in seen.items() if each is not None},
            coprocs={name: each for name, each in counted.items() if each is not None},
            lines=ask(IRQ_ROUTER, lambda: tuple(self.lines_held)),
            gaps=tuple(f"{who}: {why}" for who, why in sorted(gaps.items())),
        )

    def _counts(self, name: str) -> CoprocCounts:
        held = self.services.attached.get(name, {})
        counts = {number: self.traps.get(number, 0) for number in held}
        states = {number: self.services._state(number) for number in held}
        return CoprocCounts(0, 0, sum(counts.values()), states, counts)

    def lines(self, timeout_ns: int) -> tuple[LineStatus, ...]:
        self.services._answers(IRQ_ROUTER)
        self.look_count += 1
        self.meanwhile()
        return tuple(self.lines_held)


def line(vcoproc_id: int, index: int, **changes: object) -> LineStatus:
    """A line that is enabled and quiet, except for what is changed."""
    values: dict[str, object] = {
        "irq": 64 + index,
        "level": False,
        "high": False,
        "pending": False,
        "active": False,
        "enabled": True,
        "raised_count": 0,
        "injected_count": 0,
        "merged_count": 0,
    }
    return LineStatus(vcoproc_id, index, **{**values, **changes})  # type: ignore[arg-type]
