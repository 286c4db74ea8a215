"""What a line does, in other words than the code: what the domain is owed.

An edge line owes the domain an injection when an edge came since the last one (`new`), or when a
connection broke while the domain was handling one (`lost`). A level line owes one while it is high.
Nothing is owed while the domain is handling the last one (`taken`), nor while it is masked.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class OracleLine:
    level: bool
    high: bool = False
    new: bool = False
    lost: bool = False
    taken: bool = False
    enabled: bool = True

    def owed(self) -> bool:
        wants = self.high if self.level else (self.new or self.lost)
        return wants and self.enabled and not self.taken

    def injected(self) -> None:
        assert self.owed()
        self.taken = True
        if self.lost:
            self.lost = False
        else:
            self.new = False

    def end(self) -> bool:
        """EOI; False: there was nothing to end."""
        if self.taken:
            self.taken = False
        elif self.lost:
            self.lost = False
        else:
            return False
        return True

    def broken(self) -> None:
        self.lost = self.lost or (self.taken and not self.level)
        self.taken = False

    @property
    def pending(self) -> bool:
        return self.high if self.level else self.new

    @property
    def active(self) -> bool:
        return self.taken or self.lost


@dataclass
class OracleDomain:
    lines: dict[int, OracleLine] = field(default_factory=dict)
    listening: bool = False
    paused: bool = False
    room: int = 0
    epoch: int = 0
    guest_errors: int = 0

    def owed(self) -> set[int]:
        return {irq for irq, line in self.lines.items() if line.owed()}

    def due_count(self) -> int:
        """How many injections must come now."""
        return 0 if self.paused or not self.listening else min(self.room, len(self.owed()))
