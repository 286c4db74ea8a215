"""The grammar of xl.cfg(5): text to settings with their lines. What keys mean is not known here.

A file is settings ``KEY = VALUE`` or ``KEY += VALUE`` (appends to a string or list given before),
one a line or separated by semicolons. A value is a number (decimal, 0x, or octal with a leading 0),
a string in single or double quotes on one line with the escapes of C, or a list ``[a, b]`` over any
number of lines, in which lists may be nested and a comma may end. # begins a comment.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from vcoproc import limits
from vcoproc.config.problems import Problems, parse_number, shorten


@dataclass(frozen=True, slots=True)
class XlString:
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class XlNumber:
    value: int
    line: int


@dataclass(frozen=True, slots=True)
class XlList:
    values: tuple[XlValue, ...]
    line: int


XlValue: TypeAlias = XlString | XlNumber | XlList


@dataclass(frozen=True, slots=True)
class XlSetting:
    """value: None when it had a mistake, which is among the problems."""

    key: str
    value: XlValue | None
    line: int


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


_TOKEN_RE: Final = re.compile(
    r"""(?P<skip>[ \t\r\f\v]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z]*)
      | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<op>\+=|[\[\],;=])
      | (?P<open>['"][^\n]*)
      | (?P<bad>.)""",
    re.VERBOSE,
)
_PYTHON: Final = ("(", "{", "+", "-", ".", ":")
"""What begins a value in files of xm, which were programs in Python."""
_ESCAPE_RE: Final = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)")
_ESCAPES: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
}


def parse_settings(text: str, problems: Problems) -> tuple[XlSetting, ...]:
    """Parses a file; goes on after a mistake with the next setting, so as to find them all."""
    return _Parser(text, problems).parse()


class _Mistake(Exception):
    """Ends the reading of one setting; the problem is noted already."""


class _Parser:
    """Recursive descent over the tokens; the recursion is bounded by CONFIG_LIST_DEPTH_MAX."""

    def __init__(self, text: str, problems: Problems) -> None:
        self._problems = problems
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        # Each setting with those that append to it; joined at the end, in one go.
        self._settings: list[list[XlSetting]] = []
        self._latest: dict[str, list[XlSetting]] = {}

    def parse(self) -> tuple[XlSetting, ...]:
        while self._peek().kind != "end":
            if not self._take_end():
                self._setting()
        return tuple(self._join(parts) for parts in self._settings)

    def _setting(self) -> None:
        token = self._peek()
        key = token.text if token.kind == "word" else ""
        self._depth = 0
        value: XlValue | None = None
        append = False
        try:
            if not key:
                raise self._mistake(token, 'expected a setting, as in name = "value"')
            self._take()
            operator = self._take()
            if operator.text not in ("=", "+="):
                raise self._mistake(operator, f"expected = after {key}")
            append = operator.text == "+="
            value = self._value()
            if not self._take_end():
                raise self._mistake(self._peek(), "expected the end of the line or a semicolon")
        except _Mistake:
            value = None
            self._skip_setting()
        if key:
            self._store(XlSetting(key, value, token.line), append=append)

    def _store(self, setting: XlSetting, *, append: bool) -> None:
        parts = self._latest.get(setting.key)
        if append and parts is not None:
            parts.append(setting)
        else:
            self._latest[setting.key] = parts = [setting]
            self._settings.append(parts)

    def _join(self, parts: list[XlSetting]) -> XlSetting:
        """A setting with what += appended to it."""
        first = parts[0]
        values = [part.value for part in parts]
        if len(parts) == 1 or first.value is None:
            return first
        texts = [value.text for value in values if isinstance(value, XlString)]
        lists = [value.values for value in values if isinstance(value, XlList)]
        joined: XlValue | None = None
        if len(texts) == len(values):
            joined = XlString("".join(texts), first.value.line)
        elif len(lists) == len(values):
            joined = XlList(tuple(itertools.chain.from_iterable(lists)), first.value.line)
        elif None not in values:
            why = "+= appends a string to a string or a list to a list"
            self._problems.add(parts[1].line, first.key, why)
        return XlSetting(first.key, joined, first.line)

    def _value(self) -> XlValue:
        token = self._take()
        if token.kind == "string":
            return XlString(self._unescape(token), token.line)
        if token.kind == "number":
            number = parse_number(token.text)
            if number is None:
                raise self._mistake(
                    token, f"{shorten(token.text)} is no decimal, 0x or octal number"
                )
            return XlNumber(number, token.line)
        if token.text == "[":
            return self._list(token)
        if token.kind == "open":
            raise self._mistake(token, "the string is not closed on its line")
        if token.kind == "word":
            raise self._mistake(token, f"{shorten(token.text)} must be in quotes")
        hint = "; xl reads no Python" if token.text in _PYTHON else ""
        raise self._mistake(token, f"expected a value, not {_name(token)}{hint}")

    def _list(self, opening: _Token) -> XlList:
        self._depth += 1
        if self._depth > limits.CONFIG_LIST_DEPTH_MAX:
            raise self._mistake(opening, f"lists nested deeper than {limits.CONFIG_LIST_DEPTH_MAX}")
        values: list[XlValue] = []
        while True:
            self._take_newlines()
            if self._peek().text == "]":
                break
            values.append(self._value())
            self._take_newlines()
            token = self._peek()
            if token.text == ",":
                self._take()
            elif token.text != "]":
                where = f" of the list that begins on line {opening.line}"
                raise self._mistake(
                    token, f"expected a comma or the end{where}, not {_name(token)}"
                )
        self._take()
        self._depth -= 1
        return XlList(tuple(values), opening.line)

    # --- tokens -----------------------------------------------------------------------------------

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _take_newlines(self) -> None:
        while self._peek().kind == "newline":
            self._next += 1

    def _take_end(self) -> bool:
        token = self._peek()
        if token.kind == "end":
            return True
        if token.kind == "newline" or token.text == ";":
            self._next += 1
            return True
        return False

    def _skip_setting(self) -> None:
        """Goes to the end of a setting with a mistake: past its brackets, then its line."""
        depth = self._depth
        while (token := self._peek()).kind != "end":
            if depth <= 0 and (token.kind == "newline" or token.text == ";"):
                return
            depth += (token.text == "[") - (token.text == "]")
            self._next += 1

    def _mistake(self, token: _Token, why: str) -> _Mistake:
        self._problems.add(token.line, "syntax", why)
        return _Mistake()

    def _unescape(self, token: _Token) -> str:
        def sub(match: re.Match[str]) -> str:
            code = match[1]
            if code in _ESCAPES:
                return _ESCAPES[code]
            if code[0] == "x" and len(code) > 1:
                return chr(int(code[1:], 16))
            if code[0] in "01234567" and int(code, 8) < 256:
                return chr(int(code, 8))
            raise self._mistake(token, f"unknown escape {shorten(match[0])} in a string")

        return _ESCAPE_RE.sub(sub, token.text[1:-1])


def _tokens(text: str) -> list[_Token]:
    tokens = []
    line = 1
    for match in _TOKEN_RE.finditer(text):
        kind = match.lastgroup or "bad"
        if kind != "skip":
            tokens.append(_Token(kind, match[0], line))
        line += kind == "newline"
    tokens.append(_Token("end", "", line))
    return tokens


def _name(token: _Token) -> str:
    names = {"newline": "the end of the line", "end": "the end of the file"}
    return names.get(token.kind) or shorten(token.text)
