"""Front end and executor on the fake platform, with a loop like the shell's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from vcoproc.limits import MS, SWITCH_DEADLINE_NS
from vcoproc.wire.messages import Grant, Message, Post, Read, Reply, TrapError, Vacate, Write
from vcoproc_sim import saving
from vcoproc_sim.departures import PauseEnd
from vcoproc_sim.executor import Executor
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import Platform
from vcoproc_sim.testing.fake_platform import (
    CTRL,
    Costs,
    FakePlatform,
    Forever,
    Op,
    StepClock,
    make_spec,
)
from vcoproc_sim.vcoprocs import FaultSeen, Outbox, Vcoproc

M = TypeVar("M", bound=Message)


class CoreRig:
    """to_scheduler, to_router, replies, faults: everything said so far, in order.

    wrap: makes of the fake platform the one that is driven.

    Effects are moved there after every call, and the invariants are checked.
    """

    def __init__(
        self,
        *,
        costs: Costs | None = None,
        contexts_max: int = 8,
        drain_after_ns: int | None = None,
        wrap: Callable[[FakePlatform, StepClock], Platform] | None = None,
    ) -> None:
        self.clock = StepClock(1_000_000)
        self.platform = FakePlatform(self.clock, costs=costs, contexts_max=contexts_max)
        self.outbox = Outbox()
        hardware = self.platform if wrap is None else wrap(self.platform, self.clock)
        self.frontend = FrontEnd(hardware, self.outbox)
        self.executor = Executor(
            "dsp0", hardware, self.frontend, self.outbox, self.clock, drain_after_ns
        )
        self.to_scheduler: list[Message] = []
        self.to_router: list[Message] = []
        self.replies: list[tuple[object, Message]] = []
        self.faults: list[FaultSeen] = []
        self.gone: dict[int, list[bool]] = {}
        self._grant_number = 0
        self._seq = 0

    # --- vcoprocs and drivers ---------------------------------------------------------------------

    def attach(self, *vcoproc_ids: int, running: bool = True, paused: bool = False) -> None:
        """Attaches them; running: and releases their reset."""
        for vcoproc_id in vcoproc_ids:
            spec = make_spec(vcoproc_id, self.platform.info)
            self.executor.attach(vcoproc_id, f"v{vcoproc_id}", spec, paused=paused)
            if running:
                self.write(vcoproc_id, "CONTROL", 1)
        self.collect()

    def detach(self, vcoproc_id: int, deadline_ns: int = 10 * MS, *, moved: bool = False) -> None:
        done = self.gone.setdefault(vcoproc_id, []).append
        self.executor.detach(vcoproc_id, deadline_ns, done, moved=moved)
        self.collect()

    def pause(self, vcoproc_id: int, deadline_ns: int = 10 * MS) -> list[PauseEnd]:
        """What became of it, as soon as that is known."""
        ended: list[PauseEnd] = []
        self.executor.pause(vcoproc_id, deadline_ns, ended.append)
        self.collect()
        return ended

    def resume(self, vcoproc_id: int) -> None:
        self.executor.resume(vcoproc_id)
        self.collect()

    def save(self, vcoproc_id: int, *, moving: bool = False, edges: Sequence[int] = ()) -> bytes:
        image = self.executor.save(vcoproc_id, edges, moving=moving)
        self.collect()
        return b"".join(image.pieces(self.platform.info))

    def restore(self, vcoproc_id: int, blob: bytes) -> None:
        self.executor.restore(vcoproc_id, saving.read(memoryview(blob), self.platform))
        self.collect()

    def vcoproc(self, vcoproc_id: int) -> Vcoproc:
        return self.executor.vcoprocs[vcoproc_id]

    def address(self, name: str) -> tuple[int, int, int]:
        """Place, offset and width of a register."""
        for place, rng in enumerate(self.platform.info.ranges):
            for register in rng.registers:
                if register.name == name:
                    return place, register.offset, register.width_bytes
        raise KeyError(name)

    def send(self, vcoproc_id: int, message: Message, origin: object = None) -> int:
        """A message of a driver. Gives its number."""
        self._seq += 1
        origin = f"driver{vcoproc_id}" if origin is None else origin
        self.executor.trap(self.vcoproc(vcoproc_id), origin, self._seq, message)
        self.collect()
        return self._seq

    def answer(self, seq: int) -> Message | None:
        """The only answer to a message, if there is one."""
        found = [
            message
            for _origin, message in self.replies
            if isinstance(message, Reply | TrapError) and message.request == seq
        ]
        assert len(found) <= 1, "answered twice"
        return found[0] if found else None

    def read(self, vcoproc_id: int, name: str) -> Message | None:
        """The answer to a read; None: it waits."""
        return self.answer(self.send(vcoproc_id, Read(*self.address(name))))

    def value(self, vcoproc_id: int, name: str) -> int:
        answer = self.read(vcoproc_id, name)
        assert isinstance(answer, Reply), answer
        return answer.values[0]

    def write(self, vcoproc_id: int, name: str, value: int) -> Message | None:
        return self.answer(self.send(vcoproc_id, Write(*self.address(name), value)))

    def post(self, vcoproc_id: int, name: str, value: int) -> int:
        return self.send(vcoproc_id, Post(*self.address(name), value))

    def program(self, vcoproc_id: int, *ops: Op) -> None:
        """Firmware that does this, from now on, and wakes up for it."""
        self.platform.contexts[vcoproc_id].program.extend(ops)
        self.executor.trap(self.vcoproc(vcoproc_id), "firmware", 0, Read(CTRL, 0, 4))
        self.collect()

    def hog(self, *vcoproc_ids: int) -> None:
        for vcoproc_id in vcoproc_ids:
            self.program(vcoproc_id, Forever())

    # --- the scheduler ----------------------------------------------------------------------------

    def grant(
        self,
        vcoproc_id: int,
        slice_ns: int = 1 * MS,
        *,
        now: bool = False,
        refusal_ns: int = SWITCH_DEADLINE_NS,
        not_before_ns: int = 0,
        until_ns: int = 0,
    ) -> int:
        """Gives its number."""
        self._grant_number += 1
        number = self._grant_number
        self.executor.grant(
            Grant(number, vcoproc_id, slice_ns, now, refusal_ns, not_before_ns, until_ns)
        )
        self.collect()
        return number

    def vacate(self, *, now: bool = False, refusal_ns: int = SWITCH_DEADLINE_NS) -> int:
        """Gives its number."""
        self._grant_number += 1
        self.executor.vacate(Vacate(self._grant_number, now, refusal_ns))
        self.collect()
        return self._grant_number

    def revoke(self, number: int) -> None:
        self.executor.revoke(number)
        self.collect()

    def said(self, kind: type[M]) -> list[M]:
        """Messages of a kind to the scheduler or the router, oldest first."""
        everything = [*self.to_scheduler, *self.to_router]
        return [message for message in everything if isinstance(message, kind)]

    def clear(self) -> None:
        """Forgets what was said."""
        self.to_scheduler.clear()
        self.to_router.clear()
        self.replies.clear()
        self.platform.calls.clear()

    # --- the loop ---------------------------------------------------------------------------------

    def step(self) -> bool:
        """One round of the shell's loop. False: nothing was due and nobody runs."""
        deadline_ns = self.executor.next_deadline_ns()
        due = deadline_ns is not None and self.clock.now_ns >= deadline_ns
        if due:
            self.executor.tick()
            self.collect()
        runs = self.executor.wants_cpu()
        if runs:
            self.executor.burst()
            self.collect()
        return due or runs

    def run(self, duration_ns: int) -> None:
        """Lets time pass; a burst that began before its end is done."""
        end_ns = self.clock.now_ns + duration_ns
        idle_rounds = 0
        while self.clock.now_ns < end_ns:
            before_ns = self.clock.now_ns
            if not self.step():
                deadline_ns = self.executor.next_deadline_ns()
                self.clock.now_ns = min(end_ns, deadline_ns if deadline_ns is not None else end_ns)
            idle_rounds = 0 if self.clock.now_ns > before_ns else idle_rounds + 1
            assert idle_rounds < 100, "it spins"

    def settle(self, rounds: int = 10_000) -> None:
        """Until nobody runs and nothing is due now; timers are not waited for."""
        for _ in range(rounds):
            if not self.step():
                return
        raise AssertionError("it never settles")

    def collect(self) -> None:
        self.executor.check_invariants()
        self.check_hardware()
        self.to_scheduler += self.outbox.to_scheduler
        self.to_router += self.outbox.to_router
        self.replies += self.outbox.replies
        self.faults += self.outbox.faults
        for effects in (
            self.outbox.to_scheduler,
            self.outbox.to_router,
            self.outbox.replies,
            self.outbox.faults,
        ):
            effects.clear()

    def check_hardware(self) -> None:
        """Stage 2 and the context on the hardware are those of the turn."""
        turn = self.executor.turn
        owner = turn.vcoproc.id if turn is not None else None
        assert self.platform.owner == owner
        assert self.platform.stage2 == owner
