"""Interrupts that come before the toolstack has said whose they are; bounded."""

from __future__ import annotations

from vcoproc.limits import LINES_PER_VCOPROC_MAX, UNMAPPED_COPROCS_MAX, UNMAPPED_VCOPROCS_MAX
from vcoproc.wire.messages import LineEdge, LineLevel, LineSync


class EarlyLines:
    """What the lines of one vcoproc did."""

    __slots__ = ("high", "pulses")

    def __init__(self) -> None:
        self.high: dict[int, int] = {}
        """Lines that are high, and when each rose."""
        self.pulses: dict[int, list[int]] = {}
        """Lines that pulsed: when first, and how often."""


class EarlyMessages:
    """Keeps them by the coproc that said them: no coproc can push out what another one said."""

    def __init__(self) -> None:
        self.refused_count = 0
        """Messages that could not be kept, or whose vcoproc turned out to be another coproc's."""
        self.forgotten_count = 0
        """Vcoprocs forgotten, see `limits.UNMAPPED_VCOPROCS_MAX`."""
        self._of: dict[str, dict[int, EarlyLines]] = {}

    def keep(self, coproc: str, message: LineLevel | LineEdge | LineSync) -> None:
        if not isinstance(message, LineSync) and message.line >= LINES_PER_VCOPROC_MAX:
            self.refused_count += 1
            return
        early = self._record(coproc, message.vcoproc)
        if early is None:
            self.refused_count += 1
            return
        if isinstance(message, LineSync):
            early.high = {
                line: early.high.get(line, 0)
                for line in range(LINES_PER_VCOPROC_MAX)
                if message.high_mask >> line & 1
            }
        elif isinstance(message, LineEdge):
            early.pulses.setdefault(message.line, [message.raised_ns, 0])[1] += 1
        elif message.high:
            early.high.setdefault(message.line, message.raised_ns)
        else:
            early.high.pop(message.line, None)
        if not early.high and not early.pulses:
            self._pop(coproc, message.vcoproc)

    def _record(self, coproc: str, vcoproc_id: int) -> EarlyLines | None:
        """The record, new if need be; None: too many coprocs have one."""
        of_coproc = self._of.get(coproc)
        if of_coproc is None:
            if len(self._of) >= UNMAPPED_COPROCS_MAX:
                return None
            of_coproc = self._of[coproc] = {}
        early = of_coproc.get(vcoproc_id)
        if early is None:
            if len(of_coproc) >= UNMAPPED_VCOPROCS_MAX:
                del of_coproc[next(iter(of_coproc))]
                self.forgotten_count += 1
            early = of_coproc[vcoproc_id] = EarlyLines()
        return early

    def _pop(self, coproc: str, vcoproc_id: int) -> EarlyLines | None:
        of_coproc = self._of.get(coproc, {})
        early = of_coproc.pop(vcoproc_id, None)
        if not of_coproc:
            self._of.pop(coproc, None)
        return early

    def take(self, coproc: str, vcoproc_id: int) -> EarlyLines | None:
        """What the owner said of a vcoproc. What others said of it is refused by that."""
        early = self._pop(coproc, vcoproc_id)
        for other in list(self._of):
            if self._pop(other, vcoproc_id):
                self.refused_count += 1
        return early

    def forget(self, vcoproc_id: int) -> None:
        """The vcoproc is gone."""
        for coproc in list(self._of):
            self._pop(coproc, vcoproc_id)

    def drop_levels(self, coproc: str) -> None:
        """The coproc is gone, and with it what its lines were driven with."""
        for vcoproc_id, early in list(self._of.get(coproc, {}).items()):
            early.high.clear()
            if not early.pulses:
                self._pop(coproc, vcoproc_id)

    def vcoproc_ids(self) -> set[int]:
        return {vcoproc_id for of_coproc in self._of.values() for vcoproc_id in of_coproc}
