"""The steps that make and unmake domains, and the saga that walks them. Pure: nothing is done here.

Theory of operation:
    A creation is a list of steps; every step has an inverse or needs none. `Saga` says which step
    is next. When one fails, everything begun is undone in reverse, the failed one included, since a
    service that did not answer may have done it all the same. Every step may be repeated: whoever
    performs it finds it done and succeeds.
Invariants:
    A step is undone only after every step that came after it. A saga ends COMMITTED (all done) or
    ROLLED_BACK (each begun step undone or listed in `leftovers`).
Not handled:
    A step that fails to be undone stays with a service that does not answer. It is in `leftovers`;
    the repair of that service finds it as something that nobody wants, and takes it away.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vcoproc.config.records import CoprocConfig
from vcoproc.errors import InvalidTransition, VcoprocError
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord

# --- the steps ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MakeMemory:
    """A file of zeros in the memory directory."""

    file_name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemoveMemory:
    file_name: str


@dataclass(frozen=True, slots=True)
class AddDomain:
    """Makes a domain known to the irq-router."""

    domain: DomainRecord


@dataclass(frozen=True, slots=True)
class RemoveDomain:
    domid: int


@dataclass(frozen=True, slots=True)
class SetCoproc:
    """Makes a coproc known to the scheduler. Not undone: it belongs to the tree, to no domain.

    vcoprocs: all parameters that are set of vcoprocs that the scheduler has, by number; those of
    others stay.
    """

    coproc: CoprocConfig
    vcoprocs: tuple[tuple[int, tuple[tuple[str, int], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class MapLines:
    vcoproc: VcoprocRecord


@dataclass(frozen=True, slots=True)
class UnmapLines:
    vcoproc_id: int


@dataclass(frozen=True, slots=True)
class AddVcoproc:
    """Makes a vcoproc known to the scheduler."""

    vcoproc: VcoprocRecord


@dataclass(frozen=True, slots=True)
class RemoveVcoproc:
    coproc: str
    vcoproc_id: int


@dataclass(frozen=True, slots=True)
class AttachVcoproc:
    """Gives a vcoproc to its coproc-sim, with the domain's memory."""

    vcoproc: VcoprocRecord
    memory_file: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class DetachVcoproc:
    """Takes a vcoproc off the hardware and out of its coproc-sim."""

    coproc: str
    vcoproc_id: int


Step: TypeAlias = (
    MakeMemory
    | RemoveMemory
    | AddDomain
    | RemoveDomain
    | SetCoproc
    | MapLines
    | UnmapLines
    | AddVcoproc
    | RemoveVcoproc
    | AttachVcoproc
    | DetachVcoproc
)

SCHEDULER: Final = "scheduler"
IRQ_ROUTER: Final = "irq-router"
MEMORY: Final = "memory"
STORE: Final = "store"
"""Performs no step; what is half done in it is a thing to repair all the same."""


def service_of(step: Step) -> str:
    """Who performs a step: a service, `coproc/{name}`, or the memory directory."""
    match step:
        case MakeMemory() | RemoveMemory():
            return MEMORY
        case AddDomain() | RemoveDomain() | MapLines() | UnmapLines():
            return IRQ_ROUTER
        case SetCoproc() | AddVcoproc() | RemoveVcoproc():
            return SCHEDULER
        case AttachVcoproc(vcoproc=vcoproc):
            return f"coproc/{vcoproc.coproc}"
        case DetachVcoproc(coproc=coproc):
            return f"coproc/{coproc}"


def undo_of(step: Step) -> Step | None:
    """The step that takes `step` back; None when there is nothing to take back."""
    match step:
        case MakeMemory(file_name=file_name):
            return RemoveMemory(file_name)
        case AddDomain(domain=domain):
            return RemoveDomain(domain.domid)
        case MapLines(vcoproc=vcoproc):
            return UnmapLines(vcoproc.vcoproc_id)
        case AddVcoproc(vcoproc=vcoproc):
            return RemoveVcoproc(vcoproc.coproc, vcoproc.vcoproc_id)
        case AttachVcoproc(vcoproc=vcoproc):
            return DetachVcoproc(vcoproc.coproc, vcoproc.vcoproc_id)
        case _:
            return None


