"""Device-tree source to plain data, with the line of every node and property.

Theory of operation: `devicetree.dtlib` (the reader of Zephyr, release 0.0.2) does the parsing. It
is written for trees that one trusts: it opens files that the source names, recurses as deep as the
source says, computes ``1 << (1 << 40)``, and knows lines only while it parses. `_BoundedTree` is
that reader without files, with a bound on each of these, and with lines. It is the only user of
dtlib, relies on its inner methods, and so the distribution pins the release.

Not handled: /include/, /incbin/ and /plugin/, all refused; compiled trees (blobs), refused;
``#line`` marks, ignored: lines are those of the file that was given.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from devicetree import dtlib

from vcoproc import limits
from vcoproc.config.problems import Problems, decode_source

BLOB_MAGIC: Final = b"\xd0\x0d\xfe\xed"
"""First bytes of a compiled tree: Devicetree Specification 0.4, section 5.2."""

_MASK_64: Final = (1 << 64) - 1
_CELL_TYPES: Final = frozenset(
    {
        dtlib.Type.NUM,
        dtlib.Type.NUMS,
        dtlib.Type.PHANDLE,
        dtlib.Type.PHANDLES,
        dtlib.Type.PHANDLES_AND_NUMS,
    }
)
_STRING_TYPES: Final = frozenset({dtlib.Type.STRING, dtlib.Type.STRINGS, dtlib.Type.PATH})


@dataclass(frozen=True, slots=True)
class DtsProperty:
    """A property. cells: its 32-bit numbers, when it is made of them. strings: likewise.

    Both are None for one without a value (``xen,coproc;``) or of another make.
    """

    line: int
    cells: tuple[int, ...] | None
    strings: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class DtsNode:
    path: str
    line: int
    properties: dict[str, DtsProperty]
    children: tuple[DtsNode, ...]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2] or "/"


@dataclass(frozen=True, slots=True)
class DtsTree:
    """A parsed tree. nodes: by path, parents first. aliases and phandles: to paths."""

    nodes: dict[str, DtsNode]
    aliases: dict[str, str]
    phandles: dict[int, str]

    def parent(self, node: DtsNode) -> DtsNode | None:
        """The node above, None for the root."""
        return None if node.path == "/" else self.nodes[node.path.rpartition("/")[0] or "/"]


def read_tree(source: str | bytes, file_name: str) -> DtsTree:
    """Parses device-tree source.

    Raises:
        InvalidConfig: not device-tree source; carries the one problem at which the parser stopped.
    """
    problems = Problems(file_name)
    if isinstance(source, bytes) and source.startswith(BLOB_MAGIC):
        why = "is a compiled device tree; give its source (.dts), it need not be compiled"
        raise problems.failure(0, "file", why)
    text = decode_source(source, file_name)
    tree = _BoundedTree(text, file_name)
    try:
        tree.parse()
        return _to_plain(tree)
    except _Refused as error:
        raise problems.failure(error.line, "device tree", str(error)) from None
    except dtlib.DTError as error:
        raise problems.failure(
            tree.line_of_message(str(error)), "device tree", str(error)
        ) from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        # What dtlib lets out on source that it did not expect: `089` and `1 << -1` (ValueError),
        # /delete-node/ of the root (AttributeError) or of a node twice (KeyError).
        raise problems.failure(tree.line_now(), "device tree", f"malformed: {error}") from error


class _Refused(dtlib.DTError):  # type: ignore[misc]
    """A parse error with its line."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


