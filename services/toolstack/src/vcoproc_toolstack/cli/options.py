"""What the commands of all groups share: their groups, options and ways to answer."""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from vcoproc.errors import VcoprocError
from vcoproc_toolstack.cli.exit_codes import EXIT_CODES, EXIT_OUTPUT

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from vcoproc.client import Cluster

EPILOG = "Exit codes: " + "; ".join(f"{code} {words}" for code, words in EXIT_CODES.items()) + "."


class Output(enum.Enum):
    """table: for people. json and yaml: for programs, names as in the API."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(slots=True)
class Reach:
    """How a cluster is reached that is not on this machine; set by options of `vcoproc`."""

    address: str | None = None
    tls_dir: Path | None = None


REACH: Final = Reach()


class Group(TyperGroup):
    """Turns our errors into words on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VcoprocError as error:
            raise typer.Exit(complain(error)) from None
        except BrokenPipeError:  # whoever reads has enough, as `head` has
            drop_output()
            raise typer.Exit(EXIT_OUTPUT) from None


def drop_output() -> None:
    """What is still to be written goes nowhere: else it would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: VcoprocError) -> int:
    """Says on stderr what is wrong and what to do next; gives the exit code."""
    from vcoproc_toolstack.cli.advice import exit_code, next_step

    typer.echo(f"error: {error} [{error.reason}]", err=True)
    if advice := next_step(error):
        typer.echo(f"next: {advice}", err=True)
    return exit_code(error)


def group(words: str, *, completion: bool = False) -> typer.Typer:
    """A group of commands. completion: with options that set up a shell."""
    # Without rich markup the help needs no rich, and comes in half the time.
    return typer.Typer(
        cls=Group,
        help=words,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


def complete_domains(incomplete: str) -> list[str]:
    """Names of domains, for the shell."""
    return _complete(incomplete, lambda cluster: cluster.domains())


def complete_coprocs(incomplete: str) -> list[str]:
    """Names of coprocs, for the shell."""
    return _complete(incomplete, lambda cluster: cluster.coprocs())


def complete_vcoprocs(incomplete: str) -> list[str]:
    """DOMAIN/VCOPROC, for the shell."""
    return _complete(incomplete, lambda cluster: cluster.vcoprocs())


def _complete(incomplete: str, ask: Callable[[Cluster], Iterable[Any]]) -> list[str]:
    from vcoproc.client.names import short_name

    try:
        with connect(None) as cluster:
            names = [short_name(each.name) for each in ask(cluster)]
    except VcoprocError:  # a shell must not be disturbed by a cluster that does not answer
        return []
    return [name for name in names if name.startswith(incomplete)]


DomainArgument = Annotated[
    str,
    typer.Argument(metavar="DOMAIN", help="Name of the domain.", autocompletion=complete_domains),
]
CoprocArgument = Annotated[
    str,
    typer.Argument(metavar="COPROC", help="Name of the coproc.", autocompletion=complete_coprocs),
]
VcoprocArgument = Annotated[
    str,
    typer.Argument(
        metavar="DOMAIN/VCOPROC", help="Name of the vcoproc.", autocompletion=complete_vcoprocs
    ),
]
FilterOption = Annotated[
    str,
    typer.Option(
        "--filter", "-f", metavar="TERMS", help='Only those, as in "state=RUNNING name=au*".'
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        # Not by `envvar`: what the environment says must not look as if somebody had said it here.
        help="Run directory of the cluster; default: $VCOPROC_RUN_DIR, or vcoproc in "
        "$XDG_RUNTIME_DIR, or in /dev/shm.",
    ),
]
OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people; json or yaml for programs.")
]
RequestIdOption = Annotated[
    str, typer.Option(help="A repeated command with the same id does nothing more.")
]


def run_dir_of(given: Path | None) -> Path:
    """The run directory that is meant."""
    from vcoproc.runtime.rundir import default_run_dir

    return given or default_run_dir()


def connect(run_dir: Path | None) -> Cluster:
    """The cluster that is meant. Raises: InvalidArgument (two are named)."""
    from vcoproc.client import Cluster, Tls

    tls = Tls.of_directory(REACH.tls_dir) if REACH.tls_dir else None
    return Cluster(run_dir, address=REACH.address, tls=tls)


def print_data(output: Output, answer: Message | Mapping[str, Any]) -> bool:
    """Prints an answer of the cluster for programs; False when it is to be a table for people."""
    if output is Output.TABLE:
        return False
    from vcoproc_toolstack.cli.output import to_text

    typer.echo(to_text(answer, output.value).rstrip("\n"))
    return True


def print_item(output: Output, item: Message) -> bool:
    """As `print_data`, for one of many that come one after the other: a line, or a document."""
    if output is Output.TABLE:
        return False
    from vcoproc_toolstack.cli.output import to_item

    typer.echo(to_item(item, output.value).rstrip("\n"))
    return True


@contextmanager
def busy(words: str) -> Iterator[None]:
    """Tells somebody at a terminal that this takes a while."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(words):
        yield
