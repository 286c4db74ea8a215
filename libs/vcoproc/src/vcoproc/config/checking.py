"""Whether a domain fits a system, as far as the two configurations tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from vcoproc.config.placement import assign_addresses
from vcoproc.config.problems import Problems, shorten
from vcoproc.config.records import CoprocConfig, DomainConfig, PlacedVcoproc, SystemConfig
from vcoproc.errors import InvalidConfig, NotFound


def resolve(system: SystemConfig, domain: DomainConfig) -> Mapping[str, CoprocConfig]:
    """The coproc behind every reference of a domain file, for `assign_addresses`. Of a file that
    is wrong, what could be read is checked.

    Raises:
        InvalidConfig: some references name nothing shared; carries all of them.
    """
    problems = Problems(domain.file_name)
    found = _resolve(system, domain, problems)
    problems.raise_if_any()
    return found


def check_domain(system: SystemConfig, domain: DomainConfig) -> tuple[PlacedVcoproc, ...]:
    """The domain as it would be in this system if it had that for itself.

    Raises:
        InvalidConfig: a reference names nothing shared, or a template; a coproc takes fewer
            vcoprocs or less memory than this domain has; or places are wrong. Carries all of it.
    """
    problems = Problems(domain.file_name)
    coprocs = _resolve(system, domain, problems)
    counts = Counter(coprocs[v.coproc].name for v in domain.vcoprocs if v.coproc in coprocs)
    seen: set[str] = set()
    for vcoproc in domain.vcoprocs:
        coproc = coprocs.get(vcoproc.coproc)
        if coproc is None or coproc.name in seen:
            continue
        seen.add(coproc.name)
        why = ""
        if coproc.is_template:
            why = f"{coproc.name} is a template; name one of its coprocs, as {coproc.name}-0"
        elif counts[coproc.name] > coproc.vcoprocs_max:
            why = f"{counts[coproc.name]} vcoprocs on {coproc.name}, at most {coproc.vcoprocs_max}"
        elif 0 < coproc.memory_bytes_max < domain.memory_bytes:
            limit = f"the limit of {coproc.name} is {coproc.memory_bytes_max}"
            why = f"the domain has {domain.memory_bytes} bytes of memory, {limit}"
        if why:
            problems.add(vcoproc.where, f"vcoproc {vcoproc.name}", why)
    placed: tuple[PlacedVcoproc, ...] = ()
    if all(vcoproc.coproc in coprocs for vcoproc in domain.vcoprocs):
        try:
            placed = assign_addresses(domain, coprocs)
        except InvalidConfig as error:
            problems.take(error)
    problems.raise_if_any()
    return placed


def _resolve(
    system: SystemConfig, domain: DomainConfig, problems: Problems
) -> Mapping[str, CoprocConfig]:
    found: dict[str, CoprocConfig] = {}
    for vcoproc in domain.vcoprocs:
        if not vcoproc.coproc:  # told when the file was read
            continue
        try:
            found[vcoproc.coproc] = system.find(vcoproc.coproc)
        except NotFound:
            why = f"{shorten(vcoproc.coproc)} is no shared coproc of {system.file_name}"
            near = (vcoproc.coproc, _references(system))
            problems.add(vcoproc.where, f"vcoproc {vcoproc.name}", why, near=near)
    return found


def _references(system: SystemConfig) -> list[str]:
    return [
        reference
        for coproc in system.coprocs
        for reference in (coproc.name, coproc.path, *coproc.aliases)
    ]
