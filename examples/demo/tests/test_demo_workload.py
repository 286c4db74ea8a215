"""Pieces put together must give what the whole gives."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from vcoproc_demo import reference
from vcoproc_demo.drivers import SLOT_BYTES, SLOT_OUTPUT
from vcoproc_demo.workload import Job, Op, Piece, fir_pieces, sha256_pieces, sobel_pieces

RANDOM = np.random.default_rng(3)


def _run(pieces: list[Piece], taps: reference.Samples | None = None) -> bytes:
    """What a right firmware writes for the pieces, with only the kept bytes put together."""
    output = bytearray()
    stream = hashlib.sha256()
    for piece in pieces:
        assert len(piece.source) <= SLOT_OUTPUT
        assert piece.output_bytes <= SLOT_BYTES - SLOT_OUTPUT
        assert piece.lead_bytes + piece.length == len(piece.source)
        written = b""
        if piece.op is Op.FIR:
            assert taps is not None and piece.needs_taps
            samples = np.frombuffer(piece.source, "<i2")
            written = reference.fir(samples, taps).tobytes()[piece.lead_bytes :]
        elif piece.op is Op.SOBEL:
            pixels = np.frombuffer(piece.source, np.uint8).reshape(piece.arg1, piece.arg0)
            written = reference.sobel(pixels).tobytes()
        elif piece.op is Op.SHA256_BEGIN:
            stream = hashlib.sha256()
        elif piece.op is Op.SHA256_UPDATE:
            stream.update(piece.source)
        else:
            written = stream.digest()
        assert len(written) == piece.output_bytes
        first, last = piece.keep
        output += written[first:last]
    return bytes(output)


@pytest.mark.parametrize("count", [1, 2047, 2048, 2049, 5000])
def test_fir_pieces_carry_the_history(count: int) -> None:
    samples = RANDOM.integers(-32768, 32768, count, dtype=np.int16)
    taps = RANDOM.integers(-2000, 2000, 256, dtype=np.int16)
    pieces = list(fir_pieces(samples.tobytes()))
    assert _run(pieces, taps) == reference.fir(samples, taps).tobytes()
    assert len(pieces) == -(-count // 2048)


@pytest.mark.parametrize("height", [3, 63, 64, 65, 128, 200])
def test_sobel_strips_have_no_seams(height: int) -> None:
    pixels = RANDOM.integers(0, 256, (height, 96), dtype=np.uint8)
    pieces = list(sobel_pieces(pixels.tobytes(), 96, 2))
    assert _run(pieces) == reference.sobel(pixels).tobytes() * 2


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 50_000])
def test_sha256_pieces_are_one_stream(size: int) -> None:
    data = RANDOM.bytes(size)
    pieces = list(sha256_pieces(data))
    assert pieces[0].op is Op.SHA256_BEGIN and pieces[-1].op is Op.SHA256_FINAL
    assert _run(pieces) == hashlib.sha256(data).digest()


def test_a_job_cuts_by_its_kind() -> None:
    def first(kind: str) -> Op:
        job = Job(kind, "d", "f", "i", "o", "r", width=8)
        return next(job.pieces(bytes(64))).op

    assert [first(kind) for kind in ("fir", "sobel", "sha256")] == [1, 2, 3]
