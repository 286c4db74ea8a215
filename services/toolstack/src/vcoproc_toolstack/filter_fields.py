"""What each list and watch can be filtered by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from vcoproc import limits
from vcoproc.api.v1 import audit_pb2, cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.filters import FLAG, Field, Name, Number, Text, Value, Word
from vcoproc_toolstack.records import EventRecord

_NUMBER_MAX: Final = 2**32 - 1
_TYPES: Final = ("domain", "vcoproc", "coproc", "schedule", "service")


def resource_type(name: str) -> str:
    """What kind of thing a resource name names; empty for a name that no event has."""
    match name.split("/"):
        case ["domains", _]:
            return "domain"
        case ["domains", _, "vcoprocs", _]:
            return "vcoproc"
        case ["coprocs", _]:
            return "coproc"
        case ["coprocs", _, "schedule"]:
            return "schedule"
        case ["services", _]:
            return "service"
        case _:
            return ""


def _word(enum: Any, value: int) -> str:
    """The name of an enumeration's value without what all of them begin with."""
    return str(enum.Name(value)).partition("_")[2]


def _words(enum: Any, *, unknown: bool = False) -> Word:
    """unknown: whether a resource can have the value that stands for none."""
    words = tuple(_word(enum, value) for value in enum.values() if value or unknown)
    return Word(words, enum.Name(0).partition("_")[0] + "_")


def _state(enum: Any, *, unknown: bool = False) -> Field[Any]:
    return Field(_words(enum, unknown=unknown), lambda message: (_word(enum, message.state),))


def _flag(name: str) -> Field[Any]:
    return Field(FLAG, lambda message: ("true" if getattr(message, name) else "false",))


def _same(name: str, kind: Name | Text | Number) -> Field[Any]:
    """A field that the message has under the same name."""
    return Field(kind, lambda message: (getattr(message, name),))


def _before(word: str) -> Field[Any]:
    """The beginning of the message's name up to this word: the resource that it belongs to."""
    return Field(Name(), lambda message: (message.name.partition(f"/{word}/")[0],))


def _coprocs(domain: api.Domain) -> Iterable[Value]:
    return (vcoproc.coproc for vcoproc in domain.vcoprocs)


DOMAINS: Final[Mapping[str, Field[api.Domain]]] = {
    "state": _state(api.Domain.State),
    "name": _same("name", Name()),
    "domid": _same("domid", Number(limits.DOMID_MAX)),
    "coproc": Field(Name(), _coprocs),
}
COPROCS: Final[Mapping[str, Field[api.Coproc]]] = {
    "state": _state(api.Coproc.State),
    "name": _same("name", Name()),
    "compatible": _same("compatible", Text()),
    "scheduler": _same("scheduler", Text()),
    "draining": _flag("draining"),
}
VCOPROCS: Final[Mapping[str, Field[api.Vcoproc]]] = {
    "state": _state(api.Vcoproc.State, unknown=True),
    "name": _same("name", Name()),
    "domain": _before("vcoprocs"),
    "coproc": _same("coproc", Name()),
    "compatible": _same("compatible", Text()),
}
EVENTS: Final[Mapping[str, Field[EventRecord]]] = {
    "name": _same("name", Name()),
    "kind": Field(_words(api.Event.Kind), lambda event: (event.kind.value,)),
    "type": Field(Word(_TYPES), lambda event: (resource_type(event.name),)),
}
LINES: Final[Mapping[str, Field[cluster_pb2.Line]]] = {
    "domain": _before("vcoprocs"),
    "vcoproc": _before("lines"),
    "coproc": _same("coproc", Name()),
    "line": _same("name", Name()),
    "irq": _same("irq", Number(limits.GUEST_IRQ_MAX)),
    "pending": _flag("pending"),
    "active": _flag("active"),
    "enabled": _flag("enabled"),
}
FAULTS: Final[Mapping[str, Field[cluster_pb2.Fault]]] = {
    "name": _same("name", Name()),
    "code": _same("code", Number(_NUMBER_MAX)),
    "current": _flag("current"),
}
AUDIT: Final[Mapping[str, Field[audit_pb2.AuditEntry]]] = {
    "caller": _same("caller", Text()),
    "method": _same("method", Text()),
    "name": _same("name", Name()),
    "outcome": _same("outcome", Text()),
}
