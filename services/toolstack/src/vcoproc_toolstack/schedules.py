"""How coprocs are to be scheduled: what may be set, and what a change keeps and loses. Pure.

Theory of operation:
    The system's device tree says how each coproc is scheduled at first. What an operator sets later
    is kept in the store and hides algorithm, slice and parameters of the tree, all three together.
    Only parameters that somebody named are kept; the scheduler knows the defaults of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from vcoproc import limits
from vcoproc.config.problems import did_you_mean
from vcoproc.config.records import CoprocConfig
from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.records import Accounting, VcoprocRecord, VcoprocState

Parameters = tuple[tuple[str, int], ...]
"""Names and values, sorted by name."""
_NAMES_TOLD_MAX: Final = 32
"""Names listed in a message."""


def schedule_resource(coproc: str) -> str:
    """What events of how a coproc is scheduled are named after."""
    return f"coprocs/{coproc}/schedule"


# --- algorithms -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ParameterInfo:
    """Description of a parameter, as its algorithm gives it. per_coproc: else of each vcoproc."""

    name: str
    unit: str
    minimum: int
    maximum: int
    default: int
    doc: str
    per_coproc: bool


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A scheduling algorithm that is installed."""

    name: str
    summary: str
    parameters: tuple[ParameterInfo, ...]

    def infos(self, *, per_coproc: bool) -> dict[str, ParameterInfo]:
        """Those of the coproc, or those of each vcoproc, by name."""
        return {each.name: each for each in self.parameters if each.per_coproc is per_coproc}


def find_algorithm(algorithms: Iterable[Algorithm], name: str) -> Algorithm:
    """Raises: InvalidArgument (it is not installed)."""
    known = {each.name: each for each in algorithms}
    found = known.get(name)
    if found is None:
        hint = did_you_mean(name, known)
        why = f"{name!r} is not installed; there are: {_listed(known)}{hint}"
        raise InvalidArgument("algorithm", why)
    return found


def check_parameters(
    algorithm: Algorithm, given: Mapping[str, int], *, per_coproc: bool, of: str
) -> None:
    """Refuses what the algorithm does not know or allow.

    Args:
        of: whose parameters they are, for the message.

    Raises:
        InvalidArgument: a name is unknown, or a value is out of its range.
    """
    known = algorithm.infos(per_coproc=per_coproc)
    for name, value in sorted(given.items()):
        field_name = f"{name} of {of}"
        info = known.get(name)
        if info is None:
            raise InvalidArgument(field_name, _unknown(algorithm, name, per_coproc))
        if not info.minimum <= value <= info.maximum:
            unit = f" {info.unit}" if info.unit else ""
            why = f"{value}{unit} is outside of {info.minimum} to {info.maximum}{unit}"
            raise InvalidArgument(field_name, why)


def _unknown(algorithm: Algorithm, name: str, per_coproc: bool) -> str:
    whose, other = ("a coproc", "a vcoproc") if per_coproc else ("a vcoproc", "a coproc")
    if name in algorithm.infos(per_coproc=not per_coproc):
        return f"{algorithm.name} has this parameter for {other}, not for {whose}"
    known = algorithm.infos(per_coproc=per_coproc)
    hint = did_you_mean(name, known)
    why = f"{algorithm.name} has no such parameter for {whose}; it has: {_listed(known)}"
    return f"{why}{_range(known, hint)}"


def _range(known: Mapping[str, ParameterInfo], hint: str) -> str:
    """A hint with the range of the parameter that it names."""
    for info in known.values():
        if repr(info.name) in hint:
            unit = f" {info.unit}" if info.unit else ""
            return f"{hint} ({info.minimum} to {info.maximum}{unit})"
    return hint


def _listed(names: Iterable[str]) -> str:
    known = sorted(names)
    more = len(known) - _NAMES_TOLD_MAX
    tail = f" and {more} more" if more > 0 else ""
    return ", ".join(known[:_NAMES_TOLD_MAX]) + tail or "none"


def resolved(algorithm: Algorithm, given: Parameters, *, per_coproc: bool) -> dict[str, int]:
    """All parameters: those given, and the defaults of the others."""
    values = dict(given)
    known = algorithm.infos(per_coproc=per_coproc)
    return {name: values.get(name, info.default) for name, info in known.items()}


# --- what is set ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """How a coproc is to be scheduled. parameters: those of the coproc that somebody named."""

    algorithm: str
    slice_ns: int
    parameters: Parameters

    @classmethod
    def of(cls, coproc: CoprocConfig) -> Setting:
        return cls(coproc.scheduler, coproc.slice_ns, coproc.scheduler_params)

    def applied(self, coproc: CoprocConfig) -> CoprocConfig:
        """The coproc with this setting instead of its own."""
        return replace(
            coproc,
            scheduler=self.algorithm,
            slice_ns=self.slice_ns,
            scheduler_params=self.parameters,
        )


def with_settings(
    coprocs: Mapping[str, CoprocConfig], settings: Mapping[str, Setting]
) -> dict[str, CoprocConfig]:
    """Coprocs as they are to be scheduled now. settings: those set at run time, by coproc."""
    return {
        name: settings[name].applied(coproc) if name in settings else coproc
        for name, coproc in coprocs.items()
    }


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants to be changed. Whatever is empty or 0 stays.

    vcoprocs: parameters by resource name.
    """

    algorithm: str = ""
    slice_ns: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict)
    vcoprocs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a wish makes of a coproc. vcoprocs: all parameters that are set, by number.

    lost: what was set and cannot stay, in words.
    """

    setting: Setting
    vcoprocs: Mapping[int, Parameters]
    lost: tuple[str, ...]


