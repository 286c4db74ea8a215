"""Walks the steps of a change: to its end, or back. Pure: nothing is done here.

Theory of operation:
    A change has steps before its commit and steps after it. The commit is one transaction of the
    store: it makes the change be what is desired. Until then a step that fails turns the saga
    back, and everything begun is undone in reverse, the failed step included, since a service that
    did not answer may have done it all the same. After it there is no way back: each step is
    tried, and those that fail are left over. When it is the commit that fails, nobody knows what
    the store says, and nothing more is done before it has been read again.
Invariants:
    A step is undone only after every step that came after it. A saga ends COMMITTED (all done, or
    listed in `leftovers`), ROLLED_BACK (each begun step undone, or listed in `leftovers`) or
    IN_DOUBT. A memory file is not removed after the detach of a vcoproc failed that can reach it.
    After a step failed that acts on a vcoproc on a coproc, none is tried that acts on the same.
Not handled:
    What is left over stays with a service that does not answer. The repair of that service finds
    it as something that differs from what is desired.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from vcoproc.errors import InvalidTransition, VcoprocError
from vcoproc_toolstack.steps import (
    DetachVcoproc,
    ForgetContext,
    RemoveMemory,
    Step,
    seat_of,
    undo_of,
)


class SagaState(enum.Enum):
    FORWARD = "FORWARD"
    """What it does can be taken back."""
    COMMITTING = "COMMITTING"
    FINISHING = "FINISHING"
    """What it does cannot be taken back."""
    BACK = "BACK"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    IN_DOUBT = "IN_DOUBT"


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction that makes the change be what is desired."""


COMMIT: Final = Commit()


@dataclass(frozen=True, slots=True)
class StepDone:
    """The step last named was performed."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step last named was refused, or nobody knows whether it was performed."""

    error: VcoprocError


Outcome: TypeAlias = StepDone | StepFailed

_S = SagaState

# What a state becomes while steps are left, and what when none is.
TRANSITIONS: Final[Mapping[tuple[SagaState, type[Outcome]], tuple[SagaState, SagaState]]] = {
    (_S.FORWARD, StepDone): (_S.FORWARD, _S.COMMITTING),
    (_S.FORWARD, StepFailed): (_S.BACK, _S.ROLLED_BACK),
    (_S.COMMITTING, StepDone): (_S.FINISHING, _S.COMMITTED),
    (_S.COMMITTING, StepFailed): (_S.IN_DOUBT, _S.IN_DOUBT),
    (_S.FINISHING, StepDone): (_S.FINISHING, _S.COMMITTED),
    (_S.FINISHING, StepFailed): (_S.FINISHING, _S.COMMITTED),
    (_S.BACK, StepDone): (_S.BACK, _S.ROLLED_BACK),
    (_S.BACK, StepFailed): (_S.BACK, _S.ROLLED_BACK),
}


class Saga:
    """One change. See the module.

    Args:
        steps: before the commit.
        after: after it.

    Attributes:
        state: where it is.
        error: why it turned back, or is in doubt; or None.
        steps: all of them, of before and after the commit.
        leftovers: steps that could not be done after the commit, or not be undone, with why.
    """

    def __init__(self, steps: Sequence[Step] = (), after: Sequence[Step] = ()) -> None:
        self.steps = (*steps, *after)
        self._after = tuple(after)
        self._todo: list[Step] = list(reversed(steps))
        self._begun: list[Step] = []
        self.state = SagaState.FORWARD if steps else SagaState.COMMITTING
        self.error: VcoprocError | None = None
        self.leftovers: list[tuple[Step, VcoprocError]] = []

    @classmethod
    def finishing(cls, steps: Sequence[Step]) -> Saga:
        """The part after a commit that happened before: a destruction, or what was cut off."""
        saga = cls()
        saga._todo = list(reversed(steps))
        saga.state = SagaState.FINISHING if steps else SagaState.COMMITTED
        return saga

    def current(self) -> Step | Commit | None:
        """What is to be done now; None at the end."""
        if self.state is SagaState.COMMITTING:
            return COMMIT
        return self._todo[-1] if self._todo else None

    def step(self, outcome: Outcome) -> None:
        """Takes what became of the current step.

        Raises:
            InvalidTransition: the saga has ended.
        """
        after = TRANSITIONS.get((self.state, type(outcome)))
        if after is None:
            raise InvalidTransition("saga", self.state.value, type(outcome).__name__)
        error = outcome.error if isinstance(outcome, StepFailed) else None
        match self.state:
            case SagaState.FORWARD:
                self._begun.append(self._todo.pop())
                if error is not None:
                    self.error = error
                    undos = (undo_of(step) for step in self._begun)
                    self._todo = [undo for undo in undos if undo is not None]
            case SagaState.COMMITTING:
                self.error = error
                self._todo = list(reversed(self._after)) if error is None else []
            case _:
                done = self._todo.pop()
                if error is not None:
                    self.leftovers.append((done, error))
                    self._leave_what_is_barred()
        self.state = after[0] if self._todo else after[1]

    def _leave_what_is_barred(self) -> None:
        """Leaves over what must not be tried after the step that has just failed."""
        failed, why = self.leftovers[-1]
        left = [failed]
        for each in left:
            barred = [step for step in reversed(self._todo) if bars(each, step)]
            self._todo = [step for step in self._todo if step not in barred]
            self.leftovers += [(step, why) for step in barred]
            left += barred


def bars(failed: Step, step: Step) -> bool:
    """Whether a step must not be tried after another one failed."""
    if isinstance(step, RemoveMemory):
        return isinstance(failed, DetachVcoproc) and step.file_name in failed.files
    if isinstance(failed, ForgetContext) and isinstance(step, DetachVcoproc):
        return False  # nothing keeps a vcoproc from leaving
    seat = seat_of(step)
    return seat is not None and seat == seat_of(failed)
