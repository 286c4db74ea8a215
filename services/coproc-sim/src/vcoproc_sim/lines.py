"""Interrupt lines: what the irq-router is told of them."""

from __future__ import annotations

from vcoproc.wire.messages import LineEdge, LineLevel, LineSync
from vcoproc_sim.platforms.api import Platform, Trigger
from vcoproc_sim.vcoprocs import Outbox, Vcoproc


class LineWatch:
    """Finds changes of lines and tells them, with the vcoproc and the switch epoch they belong to.

    epoch: the number of the last switch, counted by the executor.
    """

    def __init__(self, platform: Platform, outbox: Outbox) -> None:
        self.epoch = 0
        self._platform = platform
        self._outbox = outbox
        info = platform.info
        self._level_lines = [
            (
                number,
                info.index_of[line.status],
                info.index_of[line.enable] if line.enable else None,
            )
            for number, line in enumerate(info.lines)
            if line.trigger is Trigger.LEVEL
        ]

    def levels(self, vcoproc: Vcoproc, now_ns: int, *, on_hardware: bool) -> None:
        """Level lines follow the registers, the hardware's or the shadow's."""
        shadow = vcoproc.shadow
        read = self._platform.read if on_hardware else shadow.__getitem__
        told = vcoproc.levels
        for number, status, enable in self._level_lines:
            high = read(status) & (read(enable) if enable is not None else -1) != 0
            if high != told[number]:
                told[number] = high
                self._outbox.to_router.append(
                    LineLevel(vcoproc.id, number, high, self.epoch, now_ns)
                )

    def settle(self, vcoproc: Vcoproc) -> None:
        """Takes the levels of a switched-out one as known; `sync` says them."""
        shadow = vcoproc.shadow
        for number, status, enable in self._level_lines:
            high = shadow[status] & (shadow[enable] if enable is not None else -1) != 0
            vcoproc.levels[number] = high

    def edges(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """Pulses since the last look are those of the one on the hardware, or that just left it."""
        for number in self._platform.take_edges():
            self._outbox.to_router.append(LineEdge(vcoproc.id, number, self.epoch, now_ns))

    def resample(self, vcoproc: Vcoproc, number: int, now_ns: int) -> None:
        """Says the level of a line again; of anything else but a level line there is nothing."""
        if any(number == level_line for level_line, _status, _enable in self._level_lines):
            self._outbox.to_router.append(
                LineLevel(vcoproc.id, number, vcoproc.levels[number], self.epoch, now_ns)
            )

    def sync(self, vcoproc: Vcoproc) -> LineSync:
        """All level lines, as the router shall know them."""
        mask = sum(1 << number for number, high in enumerate(vcoproc.levels) if high)
        return LineSync(vcoproc.id, mask, self.epoch)