def vcoproc_steps(
    domain: DomainRecord, vcoproc: VcoprocRecord, coprocs: Mapping[str, CoprocConfig]
) -> list[Step]:
    """What makes one vcoproc of a domain that exists. The hardware comes last and leaves first.

    coprocs: by name. Steps that are only going to be undone do without.
    """
    steps: list[Step] = [
        MakeMemory(file_name, place.size_bytes) for place, file_name in vcoproc.mapped_files()
    ]
    if vcoproc.coproc in coprocs:
        steps.append(SetCoproc(coprocs[vcoproc.coproc]))
    return [
        *steps,
        MapLines(vcoproc),
        AddVcoproc(vcoproc),
        AttachVcoproc(vcoproc, domain.memory_file, domain.memory_bytes),
    ]


def domain_steps(domain: DomainRecord, coprocs: Mapping[str, CoprocConfig]) -> list[Step]:
    """What makes a domain with all its vcoprocs.

    All files come first, so that they go last: no memory is released under a coprocessor.
    """
    files: list[Step] = [MakeMemory(domain.memory_file, domain.memory_bytes)]
    rest: list[Step] = [AddDomain(domain)]
    for vcoproc in domain.vcoprocs:
        for step in vcoproc_steps(domain, vcoproc, coprocs):
            (files if isinstance(step, MakeMemory) else rest).append(step)
    return files + rest


# --- the saga -------------------------------------------------------------------------------------


class SagaState(enum.Enum):
    FORWARD = "FORWARD"
    BACK = "BACK"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"


@dataclass(frozen=True, slots=True)
class StepDone:
    """The step last named was performed."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step last named was refused, or nobody knows whether it was performed."""

    error: VcoprocError


Outcome: TypeAlias = StepDone | StepFailed

# What a state becomes while steps are left, and what when none is.
TRANSITIONS: Final[Mapping[tuple[SagaState, type[Outcome]], tuple[SagaState, SagaState]]] = {
    (SagaState.FORWARD, StepDone): (SagaState.FORWARD, SagaState.COMMITTED),
    (SagaState.FORWARD, StepFailed): (SagaState.BACK, SagaState.ROLLED_BACK),
    (SagaState.BACK, StepDone): (SagaState.BACK, SagaState.ROLLED_BACK),
    (SagaState.BACK, StepFailed): (SagaState.BACK, SagaState.ROLLED_BACK),
}


class Saga:
    """Walks steps forward, and back over all that was begun when one fails.

    Attributes:
        state: where it is.
        error: why it turned back, or None.
        leftovers: steps that could not be undone, with why.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = tuple(steps)
        self._todo: list[Step] = list(reversed(self._steps))
        self._begun = 0
        self.state = SagaState.FORWARD if steps else SagaState.COMMITTED
        self.error: VcoprocError | None = None
        self.leftovers: list[tuple[Step, VcoprocError]] = []

    @classmethod
    def undoing(cls, steps: Sequence[Step]) -> Saga:
        """A saga that only goes back over `steps`: a destruction, or a repair after a crash."""
        saga = cls(steps)
        saga._turn_back(len(saga._steps))
        saga.state = SagaState.BACK if saga._todo else SagaState.ROLLED_BACK
        return saga

    def current(self) -> Step | None:
        """The step to perform now; None at the end."""
        return self._todo[-1] if self._todo else None

    def step(self, outcome: Outcome) -> None:
        """Takes what became of the current step.

        Raises:
            InvalidTransition: the saga has ended.
        """
        after = TRANSITIONS.get((self.state, type(outcome)))
        if after is None:
            raise InvalidTransition("saga", self.state.value, type(outcome).__name__)
        done = self._todo.pop()
        if self.state is SagaState.FORWARD:
            self._begun += 1
            if isinstance(outcome, StepFailed):
                self.error = outcome.error
                self._turn_back(self._begun)
        elif isinstance(outcome, StepFailed):
            self.leftovers.append((done, outcome.error))
        self.state = after[0] if self._todo else after[1]

    def _turn_back(self, count: int) -> None:
        undos = (undo_of(step) for step in self._steps[:count])
        self._todo = [undo for undo in undos if undo is not None]
