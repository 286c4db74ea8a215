"""The doors of the toolstack to the rest of the cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from vcoproc_toolstack.records import CoprocAccount, CoprocView, RouterView
from vcoproc_toolstack.schedules import (
    Algorithm,
    Analysis,
    Assumptions,
    Decision,
    Fallback,
    ScheduleView,
)
from vcoproc_toolstack.steps import SetCoproc, Step

_Item = TypeVar("_Item", covariant=True)


class Services(Protocol):
    """The other services, and the memory directory."""

    def perform(self, step: Step) -> None:
        """Does one step. A step that was done already succeeds.

        Raises:
            RequestError: it is refused.
            PeerError: whoever should do it does not answer; it may have been done.
        """

    def accounts(self, timeout_ns: int) -> tuple[CoprocAccount, ...]:
        """What the scheduler holds.

        Raises:
            RequestError, PeerError: as `perform`.
        """

    def router(self) -> RouterView:
        """What the irq-router holds.

        Raises:
            RequestError, PeerError: as `perform`.
        """

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        """What a coproc-sim holds.

        Raises:
            RequestError, PeerError: as `perform`; also when nobody has leased that coproc.
        """


class Stream(Protocol[_Item]):
    """What another service tells as it happens; to be iterated once, to its end or until `cancel`.

    Raises:
        RequestError: it is refused.
        PeerError: the service went away, or the stream was cancelled.
    """

    def __iter__(self) -> Iterator[_Item]: ...

    def cancel(self) -> None:
        """Ends it, from any thread."""


class Scheduling(Protocol):
    """The scheduler, as far as schedules are read and set.

    Raises:
        RequestError: it refuses, and nothing has changed. NotFound: it does not know the coproc.
        PeerError: it does not answer; it may have done what it was asked.
    """

    def algorithms(self) -> tuple[Algorithm, ...]:
        """All that are installed."""

    def schedule(self, coproc: str) -> ScheduleView:
        """How a coproc is scheduled now."""

    def set_coproc(self, step: SetCoproc, *, restart: bool = False) -> None:
        """Sets algorithm, slice and parameters at once. restart: also an algorithm that failed."""

    def set_parameters(self, coproc: str, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        """Changes some parameters of a vcoproc that it has."""

    def decisions(self, coproc: str, after: int) -> list[Decision]:
        """Those that are kept with a higher number, oldest first."""

    def follow(self, coproc: str, after: int) -> Stream[tuple[Decision, int]]:
        """The same and each that is made from now on, with how many before it were missed."""

    def fallbacks(self) -> Stream[Fallback]:
        """The last fallback of every coproc, then each as it happens. Waits for the scheduler."""

    def analyse(self, coproc: str, assumed: Assumptions) -> Analysis:
        """What its vcoprocs are sure to get."""
