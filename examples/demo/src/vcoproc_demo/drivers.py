"""A driver process: what would run in one domain.

    python -m vcoproc_demo.drivers

It speaks lines of JSON. On stdin comes a `workload.Job`; when its firmware runs and listens it
answers ``{"event": "ready"}``; any line then starts the work, so that several drivers can begin at
once. ``progress`` lines follow, and ``done`` with the statistics, or ``failed``. Then the next job
may come. The end of stdin ends the process.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vcoproc.errors import PeerTimeout, VcoprocError
from vcoproc.guest import Domain, Remoteproc, Vcoproc, WorkItem, WorkRing
from vcoproc.guest.work_ring import ITEM_DONE, WorkResult
from vcoproc.limits import KIB, MIB, MS, S
from vcoproc.runtime.grpc_kit import RemoteUnavailable
from vcoproc.runtime.process import die_with_parent
from vcoproc_demo.workload import Job, Piece

SLOTS: Final = 4
"""Pieces in the ring at once: enough that the firmware need not wait for its driver in a slice."""
SLOT_BYTES: Final = 128 * KIB
SLOT_OUTPUT: Final = 64 * KIB
"""Where the output begins in a slot."""
RING_OFFSET: Final = 1 * MIB + 16 * KIB
"""Into the domain's memory; far behind the end of the firmware. Not a multiple of 1 MiB: the TLB of
the engine is indexed by 8 bits of the page number, and pages 0 and 1 of private memory are busy."""
TAPS_OFFSET: Final = RING_OFFSET + 4 * KIB
SLOTS_OFFSET: Final = RING_OFFSET + 64 * KIB
PIECE_TIMEOUT_NS: Final = 20 * S
"""Without a finished piece for this long, the driver gives up."""
OPEN_TIMEOUT_NS: Final = 10 * S
PROGRESS_NS: Final = 50 * MS
_ALL_BITS: Final = 0xFFFF_FFFF


class FirmwareFault(VcoprocError):
    """The firmware stopped, or refused an item."""

    reason = "FIRMWARE_FAULT"


def say(event: str, **fields: Any) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Driver:
    """Works through one job. Records how long traps took and how late interrupts came."""

    def __init__(self, job: Job, domain: Domain) -> None:
        self._job = job
        self._domain = domain
        self._vcoproc: Vcoproc = domain.vcoproc(domain.vcoprocs[0])
        self._ring = WorkRing(domain, self._vcoproc, domain.memory_ipa + RING_OFFSET, SLOTS)
        self._firmware = Remoteproc(domain, self._vcoproc)
        self._waiting: deque[tuple[int, Piece]] = deque()
        self._submitted = 0
        self._output = bytearray()
        self._trap_ns: list[int] = []
        self._irq_ns: list[int] = []

    def start(self) -> None:
        """Loads and starts the firmware, and waits until it listens."""
        self._firmware.load(self._job.firmware)
        self._ring.set_up()
        if self._job.taps:
            taps = Path(self._job.taps).read_bytes()
            self._domain.at(self._domain.memory_ipa + TAPS_OFFSET, len(taps))[:] = taps
        self._firmware.start()
        self._ring.wait_ready()

    def work(self) -> dict[str, Any]:
        """Does the job, writes its output file and gives the statistics."""
        data = Path(self._job.input).read_bytes()
        total = sum(1 for _ in self._job.pieces(data))
        pieces = self._job.pieces(data)
        began_ns = time.monotonic_ns()
        done = 0
        told_ns = began_ns
        self._fill(pieces)
        while self._waiting:
            done += self._take()
            self._fill(pieces)
            now_ns = time.monotonic_ns()
            if now_ns - told_ns >= PROGRESS_NS:
                told_ns = now_ns
                say("progress", done=done, total=total)
        ended_ns = time.monotonic_ns()
        Path(self._job.output).write_bytes(self._output)
        self._firmware.stop()
        return {
            "pieces": total,
            "began_ns": began_ns,
            "ended_ns": ended_ns,
            "trap_ns": self._trap_ns,
            "irq_ns": self._irq_ns,
        }

    def _fill(self, pieces: Iterator[Piece]) -> None:
        while len(self._waiting) < SLOTS:
            piece = next(pieces, None)
            if piece is None:
                return
            base_ipa = self._slot_ipa(self._submitted)
            self._domain.at(base_ipa, len(piece.source))[:] = piece.source
            taps_ipa = self._domain.memory_ipa + TAPS_OFFSET
            item = WorkItem(
                piece.op,
                src_ipa=base_ipa + piece.lead_bytes,
                dst_ipa=base_ipa + SLOT_OUTPUT,
                len=piece.length,
                arg0=taps_ipa if piece.needs_taps else piece.arg0,
                arg1=piece.arg1,
            )
            self._ring.submit(item, ring_doorbell=False)
            self._waiting.append((self._submitted, piece))
            self._submitted += 1
            started_ns = time.monotonic_ns()
            self._ring.doorbell()
            self._trap_ns.append(time.monotonic_ns() - started_ns)

    def _slot_ipa(self, number: int) -> int:
        return self._domain.memory_ipa + SLOTS_OFFSET + number % SLOTS * SLOT_BYTES

    def _take(self) -> int:
        """Waits for finished pieces and takes their output; says how many."""
        results: list[WorkResult] = []
        while not results:
            # Look only after the acknowledgement: what finishes later interrupts again. So each
            # interrupt is needed, and a lost one is found out.
            self._wait_irq()
            results = self._ring.take()
        for result in results:
            number, piece = self._waiting.popleft()
            if result.status != ITEM_DONE:
                raise FirmwareFault(
                    f"item {number} ({piece.op.name}) was refused with status {result.status}"
                )
            first, last = piece.keep
            if first != last:
                output = self._domain.at(self._slot_ipa(number) + SLOT_OUTPUT + first, last - first)
                self._output += output
        return len(results)

    def _wait_irq(self) -> None:
        """Takes one interrupt, as an interrupt handler would: acknowledge, then end it."""
        interrupt = self._domain.wait_irq(PIECE_TIMEOUT_NS)
        if interrupt is None:
            if count := len(self._ring.take()):
                raise FirmwareFault(f"{count} items are done and no interrupt has come")
            raise PeerTimeout(f"firmware {self._job.kind}", PIECE_TIMEOUT_NS)
        arrived_ns = time.monotonic_ns()
        self._irq_ns.append(arrived_ns - interrupt.raised_ns)
        if interrupt.line == "fault":
            status, address = (
                self._vcoproc.batch().read32("FAULT_STATUS").read32("FAULT_ADDRESS").run()
            )
            raise FirmwareFault(f"the core faulted: status {status:#x}, address {address:#x}")
        started_ns = time.monotonic_ns()
        self._vcoproc.write32("IRQ_STATUS", _ALL_BITS)
        self._trap_ns.append(time.monotonic_ns() - started_ns)
        self._domain.eoi(interrupt)


def open_domain(job: Job) -> Domain:
    """The domain of a job. On a busy machine a connection may need several attempts.

    Raises:
        RemoteUnavailable: the cluster did not answer in time.
    """
    deadline_ns = time.monotonic_ns() + OPEN_TIMEOUT_NS
    while True:
        try:
            return Domain(job.domain, Path(job.run_dir))
        except RemoteUnavailable:
            if time.monotonic_ns() >= deadline_ns:
                raise


def main() -> int:
    """Serves jobs until stdin ends."""
    die_with_parent()
    # Ctrl-C reaches the whole process group; the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        try:
            with open_domain(job) as domain:
                driver = Driver(job, domain)
                driver.start()
                say("ready")
                if not sys.stdin.readline():
                    return 0
                say("done", **driver.work())
        except (VcoprocError, OSError) as error:
            say("failed", why=str(error) or repr(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
