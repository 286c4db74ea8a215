"""A device tree as plain data, whatever it was read from, with the place of every part."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from vcoproc.config.problems import Place, Problems, shorten

IMPLICIT_PROPERTIES: Final = ("phandle", "linux,phandle")
"""A node has one when something refers to it, whether or not its source says so."""


class Kind(enum.Enum):
    """What a value was written as. BYTES: source says so, or it is of a blob, which never says."""

    NUMBERS = "numbers"
    TEXT = "text"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class DtsProperty:
    """A property.

    data: its value as in a flattened tree, big-endian; empty for `xen,coproc;`. resolved: False if
    it refers to something that is not there, which has been told.
    """

    place: Place
    data: bytes
    kind: Kind
    resolved: bool = True

    @property
    def cells(self) -> tuple[int, ...] | None:
        """Its 32-bit numbers; None when it is not made of them."""
        if self.kind is Kind.TEXT or len(self.data) % 4:
            return None
        if self.kind is Kind.BYTES and not self.data:
            return None
        return struct.unpack(f">{len(self.data) // 4}I", self.data)

    @property
    def strings(self) -> tuple[str, ...] | None:
        """Its strings; None when it is not made of them."""
        if self.kind is Kind.TEXT:
            return tuple(self.data.decode("utf-8", "replace").split("\0")[:-1])
        if self.kind is Kind.NUMBERS or not self.data.endswith(b"\0"):
            return None
        try:
            texts = self.data.decode("utf-8").split("\0")[:-1]
        except UnicodeDecodeError:
            return None
        return tuple(texts) if all(text.isprintable() for text in texts) else None

    @property
    def is_text(self) -> bool:
        """Whether it is strings rather than numbers, where it may be either.

        Bytes are taken as `dtc` does when it writes source: printable and none empty.
        """
        return self.kind is Kind.TEXT or (self.strings is not None and all(self.strings))


@dataclass(frozen=True, slots=True)
class DtsNode:
    path: str
    place: Place
    properties: Mapping[str, DtsProperty]
    children: tuple[DtsNode, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2] or "/"

    def walk(self) -> Iterator[DtsNode]:
        """The node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class DtsTree:
    """A parsed tree. nodes: by path, parents first. aliases and phandles: to paths.

    reserved: address and size of each /memreserve/.
    """

    nodes: Mapping[str, DtsNode]
    aliases: Mapping[str, str]
    phandles: Mapping[int, str]
    reserved: tuple[tuple[int, int], ...] = ()

    @property
    def root(self) -> DtsNode:
        return self.nodes["/"]

    def parent(self, node: DtsNode) -> DtsNode | None:
        """The node above, None for the root."""
        return None if node.path == "/" else self.nodes[node.path.rpartition("/")[0] or "/"]


def tree_of(root: DtsNode, reserved: tuple[tuple[int, int], ...], problems: Problems) -> DtsTree:
    """The tree below a root, with what its aliases and phandles name.

    Notes aliases that name nothing, and nodes that have one phandle.
    """
    nodes = {node.path: node for node in root.walk()}
    phandles: dict[int, str] = {}
    for node in nodes.values():
        found = next(
            (node.properties[name] for name in IMPLICIT_PROPERTIES if name in node.properties), None
        )
        if found is None:
            continue
        cells = found.cells or ()
        if len(cells) != 1 or cells[0] in (0, 0xFFFF_FFFF):
            problems.add(found.place, f"{node.path}: phandle", "must be one number, not 0 or -1")
        elif phandles.setdefault(cells[0], node.path) != node.path:
            why = f"{cells[0]} is that of {phandles[cells[0]]} already"
            problems.add(found.place, f"{node.path}: phandle", why)
    aliases: dict[str, str] = {}
    listed = nodes.get("/aliases")
    for name, found in listed.properties.items() if listed else ():
        if name in IMPLICIT_PROPERTIES:
            continue
        strings = found.strings or ()
        path = strings[0].rstrip("/") or "/" if len(strings) == 1 else ""
        if path in nodes:
            aliases[name] = path
        elif found.resolved:
            why = f"{shorten(strings[0] if strings else '')} is no path of a node"
            problems.add(found.place, f"/aliases: {name}", why)
    return DtsTree(nodes, aliases, phandles, reserved)
