"""The system tree: which coprocessors are shared, and how. Format: docs/configuration.md."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.config.checking import check_domain
from vcoproc.config.dts import checked_tree
from vcoproc.config.fdt import BLOB_MAGIC
from vcoproc.config.fields import Fields
from vcoproc.config.files import IncludedFiles, read_source
from vcoproc.config.first_domain import FIRST_DOMAIN_NODE, read_first_domain
from vcoproc.config.hardware import PRIVATE_MEMORY, Hardware, read_hardware
from vcoproc.config.preprocess import preprocess
from vcoproc.config.problems import Problems, name_problem, parameter_name, shorten
from vcoproc.config.records import CoprocConfig, Origin, SystemConfig
from vcoproc.config.scheduler_params import SCHEDULER_PARAMS, read_scheduler_params
from vcoproc.config.trees import IMPLICIT_PROPERTIES, DtsNode, DtsTree
from vcoproc.errors import InvalidConfig

SHARED_COMPATIBLE: Final = "vcoproc,shared-coprocs"
SCHEDULER_DEFAULT: Final = "rr"
_ENTRY_PROPERTIES: Final = (
    "coproc",
    "instances",
    "max-vcoprocs",
    "memory-limit",
    "refusal-deadline-us",
    "refusal-drain-us",
    "scheduler",
    "slice-us",
)
_HARDWARE_PROPERTIES: Final = (
    "compatible",
    "reg",
    "interrupts",
    PRIVATE_MEMORY,
    "clock-frequency",
)


def read_system_file(
    path: str | Path, *, include: Iterable[str | Path] = (), cpp: bool = False
) -> SystemConfig:
    """Reads a system tree from a file, source or blob.

    Args:
        include: folders of what it includes, besides those of the including files.
        cpp: whether the C preprocessor has to be run on it first, if it is source.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it cannot be read, or something in it is wrong.
    """
    folders = tuple(include)
    source = read_source(path)
    if cpp and not source.startswith(BLOB_MAGIC):
        source = preprocess(path, folders)
    return parse_system(source, str(path), IncludedFiles(folders))


def parse_system(
    source: str | bytes, file_name: str, files: IncludedFiles | None = None
) -> SystemConfig:
    """Reads a system tree, source or blob. `file_name` is for messages, and for what it includes.

    Args:
        files: what it may include; None for nothing, for a tree that comes from elsewhere.

    Raises:
        InvalidConfig: carries everything that is wrong; of source with syntax errors these alone.
    """
    problems = Problems(file_name)
    tree = checked_tree(source, file_name, problems, files)
    entries, first = _entries(tree, problems)
    coprocs = []
    for entry in entries:
        if (coproc := _read_entry(tree, entry, problems)) is not None:
            coprocs.append(coproc)
    _check_names(coprocs, problems)
    _check_nodes(coprocs, problems)
    count = len(problems)
    first_domain = read_first_domain(tree, first, problems) if first is not None else None
    system = SystemConfig(file_name, tuple(coprocs), first_domain)
    whole = len(coprocs) == len(entries) and len(problems) == count
    if first_domain is not None and whole:
        try:
            check_domain(system, first_domain)
        except InvalidConfig as error:
            problems.take(error)
    problems.raise_if_any()
    return system


def _entries(tree: DtsTree, problems: Problems) -> tuple[Sequence[DtsNode], DtsNode | None]:
    """The entries of the one node under /chosen that says what is shared; the first domain's."""
    chosen = tree.nodes.get("/chosen")
    shared = [
        node
        for node in (chosen.children if chosen else ())
        if SHARED_COMPATIBLE in Fields(node, problems).texts("compatible")
    ]
    what = "/chosen"
    if len(shared) != 1:
        place = shared[1].place if shared else chosen.place if chosen else 0
        why = f'must have one node with compatible = "{SHARED_COMPATIBLE}", has {len(shared)}'
        problems.add(place, what, why)
        return (), None
    node = shared[0]
    Fields(node, problems).refuse_others(("compatible", *IMPLICIT_PROPERTIES))
    entries = [child for child in node.children if child.name != FIRST_DOMAIN_NODE]
    first = next((child for child in node.children if child.name == FIRST_DOMAIN_NODE), None)
    if not 1 <= len(entries) <= limits.COPROCS_MAX:
        why = f"shares {len(entries)} coprocs; 1 to {limits.COPROCS_MAX} are possible"
        problems.add(node.place, node.path, why)
    return entries[: limits.COPROCS_MAX], first


