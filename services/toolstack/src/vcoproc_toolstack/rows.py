"""Rows of the store as records, and records as rows. Pure. How to add a column: `tables`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import LargeBinary, Table

from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.records import (
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
    DOMAIN_FILES,
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


_LIFE: Final = Codec(lambda life: life.value, Life)
_THEN: Final = Codec(lambda then: then.value, Then)
_CODECS: Final[Mapping[tuple[str, str], Codec]] = {
    ("domains", "life"): _LIFE,
    ("domains", "state"): Codec(lambda state: state.value, DomainState),
    ("domains", "on_poweroff"): _THEN,
    ("domains", "on_crash"): _THEN,
    ("domains", "ending"): Codec(_encode_ending, _decode_ending),
    ("domains", "unknown_keys"): Codec(json.dumps, lambda text: tuple(json.loads(text))),
    ("vcoprocs", "life"): _LIFE,
    ("vcoprocs", "params"): Codec(_encode_pairs, _decode_pairs),
    ("vcoprocs", "ranges"): _dataclasses(VcoprocRange),
    ("vcoprocs", "lines"): _dataclasses(VcoprocLine),
    ("events", "kind"): Codec(lambda kind: kind.value, EventKind),
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
    domain = DomainRecord(**_fields(DOMAINS, row), vcoprocs=())
    by_name = sorted(vcoprocs, key=lambda vcoproc: vcoproc.name)
    return replace(
        domain, vcoprocs=tuple(replace(each, domain_state=domain.state) for each in by_name)
    )


def to_vcoproc(row: Row, domain: str) -> VcoprocRecord:
    """As of a RUNNING domain; `to_domain` knows better."""
    return VcoprocRecord(**_fields(VCOPROCS, row), domain=domain)


# --- tables of records with a key each ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keyed(Generic[K, R]):
    """A table whose rows are one record each, found by the table's first column."""

    table: Table
    to_values: Callable[[R], dict[str, Any]]
    """Every column but the key."""
    to_record: Callable[[Row], R]

    @property
    def key(self) -> str:
        return str(self.table.columns[0].name)


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


def hold_key(coproc: str, vcoproc_id: int) -> str:
    return f"{coproc}/{vcoproc_id}"


def _hold_values(hold: Hold) -> dict[str, Any]:
    return {"files": json.dumps(hold.files)}


def _to_hold(row: Row) -> Hold:
    coproc, _, number = row["hold"].rpartition("/")
    return Hold(coproc, int(number), tuple(json.loads(row["files"])))


NUMBERS: Final[Keyed[str, int]] = Keyed(META, lambda value: {"value": value}, _number_of)
SETTINGS: Final[Keyed[str, Setting]] = Keyed(SCHEDULES, _setting_values, _to_setting)
TYPES: Final[Keyed[str, PlatformRecord]] = Keyed(PLATFORMS, _platform_values, _to_platform)
FILES: Final[Keyed[int, str]] = Keyed(
    DOMAIN_FILES, lambda text: {"text": text}, lambda row: str(row["text"])
)
HOLD_RECORDS: Final[Keyed[str, Hold]] = Keyed(HOLDS, _hold_values, _to_hold)
KEYED: Final[tuple[Keyed[Any, Any], ...]] = (NUMBERS, SETTINGS, TYPES, FILES, HOLD_RECORDS)
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
            vcoproc = to_vcoproc(_closed_row(VCOPROCS, document["vcoproc"]), document["of"])
            return replace(vcoproc, domain_state=DomainState(document["state"]))
        row = _closed_row(DOMAINS, document["domain"])
        vcoprocs = [_closed_row(VCOPROCS, each) for each in document["vcoprocs"]]
        return to_domain(row, [to_vcoproc(each, row["name"]) for each in vcoprocs])
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
