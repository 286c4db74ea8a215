"""All coprocs of one scheduler process: a core for each, and what control asks of them.

Like the cores it does no I/O: the shell, and simulations, give it a way to send. A coproc is known
once its coproc-sim has connected or control has set it, in any order; the core remembers what the
one says until the other comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace

from vcoproc.errors import (
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RemoteProtocolError,
    RequestError,
)
from vcoproc.limits import (
    COPROCS_MAX,
    MS,
    NAME_BYTES_MAX,
    SLICE_NS_DEFAULT,
    SLICE_NS_MAX,
    SLICE_NS_MIN,
    SWITCH_DEADLINE_NS,
    SWITCH_IN_NS_MIN,
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
from vcoproc_scheduler.accounting import NOTHING_USED, USED_MAX, TurnEnded, TurnRing, Used
from vcoproc_scheduler.analysis import Guarantee, Member, Question, analyse
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.decisions import DecisionMade
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    CoprocView,
    Effect,
    Event,
    FellBack,
    LostParameter,
    ParametersLost,
    RemoveVcoproc,
    ScheduleView,
    SetAlgorithm,
    SetVcoprocParameters,
    Tick,
)
from vcoproc_scheduler.policies.api import Policy, Scope, resolve_parameters
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policy_guard import fits

VCOPROC_ID_MAX = 0xFFFF_FFFF
WORK_NS_DEFAULT = 1 * MS
"""What a vcoproc is taken to want after a wake when nobody says."""
Send = Callable[[str, Message], None]
"""(coproc, message): to the coproc's present session."""


