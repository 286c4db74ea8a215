"""The `vcoproc` command. Each command imports what it needs by itself, so that help is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig, NotFound
from vcoproc_toolstack import target
from vcoproc_toolstack.cli.config import (
    CppOption,
    IncludeOption,
    config_app,
    domain_device_tree,
)
from vcoproc_toolstack.cli.options import (
    EPILOG,
    Output,
    OutputOption,
    RequestIdOption,
    RunDirOption,
    connect,
    group,
    print_json,
    run_dir_of,
)
from vcoproc_toolstack.cli.sched import sched_app

_EXIT_USAGE = 2

app = group("One coprocessor, many domains: runs and steers a vcoproc cluster.")
domain_app = group("Virtual machines with their memory and vcoprocs.")
coproc_app = group("The shared coprocessors of this system.")
vcoproc_app = group("What domains have of the coprocessors.")
app.add_typer(domain_app, name="domain")
app.add_typer(coproc_app, name="coproc")
app.add_typer(vcoproc_app, name="vcoproc")
app.add_typer(sched_app, name="sched")
app.add_typer(config_app, name="config")
domain_app.command("device-tree", epilog=EPILOG)(domain_device_tree)

# --- the cluster ----------------------------------------------------------------------------------


@app.command(epilog=EPILOG)
def up(
    tree: Annotated[
        Path, typer.Option("--tree", help="The system's device tree, source or compiled.")
    ],
    run_dir: RunDirOption = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Coprocs to start for each template of the tree.")
    ] = 1,
    log_dir: Annotated[
        Path | None,
        typer.Option(help="Logs, a file for each process; default: in the run directory."),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            envvar=target.VARIABLE,
            help="The toolstack's store: SQLite file or postgresql:// URL; "
            "default: a file in the run directory.",
        ),
    ] = "",
    include: IncludeOption = None,
    cpp: CppOption = False,
) -> None:
    """Starts every process of a cluster on this machine, and runs until Ctrl-C."""
    from vcoproc_toolstack.cli.foreground import run_cluster
    from vcoproc_toolstack.cli.up import Cluster

    cluster = Cluster(
        _existing(tree),
        run_dir_of(run_dir),
        instances=instances,
        log_dir=log_dir,
        store=store,
        include=include or (),
        cpp=cpp,
        report=lambda text: typer.echo(text, err=True),
    )
    run_cluster(cluster)


@app.command(epilog=EPILOG)
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


@app.command(epilog=EPILOG)
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

    with connect(run_dir) as client:
        print_events(client, follow=follow, after=revision, json=output is Output.JSON)


# --- domains --------------------------------------------------------------------------------------


@domain_app.command("create", epilog=EPILOG)
def domain_create(
    file: Annotated[Path, typer.Argument(help="The domain's file, xl.cfg format.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Creates a domain with its memory and all its vcoprocs, or nothing at all."""
    text = _read_config(file)
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        name = str(file) if len(os.fsencode(file)) <= limits.FILE_NAME_BYTES_MAX else file.name
        request = api.CreateDomainRequest(config=text, file_name=name, request_id=request_id)
        _show_domain(client.change("CreateDomain", request), output)


@domain_app.command("destroy", epilog=EPILOG)
def domain_destroy(
    name: Annotated[str, typer.Argument(help="Name of the domain.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Destroys a domain: its vcoprocs leave their coprocs, its memory is released."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        request = api.DestroyDomainRequest(name=f"domains/{name}", request_id=request_id)
        answer = client.change("DestroyDomain", request)
    if output is Output.JSON:
        print_json(answer)
    else:
        typer.echo(f"domain {name} is destroyed")


@domain_app.command("list", epilog=EPILOG)
def domain_list(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists all domains."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.list("ListDomains", api.ListDomainsRequest(), "domains")
    if output is Output.JSON:
        print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.domains(answer)


@domain_app.command("show", epilog=EPILOG)
def domain_show(
    name: Annotated[str, typer.Argument(help="Name of the domain.")],
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one domain: where its vcoprocs' registers and interrupts are."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.read("GetDomain", api.GetDomainRequest(name=f"domains/{name}"))
    _show_domain(answer, output)


def _show_domain(answer: Any, output: Output) -> None:
    if output is Output.JSON:
        print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.domain(answer)


# --- coprocs and vcoprocs -------------------------------------------------------------------------


@coproc_app.command("list", epilog=EPILOG)
def coproc_list(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists the shared coprocs."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.list("ListCoprocs", api.ListCoprocsRequest(), "coprocs")
    if output is Output.JSON:
        print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.coprocs(answer)


@coproc_app.command("show", epilog=EPILOG)
def coproc_show(
    name: Annotated[str, typer.Argument(help="Name of the coproc.")],
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one coproc."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        answer = client.read("GetCoproc", api.GetCoprocRequest(name=f"coprocs/{name}"))
    if output is Output.JSON:
        print_json(answer)
        return
    from vcoproc_toolstack.cli import tables

    tables.coproc(answer)


@vcoproc_app.command("list", epilog=EPILOG)
def vcoproc_list(
    domain: Annotated[str, typer.Option(help="Only those of this domain.")] = "",
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists vcoprocs with their state and accounting."""
    with connect(run_dir) as client:
        from vcoproc.api.v1 import toolstack_pb2 as api

        request = api.ListVcoprocsRequest(domain=f"domains/{domain}" if domain else "")
        answer = client.list("ListVcoprocs", request, "vcoprocs")
    if output is Output.JSON:
        print_json(answer)
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
