"""Rows of the store as records."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import RowMapping

from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    EventRecord,
    FaultRecord,
    Life,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    VcoprocLine,
    VcoprocRange,
    VcoprocRecord,
)
from vcoproc_toolstack.schedules import Setting


def to_domain(row: RowMapping, vcoprocs: list[VcoprocRecord]) -> DomainRecord:
    return DomainRecord(
        domid=row["domid"],
        name=row["name"],
        life=Life(row["life"]),
        memory_bytes=row["memory_bytes"],
        irq_credential=row["irq_credential"],
        unknown_keys=tuple(json.loads(row["unknown_keys"])),
        vcoprocs=tuple(vcoprocs),
        revision=row["revision"],
    )


def to_vcoproc(row: RowMapping) -> VcoprocRecord:
    return VcoprocRecord(
        vcoproc_id=row["vcoproc_id"],
        domid=row["domid"],
        domain=row["domain"],
        name=row["name"],
        coproc=row["coproc"],
        compatible=row["compatible"],
        life=Life(row["life"]),
        trap_credential=row["trap_credential"],
        params=tuple((name, value) for name, value in json.loads(row["params"])),
        ranges=tuple(VcoprocRange(**place) for place in json.loads(row["ranges"])),
        lines=tuple(VcoprocLine(**line) for line in json.loads(row["lines"])),
        revision=row["revision"],
    )


def to_event(row: RowMapping) -> EventRecord:
    fault = None
    if row["fault_code"] is not None:
        address = int(row["fault_address"], 16)
        fault = FaultRecord(row["fault_vcoproc_id"], row["fault_code"], address)
    return EventRecord(
        revision=row["revision"],
        name=row["name"],
        kind=EventKind(row["kind"]),
        description=row["description"],
        time_ns=row["time_ns"],
        fault=fault,
    )


def to_setting(row: RowMapping) -> Setting:
    params = tuple((name, value) for name, value in json.loads(row["params"]))
    return Setting(row["algorithm"], row["slice_ns"], params)


def to_platform(compatible: str, text: str) -> PlatformRecord:
    description: dict[str, Any] = json.loads(text)
    return PlatformRecord(
        compatible=compatible,
        ranges=tuple(PlatformRange(**each) for each in description["ranges"]),
        lines=tuple(PlatformLine(**each) for each in description["lines"]),
        registers=tuple(PlatformRegister(**each) for each in description["registers"]),
        contexts_max=description["contexts_max"],
    )
