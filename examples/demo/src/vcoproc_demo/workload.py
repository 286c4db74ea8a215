"""What each domain gives to its firmware: an input cut into work items.

No import beyond the standard library and the guest SDK's item: driver processes start quickly.
The items' formats are those of the header comments in firmware/{fir,sobel,sha256}/*.c.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

TAPS: Final = 256
"""Taps of the fir firmware, 16 bits each."""
HISTORY_BYTES: Final = 2 * (TAPS - 1)
"""Samples before the first one that a filter of 256 taps still needs."""
DIGEST_BYTES: Final = 32

FIR_PIECE_BYTES: Final = 2 * 2048
"""Of output: 2048 samples, 128 ms at 16 kHz. About 0.7 million instructions, as each of the other
two pieces: near one slice of 5 ms, so that most pieces meet a context switch."""
SOBEL_PIECE_ROWS: Final = 64
SHA256_PIECE_BYTES: Final = 16 * 1024


class Op(enum.IntEnum):
    """Operations of the work ring (firmware/include/work_ring.h)."""

    FIR = 1
    SOBEL = 2
    SHA256_BEGIN = 3
    SHA256_UPDATE = 4
    SHA256_FINAL = 5


@dataclass(frozen=True, slots=True)
class Piece:
    """One work item with the bytes that go with it.

    Attributes:
        op: what the firmware is to do.
        source: bytes that are put into the domain's memory.
        lead_bytes: how many of them lie before the address that the item names.
        length: the item's `len`.
        output_bytes: what the firmware writes.
        keep: first and last-plus-one byte of that which belong to the result.
        arg0, arg1: the item's; `needs_taps` says that arg0 is the address of the taps.
    """

    op: Op
    source: bytes = b""
    lead_bytes: int = 0
    length: int = 0
    output_bytes: int = 0
    keep: tuple[int, int] = (0, 0)
    arg0: int = 0
    arg1: int = 0
    needs_taps: bool = False


def fir_pieces(samples: bytes) -> Iterator[Piece]:
    """The pieces of a recording of 16-bit samples; silence came before it."""
    padded = bytes(HISTORY_BYTES) + samples
    for start in range(0, len(samples), FIR_PIECE_BYTES):
        size = min(FIR_PIECE_BYTES, len(samples) - start)
        yield Piece(
            Op.FIR,
            source=padded[start : start + HISTORY_BYTES + size],
            lead_bytes=HISTORY_BYTES,
            length=size,
            output_bytes=size,
            keep=(0, size),
            needs_taps=True,
        )


def sobel_pieces(pixels: bytes, width: int, passes: int) -> Iterator[Piece]:
    """Strips of a picture of `width` pixels a row, several times over.

    A strip has a row more above and below where the picture goes on. The firmware makes the
    outermost rows of what it gets 0, as their neighbours are missing; of a strip these extra rows
    are dropped, and of the picture they stay.
    """
    height = len(pixels) // width
    for _ in range(passes):
        for top in range(0, height, SOBEL_PIECE_ROWS):
            bottom = min(top + SOBEL_PIECE_ROWS, height)
            first, last = max(top - 1, 0), min(bottom + 1, height)
            source = pixels[first * width : last * width]
            yield Piece(
                Op.SOBEL,
                source=source,
                length=len(source),
                output_bytes=len(source),
                keep=((top - first) * width, (bottom - first) * width),
                arg0=width,
                arg1=last - first,
            )


def sha256_pieces(data: bytes) -> Iterator[Piece]:
    """A stream: begin, the bytes, the digest."""
    yield Piece(Op.SHA256_BEGIN)
    for start in range(0, len(data), SHA256_PIECE_BYTES):
        part = data[start : start + SHA256_PIECE_BYTES]
        yield Piece(Op.SHA256_UPDATE, source=part, length=len(part))
    yield Piece(Op.SHA256_FINAL, output_bytes=DIGEST_BYTES, keep=(0, DIGEST_BYTES))


@dataclass(frozen=True, slots=True)
class Job:
    """What a driver process is told. Paths are of this machine.

    Attributes:
        kind: "fir", "sobel" or "sha256".
        domain: the name of its domain.
        firmware, input, output: files. taps: a file too, or empty.
        run_dir: of the cluster.
        width: of the picture, in pixels; else 0.
        passes: how often the input is worked through.
    """

    kind: str
    domain: str
    firmware: str
    input: str
    output: str
    run_dir: str
    taps: str = ""
    width: int = 0
    passes: int = 1

    def pieces(self, data: bytes) -> Iterator[Piece]:
        """The items of this job for the bytes of its input."""
        match self.kind:
            case "fir":
                return fir_pieces(data)
            case "sobel":
                return sobel_pieces(data, self.width, self.passes)
            case "sha256":
                return sha256_pieces(data)
            case _:
                raise AssertionError(self.kind)
