"""What the configuration files say, as frozen data. Valid by construction when a reader made it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vcoproc import limits
from vcoproc.config.platform_params import WRAPS
from vcoproc.config.problems import Place
from vcoproc.errors import NotFound

FIRST_DOMAIN: Final = "Domain-0"
"""Name of the first domain, whose number is 0: as Xen calls it."""


@dataclass(frozen=True, slots=True)
class RangeConfig:
    """A register range of a coproc. base: physical address. Both are multiples of a page."""

    name: str
    base: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LineConfig:
    """An interrupt output of a coproc. number: of the interrupt on the machine."""

    name: str
    number: int


class Origin(NamedTuple):
    """Where a setting is given. line: 0 in a blob."""

    setting: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class CoprocConfig:
    """One shared coprocessor of the system tree, or a template of several.

    name: its identifier, the name of its entry under /chosen. path: of the physical node.
    aliases: from /aliases, sorted. compatible: the first string of the node's property.
    ranges and lines: in the order of the node. private_bytes: on-chip memory of a context, whole
    pages. scheduler_params: sorted by name. slice_ns, vcoprocs_max, refusal_deadline_ns: bounds
    are in `vcoproc.limits`. instances: 0 for a coproc, the number of coprocs for a template.
    line: of the entry under /chosen. platform_params: properties of the node that its platform
    knows, sorted by name. refusal_drain_ns: how long one that refuses to leave is only asked.
    memory_bytes_max: most memory that the domains on it may have together, 0 for no limit.
    file: where `line` is; another than the tree's own when the tree includes it. origins: what the
    tree says by itself, by name as in the tree; everything else is a default.
    """

    name: str
    path: str
    aliases: tuple[str, ...]
    compatible: str
    ranges: tuple[RangeConfig, ...]
    lines: tuple[LineConfig, ...]
    private_bytes: int
    clock_hz: int
    scheduler: str
    scheduler_params: tuple[tuple[str, int], ...]
    slice_ns: int
    vcoprocs_max: int
    refusal_deadline_ns: int
    instances: int
    line: int
    platform_params: tuple[tuple[str, int | str], ...] = ()
    refusal_drain_ns: int = limits.REFUSAL_DRAIN_NS_DEFAULT
    memory_bytes_max: int = 0
    file: str = ""
    origins: tuple[Origin, ...] = field(default=(), compare=False)

    @property
    def where(self) -> int | Place:
        """For `Problems.add` of the tree's file."""
        return Place(self.file, self.line) if self.file else self.line

    @property
    def described_by(self) -> str:
        """Compatible string of the platform whose registers it has: of the one that it wraps."""
        return str(dict(self.platform_params).get(WRAPS, self.compatible))

    @property
    def is_template(self) -> bool:
        return self.instances > 0

    def instance(self, index: int) -> CoprocConfig:
        """Coproc number `index` of a template, named ``{name}-{index}``.

        Raises:
            NotFound: this is no template, or it has fewer instances.
        """
        name = f"{self.name}-{index}"
        if not 0 <= index < self.instances:
            raise NotFound("coproc", name)
        return dataclasses.replace(self, name=name, aliases=(), instances=0)


@dataclass(frozen=True, slots=True)
class SystemConfig:
    """Everything that a system tree shares. coprocs: in the order of the entries under /chosen.

    first_domain: what the first domain (FIRST_DOMAIN) gets; None when the tree does not say.
    """

    file_name: str
    coprocs: tuple[CoprocConfig, ...]
    first_domain: DomainConfig | None = None

    def find(self, reference: str) -> CoprocConfig:
        """The coproc with this identifier, exact path or alias; never by a part of one.

        The name of an instance (``ncore-3``) gives that instance of its template.

        Raises:
            NotFound: nothing shared is called that.
        """
        for coproc in self.coprocs:
            if reference in (coproc.name, coproc.path) or reference in coproc.aliases:
                return coproc
        for coproc in self.coprocs:
            prefix = f"{coproc.name}-"
            digits = reference.removeprefix(prefix)
            if coproc.is_template and reference.startswith(prefix) and len(digits) <= 4:
                for index in range(coproc.instances):
                    if str(index) == digits:  # "ncore-03" and "ncore-٣" are not names of ours
                        return coproc.instance(index)
        raise NotFound("coproc", reference)


@dataclass(frozen=True, slots=True)
class VcoprocConfig:
    """One vcoproc that a domain file asks for.

    coproc: the reference as written (identifier, path or alias). name: unique in its domain.
    params: scheduling parameters, sorted by name. irq_base, addr_base: guest interrupt of the first
    line, guest address of the first range, or None. irqs, addrs: those given line by line and range
    by range. line: where it stands in `file`, which is empty for the domain's own.
    """

    coproc: str
    name: str
    params: tuple[tuple[str, int], ...]
    irq_base: int | None
    irqs: tuple[tuple[str, int], ...]
    addr_base: int | None
    addrs: tuple[tuple[str, int], ...]
    line: int
    file: str = ""

    @property
    def where(self) -> int | Place:
        """For `Problems.add` of the domain's file."""
        return Place(self.file, self.line) if self.file else self.line


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """A domain file. unknown_keys: keys of xl.cfg(5) that mean nothing here, with their lines.

    on_poweroff, on_reboot, on_crash: "destroy", "restart" or "preserve"; what follows when the
    domain ends so. warnings: what may be a mistake, as (line, what, why). origins: what the file
    says by itself.
    """

    file_name: str
    name: str
    memory_bytes: int
    vcoprocs: tuple[VcoprocConfig, ...]
    unknown_keys: tuple[tuple[str, int], ...]
    on_poweroff: str = "preserve"
    on_reboot: str = "restart"
    on_crash: str = "preserve"
    warnings: tuple[tuple[int, str, str], ...] = ()
    origins: tuple[Origin, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class PlacedRange:
    """A register range in a domain's address space; whole pages."""

    name: str
    ipa: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlacedLine:
    """An interrupt line of a vcoproc. irq: the guest's interrupt number (SPI, 32 or more)."""

    name: str
    irq: int


@dataclass(frozen=True, slots=True)
class PlacedVcoproc:
    """A vcoproc with guest addresses and interrupts. coproc: the identifier, not the reference."""

    name: str
    coproc: str
    ranges: tuple[PlacedRange, ...]
    irqs: tuple[PlacedLine, ...]
