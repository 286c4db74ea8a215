"""The calls about callers and the audit log, and what the log says of a resource."""

from __future__ import annotations

import grpc

from vcoproc import limits
from vcoproc.api.v1 import audit_pb2
from vcoproc_toolstack import filter_fields, translate
from vcoproc_toolstack.access import Caller
from vcoproc_toolstack.audit import Guard, json_text, message_json
from vcoproc_toolstack.audit_log import AuditLog
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.lists import read_asked, read_position
from vcoproc_toolstack.records import AuditRecord, Role
from vcoproc_toolstack.schedule_changes import need_coproc
from vcoproc_toolstack.store import Store, View


class AuditGateway:
    """The part of ClusterService that is about callers."""

    def __init__(self, guard: Guard, audit_log: AuditLog) -> None:
        self._guard = guard
        self._audit_log = audit_log

    def GetCaller(
        self, _request: audit_pb2.GetCallerRequest, context: grpc.ServicerContext
    ) -> audit_pb2.Caller:
        return caller_message(self._guard.caller(context))

    def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, _context: grpc.ServicerContext
    ) -> audit_pb2.ListAuditEntriesResponse:
        asked = read_asked(request, "audit", filter_fields.AUDIT, 1)
        found = map(entry_message, self._audit_log.all_before(read_position(asked.after)))
        page, token = asked.page(found, lambda entry: (str(entry.number),))
        return audit_pb2.ListAuditEntriesResponse(entries=page, next_page_token=token)


def _role(role: Role) -> audit_pb2.Caller.Role.ValueType:
    return audit_pb2.Caller.Role.Value(f"ROLE_{role.name}")


def caller_message(caller: Caller) -> audit_pb2.Caller:
    return audit_pb2.Caller(name=caller.name, role=_role(caller.role))


def entry_message(entry: AuditRecord) -> audit_pb2.AuditEntry:
    return audit_pb2.AuditEntry(
        number=entry.number,
        time_ns=entry.time_ns,
        caller=entry.caller,
        role=_role(entry.role),
        method=entry.method,
        name=entry.name,
        request=entry.request,
        before=entry.before,
        after=entry.after,
        outcome=entry.outcome,
    )


def describe(store: Store, leases: Leases, name: str) -> str:
    """A resource as it is to be, as JSON; empty when there is none of that name."""
    words = name.split("/")
    with store.read() as view:
        match words:
            case ["domains", domain_name]:
                domain = view.domain(domain_name)
                return message_json(translate.domain_message(domain, {})) if domain else ""
            case ["domains", domain_name, "vcoprocs", vcoproc_name]:
                domain = view.domain(domain_name)
                for vcoproc in domain.vcoprocs if domain else ():
                    if vcoproc.name == vcoproc_name:
                        return message_json(translate.vcoproc_message(vcoproc, {}))
            case ["coprocs", coproc_name]:
                return _describe_coproc(view, leases, coproc_name)
    return ""


def _describe_coproc(view: View, leases: Leases, name: str) -> str:
    if name not in leases.coprocs:
        return ""
    coproc = need_coproc(view, leases, name)
    return json_text(
        {
            "name": f"coprocs/{name}",
            "path": coproc.path,
            "compatible": coproc.compatible,
            "scheduler": coproc.scheduler,
            "slice_us": coproc.slice_ns // limits.US,
            "parameters": dict(coproc.scheduler_params),
            "draining": leases.set.draining(name),
            "vcoprocs": {each.resource: dict(each.params) for each in view.vcoprocs_on(name)},
        }
    )
