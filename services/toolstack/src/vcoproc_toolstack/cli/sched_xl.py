"""`vcoproc sched credit` and `rtds`: the grammar that users of `xl sched-*` know.

A coproc stands where xl has a pool, a vcoproc where it has a vcpu. Xen's RTDS is our `edf`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import typer

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster
from vcoproc.errors import InvalidArgument, NotFound
from vcoproc_toolstack.cli import sched_calls
from vcoproc_toolstack.cli.options import Output, print_data
from vcoproc_toolstack.cli.sched_tables import short
from vcoproc_toolstack.cli.tables import show

ALL = sched_calls.ALL
MIN_RUN = "min_run_us"
"""The parameter of every coproc that is xl's rate limit."""
Found = list[tuple[api.Schedule, list[api.VcoprocSchedule]]]
CoprocWide = tuple[bool, int | None, int | None]
"""-s, -t in ms and -r in us."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed. columns: values by parameter, in the order in which they were given."""

    algorithm: str
    domain: str
    vcoprocs: Sequence[str]
    columns: Mapping[str, Sequence[int]]
    coproc: str


def check(asked: Asked, coproc_wide: CoprocWide) -> None:
    """Refuses combinations that mean nothing, before any cluster is asked.

    Raises:
        InvalidArgument: see there.
    """
    schedparam, tslice_ms, ratelimit_us = coproc_wide
    for name, values in (
        ("-t", [tslice_ms or 0]),
        ("-r", [ratelimit_us or 0]),
        *asked.columns.items(),
    ):
        for value in values:
            sched_calls.check_number(name, value * limits.US)
    given = any(asked.columns.values())
    if schedparam:
        if asked.domain or asked.vcoprocs or given:
            raise InvalidArgument("-s", "is of a whole coproc; it goes with -t and -r only")
        if (tslice_ms is not None or ratelimit_us is not None) and not asked.coproc:
            raise InvalidArgument("-s", "say which coproc is to be changed")
        return
    if tslice_ms is not None or ratelimit_us is not None:
        raise InvalidArgument("-t and -r", "are of a whole coproc and need -s")
    if (given or asked.vcoprocs) and not asked.domain:
        raise InvalidArgument("-d", "is missing: whose parameters?")
    named = [name for name in asked.vcoprocs if name != ALL]
    if len(set(named)) != len(named) or (named and len(named) != len(asked.vcoprocs)):
        raise InvalidArgument("-v", "name each vcoproc once, or all")
    wanted = max(1, len(named))
    for name, values in asked.columns.items():
        if len(values) not in (0, wanted):
            why = f"{len(values)} values for {wanted} vcoprocs; give one for each -v"
            raise InvalidArgument(name, why)


def run(client: Cluster, asked: Asked, coproc_wide: CoprocWide, *, output: Output) -> None:
    """Shows, or sets and shows nothing, as xl does. Raises: VcoprocError."""
    schedparam, tslice_ms, ratelimit_us = coproc_wide
    found = _find(client, asked)
    if schedparam and (tslice_ms is not None or ratelimit_us is not None):
        parameters = {} if ratelimit_us is None else {MIN_RUN: ratelimit_us}
        answer = client.set_schedule(
            asked.coproc, slice_ns=(tslice_ms or 0) * limits.MS, parameters=parameters
        )
        print_data(output, {"schedules": [answer.schedule]})
        return
    if any(asked.columns.values()):
        _set(client, asked, found)
        if output is Output.TABLE:
            return
        found = _find(client, asked)
    if print_data(output, {"vcoprocs": [v for _, vcoprocs in found for v in vcoprocs]}):
        return
    if schedparam:
        for schedule, _ in found:
            typer.echo(_coproc_line(schedule))
    else:
        _print(asked, found)


def _find(client: Cluster, asked: Asked) -> Found:
    """The coprocs that are meant, each with the vcoprocs that are meant."""
    if asked.coproc:
        schedule = client.schedule(asked.coproc)
        if schedule.wanted_algorithm != asked.algorithm:
            why = (
                f"{asked.coproc} is scheduled by {schedule.wanted_algorithm}; "
                f"`vcoproc sched set {asked.coproc} {asked.algorithm}` changes that"
            )
            raise InvalidArgument("coproc", why)
        schedules = [schedule]
    else:
        schedules = [
            each
            for each in sched_calls.schedules(client)
            if each.wanted_algorithm == asked.algorithm
        ]
    if not asked.domain:
        return [(each, list(each.vcoprocs)) for each in schedules]
    prefix = f"domains/{asked.domain}/vcoprocs/"
    named = {f"{prefix}{name}" for name in asked.vcoprocs if name != ALL}
    found: Found = []
    for schedule in schedules:
        vcoprocs = [
            each
            for each in schedule.vcoprocs
            if each.vcoproc.startswith(prefix) and (not named or each.vcoproc in named)
        ]
        if vcoprocs:
            found.append((schedule, vcoprocs))
    _check_found(client, asked, named, found)
    return found


def _check_found(client: Cluster, asked: Asked, named: set[str], found: Found) -> None:
    missing = named - {each.vcoproc for _, vcoprocs in found for each in vcoprocs}
    if not missing and found:
        return
    domain = client.domain(asked.domain)
    strangers = missing - {each.name for each in domain.vcoprocs}
    if strangers:
        raise NotFound("vcoproc", short(min(strangers)))
    what = short(min(missing)) if missing else f"no vcoproc of domain {asked.domain}"
    verb = "is not" if missing else "is"
    raise InvalidArgument("-d", f"{what} {verb} on a coproc that is scheduled by {asked.algorithm}")


def _set(client: Cluster, asked: Asked, found: Found) -> None:
    """Sets the parameters; those of vcoprocs on one coproc all together or not at all."""
    named = [name for name in asked.vcoprocs if name != ALL]
    for schedule, vcoprocs in found:
        by_name = {}
        for each in vcoprocs:
            name = each.vcoproc.rpartition("/")[2]
            place = named.index(name) if named else 0
            by_name[each.vcoproc] = {
                parameter: values[place] for parameter, values in asked.columns.items() if values
            }
        if len(by_name) == 1:
            [(resource, given)] = by_name.items()
            client.set_parameters(resource, given)
        else:
            client.set_schedule(schedule.coproc, vcoprocs=by_name)


def _coproc_line(schedule: api.Schedule) -> str:
    name = schedule.coproc.rpartition("/")[2]
    ratelimit_us = schedule.parameters.get(MIN_RUN, 0)
    tslice = f"{schedule.slice_us // 1000}.{schedule.slice_us % 1000:03}".rstrip("0").rstrip(".")
    return f"Coproc {name}: tslice={tslice}ms ratelimit={ratelimit_us}us"


def _print(asked: Asked, found: Found) -> None:
    for place, (schedule, vcoprocs) in enumerate(found):
        if place:
            typer.echo("")
        typer.echo(_coproc_line(schedule))
        headings = [name.removesuffix("_us").capitalize() + ">" for name in asked.columns]
        show(
            ("Name", *headings),
            (
                (
                    short(each.vcoproc),
                    *(str(each.parameters.get(name, "-")) for name in asked.columns),
                )
                for each in vcoprocs
            ),
            empty="no vcoprocs",
        )
    if not found:
        typer.echo(f"no coproc is scheduled by {asked.algorithm}")
