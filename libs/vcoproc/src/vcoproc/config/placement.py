"""Guest addresses and guest interrupts for the vcoprocs of a domain."""

from __future__ import annotations

from collections.abc import Mapping

from vcoproc import limits
from vcoproc.config.problems import Problems
from vcoproc.config.records import (
    CoprocConfig,
    DomainConfig,
    PlacedLine,
    PlacedRange,
    PlacedVcoproc,
    VcoprocConfig,
)


def assign_addresses(
    domain: DomainConfig, coprocs: Mapping[str, CoprocConfig]
) -> tuple[PlacedVcoproc, ...]:
    """Gives every range of every vcoproc a guest address, every line a guest interrupt.

    What the domain file fixes is placed first: range and line number k from a base, unless named
    by itself. The rest gets the lowest free place from `limits.GUEST_MMIO_BASE_IPA` and
    `limits.GUEST_IRQ_BASE` up, in the order of the file. The same input gives the same places.

    Args:
        domain: the domain.
        coprocs: the coproc behind every `VcoprocConfig.coproc`, see `vcoproc.config.resolve`.

    Raises:
        InvalidConfig: a coproc or a named range or line does not exist, places overlap each other
            or the domain's memory, or there is no room. Carries all of it.
    """
    problems = Problems(domain.file_name)
    space = _Space(domain, problems)
    known = []
    for vcoproc in domain.vcoprocs:
        coproc = coprocs.get(vcoproc.coproc)
        if coproc is None:
            near = (vcoproc.coproc, coprocs)
            problems.add(vcoproc.where, f"vcoproc {vcoproc.name}", "unknown coproc", near=near)
        else:
            known.append((vcoproc, coproc))
    fixed = [_fixed(space, vcoproc, coproc) for vcoproc, coproc in known]
    placed = []
    for (vcoproc, coproc), (ipas, irqs) in zip(known, fixed, strict=True):
        ranges = tuple(
            PlacedRange(
                each.name,
                space.free_ipa(vcoproc, each.size_bytes) if ipa is None else ipa,
                each.size_bytes,
            )
            for each, ipa in zip(coproc.ranges, ipas, strict=True)
        )
        lines = tuple(
            PlacedLine(each.name, space.free_irq(vcoproc) if irq is None else irq)
            for each, irq in zip(coproc.lines, irqs, strict=True)
        )
        placed.append(PlacedVcoproc(vcoproc.name, coproc.name, ranges, lines))
    problems.raise_if_any()
    return tuple(placed)


def _fixed(
    space: _Space, vcoproc: VcoprocConfig, coproc: CoprocConfig
) -> tuple[list[int | None], list[int | None]]:
    """The addresses and interrupts that the domain file fixes; None where it leaves the choice."""
    named_ipas = dict(vcoproc.addrs)
    named_irqs = dict(vcoproc.irqs)
    space.check_named(vcoproc, "addr", named_ipas, [each.name for each in coproc.ranges])
    space.check_named(vcoproc, "irq", named_irqs, [each.name for each in coproc.lines])
    ipas: list[int | None] = []
    offset = 0
    for each in coproc.ranges:
        base = None if vcoproc.addr_base is None else vcoproc.addr_base + offset
        ipa = named_ipas.get(each.name, base)
        if ipa is not None:
            space.take_ipa(vcoproc, each.name, ipa, each.size_bytes)
        ipas.append(ipa)
        offset += each.size_bytes
    irqs: list[int | None] = []
    for place, line in enumerate(coproc.lines):
        base = None if vcoproc.irq_base is None else vcoproc.irq_base + place
        irq = named_irqs.get(line.name, base)
        if irq is not None:
            space.take_irq(vcoproc, line.name, irq)
        irqs.append(irq)
    return ipas, irqs


class _Space:
    """What of a domain's addresses and interrupts is taken, and by whom."""

    def __init__(self, domain: DomainConfig, problems: Problems) -> None:
        self._problems = problems
        ram_end = limits.GUEST_RAM_BASE_IPA + domain.memory_bytes
        # (first address, address after the last, owner)
        self._spans = [(limits.GUEST_RAM_BASE_IPA, ram_end, "the memory of the domain")]
        self._irqs: dict[int, str] = {}
        # Everything below is known to be taken, so that the search for a place stays short.
        self._next_ipa = limits.GUEST_MMIO_BASE_IPA
        self._next_irq = limits.GUEST_IRQ_BASE

    def check_named(
        self, vcoproc: VcoprocConfig, key: str, named: Mapping[str, int], names: list[str]
    ) -> None:
        for name in named:
            if name not in names:
                kind = "range" if key == "addr" else "line"
                why = f"{key}.{name}: the coproc has no {kind} of that name"
                self._wrong(vcoproc, why, near=(name, names))

    def take_ipa(self, vcoproc: VcoprocConfig, name: str, ipa: int, size_bytes: int) -> None:
        end = ipa + size_bytes
        what = f"range {name} at {ipa:#x}"
        if end - 1 > limits.GUEST_IPA_MAX:
            self._wrong(vcoproc, f"{what} ends beyond {limits.GUEST_IPA_MAX:#x}")
        for low, high, owner in self._spans:
            if ipa < high and low < end:
                self._wrong(vcoproc, f"{what} overlaps {owner} at {low:#x}")
                break
        self._spans.append((ipa, end, f"range {name} of vcoproc {vcoproc.name}"))

    def take_irq(self, vcoproc: VcoprocConfig, name: str, irq: int) -> None:
        if irq > limits.GUEST_IRQ_MAX:
            self._wrong(vcoproc, f"line {name}: irq {irq} is above {limits.GUEST_IRQ_MAX}")
        elif irq in self._irqs:
            self._wrong(vcoproc, f"line {name}: irq {irq} is that of {self._irqs[irq]}")
        else:
            self._irqs[irq] = f"line {name} of vcoproc {vcoproc.name}"

    def free_ipa(self, vcoproc: VcoprocConfig, size_bytes: int) -> int:
        """The lowest free place for a range below the domain's memory, taken at once."""
        ipa = self._next_ipa
        for low, high, _ in sorted(self._spans):
            if low >= ipa + size_bytes:
                break
            ipa = max(ipa, -(-high // limits.PAGE_BYTES) * limits.PAGE_BYTES)
        if ipa + size_bytes > limits.GUEST_RAM_BASE_IPA:
            self._wrong(vcoproc, f"no room for {size_bytes} bytes of registers")
            return 0
        self._spans.append((ipa, ipa + size_bytes, f"a range of vcoproc {vcoproc.name}"))
        return ipa

    def free_irq(self, vcoproc: VcoprocConfig) -> int:
        """The lowest free interrupt, taken at once."""
        while self._next_irq in self._irqs:
            self._next_irq += 1
        if self._next_irq > limits.GUEST_IRQ_MAX:
            self._wrong(vcoproc, "no interrupt number is left")
            return 0
        self._irqs[self._next_irq] = f"a line of vcoproc {vcoproc.name}"
        return self._next_irq

    def _wrong(
        self, vcoproc: VcoprocConfig, why: str, near: tuple[str, list[str]] | None = None
    ) -> None:
        self._problems.add(vcoproc.where, f"vcoproc {vcoproc.name}", why, near=near)
