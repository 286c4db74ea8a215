"""A very small Thumb assembler for tests: what a test needs to say in instructions, and no more.

Encodings are those of DDI 0403 chapter A7; each method names its instruction as the manual does. A
test compares them with those of a real assembler.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from vcoproc.errors import InvalidArgument

Text: TypeAlias = str
"""`str` is an instruction in here."""
SYSTEM_REGISTERS: Final = {
    "apsr": 0, "ipsr": 5, "msp": 8, "psp": 9, "primask": 16, "basepri": 17, "faultmask": 19,
    "control": 20,
}  # fmt: skip
CONDITIONS: Final = {"eq": 0, "ne": 1, "cs": 2, "cc": 3, "mi": 4, "pl": 5, "ge": 10, "lt": 11}


class Thumb:
    """Code that will lie at `base` (a multiple of 4). Literals follow the code."""

    def __init__(self, base: int) -> None:
        self.base = base
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._fixups: list[Callable[[], None]] = []
        self._literals: list[tuple[int, int, int | str]] = []  # (place, register, value or label)

    @property
    def here(self) -> int:
        """Address of the next instruction."""
        return self.base + len(self._code)

    def label(self, name: Text) -> Thumb:
        self._labels[name] = self.here
        return self

    def address(self, name: Text) -> int:
        """Address of a label, with the Thumb bit set as vectors and branches want it."""
        return self._labels[name] | 1

    def half(self, *halfwords: int) -> Thumb:
        self._code += struct.pack(f"<{len(halfwords)}H", *halfwords)
        return self

    def assemble(self) -> bytes:
        """The code and its literals."""
        if len(self._code) % 4:
            self.nop()
        for place, register, value in self._literals:
            offset = len(self._code) - (place + 4 & ~3)
            if offset > 1020:
                raise InvalidArgument("literal", f"{offset} bytes away, at most 1020")
            struct.pack_into("<H", self._code, place, 0x4800 | register << 8 | offset // 4)
            word = self.address(value) if isinstance(value, str) else value
            self._code += struct.pack("<I", word & 0xFFFF_FFFF)
        self._literals.clear()
        for fix in self._fixups:
            fix()
        self._fixups.clear()
        return bytes(self._code)

    # --- data ---------------------------------------------------------------------------------

    def ldr_const(self, rd: int, value: int | Text) -> Thumb:
        """LDR rd, [pc, #...]: a number, or a label's address."""
        self._literals.append((len(self._code), rd, value))
        return self.half(0)

    def movs(self, rd: int, number: int) -> Thumb:
        return self.half(0x2000 | rd << 8 | number)

    def mov(self, rd: int, rm: int) -> Thumb:
        return self.half(0x4600 | (rd & 8) << 4 | rm << 3 | rd & 7)

    def adds(self, rd: int, number: int) -> Thumb:
        return self.half(0x3000 | rd << 8 | number)

    def subs(self, rd: int, number: int) -> Thumb:
        return self.half(0x3800 | rd << 8 | number)

    def cmp(self, rn: int, number: int) -> Thumb:
        return self.half(0x2800 | rn << 8 | number)

    def adds_reg(self, rd: int, rn: int, rm: int) -> Thumb:
        return self.half(0x1800 | rm << 6 | rn << 3 | rd)

    def eors(self, rd: int, rm: int) -> Thumb:
        return self.half(0x4040 | rm << 3 | rd)

    def muls(self, rd: int, rn: int) -> Thumb:
        return self.half(0x4340 | rn << 3 | rd)

    def ldr(self, rt: int, rn: int, offset: int = 0) -> Thumb:
        return self.half(0x6800 | offset // 4 << 6 | rn << 3 | rt)

    def str(self, rt: int, rn: int, offset: int = 0) -> Thumb:
        return self.half(0x6000 | offset // 4 << 6 | rn << 3 | rt)

    def strh(self, rt: int, rn: int, offset: int = 0) -> Thumb:
        return self.half(0x8000 | offset // 2 << 6 | rn << 3 | rt)

    def stmia(self, rn: int, *registers: int) -> Thumb:
        return self.half(0xC000 | rn << 8 | _mask(registers))

    def push(self, *registers: int) -> Thumb:
        """r0..r7 and lr (14)."""
        return self.half(0xB400 | (14 in registers) << 8 | _mask(registers) & 0xFF)

    def pop(self, *registers: int) -> Thumb:
        """r0..r7 and pc (15)."""
        return self.half(0xBC00 | (15 in registers) << 8 | _mask(registers) & 0xFF)

    # --- branches -----------------------------------------------------------------------------

    def b(self, label: Text, condition: Text = "") -> Thumb:
        place = len(self._code)

        def fix() -> None:
            offset = self._labels[label] - (self.base + place + 4)
            if condition:
                half = 0xD000 | CONDITIONS[condition] << 8 | offset >> 1 & 0xFF
            else:
                half = 0xE000 | offset >> 1 & 0x7FF
            struct.pack_into("<H", self._code, place, half)

        self._fixups.append(fix)
        return self.half(0)

    def bx(self, rm: int) -> Thumb:
        return self.half(0x4700 | rm << 3)

    def it(self, condition: Text, pattern: Text = "t") -> Thumb:
        """IT{pattern[1:]} condition; the pattern counts the first instruction too."""
        first = CONDITIONS[condition]
        mask = 0
        for place, letter in enumerate(pattern[1:]):
            bit = first & 1 if letter == "t" else ~first & 1
            mask |= bit << (3 - place)
        mask |= 1 << (4 - len(pattern))
        return self.half(0xBF00 | first << 4 | mask)

    # --- system -------------------------------------------------------------------------------

    def nop(self) -> Thumb:
        return self.half(0xBF00)

    def wfe(self) -> Thumb:
        return self.half(0xBF20)

    def wfi(self) -> Thumb:
        return self.half(0xBF30)

    def sev(self) -> Thumb:
        return self.half(0xBF40)

    def svc(self, number: int) -> Thumb:
        return self.half(0xDF00 | number)

    def bkpt(self, number: int) -> Thumb:
        return self.half(0xBE00 | number)

    def udf(self, number: int) -> Thumb:
        return self.half(0xDE00 | number)

    def cpsie_i(self) -> Thumb:
        return self.half(0xB662)

    def cpsid_i(self) -> Thumb:
        return self.half(0xB672)

    def msr(self, name: Text, rn: int) -> Thumb:
        return self.half(0xF380 | rn, 0x8800 | SYSTEM_REGISTERS[name])

    def mrs(self, rd: int, name: Text) -> Thumb:
        return self.half(0xF3EF, 0x8000 | rd << 8 | SYSTEM_REGISTERS[name])

    def isb(self) -> Thumb:
        return self.half(0xF3BF, 0x8F6F)

    # --- floating point ---------------------------------------------------------------------------

    def vmov_to_s(self, sn: int, rt: int) -> Thumb:
        return self.half(0xEE00 | sn >> 1, 0x0A10 | rt << 12 | (sn & 1) << 7)

    def vmov_from_s(self, rt: int, sn: int) -> Thumb:
        return self.half(0xEE10 | sn >> 1, 0x0A10 | rt << 12 | (sn & 1) << 7)

    def vadd(self, sd: int, sn: int, sm: int) -> Thumb:
        return self.half(
            0xEE30 | (sd & 1) << 6 | sn >> 1,
            0x0A00 | sd >> 1 << 12 | (sn & 1) << 7 | (sm & 1) << 5 | sm >> 1,
        )


def _mask(registers: tuple[int, ...]) -> int:
    return sum(1 << register for register in registers if register < 8)


def vector_table(stack: int, reset: int, others: dict[int, int], default: int = 0) -> bytes:
    """The 32 vectors of a core with 16 external interrupts. others: by exception number."""
    words = [stack, reset, *(others.get(number, default) for number in range(2, 32))]
    return struct.pack("<32I", *words)
