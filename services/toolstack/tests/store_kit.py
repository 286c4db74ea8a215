"""What tests of the store share."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    Life,
    VcoprocLine,
    VcoprocRange,
    VcoprocRecord,
)
from vcoproc_toolstack.store import Store


def make(target: Path | str) -> Store:
    """A store whose clock counts from 1."""
    clock = count(1)
    return Store(target, lambda: next(clock))


def domain(
    domid: int, name: str, *vcoprocs: VcoprocRecord, life: Life = Life.ALIVE
) -> DomainRecord:
    return DomainRecord(domid, name, life, 4096, b"secret", ("kernel",), vcoprocs)


def vcoproc(
    number: int, domid: int, domain: str, name: str = "v", coproc: str = "dsp0"
) -> VcoprocRecord:
    return VcoprocRecord(
        vcoproc_id=number,
        domid=domid,
        domain=domain,
        name=name,
        coproc=coproc,
        compatible="vcoproc,cortex-m4",
        life=Life.ALIVE,
        trap_credential=f"secret {number}".encode(),
        params=(("weight", 256),),
        ranges=(VcoprocRange("ctrl", 0x0A00_0000, 4096, False),),
        lines=(VcoprocLine(0, "irq", 64, True),),
    )


def at(revision: int, domain: DomainRecord) -> DomainRecord:
    """The same, changed last by this event, with all its vcoprocs."""
    vcoprocs = tuple(replace(vcoproc, revision=revision) for vcoproc in domain.vcoprocs)
    return replace(domain, revision=revision, vcoprocs=vcoprocs)


def add_events(store: Store, number: int) -> None:
    for _ in range(number):
        with store.change() as change:
            change.add_event("domains/a", EventKind.CHANGED, "something")


def domains(store: Store) -> list[DomainRecord]:
    with store.read() as view:
        return view.domains()


def on_disk(store: Store) -> dict[str, object]:
    """What a store gives that is not kept in memory."""
    with store.read() as view:
        return {
            "texts": [view.domain_text(each.domid) for each in view.domains()],
        }


def contents(store: Store) -> dict[str, object]:
    """Everything that is kept in memory, for comparison; events without their resources."""
    with store.read() as view:
        names = [each.name for each in view.domains()]
        coprocs = sorted(view.counts())
        return {
            "revision": view.revision(),
            "domains": view.domains(),
            "vcoprocs": view.vcoprocs(),
            "counts": view.counts(),
            "on": {coproc: view.vcoprocs_on(coproc) for coproc in coprocs},
            "settings": view.settings(),
            "fallbacks": {name: view.fallback_ns(name) for name in ("dsp0", "dsp1")},
            "platform": view.platform("vcoproc,cortex-m4"),
            "memory": view.memory_bytes(),
            "holds": view.holds(),
            "coprocs": sorted(view.coproc_records(), key=lambda record: record.name),
            "one by one": [view.domain(name) for name in names],
        }
