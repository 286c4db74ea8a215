"""Rows of the store as records."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.engine import RowMapping

from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import (
    AuditRecord,
    DomainRecord,
    Ending,
    Hold,
    Life,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    Role,
    Then,
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
        state=DomainState(row["state"]),
        state_reason=row["state_reason"],
        create_time_ns=row["create_time_ns"],
        on_poweroff=Then(row["on_poweroff"]),
        on_crash=Then(row["on_crash"]),
        ending=_to_ending(row["ending"]),
    )


def _to_ending(text: str) -> Ending | None:
    if not text:
        return None
    fields = json.loads(text)
    fingerprint = bytes.fromhex(fields["fingerprint"])
    return Ending(Then(fields["then"]), fields["request_id"], fingerprint)


def ending_text(ending: Ending | None) -> str:
    """An ending as the store keeps it."""
    if ending is None:
        return ""
    return json.dumps(
        {
            "then": ending.then.value,
            "request_id": ending.request_id,
            "fingerprint": ending.fingerprint.hex(),
        }
    )


def to_hold(row: RowMapping) -> Hold:
    return Hold(row["coproc"], row["vcoproc_id"], tuple(json.loads(row["files"])))


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
        domain_state=DomainState(row["domain_state"]),
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


def to_audit(row: RowMapping) -> AuditRecord:
    return AuditRecord(
        number=row["number"],
        time_ns=row["time_ns"],
        caller=row["caller"],
        role=Role(row["role"]),
        method=row["method"],
        name=row["name"],
        request=row["request"],
        before=row["before"],
        after=row["after"],
        outcome=row["outcome"],
    )
