"""Loads, starts and stops firmware, in the terms of Linux remoteproc.

For vcoprocs with the control page of `vcoproc,cortex-m4`: CONTROL, VECTOR_BASE, STATUS,
FAULT_STATUS.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Final

from vcoproc.errors import BadFirmware, WrongState
from vcoproc.guest.domain import Domain
from vcoproc.guest.elf import LoadPlan, load_plan
from vcoproc.guest.vcoproc import Vcoproc
from vcoproc.limits import ELF_BYTES_MAX

CONTROL_RUN: Final = 1
STATUS_RUNNING: Final = 1
STATUS_FAULTED: Final = 4
ALL_BITS: Final = 0xFFFF_FFFF


class RemoteprocState(enum.Enum):
    """As in /sys/class/remoteproc/*/state."""

    OFFLINE = "offline"
    RUNNING = "running"
    CRASHED = "crashed"


class Remoteproc:
    """The firmware of one vcoproc.

    Args:
        domain: whose memory takes the firmware.
        vcoproc: one of its vcoprocs.
    """

    def __init__(self, domain: Domain, vcoproc: Vcoproc) -> None:
        self._domain = domain
        self._vcoproc = vcoproc
        self._plan: LoadPlan | None = None
        self._started = False

    def load(self, firmware: Path | str) -> None:
        """Reads an ELF file. It is kept, so that each start begins from the pristine image.

        Raises:
            BadFirmware: the file is no firmware for this coprocessor and this domain.
            WrongState: another firmware is running.
        """
        if self._started:
            raise WrongState("remoteproc", "running", "offline")
        path = Path(firmware)
        try:
            if path.stat().st_size > ELF_BYTES_MAX:
                raise BadFirmware(str(path), f"larger than {ELF_BYTES_MAX} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise BadFirmware(str(path), error.strerror or str(error)) from None
        self._plan = load_plan(data, str(path), self._domain.regions)

    def start(self) -> None:
        """Copies the firmware into the domain's memory and releases the core from reset.

        Raises:
            WrongState: nothing is loaded, or it runs already.
        """
        if self._plan is None:
            raise WrongState("remoteproc", "without firmware", "a loaded firmware")
        if self._started:
            raise WrongState("remoteproc", "running", "offline")
        vcoproc = self._vcoproc
        vcoproc.write32("CONTROL", 0)
        for segment in self._plan.segments:
            target = self._domain.at(segment.ipa, segment.memory_bytes)
            target[: len(segment.data)] = segment.data
            target[len(segment.data) :] = bytes(segment.memory_bytes - len(segment.data))
        (
            vcoproc.batch()
            .write32("IRQ_STATUS", ALL_BITS)
            .write32("FAULT_STATUS", ALL_BITS)
            .write32("IRQ_ENABLE", ALL_BITS)
            .write32("VECTOR_BASE", self._plan.vector_base)
            .write32("CONTROL", CONTROL_RUN)
            .run()
        )
        self._started = True

    def stop(self) -> None:
        """Puts the core into reset. Nothing happens when it is offline."""
        if self._started:
            self._vcoproc.batch().write32("CONTROL", 0).write32("IRQ_STATUS", ALL_BITS).run()
            self._started = False

    def recover(self) -> None:
        """Starts a crashed firmware again, from the pristine image.

        Raises:
            WrongState: it has not crashed.
        """
        state = self.state
        if state is not RemoteprocState.CRASHED:
            raise WrongState("remoteproc", state.value, "crashed")
        self.stop()
        self.start()

    @property
    def state(self) -> RemoteprocState:
        """What it does now; asks the coprocessor."""
        if not self._started:
            return RemoteprocState.OFFLINE
        status = self._vcoproc.read32("STATUS")
        if status & STATUS_FAULTED or not status & STATUS_RUNNING:  # forced off: it is in reset
            return RemoteprocState.CRASHED
        return RemoteprocState.RUNNING
