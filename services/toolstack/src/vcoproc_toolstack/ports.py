"""The doors of the toolstack to the rest of the cluster."""

from __future__ import annotations

from typing import Protocol

from vcoproc_toolstack.records import CoprocAccount, CoprocView, RouterView
from vcoproc_toolstack.steps import Step


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
