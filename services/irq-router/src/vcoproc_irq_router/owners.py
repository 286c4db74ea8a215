"""Who owns which lines: the records that the core keeps of domains and vcoprocs."""

from __future__ import annotations

from vcoproc.errors import AlreadyExists, InvalidArgument
from vcoproc.limits import GUEST_IRQ_MAX, GUEST_IRQ_MIN, LINES_PER_VCOPROC_MAX, NAME_BYTES_MAX
from vcoproc.model.irq_line import IrqLine
from vcoproc_irq_router.events import MapLines


class Domain:
    """room: messages that it takes now; 0 while it does not listen."""

    __slots__ = (
        "credential", "domid", "epoch", "lines", "listening", "paused", "room", "waiting",
    )  # fmt: skip

    def __init__(self, domid: int, credential: bytes) -> None:
        self.domid = domid
        self.credential = credential
        self.listening = False
        self.paused = False
        self.room = 0
        self.epoch = 0
        self.lines: dict[int, IrqLine] = {}
        """By interrupt number."""
        self.waiting: dict[int, IrqLine] = {}
        """By interrupt number, first come first."""


class Vcoproc:
    __slots__ = ("coproc", "domain", "lines", "mapped")

    def __init__(self, domain: Domain, request: MapLines) -> None:
        self.domain = domain
        self.coproc = request.coproc
        self.mapped = request.lines
        self.lines: list[IrqLine | None] = [None] * LINES_PER_VCOPROC_MAX

    def is_as(self, request: MapLines) -> bool:
        """Whether that is how it is mapped already, whatever its lines have done since."""
        return (
            (self.domain.domid, self.coproc) == (request.domid, request.coproc)
            and len(self.mapped) == len(request.lines)
            and all(
                (one.line, one.irq, one.level) == (other.line, other.irq, other.level)
                for one, other in zip(self.mapped, request.lines, strict=True)
            )
        )


def check_coproc(coproc: str) -> None:
    if not 1 <= len(coproc.encode()) <= NAME_BYTES_MAX:
        raise InvalidArgument("coproc", f"not 1 to {NAME_BYTES_MAX} bytes long")


def check_lines(event: MapLines, domain: Domain) -> None:
    if not 1 <= event.vcoproc_id < 1 << 32:
        raise InvalidArgument("vcoproc_id", f"{event.vcoproc_id} is not 1 to 2**32-1")
    check_coproc(event.coproc)
    if len({mapped.line for mapped in event.lines}) != len(event.lines):
        raise InvalidArgument("lines", "one line twice")
    if len({mapped.irq for mapped in event.lines}) != len(event.lines):
        raise InvalidArgument("lines", "one interrupt number twice")
    for mapped in event.lines:
        if not 0 <= mapped.line < LINES_PER_VCOPROC_MAX:
            raise InvalidArgument("line", f"{mapped.line} is not 0 to {LINES_PER_VCOPROC_MAX - 1}")
        if not GUEST_IRQ_MIN <= mapped.irq <= GUEST_IRQ_MAX:
            raise InvalidArgument("irq", f"{mapped.irq} is not {GUEST_IRQ_MIN} to {GUEST_IRQ_MAX}")
        if mapped.irq in domain.lines:
            raise AlreadyExists("interrupt", f"{mapped.irq} of domain {domain.domid}")
