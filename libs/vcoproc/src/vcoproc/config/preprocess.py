"""The C preprocessor, for trees in the manner of Linux (`#include <dt-bindings/...>`).

`dtc` does not run it, and nothing here does unless it is asked to. It is given no macros and no
folders of the compiler's own, and is bounded in time and output.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidConfig, NotFound

_COMMAND: Final = ("cpp", "-nostdinc", "-undef", "-D__DTS__", "-x", "assembler-with-cpp")
_WORDS_BYTES_MAX: Final = 64 * limits.KIB
"""Of what it says on stderr."""
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
    options = [part for folder in folders for part in ("-I", str(folder))]
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                [*_COMMAND, *options, f"./{name}" if name.startswith("-") else name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=words,
                start_new_session=True,  # it has children of its own, which must end with it
            )
        except FileNotFoundError:
            why = f"`{_COMMAND[0]}` is not installed"
            raise InvalidConfig([ConfigProblem(name, 0, _WHAT, why)]) from None
        output, late = _output_of(process)
        words.seek(0)
        said = words.read(_WORDS_BYTES_MAX).decode(errors="replace")
    if late:
        why = f"took longer than {limits.CPP_TIMEOUT_NS // limits.S} s"
        raise InvalidConfig([ConfigProblem(name, 0, _WHAT, why)])
    if len(output) > limits.CONFIG_BYTES_MAX:
        why = f"made more than {limits.CONFIG_BYTES_MAX} bytes of it"
        raise InvalidConfig([ConfigProblem(name, 0, _WHAT, why)])
    if process.returncode:
        raise InvalidConfig(_problems(name, said))
    return output


def _output_of(process: subprocess.Popen[bytes]) -> tuple[bytes, bool]:
    """What it writes, at most one byte more than it may; whether it was ended for being late."""
    assert process.stdout is not None
    late = threading.Event()

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def end_late() -> None:
        late.set()
        end()

    timer = threading.Timer(limits.CPP_TIMEOUT_NS / limits.S, end_late)
    timer.start()
    try:
        output = process.stdout.read(limits.CONFIG_BYTES_MAX + 1)
        if len(output) > limits.CONFIG_BYTES_MAX:
            end()
        process.stdout.close()
        process.wait()
    finally:
        timer.cancel()
        timer.join()
    return output, late.is_set()


def _problems(name: str, said: str) -> list[ConfigProblem]:
    found = [
        ConfigProblem(file, int(line), _WHAT, why) for file, line, why in _ERROR_RE.findall(said)
    ]
    last = said.strip().rpartition("\n")[2] or "failed"
    return found[: limits.CONFIG_PROBLEMS_MAX] or [ConfigProblem(name, 0, _WHAT, last)]
