"""The committed ELFs are what the sources build, wherever they are built, and load as promised."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

FIRMWARE_DIR: Final = Path(__file__).resolve().parents[1]
NAMES: Final = ("fir", "sobel", "sha256", "hello", "wild", "spin")
BASE_IPA: Final = 0x6000_0000
PAGE_BYTES: Final = 4096
EM_ARM: Final = 40
ET_EXEC: Final = 2
PT_LOAD: Final = 1


class Segment(NamedTuple):
    """A program header of ELF32, in file order (System V ABI, chapter 5)."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    flags: int
    align: int


def committed(name: str) -> bytes:
    return (FIRMWARE_DIR / name / f"{name}.elf").read_bytes()


def segments(elf: bytes) -> list[Segment]:
    offset, size_bytes, count = (
        struct.unpack_from("<I", elf, 28)[0],
        *struct.unpack_from("<HH", elf, 42),
    )
    return [Segment(*struct.unpack_from("<8I", elf, offset + i * size_bytes)) for i in range(count)]


def run_build(firmware_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("ziglang") is None:
        pytest.fail("the package ziglang is not installed: install the development extra")
    return subprocess.run(
        [sys.executable, str(firmware_dir / "build.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sources in another folder, without the ELFs."""
    copy = tmp_path_factory.mktemp("elsewhere") / "a folder with spaces"
    ignore = shutil.ignore_patterns("*.elf", "tests", "__pycache__")
    shutil.copytree(FIRMWARE_DIR, copy, ignore=ignore)
    return copy


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rebuild_gives_the_committed_bytes(tmp_path: Path) -> None:
    result = run_build(FIRMWARE_DIR, "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    differing = [
        name for name in NAMES if (tmp_path / f"{name}.elf").read_bytes() != committed(name)
    ]
    assert differing == [], "stale: run python firmware/build.py and commit the ELFs"
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rebuild_in_another_folder_gives_the_same_bytes(
    tmp_path: Path, copied_sources: Path
) -> None:
    result = run_build(copied_sources, "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert [n for n in NAMES if (tmp_path / f"{n}.elf").read_bytes() != committed(n)] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_check_names_a_stale_elf_and_leaves_it_alone(copied_sources: Path) -> None:
    for name in NAMES:
        shutil.copy(FIRMWARE_DIR / name / f"{name}.elf", copied_sources / name)
    assert run_build(copied_sources, "--check").returncode == 0
    stale = copied_sources / "hello" / "hello.elf"
    stale.write_bytes(b"old")
    result = run_build(copied_sources, "--check")
    assert result.returncode == 1
    assert result.stderr.count("is stale") == 1
    assert str(stale) in result.stderr
    assert stale.read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiler_error_is_reported_not_swallowed(tmp_path: Path, copied_sources: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(copied_sources, broken)
    (broken / "sobel" / "sobel.c").write_text("int main(void) { return nothing; }\n")
    result = run_build(broken, "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert "nothing" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NAMES)
def test_elf_is_one_page_aligned_segment_that_starts_with_the_vectors(name: str) -> None:
    elf = committed(name)
    assert elf[:6] == b"\x7fELF\x01\x01"  # 32 bits, little endian
    kind, machine, _version, entry = struct.unpack_from("<HHII", elf, 16)
    assert (kind, machine) == (ET_EXEC, EM_ARM)

    (segment,) = segments(elf)
    assert segment.type == PT_LOAD
    assert segment.vaddr == segment.paddr == BASE_IPA
    assert segment.filesz == segment.memsz
    assert segment.filesz % PAGE_BYTES == segment.offset % PAGE_BYTES == 0
    assert segment.align == PAGE_BYTES

    vectors = struct.unpack_from("<32I", elf, segment.offset)
    code_end = BASE_IPA + segment.filesz
    assert vectors[0] == 0x2000_1000  # initial SP: the stack is the first page of private memory
    assert vectors[1] == entry
    reserved = (7, 8, 9, 10, 13)  # Armv7-M Architecture Reference Manual, B1.5.2
    for number, address in enumerate(vectors[1:], start=1):
        if number in reserved:
            assert address == 0
        else:
            assert address & 1, "a vector without the Thumb bit is a fault on entry"
            assert BASE_IPA + 128 <= address < code_end


@pytest.mark.parametrize("name", NAMES)
def test_elf_carries_no_path_of_the_machine_that_built_it(name: str) -> None:
    elf = committed(name)
    (segment,) = segments(elf)
    tables = elf[segment.offset + segment.filesz :]
    assert b"Reset_Handler" in tables
    assert b"/" not in b" ".join(re.findall(rb"[ -~]{4,}", tables))
    for section in (b".debug", b".note", b".comment"):
        assert section not in tables
