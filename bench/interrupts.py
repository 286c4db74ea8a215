"""Interrupt latency: from the rise of a line in coproc-sim to the domain that waits for it."""

from __future__ import annotations

import time
from typing import Final

from bench.effort import Effort
from bench.floors import relay
from bench.placing import on_two_cores
from bench.rig import COPROC, Guest, Rig
from bench.stats import Series
from bench.table import Row, timed_row
from vcoproc.limits import S

_TIMEOUT_NS: Final = 5 * S
_ALL_BITS: Final = 0xFFFF_FFFF


class NoInterrupt(Exception):
    """The cluster lost one, or is far too slow to be measured."""


def _latency_ns(guest: Guest) -> float:
    # Posted: the answer to a write would arrive together with the interrupt.
    guest.vcoproc.post32("DOORBELL", 1)
    interrupt = guest.domain.wait_irq(_TIMEOUT_NS)
    now_ns = time.monotonic_ns()
    if interrupt is None:
        raise NoInterrupt(f"none within {_TIMEOUT_NS // S} s of a doorbell")
    guest.vcoproc.write32("IRQ_STATUS", _ALL_BITS)
    guest.domain.eoi(interrupt)
    return now_ns - interrupt.raised_ns


def interrupts(rig: Rig, guest: Guest, effort: Effort) -> list[Row]:
    """The firmware of `guest` is `hello`: each doorbell is answered by an interrupt."""
    found, floor = Series(), Series()
    with relay(rig.scratch) as bare:
        near = [*rig.others(), bare.forwarder_pid]
        with on_two_cores(near, [rig.pid(COPROC), bare.source_pid]):
            for number in range(effort.rounds + 1):
                samples = [_latency_ns(guest) for _ in range(effort.samples // 2)]
                bare_samples = [float(bare.latency_ns()) for _ in range(effort.samples // 2)]
                if number:  # the first is for warming up
                    found.add_round(samples)
                    floor.add_round(bare_samples)
    beside = "two bare hops of the same frames"
    return [timed_row("irq", "interrupt latency, line to domain", found, floor, beside)]
