"""Collecting everything that is wrong in a file, and the rules for names in it."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidConfig

# The characters that Xen's toolstack takes in domain names. A leading dot would make a hidden file
# of a run directory, a leading dash an option of a command line.
_NAME_RE: Final = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*", re.ASCII)
_PARAM_RE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
# Decimal, hexadecimal (0x) and octal (leading 0), as in xl.cfg(5). 20 digits hold every number of
# 64 bits; the bound keeps a hostile file from making Python convert a megabyte of digits.
_NUMBER_RE: Final = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|0[0-7]{0,22}|[1-9][0-9]{0,19}", re.ASCII)


def name_problem(name: str) -> str | None:
    """Says what is wrong with a domain, coproc, vcoproc, range or line name; None when it is good.

    Good: 1 to `limits.NAME_BYTES_MAX` of A-Z a-z 0-9 _ . + -, the first not a dot or dash.
    """
    if not name:
        return "is empty"
    if len(name) > limits.NAME_BYTES_MAX:
        return f"is longer than {limits.NAME_BYTES_MAX} characters"
    if not _NAME_RE.fullmatch(name):
        return f"{shorten(name)} must be of A-Z a-z 0-9 _ . + -, the first not a dot or dash"
    return None


def parameter_name(text: str) -> str | None:
    """The name of a scheduling parameter with dashes as underscores; None when it is no name."""
    if len(text) > limits.NAME_BYTES_MAX or not _PARAM_RE.fullmatch(text):
        return None
    return text.replace("-", "_")


def parse_number(text: str) -> int | None:
    """A number as xl.cfg(5) writes it (decimal, 0x hexadecimal, 0 octal); None when it is none."""
    if not _NUMBER_RE.fullmatch(text):
        return None
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8 if text[0] == "0" else 10)


def shorten(text: str) -> str:
    """`text` quoted for a message, cut where it would fill the screen."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def shown(name: str) -> str:
    """A file name for a message: as it is, or quoted when a terminal could misread it."""
    return name if name.isprintable() else shorten(name)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A hint to end a message with, or nothing."""
    # difflib takes time with the product of both lengths; a hint is not worth more than this.
    short = [c for c in itertools.islice(choices, 512) if len(c) <= limits.DTS_NAME_BYTES_MAX]
    near = difflib.get_close_matches(word[: limits.DTS_NAME_BYTES_MAX], short, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class Place(NamedTuple):
    """Where something stands. Lines count from 1; 0 is the whole file, and all of a blob."""

    file: str
    line: int


class Problems:
    """The problems of a file and of what it includes, in the order of lines when raised."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._found: list[ConfigProblem] = []
        self._noted: set[tuple[Place, str, str]] = set()
        self._more_count = 0

    def add(
        self,
        where: int | Place,
        what: str,
        why: str,
        *,
        near: tuple[str, Iterable[str]] | None = None,
    ) -> None:
        """Notes a problem, once: what two things share is looked at twice.

        where: a line of the file, from 1; 0 means the whole file; or a place in an included one.
        near: a word and what could have been meant by it, for a hint at the end of `why`.
        """
        place = Place(self._file_name, where) if isinstance(where, int) else where
        if (place, what, why) in self._noted:
            return
        if len(self._found) < limits.CONFIG_PROBLEMS_MAX:
            self._noted.add((place, what, why))
            why += did_you_mean(*near) if near else ""
            self._found.append(ConfigProblem(place.file, place.line, what, why))
        else:
            self._more_count += 1

    def take(self, error: InvalidConfig) -> None:
        """Notes all that another reading found."""
        for problem in error.problems:
            self.add(Place(problem.file, problem.line), problem.what, problem.why)

    def failure(self, where: int | Place, what: str, why: str) -> InvalidConfig:
        """The error to raise for a problem after which nothing more can be read."""
        self.add(where, what, why)
        return self._error()

    def __len__(self) -> int:
        return len(self._found) + self._more_count

    def raise_if_any(self) -> None:
        """Raises everything that was noted.

        Raises:
            InvalidConfig: there is at least one problem.
        """
        if self._found:
            raise self._error()

    def _error(self) -> InvalidConfig:
        # The file itself first, then the included ones.
        found = sorted(self._found, key=lambda p: (p.file != self._file_name, p.file, p.line))
        if self._more_count:
            why = f"{self._more_count} more are not listed"
            found.append(ConfigProblem(self._file_name, 0, "too many problems", why))
        return InvalidConfig(found)


def decode_source(source: str | bytes, file_name: str) -> str:
    """The text of a file, checked for size and encoding.

    Raises:
        InvalidConfig: larger than `limits.CONFIG_BYTES_MAX`, or not UTF-8.
    """
    problems = Problems(file_name)
    try:
        blob = source.encode("utf-8") if isinstance(source, str) else source
        if len(blob) <= limits.CONFIG_BYTES_MAX:
            return blob.decode("utf-8-sig")  # some editors begin files with a byte order mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise problems.failure(line, "file", "is not UTF-8 text") from error
    except UnicodeEncodeError as error:
        line = error.object.count("\n", 0, error.start) + 1
        raise problems.failure(line, "file", "is not text that UTF-8 can hold") from error
    raise problems.failure(0, "file", f"is larger than {limits.CONFIG_BYTES_MAX} bytes")
