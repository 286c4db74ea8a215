"""What goes into a scheduler core and what comes out of it.

Most events are the messages of the schedule link as they are; the rest comes from control and from
the link itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from vcoproc.wire.messages import (
    Faulted,
    Grant,
    GrantDropped,
    Register,
    Report,
    Revoke,
    Sleep,
    Vacate,
    Wake,
)
from vcoproc_scheduler.accounting import NOTHING_USED, AccountView, TurnEnded, Used


@dataclass(frozen=True, slots=True)
class SetAlgorithm:
    """Control wants this algorithm with this configuration. Repeated: nothing happens.

    slice_ns: SLICE_NS_MIN to SLICE_NS_MAX. refusal_ns: 0 to SWITCH_DEADLINE_NS. keep: parameters of
    the coproc that are not named keep their values where the algorithm has them. restart: begin
    anew even if nothing differs, to try an algorithm again that has failed. vcoprocs: all
    parameters that are set of vcoprocs that were added, from now on; those of the others stay.
    """

    algorithm: str
    slice_ns: int
    refusal_ns: int
    parameters: Mapping[str, int]
    keep: bool = False
    restart: bool = False
    vcoprocs: Mapping[int, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AddVcoproc:
    """Control adds a vcoproc, or changes its parameters.

    used: its accounts begin with this; of one that was added before it says nothing.
    """

    vcoproc: int
    parameters: Mapping[str, int]
    used: Used = NOTHING_USED


@dataclass(frozen=True, slots=True)
class SetVcoprocParameters:
    """Control changes some parameters of a vcoproc that it has added; the others stay."""

    vcoproc: int
    parameters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RemoveVcoproc:
    """Control forgets a vcoproc; if it is on the coprocessor, another one is put there now."""

    vcoproc: int


@dataclass(frozen=True, slots=True)
class CoprocOnline:
    """The coproc's link is up. Its `Register` follows."""


@dataclass(frozen=True, slots=True)
class CoprocOffline:
    """The coproc's link is down. What it said and was told is void."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The core's deadline has come."""


WireEvent: TypeAlias = Register | Wake | Sleep | Report | GrantDropped | Faulted
ControlEvent: TypeAlias = (
    SetAlgorithm
    | AddVcoproc
    | SetVcoprocParameters
    | RemoveVcoproc
    | CoprocOnline
    | CoprocOffline
    | Tick
)
Event: TypeAlias = WireEvent | ControlEvent


@dataclass(frozen=True, slots=True)
class FellBack:
    """An algorithm failed; ``rr`` is in charge now.

    clock_ns: of the coproc, as well as it is known. now_ns: of our own clock.
    """

    coproc: str
    algorithm: str
    why: str
    clock_ns: int
    now_ns: int


@dataclass(frozen=True, slots=True)
class LostParameter:
    """Was set, and the new algorithm cannot keep it. vcoproc: 0 for a parameter of the coproc."""

    vcoproc: int
    name: str
    value: int


@dataclass(frozen=True, slots=True)
class ParametersLost:
    """What a change of the algorithm has cost; never empty."""

    lost: tuple[LostParameter, ...]


Order: TypeAlias = Grant | Revoke | Vacate
Effect: TypeAlias = Order | TurnEnded | FellBack | ParametersLost


@dataclass(frozen=True, slots=True)
class VcoprocView:
    """One vcoproc for control. run_state: name of a `RunState`."""

    vcoproc: int
    run_state: str
    account: AccountView


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """How one coproc is scheduled, for control.

    algorithm: who decides; wanted: what control set, with all parameters of the coproc. vcoprocs:
    parameters of each, all of them, those with defaults too. fallback: the last one. clock_ns: the
    coproc's, 0 while it is offline. switch_max_ns: the longest switch so far, without refusals.
    """

    coproc: CoprocView
    wanted: SetAlgorithm
    parameters: Mapping[int, Mapping[str, int]]
    fallback: FellBack | None
    fallback_count: int
    clock_ns: int
    last_decision: int
    switch_max_ns: int


@dataclass(frozen=True, slots=True)
class CoprocView:
    """One coproc for control. current: 0 for none. algorithm: empty when none was set."""

    coproc: str
    online: bool
    current: int
    switches: int
    algorithm: str
    vcoprocs: tuple[VcoprocView, ...]
