"""Stand-ins for the other services, and what dies with a toolstack."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from toolstack_looking import FakeLooking
from toolstack_scheduling import FakeScheduling

from vcoproc.errors import NotFound, PeerLost, WrongState
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.records import (
    Accounting,
    CoprocAccount,
    CoprocView,
    LineNow,
    RouterView,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    SCHEDULER,
    AddDomain,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    MapLines,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    RemoveCoproc,
    RemoveDomain,
    RemoveMemory,
    RemoveVcoproc,
    ResumeDomain,
    ResumeVcoproc,
    SaveContext,
    SchedulerStep,
    SetCoproc,
    Step,
    TakeMemory,
    UnmapLines,
    context_file,
    service_of,
)
from vcoproc_toolstack.store import Change, Store

CONTEXT_BYTES_MAX = 10_000
RESET = "reset"
"""What a context is that nobody has used."""


class Killed(BaseException):
    """The toolstack dies here: nothing of it may catch this."""


@dataclass
class Grave:
    """Whether a toolstack has died: then nothing of it has any effect, not even a `finally`.

    file: is called at each use of a memory file, and may raise.
    commit: is called with "before" and "after" at each change of the store, and may raise.
    """

    dead: bool = False
    file: Callable[[], None] = lambda: None
    commit: Callable[[str], None] = lambda _when: None

    def check(self) -> None:
        if self.dead:
            raise Killed


class MortalMemory(MemoryDir):
    def __init__(self, path: Path, grave: Grave) -> None:
        super().__init__(path)
        self._grave = grave

    @contextmanager
    def _told(self) -> Iterator[None]:
        self._grave.check()
        self._grave.file()
        with super()._told():
            yield


class MortalStore(Store):
    grave = Grave()

    @contextmanager
    def change(self) -> Iterator[Change]:
        self.grave.check()
        with super().change() as change:
            yield change
            self.grave.check()
            self.grave.commit("before")
        self.grave.commit("after")


@dataclass
class Seat:
    """A vcoproc in a coproc-sim. label, run_count: its context, and how often it was let run.

    files: those that it has mapped, open, by name. frozen: it is to move, and its driver waits.
    """

    step: AttachVcoproc
    files: dict[str, IO[bytes]]
    label: str = RESET
    run_count: int = 0
    paused: bool = False
    frozen: bool = False

    def context(self, *, moving: bool = False) -> bytes:
        """All that it has; with what its mapped ranges hold, unless their files go along."""
        files = [] if moving else self._mapped()
        mapped = [file.read() for file in files if file.seek(0) == 0]
        return b"\n".join([f"{self.label} {self.run_count}".encode(), *mapped])

    def load(self, context: bytes) -> None:
        head, *mapped = context.split(b"\n", len(self.files) - 1)
        label, run_count = head.decode().split()
        self.label, self.run_count = label, int(run_count)
        for file, content in zip(self._mapped(), mapped, strict=False):
            file.seek(0)
            file.write(content)
            file.flush()

    def _mapped(self) -> list[IO[bytes]]:
        return [file for name, file in self.files.items() if name != self.step.memory_file]

    def close(self) -> None:
        for file in self.files.values():
            file.close()


@dataclass
class FakeServices:
    """Stand-ins that behave as the control plane says: what is repeated does nothing and succeeds.

    before, after: are called with each step, before and after it takes effect, and may raise.
    down: services that do not answer.
    """

    leases: Leases
    before: Callable[[Step], None] = lambda _step: None
    after: Callable[[Step], None] = lambda _step: None
    down: set[str] = field(default_factory=set)
    performed: list[Step] = field(default_factory=list)
    scheduled: dict[str, dict[int, tuple[tuple[str, int], ...]]] = field(default_factory=dict)
    used: dict[tuple[str, int], Accounting] = field(default_factory=dict)
    domids: dict[int, bytes] = field(default_factory=dict)
    paused_domids: set[int] = field(default_factory=set)
    lines: dict[int, int] = field(default_factory=dict)
    coproc_of_lines: dict[int, str] = field(default_factory=dict)
    lines_now: dict[int, tuple[LineNow, ...]] = field(default_factory=dict)
    attached: dict[str, dict[int, Seat]] = field(default_factory=dict)
    told_moved: list[tuple[str, int]] = field(default_factory=list)
    states: dict[int, VcoprocState] = field(default_factory=dict)
    latest: dict[tuple[int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduling = FakeScheduling(self.scheduled, self._answers)
        self.looking = FakeLooking(self)

    def belong_to(self, memory: MemoryDir, leases: Leases, grave: Grave) -> None:
        """Another toolstack steers them from now on."""
        self.memory = memory
        self.leases = leases
        self.grave = grave

    def forget_schedules(self) -> None:
        """The scheduler dies and another one takes its place."""
        self.scheduled.clear()
        self.scheduling.settings.clear()
        self.scheduling.failed.clear()

    def forget_lines(self) -> None:
        """The irq-router dies and another one takes its place."""
        for kept in (self.domids, self.lines, self.coproc_of_lines, self.lines_now):
            kept.clear()
        self.paused_domids.clear()

    def forget_coproc(self, name: str) -> None:
        """A coproc-sim dies, with all its contexts."""
        for seat in self.attached.pop(name, {}).values():
            seat.close()

    def perform(self, step: Step) -> None:
        self.grave.check()
        self._answers(service_of(step))
        self.before(step)
        self.performed.append(step)
        self._do(step)
        self.after(step)

    def _answers(self, service: str) -> None:
        if service in self.down:
            raise PeerLost(service)

    def _do(self, step: Step) -> None:
        match step:
            case MakeMemory() | TakeMemory() | RemoveMemory() | ForgetContext():
                self._do_memory(step)
            case SetCoproc() | RemoveCoproc() | AddVcoproc() | RemoveVcoproc():
                self._do_scheduler(step)
            case AttachVcoproc():
                self._attach(step)
            case DetachVcoproc():
                self.leases.need(step.coproc)
                seat = self.attached.get(step.coproc, {}).pop(step.vcoproc_id, None)
                if seat is not None:
                    seat.close()
                    self.told_moved += [(step.coproc, step.vcoproc_id)] if step.moved else []
            case PauseVcoproc() | ResumeVcoproc() | SaveContext() | LoadContext():
                self._do_seat(step)
            case _:
                self._do_router(step)

    def _do_memory(self, step: MakeMemory | TakeMemory | RemoveMemory | ForgetContext) -> None:
        match step:
            case MakeMemory():
                self.memory.make(step)
            case TakeMemory():
                self.memory.take(step)
            case RemoveMemory(file_name=file_name):
                self.memory.remove(file_name)
            case ForgetContext(vcoproc_id=vcoproc_id):
                self.memory.remove(context_file(vcoproc_id))

    def _do_scheduler(self, step: SchedulerStep) -> None:
        match step:
            case SetCoproc():
                self.scheduling.set_coproc(step)
            case RemoveCoproc(coproc=coproc):
                for number in self.scheduled.pop(coproc, {}):
                    self.used.pop((coproc, number), None)
                self.scheduling.settings.pop(coproc, None)
            case AddVcoproc(vcoproc=vcoproc):
                if vcoproc.vcoproc_id not in self.scheduled.get(vcoproc.coproc, {}):
                    place = vcoproc.coproc, vcoproc.vcoproc_id
                    before = self.used.get((step.used_on, vcoproc.vcoproc_id))
                    self.used[place] = before or Accounting(0, 0, 0, 0, 0, 0, 0, 0)
                self.scheduling.add(vcoproc.coproc, vcoproc.vcoproc_id, vcoproc.params)
            case RemoveVcoproc(coproc=coproc, vcoproc_id=vcoproc_id):
                self.scheduled.get(coproc, {}).pop(vcoproc_id, None)
                self.used.pop((coproc, vcoproc_id), None)

    def _do_router(self, step: Any) -> None:
        match step:
            case AddDomain(domain=domain):
                known = self.domids.setdefault(domain.domid, domain.irq_credential)
                assert known == domain.irq_credential
            case RemoveDomain(domid=domid):
                self.domids.pop(domid, None)
                self.paused_domids.discard(domid)
                for number in [n for n, owner in self.lines.items() if owner == domid]:
                    self._unmap(number)
            case PauseDomain(domid=domid):
                self._need_domid(domid)
                self.paused_domids.add(domid)
            case ResumeDomain(domid=domid):
                self._need_domid(domid)
                self.paused_domids.discard(domid)
            case MapLines(vcoproc=vcoproc):
                self._need_domid(vcoproc.domid)
                number = vcoproc.vcoproc_id
                if number not in self.lines:
                    self.lines[number] = vcoproc.domid
                    self.coproc_of_lines[number] = vcoproc.coproc
                    self.lines_now[number] = step.now
                assert self.coproc_of_lines[number] == vcoproc.coproc, "it would be refused"
            case UnmapLines(vcoproc_id=vcoproc_id):
                self._unmap(vcoproc_id)
            case MoveLines(vcoproc_id=vcoproc_id, coproc=coproc):
                if vcoproc_id not in self.lines:
                    raise NotFound("vcoproc", str(vcoproc_id))
                self.coproc_of_lines[vcoproc_id] = coproc

    def _unmap(self, number: int) -> None:
        for kept in (self.lines, self.coproc_of_lines, self.lines_now):
            kept.pop(number, None)  # type: ignore[attr-defined]

    def _need_domid(self, domid: int) -> None:
        if domid not in self.domids:
            raise NotFound("domain", str(domid))

    # --- coproc-sims ------------------------------------------------------------------------------

    def _attach(self, step: AttachVcoproc) -> None:
        number, coproc = step.vcoproc.vcoproc_id, step.vcoproc.coproc
        self.leases.need(coproc)
        seats = self.attached.setdefault(coproc, {})
        if number in seats:
            seats[number].step = step  # only its name may be another one
            return
        files: dict[str, IO[bytes]] = {
            name: self.memory.path_of(name).open("r+b") for name in step.files
        }
        seats[number] = Seat(step, files, paused=step.paused)
        self.latest.pop((number, RESET), None)
        if not step.paused:
            self._let_run(number, seats[number])

    def _let_run(self, number: int, seat: Seat) -> None:
        assert not self.memory.path_of(context_file(number)).exists(), "it could come back later"
        seat.run_count += 1
        self.latest[number, seat.label] = seat.run_count

    def _do_seat(self, step: PauseVcoproc | ResumeVcoproc | SaveContext | LoadContext) -> None:
        self.leases.need(step.coproc)
        seat = self.attached.get(step.coproc, {}).get(step.vcoproc_id)
        if seat is None:
            raise NotFound("vcoproc", str(step.vcoproc_id))
        match step:
            case PauseVcoproc():
                seat.paused, seat.frozen = True, False
            case ResumeVcoproc():
                seat.frozen = False
                if seat.paused:
                    seat.paused = False
                    self._let_run(step.vcoproc_id, seat)
            case SaveContext(file_name=file_name):
                if not seat.paused:
                    raise WrongState("vcoproc", "not paused", "a paused one")
                context = seat.context(moving=step.moving)
                self.memory.write(file_name, [context], CONTEXT_BYTES_MAX)
                seat.frozen = step.moving
            case LoadContext(file_name=file_name):
                if not seat.paused:
                    raise WrongState("vcoproc", "not paused", "a paused one")
                seat.load(b"".join(self.memory.read(file_name)))
                latest = self.latest.get((step.vcoproc_id, seat.label), 0)
                asked_for = file_name != context_file(step.vcoproc_id)
                assert asked_for or seat.run_count >= latest, "it has gone on since"

    def accounts(self, timeout_ns: int) -> tuple[CoprocAccount, ...]:
        self._answers(SCHEDULER)
        return tuple(
            CoprocAccount(
                coproc,
                0,
                5,
                tuple(
                    (number, VcoprocStatus(self._state(number), self.used[coproc, number]))
                    for number in vcoprocs
                ),
            )
            for coproc, vcoprocs in self.scheduled.items()
        )

    def router(self) -> RouterView:
        self._answers(IRQ_ROUTER)
        return RouterView(
            frozenset(self.domids),
            dict(self.coproc_of_lines),
            frozenset(self.paused_domids),
            dict(self.lines_now),
        )

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        self.leases.need(name)
        self._answers(f"coproc/{name}")
        held = self.attached.get(name, {})
        return CoprocView(
            0,
            0,
            tuple((number, self._state(number)) for number in held),
            frozenset(number for number, seat in held.items() if seat.paused),
            {number: seat.step.vcoproc.resource for number, seat in held.items()},
        )

    def _state(self, number: int) -> VcoprocState:
        return self.states.get(number, VcoprocState.SLEEPING)

    def held(self) -> dict[str, object]:
        """Everything that any service holds of domains."""
        return {
            "scheduler": {name: ids for name, ids in self.scheduled.items() if ids},
            "domids": set(self.domids),
            "lines": dict(self.lines),
            "attached": {name: set(held) for name, held in self.attached.items() if held},
            "files": sorted(path.name for path in self.memory.path_of("").iterdir()),
        }

    def check_reach(self) -> None:
        """What coproc-sims have mapped is there still, and is no other file of that name."""
        for seats in self.attached.values():
            for seat in seats.values():
                for name, file in seat.files.items():
                    path = self.memory.path_of(name)
                    assert path.exists(), f"{name} was removed under {seat.step.vcoproc.resource}"
                    status = os.fstat(file.fileno())
                    assert os.path.samestat(status, path.stat()), f"{name} is another file now"

    def close(self) -> None:
        for name in list(self.attached):
            self.forget_coproc(name)
