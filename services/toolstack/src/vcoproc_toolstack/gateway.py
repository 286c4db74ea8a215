"""The public API over gRPC. Translates and checks; everything else is done by others."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.errors import PeerLost
from vcoproc_toolstack import filter_fields, translate
from vcoproc_toolstack import translate_schedule as schedule
from vcoproc_toolstack.event_hub import EventHub
from vcoproc_toolstack.gateway_configuration import ConfigurationCalls
from vcoproc_toolstack.gateway_coprocs import CoprocCalls
from vcoproc_toolstack.gateway_domains import DomainCalls, Verbs
from vcoproc_toolstack.gateway_events import EventCalls
from vcoproc_toolstack.gateway_snapshots import SnapshotCalls
from vcoproc_toolstack.lists import read_asked
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import VcoprocRecord
from vcoproc_toolstack.schedule_changes import ScheduleChanges, Scheduled
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.streams import OpenStreams

THREADS = (
    limits.WATCHERS_MAX
    + limits.CHANGES_WAITING_MAX
    + limits.SHUTDOWNS_MAX
    + limits.SNAPSHOTS_MAX
    + 16
)
"""A watcher, a change, a shutdown and a snapshot hold one each; the rest is for reads, which never
wait for those."""


class Gateway(
    DomainCalls,
    SnapshotCalls,
    CoprocCalls,
    ConfigurationCalls,
    EventCalls,
    rpc.ToolstackServiceServicer,
):
    """Implements ToolstackService."""

    def __init__(
        self,
        verbs: Verbs,
        queries: Queries,
        schedule_changes: ScheduleChanges,
        schedules: ScheduleQueries,
        events: tuple[EventHub, OpenStreams],
    ) -> None:
        DomainCalls.__init__(self, verbs)
        SnapshotCalls.__init__(self, verbs)
        CoprocCalls.__init__(self, verbs.coprocs, verbs.removals, queries)
        self._queries = queries
        self._schedule_changes = schedule_changes
        self._schedules = schedules
        self._hub, self._streams = events

    def GetDomain(
        self, request: api.GetDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = translate.parse_name("name", request.name, "domains")
        return translate.domain_message(*self._queries.domain(name))

    def ListDomains(
        self, request: api.ListDomainsRequest, _context: grpc.ServicerContext
    ) -> api.ListDomainsResponse:
        asked = read_asked(request, "domains", filter_fields.DOMAINS, 1)
        (after,) = asked.after or ("",)
        domains, statuses, revision = self._queries.domains(after, asked.limit)
        page, token = asked.page(translate.domain_message(each, statuses) for each in domains)
        return api.ListDomainsResponse(domains=page, next_page_token=token, revision=revision)

    def OpenDomain(
        self, request: api.OpenDomainRequest, _context: grpc.ServicerContext
    ) -> api.DomainAccess:
        [name] = translate.parse_name("name", request.name, "domains")
        return translate.access_message(self._queries.open(name))

    def GetCoproc(
        self, request: api.GetCoprocRequest, _context: grpc.ServicerContext
    ) -> api.Coproc:
        [name] = translate.parse_name("name", request.name, "coprocs")
        return translate.coproc_message(self._queries.coproc(name))

    def ListCoprocs(
        self, request: api.ListCoprocsRequest, _context: grpc.ServicerContext
    ) -> api.ListCoprocsResponse:
        asked = read_asked(request, "coprocs", filter_fields.COPROCS, 1)
        (after,) = asked.after or ("",)
        coprocs, revision = self._queries.coprocs(after, show_unused=request.show_unused)
        page, token = asked.page(map(translate.coproc_message, coprocs))
        return api.ListCoprocsResponse(coprocs=page, next_page_token=token, revision=revision)

    def GetVcoproc(
        self, request: api.GetVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.Vcoproc:
        domain, name = translate.parse_name("name", request.name, "domains", "vcoprocs")
        return translate.vcoproc_message(*self._queries.vcoproc(domain, name))

    def ListVcoprocs(
        self, request: api.ListVcoprocsRequest, _context: grpc.ServicerContext
    ) -> api.ListVcoprocsResponse:
        domain = ""
        if request.domain:
            [domain] = translate.parse_name("domain", request.domain, "domains")
        # The list is part of the kind: a token of one domain's list is none of another's.
        asked = read_asked(request, f"vcoprocs of {domain}", filter_fields.VCOPROCS, 2)
        after_domain, after_name = asked.after or ("", "")
        vcoprocs, statuses, revision = self._queries.vcoprocs(
            domain, (after_domain, after_name), asked.limit
        )
        page, token = asked.page(translate.vcoproc_message(each, statuses) for each in vcoprocs)
        return api.ListVcoprocsResponse(vcoprocs=page, next_page_token=token, revision=revision)

    def ListAlgorithms(
        self, _request: api.ListAlgorithmsRequest, _context: grpc.ServicerContext
    ) -> api.ListAlgorithmsResponse:
        return api.ListAlgorithmsResponse(
            algorithms=[schedule.algorithm_message(a) for a in self._schedules.algorithms()]
        )

    def GetSchedule(
        self, request: api.GetScheduleRequest, _context: grpc.ServicerContext
    ) -> api.Schedule:
        [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        return schedule.schedule_message(self._schedules.schedule(name))

    def SetSchedule(
        self, request: api.SetScheduleRequest, _context: grpc.ServicerContext
    ) -> api.SetScheduleResponse:
        [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        answer = self._schedule_changes.set_schedule(
            name, schedule.read_wish(request), translate.read_request(request), _seal_schedule
        )
        return api.SetScheduleResponse.FromString(answer)

    def SetVcoprocParameters(
        self, request: api.SetVcoprocParametersRequest, _context: grpc.ServicerContext
    ) -> api.Vcoproc:
        domain, name = translate.parse_name("name", request.name, "domains", "vcoprocs")
        parameters = schedule.read_parameters("parameters", request.parameters)
        asked = translate.read_request(request)
        accounts = self._queries.accounts() or ()  # before the store waits for the answer

        def seal(vcoproc: VcoprocRecord) -> bytes:
            statuses = self._queries.statuses([vcoproc], accounts)
            return translate.vcoproc_message(vcoproc, statuses).SerializeToString()

        answer = self._schedule_changes.set_parameters(domain, name, parameters, asked, seal)
        return api.Vcoproc.FromString(answer)

    def WatchDecisions(
        self, request: api.WatchDecisionsRequest, context: grpc.ServicerContext
    ) -> Iterator[api.Decision]:
        [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        name_of = self._schedules.names()
        if not request.follow:
            for decision in self._schedules.decisions(name, request.after_number):
                yield schedule.decision_message(decision, 0, name_of)
            return
        stream = self._schedules.follow(name, request.after_number)
        try:
            self._streams.open(stream, context)
            for decision, missed_count in stream:
                yield schedule.decision_message(decision, missed_count, name_of)
        except PeerLost:
            if context.is_active() and not self._streams.stopping():
                raise
        finally:
            stream.cancel()

    def AnalyseSchedule(
        self, request: api.AnalyseScheduleRequest, _context: grpc.ServicerContext
    ) -> api.ScheduleAnalysis:
        [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        analysis = self._schedules.analyse(name, schedule.read_assumptions(request))
        return schedule.analysis_message(name, analysis, self._schedules.names())


def _seal_schedule(scheduled: Scheduled, lost: tuple[str, ...]) -> bytes:
    message = schedule.schedule_message(scheduled)
    return api.SetScheduleResponse(schedule=message, lost_parameters=lost).SerializeToString()
