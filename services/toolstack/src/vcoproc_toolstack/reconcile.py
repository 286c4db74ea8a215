"""What must be done so that a service holds what the store says. Pure: compares, does nothing.

Theory of operation:
    The other services keep their share of the cluster in memory. When one of them starts again, or
    answers again after a silence, the toolstack lists what it holds and performs the difference:
    first what nobody wants is taken away, then what lacks is given. So a lost message, a crash of
    either side and a change half done all end in the same way. What is there already is not given
    again: a toolstack that starts beside thousands of vcoprocs that run has nothing to say.
Not handled:
    A service that holds something under a right number with wrong contents: numbers of vcoprocs are
    never reused, and a service refuses to change what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from vcoproc.config.records import CoprocConfig
from vcoproc_toolstack.records import (
    CoprocAccount,
    CoprocView,
    DomainRecord,
    Life,
    RouterView,
    VcoprocRecord,
)
from vcoproc_toolstack.steps import (
    AddDomain,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    MapLines,
    RemoveDomain,
    RemoveVcoproc,
    SetCoproc,
    Step,
    UnmapLines,
    domain_steps,
    vcoproc_steps,
)


def wanted(domains: Iterable[DomainRecord]) -> list[tuple[DomainRecord, VcoprocRecord]]:
    """Every vcoproc that is to be alive, with its domain."""
    return [
        (domain, vcoproc)
        for domain in domains
        if domain.life is Life.ALIVE
        for vcoproc in domain.vcoprocs
        if vcoproc.life is Life.ALIVE
    ]


def scheduler_repair(
    domains: Sequence[DomainRecord],
    coprocs: Mapping[str, CoprocConfig],
    online: Iterable[str],
    accounts: Sequence[CoprocAccount],
) -> list[Step]:
    """What the scheduler lacks or has too much.

    coprocs: of the tree, by name, as they are to be scheduled now; a vcoproc of another one waits
    for a tree that has it again.
    online: names of those that are leased now.
    """
    pairs = [(d, v) for d, v in wanted(domains) if v.coproc in coprocs]
    ids = {vcoproc.vcoproc_id for _, vcoproc in pairs}
    held = {(account.coproc, number) for account in accounts for number, _ in account.vcoprocs}
    names = sorted({*online, *(vcoproc.coproc for _, vcoproc in pairs)})
    return [
        *(RemoveVcoproc(coproc, number) for coproc, number in sorted(held) if number not in ids),
        *(SetCoproc(coprocs[name], _set_parameters(name, held, pairs)) for name in names),
        *(AddVcoproc(v) for _, v in pairs if (v.coproc, v.vcoproc_id) not in held),
    ]


def _set_parameters(
    coproc: str,
    held: Set[tuple[str, int]],
    pairs: Sequence[tuple[DomainRecord, VcoprocRecord]],
) -> tuple[tuple[int, tuple[tuple[str, int], ...]], ...]:
    """Parameters of the vcoprocs that the scheduler has on a coproc.

    They go with the algorithm: one by one they could fit neither the old nor the new one.
    """
    return tuple(
        (vcoproc.vcoproc_id, vcoproc.params)
        for _, vcoproc in pairs
        if vcoproc.coproc == coproc and (coproc, vcoproc.vcoproc_id) in held
    )


def router_repair(domains: Sequence[DomainRecord], view: RouterView) -> list[Step]:
    """What the irq-router lacks or has too much."""
    pairs = wanted(domains)
    ids = {vcoproc.vcoproc_id for _, vcoproc in pairs}
    alive = [domain for domain in domains if domain.life is Life.ALIVE]
    return [
        *(UnmapLines(vcoproc_id) for vcoproc_id in sorted(view.vcoproc_ids - ids)),
        *(
            RemoveDomain(domid)
            for domid in sorted(view.domids - {domain.domid for domain in alive})
        ),
        *(AddDomain(domain) for domain in alive if domain.domid not in view.domids),
        *(MapLines(v) for _, v in pairs if v.vcoproc_id not in view.vcoproc_ids),
    ]


def coproc_repair(domains: Sequence[DomainRecord], coproc: str, view: CoprocView) -> list[Step]:
    """What a coproc-sim lacks or has too much."""
    pairs = [(d, v) for d, v in wanted(domains) if v.coproc == coproc]
    ids = {vcoproc.vcoproc_id for _, vcoproc in pairs}
    held = {vcoproc_id for vcoproc_id, _ in view.vcoprocs}
    return [
        *(DetachVcoproc(coproc, vcoproc_id) for vcoproc_id in sorted(held - ids)),
        *(
            AttachVcoproc(vcoproc, domain.memory_file, domain.memory_bytes)
            for domain, vcoproc in pairs
            if vcoproc.vcoproc_id not in held
        ),
    ]


def unfinished(
    domains: Iterable[DomainRecord],
) -> list[tuple[DomainRecord, VcoprocRecord | None, list[Step]]]:
    """What was cut off half way: the domain, the vcoproc or None for all of it, what to undo."""
    found: list[tuple[DomainRecord, VcoprocRecord | None, list[Step]]] = []
    for domain in domains:
        if domain.life is not Life.ALIVE:
            found.append((domain, None, domain_steps(domain, {})))
            continue
        found += [
            (domain, vcoproc, vcoproc_steps(domain, vcoproc, {}))
            for vcoproc in domain.vcoprocs
            if vcoproc.life is not Life.ALIVE
        ]
    return found
