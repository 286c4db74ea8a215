"""The node `first-domain`: what the first domain, Domain-0, gets of the shared coprocs.

It says in the device tree what a domain file says for the others. The implementation in Xen had a
boot argument for it, a list of paths and aliases; its successor had a node for each vcoproc.
"""

from __future__ import annotations

from typing import Final

from vcoproc import limits
from vcoproc.config.fields import Fields
from vcoproc.config.problems import Problems, name_problem
from vcoproc.config.records import FIRST_DOMAIN, DomainConfig, Origin, VcoprocConfig
from vcoproc.config.scheduler_params import SCHEDULER_PARAMS, read_scheduler_params
from vcoproc.config.trees import IMPLICIT_PROPERTIES, DtsNode, DtsTree

FIRST_DOMAIN_NODE: Final = "first-domain"
_MEMORY: Final = "memory-size"
_VCOPROC_PROPERTIES: Final = ("coproc", "irq", "addr")


def read_first_domain(tree: DtsTree, node: DtsNode, problems: Problems) -> DomainConfig:
    """Reads the node; whether its references and places are good is for `check_domain`."""
    fields = Fields(node, problems)
    fields.refuse_others((_MEMORY, *IMPLICIT_PROPERTIES))
    memory_bytes = fields.number(
        _MEMORY,
        limits.DOMAIN_MEMORY_BYTES_DEFAULT,
        limits.DOMAIN_MEMORY_BYTES_MIN,
        limits.DOMAIN_MEMORY_BYTES_MAX,
    )
    if memory_bytes % limits.PAGE_BYTES:
        fields.wrong(_MEMORY, f"must be a multiple of {limits.PAGE_BYTES}")
    if len(node.children) > limits.VCOPROCS_PER_DOMAIN_MAX:
        why = f"{len(node.children)} vcoprocs, at most {limits.VCOPROCS_PER_DOMAIN_MAX}"
        problems.add(node.place, node.path, why)
    found = node.properties.get(_MEMORY)
    return DomainConfig(
        file_name=node.place.file,
        name=FIRST_DOMAIN,
        memory_bytes=memory_bytes,
        vcoprocs=tuple(
            _read_vcoproc(tree, child, problems)
            for child in node.children[: limits.VCOPROCS_PER_DOMAIN_MAX]
        ),
        unknown_keys=(),
        origins=(Origin(_MEMORY, *found.place),) if found is not None else (),
    )


def _read_vcoproc(tree: DtsTree, node: DtsNode, problems: Problems) -> VcoprocConfig:
    fields = Fields(node, problems)
    if why := name_problem(node.name):
        problems.add(node.place, node.path, f"the name of the vcoproc {why}")
    for child in node.children:
        if child.name != SCHEDULER_PARAMS:
            near = (child.name, [SCHEDULER_PARAMS])
            problems.add(child.place, child.path, "is no node of a vcoproc", near=near)
    irqs: list[tuple[str, int]] = []
    addrs: list[tuple[str, int]] = []
    for name in node.properties:
        what, dot, part = name.partition(".")
        if name in _VCOPROC_PROPERTIES or name in IMPLICIT_PROPERTIES:
            continue
        if dot and what == "irq":
            irqs.append((part, _irq(fields, name)))
        elif dot and what == "addr":
            addrs.append((part, _addr(fields, name)))
        else:
            near = (name, [*_VCOPROC_PROPERTIES, "irq.", "addr."])
            fields.wrong(
                name, "is no property of a vcoproc; parameters are in scheduler-params", near
            )
    return VcoprocConfig(
        coproc=_reference(tree, fields),
        name=node.name,
        params=read_scheduler_params(node, problems),
        irq_base=_irq(fields, "irq") if fields.get("irq") else None,
        irqs=tuple(irqs),
        addr_base=_addr(fields, "addr") if fields.get("addr") else None,
        addrs=tuple(addrs),
        line=node.place.line,
        file=node.place.file,
    )


def _reference(tree: DtsTree, fields: Fields) -> str:
    """Identifier, path or alias of the coproc; of a phandle, the path that it stands for."""
    found = fields.get("coproc")
    if found is not None and found.is_text and len(found.strings or ()) == 1:
        return (found.strings or ("",))[0]
    if found is None or found.is_text or found.cells is None or len(found.cells) != 1:
        fields.wrong("coproc", 'must be one reference, as in <&dsp0> or "dsp0"')
        return ""
    number = found.cells[0]
    if number not in tree.phandles and found.resolved:
        fields.wrong("coproc", f"no node has the phandle {number}")
    return tree.phandles.get(number, "")


def _irq(fields: Fields, name: str) -> int:
    return fields.number(name, 0, limits.GUEST_IRQ_MIN, limits.GUEST_IRQ_MAX)


def _addr(fields: Fields, name: str) -> int:
    addr = fields.number(name, 0, 0, limits.GUEST_IPA_MAX)
    if addr % limits.PAGE_BYTES:
        fields.wrong(name, f"must be a multiple of {limits.PAGE_BYTES}")
    return addr
