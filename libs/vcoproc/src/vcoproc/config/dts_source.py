"""Where in a device-tree source something stands: lines, columns, and line marks."""

from __future__ import annotations

import bisect
import re
from typing import Final

from vcoproc import limits
from vcoproc.config.problems import Place, shown

# A line mark of a preprocessor, or what could hide one: comments, strings, character literals. One
# that is not closed reaches to the end, so that no text makes the search begin again and again.
_MARK_RE: Final = re.compile(
    r"""/\*.*?(?:\*/|\Z) | //[^\n]* | "(?:[^\\"]|\\.)*+"? | '(?:[^\\'\n]|\\.)*+'?
      | ^\#(?:line)?[ \t]+(?P<line>[0-9]{1,9})[ \t]+"(?P<file>(?:[^\\"\n]|\\.)*)"[^\n]*""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


class DtsSource:
    """A file that is being read. resume_at: where to go on in it after an included one."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.resume_at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._marks = _marks(text)

    def line_at(self, position: int) -> int:
        return bisect.bisect_left(self._newlines, position) + 1

    def column_at(self, position: int) -> int:
        line = self.line_at(position)
        return position - (self._newlines[line - 2] if line > 1 else -1)

    def place_at(self, position: int) -> Place:
        line = self.line_at(position)
        at = bisect.bisect_right(self._marks, (position, "", 0)) - 1
        if at < 0:
            return Place(self.path, line)
        end, file, marked_line = self._marks[at]
        return Place(file, max(0, marked_line + line - self.line_at(end) - 1))


def _marks(text: str) -> list[tuple[int, str, int]]:
    """Where each line mark ends, and the file and line that it gives to the next line."""
    if not re.search(r"^#(line)?[ \t]+[0-9]", text, re.MULTILINE):
        return []
    return [
        (match.end(), shown(match["file"][: limits.FILE_NAME_BYTES_MAX]), int(match["line"]))
        for match in _MARK_RE.finditer(text)
        if match["line"]
    ]
