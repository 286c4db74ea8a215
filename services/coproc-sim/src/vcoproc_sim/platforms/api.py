"""How a coprocessor type is added: the platform interface.

A platform declares its registers and lines as data (`PlatformInfo`) and implements `Platform`. It
is found by its `compatible` string in the entry-point group ``vcoproc.platforms``; the entry point
names a callable ``(PlatformConfig) -> Platform``.

The front end answers every access of a vcoproc that is *not* on the hardware from the declared
policy (`WhenOut`) alone; a platform sees only accesses of the vcoproc that it holds now.

Register values of a switched-out vcoproc live in its *shadow*: a list of ints in the order of
`PlatformInfo.registers`. `switch_from` writes the hardware's values into it, `switch_to` loads the
hardware from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias


class Access(enum.Enum):
    """What a driver may do with a register."""

    RO = "ro"
    RW = "rw"
    WO = "wo"
    W1C = "w1c"
    """Readable; writing a 1 bit clears it."""


class WhenOut(enum.Enum):
    """What an access does while its vcoproc is switched out."""

    SHADOW = "shadow"
    """Read and write the saved copy."""
    REPLAY = "replay"
    """Writes are queued in order and replayed at switch-in; reads see the saved copy."""
    HOLD = "hold"
    """The access waits until the vcoproc runs, at most `limits.HOLD_LIMIT_NS`."""
    CONST = "const"
    """Reads give the reset value; writes are refused."""
    DENY = "deny"
    """An error to the driver."""


class Trigger(enum.Enum):
    LEVEL = "level"
    EDGE = "edge"


class RangeKind(enum.Enum):
    TRAPPED = "trapped"
    """Registers; each access is a message."""
    MAPPED = "mapped"
    """Plain storage in pages shared between the domain and the coproc; no message."""


@dataclass(frozen=True, slots=True)
class Register:
    """One register of a trapped range.

    offset: bytes from the start of its range. width_bytes: 1, 2 or 4. reset: value after reset.
    wakes: a write makes a sleeping vcoproc want the coprocessor. reset_bits: when one of them goes
    from 1 to 0 the context is reset; while it is switched out, that voids the writes queued before.
    yields: a write on the hardware says that this is a good moment to switch.
    """

    name: str
    offset: int
    access: Access
    when_out: WhenOut
    doc: str
    reset: int = 0
    width_bytes: int = 4
    wakes: bool = False
    reset_bits: int = 0
    yields: bool = False


@dataclass(frozen=True, slots=True)
class RegisterRange:
    """A range of whole pages in the guest's address space."""

    name: str
    size_bytes: int
    kind: RangeKind
    registers: tuple[Register, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """An interrupt output of the coprocessor.

    A level line is high while ``status & enable`` is not zero, where both name registers; so its
    level is defined for a switched-out vcoproc too. Without `enable` the status alone counts.
    An edge line names neither; the platform reports its pulses.
    """

    name: str
    trigger: Trigger
    status: str = ""
    enable: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    needs_iommu: bool = True
    brings_own_mmu: bool = False
    preemptible: bool = True
    needs_scheduler: bool = True
    """False: the hardware partitions itself; every vcoproc is on it at once."""
    contexts_max: int = 64


@dataclass(frozen=True)
class PlatformInfo:
    """A coprocessor type, as data."""

    compatible: str
    ranges: tuple[RegisterRange, ...]
    lines: tuple[Line, ...]
    features: Features

    @cached_property
    def registers(self) -> tuple[Register, ...]:
        """All registers, in the order of the shadow."""
        return tuple(register for rng in self.ranges for register in rng.registers)

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Place of each register in the shadow, by name."""
        return {register.name: place for place, register in enumerate(self.registers)}

    def reset_values(self) -> list[int]:
        """A new shadow."""
        return [register.reset for register in self.registers]


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """What the device tree says of one coproc.

    private_bytes: on-chip memory that belongs to the context, a multiple of the page size.
    clock_hz: clock of the core; one instruction counts as one cycle. parameters: properties of the
    node that only this platform knows, as text (numbers in decimal, with spaces between).
    clock: the coproc's clock in nanoseconds; None: the host's.
    """

    name: str
    private_bytes: int
    clock_hz: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    clock: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A piece of memory that a context may reach.

    ipa: guest-physical address, page aligned. backing: a writable buffer of whole pages (an mmap of
    the shared file); its length is the region's size. executable and writable: stage-2 permissions.
    """

    ipa: int
    backing: memoryview
    writable: bool = True
    executable: bool = True


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """What a context is made of.

    regions: the domain's memory. mapped: a buffer for each MAPPED range of the platform, in the
    order of `PlatformInfo.ranges`. shadow: the registers, owned by the front end, see above.
    """

    vcoproc_id: int
    regions: tuple[MemoryRegion, ...]
    mapped: tuple[memoryview, ...]
    shadow: list[int]


Buffer: TypeAlias = bytes | memoryview


class ContextImage(Protocol):
    """A context as it was when it was written down; what it is made of changes no more."""

    def pieces(self) -> list[Buffer]:
        """The same in a portable, versioned form: bytes, in order. For any thread.

        Large pieces are not copied: that would stop all other threads.
        """


@dataclass(frozen=True, slots=True)
class Done:
    """The switch hook has finished."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The coprocessor refuses for now; ask again after `retry_after_ns` (1 or more).

    Nothing has changed: after a refused `switch_to` another context may be entered instead.
    """

    retry_after_ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The coprocessor cannot be switched at all; it is quarantined."""

    why: str


SwitchResult: TypeAlias = Done | Busy | Failed


class StopReason(enum.Enum):
    BUDGET = "budget"
    """All instructions of the budget ran."""
    IDLE = "idle"
    """The firmware waits for an interrupt; nothing is pending."""
    ATTENTION = "attention"
    """A line changed or an edge was raised: look now, then go on."""
    YIELD = "yield"
    """The firmware says that now is a good moment to switch."""
    FAULT = "fault"
    """The vcoproc has faulted; `RunResult.fault` says how."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a vcoproc faulted. code: FAULT_STATUS value (1 or more). address: FAULT_ADDRESS value."""

    code: int
    address: int
    why: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a burst did.

    instructions: executed, as the platform accounts them. wake_after_ns: with IDLE, the coproc time
    until the context wants to run again by itself (a timer), or None.
    """

    reason: StopReason
    instructions: int
    wake_after_ns: int | None = None
    fault: Fault | None = None


class Platform(Protocol):
    """One coprocessor. At most one context is on it; all calls come from one thread."""

    info: PlatformInfo

    def create_context(self, spec: ContextSpec) -> None:
        """Sets a context up: tables, memory, reset state. Slow path; may allocate.

        Raises:
            LimitExceeded: no room for another context or its memory.
        """

    def destroy_context(self, vcoproc_id: int) -> None:
        """Releases everything of a context that is not on the hardware."""

    def switch_from(self, vcoproc_id: int) -> SwitchResult:
        """Stops and saves the current context; after Done none is on the hardware."""

    def set_stage2(self, vcoproc_id: int | None) -> None:
        """Makes the stage-2 tables of a context the current ones and flushes the TLB.

        Called between `switch_from` and `switch_to`. None: no table; whatever is accessed faults.
        """

    def switch_to(self, vcoproc_id: int) -> SwitchResult:
        """Restores a context; after Done it is on the hardware and `run` executes it.

        Whoever calls it has replayed nothing yet: queued writes follow through `write`.
        """

    def cancel_switch(self, vcoproc_id: int) -> None:
        """Undoes a refused `switch_from`: the context goes on as if nothing had been asked."""

    def force_off(self, vcoproc_id: int) -> None:
        """Takes a refusing context off by reset. Its context is in reset state afterwards."""

    def read(self, index: int) -> int:
        """Reads a register of the current context. index: place in `PlatformInfo.registers`."""

    def write(self, index: int, value: int) -> None:
        """Writes a register of the current context, with its effects.

        A W1C register gets the raw value; the platform clears the bits.
        """

    def shadow_written(self, vcoproc_id: int, index: int, old: int) -> None:
        """A SHADOW register of a switched-out context was written; the shadow has the new value.

        For registers whose changes have effects: a reset bit that goes to 0 and back to 1 while
        the context is out must not be missed.
        """

    def is_faulted(self, vcoproc_id: int) -> bool:
        """Whether a context, on the hardware or not, has faulted and was not reset since."""

    def wants_to_run(self) -> bool:
        """Whether the current context has something to execute now."""

    def shadow_wants_to_run(self, vcoproc_id: int) -> bool:
        """Whether a switched-out context would execute if it were switched in (reset released and
        not waiting for an interrupt, or an interrupt is pending). Queued writes do not count."""

    def wake_after_ns(self, vcoproc_id: int, idle_ns: int) -> int | None:
        """Time until a timer of an idle context expires, `idle_ns` after it became idle."""

    def run(self, budget: int, now_ns: int) -> RunResult:
        """Executes at most `budget` instructions of the current context.

        Args:
            now_ns: the context's clock, for its timers: the coproc's, less the time for which the
                vcoproc was paused. It goes on while the context is switched out.
        """

    def take_edges(self) -> Sequence[int]:
        """Indices of edge lines pulsed since the last call, in order."""

    def reset_context(self, vcoproc_id: int) -> None:
        """Puts a context into reset, on the hardware or not. Faults are cleared."""

    def snapshot(self, vcoproc_id: int, now_ns: int) -> ContextImage:
        """A switched-out context with its shadow, without the domain's memory and mapped ranges.

        Everybody waits for it, as for a switch: nothing but a copy is to be made here.

        Args:
            now_ns: the context's clock, see `run`. Nothing of it is in the image: only how far its
                timers have come.
        """

    def read_snapshot(self, blob: memoryview) -> ContextImage:
        """An image from its bytes, checked. For any thread; large parts of it are not copied.

        Raises:
            InvalidArgument: not a snapshot of this platform as it is configured, or damaged.
        """

    def restore(self, vcoproc_id: int, image: ContextImage, now_ns: int) -> None:
        """Loads an image of this platform into a switched-out context, and its shadow.

        Args:
            now_ns: the context's clock, from which its timers go on.
        """

    def close(self) -> None:
        """Releases the engine."""


class Draining(Protocol):
    """What a platform that refuses to be left may offer besides `Platform`; each is optional.

    Such a context climbs a ladder: it is asked again, it drains, its save is forced, it is reset
    (`Platform.force_off`).
    """

    def drain(self, vcoproc_id: int) -> None:
        """Tells a refusing context to finish what it does and begin nothing new.

        Undone by `cancel_switch`. From now on it is also asked when it idles or yields.
        """

    def force_save(self, vcoproc_id: int) -> SwitchResult:
        """As `switch_from`, whatever the context does; what it does may be lost, the rest is not.

        With anything else than Done it is reset.
        """


PlatformFactory: TypeAlias = Callable[[PlatformConfig], Platform]
