"""The device-tree fragment by which a domain's drivers find its vcoprocs. Pure.

Its form is that of a partial device tree for xl's key ``device_tree``: xl copies /passthrough, with
all below it, and /aliases into the tree that it makes for the guest, and nothing else. The rest is
for who compiles it or uses it alone: the memory of the domain, and a stand-in for the interrupt
controller of the guest with the number (phandle) that Xen gives to the real one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vcoproc.config.problems import Place
from vcoproc.config.trees import DtsNode, DtsProperty, Kind

GUEST_PHANDLE_GIC: Final = 65_000
"""The phandle of the interrupt controller in every guest: xen/include/public/device_tree_defs.h."""
_SPI: Final = 0
_SPI_FIRST: Final = 32
"""Number of the first SPI; the binding arm,gic counts from there."""
_EDGE_RISING: Final = 1
_LEVEL_HIGH: Final = 4
_NOWHERE: Final = Place("", 0)


@dataclass(frozen=True, slots=True)
class GuestRange:
    """A register range in the domain. mapped: plain memory, not trapped."""

    name: str
    ipa: int
    size_bytes: int
    mapped: bool


@dataclass(frozen=True, slots=True)
class GuestLine:
    """An interrupt line. irq: the number in the domain, 32 or more. level: else edge, rising."""

    name: str
    irq: int
    level: bool


@dataclass(frozen=True, slots=True)
class GuestVcoproc:
    """A vcoproc as its driver sees it; it has one range at least.

    coproc: identifier of the coproc that it is an instance of. clock_hz and private_bytes: None
    where nobody knows.
    """

    name: str
    coproc: str
    compatible: str
    ranges: tuple[GuestRange, ...]
    lines: tuple[GuestLine, ...]
    clock_hz: int | None
    private_bytes: int | None


def guest_tree(vcoprocs: Sequence[GuestVcoproc], memory: Sequence[tuple[int, int]]) -> DtsNode:
    """The fragment of a domain. memory: address and size of each of its memory regions."""
    nodes = [_vcoproc(vcoproc) for vcoproc in vcoprocs]
    aliases = {f"vcoproc{index}": _text(node.path) for index, node in enumerate(nodes)}
    controller = {
        "#address-cells": _numbers(0),
        "#interrupt-cells": _numbers(3),
        "interrupt-controller": _empty(),
        "phandle": _numbers(GUEST_PHANDLE_GIC),
    }
    bus = {
        "compatible": _text("simple-bus"),
        "ranges": _empty(),
        "#address-cells": _numbers(2),
        "#size-cells": _numbers(2),
        "interrupt-parent": _numbers(GUEST_PHANDLE_GIC),
    }
    children = [_node("/aliases", aliases), _node("/interrupt-controller", controller)]
    for ipa, size_bytes in memory:
        properties = {"device_type": _text("memory"), "reg": _addresses((ipa, size_bytes))}
        children.append(_node(f"/memory@{ipa:x}", properties))
    children.append(_node("/passthrough", bus, nodes))
    cells = {"#address-cells": _numbers(2), "#size-cells": _numbers(2)}
    return _node("/", cells, children)


def _vcoproc(vcoproc: GuestVcoproc) -> DtsNode:
    properties = {
        "compatible": _text(vcoproc.compatible),
        "label": _text(vcoproc.name),
        "xen,vcoproc": _text(vcoproc.coproc),
        "reg": _addresses(*((place.ipa, place.size_bytes) for place in vcoproc.ranges)),
        "reg-names": _text(*(place.name for place in vcoproc.ranges)),
    }
    mapped = [place.name for place in vcoproc.ranges if place.mapped]
    if mapped:
        properties["vcoproc,mapped"] = _text(*mapped)
    if vcoproc.lines:
        cells = [
            cell
            for line in vcoproc.lines
            for cell in (_SPI, line.irq - _SPI_FIRST, _LEVEL_HIGH if line.level else _EDGE_RISING)
        ]
        properties["interrupts"] = _numbers(*cells)
        properties["interrupt-names"] = _text(*(line.name for line in vcoproc.lines))
    if vcoproc.clock_hz is not None:
        high, low = divmod(vcoproc.clock_hz, 1 << 32)
        properties["clock-frequency"] = _numbers(high, low) if high else _numbers(low)
    if vcoproc.private_bytes is not None:
        properties["vcoproc,private-memory"] = _numbers(vcoproc.private_bytes)
    return _node(f"/passthrough/coproc@{vcoproc.ranges[0].ipa:x}", properties)


def _node(
    path: str, properties: Mapping[str, DtsProperty], children: Sequence[DtsNode] = ()
) -> DtsNode:
    return DtsNode(path, _NOWHERE, properties, tuple(children))


def _numbers(*cells: int) -> DtsProperty:
    return DtsProperty(_NOWHERE, struct.pack(f">{len(cells)}I", *cells), Kind.NUMBERS)


def _addresses(*pairs: tuple[int, int]) -> DtsProperty:
    """Addresses and sizes, two cells each."""
    data = b"".join(struct.pack(">2Q", *pair) for pair in pairs)
    return DtsProperty(_NOWHERE, data, Kind.NUMBERS)


def _text(*texts: str) -> DtsProperty:
    return DtsProperty(_NOWHERE, b"".join(text.encode() + b"\0" for text in texts), Kind.TEXT)


def _empty() -> DtsProperty:
    return DtsProperty(_NOWHERE, b"", Kind.BYTES)
