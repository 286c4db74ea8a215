"""The parser of device-tree source: dtlib with bounds, places, included files and dtc's arithmetic.

Theory of operation: `devicetree.dtlib` (the reader of Zephyr, release 0.0.2) does the parsing. It
is written for trees that one trusts: it opens whatever the source names, recurses as deep as the
source says, computes ``1 << (1 << 40)``, and knows lines only while it parses. `BoundedTree` is
that reader with files from `IncludedFiles` only, with a bound on each of these, with the place of
every node and property, and with numbers of 64 bits without sign, as `dtc` has them. It is the
only user of dtlib, relies on its inner methods, and so the distribution pins the release.

Lines are those of the file that was read, or what the line marks of a preprocessor say
(``# 12 "board.dts"``), as `dtc` takes them.

After a syntax error the reading goes on behind the statement that it is in, as compilers do: at the
next semicolon of the same node, or at the end of the node. A reference to nothing is noted, and is
to a node that is nowhere.

Not handled: /plugin/, refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, NoReturn

from devicetree import dtlib

from vcoproc import limits
from vcoproc.config.dts_source import DtsSource
from vcoproc.config.files import IncludedFiles, Unreadable
from vcoproc.config.problems import Place, decode_source, shown

_MASK_64: Final = (1 << 64) - 1
_OPEN: Final = dtlib._Token(dtlib._T.MISC, "{")
_WORD_RE: Final = re.compile(r".?[^\s;{}]*", re.DOTALL)
_DIRECTIVES: Final = re.compile(
    r"#(include|define|undef|if|ifdef|ifndef|elif|else|endif|error|warning|pragma)"
)


class Refused(dtlib.DTError):  # type: ignore[misc]
    """A parse error with its place, after which nothing more is read: a bound is exceeded."""

    def __init__(self, place: Place, why: str) -> None:
        super().__init__(why)
        self.place = place


class _Malformed(Refused):
    """A syntax error."""


class _Ended(Exception):
    """No text is left to go on with after a syntax error."""


class BoundedTree(dtlib.DT):  # type: ignore[misc]
    """See the top of the file. Methods with a leading _ override dtlib's, if it has them.

    Args:
        path: of the file; folders of what it includes are relative to it.
        files: None refuses what would read another file.

    Attributes:
        errors: syntax errors that were read over: place and text.
        undefined: labels and paths that are referred to and that nothing has, and where first.
    """

    def __init__(self, text: str, path: str, files: IncludedFiles | None) -> None:
        # What DT.__init__ sets, without opening a file; parse() does the rest of it.
        self.filename = path
        self._include_path: list[str] = []
        self._force = False
        self._file_contents = text
        self._tok_i = self._tok_end_i = 0
        self._filestack: list[DtsSource] = []
        self.alias2node: dict[str, Any] = {}
        self._lexer_state = dtlib._DEFAULT
        self._saved_token: Any = None
        self._lineno = 1
        self._root: Any = None

        self._path = path
        self._files = files
        self._source = DtsSource(path, text)
        self._token_count = self._node_count = self._label_count = self._reference_count = 0
        self._value_tokens = self._value_references = 0
        self._open_nodes: list[Any] = []
        self._expression_depth = 0
        self._by_label: dict[str, Any] = {}
        self._label_places: dict[str, Place] = {}
        self._reference_places: dict[str, Place] = {}
        self._name_places: dict[tuple[Any, str], Place] = {}
        self.errors: list[tuple[Place, str]] = []
        self.undefined: dict[str, Place] = {}
        self._header_read = self._all_read = self._lacks_file = False
        # The two tokens that the parser had last, and where the lexer was at the last syntax error.
        self._last = self._before = dtlib._Token(dtlib._T.BAD, "")
        self._stuck_at: tuple[DtsSource, int] | None = None

    def parse(self) -> None:
        """Reads everything. Aliases are left to the reader of the plain tree.

        When there are `errors` afterwards, the tree is not what the source means.

        Raises:
            dtlib.DTError: something is wrong after which nothing more can be read.
        """
        try:
            while not self._parse_some():
                pass
        except _Ended:
            pass
        if self.errors:
            return
        self._all_read = True
        self._register_phandles()
        self._fixup_props()
        self._remove_unreferenced()
        self._register_labels()

    # --- after an error ---------------------------------------------------------------------------

    def _parse_some(self) -> bool:
        """Reads on at the top of a file; False when a syntax error has been passed over."""
        try:
            self._parse_dt()
        except _Malformed as error:
            if not self._header_read:
                raise
            self._recover(error, stray=bool(self.errors) and _is_mark(self._last, "}"))
            return False
        return True

    def _recover(self, error: _Malformed, *, stray: bool = False) -> bool:
        """Notes a syntax error and goes to the end of its statement; False: that of the node too.

        Args:
            stray: it only is what one before it has left over.

        Raises:
            _Ended: there is no more text, or nobody would read more errors.
        """
        ended = self._last.id == dtlib._T.EOF
        if ended and (self._lacks_file or (self.errors and self._root is None)):
            raise _Ended  # what lacks at the end does so because of what was wrong before
        if not stray:
            self._note_error(error.place, str(error))
        self._expression_depth = 0
        at = (self._source, self._tok_end_i)
        if at == self._stuck_at:
            self._pass_over()
        self._stuck_at = at
        token = self._last if self._saved_token is None else self._next_token()
        if _is_mark(self._before, "}") and self._saved_token is None and not _is_mark(token, ";"):
            self._saved_token = token  # a semicolon lacks behind a node
            return False
        depth = 0
        while token.id != dtlib._T.EOF:
            if token.id == dtlib._T.BAD:
                self._pass_over()
            elif _is_mark(token, "{"):
                depth += 1
            elif _is_mark(token, "}"):
                if not depth:
                    self._check_token(";")
                    return False
                depth -= 1
            elif _is_mark(token, ";") and not depth:
                return True
            try:
                token = self._next_token()
            except _Malformed:
                self._pass_over()
        raise _Ended

    def _note_error(self, place: Place, why: str) -> None:
        if len(self.errors) >= limits.CONFIG_PROBLEMS_MAX:
            raise _Ended
        self.errors.append((place, why))

    def _pass_over(self) -> None:
        """The lexer cannot read what is next, and stays before it."""
        found = _WORD_RE.match(self._file_contents, self._tok_end_i)
        self._tok_end_i = found.end() if found else len(self._file_contents)

    # --- places -----------------------------------------------------------------------------------

    def place_now(self) -> Place:
        return self._source.place_at(self._tok_i)

    def place_of(self, node: Any, name: str) -> Place:
        """Where the property or child `name` of a node stands; its node when dtlib made it."""
        return self._name_places.get((node, name)) or self.node_place(node)

    def node_place(self, node: Any) -> Place:
        while node.parent is not None:
            if found := self._name_places.get((node.parent, node.name)):
                return found
            node = node.parent
        return Place(self._path, 1)

    def place_of_message(self, message: str) -> Place:
        """The place of an error that dtlib found after parsing, from the names in its message."""
        whole = Place(self._path, 0)
        if match := re.match(r"Label '([^']*)' appears", message):
            return self._label_places.get(match[1], whole)
        path = message.partition(": ")[0]
        for node in self.node_iter() if self._root is not None else ():
            if node.path == path:
                name = "phandle" if "phandle" in message and "phandle" in node.props else ""
                return self.place_of(node, name) if name else self.node_place(node)
        return whole

    def _parse_error(self, s: object) -> NoReturn:
        raise _Malformed(self.place_now(), self._with_column(s))

    def _refuse(self, why: str) -> NoReturn:
        """A bound is exceeded."""
        raise Refused(self.place_now(), self._with_column(why))

    def _with_column(self, why: object) -> str:
        return f"column {self._source.column_at(self._tok_i)}: {why}"

    # --- files ------------------------------------------------------------------------------------

    def _enter_file(self, filename: str) -> None:
        read = self._read(filename, "/include/")
        if read is None:
            return
        path, content = read
        here = [*self._filestack, self._source]
        if len(here) > limits.DTS_INCLUDE_DEPTH_MAX:
            self._refuse(f"files included deeper than {limits.DTS_INCLUDE_DEPTH_MAX}")
        if any(Path(path).resolve() == Path(source.path).resolve() for source in here):
            self._note_error(self.place_now(), self._with_column(f"{shown(path)} includes itself"))
            self._lacks_file = True
            return
        self._source.resume_at = self._tok_end_i
        self._filestack.append(self._source)
        self._source = DtsSource(path, decode_source(content, path))
        self._file_contents = self._source.text
        self._tok_i = self._tok_end_i = 0

    def _leave_file(self) -> None:
        self._source = self._filestack.pop()
        self._file_contents = self._source.text
        self._tok_end_i = self._source.resume_at

    def _read(self, name: str, how: str) -> tuple[str, bytes] | None:
        """Path and content of another file; None, and an error noted, when it cannot be had."""
        try:
            if self._files is not None:
                plain = self._unescape(name.encode()).decode()
                return self._files.read(plain, self._source.path)
            why = f"{how} is not supported here: give one file, or a compiled tree"
        except (Unreadable, UnicodeDecodeError) as error:
            why = f"{how}: {error}"
        self._note_error(self.place_now(), self._with_column(why))
        self._lacks_file = True
        return None

    def _parse_incbin(self, prop: Any) -> None:
        prop._add_marker(dtlib._MarkerType.UINT8)
        self._expect_token("(")
        token = self._next_token()
        if token.id != dtlib._T.STRING:
            self._parse_error("expected a file name in quotes")
        begin, size = 0, limits.CONFIG_BYTES_MAX
        if self._check_token(","):
            begin = int(self._eval_prim())
            self._expect_token(",")
            size = int(self._eval_prim())
        self._expect_token(")")
        if read := self._read(token.val, "/incbin/"):
            prop.value += read[1][begin : begin + size]

    # --- bounds -----------------------------------------------------------------------------------

    def _next_token(self) -> Any:
        fresh = self._saved_token is None
        token = super()._next_token()
        if fresh:
            self._note(token)
            self._before, self._last = self._last, token
        return token

    def _note(self, token: Any) -> None:
        self._token_count += 1
        self._value_tokens += 1
        if self._token_count > limits.DTS_TOKENS_MAX:
            self._refuse(f"more than {limits.DTS_TOKENS_MAX} tokens")
        if token.id == dtlib._T.PROPNODENAME:
            self._note_name(token.val)
        elif token.id == dtlib._T.NUM and token.val > _MASK_64:
            self._parse_error("number of more than 64 bits")
        elif token.id == dtlib._T.LABEL:
            self._label_count += 1
            self._label_places[token.val] = self.place_now()
        elif token.id == dtlib._T.REF:
            self._reference_count += 1
            self._value_references += 1
            self._reference_places.setdefault(token.val, self.place_now())
        elif token.val in ("{", "}"):
            self._value_tokens = self._value_references = 0
        if self._value_tokens > limits.DTS_PROPERTY_TOKENS_MAX:
            self._refuse(f"value longer than {limits.DTS_PROPERTY_TOKENS_MAX} tokens")
        if self._value_references > limits.DTS_PROPERTY_REFERENCES_MAX:
            self._refuse(f"more than {limits.DTS_PROPERTY_REFERENCES_MAX} references at once")
        if self._label_count > limits.DTS_LABELS_MAX:
            self._refuse(f"more than {limits.DTS_LABELS_MAX} labels")
        if self._reference_count > limits.DTS_REFERENCES_MAX:
            self._refuse(f"more than {limits.DTS_REFERENCES_MAX} references")

    def _note_name(self, name: str) -> None:
        self._value_tokens = self._value_references = 0
        if len(name) > limits.DTS_NAME_BYTES_MAX:
            self._refuse(f"name longer than {limits.DTS_NAME_BYTES_MAX} characters")
        if _DIRECTIVES.fullmatch(name):
            why = f"{name} is for the C preprocessor, which dtc does not run either"
            self._refuse(f"{why}; give --cpp, or run `cpp` first (docs/configuration.md)")
        if self._open_nodes:
            self._name_places[self._open_nodes[-1], name] = self.place_now()

    def _parse_node(self, node: Any) -> Any:
        self._node_count += 1
        if self._node_count > limits.DTS_NODES_MAX:
            self._refuse(f"more than {limits.DTS_NODES_MAX} nodes")
        if len(self._open_nodes) >= limits.DTS_DEPTH_MAX:
            self._refuse(f"nodes nested deeper than {limits.DTS_DEPTH_MAX}")
        for label in node.labels:
            self._by_label.setdefault(label, node)
        self._open_nodes.append(node)
        try:
            while not self._parse_some_of(node):
                self._saved_token = _OPEN  # as if the node began behind the bad statement
        finally:
            self._open_nodes.pop()
        return node

    def _parse_some_of(self, node: Any) -> bool:
        """Reads on in a node; False when a syntax error has been passed over."""
        try:
            super()._parse_node(node)
        except _Malformed as error:
            return not self._recover(error)
        return True

    def _parse_header(self) -> None:
        if not self._header_read:
            super()._parse_header()
            self._header_read = True

    def _ref2node(self, s: str) -> Any:
        # dtlib walks the whole tree for each reference; the index makes that the exception.
        node = self._by_label.get(s)
        if node is not None and _is_attached(node):
            return node
        if self._root is None:
            raise dtlib.DTError(f"undefined node label '{s}'")
        try:
            node = self._by_label[s] = super()._ref2node(s)
            return node
        except dtlib.DTError:
            pass
        # In values references are followed once everything has been read.
        place = self._reference_places[s] if self._all_read else self.place_now()
        self.undefined.setdefault(s, place)
        nowhere = dtlib.Node("/", None, self)
        node = nowhere.nodes["undefined"] = dtlib.Node("undefined", nowhere, self)
        return node

    def refers_to_nothing(self, value: Any) -> bool:
        """Whether a property has a reference that is undefined."""
        return any(reference in self.undefined for _, _, reference in value._markers)

    # --- numbers: 64 bits without sign, whatever is computed --------------------------------------

    def _parse_cells(self, prop: Any, n_bytes: int) -> None:
        prop._add_marker(dtlib._N_BYTES_TO_TYPE[n_bytes])
        high = (1 << 8 * n_bytes) - 1
        while True:
            token = self._peek_token()
            if token.id == dtlib._T.REF:
                self._next_token()
                if n_bytes != 4:
                    self._parse_error("references are for arrays of 32-bit numbers")
                prop._add_marker(dtlib._MarkerType.PHANDLE, token.val)
            elif token.id == dtlib._T.LABEL:
                self._next_token()
                prop._add_marker(dtlib._MarkerType.LABEL, token.val)
            elif self._check_token(">"):
                return
            else:
                number = int(self._eval_prim())
                if number > high and number | high != _MASK_64:  # the latter is negative
                    self._parse_error(f"{number:#x} does not fit in {8 * n_bytes} bits")
                prop.value += (number & high).to_bytes(n_bytes, "big")

    def _eval_ternary(self) -> int:
        return self._deeper(super()._eval_ternary)

    def _eval_unary(self) -> int:
        return self._deeper(super()._eval_unary) & _MASK_64

    def _deeper(self, evaluate: Any) -> int:
        if self._expression_depth >= 2 * limits.DTS_DEPTH_MAX:  # a bracket passes here twice
            self._refuse(f"expression nested deeper than {limits.DTS_DEPTH_MAX}")
        self._expression_depth += 1
        value = int(evaluate())
        self._expression_depth -= 1
        return value

    def _eval_shift(self) -> int:
        value = int(self._eval_add())
        while True:
            left = self._check_token("<<")
            if not left and not self._check_token(">>"):
                return value
            count = int(self._eval_add())
            if count > 63:  # nothing is left; C leaves it open, and so dtc
                self._parse_error("shift by less than 0 or more than 63")
            value = (value << count) & _MASK_64 if left else value >> count

    def _eval_add(self) -> int:
        return int(super()._eval_add()) & _MASK_64

    def _eval_mul(self) -> int:
        value = int(self._eval_unary())
        while True:
            if self._check_token("*"):
                value = value * int(self._eval_unary()) & _MASK_64
                continue
            divide = self._check_token("/")
            if not divide and not self._check_token("%"):
                return value
            divisor = int(self._eval_unary())
            if not divisor:
                self._parse_error("division by zero")
            value = value // divisor if divide else value % divisor


def _is_mark(token: Any, mark: str) -> bool:
    return bool(token.id == dtlib._T.MISC and token.val == mark)


def _is_attached(node: Any) -> bool:
    """Whether no /delete-node/ has taken a node or one above it out of the tree."""
    while node.parent is not None:
        if node.parent.nodes.get(node.name) is not node:
            return False
        node = node.parent
    return True
