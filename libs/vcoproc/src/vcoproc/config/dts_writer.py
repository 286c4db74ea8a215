"""Plain trees to device-tree source. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vcoproc.config.trees import DtsNode, DtsProperty, Kind

_PLAIN: Final = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')


def write_source(root: DtsNode) -> str:
    """The source of a tree; `read_tree` and `dtc` read of it what the tree says."""
    return "/dts-v1/;\n\n" + "\n".join(_lines(root, 0)) + "\n"


def _lines(node: DtsNode, depth: int) -> Iterator[str]:
    indent = "\t" * depth
    yield f"{indent}{node.name} {{"
    for name, found in node.properties.items():
        value = _value(found)
        yield f"{indent}\t{name} = {value};" if value else f"{indent}\t{name};"
    for place, child in enumerate(node.children):
        if place or node.properties:
            yield ""
        yield from _lines(child, depth + 1)
    yield f"{indent}}};"


def _value(found: DtsProperty) -> str:
    if found.kind is Kind.TEXT:
        texts = found.data.removesuffix(b"\0").split(b"\0")
        return ", ".join(f'"{_escaped(text)}"' for text in texts)
    if found.kind is Kind.NUMBERS and found.cells is not None:
        return f"<{' '.join(f'{cell:#x}' for cell in found.cells)}>"
    return f"[{found.data.hex(' ')}]" if found.data else ""


def _escaped(text: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in text)
