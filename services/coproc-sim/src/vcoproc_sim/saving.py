"""A vcoproc written down, so that it can go on elsewhere or later as if nothing had been.

Theory of operation:
    A paused vcoproc is taken as it is (`take`): its context from the platform, and what the
    framework keeps of it. That is quick. The bytes are made of it, and read and checked, wherever
    there is time. Putting an image into a paused vcoproc (`put`) cannot fail.
    Form of the bytes: magic, version (u16), length of the body (u64), SHA-256 of the body, body
    (msgpack map), little endian. Registers and lines are named, not numbered.
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
    mapped: tuple[bytes, ...] | None

    def to_bytes(self, info: PlatformInfo) -> bytes:
        """For any thread: it takes long."""
        body: bytes = msgpack.packb(
            {
                "compatible": self.compatible,
                "context": self.context.to_bytes(),
                "replay": [[info.registers[place].name, value] for place, value in self.replay],
                "edges": [info.lines[number].name for number in self.edges],
                "timer_due": self.timer_due,
                "timer_left_ns": self.timer_left_ns,
                "trap_count": self.trap_count,
                "instruction_count": self.instruction_count,
                "mapped": self.mapped,
            }
        )
        head = _HEADER.pack(_MAGIC, _VERSION, len(body), hashlib.sha256(body).digest())
        return head + body


def take(
    vcoproc: Vcoproc, platform: Platform, edges: Sequence[int], *, moving: bool
) -> VcoprocImage:
    """Takes a vcoproc down. moving: nothing is done to it here any more, see `Vcoproc.saved`.

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


def read(blob: bytes, platform: Platform) -> VcoprocImage:
    """An image from its bytes. For any thread.

    Raises:
        BadSnapshot: damaged, or not of this platform.
    """
    body, info = _unpack(blob), platform.info
    if body.get("compatible") != info.compatible:
        raise BadSnapshot(f"of {str(body.get('compatible'))[:64]!r}, this is {info.compatible!r}")
    try:
        context = platform.read_snapshot(_get(body, "context", bytes))
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
        mapped=None if body.get("mapped") is None else _mapped(body, info),
    )


def _unpack(blob: bytes) -> dict[Any, Any]:
    if len(blob) < _HEADER.size:
        raise BadSnapshot("too short")
    magic, version, length, digest = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise BadSnapshot("not of a vcoproc")
    if version != _VERSION:
        raise BadSnapshot(f"version {version}, this coproc-sim reads {_VERSION}")
    packed = memoryview(blob)[_HEADER.size :]
    if len(packed) != length:
        raise BadSnapshot(f"{len(packed)} bytes of {length}")
    if hashlib.sha256(packed).digest() != digest:
        raise BadSnapshot("damaged: the checksum is wrong")
    try:
        body = msgpack.unpackb(packed)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise BadSnapshot(f"not msgpack: {error}") from None
    if not isinstance(body, dict):
        raise BadSnapshot("the body is no map")
    return body


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


def _mapped(body: dict[Any, Any], info: PlatformInfo) -> tuple[bytes, ...]:
    ranges = _get(body, "mapped", list)
    if any(type(data) is not bytes for data in ranges):
        raise BadSnapshot("a mapped range has another form")
    if [len(data) for data in ranges] != _mapped_sizes(info):
        raise BadSnapshot("the mapped ranges have other sizes")
    return tuple(ranges)
