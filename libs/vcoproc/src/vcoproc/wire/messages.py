"""The messages of the three hot links, as frozen dataclasses.

Links, and who sends what (design: traps, grants and reports, interrupts):

=========  ============================  =====================================
link       client (DEALER)               server (ROUTER)
=========  ============================  =====================================
trap       domain                        coproc-sim
schedule   coproc-sim                    scheduler
interrupt  coproc-sim; domain            irq-router (a socket for each kind)
=========  ============================  =====================================

Every link begins with `Hello`, answered by `Welcome` or `Reject`. Type numbers and field order are
a contract: fields are only ever appended, and what a later minor version appended has a default:
it is left out of a frame while it and all after it have theirs, so that older readers and writers
understand each other.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from vcoproc.limits import BATCH_OPS_MAX, LINES_PER_VCOPROC_MAX, NAME_BYTES_MAX
from vcoproc.wire.fields import (
    Check,
    blob,
    boolean,
    list_of,
    record,
    text,
    u8,
    u16,
    u32,
    u64,
    unsigned_list,
)  # fmt: skip

NAME = text(NAME_BYTES_MAX)
REASON = text(64)
DETAIL = text(1024)
CREDENTIAL = blob(64)


class Role(enum.IntEnum):
    """Who says hello."""

    DOMAIN = 1
    COPROC = 2


class EndReason(enum.IntEnum):
    """Why a turn on the coprocessor ended."""

    SLICE = 1
    """Its time was over and another was waiting."""
    IDLE = 2
    """The firmware waits for an interrupt."""
    PREEMPTED = 3
    """A grant said: now."""
    YIELD = 4
    """The firmware said that this is a good moment."""
    FAULT = 5
    REMOVED = 6
    """Destroyed or paused."""


class Message:
    """Base of all messages. `TYPE` is the type byte; `CHECKS` has one check for each field."""

    __slots__ = ()
    TYPE: ClassVar[int]
    CHECKS: ClassVar[tuple[Check, ...]]

    def body(self) -> tuple[Any, ...]:
        """The fields in wire order, less those at the end that have their default."""
        return _FIELDS_OF[type(self)](self)


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message of a client. role: a `Role`. features: bit mask, 0 for now."""

    TYPE: ClassVar[int] = 0x01
    CHECKS: ClassVar[tuple[Check, ...]] = (u8, CREDENTIAL, u16, u32, NAME)
    role: int
    credential: bytes
    minor: int
    features: int
    name: str


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    TYPE: ClassVar[int] = 0x02
    CHECKS: ClassVar[tuple[Check, ...]] = (u16, u32, NAME)
    minor: int
    features: int
    name: str


@dataclass(frozen=True, slots=True)
class Reject(Message):
    """The server closes the session, or never opened it."""

    TYPE: ClassVar[int] = 0x03
    CHECKS: ClassVar[tuple[Check, ...]] = (REASON, DETAIL)
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """Carries only the header's acknowledgement and credit. Has no sequence number."""

    TYPE: ClassVar[int] = 0x04
    CHECKS: ClassVar[tuple[Check, ...]] = ()


@dataclass(frozen=True, slots=True)
class Bye(Message):
    """The sender closes the session."""

    TYPE: ClassVar[int] = 0x05
    CHECKS: ClassVar[tuple[Check, ...]] = (REASON,)
    why: str


# --- trap link ------------------------------------------------------------------------------------
# place: index of the register range. offset: bytes in it. width_bytes: 1, 2 or 4.


@dataclass(frozen=True, slots=True)
class Read(Message):
    """Answered by `Reply` with one value, or `TrapError`."""

    TYPE: ClassVar[int] = 0x10
    CHECKS: ClassVar[tuple[Check, ...]] = (u8, u32, u8)
    place: int
    offset: int
    width_bytes: int


@dataclass(frozen=True, slots=True)
class Write(Message):
    """Answered by `Reply` with no value, or `TrapError`."""

    TYPE: ClassVar[int] = 0x11
    CHECKS: ClassVar[tuple[Check, ...]] = (u8, u32, u8, u32)
    place: int
    offset: int
    width_bytes: int
    value: int


@dataclass(frozen=True, slots=True)
class Post(Message):
    """A write that is not answered; only a `TrapError` comes back."""

    TYPE: ClassVar[int] = 0x12
    CHECKS: ClassVar[tuple[Check, ...]] = (u8, u32, u8, u32)
    place: int
    offset: int
    width_bytes: int
    value: int


