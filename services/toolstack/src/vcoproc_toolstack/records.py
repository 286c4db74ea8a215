"""What the toolstack knows, as frozen data. Neither tables nor proto messages go further in."""

from __future__ import annotations

import contextvars
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from vcoproc.config.records import CoprocConfig
from vcoproc.model.domain_state import HELD, DomainState


class Life(enum.Enum):
    """What is being done with a domain or a vcoproc.

    Only ALIVE outlasts a change: what a restarted toolstack finds in another state was left by one
    that died half way. What was being made is undone, what was being unmade is finished.
    """

    CREATING = "CREATING"
    STARTING = "STARTING"
    """A STOPPED domain is given its memory, contexts and places."""
    ALIVE = "ALIVE"
    STOPPING = "STOPPING"
    """They are taken from a domain that is STOPPED from now on."""
    DESTROYING = "DESTROYING"


class EventKind(enum.Enum):
    """As in the public API."""

    CREATED = "CREATED"
    DESTROYED = "DESTROYED"
    CHANGED = "CHANGED"
    FAULTED = "FAULTED"
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    FELL_BACK = "FELL_BACK"


class VcoprocState(enum.Enum):
    """As in the public API. UNKNOWN: neither the scheduler nor the coproc can tell."""

    UNKNOWN = "UNKNOWN"
    SLEEPING = "SLEEPING"
    WAITING = "WAITING"
    RUNNING = "RUNNING"
    FAULTED = "FAULTED"
    LOST = "LOST"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"


class CoprocState(enum.Enum):
    OFFLINE = "OFFLINE"
    ONLINE = "ONLINE"
    FAILED = "FAILED"


class CoprocLife(enum.Enum):
    """Where a coproc is between its addition and its end. REMOVING only lasts a change.

    REMOVED: the tree has it, or its template makes it, and it is not there all the same.
    """

    ALIVE = "ALIVE"
    REMOVING = "REMOVING"
    REMOVED = "REMOVED"


# --- coprocessor types, as coproc-sims describe them ----------------------------------------------


@dataclass(frozen=True, slots=True)
class PlatformRange:
    name: str
    size_bytes: int
    mapped: bool


@dataclass(frozen=True, slots=True)
class PlatformLine:
    name: str
    level: bool


@dataclass(frozen=True, slots=True)
class PlatformRegister:
    """access and when_out: words of the platform interface, passed through."""

    range: str
    name: str
    offset: int
    width_bytes: int
    access: str
    when_out: str
    description: str


@dataclass(frozen=True, slots=True)
class PlatformRecord:
    """A coprocessor type. ranges and lines: in the platform's order, which other services use."""

    compatible: str
    ranges: tuple[PlatformRange, ...]
    lines: tuple[PlatformLine, ...]
    registers: tuple[PlatformRegister, ...]
    contexts_max: int


# --- desired state --------------------------------------------------------------------------------


class Then(enum.Enum):
    """What follows what is under way. The first three: words of a domain's file."""

    PRESERVE = "preserve"
    RESTART = "restart"
    DESTROY = "destroy"
    GO_ON = "go on"
    STAY_PAUSED = "stay paused"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a state ends that lasts only a while, and who asked for it; for whoever comes after.

    RESTART of a STOPPED domain: it is to be started as soon as that is possible. request_id: empty
    when nobody waits for an answer.
    """

    then: Then
    request_id: str = ""
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class VcoprocRange:
    """A register range of a vcoproc; ipa and size_bytes are whole pages."""

    name: str
    ipa: int
    size_bytes: int
    mapped: bool


@dataclass(frozen=True, slots=True)
class VcoprocLine:
    """An interrupt line. index: its place in the platform. irq: the guest's number."""

    index: int
    name: str
    irq: int
    level: bool


@dataclass(frozen=True, slots=True)
class VcoprocRecord:
    """A domain's instance of a coproc. ranges: in the platform's order. No number comes back.

    domain_state: of the domain that it belongs to. revision: of the event that changed it, or its
    whole domain, last; 0 before the first.
    """

    vcoproc_id: int
    domid: int
    domain: str
    name: str
    coproc: str
    compatible: str
    life: Life
    trap_credential: bytes = field(repr=False)
    params: tuple[tuple[str, int], ...]
    ranges: tuple[VcoprocRange, ...]
    lines: tuple[VcoprocLine, ...]
    revision: int = 0
    domain_state: DomainState = DomainState.RUNNING

    @property
    def resource(self) -> str:
        return f"domains/{self.domain}/vcoprocs/{self.name}"

    @property
    def placed(self) -> bool:
        """Whether it is to be with its coproc, its lines and the scheduler."""
        return self.life is Life.ALIVE and self.domain_state is not DomainState.STOPPED

    def mapped_files(self) -> tuple[tuple[VcoprocRange, str], ...]:
        """Each mapped range with the name of the file that backs it."""
        return tuple(
            (place, f"vcoproc-{self.vcoproc_id}.{index}")
            for index, place in enumerate(self.ranges)
            if place.mapped
        )