def plan_change(
    coproc: CoprocConfig,
    vcoprocs: Sequence[VcoprocRecord],
    wish: Wish,
    algorithms: Iterable[Algorithm],
) -> Plan:
    """What a coproc and its vcoprocs become.

    Args:
        coproc: as it is to be scheduled until now.
        vcoprocs: all that it has.

    Raises:
        InvalidArgument: an algorithm, parameter or vcoproc is unknown, or a value is out of range.
    """
    algorithm = find_algorithm(algorithms, wish.algorithm or coproc.scheduler)
    check_parameters(algorithm, wish.parameters, per_coproc=True, of=f"coproc {coproc.name}")
    strangers = wish.vcoprocs.keys() - {vcoproc.resource for vcoproc in vcoprocs}
    if strangers:
        why = f"{min(strangers)} is none of coproc {coproc.name}"
        raise InvalidArgument("vcoprocs", why)
    parameters, lost = _merged(
        algorithm, coproc.scheduler_params, wish.parameters, f"coprocs/{coproc.name}"
    )
    of_vcoprocs: dict[int, Parameters] = {}
    for vcoproc in vcoprocs:
        given = wish.vcoprocs.get(vcoproc.resource, {})
        of = f"{vcoproc.domain}/{vcoproc.name}"
        check_parameters(algorithm, given, per_coproc=False, of=of)
        of_vcoprocs[vcoproc.vcoproc_id], more = _merged(
            algorithm, vcoproc.params, given, vcoproc.resource, per_coproc=False
        )
        lost += more
    setting = Setting(algorithm.name, wish.slice_ns or coproc.slice_ns, parameters)
    return Plan(setting, of_vcoprocs, tuple(lost))


def _merged(
    algorithm: Algorithm,
    old: Parameters,
    given: Mapping[str, int],
    resource: str,
    *,
    per_coproc: bool = True,
) -> tuple[Parameters, list[str]]:
    """Old and new parameters that the algorithm takes; words for the old ones that it does not."""
    known = algorithm.infos(per_coproc=per_coproc)
    kept, lost = dict(given), []
    for name, value in old:
        if name in given:
            continue
        if name in known and known[name].minimum <= value <= known[name].maximum:
            kept[name] = value
        else:
            lost.append(f"{name}={value} of {resource}")
    return tuple(sorted(kept.items())), lost


def check_slice_us(slice_us: int) -> int:
    """A slice in nanoseconds; 0 stays 0.

    Raises:
        InvalidArgument: out of range.
    """
    low, high = limits.SLICE_NS_MIN // limits.US, limits.SLICE_NS_MAX // limits.US
    if slice_us and not low <= slice_us <= high:
        raise InvalidArgument("slice_us", f"{slice_us} us is outside of {low} to {high} us")
    return slice_us * limits.US


def in_words(parameters: Iterable[tuple[str, int]]) -> str:
    """Parameters in one line."""
    return " ".join(f"{name}={value}" for name, value in sorted(parameters))


# --- what the scheduler says ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slices:
    """Planned against actual length of turns; see the public API."""

    turn_count: int
    planned_ns: int
    actual_ns: int
    full_count: int
    error_ns: int
    error_max_ns: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """How a vcoproc refused to leave, or was refused at switch-in; see the public API."""

    refusal_count: int
    busy_count: int
    forced_count: int
    given_up_count: int
    total_ns: int
    longest_us: int
    bucket_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VcoprocSchedule:
    """One vcoproc of a schedule. parameters: all of them. None: the scheduler does not say."""

    vcoproc_id: int
    state: VcoprocState
    parameters: Mapping[str, int]
    accounting: Accounting | None = None
    slices: Slices | None = None
    refusals: Refusals | None = None
    longest_wait_ns: int = 0
    switch_in_refusals: Refusals | None = None


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """How the scheduler schedules a coproc. algorithm: who decides; wanted: who was set.

    parameters: all those of the coproc. fallback: why the last one happened, or empty.
    """

    algorithm: str
    wanted: str
    slice_ns: int
    refusal_ns: int
    parameters: Mapping[str, int]
    vcoprocs: tuple[VcoprocSchedule, ...]
    current: int = 0
    switch_count: int = 0
    fallback: str = ""
    fallback_count: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the scheduler; see the public API. vcoproc, current: 0 for nobody."""

    number: int
    vcoproc: int
    current: int
    algorithm: str
    why: str
    slice_ns: int
    clock_ns: int
    not_before_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class VcoprocAnalysis:
    """What one vcoproc is sure to get; see the public API."""

    vcoproc_id: int
    guaranteed_ppm: int
    worst_wait_ns: int
    observed_wait_ns: int
    explanation: str
    worst_response_ns: int = 0
    observed_response_ns: int = 0


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What an analysis is to reckon with; 0: what the scheduler knows. See the public API."""

    switch_ns: int = 0
    refusal_ns: int = 0
    work_ns: int = 0


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the vcoprocs of a coproc are sure to get, and what was reckoned with."""

    algorithm: str
    switch_ns: int
    refusal_ns: int
    work_ns: int
    vcoprocs: tuple[VcoprocAnalysis, ...]
    switch_in_refusal_ns: int = 0
    observed_work_ns: int = 0


@dataclass(frozen=True, slots=True)
class Fallback:
    """An algorithm failed and rr took over. time_ns: Unix time; tells one from another."""

    coproc: str
    algorithm: str
    why: str
    time_ns: int
