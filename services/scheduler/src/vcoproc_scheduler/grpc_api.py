"""SchedulerControlService: translates between gRPC and the scheduler, and nothing else.

Handlers run on gRPC's threads; whatever touches the scheduler runs on the loop's.
"""

from __future__ import annotations

import time
from typing import Final

import grpc

from vcoproc.api.v1 import toolstack_pb2
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.loop import Loop
from vcoproc_scheduler.accounting import AccountView, TurnEnded
from vcoproc_scheduler.events import CoprocView, SetAlgorithm
from vcoproc_scheduler.service import SchedulerService

SERVICE_NAME: Final = "vcoproc.internal.v1.SchedulerControlService"


class SchedulerControl(control_pb2_grpc.SchedulerControlServiceServicer):
    """Implements the service. Handlers raise VcoprocError to refuse."""

    def __init__(self, loop: Loop, service: SchedulerService) -> None:
        self._loop = loop
        self._service = service

    def SetCoproc(
        self, request: control_pb2.SetCoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.SetCoprocResponse:
        event = SetAlgorithm(
            request.algorithm, request.slice_ns, request.refusal_ns, dict(request.parameters)
        )
        self._loop.call(
            lambda: self._service.set_coproc(request.coproc, event, time.monotonic_ns())
        )
        return control_pb2.SetCoprocResponse()

    def AddVcoproc(
        self, request: control_pb2.AddVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.AddVcoprocResponse:
        parameters = dict(request.parameters)
        self._loop.call(
            lambda: self._service.add_vcoproc(
                request.coproc, request.vcoproc_id, parameters, time.monotonic_ns()
            )
        )
        return control_pb2.AddVcoprocResponse()

    def RemoveVcoproc(
        self, request: control_pb2.RemoveVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.RemoveVcoprocResponse:
        self._loop.call(
            lambda: self._service.remove_vcoproc(
                request.coproc, request.vcoproc_id, time.monotonic_ns()
            )
        )
        return control_pb2.RemoveVcoprocResponse()

    def ListAccounts(
        self, request: control_pb2.ListAccountsRequest, context: grpc.ServicerContext
    ) -> control_pb2.ListAccountsResponse:
        views = self._loop.call(lambda: self._service.views(time.monotonic_ns()))
        return control_pb2.ListAccountsResponse(coprocs=[_coproc(view) for view in views])

    def ListTurns(
        self, request: control_pb2.ListTurnsRequest, context: grpc.ServicerContext
    ) -> control_pb2.ListTurnsResponse:
        turns = self._loop.call(lambda: self._service.turns(request.coproc, request.after_ns))
        return control_pb2.ListTurnsResponse(turns=[_turn(turn) for turn in turns])


def _coproc(view: CoprocView) -> control_pb2.CoprocAccount:
    return control_pb2.CoprocAccount(
        coproc=view.coproc,
        online=view.online,
        current_vcoproc_id=view.current,
        switch_count=view.switches,
        algorithm=view.algorithm,
        vcoprocs=[
            control_pb2.VcoprocAccount(
                vcoproc_id=each.vcoproc,
                run_state=each.run_state,
                accounting=_accounting(each.account),
            )
            for each in view.vcoprocs
        ],
    )


def _accounting(account: AccountView) -> toolstack_pb2.Accounting:
    return toolstack_pb2.Accounting(
        run_ns=account.run_ns,
        wait_ns=account.wait_ns,
        refused_ns=account.refused_ns,
        overtime_ns=account.overtime_ns,
        switch_ns=account.switch_ns,
        switch_count=account.switches,
        wake_count=account.wakes,
        instruction_count=account.instructions,
    )


def _turn(turn: TurnEnded) -> control_pb2.Turn:
    return control_pb2.Turn(
        vcoproc_id=turn.vcoproc,
        began_ns=turn.began_ns,
        ended_ns=turn.ended_ns,
        planned_ns=turn.planned_ns,
        end=turn.end,
        refused_ns=turn.refused_ns,
        save_ns=turn.save_ns,
        mmu_ns=turn.mmu_ns,
        restore_ns=turn.restore_ns,
    )
