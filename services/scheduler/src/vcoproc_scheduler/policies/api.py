"""How a scheduling algorithm is added: the policy interface.

A policy decides who has one coproc next, and nothing else. Timers, states, switching and accounting
are the core's. A policy is a class named by an entry point of the group ``vcoproc.schedulers``; the
entry point's name is the algorithm's name. The core makes one instance for each coproc.

What the core promises:
    * Calls come one at a time. `init` is first, `deinit` last. Every vcoproc id was given to `add`.
    * `wake` and `sleep` alternate for each vcoproc. Between them the vcoproc *wants* the
      coprocessor: it waits for it or is running on it.
    * `pick` is asked after every change. It must be repeatable: without another call in between it
      gives the same answer. What it answered has happened only when `begin` says so; where an
      earlier answer was carried out instead, with another slice, `planned` says that right after.
    * When a turn ends, the calls come in this order: `yield_` if the vcoproc gave up its slice,
      `charge`, then `sleep` if it no longer wants to run, then `begin` of the next, then `pick`.
    * `pick` is asked as long as anybody wants to run, also when that is the current one alone.
    * A turn that is given up because the coprocessor refused to take the vcoproc in is a turn like
      others, of refused time alone: `begin`, `charge`, `sleep`; and `wake` if it wants another one.
    * `now_ns` is the coproc's clock as well as the scheduler knows it, and never goes back.
    * A policy takes over vcoprocs from another one as newcomers: `admit` and `add` of all, then
      `import_accounting`, then `wake` of those that want to run, the one on the coprocessor first,
      and its `begin`. The same when parameters of a vcoproc change: `admit`, `remove`, `add`,
      `import_accounting`, `wake`, `begin`. The one that runs is charged before, so a policy is
      never charged for what was used under another one or with other parameters.
What a policy promises:
    * It is pure: no clock, thread, socket, file, log or unseeded randomness; it can be pickled.
    * `pick` names only a vcoproc that wants to run, with a slice within SLICE_NS_MIN and
      SLICE_NS_MAX of `vcoproc.limits`, and a turn that can begin before it ends.
    * A deadline that has passed is not asked for again and again. If everybody waits and nobody is
      picked, there is a deadline: else they would wait for ever.
    A policy that breaks a promise, or raises anything but RequestError from `init` and `admit`, is
    replaced by ``rr`` at once, and control is told; the vcoprocs keep running.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from vcoproc.errors import InvalidArgument

POLICY_API_VERSION: Final = 1
ENTRY_POINT_GROUP: Final = "vcoproc.schedulers"
VALUE_MAX: Final = (1 << 63) - 1
"""Of a parameter, with either sign."""


class Scope(enum.Enum):
    """Whom a parameter belongs to."""

    COPROC = "coproc"
    VCOPROC = "vcoproc"


@dataclass(frozen=True, slots=True)
class Parameter:
    """Description of one parameter, shown to users as it stands.

    unit: "ns", "%", "" for none. minimum, maximum: both allowed; of 64 bits at most, like default.

    Raises:
        ValueError: it makes no sense.
    """

    name: str
    scope: Scope
    unit: str
    minimum: int
    maximum: int
    default: int
    doc: str

    def __post_init__(self) -> None:
        if type(self.scope) is not Scope or not all(
            type(each) is str for each in (self.name, self.unit, self.doc)
        ):
            raise ValueError(f"parameter {self.name!r}: name, unit and doc are str, scope a Scope")
        if not all(
            type(each) is int and -VALUE_MAX <= each <= VALUE_MAX
            for each in (self.minimum, self.maximum, self.default)
        ):
            raise ValueError(f"parameter {self.name}: numbers are int of 64 bits")
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(f"parameter {self.name}: default outside of minimum and maximum")


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """What a policy gets at `init`.

    slice_ns: the coproc's time slice. parameters: those of scope COPROC, all of them, in range.
    min_run_ns: the core preempts nobody who has not run for so long.
    """

    slice_ns: int
    parameters: Mapping[str, int]
    min_run_ns: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Who has the coprocessor next.

    vcoproc_id: None for nobody else: the current one, if any, runs on. The current one itself: it
    gets one more slice, in front of those who wait.
    slice_ns: how long; meaningless with None.
    preempt: take the coprocessor from the current one now, do not wait for the end of its slice.
    vacate: with None only: the coprocessor shall stay empty, the current one leaves it at the end
    of its slice (or now, with preempt; an idle one at once) although nobody comes. For caps.
    not_before_ns: the switch to it does not begin before that time of the policy's clock; 0: no
    such bound. Until then the current one runs on, even beyond its slice, if it has no bound.
    until_ns: the turn ends at that time of the policy's clock at the latest, however late it began:
    then it leaves, running or idle, though nobody comes, and a gap of a table needs nothing else;
    0: no such bound. Both are absolute, so that a table of times cannot drift, and the coproc keeps
    them by itself. With both, and preempt, a decision can be made as early as one likes.
    """

    vcoproc_id: int | None
    slice_ns: int = 0
    preempt: bool = False
    vacate: bool = False
    not_before_ns: int = 0
    until_ns: int = 0


