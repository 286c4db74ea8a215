"""One scheduler core and one model executor, joined by a simulated link on virtual time."""

from __future__ import annotations

from random import Random

from scheduler_executor_model import Costs, ExecutorModel

from vcoproc.limits import MS, SWITCH_DEADLINE_NS
from vcoproc.model.run_state import RunState
from vcoproc.testing.clock import Timer, VirtualClock
from vcoproc.testing.network import PERFECT, End, Faults, SimNetwork
from vcoproc.wire.messages import Grant, Message, Revoke, Vacate
from vcoproc_scheduler.accounting import TurnEnded
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    Event,
    FellBack,
    LostParameter,
    ParametersLost,
    RemoveVcoproc,
    SetAlgorithm,
    Tick,
)
from vcoproc_scheduler.policies.loader import Catalogue, load_catalogue

SLICE_NS = 5 * MS
CATALOGUE = load_catalogue(())


def rr(slice_ns: int = SLICE_NS) -> SetAlgorithm:
    return SetAlgorithm("rr", slice_ns, SWITCH_DEADLINE_NS, {})


class Rig:
    """core: checked after every step. turns: all that ended. It is told when its deadline comes."""

    def __init__(
        self,
        seed: int = 1,
        *,
        faults: Faults = PERFECT,
        costs: Costs | None = None,
        catalogue: Catalogue = CATALOGUE,
        algorithm: SetAlgorithm | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.network = SimNetwork(self.clock, seed, faults)
        self.turns: list[TurnEnded] = []
        self.grants: list[Grant] = []
        self.vacates: list[Vacate] = []
        self.fallbacks: list[FellBack] = []
        self.lost: list[LostParameter] = []
        self.events = 0
        self._catalogue = catalogue
        self._timer: Timer | None = None
        self.core = CoprocSchedulerCore("dsp0", catalogue, validate=True)
        self.step(algorithm or rr())
        self.executor = ExecutorModel(
            self.clock,
            lambda message: self.link.to_server(message),
            Random(seed),
            costs=costs or Costs(),
            clock_offset_ns=777 * MS,
        )
        self.link = self.network.connect(
            "schedule",
            client=End(self.executor.receive, on_up=self._client_up),
            server=End(self._message, on_up=self._server_up, on_down=self._server_down),
        )

    def step(self, event: Event) -> None:
        self.events += 1
        for effect in self.core.step(event, self.clock.now_ns):
            match effect:
                case TurnEnded():
                    self.turns.append(effect)
                    continue
                case FellBack():
                    self.fallbacks.append(effect)
                    continue
                case ParametersLost():
                    self.lost += effect.lost
                    continue
                case Grant():
                    self.grants.append(effect)
                case Vacate():
                    self.vacates.append(effect)
                case Revoke():
                    pass
            self.link.to_client(effect)
        self.clock.cancel(self._timer)
        self._timer = None
        if (due_ns := self.core.next_deadline_ns()) is not None:
            self._timer = self.clock.call_at(
                max(due_ns, self.clock.now_ns), lambda: self.step(Tick())
            )

    def _message(self, message: Message) -> None:
        self.step(message)  # type: ignore[arg-type]

    def _server_up(self) -> None:
        self.step(CoprocOnline())

    def _server_down(self) -> None:
        self.step(CoprocOffline())

    def _client_up(self) -> None:
        if hasattr(self, "link"):
            self.executor.register()
        else:  # the link is being made
            self.clock.call_after(0, self.executor.register)

    def restart_scheduler(self) -> None:
        """A new process: it knows nothing. Control must say again what it wants."""
        self.link.cut(reconnect=False)
        self.clock.cancel(self._timer)
        self.core = CoprocSchedulerCore("dsp0", self._catalogue, validate=True)

    def add(self, *vcoprocs: int) -> None:
        for vcoproc in vcoprocs:
            self.step(AddVcoproc(vcoproc, {}))
            self.executor.attach(vcoproc)

    def remove(self, vcoproc: int) -> None:
        self.step(RemoveVcoproc(vcoproc))
        self.executor.detach(vcoproc)

    def state(self, vcoproc: int) -> RunState | None:
        return self.core.run_state(vcoproc)

    def run_ns(self) -> dict[int, int]:
        """The scheduler's figures."""
        view = self.core.view(self.clock.now_ns)
        return {each.vcoproc: each.account.run_ns for each in view.vcoprocs}

    def settle(self, limit_ns: int = 60_000 * MS) -> None:
        """Until nothing happens any more."""
        end_ns = self.clock.now_ns + limit_ns
        while (due_ns := self.clock.next_ns()) is not None:
            assert due_ns <= end_ns, "it never settles"
            self.clock.run_next()
