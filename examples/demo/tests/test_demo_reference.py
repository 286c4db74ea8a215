"""The reference is checked against the formulas of the firmware's header comments, written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from vcoproc.errors import InvalidArgument
from vcoproc_demo import assets, reference

HERE = Path(__file__).resolve()
DATA = HERE.parents[1] / "data"


def _fir_by_hand(samples: list[int], taps: list[int]) -> list[int]:
    output = []
    for n in range(len(samples)):
        total = sum(taps[k] * samples[n - k] for k in range(len(taps)) if n - k >= 0)
        output.append(max(-32768, min(32767, (total + 0x4000) >> 15)))
    return output


@pytest.mark.parametrize(
    ("low", "high"), [(-32768, 32768), (-300, 300)], ids=["saturates", "quiet"]
)
def test_fir_equals_the_formula(low: int, high: int) -> None:
    random = np.random.default_rng(1)
    samples = random.integers(low, high, 400, dtype=np.int16)
    taps = random.integers(-32768, 32768, 256, dtype=np.int16)
    expected = _fir_by_hand([int(x) for x in samples], [int(h) for h in taps])
    if high == 32768:
        assert 32767 in expected and -32768 in expected
    assert reference.fir(samples, taps).tolist() == expected


def test_fir_rounds_half_up() -> None:
    taps = np.zeros(256, np.int16)
    taps[0] = 0x4000  # one half
    samples = np.array([1, -1, 3, -3, 2], np.int16)
    assert reference.fir(samples, taps).tolist() == [1, 0, 2, -1, 1]


def _sobel_by_hand(rows: list[list[int]]) -> list[list[int]]:
    height, width = len(rows), len(rows[0])
    output = [[0] * width for _ in range(height)]
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            p = [[rows[y + j][x + i] for i in (-1, 0, 1)] for j in (-1, 0, 1)]
            gx = p[0][2] + 2 * p[1][2] + p[2][2] - p[0][0] - 2 * p[1][0] - p[2][0]
            gy = p[2][0] + 2 * p[2][1] + p[2][2] - p[0][0] - 2 * p[0][1] - p[0][2]
            output[y][x] = min(255, abs(gx) + abs(gy))
    return output


def test_sobel_equals_the_formula() -> None:
    random = np.random.default_rng(2)
    noise = random.integers(0, 256, (13, 17), dtype=np.uint8)
    smooth = (noise // 16 + 100).astype(np.uint8)
    for pixels in (noise, smooth):
        rows = [[int(pixel) for pixel in row] for row in pixels]
        assert reference.sobel(pixels).tolist() == _sobel_by_hand(rows)
    assert reference.sobel(noise).max() == 255  # the clamp was met


def test_sha256_of_abc() -> None:
    # FIPS 180-4's example "abc".
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert reference.sha256(b"abc").hex() == expected


def test_low_pass_passes_low_and_stops_high() -> None:
    taps = reference.to_q15(reference.low_pass(16_000)).astype(np.float64) / 32768
    n = np.arange(256)

    def gain_db(hz: int) -> float:
        return 20 * math.log10(abs(np.sum(taps * np.exp(-2j * np.pi * hz / 16_000 * n))))

    assert abs(gain_db(0)) < 0.05 and abs(gain_db(700)) < 0.1
    assert gain_db(1400) < -50 and gain_db(4000) < -50


def test_snr_knows_a_good_output_from_a_bad_one() -> None:
    recording = reference.read_wav(DATA / "speech.wav")
    cut = reference.Recording(recording.samples[40_000:60_000], recording.rate_hz)
    taps = reference.to_q15(reference.low_pass(cut.rate_hz))
    output = reference.fir(cut.samples, taps)
    assert reference.snr_db(cut, output.tobytes()) > 50
    assert reference.snr_db(cut, cut.samples.tobytes()) < 20  # not filtered at all
    assert reference.snr_db(cut, bytes(2 * len(cut.samples))) == pytest.approx(0)


def test_the_input_is_what_its_readme_says() -> None:
    recording = reference.read_wav(DATA / "speech.wav")
    assert (recording.rate_hz, len(recording.samples)) == (16_000, 246_240)
    assert reference.read_pgm(DATA / "camera.pgm").shape == (512, 512)


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    good = (DATA / "camera.pgm").read_bytes()
    for bad in (b"", b"P5", b"P6" + good[2:], good[:-1], good + b"x", b"P5\n# c\n" + good[3:]):
        path = tmp_path / "bad.pgm"
        path.write_bytes(bad)
        with pytest.raises(InvalidArgument):
            reference.read_pgm(path)


@pytest.mark.parametrize(
    ("left", "right", "place"),
    [
        (b"", b"", None),
        (b"abc", b"abc", None),
        (b"abc", b"abd", 2),
        (b"xbc", b"abd", 0),
        (b"abc", b"ab", 2),
        (b"", b"ab", 0),
    ],
)
def test_first_difference(left: bytes, right: bytes, place: int | None) -> None:
    assert reference.first_difference(left, right) == place


def test_all_files_of_the_demo_are_found() -> None:
    found = assets.find(None)
    assert found.stream.stat().st_size > 8 * 1024 * 1024
    assert found.tree.name == "demo.dts"
