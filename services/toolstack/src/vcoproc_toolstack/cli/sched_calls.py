"""What the commands of `vcoproc sched` ask of the cluster, and how they read what was typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster
from vcoproc.client.calls import Call, new_request_id
from vcoproc.config.problems import parameter_name, parse_number, shorten
from vcoproc.errors import InvalidArgument, NotFound
from vcoproc_toolstack.cli.options import Output, print_item
from vcoproc_toolstack.cli.output import to_dict

ALL: Final = "all"
_INT64_MAX: Final = 2**63 - 1


# --- what was typed -------------------------------------------------------------------------------


def parse_parameters(words: Iterable[str]) -> dict[str, int]:
    """Parameters as KEY=VALUE each. Numbers as in domain files; dashes in names are underscores.

    Raises:
        InvalidArgument: one of them has another form, or is given twice.
    """
    found: dict[str, int] = {}
    for word in words:
        key, sign, text = word.partition("=")
        name = parameter_name(key)
        if not sign or name is None:
            raise InvalidArgument("parameter", f"{shorten(word)} is not KEY=VALUE")
        value = parse_number(text.removeprefix("-"))
        if value is None or value > _INT64_MAX:
            raise InvalidArgument(name, f"{shorten(text)} is no number")
        if name in found:
            raise InvalidArgument(name, "is given twice")
        found[name] = -value if text.startswith("-") else value
    return found


def check_number(what: str, value: int) -> int:
    """A number that has room in a request.

    Raises:
        InvalidArgument: it has none.
    """
    if not -_INT64_MAX <= value <= _INT64_MAX:
        raise InvalidArgument(what, f"{value} has more than 63 bits")
    return value


def vcoproc_name(word: str) -> str:
    """The resource that DOMAIN/VCOPROC means.

    Raises:
        InvalidArgument: it has another form.
    """
    domain, slash, name = word.partition("/")
    if not (domain and slash and name) or "/" in name:
        raise InvalidArgument("vcoproc", f"{shorten(word)} is not DOMAIN/VCOPROC")
    return f"domains/{domain}/vcoprocs/{name}"


def set_request(
    coproc: str,
    algorithm: str,
    parameters: Iterable[str],
    vcoprocs: Iterable[str],
    *,
    slice_us: int = 0,
    request_id: str = "",
) -> api.SetScheduleRequest:
    """The request that `sched set` means; `name_all` has still to be called.

    Raises:
        InvalidArgument: something in it has another form.
    """
    by_name: dict[str, dict[str, int]] = {}
    for word in vcoprocs:
        who, _, rest = word.partition(":")
        name = ALL if who == ALL else vcoproc_name(who)
        if name in by_name:
            raise InvalidArgument("vcoproc", f"{who} is named twice")
        by_name[name] = parse_parameters(rest.split(","))
    return api.SetScheduleRequest(
        coproc=f"coprocs/{coproc}",
        algorithm=algorithm,
        slice_us=check_number("--slice-us", slice_us),
        parameters=parse_parameters(parameters),
        vcoprocs=[
            api.VcoprocParameters(vcoproc=name, parameters=given) for name, given in by_name.items()
        ],
        request_id=request_id,
    )


def name_all(client: Cluster, request: api.SetScheduleRequest) -> None:
    """Puts every vcoproc of the coproc in the place of "all"; those named have their own words."""
    given = {each.vcoproc: dict(each.parameters) for each in request.vcoprocs}
    common = given.pop(ALL, None)
    if common is None:
        return
    found = client.schedule(request.coproc)
    for each in found.vcoprocs:
        given[each.vcoproc] = {**common, **given.get(each.vcoproc, {})}
    del request.vcoprocs[:]
    for name, parameters in given.items():
        request.vcoprocs.add(vcoproc=name, parameters=parameters)


def set_schedule(client: Cluster, request: api.SetScheduleRequest) -> api.SetScheduleResponse:
    """Sets what a request says. Raises: VcoprocError."""
    request.request_id = request.request_id or new_request_id()
    return client.call(
        Call("toolstack", "SetSchedule", request, api.SetScheduleResponse, change=True)
    )


# --- questions ------------------------------------------------------------------------------------


def schedule(client: Cluster, coproc: str) -> api.Schedule:
    """One coproc. Raises: VcoprocError."""
    return client.schedule(f"coprocs/{coproc}")


def schedules(client: Cluster) -> list[api.Schedule]:
    """All coprocs, in the order of the tree. Raises: VcoprocError."""
    return [client.schedule(each.name) for each in list(client.coprocs())]


def parameters(client: Cluster, target: str) -> dict[str, Any]:
    """All parameters of a coproc or of DOMAIN/VCOPROC, with their descriptions.

    Raises:
        VcoprocError: there is no such thing, and others.
    """
    if "/" in target:
        name = vcoproc_name(target)
        found = client.schedule(client.vcoproc(name).coproc)
        values = [dict(each.parameters) for each in found.vcoprocs if each.vcoproc == name]
        if not values:
            raise NotFound("vcoproc", target)
        [of] = values
    else:
        found = schedule(client, target)
        name, of = found.coproc, dict(found.parameters)
    algorithms = client.algorithms()
    infos = [
        info
        for each in algorithms
        if each.name == found.wanted_algorithm
        for info in each.parameters
        if info.per_coproc is ("/" not in target)
    ]
    return {
        "name": name,
        "coproc": found.coproc,
        "algorithm": found.wanted_algorithm,
        "slice_us": found.slice_us,
        "parameters": [
            {**to_dict(info), "value": of.get(info.name, info.default_value)} for info in infos
        ],
    }


def set_parameters(
    client: Cluster, target: str, given: Mapping[str, int], request_id: str = ""
) -> None:
    """Sets some parameters of a coproc or of DOMAIN/VCOPROC. Raises: VcoprocError."""
    if "/" in target:
        client.set_parameters(vcoproc_name(target), given, request_id=request_id)
    else:
        client.set_schedule(f"coprocs/{target}", parameters=given, request_id=request_id)


# --- answers --------------------------------------------------------------------------------------


def print_log(client: Cluster, coproc: str, *, follow: bool, count: int, output: Output) -> None:
    """Prints the newest decisions that are kept, then those that come, or ends."""
    name = f"coprocs/{coproc}"
    kept = list(client.decisions(name))
    for decision in kept[len(kept) - min(count, len(kept)) :]:
        _print_decision(decision, output)
    if not follow:
        return
    after = kept[-1].number if kept else 0
    try:
        for decision in client.decisions(name, after=after, follow=True):
            _print_decision(decision, output)
    except KeyboardInterrupt:
        return  # the usual way to end it


def _print_decision(decision: api.Decision, output: Output) -> None:
    if print_item(output, decision):
        return
    from vcoproc_toolstack.cli.sched_tables import decision_lines

    for line in decision_lines(decision):
        typer.echo(line)
