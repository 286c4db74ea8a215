"""Which steps make a change, and in which order. Pure.

The order is what keeps domains safe: memory is there before anything can reach it and goes when
nothing can any more; the hardware comes last and leaves first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from vcoproc.config.records import CoprocConfig
from vcoproc_toolstack.records import DomainRecord, LineNow, VcoprocRecord
from vcoproc_toolstack.steps import (
    AddDomain,
    AddVcoproc,
    AttachVcoproc,
    DetachVcoproc,
    ForgetContext,
    LoadContext,
    MakeMemory,
    MapLines,
    MoveLines,
    PauseDomain,
    PauseVcoproc,
    RemoveMemory,
    RemoveVcoproc,
    ResumeDomain,
    ResumeVcoproc,
    SaveContext,
    SetCoproc,
    Step,
    TakeMemory,
    context_file,
    undo_of,
)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a domain begins with that was written down; names of files that lie ready.

    contexts, lines: by name of the vcoproc.
    """

    memory: str
    contexts: Mapping[str, str]
    lines: Mapping[str, tuple[LineNow, ...]]


def vcoproc_steps(
    domain: DomainRecord,
    vcoproc: VcoprocRecord,
    coprocs: Mapping[str, CoprocConfig],
    staged: Staged | None = None,
) -> list[Step]:
    """What makes one vcoproc of a domain that exists. The hardware comes last and leaves first.

    coprocs: by name. Steps that are only going to be undone do without.
    """
    steps: list[Step] = [
        MakeMemory(file_name, place.size_bytes) for place, file_name in vcoproc.mapped_files()
    ]
    context = context_file(vcoproc.vcoproc_id)
    if staged is not None:
        steps.append(TakeMemory(context, staged.contexts[vcoproc.name]))
    if vcoproc.coproc in coprocs:
        steps.append(SetCoproc(coprocs[vcoproc.coproc]))
    paused = domain.held or staged is not None
    steps += [
        MapLines(vcoproc, staged.lines.get(vcoproc.name, ()) if staged else ()),
        AddVcoproc(vcoproc),
        AttachVcoproc(vcoproc, domain.memory_file, domain.memory_bytes, paused),
    ]
    if staged is not None:
        steps.append(LoadContext(vcoproc.coproc, vcoproc.vcoproc_id, context))
    return steps


def domain_steps(
    domain: DomainRecord, coprocs: Mapping[str, CoprocConfig], staged: Staged | None = None
) -> list[Step]:
    """What makes a domain with all its vcoprocs.

    All files come first, so that they go last: no memory is released under a coprocessor.
    """
    files: list[Step] = [MakeMemory(domain.memory_file, domain.memory_bytes)]
    if staged is not None:
        files = [TakeMemory(domain.memory_file, staged.memory)]
    rest: list[Step] = [AddDomain(domain)]
    if domain.held:
        rest.append(PauseDomain(domain.domid))
    for vcoproc in domain.vcoprocs:
        for step in vcoproc_steps(domain, vcoproc, coprocs, staged):
            (files if isinstance(step, (MakeMemory, TakeMemory)) else rest).append(step)
    return files + rest


def removal_steps(
    domain: DomainRecord, vcoproc: VcoprocRecord | None = None, kept: Set[str] = frozenset()
) -> list[Step]:
    """What takes everything from a domain, or from one vcoproc of it.

    kept: memory files that somebody else may still reach.
    """
    vcoprocs = domain.vcoprocs if vcoproc is None else (vcoproc,)
    made = domain_steps(domain, {}) if vcoproc is None else vcoproc_steps(domain, vcoproc, {})
    undos = [undo for step in reversed(made) if (undo := undo_of(step)) is not None]
    return [
        *(ForgetContext(each.coproc, each.vcoproc_id) for each in vcoprocs),
        *(
            step
            for step in undos
            if not isinstance(step, ResumeDomain)  # it is going to be removed
            and not (isinstance(step, RemoveMemory) and step.file_name in kept)
        ),
    ]


