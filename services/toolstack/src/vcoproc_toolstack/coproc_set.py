"""Which coprocs there are: those of the tree, and what was changed of them at run time. Pure.

Theory of operation:
    The system's device tree says what is shared at first. What an operator adds, drains or removes
    later is kept in the store, a record for each coproc that differs (`CoprocRecord`), and hides
    what the tree says under the same name. `CoprocSet` is both together at one moment.
Invariants:
    Every name, alias and path means one coproc, as in a tree; ranges do not overlap.
Not handled:
    Whether the machine really has what is added: nobody can ask it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.config.problems import Problems, did_you_mean
from vcoproc.errors import AlreadyExists, InvalidArgument, LimitExceeded, NotFound, WrongState
from vcoproc_toolstack.records import CoprocLife, CoprocRecord


@dataclass(frozen=True, slots=True)
class RunningSystem(SystemConfig):
    """What references mean now. absent: names that templates do not make any more."""

    absent: frozenset[str] = frozenset()

    def find(self, reference: str) -> CoprocConfig:
        """As of `SystemConfig`."""
        found = SystemConfig.find(self, reference)
        if found.name in self.absent:
            raise NotFound("coproc", reference)
        return found


@dataclass(frozen=True, slots=True)
class CoprocSet:
    """All coprocs at one moment.

    tree: as it was read. records: by name. system: what references mean. coprocs: by name, those
    with a node of their own first; so a coproc-sim that takes any gets one that is there anyway
    before one that is made on demand. templates: of those made on demand, by their names.
    """

    tree: SystemConfig
    records: Mapping[str, CoprocRecord]
    system: RunningSystem
    coprocs: Mapping[str, CoprocConfig]
    templates: Mapping[str, CoprocConfig]

    @classmethod
    def of(cls, tree: SystemConfig, records: Iterable[CoprocRecord] = ()) -> CoprocSet:
        """records: what was changed, if anything was."""
        by_name = {each.name: each for each in records if each != CoprocRecord(each.name)}
        entries = _entries(tree, by_name)
        absent = frozenset(
            name for name, record in by_name.items() if record.life is CoprocLife.REMOVED
        )
        instances = [
            (made, template)
            for template in entries
            for made in instances_of(template)
            if made.name not in absent
        ]
        coprocs = [entry for entry in entries if not entry.is_template]
        coprocs += [made for made, _ in instances]
        return cls(
            tree=tree,
            records=by_name,
            system=RunningSystem(tree.file_name, tuple(entries), tree.first_domain, absent),
            coprocs={coproc.name: coproc for coproc in coprocs},
            templates={made.name: template for made, template in instances},
        )

    def record(self, name: str) -> CoprocRecord:
        """What was changed of a coproc; of one that is as the tree says, that nothing was."""
        return self.records.get(name) or CoprocRecord(name)

    def entry(self, name: str) -> CoprocConfig:
        """The coproc or template of this name, which must be there."""
        if name in self.coprocs:
            return self.coprocs[name]
        return next(each for each in self.system.coprocs if each.name == name)

    def added(self, name: str) -> bool:
        """Whether a coproc, or the template that makes it, was added at run time."""
        return self._source(name).config is not None

    def incarnation(self, name: str) -> int:
        """Tells a coproc from others of its name before and after it."""
        return max(self.record(name).incarnation, self._source(name).incarnation)

    def _source(self, name: str) -> CoprocRecord:
        template = self.templates.get(name)
        return self.record(template.name if template else name)

    def leaving(self, name: str) -> bool:
        """Whether a coproc is being removed."""
        return self.record(name).life is CoprocLife.REMOVING

    def draining(self, name: str) -> bool:
        """Whether a coproc takes no new vcoprocs."""
        return self.record(name).draining

    def usable(self, name: str) -> bool:
        """Whether a coproc takes new vcoprocs, as far as operators say."""
        return not self.leaving(name) and not self.draining(name)

    def need_usable(self, name: str) -> None:
        """Refuses a coproc that takes no new vcoprocs.

        Raises:
            WrongState: it is draining, or it is being removed.
        """
        for state, so in (("being removed", self.leaving(name)), ("draining", self.draining(name))):
            if so:
                raise WrongState(f"coproc {name!r}", state, "one that takes new vcoprocs")

    def changed(self, records: Iterable[CoprocRecord]) -> CoprocSet:
        """With these records instead of those of the same names."""
        by_name = {**self.records, **{record.name: record for record in records}}
        return CoprocSet.of(self.tree, by_name.values())

    def without(self, name: str) -> tuple[CoprocSet, list[CoprocRecord], list[str]]:
        """What is left when a coproc is removed.

        Returns:
            The set; the records of it that are new; and names whose records are to be forgotten.
            With the last coproc that a template makes, the template goes too.
        """
        names = [name]
        template = self.templates.get(name)
        if template is not None:
            made = {each for each, by in self.templates.items() if by is template}
            if made == {name}:
                names = [template.name, *(each.name for each in instances_of(template))]
        in_tree = {entry.name for entry in self.tree.coprocs}
        kept = [
            CoprocRecord(each, life=CoprocLife.REMOVED)
            for each in names
            if each in in_tree or (each == name and names == [name] and template is not None)
        ]
        by_name = {n: record for n, record in self.records.items() if n not in names}
        by_name |= {record.name: record for record in kept}
        forgotten = [each for each in names if each in self.records and each not in by_name]
        return CoprocSet.of(self.tree, by_name.values()), kept, forgotten


def instances_of(template: CoprocConfig) -> Iterator[CoprocConfig]:
    """The coprocs that a template makes; none for what is no template."""
    return (template.instance(index) for index in range(template.instances))


def _entries(tree: SystemConfig, records: Mapping[str, CoprocRecord]) -> list[CoprocConfig]:
    """Coprocs and templates that are there: of the tree in its order, then those added."""
    entries = [entry for entry in tree.coprocs if not _hidden(records.get(entry.name))]
    added = sorted(records.values(), key=lambda record: record.incarnation)
    return entries + [record.config for record in added if record.config is not None]


def _hidden(record: CoprocRecord | None) -> bool:
    """Whether what the tree says under the name of a record does not hold."""
    return record is not None and (record.config is not None or record.life is CoprocLife.REMOVED)


# --- adding ---------------------------------------------------------------------------------------


def choose(system: SystemConfig, names: Sequence[str]) -> list[CoprocConfig]:
    """Entries of a tree, or coprocs that its templates make, in the order of the tree.

    Args:
        names: of those wanted; empty for all entries.

    Raises:
        InvalidArgument: the tree has none of that name, or a name is there twice.
    """
    if not names:
        return list(system.coprocs)
    known = {each.name: each for entry in system.coprocs for each in (entry, *instances_of(entry))}
    for place, name in enumerate(names):
        if name not in known:
            hint = did_you_mean(name, known)
            raise InvalidArgument("names", f"{name!r} is not shared by {system.file_name}{hint}")
        if name in names[:place]:
            raise InvalidArgument("names", f"{name!r} is there twice")
    return [coproc for name, coproc in known.items() if name in names]


def plan_addition(
    present: CoprocSet, system: SystemConfig, names: Sequence[str]
) -> list[CoprocRecord]:
    """Records of the coprocs and templates that are to be added; without their incarnations.

    Args:
        system: the tree that they are of.
        names: as of `choose`.

    Raises:
        InvalidArgument: the tree has none of that name.
        AlreadyExists, WrongState: one of them is there, or is being removed just now.
        InvalidConfig: a name, alias, path or range of one is that of another coproc.
        LimitExceeded: they are too many.
    """
    wanted = choose(system, names)
    taken = _names(present.system.coprocs, present)
    for coproc in wanted:
        for each in (coproc, *instances_of(coproc)):
            if present.record(each.name).life is CoprocLife.REMOVING:
                raise WrongState(f"coproc {each.name!r}", "being removed", "one that is gone")
            if each.name in taken:
                raise AlreadyExists("coproc", each.name)
    made_by = {each.name: entry for entry in system.coprocs for each in instances_of(entry)}
    in_tree = {entry.name: entry for entry in present.tree.coprocs}
    new: list[CoprocConfig] = []
    records: list[CoprocRecord] = []
    for coproc in wanted:
        if template := made_by.get(coproc.name):
            _check_again(present, template, coproc.name)
            records.append(CoprocRecord(coproc.name))
            continue
        new.append(coproc)
        as_in_tree = coproc.name in in_tree and _same(in_tree[coproc.name], coproc)
        records.append(CoprocRecord(coproc.name, None if as_in_tree else coproc))
    problems = Problems(system.file_name)
    _note_clashes(present, new, problems)
    problems.raise_if_any()
    _check_count(present, wanted, new)
    return records


def check_tree(tree: SystemConfig, records: Iterable[CoprocRecord]) -> None:
    """Checks a tree that may have changed against what was added at run time.

    Raises:
        InvalidConfig: a name, alias, path or range of the tree is that of a coproc that was added
            under another name.
    """
    by_name = {record.name: record for record in records}
    nothing = SystemConfig(tree.file_name, ())
    added = CoprocSet.of(nothing, by_name.values())
    shown = [entry for entry in tree.coprocs if not _hidden(by_name.get(entry.name))]
    problems = Problems(tree.file_name)
    _note_clashes(added, shown, problems, ", which was added at run time")
    problems.raise_if_any()


def _same(one: CoprocConfig, other: CoprocConfig) -> bool:
    """Whether two coprocs are the same wherever their trees have them."""
    return replace(one, line=other.line, file=other.file) == other


def _check_again(present: CoprocSet, template: CoprocConfig, name: str) -> None:
    """Whether a coproc can be added that only a template makes.

    Raises:
        InvalidArgument: that template is not there, or is another one.
    """
    for entry in present.system.coprocs:
        if entry.name == template.name and _same(entry, template):
            return
    why = f"{name!r} is made by the template {template.name}, which is not there as it is here"
    raise InvalidArgument("names", why)


def _check_count(
    present: CoprocSet, wanted: Sequence[CoprocConfig], new: Sequence[CoprocConfig]
) -> None:
    at_once = sum(max(1, coproc.instances) for coproc in wanted)
    if at_once > limits.COPROCS_MAX:
        raise LimitExceeded("coprocs added at once", limits.COPROCS_MAX)
    if len(present.system.coprocs) + len(new) > limits.COPROCS_MAX:
        raise LimitExceeded("shared coprocs, each template counted once", limits.COPROCS_MAX)


def _names(entries: Iterable[CoprocConfig], present: CoprocSet) -> set[str]:
    """Names of entries, and of what their templates still make."""
    return {
        each.name
        for entry in entries
        for each in (entry, *instances_of(entry))
        if each.name not in present.system.absent
    }


def _note_clashes(
    present: CoprocSet, new: Sequence[CoprocConfig], problems: Problems, which: str = ""
) -> None:
    """Notes every name, alias, path and range of new entries that belongs to a present one.

    which: says for people what is special about the present ones.
    """
    owners: dict[str, CoprocConfig] = {}
    for entry in present.system.coprocs:
        for reference in (*_names([entry], present), entry.path, *entry.aliases):
            owners[reference] = entry
    spans = sorted(
        (each.base, each.base + each.size_bytes, each.name, entry.name)
        for entry in present.system.coprocs
        for each in entry.ranges
    )
    for coproc in new:
        what = f"coproc {coproc.name}"
        names = [each.name for each in (coproc, *instances_of(coproc))]
        for reference in (*names, coproc.path, *coproc.aliases):
            if other := owners.get(reference):
                why = f"{reference!r} is a name, alias or path of coproc {other.name} already"
                problems.add(coproc.where, what, why + which)
        for each in coproc.ranges:
            # Those that are there do not overlap: the last one that begins before its end will do.
            place = bisect_left(spans, (each.base + each.size_bytes,))
            if place and each.base < spans[place - 1][1]:
                why = f"range {each.name} overlaps range {spans[place - 1][2]} of coproc"
                problems.add(coproc.where, what, f"{why} {spans[place - 1][3]}{which}")
