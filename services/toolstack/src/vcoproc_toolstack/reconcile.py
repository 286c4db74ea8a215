"""What must be done so that a service holds what the store says. Pure: compares, does nothing.

Theory of operation:
    The other services keep their share of the cluster in memory. When one of them starts again, or
    answers again after a silence, the toolstack lists what it holds and performs the difference:
    first what nobody wants is taken away, then what lacks is given. So a lost message, a crash of
    either side and a change half done all end in the same way. What is there already is not given
    again: a toolstack that starts beside thousands of vcoprocs that run has nothing to say.
Not handled:
    A service that holds something under a right number with wrong contents: numbers of vcoprocs are
    never reused, and a service refuses to change what it has. The context of a vcoproc whose
    coproc-sim died is lost, unless one is kept that it has not run with yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from vcoproc.config.records import CoprocConfig
from vcoproc_toolstack.plans import release_steps
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
    ForgetContext,
    LoadContext,
    MapLines,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    RemoveCoproc,
    RemoveDomain,
    RemoveVcoproc,
    ResumeDomain,
    ResumeVcoproc,
    SetCoproc,
    Step,
    UnmapLines,
    context_file,
)


def wanted(domains: Iterable[DomainRecord]) -> list[tuple[DomainRecord, VcoprocRecord]]:
    """Every vcoproc that is to be in its place, with its domain."""
    return [
        (domain, vcoproc)
        for domain in domains
        if domain.placed
        for vcoproc in domain.vcoprocs
        if vcoproc.placed
    ]


def scheduler_repair(
    domains: Sequence[DomainRecord],
    coprocs: Mapping[str, CoprocConfig],
    online: Iterable[str],
    accounts: Sequence[CoprocAccount],
) -> list[Step]:
    """What the scheduler lacks or has too much.

    coprocs: by name, as they are to be scheduled now. A vcoproc of another one waits for a tree
    that has it again.
    online: names of those that are leased now.
    """
    everybody = wanted(domains)
    pairs = [(d, v) for d, v in everybody if v.coproc in coprocs]
    places = {(vcoproc.coproc, vcoproc.vcoproc_id) for _, vcoproc in pairs}
    held = {(account.coproc, number) for account in accounts for number, _ in account.vcoprocs}
    names = sorted({*online, *(vcoproc.coproc for _, vcoproc in pairs)} & coprocs.keys())
    used = {*coprocs, *(vcoproc.coproc for _, vcoproc in everybody)}
    return [
        *(RemoveCoproc(account.coproc) for account in accounts if account.coproc not in used),
        *(RemoveVcoproc(*place) for place in sorted(held - places) if place[0] in used),
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
    placed = [domain for domain in domains if domain.placed]
    return [
        *(UnmapLines(vcoproc_id) for vcoproc_id in sorted(view.coprocs.keys() - ids)),
        *(
            RemoveDomain(domid)
            for domid in sorted(view.domids - {domain.domid for domain in placed})
        ),
        *(AddDomain(domain) for domain in placed if domain.domid not in view.domids),
        # Before its lines: nothing is to come through a new one.
        *(PauseDomain(d.domid) for d in placed if d.held and d.domid not in view.paused),
        *(step for _, vcoproc in pairs for step in _line_steps(vcoproc, view)),
        *(ResumeDomain(d.domid) for d in placed if not d.held and d.domid in view.paused),
    ]


def _line_steps(vcoproc: VcoprocRecord, view: RouterView) -> list[Step]:
    """What gives a vcoproc its lines, of its own coproc."""
    coproc = view.coprocs.get(vcoproc.vcoproc_id)
    if coproc is None:
        return [MapLines(vcoproc)]
    moved = MoveLines(vcoproc.vcoproc_id, vcoproc.coproc, coproc)
    return [] if coproc == vcoproc.coproc else [moved]


def coproc_repair(
    domains: Sequence[DomainRecord],
    coproc: str,
    view: CoprocView,
    contexts: Set[int] = frozenset(),
) -> list[Step]:
    """What a coproc-sim lacks or has too much.

    contexts: numbers of vcoprocs whose context is kept until they run.
    """
    pairs = wanted(domains)
    coproc_of = {vcoproc.vcoproc_id: vcoproc.coproc for _, vcoproc in pairs}
    steps: list[Step] = [
        DetachVcoproc(coproc, vcoproc_id, moved=vcoproc_id in coproc_of)
        for vcoproc_id, _ in sorted(view.vcoprocs)
        if coproc_of.get(vcoproc_id) != coproc
    ]
    present = {vcoproc_id for vcoproc_id, _ in view.vcoprocs}
    for domain, vcoproc in pairs:
        if vcoproc.coproc == coproc:
            context = vcoproc.vcoproc_id in contexts
            if vcoproc.vcoproc_id in present:
                steps += _kept_steps(domain, vcoproc, view, context=context)
            else:
                steps += _new_steps(domain, vcoproc, context=context)
    return steps


def _new_steps(domain: DomainRecord, vcoproc: VcoprocRecord, *, context: bool) -> list[Step]:
    """What gives a vcoproc its place on its coproc. context: one is kept for it."""
    place = domain.memory_file, domain.memory_bytes
    if not context:
        return [AttachVcoproc(vcoproc, *place, domain.held)]
    seat = vcoproc.coproc, vcoproc.vcoproc_id
    return [
        AttachVcoproc(vcoproc, *place, paused=True),
        LoadContext(*seat, context_file(vcoproc.vcoproc_id)),
        *release_steps(domain, vcoproc),
    ]


def _kept_steps(
    domain: DomainRecord, vcoproc: VcoprocRecord, view: CoprocView, *, context: bool
) -> list[Step]:
    """What corrects a vcoproc that is there. context: one is kept for it.

    It has loaded that, or is what it was made from, and its driver may have gone on since.
    """
    number = vcoproc.vcoproc_id
    seat = vcoproc.coproc, number
    steps: list[Step] = []
    if view.names.get(number) != vcoproc.resource:
        steps.append(AttachVcoproc(vcoproc, domain.memory_file, domain.memory_bytes, domain.held))
    if context:
        steps.append(ForgetContext(*seat))
    if domain.held:
        # Also one that is paused: a move that was cut off may have left its driver waiting.
        steps.append(PauseVcoproc(*seat, again=number in view.paused))
    elif number in view.paused:
        steps.append(ResumeVcoproc(*seat))
    return steps


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What was cut off half way. vcoproc: None for the whole domain."""

    domain: DomainRecord
    vcoproc: VcoprocRecord | None = None

    @property
    def life(self) -> Life:
        return self.domain.life if self.vcoproc is None else self.vcoproc.life

    @property
    def resource(self) -> str:
        return self.domain.resource if self.vcoproc is None else self.vcoproc.resource


def unfinished(domains: Iterable[DomainRecord]) -> list[Unfinished]:
    """Everything that was cut off."""
    found: list[Unfinished] = []
    for domain in domains:
        if domain.life is not Life.ALIVE:
            found.append(Unfinished(domain))
            continue
        found += [
            Unfinished(domain, vcoproc)
            for vcoproc in domain.vcoprocs
            if vcoproc.life is not Life.ALIVE
        ]
    return found
