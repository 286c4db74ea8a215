"""The steps that changes are made of, and what takes each of them back. Pure: nothing is done here.

Theory of operation:
    A step is one order to one service, or to the memory directory. Every step may be repeated:
    whoever performs it finds it done and succeeds. `plans` puts steps in order, `saga` walks them,
    `ports.Services` performs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from vcoproc.config.records import CoprocConfig
from vcoproc_toolstack.records import DomainRecord, LineNow, VcoprocRecord

# --- memory directory -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeMemory:
    """A file of zeros, whatever was there before."""

    file_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TakeMemory:
    """A file that lies ready under another name gets its own."""

    file_name: str
    staged: str


@dataclass(frozen=True, slots=True)
class RemoveMemory:
    file_name: str


@dataclass(frozen=True, slots=True)
class ForgetContext:
    """The context that waits to be loaded into a vcoproc is not to be loaded any more."""

    coproc: str
    vcoproc_id: int


# --- irq-router -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddDomain:
    """Makes a domain known to the irq-router."""

    domain: DomainRecord


@dataclass(frozen=True, slots=True)
class RemoveDomain:
    domid: int


@dataclass(frozen=True, slots=True)
class PauseDomain:
    """Its interrupts wait."""

    domid: int


@dataclass(frozen=True, slots=True)
class ResumeDomain:
    domid: int


@dataclass(frozen=True, slots=True)
class MapLines:
    """now: how lines are at first that are not quiet."""

    vcoproc: VcoprocRecord
    now: tuple[LineNow, ...] = ()


@dataclass(frozen=True, slots=True)
class UnmapLines:
    vcoproc_id: int


@dataclass(frozen=True, slots=True)
class MoveLines:
    """Lines of a vcoproc belong to another coproc. back_to: whose they were."""

    vcoproc_id: int
    coproc: str
    back_to: str


# --- scheduler ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetCoproc:
    """Makes a coproc known to the scheduler. Not undone: it belongs to no domain.

    vcoprocs: all parameters that are set of vcoprocs that the scheduler has, by number; those of
    others stay.
    """

    coproc: CoprocConfig
    vcoprocs: tuple[tuple[int, tuple[tuple[str, int], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class RemoveCoproc:
    """Makes the scheduler forget a coproc."""

    coproc: str


@dataclass(frozen=True, slots=True)
class AddVcoproc:
    """Makes a vcoproc known to the scheduler.

    used_on: name of the coproc that it was on, whose account goes on; empty for a new one.
    """

    vcoproc: VcoprocRecord
    used_on: str = ""


@dataclass(frozen=True, slots=True)
class RemoveVcoproc:
    coproc: str
    vcoproc_id: int


# --- coproc-sims ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttachVcoproc:
    """Gives a vcoproc to its coproc-sim, with the domain's memory; or tells it another name.

    paused: it is kept off the hardware from the beginning.
    """

    vcoproc: VcoprocRecord
    memory_file: str
    memory_bytes: int
    paused: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Memory files that it can reach then."""
        return (self.memory_file, *(name for _, name in self.vcoproc.mapped_files()))


@dataclass(frozen=True, slots=True)
class DetachVcoproc:
    """Takes a vcoproc off the hardware and out of its coproc-sim.

    moved: it lives on elsewhere. files: memory that it can reach until then.
    """

    coproc: str
    vcoproc_id: int
    moved: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PauseVcoproc:
    """Takes a vcoproc off the hardware and keeps it off.

    again: it is off already. Taken back, it stays so, but is served as before: see `SaveContext`.
    """

    coproc: str
    vcoproc_id: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class ResumeVcoproc:
    coproc: str
    vcoproc_id: int


@dataclass(frozen=True, slots=True)
class SaveContext:
    """Writes a paused vcoproc down, in a file of the memory directory.

    moving: it is to go on elsewhere. Its driver waits until it is resumed, or paused once more.
    """

    coproc: str
    vcoproc_id: int
    file_name: str
    moving: bool = False