class SchedulerService:
    """Every coproc of a cluster.

    Args:
        catalogue: the algorithms.
        send: how grants leave.
        validate: cores check their invariants after each step.
        fell_back: called when an algorithm has failed.
        changed: called when there are decisions or fallbacks to read.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        send: Send,
        *,
        validate: bool = False,
        fell_back: Callable[[FellBack], None] = lambda _notice: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalogue = catalogue
        self._send = send
        self._validate = validate
        self._fell_back = fell_back
        self._changed = changed
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

    def set_coproc(
        self, coproc: str, event: SetAlgorithm, now_ns: int
    ) -> tuple[LostParameter, ...]:
        """Makes a coproc known, or changes how it is scheduled. Idempotent.

        slice_ns and refusal_ns of 0 stand for the defaults, or with `keep` for what they are.

        Returns:
            Parameters that were set and are lost.

        Raises:
            RequestError: the algorithm is not known or refuses; nothing has changed.
        """
        self.check_coproc(coproc)
        known = self._cores.get(coproc)
        present = known.algorithm if known is not None and event.keep else None
        slice_ns = event.slice_ns or (present.slice_ns if present else SLICE_NS_DEFAULT)
        refusal_ns = event.refusal_ns or (present.refusal_ns if present else SWITCH_DEADLINE_NS)
        if not SLICE_NS_MIN <= slice_ns <= SLICE_NS_MAX:
            raise InvalidArgument(
                "slice_ns", f"{slice_ns} is outside of {SLICE_NS_MIN} to {SLICE_NS_MAX}"
            )
        if refusal_ns > SWITCH_DEADLINE_NS:
            raise InvalidArgument("refusal_ns", f"{refusal_ns} is more than {SWITCH_DEADLINE_NS}")
        self._catalogue.policy_class(event.algorithm)
        wanted = replace(
            event, slice_ns=slice_ns, refusal_ns=refusal_ns, parameters=dict(event.parameters)
        )
        core = self._core(coproc)
        try:
            return self._step(core, wanted, now_ns)
        except Exception:
            if known is None:
                del self._cores[coproc], self._turns[coproc]
            raise

    def remove_coproc(self, coproc: str, now_ns: int) -> None:
        """Forgets a coproc with all its vcoprocs, if it is known. Idempotent."""
        core = self._cores.pop(coproc, None)
        if core is None:
            return
        del self._turns[coproc]
        self._deadlines_ns.pop(coproc, None)
        if core.online:
            # Its session is still open. Whatever else it says is of something unknown, and when the
            # session ends nothing is left.
            self.opened(coproc, now_ns)

    def add_vcoproc(
        self,
        coproc: str,
        vcoproc: int,
        parameters: Mapping[str, int],
        now_ns: int,
        *,
        used: Used = NOTHING_USED,
    ) -> None:
        """Adds a vcoproc, or changes its parameters. Idempotent.

        Args:
            used: its accounts begin with this; of one that was added before it says nothing.

        Raises:
            NotFound: control has not set this coproc.
            RequestError: the algorithm refuses it.
        """
        if not 1 <= vcoproc <= VCOPROC_ID_MAX:
            raise InvalidArgument("vcoproc_id", f"{vcoproc} is outside of 1 to {VCOPROC_ID_MAX}")
        for name, value in asdict(used).items():
            if not 0 <= value <= USED_MAX:
                raise InvalidArgument(f"accounting: {name}", f"{value} is outside of 0 to 2**62")
        event = AddVcoproc(vcoproc, dict(parameters), used)
        self._step(self._set_core(coproc), event, now_ns)

    def set_vcoproc_parameters(
        self, coproc: str, vcoproc: int, parameters: Mapping[str, int], now_ns: int
    ) -> Mapping[str, int]:
        """Changes some parameters of a vcoproc; gives all that hold now. Idempotent.

        Raises:
            NotFound: control has not set this coproc, or not added this vcoproc.
            RequestError: the algorithm refuses; nothing has changed.
        """
        core = self._set_core(coproc)
        self._step(core, SetVcoprocParameters(vcoproc, dict(parameters)), now_ns)
        return core.schedule(now_ns).parameters[vcoproc]

    def remove_vcoproc(self, coproc: str, vcoproc: int, now_ns: int) -> None:
        """Forgets a vcoproc, if it is known. Idempotent."""
        core = self._cores.get(coproc)
        if core is not None:
            self._step(core, RemoveVcoproc(vcoproc), now_ns)

    def coprocs(self) -> list[str]:
        """Names of all coprocs that control has set."""
        return sorted(name for name, core in self._cores.items() if core.algorithm is not None)

    def view(self, coproc: str, now_ns: int) -> CoprocView:
        """Accounts of one coproc.

        Raises:
            NotFound: control has not set this coproc.
        """
        return self._set_core(coproc).view(now_ns)

    def turns(self, coproc: str, after_ns: int) -> list[TurnEnded]:
        """Turns that began later, oldest first.

        Raises:
            NotFound: control has not set this coproc.
        """
        self._set_core(coproc)
        return self._turns[coproc].after(after_ns)

    def schedule(self, coproc: str, now_ns: int) -> ScheduleView:
        """How a coproc is scheduled.

        Raises:
            NotFound: control has not set this coproc.
        """
        return self._set_core(coproc).schedule(now_ns)

    def algorithms(self) -> list[tuple[str, type[Policy]]]:
        """All that are installed, by name."""
        return [(name, self._catalogue.policy_class(name)) for name in self._catalogue.names]

    def decisions(
        self, coproc: str, after_number: int, count_max: int = 0
    ) -> tuple[list[DecisionMade], int]:
        """Decisions with a higher number, oldest first, at most so many; and the newest's number.

        Raises:
            NotFound: control has not set this coproc.
        """
        ring = self._set_core(coproc).decisions
        return ring.after(after_number, count_max), ring.last_number

    def fallbacks(self) -> list[tuple[FellBack, int]]:
        """The last fallback of each coproc that had one, and how many it had."""
        return [
            (core.fallback, core.fallback_count)
            for _name, core in sorted(self._cores.items())
            if core.fallback is not None
        ]

    def analyse(
        self, coproc: str, now_ns: int, *, switch_ns: int = 0, refusal_ns: int = 0, work_ns: int = 0
    ) -> tuple[Question, list[Guarantee]]:
        """What every vcoproc of a coproc is sure to get, and what was reckoned with.

        Args:
            switch_ns: of each switch; 0: the longest so far.
            refusal_ns: of each refusal, to leave or to be taken in; 0: the coproc's bounds.
            work_ns: that each one wants to run after a wake; 0: WORK_NS_DEFAULT.

        Raises:
            NotFound: control has not set this coproc.
        """
        core = self._set_core(coproc)
        view = core.schedule(now_ns)
        work_ns = work_ns or WORK_NS_DEFAULT
        decides = self._catalogue.policy_class(view.coproc.algorithm)
        waits_ns = {each.vcoproc: each.account.wait_watched_ns for each in view.coproc.vcoprocs}
        members = {
            vcoproc: Member(
                # After a fallback it knows less than what control has set.
                resolve_parameters(
                    decides.PARAMETERS,
                    Scope.VCOPROC,
                    {n: v for n, v in values.items() if fits(decides, Scope.VCOPROC, n, v)},
                ),
                work_ns=work_ns,
                observed_wait_ns=waits_ns[vcoproc],
                observed_response_ns=core.response_ns(vcoproc, work_ns, now_ns),
            )
            for vcoproc, values in view.parameters.items()
        }
        out_ns = refusal_ns or view.wanted.refusal_ns
        in_ns = refusal_ns or max(view.wanted.refusal_ns, SWITCH_IN_NS_MIN)
        question = Question(
            view.coproc.algorithm,
            view.wanted.slice_ns,
            view.wanted.parameters,
            members,
            switch_ns or view.switch_max_ns,
            out_ns + in_ns,
            in_ns,
        )
        return question, analyse(question)

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

    def _step(
        self, core: CoprocSchedulerCore, event: Event, now_ns: int
    ) -> tuple[LostParameter, ...]:
        last_number = core.decisions.last_number
        try:
            effects = core.step(event, now_ns)
        except RequestError:
            if core.unsettled:
                self._step(core, Tick(), now_ns)
            raise
        deadline_ns = core.next_deadline_ns()
        if deadline_ns is not None:
            self._deadlines_ns[core.coproc] = deadline_ns
        else:
            self._deadlines_ns.pop(core.coproc, None)
        lost = self._carry_out(core.coproc, effects)
        if core.decisions.last_number != last_number:
            self._changed()
        return lost

    def _carry_out(self, coproc: str, effects: Iterable[Effect]) -> tuple[LostParameter, ...]:
        lost: tuple[LostParameter, ...] = ()
        for effect in effects:
            match effect:
                case TurnEnded():
                    self._turns[coproc].add(effect)
                case FellBack():
                    self._fell_back(effect)
                    self._changed()
                case ParametersLost():
                    lost = effect.lost
                case _:
                    self._send(coproc, effect)
        return lost
