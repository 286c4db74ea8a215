"""Calls of the public API that show events: those that are kept, and those that come."""

from __future__ import annotations

import grpc

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack import filter_fields
from vcoproc_toolstack.event_hub import EventHub, EventStream
from vcoproc_toolstack.filters import parse_filter
from vcoproc_toolstack.lists import read_asked, read_position
from vcoproc_toolstack.streams import OpenStreams


class EventCalls:
    """A part of the gateway, which has the hub and the streams."""

    _hub: EventHub
    _streams: OpenStreams

    def WatchEvents(
        self, request: api.WatchEventsRequest, context: grpc.ServicerContext
    ) -> EventStream:
        wanted = parse_filter(request.filter, filter_fields.EVENTS)
        stream = self._hub.watch(request.revision, wanted)
        self._streams.open(stream, context)
        return stream

    def ListEvents(
        self, request: api.ListEventsRequest, _context: grpc.ServicerContext
    ) -> api.ListEventsResponse:
        asked = read_asked(request, "events", filter_fields.EVENTS, 1)
        after = read_position(asked.after) or request.after_revision
        page, token, revision = self._hub.page(asked, after)
        return api.ListEventsResponse(events=page, next_page_token=token, revision=revision)