NOBODY: Final = Decision(None)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a vcoproc has used since it was charged last. Times are of the coproc's clock.

    run_ns: it ran. refused_ns: it held the coprocessor against an order to leave, or kept it empty,
    since the coprocessor refused to take it in. switch_ns: it was switched in and out. overtime_ns:
    the part of run_ns beyond the slice of the turn that ended. ended: its turn has ended (False: it
    is idle, but still on the coprocessor; or its turn has not begun, and was taken back while the
    coprocessor refused it; or it runs on, but with other parameters or under another policy). left:
    it has left the coprocessor. runnable: it wants to run on. now_ns: up to when this reckons.
    stopped_ns: when it ran last, before a refusal or a switch. How much of run_ns was before a
    given time follows from this, not from `begin`, which may be told late.
    """

    vcoproc_id: int
    run_ns: int
    refused_ns: int
    switch_ns: int
    overtime_ns: int
    instructions: int
    ended: bool
    left: bool
    runnable: bool
    now_ns: int
    stopped_ns: int


class Policy(abc.ABC):
    """Base of all scheduling algorithms.

    API_VERSION: the `POLICY_API_VERSION` it was written for, as a literal number.
    PARAMETERS: descriptions of everything that can be set.
    """

    API_VERSION: ClassVar[int]
    PARAMETERS: ClassVar[Sequence[Parameter]] = ()

    @abc.abstractmethod
    def init(self, config: PolicyConfig) -> None:
        """Begins work on a coproc that has no vcoproc yet.

        Raises:
            RequestError: the configuration makes no sense; the policy is not used.
        """

    def deinit(self) -> None:  # noqa: B027  optional on purpose
        """The end: another policy has taken over, or the coproc is gone."""

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:  # noqa: B027
        """Checks whether a vcoproc with these parameters (all, in range) can be taken.

        Changes nothing. Also asked before the parameters of a vcoproc that was added change.

        Raises:
            RequestError: it cannot.
        """

    @abc.abstractmethod
    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        """A vcoproc, not wanting to run yet. parameters: those of scope VCOPROC, all, admitted."""

    @abc.abstractmethod
    def remove(self, vcoproc_id: int) -> None:
        """Forgets a vcoproc, whatever it does."""

    @abc.abstractmethod
    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        """The vcoproc wants to run from now on."""

    @abc.abstractmethod
    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        """The vcoproc no longer wants to run."""

    def yield_(self, vcoproc_id: int, now_ns: int) -> None:  # noqa: B027  optional on purpose
        """The vcoproc gave up the rest of its slice; its `charge` follows."""

    def begin(self, vcoproc_id: int, now_ns: int) -> None:  # noqa: B027  optional on purpose
        """A turn of the vcoproc began on the coprocessor."""

    def planned(self, vcoproc_id: int, slice_ns: int | None) -> None:  # noqa: B027
        """The turn that has just begun has another slice than `pick` answered last for it.

        Args:
            slice_ns: of this turn; None: it is not known.
        """

    @abc.abstractmethod
    def charge(self, usage: Usage) -> None:
        """A vcoproc has used the coprocessor."""

    @abc.abstractmethod
    def pick(self, now_ns: int, current: int | None) -> Decision:
        """Who has the coprocessor after the current one's slice, or now when there is none.

        Args:
            now_ns: the coproc's clock.
            current: who is on the coprocessor and wants to stay there; None when nobody does.
        """

    def next_deadline_ns(self) -> int | None:
        """When `pick` must be asked again although nothing happened; None: need not be.

        On the clock of `now_ns`; a time that has passed means at once.
        """
        return None

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        """What another policy may carry over, for each vcoproc. Names are shared by convention:
        ``run_ns`` (time used), ``credit_ns`` (time it is owed; negative: owes)."""
        return {}

    def import_accounting(  # noqa: B027  optional on purpose
        self, carried: Mapping[int, Mapping[str, int]]
    ) -> None:
        """Takes over what it understands of an export, for vcoprocs that were added before."""


def resolve_parameters(
    descriptions: Sequence[Parameter], scope: Scope, given: Mapping[str, int]
) -> dict[str, int]:
    """All parameters of a scope: those given, checked, and the defaults of the others.

    Raises:
        InvalidArgument: an unknown name, or a value out of range.
    """
    known = {each.name: each for each in descriptions if each.scope is scope}
    for name, value in given.items():
        each = known.get(name)
        if each is None:
            names = ", ".join(sorted(known)) or "none"
            raise InvalidArgument(
                name, f"the algorithm has no such parameter for a {scope.value}; it has: {names}"
            )
        if not each.minimum <= value <= each.maximum:
            unit = f" {each.unit}" if each.unit else ""
            raise InvalidArgument(
                name, f"{value}{unit} is outside of {each.minimum} to {each.maximum}{unit}"
            )
    return {name: given.get(name, each.default) for name, each in known.items()}
