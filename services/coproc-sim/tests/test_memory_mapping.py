"""Mapping the files that back domain memory: only what the toolstack made, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vcoproc.errors import InvalidArgument
from vcoproc.limits import PAGE_BYTES
from vcoproc_sim.memory import map_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "memory"
    made.mkdir()
    (made / "dom1").write_bytes(bytes(range(256)) * 16 * 3)  # three pages
    return made


def test_a_mapping_is_shared_with_the_file(folder: Path) -> None:
    mapping = map_file(folder, str(folder / "dom1"), PAGE_BYTES, PAGE_BYTES)
    assert mapping.view.nbytes == PAGE_BYTES
    assert bytes(mapping.view[:4]) == bytes([0, 1, 2, 3])
    mapping.view[0:2] = b"\xee\xff"
    assert (folder / "dom1").read_bytes()[PAGE_BYTES : PAGE_BYTES + 3] == b"\xee\xff\x02"
    with (folder / "dom1").open("r+b") as file:
        file.seek(PAGE_BYTES + 2)
        file.write(b"\x77")
    assert mapping.view[2] == 0x77
    mapping.close()


def test_the_last_page_can_be_mapped_and_not_one_more(folder: Path) -> None:
    path = str(folder / "dom1")
    map_file(folder, path, 2 * PAGE_BYTES, PAGE_BYTES).close()
    for offset_bytes, size_bytes in ((2, 2), (3, 1), (0, 4), (1 << 40, 1)):
        with pytest.raises(InvalidArgument, match="shorter"):
            map_file(folder, path, offset_bytes * PAGE_BYTES, size_bytes * PAGE_BYTES)


@pytest.mark.parametrize(
    ("offset_bytes", "size_bytes"), [(1, 4096), (0, 4095), (0, 0), (0, -4096), (-4096, 4096)]
)
def test_only_whole_pages(folder: Path, offset_bytes: int, size_bytes: int) -> None:
    with pytest.raises(InvalidArgument, match="whole pages"):
        map_file(folder, str(folder / "dom1"), offset_bytes, size_bytes)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "", ".", "sub/dom2", "..", "dom1\0", "missing/../../secret"],
)
def test_only_files_of_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(bytes(PAGE_BYTES))
    (folder / "sub").mkdir()
    (folder / "sub" / "dom2").write_bytes(bytes(PAGE_BYTES))
    with pytest.raises(InvalidArgument):
        map_file(folder, os.path.join(folder, name), 0, PAGE_BYTES)  # noqa: PTH118  # keeps ".."


def test_no_link_leads_out_of_the_folder(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(bytes(PAGE_BYTES))
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "inside").symlink_to(folder / "dom1")
    for name in ("link", "inside"):
        with pytest.raises(InvalidArgument):
            map_file(folder, str(folder / name), 0, PAGE_BYTES)


def test_no_special_files(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for name in ("fifo", "missing"):
        with pytest.raises(InvalidArgument):
            map_file(folder, str(folder / name), 0, PAGE_BYTES)


def test_a_read_only_file_is_refused_by_name(folder: Path) -> None:
    if os.geteuid() == 0:
        (folder / "dom1").unlink()  # root may write anything: then it is a missing file
    else:
        (folder / "dom1").chmod(0o400)
    with pytest.raises(InvalidArgument, match="dom1"):
        map_file(folder, str(folder / "dom1"), 0, PAGE_BYTES)


def test_no_descriptor_is_left(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    map_file(folder, str(folder / "dom1"), 0, PAGE_BYTES).close()
    with pytest.raises(InvalidArgument):
        map_file(folder, str(folder / "dom1"), 0, 9 * PAGE_BYTES)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_closing_leaves_what_somebody_still_uses(folder: Path) -> None:
    mapping = map_file(folder, str(folder / "dom1"), 0, PAGE_BYTES)
    part = mapping.view[:8]
    mapping.close()
    assert bytes(part) == bytes(range(8))
    part.release()
    mapping.close()
    mapping.close()
