"""Rows of the store as records, and records as rows. Pure. How to add a column: `tables`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import LargeBinary, Table

from vcoproc.config import CoprocConfig, LineConfig, Origin, RangeConfig
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import (
    CoprocLife,
    CoprocRecord,
    DomainRecord,
    Ending,
    EventKind,
    EventRecord,
    FaultRecord,
    Hold,
    Life,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    Then,
    VcoprocLine,
    VcoprocRange,
    VcoprocRecord,
)
from vcoproc_toolstack.schedules import Setting
from vcoproc_toolstack.tables import (
    COPROCS,
    DOMAINS,
    EVENTS,
    HOLDS,
    META,
    PLATFORMS,
    SCHEDULES,
    VCOPROCS,
)

K = TypeVar("K")
R = TypeVar("R")

Row = Mapping[str, Any]
"""Values by name of column."""
Resource = DomainRecord | VcoprocRecord
_TEXTS_CACHED: Final = 4096
"""Most vcoprocs of a type have the same ranges and lines: they are told once, and share one tuple
in memory."""


# --- fields that are no plain value ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    """How a field becomes the value of its column, and back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _dataclasses(kind: type[Any]) -> Codec:
    """A tuple of dataclasses of plain fields, as JSON."""

    @lru_cache(_TEXTS_CACHED)
    def encode(values: tuple[Any, ...]) -> str:
        return json.dumps([asdict(value) for value in values])

    @lru_cache(_TEXTS_CACHED)
    def decode(text: str) -> tuple[Any, ...]:
        return tuple(kind(**value) for value in json.loads(text))

    return Codec(encode, decode)


def _encode_pairs(pairs: tuple[tuple[str, int], ...]) -> str:
    return json.dumps(pairs)


def _decode_pairs(text: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, value) for name, value in json.loads(text))


def _encode_fault(fault: FaultRecord | None) -> str | None:
    return None if fault is None else json.dumps(asdict(fault))


def _decode_fault(text: str | None) -> FaultRecord | None:
    return None if text is None else FaultRecord(**json.loads(text))


def _enum(kind: type[Enum]) -> Codec:
    return Codec(lambda member: member.value, kind)


def _encode_ending(ending: Ending | None) -> str:
    if ending is None:
        return ""
    return json.dumps(
        {
            "then": ending.then.value,
            "request_id": ending.request_id,
            "fingerprint": ending.fingerprint.hex(),
        }
    )


def _decode_ending(text: str) -> Ending | None:
    if not text:
        return None
    fields = json.loads(text)
    fingerprint = bytes.fromhex(fields["fingerprint"])
    return Ending(Then(fields["then"]), fields["request_id"], fingerprint)


_LIFE: Final = _enum(Life)
_CODECS: Final[Mapping[tuple[str, str], Codec]] = {
    ("domains", "life"): _LIFE,
    ("domains", "state"): _enum(DomainState),
    ("domains", "on_poweroff"): _enum(Then),
    ("domains", "on_crash"): _enum(Then),
    ("domains", "ending"): Codec(_encode_ending, _decode_ending),
    ("domains", "unknown_keys"): Codec(json.dumps, lambda text: tuple(json.loads(text))),
    ("vcoprocs", "life"): _LIFE,
    ("vcoprocs", "params"): Codec(_encode_pairs, _decode_pairs),
    ("vcoprocs", "ranges"): _dataclasses(VcoprocRange),
    ("vcoprocs", "lines"): _dataclasses(VcoprocLine),
    ("events", "kind"): _enum(EventKind),
    ("events", "fault"): Codec(_encode_fault, _decode_fault),
}
_PLAIN: Final = Codec(lambda value: value, lambda value: value)


def _columns(table: Table) -> tuple[tuple[str, Codec], ...]:
    return tuple((c.name, _CODECS.get((table.name, c.name), _PLAIN)) for c in table.columns)


