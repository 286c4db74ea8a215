"""The part of the public API by which coprocs come and go."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import parse_system
from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.coproc_changes import Addition, CoprocChanges, CoprocSeal
from vcoproc_toolstack.coproc_removal import Removals
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.gateway_domains import shortened
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.store import View
from vcoproc_toolstack.translate import (
    check_name,
    check_text,
    coproc_message,
    parse_name,
    read_request,
    type_message,
)


class CoprocCalls:
    """A part of ToolstackService."""

    def __init__(self, changes: CoprocChanges, removals: Removals, queries: Queries) -> None:
        self._coproc_changes = changes
        self._removals = removals
        self._coproc_queries = queries

    def AddCoprocs(
        self, request: api.AddCoprocsRequest, _context: grpc.ServicerContext
    ) -> api.AddCoprocsResponse:
        if not 1 <= len(request.tree) <= limits.CONFIG_BYTES_MAX:
            why = f"must have 1 to {limits.CONFIG_BYTES_MAX} bytes, has {len(request.tree)}"
            raise InvalidArgument("tree", why)
        file_name = check_text("file_name", request.file_name, limits.FILE_NAME_BYTES_MAX)
        if len(request.names) > limits.COPROCS_MAX:
            raise InvalidArgument("names", f"are {len(request.names)}, at most 256")
        names = tuple(check_name("names", name) for name in request.names)
        asked = read_request(request)
        with shortened():
            addition = Addition(parse_system(request.tree, file_name or "tree"), names)
            if request.validate_only:
                answer = self._coproc_changes.check(addition, self._seal_added)
            else:
                answer = self._coproc_changes.add(addition, asked, self._seal_added)
        return api.AddCoprocsResponse.FromString(answer)

    def DrainCoproc(
        self, request: api.DrainCoprocRequest, _context: grpc.ServicerContext
    ) -> api.Coproc:
        [name] = parse_name("name", request.name, "coprocs")
        asked = read_request(request)
        answer = self._coproc_changes.drain(name, asked, self._seal(), move=request.move_vcoprocs)
        return api.Coproc.FromString(answer)

    def UndrainCoproc(
        self, request: api.UndrainCoprocRequest, _context: grpc.ServicerContext
    ) -> api.Coproc:
        [name] = parse_name("name", request.name, "coprocs")
        answer = self._coproc_changes.undrain(name, read_request(request), self._seal())
        return api.Coproc.FromString(answer)

    def RemoveCoproc(
        self, request: api.RemoveCoprocRequest, _context: grpc.ServicerContext
    ) -> api.RemoveCoprocResponse:
        [name] = parse_name("name", request.name, "coprocs")
        asked = read_request(request)
        self._removals.remove(name, asked, destroy_vcoprocs=request.destroy_vcoprocs)
        return api.RemoveCoprocResponse()

    def ReplaceCoproc(
        self, request: api.ReplaceCoprocRequest, _context: grpc.ServicerContext
    ) -> api.Coproc:
        [name] = parse_name("name", request.name, "coprocs")
        [replacement] = parse_name("replacement", request.replacement, "coprocs")
        asked = read_request(request)
        answer = self._coproc_changes.replace(name, replacement, asked, self._seal())
        return api.Coproc.FromString(answer)

    def ListCoprocTypes(
        self, _request: api.ListCoprocTypesRequest, _context: grpc.ServicerContext
    ) -> api.ListCoprocTypesResponse:
        types = self._coproc_queries.coproc_types()
        return api.ListCoprocTypesResponse(types=[type_message(each) for each in types])

    def _seal(self) -> CoprocSeal:
        """Makes an answer about one coproc, with what the scheduler says of it now."""
        accounts = self._coproc_queries.accounts()

        def seal(view: View, coprocs: CoprocSet, names: Sequence[str]) -> bytes:
            [status] = self._coproc_queries.coproc_statuses(view, coprocs, names, accounts)
            return coproc_message(status).SerializeToString()

        return seal

    def _seal_added(self, view: View, coprocs: CoprocSet, names: Sequence[str]) -> bytes:
        statuses = self._coproc_queries.coproc_statuses(view, coprocs, names, ())
        added = [coproc_message(status) for status in statuses]
        return api.AddCoprocsResponse(coprocs=added).SerializeToString()
