"""All coprocs of one scheduler process: a core for each, and what control asks of them.

Like the cores it does no I/O: the shell, and simulations, give it a way to send. A coproc is known
once its coproc-sim has connected or control has set it, in any order; the core remembers what the
one says until the other comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vcoproc.errors import InvalidArgument, LimitExceeded, NotFound, RemoteProtocolError, WrongState
from vcoproc.limits import (
    COPROCS_MAX,
    NAME_BYTES_MAX,
    SLICE_NS_DEFAULT,
    SLICE_NS_MAX,
    SLICE_NS_MIN,
    SWITCH_DEADLINE_NS,
)
from vcoproc.wire.messages import (
    Faulted,
    GrantDropped,
    Message,
    Register,
    Report,
    Sleep,
    Wake,
)
from vcoproc_scheduler.accounting import TurnEnded, TurnRing
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    CoprocView,
    Event,
    RemoveVcoproc,
    SetAlgorithm,
    Tick,
)
from vcoproc_scheduler.policies.loader import Catalogue

VCOPROC_ID_MAX = 0xFFFF_FFFF
Send = Callable[[str, Message], None]
"""(coproc, message): to the coproc's present session."""


class SchedulerService:
    """Every coproc of a cluster.

    Args:
        catalogue: the algorithms.
        send: how grants leave.
        validate: cores check their invariants after each step.
    """

    def __init__(self, catalogue: Catalogue, send: Send, *, validate: bool = False) -> None:
        self._catalogue = catalogue
        self._send = send
        self._validate = validate
        self._cores: dict[str, CoprocSchedulerCore] = {}
        self._turns: dict[str, TurnRing] = {}
        self._deadlines_ns: dict[str, int] = {}

    # --- the schedule link ------------------------------------------------------------------------

    def check_coproc(self, coproc: str) -> None:
        """Whether a coproc of this name may connect.

        Raises:
            InvalidArgument, LimitExceeded: it may not.
        """
        if not 1 <= len(coproc.encode()) <= NAME_BYTES_MAX:
            raise InvalidArgument("coproc", f"name of 1 to {NAME_BYTES_MAX} bytes wanted")
        if coproc not in self._cores and len(self._cores) >= COPROCS_MAX:
            raise LimitExceeded("coprocs", COPROCS_MAX)

    def opened(self, coproc: str, now_ns: int) -> None:
        """A session of the coproc has begun."""
        self._step(self._core(coproc), CoprocOnline(), now_ns)

    def closed(self, coproc: str, now_ns: int) -> None:
        """The session is over."""
        core = self._core(coproc)
        self._step(core, CoprocOffline(), now_ns)
        if core.algorithm is None:  # control has never heard of it
            del self._cores[coproc], self._turns[coproc]

    def received(self, coproc: str, message: Message, now_ns: int) -> None:
        """A message of the present session.

        Raises:
            RemoteProtocolError: it makes no sense; nothing has changed. End the session.
        """
        if not isinstance(message, Register | Wake | Sleep | Report | GrantDropped | Faulted):
            raise RemoteProtocolError(f"{type(message).__name__} on the schedule link")
        self._step(self._core(coproc), message, now_ns)

    # --- control ----------------------------------------------------------------------------------

    def set_coproc(self, coproc: str, event: SetAlgorithm, now_ns: int) -> None:
        """Makes a coproc known. slice_ns and refusal_ns of 0 stand for the defaults. Idempotent.

        Raises:
            RequestError: the algorithm is not known or refuses; another one is in charge already.
        """
        self.check_coproc(coproc)
        wanted = SetAlgorithm(
            event.algorithm,
            event.slice_ns or SLICE_NS_DEFAULT,
            event.refusal_ns or SWITCH_DEADLINE_NS,
            dict(event.parameters),
        )
        if not SLICE_NS_MIN <= wanted.slice_ns <= SLICE_NS_MAX:
            raise InvalidArgument(
                "slice_ns", f"{wanted.slice_ns} is outside of {SLICE_NS_MIN} to {SLICE_NS_MAX}"
            )
        if wanted.refusal_ns > SWITCH_DEADLINE_NS:
            raise InvalidArgument(
                "refusal_ns", f"{wanted.refusal_ns} is more than {SWITCH_DEADLINE_NS}"
            )
        self._catalogue.policy_class(wanted.algorithm)
        known = self._cores.get(coproc)
        present = known.algorithm if known else None
        if present is not None and present.algorithm != wanted.algorithm:
            raise WrongState(
                f"coproc {coproc}", f"scheduled by {present.algorithm}", wanted.algorithm
            )
        created = known is None
        core = self._core(coproc)
        try:
            self._step(core, wanted, now_ns)
        except Exception:
            if created:
                del self._cores[coproc], self._turns[coproc]
            raise

    def add_vcoproc(
        self, coproc: str, vcoproc: int, parameters: Mapping[str, int], now_ns: int
    ) -> None:
        """Adds a vcoproc, or changes its parameters. Idempotent.

        Raises:
            NotFound: control has not set this coproc.
            RequestError: the algorithm refuses it.
        """
        if not 1 <= vcoproc <= VCOPROC_ID_MAX:
            raise InvalidArgument("vcoproc_id", f"{vcoproc} is outside of 1 to {VCOPROC_ID_MAX}")
        self._step(self._set_core(coproc), AddVcoproc(vcoproc, dict(parameters)), now_ns)

    def remove_vcoproc(self, coproc: str, vcoproc: int, now_ns: int) -> None:
        """Forgets a vcoproc, if it is known. Idempotent."""
        core = self._cores.get(coproc)
        if core is not None:
            self._step(core, RemoveVcoproc(vcoproc), now_ns)

    def views(self, now_ns: int) -> list[CoprocView]:
        """All coprocs that control has set, by name."""
        return [
            core.view(now_ns)
            for _name, core in sorted(self._cores.items())
            if core.algorithm is not None
        ]

    def turns(self, coproc: str, after_ns: int) -> list[TurnEnded]:
        """Turns that began later, oldest first.

        Raises:
            NotFound: control has not set this coproc.
        """
        self._set_core(coproc)
        return self._turns[coproc].after(after_ns)

    # --- time -------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `tick` is due; None: not before something happens."""
        return min(self._deadlines_ns.values(), default=None)

    def tick(self, now_ns: int) -> None:
        """Serves every deadline that has come."""
        due = [name for name, due_ns in self._deadlines_ns.items() if due_ns <= now_ns]
        for name in due:
            self._step(self._cores[name], Tick(), now_ns)

    def _core(self, coproc: str) -> CoprocSchedulerCore:
        core = self._cores.get(coproc)
        if core is None:
            core = CoprocSchedulerCore(coproc, self._catalogue, validate=self._validate)
            self._cores[coproc] = core
            self._turns[coproc] = TurnRing()
        return core

    def _set_core(self, coproc: str) -> CoprocSchedulerCore:
        core = self._cores.get(coproc)
        if core is None or core.algorithm is None:
            raise NotFound("coproc", coproc)
        return core

    def _step(self, core: CoprocSchedulerCore, event: Event, now_ns: int) -> None:
        effects = core.step(event, now_ns)
        deadline_ns = core.next_deadline_ns()
        if deadline_ns is not None:
            self._deadlines_ns[core.coproc] = deadline_ns
        else:
            self._deadlines_ns.pop(core.coproc, None)
        for effect in effects:
            if isinstance(effect, TurnEnded):
                self._turns[core.coproc].add(effect)
            else:
                self._send(core.coproc, effect)
