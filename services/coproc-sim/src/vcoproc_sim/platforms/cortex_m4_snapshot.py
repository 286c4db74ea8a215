"""A context of the Cortex-M4 in portable form: versioned bytes, nothing of the engine in them.

Form: magic, version (u16), CRC-32 of what follows (u32), length of the body (u32), body (msgpack
map), private memory; little endian. The reader believes nothing: types, ranges and the checksum are
checked before the context is touched. The domain's memory and the mbox page are not part of it; the
shadow is.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import msgpack

from vcoproc.errors import InvalidArgument
from vcoproc_sim.engine import XPSR_T, Engine
from vcoproc_sim.platforms.api import Buffer, Fault, PlatformInfo
from vcoproc_sim.platforms.cortex_m4_context import Context, Sleep
from vcoproc_sim.platforms.cortex_m4_ppb import EXCEPTION_COUNT, HARD_FAULT, SystemControl

_MAGIC: Final = b"VCM4snap"
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<8sHI")
_LENGTH: Final = struct.Struct("<I")
_CONTROL_NPRIV: Final = 1 << 0

_WORDS: Final = (
    *("msp", "psp", "primask", "basepri", "faultmask", "control"),
    *(f"r{n}" for n in range(13)),
    *("lr", "fpscr"),
)
_CONTROL: Final = _WORDS.index("control")
_CONTROL_BITS: Final = 0b111
_DOUBLES: Final = tuple(f"d{n}" for n in range(16))
_SYSTEM: Final = ("pending", "active", "enabled", "vtor", "prigroup", "scr", "cfsr", "hfsr")
_PRIORITY_BIAS: Final = 16
_CONTEXT: Final = ("vector_base", "pc")
_FLAGS: Final = ("is_thumb", "is_running", "needs_start")
_COUNTS: Final = {"instructions": 64, "debt": 8, "event_known_clear": 8}
"""With their widths in bits."""


class RegisterFile:
    """All registers of the context on the engine, by hand."""

    def __init__(self, engine: Engine) -> None:
        self._mode = engine.bank("xpsr", "control")
        self._xpsr = engine.bank("xpsr_nzcvqg")
        self._all = engine.bank(*_WORDS, *_DOUBLES)

    def read(self) -> list[int]:
        """xPSR, then `_WORDS` and `_DOUBLES`."""
        xpsr, control = self._mode.read()
        hidden = control & _CONTROL_NPRIV and not xpsr & 0x1FF
        if hidden:  # unprivileged thread mode cannot see the special registers
            self._xpsr.write((xpsr | HARD_FAULT,))
        values = self._all.read()
        if hidden:
            self._xpsr.write((xpsr,))
        # The engine shows a bit 3 that belongs to a later architecture.
        values[_CONTROL] &= _CONTROL_BITS
        return [xpsr, *values]

    def write(self, values: list[int]) -> None:
        """Onto an engine in reset state."""
        self._xpsr.write((XPSR_T | HARD_FAULT,))  # in handler mode everything can be written
        self._all.write(values[1:])
        self._xpsr.write(values[:1])


def _body_of(
    context: Context, registers: list[int], info: PlatformInfo, now_ns: int
) -> dict[str, Any]:
    system = context.system
    tick = system.systick
    fault = context.fault
    idle_since_ns = context.idle_since_ns
    return {
        "registers": registers,
        "shadow": {
            register.name: value
            for register, value in zip(info.registers, context.spec.shadow, strict=True)
        },
        "system": {name: getattr(system, name) for name in _SYSTEM},
        "priority": system.priority[4:],
        "storage": dict(system.storage),
        "event": system.event,
        "systick": [tick.csr, tick.reload, tick.value, tick.count_flag],
        "context": {name: getattr(context, name) for name in (*_CONTEXT, *_FLAGS, *_COUNTS)},
        "sleep": int(context.sleep),
        "wake_priority": context.wake_priority + _PRIORITY_BIAS,
        "fault": None if fault is None else [fault.code, fault.address, fault.why],
        "idle_ns": None if idle_since_ns is None else now_ns - idle_since_ns,
    }


class Snapshot:
    """A snapshot; valid by construction. Implements `ContextImage`."""

    def __init__(self, body: dict[Any, Any], private: Buffer, info: PlatformInfo) -> None:
        """See `of` and `read`."""
        self._body = body
        self.private = private
        self.registers = _ints(body, "registers", 1 + len(_WORDS), 32, len(_DOUBLES))
        shadow = _get(body, "shadow", dict)
        self.shadow = [_int(shadow, r.name, 8 * r.width_bytes) for r in info.registers]
        system = _get(body, "system", dict)
        self.system = {name: _int(system, name, 32) for name in _SYSTEM}
        if self.system["prigroup"] > 7:
            raise InvalidArgument("snapshot", "prigroup is out of range")
        self.priority = _ints(body, "priority", EXCEPTION_COUNT - 4, 8)
        storage = _get(body, "storage", dict)
        self.storage = {place: _int(storage, place, 32) for place in SystemControl().storage}
        self.event = _get(body, "event", bool)
        tick = _get(body, "systick", list)
        if len(tick) != 4 or type(tick[3]) is not bool:
            raise InvalidArgument("snapshot", "systick has another form")
        self.tick = [_in_range("systick", value, 24) for value in tick[:3]]
        self.count_flag: bool = tick[3]
        context = _get(body, "context", dict)
        self.context: dict[str, int | bool] = {
            **{name: _int(context, name, 32) for name in _CONTEXT},
            **{name: _get(context, name, bool) for name in _FLAGS},
            **{name: _int(context, name, bits) for name, bits in _COUNTS.items()},
        }
        sleep = _int(body, "sleep", 8)
        if sleep not in tuple(Sleep):
            raise InvalidArgument("snapshot", f"sleep {sleep} is unknown")
        self.sleep = Sleep(sleep)
        # From -2 (NMI) to LOWEST_PRIORITY; kept without its sign in the file.
        self.wake_priority = _int(body, "wake_priority", 16) - _PRIORITY_BIAS
        self.fault = _fault(body)
        self.idle_ns = None if body.get("idle_ns") is None else _int(body, "idle_ns", 63)

    @classmethod
    def of(
        cls, context: Context, registers: list[int], info: PlatformInfo, now_ns: int
    ) -> Snapshot:
        """Of a context off the hardware whose sleep is counted. registers: `RegisterFile.read`."""
        return cls(_body_of(context, registers, info, now_ns), bytes(context.private), info)

    @classmethod
    def read(cls, blob: memoryview, private_bytes: int, info: PlatformInfo) -> Snapshot:
        """From bytes.

        Raises:
            InvalidArgument: damaged, of another version, or of a coproc with other private memory.
        """
        body, private = _unpack(blob)
        if len(private) != private_bytes:
            words = f"private memory has {len(private)} bytes, not {private_bytes}"
            raise InvalidArgument("snapshot", words)
        return cls(body, private, info)

    def pieces(self) -> list[Buffer]:
        packed: bytes = msgpack.packb(self._body)
        packed = _LENGTH.pack(len(packed)) + packed
        checksum = zlib.crc32(self.private, zlib.crc32(packed))
        return [_HEADER.pack(_MAGIC, _VERSION, checksum), packed, self.private]

    def load(self, context: Context, now_ns: int) -> None:
        """Into a context off the hardware; its registers are the caller's. Cannot fail."""
        with memoryview(context.private) as private:  # a slice of a bytearray copies twice
            private[:] = self.private
        context.spec.shadow[:] = self.shadow
        system = context.system
        system.reset(0)
        for name, value in self.system.items():
            setattr(system, name, value)
        system.priority[4:] = self.priority
        system.storage = dict(self.storage)
        system.event = self.event
        system.systick.csr, system.systick.reload, system.systick.value = self.tick
        system.systick.count_flag = self.count_flag
        for field, setting in self.context.items():
            setattr(context, field, setting)
        context.sleep = self.sleep
        context.wake_priority = self.wake_priority
        context.fault = self.fault
        context.idle_since_ns = None if self.idle_ns is None else now_ns - self.idle_ns
        context.idle_counted_cycles = 0


