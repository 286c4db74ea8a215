"""What coprocs are used for and what they can still take. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from vcoproc_toolstack.records import DomainRecord


def memory_on(domains: Iterable[DomainRecord]) -> dict[str, int]:
    """Memory of the domains on each coproc, in bytes. A domain counts once on each that it uses."""
    found: dict[str, int] = {}
    for domain in domains:
        for coproc in {vcoproc.coproc for vcoproc in domain.vcoprocs}:
            found[coproc] = found.get(coproc, 0) + domain.memory_bytes
    return found
