"""Checks what a platform declares, so that a broken plug-in is named at start and not at a trap."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from vcoproc.limits import (
    LINES_PER_VCOPROC_MAX,
    PAGE_BYTES,
    RANGE_BYTES_MAX,
    RANGES_PER_COPROC_MAX,
    REGISTERS_PER_PLATFORM_MAX,
)
from vcoproc_sim.platforms.api import (
    Line,
    Platform,
    PlatformInfo,
    RangeKind,
    Register,
    RegisterRange,
    Trigger,
)

METHODS: Final = tuple(
    name
    for name, value in vars(Platform).items()
    if inspect.isfunction(value) and not name.startswith("_")
)


def platform_problems(platform: Any, compatible: str) -> list[str]:
    """Everything that is wrong with a platform, in words; empty if it can be used."""
    missing = [name for name in METHODS if not callable(getattr(platform, name, None))]
    if missing:
        return [f"misses {', '.join(missing)}"]
    info = getattr(platform, "info", None)
    if not isinstance(info, PlatformInfo):
        return ["its info is no PlatformInfo"]
    return list(_info_problems(info, compatible))


def _info_problems(info: PlatformInfo, compatible: str) -> Iterator[str]:
    if info.compatible != compatible:
        yield f"calls itself {info.compatible!r}"
    if info.features.contexts_max < 1:
        yield f"contexts_max {info.features.contexts_max} is not 1 or more"
    if not 1 <= len(info.ranges) <= RANGES_PER_COPROC_MAX:
        yield f"{len(info.ranges)} register ranges, not 1 to {RANGES_PER_COPROC_MAX}"
    if len(info.registers) > REGISTERS_PER_PLATFORM_MAX:
        yield f"{len(info.registers)} registers, at most {REGISTERS_PER_PLATFORM_MAX}"
    if len(info.lines) > LINES_PER_VCOPROC_MAX:
        yield f"{len(info.lines)} lines, at most {LINES_PER_VCOPROC_MAX}"
    yield from _twice("range", (rng.name for rng in info.ranges))
    yield from _twice("register", (register.name for register in info.registers))
    yield from _twice("line", (line.name for line in info.lines))
    for rng in info.ranges:
        yield from _range_problems(rng)
    names = {register.name for register in info.registers}
    for line in info.lines:
        yield from _line_problems(line, names)


def _twice(kind: str, names: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{count} of {kind} {name!r}"


def _range_problems(rng: RegisterRange) -> Iterator[str]:
    if not 0 < rng.size_bytes <= RANGE_BYTES_MAX or rng.size_bytes % PAGE_BYTES:
        yield f"range {rng.name!r}: {rng.size_bytes} bytes are not whole pages up to 16 MiB"
    if rng.kind is RangeKind.MAPPED and rng.registers:
        yield f"range {rng.name!r} is mapped and has registers"
    end = 0
    for register in sorted(rng.registers, key=lambda register: register.offset):
        if register.offset < end:
            yield f"register {register.name!r} overlaps the one before it"
        end = register.offset + register.width_bytes
        if register.offset < 0 or end > rng.size_bytes:
            yield f"register {register.name!r} is not within range {rng.name!r}"
        yield from _register_problems(register)


def _register_problems(register: Register) -> Iterator[str]:
    if register.width_bytes not in (1, 2, 4):
        yield f"register {register.name!r}: width {register.width_bytes} is not 1, 2 or 4"
    elif register.offset % register.width_bytes:
        yield f"register {register.name!r}: offset {register.offset:#x} is not aligned"
    elif register.reset < 0 or register.reset >> 8 * register.width_bytes:
        yield f"register {register.name!r}: reset value {register.reset:#x} does not fit"


def _line_problems(line: Line, registers: set[str]) -> Iterator[str]:
    if line.trigger is Trigger.EDGE:
        if line.status or line.enable:
            yield f"line {line.name!r} is an edge and names registers"
        return
    for name in (line.status, line.enable):
        if name and name not in registers:
            yield f"line {line.name!r}: there is no register {name!r}"
    if not line.status:
        yield f"line {line.name!r} is a level and names no status register"
