"""What the commands of all groups share: their groups, options and ways to answer."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vcoproc.errors import VcoprocError

if TYPE_CHECKING:
    from vcoproc_toolstack.cli.client import Client

EPILOG = (
    "Exit codes: 0 done; 1 refused by the cluster, or it could not be started; "
    "2 wrong usage or configuration; 3 no cluster can be reached; 70 a bug."
)


class Output(enum.Enum):
    """table: for people. json: for programs, names as in the API."""

    TABLE = "table"
    JSON = "json"


class Group(TyperGroup):
    """Turns our errors into words on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VcoprocError as error:
            raise typer.Exit(complain(error)) from None


def complain(error: VcoprocError) -> int:
    """Says on stderr what is wrong and what to do next; gives the exit code."""
    from vcoproc_toolstack.cli.client import exit_code, next_step

    typer.echo(f"error: {error} [{error.reason}]", err=True)
    if advice := next_step(error):
        typer.echo(f"next: {advice}", err=True)
    return exit_code(error)


def group(words: str) -> typer.Typer:
    """A group of commands."""
    # Without rich markup the help needs no rich, and comes in half the time.
    return typer.Typer(
        cls=Group,
        help=words,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        envvar="VCOPROC_RUN_DIR",
        help="Run directory of the cluster; default: vcoproc in $XDG_RUNTIME_DIR, or in /dev/shm.",
    ),
]
OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json for programs.")
]
RequestIdOption = Annotated[
    str, typer.Option(help="A repeated command with the same id does nothing more.")
]


def run_dir_of(given: Path | None) -> Path:
    """The run directory that is meant."""
    from vcoproc.runtime.rundir import default_run_dir

    return given or default_run_dir()


def connect(run_dir: Path | None) -> Client:
    """A client of the cluster that is meant."""
    from vcoproc_toolstack.cli.client import Client

    return Client(run_dir_of(run_dir))


def print_json(message: Any) -> None:
    """Prints an answer of the cluster for programs."""
    from vcoproc_toolstack.cli.output import to_json

    typer.echo(to_json(message))
