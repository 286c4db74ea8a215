"""Everything that only looks: the store, merged with what the running services say."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.config import FIRST_DOMAIN, CoprocConfig, SystemConfig
from vcoproc.errors import NotFound, VcoprocError, WrongState
from vcoproc.model.domain_state import HELD, DomainState
from vcoproc_toolstack.capacity import CoprocLoad, TypeCapacity, by_type
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.desired import Desired, read_desired
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.ports import Services
from vcoproc_toolstack.records import (
    CoprocAccount,
    CoprocState,
    DomainRecord,
    Life,
    PlatformRecord,
    VcoprocRecord,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.store import Store, View

Statuses = Mapping[int, VcoprocStatus]
"""How each vcoproc is now, by its number."""


@dataclass(frozen=True, slots=True)
class CoprocStatus:
    """A coproc and how it is now. current: resource name, or empty.

    reason: why it is in this state, for people; empty when there is nothing to say. memory_bytes:
    of the domains on it. revision: of the event that changed it last; 0 before one. added: at run
    time. template: name of the one that makes it, or empty.
    """

    config: CoprocConfig
    state: CoprocState
    vcoproc_count: int
    current: str
    switch_count: int
    memory_bytes: int
    revision: int
    draining: bool
    added: bool
    template: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileSpan:
    """Memory at an address of a domain, in a file of its own."""

    base_ipa: int
    size_bytes: int
    path: str


@dataclass(frozen=True, slots=True)
class VcoprocOpening:
    """What a driver needs to reach its vcoproc. mapped: in the order of the mapped ranges."""

    vcoproc: VcoprocRecord
    trap_endpoint: str
    mapped: tuple[FileSpan, ...]
    platform: PlatformRecord


@dataclass(frozen=True, slots=True)
class DomainOpening:
    """What a domain needs to run its drivers."""

    domain: DomainRecord
    statuses: Statuses
    memory: FileSpan
    irq_endpoint: str
    vcoprocs: tuple[VcoprocOpening, ...]


class Queries:
    """Reads. Never waits for a change that is under way.

    Args:
        trap_endpoint: where the drivers of a coproc connect that nobody has leased yet.
        irq_endpoint: where domains get their interrupts.
    """

    def __init__(
        self,
        store: Store,
        leases: Leases,
        services: Services,
        memory: MemoryDir,
        *,
        trap_endpoint: Callable[[str], str],
        irq_endpoint: str,
    ) -> None:
        self._store = store
        self._leases = leases
        self._services = services
        self._memory = memory
        self._trap_endpoint = trap_endpoint
        self._irq_endpoint = irq_endpoint

    def domain(self, name: str) -> tuple[DomainRecord, Statuses]:
        """Raises: NotFound."""
        with self._store.read() as view:
            domain = _need_domain(view, name)
        return domain, self.statuses(domain.vcoprocs)

    def domains(self, after: str, limit: int | None) -> tuple[list[DomainRecord], Statuses, int]:
        """Sorted by name; the last is the revision that the list is of."""
        with self._store.read() as view:
            domains = view.domains(after=after, limit=limit)
            revision = view.revision()
        vcoprocs = [vcoproc for domain in domains for vcoproc in domain.vcoprocs]
        return domains, self.statuses(vcoprocs), revision

    def vcoproc(self, domain_name: str, name: str) -> tuple[VcoprocRecord, Statuses]:
        """Raises: NotFound."""
        with self._store.read() as view:
            domain = view.domain(domain_name)
        found = [v for v in (domain.vcoprocs if domain else ()) if v.name == name]
        if not found:
            raise NotFound("vcoproc", f"{domain_name}/{name}")
        return found[0], self.statuses(found)

    def vcoprocs(
        self, domain_name: str, after: tuple[str, str], limit: int | None
    ) -> tuple[list[VcoprocRecord], Statuses, int]:
        """Sorted by domain and name. domain_name: empty for all. Raises: NotFound."""
        with self._store.read() as view:
            if domain_name:
                _need_domain(view, domain_name)
            vcoprocs = view.vcoprocs(domain=domain_name, after=after, limit=limit)
            revision = view.revision()
        return vcoprocs, self.statuses(vcoprocs), revision

    def coproc(self, name: str) -> CoprocStatus:
        """Raises: NotFound."""
        with self._store.read() as view:
            desired = read_desired(view, self._leases, also=[name])
        return coproc_statuses(desired, [desired.coproc(name)], self.accounts() or ())[0]

    def coproc_types(self) -> list[TypeCapacity]:
        """The types of all coprocs that are listed."""
        with self._store.read() as view:
            desired = read_desired(view, self._leases)
        return type_capacities(desired, coproc_statuses(desired, desired.coprocs, ()))

    def coprocs(self, after: str, *, show_unused: bool = False) -> tuple[list[CoprocStatus], int]:
        """Sorted by name.

        Args:
            after: name of the coproc before the first; empty for none.
            show_unused: also those that templates make and nobody has leased yet.
        """
        with self._store.read() as view:
            coprocs = self._leases.set
            names = coprocs.coprocs if show_unused else None
            desired = read_desired(view, self._leases, coprocs=coprocs, names=names)
        accounts = self.accounts() or ()
        listed = [coproc for coproc in desired.coprocs if coproc.name > after]
        return coproc_statuses(desired, listed, accounts), desired.revision

    def open(self, name: str) -> DomainOpening:
        """The secrets and places of a domain.

        Raises:
            NotFound: there is no such domain.
            WrongState: it is being made or unmade, or has nothing to open.
        """
        with self._store.read() as view:
            domain = _need_domain(view, name)
            if domain.life is not Life.ALIVE:
                raise WrongState(f"domain {name!r}", domain.life.value, "RUNNING")
            if not domain.placed:
                raise WrongState(f"domain {name!r}", domain.state.value, "RUNNING")
            alive = [vcoproc for vcoproc in domain.vcoprocs if vcoproc.life is Life.ALIVE]
            openings = tuple(self._opening(view, vcoproc) for vcoproc in alive)
        return DomainOpening(
            domain=domain,
            statuses=self.statuses(domain.vcoprocs),
            memory=self._span(limits.GUEST_RAM_BASE_IPA, domain.memory_bytes, domain.memory_file),
            irq_endpoint=self._irq_endpoint,
            vcoprocs=openings,
        )

    def guest(self, name: str) -> tuple[DomainRecord, Mapping[str, CoprocConfig]]:
        """A domain and the coprocs that there are, for its device tree. Raises: NotFound."""
        with self._store.read() as view:
            return _need_domain(view, name), self._leases.coprocs

    def configuration(self, name: str) -> tuple[SystemConfig, list[tuple[CoprocConfig, bool]]]:
        """The system, and its coprocs as they are in force.

        Of each, whether its schedule was set at run time. name: of one coproc; empty for all.

        Raises:
            NotFound: there is no such coproc.
        """
        coprocs = self._leases.coprocs
        if name and name not in coprocs:
            raise NotFound("coproc", name)
        with self._store.read() as view:
            settings = view.settings()
            listed = [coprocs[name]] if name else self._leases.listed(view.counts())
        return self._leases.system, [
            (settings[each.name].applied(each), True) if each.name in settings else (each, False)
            for each in listed
        ]

    def first_domain(self) -> DomainRecord | None:
        """The first domain as it is; None while there is none."""
        with self._store.read() as view:
            return view.domain(FIRST_DOMAIN)

    def _opening(self, view: View, vcoproc: VcoprocRecord) -> VcoprocOpening:
        lease = self._leases.get(vcoproc.coproc)
        platform = lease.platform if lease else view.platform(vcoproc.compatible)
        assert platform is not None, "kept since the lease under which the vcoproc was made"
        return VcoprocOpening(
            vcoproc=vcoproc,
            trap_endpoint=lease.trap_endpoint if lease else self._trap_endpoint(vcoproc.coproc),
            mapped=tuple(
                self._span(place.ipa, place.size_bytes, file_name)
                for place, file_name in vcoproc.mapped_files()
            ),
            platform=platform,
        )

    def _span(self, base_ipa: int, size_bytes: int, file_name: str) -> FileSpan:
        return FileSpan(base_ipa, size_bytes, str(self._memory.path_of(file_name)))

    def accounts(self) -> tuple[CoprocAccount, ...] | None:
        """What the scheduler says; None when it does not answer in time."""
        try:
            return self._services.accounts(limits.ACCOUNTS_TIMEOUT_NS)
        except VcoprocError:
            return None

    def statuses(
        self,
        vcoprocs: Sequence[VcoprocRecord],
        accounts: Iterable[CoprocAccount] | None = None,
    ) -> Statuses:
        """How these vcoprocs are: by the scheduler, else by their coprocs, else LOST.

        accounts: what the scheduler has said; then nobody is asked.
        """
        found: dict[int, VcoprocStatus] = {}
        if not vcoprocs:
            return found
        coprocs = {vcoproc.coproc for vcoproc in vcoprocs}
        online = coprocs.intersection(self._leases.online())
        if accounts is None:
            accounts = self.accounts() if online else ()
        if accounts is None:
            found.update(self._from_coprocs(online))
        else:
            for account in accounts:
                found.update(account.vcoprocs)
        return merged_statuses(vcoprocs, online, found)

    def _from_coprocs(self, names: Iterable[str]) -> dict[int, VcoprocStatus]:
        """States without accounting, from coprocs that answer; nothing from the others."""
        found = {}
        for name in sorted(names):
            try:
                view = self._services.coproc(name, limits.ACCOUNTS_TIMEOUT_NS)
            except VcoprocError:
                continue
            found.update({number: VcoprocStatus(state) for number, state in view.vcoprocs})
        return found

    def coproc_statuses(
        self,
        view: View,
        coprocs: CoprocSet,
        names: Sequence[str],
        accounts: Iterable[CoprocAccount] | None,
    ) -> list[CoprocStatus]:
        """How these coprocs of a set are. accounts: what the scheduler says, as of `accounts`."""
        desired = read_desired(view, self._leases, coprocs=coprocs, names=names)
        by_name = {coproc.name: coproc for coproc in desired.coprocs}
        return coproc_statuses(desired, [by_name[name] for name in names], accounts or ())


def merged_statuses(
    vcoprocs: Iterable[VcoprocRecord], online: Container[str], found: Statuses
) -> Statuses:
    """How these vcoprocs are. online: coprocs. found: what a service said of a vcoproc."""
    lost = VcoprocStatus(VcoprocState.LOST)
    unknown = VcoprocStatus(VcoprocState.UNKNOWN)
    return {
        vcoproc.vcoproc_id: shown_status(
            vcoproc,
            found.get(vcoproc.vcoproc_id, unknown) if vcoproc.coproc in online else lost,
        )
        for vcoproc in vcoprocs
    }


def coproc_statuses(
    desired: Desired, coprocs: Iterable[CoprocConfig], accounts: Iterable[CoprocAccount]
) -> list[CoprocStatus]:
    """How these coprocs of the desired state are. accounts: what the scheduler says of all."""
    by_name = {account.coproc: account for account in accounts}
    statuses = []
    for config in coprocs:
        account = by_name.get(config.name)
        current = desired.vcoprocs.get(account.current) if account else None
        template = desired.set.templates.get(config.name)
        statuses.append(
            CoprocStatus(
                config=config,
                state=desired.states[config.name],
                vcoproc_count=desired.counts.get(config.name, 0),
                current=current.resource if current else "",
                switch_count=account.switch_count if account else 0,
                memory_bytes=desired.memory_bytes.get(config.name, 0),
                revision=desired.revisions.get(config.name, 0),
                draining=desired.set.draining(config.name),
                added=desired.set.added(config.name),
                template=template.name if template else "",
                reason=desired.reasons[config.name],
            )
        )
    return statuses


def type_capacities(desired: Desired, statuses: Iterable[CoprocStatus]) -> list[TypeCapacity]:
    """The types of these coprocs, and what they can still take."""
    return by_type(
        [
            CoprocLoad(
                name=each.config.name,
                compatible=each.config.compatible,
                available=each.state is CoprocState.ONLINE and desired.set.usable(each.config.name),
                vcoproc_count=each.vcoproc_count,
                vcoproc_count_max=desired.places[each.config.name],
            )
            for each in statuses
        ]
    )


def shown_status(vcoproc: VcoprocRecord, status: VcoprocStatus) -> VcoprocStatus:
    """How a vcoproc is shown that is so by itself: its domain may not let it run."""
    if vcoproc.domain_state is DomainState.STOPPED:
        return VcoprocStatus(VcoprocState.STOPPED)
    kept_off = vcoproc.domain_state in HELD
    if kept_off and status.state not in (VcoprocState.FAULTED, VcoprocState.LOST):
        return replace(status, state=VcoprocState.PAUSED)
    return status


def _need_domain(view: View, name: str) -> DomainRecord:
    domain = view.domain(name)
    if domain is None:
        raise NotFound("domain", name)
    return domain
