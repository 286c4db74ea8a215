"""CoprocSimService: translates control calls for the loop's thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

import grpc

from vcoproc.errors import (
    BadSnapshot,
    InvalidArgument,
    NotFound,
    PeerTimeout,
    SwitchTimeout,
    WrongState,
)
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.limits import (
    FENCE_TIMEOUT_NS,
    IMAGE_CHUNK_BYTES,
    STOP_TIMEOUT_NS,
    SWITCH_DEADLINE_NS,
    US,
    S,
)
from vcoproc_sim import saving
from vcoproc_sim.departures import PauseEnd
from vcoproc_sim.platforms.api import Platform
from vcoproc_sim.saving import VcoprocImage
from vcoproc_sim.shell import CoprocShell

T = TypeVar("T")


class CoprocSimService(control_pb2_grpc.CoprocSimServiceServicer):
    """See control.proto.

    Args:
        platform: only for what any thread may do: reading and checking snapshots.
    """

    def __init__(self, shell: CoprocShell, platform: Platform) -> None:
        self._shell = shell
        self._platform = platform

    def AttachVcoproc(
        self, request: control_pb2.AttachVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.AttachVcoprocResponse:
        self._shell.loop.call(lambda: self._shell.control.attach(request))
        return control_pb2.AttachVcoprocResponse()

    def DetachVcoproc(
        self, request: control_pb2.DetachVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.DetachVcoprocResponse:
        gone: Future[bool] = Future()
        deadline_ns = _deadline_ns(request.deadline_us)
        try:
            self._shell.loop.call(
                lambda: self._shell.control.detach(
                    request.vcoproc_id, deadline_ns, gone.set_result, moved=request.moved
                )
            )
        except NotFound:  # repeated: it has gone already
            return control_pb2.DetachVcoprocResponse()
        return control_pb2.DetachVcoprocResponse(forced=self._left(gone, deadline_ns))

    def PauseVcoproc(
        self, request: control_pb2.PauseVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.PauseVcoprocResponse:
        ended: Future[PauseEnd] = Future()
        deadline_ns = _deadline_ns(request.deadline_us)
        self._shell.loop.call(
            lambda: self._shell.control.pause(request.vcoproc_id, deadline_ns, ended.set_result)
        )
        end = self._left(ended, deadline_ns)
        if end is PauseEnd.RESUMED:
            raise WrongState(f"vcoproc {request.vcoproc_id}", "resumed", "it left alone")
        return control_pb2.PauseVcoprocResponse(forced=end is PauseEnd.FORCED)

    def _left(self, outcome: Future[T], deadline_ns: int) -> T:
        """Waits for one that must leave."""
        try:
            return outcome.result((deadline_ns + STOP_TIMEOUT_NS) / S)
        except FutureTimeout:
            raise SwitchTimeout(self._shell.coproc, deadline_ns + STOP_TIMEOUT_NS) from None

    def ResumeVcoproc(
        self, request: control_pb2.ResumeVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.ResumeVcoprocResponse:
        self._shell.loop.call(lambda: self._shell.control.resume(request.vcoproc_id))
        return control_pb2.ResumeVcoprocResponse()

    def SaveVcoproc(
        self, request: control_pb2.SaveVcoprocRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.VcoprocChunk]:
        saved: Future[VcoprocImage] = Future()
        self._shell.loop.call(
            lambda: self._shell.control.save(request.vcoproc_id, saved, moving=request.moving)
        )
        try:
            image = saved.result(FENCE_TIMEOUT_NS / S)
        except FutureTimeout:
            if saved.cancel():
                raise PeerTimeout("irq-router", FENCE_TIMEOUT_NS) from None
            image = saved.result()
        for piece in image.pieces(self._platform.info):
            for at in range(0, len(piece), IMAGE_CHUNK_BYTES):
                data = bytes(piece[at : at + IMAGE_CHUNK_BYTES])
                yield control_pb2.VcoprocChunk(data=data)

    def RestoreVcoproc(
        self,
        request_iterator: Iterator[control_pb2.RestoreVcoprocRequest],
        context: grpc.ServicerContext,
    ) -> control_pb2.RestoreVcoprocResponse:
        first = next(request_iterator, None)
        if first is None or first.WhichOneof("part") != "vcoproc_id":
            raise InvalidArgument("part", "the first message says into which vcoproc")
        blob = memoryview(self._collect(request_iterator))
        image = saving.read(blob, self._platform)
        self._shell.loop.call(lambda: self._shell.control.restore(first.vcoproc_id, image))
        return control_pb2.RestoreVcoprocResponse()

    def _collect(self, chunks: Iterator[control_pb2.RestoreVcoprocRequest]) -> bytearray:
        """All bytes of a snapshot; no more than any can have."""
        blob = bytearray()
        bytes_max = saving.image_bytes_max(self._platform.info)
        for chunk in chunks:
            if chunk.WhichOneof("part") != "data":
                raise InvalidArgument("part", "only the first message says into which vcoproc")
            if len(chunk.data) > IMAGE_CHUNK_BYTES:
                raise InvalidArgument("data", f"more than {IMAGE_CHUNK_BYTES} bytes at once")
            blob += chunk.data
            if len(blob) > bytes_max:
                raise BadSnapshot(f"longer than {bytes_max} bytes")
        return blob

    def GetStatus(
        self, request: control_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> control_pb2.CoprocStatus:
        return self._shell.loop.call(self._shell.status)


def _deadline_ns(deadline_us: int) -> int:
    """Nobody may refuse for longer, and no call waits for longer."""
    return min(deadline_us * US, SWITCH_DEADLINE_NS)
