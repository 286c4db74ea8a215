"""Between records and proto messages, as far as the whole cluster is concerned."""

from __future__ import annotations

from collections.abc import Iterable

from vcoproc import limits
from vcoproc.api.v1 import cluster_pb2
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.errors import InvalidArgument
from vcoproc_toolstack.cluster_queries import Fault, Line, Picture, named_lines
from vcoproc_toolstack.looking import LineStatus
from vcoproc_toolstack.queries import coproc_statuses, type_capacities
from vcoproc_toolstack.records import VcoprocRecord, VcoprocState, VcoprocStatus
from vcoproc_toolstack.schedule_changes import Scheduled
from vcoproc_toolstack.steps import IRQ_ROUTER, SCHEDULER
from vcoproc_toolstack.translate import (
    accounting_message,
    coproc_message,
    domain_message,
    type_message,
    vcoproc_state,
)
from vcoproc_toolstack.translate_schedule import schedule_message

_UNKNOWN = VcoprocStatus(VcoprocState.UNKNOWN)


def read_interval_ns(interval_us: int) -> int:
    """Time between two samples. Raises: InvalidArgument."""
    if not interval_us:
        return limits.LINE_INTERVAL_NS_DEFAULT
    low, high = (
        bound // limits.US for bound in (limits.LINE_INTERVAL_NS_MIN, limits.LINE_INTERVAL_NS_MAX)
    )
    if not low <= interval_us <= high:
        raise InvalidArgument("interval_us", f"{interval_us} is not between {low} and {high}")
    return interval_us * limits.US


# --- the whole picture ----------------------------------------------------------------------------


def cluster_message(picture: Picture) -> cluster_pb2.Cluster:
    desired, sight = picture.desired, picture.sight
    coprocs = coproc_statuses(desired, desired.coprocs, sight.accounts or ())
    lines = named_lines(sight.lines or (), desired.vcoprocs)
    types = type_capacities(desired, coprocs)
    services = ((SCHEDULER, sight.accounts), (IRQ_ROUTER, sight.lines))
    return cluster_pb2.Cluster(
        revision=desired.revision,
        time_ns=picture.time_ns,
        domains=[domain_message(domain, picture.statuses) for domain in desired.domains],
        coprocs=[coproc_message(status) for status in coprocs],
        schedules=_schedules(picture),
        lines=[line_message(line) for line in lines],
        types=[type_message(each) for each in types],
        services=[
            cluster_pb2.ServiceStatus(name=name, online=said is not None) for name, said in services
        ],
        gaps=picture.gaps,
    )


def _schedules(picture: Picture) -> Iterable[api.Schedule]:
    desired = picture.desired
    vcoprocs_on = desired.vcoprocs_on()
    for coproc in desired.coprocs:
        name = coproc.name
        if view := picture.sight.schedules.get(name):
            overridden = name in desired.overridden
            yield schedule_message(Scheduled(coproc, view, vcoprocs_on[name], overridden))


# --- counters -------------------------------------------------------------------------------------


def statistics_message(picture: Picture) -> cluster_pb2.Statistics:
    desired, sight = picture.desired, picture.sight
    algorithms = {each.coproc: each.algorithm for each in sight.accounts or ()}
    raised = _raised_counts(sight.lines or ())
    vcoprocs_on = desired.vcoprocs_on()
    coprocs = []
    for status in coproc_statuses(desired, desired.coprocs, sight.accounts or ()):
        name = status.config.name
        counts = sight.coprocs.get(name)
        vcoprocs = sorted(vcoprocs_on[name].values(), key=lambda each: each.resource)
        coprocs.append(
            cluster_pb2.CoprocStatistics(
                coproc=f"coprocs/{name}",
                state=api.Coproc.State.Value(f"STATE_{status.state.value}"),
                scheduler=algorithms.get(name) or status.config.scheduler,
                current_vcoproc=status.current,
                switch_count=status.switch_count,
                trap_count=counts.trap_count if counts else 0,
                interrupt_count=sum(raised.get(each.vcoproc_id, 0) for each in vcoprocs),
                vcoprocs=[
                    _vcoproc_statistics(
                        each,
                        picture.statuses.get(each.vcoproc_id, _UNKNOWN),
                        counts.trap_counts.get(each.vcoproc_id, 0) if counts else 0,
                        raised.get(each.vcoproc_id, 0),
                    )
                    for each in vcoprocs
                ],
            )
        )
    return cluster_pb2.Statistics(clock_ns=picture.clock_ns, coprocs=coprocs, gaps=picture.gaps)


def _raised_counts(lines: Iterable[LineStatus]) -> dict[int, int]:
    """How often the lines of each vcoproc have risen."""
    found: dict[int, int] = {}
    for line in lines:
        found[line.vcoproc_id] = found.get(line.vcoproc_id, 0) + line.raised_count
    return found


def _vcoproc_statistics(
    vcoproc: VcoprocRecord, status: VcoprocStatus, trap_count: int, interrupt_count: int
) -> cluster_pb2.VcoprocStatistics:
    return cluster_pb2.VcoprocStatistics(
        vcoproc=vcoproc.resource,
        state=vcoproc_state(status.state),
        accounting=accounting_message(status.accounting) if status.accounting else None,
        refusal_count=status.refusal_count,
        trap_count=trap_count,
        interrupt_count=interrupt_count,
    )


# --- lines and faults -----------------------------------------------------------------------------


def line_message(line: Line) -> cluster_pb2.Line:
    status = line.status
    return cluster_pb2.Line(
        name=line.resource,
        coproc=f"coprocs/{line.vcoproc.coproc}",
        irq=status.irq,
        level=status.level,
        high=status.high,
        pending=status.pending,
        active=status.active,
        enabled=status.enabled,
        raised_count=status.raised_count,
        injected_count=status.injected_count,
        merged_count=status.merged_count,
    )


def fault_message(fault: Fault) -> cluster_pb2.Fault:
    event = fault.event
    return cluster_pb2.Fault(
        revision=event.revision,
        name=event.name,
        code=event.fault.code if event.fault else 0,
        address=event.fault.address if event.fault else 0,
        why=event.description,
        time_ns=event.time_ns,
        current=fault.current,
    )
