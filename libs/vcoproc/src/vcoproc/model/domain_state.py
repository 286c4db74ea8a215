"""The state of a domain: what each verb makes of it, in one table.

Theory of operation:
    A state is desired: the toolstack keeps it, and makes the other services be so, now and after
    each of them has started anew. Verbs are what clients ask for; two more end a state that lasts
    only as long as somebody works on it.
Invariants:
    A STOPPED domain has no memory, no context, and nothing in the scheduler and the irq-router. The
    vcoprocs of a domain in a state of `HELD` are off their coprocs and kept off.
Not handled:
    How a domain comes from one state to another without being seen half way: that is the work of
    the toolstack's sagas.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from vcoproc.errors import WrongState


class DomainState(enum.Enum):
    """What a domain is to be."""

    ABSENT = "ABSENT"
    """It does not exist. Never kept."""
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    """None of its vcoprocs runs, and its interrupts wait."""
    SAVING = "SAVING"
    """As PAUSED, while it is written down to be shut down then."""
    SHUTTING_DOWN = "SHUTTING_DOWN"
    """Its vcoprocs finish what they do."""
    STOPPED = "STOPPED"
    """It has its name, numbers and places, and nothing else."""
    CRASHED = "CRASHED"
    """As PAUSED, until it is started anew or destroyed."""


class DomainVerb(enum.Enum):
    """What may be done with a domain."""

    CREATE = "CREATE"
    CREATE_STOPPED = "CREATE_STOPPED"
    CREATE_PAUSED = "CREATE_PAUSED"
    START = "START"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    SHUT_DOWN = "SHUT_DOWN"
    CRASH = "CRASH"
    DESTROY = "DESTROY"
    RENAME = "RENAME"
    ATTACH = "ATTACH"
    """One more vcoproc."""
    DETACH = "DETACH"
    """One vcoproc less."""
    MOVE = "MOVE"
    """A vcoproc goes to another coproc."""
    SAVE = "SAVE"
    """It is written down, and goes on as it was."""
    SAVE_AND_STOP = "SAVE_AND_STOP"
    SAVE_VCOPROC = "SAVE_VCOPROC"
    """One context is written down."""
    LOAD_VCOPROC = "LOAD_VCOPROC"
    """One context is replaced by one that was written down."""
    STOP = "STOP"
    """What was under way is over: nothing is left running."""
    GO_ON = "GO_ON"
    """It was written down in vain, and runs again."""
    STAY_PAUSED = "STAY_PAUSED"
    """It was written down in vain, and was PAUSED before."""


_S = DomainState
_V = DomainVerb

TRANSITIONS: Final[Mapping[tuple[DomainState, DomainVerb], DomainState]] = {
    (_S.ABSENT, _V.CREATE): _S.RUNNING,
    (_S.ABSENT, _V.CREATE_STOPPED): _S.STOPPED,
    (_S.ABSENT, _V.CREATE_PAUSED): _S.PAUSED,
    (_S.RUNNING, _V.PAUSE): _S.PAUSED,
    (_S.RUNNING, _V.RESUME): _S.RUNNING,  # idempotent
    (_S.RUNNING, _V.SHUT_DOWN): _S.SHUTTING_DOWN,
    (_S.RUNNING, _V.CRASH): _S.CRASHED,
    (_S.RUNNING, _V.DESTROY): _S.ABSENT,
    (_S.RUNNING, _V.RENAME): _S.RUNNING,
    (_S.RUNNING, _V.ATTACH): _S.RUNNING,
    (_S.RUNNING, _V.DETACH): _S.RUNNING,
    (_S.RUNNING, _V.MOVE): _S.RUNNING,
    (_S.RUNNING, _V.SAVE): _S.RUNNING,
    (_S.RUNNING, _V.SAVE_AND_STOP): _S.SAVING,
    (_S.RUNNING, _V.SAVE_VCOPROC): _S.RUNNING,
    (_S.RUNNING, _V.LOAD_VCOPROC): _S.RUNNING,
    (_S.PAUSED, _V.PAUSE): _S.PAUSED,  # idempotent
    (_S.PAUSED, _V.RESUME): _S.RUNNING,
    (_S.PAUSED, _V.SHUT_DOWN): _S.SHUTTING_DOWN,
    (_S.PAUSED, _V.CRASH): _S.CRASHED,
    (_S.PAUSED, _V.DESTROY): _S.ABSENT,
    (_S.PAUSED, _V.RENAME): _S.PAUSED,
    (_S.PAUSED, _V.ATTACH): _S.PAUSED,
    (_S.PAUSED, _V.DETACH): _S.PAUSED,
    (_S.PAUSED, _V.MOVE): _S.PAUSED,
    (_S.PAUSED, _V.SAVE): _S.PAUSED,
    (_S.PAUSED, _V.SAVE_AND_STOP): _S.SAVING,
    (_S.PAUSED, _V.SAVE_VCOPROC): _S.PAUSED,
    (_S.PAUSED, _V.LOAD_VCOPROC): _S.PAUSED,
    (_S.SAVING, _V.STOP): _S.STOPPED,
    (_S.SAVING, _V.GO_ON): _S.RUNNING,
    (_S.SAVING, _V.STAY_PAUSED): _S.PAUSED,
    (_S.SAVING, _V.CRASH): _S.CRASHED,
    (_S.SAVING, _V.DESTROY): _S.ABSENT,
    (_S.SHUTTING_DOWN, _V.STOP): _S.STOPPED,
    (_S.SHUTTING_DOWN, _V.CRASH): _S.CRASHED,
    (_S.SHUTTING_DOWN, _V.DESTROY): _S.ABSENT,
    (_S.STOPPED, _V.START): _S.RUNNING,
    (_S.STOPPED, _V.DESTROY): _S.ABSENT,
    (_S.STOPPED, _V.RENAME): _S.STOPPED,
    (_S.STOPPED, _V.ATTACH): _S.STOPPED,
    (_S.STOPPED, _V.DETACH): _S.STOPPED,
    (_S.STOPPED, _V.MOVE): _S.STOPPED,
    (_S.CRASHED, _V.START): _S.RUNNING,  # by way of STOPPED
    (_S.CRASHED, _V.STOP): _S.STOPPED,
    (_S.CRASHED, _V.CRASH): _S.CRASHED,  # idempotent
    (_S.CRASHED, _V.DESTROY): _S.ABSENT,
    (_S.CRASHED, _V.RENAME): _S.CRASHED,
    (_S.CRASHED, _V.DETACH): _S.CRASHED,
    (_S.CRASHED, _V.MOVE): _S.CRASHED,
    (_S.CRASHED, _V.SAVE_VCOPROC): _S.CRASHED,
}
"""An absent pair is refused (`WrongState`)."""

HELD: Final = frozenset({_S.PAUSED, _S.SAVING, _S.CRASHED})
"""States in which no vcoproc runs although it has a context."""


def after(state: DomainState, verb: DomainVerb, what: str = "domain") -> DomainState:
    """The state that a verb leads to.

    Raises:
        WrongState: it cannot be done in this state; says in which it can.
    """
    new = TRANSITIONS.get((state, verb))
    if new is None:
        fitting = " or ".join(old.value for old, each in TRANSITIONS if each is verb)
        raise WrongState(what, state.value, fitting)
    return new
