"""Everything that only looks: the store, merged with what the running services say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vcoproc import limits
from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.errors import NotFound, VcoprocError, WrongState
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.memory import MemoryDir
from vcoproc_toolstack.ports import Services
from vcoproc_toolstack.records import (
    CoprocAccount,
    CoprocState,
    DomainRecord,
    EventRecord,
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
    """A coproc of the tree and how it is now. current: resource name, or empty."""

    config: CoprocConfig
    state: CoprocState
    vcoproc_count: int
    current: str
    switch_count: int


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

    def domains(self, after: str, limit: int) -> tuple[list[DomainRecord], Statuses, int]:
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
        self, domain_name: str, after: tuple[str, str], limit: int
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
        config = self._leases.coprocs.get(name)
        if config is None:
            raise NotFound("coproc", name)
        return self._coproc_statuses([config])[0]

    def coprocs(self, after: str, limit: int) -> tuple[list[CoprocStatus], int]:
        """In the order of the tree. after: name of the coproc before the first; empty for none."""
        with self._store.read() as view:
            counts = view.counts()
            revision = view.revision()
        listed = self._leases.listed(counts)
        if after:
            last = self._leases.place(after)
            place = self._leases.place
            listed = [
                each for each in listed if last is not None and (place(each.name) or 0) > last
            ]
        return self._coproc_statuses(listed[:limit]), revision

    def knows_coproc(self, name: str) -> bool:
        return self._leases.place(name) is not None

    def open(self, name: str) -> DomainOpening:
        """The secrets and places of a domain.

        Raises:
            NotFound: there is no such domain.
            WrongState: it is being made or unmade.
        """
        with self._store.read() as view:
            domain = _need_domain(view, name)
            if domain.life is not Life.ALIVE:
                raise WrongState(f"domain {name!r}", domain.life.value, "RUNNING")
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

    def revision(self) -> int:
        """Of the newest event."""
        with self._store.read() as view:
            return view.revision()

    def wait_for_events(self, after: int, stopped: Callable[[], bool]) -> list[EventRecord]:
        """See `Store.wait_for_events`."""
        return self._store.wait_for_events(after, stopped)

    def wake(self) -> None:
        """See `Store.wake`."""
        self._store.wake()

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

    def _accounts(self) -> tuple[CoprocAccount, ...] | None:
        """What the scheduler says; None when it does not answer in time."""
        try:
            return self._services.accounts(limits.ACCOUNTS_TIMEOUT_NS)
        except VcoprocError:
            return None

    def statuses(self, vcoprocs: Sequence[VcoprocRecord]) -> Statuses:
        """How these vcoprocs are: by the scheduler, else by their coprocs, else LOST."""
        found: dict[int, VcoprocStatus] = {}
        if not vcoprocs:
            return found
        coprocs = {vcoproc.coproc for vcoproc in vcoprocs}
        online = coprocs.intersection(self._leases.online())
        accounts = self._accounts() if online else ()
        if accounts is None:
            found.update(self._from_coprocs(online))
        else:
            for account in accounts:
                found.update(account.vcoprocs)
        lost = VcoprocStatus(VcoprocState.LOST)
        return {
            vcoproc.vcoproc_id: found.get(vcoproc.vcoproc_id, VcoprocStatus(VcoprocState.UNKNOWN))
            if vcoproc.coproc in online
            else lost
            for vcoproc in vcoprocs
        }

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

    def _coproc_statuses(self, configs: Sequence[CoprocConfig]) -> list[CoprocStatus]:
        accounts = {account.coproc: account for account in self._accounts() or ()}
        statuses = []
        with self._store.read() as view:
            counts = view.counts()
            settings = view.settings()
            for given in configs:
                setting = settings.get(given.name)
                config = setting.applied(given) if setting else given
                account = accounts.get(config.name)
                current = view.vcoproc(account.current) if account and account.current else None
                statuses.append(
                    CoprocStatus(
                        config=config,
                        state=self._leases.state(config.name),
                        vcoproc_count=counts.get(config.name, 0),
                        current=current.resource if current else "",
                        switch_count=account.switch_count if account else 0,
                    )
                )
        return statuses


def _need_domain(view: View, name: str) -> DomainRecord:
    domain = view.domain(name)
    if domain is None:
        raise NotFound("domain", name)
    return domain