@dataclass(frozen=True, slots=True)
class Batch(Message):
    """Accesses done in order: (is_write, place, offset, width_bytes, value).

    Answered by one `Reply` with a value for each read, or by a `TrapError` at the first access that
    fails; the ones after it are not done. An empty batch is a fence.
    """

    TYPE: ClassVar[int] = 0x13
    CHECKS: ClassVar[tuple[Check, ...]] = (
        list_of(record(boolean, u8, u32, u8, u32), BATCH_OPS_MAX),
    )
    accesses: tuple[tuple[bool, int, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Reply(Message):
    """request: sequence number of the message that it answers."""

    TYPE: ClassVar[int] = 0x14
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, unsigned_list(32, BATCH_OPS_MAX))
    request: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrapError(Message):
    """index: which access of a batch failed. error: a stable reason of `vcoproc.errors`."""

    TYPE: ClassVar[int] = 0x15
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u16, REASON, DETAIL)
    request: int
    index: int
    error: str
    detail: str


@dataclass(frozen=True, slots=True)
class Moved(Message):
    """The vcoproc lives on elsewhere. The last message to its driver, a `Reject` follows.

    done: number of the newest request that is done, with all before it, and answered if that was
    to be; 0 for none. position, values: of the one after it, a batch, so many accesses are done,
    and gave these values. What is not done here nor answered is to be asked there, in order.
    """

    TYPE: ClassVar[int] = 0x16
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u16, unsigned_list(32, BATCH_OPS_MAX))
    done: int
    position: int
    values: tuple[int, ...]


# --- schedule link --------------------------------------------------------------------------------
# All times are nanoseconds of the coproc's own clock.


@dataclass(frozen=True, slots=True)
class Register(Message):
    """What a coproc holds: said after each welcome. vcoprocs: (id, runnable, faulted).

    current: the vcoproc on the hardware, 0 for none.
    """

    TYPE: ClassVar[int] = 0x20
    CHECKS: ClassVar[tuple[Check, ...]] = (
        NAME,
        u64,
        u32,
        list_of(record(u32, boolean, boolean), 4096),
    )
    coproc: str
    clock_ns: int
    current: int
    vcoprocs: tuple[tuple[int, bool, bool], ...]


@dataclass(frozen=True, slots=True)
class Wake(Message):
    """A vcoproc wants the coprocessor. resumed: it was still on it and runs already."""

    TYPE: ClassVar[int] = 0x21
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u64, boolean)
    vcoproc: int
    clock_ns: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Sleep(Message):
    """The vcoproc on the hardware became idle and stays there, since no other is granted."""

    TYPE: ClassVar[int] = 0x22
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u64)
    vcoproc: int
    clock_ns: int


@dataclass(frozen=True, slots=True)
class Report(Message):
    """A turn has ended.

    grant, vcoproc: what ran; next_grant, next_vcoproc: what is on the hardware now, 0 for none.
    When a `Vacate` was carried out, next_grant is its number and next_vcoproc is 0. end: an
    `EndReason`; SLICE also at `Grant.until_ns`. runnable: whether the vcoproc that left still wants
    to run. planned_ns: its slice, cut short by `Grant.until_ns`. ran_ns: time it held the
    coprocessor and was not idle, refusals included. refused_ns, refusals: how long and how often it
    refused to leave. forced: it was reset to make it leave. instructions: executed. save_ns,
    mmu_ns, restore_ns: phases of the switch. ended_ns: when it was told to leave; with vcoproc 0,
    when the next one's switch began. next_began_ns: when its turn began (0 without one).

    switch_in_refused_ns, switch_in_refusals: how long, up to ended_ns, and how often the hardware
    refused to take next_vcoproc in, whose refusal it is. Only with vcoproc 0: a coprocessor that
    refuses the next one is reported empty first.
    """

    TYPE: ClassVar[int] = 0x23
    CHECKS: ClassVar[tuple[Check, ...]] = (
        u32, u32, u32, u32, u8, boolean, u64, u64, u64, u32, boolean, u64, u64, u64, u64, u64, u64,
        u64, u32,
    )  # fmt: skip
    grant: int
    vcoproc: int
    next_grant: int
    next_vcoproc: int
    end: int
    runnable: bool
    planned_ns: int
    ran_ns: int
    refused_ns: int
    refusals: int
    forced: bool
    instructions: int
    save_ns: int
    mmu_ns: int
    restore_ns: int
    ended_ns: int
    next_began_ns: int
    switch_in_refused_ns: int = 0
    switch_in_refusals: int = 0


