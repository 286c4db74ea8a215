"""What the engine needs of unicorn beyond its documented interface: quick registers, the counter.

Unicorn keeps, side by side in its engine structure, the number of instructions begun
(`emu_counter`) and the limit that the caller gave (`emu_count`); the hook that counts compares them
before every instruction. `counter_offset` finds both by searching for their values in an engine of
its own, and proves by a trial that they may be read and written. It is searched for, not known,
because it moves with every build; a build in which it is not found is refused.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from unicorn import arm_const as arm
from unicorn import unicorn_const as ucc
from unicorn.unicorn_py3 import unicorn as _binding

from vcoproc.errors import PlatformFailure
from vcoproc.limits import PAGE_BYTES

UNICORN: Any = _binding
"""Without types: type checkers take the package's Python 2 module for the binding."""
LIBRARY: Any = _binding.uclib
"""The C functions. On the paths that count, the wrappers would cost more than the calls."""

WORD_BYTES: Final = ctypes.sizeof(ctypes.c_size_t)
_STRUCT_BYTES: Final = 8 * 1024
"""How far into the engine structure the counter is looked for. The structure has 14.5 KiB in 2.1.4
and the counter lies at 1.3; farther on, Python's own copies of the wanted values would be found."""
_TRIAL_CODE: Final = 0x1000
_TRIAL_DEVICE: Final = 0x2000


def check(status: int) -> None:
    """Raises PlatformFailure for a status of unicorn that no firmware can cause."""
    if status != ucc.UC_ERR_OK:
        raise PlatformFailure("engine", f"unicorn: {UNICORN.UcError(status)}")


def new_core() -> Any:
    """A Cortex-M4 without memory. All its runs have to be counted, from the first one on."""
    core = UNICORN.Uc(
        ucc.UC_ARCH_ARM, ucc.UC_MODE_THUMB | ucc.UC_MODE_MCLASS, arm.UC_CPU_ARM_CORTEX_M4
    )
    # 1 KiB by default on this core, which would mean four TLB fills for each page of stage 2.
    core.ctl_set_page_size(PAGE_BYTES)
    # No `until` address: it would have to be mapped by every context (UC_ERR_EXCEPTION).
    core.ctl_exits_enabled(True)
    return core


class RegisterBank:
    """A fixed list of registers, read and written with one call each, in the order of the list."""

    def __init__(self, core: Any, names: Sequence[str]) -> None:
        """names: as in unicorn, in lower case: r0..r12, sp, lr, pc, msp, psp, xpsr, d0..d15 ..."""
        count = len(names)
        self._handle = core._uch
        self._count = count
        self._ids = (ctypes.c_int * count)(
            *(getattr(arm, "UC_ARM_REG_" + name.upper()) for name in names)
        )
        self._values: Any = (ctypes.c_uint64 * count)()
        base = ctypes.addressof(self._values)
        self._pointers = (ctypes.c_void_p * count)(*(base + 8 * i for i in range(count)))

    def read(self) -> list[int]:
        check(LIBRARY.uc_reg_read_batch(self._handle, self._ids, self._pointers, self._count))
        values: list[int] = self._values[:]
        return values

    def write(self, values: Sequence[int]) -> None:
        self._values[:] = values
        check(LIBRARY.uc_reg_write_batch(self._handle, self._ids, self._pointers, self._count))


def counter_of(core: Any) -> tuple[Any, Any]:
    """The two words of an engine, as ctypes objects: instructions begun, and their limit.

    Raises:
        PlatformFailure: this build of unicorn has no such counter.
    """
    place = int(core._uch.value) + counter_offset()
    return (
        ctypes.c_size_t.from_address(place),
        ctypes.c_size_t.from_address(place + WORD_BYTES),
    )


@functools.cache
def counter_offset() -> int:
    """Where the counter lies in the engine structure of this build.

    Raises:
        PlatformFailure: not found, or it does not obey.
    """
    core = new_core()
    core.mem_map(_TRIAL_CODE, PAGE_BYTES)
    # str r0,[r1]; adds r0,#1; adds r0,#1; b .-2
    core.mem_write(_TRIAL_CODE, b"\x08\x60\x01\x30\x01\x30\xfd\xe7")
    handle = core._uch
    base = int(handle.value)
    places: set[int] | None = None
    for count in (1009, 77, 20_011):
        # A burst of n that has run out leaves n + 1 and n.
        check(LIBRARY.uc_emu_start(handle, _TRIAL_CODE + 2 | 1, 0, 0, count))
        found = _pairs(base, count + 1, count)
        places = found if places is None else places & found
    if not places or len(places) != 1:
        raise PlatformFailure("engine", "no instruction counter in this build of unicorn")
    offset = places.pop()
    _try(core, base + offset)
    return offset


def _try(core: Any, place: int) -> None:
    """A stop from a callback has to take effect behind the instruction that called it."""
    counter = ctypes.c_size_t.from_address(place)
    limit = ctypes.c_size_t.from_address(place + WORD_BYTES)
    stops: list[int] = []

    def stop(*_arguments: object) -> None:
        stops.append(counter.value)
        limit.value = counter.value

    core.mmio_map(_TRIAL_DEVICE, PAGE_BYTES, None, None, stop, None)
    RegisterBank(core, ("r0", "r1")).write((0, _TRIAL_DEVICE))
    check(LIBRARY.uc_emu_start(core._uch, _TRIAL_CODE | 1, 0, 0, 1000))
    ended_at = RegisterBank(core, ("pc",)).read()[0]
    if (stops, counter.value, ended_at) != ([1], 2, _TRIAL_CODE + 2):
        raise PlatformFailure("engine", "the instruction counter does not obey")


def _pairs(base: int, first: int, second: int) -> set[int]:
    """Offsets from `base` of two words. Through the file, so that no read can kill the process."""
    wanted = first.to_bytes(WORD_BYTES, "little") + second.to_bytes(WORD_BYTES, "little")
    memory = os.open(Path("/proc/self/mem"), os.O_RDONLY)
    try:
        raw = os.pread(memory, _STRUCT_BYTES, base)
    finally:
        os.close(memory)
    last = len(raw) - len(wanted)
    return {at for at in range(0, last, WORD_BYTES) if raw[at : at + len(wanted)] == wanted}
