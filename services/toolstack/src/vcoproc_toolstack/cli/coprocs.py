"""`vcoproc coproc`: the shared coprocessors, and how they come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcoproc.errors import InvalidArgument, NotFound
from vcoproc_toolstack.cli.options import (
    EPILOG,
    CoprocArgument,
    FilterOption,
    Output,
    OutputOption,
    RequestIdOption,
    RunDirOption,
    busy,
    connect,
    group,
    print_data,
)

coproc_app = group("The shared coprocessors of this system.")


@coproc_app.command("list", epilog=EPILOG)
def coproc_list(
    filter: FilterOption = "",
    show_unused: Annotated[
        bool, typer.Option("--all", "-a", help="Also those of templates that nobody has used yet.")
    ] = False,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Lists the shared coprocs."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.whole(calls.coprocs(filter, show_unused=show_unused))
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.coprocs(answer.coprocs)


@coproc_app.command("show", epilog=EPILOG)
def coproc_show(
    name: CoprocArgument, run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Shows one coproc."""
    with connect(run_dir) as cluster:
        answer = cluster.coproc(name)
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.coproc(answer)


@coproc_app.command("types", epilog=EPILOG)
def coproc_types(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists coprocessor types, and how many vcoprocs still fit."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.call(calls.coproc_types())
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.coproc_types(answer.types)


@coproc_app.command("add", epilog=EPILOG)
def coproc_add(
    tree: Annotated[Path, typer.Argument(help="A system tree (.dts or .dtb) that shares them.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[COPROC]...", help="Which; default: all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Change nothing, show what would be added.")
    ] = False,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Adds coprocs of a device tree to the running system, all or none."""
    from vcoproc.api.v1 import toolstack_pb2 as api
    from vcoproc.config.files import read_source

    try:
        source = read_source(tree)
    except NotFound:
        raise InvalidArgument(str(tree), "there is no such file") from None
    with connect(run_dir) as cluster:
        added = cluster.add_coprocs(
            source,
            file_name=str(tree),
            names=names or (),
            validate_only=dry_run,
            request_id=request_id,
        )
    if print_data(output, api.AddCoprocsResponse(coprocs=added)):
        return
    from vcoproc_toolstack.cli import tables

    if dry_run:
        typer.echo("nothing is changed; this is what would be added:")
    tables.coprocs(added)


@coproc_app.command("drain", epilog=EPILOG)
def coproc_drain(
    name: CoprocArgument,
    move: Annotated[
        bool, typer.Option("--move", help="Move its vcoprocs to others of the type.")
    ] = False,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Lets a coproc take no new vcoprocs."""
    with connect(run_dir) as cluster, busy(f"draining {name}"):
        answer = cluster.drain_coproc(name, move_vcoprocs=move, request_id=request_id)
    if print_data(output, answer):
        return
    typer.echo(f"coproc {name} is draining; vcoprocs on it: {answer.vcoproc_count}")


@coproc_app.command("undrain", epilog=EPILOG)
def coproc_undrain(
    name: CoprocArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Lets a coproc take new vcoprocs again."""
    with connect(run_dir) as cluster:
        answer = cluster.undrain_coproc(name, request_id=request_id)
    if not print_data(output, answer):
        typer.echo(f"coproc {name} takes new vcoprocs")


@coproc_app.command("remove", epilog=EPILOG)
def coproc_remove(
    name: CoprocArgument,
    destroy_vcoprocs: Annotated[
        bool, typer.Option("--destroy-vcoprocs", help="Also the vcoprocs that it has.")
    ] = False,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Removes a coproc from the running system."""
    with connect(run_dir) as cluster, busy(f"removing {name}"):
        cluster.remove_coproc(name, destroy_vcoprocs=destroy_vcoprocs, request_id=request_id)
    if not print_data(output, {}):
        typer.echo(f"coproc {name} is removed")


@coproc_app.command("replace", epilog=EPILOG)
def coproc_replace(
    name: CoprocArgument,
    replacement: Annotated[str, typer.Argument(help="Coproc that takes its place.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Moves every vcoproc of a coproc to another one, and removes it."""
    with connect(run_dir) as cluster, busy(f"moving everything from {name} to {replacement}"):
        answer = cluster.replace_coproc(name, replacement, request_id=request_id)
    if print_data(output, answer):
        return
    typer.echo(f"{replacement} has taken the place of {name}; vcoprocs: {answer.vcoproc_count}")