@dataclass(frozen=True, slots=True)
class GrantDropped(Message):
    """A grant that came to nothing: its vcoproc is asleep, faulted or gone, or it was replaced.

    grant: 0 when there was none: a vcoproc that waited is kept from running (PAUSED).
    why: LATE when it could only have begun at its `until_ns` or later; like REPLACED it says
    nothing about the vcoproc, which wants to run as before, and no `Wake` follows. Of a `Vacate`
    (vcoproc 0): EMPTY when nobody was on the hardware.

    refused_ns, refusals: how long, up to clock_ns, and how often the hardware refused to take the
    vcoproc in. SWITCH_TIMEOUT: until its bound. REPLACED is said only of a grant that had been
    refused so when it was taken back or another order took its place; a `Register` forgets it.
    """

    TYPE: ClassVar[int] = 0x24
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u32, REASON, u64, u64, u32)
    grant: int
    vcoproc: int
    why: str
    clock_ns: int
    refused_ns: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class Faulted(Message):
    """A vcoproc has faulted; it is not runnable until a reset. code: its FAULT_STATUS."""

    TYPE: ClassVar[int] = 0x25
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u32, u64, DETAIL, u64)
    vcoproc: int
    code: int
    address: int
    why: str
    clock_ns: int


@dataclass(frozen=True, slots=True)
class Grant(Message):
    """Who runs next, and how long. Replaces a `Grant` or `Vacate` that has not begun.

    grant: number, rising, shared with `Vacate`. now: do not wait for the end of the current slice.
    refusal_ns: how long the one that leaves may refuse before it is forced off; and how long, but
    SWITCH_IN_NS_MIN at least, the hardware may refuse to take the next one in before the grant is
    dropped.

    not_before_ns (0: no bound): before that time of the coproc's clock the switch does not begin;
    the one that leaves is told to leave then at the earliest, so the turn itself begins later by
    the switch. Until then the grant is as if it were not there: the current one runs on though its
    slice is over, an idle one stays (and says `Sleep`, and resumes with a `Wake`), an empty
    coprocessor stays empty, a yield is ignored. At that time it counts like a grant that has just
    come: with now the current one is preempted, else the end of its slice, which may have passed,
    is waited for.

    until_ns (0: no bound): the turn ends at that time of the coproc's clock, however late it began:
    its slice is cut short when it begins, and again when the vcoproc resumes after having been
    idle. At that time it leaves, running or idle, even if nobody comes after it: then the report
    says next_vcoproc 0 and next_grant 0, with end SLICE (IDLE of an idle one), and a grant that
    waits for its not_before_ns goes on waiting. If a grant may begin at the same time, it does,
    without the coprocessor having been empty; one for the same vcoproc renews its turn without a
    switch. A turn that would only begin at until_ns or later is dropped instead (`GrantDropped`,
    LATE), before anybody leaves for it if that is known by then.

    The one that left is not put back by a wake: an empty coprocessor waits for the next grant.
    """

    TYPE: ClassVar[int] = 0x28
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u32, u64, boolean, u64, u64, u64)
    grant: int
    vcoproc: int
    slice_ns: int
    now: bool
    refusal_ns: int
    not_before_ns: int = 0
    until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Revoke(Message):
    """Takes back a `Grant` or `Vacate` that has not begun; one that has begun runs on."""

    TYPE: ClassVar[int] = 0x29
    CHECKS: ClassVar[tuple[Check, ...]] = (u32,)
    grant: int


@dataclass(frozen=True, slots=True)
class Vacate(Message):
    """The current one leaves at the end of its slice, or now, and the coprocessor stays empty.

    It takes the place of the next grant: it replaces a `Grant` or `Vacate` that has not begun, and
    a later one of either replaces it. grant: number, rising, shared with `Grant`. now, refusal_ns:
    as there; the slice of an idle one is over, so it leaves at once. A yield is ignored: nobody
    comes.

    It ends in one of four ways: carried out, whyever the current one leaves (a `Report` with
    next_grant its number and next_vcoproc 0); `GrantDropped` with EMPTY when nobody is on the
    hardware; taken back by `Revoke`; replaced. While the current one refuses to leave, a grant for
    it or a `Revoke` lets it stay, and a grant for another one that may begin is what it leaves for.
    Nobody resumes by itself afterwards: a vcoproc that wakes says `Wake`, and waits for a grant.
    """

    TYPE: ClassVar[int] = 0x2A
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, boolean, u64)
    grant: int
    now: bool
    refusal_ns: int


# --- interrupt link -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineLevel(Message):
    """A level line of a vcoproc changed. epoch: switch epoch in which it did.

    raised_ns: CLOCK_MONOTONIC of the coproc's host, for latency figures on the same host only.
    """

    TYPE: ClassVar[int] = 0x30
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u8, boolean, u32, u64)
    vcoproc: int
    line: int
    high: bool
    epoch: int
    raised_ns: int


