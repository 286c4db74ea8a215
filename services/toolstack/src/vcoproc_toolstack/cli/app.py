"""The `vcoproc` command. Each command imports what it needs by itself, so that help is quick."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from vcoproc.errors import InvalidArgument
from vcoproc.runtime.tcp import check_address
from vcoproc_toolstack import target
from vcoproc_toolstack.cli.access import access_app
from vcoproc_toolstack.cli.config import (
    CppOption,
    IncludeOption,
    config_app,
    domain_device_tree,
)
from vcoproc_toolstack.cli.coprocs import coproc_app
from vcoproc_toolstack.cli.domains import domain_app
from vcoproc_toolstack.cli.exit_codes import EXIT_BUG, EXIT_OUTPUT, EXIT_USAGE
from vcoproc_toolstack.cli.options import (
    EPILOG,
    REACH,
    FilterOption,
    Output,
    OutputOption,
    RunDirOption,
    connect,
    drop_output,
    group,
    print_data,
    run_dir_of,
)
from vcoproc_toolstack.cli.sched import sched_app
from vcoproc_toolstack.cli.vcoprocs import vcoproc_app

app = group("One coprocessor, many domains: runs and steers a vcoproc cluster.", completion=True)
app.add_typer(domain_app, name="domain")
app.add_typer(coproc_app, name="coproc")
app.add_typer(vcoproc_app, name="vcoproc")
app.add_typer(sched_app, name="sched")
app.add_typer(config_app, name="config")
domain_app.command("device-tree", epilog=EPILOG)(domain_device_tree)
app.add_typer(access_app, name="access")


def _version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"vcoproc {metadata.version('vcoproc-toolstack')}")
        raise typer.Exit


@app.callback()
def reach(
    address: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Cluster over TCP; default: $VCOPROC_ADDRESS."),
    ] = "",
    tls_dir: Annotated[
        Path | None,
        typer.Option(help="Your certificate, ca.crt, client.*; default: $VCOPROC_TLS_DIR."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit."),
    ] = False,
) -> None:
    """One coprocessor, many domains: runs and steers a vcoproc cluster."""
    REACH.address, REACH.tls_dir = address or None, tls_dir


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
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Also serve the control API here, over TLS.")
    ] = "",
    tls_dir: Annotated[
        Path | None,
        typer.Option(help="Directory with ca.crt, server.crt and server.key; see `access init`."),
    ] = None,
    access: Annotated[
        Path | None, typer.Option(help="File that says which role a certificate's name has.")
    ] = None,
) -> None:
    """Starts every process of a cluster on this machine, and runs until Ctrl-C."""
    from vcoproc_toolstack.cli.foreground import run_cluster
    from vcoproc_toolstack.cli.up import Cluster, ListenOn

    listen_on = None
    if listen:
        if tls_dir is None or access is None:
            raise InvalidArgument("--listen", "needs --tls-dir and --access")
        check_address("--listen", listen)
        listen_on = ListenOn(listen, _existing(tls_dir), _existing(access))
    elif tls_dir is not None or access is not None:
        raise InvalidArgument("--listen", "--tls-dir and --access are for it: name it too")

    cluster = Cluster(
        _existing(tree),
        run_dir_of(run_dir),
        instances=instances,
        log_dir=log_dir,
        store=store,
        include=include or (),
        cpp=cpp,
        listen=listen_on,
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
        raise typer.Exit(EXIT_USAGE) from None
    json_output = output is not Output.TABLE
    code = run(run_dir=run_dir, out=out, firmware=firmware, json_output=json_output)
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
    filter: Annotated[
        str,
        typer.Option(metavar="TERMS", help='Only those, as in "type=vcoproc kind=FAULTED".'),
    ] = "",
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prints what has changed in the cluster, oldest first."""
    from vcoproc_toolstack.cli.watching import print_events

    with connect(run_dir) as cluster:
        print_events(cluster, filter=filter, follow=follow, after=revision, output=output)


@app.command(epilog=EPILOG)
def faults(
    filter: FilterOption = "", run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Lists faults of vcoprocs and coprocs and crashes of domains, newest first."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.whole(calls.faults(filter))
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.faults(answer.faults)


@app.command(epilog=EPILOG)
def lines(
    filter: FilterOption = "", run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Lists interrupt lines as the irq-router has them."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.whole(calls.lines(filter))
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.lines(answer.lines)


@app.command(epilog=EPILOG)
def status(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Shows the whole cluster at one moment; `--output json` has everything."""
    with connect(run_dir) as cluster:
        answer = cluster.picture()
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.picture(answer)


@app.command(epilog=EPILOG)
def top(
    interval_s: Annotated[
        float, typer.Option("--delay", "-d", min=0.1, max=60, help="Seconds between two looks.")
    ] = 1.0,
    batch: Annotated[
        bool, typer.Option("--batch", "-b", help="Print one look after the other; no keys.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="End after so many looks; 0: never.")
    ] = 0,
    run_dir: RunDirOption = None,
) -> None:
    """Shows live who has the coprocs, and what they do; press h for the keys."""
    from vcoproc_toolstack.cli import top as live

    with connect(run_dir) as cluster:
        live.run(cluster, interval_s=interval_s, batch=batch, count=count)


_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# --- files and the end ----------------------------------------------------------------------------


def _existing(path: Path) -> Path:
    """Raises: InvalidArgument (an operator's mistake in what was typed, not in the cluster)."""
    if not path.exists():
        raise InvalidArgument(str(path), "there is no such file")
    return path


def main() -> None:
    """Entry point of `vcoproc`."""
    if sys.stdout is None:  # closed by the caller, who wants to know the exit code alone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        app(prog_name="vcoproc")
    except Exception as error:  # the one place that catches everything
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            drop_output()
            typer.echo(f"error: the output cannot be written: {error.strerror}", err=True)
            typer.echo("next: make room; `vcoproc events` tells what was done", err=True)
            sys.exit(EXIT_OUTPUT)
        import traceback

        traceback.print_exc()
        typer.echo(f"error: a bug in vcoproc: {error!r}", err=True)
        sys.exit(EXIT_BUG)


if __name__ == "__main__":
    main()
