"""Exit codes of the `vcoproc` command, and what they mean."""

from __future__ import annotations

from typing import Final

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_BUG: Final = 70
EXIT_OUTPUT: Final = 74
"""As EX_IOERR of sysexits.h."""
EXIT_CODES: Final = {
    0: "done",
    EXIT_REFUSED: "refused by the cluster, or it could not be started",
    EXIT_USAGE: "wrong usage or configuration",
    EXIT_UNREACHABLE: "no cluster can be reached",
    EXIT_BUG: "a bug",
    EXIT_OUTPUT: "its output cannot be written",
}
