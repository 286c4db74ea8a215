"""Typed reads of the properties of one device-tree node; each mistake becomes a problem."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vcoproc.config.problems import Place, Problems
from vcoproc.config.trees import DtsNode, DtsProperty


class Fields:
    """The properties of a node, read one by one.

    A read that finds a mistake notes it and returns the default, so that the reading goes on and
    finds the others. A reference to nothing has been noted before.
    """

    def __init__(self, node: DtsNode, problems: Problems) -> None:
        self.node = node
        self._problems = problems

    def get(self, name: str) -> DtsProperty | None:
        return self.node.properties.get(name)

    def place(self, name: str) -> Place:
        """The place of a property, or of the node where the property is missing."""
        found = self.get(name)
        return found.place if found else self.node.place

    def wrong(self, name: str, why: str, near: tuple[str, Iterable[str]] | None = None) -> None:
        self._problems.add(self.place(name), f"{self.node.path}: {name}", why, near=near)

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A number of one cell, or of two (64 bits, high cell first), between two bounds."""
        found = self.get(name)
        if found is None or not found.resolved:
            return default
        if found.cells is None or len(found.cells) not in (1, 2):
            self.wrong(name, "must be one number, as in <1000>")
            return default
        value = int.from_bytes(found.data, "big")
        if not low <= value <= high:
            self.wrong(name, f"{value} is not between {low} and {high}")
            return default
        return value

    def text(self, name: str, default: str) -> str:
        """One string that is not empty."""
        found = self.get(name)
        if found is None or not found.resolved:
            return default
        if found.strings is None or len(found.strings) != 1 or not found.strings[0]:
            self.wrong(name, "must be one string that is not empty")
            return default
        return found.strings[0]

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where the property is missing."""
        found = self.get(name)
        if found is None or not found.resolved:
            return ()
        if found.strings is None:
            self.wrong(name, "must be a list of strings")
            return ()
        return found.strings

    def refuse_others(self, known: Collection[str], prefix: str = "") -> None:
        """Notes every property that begins with `prefix` and is not known: a typing mistake."""
        for name in self.node.properties:
            if name.startswith(prefix) and name not in known:
                self.wrong(name, "is no property of this node", near=(name, known))
