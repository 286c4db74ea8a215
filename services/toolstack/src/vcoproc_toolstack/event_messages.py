"""Events as messages, each with what it changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack import translate
from vcoproc_toolstack.desired import read_desired
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.queries import Statuses, coproc_statuses, shown_status
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


def tell(view: View, leases: Leases, events: Sequence[EventRecord]) -> list[Told]:
    """Messages of events, for any number of watchers.

    Domains and vcoprocs are as they were after the event, coprocs as they are to be now.
    """
    coprocs = _coprocs(view, leases, events)
    told = []
    for event in events:
        message = translate.event_message(event)
        match event.resource:
            case DomainRecord() as domain:
                statuses = _statuses(event, domain.vcoprocs)
                message.domain.CopyFrom(translate.domain_message(domain, statuses))
            case VcoprocRecord() as vcoproc:
                statuses = _statuses(event, [vcoproc])
                message.vcoproc.CopyFrom(translate.vcoproc_message(vcoproc, statuses))
            case None:
                if coproc := coprocs.get(_coproc(event)):
                    message.coproc.CopyFrom(coproc)
        told.append(Told(event, message))
    return told


def _coproc(event: EventRecord) -> str:
    """The coproc that an event is about, or its schedule; empty for another event, or its last."""
    kind, _, name = event.name.removesuffix("/schedule").partition("/")
    return name if kind == "coprocs" and event.kind is not EventKind.DESTROYED else ""


def _coprocs(view: View, leases: Leases, events: Sequence[EventRecord]) -> dict[str, api.Coproc]:
    """The coprocs that events are about, as far as they are still there."""
    names = {name for event in events if (name := _coproc(event)) in leases.coprocs}
    if not names:
        return {}
    desired = read_desired(view, leases, also=names)
    wanted = [coproc for coproc in desired.coprocs if coproc.name in names]
    return {
        status.config.name: translate.coproc_message(status)
        for status in coproc_statuses(desired, wanted, ())
    }


def _statuses(event: EventRecord, vcoprocs: Iterable[VcoprocRecord]) -> Statuses:
    """What an event itself says of how vcoprocs are; nobody is asked."""
    faulted = event.kind is EventKind.FAULTED
    status = VcoprocStatus(VcoprocState.FAULTED if faulted else VcoprocState.UNKNOWN)
    return {vcoproc.vcoproc_id: shown_status(vcoproc, status) for vcoproc in vcoprocs}
