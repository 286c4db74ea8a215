"""Everything that a toolstack and the other services hold, by names instead of numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolstack_rig import Rig

from vcoproc_toolstack.records import CoprocRecord, DomainRecord, VcoprocRecord

WRITTEN = b"what a domain wrote"
"""At the beginning of memory that is not new."""


def write_memory(rig: Rig) -> None:
    """Every domain that has memory writes to it, and to its mapped ranges."""
    for domain in rig.domains():
        for name in domain.files() if domain.placed else ():
            with rig.memory.path_of(name).open("r+b") as file:
                file.write(WRITTEN)


def run_firmware(rig: Rig, label: str = "worked") -> None:
    """Every context becomes one that is not new."""
    for seats in rig.services.attached.values():
        for seat in seats.values():
            seat.label = label
            rig.services.latest[seat.step.vcoproc.vcoproc_id, label] = seat.run_count


def picture(rig: Rig) -> dict[str, Any]:
    """What everybody holds. Two pictures are equal when nobody could tell them apart."""
    domains = rig.domains()
    vcoprocs = {v.vcoproc_id: v.resource for domain in domains for v in domain.vcoprocs}
    names = {domain.domid: domain.resource for domain in domains}
    roles = {name: role for domain in domains for name, role in _roles(domain)}
    services = rig.services
    with rig.store.read() as view:
        holds = view.holds()
        records = view.coproc_records()

    def name_of(number: int) -> str:
        return vcoprocs.get(number, f"stray {number}")

    return {
        "system": [_record(record) for record in records],
        "leased": sorted(rig.leases.online()),
        "domains": {domain.name: _domain(domain) for domain in domains},
        "holds": [(hold.coproc, name_of(hold.vcoproc_id)) for hold in holds],
        "scheduler": {
            coproc: {name_of(number): params for number, params in of.items()}
            for coproc, of in services.scheduled.items()
            if of
        },
        "used": {
            f"{coproc} {name_of(number)}": used.run_ns
            for (coproc, number), used in services.used.items()
        },
        "router": {
            names.get(domid, f"stray {domid}"): domid in services.paused_domids
            for domid in services.domids
        },
        "lines": {
            name_of(number): (names.get(domid), services.coproc_of_lines[number])
            for number, domid in services.lines.items()
        },
        "coprocs": {
            f"{coproc} {name_of(number)}": (
                seat.step.vcoproc.resource,
                seat.label,
                seat.paused,
                seat.frozen,
            )
            for coproc, seats in services.attached.items()
            for number, seat in seats.items()
        },
        "memory": {
            roles.get(path.name, f"stray {path.name}"): _contents(path.read_bytes())
            for path in rig.memory_dir.iterdir()
        },
    }


def _record(record: CoprocRecord) -> CoprocRecord:
    """Without its incarnation, which is another one after an attempt that was cut off."""
    return replace(record, incarnation=bool(record.incarnation))


def _domain(domain: DomainRecord) -> dict[str, Any]:
    return {
        "state": domain.state.value,
        "life": domain.life.value,
        "size": domain.memory_bytes,
        "ending": domain.ending,
        "vcoprocs": {v.name: _vcoproc(v) for v in domain.vcoprocs},
    }


def _vcoproc(vcoproc: VcoprocRecord) -> tuple[object, ...]:
    return (vcoproc.coproc, vcoproc.life.value, vcoproc.params, vcoproc.ranges, vcoproc.lines)


def _roles(domain: DomainRecord) -> list[tuple[str, str]]:
    """What each memory file of a domain is."""
    return [
        (domain.memory_file, f"of {domain.name}"),
        *(
            (name, f"{place.name} of {v.resource}")
            for v in domain.vcoprocs
            for place, name in v.mapped_files()
        ),
    ]


def _contents(data: bytes) -> tuple[int, bytes]:
    return len(data), data.rstrip(b"\0")