def _read_entry(tree: DtsTree, entry: DtsNode, problems: Problems) -> CoprocConfig | None:
    fields = Fields(entry, problems)
    _check_entry(fields, problems)
    slice_us = fields.number(
        "slice-us",
        limits.SLICE_NS_DEFAULT // limits.US,
        limits.SLICE_NS_MIN // limits.US,
        limits.SLICE_NS_MAX // limits.US,
    )
    refusal_us = fields.number(
        "refusal-deadline-us",
        limits.SWITCH_DEADLINE_NS // limits.US,
        limits.SWITCH_RETRY_NS_MIN // limits.US,
        limits.SWITCH_DEADLINE_NS // limits.US,
    )
    drain_us = fields.number(
        "refusal-drain-us",
        limits.REFUSAL_DRAIN_NS_DEFAULT // limits.US,
        0,
        limits.SWITCH_DEADLINE_NS // limits.US,
    )
    vcoprocs_max = limits.VCOPROCS_PER_COPROC_MAX
    vcoprocs_max = fields.number("max-vcoprocs", vcoprocs_max, 1, vcoprocs_max)
    instances = fields.number("instances", 0, 1, limits.INSTANCES_MAX)
    scheduler = fields.text("scheduler", SCHEDULER_DEFAULT)
    if why := name_problem(scheduler):
        fields.wrong("scheduler", f"the name of the algorithm {why}")
    memory_bytes_max = fields.number("memory-limit", 0, 1, limits.COPROC_MEMORY_BYTES_MAX)
    params = read_scheduler_params(entry, problems)
    node = _physical_node(tree, fields)
    if node is None:
        return None
    hardware = read_hardware(tree, node, problems)
    return CoprocConfig(
        name=entry.name,
        path=node.path,
        aliases=tuple(sorted(name for name, path in tree.aliases.items() if path == node.path)),
        compatible=hardware.compatible,
        ranges=hardware.ranges,
        lines=hardware.lines,
        private_bytes=hardware.private_bytes,
        clock_hz=hardware.clock_hz,
        scheduler=scheduler,
        scheduler_params=params,
        slice_ns=slice_us * limits.US,
        vcoprocs_max=vcoprocs_max,
        refusal_deadline_ns=refusal_us * limits.US,
        instances=instances,
        line=entry.place.line,
        platform_params=hardware.platform_params,
        refusal_drain_ns=drain_us * limits.US,
        memory_bytes_max=memory_bytes_max,
        file=entry.place.file,
        origins=_origins(entry, node, hardware),
    )


def _origins(entry: DtsNode, node: DtsNode, hardware: Hardware) -> tuple[Origin, ...]:
    """Where each setting of a coproc is given that is not a default."""
    found = [(name, entry.properties.get(name)) for name in _ENTRY_PROPERTIES]
    for child in entry.children:
        found += [
            (f"{child.name}.{parameter_name(name)}", value)
            for name, value in child.properties.items()
        ]
    names = (*_HARDWARE_PROPERTIES, *(name for name, _ in hardware.platform_params))
    found += [(name, node.properties.get(name)) for name in names]
    return tuple(Origin(name, *value.place) for name, value in found if value is not None)