class _BoundedTree(dtlib.DT):  # type: ignore[misc]
    """dtlib's parser without files and with bounds. Methods with a leading _ override dtlib's."""

    def __init__(self, text: str, file_name: str) -> None:
        # What DT.__init__ sets, without opening a file; parse() does the rest of it.
        self.filename = file_name
        self._include_path: list[str] = []
        self._force = False
        self._file_contents = text
        self._tok_i = self._tok_end_i = 0
        self._filestack: list[Any] = []
        self.alias2node: dict[str, Any] = {}
        self._lexer_state = dtlib._DEFAULT
        self._saved_token: Any = None
        self._lineno = 1
        self._root: Any = None

        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._token_count = self._node_count = self._label_count = self._reference_count = 0
        self._value_tokens = self._value_references = 0
        self._open_nodes: list[Any] = []
        self._expression_depth = 0
        self._by_label: dict[str, Any] = {}
        self._label_lines: dict[str, int] = {}
        self._reference_lines: dict[str, int] = {}
        self._name_lines: dict[tuple[Any, str], int] = {}

    def parse(self) -> None:
        self._parse_dt()
        self._register_phandles()
        self._fixup_props()
        self._register_aliases()
        self._remove_unreferenced()
        self._register_labels()

    # --- lines ------------------------------------------------------------------------------------

    def _line_at(self, position: int) -> int:
        return bisect.bisect_left(self._newlines, position) + 1

    def line_now(self) -> int:
        return self._line_at(self._tok_i)

    def line_of(self, node: Any, name: str) -> int:
        """Where the property or child `name` of a node stands; 0 when dtlib made it."""
        return self._name_lines.get((node, name), 0)

    def node_line(self, node: Any) -> int:
        return 1 if node.parent is None else self.line_of(node.parent, node.name)

    def line_of_message(self, message: str) -> int:
        """The line of an error that dtlib found after parsing, from the names in its message."""
        if match := re.search(r"undefined node label '([^']*)'", message):
            return self._reference_lines.get(match[1], 0)
        if match := re.match(r"Label '([^']*)' appears", message):
            return self._label_lines.get(match[1], 0)
        match = re.search(r"property '([^']*)' on (/[^ ]*) ", message)
        match = match or re.match(r"/aliases: alias (property) name '([^']*)'", message)
        name, path = (match[1], match[2]) if match else ("", message.partition(": ")[0])
        if name == "property":
            name, path = path, "/aliases"
        for node in self.node_iter():
            if node.path == path:
                return self.line_of(node, name) or self.node_line(node)
        return 0

    def _parse_error(self, s: object) -> NoReturn:
        if isinstance(s, _Refused):
            raise s
        line = self.line_now()
        column = self._tok_i - (self._newlines[line - 2] if line > 1 else -1)
        raise _Refused(line, f"column {column}: {s}")

    # --- bounds -----------------------------------------------------------------------------------

    def _next_token(self) -> Any:
        fresh = self._saved_token is None
        token = super()._next_token()
        if fresh:
            self._note(token)
        return token

    def _note(self, token: Any) -> None:
        self._token_count += 1
        self._value_tokens += 1
        if self._token_count > limits.DTS_TOKENS_MAX:
            self._parse_error(f"more than {limits.DTS_TOKENS_MAX} tokens")
        if token.id == dtlib._T.PROPNODENAME:
            self._value_tokens = self._value_references = 0
            if len(token.val) > limits.DTS_NAME_BYTES_MAX:
                self._parse_error(f"name longer than {limits.DTS_NAME_BYTES_MAX} characters")
            if self._open_nodes:
                self._name_lines[self._open_nodes[-1], token.val] = self.line_now()
        elif token.id == dtlib._T.LABEL:
            self._label_count += 1
            self._label_lines[token.val] = self.line_now()
        elif token.id == dtlib._T.REF:
            self._reference_count += 1
            self._value_references += 1
            self._reference_lines.setdefault(token.val, self.line_now())
        elif token.val in ("{", "}"):
            self._value_tokens = self._value_references = 0
        if self._value_tokens > limits.DTS_PROPERTY_TOKENS_MAX:
            self._parse_error(f"value longer than {limits.DTS_PROPERTY_TOKENS_MAX} tokens")
        if self._value_references > limits.DTS_PROPERTY_REFERENCES_MAX:
            self._parse_error(f"more than {limits.DTS_PROPERTY_REFERENCES_MAX} references at once")
        if self._label_count > limits.DTS_LABELS_MAX:
            self._parse_error(f"more than {limits.DTS_LABELS_MAX} labels")
        if self._reference_count > limits.DTS_REFERENCES_MAX:
            self._parse_error(f"more than {limits.DTS_REFERENCES_MAX} references")

    def _parse_node(self, node: Any) -> Any:
        self._node_count += 1
        if self._node_count > limits.DTS_NODES_MAX:
            self._parse_error(f"more than {limits.DTS_NODES_MAX} nodes")
        if len(self._open_nodes) >= limits.DTS_DEPTH_MAX:
            self._parse_error(f"nodes nested deeper than {limits.DTS_DEPTH_MAX}")
        for label in node.labels:
            self._by_label.setdefault(label, node)
        self._open_nodes.append(node)
        result = super()._parse_node(node)
        self._open_nodes.pop()
        return result

    def _ref2node(self, s: str) -> Any:
        # dtlib walks the whole tree for each reference; the index makes that the exception.
        node = self._by_label.get(s)
        if node is not None and _is_attached(node):
            return node
        if self._root is None:
            raise dtlib.DTError(f"undefined node label '{s}'")
        node = super()._ref2node(s)
        self._by_label[s] = node
        return node

    def _eval_ternary(self) -> int:
        return self._deeper(super()._eval_ternary)

    def _eval_unary(self) -> int:
        return self._deeper(super()._eval_unary)

    def _deeper(self, evaluate: Any) -> int:
        if self._expression_depth >= 2 * limits.DTS_DEPTH_MAX:  # a bracket passes here twice
            self._parse_error(f"expression nested deeper than {limits.DTS_DEPTH_MAX}")
        self._expression_depth += 1
        value = int(evaluate())
        self._expression_depth -= 1
        return value

    def _eval_shift(self) -> int:
        # In 64 bits, as dtc computes; dtlib would build the number whatever its length.
        value = int(self._eval_add())
        while True:
            left = self._check_token("<<")
            if not left and not self._check_token(">>"):
                return value
            count = int(self._eval_add())
            if not 0 <= count < 64:
                self._parse_error("shift by less than 0 or more than 63")
            value = (value << count) & _MASK_64 if left else value >> count

    def _enter_file(self, filename: str) -> NoReturn:
        self._parse_error("/include/ is not supported: give one file")

    def _parse_incbin(self, prop: Any) -> NoReturn:
        self._parse_error("/incbin/ is not supported")


