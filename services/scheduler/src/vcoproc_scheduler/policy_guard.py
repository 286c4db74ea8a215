"""Whatever a policy answers is checked here, before anybody believes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from vcoproc.limits import MIN_RUN_NS_MAX, SLICE_NS_MAX, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.api import Decision, Parameter, Policy, Scope

MIN_RUN: Final = "min_run_us"
CORE_PARAMETERS: Final = (
    Parameter(
        name=MIN_RUN,
        scope=Scope.COPROC,
        unit="us",
        minimum=0,
        maximum=MIN_RUN_NS_MAX // US,
        default=0,
        doc="A vcoproc is not preempted before it has run for this time; ends of slices stay.",
    ),
)
"""Parameters of a coproc with any algorithm: the core's own."""
_TIME_NS_MAX: Final = (1 << 63) - 1
_WHY_MAX: Final = 200
"""Characters of a reason that are kept."""


class Nonsense(Exception):
    """What a policy answered cannot be meant."""


def descriptions(policy: type[Policy]) -> tuple[Parameter, ...]:
    """Everything that can be set with this algorithm."""
    return (*CORE_PARAMETERS, *policy.PARAMETERS)


def own(policy: type[Policy], values: Mapping[str, int]) -> dict[str, int]:
    """Without the core's own parameters, which no policy gets to see."""
    core = {each.name for each in CORE_PARAMETERS}
    return {name: value for name, value in values.items() if name not in core}


def fits(policy: type[Policy], scope: Scope, name: str, value: int) -> bool:
    """Whether the algorithm has such a parameter and it may have this value."""
    return any(
        each.name == name and each.scope is scope and each.minimum <= value <= each.maximum
        for each in descriptions(policy)
    )


def _plain(text: str) -> str:
    """Text that can be sent and shown: no lone surrogates, no control characters."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def described(error: BaseException) -> str:
    """An error in words, even if its own words raise one."""
    name = type(error).__name__
    try:
        return _plain(f"{name}: {error}"[:_WHY_MAX])
    except Exception:
        return name


def shown(value: Any) -> str:
    """A value in few words, even if it does not want to be shown."""
    try:
        return _plain(repr(value)[:40])
    except Exception:
        return f"a {type(value).__name__}"


def guarded(call: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a hook of a policy.

    Raises:
        Nonsense: it raised something, whatever it was. Only an interrupt by a user passes.
    """
    try:
        return call(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hook = getattr(call, "__name__", "hook")
        raise Nonsense(f"{hook} raised {described(error)}") from error


def check_decision(decision: Any, awake: Callable[[int], bool], now_ns: int) -> Decision:
    """Checks what `pick` answered.

    Args:
        awake: whether a vcoproc is known and wants to run.

    Raises:
        Nonsense: the answer breaks the promises of a policy.
    """
    if type(decision) is not Decision:
        raise Nonsense(f"pick gives a {type(decision).__name__}, not a Decision")
    for flag in ("preempt", "vacate"):
        if type(getattr(decision, flag)) is not bool:
            raise Nonsense(f"pick gives {flag} that is no bool")
    vcoproc = decision.vcoproc_id
    if vcoproc is None:
        return decision
    if type(vcoproc) is not int or not awake(vcoproc):
        raise Nonsense(f"picks vcoproc {shown(vcoproc)}, which does not want to run")
    if type(decision.slice_ns) is not int or not SLICE_NS_MIN <= decision.slice_ns <= SLICE_NS_MAX:
        raise Nonsense(f"gives a slice of {shown(decision.slice_ns)} ns")
    if decision.vacate:
        raise Nonsense(f"picks vcoproc {vcoproc} and nobody at once")
    for name in ("not_before_ns", "until_ns"):
        value = getattr(decision, name)
        if type(value) is not int or not 0 <= value <= _TIME_NS_MAX:
            raise Nonsense(f"gives {name} of {shown(value)}")
    if decision.until_ns and decision.until_ns <= max(now_ns, decision.not_before_ns):
        raise Nonsense(f"ends a turn at {decision.until_ns} ns, before it can begin")
    return decision


def check_deadline(deadline_ns: Any) -> int | None:
    """Checks what `next_deadline_ns` answered.

    Raises:
        Nonsense: it is no time.
    """
    if deadline_ns is None or type(deadline_ns) is int:
        found: int | None = deadline_ns
        return found
    raise Nonsense(f"next_deadline_ns gives a {type(deadline_ns).__name__}")


def check_export(exported: Any) -> dict[int, dict[str, int]]:
    """Checks what `export_accounting` answered. To be `guarded` itself: it reads their objects."""
    carried = {vcoproc: dict(values) for vcoproc, values in exported.items()}
    for vcoproc, values in carried.items():
        if type(vcoproc) is not int or any(type(value) is not int for value in values.values()):
            raise Nonsense("export_accounting gives something else than integers")
    return carried
