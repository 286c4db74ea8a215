"""Events as messages, each with what it changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack import translate
from vcoproc_toolstack.desired import read_desired
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.queries import Statuses, coproc_statuses
from vcoproc_toolstack.records import (
    DomainRecord,
    EventKind,
    EventRecord,
    VcoprocRecord,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.store import View


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and the message that tells of it."""

    event: EventRecord
    message: api.Event


def tell(view: View, leases: Leases, events: Iterable[EventRecord]) -> list[Told]:
    """Messages of events, for any number of watchers."""
    told = []
    for event in events:
        message = translate.event_message(event)
        if event.kind is not EventKind.DESTROYED:
            _put_resource(message, view, leases, event)
        told.append(Told(event, message))
    return told


def _put_resource(message: api.Event, view: View, leases: Leases, event: EventRecord) -> None:
    """Says what was changed, as it was after the event. A coproc: as it is to be now."""
    match event.resource:
        case DomainRecord() as domain:
            message.domain.CopyFrom(translate.domain_message(domain, {}))
        case VcoprocRecord() as vcoproc:
            statuses = _statuses(event, vcoproc.vcoproc_id)
            message.vcoproc.CopyFrom(translate.vcoproc_message(vcoproc, statuses))
        case None:
            kind, _, name = event.name.removesuffix("/schedule").partition("/")
            if kind == "coprocs" and name in leases.coprocs:
                desired = read_desired(view, leases, also=name)
                [status] = coproc_statuses(desired, [desired.coproc(name)], ())
                message.coproc.CopyFrom(translate.coproc_message(status))


def _statuses(event: EventRecord, vcoproc_id: int) -> Statuses:
    """What an event itself says of how a vcoproc is; nobody is asked."""
    if event.kind is EventKind.FAULTED:
        return {vcoproc_id: VcoprocStatus(VcoprocState.FAULTED)}
    return {}
