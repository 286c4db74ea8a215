"""What a command says of an error: its exit code, and what to do next."""

from __future__ import annotations

from typing import Final

from vcoproc.client.connection import Unreachable
from vcoproc.errors import NotFound, VcoprocError
from vcoproc_toolstack.cli.exit_codes import EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE

_USAGE_REASONS: Final = ("INVALID_ARGUMENT", "INVALID_CONFIG", "BAD_FIRMWARE")
_AGAIN: Final = "a service that died is started again by `vcoproc up`; try again"
_NEXT: Final = {
    "ALREADY_EXISTS": "choose another name, or destroy the old one first",
    "BAD_SNAPSHOT": "take a file that `save` has written, whole; docs/snapshots.md describes it",
    "INVALID_ARGUMENT": "see `--help`",
    "INVALID_CONFIG": "correct that; docs/configuration.md describes trees, domain files and SPEC",
    "LIMIT_EXCEEDED": "destroy something first, or raise the limit in the system's device tree",
    "NOT_ADMITTED": "ask for less, or give others less first; `vcoproc sched show COPROC`",
    "NOT_FOUND": "`vcoproc domain list` and `vcoproc coproc list` show what there is",
    "PEER_LOST": _AGAIN,
    "PEER_TIMEOUT": _AGAIN,
    "PERMISSION_DENIED": "ask an admin for the role; docs/access.md; `vcoproc access whoami`",
    "REVISION_GONE": "start again without --revision",
    "RUN_DIR_BUSY": "stop that process, or name another directory with --run-dir",
    "START_FAILED": "mend what it says and start again; nothing is left of this start",
    "STORE_UNAVAILABLE": "make room on the disk, or bring the database back; what runs, runs on",
    "UNAUTHENTICATED": "set VCOPROC_TLS_DIR to the directory with your certificate",
    "WATCHER_TOO_SLOW": "start again with --revision",
    "WRONG_STATE": "`vcoproc coproc list` and `vcoproc domain list` show the states",
}
_HERE: Final = {
    "authority": "make one with `vcoproc access init DIRECTORY`",
    "caller": "access.toml in that directory has the names",
    "file": "",
}
"""What to do about something that this machine does not have."""


def exit_code(error: VcoprocError) -> int:
    """The exit code of a command that ends with this error."""
    if isinstance(error, Unreachable):
        return EXIT_UNREACHABLE
    return EXIT_USAGE if error.reason in _USAGE_REASONS else EXIT_REFUSED


def next_step(error: VcoprocError) -> str:
    """What to do about an error; empty when nobody knows."""
    if isinstance(error, Unreachable):
        return "start one with `vcoproc up --tree FILE`, or name another: --run-dir or --address"
    if isinstance(error, NotFound) and error.kind in _HERE:
        return _HERE[error.kind]
    return _NEXT.get(error.reason, "")
