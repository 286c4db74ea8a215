"""The files that back the memory of domains, in a directory on tmpfs."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from vcoproc import limits
from vcoproc.errors import LimitExceeded, WrongState
from vcoproc_toolstack.steps import MakeMemory, TakeMemory

_OURS: Final = re.compile(r"domain-\d+|vcoproc-\d+\.\d+|context-\d+|staged-[0-9a-f]+", re.ASCII)
_CONTEXT: Final = re.compile(r"context-(\d+)", re.ASCII)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES: Final = limits.MIB
_ZERO_PAGE: Final = bytes(limits.PAGE_BYTES)


class MemoryDir:
    """Makes and removes memory files. They are sparse: a page costs memory once it is touched.

    Files that are written before somebody wants them have names of their own (`staged`) until they
    are taken; those that nobody took are gone at the next start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def path_of(self, file_name: str) -> Path:
        return self._path / file_name

    # --- steps ------------------------------------------------------------------------------------

    def make(self, step: MakeMemory) -> None:
        """Makes a file of zeros in place of what was there.

        Raises:
            LimitExceeded: no space.
            WrongState: the directory cannot be used.
        """
        # Never the old file made empty: whoever still has that mapped would see the new memory.
        self.remove(step.file_name)
        with self._told():
            _size(self.path_of(step.file_name), step.size_bytes)

    def keep(self, step: MakeMemory) -> bool:
        """Makes a file when there is none of that size, and says whether it did. As `make`."""
        path = self.path_of(step.file_name)
        with self._told():
            if path.exists() and path.stat().st_size == step.size_bytes:
                return False
        self.make(step)
        return True

    def take(self, step: TakeMemory) -> None:
        """Gives a staged file its own name. As `make`."""
        with self._told():
            staged, path = self.path_of(step.staged), self.path_of(step.file_name)
            if staged.exists() or not path.exists():  # otherwise it was done already
                staged.rename(path)

    def remove(self, file_name: str) -> None:
        """Removes a file, if it is there. Whoever has it mapped keeps its pages until it unmaps.

        Raises:
            WrongState: the directory cannot be used.
        """
        with self._told():
            self.path_of(file_name).unlink(missing_ok=True)

    # --- what is written down ---------------------------------------------------------------------

    def stage(self) -> str:
        """A name for a file that nobody has yet."""
        return f"staged-{secrets.token_hex(8)}"

    def create(self, file_name: str, size_bytes: int) -> IO[bytes]:
        """A new file of zeros, open for writing. Raises: as `make`."""
        with self._told():
            path = self.path_of(file_name)
            _size(path, size_bytes)
            return path.open("r+b")

    def write(self, file_name: str, pieces: Iterable[bytes], bytes_max: int) -> None:
        """Writes a whole file, or none.

        Raises:
            LimitExceeded: it is longer than it may be; or no space.
            WrongState: the directory cannot be used.
            VcoprocError: the pieces ended so.
        """
        staged = self.stage()
        written = 0
        try:
            with self.create(staged, 0) as file:
                for piece in pieces:
                    written += len(piece)
                    if written > bytes_max:
                        raise LimitExceeded(f"size of {file_name}", bytes_max, "bytes")
                    self.put(file, piece)
                self.flush(file)
            with self._told():
                self.path_of(staged).rename(self.path_of(file_name))
        except BaseException:
            self.remove(staged)
            raise

    def read(self, file_name: str) -> Iterator[bytes]:
        """A file in pieces. Raises: WrongState (it cannot be read)."""
        with self._told(), self.path_of(file_name).open("rb") as file:
            while piece := file.read(_COPY_BYTES):
                yield piece

    def open(self, file_name: str) -> IO[bytes]:
        """Opens a file for reading; it may be removed then. Raises: WrongState."""
        with self._told():
            return self.path_of(file_name).open("rb")

    def unnamed(self) -> IO[bytes]:
        """An empty file without a name: it goes with its last user. Not in the directory.

        Raises:
            WrongState: there can be none.
        """
        with self._told():
            return tempfile.TemporaryFile()

    def copy_to(self, file_name: str, target: IO[bytes], size_bytes: int) -> None:
        """Makes another file the same as the beginning of this one, holes as holes.

        Raises:
            LimitExceeded: no space.
            WrongState: a file cannot be used.
        """
        with self._told(), self.path_of(file_name).open("rb") as source:
            os.ftruncate(target.fileno(), size_bytes)
            for begin, end in _extents(source.fileno(), size_bytes):
                os.lseek(target.fileno(), begin, os.SEEK_SET)
                while begin < end:
                    sent = os.sendfile(target.fileno(), source.fileno(), begin, end - begin)
                    if not sent:  # somebody has made it shorter: the rest is zeros
                        return
                    begin += sent

    def put(self, file: IO[bytes], piece: bytes) -> None:
        """Writes a piece where the last one ended. Raises: as `make`."""
        with self._told():
            file.write(piece)

    def flush(self, file: IO[bytes]) -> None:
        """Whoever reads a file sees all that was written. Raises: as `make`."""
        with self._told():
            file.flush()

    def put_sparsely(self, file: IO[bytes], offset: int, piece: bytes) -> None:
        """Writes the pages of a piece that are not all zeros. Raises: as `make`.

        Args:
            offset: multiple of a page.
        """
        page = limits.PAGE_BYTES
        with self._told():
            for at in range(0, len(piece), page):
                if piece[at : at + page] != _ZERO_PAGE:
                    os.pwrite(file.fileno(), piece[at : at + page], offset + at)

    def contexts(self) -> frozenset[int]:
        """Numbers of vcoprocs whose context waits to be loaded."""
        with self._told():
            found = [_CONTEXT.fullmatch(path.name) for path in self._path.iterdir()]
        return frozenset(int(match[1]) for match in found if match)

    # --- the whole directory ----------------------------------------------------------------------

    def remove_others(self, wanted: Set[str]) -> list[str]:
        """Removes memory files that belong to nothing; gives their names."""
        strays = sorted(
            path.name
            for path in self._path.iterdir()
            if _OURS.fullmatch(path.name) and path.name not in wanted
        )
        for name in strays:
            self.remove(name)
        return strays

    def check_room(self, size_bytes: int, held: Set[str] = frozenset()) -> None:
        """Refuses to promise more memory than the directory's file system has.

        A sparse file takes any size, and whoever touches a page that cannot be had gets SIGBUS: a
        coproc-sim would die of a domain that is too large.

        Args:
            size_bytes: memory of all domains together, the new one included.
            held: files that are no domain's and cannot be removed yet.

        Raises:
            LimitExceeded: that is too much.
        """
        status = os.statvfs(self._path)
        if size_bytes <= status.f_bavail * status.f_frsize:
            return  # whatever the files use; there may be thousands to look at
        used = sum(_used_bytes(path) for path in self._path.iterdir() if path.name not in held)
        room = status.f_bavail * status.f_frsize + used
        if size_bytes > room:
            raise LimitExceeded(f"memory of all domains in {self._path}", room, "bytes")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._wrong(error) from error

    def _wrong(self, error: OSError) -> LimitExceeded | WrongState:
        if error.errno in _NO_SPACE:
            return LimitExceeded(
                f"memory files in {self._path}: no space left, they", 0, "bytes more"
            )
        return WrongState(
            f"memory directory {self._path}",
            error.strerror or str(error),
            "one that can be written",
        )


def _size(path: Path, size_bytes: int) -> None:
    """Makes a file of zeros, for its owner alone."""
    descriptor = os.open(path, _FLAGS | os.O_EXCL, 0o600)
    try:
        os.ftruncate(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def _used_bytes(path: Path) -> int:
    """What a file costs; nothing if it has gone meanwhile."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _extents(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (begin, end)."""
    end = 0
    while end < size_bytes:
        try:
            begin = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = min(os.lseek(descriptor, begin, os.SEEK_HOLE), size_bytes)
        yield begin, end


def pieces_with_data(file: IO[bytes], size_bytes: int, piece_bytes: int) -> Iterator[int]:
    """Where the pieces of a file begin that are not one hole, in order."""
    done = 0
    for begin, end in _extents(file.fileno(), size_bytes):
        first = max(done, begin - begin % piece_bytes)
        yield from range(first, end, piece_bytes)
        done = max(done, -(-end // piece_bytes) * piece_bytes)