_COLUMNS: Final = {table.name: _columns(table) for table in (DOMAINS, VCOPROCS, EVENTS)}


def to_row(table: Table, record: Any) -> dict[str, Any]:
    """All columns of a table from the fields of their names."""
    return {name: codec.encode(getattr(record, name)) for name, codec in _COLUMNS[table.name]}


def changed(table: Table, old: Any, new: Any) -> dict[str, Any]:
    """The same of those columns alone whose fields differ."""
    return {
        name: codec.encode(value)
        for name, codec in _COLUMNS[table.name]
        if (value := getattr(new, name)) != getattr(old, name)
    }


def _fields(table: Table, row: Row) -> dict[str, Any]:
    return {name: codec.decode(row[name]) for name, codec in _COLUMNS[table.name]}


def to_domain(row: Row, vcoprocs: list[VcoprocRecord]) -> DomainRecord:
    """vcoprocs: in any order."""
    by_name = sorted(vcoprocs, key=lambda vcoproc: vcoproc.name)
    return DomainRecord(**_fields(DOMAINS, row), vcoprocs=tuple(by_name))


def to_vcoproc(row: Row, domain: str, state: str) -> VcoprocRecord:
    """domain, state: name of its domain, and the value of that column."""
    domain_state = DomainState(state)
    return VcoprocRecord(**_fields(VCOPROCS, row), domain=domain, domain_state=domain_state)


# --- tables of records with a key each ------------------------------------------------------------


def key_columns(table: Table) -> tuple[str, ...]:
    """Names of the columns of the primary key."""
    return tuple(column.name for column in table.primary_key.columns)


@dataclass(frozen=True, slots=True)
class Keyed(Generic[K, R]):
    """A table whose rows are one record each, found by their primary key.

    to_values: every column but those of the key.
    """

    table: Table
    to_values: Callable[[R], dict[str, Any]]
    to_record: Callable[[Row], R]

    def key_of(self, row: Row) -> Any:
        """A value, or a tuple of several."""
        values = tuple(row[name] for name in key_columns(self.table))
        return values[0] if len(values) == 1 else values

    def key_values(self, key: Any) -> dict[str, Any]:
        """The same the other way round."""
        values = key if isinstance(key, tuple) else (key,)
        return dict(zip(key_columns(self.table), values, strict=True))


def _number_of(row: Row) -> int:
    return int(row["value"])


def _setting_values(setting: Setting) -> dict[str, Any]:
    return {
        "algorithm": setting.algorithm,
        "slice_ns": setting.slice_ns,
        "params": _encode_pairs(setting.parameters),
    }


def _to_setting(row: Row) -> Setting:
    return Setting(row["algorithm"], row["slice_ns"], _decode_pairs(row["params"]))


def _platform_values(platform: PlatformRecord) -> dict[str, Any]:
    description = asdict(platform)
    del description["compatible"]
    return {"description": json.dumps(description)}


def _to_platform(row: Row) -> PlatformRecord:
    description: dict[str, Any] = json.loads(row["description"])
    return PlatformRecord(
        compatible=row["compatible"],
        ranges=tuple(PlatformRange(**each) for each in description["ranges"]),
        lines=tuple(PlatformLine(**each) for each in description["lines"]),
        registers=tuple(PlatformRegister(**each) for each in description["registers"]),
        contexts_max=description["contexts_max"],
    )


def _hold_values(hold: Hold) -> dict[str, Any]:
    return {"files": json.dumps(hold.files)}


def _to_hold(row: Row) -> Hold:
    return Hold(row["coproc"], row["vcoproc_id"], tuple(json.loads(row["files"])))


def _coproc_values(record: CoprocRecord) -> dict[str, Any]:
    return {
        "config": None if record.config is None else json.dumps(asdict(record.config)),
        "draining": record.draining,
        "life": record.life.value,
        "incarnation": record.incarnation,
    }


