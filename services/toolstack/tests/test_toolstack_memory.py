"""The memory directory: files are whole or not there, and as sparse as they were."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vcoproc import limits
from vcoproc.errors import LimitExceeded, WrongState
from vcoproc_toolstack.memory import MemoryDir, pieces_with_data
from vcoproc_toolstack.steps import MakeMemory, TakeMemory


@pytest.fixture
def memory(short_path: Path) -> MemoryDir:
    return MemoryDir(short_path)


def test_a_copy_has_the_same_holes(memory: MemoryDir, short_path: Path) -> None:
    size = 64 * limits.MIB
    memory.make(MakeMemory("domain-1", size))
    with memory.path_of("domain-1").open("r+b") as file:
        for at in (0, 5 * limits.MIB, size - 4096):
            file.seek(at)
            file.write(os.urandom(4096))
    with (short_path / "copy").open("w+b") as copy:
        memory.copy_to("domain-1", copy, size)
        assert os.fstat(copy.fileno()).st_blocks * 512 == 3 * 4096
    assert (short_path / "copy").read_bytes() == memory.path_of("domain-1").read_bytes()


def test_only_pieces_with_data_are_looked_at(memory: MemoryDir) -> None:
    size = 16 * limits.MIB
    memory.make(MakeMemory("domain-1", size))
    with memory.path_of("domain-1").open("r+b") as file:
        assert list(pieces_with_data(file, size, limits.MIB)) == []
        for at in (0, 4096, 5 * limits.MIB - 4096, 5 * limits.MIB, size - 4096):
            os.pwrite(file.fileno(), b"x" * 4096, at)
        pieces = [at // limits.MIB for at in pieces_with_data(file, size, limits.MIB)]
        assert pieces == [0, 4, 5, 15]


def test_a_file_that_somebody_has_cut_is_copied_with_zeros(
    memory: MemoryDir, short_path: Path
) -> None:
    """A guest can do that to its own memory: the toolstack must not wait for what does not come."""
    memory.path_of("domain-1").write_bytes(b"x" * 5000)
    with (short_path / "copy").open("w+b") as copy:
        memory.copy_to("domain-1", copy, 3 * 4096)
        copy.seek(0)
        assert copy.read() == b"x" * 5000 + bytes(3 * 4096 - 5000)


def test_pages_of_zeros_are_left_out(memory: MemoryDir) -> None:
    with memory.create("staged-1", 8 * 4096) as file:
        memory.put_sparsely(file, 4096, bytes(4096) + b"x" * 4096 + bytes(4096))
    path = memory.path_of("staged-1")
    assert path.stat().st_blocks * 512 == 4096
    assert path.read_bytes() == bytes(8192) + b"x" * 4096 + bytes(5 * 4096)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_is_written_whole_or_not_at_all(memory: MemoryDir) -> None:
    def breaks_off() -> Iterator[bytes]:
        yield b"half"
        raise WrongState("x", "broken", "whole")

    with pytest.raises(WrongState):
        memory.write("context-1", breaks_off(), 100)
    with pytest.raises(LimitExceeded, match="size of context-1: at most 3 bytes"):
        memory.write("context-1", [b"four"], 3)
    assert list(memory.path_of("").iterdir()) == []
    memory.write("context-1", [b"wh", b"ole"], 100)
    memory.write("context-1", [b"new"], 100)
    assert [path.name for path in memory.path_of("").iterdir()] == ["context-1"]
    assert b"".join(memory.read("context-1")) == b"new"


def test_what_nobody_took_goes_with_the_strays(memory: MemoryDir) -> None:
    for name in ("domain-1", "vcoproc-1.1", "context-1", memory.stage(), "notes.txt"):
        memory.path_of(name).touch()
    memory.remove_others({"domain-1"})
    assert {path.name for path in memory.path_of("").iterdir()} == {"domain-1", "notes.txt"}


def test_a_file_without_a_name_leaves_nothing(memory: MemoryDir) -> None:
    with memory.unnamed() as file:
        file.write(b"x")
        assert not os.fstat(file.fileno()).st_nlink


def test_no_space_is_told_as_such(memory: MemoryDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.ftruncate", full)
    with pytest.raises(LimitExceeded, match="no space left"):
        memory.make(MakeMemory("domain-1", 4096))

    class Full(io.BytesIO):
        def flush(self) -> None:
            full()

    with pytest.raises(LimitExceeded):
        memory.flush(Full())
    monkeypatch.setattr("os.pwrite", full)
    with (memory.path_of("x")).open("w+b") as file, pytest.raises(LimitExceeded):
        memory.put_sparsely(file, 0, b"x" * 4096)


def test_what_is_not_there_cannot_be_taken_or_read(memory: MemoryDir) -> None:
    with pytest.raises(WrongState, match="memory directory"):
        memory.take(TakeMemory("domain-1", "staged-1"))
    with pytest.raises(WrongState):
        list(memory.read("context-1"))
