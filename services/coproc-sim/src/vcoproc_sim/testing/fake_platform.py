"""A coprocessor for tests: small, exact, and strict with whoever drives it.

Theory of operation:
    A context executes a program of operations (`Compute`, `Raise`, `Yield`, ...), one after the
    other; a driver adds to it through the doorbell. An instruction takes a fixed time of the clock
    that the platform is given, and moves it. Refusals come from scripts. Everything that the
    platform interface forbids is an AssertionError here, and what the hardware saw is written down.
Not handled:
    Memory: nothing is ever read or written there.
"""

from __future__ import annotations

import copy
import enum
import functools
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from vcoproc.errors import InvalidArgument
from vcoproc_sim.platforms.api import (
    Access,
    Buffer,
    Busy,
    ContextImage,
    ContextSpec,
    Done,
    Fault,
    Features,
    Line,
    PlatformInfo,
    RangeKind,
    Register,
    RegisterRange,
    RunResult,
    StopReason,
    SwitchResult,
    Trigger,
    WhenOut,
)

PAGE: Final = 4096
CTRL, MATRIX, MBOX = range(3)
"""Places of the register ranges."""
IRQ_LINE, EVENT_LINE, FAULT_LINE = range(3)
FORCED: Final = 16
WORD: Final = 0xFFFF_FFFF
UNIT: Final = 64
"""Instructions for each unit of a doorbell's length."""


class Then(enum.IntEnum):
    """What a job does when it has computed, besides saying that it is done."""

    NOTHING = 0
    EVENT = 1
    """Pulses the edge line."""
    YIELD = 2
    FAULT = 3
    TIMER = 4
    """Sleeps for as long as it has computed, then computes as long again."""


def job(length: int, then: Then = Then.NOTHING, tag: int = 0) -> int:
    """A value for the doorbell: 16 bits of units, 4 bits of what then, 12 bits of tag."""
    assert 0 <= length < 1 << 16 and 0 <= tag < 1 << 12
    return length | then << 16 | tag << 20


@dataclass(slots=True)
class Compute:
    left: int


@dataclass(slots=True)
class Forever:
    """A hog."""


@dataclass(slots=True)
class Raise:
    """ORs bits into IRQ_STATUS. done: it also counts in DONE."""

    bits: int
    done: bool = False


@dataclass(slots=True)
class Pulse:
    """One edge on line `event`."""


@dataclass(slots=True)
class Yield:
    pass


@dataclass(slots=True)
class Timer:
    """Idle for a time. due_ns: set when it begins."""

    duration_ns: int
    due_ns: int | None = None


@dataclass(slots=True)
class Crash:
    code: int = 2
    address: int = 0x1000


Op: TypeAlias = Compute | Forever | Raise | Pulse | Yield | Timer | Crash


