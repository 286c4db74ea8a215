"""The system tree: which coprocessors are shared, and how. Format: docs/configuration.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.config.dts import DtsNode, DtsTree, read_tree
from vcoproc.config.fields import Fields
from vcoproc.config.files import read_source
from vcoproc.config.hardware import read_hardware
from vcoproc.config.problems import Problems, name_problem, parameter_name, shorten
from vcoproc.config.records import CoprocConfig, DomainConfig, SystemConfig
from vcoproc.errors import NotFound

SHARED_COMPATIBLE: Final = "vcoproc,shared-coprocs"
SCHEDULER_DEFAULT: Final = "rr"
_SCHEDULER_PARAMS: Final = "scheduler-params"
_ENTRY_PROPERTIES: Final = (
    "coproc",
    "instances",
    "max-vcoprocs",
    "refusal-deadline-us",
    "refusal-drain-us",
    "scheduler",
    "slice-us",
)
# dtlib gives one to every node that something refers to.
_IMPLICIT: Final = ("phandle", "linux,phandle")


def read_system_file(path: str | Path) -> SystemConfig:
    """Reads a system tree from a file.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it cannot be read, or something in it is wrong.
    """
    return parse_system(read_source(path), str(path))


def parse_system(source: str | bytes, file_name: str) -> SystemConfig:
    """Reads a system tree from device-tree source. `file_name` is for messages only.

    Raises:
        InvalidConfig: carries everything that is wrong; a syntax error alone, as nothing can be
            read after it.
    """
    tree = read_tree(source, file_name)
    problems = Problems(file_name)
    coprocs = []
    for entry in _entries(tree, problems):
        if (coproc := _read_entry(tree, entry, problems)) is not None:
            coprocs.append(coproc)
    _check_names(coprocs, problems)
    _check_nodes(coprocs, problems)
    problems.raise_if_any()
    return SystemConfig(file_name, tuple(coprocs))


def resolve(system: SystemConfig, domain: DomainConfig) -> Mapping[str, CoprocConfig]:
    """The coproc behind every reference of a domain file, for `assign_addresses`.

    Raises:
        InvalidConfig: some references name nothing shared; carries all of them.
    """
    problems = Problems(domain.file_name)
    found: dict[str, CoprocConfig] = {}
    for vcoproc in domain.vcoprocs:
        try:
            found[vcoproc.coproc] = system.find(vcoproc.coproc)
        except NotFound:
            why = f"{shorten(vcoproc.coproc)} is no shared coproc of {system.file_name}"
            near = (vcoproc.coproc, _references(system))
            problems.add(vcoproc.line, f"vcoproc {vcoproc.name}", why, near=near)
    problems.raise_if_any()
    return found


def _references(system: SystemConfig) -> list[str]:
    return [
        reference
        for coproc in system.coprocs
        for reference in (coproc.name, coproc.path, *coproc.aliases)
    ]


def _entries(tree: DtsTree, problems: Problems) -> tuple[DtsNode, ...]:
    """The entries of the one node under /chosen that says what is shared."""
    chosen = tree.nodes.get("/chosen")
    shared = [
        node
        for node in (chosen.children if chosen else ())
        if SHARED_COMPATIBLE in Fields(node, problems).texts("compatible")
    ]
    what = "/chosen"
    if len(shared) != 1:
        line = shared[1].line if shared else chosen.line if chosen else 0
        why = f'must have one node with compatible = "{SHARED_COMPATIBLE}", has {len(shared)}'
        problems.add(line, what, why)
        return ()
    node = shared[0]
    Fields(node, problems).refuse_others(("compatible", *_IMPLICIT))
    if not 1 <= len(node.children) <= limits.COPROCS_MAX:
        why = f"shares {len(node.children)} coprocs; 1 to {limits.COPROCS_MAX} are possible"
        problems.add(node.line, node.path, why)
    return node.children[: limits.COPROCS_MAX]


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
    params = _scheduler_params(entry, problems)
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
        line=entry.line,
        platform_params=hardware.platform_params,
        refusal_drain_ns=drain_us * limits.US,
    )


def _check_entry(fields: Fields, problems: Problems) -> None:
    """Names in an entry: its own, those of its properties and of its nodes."""
    entry = fields.node
    fields.refuse_others((*_ENTRY_PROPERTIES, *_IMPLICIT))
    if why := name_problem(entry.name):
        problems.add(entry.line, entry.path, f"the identifier {why}")
    for child in entry.children:
        if child.name != _SCHEDULER_PARAMS:
            near = (child.name, [_SCHEDULER_PARAMS])
            problems.add(child.line, child.path, "is no node of this entry", near=near)


def _scheduler_params(entry: DtsNode, problems: Problems) -> tuple[tuple[str, int], ...]:
    params: dict[str, int] = {}
    for child in entry.children:
        if child.name != _SCHEDULER_PARAMS:
            continue
        fields = Fields(child, problems)
        for sub in child.children:
            problems.add(sub.line, sub.path, "parameters are properties, not nodes")
        for name in child.properties:
            if name in _IMPLICIT:
                continue
            key = parameter_name(name)
            if key is None:
                fields.wrong(name, "is no name of a parameter")
            elif key in params:
                fields.wrong(name, f"parameter {key} is given twice")
            else:
                params[key] = fields.number(name, 0, 0, 2**63 - 1)
    return tuple(sorted(params.items()))


def _physical_node(tree: DtsTree, fields: Fields) -> DtsNode | None:
    """The node that `coproc` names: by phandle, exact path or alias."""
    found = fields.get("coproc")
    if found is None:
        fields.wrong("coproc", "is missing: the node to share, as in <&dsp0>")
        return None
    if found.cells is not None and len(found.cells) == 1:
        path = tree.phandles.get(found.cells[0], "")
        if path not in tree.nodes:
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
                why = f"the name {name!r} is also that of the entry on line {other.line}"
                problems.add(coproc.line, f"coproc {coproc.name}", why)
            if name_problem(name) and not name_problem(coproc.name):
                why = f"the name of its instance, {shorten(name)}, is too long"
                problems.add(coproc.line, f"coproc {coproc.name}", why)
                break
    for coproc in coprocs:
        for alias in coproc.aliases:
            other = owner.get(alias, coproc)
            if other is not coproc:
                why = f"its alias {alias!r} is the name of the entry on line {other.line}"
                problems.add(coproc.line, f"coproc {coproc.name}", why)


def _check_nodes(coprocs: list[CoprocConfig], problems: Problems) -> None:
    """Every entry must have a node and addresses of its own."""
    by_path: dict[str, CoprocConfig] = {}
    spans: list[tuple[int, int, CoprocConfig, str]] = []
    for coproc in coprocs:
        other = by_path.setdefault(coproc.path, coproc)
        if other is not coproc:
            why = f"{coproc.path} is shared already by the entry on line {other.line}"
            problems.add(coproc.line, f"coproc {coproc.name}", why)
            continue
        spans += [(r.base, r.base + r.size_bytes, coproc, r.name) for r in coproc.ranges]
    spans.sort(key=lambda span: span[:2])
    for (_, end, low, low_name), (base, _, high, high_name) in itertools.pairwise(spans):
        if base < end:
            why = f"range {high_name} overlaps range {low_name} of coproc {low.name}"
            problems.add(high.line, f"coproc {high.name}", why)
