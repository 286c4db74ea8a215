"""The picture of who held the coproc when.

matplotlib is imported where it is used: it takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vcoproc.limits import MS
from vcoproc_demo.turns import Turn, Window, contended, held_ns, middle, whole

ZOOM_NS: Final = 60 * MS
"""About a dozen slices of 5 ms: each turn can be seen, and its length read off."""
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00")
"""Of Okabe and Ito: people with any kind of colour vision can tell them apart."""
OTHER_COLOUR: Final = "#999999"
_LANE_HEIGHT = 0.72
_DPI = 130


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of the picture. vcoproc_id: whose turns it shows."""

    name: str
    vcoproc_id: int


def draw(path: Path, turns: Sequence[Turn], lanes: Sequence[Lane], *, title: str) -> None:
    """Draws the turns of all lanes into a PNG file: all of them, and some from near.

    Turns of other vcoprocs in the same time get a lane of their own.

    Args:
        path: of the file to write.
        turns: of the coproc, in any order.
        lanes: from top to bottom; at least one has a turn.
        title: what the picture shows.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ids = [lane.vcoproc_id for lane in lanes]
    span = whole(turns, ids)
    shown = [turn for turn in turns if turn.ended_ns > span.began_ns < span.ended_ns]
    shown = [turn for turn in shown if turn.began_ns < span.ended_ns]
    contest = contended(shown, ids)
    zoom = middle(shown, contest if contest.length_ns else span, ZOOM_NS)

    figure = Figure(
        figsize=(15, 7.6), dpi=_DPI, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    )
    figure.suptitle(title, fontsize=15, fontweight="bold")
    full, near = figure.subplots(2, 1)
    _lanes(full, shown, lanes, span, span.began_ns)
    full.set_title(f"all of it: {span.length_ns / MS:.0f} ms", loc="left", fontsize=12)
    full.axvspan(
        (zoom.began_ns - span.began_ns) / MS,
        (zoom.ended_ns - span.began_ns) / MS,
        facecolor="none",
        edgecolor="black",
        linewidth=1.4,
        zorder=3,
    )
    _note_lanes(full, shown, lanes, span, contest)
    _lanes(near, shown, lanes, zoom, span.began_ns)
    near.set_title(
        f"the {zoom.length_ns / MS:.0f} ms in the black frame: one bar is one turn, "
        "and its length in ms stands in it",
        loc="left",
        fontsize=12,
    )
    _note_turns(near, shown, lanes, zoom, span.began_ns)
    near.set_xlabel("time of the coprocessor's clock since the first turn, ms", fontsize=12)
    figure.savefig(path)


def _lane_index(lanes: Sequence[Lane]) -> dict[int, int]:
    return {lane.vcoproc_id: index for index, lane in enumerate(lanes)}


def _clip(turn: Turn, window: Window) -> tuple[int, int] | None:
    began_ns = max(turn.began_ns, window.began_ns)
    ended_ns = min(turn.ended_ns, window.ended_ns)
    return (began_ns, ended_ns) if ended_ns > began_ns else None


def _lanes(
    axes: Any, turns: Sequence[Turn], lanes: Sequence[Lane], window: Window, zero_ns: int
) -> None:
    """The bars of one panel and its axes."""
    index = _lane_index(lanes)
    names = [lane.name for lane in lanes]
    bars: list[list[tuple[float, float]]] = [[] for _ in lanes]
    others: list[tuple[float, float]] = []
    for turn in turns:
        if clipped := _clip(turn, window):
            began_ns, ended_ns = clipped
            bar = ((began_ns - zero_ns) / MS, (ended_ns - began_ns) / MS)
            lane = index.get(turn.vcoproc_id)
            (others if lane is None else bars[lane]).append(bar)
    colours = list(COLOURS[: len(lanes)])
    if others:
        bars.append(others)
        names.append("others")
        colours.append(OTHER_COLOUR)
    for row, (lane_bars, colour) in enumerate(zip(bars, colours, strict=True)):
        axes.broken_barh(
            lane_bars, (row - _LANE_HEIGHT / 2, _LANE_HEIGHT), facecolors=colour, linewidth=0
        )
    axes.set_yticks(range(len(names)), names, fontsize=13)
    axes.set_ylim(len(names) - 0.5, -0.5)
    ended_ns = max(window.ended_ns, window.began_ns + 1 * MS)  # an empty axis is an error
    axes.set_xlim((window.began_ns - zero_ns) / MS, (ended_ns - zero_ns) / MS)
    axes.tick_params(axis="x", labelsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _note_lanes(
    axes: Any, turns: Sequence[Turn], lanes: Sequence[Lane], span: Window, contest: Window
) -> None:
    """Turns and share of each lane, at its right end."""
    for row, lane in enumerate(lanes):
        count = sum(1 for turn in turns if turn.vcoproc_id == lane.vcoproc_id)
        words = f"{count} turns"
        if contest.length_ns:
            share = 100 * held_ns(turns, lane.vcoproc_id, contest) / contest.length_ns
            words += f"\n{share:.1f} % while\nall had work"
        axes.annotate(
            words,
            (1.008, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=11,
            annotation_clip=False,
        )
    if contest.length_ns and contest.ended_ns < span.ended_ns:
        end_ms = (contest.ended_ns - span.began_ns) / MS
        axes.axvline(end_ms, color="black", linestyle=":")
        axes.annotate(
            "the first one is done ",
            (end_ms, 1.02),
            xycoords=("data", "axes fraction"),
            ha="right",
            fontsize=11,
        )


def _note_turns(
    axes: Any, turns: Sequence[Turn], lanes: Sequence[Lane], zoom: Window, zero_ns: int
) -> None:
    """The length of each turn in its bar, where there is room."""
    index = _lane_index(lanes)
    for turn in turns:
        clipped = _clip(turn, zoom)
        lane = index.get(turn.vcoproc_id)
        if clipped != (turn.began_ns, turn.ended_ns) or lane is None:
            continue
        length_ns = turn.ended_ns - turn.began_ns
        if length_ns * 30 < zoom.length_ns:
            continue
        axes.text(
            ((turn.began_ns + turn.ended_ns) / 2 - zero_ns) / MS,
            lane,
            f"{length_ns / MS:.1f}",
            ha="center",
            va="center",
            fontsize=10,
            color="white",
            fontweight="bold",
        )
