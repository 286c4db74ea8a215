"""A vcoproc written down, so that it can go on elsewhere or later as if nothing had been.

Theory of operation:
    A paused vcoproc is taken as it is (`take`): its context from the platform, and what the
    framework keeps of it. That is quick. The bytes are made of it, and read and checked, on another
    thread; in pieces, since whoever copies much at once stops all threads. Putting an image into a
    paused vcoproc (`put`) cannot fail.
    Form of the bytes: magic, version (u16), length of all that follows the header (u64) and its
    SHA-256; length of the body (u32), body (msgpack map), the platform's bytes, the mapped ranges;
    little endian. Registers and lines are named, not numbered.
Invariants:
    The reader believes nothing: an image that was read fits this platform.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from vcoproc.errors import BadSnapshot, InvalidArgument, WrongState
from vcoproc.limits import MIB, PRIVATE_MEMORY_BYTES_MAX, REPLAY_QUEUE_MAX
from vcoproc_sim.lines import LineWatch
from vcoproc_sim.platforms.api import (
    Buffer,
    ContextImage,
    Platform,
    PlatformInfo,
    RangeKind,
    Trigger,
    WhenOut,
)
from vcoproc_sim.vcoprocs import Vcoproc

_MAGIC: Final = b"VCvcoproc"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<9sHQ32s")
_LENGTH: Final = struct.Struct("<I")
_OTHER_BYTES_MAX: Final = 4 * MIB
"""Of everything but private memory and mapped ranges."""
_U64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class VcoprocImage:
    """What one vcoproc is.

    replay: queued register writes, (place, value). edges: lines whose edge was not said yet.
    timer_due, timer_left_ns: as in `Vcoproc`. mapped: what its mapped ranges hold; None: it goes on
    with the ranges themselves.
    """

    compatible: str
    context: ContextImage
    replay: tuple[tuple[int, int], ...]
    edges: tuple[int, ...]
    timer_due: bool
    timer_left_ns: int | None
    trap_count: int
    instruction_count: int
    mapped: tuple[Buffer, ...] | None

    def pieces(self, info: PlatformInfo) -> list[Buffer]:
        """As bytes, in order. For any thread: it takes long."""
        context = self.context.pieces()
        body: bytes = msgpack.packb(
            {
                "compatible": self.compatible,
                "context_bytes": sum(map(len, context)),
                "has_mapped": self.mapped is not None,
                "replay": [[info.registers[place].name, value] for place, value in self.replay],
                "edges": [info.lines[number].name for number in self.edges],
                "timer_due": self.timer_due,
                "timer_left_ns": self.timer_left_ns,
                "trap_count": self.trap_count,
                "instruction_count": self.instruction_count,
            }
        )
        rest = [_LENGTH.pack(len(body)) + body, *context, *(self.mapped or ())]
        digest = hashlib.sha256()
        for piece in rest:
            digest.update(piece)
        return [_HEADER.pack(_MAGIC, _VERSION, sum(map(len, rest)), digest.digest()), *rest]


def take(
    vcoproc: Vcoproc, platform: Platform, edges: Sequence[int], *, moving: bool
) -> VcoprocImage:
    """Writes a vcoproc down.

    Args:
        edges: lines of it whose edge was not said yet.
        moving: from now on no access to it is done here, until it is resumed or paused again.

    Raises:
        WrongState: it does not stand still.
    """
    must_stand_still(vcoproc)
    image = VcoprocImage(
        compatible=platform.info.compatible,
        context=platform.snapshot(vcoproc.id, vcoproc.own_ns),
        replay=tuple(vcoproc.replay),
        edges=tuple(edges),
        timer_due=vcoproc.timer_due,
        timer_left_ns=vcoproc.timer_left_ns,
        trap_count=vcoproc.trap_count,
        instruction_count=vcoproc.instruction_count,
        mapped=None if moving else tuple(bytes(view) for view in vcoproc.spec.mapped),
    )
    vcoproc.saved = moving
    return image


def put(vcoproc: Vcoproc, platform: Platform, lines: LineWatch, image: VcoprocImage) -> None:
    """Makes a vcoproc what the image says. Its edges are the caller's.

    Raises:
        WrongState: it does not stand still; nothing has changed.
    """
    must_stand_still(vcoproc)
    platform.restore(vcoproc.id, image.context, vcoproc.own_ns)
    for view, data in zip(vcoproc.spec.mapped, image.mapped or (), strict=image.mapped is not None):
        view[:] = data
    vcoproc.replay = deque(image.replay)
    vcoproc.timer_due = image.timer_due
    vcoproc.timer_left_ns = image.timer_left_ns
    vcoproc.trap_count = image.trap_count
    vcoproc.instruction_count = image.instruction_count
    lines.settle(vcoproc)


def must_stand_still(vcoproc: Vcoproc) -> None:
    """Whether it can be written down or replaced now.

    Raises:
        WrongState: it cannot.
    """
    if not vcoproc.stands_still:
        state = "leaving the hardware" if vcoproc.paused else "not paused"
        raise WrongState(f"vcoproc {vcoproc.id}", state, "it paused")


# --- reading --------------------------------------------------------------------------------------


def image_bytes_max(info: PlatformInfo) -> int:
    """No image of this platform is longer."""
    return _OTHER_BYTES_MAX + PRIVATE_MEMORY_BYTES_MAX + sum(_mapped_sizes(info))


def read(blob: memoryview, platform: Platform) -> VcoprocImage:
    """An image from its bytes, which must not change any more. For any thread.

    Raises:
        BadSnapshot: damaged, or not of this platform.
    """
    body, rest = _unpack(blob)
    info = platform.info
    if body.get("compatible") != info.compatible:
        raise BadSnapshot(f"of {str(body.get('compatible'))[:64]!r}, this is {info.compatible!r}")
    context_bytes = _number(body, "context_bytes", len(rest))
    mapped = _mapped(body, rest[context_bytes:], info)
    try:
        context = platform.read_snapshot(rest[:context_bytes])
    except InvalidArgument as error:
        raise BadSnapshot(f"context: {error.why}") from None
    timer_left_ns = body.get("timer_left_ns")
    return VcoprocImage(
        compatible=info.compatible,
        context=context,
        replay=_replay(body, info),
        edges=_edges(body, info),
        timer_due=_get(body, "timer_due", bool),
        timer_left_ns=None if timer_left_ns is None else _number(body, "timer_left_ns", _U64 >> 1),
        trap_count=_number(body, "trap_count", _U64),
        instruction_count=_number(body, "instruction_count", _U64),
        mapped=mapped,
    )


def _unpack(blob: memoryview) -> tuple[dict[Any, Any], memoryview]:
    """The body, and what follows it."""
    if len(blob) < _HEADER.size + _LENGTH.size:
        raise BadSnapshot("too short")
    magic, version, length, digest = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise BadSnapshot("not of a vcoproc")
    if version != _VERSION:
        raise BadSnapshot(f"version {version}, this coproc-sim reads {_VERSION}")
    rest = blob[_HEADER.size :]
    if len(rest) != length:
        raise BadSnapshot(f"{len(rest)} bytes of {length}")
    if hashlib.sha256(rest).digest() != digest:
        raise BadSnapshot("damaged: the checksum is wrong")
    end = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
    if end > len(rest):
        raise BadSnapshot("the body is longer than all of it")
    try:
        body = msgpack.unpackb(rest[_LENGTH.size : end])
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadSnapshot(f"not msgpack: {error}") from None
    if not isinstance(body, dict):
        raise BadSnapshot("the body is no map")
    return body, rest[end:]


def _get(body: dict[Any, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if type(value) is not kind:
        raise BadSnapshot(f"{name} is no {kind.__name__}")
    return value


def _number(body: dict[Any, Any], name: str, high: int) -> int:
    value: int = _get(body, name, int)
    if not 0 <= value <= high:
        raise BadSnapshot(f"{name} is not 0 to {high}")
    return value


def _replay(body: dict[Any, Any], info: PlatformInfo) -> tuple[tuple[int, int], ...]:
    rows = _get(body, "replay", list)
    if len(rows) > REPLAY_QUEUE_MAX:
        raise BadSnapshot(f"{len(rows)} queued writes, at most {REPLAY_QUEUE_MAX}")
    found = []
    for row in rows:
        if type(row) is not list or len(row) != 2 or type(row[0]) is not str:
            raise BadSnapshot("a queued write has another form")
        place, value = info.index_of.get(row[0]), row[1]
        if place is None or info.registers[place].when_out is not WhenOut.REPLAY:
            raise BadSnapshot(f"writes of {row[0][:64]!r} are not queued")
        if type(value) is not int or value < 0 or value >> 8 * info.registers[place].width_bytes:
            raise BadSnapshot(f"a queued write of {row[0]} is no value of it")
        found.append((place, value))
    return tuple(found)


def _edges(body: dict[Any, Any], info: PlatformInfo) -> tuple[int, ...]:
    names = {line.name: n for n, line in enumerate(info.lines) if line.trigger is Trigger.EDGE}
    found = []
    for name in _get(body, "edges", list):
        if type(name) is not str or name not in names:
            raise BadSnapshot(f"there is no edge line {str(name)[:64]!r}")
        found.append(names[name])
    if len(set(found)) != len(found):
        raise BadSnapshot("an edge is there twice")
    return tuple(found)


def _mapped_sizes(info: PlatformInfo) -> list[int]:
    return [rng.size_bytes for rng in info.ranges if rng.kind is RangeKind.MAPPED]


def _mapped(
    body: dict[Any, Any], rest: memoryview, info: PlatformInfo
) -> tuple[Buffer, ...] | None:
    sizes = _mapped_sizes(info) if _get(body, "has_mapped", bool) else []
    if len(rest) != sum(sizes):
        raise BadSnapshot(f"{len(rest)} bytes of mapped ranges, not {sum(sizes)}")
    if not body["has_mapped"]:
        return None
    ranges = []
    for size_bytes in sizes:
        ranges.append(rest[:size_bytes])
        rest = rest[size_bytes:]
    return tuple(ranges)
