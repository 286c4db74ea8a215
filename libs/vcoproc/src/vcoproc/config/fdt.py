"""Flattened device trees (blobs): Devicetree Specification 0.4, chapter 5. Reader and writer.

Theory of operation: a blob is a header, the list of reserved memory, the structure (a row of
tokens of 32 bits) and the strings (names of properties). The reader trusts no number in it: each is
checked against the block that it points into before it is used, and nodes, depth and names have the
bounds of source. A blob has no lines; its problems name the path of the node.

Versions: 17, and 16, which it is compatible with; a later one too that says the same of itself.
Before 16 the structure was another, and nobody has written it since 2005.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from vcoproc import limits
from vcoproc.config.problems import Place, Problems, shorten
from vcoproc.config.trees import DtsNode, DtsProperty, DtsTree, Kind, tree_of

BLOB_MAGIC: Final = b"\xd0\x0d\xfe\xed"
VERSION: Final = 17
LAST_COMPATIBLE: Final = 16
_HEADER: Final = struct.Struct(">10I")
_HEADER_16_BYTES: Final = 36
"""Version 16 lacks the last number, the size of the structure."""
_RESERVED: Final = struct.Struct(">2Q")
_WORD: Final = struct.Struct(">I")
_PROPERTY: Final = struct.Struct(">2I")
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_NAME_CHARACTERS: Final = frozenset(
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,._+-?#*@"
)


# --- reading --------------------------------------------------------------------------------------


def read_blob(blob: bytes, file_name: str, problems: Problems) -> DtsTree:
    """The tree of a blob. Every place in it is line 0. Aliases and phandles are noted if wrong.

    Raises:
        InvalidConfig: it is damaged, too large, of another version, or more than a tree may be.
    """
    return _Reader(blob, file_name, problems).read()


@dataclass(slots=True)
class _OpenNode:
    """A node whose end has not been read yet."""

    path: str
    properties: dict[str, DtsProperty] = field(default_factory=dict)
    children: dict[str, DtsNode] = field(default_factory=dict)


class _Reader:
    def __init__(self, blob: bytes, file_name: str, problems: Problems) -> None:
        self._blob = blob
        self._problems = problems
        self._place = Place(file_name, 0)
        self._open: list[_OpenNode] = []
        self._node_count = 0
        self._strings = b""
        # Where the next token is read, and where the structure ends.
        self._at = self._end = 0

    def read(self) -> DtsTree:
        if len(self._blob) > limits.CONFIG_BYTES_MAX:
            self._fail(f"is larger than {limits.CONFIG_BYTES_MAX} bytes")
        if len(self._blob) < _HEADER_16_BYTES:
            self._fail("ends within the header")
        header = self._blob[: _HEADER.size].ljust(_HEADER.size, b"\0")
        _, size, structure, strings, reserved, version, compatible, _, strings_size, size_17 = (
            _HEADER.unpack(header)
        )
        if not version >= LAST_COMPATIBLE or compatible > VERSION:
            why = f"is of version {version}; 16 and 17 can be read"
            self._fail(f"{why} (`dtc -I dtb -O dtb -V 17` converts it)")
        if not _HEADER_16_BYTES <= size <= len(self._blob):
            self._fail(f"has {len(self._blob)} bytes, and says {size}")
        self._blob = self._blob[:size]
        structure_size = size_17 if version >= VERSION else max(0, size - structure)
        self._check_block("structure", structure, structure_size, 4)
        self._check_block("strings", strings, strings_size, 1)
        reservations = self._reservations(reserved)
        self._at, self._end = structure, structure + structure_size
        self._strings = self._blob[strings : strings + strings_size]
        return tree_of(self._structure(), reservations, self._problems)

    def _check_block(self, name: str, offset: int, size: int, alignment: int) -> None:
        if offset % alignment:
            self._fail(f"the {name} block at {offset:#x} is not aligned")
        if offset < _HEADER_16_BYTES or offset + size > len(self._blob):
            self._fail(f"the {name} block at {offset:#x} with {size} bytes is not within it")

    def _reservations(self, offset: int) -> tuple[tuple[int, int], ...]:
        self._check_block("memory reservation", offset, _RESERVED.size, 8)
        found: list[tuple[int, int]] = []
        while (entry := _RESERVED.unpack_from(self._blob, offset)) != (0, 0):
            found.append(entry)
            offset += _RESERVED.size
            if offset + _RESERVED.size > len(self._blob):
                self._fail("the memory reservation block has no end")
        return tuple(found)

    def _structure(self) -> DtsNode:
        root: DtsNode | None = None
        while (token := self._word()) != _END:
            if token == _BEGIN_NODE:
                if root is not None:
                    self._fail("has a second root")
                self._begin()
            elif token == _PROP:
                self._property()
            elif token == _END_NODE:
                root = self._end_of_node()
            elif token != _NOP:
                self._fail(f"has the unknown token {token:#x} at {self._at - 4:#x}")
        if root is None:
            self._fail("ends within a node" if self._open else "has no root")
        return root

    def _begin(self) -> None:
        end = self._blob.find(b"\0", self._at, self._at + limits.DTS_NAME_BYTES_MAX + 1)
        if end < 0 or end >= self._end:
            self._fail(f"a name of a node is longer than {limits.DTS_NAME_BYTES_MAX} characters")
        name = self._name(self._blob[self._at : end])
        self._at = _aligned(end + 1)
        self._node_count += 1
        if self._node_count > limits.DTS_NODES_MAX:
            self._fail(f"more than {limits.DTS_NODES_MAX} nodes")
        if len(self._open) >= limits.DTS_DEPTH_MAX:
            self._fail(f"nodes nested deeper than {limits.DTS_DEPTH_MAX}")
        if not self._open:
            self._open.append(_OpenNode("/"))  # whatever name it has, mostly none
            return
        parent = self._open[-1]
        if not name:
            self._fail("a node has no name")
        if name in parent.children:
            self._fail(f"the node {name} is there twice")
        self._open.append(_OpenNode(f"{parent.path.rstrip('/')}/{name}"))

    def _end_of_node(self) -> DtsNode | None:
        if not self._open:
            self._fail(f"a node ends at {self._at - 4:#x} that never began")
        done = self._open.pop()
        children = tuple(done.children.values())
        node = DtsNode(done.path, self._place, done.properties, children)
        if not self._open:
            return node
        self._open[-1].children[node.name] = node
        return None

    def _property(self) -> None:
        if not self._open:
            self._fail(f"a property at {self._at - 4:#x} is in no node")
        node = self._open[-1]
        if self._at + _PROPERTY.size > self._end:
            self._fail("ends within a property")
        size, name_at = _PROPERTY.unpack_from(self._blob, self._at)
        begin = self._at + _PROPERTY.size
        if size > self._end - begin:
            self._fail(f"a value of {size} bytes at {begin:#x} is not within it")
        end = self._strings.find(b"\0", name_at, name_at + limits.DTS_NAME_BYTES_MAX + 1)
        if end < 0:
            self._fail(f"the name of a property at {name_at:#x} is not within the strings")
        name = self._name(self._strings[name_at:end])
        if not name:
            self._fail("a property has no name")
        if name in node.properties:
            self._fail(f"the property {name} is there twice")
        if node.children:
            self._fail(f"the property {name} comes after a node")
        data = self._blob[begin : begin + size]
        node.properties[name] = DtsProperty(self._place, data, Kind.BYTES)
        self._at = _aligned(begin + size)

    def _name(self, name: bytes) -> str:
        if not _NAME_CHARACTERS.issuperset(name):
            self._fail(f"{shorten(name.decode('latin-1'))} is no name")
        return name.decode("ascii")

    def _word(self) -> int:
        if self._at + _WORD.size > self._end:
            self._fail("the structure has no end")
        (word,) = _WORD.unpack_from(self._blob, self._at)
        self._at += _WORD.size
        return int(word)

    def _fail(self, why: str) -> NoReturn:
        what = f"device tree blob, in {self._open[-1].path}" if self._open else "device tree blob"
        raise self._problems.failure(0, what, why)


# --- writing --------------------------------------------------------------------------------------


def write_blob(root: DtsNode, reserved: Iterable[tuple[int, int]] = ()) -> bytes:
    """A blob of version 17 of a tree. The same tree gives the same bytes."""
    strings = bytearray()
    offsets: dict[str, int] = {}
    structure = bytearray()

    def write(node: DtsNode) -> None:
        name = b"" if node.path == "/" else node.name.encode()
        structure.extend(_WORD.pack(_BEGIN_NODE) + _padded(name + b"\0"))
        for name_of, found in node.properties.items():
            if name_of not in offsets:
                offsets[name_of] = len(strings)
                strings.extend(name_of.encode() + b"\0")
            head = _WORD.pack(_PROP) + _PROPERTY.pack(len(found.data), offsets[name_of])
            structure.extend(head + _padded(found.data))
        for child in node.children:
            write(child)
        structure.extend(_WORD.pack(_END_NODE))

    write(root)
    structure.extend(_WORD.pack(_END))
    reservations = b"".join(_RESERVED.pack(*entry) for entry in (*reserved, (0, 0)))
    structure_at = _HEADER.size + len(reservations)
    strings_at = structure_at + len(structure)
    header = _HEADER.pack(
        int.from_bytes(BLOB_MAGIC, "big"),
        strings_at + len(strings),
        structure_at,
        strings_at,
        _HEADER.size,
        VERSION,
        LAST_COMPATIBLE,
        0,  # the processor to boot on
        len(strings),
        len(structure),
    )
    return header + reservations + bytes(structure) + bytes(strings)


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")
