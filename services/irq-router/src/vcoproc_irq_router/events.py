"""What can happen to the irq-router, and what it orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from vcoproc.wire.messages import Eoi, Inject, LineEdge, LineEnable, LineLevel, LineSync, Resample

# --- control: may be repeated; refused with a RequestError, and then nothing has changed ----------


@dataclass(frozen=True, slots=True)
class AddDomain:
    """credential: the secret with which the domain will say hello."""

    domid: int
    credential: bytes


@dataclass(frozen=True, slots=True)
class RemoveDomain:
    """The domain and all its lines are forgotten."""

    domid: int


@dataclass(frozen=True, slots=True)
class MappedLine:
    """Output `line` of the vcoproc is interrupt `irq` of the domain.

    pending, masked: how it is at first: an edge waits (of a level line its coproc says all); the
    domain has masked it.
    """

    line: int
    irq: int
    level: bool
    pending: bool = False
    masked: bool = False


@dataclass(frozen=True, slots=True)
class MapLines:
    """All lines of a vcoproc at once."""

    domid: int
    vcoproc_id: int
    coproc: str
    lines: tuple[MappedLine, ...]


@dataclass(frozen=True, slots=True)
class UnmapLines:
    vcoproc_id: int


@dataclass(frozen=True, slots=True)
class MoveLines:
    """From now on another coproc speaks for this vcoproc. What its lines are, they stay."""

    vcoproc_id: int
    coproc: str


@dataclass(frozen=True, slots=True)
class PauseDomain:
    """From now on nothing is injected into it; everything stays pending."""

    domid: int


@dataclass(frozen=True, slots=True)
class ResumeDomain:
    domid: int


# --- links. Tuples, since they are made for every message and cost a third of a dataclass --------


class CoprocSaid(NamedTuple):
    coproc: str
    message: LineLevel | LineEdge | LineSync


class DomainSaid(NamedTuple):
    domid: int
    message: Eoi | LineEnable


class CoprocDown(NamedTuple):
    """The connection to a coproc is lost. Hardware that is not there drives no line."""

    coproc: str


class DomainUp(NamedTuple):
    """A domain listens. epoch: its incarnation. room: how many messages it takes now."""

    domid: int
    epoch: int
    room: int


class DomainDown(NamedTuple):
    """A domain does not listen any more, and has lost what it had not finished."""

    domid: int


class DomainRoom(NamedTuple):
    """A domain that had no room takes so many messages now."""

    domid: int
    room: int


Event: TypeAlias = (
    AddDomain
    | RemoveDomain
    | MapLines
    | UnmapLines
    | MoveLines
    | PauseDomain
    | ResumeDomain
    | CoprocSaid
    | DomainSaid
    | CoprocDown
    | DomainUp
    | DomainDown
    | DomainRoom
)


class SendInject(NamedTuple):
    """Effect: this message to that domain."""

    domid: int
    message: Inject


class SendResample(NamedTuple):
    """Effect: this question to that coproc."""

    coproc: str
    message: Resample


class DropDomain(NamedTuple):
    """Effect: the domain is no longer served; end its connection."""

    domid: int


Effect: TypeAlias = SendInject | SendResample | DropDomain


class LineView(NamedTuple):
    """One line, as it is shown."""

    domid: int
    vcoproc_id: int
    line: int
    irq: int
    level: bool
    high: bool
    pending: bool
    active: bool
    enabled: bool
    raised_count: int
    injected_count: int
    merged_count: int
    coproc: str
