"""Build every firmware of this folder, or check that the committed ELFs are what it builds.

    python firmware/build.py            rebuild firmware/NAME/NAME.elf in place
    python firmware/build.py --out DIR  write DIR/NAME.elf instead
    python firmware/build.py --check    change nothing; fail if a committed ELF is stale

The compiler is the one in the Python package ziglang, a development dependency. The output depends
on the sources and on the version of that package alone: the compiler sees relative paths only, and
the image carries neither debug information nor a build id.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

FIRMWARE_DIR: Final = Path(__file__).resolve().parent

STARTUP: Final = ("common/startup.c", "common/memory.c")
RING: Final = (*STARTUP, "common/ring_loop.c")
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "fir": (*RING, "fir/fir.c"),
    "sobel": (*RING, "sobel/sobel.c"),
    "sha256": (*RING, "sha256/sha256.c"),
    "hello": (*STARTUP, "hello/hello.c"),
    "wild": (*STARTUP, "wild/wild.c"),
    "spin": (*STARTUP, "spin/spin.c"),
}
"""Every firmware, with its sources relative to this folder."""

FLAGS: Final = (
    "-target",
    "thumb-freestanding-eabi",
    "-mcpu=cortex_m4",
    "-std=c11",
    "-O2",
    "-g0",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-builtin",  # common/memory.c defines what the compiler would call
    "-fno-sanitize=all",  # the compiler driver adds UBSan by default, whose runtime we have not
    "-fno-stack-protector",
    "-fomit-frame-pointer",
    "-fno-unroll-loops",  # unrolled sums spill: fourteen registers are soon gone
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-nostdlib",
    "-Iinclude",
    "-Wl,-T,link.ld",
    "-Wl,-e,Reset_Handler",  # the driver's own -e _start would win over ENTRY in the script
    "-Wl,-z,max-page-size=4096",
    "-Wl,--build-id=none",
)


class BuildError(Exception):
    """The compiler is missing or refused the sources."""


def build(name: str, elf: Path, cache_dir: Path, firmware_dir: Path = FIRMWARE_DIR) -> None:
    """Compile and link one firmware.

    Args:
        name: a key of SOURCES.
        elf: where to write it.
        cache_dir: scratch folder for the compiler.
        firmware_dir: where the sources are.

    Raises:
        BuildError: if the compiler is not installed or reports an error.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError("the package ziglang is not installed: it is in the development extra")
    cache = str(cache_dir)
    result = subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(elf.resolve()), *SOURCES[name]],
        cwd=firmware_dir,  # so that every path the compiler sees is relative
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(f"{name}: the compiler failed\n{result.stderr}")
    elf.chmod(0o644)  # the linker marks it executable, for the machine it will never run on


def committed_elf(name: str) -> Path:
    """Where the ELF of a firmware is committed."""
    return FIRMWARE_DIR / name / f"{name}.elf"


def stale(built_dir: Path) -> list[str]:
    """Names of the firmwares whose committed ELF differs from the one in `built_dir`."""
    return [
        name
        for name in SOURCES
        if not committed_elf(name).is_file()
        or committed_elf(name).read_bytes() != (built_dir / f"{name}.elf").read_bytes()
    ]


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the firmware.")
    parser.add_argument("--check", action="store_true", help="compare with the committed ELFs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/NAME.elf")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vcoproc-firmware-") as scratch:
        scratch_dir = Path(scratch)
        try:
            for name in SOURCES:
                build(name, scratch_dir / f"{name}.elf", scratch_dir / "cache")
        except BuildError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
        for name in SOURCES:
            image = (scratch_dir / f"{name}.elf").read_bytes()
            if arguments.out is not None:
                (arguments.out / f"{name}.elf").write_bytes(image)
            elif not arguments.check:
                committed_elf(name).write_bytes(image)
        differing = stale(scratch_dir) if arguments.check else []
    for name in differing:
        sys.stderr.write(f"error: {committed_elf(name)} is stale: run python firmware/build.py\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
