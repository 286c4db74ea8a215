"""The `vcoproc` command. Each command imports what it needs by itself, so that help is quick."""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig, NotFound, VcoprocError

if TYPE_CHECKING:
    from vcoproc_toolstack.cli.client import Client

_EXIT_USAGE = 2
_EPILOG = (
    "Exit codes: 0 done; 1 refused by the cluster, or it could not be started; "
    "2 wrong usage or configuration; 3 no cluster can be reached; 70 a bug."
)


class Output(enum.Enum):
    """table: for people. json: for programs, names as in the API."""

    TABLE = "table"
    JSON = "json"


class _Group(TyperGroup):
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


def _group(words: str) -> typer.Typer:
    # Without rich markup the help needs no rich, and comes in half the time.
    return typer.Typer(
        cls=_Group,
        help=words,
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group("One coprocessor, many domains: runs and steers a vcoproc cluster.")
domain_app = _group("Virtual machines with their memory and vcoprocs.")
coproc_app = _group("The shared coprocessors of this system.")
vcoproc_app = _group("What domains have of the coprocessors.")
app.add_typer(domain_app, name="domain")
app.add_typer(coproc_app, name="coproc")
app.add_typer(vcoproc_app, name="vcoproc")

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


def _run_dir(given: Path | None) -> Path:
    from vcoproc.runtime.rundir import default_run_dir

    return given or default_run_dir()


def _client(run_dir: Path | None) -> Client:
    from vcoproc_toolstack.cli.client import Client

    return Client(_run_dir(run_dir))


def _print_json(message: Any) -> None:
    from vcoproc_toolstack.cli.output import to_json

    typer.echo(to_json(message))


# --- the cluster ----------------------------------------------------------------------------------


@app.command(epilog=_EPILOG)
def up(
    tree: Annotated[Path, typer.Option("--tree", help="The system's device tree (.dts).")],
    run_dir: RunDirOption = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Coprocs to start for each template of the tree.")
    ] = 1,
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Logs, a file for each process; default: in the run directory."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="The toolstack's store; default: in the run directory."),
    ] = None,
) -> None:
    """Starts every process of a cluster on this machine, and runs until Ctrl-C."""
    from vcoproc_toolstack.cli.foreground import run_cluster
    from vcoproc_toolstack.cli.up import Cluster

    cluster = Cluster(
        _existing(tree),
        _run_dir(run_dir),
        instances=instances,
        log_dir=log_dir,
        store=store,
        report=lambda text: typer.echo(text, err=True),
    )
    run_cluster(cluster)