class StepClock:
    """A clock that moves when it is told to."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, delta_ns: int) -> None:
        assert delta_ns >= 0
        self.now_ns += delta_ns


@dataclass(frozen=True, slots=True)
class Costs:
    """How long things take. run_ns: each burst, besides its instructions."""

    instruction_ns: int = 10
    run_ns: int = 0
    save_ns: int = 3_000
    mmu_ns: int = 200
    restore_ns: int = 2_000


@dataclass(slots=True, eq=False)
class FakeContext:
    """rung: every value that the doorbell of the hardware got, in order."""

    spec: ContextSpec
    live: list[int]
    program: deque[Op] = field(default_factory=deque)
    fault: Fault | None = None
    instructions: int = 0
    rung: list[int] = field(default_factory=list)
    resets: int = 0
    forced: int = 0
    pulses: int = 0


@dataclass(slots=True)
class FakeImage:
    """A context written down. program: timers that run are due so long after the moment then."""

    shadow: list[int]
    program: deque[Op]
    fault: Fault | None
    instructions: int
    rung: list[int]
    pulses: int

    def pieces(self) -> list[Buffer]:
        return [pickle.dumps(self)]


def _shifted(program: deque[Op], delta_ns: int) -> deque[Op]:
    """The same, by another clock."""
    shifted = copy.deepcopy(program)
    for op in shifted:
        if isinstance(op, Timer) and op.due_ns is not None:
            op.due_ns += delta_ns
    return shifted


def _matrix() -> tuple[Register, ...]:
    """A register for each policy and each access, plain storage."""
    pairs = [(when, access) for when in WhenOut for access in Access]
    return tuple(
        Register(f"{when.name}_{access.name}", 4 * n, access, when, "Storage.", reset=0xA0 + n)
        for n, (when, access) in enumerate(pairs)
    )


@functools.cache
def make_info(contexts_max: int = 8) -> PlatformInfo:
    shadow = WhenOut.SHADOW
    ctrl = (
        Register("ID", 0x00, Access.RO, WhenOut.CONST, "The bytes FAKE.", 0x454B_4146),
        Register(
            "CONTROL", 0x04, Access.RW, shadow, "Bit 0: out of reset.", wakes=True, reset_bits=1
        ),
        Register("DOORBELL", 0x08, Access.WO, WhenOut.REPLAY, "See `job`.", wakes=True),
        Register("DONE", 0x0C, Access.RO, shadow, "Jobs done."),
        Register("IRQ_STATUS", 0x10, Access.W1C, shadow, "Set by jobs."),
        Register("IRQ_ENABLE", 0x14, Access.RW, shadow, "", reset=1),
        Register("FAULT_STATUS", 0x18, Access.W1C, shadow, "Code of the fault."),
        Register("CYCLES", 0x1C, Access.RO, WhenOut.HOLD, "Instructions of this context."),
        Register("PC", 0x20, Access.RO, WhenOut.DENY, "Operations left."),
        Register("YIELD", 0x28, Access.WO, shadow, "A good moment to switch.", yields=True),
        Register("BYTE", 0x24, Access.RW, shadow, "One byte wide.", width_bytes=1),
    )
    return PlatformInfo(
        compatible="vcoproc,fake",
        ranges=(
            RegisterRange("ctrl", PAGE, RangeKind.TRAPPED, ctrl),
            RegisterRange("matrix", PAGE, RangeKind.TRAPPED, _matrix()),
            RegisterRange("mbox", PAGE, RangeKind.MAPPED),
        ),
        lines=(
            Line("irq", Trigger.LEVEL, status="IRQ_STATUS", enable="IRQ_ENABLE"),
            Line("event", Trigger.EDGE),
            Line("fault", Trigger.LEVEL, status="FAULT_STATUS"),
        ),
        features=Features(contexts_max=contexts_max),
    )


def make_spec(vcoproc_id: int, info: PlatformInfo) -> ContextSpec:
    return ContextSpec(vcoproc_id, (), (memoryview(bytearray(PAGE)),), info.reset_values())


class FakePlatform:
    """Implements `Platform`.

    Args:
        clock: moved by whatever takes time.

    Attributes:
        leave_script, enter_script: answers to the next requests to switch; then `Done`.
        leave_rule: asked when the script is empty, with the vcoproc.
    """

    def __init__(
        self, clock: StepClock, *, costs: Costs | None = None, contexts_max: int = 8
    ) -> None:
        self.info = make_info(contexts_max)
        self.clock = clock
        self.costs = costs or Costs()
        self.contexts: dict[int, FakeContext] = {}
        self.owner: int | None = None
        self.stage2: int | None = None
        self.leave_script: deque[SwitchResult] = deque()
        self.enter_script: deque[SwitchResult] = deque()
        self.leave_rule: Callable[[int], SwitchResult] = lambda _vcoproc_id: Done()
        self.enter_rule: Callable[[int], SwitchResult] = lambda _vcoproc_id: Done()
        self.asked: int | None = None
        """Who refused to leave and was not let off yet."""
        self.calls: list[str] = []
        """Switching calls, in order, since the test cleared it."""
        self.pulse_count = 0
        self.closed = False
        index = self.info.index_of
        self._doorbell, self._done, self._control = (
            index[name] for name in ("DOORBELL", "DONE", "CONTROL")
        )
        self._status, self._fault = index["IRQ_STATUS"], index["FAULT_STATUS"]
        self._cycles, self._pc = index["CYCLES"], index["PC"]
        self._edges: list[int] = []
        self._behind_ns = 0
        """Of the clock of the context that runs, behind the coproc's: it was paused for so long."""

    # --- contexts ---------------------------------------------------------------------------------

    def create_context(self, spec: ContextSpec) -> None:
        assert spec.vcoproc_id not in self.contexts
        assert len(spec.shadow) == len(self.info.registers)
        self.contexts[spec.vcoproc_id] = FakeContext(spec, list(spec.shadow))

    def destroy_context(self, vcoproc_id: int) -> None:
        assert self.owner != vcoproc_id, "destroyed on the hardware"
        assert self.stage2 != vcoproc_id, "destroyed with its tables current"
        del self.contexts[vcoproc_id]

    # --- switching --------------------------------------------------------------------------------

    def switch_from(self, vcoproc_id: int) -> SwitchResult:
        assert self.owner == vcoproc_id, f"{vcoproc_id} is not on the hardware"
        result = self.leave_script.popleft() if self.leave_script else self.leave_rule(vcoproc_id)
        self.calls.append(f"switch_from {vcoproc_id} {type(result).__name__}")
        if isinstance(result, Done):
            self.clock.advance(self.costs.save_ns)
            self._unload()
        elif isinstance(result, Busy):
            self.asked = vcoproc_id
        return result

    def _unload(self) -> None:
        context = self.contexts[self._on()]
        context.live[self._cycles] = context.instructions & WORD
        context.spec.shadow[:] = context.live
        self.owner = self.asked = None

    def set_stage2(self, vcoproc_id: int | None) -> None:
        assert self.owner is None, "the tables change under a running context"
        assert vcoproc_id is None or vcoproc_id in self.contexts
        self.calls.append(f"set_stage2 {vcoproc_id}")
        if vcoproc_id is not None:
            self.clock.advance(self.costs.mmu_ns)
        self.stage2 = vcoproc_id

    def switch_to(self, vcoproc_id: int) -> SwitchResult:
        assert self.owner is None, "two on the hardware"
        assert self.stage2 == vcoproc_id, "another one's tables"
        assert not self._edges, "edges of the one before would be taken for its own"
        result = self.enter_script.popleft() if self.enter_script else self.enter_rule(vcoproc_id)
        self.calls.append(f"switch_to {vcoproc_id} {type(result).__name__}")
        if isinstance(result, Done):
            self.clock.advance(self.costs.restore_ns)
            context = self.contexts[vcoproc_id]
            context.live[:] = context.spec.shadow
            self.owner = vcoproc_id
        return result

    def cancel_switch(self, vcoproc_id: int) -> None:
        assert self.asked == vcoproc_id, "nothing to undo"
        self.calls.append(f"cancel_switch {vcoproc_id}")
        self.asked = None

    def force_off(self, vcoproc_id: int) -> None:
        assert self.owner == vcoproc_id
        self.calls.append(f"force_off {vcoproc_id}")
        context = self.contexts[vcoproc_id]
        self._reset(context)
        context.forced += 1
        context.live[self._control] = 0
        context.live[self._fault] |= FORCED
        self._unload()

    def reset_context(self, vcoproc_id: int) -> None:
        context = self.contexts[vcoproc_id]
        self._reset(context)
        registers = context.live if self.owner == vcoproc_id else context.spec.shadow
        registers[:] = self.info.reset_values()

    @staticmethod
    def _reset(context: FakeContext) -> None:
        context.program.clear()
        context.fault = None
        context.resets += 1

    # --- registers --------------------------------------------------------------------------------

    def _on(self) -> int:
        assert self.owner is not None, "nobody is on the hardware"
        return self.owner

    def read(self, index: int) -> int:
        context = self.contexts[self._on()]
        if index == self._cycles:
            return context.instructions & WORD
        if index == self._pc:
            return len(context.program)
        return context.live[index]

    def write(self, index: int, value: int) -> None:
        context = self.contexts[self._on()]
        register = self.info.registers[index]
        assert register.access is not Access.RO, "a read-only register is written"
        if index == self._doorbell:
            self._ring(context, value)
        elif register.access is Access.W1C:
            context.live[index] &= ~value
        else:
            old, context.live[index] = context.live[index], value
            if index == self._control and old & ~value & 1:
                self._reset(context)

    def shadow_written(self, vcoproc_id: int, index: int, old: int) -> None:
        assert self.owner != vcoproc_id
        context = self.contexts[vcoproc_id]
        if index == self._control and old & ~context.spec.shadow[index] & 1:
            self._reset(context)

    def _ring(self, context: FakeContext, value: int) -> None:
        context.rung.append(value)
        if not context.live[self._control] & 1 or context.fault is not None:
            return  # in reset it hears nothing
        computed = Compute(UNIT * (value & 0xFFFF))
        then = Then(min(value >> 16 & 0xF, Then.TIMER))
        context.program.append(computed)
        if then is Then.EVENT:
            context.program.append(Pulse())
        elif then is Then.YIELD:
            context.program.append(Yield())
        elif then is Then.FAULT:
            context.program.append(Crash())
        elif then is Then.TIMER:
            context.program.append(Timer(computed.left * self.costs.instruction_ns + 1))
            context.program.append(Compute(computed.left))
        context.program.append(Raise(1, done=True))

    # --- execution --------------------------------------------------------------------------------

    def is_faulted(self, vcoproc_id: int) -> bool:
        return self.contexts[vcoproc_id].fault is not None

    def wants_to_run(self) -> bool:
        return self._wants(self.contexts[self._on()], self.contexts[self._on()].live)

    def shadow_wants_to_run(self, vcoproc_id: int) -> bool:
        assert self.owner != vcoproc_id
        context = self.contexts[vcoproc_id]
        return self._wants(context, context.spec.shadow)

    def _wants(self, context: FakeContext, registers: list[int]) -> bool:
        if not registers[self._control] & 1 or context.fault is not None or not context.program:
            return False
        first = context.program[0]
        return not (isinstance(first, Timer) and first.due_ns is not None)

    def wake_after_ns(self, vcoproc_id: int, idle_ns: int) -> int | None:
        program = self.contexts[vcoproc_id].program
        if program and isinstance(program[0], Timer):
            return max(0, program[0].duration_ns - idle_ns)
        return None

    def run(self, budget: int, now_ns: int) -> RunResult:
        assert self.stage2 == self.owner, "it runs on another one's tables"
        assert now_ns <= self.clock.now_ns
        self._behind_ns = self.clock.now_ns - now_ns
        context = self.contexts[self._on()]
        self.clock.advance(self.costs.run_ns)
        used = 0
        while context.live[self._control] & 1 and context.fault is None and context.program:
            op = context.program[0]
            if isinstance(op, Compute | Forever):
                count = budget - used
                if isinstance(op, Compute):
                    count = min(count, op.left)
                    op.left -= count
                used += count
                context.instructions += count
                self.clock.advance(count * self.costs.instruction_ns)
                if used == budget:
                    return RunResult(StopReason.BUDGET, used)
            elif isinstance(op, Timer) and not self._timer_is_over(op):
                assert op.due_ns is not None
                return RunResult(StopReason.IDLE, used, op.due_ns - self._now_ns)
            context.program.popleft()
            reason = self._do(context, op)
            if reason is not None:
                return RunResult(reason, used, fault=context.fault)
        return RunResult(StopReason.IDLE, used)

    @property
    def _now_ns(self) -> int:
        return self.clock.now_ns - self._behind_ns

    def _timer_is_over(self, op: Timer) -> bool:
        if op.due_ns is None:
            op.due_ns = self._now_ns + op.duration_ns
        return self._now_ns >= op.due_ns

    def _do(self, context: FakeContext, op: Op) -> StopReason | None:
        match op:
            case Raise(bits, done):
                context.live[self._status] |= bits
                context.live[self._done] += done
                return StopReason.ATTENTION
            case Pulse():
                self._edges.append(EVENT_LINE)
                self.pulse_count += 1
                context.pulses += 1
                return StopReason.ATTENTION
            case Yield():
                return StopReason.YIELD
            case Crash(code, address):
                context.live[self._fault] = code
                context.fault = Fault(code, address, "the program says so")
                return StopReason.FAULT
            case _:
                return None

    def take_edges(self) -> Sequence[int]:
        edges, self._edges = self._edges, []
        return edges

    def snapshot(self, vcoproc_id: int, now_ns: int) -> ContextImage:
        assert self.owner != vcoproc_id, "written down on the hardware"
        context = self.contexts[vcoproc_id]
        return FakeImage(
            list(context.spec.shadow),
            _shifted(context.program, -now_ns),
            context.fault,
            context.instructions,
            list(context.rung),
            context.pulses,
        )

    def read_snapshot(self, blob: memoryview) -> ContextImage:
        try:
            image = pickle.loads(blob)
        except Exception as error:
            raise InvalidArgument("snapshot", repr(error)) from None
        assert isinstance(image, FakeImage)
        return image

    def restore(self, vcoproc_id: int, image: ContextImage, now_ns: int) -> None:
        assert self.owner != vcoproc_id, "restored on the hardware"
        assert isinstance(image, FakeImage)
        context = self.contexts[vcoproc_id]
        context.spec.shadow[:] = image.shadow
        context.program = _shifted(image.program, now_ns)
        context.fault = image.fault
        context.instructions = image.instructions
        context.rung = list(image.rung)
        context.pulses = image.pulses

    def close(self) -> None:
        self.closed = True