def _check_entry(fields: Fields, problems: Problems) -> None:
    """Names in an entry: its own, those of its properties and of its nodes."""
    entry = fields.node
    fields.refuse_others((*_ENTRY_PROPERTIES, *IMPLICIT_PROPERTIES))
    if why := name_problem(entry.name):
        problems.add(entry.place, entry.path, f"the identifier {why}")
    for child in entry.children:
        if child.name != SCHEDULER_PARAMS:
            near = (child.name, [SCHEDULER_PARAMS])
            problems.add(child.place, child.path, "is no node of this entry", near=near)


def _physical_node(tree: DtsTree, fields: Fields) -> DtsNode | None:
    """The node that `coproc` names: by phandle, exact path or alias."""
    found = fields.get("coproc")
    if found is None:
        fields.wrong("coproc", "is missing: the node to share, as in <&dsp0>")
        return None
    if not found.is_text and found.cells is not None and len(found.cells) == 1:
        path = tree.phandles.get(found.cells[0], "")
        if path not in tree.nodes and found.resolved:
            fields.wrong("coproc", f"no node has the phandle {found.cells[0]}")
        return tree.nodes.get(path)
    if found.strings is None or len(found.strings) != 1:
        fields.wrong("coproc", "must be one reference, path or alias, as in <&dsp0>")
        return None
    # Whole names only. Xen's implementation compared as many characters as it was given, so that
    # "/soc/gpu@1" found "/soc/gpu@10".
    text = found.strings[0]
    path = text if text.startswith("/") else tree.aliases.get(text, "")
    if path not in tree.nodes:
        near = (text, [*tree.aliases, *tree.nodes])
        fields.wrong("coproc", f"{shorten(text)} is no path of a node and no alias", near)
    return tree.nodes.get(path)


def _check_names(coprocs: list[CoprocConfig], problems: Problems) -> None:
    """Every identifier, instance name and alias must mean one coproc."""
    owner: dict[str, CoprocConfig] = {}
    for coproc in coprocs:
        instances = [f"{coproc.name}-{index}" for index in range(coproc.instances)]
        for name in (coproc.name, *instances):
            other = owner.setdefault(name, coproc)
            if other is not coproc:
                why = f"the name {name!r} is also that of {_entry(other, coproc)}"
                problems.add(coproc.where, f"coproc {coproc.name}", why)
            if name_problem(name) and not name_problem(coproc.name):
                why = f"the name of its instance, {shorten(name)}, is too long"
                problems.add(coproc.where, f"coproc {coproc.name}", why)
                break
    for coproc in coprocs:
        for alias in coproc.aliases:
            other = owner.get(alias, coproc)
            if other is not coproc:
                why = f"its alias {alias!r} is the name of {_entry(other, coproc)}"
                problems.add(coproc.where, f"coproc {coproc.name}", why)


def _entry(other: CoprocConfig, seen_from: CoprocConfig) -> str:
    """The entry of a coproc, for a message about another one."""
    if not other.line:
        return f"the entry {other.name}"
    of = "" if other.file == seen_from.file else f" of {other.file}"
    return f"the entry on line {other.line}{of}"


def _check_nodes(coprocs: list[CoprocConfig], problems: Problems) -> None:
    """Every entry must have a node and addresses of its own."""
    by_path: dict[str, CoprocConfig] = {}
    spans: list[tuple[int, int, CoprocConfig, str]] = []
    for coproc in coprocs:
        other = by_path.setdefault(coproc.path, coproc)
        if other is not coproc:
            why = f"{coproc.path} is shared already by {_entry(other, coproc)}"
            problems.add(coproc.where, f"coproc {coproc.name}", why)
            continue
        spans += [(r.base, r.base + r.size_bytes, coproc, r.name) for r in coproc.ranges]
    spans.sort(key=lambda span: span[:2])
    for (_, end, low, low_name), (base, _, high, high_name) in itertools.pairwise(spans):
        if base < end:
            why = f"range {high_name} overlaps range {low_name} of coproc {low.name}"
            problems.add(high.where, f"coproc {high.name}", why)