def memory_file(domid: int) -> str:
    """The file with the memory of a domain."""
    return f"domain-{domid}"


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """A virtual machine. vcoprocs: sorted by name.

    revision: of the event that changed it, or one of its vcoprocs, last; 0 before the first.
    state_reason: for people; empty when there is nothing to say. create_time_ns: Unix time.
    on_poweroff, on_crash: what follows; one of PRESERVE, RESTART and DESTROY.
    """

    domid: int
    name: str
    life: Life
    memory_bytes: int
    irq_credential: bytes = field(repr=False)
    unknown_keys: tuple[str, ...]
    vcoprocs: tuple[VcoprocRecord, ...]
    revision: int = 0
    state: DomainState = DomainState.RUNNING
    state_reason: str = ""
    create_time_ns: int = 0
    on_poweroff: Then = Then.PRESERVE
    on_crash: Then = Then.PRESERVE
    ending: Ending | None = None

    @property
    def resource(self) -> str:
        return f"domains/{self.name}"

    @property
    def memory_file(self) -> str:
        return memory_file(self.domid)

    @property
    def placed(self) -> bool:
        """Whether it is to have memory and to be known to the irq-router."""
        return self.life is Life.ALIVE and self.state is not DomainState.STOPPED

    @property
    def held(self) -> bool:
        """Whether its vcoprocs are to be kept off their coprocs."""
        return self.state in HELD

    def files(self) -> tuple[str, ...]:
        """All its memory files."""
        mapped = (name for v in self.vcoprocs for _, name in v.mapped_files())
        return (self.memory_file, *mapped)

    def become(
        self, state: DomainState, reason: str = "", *, life: Life = Life.ALIVE
    ) -> DomainRecord:
        """The same domain in another state."""
        vcoprocs = tuple(replace(v, domain_state=state, life=life) for v in self.vcoprocs)
        return replace(self, state=state, state_reason=reason, life=life, vcoprocs=vcoprocs)

    def renamed(self, name: str) -> DomainRecord:
        """The same domain with another name."""
        vcoprocs = tuple(replace(v, domain=name) for v in self.vcoprocs)
        return replace(self, name=name, vcoprocs=vcoprocs)


@dataclass(frozen=True, slots=True)
class Hold:
    """A coproc-sim that may have a vcoproc that the desired state does not give it.

    As long as it is kept, the memory files that it may reach are neither removed nor used again.
    """

    coproc: str
    vcoproc_id: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """What faulted. vcoproc_id: 0 for the coproc itself. code, address: as its registers say."""

    vcoproc_id: int
    code: int
    address: int


@dataclass(frozen=True, slots=True)
class CoprocRecord:
    """What was changed of a coproc at run time. Of one that is as its tree says there is none.

    config: of one that was added, perhaps a template; None for one of the tree, and for one that a
    template makes. draining: it takes no new vcoprocs. incarnation: revision of the event that said
    that it was added, 0 for one that never was: tells it from others of its name, and gives the
    order of those that were added.
    """

    name: str
    config: CoprocConfig | None = None
    draining: bool = False
    life: CoprocLife = CoprocLife.ALIVE
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something changed. revision: rises by one with each. time_ns: Unix time.

    actor: name of the caller who caused it; empty for the cluster itself.
    resource: what changed, as it was after this event; None when it was gone by then, and for all
    that is no domain or vcoproc. One that was read from the store has no credentials.
    fault: of an event FAULTED; None for one that was kept before faults were.
    """

    revision: int
    name: str
    kind: EventKind
    description: str
    time_ns: int
    fault: FaultRecord | None = None
    actor: str = ""
    resource: DomainRecord | VcoprocRecord | None = field(default=None, repr=False)


class Role(enum.IntEnum):
    """What a caller may do, as in the public API: each may do what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


ACTOR: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("actor", default="")
"""Name of the caller for whom something is being changed now; empty for the cluster itself."""
CUT_OFF: Final = "CUT_OFF"
"""Outcome of a change whose toolstack died before it could say."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry of the audit log; see the public API. outcome: empty while it is under way."""

    number: int
    time_ns: int
    caller: str
    role: Role
    method: str
    name: str
    request: str
    before: str
    after: str
    outcome: str


# --- what is alive, as the other services say -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accounting:
    """Nanoseconds of the coproc's clock, and counts, since the vcoproc was created."""

    run_ns: int
    wait_ns: int
    refused_ns: int
    overtime_ns: int
    switch_ns: int
    switch_count: int
    wake_count: int
    instruction_count: int


@dataclass(frozen=True, slots=True)
class VcoprocStatus:
    """How a vcoproc is now. accounting: None while the scheduler does not answer.

    refusal_count: how often it refused to leave.
    """

    state: VcoprocState
    accounting: Accounting | None = None
    refusal_count: int = 0


@dataclass(frozen=True, slots=True)
class CoprocAccount:
    """What the scheduler says of a coproc. current: the vcoproc on it, 0 for none.

    algorithm: the one that decides.
    """

    coproc: str
    current: int
    switch_count: int
    vcoprocs: tuple[tuple[int, VcoprocStatus], ...]
    algorithm: str = ""


@dataclass(frozen=True, slots=True)
class LineNow:
    """How a line is in the irq-router. line: its index in the platform.

    pending: it has been raised and the domain has not finished with it.
    """

    line: int
    pending: bool
    masked: bool


@dataclass(frozen=True, slots=True)
class RouterView:
    """What the irq-router holds. paused: domains.

    coprocs, lines: whose lines they are, and how each is, by number of the vcoproc.
    """

    domids: frozenset[int]
    coprocs: Mapping[int, str]
    paused: frozenset[int] = frozenset()
    lines: Mapping[int, tuple[LineNow, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CoprocView:
    """What a coproc-sim says of its coproc. paused: those of its vcoprocs that are kept off.

    names: what its vcoprocs are called, by number.
    """

    current: int
    switch_count: int
    vcoprocs: tuple[tuple[int, VcoprocState], ...]
    paused: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)
