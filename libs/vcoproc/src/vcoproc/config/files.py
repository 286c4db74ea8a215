"""Reading a configuration file: the only I/O of this package."""

from __future__ import annotations

from pathlib import Path

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidConfig, NotFound


def read_source(path: str | Path) -> bytes:
    """The bytes of a configuration file, at most one more than a file may have.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            # One byte too many is enough for the parser to see that the file is too large.
            return file.read(limits.CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound("file", str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidConfig([ConfigProblem(str(path), 0, "cannot read the file", why)]) from error
