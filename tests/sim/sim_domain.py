"""Domains on virtual time: a driver for each vcoproc, as a small state machine.

A driver starts its vcoproc, submits jobs, takes interrupts, and resets what has faulted or what it
has lost sight of. It writes down what it did and saw, for the checkers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from vcoproc.limits import US
from vcoproc.testing.network import SimLink
from vcoproc.wire.messages import (
    Batch,
    Eoi,
    Inject,
    Message,
    Post,
    Read,
    Reply,
    TrapError,
    Write,
)
from vcoproc_sim.platforms.api import PlatformInfo
from vcoproc_sim.testing.fake_platform import EVENT_LINE, FAULT_LINE, IRQ_LINE, Then, job

if TYPE_CHECKING:
    from sim_world import World

Access: TypeAlias = tuple[bool, int, int, int, int]
IRQ_BASE = 64
LINES = 3
GONE = ("NOT_FOUND", "PLATFORM_FAILURE")
"""Errors after which a driver gives up."""


def irq_of(vcoproc_id: int, line: int) -> int:
    """Numbers that no two vcoprocs of the world share: whose an interrupt is can be seen."""
    return IRQ_BASE + vcoproc_id * LINES + line


class Stage(enum.Enum):
    OFF = "off"
    STARTING = "starting"
    READY = "ready"


@dataclass
class Work:
    """What a driver does. jobs: how many; None: for ever. ahead: how many at once."""

    jobs: int | None = 10
    length: tuple[int, int] = (10, 2000)
    thens: tuple[Then, ...] = (Then.NOTHING,)
    think_ns: tuple[int, int] = (10 * US, 500 * US)
    ahead: int = 1


@dataclass
class Ring:
    """A doorbell. known: the driver knows that it was taken. void: a reset came after it."""

    value: int
    known: bool = False
    void: bool = False


@dataclass
class Records:
    """answers: requests of the present session that wait for theirs."""

    rings: list[Ring] = field(default_factory=list)
    completed: int = 0
    interrupts: int = 0
    events: int = 0
    faults: int = 0
    errors: list[str] = field(default_factory=list)
    restarts: int = 0


def _fenced(ring: Ring, _answer: Message) -> None:
    ring.known = True


class Driver:
    """The driver of one vcoproc on the fake platform."""

    def __init__(self, domain: DomainNode, vcoproc_id: int, info: PlatformInfo, work: Work) -> None:
        self.domain = domain
        self.world = domain.world
        self.vcoproc_id = vcoproc_id
        self.work = work
        self.records = Records()
        self.stage = Stage.OFF
        self.link: SimLink | None = None
        self.submitted = 0
        self.done_at_start = 0
        self.addresses = {
            register.name: (place, register.offset, register.width_bytes)
            for place, rng in enumerate(info.ranges)
            for register in rng.registers
        }
        self._sent = 0
        self._waiting: list[tuple[int, Message, Callable[[Message], None]]] = []
        self._life = 0
        self._handling: set[int] = set()
        """Lines whose interrupt it has taken and not yet said EOI."""

    # --- its connection ---------------------------------------------------------------------------

    def up(self) -> None:
        self._sent = 0
        self._waiting.clear()
        self.start()

    def crash(self) -> None:
        """Its next life knows nothing of this one; the router knows that."""
        self._handling.clear()

    def down(self) -> None:
        self._waiting.clear()
        self.stage = Stage.OFF
        self._life += 1

    def _send(self, message: Message, then: Callable[[Message], None]) -> None:
        """then: called with the answer; with an error only, if the message is posted."""
        if self.link is None or not self.link.up:
            return
        self._sent += 1
        self._waiting.append((self._sent, message, then))
        self.world.note("driver", self.vcoproc_id, message)
        self.link.to_server(message)

    def message(self, message: Message) -> None:
        assert isinstance(message, Reply | TrapError), message
        # Answers come in the order of the requests; a posted write before them has succeeded.
        while self._waiting:
            seq, request, then = self._waiting.pop(0)
            if seq == message.request:
                assert not (isinstance(request, Post) and isinstance(message, Reply))
                then(message)
                return
            assert isinstance(request, Post), f"no answer to {request}, but to a later one"
            assert seq < message.request, "an answer to what was answered already"
        raise AssertionError(f"an answer to nothing: {message}")

    # --- what it does -----------------------------------------------------------------------------

    def start(self) -> None:
        """Resets the vcoproc and begins anew: whatever was under way is lost."""
        self.stage = Stage.STARTING
        self._life += 1
        life = self._life
        self.records.restarts += 1
        for ring in self.records.rings:
            ring.void = True
        accesses = [*self.start_accesses(), self.done_access()]
        self._send(Batch(tuple(accesses)), lambda answer: self._started(life, answer))

    def start_accesses(self) -> list[Access]:
        return [
            (True, *self.addresses["CONTROL"], 0),
            (True, *self.addresses["FAULT_STATUS"], 0xFF),
            (True, *self.addresses["IRQ_STATUS"], 0xFF),
            (True, *self.addresses["IRQ_ENABLE"], 1),
            (True, *self.addresses["CONTROL"], 1),
        ]

    def done_access(self) -> Access:
        """Reads how many jobs are done."""
        return (False, *self.addresses["DONE"], 0)

    def doorbell(self) -> int:
        random = self.world.random
        length = random.randint(*self.work.length)
        then = random.choice(self.work.thens)
        return job(length, then, tag=len(self.records.rings) % 4096)

    def _started(self, life: int, answer: Message) -> None:
        if life != self._life:
            return
        # Also of what was being handled when the connection was lost: the causes are gone now.
        for line in sorted(self._handling):
            self._end_of_interrupt(line)
        if isinstance(answer, TrapError):
            self.records.errors.append(answer.error)
            self.stage = Stage.OFF
            return
        assert isinstance(answer, Reply)
        self.stage = Stage.READY
        self.submitted = self.done_at_start = answer.values[0]
        self._next_job(life)

    def _next_job(self, life: int) -> None:
        if self.work.jobs is not None and self.records.completed >= self.work.jobs:
            return
        delay_ns = self.world.between(self.work.think_ns)
        self.world.clock.call_after(delay_ns, lambda: self._submit(life))

    def _submit(self, life: int) -> None:
        if life != self._life or self.stage is not Stage.READY:
            return
        outstanding = self.submitted - self.done_at_start
        for _ in range(self.work.ahead - outstanding):
            ring = Ring(self.doorbell())
            self.records.rings.append(ring)
            self.submitted += 1
            kind = self.world.random.choice((Post, Write))
            message = kind(*self.addresses["DOORBELL"], ring.value)
            self._send(message, partial(self._rung, life, ring))
            if kind is Post:
                # A fence behind it, so that it is known that it was taken.
                self._send(Batch(()), partial(_fenced, ring))

    def _rung(self, life: int, ring: Ring, answer: Message) -> None:
        if isinstance(answer, TrapError):
            self.records.errors.append(answer.error)
            ring.void = True
            if answer.error in GONE:
                self.stage = Stage.OFF
            elif life == self._life:
                self.start()
        else:
            ring.known = True

    def interrupt(self, line: int) -> None:
        self.records.interrupts += 1
        self._handling.add(line)
        if line == EVENT_LINE:
            self.records.events += 1
            self._end_of_interrupt(line)
        elif line == FAULT_LINE:
            self.records.faults += 1
            self.start()
        else:
            assert line == IRQ_LINE
            life = self._life
            accesses = ((True, *self.addresses["IRQ_STATUS"], 1), self.done_access())
            self._send(Batch(accesses), lambda answer: self._looked(life, answer))

    def _end_of_interrupt(self, line: int) -> None:
        if line in self._handling:
            self._handling.discard(line)
            self.domain.eoi(self.vcoproc_id, line)

    def _looked(self, life: int, answer: Message) -> None:
        self._end_of_interrupt(IRQ_LINE)
        if isinstance(answer, TrapError) or life != self._life or self.stage is not Stage.READY:
            return
        assert isinstance(answer, Reply)
        done = answer.values[0]
        new = done - self.done_at_start
        if new:
            self.records.completed += new
            self.done_at_start = done
            self._next_job(life)

    def look_at_cycles(self) -> None:
        """A held access, as a monitoring tool would make."""
        if self.stage is Stage.READY:
            self._send(Read(*self.addresses["CYCLES"]), lambda _answer: None)


class DomainNode:
    """One domain: its interrupts and its drivers."""

    def __init__(self, world: World, domid: int) -> None:
        self.world = world
        self.domid = domid
        self.epoch = 1
        self.drivers: dict[int, Driver] = {}
        self.irq: SimLink | None = None
        self.wrong_interrupts = 0

    def message(self, message: Message) -> None:
        assert isinstance(message, Inject)
        number = message.irq - IRQ_BASE
        driver = self.drivers.get(number // LINES)
        if driver is None:
            # Of a vcoproc that was destroyed meanwhile, or of somebody else.
            if number // LINES not in self.world.destroyed_of.get(self.domid, set()):
                self.wrong_interrupts += 1
            return
        driver.interrupt(number % LINES)

    def eoi(self, vcoproc_id: int, line: int) -> None:
        if self.irq is not None and self.irq.up and vcoproc_id in self.drivers:
            self.world.note("domain", self.domid, "EOI", vcoproc_id, line)
            self.irq.to_server(Eoi(irq_of(vcoproc_id, line)))
