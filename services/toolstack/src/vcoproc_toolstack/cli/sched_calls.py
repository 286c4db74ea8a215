"""What the commands of `vcoproc sched` ask of the cluster, and how they read what was typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import Cluster
from vcoproc.client.names import short_name, vcoproc_name
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


def parse_vcoprocs(words: Iterable[str]) -> dict[str, dict[str, int]]:
    """Parameters of vcoprocs, DOMAIN/VCOPROC:KEY=VALUE,... each; ALL stands for every one.

    Raises:
        InvalidArgument: one of them has another form, or is named twice.
    """
    found: dict[str, dict[str, int]] = {}
    for word in words:
        who, _, rest = word.partition(":")
        name = ALL if who == ALL else vcoproc_name(who)
        if name in found:
            raise InvalidArgument("vcoproc", f"{who} is named twice")
        found[name] = parse_parameters(rest.split(","))
    return found


def name_all(
    client: Cluster, coproc: str, given: Mapping[str, Mapping[str, int]]
) -> Mapping[str, Mapping[str, int]]:
    """Puts every vcoproc of the coproc in the place of ALL; those named have their own words."""
    if ALL not in given:
        return given
    named = {name: dict(parameters) for name, parameters in given.items()}
    common = named.pop(ALL)
    for each in client.schedule(coproc).vcoprocs:
        named[each.vcoproc] = {**common, **named.get(each.vcoproc, {})}
    return named


# --- questions ------------------------------------------------------------------------------------


def schedules(client: Cluster) -> list[api.Schedule]:
    """All coprocs, in the order of the tree. Raises: VcoprocError."""
    return [client.schedule(each.name) for each in list(client.coprocs())]


def parameters(client: Cluster, target: str) -> dict[str, Any]:
    """All parameters of a coproc or of DOMAIN/VCOPROC, with their descriptions.

    Raises:
        VcoprocError: there is no such thing, and others.
    """
    of_vcoproc = "/" in short_name(target)
    if of_vcoproc:
        name = vcoproc_name(target)
        found = client.schedule(client.vcoproc(name).coproc)
        values = [dict(each.parameters) for each in found.vcoprocs if each.vcoproc == name]
        if not values:
            raise NotFound("vcoproc", target)
        [of] = values
    else:
        found = client.schedule(target)
        name, of = found.coproc, dict(found.parameters)
    algorithms = client.algorithms()
    infos = [
        info
        for each in algorithms
        if each.name == found.wanted_algorithm
        for info in each.parameters
        if info.per_coproc is not of_vcoproc
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
    if "/" in short_name(target):
        client.set_parameters(target, given, request_id=request_id)
    else:
        client.set_schedule(target, parameters=given, request_id=request_id)


# --- answers --------------------------------------------------------------------------------------


def print_log(client: Cluster, coproc: str, *, follow: bool, count: int, output: Output) -> None:
    """Prints the newest decisions that are kept, then those that come, or ends."""
    kept = list(client.decisions(coproc))
    for decision in kept[len(kept) - min(count, len(kept)) :]:
        _print_decision(decision, output)
    if not follow:
        return
    after = kept[-1].number if kept else 0
    try:
        for decision in client.decisions(coproc, after=after, follow=True):
            _print_decision(decision, output)
    except KeyboardInterrupt:
        return  # the usual way to end it


def _print_decision(decision: api.Decision, output: Output) -> None:
    if print_item(output, decision):
        return
    from vcoproc_toolstack.cli.sched_tables import decision_lines

    for line in decision_lines(decision):
        typer.echo(line)
