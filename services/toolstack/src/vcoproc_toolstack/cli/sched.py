"""`vcoproc sched`: how coprocs are scheduled, and how to change it while they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vcoproc_toolstack.cli.options import (
    EPILOG,
    CoprocArgument,
    Output,
    OutputOption,
    RequestIdOption,
    RunDirOption,
    connect,
    group,
    print_data,
)

if TYPE_CHECKING:
    from vcoproc_toolstack.cli.sched_xl import Asked

sched_app = group("How coprocs are scheduled. See also docs/scheduling.md.")

ParameterOption = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="KEY=VALUE", help="A parameter to set; repeatable."),
]


@sched_app.command("list", epilog=EPILOG)
def sched_list(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists all coprocs with algorithm, slice and parameters."""
    from vcoproc_toolstack.cli import sched_calls

    with connect(run_dir) as client:
        found = sched_calls.schedules(client)
    if print_data(output, {"schedules": found}):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.schedules(found)


@sched_app.command("show", epilog=EPILOG)
def sched_show(
    coproc: CoprocArgument,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows one coproc: every vcoproc with its accounts, slices and refusals."""
    with connect(run_dir) as client:
        found = client.schedule(coproc)
    if print_data(output, found):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.schedule(found)


@sched_app.command("set", epilog=EPILOG)
def sched_set(
    coproc: CoprocArgument,
    algorithm: Annotated[
        str, typer.Argument(help="Name of the algorithm; without it, the same.")
    ] = "",
    param: ParameterOption = None,
    slice_us: Annotated[
        int, typer.Option("--slice-us", min=0, help="Time of a turn; 0 for the same.")
    ] = 0,
    vcoproc: Annotated[
        list[str] | None,
        typer.Option(
            "--vcoproc",
            "-v",
            metavar="DOMAIN/VCOPROC:KEY=VALUE,...",
            help="Parameters of a vcoproc that change with it; all:... for each; repeatable.",
        ),
    ] = None,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Sets algorithm, parameters and slice of a coproc while its vcoprocs run."""
    from vcoproc import limits
    from vcoproc_toolstack.cli import sched_calls

    parameters = sched_calls.parse_parameters(param or ())
    given = sched_calls.parse_vcoprocs(vcoproc or ())
    slice_ns = sched_calls.check_number("--slice-us", slice_us * limits.US)
    with connect(run_dir) as client:
        answer = client.set_schedule(
            coproc,
            algorithm=algorithm,
            slice_ns=slice_ns,
            parameters=parameters,
            vcoprocs=sched_calls.name_all(client, coproc, given),
            request_id=request_id,
        )
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.changed(answer)


@sched_app.command("params", epilog=EPILOG)
def sched_params(
    target: Annotated[
        str, typer.Argument(metavar="COPROC|DOMAIN/VCOPROC", help="Whose parameters.")
    ],
    param: ParameterOption = None,
    run_dir: RunDirOption = None,
    request_id: RequestIdOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows the parameters of a coproc or vcoproc with unit, range and default, or sets some."""
    from vcoproc_toolstack.cli import sched_calls

    given = sched_calls.parse_parameters(param or ())
    with connect(run_dir) as client:
        if given:
            sched_calls.set_parameters(client, target, given, request_id)
        found = sched_calls.parameters(client, target)
    if print_data(output, found):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.parameters(found)


@sched_app.command("log", epilog=EPILOG)
def sched_log(
    coproc: CoprocArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stay, and print decisions as they are made.")
    ] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="Print so many of those that are kept.")
    ] = 100,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Prints the newest decisions of a coproc's scheduler, oldest first."""
    from vcoproc_toolstack.cli import sched_calls

    with connect(run_dir) as client:
        sched_calls.print_log(client, coproc, follow=follow, count=count, output=output)


@sched_app.command("analyse", epilog=EPILOG)
def sched_analyse(
    coproc: CoprocArgument,
    switch_us: Annotated[
        int, typer.Option(min=0, help="Cost of a switch; 0: the longest observed.")
    ] = 0,
    refusal_us: Annotated[
        int, typer.Option(min=0, help="Longest refusal, out or in; 0: the coproc's bounds.")
    ] = 0,
    work_us: Annotated[
        int, typer.Option(min=0, help="Time that each one runs after a wake; 0: 1 ms.")
    ] = 0,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows what every vcoproc is sure to get: its worst wait and response, beside the observed."""
    with connect(run_dir) as client:
        from vcoproc import limits
        from vcoproc_toolstack.cli import sched_calls

        answer = client.analyse(
            coproc,
            switch_ns=sched_calls.check_number("--switch-us", switch_us * limits.US),
            refusal_ns=sched_calls.check_number("--refusal-us", refusal_us * limits.US),
            work_ns=sched_calls.check_number("--work-us", work_us * limits.US),
        )
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.analysis(answer)


@sched_app.command("algorithms", epilog=EPILOG)
def sched_algorithms(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Lists the algorithms that are installed, with every parameter."""
    from vcoproc.client import calls

    with connect(run_dir) as client:
        answer = client.call(calls.algorithms())
    if print_data(output, answer):
        return
    from vcoproc_toolstack.cli import sched_tables

    sched_tables.algorithms(answer)


# --- the grammar of xl ----------------------------------------------------------------------------

DomainOption = Annotated[str, typer.Option("--domain", "-d", help="Only this domain's.")]
VcoprocOption = Annotated[
    list[str] | None,
    typer.Option("--vcoproc", "-v", metavar="VCOPROC|all", help="Of that domain; repeatable."),
]
SchedparamOption = Annotated[
    bool, typer.Option("--schedparam", "-s", help="Show or set what belongs to the whole coproc.")
]
TsliceOption = Annotated[
    int | None, typer.Option("--tslice_ms", "-t", min=1, help="With -s: time slice in ms.")
]
RatelimitOption = Annotated[
    int | None,
    typer.Option("--ratelimit_us", "-r", min=0, help="With -s: least time of a run in us."),
]
_POOL_HELP = "The coproc, as xl has it of a pool; default: all that are scheduled so."


@sched_app.command("credit", epilog=EPILOG)
def sched_credit(
    domain: DomainOption = "",
    vcoproc: VcoprocOption = None,
    weight: Annotated[
        list[int] | None, typer.Option("--weight", "-w", help="Share beside others.")
    ] = None,
    cap: Annotated[
        list[int] | None, typer.Option("--cap", "-c", help="Most of the time, in percent.")
    ] = None,
    coproc: Annotated[str, typer.Option("--cpupool", "--coproc", "-p", help=_POOL_HELP)] = "",
    schedparam: SchedparamOption = False,
    tslice_ms: TsliceOption = None,
    ratelimit_us: RatelimitOption = None,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows or sets weights and caps, in the words of `xl sched-credit`."""
    from vcoproc_toolstack.cli.sched_xl import Asked

    columns = {"weight": weight or [], "cap": cap or []}
    asked = Asked("credit", domain, vcoproc or [], columns, coproc)
    _xl(asked, (schedparam, tslice_ms, ratelimit_us), run_dir, output)


@sched_app.command("edf", epilog=EPILOG)
@sched_app.command("rtds", epilog=EPILOG)
def sched_rtds(
    domain: DomainOption = "",
    vcoproc: VcoprocOption = None,
    period: Annotated[list[int] | None, typer.Option("--period", "-p", help="In us.")] = None,
    budget: Annotated[list[int] | None, typer.Option("--budget", "-b", help="In us.")] = None,
    extratime: Annotated[
        list[int] | None,
        typer.Option("--extratime", "-e", help="1: also what nobody with budget wants."),
    ] = None,
    coproc: Annotated[str, typer.Option("--cpupool", "--coproc", "-c", help=_POOL_HELP)] = "",
    schedparam: SchedparamOption = False,
    tslice_ms: TsliceOption = None,
    ratelimit_us: RatelimitOption = None,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Shows or sets periods and budgets of `edf`, in the words of `xl sched-rtds`."""
    from vcoproc_toolstack.cli.sched_xl import Asked

    columns = {
        "period_us": period or [],
        "budget_us": budget or [],
        "extratime": extratime or [],
    }
    asked = Asked("edf", domain, vcoproc or [], columns, coproc)
    _xl(asked, (schedparam, tslice_ms, ratelimit_us), run_dir, output)


def _xl(
    asked: Asked, coproc_wide: tuple[bool, int | None, int | None], run_dir: Any, output: Output
) -> None:
    from vcoproc_toolstack.cli import sched_xl

    sched_xl.check(asked, coproc_wide)
    with connect(run_dir) as client:
        sched_xl.run(client, asked, coproc_wide, output=output)
