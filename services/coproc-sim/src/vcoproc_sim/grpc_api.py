"""CoprocSimService: translates control calls for the loop's thread."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import grpc

from vcoproc.errors import NotFound, SwitchTimeout
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.limits import STOP_TIMEOUT_NS, SWITCH_DEADLINE_NS, US
from vcoproc_sim.shell import CoprocShell


class CoprocSimService(control_pb2_grpc.CoprocSimServiceServicer):
    """See control.proto."""

    def __init__(self, shell: CoprocShell) -> None:
        self._shell = shell

    def AttachVcoproc(
        self, request: control_pb2.AttachVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.AttachVcoprocResponse:
        self._shell.loop.call(lambda: self._shell.attach(request))
        return control_pb2.AttachVcoprocResponse()

    def DetachVcoproc(
        self, request: control_pb2.DetachVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.DetachVcoprocResponse:
        gone: Future[bool] = Future()
        # Nobody may refuse for longer, and no call waits for longer.
        deadline_ns = min(request.deadline_us * US, SWITCH_DEADLINE_NS)
        try:
            self._shell.loop.call(
                lambda: self._shell.detach(request.vcoproc_id, deadline_ns, gone.set_result)
            )
        except NotFound:  # repeated: it has gone already
            return control_pb2.DetachVcoprocResponse()
        try:
            forced = gone.result((deadline_ns + STOP_TIMEOUT_NS) / 1e9)
        except FutureTimeout:
            raise SwitchTimeout(self._shell.coproc, deadline_ns + STOP_TIMEOUT_NS) from None
        return control_pb2.DetachVcoprocResponse(forced=forced)

    def GetStatus(
        self, request: control_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> control_pb2.CoprocStatus:
        return self._shell.loop.call(self._shell.status)
