"""Device trees, source or blob, to plain data."""

from __future__ import annotations

from typing import Any, Final

from devicetree import dtlib

from vcoproc.config.dts_parser import BoundedTree, Refused
from vcoproc.config.fdt import BLOB_MAGIC, read_blob
from vcoproc.config.files import IncludedFiles
from vcoproc.config.problems import Problems, decode_source
from vcoproc.config.trees import DtsNode, DtsProperty, DtsTree, Kind, tree_of

_WHAT: Final = "device tree"
_NUMBERS: Final = frozenset(
    {dtlib._MarkerType.UINT32, dtlib._MarkerType.UINT64, dtlib._MarkerType.PHANDLE}
)
_TEXT: Final = frozenset({dtlib._MarkerType.STRING, dtlib._MarkerType.PATH})


def read_tree(source: str | bytes, file_name: str, files: IncludedFiles | None = None) -> DtsTree:
    """Parses device-tree source, or a flattened tree (blob), which its first bytes tell.

    Args:
        files: what the source may include; None for nothing.

    Raises:
        InvalidConfig: not a device tree; carries every syntax error, or all that its references,
            aliases and phandles have against them. `checked_tree` gives what can be read all the
            same.
    """
    problems = Problems(file_name)
    tree = checked_tree(source, file_name, problems, files)
    problems.raise_if_any()
    return tree


def checked_tree(
    source: str | bytes, file_name: str, problems: Problems, files: IncludedFiles | None = None
) -> DtsTree:
    """The same, but notes references that nothing has, so that more can be found that is wrong.

    Raises:
        InvalidConfig: not a device tree; carries everything that was noted.
    """
    if isinstance(source, bytes) and source.startswith(BLOB_MAGIC):
        return read_blob(source, file_name, problems)
    tree = BoundedTree(decode_source(source, file_name), file_name, files)
    try:
        _parse(tree)
    except Refused as error:
        tree.errors.append((error.place, str(error)))
    for place, why in tree.errors:
        problems.add(place, _WHAT, why)
    problems.raise_if_any()  # what else it says may be because of these
    labels = [*tree.label2node]
    for name, place in tree.undefined.items():
        if name.startswith("{"):
            problems.add(place, _WHAT, f"there is no node {name[1:-1]}")
        else:
            problems.add(place, _WHAT, f"undefined node label {name!r}", near=(name, labels))
    root = _plain_node(tree, tree.root)
    reserved = tuple((address, size) for _, address, size in tree.memreserves)
    return tree_of(root, reserved, problems)


def _parse(tree: BoundedTree) -> None:
    """Raises: Refused (nothing more can be read, whatever the reason)."""
    try:
        tree.parse()
    except Refused:
        raise
    except dtlib.DTError as error:
        raise Refused(tree.place_of_message(str(error)), str(error)) from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        # What dtlib lets out on source that it did not expect: `089` (ValueError), /delete-node/
        # of the root (AttributeError) or of a node twice (KeyError).
        raise Refused(tree.place_now(), f"malformed: {error}") from error


def _plain_node(tree: BoundedTree, node: Any) -> DtsNode:
    properties = {
        name: DtsProperty(
            tree.place_of(node, name),
            bytes(value.value),
            _kind(value),
            resolved=not tree.refers_to_nothing(value),
        )
        for name, value in node.props.items()
    }
    children = tuple(_plain_node(tree, child) for child in node.nodes.values())
    return DtsNode(node.path, tree.node_place(node), properties, children)


def _kind(value: Any) -> Kind:
    makes = {marker[1] for marker in value._markers} - {dtlib._MarkerType.LABEL}
    if makes and makes <= _NUMBERS:
        return Kind.NUMBERS
    return Kind.TEXT if makes and makes <= _TEXT else Kind.BYTES
