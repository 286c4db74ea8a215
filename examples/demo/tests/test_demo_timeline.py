from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from vcoproc_demo.timeline import COLOURS, OTHER_COLOUR, Lane, draw
from vcoproc_demo.turns import Turn

pytestmark = pytest.mark.slow  # matplotlib

MS = 1_000_000
LANES = [Lane("fir", 4), Lane("sobel", 5), Lane("sha256", 6)]


def _turns(ids: tuple[int, ...], count: int) -> list[Turn]:
    return [
        Turn(ids[n % len(ids)], 9_000 * MS + n * 5 * MS, 9_000 * MS + n * 5 * MS + 4 * MS, 30_000)
        for n in range(count)
    ]


def _coloured(path: Path, colour: str) -> int:
    """Pixels of exactly that colour."""
    with Image.open(path) as picture:
        assert picture.size == (1950, 988)
        pixels = np.asarray(picture.convert("RGB"))
    return int(np.sum(np.all(pixels == ImageColor.getrgb(colour), axis=2)))


def test_each_lane_is_seen_in_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    draw(path, _turns((4, 5, 6), 300), LANES, title="who held dsp0")
    areas = [_coloured(path, colour) for colour in COLOURS[:3]]
    assert min(areas) > 5000
    assert max(areas) < 1.4 * min(areas)  # equal turns take equal space
    assert _coloured(path, OTHER_COLOUR) < 1000  # of the edges of letters


def test_others_on_the_coproc_get_a_lane(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    draw(path, _turns((4, 5, 6, 99), 300), LANES, title="who held dsp0")
    assert _coloured(path, OTHER_COLOUR) > 5000


@pytest.mark.parametrize("turns", [_turns((4,), 1), _turns((4, 5), 3), []])
def test_few_turns_can_be_drawn(tmp_path: Path, turns: list[Turn]) -> None:
    draw(tmp_path / "timeline.png", turns, LANES, title="who held dsp0")
    assert (tmp_path / "timeline.png").stat().st_size > 1000
