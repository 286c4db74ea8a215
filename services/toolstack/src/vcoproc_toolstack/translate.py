"""Between proto messages and records, and the checks of every field of a request."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import name_problem
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig
from vcoproc.internal.v1 import control_pb2 as pb
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.capacity import TypeCapacity
from vcoproc_toolstack.leases import Lease, Offer
from vcoproc_toolstack.queries import (
    CoprocStatus,
    DomainOpening,
    FileSpan,
    Statuses,
    VcoprocOpening,
    shown_status,
)
from vcoproc_toolstack.records import (
    Accounting,
    DomainRecord,
    EventRecord,
    Life,
    PlatformLine,
    PlatformRange,
    PlatformRecord,
    PlatformRegister,
    VcoprocRecord,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.turns import Request

_LIVES: Final[Mapping[Life, api.Domain.State.ValueType]] = {
    Life.CREATING: api.Domain.STATE_CREATING,
    Life.DESTROYING: api.Domain.STATE_DESTROYING,
}
"""In the others a domain is shown as what it is to be."""
_STATES: Final[Mapping[DomainState, api.Domain.State.ValueType]] = {
    DomainState.RUNNING: api.Domain.STATE_RUNNING,
    DomainState.PAUSED: api.Domain.STATE_PAUSED,
    DomainState.SAVING: api.Domain.STATE_PAUSED,
    DomainState.SHUTTING_DOWN: api.Domain.STATE_SHUTTING_DOWN,
    DomainState.STOPPED: api.Domain.STATE_STOPPED,
    DomainState.CRASHED: api.Domain.STATE_CRASHED,
}
_UNKNOWN: Final = VcoprocStatus(VcoprocState.UNKNOWN)
_RECORDS_CACHED: Final = 16_384
"""Messages kept of domains, and as many of vcoprocs: about 7 MiB of 200 bytes each."""
_NEW: Final = VcoprocStatus(VcoprocState.SLEEPING)
"""Nobody has started anything on a vcoproc that was just made."""
_ERROR_BYTES_MAX: Final = 6000
"""A client takes 8192 bytes of headers and trailers from gRPC; more, and it loses the reason."""
_TEXT_BYTES_MAX: Final = 1024
"""Of a text that a coproc-sim sends."""
_OFFSET_MAX: Final = limits.RANGE_BYTES_MAX - 1
_WIDTHS: Final = (1, 2, 4)
_ACCESSES: Final = ("ro", "rw", "wo", "w1c")
_WHEN_OUT: Final = ("shadow", "replay", "hold", "const", "deny")


# --- requests -------------------------------------------------------------------------------------


def parse_name(field: str, name: str, *kinds: str) -> tuple[str, ...]:
    """The parts of a resource name. kinds: ("domains", "vcoprocs") reads domains/a/vcoprocs/b.

    Raises:
        InvalidArgument: it has another form.
    """
    form = "/".join(f"{kind}/{{{kind[:-1]}}}" for kind in kinds)
    words = name.split("/") if len(name) <= 1024 else []
    if len(words) != 2 * len(kinds) or tuple(words[::2]) != kinds:
        raise InvalidArgument(field, f"must have the form {form}")
    return tuple(check_name(field, word) for word in words[1::2])


def check_text(field: str, text: str, bytes_max: int, *, empty: bool = True) -> str:
    """A text within its bound.

    Raises:
        InvalidArgument: it is too long, or empty where it must not be.
    """
    if not text and not empty:
        raise InvalidArgument(field, "is empty")
    if len(text.encode()) > bytes_max:
        raise InvalidArgument(field, f"is longer than {bytes_max} bytes")
    return text


def check_name(field: str, name: str) -> str:
    """A name of a domain or vcoproc. Raises: InvalidArgument."""
    if why := name_problem(name):
        raise InvalidArgument(field, f"the name {why}")
    return name


def read_request(message: Any, also: bytes = b"") -> Request:
    """What makes a request idempotent: its id, and a fingerprint of everything else in it.

    Args:
        also: what belongs to the request and is not in the message.

    Raises:
        InvalidArgument: the id is too long, or has characters that cannot be printed.
    """
    request_id = check_text("request_id", message.request_id, limits.REQUEST_ID_BYTES_MAX)
    if request_id and not request_id.isprintable():
        raise InvalidArgument("request_id", "has characters that cannot be printed")
    rest = type(message)()
    rest.CopyFrom(message)
    rest.ClearField("request_id")
    text = type(message).__name__.encode() + b"\0" + rest.SerializeToString(deterministic=True)
    return Request(request_id, hashlib.sha256(text + also).digest())


def shorten_problems(error: InvalidConfig) -> InvalidConfig:
    """The same with as many problems as an answer has room for, and the count of the others."""
    kept: list[ConfigProblem] = []
    room = _ERROR_BYTES_MAX
    for problem in error.problems:
        # Twice in the trailers of the call: percent-encoded, and as a message in base64.
        text = f"{problem}\n".encode()
        room -= sum(1 if 0x20 <= byte < 0x7F else 3 for byte in text) + len(text) * 4 // 3
        if room < 0:
            break
        kept.append(problem)
    left = len(error.problems) - len(kept)
    if not left:
        return error
    why = f"at least {left} more are not listed"
    rest = ConfigProblem(error.problems[0].file, 0, "too many problems", why)
    return InvalidConfig([*kept, rest])


def read_page_size(page_size: int) -> int:
    """Raises: InvalidArgument."""
    if not 0 <= page_size <= limits.PAGE_SIZE_MAX:
        raise InvalidArgument("page_size", f"{page_size} is not between 0 and 1000")
    return page_size or limits.PAGE_SIZE_MAX


def page_token(kind: str, *last: str) -> str:
    """A token for the page after the resource that `last` names. kind: what list it belongs to."""
    return base64.urlsafe_b64encode(json.dumps([kind, *last]).encode()).decode()


def read_page_token(token: str, kind: str, part_count: int) -> tuple[str, ...] | None:
    """What a token was made of; None for the first page.

    Raises:
        InvalidArgument: it is not a token of this list.
    """
    if not token:
        return None
    try:
        parts = json.loads(base64.urlsafe_b64decode(check_text("page_token", token, 1024)))
    except (ValueError, RecursionError):
        parts = None
    if (
        not isinstance(parts, list)
        or len(parts) != part_count + 1
        or not all(isinstance(part, str) for part in parts)
        or parts[0] != kind
    ):
        raise InvalidArgument("page_token", "was not made by this list, or with another filter")
    return tuple(parts[1:])


# --- answers --------------------------------------------------------------------------------------


def domain_message(domain: DomainRecord, statuses: Statuses) -> api.Domain:
    message = api.Domain.FromString(_domain_bytes(domain))
    for vcoproc in domain.vcoprocs:
        _put_vcoproc(message.vcoprocs.add(), vcoproc, statuses)
    return message


def vcoproc_message(vcoproc: VcoprocRecord, statuses: Statuses) -> api.Vcoproc:
    message = api.Vcoproc()
    _put_vcoproc(message, vcoproc, statuses)
    return message


def _put_vcoproc(message: api.Vcoproc, vcoproc: VcoprocRecord, statuses: Statuses) -> None:
    message.MergeFromString(_vcoproc_bytes(vcoproc))
    status = statuses.get(vcoproc.vcoproc_id, _UNKNOWN)
    message.state = vcoproc_state(status.state)
    if status.accounting is not None:
        message.accounting.MergeFrom(accounting_message(status.accounting))
        message.accounting.SetInParent()  # all figures may be zero


# What does not change as long as the record does not is made once: a list of thousands takes a
# third of the time.


@lru_cache(_RECORDS_CACHED)
def _domain_bytes(domain: DomainRecord) -> bytes:
    """A domain without its vcoprocs."""
    return api.Domain(
        name=domain.resource,
        domid=domain.domid,
        memory_bytes=domain.memory_bytes,
        state=_LIVES.get(domain.life, _STATES[domain.state]),
        unknown_keys=domain.unknown_keys,
        revision=domain.revision,
        state_reason=domain.state_reason,
        create_time_ns=domain.create_time_ns,
        on_poweroff=domain.on_poweroff.value,
        on_crash=domain.on_crash.value,
    ).SerializeToString()


@lru_cache(_RECORDS_CACHED)
def _vcoproc_bytes(vcoproc: VcoprocRecord) -> bytes:
    """A vcoproc without its state and accounting."""
    return api.Vcoproc(
        name=vcoproc.resource,
        vcoproc_id=vcoproc.vcoproc_id,
        coproc=f"coprocs/{vcoproc.coproc}",
        ranges=[
            api.RegisterRange(
                name=place.name,
                base_ipa=place.ipa,
                size_bytes=place.size_bytes,
                mapped=place.mapped,
            )
            for place in vcoproc.ranges
        ],
        lines=[
            api.InterruptLine(name=line.name, irq=line.irq, level=line.level)
            for line in vcoproc.lines
        ],
        parameters=dict(vcoproc.params),
        revision=vcoproc.revision,
        compatible=vcoproc.compatible,
    ).SerializeToString()


def seal_domain(domain: DomainRecord) -> bytes:
    """The answer about a domain, as it is kept for a repeated request."""
    statuses = {each.vcoproc_id: shown_status(each, _NEW) for each in domain.vcoprocs}
    return domain_message(domain, statuses).SerializeToString()


def seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    """As `seal_domain`."""
    statuses = {vcoproc.vcoproc_id: shown_status(vcoproc, _NEW)}
    return vcoproc_message(vcoproc, statuses).SerializeToString()


def accounting_message(figures: Accounting) -> api.Accounting:
    return api.Accounting(
        run_ns=figures.run_ns,
        wait_ns=figures.wait_ns,
        refused_ns=figures.refused_ns,
        overtime_ns=figures.overtime_ns,
        switch_ns=figures.switch_ns,
        switch_count=figures.switch_count,
        wake_count=figures.wake_count,
        instruction_count=figures.instruction_count,
    )


@lru_cache
def vcoproc_state(state: VcoprocState) -> api.Vcoproc.State.ValueType:
    """A state as the public API names it."""
    if state is VcoprocState.UNKNOWN:
        return api.Vcoproc.STATE_UNSPECIFIED
    return api.Vcoproc.State.Value(f"STATE_{state.value}")


def coproc_message(status: CoprocStatus) -> api.Coproc:
    config = status.config
    return api.Coproc(
        name=f"coprocs/{config.name}",
        path=config.path,
        compatible=config.compatible,
        state=api.Coproc.State.Value(f"STATE_{status.state.value}"),
        scheduler=config.scheduler,
        slice_us=config.slice_ns // limits.US,
        vcoproc_count=status.vcoproc_count,
        vcoproc_count_max=config.vcoprocs_max,
        private_memory_bytes=config.private_bytes,
        clock_hz=config.clock_hz,
        current_vcoproc=status.current,
        switch_count=status.switch_count,
        draining=status.draining,
        memory_bytes_max=config.memory_bytes_max,
        memory_bytes=status.memory_bytes,
        refusal_us=config.refusal_deadline_ns // limits.US,
        refusal_drain_us=config.refusal_drain_ns // limits.US,
        revision=status.revision,
        added=status.added,
        aliases=config.aliases,
        template=status.template,
        state_reason=status.reason,
    )


def type_message(capacity: TypeCapacity) -> api.CoprocType:
    return api.CoprocType(
        compatible=capacity.compatible,
        coproc_count=capacity.coproc_count,
        available_count=capacity.available_count,
        vcoproc_count=capacity.vcoproc_count,
        free_count=capacity.free_count,
        rooms=[
            api.CoprocRoom(coproc=f"coprocs/{load.name}", free_count=load.free_count)
            for load in capacity.rooms
        ],
    )


def event_message(event: EventRecord) -> api.Event:
    return api.Event(
        revision=event.revision,
        name=event.name,
        kind=api.Event.Kind.Value(f"KIND_{event.kind.value}"),
        description=event.description,
        time_ns=event.time_ns,
        actor=event.actor,
    )


def access_message(opening: DomainOpening) -> api.DomainAccess:
    return api.DomainAccess(
        domain=domain_message(opening.domain, opening.statuses),
        memory=[_region(opening.memory)],
        irq_credential=opening.domain.irq_credential,
        irq_endpoint=opening.irq_endpoint,
        vcoprocs=[_vcoproc_access(each) for each in opening.vcoprocs],
    )


def _vcoproc_access(opening: VcoprocOpening) -> api.VcoprocAccess:
    return api.VcoprocAccess(
        name=opening.vcoproc.resource,
        trap_credential=opening.vcoproc.trap_credential,
        trap_endpoint=opening.trap_endpoint,
        mapped=[_region(span) for span in opening.mapped],
        compatible=opening.vcoproc.compatible,
        registers=[
            api.RegisterInfo(
                range=register.range,
                name=register.name,
                offset=register.offset,
                width_bytes=register.width_bytes,
                access=register.access,
                when_out=register.when_out,
                description=register.description,
            )
            for register in opening.platform.registers
        ],
    )


def _region(span: FileSpan) -> api.MemoryRegion:
    return api.MemoryRegion(base_ipa=span.base_ipa, size_bytes=span.size_bytes, path=span.path)


# --- leases ---------------------------------------------------------------------------------------


def read_offer(request: pb.LeaseCoprocRequest) -> Offer:
    """Raises: InvalidArgument."""
    if request.coproc and (why := name_problem(request.coproc)):
        raise InvalidArgument("coproc", f"the name {why}")
    if not 1 <= len(request.platforms) <= limits.PLATFORMS_PER_LEASE_MAX:
        count_max = limits.PLATFORMS_PER_LEASE_MAX
        raise InvalidArgument(
            "platforms", f"must be 1 to {count_max}, are {len(request.platforms)}"
        )
    platforms = [_platform(message) for message in request.platforms]
    return Offer(
        wanted=request.coproc,
        control_target=check_text(
            "control_target", request.control_target, _TEXT_BYTES_MAX, empty=False
        ),
        trap_endpoint=check_text(
            "trap_endpoint", request.trap_endpoint, _TEXT_BYTES_MAX, empty=False
        ),
        holder=check_text("holder", request.holder, _TEXT_BYTES_MAX) or "an unnamed coproc-sim",
        platforms={platform.compatible: platform for platform in platforms},
        incarnation=request.incarnation if request.HasField("incarnation") else None,
    )


def _platform(message: pb.PlatformDescription) -> PlatformRecord:
    check_text("platforms.compatible", message.compatible, _TEXT_BYTES_MAX, empty=False)
    counts = (
        ("ranges", len(message.ranges), limits.RANGES_PER_COPROC_MAX),
        ("lines", len(message.lines), limits.LINES_PER_VCOPROC_MAX),
        ("registers", len(message.registers), limits.REGISTERS_PER_PLATFORM_MAX),
    )
    for field, count, count_max in counts:
        if count > count_max:
            raise InvalidArgument(f"platforms.{field}", f"are {count}, at most {count_max}")
    if message.contexts_max == 0:
        raise InvalidArgument("platforms.contexts_max", "must be 1 or more")
    names = [each.name for each in message.ranges] + [each.name for each in message.lines]
    for name in names:
        if why := name_problem(name):
            raise InvalidArgument("platforms.ranges or lines", f"the name {why}")
    for size_bytes in (each.size_bytes for each in message.ranges):
        if size_bytes % limits.PAGE_BYTES or not 0 < size_bytes <= limits.RANGE_BYTES_MAX:
            raise InvalidArgument(
                "platforms.ranges.size_bytes", f"{size_bytes} is no page multiple"
            )
    trapped = {each.name for each in message.ranges if not each.mapped}
    return PlatformRecord(
        compatible=message.compatible,
        ranges=tuple(PlatformRange(r.name, r.size_bytes, r.mapped) for r in message.ranges),
        lines=tuple(PlatformLine(line.name, line.level) for line in message.lines),
        registers=tuple(_register(each, trapped) for each in message.registers),
        contexts_max=message.contexts_max,
    )


def _register(message: api.RegisterInfo, trapped: set[str]) -> PlatformRegister:
    field = "platforms.registers"
    check_text(f"{field}.name", message.name, _TEXT_BYTES_MAX, empty=False)
    check_text(f"{field}.description", message.description, _TEXT_BYTES_MAX)
    if message.range not in trapped:
        raise InvalidArgument(f"{field}.range", f"{message.range!r} is no trapped range")
    if message.offset > _OFFSET_MAX:
        raise InvalidArgument(f"{field}.offset", f"{message.offset:#x} is above {_OFFSET_MAX:#x}")
    if message.width_bytes not in _WIDTHS:
        raise InvalidArgument(f"{field}.width_bytes", f"{message.width_bytes} is not 1, 2 or 4")
    if message.access not in _ACCESSES:
        raise InvalidArgument(f"{field}.access", f"{message.access!r} is not one of {_ACCESSES}")
    if message.when_out not in _WHEN_OUT:
        raise InvalidArgument(f"{field}.when_out", f"{message.when_out!r} is not of {_WHEN_OUT}")
    return PlatformRegister(
        message.range,
        message.name,
        message.offset,
        message.width_bytes,
        message.access,
        message.when_out,
        message.description,
    )


def lease_message(
    lease: Lease, *, schedule_endpoint: str, irq_endpoint: str, credential: bytes
) -> pb.CoprocLease:
    return pb.CoprocLease(
        coproc=lease.coproc.name,
        compatible=lease.coproc.compatible,
        private_memory_bytes=lease.coproc.private_bytes,
        clock_hz=lease.coproc.clock_hz,
        platform_parameters={name: str(value) for name, value in lease.coproc.platform_params},
        refusal_drain_ns=lease.coproc.refusal_drain_ns,
        incarnation=lease.incarnation,
        schedule_endpoint=schedule_endpoint,
        irq_endpoint=irq_endpoint,
        credential=credential,
    )
