"""The driver's side of the work ring that the firmware in firmware/ speaks.

Layout (firmware/include/work_ring.h), little-endian 32-bit words::

    magic, entries, head, tail, then `entries` items of
    op, src_ipa, dst_ipa, len, arg0, arg1, status, result

The driver owns head, the firmware owns tail; both count items and never wrap to the ring's size.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Final

from vcoproc.errors import InvalidArgument, PeerTimeout, QueueFull
from vcoproc.guest.domain import Domain
from vcoproc.guest.remoteproc import STATUS_FAULTED
from vcoproc.guest.vcoproc import Vcoproc
from vcoproc.limits import MS, S

MAGIC: Final = 0x474E4952  # "RING"
READY: Final = 0x59444552  # "REDY"
MAILBOX_RING_WORD: Final = 0
MAILBOX_READY_WORD: Final = 4
ITEM_DONE: Final = 1
HEADER_BYTES: Final = 16
ITEM_BYTES: Final = 32
_ITEM: Final = struct.Struct("<8I")
_DOORBELL_WORK: Final = 1 << 0
_RESULT_WORDS: Final = struct.Struct("<2I")


@dataclass(frozen=True, slots=True)
class WorkItem:
    """What the firmware is to do. Addresses are guest-physical, len is in bytes."""

    op: int
    src_ipa: int = 0
    dst_ipa: int = 0
    len: int = 0
    arg0: int = 0
    arg1: int = 0


@dataclass(frozen=True, slots=True)
class WorkResult:
    """status: 1 done, 2 bad item. result: of the firmware's own meaning."""

    status: int
    result: int


class WorkRing:
    """Submits work to a firmware and takes its results.

    Args:
        ring_ipa: where the ring is to be in the domain's memory, a multiple of 4.
        entries: a power of two, 2 to 1024.
    """

    def __init__(self, domain: Domain, vcoproc: Vcoproc, ring_ipa: int, entries: int = 16) -> None:
        if entries & (entries - 1) or not 2 <= entries <= 1024:
            raise InvalidArgument("entries", f"{entries} is not a power of two from 2 to 1024")
        self._domain = domain
        self._vcoproc = vcoproc
        self._entries = entries
        self._ring = domain.at(ring_ipa, HEADER_BYTES + entries * ITEM_BYTES)
        self._words = self._ring.cast("I")
        self._mailbox = vcoproc.mapped("mbox").cast("I")
        self._ring_ipa = ring_ipa
        self._head = 0
        self._taken = 0
        self._irq = vcoproc.irqs["irq"]

    def set_up(self) -> None:
        """Writes an empty ring and tells the mailbox. Before the firmware is started."""
        self._ring[:] = bytes(len(self._ring))
        self._words[0], self._words[1] = MAGIC, self._entries
        self._head = self._taken = 0
        # A stale "ready" of an earlier firmware would be taken for this one's.
        self._mailbox[MAILBOX_READY_WORD] = 0
        self._mailbox[MAILBOX_RING_WORD] = self._ring_ipa

    def wait_ready(self, timeout_ns: int = 5 * S) -> None:
        """Waits until the started firmware listens.

        Raises:
            PeerTimeout: it does not; it is asked for its status in the end.
        """
        deadline_ns = time.monotonic_ns() + timeout_ns
        while self._mailbox[MAILBOX_READY_WORD] != READY:
            # The mailbox is memory and interrupts nobody; a read of STATUS is a paced look.
            if self._vcoproc.read32("STATUS") & STATUS_FAULTED or time.monotonic_ns() > deadline_ns:
                raise PeerTimeout("firmware", timeout_ns)

    @property
    def outstanding(self) -> int:
        """Items submitted whose results were not taken."""
        return self._head - self._taken

    def submit(self, item: WorkItem, *, ring_doorbell: bool = True) -> int:
        """Puts an item into the ring; gives its number, counting from 0.

        Raises:
            QueueFull: the ring is full of items whose results were not taken.
        """
        if self.outstanding >= self._entries:
            raise QueueFull("work ring", self._entries)
        place = HEADER_BYTES + (self._head % self._entries) * ITEM_BYTES
        _ITEM.pack_into(
            self._ring,
            place,
            *(item.op, item.src_ipa, item.dst_ipa, item.len, item.arg0, item.arg1, 0, 0),
        )
        number = self._head
        self._head += 1
        self._words[2] = self._head & 0xFFFF_FFFF
        if ring_doorbell:
            self.doorbell()
        return number

    def doorbell(self) -> None:
        """Tells the firmware that there is work."""
        self._vcoproc.write32("DOORBELL", _DOORBELL_WORK)

    def take(self) -> list[WorkResult]:
        """Results of items that are finished and were not taken yet, in order."""
        done = (self._words[3] - self._taken) & 0xFFFF_FFFF
        results = []
        for _ in range(min(done, self.outstanding)):
            place = HEADER_BYTES + (self._taken % self._entries) * ITEM_BYTES
            status, result = _RESULT_WORDS.unpack_from(self._ring, place + 24)
            results.append(WorkResult(status, result))
            self._taken += 1
        return results

    def wait(self, timeout_ns: int = 30 * S) -> list[WorkResult]:
        """Waits for an interrupt of this vcoproc that finishes work; gives the results.

        Raises:
            PeerTimeout: no result came in time, or the firmware has faulted.
        """
        deadline_ns = time.monotonic_ns() + timeout_ns
        while not (results := self.take()):
            left_ns = deadline_ns - time.monotonic_ns()
            if left_ns <= 0:
                raise PeerTimeout("firmware", timeout_ns)
            interrupt = self._domain.wait_irq(min(left_ns, 1000 * MS))
            if interrupt is None:
                continue
            if interrupt.irq == self._irq:
                self._vcoproc.write32("IRQ_STATUS", 0xFFFF_FFFF)
            self._domain.eoi(interrupt)
            if interrupt.line == "fault":
                raise PeerTimeout("firmware (it has faulted)", timeout_ns)
        return results
