"""One page of a list: what is asked for, and what is answered.

A page token says after which resource the next page begins, by its name. So a resource that is
there all the time is listed once, whatever comes and goes between two pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic

from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.filters import Field, Filter, Thing, parse_filter
from vcoproc_toolstack.translate import page_token, read_page_size, read_page_token


def name_parts(message: Any) -> tuple[str, ...]:
    """What a resource is called at each level: ("fir", "audio") of domains/fir/vcoprocs/audio."""
    return tuple(message.name.split("/")[1::2])


@dataclass(frozen=True, slots=True)
class Asked(Generic[Thing]):
    """A page that is asked for. after: parts of the name before the first; None for the first page.

    kind: which list it is of. A token of another list, or of another filter, is none of this one.
    """

    kind: str
    size: int
    after: tuple[str, ...] | None
    filter: Filter[Thing]

    @property
    def limit(self) -> int | None:
        """How many to look at to fill the page and know whether another follows; None for all."""
        return None if self.filter else self.size + 1

    def page(
        self, found: Iterable[Thing], parts: Callable[[Thing], tuple[str, ...]] = name_parts
    ) -> tuple[list[Thing], str]:
        """Those that are asked for, and the token of the next page. found: in the list's order."""
        matching = list(islice(filter(self.filter.matches, found), self.size + 1))
        page = matching[: self.size]
        more = len(matching) > self.size
        return page, page_token(self.kind, *parts(page[-1])) if more else ""


def read_position(after: tuple[str, ...] | None) -> int:
    """The number in a token of a list whose resources have numbers; 0 for the first page.

    Raises:
        InvalidArgument: it is no number.
    """
    if after is None:
        return 0
    (text,) = after
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidArgument("page_token", "was not made by this list")
    return int(text)


def read_asked(
    request: Any, kind: str, fields: Mapping[str, Field[Thing]], part_count: int
) -> Asked[Thing]:
    """What a request asks for.

    Args:
        kind: which list it is.
        fields: that this list can be filtered by.
        part_count: how many parts the names of its resources have.

    Raises:
        InvalidArgument: size, token or filter is wrong.
    """
    wanted = parse_filter(request.filter, fields)
    if wanted:
        kind += f" {hashlib.sha256(wanted.text.encode()).hexdigest()[:16]}"
    return Asked(
        kind=kind,
        size=read_page_size(request.page_size),
        after=read_page_token(request.page_token, kind, part_count),
        filter=wanted,
    )
