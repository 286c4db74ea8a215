"""The public API over gRPC. Translates and checks; everything else is done by others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.errors import InvalidArgument, InvalidConfig, LimitExceeded, PeerLost
from vcoproc_toolstack import translate
from vcoproc_toolstack import translate_schedule as schedule
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.gateway_configuration import ConfigurationCalls
from vcoproc_toolstack.ports import Stream
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord, VcoprocState, VcoprocStatus
from vcoproc_toolstack.schedule_changes import ScheduleChanges, Scheduled
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.schedules import Decision

THREADS = limits.WATCHERS_MAX + limits.CHANGES_WAITING_MAX + 16
"""A watcher and a change hold one each; the rest is for reads, which never wait for those."""


class Gateway(ConfigurationCalls, rpc.ToolstackServiceServicer):
    """Implements ToolstackService."""

    def __init__(
        self,
        changes: Changes,
        queries: Queries,
        schedule_changes: ScheduleChanges,
        schedules: ScheduleQueries,
    ) -> None:
        self._changes = changes
        self._queries = queries
        self._schedule_changes = schedule_changes
        self._schedules = schedules
        self._streams: set[Stream[tuple[Decision, int]]] = set()
        self._streams_lock = threading.Lock()
        self._watchers = threading.BoundedSemaphore(limits.WATCHERS_MAX)
        self._stopping = False

    def stop(self) -> None:
        """Ends the open streams."""
        with self._streams_lock:
            self._stopping = True
            streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        self._queries.wake()

    def CreateDomain(
        self, request: api.CreateDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        config = translate.check_text(
            "config", request.config, limits.CONFIG_BYTES_MAX, empty=False
        )
        file_name = translate.check_text("file_name", request.file_name, limits.FILE_NAME_BYTES_MAX)
        try:
            answer = self._changes.create_domain(
                config, file_name or "config", translate.read_request(request), _seal_domain
            )
        except InvalidConfig as error:
            raise translate.shorten_problems(error) from error
        return api.Domain.FromString(answer)

    def DestroyDomain(
        self, request: api.DestroyDomainRequest, _context: grpc.ServicerContext
    ) -> api.DestroyDomainResponse:
        [name] = translate.parse_name("name", request.name, "domains")
        self._changes.destroy_domain(name, translate.read_request(request))
        return api.DestroyDomainResponse()

    def GetDomain(
        self, request: api.GetDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = translate.parse_name("name", request.name, "domains")
        return translate.domain_message(*self._queries.domain(name))

    def ListDomains(
        self, request: api.ListDomainsRequest, _context: grpc.ServicerContext
    ) -> api.ListDomainsResponse:
        size = translate.read_page_size(request.page_size)
        last = translate.read_page_token(request.page_token, "domains", 1)
        # One more than asked for says whether another page follows.
        domains, statuses, revision = self._queries.domains(last[0] if last else "", size + 1)
        page = domains[:size]
        more = len(domains) > size
        return api.ListDomainsResponse(
            domains=[translate.domain_message(domain, statuses) for domain in page],
            next_page_token=translate.page_token("domains", page[-1].name) if more else "",
            revision=revision,
        )

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
        size = translate.read_page_size(request.page_size)
        last = translate.read_page_token(request.page_token, "coprocs", 1)
        if last and not self._queries.knows_coproc(last[0]):
            raise InvalidArgument("page_token", "names a coproc that is no longer in the tree")
        coprocs, revision = self._queries.coprocs(last[0] if last else "", size + 1)
        page = coprocs[:size]
        more = len(coprocs) > size
        return api.ListCoprocsResponse(
            coprocs=[translate.coproc_message(coproc) for coproc in page],
            next_page_token=translate.page_token("coprocs", page[-1].config.name) if more else "",
            revision=revision,
        )

    def CreateVcoproc(
        self, request: api.CreateVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.Vcoproc:
        [domain] = translate.parse_name("domain", request.domain, "domains")
        try:
            answer = self._changes.create_vcoproc(
                domain, request.spec, translate.read_request(request), _seal_vcoproc
            )
        except InvalidConfig as error:
            raise translate.shorten_problems(error) from error
        return api.Vcoproc.FromString(answer)

    def DestroyVcoproc(
        self, request: api.DestroyVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.DestroyVcoprocResponse:
        domain, name = translate.parse_name("name", request.name, "domains", "vcoprocs")
        self._changes.destroy_vcoproc(domain, name, translate.read_request(request))
        return api.DestroyVcoprocResponse()

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
        size = translate.read_page_size(request.page_size)
        # The list is part of the kind: a token of one domain's list is none of another's.
        kind = f"vcoprocs of {domain}"
        last = translate.read_page_token(request.page_token, kind, 2)
        after = (last[0], last[1]) if last else ("", "")
        vcoprocs, statuses, revision = self._queries.vcoprocs(domain, after, size + 1)
        page = vcoprocs[:size]
        token = ""
        if len(vcoprocs) > size:
            token = translate.page_token(kind, page[-1].domain, page[-1].name)
        return api.ListVcoprocsResponse(
            vcoprocs=[translate.vcoproc_message(vcoproc, statuses) for vcoproc in page],
            next_page_token=token,
            revision=revision,
        )

    def WatchEvents(
        self, request: api.WatchEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[api.Event]:
        with self._watching():
            ended = threading.Event()

            def end() -> None:
                ended.set()
                self._queries.wake()

            if not context.add_callback(end):
                return
            # The client learns at once that it is watching, before the first event comes.
            context.send_initial_metadata(())
            revision = request.revision or self._queries.revision()
            while not (ended.is_set() or self._stopping):
                for event in self._queries.wait_for_events(
                    revision, lambda: ended.is_set() or self._stopping
                ):
                    revision = event.revision
                    yield translate.event_message(event)

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
        answer = self._schedule_changes.set_parameters(
            domain,
            name,
            schedule.read_parameters("parameters", request.parameters),
            translate.read_request(request),
            lambda vcoproc: translate.vcoproc_message(
                vcoproc, self._queries.statuses([vcoproc])
            ).SerializeToString(),
        )
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
        with self._watching():
            stream = self._schedules.follow(name, request.after_number)
            if not context.add_callback(stream.cancel):
                stream.cancel()
                return
            with self._streams_lock:
                self._streams.add(stream)
            try:
                # As of WatchEvents.
                context.send_initial_metadata(())
                if self._stopping:
                    return
                for decision, missed_count in stream:
                    yield schedule.decision_message(decision, missed_count, name_of)
            except PeerLost:
                if context.is_active() and not self._stopping:
                    raise
            finally:
                stream.cancel()
                with self._streams_lock:
                    self._streams.discard(stream)

    def AnalyseSchedule(
        self, request: api.AnalyseScheduleRequest, _context: grpc.ServicerContext
    ) -> api.ScheduleAnalysis:
        [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        analysis = self._schedules.analyse(name, schedule.read_assumptions(request))
        return schedule.analysis_message(name, analysis, self._schedules.names())

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """A place among those who watch.

        Raises:
            LimitExceeded: there is none.
        """
        if not self._watchers.acquire(blocking=False):
            raise LimitExceeded("open streams", limits.WATCHERS_MAX)
        try:
            yield
        finally:
            self._watchers.release()


_NEW: Final = VcoprocStatus(VcoprocState.SLEEPING)
"""Nobody has started anything on a vcoproc that was just made."""


def _seal_domain(domain: DomainRecord) -> bytes:
    statuses = {vcoproc.vcoproc_id: _NEW for vcoproc in domain.vcoprocs}
    return translate.domain_message(domain, statuses).SerializeToString()


def _seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    return translate.vcoproc_message(vcoproc, {vcoproc.vcoproc_id: _NEW}).SerializeToString()


def _seal_schedule(scheduled: Scheduled, lost: tuple[str, ...]) -> bytes:
    message = schedule.schedule_message(scheduled)
    return api.SetScheduleResponse(schedule=message, lost_parameters=lost).SerializeToString()
