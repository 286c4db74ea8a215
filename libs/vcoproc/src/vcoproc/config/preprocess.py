"""The C preprocessor, for trees in the manner of Linux (`#include <dt-bindings/...>`).

`dtc` does not run it, and nothing here does unless it is asked to. It is given no macros and no
folders of the compiler's own, and is bounded in time and output.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidConfig, NotFound

_PROGRAM: Final = "cpp"
_OPTIONS: Final = ("-nostdinc", "-undef", "-D__DTS__", "-x", "assembler-with-cpp")
_WORDS_BYTES_MAX: Final = 64 * limits.KIB
"""Of what it says on stderr."""
_BLOCK_BYTES: Final = 512
"""Unit of `ulimit -f`: POSIX."""
_BOUNDED: Final = ("sh", "-c", 'ulimit -f "$0"; exec "$@"')
"""Runs a command that can write only so many blocks to a file; more ends it."""
_ERROR_RE: Final = re.compile(r"^([^:\n]+):([0-9]{1,9}):(?:[0-9]+:)? (?:fatal )?error: (.*)", re.M)
_WHAT: Final = "preprocessor"


def preprocess(path: str | Path, folders: Sequence[str | Path] = ()) -> bytes:
    """A tree after the C preprocessor, with line marks that say where each line came from.

    Args:
        folders: where included files are looked for, besides the folder of the including file.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it found mistakes, took too long, wrote too much, or is not installed.
    """
    name = str(path)
    if not Path(name).exists():
        raise NotFound("file", name)
    program = shutil.which(_PROGRAM)
    if program is None:
        raise _failure(name, f"`{_PROGRAM}` is not installed")
    options = [part for folder in folders for part in ("-I", str(folder))]
    command = [program, *_OPTIONS, *options, f"./{name}" if name.startswith("-") else name]
    blocks = (limits.CONFIG_BYTES_MAX + _WORDS_BYTES_MAX) // _BLOCK_BYTES
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*_BOUNDED, str(blocks), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=words,
            start_new_session=True,  # it has children of its own, which must end with it
        )
        try:
            process.wait(limits.CPP_TIMEOUT_NS / limits.S)
        except (
            BaseException
        ) as error:  # also Ctrl-C; it is not reaped, so the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                why = f"took longer than {limits.CPP_TIMEOUT_NS // limits.S} s"
                raise _failure(name, why) from None
            raise
        output.seek(0)
        content = output.read(limits.CONFIG_BYTES_MAX + 1)
        words.seek(0)
        said = words.read(_WORDS_BYTES_MAX).decode(errors="replace")
    if len(content) > limits.CONFIG_BYTES_MAX:
        raise _failure(name, f"made more than {limits.CONFIG_BYTES_MAX} bytes of it")
    if process.returncode:
        raise InvalidConfig(_problems(name, said))
    return content


def _failure(name: str, why: str) -> InvalidConfig:
    return InvalidConfig([ConfigProblem(name, 0, _WHAT, why)])


def _problems(name: str, said: str) -> list[ConfigProblem]:
    found = [
        ConfigProblem(file, int(line), _WHAT, why) for file, line, why in _ERROR_RE.findall(said)
    ]
    last = said.strip().rpartition("\n")[2] or "failed"
    return found[: limits.CONFIG_PROBLEMS_MAX] or [ConfigProblem(name, 0, _WHAT, last)]