def _unpack(blob: memoryview) -> tuple[dict[Any, Any], memoryview]:
    """The body, and the private memory."""
    if len(blob) < _HEADER.size + _LENGTH.size:
        raise InvalidArgument("snapshot", "too short")
    magic, version, checksum = _HEADER.unpack_from(blob)
    if magic != _MAGIC:
        raise InvalidArgument("snapshot", "not a snapshot of this platform")
    if version != _VERSION:
        raise InvalidArgument("snapshot", f"version {version}, this platform reads {_VERSION}")
    rest = blob[_HEADER.size :]
    if zlib.crc32(rest) != checksum:
        raise InvalidArgument("snapshot", "damaged: the checksum is wrong")
    end = _LENGTH.size + _LENGTH.unpack_from(rest)[0]
    if end > len(rest):
        raise InvalidArgument("snapshot", "the body is longer than all of it")
    try:
        body = msgpack.unpackb(rest[_LENGTH.size : end], strict_map_key=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise InvalidArgument("snapshot", f"not msgpack: {error}") from None
    if not isinstance(body, dict):
        raise InvalidArgument("snapshot", "the body is no map")
    return body, rest[end:]


def _get(body: dict[Any, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if type(value) is not kind:
        raise InvalidArgument("snapshot", f"{name} is no {kind.__name__}")
    return value


def _in_range(name: object, value: object, bits: int) -> int:
    if type(value) is not int or value < 0 or value >> bits:
        raise InvalidArgument("snapshot", f"{name} is no number of {bits} bits")
    return value


def _int(body: dict[Any, Any], name: object, bits: int) -> int:
    return _in_range(name, body.get(name), bits)


def _ints(body: dict[Any, Any], name: str, count: int, bits: int, long_count: int = 0) -> list[int]:
    """`count` numbers of `bits` bits, then `long_count` of 64 bits."""
    values = _get(body, name, list)
    if len(values) != count + long_count:
        raise InvalidArgument("snapshot", f"{name} has {len(values)} entries")
    return [
        _in_range(name, value, bits if place < count else 64) for place, value in enumerate(values)
    ]


def _fault(body: dict[Any, Any]) -> Fault | None:
    raw = body.get("fault")
    if raw is None:
        return None
    if type(raw) is not list or len(raw) != 3 or type(raw[2]) is not str:
        raise InvalidArgument("snapshot", "fault has another form")
    return Fault(_in_range("fault", raw[0], 32), _in_range("fault", raw[1], 32), raw[2])
