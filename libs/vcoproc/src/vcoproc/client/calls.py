"""The calls of the control API as data: which one, with which request. No call is made here.

Every change gets a request id, so that it may be repeated when nobody answered: the cluster does it
once.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from vcoproc.api.v1 import audit_pb2
from vcoproc.api.v1 import cluster_pb2 as cluster
from vcoproc.api.v1 import snapshot_pb2 as snapshot
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.client.names import coproc_name, domain_name, vcoproc_name
from vcoproc.limits import PAGE_SIZE_MAX, SNAPSHOT_CHUNK_BYTES_MAX, US

Answer = TypeVar("Answer")
Progress = Callable[[int], None]
"""Is told how many bytes of a snapshot have passed so far."""
_PAGE_SIZE: Final = PAGE_SIZE_MAX


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """One call. change: it changes something, and takes longer."""

    service: str
    method: str
    request: Any
    answer: type[Answer]
    change: bool = False


@dataclass(frozen=True, slots=True)
class Listing(Generic[Answer]):
    """A list, page by page. field: of an answer, where the items are."""

    service: str
    method: str
    request: Any
    field: str
    item: type[Answer]


def unseen(_count: int) -> None:
    """Progress that nobody looks at."""


def new_request_id() -> str:
    """One that nobody has used."""
    return uuid.uuid4().hex


def _read(method: str, request: Any, answer: type[Answer]) -> Call[Answer]:
    return Call("toolstack", method, request, answer)


def _change(method: str, request: Any, answer: type[Answer], request_id: str) -> Call[Answer]:
    request.request_id = request_id or new_request_id()
    return Call("toolstack", method, request, answer, change=True)


# --- domains --------------------------------------------------------------------------------------


def create_domain(
    config: str, *, file_name: str, stopped: bool, validate_only: bool, request_id: str
) -> Call[api.Domain]:
    request = api.CreateDomainRequest(
        config=config, file_name=file_name, stopped=stopped, validate_only=validate_only
    )
    return _change("CreateDomain", request, api.Domain, request_id)


def start_domain(name: str, request_id: str) -> Call[api.Domain]:
    request = api.StartDomainRequest(name=domain_name(name))
    return _change("StartDomain", request, api.Domain, request_id)


def pause_domain(name: str, request_id: str) -> Call[api.Domain]:
    request = api.PauseDomainRequest(name=domain_name(name))
    return _change("PauseDomain", request, api.Domain, request_id)


def resume_domain(name: str, request_id: str) -> Call[api.Domain]:
    request = api.ResumeDomainRequest(name=domain_name(name))
    return _change("ResumeDomain", request, api.Domain, request_id)


def shut_down_domain(name: str, timeout_ns: int, request_id: str) -> Call[api.Domain]:
    request = api.ShutDownDomainRequest(name=domain_name(name), timeout_us=timeout_ns // US)
    return _change("ShutDownDomain", request, api.Domain, request_id)


def crash_domain(name: str, why: str, request_id: str) -> Call[api.Domain]:
    request = api.CrashDomainRequest(name=domain_name(name), why=why)
    return _change("CrashDomain", request, api.Domain, request_id)


def rename_domain(name: str, new_name: str, request_id: str) -> Call[api.Domain]:
    request = api.RenameDomainRequest(name=domain_name(name), new_name=new_name)
    return _change("RenameDomain", request, api.Domain, request_id)


def destroy_domain(name: str, request_id: str) -> Call[api.DestroyDomainResponse]:
    request = api.DestroyDomainRequest(name=domain_name(name))
    return _change("DestroyDomain", request, api.DestroyDomainResponse, request_id)


def domain(name: str) -> Call[api.Domain]:
    return _read("GetDomain", api.GetDomainRequest(name=domain_name(name)), api.Domain)


def domains(filter: str) -> Listing[api.Domain]:
    request = api.ListDomainsRequest(page_size=_PAGE_SIZE, filter=filter)
    return Listing("toolstack", "ListDomains", request, "domains", api.Domain)


def open_domain(name: str) -> Call[api.DomainAccess]:
    return _read("OpenDomain", api.OpenDomainRequest(name=domain_name(name)), api.DomainAccess)


def device_tree(name: str) -> Call[api.GetDomainDeviceTreeResponse]:
    request = api.GetDomainDeviceTreeRequest(name=domain_name(name))
    return _read("GetDomainDeviceTree", request, api.GetDomainDeviceTreeResponse)


def save_domain(name: str, *, shut_down: bool) -> snapshot.SaveDomainRequest:
    return snapshot.SaveDomainRequest(name=domain_name(name), shut_down=shut_down)


def restore_domain(
    path: Path,
    *,
    new_name: str,
    paused: bool,
    coprocs: Mapping[str, str],
    request_id: str,
    progress: Progress,
) -> Iterator[snapshot.RestoreDomainRequest]:
    """Raises: OSError (the file cannot be read)."""
    options = snapshot.RestoreDomainOptions(
        new_name=new_name,
        request_id=request_id or new_request_id(),
        paused=paused,
        coprocs={vcoproc: coproc_name(coproc) for vcoproc, coproc in coprocs.items()},
    )
    yield snapshot.RestoreDomainRequest(options=options)
    for data in _chunks(path, progress):
        yield snapshot.RestoreDomainRequest(data=data)


# --- vcoprocs -------------------------------------------------------------------------------------


def create_vcoproc(
    domain: str, spec: str, *, validate_only: bool, request_id: str
) -> Call[api.Vcoproc]:
    request = api.CreateVcoprocRequest(
        domain=domain_name(domain), spec=spec, validate_only=validate_only
    )
    return _change("CreateVcoproc", request, api.Vcoproc, request_id)


def destroy_vcoproc(name: str, request_id: str) -> Call[api.DestroyVcoprocResponse]:
    request = api.DestroyVcoprocRequest(name=vcoproc_name(name))
    return _change("DestroyVcoproc", request, api.DestroyVcoprocResponse, request_id)


def move_vcoproc(name: str, coproc: str, request_id: str) -> Call[api.Vcoproc]:
    request = api.MoveVcoprocRequest(name=vcoproc_name(name), coproc=coproc_name(coproc))
    return _change("MoveVcoproc", request, api.Vcoproc, request_id)


def vcoproc(name: str) -> Call[api.Vcoproc]:
    return _read("GetVcoproc", api.GetVcoprocRequest(name=vcoproc_name(name)), api.Vcoproc)


def vcoprocs(domain: str, filter: str) -> Listing[api.Vcoproc]:
    request = api.ListVcoprocsRequest(
        domain=domain_name(domain) if domain else "", page_size=_PAGE_SIZE, filter=filter
    )
    return Listing("toolstack", "ListVcoprocs", request, "vcoprocs", api.Vcoproc)


def save_vcoproc(name: str) -> snapshot.SaveVcoprocRequest:
    return snapshot.SaveVcoprocRequest(name=vcoproc_name(name))


def restore_vcoproc(
    name: str, path: Path, request_id: str, progress: Progress
) -> Iterator[snapshot.RestoreVcoprocRequest]:
    """Raises: OSError (the file cannot be read)."""
    options = snapshot.RestoreVcoprocOptions(
        name=vcoproc_name(name), request_id=request_id or new_request_id()
    )
    yield snapshot.RestoreVcoprocRequest(options=options)
    for data in _chunks(path, progress):
        yield snapshot.RestoreVcoprocRequest(data=data)


def begun(requests: Iterator[Any]) -> Iterator[Any]:
    """The same with its first piece read: an error of the file comes now, not out of gRPC."""
    return itertools.chain(list(itertools.islice(requests, 2)), requests)


def all_that_is_left(request: Any) -> Callable[[Path], bool]:
    """Whether a snapshot may be all that is left of a domain, although saving it failed.

    A domain that was to be stopped then is stopped once the last chunk was taken; whoever dies
    after that cannot say so any more.
    """

    def judge(file: Path) -> bool:
        import zipfile  # not for every command

        return bool(getattr(request, "shut_down", False)) and zipfile.is_zipfile(file)

    return judge


def _chunks(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(SNAPSHOT_CHUNK_BYTES_MAX):
            yield data
            progress(file.tell())


# --- coprocs --------------------------------------------------------------------------------------


def add_coprocs(
    tree: bytes, *, file_name: str, names: Sequence[str], validate_only: bool, request_id: str
) -> Call[api.AddCoprocsResponse]:
    request = api.AddCoprocsRequest(
        tree=tree, file_name=file_name, names=names, validate_only=validate_only
    )
    return _change("AddCoprocs", request, api.AddCoprocsResponse, request_id)


def drain_coproc(name: str, *, move_vcoprocs: bool, request_id: str) -> Call[api.Coproc]:
    request = api.DrainCoprocRequest(name=coproc_name(name), move_vcoprocs=move_vcoprocs)
    return _change("DrainCoproc", request, api.Coproc, request_id)


def undrain_coproc(name: str, request_id: str) -> Call[api.Coproc]:
    request = api.UndrainCoprocRequest(name=coproc_name(name))
    return _change("UndrainCoproc", request, api.Coproc, request_id)


def remove_coproc(
    name: str, *, destroy_vcoprocs: bool, request_id: str
) -> Call[api.RemoveCoprocResponse]:
    request = api.RemoveCoprocRequest(name=coproc_name(name), destroy_vcoprocs=destroy_vcoprocs)
    return _change("RemoveCoproc", request, api.RemoveCoprocResponse, request_id)


def replace_coproc(name: str, replacement: str, request_id: str) -> Call[api.Coproc]:
    request = api.ReplaceCoprocRequest(name=coproc_name(name), replacement=coproc_name(replacement))
    return _change("ReplaceCoproc", request, api.Coproc, request_id)


def coproc(name: str) -> Call[api.Coproc]:
    return _read("GetCoproc", api.GetCoprocRequest(name=coproc_name(name)), api.Coproc)


def coprocs(filter: str, *, show_unused: bool = False) -> Listing[api.Coproc]:
    request = api.ListCoprocsRequest(page_size=_PAGE_SIZE, filter=filter, show_unused=show_unused)
    return Listing("toolstack", "ListCoprocs", request, "coprocs", api.Coproc)


def coproc_types() -> Call[api.ListCoprocTypesResponse]:
    return _read("ListCoprocTypes", api.ListCoprocTypesRequest(), api.ListCoprocTypesResponse)


def configuration(coproc: str) -> Call[api.Configuration]:
    request = api.GetConfigurationRequest(coproc=coproc_name(coproc) if coproc else "")
    return _read("GetConfiguration", request, api.Configuration)


# --- schedules ------------------------------------------------------------------------------------


def algorithms() -> Call[api.ListAlgorithmsResponse]:
    return _read("ListAlgorithms", api.ListAlgorithmsRequest(), api.ListAlgorithmsResponse)


def schedule(coproc: str) -> Call[api.Schedule]:
    return _read("GetSchedule", api.GetScheduleRequest(coproc=coproc_name(coproc)), api.Schedule)


def set_schedule(
    coproc: str,
    *,
    algorithm: str,
    slice_ns: int,
    parameters: Mapping[str, int],
    vcoprocs: Mapping[str, Mapping[str, int]],
    request_id: str,
) -> Call[api.SetScheduleResponse]:
    request = api.SetScheduleRequest(
        coproc=coproc_name(coproc),
        algorithm=algorithm,
        slice_us=slice_ns // US,
        parameters=parameters,
        vcoprocs=[
            api.VcoprocParameters(vcoproc=vcoproc_name(name), parameters=values)
            for name, values in vcoprocs.items()
        ],
    )
    return _change("SetSchedule", request, api.SetScheduleResponse, request_id)


def set_parameters(
    vcoproc: str, parameters: Mapping[str, int], request_id: str
) -> Call[api.Vcoproc]:
    request = api.SetVcoprocParametersRequest(name=vcoproc_name(vcoproc), parameters=parameters)
    return _change("SetVcoprocParameters", request, api.Vcoproc, request_id)


def analyse(
    coproc: str, *, switch_ns: int, refusal_ns: int, work_ns: int
) -> Call[api.ScheduleAnalysis]:
    request = api.AnalyseScheduleRequest(
        coproc=coproc_name(coproc), switch_ns=switch_ns, refusal_ns=refusal_ns, work_ns=work_ns
    )
    return _read("AnalyseSchedule", request, api.ScheduleAnalysis)


def watch_decisions(coproc: str, after: int, *, follow: bool) -> api.WatchDecisionsRequest:
    return api.WatchDecisionsRequest(coproc=coproc_name(coproc), after_number=after, follow=follow)


# --- the cluster ----------------------------------------------------------------------------------


def picture() -> Call[cluster.Cluster]:
    return Call("cluster", "GetCluster", cluster.GetClusterRequest(), cluster.Cluster)


def statistics() -> Call[cluster.Statistics]:
    return Call("cluster", "GetStatistics", cluster.GetStatisticsRequest(), cluster.Statistics)


def lines(filter: str) -> Listing[cluster.Line]:
    request = cluster.ListLinesRequest(page_size=_PAGE_SIZE, filter=filter)
    return Listing("cluster", "ListLines", request, "lines", cluster.Line)


def watch_lines(filter: str, interval_ns: int) -> cluster.WatchLinesRequest:
    return cluster.WatchLinesRequest(filter=filter, interval_us=interval_ns // US)


def faults(filter: str) -> Listing[cluster.Fault]:
    request = cluster.ListFaultsRequest(page_size=_PAGE_SIZE, filter=filter)
    return Listing("cluster", "ListFaults", request, "faults", cluster.Fault)


def events(filter: str, after_revision: int) -> Listing[api.Event]:
    request = api.ListEventsRequest(
        page_size=_PAGE_SIZE, filter=filter, after_revision=after_revision
    )
    return Listing("toolstack", "ListEvents", request, "events", api.Event)


def newest_events() -> Call[api.ListEventsResponse]:
    """Tells the newest revision."""
    return _read("ListEvents", api.ListEventsRequest(page_size=1), api.ListEventsResponse)


def caller() -> Call[audit_pb2.Caller]:
    return Call("cluster", "GetCaller", audit_pb2.GetCallerRequest(), audit_pb2.Caller)


def audit(filter: str) -> Listing[audit_pb2.AuditEntry]:
    request = audit_pb2.ListAuditEntriesRequest(page_size=_PAGE_SIZE, filter=filter)
    return Listing("cluster", "ListAuditEntries", request, "entries", audit_pb2.AuditEntry)