@app.command(epilog=_EPILOG)
def demo(
    out: Annotated[
        Path, typer.Option(help="Where filtered.wav, edges.png, timeline.png and report.json go.")
    ] = Path("demo-out"),
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Of a running cluster; default: starts one of its own."),
    ] = None,
    firmware: Annotated[
        Path | None, typer.Option(help="Folder with other builds, NAME/NAME.elf.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows three domains with three firmwares sharing one coprocessor, and checks every result."""
    import importlib

    try:
        run = importlib.import_module("vcoproc_demo.main").run
    except ModuleNotFoundError as error:
        typer.echo(f"error: the demo is not installed, it lacks {error.name}", err=True)
        typer.echo("next: pip install vcoproc-demo, or -e examples/demo in a checkout", err=True)
        raise typer.Exit(_EXIT_USAGE) from None
    code = run(run_dir=run_dir, out=out, firmware=firmware, json_output=output is Output.JSON)
    raise typer.Exit(code)


@app.command(epilog=_EPILOG)
def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and print events as they come.")
    ] = False,
    revision: Annotated[
        int | None,
        typer.Option(min=0, help="Print events after this revision; default: all that are kept."),
    ] = None,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prints what has changed in the cluster, oldest first."""
    from vcoproc_toolstack.cli.watching import print_events

    with _client(run_dir) as client:
        print_events(client, follow=follow, after=revision, json=output is Output.JSON)


# --- domains --------------------------------------------------------------------------------------

RequestIdOption = Annotated[
    str, typer.Option(help="A repeated command with the same id does nothing more.")
]


@domain_app.command("create", epilog=_EPILOG)
def domain_create(
    file: Annotated[Path, typer.Argument(help="The domain's file, xl.cfg format.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Creates a domain with its memory and all its vcoprocs, or nothing at all."""
    text = _read_config(file)
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        name = str(file) if len(os.fsencode(file)) <= limits.FILE_NAME_BYTES_MAX else file.name
        request = api.CreateDomainRequest(config=text, file_name=name, request_id=request_id)
        _show_domain(client.change("CreateDomain", request), output)


@domain_app.command("destroy", epilog=_EPILOG)
def domain_destroy(
    name: Annotated[str, typer.Argument(help="Name of the domain.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Destroys a domain: its vcoprocs leave their coprocs, its memory is released."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        request = api.DestroyDomainRequest(name=f"domains/{name}", request_id=request_id)
        answer = client.change("DestroyDomain", request)
    if output is Output.JSON:
        _print_json(answer)
    else:
        typer.echo(f"domain {name} is destroyed")


@domain_app.command("list", epilog=_EPILOG)
def domain_list(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists all domains."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.list("ListDomains", api.ListDomainsRequest(), "domains")
    if output is Output.JSON:
        _print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.domains(answer)


@domain_app.command("show", epilog=_EPILOG)
def domain_show(
    name: Annotated[str, typer.Argument(help="Name of the domain.")],
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one domain: where its vcoprocs' registers and interrupts are."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.read("GetDomain", api.GetDomainRequest(name=f"domains/{name}"))
    _show_domain(answer, output)


def _show_domain(answer: Any, output: Output) -> None:
    if output is Output.JSON:
        _print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.domain(answer)


# --- coprocs and vcoprocs -------------------------------------------------------------------------


@coproc_app.command("list", epilog=_EPILOG)
def coproc_list(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists the shared coprocs."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.list("ListCoprocs", api.ListCoprocsRequest(), "coprocs")
    if output is Output.JSON:
        _print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.coprocs(answer)


@coproc_app.command("show", epilog=_EPILOG)
def coproc_show(
    name: Annotated[str, typer.Argument(help="Name of the coproc.")],
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one coproc."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.read("GetCoproc", api.GetCoprocRequest(name=f"coprocs/{name}"))
    if output is Output.JSON:
        _print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.coproc(answer)


@vcoproc_app.command("list", epilog=_EPILOG)
def vcoproc_list(
    domain: Annotated[str, typer.Option(help="Only those of this domain.")] = "",
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists vcoprocs with their state and accounting."""
    with _client(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        request = api.ListVcoprocsRequest(domain=f"domains/{domain}" if domain else "")
        answer = client.list("ListVcoprocs", request, "vcoprocs")
    if output is Output.JSON:
        _print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.vcoprocs(answer.vcoprocs)


# --- files and the end ----------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    """Raises: InvalidArgument (an operator's mistake in what was typed, not in the cluster)."""
    if not path.exists():
        raise InvalidArgument(str(path), "there is no such file")
    return path


def _read_config(path: Path) -> str:
    from vcoproc.config.files import read_source

    try:
        return read_source(path).decode()
    except NotFound:
        raise InvalidArgument(str(path), "there is no such file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = ConfigProblem(str(path), line, "file", "is not UTF-8 text")
        raise InvalidConfig([problem]) from None


def main() -> None:
    """Entry point of `vcoproc`."""
    try:
        app(prog_name="vcoproc")
    except Exception as error:  # the one place that catches everything
        import traceback

        traceback.print_exc()
        typer.echo(f"error: a bug in vcoproc: {error!r}", err=True)
        sys.exit(70)


if __name__ == "__main__":
    main()
