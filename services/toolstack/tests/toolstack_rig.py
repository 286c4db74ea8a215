"""A toolstack in one process, with stand-ins for the other services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from toolstack_looking import FakeLooking
from toolstack_scheduling import FakeScheduling

from vcoproc.config import SystemConfig, parse_system
from vcoproc.errors import InvalidArgument, PeerLost, VcoprocError
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.changes import Changes, Request
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import (
    Accounting,
    CoprocAccount,
    CoprocView,
    DomainRecord,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    RouterView,
    VcoprocRecord,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.repair import Marks, Repairer
from vcoproc_toolstack.schedule_changes import ScheduleChanges
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.steps import (
    IRQ_ROUTER,
    SCHEDULER,
    STORE,
    AddDomain,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    MakeMemory,
    MapLines,
    RemoveDomain,
    RemoveMemory,
    RemoveVcoproc,
    SetCoproc,
    Step,
    UnmapLines,
    service_of,
)
from vcoproc_toolstack.store import Store

CORTEX_M4 = "vcoproc,cortex-m4"
PLATFORM = PlatformRecord(
    compatible=CORTEX_M4,
    ranges=(PlatformRange("ctrl", 0x1000, False), PlatformRange("mbox", 0x1000, True)),
    lines=(PlatformLine("irq", True), PlatformLine("event", False), PlatformLine("fault", True)),
    registers=(PlatformRegister("ctrl", "ID", 0, 4, "ro", "const", "who it is"),),
    contexts_max=4,
)
TREE = """/dts-v1/;
/ {
    #address-cells = <1>; #size-cells = <1>;
    aliases { codec = &dsp1; video = &dsp1; };
    chosen { shared { compatible = "vcoproc,shared-coprocs";
        dsp0 { coproc = <&dsp0>; max-vcoprocs = <3>; scheduler-params { weight = <7>; }; };
        dsp1 { coproc = <&dsp1>; slice-us = <2000>; };
        ncore { coproc = <&ncore>; instances = <3>; };
    }; };
    soc { #address-cells = <1>; #size-cells = <1>; ranges;
        dsp0: dsp@f0000000 { NODE reg = <0xf0000000 0x1000>, <0xf0001000 0x1000>; };
        dsp1: dsp@f1000000 { NODE reg = <0xf1000000 0x1000>, <0xf1001000 0x1000>; };
        ncore: core@f2000000 { NODE reg = <0xf2000000 0x1000>, <0xf2001000 0x1000>; };
    };
};
""".replace(
    "NODE",
    f'compatible = "{CORTEX_M4}"; xen,coproc; reg-names = "ctrl", "mbox";'
    ' interrupts = <64>, <65>, <66>; interrupt-names = "irq", "event", "fault";',
)
TWO_VCOPROCS = """name = "fir"
memory = 1
vcoproc = [ "coproc=dsp0,name=audio,weight=512", "coproc=dsp1,name=video" ]
"""
NO_REQUEST = Request("", b"")
ZEROES = Accounting(0, 0, 0, 0, 0, 0, 0, 0)


def one_vcoproc(name: str, coproc: str = "dsp0") -> str:
    return f'name = "{name}"\nmemory = 1\nvcoproc = ["coproc={coproc},name=v"]\n'


class Killed(BaseException):
    """The toolstack dies here: nothing of it may catch this."""


@dataclass
class FakeServices:
    """Stand-ins that behave as the control plane says: what is repeated does nothing and succeeds.

    before, after: are called with each step, before and after it takes effect, and may raise.
    down: services that do not answer.
    """

    memory: MemoryDir
    leases: Leases
    before: Callable[[Step], None] = lambda _step: None
    after: Callable[[Step], None] = lambda _step: None
    down: set[str] = field(default_factory=set)
    performed: list[Step] = field(default_factory=list)
    scheduled: dict[str, dict[int, tuple[tuple[str, int], ...]]] = field(default_factory=dict)
    domids: dict[int, bytes] = field(default_factory=dict)
    lines: dict[int, int] = field(default_factory=dict)
    attached: dict[str, dict[int, AttachVcoproc]] = field(default_factory=dict)
    states: dict[int, VcoprocState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scheduling = FakeScheduling(self.scheduled, self._answers)
        self.looking = FakeLooking(self)

    def forget_schedules(self) -> None:
        """The scheduler dies and another one takes its place."""
        self.scheduled.clear()
        self.scheduling.settings.clear()
        self.scheduling.failed.clear()

    def perform(self, step: Step) -> None:
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
            case MakeMemory():
                self.memory.make(step)
            case RemoveMemory():
                self.memory.remove(step)
            case AddDomain(domain=domain):
                assert self.domids.setdefault(domain.domid, domain.irq_credential) == (
                    domain.irq_credential
                )
            case RemoveDomain(domid=domid):
                self.domids.pop(domid, None)
            case SetCoproc():
                self.scheduling.set_coproc(step)
            case MapLines(vcoproc=vcoproc):
                assert vcoproc.domid in self.domids
                self.lines[vcoproc.vcoproc_id] = vcoproc.domid
            case UnmapLines(vcoproc_id=vcoproc_id):
                self.lines.pop(vcoproc_id, None)
            case AddVcoproc(vcoproc=vcoproc):
                self.scheduling.add(vcoproc.coproc, vcoproc.vcoproc_id, vcoproc.params)
            case RemoveVcoproc(coproc=coproc_name, vcoproc_id=vcoproc_id):
                self.scheduled.get(coproc_name, {}).pop(vcoproc_id, None)
            case AttachVcoproc(vcoproc=vcoproc):
                self.leases.need(vcoproc.coproc)
                self.attached.setdefault(vcoproc.coproc, {})[vcoproc.vcoproc_id] = step
            case DetachVcoproc(coproc=coproc_name, vcoproc_id=vcoproc_id):
                self.leases.need(coproc_name)
                self.attached.get(coproc_name, {}).pop(vcoproc_id, None)

    def accounts(self, timeout_ns: int) -> tuple[CoprocAccount, ...]:
        self._answers(SCHEDULER)
        return tuple(
            CoprocAccount(
                coproc,
                0,
                5,
                tuple((number, VcoprocStatus(self._state(number), ZEROES)) for number in vcoprocs),
                "rr",
            )
            for coproc, vcoprocs in self.scheduled.items()
        )

    def router(self) -> RouterView:
        self._answers(IRQ_ROUTER)
        return RouterView(frozenset(self.domids), frozenset(self.lines))

    def coproc(self, name: str, timeout_ns: int) -> CoprocView:
        self.leases.need(name)
        self._answers(f"coproc/{name}")
        held = self.attached.get(name, {})
        return CoprocView(0, 0, tuple((number, self._state(number)) for number in held))

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


NOTHING: Mapping[str, object] = {
    "scheduler": {},
    "domids": set(),
    "lines": {},
    "attached": {},
    "files": [],
}


class Rig:
    """All parts of a toolstack but servers and threads."""

    def __init__(self, path: Path, target: Path | str = "", *, lease: bool = True) -> None:
        """target: of the store; a file in `path` by default."""
        self.path = path
        self.target = target or path / "store.db"
        self.log = Log("toolstack")
        self.system: SystemConfig = parse_system(TREE, "tree.dts")
        self.memory_dir = path / "memory"
        self.memory_dir.mkdir(exist_ok=True)
        self.memory = MemoryDir(self.memory_dir)
        self.clock = count(1_000_000_000)
        self.secrets = count(1)
        self.leases = Leases(self.system)
        self.services = FakeServices(self.memory, self.leases)
        self.open()
        if lease:
            for _ in range(5):
                self.lease()

    def open(self) -> None:
        """Makes the parts that die with the process."""
        self.marks = Marks()
        self.store = Store(
            self.target, lambda: next(self.clock), failed=lambda: self.marks.mark(STORE)
        )
        self.changes = Changes(
            self.store,
            self.leases,
            self.services,
            self.memory,
            self.log,
            mark=self.marks.mark,
            secret=lambda: next(self.secrets).to_bytes(32, "big"),
            lease_wait_ns=0,
        )
        self.marked: list[str] = []
        self.schedule_changes = ScheduleChanges(
            self.changes,
            self.store,
            self.leases,
            (self.services, self.services.scheduling),
            mark=self.marked.append,
        )
        self.schedules = ScheduleQueries(self.store, self.leases, self.services.scheduling)
        self.repairer = Repairer(self.store, self.leases, self.services, self.changes, self.log)
        self.queries = Queries(
            self.store,
            self.leases,
            self.services,
            self.memory,
            trap_endpoint=lambda coproc: f"ipc://somewhere/{coproc}",
            irq_endpoint="ipc://irq",
        )

    def restart(self) -> None:
        """The process dies and another one takes its place; the other services live on."""
        self.store.close()
        self.services.before = lambda _step: None
        self.services.after = lambda _step: None
        self.open()
        self.repairer.start(self.memory)

    def lease(self, wanted: str = "") -> str:
        """Leases a coproc for a coproc-sim that can be anything; gives its name."""
        offer = Offer(
            wanted, "unix:/{coproc}.grpc", "ipc:///{coproc}.sock", "rig", {CORTEX_M4: PLATFORM}
        )
        taken = self.leases.take(offer)
        with self.store.change() as change:
            change.put_platform(taken.platform)
        return taken.coproc.name

    def unlease(self, name: str) -> None:
        """The coproc-sim dies, with all that it holds."""
        self.leases.release(self.leases.need(name))
        self.services.attached.pop(name, None)

    def create(self, text: str = TWO_VCOPROCS, request: Request = NO_REQUEST) -> bytes:
        return self.changes.create_domain(text, "test.cfg", request, seal_domain)

    def domains(self) -> list[DomainRecord]:
        with self.store.read() as view:
            return view.domains()

    def events(self, after: int = 1) -> list[tuple[str, str]]:
        """(name, kind) of all events after a revision."""
        with self.store.read() as view:
            return [(event.name, event.kind.value) for event in view.events(after)]

    def repair_all(self) -> None:
        """What the repair thread would do, until it has nothing left that answers."""
        names = [SCHEDULER, IRQ_ROUTER, *(f"coproc/{name}" for name in self.leases.online())]
        for name in names:
            assert self.repairer.repair(name)

    def close(self) -> None:
        self.store.close()


def seal_domain(domain: DomainRecord) -> bytes:
    return f"{domain.name} {domain.domid}".encode()


def seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    return f"{vcoproc.resource} {vcoproc.vcoproc_id}".encode()


def refuse_at(place: int, error: VcoprocError) -> Callable[[Step], None]:
    """A hook that raises at step number `place`, once."""
    steps = count()

    def hook(_step: Step) -> None:
        if next(steps) == place:
            raise error

    return hook


def kill_at(place: int) -> Callable[[Step], None]:
    """A hook that ends the process at step number `place`."""
    steps = count()

    def hook(_step: Step) -> None:
        if next(steps) == place:
            raise Killed

    return hook


REFUSED = InvalidArgument("weight", "no such parameter")
