"""`vcoproc domain`: virtual machines, from their files to their end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vcoproc import limits
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig, NotFound
from vcoproc_toolstack.cli.options import (
    EPILOG,
    DomainArgument,
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

domain_app = group("Virtual machines with their memory and vcoprocs.")


@domain_app.command("create", epilog=EPILOG)
def domain_create(
    file: Annotated[Path, typer.Argument(help="The domain's file, xl.cfg format.")],
    stopped: Annotated[
        bool, typer.Option("--stopped", help="Do not start it; `vcoproc domain start` does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Change nothing, show what would be made.")
    ] = False,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Creates a domain with its memory and all its vcoprocs, or nothing at all."""
    text = _read_config(file)
    name = str(file) if len(os.fsencode(file)) <= limits.FILE_NAME_BYTES_MAX else file.name
    with connect(run_dir) as cluster:
        answer = cluster.create_domain(
            text, file_name=name, stopped=stopped, validate_only=dry_run, request_id=request_id
        )
    if dry_run and output is Output.TABLE:
        typer.echo("nothing is changed; this is what would be made:")
    _show(answer, output)


@domain_app.command("start", epilog=EPILOG)
def domain_start(
    name: DomainArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Starts a domain that is STOPPED or CRASHED, with new memory and new contexts."""
    with connect(run_dir) as cluster:
        _show(cluster.start_domain(name, request_id=request_id), output)


@domain_app.command("pause", epilog=EPILOG)
def domain_pause(
    name: DomainArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Keeps the vcoprocs of a domain off their coprocs, and holds its interrupts."""
    with connect(run_dir) as cluster:
        _show_state(cluster.pause_domain(name, request_id=request_id), output)


@domain_app.command("resume", epilog=EPILOG)
@domain_app.command("unpause", epilog=EPILOG, hidden=True)
def domain_resume(
    name: DomainArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Lets a paused domain go on where it was."""
    with connect(run_dir) as cluster:
        _show_state(cluster.resume_domain(name, request_id=request_id), output)


@domain_app.command("shutdown", epilog=EPILOG)
def domain_shutdown(
    name: DomainArgument,
    timeout_s: Annotated[
        float,
        typer.Option("--timeout", min=0, max=60, help="Seconds to finish what is being done."),
    ] = 5.0,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Ends a domain in good order, and releases its memory; it can be started again."""
    timeout_ns = round(timeout_s * limits.S)
    with connect(run_dir) as cluster, busy(f"shutting down {name}"):
        answer = cluster.shut_down_domain(name, timeout_ns=timeout_ns, request_id=request_id)
    _show_state(answer, output)


@domain_app.command("crash", epilog=EPILOG)
def domain_crash(
    name: DomainArgument,
    why: Annotated[str, typer.Option(help="What happened, for the events.")] = "",
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Declares that a domain has crashed; its file says what follows (on_crash)."""
    with connect(run_dir) as cluster:
        _show_state(cluster.crash_domain(name, why=why, request_id=request_id), output)


@domain_app.command("rename", epilog=EPILOG)
def domain_rename(
    name: DomainArgument,
    new_name: Annotated[str, typer.Argument(help="What it is called from now on.")],
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Gives a domain another name."""
    with connect(run_dir) as cluster:
        _show_state(cluster.rename_domain(name, new_name, request_id=request_id), output)


@domain_app.command("destroy", epilog=EPILOG)
def domain_destroy(
    name: DomainArgument,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Destroys a domain: its vcoprocs leave their coprocs, its memory is released."""
    with connect(run_dir) as cluster, busy(f"destroying {name}"):
        cluster.destroy_domain(name, request_id=request_id)
    if not print_data(output, {}):
        typer.echo(f"domain {name} is destroyed")


@domain_app.command("save", epilog=EPILOG)
def domain_save(
    name: DomainArgument,
    file: Annotated[Path, typer.Argument(help="Where it is written; replaced when it exists.")],
    shut_down: Annotated[
        bool, typer.Option("--shut-down", help="Stop the domain when it is written.")
    ] = False,
    run_dir: RunDirOption = None,
) -> None:
    """Writes a domain with its memory, contexts and interrupts to a file; it goes on afterwards."""
    from vcoproc_toolstack.cli.transfer import saving

    with connect(run_dir) as cluster, saving(name, file) as told:
        cluster.save_domain(name, file, shut_down=shut_down, progress=told)


@domain_app.command("restore", epilog=EPILOG)
def domain_restore(
    file: Annotated[Path, typer.Argument(help="What `vcoproc domain save` has written.")],
    new_name: Annotated[str, typer.Option("--name", help="Other name; default: as it was.")] = "",
    paused: Annotated[bool, typer.Option("--paused", "-p", help="Leave it paused.")] = False,
    coproc: Annotated[
        list[str] | None,
        typer.Option(
            "--coproc", metavar="VCOPROC=COPROC", help="Another coproc for a vcoproc; repeatable."
        ),
    ] = None,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Makes a domain from a file, and lets it go on where it was."""
    from vcoproc_toolstack.cli.transfer import restoring

    coprocs = dict(_pair(word) for word in coproc or ())
    with connect(run_dir) as cluster, restoring(file) as told:
        answer = cluster.restore_domain(
            file,
            new_name=new_name,
            paused=paused,
            coprocs=coprocs,
            request_id=request_id,
            progress=told,
        )
    _show(answer, output)


@domain_app.command("list", epilog=EPILOG)
def domain_list(
    filter: FilterOption = "", run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Lists all domains."""
    from vcoproc.client import calls

    with connect(run_dir) as cluster:
        answer = cluster.whole(calls.domains(filter))
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.domains(answer)


@domain_app.command("show", epilog=EPILOG)
def domain_show(
    name: DomainArgument, run_dir: RunDirOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Shows one domain: where its vcoprocs' registers and interrupts are."""
    with connect(run_dir) as cluster:
        answer = cluster.domain(name)
    _show(answer, output)


def _show(answer: Any, output: Output) -> None:
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    tables.domain(answer)


def _show_state(answer: Any, output: Output) -> None:
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import tables

    typer.echo(tables.domain_state(answer))


def _pair(word: str) -> tuple[str, str]:
    name, sign, value = word.partition("=")
    if not (name and sign and value):
        raise InvalidArgument("--coproc", f"{word!r} is not VCOPROC=COPROC")
    return name, value


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
