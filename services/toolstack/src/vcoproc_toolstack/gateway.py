"""The public API over gRPC. Translates and checks; everything else is done by others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.api.v1 import toolstack_pb2_grpc as rpc
from vcoproc.errors import InvalidArgument, InvalidConfig, LimitExceeded
from vcoproc_toolstack import translate
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord, VcoprocState, VcoprocStatus

THREADS = limits.WATCHERS_MAX + limits.CHANGES_WAITING_MAX + 16
"""A watcher and a change hold one each; the rest is for reads, which never wait for those."""


class Gateway(rpc.ToolstackServiceServicer):
    """Implements ToolstackService."""

    def __init__(self, changes: Changes, queries: Queries) -> None:
        self._changes = changes
        self._queries = queries
        self._watchers = threading.BoundedSemaphore(limits.WATCHERS_MAX)
        self._stopping = False

    def stop(self) -> None:
        """Ends the open event streams."""
        self._stopping = True
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
        if not self._watchers.acquire(blocking=False):
            raise LimitExceeded("open event streams", limits.WATCHERS_MAX)
        try:
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
        finally:
            self._watchers.release()


_NEW: Final = VcoprocStatus(VcoprocState.SLEEPING)
"""Nobody has started anything on a vcoproc that was just made."""


def _seal_domain(domain: DomainRecord) -> bytes:
    statuses = {vcoproc.vcoproc_id: _NEW for vcoproc in domain.vcoprocs}
    return translate.domain_message(domain, statuses).SerializeToString()


def _seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    return translate.vcoproc_message(vcoproc, {vcoproc.vcoproc_id: _NEW}).SerializeToString()
