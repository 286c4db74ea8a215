"""Who held the coproc when: what can be computed of a list of turns. Pure.

All times are of the coproc's clock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One stay of a vcoproc on the coproc.

    switch_ns: time of the switch that ended it; 0 when the vcoproc stayed for another slice.
    """

    vcoproc_id: int
    began_ns: int
    ended_ns: int
    switch_ns: int


@dataclass(frozen=True, slots=True)
class Window:
    """From `began_ns` to `ended_ns`."""

    began_ns: int
    ended_ns: int

    @property
    def length_ns(self) -> int:
        return self.ended_ns - self.began_ns


def whole(turns: Sequence[Turn], vcoproc_ids: Collection[int]) -> Window:
    """From the first turn of any of these vcoprocs to the last. Empty at 0 without turns."""
    ours = [turn for turn in turns if turn.vcoproc_id in vcoproc_ids]
    if not ours:
        return Window(0, 0)
    return Window(min(turn.began_ns for turn in ours), max(turn.ended_ns for turn in ours))


def contended(turns: Sequence[Turn], vcoproc_ids: Collection[int]) -> Window:
    """The time in which all of these vcoprocs had work: the last one had begun, none had ended.

    Empty when there was no such time.
    """
    spans = [whole(turns, (one,)) for one in vcoproc_ids]
    began_ns = max((span.began_ns for span in spans), default=0)
    ended_ns = min((span.ended_ns for span in spans), default=0)
    return Window(began_ns, max(began_ns, ended_ns))


def held_ns(turns: Sequence[Turn], vcoproc_id: int, window: Window) -> int:
    """How long a vcoproc held the coproc within the window."""
    return sum(
        max(0, min(turn.ended_ns, window.ended_ns) - max(turn.began_ns, window.began_ns))
        for turn in turns
        if turn.vcoproc_id == vcoproc_id
    )


def switches_ns(turns: Sequence[Turn], vcoproc_id: int) -> list[int]:
    """How long each switch away from a vcoproc took."""
    return [
        turn.switch_ns for turn in turns if turn.vcoproc_id == vcoproc_id and turn.switch_ns > 0
    ]


def middle(turns: Sequence[Turn], window: Window, length_ns: int) -> Window:
    """The middle `length_ns` of a window, or all of it when it is shorter; begins with a turn."""
    if window.length_ns <= length_ns:
        return window
    half_ns = window.began_ns + (window.length_ns - length_ns) // 2
    began_ns = min((turn.began_ns for turn in turns if turn.began_ns >= half_ns), default=half_ns)
    began_ns = min(began_ns, window.ended_ns - length_ns)
    return Window(began_ns, began_ns + length_ns)
