"""The irq-router's control interface: checks and translates, and hands to the loop."""

from __future__ import annotations

from typing import Final

import grpc

from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.internal.v1 import control_pb2_grpc as pb_grpc
from vcoproc.runtime.loop import Loop
from vcoproc_irq_router.events import (
    AddDomain,
    Event,
    LineView,
    MapLines,
    MappedLine,
    MoveLines,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    UnmapLines,
)
from vcoproc_irq_router.shell import IrqRouter

SERVICE: Final = "vcoproc.internal.v1.IrqControlService"


class IrqControl(pb_grpc.IrqControlServiceServicer):
    """Runs on gRPC's threads; the router is touched on the loop's thread only."""

    def __init__(self, router: IrqRouter, loop: Loop) -> None:
        self._router = router
        self._loop = loop

    def _step(self, event: Event) -> None:
        self._loop.call(lambda: self._router.step(event))

    def AddDomain(
        self, request: pb.AddDomainRequest, context: grpc.ServicerContext
    ) -> pb.AddDomainResponse:
        self._step(AddDomain(request.domid, request.credential))
        return pb.AddDomainResponse()

    def RemoveDomain(
        self, request: pb.RemoveDomainRequest, context: grpc.ServicerContext
    ) -> pb.RemoveDomainResponse:
        self._step(RemoveDomain(request.domid))
        return pb.RemoveDomainResponse()

    def MapLines(
        self, request: pb.MapLinesRequest, context: grpc.ServicerContext
    ) -> pb.MapLinesResponse:
        lines = tuple(
            MappedLine(line.line, line.irq, line.level, line.pending, line.masked)
            for line in request.lines
        )
        self._step(MapLines(request.domid, request.vcoproc_id, request.coproc, lines))
        return pb.MapLinesResponse()

    def UnmapLines(
        self, request: pb.UnmapLinesRequest, context: grpc.ServicerContext
    ) -> pb.UnmapLinesResponse:
        self._step(UnmapLines(request.vcoproc_id))
        return pb.UnmapLinesResponse()

    def MoveLines(
        self, request: pb.MoveLinesRequest, context: grpc.ServicerContext
    ) -> pb.MoveLinesResponse:
        self._step(MoveLines(request.vcoproc_id, request.coproc))
        return pb.MoveLinesResponse()

    def PauseDomain(
        self, request: pb.PauseDomainRequest, context: grpc.ServicerContext
    ) -> pb.PauseDomainResponse:
        self._step(PauseDomain(request.domid))
        return pb.PauseDomainResponse()

    def ResumeDomain(
        self, request: pb.ResumeDomainRequest, context: grpc.ServicerContext
    ) -> pb.ResumeDomainResponse:
        self._step(ResumeDomain(request.domid))
        return pb.ResumeDomainResponse()

    def ListLines(
        self, request: pb.ListLinesRequest, context: grpc.ServicerContext
    ) -> pb.ListLinesResponse:
        # The loop only copies numbers; messages are made here.
        lines, answer = self._loop.call(self._look)
        answer.lines.extend(_status(line) for line in lines)
        return answer

    def _look(self) -> tuple[list[LineView], pb.ListLinesResponse]:
        core = self._router.core
        return core.list_lines(), pb.ListLinesResponse(
            garbage_count=self._router.garbage_count,
            domids=[domid for domid, _credential in core.credentials()],
            refused_count=core.refused_count,
            guest_error_count=core.guest_error_count,
            forgotten_count=core.early.forgotten_count,
            paused_domids=core.paused_domids(),
        )


def _status(line: LineView) -> pb.LineStatus:
    return pb.LineStatus(
        domid=line.domid,
        vcoproc_id=line.vcoproc_id,
        line=line.line,
        irq=line.irq,
        level=line.level,
        high=line.high,
        pending=line.pending,
        active=line.active,
        enabled=line.enabled,
        raised_count=line.raised_count,
        injected_count=line.injected_count,
        merged_count=line.merged_count,
        coproc=line.coproc,
    )
