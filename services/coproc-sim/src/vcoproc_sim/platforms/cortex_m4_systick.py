"""SysTick of the Cortex-M4: a 24-bit down counter, advanced by counts of cycles."""

from __future__ import annotations

from typing import Final

_ENABLE: Final = 1 << 0
_TICKINT: Final = 1 << 1
_CLKSOURCE: Final = 1 << 2
_COUNTFLAG: Final = 1 << 16
_VALUE_MASK: Final = 0xFF_FFFF
_CALIB_NOREF: Final = 1 << 31
"""No separate reference clock; CLKSOURCE reads as written and changes nothing."""


class SysTick:
    """DDI 0403 B3.3. Counts down to 0, then loads `reload`; 1 to 0 is the expiry."""

    __slots__ = ("count_flag", "csr", "reload", "value")

    def __init__(self) -> None:
        self.csr = 0
        self.reload = 0
        self.value = 0
        self.count_flag = False

    @property
    def raises_exception(self) -> bool:
        """Whether an expiry will come that pends the exception."""
        return self.csr & (_ENABLE | _TICKINT) == _ENABLE | _TICKINT and bool(
            self.value or self.reload
        )

    def cycles_to_expiry(self) -> int:
        """Cycles until the next expiry, 1 or more. Only where `raises_exception`."""
        return self.value or self.reload + 1

    def advance(self, cycles: int) -> bool:
        """Counts cycles. Returns whether it expired and the exception has to be pended."""
        if not self.csr & _ENABLE or not cycles:
            return False
        if self.value == 0:
            if self.reload == 0:
                return False  # "writing 0 to SYST_RVR disables SysTick on the next wrap"
            self.value = self.reload
            cycles -= 1
        if cycles < self.value:
            self.value -= cycles
            return False
        after = cycles - self.value
        if self.reload:
            phase = after % (self.reload + 1)
            self.value = self.reload + 1 - phase if phase else 0
        else:
            self.value = 0
        self.count_flag = True
        return bool(self.csr & _TICKINT)

    def read(self, offset: int) -> int:
        """offset: 0 CSR, 4 RVR, 8 CVR, 12 CALIB. Reading CSR clears COUNTFLAG."""
        if offset == 0:
            value = self.csr | (_COUNTFLAG if self.count_flag else 0)
            self.count_flag = False
            return value
        return (self.reload, self.value, _CALIB_NOREF)[offset // 4 - 1]

    def write(self, offset: int, value: int) -> None:
        if offset == 0:
            self.csr = value & (_ENABLE | _TICKINT | _CLKSOURCE)
        elif offset == 4:
            self.reload = value & _VALUE_MASK
        elif offset == 8:  # any write clears the counter and COUNTFLAG, and pends nothing
            self.value = 0
            self.count_flag = False
