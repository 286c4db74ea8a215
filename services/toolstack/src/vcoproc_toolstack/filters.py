"""Filters of lists and watches: reads one, and says whether something matches it. Pure.

Theory of operation:
    A filter is a list of terms with spaces between, and all of them must hold. FIELD=VALUE holds
    when the field, or one of its values, is VALUE; FIELD!=VALUE holds when none is. A list says
    which fields it has and of which kind each is; the kind says which values make sense, so that a
    filter that can never match is refused instead of giving nothing.
Invariants:
    Matching takes no longer than the product of the lengths of a value and a text, whatever is in
    them: "*" is searched for from left to right, never tried again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from vcoproc import limits
from vcoproc.config.problems import did_you_mean, shorten
from vcoproc.errors import InvalidArgument

Thing = TypeVar("Thing")
Value: TypeAlias = str | int
Test: TypeAlias = Callable[[Value], bool]

_ANY: Final = "*"
_NUMBER_RE: Final = re.compile(r"0[xX][0-9A-Fa-f]{1,16}|[0-9]{1,20}", re.ASCII)


class NoSuchValue(ValueError):
    """A kind of field cannot have that value; the text says which it can have."""


class Kind(Protocol):
    """What values a field can have."""

    def test(self, wanted: str) -> Test:
        """Tells the values that are meant by the text after "=".

        Raises:
            NoSuchValue: a field of this kind is never that.
        """


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    def test(self, wanted: str) -> Test:
        """See `Kind.test`."""
        return _like(wanted)


@dataclass(frozen=True, slots=True)
class Name:
    """A resource name. Without a slash only its last word is meant: fir is domains/fir."""

    def test(self, wanted: str) -> Test:
        """See `Kind.test`."""
        if not wanted:
            raise NoSuchValue("must be a name")
        like = _like(wanted)
        if "/" in wanted:
            return like
        return lambda value: like(str(value).rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words, written large or small. prefix: what may stand before each."""

    words: tuple[str, ...]
    prefix: str = ""

    def test(self, wanted: str) -> Test:
        """See `Kind.test`."""
        plain = wanted.upper().removeprefix(self.prefix)
        like = _like(plain)
        meant = frozenset(word for word in self.words if like(word.upper()))
        if not meant:
            hint = did_you_mean(plain, [word.upper() for word in self.words])
            raise NoSuchValue(f"must be one of {', '.join(self.words)}{hint}")
        return lambda value: value in meant


FLAG: Final = Word(("true", "false"))


@dataclass(frozen=True, slots=True)
class Number:
    """A number from 0 to `maximum`, decimal or hexadecimal."""

    maximum: int

    def test(self, wanted: str) -> Test:
        """See `Kind.test`."""
        number = int(wanted, 0 if "x" in wanted.lower() else 10) if _is_number(wanted) else -1
        if not 0 <= number <= self.maximum:
            raise NoSuchValue(f"must be a number from 0 to {self.maximum}")
        return lambda value: value == number


def _is_number(text: str) -> bool:
    return _NUMBER_RE.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Field(Generic[Thing]):
    """A field that a list can be filtered by. values: what a thing has in it."""

    kind: Kind
    values: Callable[[Thing], Iterable[Value]]


@dataclass(frozen=True, slots=True)
class _Term(Generic[Thing]):
    field: Field[Thing]
    test: Test
    wanted: bool

    def holds(self, thing: Thing) -> bool:
        return any(map(self.test, self.field.values(thing))) is self.wanted


@dataclass(frozen=True, slots=True)
class Filter(Generic[Thing]):
    """Terms that must all hold. text: as it was given. False: it has none, and all things match."""

    text: str
    terms: tuple[_Term[Thing], ...]

    def __bool__(self) -> bool:
        return bool(self.terms)

    def matches(self, thing: Thing) -> bool:
        return all(term.holds(thing) for term in self.terms)


def parse_filter(text: str, fields: Mapping[str, Field[Thing]]) -> Filter[Thing]:
    """Reads a filter. fields: of the list that it is for, by name.

    Raises:
        InvalidArgument: it is too long, a term has no sense, a field is not one of the list's, or
            can never have such a value.
    """
    if len(text.encode(errors="replace")) > limits.FILTER_BYTES_MAX:
        raise InvalidArgument("filter", f"is longer than {limits.FILTER_BYTES_MAX} bytes")
    return Filter(text, tuple(_term(word, fields) for word in text.split()))


def _term(word: str, fields: Mapping[str, Field[Thing]]) -> _Term[Thing]:
    name, equals, wanted = word.partition("=")
    if not equals:
        raise InvalidArgument("filter", f"{shorten(word)} must be FIELD=VALUE or FIELD!=VALUE")
    negated = name.endswith("!")
    name = name.removesuffix("!")
    field = fields.get(name)
    if field is None:
        known = f"this list has {', '.join(fields)}{did_you_mean(name, fields)}"
        raise InvalidArgument("filter", f"{shorten(name)} is no field; {known}")
    try:
        test = field.kind.test(wanted)
    except NoSuchValue as error:
        raise InvalidArgument("filter", f"{name} {error}; it is {shorten(wanted)}") from None
    return _Term(field, test, not negated)


def _like(pattern: str) -> Test:
    """Tells the texts that are like a pattern, in which "*" stands for any text."""
    first, *others = pattern.split(_ANY)
    if not others:
        return lambda value: value == pattern
    *inner, last = others

    def like(value: Value) -> bool:
        text = str(value)
        place, end = len(first), len(text) - len(last)
        if place > end or not (text.startswith(first) and text.endswith(last)):
            return False
        for part in inner:
            found = text.find(part, place, end)
            if found < 0:
                return False
            place = found + len(part)
        return True

    return like
