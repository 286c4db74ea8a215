"""What goes into a scheduler core and what comes out of it.

Most events are the messages of the schedule link as they are; the rest comes from control and from
the link itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from vcoproc.wire.messages import (
    Faulted,
    Grant,
    GrantDropped,
    Register,
    Report,
    Revoke,
    Sleep,
    Wake,
)
from vcoproc_scheduler.accounting import AccountView, TurnEnded


@dataclass(frozen=True, slots=True)
class SetAlgorithm:
    """Control wants this algorithm with this configuration. Repeated: nothing happens.

    slice_ns: SLICE_NS_MIN to SLICE_NS_MAX. refusal_ns: 0 to SWITCH_DEADLINE_NS.
    """

    algorithm: str
    slice_ns: int
    refusal_ns: int
    parameters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class AddVcoproc:
    """Control adds a vcoproc, or changes its parameters."""

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
    SetAlgorithm | AddVcoproc | RemoveVcoproc | CoprocOnline | CoprocOffline | Tick
)
Event: TypeAlias = WireEvent | ControlEvent
Effect: TypeAlias = Grant | Revoke | TurnEnded


@dataclass(frozen=True, slots=True)
class VcoprocView:
    """One vcoproc for control. run_state: name of a `RunState`."""

    vcoproc: int
    run_state: str
    account: AccountView


@dataclass(frozen=True, slots=True)
class CoprocView:
    """One coproc for control. current: 0 for none. algorithm: empty when none was set."""

    coproc: str
    online: bool
    current: int
    switches: int
    algorithm: str
    vcoprocs: tuple[VcoprocView, ...]