@dataclass(frozen=True, slots=True)
class LoadContext:
    """Replaces what a paused vcoproc has by what is in a file; the file stays."""

    coproc: str
    vcoproc_id: int
    file_name: str


MemoryStep: TypeAlias = MakeMemory | TakeMemory | RemoveMemory | ForgetContext
RouterStep: TypeAlias = (
    AddDomain | RemoveDomain | PauseDomain | ResumeDomain | MapLines | UnmapLines | MoveLines
)
SchedulerStep: TypeAlias = SetCoproc | RemoveCoproc | AddVcoproc | RemoveVcoproc
CoprocStep: TypeAlias = (
    AttachVcoproc | DetachVcoproc | PauseVcoproc | ResumeVcoproc | SaveContext | LoadContext
)
Step: TypeAlias = MemoryStep | RouterStep | SchedulerStep | CoprocStep

SCHEDULER: Final = "scheduler"
IRQ_ROUTER: Final = "irq-router"
MEMORY: Final = "memory"
"""Never repaired: files that could not be removed go when the toolstack starts again."""
STORE: Final = "store"
"""Performs no step; what is half done in it is a thing to repair all the same."""


def coproc_service(coproc: str) -> str:
    """The service that simulates a coproc."""
    return f"coproc/{coproc}"


def context_file(vcoproc_id: int) -> str:
    """Where the context of a vcoproc lies that is to be loaded before it may run."""
    return f"context-{vcoproc_id}"


def service_of(step: Step) -> str:
    """Who performs a step: a service, `coproc/{name}`, or the memory directory."""
    match step:
        case MakeMemory() | TakeMemory() | RemoveMemory() | ForgetContext():
            return MEMORY
        case (
            AddDomain()
            | RemoveDomain()
            | PauseDomain()
            | ResumeDomain()
            | MapLines()
            | UnmapLines()
            | MoveLines()
        ):
            return IRQ_ROUTER
        case SetCoproc() | RemoveCoproc() | AddVcoproc() | RemoveVcoproc():
            return SCHEDULER
        case AttachVcoproc(vcoproc=vcoproc):
            return coproc_service(vcoproc.coproc)
        case _:
            return coproc_service(step.coproc)


def seat_of(step: Step) -> tuple[str, int] | None:
    """The vcoproc on a coproc that a step acts on, as (coproc, vcoproc_id); None for others."""
    match step:
        case AttachVcoproc(vcoproc=vcoproc):
            return vcoproc.coproc, vcoproc.vcoproc_id
        case (
            DetachVcoproc()
            | PauseVcoproc()
            | ResumeVcoproc()
            | SaveContext()
            | LoadContext()
            | ForgetContext()
        ):
            return step.coproc, step.vcoproc_id
        case _:
            return None


def undo_of(step: Step) -> Step | None:
    """The step that takes `step` back; None when there is nothing to take back."""
    match step:
        case MakeMemory() | TakeMemory():
            return RemoveMemory(step.file_name)
        case AddDomain(domain=domain):
            return RemoveDomain(domain.domid)
        case PauseDomain(domid=domid):
            return ResumeDomain(domid)
        case ResumeDomain(domid=domid):
            return PauseDomain(domid)
        case MapLines(vcoproc=vcoproc):
            return UnmapLines(vcoproc.vcoproc_id)
        case MoveLines():
            return MoveLines(step.vcoproc_id, step.back_to, step.coproc)
        case AddVcoproc(vcoproc=vcoproc):
            return RemoveVcoproc(vcoproc.coproc, vcoproc.vcoproc_id)
        case AttachVcoproc(vcoproc=vcoproc):
            return DetachVcoproc(vcoproc.coproc, vcoproc.vcoproc_id, files=step.files)
        case PauseVcoproc(again=True):
            return step
        case PauseVcoproc():
            return ResumeVcoproc(step.coproc, step.vcoproc_id)
        case ResumeVcoproc():
            return PauseVcoproc(step.coproc, step.vcoproc_id)
        case SaveContext():
            return RemoveMemory(step.file_name)
        case _:
            return None
