"""From what a domain file asks for to records: where each range and line of a vcoproc is. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vcoproc import limits
from vcoproc.config import (
    CoprocConfig,
    DomainConfig,
    LineConfig,
    PlacedVcoproc,
    RangeConfig,
    SystemConfig,
    VcoprocConfig,
    assign_addresses,
    parse_domain,
    resolve,
)
from vcoproc.errors import (
    AlreadyExists,
    ConfigProblem,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    WrongState,
)
from vcoproc_toolstack.records import (
    DomainRecord,
    Life,
    PlatformRecord,
    VcoprocLine,
    VcoprocRange,
    VcoprocRecord,
)

SPEC_FILE: Final = "spec"
"""File name in messages about the text that describes one vcoproc."""
# What would end the quotes that a spec stands in within a domain file, or begin an escape there.
_SPEC_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\"\\]")
_PLACED: Final = "placed/"
"""Marks references to vcoprocs that have their places already: no name, and no absolute path."""


@dataclass(frozen=True, slots=True)
class NewVcoproc:
    """A vcoproc that is going to be made, all but its numbers and secrets."""

    name: str
    coproc: CoprocConfig
    params: tuple[tuple[str, int], ...]
    ranges: tuple[VcoprocRange, ...]
    lines: tuple[VcoprocLine, ...]

    def record(self, vcoproc_id: int, domid: int, domain: str, credential: bytes) -> VcoprocRecord:
        """The record of a vcoproc that is being created."""
        return VcoprocRecord(
            vcoproc_id=vcoproc_id,
            domid=domid,
            domain=domain,
            name=self.name,
            coproc=self.coproc.name,
            compatible=self.coproc.compatible,
            life=Life.CREATING,
            trap_credential=credential,
            params=self.params,
            ranges=self.ranges,
            lines=self.lines,
        )


def mismatch(coproc: CoprocConfig, platform: PlatformRecord) -> str | None:
    """Says how a node of the tree and a coprocessor type disagree; None when they agree.

    Ranges must be the same, by name. A line that the node lacks is not connected.
    """
    have = {each.name: each.size_bytes for each in coproc.ranges}
    want = {each.name: each.size_bytes for each in platform.ranges}
    for name in sorted({*have, *want}):
        if name not in have:
            return f"{coproc.path} lacks the range {name!r} that {platform.compatible} has"
        if name not in want:
            return f"{platform.compatible} has no range {name!r}, which {coproc.path} has"
        if have[name] != want[name]:
            return (
                f"range {name!r} has {have[name]} bytes in {coproc.path}, "
                f"and {want[name]} in {platform.compatible}"
            )
    lines = {line.name for line in platform.lines}
    for line in coproc.lines:
        if line.name not in lines:
            return f"{platform.compatible} has no line {line.name!r}, which {coproc.path} has"
    return None


def place_domain(
    config: DomainConfig,
    system: SystemConfig,
    platform_of: Callable[[CoprocConfig], PlatformRecord],
) -> list[NewVcoproc]:
    """The vcoprocs of a new domain.

    Args:
        platform_of: the type of a coproc; raises when the coproc cannot be used now.

    Raises:
        InvalidConfig: a reference, address or interrupt is wrong.
        WrongState: a vcoproc names a template, or a coproc that cannot be used now.
    """
    coprocs = resolve(system, config)
    for coproc in coprocs.values():
        if coproc.is_template:
            raise WrongState(
                f"coproc {coproc.name!r}",
                "a template",
                f"one of its coprocs ({coproc.name}-0, ...)",
            )
    placed = assign_addresses(config, coprocs)
    return [
        _new(each, wish, coprocs[wish.coproc], platform_of)
        for each, wish in zip(placed, config.vcoprocs, strict=True)
    ]


def parse_spec(spec: str) -> VcoprocConfig:
    """The one vcoproc that a text like "coproc=dsp0,name=audio,weight=512" describes.

    Raises:
        InvalidArgument: it is empty, too long, or has characters that no spec has.
        InvalidConfig: something in it is wrong.
    """
    if not spec:
        raise InvalidArgument("spec", "is empty; it says which coproc, as in coproc=dsp0")
    if len(spec.encode()) > limits.SPEC_BYTES_MAX:
        raise InvalidArgument("spec", f"is longer than {limits.SPEC_BYTES_MAX} bytes")
    if found := _SPEC_FORBIDDEN.search(spec):
        raise InvalidArgument("spec", f"has the character {found[0]!r}")
    try:
        [wish] = parse_domain(f'name = "spec"\nvcoproc = ["{spec}"]', SPEC_FILE).vcoprocs
    except InvalidConfig as error:  # the lines are of the file that is made here
        problems = [ConfigProblem(SPEC_FILE, 0, each.what, each.why) for each in error.problems]
        raise InvalidConfig(problems) from None
    return replace(wish, line=0)


def place_vcoproc(
    domain: DomainRecord,
    spec: str,
    system: SystemConfig,
    platform_of: Callable[[CoprocConfig], PlatformRecord],
) -> NewVcoproc:
    """One more vcoproc for a domain; the places of the others stay.

    Raises:
        InvalidArgument: the spec has characters that no spec has.
        AlreadyExists: the domain has a vcoproc of that name.
        LimitExceeded: the domain has as many as it may.
        InvalidConfig, WrongState: as `place_domain`.
    """
    wish = parse_spec(spec)
    if len(domain.vcoprocs) >= limits.VCOPROCS_PER_DOMAIN_MAX:
        raise LimitExceeded(f"vcoprocs of domain {domain.name}", limits.VCOPROCS_PER_DOMAIN_MAX)
    if any(vcoproc.name == wish.name for vcoproc in domain.vcoprocs):
        raise AlreadyExists("vcoproc", f"{domain.name}/{wish.name}")
    config = DomainConfig(SPEC_FILE, domain.name, domain.memory_bytes, (wish,), ())
    [new] = place_domain(config, system, platform_of)  # wrong in itself: before the others are seen
    kept = [replace(as_wish(v), coproc=_PLACED + v.name) for v in domain.vcoprocs]
    stubs = {_PLACED + v.name: _stub(new.coproc, v) for v in domain.vcoprocs}
    everything = replace(config, vcoprocs=(*kept, wish))
    placed = assign_addresses(everything, {**stubs, wish.coproc: new.coproc})
    return _new(placed[-1], wish, new.coproc, platform_of)


def as_wish(vcoproc: VcoprocRecord) -> VcoprocConfig:
    """A vcoproc as a wish for exactly the coproc and the places that it has."""
    return VcoprocConfig(
        coproc=vcoproc.coproc,
        name=vcoproc.name,
        params=vcoproc.params,
        irq_base=None,
        irqs=tuple((line.name, line.irq) for line in vcoproc.lines),
        addr_base=None,
        addrs=tuple((place.name, place.ipa) for place in vcoproc.ranges),
        line=0,
    )


def _stub(any_coproc: CoprocConfig, vcoproc: VcoprocRecord) -> CoprocConfig:
    """The coproc of a vcoproc as it was when the vcoproc was made; the tree may have changed."""
    return replace(
        any_coproc,
        name=vcoproc.coproc,
        ranges=tuple(RangeConfig(place.name, 0, place.size_bytes) for place in vcoproc.ranges),
        lines=tuple(LineConfig(line.name, line.irq) for line in vcoproc.lines),
    )


def _new(
    placed: PlacedVcoproc,
    wish: VcoprocConfig,
    coproc: CoprocConfig,
    platform_of: Callable[[CoprocConfig], PlatformRecord],
) -> NewVcoproc:
    platform = platform_of(coproc)
    ipas: Mapping[str, int] = {each.name: each.ipa for each in placed.ranges}
    irqs: Mapping[str, int] = {each.name: each.irq for each in placed.irqs}
    return NewVcoproc(
        name=placed.name,
        coproc=coproc,
        params=wish.params,
        ranges=tuple(
            VcoprocRange(each.name, ipas[each.name], each.size_bytes, each.mapped)
            for each in platform.ranges
        ),
        lines=tuple(
            VcoprocLine(index, line.name, irqs[line.name], line.level)
            for index, line in enumerate(platform.lines)
            if line.name in irqs
        ),
    )


def check_room(
    new: Sequence[NewVcoproc], counts: Mapping[str, int], contexts_max: Callable[[str], int]
) -> None:
    """Refuses more vcoprocs on a coproc than it may have.

    Args:
        counts: vcoprocs on each coproc now.
        contexts_max: what the coprocessor type can hold, by name of the coproc.

    Raises:
        LimitExceeded: one of the coprocs would have too many.
    """
    wanted = dict(counts)
    for each in new:
        name = each.coproc.name
        wanted[name] = wanted.get(name, 0) + 1
        limit = min(each.coproc.vcoprocs_max, contexts_max(name))
        if wanted[name] > limit:
            raise LimitExceeded(f"vcoprocs on coproc {name}", limit)
