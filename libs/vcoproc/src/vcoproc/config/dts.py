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
        InvalidConfig: not a device tree; carries the one problem at which the parser stopped.
    """
    if isinstance(source, bytes) and source.startswith(BLOB_MAGIC):
        return read_blob(source, file_name)
    problems = Problems(file_name)
    tree = BoundedTree(decode_source(source, file_name), file_name, files)
    try:
        tree.parse()
        root = _plain_node(tree, tree.root)
        reserved = tuple((address, size) for _, address, size in tree.memreserves)
    except Refused as error:
        raise problems.failure(error.place, _WHAT, str(error)) from None
    except dtlib.DTError as error:
        place = tree.place_of_message(str(error))
        raise problems.failure(place, _WHAT, str(error)) from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        # What dtlib lets out on source that it did not expect: `089` (ValueError), /delete-node/
        # of the root (AttributeError) or of a node twice (KeyError).
        raise problems.failure(tree.place_now(), _WHAT, f"malformed: {error}") from error
    return tree_of(root, reserved, problems)


def _plain_node(tree: BoundedTree, node: Any) -> DtsNode:
    properties = {
        name: DtsProperty(tree.place_of(node, name), bytes(value.value), _kind(value))
        for name, value in node.props.items()
    }
    children = tuple(_plain_node(tree, child) for child in node.nodes.values())
    return DtsNode(node.path, tree.node_place(node), properties, children)


def _kind(value: Any) -> Kind:
    makes = {marker[1] for marker in value._markers} - {dtlib._MarkerType.LABEL}
    if makes and makes <= _NUMBERS:
        return Kind.NUMBERS
    return Kind.TEXT if makes and makes <= _TEXT else Kind.BYTES
