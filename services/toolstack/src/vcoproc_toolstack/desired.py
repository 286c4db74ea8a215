"""Everything that is to be, of one revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vcoproc.config import CoprocConfig
from vcoproc.errors import NotFound
from vcoproc_toolstack.capacity import memory_on
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.records import CoprocState, DomainRecord, VcoprocRecord
from vcoproc_toolstack.store import View


@dataclass(frozen=True, slots=True)
class Desired:
    """One moment of the store, and who had which coproc then.

    domains: sorted by name. vcoprocs: all of them, by number. set: which coprocs there are.
    coprocs: those to be shown, as they are to be scheduled, sorted by name; what follows is by
    name. reasons: why it is in its state, for people; often empty. overridden: scheduled otherwise
    than the tree says. counts: of vcoprocs. places: how many vcoprocs it may have, by the tree and
    by its type, as far as that is known. memory_bytes: of the domains on each. revisions: of the
    events that changed them last.
    """

    revision: int
    domains: tuple[DomainRecord, ...]
    vcoprocs: Mapping[int, VcoprocRecord]
    set: CoprocSet
    coprocs: tuple[CoprocConfig, ...]
    states: Mapping[str, CoprocState]
    reasons: Mapping[str, str]
    overridden: frozenset[str]
    counts: Mapping[str, int]
    places: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    revisions: Mapping[str, int]

    def vcoprocs_on(self) -> dict[str, dict[int, VcoprocRecord]]:
        """The vcoprocs of each coproc, by number."""
        found: dict[str, dict[int, VcoprocRecord]] = {each.name: {} for each in self.coprocs}
        for number, vcoproc in self.vcoprocs.items():
            if vcoproc.coproc in found:  # else its coproc is no longer in the tree
                found[vcoproc.coproc][number] = vcoproc
        return found

    def coproc(self, name: str) -> CoprocConfig:
        """Raises: NotFound."""
        for coproc in self.coprocs:
            if coproc.name == name:
                return coproc
        raise NotFound("coproc", name)

    def online(self) -> frozenset[str]:
        """Names of the coprocs that somebody has leased, failed ones included."""
        offline = CoprocState.OFFLINE
        return frozenset(name for name, state in self.states.items() if state is not offline)


def read_desired(
    view: View,
    leases: Leases,
    *,
    also: Iterable[str] = (),
    coprocs: CoprocSet | None = None,
    names: Iterable[str] | None = None,
) -> Desired:
    """Reads it all.

    Args:
        also: coprocs that are to be among them though they need not be listed.
        coprocs: those that there are; default: now.
        names: of those that are to be among them; default: those to be listed.
    """
    known = coprocs or leases.set
    domains = tuple(view.domains())
    settings = view.settings()
    counts = view.counts()
    if names is None:
        listed = leases.listed({**counts, **dict.fromkeys(also, 0)})
    else:
        listed = [known.coprocs[name] for name in names]
    shown = tuple(
        settings[coproc.name].applied(coproc) if coproc.name in settings else coproc
        for coproc in sorted(listed, key=lambda coproc: coproc.name)
    )
    return Desired(
        revision=view.revision(),
        domains=domains,
        vcoprocs={each.vcoproc_id: each for domain in domains for each in domain.vcoprocs},
        set=known,
        coprocs=shown,
        states={coproc.name: leases.state(coproc.name) for coproc in shown},
        reasons={coproc.name: _reason(known, leases, coproc.name) for coproc in shown},
        overridden=frozenset(settings),
        counts=counts,
        places={coproc.name: _places(leases, coproc) for coproc in shown},
        memory_bytes=memory_on(domains),
        revisions=view.coproc_revisions(),
    )


def _reason(coprocs: CoprocSet, leases: Leases, name: str) -> str:
    return "is being removed" if coprocs.leaving(name) else leases.why(name)


def _places(leases: Leases, coproc: CoprocConfig) -> int:
    lease = leases.get(coproc.name)
    return min(coproc.vcoprocs_max, lease.platform.contexts_max) if lease else coproc.vcoprocs_max
