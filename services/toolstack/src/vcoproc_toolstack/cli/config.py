"""`vcoproc config`: what configuration files say, and what is in force."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.cli.exit_codes import EXIT_USAGE
from vcoproc_toolstack.cli.options import (
    EPILOG,
    DomainArgument,
    Output,
    OutputOption,
    RunDirOption,
    connect,
    group,
    print_data,
)

config_app = group("Configuration: checks files, shows what is in force. docs/configuration.md.")

IncludeOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--include", "-i", metavar="FOLDER", help="Where a tree's included files are; repeatable."
    ),
]
CppOption = Annotated[
    bool, typer.Option("--cpp", help="Run the C preprocessor on a tree first (#include, #define).")
]


@config_app.command("check", epilog=EPILOG)
def config_check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="System trees and domain files.")
    ],
    tree: Annotated[
        Path | None, typer.Option("--tree", help="A system that the domains have to fit.")
    ] = None,
    include: IncludeOption = None,
    cpp: CppOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Says everything that is wrong in files, with file and line. Needs no cluster."""
    from vcoproc_toolstack.cli import config_files

    reader = config_files.Reader(include or (), cpp=cpp)
    reports = config_files.check(reader, files, tree)
    if print_data(output, config_files.reports_data(reports)):
        if any(report.problems for report in reports):
            raise typer.Exit(EXIT_USAGE)
        return
    config_files.show_reports(reports)


@config_app.command("show", epilog=EPILOG)
def config_show(
    file: Annotated[
        Path | None,
        typer.Argument(help="A system tree or domain file; without it, what the cluster has."),
    ] = None,
    tree: Annotated[
        Path | None,
        typer.Option("--tree", help="For a domain file: the system that chooses its places."),
    ] = None,
    coproc: Annotated[str, typer.Option("--coproc", help="Only this coproc.")] = "",
    include: IncludeOption = None,
    cpp: CppOption = False,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows every setting with its value and where that came from."""
    if file is not None:
        from vcoproc_toolstack.cli import config_files

        reader = config_files.Reader(include or (), cpp=cpp)
        answer = config_files.settings_of(reader, file, tree, coproc)
    else:
        if tree is not None or include or cpp:
            raise InvalidArgument("FILE", "--tree, --include and --cpp are for one: name it too")
        with connect(run_dir) as client:
            answer = client.configuration(coproc)
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import config_tables

    config_tables.settings(answer)


def domain_device_tree(
    name: DomainArgument,
    blob: Annotated[
        Path | None, typer.Option("--blob", metavar="FILE", help="Write it compiled to this file.")
    ] = None,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prints the device-tree fragment by which a domain's drivers find its vcoprocs."""
    with connect(run_dir) as client:
        answer = client.device_tree(name)
    if blob is not None:
        from vcoproc_toolstack.cli import config_files

        config_files.write_file(blob, answer.blob)
    elif output is Output.TABLE:
        typer.echo(answer.source, nl=False)
    print_data(output, answer)
