"""A toolstack in one process, with stand-ins for the other services."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path

from toolstack_fakes import FakeServices, Grave, Killed, MortalMemory, MortalStore

from vcoproc.config import SystemConfig, parse_domain, parse_system
from vcoproc.config.records import FIRST_DOMAIN
from vcoproc.errors import InvalidArgument, NotFound, VcoprocError, WrongState
from vcoproc.runtime.logs import Log
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.coproc_changes import CoprocChanges
from vcoproc_toolstack.coproc_removal import Removals
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.endings import Endings
from vcoproc_toolstack.first_domain import FirstDomain
from vcoproc_toolstack.gateway_domains import Verbs
from vcoproc_toolstack.leases import Leases, Offer
from vcoproc_toolstack.lifecycle import Lifecycle
from vcoproc_toolstack.moves import Moves
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import (
    CoprocAccount,
    DomainRecord,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    VcoprocRecord,
)
from vcoproc_toolstack.repair import Marks, Repairer
from vcoproc_toolstack.restoring import Restoring
from vcoproc_toolstack.saving import Saving
from vcoproc_toolstack.schedule_changes import ScheduleChanges
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.steps import IRQ_ROUTER, SCHEDULER, STORE, Step, coproc_service
from vcoproc_toolstack.turns import Request

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


def one_vcoproc(name: str, coproc: str = "dsp0") -> str:
    return f'name = "{name}"\nmemory = 1\nvcoproc = ["coproc={coproc},name=v"]\n'


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
        self.clock = count(1_000_000_000)
        self.secrets = count(1)
        self.leases = Leases(self.system)
        self.simulated: dict[str, int] = {}
        """Coprocs that have, or had, a coproc-sim; and which incarnation of each."""
        self.seal_domain: Callable[[DomainRecord], bytes] = seal_domain
        self.services = FakeServices(self.leases)
        self.open()
        if lease:
            for _ in range(5):
                self.lease()

    def open(self) -> None:
        """Makes the parts that die with the process."""
        self.grave = Grave()
        self.memory = MortalMemory(self.memory_dir, self.grave)
        self.services.belong_to(self.memory, self.leases, self.grave)
        self.marks = Marks()
        self.store = MortalStore(
            self.target, lambda: next(self.clock), failed=lambda: self.marks.mark(STORE)
        )
        self.store.grave = self.grave
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
            mark=self._note_mark,
        )
        self.schedules = ScheduleQueries(self.store, self.leases, self.services.scheduling)
        self.endings = Endings(self.changes, lambda domain: self.seal_domain(domain))
        self.lifecycle = Lifecycle(
            self.changes, self.endings, lambda domain: self.seal_domain(domain)
        )
        self.moves = Moves(self.changes)
        self.saving = Saving(self.changes, self.endings)
        self.restoring = Restoring(self.changes)
        self.removals = Removals(self.changes, patience_ns=0)
        self.coproc_changes = CoprocChanges(
            self.changes, self.moves, self.removals, self.services.scheduling
        )
        self.verbs = Verbs(
            self.changes,
            self.lifecycle,
            self.moves,
            self.saving,
            self.restoring,
            self.coproc_changes,
            self.removals,
        )
        self.first_domain = FirstDomain(self.changes)
        self.repairer = Repairer(self.changes, self.endings, self.removals, self.first_domain)
        self.queries = Queries(
            self.store,
            self.leases,
            self.services,
            self.memory,
            trap_endpoint=lambda coproc: f"ipc://somewhere/{coproc}",
            irq_endpoint="ipc://irq",
        )

    def _note_mark(self, service: str) -> None:
        self.marked.append(service)
        self.marks.mark(service)

    def restart(self) -> None:
        """The process dies and another one takes its place; the other services live on."""
        self.reborn()
        self.settle()

    def reborn(self) -> list[str]:
        """The same before anything is repaired; gives the coprocs that have been leased again."""
        self.grave.dead = True
        self.store.close()
        self.services.before = lambda _step: None
        self.services.after = lambda _step: None
        leased = self.leases.online()
        self.leases = Leases(self.system)
        self.open()
        self.repairer.start()
        for name in leased:
            self.lease_again(name, self.simulated[name])
        self.marks.mark(SCHEDULER)
        self.marks.mark(IRQ_ROUTER)
        return leased

    def settle(self) -> None:
        """Repairs until nothing is marked any more; whatever fails is tried again."""
        for _ in range(50):
            due = self.due()
            if not due:
                return
            for service in due:
                if not self.repairer.repair(service):
                    self.marks.mark(service)
        raise AssertionError(f"{due} cannot be repaired")

    def due(self) -> list[str]:
        """What is marked, without waiting for more."""
        return self.marks.wait() if self.marks._due_ns else []

    def lease(self, wanted: str = "", incarnation: int | None = None) -> str:
        """Leases a coproc for a coproc-sim that can be anything; gives its name."""
        offer = Offer(
            wanted,
            "unix:/{coproc}.grpc",
            "ipc:///{coproc}.sock",
            "rig",
            {CORTEX_M4: PLATFORM},
            incarnation,
        )
        taken = self.leases.take(offer, lambda: self.services.forget_coproc(taken.coproc.name))
        self.simulated[taken.coproc.name] = taken.incarnation
        with self.store.read() as view:
            known = view.platform(CORTEX_M4)
        if known is None:
            with self.store.change() as change:
                change.put_platform(taken.platform)
        return taken.coproc.name

    def lease_again(self, name: str, incarnation: int | None = None) -> None:
        """A coproc-sim comes back, or a new one is started; when it is refused, it ends."""
        try:
            self.lease(name, incarnation)
        except (NotFound, WrongState):
            self.services.forget_coproc(name)
            return
        self.marks.mark(coproc_service(name))

    def unlease(self, name: str) -> None:
        """The coproc-sim dies, with all that it holds."""
        self.leases.release(self.leases.need(name))
        self.services.forget_coproc(name)

    def ask_for_first_domain(self, *specs: str) -> None:
        """The tree asks for a first domain with these vcoprocs; without any, for none."""
        text = f'name = "{FIRST_DOMAIN}"\nmemory = 1\nvcoproc = {json.dumps(specs)}\n'
        first = parse_domain(text, "tree.dts") if specs else None
        self.system = replace(self.system, first_domain=first)
        self.leases.apply(CoprocSet.of(self.system, self.leases.set.records.values()))

    def create(self, text: str = TWO_VCOPROCS, request: Request = NO_REQUEST) -> bytes:
        return self.changes.create_domain(text, "test.cfg", request, seal_domain)

    def domains(self) -> list[DomainRecord]:
        with self.store.read() as view:
            return view.domains()

    def events(self, after: int = 1) -> list[tuple[str, str]]:
        """(name, kind) of all events after a revision."""
        with self.store.read() as view:
            return [(event.name, event.kind.value) for event in view.events(after)]

    def repair_in_rounds(self, rounds: int = 3) -> None:
        """Has a thread repair what is marked, until others were repaired so often after it."""
        looked = threading.Semaphore(0)
        accounts = self.services.accounts

        def look(timeout_ns: int) -> tuple[CoprocAccount, ...]:
            looked.release()
            return accounts(timeout_ns)

        self.services.accounts = look
        thread = threading.Thread(target=self.repairer.run, args=(self.marks,))
        thread.start()
        for _ in range(rounds):
            self.marks.mark(SCHEDULER)  # the last one in the order of names
            assert looked.acquire(timeout=20) and looked.acquire(timeout=20), (
                "outside and in a turn"
            )
        self.marks.stop()
        thread.join(20)
        assert not thread.is_alive()

    def repair_all(self) -> None:
        """Looks at every service that answers."""
        names = [SCHEDULER, IRQ_ROUTER, *map(coproc_service, self.leases.online())]
        for name in names:
            assert self.repairer.repair(name)

    def close(self) -> None:
        self.store.close()
        self.services.close()


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
