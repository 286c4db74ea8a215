"""`vcoproc access`: certificates and roles for a cluster that is reached over TCP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vcoproc_toolstack.cli.options import (
    EPILOG,
    Output,
    OutputOption,
    RunDirOption,
    connect,
    group,
    print_data,
)

access_app = group("Certificates and roles for a cluster that is reached over TCP.")

_DirectoryArgument = Annotated[
    Path, typer.Argument(help="Directory of the authority: ca.crt, ca.key and what it has signed.")
]
_DaysOption = Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")]


@access_app.command("init", epilog=EPILOG)
def access_init(
    directory: _DirectoryArgument,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="Name or address of the server; may be repeated."),
    ] = None,
    days: _DaysOption = 365,
) -> None:
    """Makes an authority, a certificate for the server, and an access file with nobody in it."""
    from vcoproc_toolstack.cli.certificates import LOCAL_HOSTS, Authority

    hosts = host or LOCAL_HOSTS
    Authority.create(directory, days=days, hosts=hosts)
    typer.echo(f"made {directory}: ca, server.crt for {', '.join(hosts)}, access.toml")
    typer.echo(f"next: vcoproc access add {directory} NAME --role admin")


@access_app.command("add", epilog=EPILOG)
def access_add(
    directory: _DirectoryArgument,
    name: Annotated[str, typer.Argument(help="Name of the caller.")],
    role: Annotated[
        str,
        typer.Option(help="viewer, operator or admin; default: the one it has, or viewer."),
    ] = "",
    days: _DaysOption = 365,
) -> None:
    """Makes a certificate for a caller, and gives its name a role in access.toml."""
    from vcoproc_toolstack.cli.certificates import Authority

    folder, role = Authority.load(directory).add_client(name, role, days=days)
    typer.echo(f"made {folder}, {name} is {role}")
    typer.echo(f"next: give it to {name}, who says: export VCOPROC_TLS_DIR={folder}")


@access_app.command("remove", epilog=EPILOG)
def access_remove(
    directory: _DirectoryArgument,
    name: Annotated[str, typer.Argument(help="Name of the caller.")],
) -> None:
    """Takes the role of a name away; from the next call on it is refused."""
    from vcoproc_toolstack.cli.certificates import Authority

    Authority.load(directory).remove_client(name)
    typer.echo(f"{name} has no role any more")


@access_app.command("log", epilog=EPILOG)
def access_log(
    filter: Annotated[
        str,
        typer.Option(
            "--filter", "-f", metavar="TERMS", help='Only those, as in "caller=al* outcome!=OK".'
        ),
    ] = "",
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="At most so many, the newest.")
    ] = 100,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prints who changed what, newest first. For admins."""
    import itertools

    from vcoproc.api.v1 import audit_pb2

    with connect(run_dir) as cluster:
        found = list(itertools.islice(cluster.audit(filter), count))
    if print_data(output, audit_pb2.ListAuditEntriesResponse(entries=found)):
        return
    from vcoproc_toolstack.cli import tables

    tables.audit(found)


@access_app.command("whoami", epilog=EPILOG)
def access_whoami(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Shows who the cluster takes you for."""
    with connect(run_dir) as cluster:
        answer = cluster.caller()
    if print_data(output, answer):
        return
    from vcoproc.api.v1 import audit_pb2

    role = audit_pb2.Caller.Role.Name(answer.role).removeprefix("ROLE_").lower()
    typer.echo(f"{answer.name}: {role}")
