"""What the firmware must compute, by scipy, numpy and hashlib.

The formats are those of the header comments in firmware/{fir,sobel,sha256}/*.c; nothing here is
taken from what the firmware gave.
"""

from __future__ import annotations

import hashlib
import math
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from vcoproc.errors import InvalidArgument
from vcoproc_demo.workload import TAPS

CUTOFF_HZ: Final = 1000
"""Of the low-pass: speech stays recognisable, and anybody hears that it is muffled."""
Q15_ONE: Final = 1 << 15
Q15_HALF: Final = 1 << 14
_PGM_HEADER: Final = b"P5\n%d %d\n255\n"

Samples = npt.NDArray[np.int16]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Recording:
    """16-bit mono. rate_hz: samples a second."""

    samples: Samples
    rate_hz: int


def read_wav(path: Path) -> Recording:
    """Reads a 16-bit mono WAV file.

    Raises:
        InvalidArgument: it is something else.
    """
    with wave.open(str(path), "rb") as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            raise InvalidArgument("recording", f"{path} is not 16-bit mono")
        frames = file.readframes(file.getnframes())
        return Recording(np.frombuffer(frames, "<i2"), file.getframerate())


def read_pgm(path: Path) -> Pixels:
    """Reads an 8-bit binary PGM file without comments.

    Raises:
        InvalidArgument: it is something else.
    """
    data = path.read_bytes()
    fields = data.split(maxsplit=4)[:4]
    if len(fields) != 4 or fields[0] != b"P5" or fields[3] != b"255":
        raise InvalidArgument("picture", f"{path} is not an 8-bit binary PGM")
    width, height = int(fields[1]), int(fields[2])
    header = _PGM_HEADER % (width, height)
    if not data.startswith(header) or len(data) != len(header) + width * height:
        raise InvalidArgument("picture", f"{path} is damaged")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(height, width)


def low_pass(rate_hz: int) -> npt.NDArray[np.float64]:
    """The filter as designed, before it is rounded to 16 bits."""
    taps: npt.NDArray[np.float64] = signal.firwin(TAPS, CUTOFF_HZ, fs=rate_hz)
    return taps


def to_q15(taps: npt.NDArray[np.float64]) -> Samples:
    """Rounds taps to Q15 (value times 32768)."""
    return np.clip(np.rint(taps * Q15_ONE), -Q15_ONE, Q15_ONE - 1).astype("<i2")


def fir(samples: Samples, taps: Samples) -> Samples:
    """y[n] = sat16((sum of taps[k] x[n-k] + 0x4000) >> 15), silence before the first sample.

    Sums of int64 are exact: 256 products of 31 bits need 39.
    """
    sums: Any = signal.convolve(samples.astype(np.int64), taps.astype(np.int64), method="direct")
    rounded = (sums[: len(samples)] + Q15_HALF) >> 15
    output: Samples = np.clip(rounded, -Q15_ONE, Q15_ONE - 1).astype("<i2")
    return output


def snr_db(recording: Recording, output: bytes) -> float:
    """How close filtered samples are to the filter in floating point: signal to error, in dB.

    Infinite when there is no error at all.
    """
    taps = low_pass(recording.rate_hz)
    ideal = signal.lfilter(taps, 1.0, recording.samples.astype(np.float64))
    error = np.frombuffer(output, "<i2").astype(np.float64) - ideal
    error_power = float(np.mean(error**2))
    if error_power == 0:
        return math.inf
    return 10 * math.log10(float(np.mean(ideal**2)) / error_power)


def sobel(pixels: Pixels) -> Pixels:
    """|gx| + |gy|, clamped to 255; 0 in the outermost rows and columns."""
    wide = pixels.astype(np.int32)
    size = np.abs(ndimage.sobel(wide, axis=1)) + np.abs(ndimage.sobel(wide, axis=0))
    edges = np.zeros_like(pixels)
    edges[1:-1, 1:-1] = np.minimum(size, 255)[1:-1, 1:-1]
    return edges


def sha256(data: bytes) -> bytes:
    """The digest."""
    return hashlib.sha256(data).digest()


def first_difference(left: bytes, right: bytes) -> int | None:
    """Offset of the first byte that differs; the end of the shorter one counts. None: equal."""
    common = min(len(left), len(right))
    a = np.frombuffer(left, np.uint8, count=common)
    b = np.frombuffer(right, np.uint8, count=common)
    places = np.flatnonzero(a != b)
    if len(places):
        return int(places[0])
    return None if len(left) == len(right) else common