@dataclass(frozen=True, slots=True)
class LineEdge(Message):
    """An edge line of a vcoproc pulsed."""

    TYPE: ClassVar[int] = 0x31
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u8, u32, u64)
    vcoproc: int
    line: int
    epoch: int
    raised_ns: int


@dataclass(frozen=True, slots=True)
class LineSync(Message):
    """All level lines of a vcoproc, as bit mask, after a welcome. Lines not known yet are kept."""

    TYPE: ClassVar[int] = 0x32
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u32, u32)
    vcoproc: int
    high_mask: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Resample(Message):
    """The router asks for the level of a line; answered by `LineLevel`, changed or not.

    The domain that cleared the cause says EOI on another connection than the one on which the
    coproc says that the line fell, so at EOI the router's knowledge may be out of date.
    """

    TYPE: ClassVar[int] = 0x33
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, u8)
    vcoproc: int
    line: int


@dataclass(frozen=True, slots=True)
class Fence(Message):
    """A coproc says it, and the router says it back: it has taken everything before it."""

    TYPE: ClassVar[int] = 0x34
    CHECKS: ClassVar[tuple[Check, ...]] = (u32,)
    number: int


@dataclass(frozen=True, slots=True)
class Inject(Message):
    """The domain takes interrupt `irq`, active until `Eoi`. raised_ns: as in `LineLevel`."""

    TYPE: ClassVar[int] = 0x38
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, boolean, u64)
    irq: int
    level: bool
    raised_ns: int


@dataclass(frozen=True, slots=True)
class Eoi(Message):
    """End of interrupt. A level line that is still high (`Resample`) is injected again."""

    TYPE: ClassVar[int] = 0x39
    CHECKS: ClassVar[tuple[Check, ...]] = (u32,)
    irq: int


@dataclass(frozen=True, slots=True)
class LineEnable(Message):
    """The domain masks or unmasks an interrupt; what comes while masked stays pending."""

    TYPE: ClassVar[int] = 0x3A
    CHECKS: ClassVar[tuple[Check, ...]] = (u32, boolean)
    irq: int
    enabled: bool


MESSAGE_CLASSES: tuple[type[Message], ...] = (
    Hello, Welcome, Reject, Credit, Bye,
    Read, Write, Post, Batch, Reply, TrapError, Moved,
    Register, Wake, Sleep, Report, GrantDropped, Faulted, Grant, Revoke, Vacate,
    LineLevel, LineEdge, LineSync, Resample, Fence, Inject, Eoi, LineEnable,
)  # fmt: skip

_FIELD_NAMES: dict[type[Message], tuple[str, ...]] = {
    cls: tuple(field.name for field in fields(cls))  # type: ignore[arg-type]
    for cls in MESSAGE_CLASSES
}


def _getter(names: tuple[str, ...]) -> Callable[[Message], tuple[Any, ...]]:
    # attrgetter is four times as fast as a loop, but gives a tuple for two names and more only.
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda message: tuple([getattr(message, name) for name in names])


def _trimming_getter(
    names: tuple[str, ...], defaults: tuple[Any, ...]
) -> Callable[[Message], tuple[Any, ...]]:
    """Of a class to which a later minor appended fields: without those that have their default."""
    whole = _getter(names)
    required = len(names) - len(defaults)

    def trimmed(message: Message) -> tuple[Any, ...]:
        values = whole(message)
        count = len(values)
        while count > required and values[count - 1] == defaults[count - 1 - required]:
            count -= 1
        return values[:count]

    return trimmed


_DEFAULTS: dict[type[Message], tuple[Any, ...]] = {
    cls: tuple(field.default for field in fields(cls) if field.default is not MISSING)  # type: ignore[arg-type]
    for cls in MESSAGE_CLASSES
}
REQUIRED_FIELDS: dict[type[Message], int] = {
    cls: len(_FIELD_NAMES[cls]) - len(_DEFAULTS[cls]) for cls in MESSAGE_CLASSES
}
"""How many fields a frame of the oldest minor version has."""
_FIELDS_OF: dict[type[Message], Callable[[Message], tuple[Any, ...]]] = {
    cls: _trimming_getter(names, _DEFAULTS[cls]) if _DEFAULTS[cls] else _getter(names)
    for cls, names in _FIELD_NAMES.items()
}
MESSAGE_BY_TYPE: dict[int, type[Message]] = {cls.TYPE: cls for cls in MESSAGE_CLASSES}

assert len(MESSAGE_BY_TYPE) == len(MESSAGE_CLASSES)
assert all(len(_FIELD_NAMES[cls]) == len(cls.CHECKS) for cls in MESSAGE_CLASSES)
assert LINES_PER_VCOPROC_MAX <= 32, "LineSync carries the lines in 32 bits"
