"""One coproc that computes for as long as its doorbells say, and writes down who ran when.

The cores are the real ones, and so is the session between them. The hardware is cheap: a value that
is rung is the length of a job. Its firmware runs in bursts, as `BURST_INSTRUCTIONS` are on a real
one: what arrives meanwhile waits until the end of the burst. Bursts in which nothing can happen are
made in one step, and that is what makes thousands of runs affordable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

from sim_base import Simulation
from sim_coproc import CoprocNode

from vcoproc.limits import MS, US
from vcoproc.testing.network import Faults, SimLink
from vcoproc.wire.messages import Message, Post
from vcoproc_scheduler.events import AddVcoproc, SetAlgorithm
from vcoproc_sim.platforms.api import Busy, Done, RunResult, StopReason, SwitchResult
from vcoproc_sim.testing.fake_platform import (
    Compute,
    Costs,
    FakeContext,
    FakePlatform,
    StepClock,
    make_info,
    make_spec,
)

INFO: Final = make_info()
CONTROL: Final = INFO.index_of["CONTROL"]
DOORBELL: Final = next(
    (place, register.offset, register.width_bytes)
    for place, rng in enumerate(INFO.ranges)
    for register in rng.registers
    if register.name == "DOORBELL"
)
JOB_NS_MAX: Final = 0xFFFF_FFFF
"""The longest job: 4.3 s, more than any of these runs."""
REGISTERED_NS: Final = 1 * MS
"""By then the coproc has registered."""


class Run(NamedTuple):
    """One vcoproc computed, without a pause."""

    from_ns: int
    to_ns: int
    vcoproc: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a coproc and its link cost.

    save_ns, enter_ns: the two halves of a switch. burst_ns: 0 for hardware that stops in the very
    moment in which something happens. delay_ns: shortest and longest time of a message.
    """

    save_ns: int = 0
    enter_ns: int = 0
    burst_ns: int = 0
    delay_ns: tuple[int, int] = (0, 0)

    @property
    def switch_cost_ns(self) -> int:
        """What `edf` has to reckon with, as its description says: `switch_cost_us`."""
        return self.save_ns + self.enter_ns + 2 * self.delay_ns[1] + self.burst_ns