def _to_coproc(row: Row) -> CoprocRecord:
    return CoprocRecord(
        name=row["name"],
        config=None if row["config"] is None else _to_config(json.loads(row["config"])),
        draining=row["draining"],
        life=CoprocLife(row["life"]),
        incarnation=row["incarnation"],
    )


def _to_config(fields: dict[str, Any]) -> CoprocConfig:
    """fields: as this version, or an older one, has written them."""
    return CoprocConfig(
        **{
            **fields,
            "aliases": tuple(fields["aliases"]),
            "ranges": tuple(RangeConfig(**each) for each in fields["ranges"]),
            "lines": tuple(LineConfig(**each) for each in fields["lines"]),
            "scheduler_params": _tuples(fields["scheduler_params"]),
            "platform_params": _tuples(fields["platform_params"]),
            "origins": tuple(Origin(*each) for each in fields.get("origins", ())),
        }
    )


def _tuples(found: list[list[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(each) for each in found)


NUMBERS: Final[Keyed[str, int]] = Keyed(META, lambda value: {"value": value}, _number_of)
SETTINGS: Final[Keyed[str, Setting]] = Keyed(SCHEDULES, _setting_values, _to_setting)
TYPES: Final[Keyed[str, PlatformRecord]] = Keyed(PLATFORMS, _platform_values, _to_platform)
SEATS_HELD: Final[Keyed[tuple[str, int], Hold]] = Keyed(HOLDS, _hold_values, _to_hold)
COPROCS_CHANGED: Final[Keyed[str, CoprocRecord]] = Keyed(COPROCS, _coproc_values, _to_coproc)
KEYED: Final[tuple[Keyed[Any, Any], ...]] = (
    NUMBERS,
    SETTINGS,
    TYPES,
    SEATS_HELD,
    COPROCS_CHANGED,
)
"""All of them."""


# --- events ---------------------------------------------------------------------------------------


def to_event(row: Row) -> EventRecord:
    """Without its resource, which is unpacked when somebody wants it."""
    return EventRecord(**_fields(EVENTS, {**row, "resource": None}))


def event_row(event: EventRecord) -> dict[str, Any]:
    packed = None if event.resource is None else pack_resource(event.resource)
    return to_row(EVENTS, event) | {"resource": packed}


def pack_resource(resource: Resource) -> bytes:
    """What an event keeps of a resource: everything but its secrets."""
    if isinstance(resource, DomainRecord):
        document = {
            "domain": _open_row(DOMAINS, resource),
            "vcoprocs": [_open_row(VCOPROCS, vcoproc) for vcoproc in resource.vcoprocs],
        }
    else:
        document = {
            "of": resource.domain,
            "state": resource.domain_state.value,
            "vcoproc": _open_row(VCOPROCS, resource),
        }
    return zlib.compress(json.dumps(document).encode(), 1)


def unpack_resource(packed: bytes) -> Resource | None:
    """None for one that an older version kept, with fewer columns."""
    document = json.loads(zlib.decompress(packed))
    try:
        if "domain" not in document:
            vcoproc = _closed_row(VCOPROCS, document["vcoproc"])
            return to_vcoproc(vcoproc, document["of"], document["state"])
        row = _closed_row(DOMAINS, document["domain"])
        vcoprocs = [_closed_row(VCOPROCS, each) for each in document["vcoprocs"]]
        return to_domain(row, [to_vcoproc(each, row["name"], row["state"]) for each in vcoprocs])
    except KeyError:
        return None


def _secrets(table: Table) -> dict[str, bytes]:
    """Every column of bytes is one."""
    return {c.name: b"" for c in table.columns if isinstance(c.type, LargeBinary)}


def _open_row(table: Table, record: Resource) -> dict[str, Any]:
    row = to_row(table, record)
    for name in _secrets(table):
        del row[name]
    return row


def _closed_row(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return row | _secrets(table)
