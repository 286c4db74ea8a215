"""The demo's input, made ready for the drivers, and what must come out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vcoproc.limits import MIB
from vcoproc_demo import reference
from vcoproc_demo.assets import Assets
from vcoproc_demo.reference import Pixels, Recording
from vcoproc_demo.workload import Job

SOBEL_PASSES: Final = 15
"""The photograph alone is 6 million instructions, where the recording is 82 and the stream 95."""
STREAM_BYTES: Final = 2 * MIB


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything about the three jobs that does not depend on the cluster.

    Attributes:
        folder: holds NAME.in for each job and taps.in.
        stream_name: of the file that is hashed.
        recording, picture, stream: the input.
        expected: what each output must be; by whom: `references`.
    """

    folder: Path
    stream_name: str
    recording: Recording
    picture: Pixels
    stream: bytes
    expected: dict[str, bytes]
    references: dict[str, str]

    def job(self, name: str, firmware: Path, run_dir: Path, output: Path) -> Job:
        """The job of one driver."""
        return Job(
            kind=name,
            domain=name,
            firmware=str(firmware),
            input=str(self.folder / f"{name}.in"),
            output=str(output),
            run_dir=str(run_dir),
            taps=str(self.folder / "taps.in") if name == "fir" else "",
            width=self.picture.shape[1] if name == "sobel" else 0,
            passes=SOBEL_PASSES if name == "sobel" else 1,
        )

    def works(self) -> dict[str, str]:
        """What each domain does, for people."""
        height, width = self.picture.shape
        seconds = len(self.recording.samples) / self.recording.rate_hz
        return {
            "fir": f"{seconds:.1f} s of speech through a low-pass of 256 taps at "
            f"{reference.CUTOFF_HZ} Hz",
            "sobel": f"edges of a photograph of {width} x {height}, {SOBEL_PASSES} times over so "
            "that it has as much to do as the others",
            "sha256": f"hash of the first {len(self.stream) / MIB:g} MiB of {self.stream_name}",
        }

    def snr_db(self, output: bytes) -> float:
        """Of the filtered recording, against the same filter in floating point."""
        return reference.snr_db(self.recording, output)


def prepare(assets: Assets, folder: Path) -> Inputs:
    """Reads the input, writes raw files for the drivers and computes what must come out."""
    recording = reference.read_wav(assets.recording)
    picture = reference.read_pgm(assets.picture)
    with assets.stream.open("rb") as file:
        stream = file.read(STREAM_BYTES)
    taps = reference.to_q15(reference.low_pass(recording.rate_hz))
    for name, data in (
        ("fir", recording.samples.tobytes()),
        ("taps", taps.tobytes()),
        ("sobel", picture.tobytes()),
        ("sha256", stream),
    ):
        (folder / f"{name}.in").write_bytes(data)
    return Inputs(
        folder=folder,
        stream_name=assets.stream.name,
        recording=recording,
        picture=picture,
        stream=stream,
        expected={
            "fir": reference.fir(recording.samples, taps).tobytes(),
            "sobel": reference.sobel(picture).tobytes() * SOBEL_PASSES,
            "sha256": reference.sha256(stream),
        },
        references={"fir": "scipy", "sobel": "scipy", "sha256": "hashlib"},
    )
