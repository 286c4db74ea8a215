"""A cluster as an asyncio program sees it: `Cluster` with `await`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from vcoproc.api.v1 import audit_pb2, cluster_pb2, cluster_pb2_grpc, toolstack_pb2_grpc
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client import calls
from vcoproc.client.calls import Answer, Call, Listing, Progress, unseen
from vcoproc.client.connection import (
    CHANGE_TIMEOUT_S,
    PATIENCE_S,
    READ_TIMEOUT_S,
    Tls,
    Unreachable,
    check_reachable,
    find_place,
    has_ended,
    meaning,
    reached_nobody,
    retry_delay_s,
)
from vcoproc.client.files import written
from vcoproc.client.watching import Watch
from vcoproc.errors import VcoprocError
from vcoproc.runtime import grpc_kit


class AsyncCluster:
    """The control API of a cluster, for one event loop; an asynchronous context manager.

    Calls, arguments and errors are those of `vcoproc.client.Cluster`, where they are described.
    """

    def __init__(
        self,
        run_dir: Path | str | None = None,
        *,
        address: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._place = find_place(Path(run_dir) if run_dir is not None else None, address, tls)
        check_reachable(self._place)
        self._channel = grpc_kit.async_channel(
            self._place.target, self._place.tls.read() if self._place.tls else None
        )
        self._stubs: Mapping[str, Any] = {
            "toolstack": toolstack_pb2_grpc.ToolstackServiceStub(self._channel),
            "cluster": cluster_pb2_grpc.ClusterServiceStub(self._channel),
        }
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> AsyncCluster:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- domains ----------------------------------------------------------------------------------

    async def create_domain(
        self,
        config: str,
        *,
        file_name: str = "",
        stopped: bool = False,
        validate_only: bool = False,
        request_id: str = "",
    ) -> api.Domain:
        return await self.call(
            calls.create_domain(
                config,
                file_name=file_name,
                stopped=stopped,
                validate_only=validate_only,
                request_id=request_id,
            )
        )

    async def start_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        return await self.call(calls.start_domain(name, request_id))

    async def pause_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        return await self.call(calls.pause_domain(name, request_id))

    async def resume_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        return await self.call(calls.resume_domain(name, request_id))

    async def shut_down_domain(
        self, name: str, *, timeout_ns: int = 0, request_id: str = ""
    ) -> api.Domain:
        return await self.call(calls.shut_down_domain(name, timeout_ns, request_id))

    async def crash_domain(self, name: str, *, why: str = "", request_id: str = "") -> api.Domain:
        return await self.call(calls.crash_domain(name, why, request_id))

    async def rename_domain(self, name: str, new_name: str, *, request_id: str = "") -> api.Domain:
        return await self.call(calls.rename_domain(name, new_name, request_id))

    async def destroy_domain(self, name: str, *, request_id: str = "") -> None:
        await self.call(calls.destroy_domain(name, request_id))

    async def domain(self, name: str) -> api.Domain:
        return await self.call(calls.domain(name))

    def domains(self, filter: str = "") -> AsyncIterator[api.Domain]:
        return self.items(calls.domains(filter))

    async def open_domain(self, name: str) -> api.DomainAccess:
        return await self.call(calls.open_domain(name))

    async def device_tree(self, name: str) -> api.GetDomainDeviceTreeResponse:
        return await self.call(calls.device_tree(name))

    async def save_domain(
        self, name: str, path: Path | str, *, shut_down: bool = False, progress: Progress = unseen
    ) -> None:
        await self._save(
            "SaveDomain", calls.save_domain(name, shut_down=shut_down), Path(path), progress
        )

    async def restore_domain(
        self,
        path: Path | str,
        *,
        new_name: str = "",
        paused: bool = False,
        coprocs: Mapping[str, str] | None = None,
        request_id: str = "",
        progress: Progress = unseen,
    ) -> api.Domain:
        requests = calls.restore_domain(
            Path(path),
            new_name=new_name,
            paused=paused,
            coprocs=coprocs or {},
            request_id=request_id,
            progress=progress,
        )
        return await self._restore("RestoreDomain", requests, api.Domain)

    # --- vcoprocs ---------------------------------------------------------------------------------

    async def create_vcoproc(
        self, domain: str, spec: str, *, validate_only: bool = False, request_id: str = ""
    ) -> api.Vcoproc:
        return await self.call(
            calls.create_vcoproc(domain, spec, validate_only=validate_only, request_id=request_id)
        )

    async def destroy_vcoproc(self, name: str, *, request_id: str = "") -> None:
        await self.call(calls.destroy_vcoproc(name, request_id))

    async def move_vcoproc(self, name: str, coproc: str, *, request_id: str = "") -> api.Vcoproc:
        return await self.call(calls.move_vcoproc(name, coproc, request_id))

    async def vcoproc(self, name: str) -> api.Vcoproc:
        return await self.call(calls.vcoproc(name))

    def vcoprocs(self, domain: str = "", filter: str = "") -> AsyncIterator[api.Vcoproc]:
        return self.items(calls.vcoprocs(domain, filter))

    async def save_vcoproc(
        self, name: str, path: Path | str, *, progress: Progress = unseen
    ) -> None:
        await self._save("SaveVcoproc", calls.save_vcoproc(name), Path(path), progress)

    async def restore_vcoproc(
        self,
        name: str,
        path: Path | str,
        *,
        request_id: str = "",
        progress: Progress = unseen,
    ) -> api.Vcoproc:
        requests = calls.restore_vcoproc(name, Path(path), request_id, progress)
        return await self._restore("RestoreVcoproc", requests, api.Vcoproc)

    # --- coprocs ----------------------------------------------------------------------------------

    async def add_coprocs(
        self,
        tree: bytes | str,
        *,
        file_name: str = "",
        names: Sequence[str] = (),
        validate_only: bool = False,
        request_id: str = "",
    ) -> list[api.Coproc]:
        call = calls.add_coprocs(
            tree.encode() if isinstance(tree, str) else tree,
            file_name=file_name,
            names=names,
            validate_only=validate_only,
            request_id=request_id,
        )
        return list((await self.call(call)).coprocs)

    async def drain_coproc(
        self, name: str, *, move_vcoprocs: bool = False, request_id: str = ""
    ) -> api.Coproc:
        return await self.call(
            calls.drain_coproc(name, move_vcoprocs=move_vcoprocs, request_id=request_id)
        )

    async def undrain_coproc(self, name: str, *, request_id: str = "") -> api.Coproc:
        return await self.call(calls.undrain_coproc(name, request_id))

    async def remove_coproc(
        self, name: str, *, destroy_vcoprocs: bool = False, request_id: str = ""
    ) -> None:
        await self.call(
            calls.remove_coproc(name, destroy_vcoprocs=destroy_vcoprocs, request_id=request_id)
        )

    async def replace_coproc(
        self, name: str, replacement: str, *, request_id: str = ""
    ) -> api.Coproc:
        return await self.call(calls.replace_coproc(name, replacement, request_id))

    async def coproc(self, name: str) -> api.Coproc:
        return await self.call(calls.coproc(name))

    def coprocs(self, filter: str = "", *, show_unused: bool = False) -> AsyncIterator[api.Coproc]:
        return self.items(calls.coprocs(filter, show_unused=show_unused))

    async def coproc_types(self) -> list[api.CoprocType]:
        return list((await self.call(calls.coproc_types())).types)

    async def configuration(self, coproc: str = "") -> api.Configuration:
        return await self.call(calls.configuration(coproc))

    # --- schedules --------------------------------------------------------------------------------

    async def algorithms(self) -> list[api.Algorithm]:
        return list((await self.call(calls.algorithms())).algorithms)

    async def schedule(self, coproc: str) -> api.Schedule:
        return await self.call(calls.schedule(coproc))

    async def set_schedule(
        self,
        coproc: str,
        *,
        algorithm: str = "",
        slice_ns: int = 0,
        parameters: Mapping[str, int] | None = None,
        vcoprocs: Mapping[str, Mapping[str, int]] | None = None,
        request_id: str = "",
    ) -> api.SetScheduleResponse:
        return await self.call(
            calls.set_schedule(
                coproc,
                algorithm=algorithm,
                slice_ns=slice_ns,
                parameters=parameters or {},
                vcoprocs=vcoprocs or {},
                request_id=request_id,
            )
        )

    async def set_parameters(
        self, vcoproc: str, parameters: Mapping[str, int], *, request_id: str = ""
    ) -> api.Vcoproc:
        return await self.call(calls.set_parameters(vcoproc, parameters, request_id))

    async def analyse(
        self, coproc: str, *, switch_ns: int = 0, refusal_ns: int = 0, work_ns: int = 0
    ) -> api.ScheduleAnalysis:
        return await self.call(
            calls.analyse(coproc, switch_ns=switch_ns, refusal_ns=refusal_ns, work_ns=work_ns)
        )

    def decisions(
        self, coproc: str, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[api.Decision]:
        request = calls.watch_decisions(coproc, after, follow=follow)
        return self.stream("toolstack", "WatchDecisions", request)

    # --- the cluster ------------------------------------------------------------------------------

    async def picture(self) -> cluster_pb2.Cluster:
        return await self.call(calls.picture())

    async def statistics(self) -> cluster_pb2.Statistics:
        return await self.call(calls.statistics())

    def lines(self, filter: str = "") -> AsyncIterator[cluster_pb2.Line]:
        return self.items(calls.lines(filter))

    def watch_lines(
        self, filter: str = "", *, interval_ns: int = 0
    ) -> AsyncIterator[cluster_pb2.WatchLinesResponse]:
        return self.stream("cluster", "WatchLines", calls.watch_lines(filter, interval_ns))

    def faults(self, filter: str = "") -> AsyncIterator[cluster_pb2.Fault]:
        return self.items(calls.faults(filter))

    def events(self, filter: str = "", *, after_revision: int = 0) -> AsyncIterator[api.Event]:
        return self.items(calls.events(filter, after_revision))

    async def caller(self) -> audit_pb2.Caller:
        return await self.call(calls.caller())

    def audit(self, filter: str = "") -> AsyncIterator[audit_pb2.AuditEntry]:
        return self.items(calls.audit(filter))

    def watch(
        self, filter: str = "", *, revision: int | None = None, patience_ns: int = 60_000_000_000
    ) -> AsyncIterator[api.Event]:
        return self._watch(filter, revision, patience_ns / 1e9)

    async def _watch(
        self, filter: str, revision: int | None, patience_s: float
    ) -> AsyncIterator[api.Event]:
        if revision is None:
            revision = (await self.call(calls.newest_events())).revision
        watch = Watch(revision, filter, patience_s)
        attempt = 0
        while True:
            try:
                if attempt:  # a watch alone does not tell a quiet cluster from a silent one
                    await self.call(calls.newest_events())
                    watch.served(time.monotonic())
                async for event in self.stream("toolstack", "WatchEvents", watch.request()):
                    attempt = 0
                    watch.seen(event)
                    yield event
                # A toolstack that stops ends its streams in good order; another one follows.
                raise Unreachable(self._place.shown, "it has ended the watch")
            except VcoprocError as error:
                if self._gone() or not watch.goes_on(error, time.monotonic()):
                    raise
            attempt += 1
            await asyncio.sleep(retry_delay_s(attempt))

    # --- any call ---------------------------------------------------------------------------------

    async def call(self, call: Call[Answer], *, timeout_s: float | None = None) -> Answer:
        method = getattr(self._stubs[call.service], call.method)
        timeout_s = timeout_s or (CHANGE_TIMEOUT_S if call.change else READ_TIMEOUT_S)
        end_s = time.monotonic() + timeout_s
        patient_until_s = time.monotonic() + PATIENCE_S
        attempt = 0
        while True:
            try:
                left_s = max(0.0, end_s - time.monotonic())
                answer: Answer = await method(call.request, timeout=left_s)
                return answer
            except grpc.RpcError as error:
                attempt += 1
                delay_s = retry_delay_s(attempt)
                late = time.monotonic() + delay_s >= min(end_s, patient_until_s)
                if late or not reached_nobody(error) or self._gone():
                    raise meaning(error, self._place) from None
            await asyncio.sleep(delay_s)

    async def items(self, listing: Listing[Answer]) -> AsyncIterator[Answer]:
        while True:
            call = Call(listing.service, listing.method, listing.request, object)
            page: Any = await self.call(call)
            for item in getattr(page, listing.field):
                yield item
            if not page.next_page_token:
                return
            listing.request.page_token = page.next_page_token

    async def whole(self, listing: Listing[Any]) -> Any:
        answer: Any = await self.call(
            Call(listing.service, listing.method, listing.request, object)
        )
        while token := answer.next_page_token:
            listing.request.page_token = token
            page: Any = await self.call(
                Call(listing.service, listing.method, listing.request, object)
            )
            getattr(answer, listing.field).extend(getattr(page, listing.field))
            answer.next_page_token = page.next_page_token
        return answer

    async def stream(self, service: str, method: str, request: Any) -> AsyncIterator[Any]:
        stream = getattr(self._stubs[service], method)(request)
        try:
            async for answer in stream:
                yield answer
        except grpc.RpcError as error:
            raise meaning(error, self._place) from None
        finally:
            stream.cancel()

    def _gone(self) -> bool:
        return self._closed or has_ended(self._place)

    async def _save(self, method: str, request: Any, path: Path, progress: Progress) -> None:
        with written(path, worth_keeping=calls.all_that_is_left(request)) as file:
            async for chunk in self.stream("toolstack", method, request):
                file.write(chunk.data)
                progress(file.tell())

    async def _restore(self, method: str, requests: Iterator[Any], answer: type[Answer]) -> Answer:
        requests = calls.begun(requests)
        try:
            made: Answer = await getattr(self._stubs["toolstack"], method)(
                requests, timeout=CHANGE_TIMEOUT_S
            )
            return made
        except grpc.RpcError as error:
            raise meaning(error, self._place) from None
