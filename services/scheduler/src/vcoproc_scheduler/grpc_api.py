"""SchedulerControlService: translates between gRPC and the scheduler, and nothing else.

Handlers run on gRPC's threads; whatever touches the scheduler runs on the loop's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import grpc

from vcoproc.errors import NotFound
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.loop import Loop
from vcoproc_scheduler import grpc_translate as to
from vcoproc_scheduler.events import CoprocView, SetAlgorithm
from vcoproc_scheduler.responses import work_step_ns
from vcoproc_scheduler.service import SchedulerService
from vcoproc_scheduler.watching import Watchers

DECISIONS_IN_ONE_MESSAGE: Final = 256
SERVICE_NAME: Final = "vcoproc.internal.v1.SchedulerControlService"


class SchedulerControl(control_pb2_grpc.SchedulerControlServiceServicer):
    """Implements the service. Handlers raise VcoprocError to refuse."""

    def __init__(
        self,
        loop: Loop,
        service: SchedulerService,
        watchers: Watchers,
        fallback_watchers: Watchers,
    ) -> None:
        self._loop = loop
        self._service = service
        self._watchers = watchers
        self._fallback_watchers = fallback_watchers

    def SetCoproc(
        self, request: control_pb2.SetCoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.SetCoprocResponse:
        event = SetAlgorithm(
            request.algorithm,
            request.slice_ns,
            request.refusal_ns,
            dict(request.parameters),
            keep=request.keep,
            restart=request.restart,
            vcoprocs={each.vcoproc_id: dict(each.parameters) for each in request.vcoprocs},
        )
        lost = self._loop.call(
            lambda: self._service.set_coproc(request.coproc, event, time.monotonic_ns())
        )
        return control_pb2.SetCoprocResponse(lost=[to.lost(each) for each in lost])

    def RemoveCoproc(
        self, request: control_pb2.RemoveCoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.RemoveCoprocResponse:
        self._loop.call(lambda: self._service.remove_coproc(request.coproc, time.monotonic_ns()))
        return control_pb2.RemoveCoprocResponse()

    def AddVcoproc(
        self, request: control_pb2.AddVcoprocRequest, context: grpc.ServicerContext
    ) -> control_pb2.AddVcoprocResponse:
        parameters, used = dict(request.parameters), to.used(request.accounting)
        self._loop.call(
            lambda: self._service.add_vcoproc(
                request.coproc, request.vcoproc_id, parameters, time.monotonic_ns(), used=used
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
        answer = control_pb2.ListAccountsResponse()
        for name in self._loop.call(self._service.coprocs):
            # One by one: all together, of thousands of vcoprocs, would keep grants waiting.
            try:
                view = self._loop.call(partial(self._view, name))
            except NotFound:
                continue  # removed meanwhile
            answer.coprocs.append(to.coproc(view))
        return answer

    def _view(self, name: str) -> CoprocView:
        return self._service.view(name, time.monotonic_ns())

    def ListTurns(
        self, request: control_pb2.ListTurnsRequest, context: grpc.ServicerContext
    ) -> control_pb2.ListTurnsResponse:
        turns = self._loop.call(lambda: self._service.turns(request.coproc, request.after_ns))
        return control_pb2.ListTurnsResponse(turns=[to.turn(turn) for turn in turns])

    def SetVcoprocParameters(
        self, request: control_pb2.SetVcoprocParametersRequest, context: grpc.ServicerContext
    ) -> control_pb2.SetVcoprocParametersResponse:
        given = dict(request.parameters)
        parameters = self._loop.call(
            lambda: self._service.set_vcoproc_parameters(
                request.coproc, request.vcoproc_id, given, time.monotonic_ns()
            )
        )
        return control_pb2.SetVcoprocParametersResponse(parameters=parameters)

    def GetSchedule(
        self, request: control_pb2.GetScheduleRequest, context: grpc.ServicerContext
    ) -> control_pb2.GetScheduleResponse:
        view = self._loop.call(lambda: self._service.schedule(request.coproc, time.monotonic_ns()))
        return to.schedule(view)

    def AnalyseSchedule(
        self, request: control_pb2.AnalyseScheduleRequest, context: grpc.ServicerContext
    ) -> control_pb2.AnalyseScheduleResponse:
        question, guarantees = self._loop.call(
            lambda: self._service.analyse(
                request.coproc,
                time.monotonic_ns(),
                switch_ns=request.switch_ns,
                refusal_ns=request.refusal_ns,
                work_ns=request.work_ns,
            )
        )
        work_ns = max((each.work_ns for each in guarantees), default=0)
        return control_pb2.AnalyseScheduleResponse(
            algorithm=question.algorithm,
            switch_ns=question.switch_ns,
            refusal_ns=question.refusal_ns - question.switch_in_refusal_ns,
            switch_in_refusal_ns=question.switch_in_refusal_ns,
            work_ns=work_ns,
            observed_work_ns=work_step_ns(work_ns),
            vcoprocs=[to.guarantee(each) for each in guarantees],
        )

    def ListAlgorithms(
        self, request: control_pb2.ListAlgorithmsRequest, context: grpc.ServicerContext
    ) -> control_pb2.ListAlgorithmsResponse:
        found = self._service.algorithms()  # never changes
        return control_pb2.ListAlgorithmsResponse(
            algorithms=[to.algorithm(name, policy) for name, policy in found]
        )

    def ListDecisions(
        self, request: control_pb2.ListDecisionsRequest, context: grpc.ServicerContext
    ) -> control_pb2.ListDecisionsResponse:
        decisions, last_number = self._loop.call(
            lambda: self._service.decisions(request.coproc, request.after_number, request.count_max)
        )
        return control_pb2.ListDecisionsResponse(
            decisions=[to.decision(each) for each in decisions], last_number=last_number
        )

    def WatchDecisions(
        self, request: control_pb2.WatchDecisionsRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.WatchDecisionsResponse]:
        after = request.after_number

        def read() -> control_pb2.WatchDecisionsResponse | None:
            nonlocal after
            decisions, last_number = self._loop.call(
                lambda: self._service.decisions(request.coproc, after, DECISIONS_IN_ONE_MESSAGE)
            )
            if last_number < after:  # numbers have begun anew
                after = 0
                return read()
            if not decisions:
                return None
            missed = decisions[0].number - after - 1 if after else 0
            after = decisions[-1].number
            return control_pb2.WatchDecisionsResponse(
                decisions=[to.decision(each) for each in decisions], missed_count=missed
            )

        yield from self._watchers.follow(context, read)

    def WatchFallbacks(
        self, request: control_pb2.WatchFallbacksRequest, context: grpc.ServicerContext
    ) -> Iterator[control_pb2.WatchFallbacksResponse]:
        told: dict[str, int] = {}

        def read() -> control_pb2.WatchFallbacksResponse | None:
            for notice, count in self._loop.call(self._service.fallbacks):
                if told.get(notice.coproc) != count:
                    told[notice.coproc] = count
                    return control_pb2.WatchFallbacksResponse(
                        coproc=notice.coproc, fallback=to.fell_back(notice), count=count
                    )
            return None

        yield from self._fallback_watchers.follow(context, read)