class JobPlatform(FakePlatform):
    """A `FakePlatform` with jobs in place of programs.

    Attributes:
        runs: everything that ran, in order, in times of the coproc's clock.
        quiet_until_ns: gives the next time of that clock at which something may happen.
    """

    def __init__(self, clock: StepClock, hardware: Hardware) -> None:
        mmu_ns = hardware.enter_ns // 4
        costs = Costs(
            save_ns=hardware.save_ns, mmu_ns=mmu_ns, restore_ns=hardware.enter_ns - mmu_ns
        )
        super().__init__(clock, costs=costs)
        self.runs: list[Run] = []
        self.quiet_until_ns: Callable[[], int] = clock
        self._burst_ns = hardware.burst_ns

    def _ring(self, context: FakeContext, value: int) -> None:
        context.program.append(Compute(value))

    def run(self, budget: int, now_ns: int) -> RunResult:
        assert self.stage2 == self.owner, "it runs on another one's tables"
        assert now_ns == self.clock.now_ns
        vcoproc = self._on()
        program = self.contexts[vcoproc].program
        whole_ns = left_ns = self._until_something_happens(now_ns)
        while program and left_ns:
            job = program[0]
            assert isinstance(job, Compute)
            part_ns = min(job.left, left_ns)
            job.left -= part_ns
            left_ns -= part_ns
            if not job.left:
                program.popleft()
        ran_ns = whole_ns - left_ns
        if ran_ns:
            self.clock.advance(ran_ns)
            self.runs.append(Run(now_ns, now_ns + ran_ns, vcoproc))
        return RunResult(StopReason.BUDGET if program else StopReason.IDLE, ran_ns)

    def _until_something_happens(self, now_ns: int) -> int:
        """As many whole bursts as are over then, but one at least."""
        quiet_ns = max(0, self.quiet_until_ns() - now_ns)
        if not self._burst_ns:
            return quiet_ns
        return max(1, -(-quiet_ns // self._burst_ns)) * self._burst_ns


class _Deaf:
    """The end of a driver that posts its writes, and so hears of errors only."""

    def to_client(self, message: Message) -> bool:
        raise AssertionError(f"a doorbell was refused: {message}")


class JobSimulation(Simulation):
    """The coproc ``dsp0`` under one algorithm; doorbells that ring at given times are its drivers.

    A round of the coproc's loop takes no time: who has the coprocessor computes all the while.

    refuses_ns: of each vcoproc that refuses to leave, for how long at most.
    """

    def __init__(self, seed: int, hardware: Hardware, algorithm: SetAlgorithm) -> None:
        super().__init__(seed, Faults(delay_ns=hardware.delay_ns, through_codec=True))
        node = self.add_scheduled(
            "dsp0", lambda clock: JobPlatform(clock, hardware), algorithm, round_ns=0
        )
        assert isinstance(node.platform, JobPlatform)
        self.node, self.platform, self.scheduler = node, node.platform, self.schedulers["dsp0"]
        self.refuses_ns: dict[int, int] = {}
        self._leaves_at_ns = 0
        self.platform.quiet_until_ns = self._quiet_until_ns
        self.platform.leave_rule = self._leave
        self.run(REGISTERED_NS)
        assert self.scheduler.core.online

    def add(self, vcoproc: int, parameters: dict[str, int]) -> None:
        """A vcoproc, its firmware out of reset and with nothing to do.

        Raises:
            RequestError: the algorithm does not admit it.
        """
        self.scheduler.step(AddVcoproc(vcoproc, parameters))
        spec = make_spec(vcoproc, INFO)
        spec.shadow[CONTROL] = 1
        self.node.attach(vcoproc, spec)
        self.node.driver_came(vcoproc, cast(SimLink, _Deaf()))

    def ring(self, vcoproc: int, at_ns: int, length_ns: int) -> None:
        """A doorbell arrives at the coproc."""
        post = Post(*DOORBELL, length_ns)
        self.clock.call_at(at_ns, lambda: self.node.trap_message(vcoproc, post))

    def check_coproc(self, node: CoprocNode) -> None:
        """Left to the simulation of the whole cluster: it would be a tenth of the time here."""

    def runs(self) -> list[Run]:
        """Everything that ran, in times of the simulation."""
        offset_ns = self.node.offset_ns
        return [
            Run(from_ns - offset_ns, to_ns - offset_ns, vcoproc)
            for from_ns, to_ns, vcoproc in self.platform.runs
        ]

    def _quiet_until_ns(self) -> int:
        node, executor = self.node, self.node.executor
        now_ns, turn = node.clock(), executor.turn
        times = [now_ns + JOB_NS_MAX]
        next_ns = self.clock.next_ns()
        if next_ns is not None:
            times.append(next_ns + node.offset_ns)
        deadline_ns = executor.next_deadline_ns()
        if deadline_ns is not None:
            times.append(deadline_ns)
        assert turn is not None
        for end_ns in (turn.slice_began_ns + turn.slice_ns, turn.until_ns):
            if end_ns > now_ns:
                times.append(end_ns)
        return min(times)

    def _leave(self, vcoproc: int) -> SwitchResult:
        now_ns = self.node.clock()
        if self.platform.asked is None:  # for the first time
            longest_ns = self.refuses_ns.get(vcoproc, 0)
            refused_ns = self.random.choice((0, longest_ns, self.random.randint(0, longest_ns)))
            self._leaves_at_ns = now_ns + refused_ns
        left_ns = self._leaves_at_ns - now_ns
        return Busy(left_ns) if left_ns > 0 else Done()


def edf(hardware: Hardware, *, slice_ns: int = 5 * MS, refusal_ns: int = 0) -> SetAlgorithm:
    """`edf`, which reckons with this hardware."""
    parameters = {
        "switch_cost_us": -(-hardware.switch_cost_ns // US),
        "refusal_us": refusal_ns // US,
    }
    return SetAlgorithm("edf", slice_ns, refusal_ns, parameters)
