"""Answers about schedules as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli.tables import console, show


def short(resource: str) -> str:
    """domains/d/vcoprocs/v as d/v; "-" for nobody."""
    return resource.removeprefix("domains/").replace("/vcoprocs/", "/") or "-"


def _last(resource: str) -> str:
    return resource.rpartition("/")[2]


def _us(time_ns: int) -> str:
    return f"{time_ns // limits.US}.{time_ns % limits.US // 100} us"


def _ms(time_ns: int) -> str:
    return f"{time_ns // limits.MS}.{time_ns % limits.MS // 1_000:03} ms"


def _words(parameters: Mapping[str, int]) -> str:
    return " ".join(f"{name}={parameters[name]}" for name in sorted(parameters)) or "-"


def _percent(part: int, whole: int) -> str:
    tenths = 1000 * part // whole if whole else 0
    return f"{tenths // 10}.{tenths % 10} %" if whole else "-"


def _algorithm(found: api.Schedule) -> str:
    if found.algorithm == found.wanted_algorithm:
        return found.algorithm
    return f"{found.algorithm} (instead of {found.wanted_algorithm})"


def schedules(found: Iterable[api.Schedule]) -> None:
    show(
        ("COPROC", "ALGORITHM", "SLICE>", "SET BY", "VCOPROCS>", "SWITCHES>", "PARAMETERS"),
        (
            (
                _last(each.coproc),
                _algorithm(each),
                f"{each.slice_us} us",
                "operator" if each.overridden else "tree",
                str(len(each.vcoprocs)),
                str(each.switch_count),
                _words(each.parameters),
            )
            for each in found
        ),
        empty="no coprocs",
    )


def schedule(found: api.Schedule) -> None:
    out = console()
    source = "set at run time" if found.overridden else "as in the system's tree"
    out.print(
        f"coproc {_last(found.coproc)}: {_algorithm(found)}, slice {found.slice_us} us, {source}"
    )
    if found.fallback:
        out.print(f"fell back: {found.fallback}")
    out.print(
        f"parameters: {_words(found.parameters)}; refusals at most {found.refusal_us} us; "
        f"{found.switch_count} switches; on it now: {short(found.current_vcoproc)}"
    )
    out.print()
    accounts(found)
    if any(each.slices.turn_count for each in found.vcoprocs):
        out.print()
        slices(found)
    if any(
        each.refusals.refusal_count or each.switch_in_refusals.refusal_count
        for each in found.vcoprocs
    ):
        out.print()
        refusals(found)


def accounts(found: api.Schedule) -> None:
    """Times of each vcoproc."""
    total_ns = sum(each.accounting.run_ns for each in found.vcoprocs)
    show(
        (
            "VCOPROC", "STATE", "RAN>", "SHARE>", "WAITED>", "LONGEST>", "SWITCHED>", "REFUSED>",
            "OVERTIME>", "SWITCHES>", "WAKES>", "PARAMETERS",
        ),
        ((*_account(each, total_ns), _words(each.parameters)) for each in found.vcoprocs),
        empty="no vcoprocs",
    )  # fmt: skip


def _account(each: api.VcoprocSchedule, total_ns: int) -> tuple[str, ...]:
    state = api.Vcoproc.State.Name(each.state).removeprefix("STATE_")
    head = (short(each.vcoproc), "-" if state == "UNSPECIFIED" else state)
    if not each.HasField("accounting"):
        return (*head, *("-" for _ in range(9)))
    figures = each.accounting
    return (
        *head,
        _ms(figures.run_ns),
        _percent(figures.run_ns, total_ns),
        _ms(figures.wait_ns),
        _ms(each.longest_wait_ns),
        _ms(figures.switch_ns),
        _ms(figures.refused_ns),
        _ms(figures.overtime_ns),
        str(figures.switch_count),
        str(figures.wake_count),
    )


def slices(found: api.Schedule) -> None:
    """Planned against actual time of turns."""
    show(
        ("VCOPROC", "TURNS>", "PLANNED>", "ACTUAL>", "FULL>", "MEAN ERROR>", "WORST ERROR>"),
        (
            (
                short(each.vcoproc),
                str(each.slices.turn_count),
                _ms(each.slices.planned_ns),
                _ms(each.slices.actual_ns),
                str(each.slices.full_count),
                _us(each.slices.error_ns // max(1, each.slices.full_count)),
                _us(each.slices.error_max_ns),
            )
            for each in found.vcoprocs
        ),
        empty="",
    )


def refusals(found: api.Schedule) -> None:
    """How long each refused to leave, and how long the coproc refused to take each in."""
    show(
        (
            "VCOPROC", "SWITCH", "REFUSALS>", "BUSY>", "FORCED>", "GIVEN UP>",
            "IN ALL>", "LONGEST>", "HOW LONG",
        ),
        (
            (
                short(each.vcoproc),
                switch,
                str(figures.refusal_count),
                str(figures.busy_count),
                str(figures.forced_count) if switch == "out" else "-",
                str(figures.given_up_count) if switch == "in" else "-",
                _ms(figures.total_ns),
                f"{figures.longest_us} us",
                _distribution(list(figures.bucket_counts)),
            )
            for each in found.vcoprocs
            for switch, figures in (("out", each.refusals), ("in", each.switch_in_refusals))
            if figures.refusal_count
        ),
        empty="",
    )  # fmt: skip


def _distribution(counts: list[int]) -> str:
    """Counts of refusals below 1, 2, 4, ... us; those that are not zero."""
    last = len(counts) - 1
    return "  ".join(
        f"{count} below {1 << place} us" if place < last else f"{count} longer"
        for place, count in enumerate(counts)
        if count
    )


def changed(answer: api.SetScheduleResponse) -> None:
    """What a change has made."""
    schedules([answer.schedule])
    out = console()
    for lost in answer.lost_parameters:
        out.print(f"lost: {lost}")


def parameters(found: Mapping[str, Any]) -> None:
    """Parameters of a coproc or vcoproc, as `sched_calls.parameters` gives them."""
    out = console()
    whose = _last(found["name"]) if found["name"] == found["coproc"] else short(found["name"])
    tail = f", slice {found['slice_us']} us" if found["name"] == found["coproc"] else ""
    out.print(f"{whose}: {found['algorithm']}{tail}")
    show(
        ("PARAMETER", "VALUE>", "UNIT", "RANGE", "DEFAULT>", "MEANING"),
        (
            (
                each["name"],
                str(each["value"]),
                each["unit"] or "-",
                f"{each['minimum']}..{each['maximum']}",
                str(each["default_value"]),
                each["description"],
            )
            for each in found["parameters"]
        ),
        empty=f"{found['algorithm']} has no parameters here",
    )


def algorithms(answer: api.ListAlgorithmsResponse) -> None:
    out = console()
    for place, each in enumerate(answer.algorithms):
        if place:
            out.print()
        out.print(f"{each.name}: {each.description}")
        show(
            ("  PARAMETER", "OF", "UNIT", "RANGE", "DEFAULT>", "MEANING"),
            (
                (
                    f"  {info.name}",
                    "coproc" if info.per_coproc else "vcoproc",
                    info.unit or "-",
                    f"{info.minimum}..{info.maximum}",
                    str(info.default_value),
                    info.description,
                )
                for info in each.parameters
            ),
            empty="  no parameters",
        )


def analysis(answer: api.ScheduleAnalysis) -> None:
    console().print(
        f"coproc {_last(answer.coproc)}: {answer.algorithm}, reckoned with switches of "
        f"{_us(answer.switch_ns)}, refusals of {_us(answer.refusal_ns)} to leave and "
        f"{_us(answer.switch_in_refusal_ns)} to be taken in, "
        f"and {_us(answer.work_ns)} of work after a wake"
    )
    if answer.observed_work_ns != answer.work_ns:
        console().print(f"responses were observed for {_us(answer.observed_work_ns)} of work")
    show(
        (
            "VCOPROC",
            "SURE OF>",
            "WORST WAIT>",
            "OBSERVED>",
            "WORST RESPONSE>",
            "OBSERVED>",
            "VERDICT",
            "WHY",
        ),
        (
            (
                short(each.vcoproc),
                _percent(each.guaranteed_ppm, 1_000_000) if each.guaranteed_ppm else "nothing",
                _us(each.worst_wait_ns) if each.worst_wait_ns else "no bound",
                _us(each.observed_wait_ns),
                _us(each.worst_response_ns) if each.worst_response_ns else "no bound",
                _us(each.observed_response_ns) if each.observed_response_ns else "none",
                _verdict(each),
                each.explanation or "-",
            )
            for each in answer.vcoprocs
        ),
        empty="no vcoprocs",
    )


def _verdict(each: api.VcoprocAnalysis) -> str:
    pairs = (
        (each.observed_wait_ns, each.worst_wait_ns),
        (each.observed_response_ns, each.worst_response_ns),
    )
    bounded = [observed_ns <= worst_ns for observed_ns, worst_ns in pairs if worst_ns]
    if not bounded:
        return "-"
    return "kept" if all(bounded) else "EXCEEDED"


def decision_lines(decision: api.Decision) -> list[str]:
    """One decision in one line, after a line about those that were missed."""
    lines = []
    if decision.missed_count:
        lines.append(f"({decision.missed_count} decisions were forgotten before they were read)")
    seconds, rest_ns = divmod(decision.clock_ns, limits.S)
    parts = [
        f"{decision.number:>8}  {seconds:>6}.{rest_ns // limits.US:06}  {decision.why:<8}",
        f"{short(decision.vcoproc):<24}",
    ]
    if decision.slice_ns:
        parts.append(f"for {_us(decision.slice_ns)}")
    if decision.current_vcoproc and decision.current_vcoproc != decision.vcoproc:
        parts.append(f"after {short(decision.current_vcoproc)}")
    for word, bound_ns in (("from", decision.not_before_ns), ("until", decision.until_ns)):
        if bound_ns:
            parts.append(f"{word} {bound_ns // limits.S}.{bound_ns % limits.S // limits.US:06}")
    parts.append(f"[{decision.algorithm}]")
    return [*lines, "  ".join(parts)]
