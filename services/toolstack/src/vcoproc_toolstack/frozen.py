"""Collections that never change: a change makes another one, which shares nearly all of it. Pure.

Theory of operation:
    The entries of a map are spread over a fixed number of small dicts. A change copies the one dict
    that it concerns, and the tuple of all of them: 2 to 9 us within the bounds of this system,
    however many entries there are. Who holds a map may go on reading it while others make new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_PARTS: Final = 256
"""With 4096 domains of 32 vcoprocs each, 512 entries a part."""


class FrozenMap(Mapping[K, V], Generic[K, V]):
    """A mapping. Its order says nothing."""

    __slots__ = ("_count", "_parts")

    def __init__(self, entries: Iterable[tuple[K, V]] = ()) -> None:
        parts: list[dict[K, V]] = [{} for _ in range(_PARTS)]
        for key, value in entries:
            parts[hash(key) % _PARTS][key] = value
        self._parts = tuple(parts)
        self._count = sum(map(len, parts))

    def __getitem__(self, key: K) -> V:
        return self._parts[hash(key) % _PARTS][key]

    def __iter__(self) -> Iterator[K]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return self._count

    def plus(self, key: K, value: V) -> FrozenMap[K, V]:
        """The same with this entry, which replaces one of the same key."""
        place = hash(key) % _PARTS
        return self._with(place, {**self._parts[place], key: value})

    def minus(self, key: K) -> FrozenMap[K, V]:
        """The same without this key, which need not be there."""
        place = hash(key) % _PARTS
        part = dict(self._parts[place])
        part.pop(key, None)
        return self._with(place, part)

    def _with(self, place: int, part: dict[K, V]) -> FrozenMap[K, V]:
        made: FrozenMap[K, V] = FrozenMap.__new__(FrozenMap)
        made._parts = (*self._parts[:place], part, *self._parts[place + 1 :])
        made._count = self._count - len(self._parts[place]) + len(part)
        return made


EMPTY: Final[FrozenMap[Any, Any]] = FrozenMap()


@dataclass(frozen=True, slots=True)
class FrozenRing(Generic[V]):
    """Numbered entries without a gap, of which the newest are kept.

    newest: number of the last one there ever was. oldest: of the first that is kept; newest + 1
    when none is.
    """

    newest: int
    oldest: int
    _entries: FrozenMap[int, V] = field(repr=False)

    @classmethod
    def of(cls, entries: list[V], newest: int) -> FrozenRing[V]:
        """entries: the last ones, oldest first. newest: number of the last."""
        oldest = newest - len(entries) + 1
        return cls(newest, oldest, FrozenMap(enumerate(entries, oldest)))

    def __getitem__(self, number: int) -> V:
        return self._entries[number]

    def since(self, before: FrozenRing[V]) -> range:
        """Numbers of the entries that are kept and were added since."""
        return range(max(before.newest + 1, self.oldest), self.newest + 1)

    def plus(self, entry: V, kept_max: int) -> FrozenRing[V]:
        """The same with one more, and without those that are one too many now."""
        newest, oldest = self.newest + 1, self.oldest
        entries = self._entries.plus(newest, entry)
        while newest - oldest >= kept_max:
            entries = entries.minus(oldest)
            oldest += 1
        return FrozenRing(newest, oldest, entries)

    def replaced(self, number: int, entry: V) -> FrozenRing[V]:
        """The same with another entry of this number."""
        return FrozenRing(self.newest, self.oldest, self._entries.plus(number, entry))
