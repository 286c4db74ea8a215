"""What drivers, firmware and platform code share about `vcoproc,cortex-m4`: the map, as data."""

from __future__ import annotations

import enum
from typing import Final

from vcoproc.limits import PAGE_BYTES, VCOPROCS_PER_COPROC_MAX
from vcoproc_sim.platforms.api import (
    Access,
    Features,
    Line,
    PlatformInfo,
    RangeKind,
    Register,
    RegisterRange,
    Trigger,
    WhenOut,
)

COMPATIBLE: Final = "vcoproc,cortex-m4"

ID: Final = 0x344D_4356
"""The bytes "VCM4"."""
VERSION: Final = 0x0001_0001
"""major.minor, 16 bits each. 1.1 appended YIELD, NOTIFY and BACK_COUNT."""

# --- what the driver sees: range `ctrl` -----------------------------------------------------------
CONTROL_RUN: Final = 1 << 0
VECTOR_BASE_MASK: Final = 0xFFFF_FF80
"""VTOR.TBLOFF is bits [31:7] (DDI 0403 B3.2.5): 128-byte aligned; lower bits count as zero."""
STATUS_RUNNING: Final = 1 << 0
STATUS_IDLE: Final = 1 << 1
STATUS_FAULTED: Final = 1 << 2
NOTIFY_BACK: Final = 1 << 0
EXTERNAL_INTERRUPT_COUNT: Final = 16
DOORBELL_MASK: Final = (1 << EXTERNAL_INTERRUPT_COUNT) - 1


class FaultCode(enum.IntEnum):
    """FAULT_STATUS, one-hot."""

    TRANSLATION = 1
    """Stage 2 refused an access of the core."""
    USAGE = 2
    """Undefined instruction and the like, and the firmware has no handler for it."""
    LOCKUP = 4
    """A fault while a HardFault was handled, or no vector or no stack for an exception."""
    BUS = 8
    """An access that the device page refuses, and the firmware has no handler for it."""
    FORCED_OFF = 16
    """The framework reset the core because it would not leave the hardware."""


LINE_IRQ: Final = 0
LINE_EVENT: Final = 1
LINE_FAULT: Final = 2

# --- what the firmware sees -----------------------------------------------------------------------
PRIVATE_IPA: Final = 0x2000_0000
DEVICE_IPA: Final = 0x4000_0000
MBOX_IPA: Final = 0x4000_1000
PPB_IPA: Final = 0xE000_E000

DEVICE_IRQ_SET: Final = 0x04
DEVICE_EVENT: Final = 0x08
DEVICE_YIELD: Final = 0x0C
DEVICE_IRQ_STATUS: Final = 0x10
DEVICE_PRIVATE_SIZE: Final = 0x14


def make_info(private_bytes: int) -> PlatformInfo:
    """The description of one instance. private_bytes: reset value of PRIVATE_SIZE."""
    ro, rw, wo, w1c = Access.RO, Access.RW, Access.WO, Access.W1C
    shadow, const = WhenOut.SHADOW, WhenOut.CONST
    registers = (
        Register("ID", 0x000, ro, const, 'The bytes "VCM4".', ID),
        Register("VERSION", 0x004, ro, const, "Version of this map: major.minor.", VERSION),
        Register("PRIVATE_SIZE", 0x008, ro, const, "Bytes of private memory.", private_bytes),
        Register(
            "CONTROL",
            0x010,
            rw,
            shadow,
            "Bit 0 RUN: 1 releases the core from reset, 0 puts the core and its context in reset.",
            wakes=True,
            reset_bits=CONTROL_RUN,
        ),
        Register(
            "VECTOR_BASE",
            0x014,
            rw,
            shadow,
            "Address of the vector table, 128-byte aligned; read at release of reset.",
        ),
        Register("STATUS", 0x018, ro, shadow, "Bit 0 RUNNING, bit 1 IDLE, bit 2 FAULTED."),
        Register(
            "DOORBELL",
            0x020,
            wo,
            WhenOut.REPLAY,
            "Each 1 bit (0..15) pends external interrupt n of the core.",
            wakes=True,
        ),
        Register("IRQ_STATUS", 0x030, w1c, shadow, "Set by firmware through IRQ_SET."),
        Register("IRQ_ENABLE", 0x034, rw, shadow, "Line irq is IRQ_STATUS & IRQ_ENABLE."),
        Register(
            "FAULT_STATUS",
            0x040,
            w1c,
            shadow,
            "1 translation, 2 usage, 4 lockup, 8 bus error, 16 forced off.",
        ),
        Register("FAULT_ADDRESS", 0x044, ro, shadow, "Address that faulted."),
        Register("CYCLES", 0x050, ro, WhenOut.HOLD, "Instructions run, low 32 bits."),
        Register("DIAG_PC", 0x054, ro, WhenOut.DENY, "Program counter of the core now."),
        *_hooks(),
    )
    return PlatformInfo(
        compatible=COMPATIBLE,
        ranges=(
            RegisterRange("ctrl", PAGE_BYTES, RangeKind.TRAPPED, registers),
            RegisterRange("mbox", PAGE_BYTES, RangeKind.MAPPED),
        ),
        lines=(
            Line("irq", Trigger.LEVEL, status="IRQ_STATUS", enable="IRQ_ENABLE"),
            Line("event", Trigger.EDGE),
            Line("fault", Trigger.LEVEL, status="FAULT_STATUS"),
        ),
        features=Features(contexts_max=VCOPROCS_PER_COPROC_MAX),
    )


def _hooks() -> tuple[Register, ...]:
    """For drivers that know that they share; added with version 1.1."""
    return (
        Register(
            "YIELD",
            0x060,
            Access.WO,
            WhenOut.SHADOW,
            "Any value: now is a good moment to switch, if others wait.",
            yields=True,
        ),
        Register(
            "NOTIFY",
            0x064,
            Access.RW,
            WhenOut.SHADOW,
            "Bit 0: at each switch-in BACK_COUNT rises and line event pulses.",
        ),
        Register(
            "BACK_COUNT",
            0x068,
            Access.RO,
            WhenOut.SHADOW,
            "Switch-ins while NOTIFY bit 0 was set.",
        ),
    )
