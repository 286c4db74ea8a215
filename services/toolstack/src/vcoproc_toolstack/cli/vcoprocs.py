"""`vcoproc vcoproc`: what domains have of the coprocessors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcoproc_toolstack.cli.options import (
    EPILOG,
    DomainArgument,
    FilterOption,
    Output,
    OutputOption,
    RequestIdOption,
    RunDirOption,
    VcoprocArgument,
    busy,
    connect,
    group,
    print_data,
)

vcoproc_app = group("What domains have of the coprocessors.")


@vcoproc_app.command("list", epilog=EPILOG)
def vcoproc_list(
    domain: Annotated[str, typer.Option(help="Only those of this domain.")] = "",
    filter: FilterOption = "",
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists vcoprocs with their state and accounting."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.whole(calls.vcoprocs(domain, filter))
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.vcoprocs(answer.vcoprocs)


@vcoproc_app.command("show", epilog=EPILOG)
def vcoproc_show(
    name: VcoprocArgument, run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Shows one vcoproc: its accounting, registers and interrupts."""
    with connect(run_dir) as cluster:
        answer = cluster.vcoproc(name)
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.vcoproc(answer)


@vcoproc_app.command("attach", epilog=EPILOG)
def vcoproc_attach(
    domain: DomainArgument,
    spec: Annotated[str, typer.Argument(help="As in a domain file: coproc=dsp0,name=audio,...")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Change nothing, show what would be made.")
    ] = False,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Attaches one more vcoproc to a running domain."""
    with connect(run_dir) as cluster:
        answer = cluster.create_vcoproc(domain, spec, validate_only=dry_run, request_id=request_id)
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    if dry_run:
        typer.echo("nothing is changed; this is what would be made:")
    tables.vcoproc(answer)


@vcoproc_app.command("detach", epilog=EPILOG)
def vcoproc_detach(
    name: VcoprocArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Detaches a vcoproc from its domain."""
    with connect(run_dir) as cluster, busy(f"detaching {name}"):
        cluster.destroy_vcoproc(name, request_id=request_id)
    if not print_data(output, {}):
        typer.echo(f"vcoproc {name} is detached")


@vcoproc_app.command("move", epilog=EPILOG)
def vcoproc_move(
    name: VcoprocArgument,
    coproc: Annotated[str, typer.Argument(help="Where it goes; of the same type.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Moves a vcoproc with its context to another coproc; its driver goes on."""
    with connect(run_dir) as cluster, busy(f"moving {name}"):
        answer = cluster.move_vcoproc(name, coproc, request_id=request_id)
    if not print_data(output, answer):
        typer.echo(f"vcoproc {name} is on coproc {coproc}")


@vcoproc_app.command("save", epilog=EPILOG)
def vcoproc_save(
    name: VcoprocArgument,
    file: Annotated[Path, typer.Argument(help="Where it is written; replaced when it exists.")],
    run_dir: RunDirOption = None,
) -> None:
    """Writes the context of a vcoproc to a file: registers and private memory."""
    from vcoproc_toolstack.cli.transfer import saving

    with connect(run_dir) as cluster, saving(name, file) as told:
        cluster.save_vcoproc(name, file, progress=told)


@vcoproc_app.command("restore", epilog=EPILOG)
def vcoproc_restore(
    name: VcoprocArgument,
    file: Annotated[Path, typer.Argument(help="What `vcoproc vcoproc save` has written.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Loads a context into a vcoproc of the same type; what it had is lost."""
    from vcoproc_toolstack.cli.transfer import restoring

    with connect(run_dir) as cluster, restoring(file) as told:
        answer = cluster.restore_vcoproc(name, file, request_id=request_id, progress=told)
    if not print_data(output, answer):
        typer.echo(f"vcoproc {name} has the context of {file}")
