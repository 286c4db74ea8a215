"""Where the demo's files are: in an installed package, or in a checkout of the repository."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vcoproc.errors import NotFound

NAMES: Final = ("fir", "sobel", "sha256")
"""The three domains; their firmware has the same names."""


@dataclass(frozen=True, slots=True)
class Assets:
    """Files that the demo reads.

    Attributes:
        tree: the system's device tree.
        domains: the domain file of each name.
        firmware: the ELF of each name.
        recording, picture: the input.
        stream: what is hashed, or the beginning of it.
    """

    tree: Path
    domains: dict[str, Path]
    firmware: dict[str, Path]
    recording: Path
    picture: Path
    stream: Path


def find(firmware: Path | None) -> Assets:
    """Finds all files.

    Args:
        firmware: folder with NAME/NAME.elf; default the built ones of this release.

    Raises:
        NotFound: one is missing.
    """
    package = Path(__file__).parent
    if (package / "assets").is_dir():  # a wheel carries them, see pyproject.toml
        base = package / "assets"
        examples, data, built = base, base, base / "firmware"
    else:
        root = package.parents[3]
        examples, data, built = root / "examples", root / "examples/demo/data", root / "firmware"
    elves = firmware or built
    assets = Assets(
        tree=examples / "demo.dts",
        domains={name: examples / f"{name}.cfg" for name in NAMES},
        firmware={name: elves / name / f"{name}.elf" for name in NAMES},
        recording=data / "speech.wav",
        picture=data / "camera.pgm",
        stream=_stream(),
    )
    for path in (
        assets.tree,
        *assets.domains.values(),
        *assets.firmware.values(),
        assets.recording,
        assets.picture,
    ):
        if not path.is_file():
            raise NotFound("file", str(path))
    return assets


def _stream() -> Path:
    """A file of many megabytes that every installation has: the engine's library.

    Where the engine is in another container, numpy's linear algebra.
    """
    for package, places in (("unicorn", "unicorn/lib/*.so*"), ("numpy", "numpy.libs/*.so*")):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        found = Path(spec.origin).parents[1].glob(places)
        if largest := max(found, key=lambda path: path.stat().st_size, default=None):
            return largest
    raise NotFound("file", "a shared library of unicorn or numpy")
