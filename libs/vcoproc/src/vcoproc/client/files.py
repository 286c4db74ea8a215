"""Files that a client writes: there whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def written(path: Path, *, worth_keeping: Callable[[Path], bool]) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` in the end. Only its owner may read it.

    Args:
        worth_keeping: whether what was written takes its place although there was an error.

    Raises:
        OSError: it cannot be written; or `path` is there and no regular file, such as a device.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    number, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        scratch.replace(path)
    except BaseException:
        if worth_keeping(scratch):
            scratch.replace(path)
        raise
    finally:
        scratch.unlink(missing_ok=True)
