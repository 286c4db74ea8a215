"""What the irq-router may not have taken: edges, which nothing else would bring back.

Theory of operation:
    Levels are said again after each welcome. An edge that could not be said, or that the router has
    not acknowledged, is kept here and said then; one of a paused vcoproc waits with it, so that it
    can go along to another coproc: nobody else will say it. A fence tells when everything that was
    said before it has been taken.
Invariants:
    An edge of a paused vcoproc is either taken by the router or here, once a fence has come back or
    the session is lost.
Not handled:
    An edge that the router had taken and not acknowledged when the session was lost comes twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from vcoproc.wire.messages import Fence, LineEdge, Message
from vcoproc_sim.vcoprocs import Vcoproc

_NUMBER_MAX: Final = 0xFFFF_FFFF


class RouterSide:
    """See the module.

    Args:
        vcoprocs: the executor's, by id.
    """

    def __init__(self, vcoprocs: Mapping[int, Vcoproc]) -> None:
        self._vcoprocs = vcoprocs
        self._unsaid: dict[tuple[int, int], LineEdge] = {}
        self._fences: dict[int, Callable[[], None]] = {}
        self._fence_number = 0

    # --- edges ------------------------------------------------------------------------------------

    def keep(self, edge: LineEdge) -> None:
        """It could not be said. A second one merges with it, as it would in the router."""
        self._unsaid.setdefault((edge.vcoproc, edge.line), edge)

    def linked(self, unacked: Iterable[Message]) -> list[LineEdge]:
        """There is a session again: what is to be said now.

        Args:
            unacked: what was said in the one before and may not have been taken, oldest first.
        """
        edges = [message for message in unacked if isinstance(message, LineEdge)]
        edges += self._unsaid.values()
        self._unsaid.clear()
        said = []
        for edge in edges:
            vcoproc = self._vcoprocs.get(edge.vcoproc)
            if vcoproc is not None and vcoproc.stands_still:
                self.keep(edge)
            elif vcoproc is not None:
                said.append(edge)
        return said

    def unsaid_of(self, vcoproc_id: int, unacked: Iterable[Message]) -> list[int]:
        """Lines of a paused vcoproc whose edge the router may not have taken."""
        lines = [message.line for message in unacked
                 if isinstance(message, LineEdge) and message.vcoproc == vcoproc_id]  # fmt: skip
        lines += [line for owner, line in self._unsaid if owner == vcoproc_id]
        return sorted(set(lines))

    def restored(self, vcoproc_id: int, lines: Sequence[int], epoch: int) -> None:
        """It has been replaced by what was written down, with these edges not said."""
        self.forget(vcoproc_id)
        for line in lines:
            self.keep(LineEdge(vcoproc_id, line, epoch, 0))  # when it rose is another clock's

    def resumed(self, vcoproc_id: int) -> list[LineEdge]:
        """What has waited with it, and is to be said now."""
        waited = [place for place in self._unsaid if place[0] == vcoproc_id]
        return [self._unsaid.pop(place) for place in waited]

    def forget(self, vcoproc_id: int) -> None:
        """It is gone, and what it had to say with it."""
        self.resumed(vcoproc_id)

    # --- fences -----------------------------------------------------------------------------------

    def fence(self, passed: Callable[[], None]) -> Fence:
        """What to say now. passed: called when it has come back, or will not any more."""
        self._fence_number = self._fence_number % _NUMBER_MAX + 1
        self._fences[self._fence_number] = passed
        return Fence(self._fence_number)

    def fenced(self, number: int) -> None:
        """The router has said a fence back; another one than ours means nothing."""
        passed = self._fences.pop(number, None)
        if passed is not None:
            passed()

    def unlinked(self) -> None:
        """The session is lost: nothing is under way any more."""
        fences, self._fences = self._fences, {}
        for passed in fences.values():
            passed()
