"""A cluster as a program sees it, with calls that wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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


class Cluster:
    """The control API of a cluster; a context manager. Safe for any number of threads.

    Names are short ones ("fir", "fir/audio", "dsp0") or whole resource names. Answers are the
    messages of `vcoproc.api.v1`. A change that reached nobody is made again until its time is
    over, with the same request id: it is done once.

    Args:
        run_dir: of a cluster on this machine; default as for the `vcoproc` command.
        address: "host:port" of a cluster that is reached over TCP; default $VCOPROC_ADDRESS.
        tls: certificates for that; default from the directory $VCOPROC_TLS_DIR.

    Raises:
        Unreachable: no cluster answers; of the constructor and of every call.
        InvalidArgument: the path or the address cannot be one of a cluster.
        RemoteRefusal: of every call: the cluster refuses; `reason` says why.
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
        self._channel = grpc_kit.channel(
            self._place.target, self._place.tls.read() if self._place.tls else None
        )
        self._stubs: Mapping[str, Any] = {
            "toolstack": toolstack_pb2_grpc.ToolstackServiceStub(self._channel),
            "cluster": cluster_pb2_grpc.ClusterServiceStub(self._channel),
        }
        self._closed = threading.Event()

    def close(self) -> None:
        """Ends all calls that are under way."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- domains ----------------------------------------------------------------------------------

    def create_domain(
        self,
        config: str,
        *,
        file_name: str = "",
        stopped: bool = False,
        validate_only: bool = False,
        request_id: str = "",
    ) -> api.Domain:
        """Makes a domain with all its vcoprocs, or nothing.

        Args:
            config: text of its file, xl.cfg format. file_name: for messages about it.
            stopped: leave it STOPPED. validate_only: change nothing, tell what would be made.
            request_id: 1..63 bytes; default: one of its own.
        """
        return self.call(
            calls.create_domain(
                config,
                file_name=file_name,
                stopped=stopped,
                validate_only=validate_only,
                request_id=request_id,
            )
        )

    def start_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        """Starts a domain that is STOPPED or CRASHED."""
        return self.call(calls.start_domain(name, request_id))

    def pause_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        """Keeps the vcoprocs of a domain off their coprocs; returns when none runs."""
        return self.call(calls.pause_domain(name, request_id))

    def resume_domain(self, name: str, *, request_id: str = "") -> api.Domain:
        """Lets a PAUSED domain go on."""
        return self.call(calls.resume_domain(name, request_id))

    def shut_down_domain(
        self, name: str, *, timeout_ns: int = 0, request_id: str = ""
    ) -> api.Domain:
        """Ends a domain in good order. timeout_ns: how long its vcoprocs may finish what they do.

        Returns:
            The domain, STOPPED; or destroyed or started again, if its file says so.
        """
        return self.call(calls.shut_down_domain(name, timeout_ns, request_id))

    def crash_domain(self, name: str, *, why: str = "", request_id: str = "") -> api.Domain:
        """Declares that a domain has crashed."""
        return self.call(calls.crash_domain(name, why, request_id))

    def rename_domain(self, name: str, new_name: str, *, request_id: str = "") -> api.Domain:
        """Gives a domain another name."""
        return self.call(calls.rename_domain(name, new_name, request_id))

    def destroy_domain(self, name: str, *, request_id: str = "") -> None:
        """Destroys a domain; its vcoprocs leave their coprocs, its memory is released."""
        self.call(calls.destroy_domain(name, request_id))

    def domain(self, name: str) -> api.Domain:
        """One domain."""
        return self.call(calls.domain(name))

    def domains(self, filter: str = "") -> Iterator[api.Domain]:
        """All domains, by name. filter: for example "state=RUNNING name=au*"."""
        return self.items(calls.domains(filter))

    def open_domain(self, name: str) -> api.DomainAccess:
        """What a domain needs to run its drivers; `vcoproc.guest.Domain` uses it."""
        return self.call(calls.open_domain(name))

    def device_tree(self, name: str) -> api.GetDomainDeviceTreeResponse:
        """The device-tree fragment of a domain, as source and as blob."""
        return self.call(calls.device_tree(name))

    def save_domain(
        self, name: str, path: Path | str, *, shut_down: bool = False, progress: Progress = unseen
    ) -> None:
        """Writes a domain with its memory to a file, which is there whole or not at all.

        Args:
            shut_down: stop it then. When that fails after everything was written, the file is kept.
            progress: is told how many bytes have passed so far.

        Raises:
            OSError: the file cannot be written.
        """
        self._save("SaveDomain", calls.save_domain(name, shut_down=shut_down), Path(path), progress)

    def restore_domain(
        self,
        path: Path | str,
        *,
        new_name: str = "",
        paused: bool = False,
        coprocs: Mapping[str, str] | None = None,
        request_id: str = "",
        progress: Progress = unseen,
    ) -> api.Domain:
        """Makes a domain from a file of `save_domain`. coprocs: others than it had, by vcoproc.

        Raises:
            OSError: the file cannot be read.
        """
        requests = calls.restore_domain(
            Path(path),
            new_name=new_name,
            paused=paused,
            coprocs=coprocs or {},
            request_id=request_id,
            progress=progress,
        )
        return self._restore("RestoreDomain", requests, api.Domain)

    # --- vcoprocs ---------------------------------------------------------------------------------

    def create_vcoproc(
        self, domain: str, spec: str, *, validate_only: bool = False, request_id: str = ""
    ) -> api.Vcoproc:
        """Attaches one more vcoproc to a domain. spec: "coproc=dsp0,name=audio,weight=512"."""
        return self.call(
            calls.create_vcoproc(domain, spec, validate_only=validate_only, request_id=request_id)
        )

    def destroy_vcoproc(self, name: str, *, request_id: str = "") -> None:
        """Detaches a vcoproc."""
        self.call(calls.destroy_vcoproc(name, request_id))

    def move_vcoproc(self, name: str, coproc: str, *, request_id: str = "") -> api.Vcoproc:
        """Moves a vcoproc with its context to another coproc of the same type."""
        return self.call(calls.move_vcoproc(name, coproc, request_id))

    def vcoproc(self, name: str) -> api.Vcoproc:
        """One vcoproc."""
        return self.call(calls.vcoproc(name))

    def vcoprocs(self, domain: str = "", filter: str = "") -> Iterator[api.Vcoproc]:
        """Vcoprocs by name, of one domain or of all. filter: for example "state=FAULTED"."""
        return self.items(calls.vcoprocs(domain, filter))

    def save_vcoproc(self, name: str, path: Path | str, *, progress: Progress = unseen) -> None:
        """Writes the context of a vcoproc to a file. Raises as `save_domain`."""
        self._save("SaveVcoproc", calls.save_vcoproc(name), Path(path), progress)

    def restore_vcoproc(
        self, name: str, path: Path | str, *, request_id: str = "", progress: Progress = unseen
    ) -> api.Vcoproc:
        """Loads the context of a vcoproc from a file. Raises as `restore_domain`."""
        requests = calls.restore_vcoproc(name, Path(path), request_id, progress)
        return self._restore("RestoreVcoproc", requests, api.Vcoproc)

    # --- coprocs ----------------------------------------------------------------------------------

    def add_coprocs(
        self,
        tree: bytes | str,
        *,
        file_name: str = "",
        names: Sequence[str] = (),
        validate_only: bool = False,
        request_id: str = "",
    ) -> list[api.Coproc]:
        """Adds coprocs of a system tree. names: of those to add; default: all that it shares."""
        call = calls.add_coprocs(
            tree.encode() if isinstance(tree, str) else tree,
            file_name=file_name,
            names=names,
            validate_only=validate_only,
            request_id=request_id,
        )
        return list(self.call(call).coprocs)

    def drain_coproc(
        self, name: str, *, move_vcoprocs: bool = False, request_id: str = ""
    ) -> api.Coproc:
        """Lets a coproc take no new vcoprocs, and moves those that it has if that is wanted."""
        return self.call(
            calls.drain_coproc(name, move_vcoprocs=move_vcoprocs, request_id=request_id)
        )

    def undrain_coproc(self, name: str, *, request_id: str = "") -> api.Coproc:
        """Takes a drain back."""
        return self.call(calls.undrain_coproc(name, request_id))

    def remove_coproc(
        self, name: str, *, destroy_vcoprocs: bool = False, request_id: str = ""
    ) -> None:
        """Removes a coproc from the system."""
        self.call(
            calls.remove_coproc(name, destroy_vcoprocs=destroy_vcoprocs, request_id=request_id)
        )

    def replace_coproc(self, name: str, replacement: str, *, request_id: str = "") -> api.Coproc:
        """Moves all vcoprocs of a coproc to another one and removes it; gives the other one."""
        return self.call(calls.replace_coproc(name, replacement, request_id))

    def coproc(self, name: str) -> api.Coproc:
        """One coproc."""
        return self.call(calls.coproc(name))

    def coprocs(self, filter: str = "", *, show_unused: bool = False) -> Iterator[api.Coproc]:
        """All coprocs. filter: for example "state=ONLINE compatible=vcoproc,*".

        Args:
            show_unused: also those that templates make on demand and nobody has demanded yet.
        """
        return self.items(calls.coprocs(filter, show_unused=show_unused))

    def coproc_types(self) -> list[api.CoprocType]:
        """Coprocessor types, and how many vcoprocs still fit."""
        return list(self.call(calls.coproc_types()).types)

    def configuration(self, coproc: str = "") -> api.Configuration:
        """What is in force, and where each value comes from. coproc: empty for all."""
        return self.call(calls.configuration(coproc))

    # --- schedules --------------------------------------------------------------------------------

    def algorithms(self) -> list[api.Algorithm]:
        """All installed scheduling algorithms with their parameters."""
        return list(self.call(calls.algorithms()).algorithms)

    def schedule(self, coproc: str) -> api.Schedule:
        """How a coproc is scheduled, and what came of it."""
        return self.call(calls.schedule(coproc))

    def set_schedule(
        self,
        coproc: str,
        *,
        algorithm: str = "",
        slice_ns: int = 0,
        parameters: Mapping[str, int] | None = None,
        vcoprocs: Mapping[str, Mapping[str, int]] | None = None,
        request_id: str = "",
    ) -> api.SetScheduleResponse:
        """Sets algorithm, slice and parameters while vcoprocs run; what is not named stays.

        Args:
            slice_ns: in steps of a microsecond.
            vcoprocs: parameters by name of the vcoproc, which change together with all this.
        """
        return self.call(
            calls.set_schedule(
                coproc,
                algorithm=algorithm,
                slice_ns=slice_ns,
                parameters=parameters or {},
                vcoprocs=vcoprocs or {},
                request_id=request_id,
            )
        )

    def set_parameters(
        self, vcoproc: str, parameters: Mapping[str, int], *, request_id: str = ""
    ) -> api.Vcoproc:
        """Sets scheduling parameters of a vcoproc; those not named stay."""
        return self.call(calls.set_parameters(vcoproc, parameters, request_id))

    def analyse(
        self, coproc: str, *, switch_ns: int = 0, refusal_ns: int = 0, work_ns: int = 0
    ) -> api.ScheduleAnalysis:
        """What every vcoproc of a coproc is sure to get, beside what was observed."""
        return self.call(
            calls.analyse(coproc, switch_ns=switch_ns, refusal_ns=refusal_ns, work_ns=work_ns)
        )

    def decisions(
        self, coproc: str, *, after: int = 0, follow: bool = False
    ) -> Iterator[api.Decision]:
        """Decisions with a higher number; follow: and all that are made from now on."""
        request = calls.watch_decisions(coproc, after, follow=follow)
        return self.stream("toolstack", "WatchDecisions", request)

    # --- the cluster ------------------------------------------------------------------------------

    def picture(self) -> cluster_pb2.Cluster:
        """Everything at once, of one revision."""
        return self.call(calls.picture())

    def statistics(self) -> cluster_pb2.Statistics:
        """Counters of all coprocs and vcoprocs."""
        return self.call(calls.statistics())

    def lines(self, filter: str = "") -> Iterator[cluster_pb2.Line]:
        """Interrupt lines as the irq-router has them. filter: for example "pending=true"."""
        return self.items(calls.lines(filter))

    def watch_lines(
        self, filter: str = "", *, interval_ns: int = 0
    ) -> Iterator[cluster_pb2.WatchLinesResponse]:
        """Lines that have changed, at an interval; 0: a second."""
        return self.stream("cluster", "WatchLines", calls.watch_lines(filter, interval_ns))

    def faults(self, filter: str = "") -> Iterator[cluster_pb2.Fault]:
        """Faults, newest first. filter: for example "current=true"."""
        return self.items(calls.faults(filter))

    def events(self, filter: str = "", *, after_revision: int = 0) -> Iterator[api.Event]:
        """Events that are kept, oldest first. filter: for example "type=vcoproc kind=FAULTED"."""
        return self.items(calls.events(filter, after_revision))

    def caller(self) -> audit_pb2.Caller:
        """Who the cluster takes this program for."""
        return self.call(calls.caller())

    def audit(self, filter: str = "") -> Iterator[audit_pb2.AuditEntry]:
        """Who changed what, newest first. filter: for example "caller=alice outcome=OK"."""
        return self.items(calls.audit(filter))

    def watch(
        self, filter: str = "", *, revision: int | None = None, patience_ns: int = 60_000_000_000
    ) -> Iterator[api.Event]:
        """Events as they come, each once, also across restarts of the toolstack.

        Args:
            revision: events after this one, for example of `picture`; default: from now on.
            patience_ns: how long a cluster that does not answer is waited for.

        Raises:
            RemoteRefusal: REVISION_GONE: look at everything again, then watch from there.
        """
        if revision is None:
            revision = self.call(calls.newest_events()).revision
        return self._watch(Watch(revision, filter, patience_ns / 1e9))

    def _watch(self, watch: Watch) -> Iterator[api.Event]:
        attempt = 0
        while True:
            try:
                if attempt:  # a watch alone does not tell a quiet cluster from a silent one
                    self.call(calls.newest_events())
                    watch.served(time.monotonic())
                for event in self.stream("toolstack", "WatchEvents", watch.request()):
                    attempt = 0
                    watch.seen(event)
                    yield event
                # A toolstack that stops ends its streams in good order; another one follows.
                raise Unreachable(self._place.shown, "it has ended the watch")
            except VcoprocError as error:
                if self._gone() or not watch.goes_on(error, time.monotonic()):
                    raise
            attempt += 1
            if self._closed.wait(retry_delay_s(attempt)):
                return

    # --- any call ---------------------------------------------------------------------------------

    def call(self, call: Call[Answer], *, timeout_s: float | None = None) -> Answer:
        """Makes one call of `vcoproc.client.calls`."""
        method = getattr(self._stubs[call.service], call.method)
        timeout_s = timeout_s or (CHANGE_TIMEOUT_S if call.change else READ_TIMEOUT_S)
        end_s = time.monotonic() + timeout_s
        patient_until_s = time.monotonic() + PATIENCE_S
        attempt = 0
        while True:
            try:
                answer: Answer = method(call.request, timeout=max(0.0, end_s - time.monotonic()))
                return answer
            except grpc.RpcError as error:
                attempt += 1
                delay_s = retry_delay_s(attempt)
                late = time.monotonic() + delay_s >= min(end_s, patient_until_s)
                if late or not reached_nobody(error) or self._gone():
                    raise meaning(error, self._place) from None
            self._closed.wait(delay_s)

    def items(self, listing: Listing[Answer]) -> Iterator[Answer]:
        """All items of a list of `vcoproc.client.calls`, page by page."""
        while True:
            page: Any = self.call(Call(listing.service, listing.method, listing.request, object))
            yield from getattr(page, listing.field)
            if not page.next_page_token:
                return
            listing.request.page_token = page.next_page_token

    def whole(self, listing: Listing[Any]) -> Any:
        """All pages of a list as one answer."""
        answer: Any = self.call(Call(listing.service, listing.method, listing.request, object))
        while token := answer.next_page_token:
            listing.request.page_token = token
            page: Any = self.call(Call(listing.service, listing.method, listing.request, object))
            getattr(answer, listing.field).extend(getattr(page, listing.field))
            answer.next_page_token = page.next_page_token
        return answer

    def stream(self, service: str, method: str, request: Any) -> Iterator[Any]:
        """Answers of a stream as they come."""
        stream = getattr(self._stubs[service], method)(request)
        try:
            yield from stream
        except grpc.RpcError as error:
            raise meaning(error, self._place) from None
        finally:
            stream.cancel()

    def _gone(self) -> bool:
        """Whether it makes no sense to ask again."""
        return self._closed.is_set() or has_ended(self._place)

    def _save(self, method: str, request: Any, path: Path, progress: Progress) -> None:
        with written(path, worth_keeping=calls.all_that_is_left(request)) as file:
            for chunk in self.stream("toolstack", method, request):
                file.write(chunk.data)
                progress(file.tell())

    def _restore(self, method: str, requests: Iterator[Any], answer: type[Answer]) -> Answer:
        requests = calls.begun(requests)
        try:
            made: Answer = getattr(self._stubs["toolstack"], method)(
                requests, timeout=CHANGE_TIMEOUT_S
            )
            return made
        except grpc.RpcError as error:
            raise meaning(error, self._place) from None
