"""Random events into front end and executor, beside a model that knows only what is observable.

The model is a scheduler, a router and drivers that believe what they are told. After every event
what they believe must be true: who is on the hardware, who wants it, which lines are high, which
grant has not begun. And each request has one answer, in order; and no doorbell is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vcoproc.limits import HOLD_LIMIT_NS, US
from vcoproc.wire.codec import decode, encode
from vcoproc.wire.messages import (
    Batch,
    Faulted,
    GrantDropped,
    LineEdge,
    LineLevel,
    LineSync,
    Message,
    Post,
    Read,
    Reply,
    Report,
    Sleep,
    TrapError,
    Wake,
    Write,
)
from vcoproc_sim.platforms.api import Busy, Done, Failed, SwitchResult
from vcoproc_sim.switching import Phase
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import Costs, Then, job

COSTS = Costs()
IDS = st.integers(1, 3)
LATE_NS = 20_000 * COSTS.instruction_ns + 3 * (COSTS.save_ns + COSTS.mmu_ns + COSTS.restore_ns)
"""A burst, and switches that a test asked for without letting time pass."""
REFUSAL_NS_MAX = 5_000 * US
"""The greatest bound of a refusal in any grant."""
SHORT = st.integers(0, 2_000)
"""Units of a job: up to 128,000 instructions, six bursts."""


@dataclass
class Driver:
    """What the driver of one vcoproc has done and seen. rung: doorbells that were taken."""

    sent: list[tuple[int, Message]] = field(default_factory=list)
    answered: dict[int, Message] = field(default_factory=dict)
    rung: dict[int, int] = field(default_factory=dict)
    resets: list[int] = field(default_factory=list)
    """Numbers of the requests that may have reset it."""


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = CoreRig(costs=COSTS, contexts_max=4, drain_after_ns=150 * US)
        self.rig.platform.force_save = self._force_save  # type: ignore[attr-defined]
        self.force_save_count = 0
        self.switch_to = self.rig.platform.switch_to
        self.rig.platform.switch_to = self._switch_to  # type: ignore[method-assign]
        self.untold: list[tuple[int, int]] = []
        """Who was not taken in by the hardware, and when; until the scheduler is told."""
        self.refusals_told = 0
        self.current = 0
        self.believed: set[int] = set()
        self.lines: set[tuple[int, int]] = set()
        self.edges = 0
        self.pending: tuple[int, int] | None = None
        """Number of the last order that has not begun, and its vcoproc; 0: to vacate."""
        self.times: dict[int, tuple[int, int]] = {}
        """Of each grant: not before, until."""
        self.until_ns = 0
        self.drivers: dict[int, Driver] = {}
        self.begun: set[int] = set()
        self.gone: list[Driver] = []
        self.kept: dict[int, bytes] = {}
        """What was written down of some vcoprocs."""
        self.still: dict[int, int] = {}
        """Instructions of those that stand still."""
        self.unsaid: set[int] = set()
        """Those whose levels are said when they go on."""
        self.tag = 0
        self.seen = [0, 0, 0]

    def _force_save(self, vcoproc_id: int) -> SwitchResult:
        """Every other time it can be done."""
        self.force_save_count += 1
        if self.force_save_count % 2:
            return Busy(1)
        self.rig.platform.leave_script.appendleft(Done())
        return self.rig.platform.switch_from(vcoproc_id)

    def _switch_to(self, vcoproc_id: int) -> SwitchResult:
        result = self.switch_to(vcoproc_id)
        if isinstance(result, Busy):
            self.untold.append((vcoproc_id, self.rig.clock.now_ns))
        return result

    # --- what happens -----------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        for vcoproc_id in (1, 2, 3):
            self.attach(vcoproc_id)
            self.reset(vcoproc_id, 1)
            self.ring(vcoproc_id, 1000 * vcoproc_id, Then.NOTHING, True)

    @rule(vcoproc_id=IDS)
    def attach(self, vcoproc_id: int) -> None:
        if vcoproc_id not in self.rig.executor.vcoprocs and not self.rig.executor.failure:
            self.rig.attach(vcoproc_id, running=False)
            self.drivers[vcoproc_id] = Driver()

    @rule(vcoproc_id=IDS, deadline_us=st.sampled_from([0, 50, 1000]))
    def detach(self, vcoproc_id: int, deadline_us: int) -> None:
        if vcoproc_id in self.rig.executor.vcoprocs:
            self.rig.detach(vcoproc_id, deadline_us * US)

    @rule(vcoproc_id=IDS, deadline_us=st.sampled_from([0, 50, 1000]))
    def pause(self, vcoproc_id: int, deadline_us: int) -> None:
        if vcoproc_id in self.rig.executor.vcoprocs:
            self.rig.pause(vcoproc_id, deadline_us * US)

    @rule(vcoproc_id=IDS)
    def resume(self, vcoproc_id: int) -> None:
        if vcoproc_id in self.rig.executor.vcoprocs:
            self.rig.resume(vcoproc_id)

    @rule(vcoproc_id=IDS, moving=st.booleans())
    def write_down(self, vcoproc_id: int, moving: bool) -> None:
        vcoproc = self.rig.executor.vcoprocs.get(vcoproc_id)
        if vcoproc is not None and vcoproc.stands_still:
            self.kept[vcoproc_id] = self.rig.save(vcoproc_id, moving=moving)

    @rule(vcoproc_id=IDS)
    def put_back(self, vcoproc_id: int) -> None:
        vcoproc = self.rig.executor.vcoprocs.get(vcoproc_id)
        if vcoproc is not None and vcoproc.stands_still and vcoproc_id in self.kept:
            # As a reset: what was rung since is lost.
            self.drivers[vcoproc_id].resets.append(self.rig._seq + 1)
            self.unsaid.add(vcoproc_id)
            self.still.pop(vcoproc_id, None)
            self.rig.restore(vcoproc_id, self.kept[vcoproc_id])

    def _send(self, vcoproc_id: int, message: Message) -> int | None:
        if vcoproc_id not in self.rig.executor.vcoprocs:
            return None
        seq = self.rig.send(vcoproc_id, message, origin=vcoproc_id)
        self.drivers[vcoproc_id].sent.append((seq, message))
        return seq

    @rule(vcoproc_id=IDS, length=SHORT, then=st.sampled_from(Then), posted=st.booleans())
    def ring(self, vcoproc_id: int, length: int, then: Then, posted: bool) -> None:
        self.tag = (self.tag + 1) % 4096
        value = job(length, then, self.tag)
        kind = Post if posted else Write
        seq = self._send(vcoproc_id, kind(*self.rig.address("DOORBELL"), value))
        if seq is not None:
            self.drivers[vcoproc_id].rung[seq] = value

    @rule(vcoproc_id=IDS, value=st.integers(0, 1))
    def reset(self, vcoproc_id: int, value: int) -> None:
        seq = self._send(vcoproc_id, Write(*self.rig.address("CONTROL"), value))
        if seq is not None and value == 0:
            self.drivers[vcoproc_id].resets.append(seq)

    @rule(
        vcoproc_id=IDS,
        name=st.sampled_from(["DONE", "CYCLES", "PC", "IRQ_STATUS", "HOLD_RW", "REPLAY_RW"]),
    )
    def look(self, vcoproc_id: int, name: str) -> None:
        self._send(vcoproc_id, Read(*self.rig.address(name)))

    @rule(
        vcoproc_id=IDS,
        name=st.sampled_from(["IRQ_STATUS", "IRQ_ENABLE", "FAULT_STATUS", "HOLD_RW", "REPLAY_RW"]),
        value=st.integers(0, 31),
    )
    def put(self, vcoproc_id: int, name: str, value: int) -> None:
        self._send(vcoproc_id, Post(*self.rig.address(name), value))

    @rule(
        vcoproc_id=IDS,
        names=st.lists(st.sampled_from(["DONE", "CYCLES", "IRQ_ENABLE", "BYTE"]), max_size=4),
    )
    def batch(self, vcoproc_id: int, names: list[str]) -> None:
        accesses = tuple((False, *self.rig.address(name), 0) for name in names)
        self._send(vcoproc_id, Batch(accesses))

    @rule(
        vcoproc_id=st.integers(0, 4),
        slice_us=st.sampled_from([100, 500, 2000]),
        now=st.booleans(),
        refusal_us=st.sampled_from([0, 300, 5000]),
    )
    def grant(self, vcoproc_id: int, slice_us: int, now: bool, refusal_us: int) -> None:
        """vcoproc_id: 0 for one that wants it."""
        if vcoproc_id == 0:
            vcoproc_id = max(self.believed - {self.current}, default=4)
        self.pending = (self.rig._grant_number + 1, vcoproc_id)
        self.rig.grant(vcoproc_id, slice_us * US, now=now, refusal_ns=refusal_us * US)

    @rule(
        vcoproc_id=IDS,
        now=st.booleans(),
        wait_us=st.sampled_from([0, 0, 150, 900]),
        length_us=st.sampled_from([0, 1, 300, 2000]),
    )
    def grant_with_times(self, vcoproc_id: int, now: bool, wait_us: int, length_us: int) -> None:
        """length_us: from its beginning to until_ns; 0: no bound."""
        number, now_ns = self.rig._grant_number + 1, self.rig.clock.now_ns
        begin_ns = now_ns + wait_us * US
        times = (begin_ns if wait_us else 0, begin_ns + length_us * US if length_us else 0)
        self.pending, self.times[number] = (number, vcoproc_id), times
        self.rig.grant(
            vcoproc_id, 1000 * US, now=now, refusal_ns=300 * US,
            not_before_ns=times[0], until_ns=times[1],
        )  # fmt: skip

    @rule(now=st.booleans(), refusal_us=st.sampled_from([0, 300, 5000]))
    def vacate(self, now: bool, refusal_us: int) -> None:
        self.pending = (self.rig._grant_number + 1, 0)
        self.rig.vacate(now=now, refusal_ns=refusal_us * US)

    @rule(vcoproc_id=IDS, length=SHORT, then=st.sampled_from(Then), now=st.booleans())
    def ring_and_grant(self, vcoproc_id: int, length: int, then: Then, now: bool) -> None:
        self.ring(vcoproc_id, length, then, True)
        self.grant(vcoproc_id, 500, now, 5000)

    @rule(vcoproc_id=IDS, now=st.booleans(), us=st.integers(1, 400))
    def grant_to_a_refusing_one(self, vcoproc_id: int, now: bool, us: int) -> None:
        self.refuse_to_be_left(us, 2)
        self.grant(vcoproc_id, 100, now, 5000)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def revoke(self) -> None:
        assert self.pending is not None
        number, self.pending = self.pending[0], None
        self.rig.revoke(number)

    @rule(number=st.integers(0, 50))
    def revoke_something_old(self, number: int) -> None:
        if self.pending is None or self.pending[0] != number:
            self.rig.revoke(number)

    @rule()
    def scheduler_is_back(self) -> None:
        register = self.rig.executor.register_message()
        self.rig.collect()
        self._hear()
        self.pending = None
        self.untold.clear()  # it was told of that before, or never
        assert register.current == self.current
        assert {each[0] for each in register.vcoprocs} == set(self.rig.executor.vcoprocs)
        self.believed = {vcoproc for vcoproc, runnable, _ in register.vcoprocs if runnable}
        for vcoproc, _runnable, faulted in register.vcoprocs:
            assert faulted == (
                self.rig.platform.is_faulted(vcoproc) or bool(self.rig.executor.failure)
            )

    @rule(us=st.integers(1, 400), count=st.integers(1, 4))
    def refuse_to_be_left(self, us: int, count: int) -> None:
        self.rig.platform.leave_script.extend([Busy(us * US)] * count)

    @rule(us=st.integers(1, 400), count=st.integers(1, 3))
    def refuse_to_be_entered(self, us: int, count: int) -> None:
        self.rig.platform.enter_script.extend([Busy(us * US)] * count)

    @rule(duration_us=st.integers(1, 1500))
    def run(self, duration_us: int) -> None:
        self.rig.run(duration_us * US)

    @rule()
    def step(self) -> None:
        self.rig.step()

    @rule(really=st.sampled_from([False] * 40 + [True]), leave=st.booleans())
    def fail(self, really: bool, leave: bool) -> None:
        if really:
            platform = self.rig.platform
            (platform.leave_script if leave else platform.enter_script).append(Failed("dead"))

    # --- what the others hear ---------------------------------------------------------------------

    def _hear(self) -> None:
        rig = self.rig
        for message in [*rig.to_scheduler[self.seen[0] :], *rig.to_router[self.seen[1] :]]:
            assert decode(encode(message, seq=1))[1] == message, "it cannot be sent"
        for message in rig.to_scheduler[self.seen[0] :]:
            self._scheduler_hears(message)
        for message in rig.to_router[self.seen[1] :]:
            self._router_hears(message)
        for origin, message in rig.replies[self.seen[2] :]:
            assert isinstance(origin, int) and isinstance(message, Reply | TrapError)
            answered = self.drivers[origin].answered
            assert message.request not in answered, "answered twice"
            answered[message.request] = message
        self.seen = [len(rig.to_scheduler), len(rig.to_router), len(rig.replies)]

    def _scheduler_hears(self, message: Message) -> None:
        match message:
            case Wake():
                if message.resumed:
                    assert message.vcoproc == self.current
                assert message.vcoproc not in self.believed, "it was known"
                self.believed.add(message.vcoproc)
            case Sleep():
                assert message.vcoproc == self.current
                assert message.vcoproc in self.believed
                self.believed.discard(message.vcoproc)
            case Faulted():
                self.believed.discard(message.vcoproc)
            case GrantDropped(why="REPLACED"):
                assert self.pending is None or self.pending[0] > message.grant
                self._refused(
                    message.vcoproc, message.refusals, message.refused_ns, message.clock_ns
                )
            case GrantDropped(0, vcoproc):
                assert (message.why, vcoproc in self.believed) == ("PAUSED", True)
                assert vcoproc != self.current
                self.believed.discard(vcoproc)
            case GrantDropped():
                assert self.pending == (message.grant, message.vcoproc)
                self.pending = None
                if message.refusals:
                    self._refused(
                        message.vcoproc, message.refusals, message.refused_ns, message.clock_ns
                    )
                not_before_ns, until_ns = self.times.get(message.grant, (0, 0))
                if message.vcoproc == 0:
                    assert (message.why, self.current) == ("EMPTY", 0)
                elif message.why == "LATE":
                    assert until_ns and max(message.clock_ns, not_before_ns) >= until_ns
                elif message.vcoproc != self.current:
                    self.believed.discard(message.vcoproc)
            case Report():
                self._report(message)

    def _refused(self, vcoproc: int, count: int, refused_ns: int, until_ns: int) -> None:
        """What the hardware has said is what the scheduler hears, and about the right one."""
        answers, self.untold = self.untold[:count], self.untold[count:]
        assert [each for each, _ in answers] == [vcoproc] * count != []
        assert self.current == 0, "it was refused while another one was on the hardware"
        first_ns, last_ns = answers[0][1], answers[-1][1]
        assert until_ns - refused_ns == first_ns - COSTS.mmu_ns and last_ns <= until_ns
        assert refused_ns <= REFUSAL_NS_MAX + LATE_NS
        self.refusals_told += count

    def _report(self, report: Report) -> None:
        assert report.vcoproc == self.current
        if report.switch_in_refusals:
            assert report.vcoproc == 0, "the hardware was not reported empty"
            self._refused(
                report.next_vcoproc,
                report.switch_in_refusals,
                report.switch_in_refused_ns,
                report.ended_ns,
            )
        if report.vcoproc:
            self.believed.discard(report.vcoproc)
            if report.runnable:
                self.believed.add(report.vcoproc)
        self.current = report.next_vcoproc
        self.until_ns = 0
        if self.pending is not None and self.pending[1] == 0 and not report.next_vcoproc:
            assert report.next_grant == self.pending[0], "the order is not carried out"
            self.pending = None
        elif not report.next_vcoproc:
            assert report.next_grant == 0
        if report.next_vcoproc:
            assert self.pending == (report.next_grant, report.next_vcoproc), "it was not granted"
            assert report.next_grant not in self.begun
            self.begun.add(report.next_grant)
            not_before_ns, self.until_ns = self.times.get(report.next_grant, (0, 0))
            # The one before may have been told to leave earlier, because it had to.
            entered_ns = report.next_began_ns - report.mmu_ns - report.restore_ns
            assert entered_ns >= not_before_ns, "it was entered too early"
            if self.until_ns:
                assert report.ended_ns < self.until_ns, "it was too late for it"
            self.believed.add(report.next_vcoproc)
            self.pending = None
            if report.vcoproc != report.next_vcoproc:
                took = (report.save_ns, report.mmu_ns, report.restore_ns)
                save_ns = COSTS.save_ns if report.vcoproc and not report.forced else 0
                assert took == (save_ns, COSTS.mmu_ns, COSTS.restore_ns)
                assert report.next_began_ns == report.ended_ns + report.refused_ns + sum(took)

    def _router_hears(self, message: Message) -> None:
        if isinstance(message, LineEdge):
            self.edges += 1
            return
        if isinstance(message, LineSync):
            self.lines = {key for key in self.lines if key[0] != message.vcoproc}
            self.lines |= {(message.vcoproc, n) for n in range(8) if message.high_mask >> n & 1}
            self.unsaid.discard(message.vcoproc)
            return
        assert isinstance(message, LineLevel)
        key = (message.vcoproc, message.line)
        assert (key in self.lines) != message.high or key[0] in self.unsaid, "that was known"
        (self.lines.add if message.high else self.lines.discard)(key)

    # --- what must be true ------------------------------------------------------------------------

    @invariant()
    def what_they_believe_is_true(self) -> None:
        self._hear()
        rig = self.rig
        for vcoproc_id in list(self.drivers):
            if vcoproc_id not in rig.executor.vcoprocs:
                self._has_gone(vcoproc_id)
        assert self.current == (rig.platform.owner or 0)
        for vcoproc_id, vcoproc in rig.executor.vcoprocs.items():
            context = rig.platform.contexts[vcoproc_id]
            on = rig.platform.owner == vcoproc_id
            registers = context.live if on else context.spec.shadow
            wants = rig.platform._wants(context, registers)
            if vcoproc.stands_still:
                assert not on and vcoproc_id not in self.believed
                before = self.still.setdefault(vcoproc_id, context.instructions)
                assert context.instructions == before, "it ran while it was paused"
                if vcoproc_id in self.unsaid:
                    continue
            else:
                self.still.pop(vcoproc_id, None)
            if not on and (wants or vcoproc.replay or vcoproc.held) and not rig.executor.failure:
                assert vcoproc_id in self.believed or vcoproc.paused, "a wake was lost"
            for number, status, enable in rig.executor._switcher.lines._level_lines:
                high = registers[status] & (registers[enable] if enable is not None else -1) != 0
                assert ((vcoproc_id, number) in self.lines) == high, "the router is wrong"
        assert rig.executor.phase is Phase.ENTERING or not self.untold, "a refusal was never told"
        assert self.edges == rig.platform.pulse_count - len(rig.platform._edges)
        assert not rig.platform._edges
        if rig.executor.phase is Phase.EMPTY and self.pending is not None:
            not_before_ns = self.times.get(self.pending[0], (0, 0))[0]
            assert rig.clock.now_ns <= not_before_ns + LATE_NS, "its time has come"
        if self.until_ns and rig.executor.phase is not Phase.LEAVING:
            assert rig.clock.now_ns <= self.until_ns + LATE_NS, "its time is over"

    @invariant()
    def answers_keep_their_order(self) -> None:
        for driver in self.drivers.values():
            # One that finds the queue of held ones full is refused at once; all others wait.
            answered = [
                seq
                for seq, message in driver.answered.items()
                if not (isinstance(message, TrapError) and message.error == "QUEUE_FULL")
            ]
            assert answered == sorted(answered)

    def _has_gone(self, vcoproc_id: int) -> None:
        driver = self.drivers.pop(vcoproc_id)
        self.lines = {key for key in self.lines if key[0] != vcoproc_id}
        self.believed.discard(vcoproc_id)
        self.kept.pop(vcoproc_id, None)
        self.still.pop(vcoproc_id, None)
        self.unsaid.discard(vcoproc_id)
        for seq, message in driver.sent:
            if not isinstance(message, Post):
                assert seq in driver.answered, "gone without an answer"

    def teardown(self) -> None:
        """Everybody gets the hardware until nothing waits; then the books must agree."""
        rig = self.rig
        rig.platform.leave_script.clear()
        rig.platform.enter_script.clear()
        rig.platform.leave_rule = rig.platform.enter_rule = lambda _vcoproc_id: Done()
        for vcoproc_id in list(rig.executor.vcoprocs):
            rig.resume(vcoproc_id)
        rig.run(2 * HOLD_LIMIT_NS if rig.executor.failure else 5000 * US)
        for _ in range(300):
            self.what_they_believe_is_true()
            waiting = sorted(self.believed - {self.current})
            if not waiting:
                break
            for vcoproc_id in waiting:
                if vcoproc_id in self.believed:
                    self.grant(vcoproc_id, 100, True, 0)
                rig.run(300 * US)
                self._hear()
        self._hear()
        for vcoproc_id, driver in self.drivers.items():
            vcoproc = rig.vcoproc(vcoproc_id)
            assert not vcoproc.held and not vcoproc.replay and not vcoproc.removing
            for seq, message in driver.sent:
                answer = driver.answered.get(seq)
                if isinstance(message, Post):
                    assert not isinstance(answer, Reply)
                else:
                    assert answer is not None, "never answered"
            self._no_doorbell_was_lost(vcoproc_id, driver)

    def _no_doorbell_was_lost(self, vcoproc_id: int, driver: Driver) -> None:
        taken = [
            (seq, value)
            for seq, value in driver.rung.items()
            if not isinstance(driver.answered.get(seq), TrapError)
        ]
        heard = list(self.rig.platform.contexts[vcoproc_id].rung)
        for seq, value in taken:
            if heard and heard[0] == value:
                heard.pop(0)
            else:  # only a reset that came after it may have taken it away
                failed = bool(self.rig.executor.failure)
                assert failed or any(reset > seq for reset in driver.resets), "a doorbell is lost"
        assert not heard, "a doorbell came twice, out of order, or from nowhere"


Model.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestExecutorAgainstModel = Model.TestCase


# --- the same, much longer ------------------------------------------------------------------------


def _random_event(model: Model, random: Random) -> None:
    """One event, those that make things happen more often than those that end them."""
    vcoproc_id = random.randint(1, 3)
    weights = (20, 20, 12, 8, 8, 6, 5, 4, 4, 3, 2, 1, 2, 9, 3, 3, 6, 3, 1)
    match random.choices(range(19), weights)[0]:
        case 0:
            then = random.choice(list(Then) + [Then.NOTHING] * 4)
            model.ring(vcoproc_id, random.randrange(2000), then, random.random() < 0.5)
        case 1:
            slice_us = random.choice([100, 500, 2000])
            target = random.choice([0, 0, 0, 1, 2, 3, 4])
            now = random.random() < 0.3
            model.grant(target, slice_us, now, random.choice([0, 300, 5000]))
        case 2:
            model.run(random.randint(1, 1500))
        case 3:
            model.step()
        case 4:
            names = ["DONE", "CYCLES", "PC", "IRQ_STATUS", "HOLD_RW", "REPLAY_RW"]
            model.look(vcoproc_id, random.choice(names))
        case 5:
            names = ["IRQ_STATUS", "IRQ_ENABLE", "FAULT_STATUS", "HOLD_RW", "REPLAY_RW"]
            model.put(vcoproc_id, random.choice(names), random.randrange(32))
        case 6:
            model.refuse_to_be_left(random.randint(1, 400), random.randint(1, 4))
        case 7:
            model.refuse_to_be_entered(random.randint(1, 400), random.randint(1, 3))
        case 8:
            names = ["DONE", "CYCLES", "IRQ_ENABLE", "BYTE"]
            model.batch(vcoproc_id, random.choices(names, k=random.randrange(5)))
        case 9:
            if model.pending is not None:
                model.revoke()
        case 10:
            model.reset(vcoproc_id, 0)
            model.reset(vcoproc_id, 1)
        case 11:
            model.detach(vcoproc_id, random.choice([0, 50, 1000]))
            model.what_they_believe_is_true()
            model.attach(vcoproc_id)
            model.reset(vcoproc_id, 1)
        case 12:
            model.scheduler_is_back()
        case 13:
            now = random.random() < 0.5
            wait_us = random.choice([0, 0, 150, 900])
            model.grant_with_times(vcoproc_id, now, wait_us, random.choice([0, 1, 300, 2000]))
        case 14:
            model.vacate(random.random() < 0.5, random.choice([0, 300, 5000]))
        case 15:
            model.pause(vcoproc_id, random.choice([0, 50, 1000]))
        case 16:
            model.resume(vcoproc_id)
        case 17:
            model.write_down(vcoproc_id, random.random() < 0.5)
        case 18:
            model.put_back(vcoproc_id)


@pytest.mark.parametrize("seed", range(30))
def test_a_long_random_life(seed: int) -> None:
    random = Random(seed)
    model = Model()
    model.start()
    for _ in range(250):
        _random_event(model, random)
        model.what_they_believe_is_true()
        model.answers_keep_their_order()
    if seed % 5 == 0:
        model.fail(True, leave=seed % 2 == 0)
        for _ in range(40):
            _random_event(model, random)
            model.what_they_believe_is_true()
    model.teardown()
    calls = " ".join(model.rig.platform.calls)
    assert "Busy" in calls and "Done" in calls, "it was a life without trouble"
    assert model.refusals_told, "the hardware took everybody in at once"
