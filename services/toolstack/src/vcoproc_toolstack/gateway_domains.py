"""The part of the public API that changes domains and vcoprocs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import InvalidArgument, InvalidConfig
from vcoproc_toolstack import translate
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.coproc_changes import CoprocChanges
from vcoproc_toolstack.coproc_removal import Removals
from vcoproc_toolstack.lifecycle import Lifecycle
from vcoproc_toolstack.moves import Moves
from vcoproc_toolstack.restoring import Restoring
from vcoproc_toolstack.saving import Saving
from vcoproc_toolstack.schedule_queries import ScheduleQueries
from vcoproc_toolstack.translate import (
    check_text,
    parse_name,
    read_request,
    seal_domain,
    seal_vcoproc,
)


@dataclass(frozen=True, slots=True)
class Verbs:
    """Everything that changes domains, vcoprocs and coprocs."""

    changes: Changes
    lifecycle: Lifecycle
    moves: Moves
    saving: Saving
    restoring: Restoring
    coprocs: CoprocChanges
    removals: Removals


class DomainCalls:
    """A part of the gateway, which has the schedules."""

    _schedules: ScheduleQueries

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs

    def CreateDomain(
        self, request: api.CreateDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        text = check_text("config", request.config, limits.CONFIG_BYTES_MAX, empty=False)
        name = check_text("file_name", request.file_name, limits.FILE_NAME_BYTES_MAX) or "config"
        changes = self._verbs.changes
        asked = read_request(request)
        with shortened():
            if request.validate_only:
                domain = changes.check_domain(text, name, stopped=request.stopped)
                self._schedules.check_new(domain.vcoprocs)
                return api.Domain.FromString(seal_domain(domain))
            answer = changes.create_domain(text, name, asked, seal_domain, stopped=request.stopped)
        return api.Domain.FromString(answer)

    def StartDomain(
        self, request: api.StartDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        answer = self._verbs.lifecycle.start(name, read_request(request))
        return api.Domain.FromString(answer)

    def PauseDomain(
        self, request: api.PauseDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        answer = self._verbs.lifecycle.pause(name, read_request(request))
        return api.Domain.FromString(answer)

    def ResumeDomain(
        self, request: api.ResumeDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        answer = self._verbs.lifecycle.resume(name, read_request(request))
        return api.Domain.FromString(answer)

    def ShutDownDomain(
        self, request: api.ShutDownDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        timeout_us_max = limits.SHUTDOWN_NS_MAX // limits.US
        if request.timeout_us > timeout_us_max:
            why = f"{request.timeout_us} is not between 0 and {timeout_us_max}"
            raise InvalidArgument("timeout_us", why)
        timeout_ns = request.timeout_us * limits.US
        answer = self._verbs.lifecycle.shut_down(name, timeout_ns, read_request(request))
        return api.Domain.FromString(answer)

    def CrashDomain(
        self, request: api.CrashDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        why = check_text("why", request.why, limits.WHY_BYTES_MAX)
        answer = self._verbs.lifecycle.crash(name, why, read_request(request))
        return api.Domain.FromString(answer)

    def RenameDomain(
        self, request: api.RenameDomainRequest, _context: grpc.ServicerContext
    ) -> api.Domain:
        [name] = parse_name("name", request.name, "domains")
        new_name = translate.check_name("new_name", request.new_name)
        answer = self._verbs.lifecycle.rename(name, new_name, read_request(request))
        return api.Domain.FromString(answer)

    def DestroyDomain(
        self, request: api.DestroyDomainRequest, _context: grpc.ServicerContext
    ) -> api.DestroyDomainResponse:
        [name] = parse_name("name", request.name, "domains")
        self._verbs.changes.destroy_domain(name, read_request(request))
        return api.DestroyDomainResponse()

    def CreateVcoproc(
        self, request: api.CreateVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.Vcoproc:
        [domain] = parse_name("domain", request.domain, "domains")
        asked = read_request(request)
        changes = self._verbs.changes
        with shortened():
            if request.validate_only:
                vcoproc = changes.check_vcoproc(domain, request.spec)
                self._schedules.check_new([vcoproc])
                return api.Vcoproc.FromString(seal_vcoproc(vcoproc))
            answer = changes.create_vcoproc(domain, request.spec, asked, seal_vcoproc)
        return api.Vcoproc.FromString(answer)

    def MoveVcoproc(
        self, request: api.MoveVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.Vcoproc:
        domain, name = parse_name("name", request.name, "domains", "vcoprocs")
        [coproc] = parse_name("coproc", request.coproc, "coprocs")
        answer = self._verbs.moves.move(domain, name, coproc, read_request(request), seal_vcoproc)
        return api.Vcoproc.FromString(answer)

    def DestroyVcoproc(
        self, request: api.DestroyVcoprocRequest, _context: grpc.ServicerContext
    ) -> api.DestroyVcoprocResponse:
        domain, name = parse_name("name", request.name, "domains", "vcoprocs")
        self._verbs.changes.destroy_vcoproc(domain, name, read_request(request))
        return api.DestroyVcoprocResponse()


@contextmanager
def shortened() -> Iterator[None]:
    """Says no more problems of a file than an answer has room for."""
    try:
        yield
    except InvalidConfig as error:
        raise translate.shorten_problems(error) from error
