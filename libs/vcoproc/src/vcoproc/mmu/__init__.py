"""Stage 2 of the MMU: real ARMv8 tables, and the walk over them. Pure: bytes in, bytes out."""

from __future__ import annotations

from vcoproc.mmu.descriptors import VTCR_EL2
from vcoproc.mmu.stage2 import Region, Stage2Tables
from vcoproc.mmu.walk import (
    WHY_ACCESS_FLAG,
    WHY_ADDRESS_SIZE,
    WHY_EXTERNAL_ABORT,
    WHY_PERMISSION,
    WHY_TRANSLATION,
    AccessKind,
    Translation,
    walk,
)

__all__ = [
    "VTCR_EL2",
    "WHY_ACCESS_FLAG",
    "WHY_ADDRESS_SIZE",
    "WHY_EXTERNAL_ABORT",
    "WHY_PERMISSION",
    "WHY_TRANSLATION",
    "AccessKind",
    "Region",
    "Stage2Tables",
    "Translation",
    "walk",
]