def pause_steps(domain: DomainRecord) -> list[Step]:
    """What keeps all vcoprocs of a domain off their coprocs, and its interrupts waiting."""
    return [
        PauseDomain(domain.domid),
        *(PauseVcoproc(each.coproc, each.vcoproc_id) for each in domain.vcoprocs),
    ]


def resume_steps(domain: DomainRecord) -> list[Step]:
    """The opposite, in the opposite order."""
    return [
        *(ResumeVcoproc(each.coproc, each.vcoproc_id) for each in reversed(domain.vcoprocs)),
        ResumeDomain(domain.domid),
    ]


def rename_steps(domain: DomainRecord) -> list[Step]:
    """What tells the coproc-sims the names that the vcoprocs have now."""
    return [
        AttachVcoproc(each, domain.memory_file, domain.memory_bytes, domain.held)
        for each in domain.vcoprocs
    ]


def release_steps(domain: DomainRecord, vcoproc: VcoprocRecord) -> list[Step]:
    """What lets a vcoproc go on whose context has been loaded.

    The context that was loaded must be forgotten before it runs: if its coproc-sim died later, it
    would go back to what it was then, with memory that has gone on. It is paused once more before,
    which shows that its coproc-sim still has it.
    """
    seat = vcoproc.coproc, vcoproc.vcoproc_id
    steps: list[Step] = [PauseVcoproc(*seat), ForgetContext(*seat)]
    return steps if domain.held else [*steps, ResumeVcoproc(*seat)]


def load_steps(domain: DomainRecord, vcoproc: VcoprocRecord, file_name: str) -> list[Step]:
    """What replaces the context of a vcoproc that is where it stays."""
    load = LoadContext(vcoproc.coproc, vcoproc.vcoproc_id, file_name)
    if domain.held:
        return [load]
    return [PauseVcoproc(vcoproc.coproc, vcoproc.vcoproc_id), load]


def move_steps(moves: Sequence[Move]) -> tuple[list[Step], list[Step]]:
    """What moves vcoprocs, all of them or none: before the commit, and after it.

    Until the commit the old coprocs are what counts, and from then on the new ones. Everything that
    takes long comes before the first of them stands still, or after the last goes on.
    """
    before = [step for each in moves for step in each.prepare()]
    before += [step for each in moves for step in each.transfer()]
    after = [step for each in moves for step in each.leave()]
    after += [step for each in moves for step in each.settle()]
    return before, after


@dataclass(frozen=True, slots=True)
class Move:
    """A vcoproc that goes from one coproc to another.

    vcoproc: as it is before. to: as the new coproc is to be scheduled.
    """

    domain: DomainRecord
    vcoproc: VcoprocRecord
    moved: VcoprocRecord
    to: CoprocConfig

    def prepare(self) -> list[Step]:
        """The new coproc gets it, paused, while it still runs on the old one."""
        return [SetCoproc(self.to), self._attach()]

    def transfer(self) -> list[Step]:
        """Its context goes over. From here on its driver waits, until it leaves or it is undone."""
        number, old, new = self.vcoproc.vcoproc_id, self.vcoproc.coproc, self.moved.coproc
        context = context_file(number)
        return [
            # Paused once more when this is taken back: otherwise its driver would wait for ever.
            PauseVcoproc(old, number, again=self.domain.held),
            SaveContext(old, number, context, moving=True),
            AddVcoproc(self.moved, used_on=old),
            LoadContext(new, number, context),
            MoveLines(number, new, old),
        ]

    def leave(self) -> list[Step]:
        """The old coproc sends its driver to the new one."""
        number = self.vcoproc.vcoproc_id
        return [DetachVcoproc(self.vcoproc.coproc, number, moved=True, files=self.files)]

    def settle(self) -> list[Step]:
        """The new coproc goes on with it."""
        return [
            RemoveVcoproc(self.vcoproc.coproc, self.vcoproc.vcoproc_id),
            *release_steps(self.domain, self.moved),
        ]

    @property
    def files(self) -> tuple[str, ...]:
        """Memory files that both can reach."""
        return self._attach().files

    def _attach(self) -> AttachVcoproc:
        domain = self.domain
        return AttachVcoproc(self.moved, domain.memory_file, domain.memory_bytes, paused=True)