def _is_attached(node: Any) -> bool:
    """Whether no /delete-node/ has taken a node or one above it out of the tree."""
    while node.parent is not None:
        if node.parent.nodes.get(node.name) is not node:
            return False
        node = node.parent
    return True


def _to_plain(tree: _BoundedTree) -> DtsTree:
    nodes: dict[str, DtsNode] = {}

    def convert(node: Any) -> DtsNode:
        properties = {
            name: _property(tree.line_of(node, name), value) for name, value in node.props.items()
        }
        children = tuple(convert(child) for child in node.nodes.values())
        return DtsNode(node.path, tree.node_line(node), properties, children)

    def index(node: DtsNode) -> None:
        nodes[node.path] = node
        for child in node.children:
            index(child)

    index(convert(tree.root))
    aliases = {name: node.path for name, node in tree.alias2node.items()}
    phandles = {number: node.path for number, node in tree.phandle2node.items()}
    return DtsTree(nodes, aliases, phandles)


def _property(line: int, value: Any) -> DtsProperty:
    kind, blob = value.type, value.value
    if kind in _CELL_TYPES:
        cells = tuple(int.from_bytes(blob[i : i + 4], "big") for i in range(0, len(blob), 4))
        return DtsProperty(line, cells, None)
    if kind in _STRING_TYPES:
        return DtsProperty(line, None, tuple(blob.decode("utf-8", "replace").split("\0")[:-1]))
    return DtsProperty(line, None, None)
