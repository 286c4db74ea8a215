"""Everything that concerns more than one resource: the whole picture, counters, lines, faults."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vcoproc import limits
from vcoproc.model.domain_state import DomainState
from vcoproc_toolstack.desired import Desired, read_desired
from vcoproc_toolstack.leases import Leases
from vcoproc_toolstack.looking import LineStatus, Looking, Sight
from vcoproc_toolstack.queries import Queries, Statuses, merged_statuses
from vcoproc_toolstack.records import (
    CoprocState,
    EventRecord,
    VcoprocRecord,
    VcoprocState,
    VcoprocStatus,
)
from vcoproc_toolstack.store import Store


@dataclass(frozen=True, slots=True)
class Picture:
    """What is to be, and what was seen of it.

    time_ns: Unix time. clock_ns: of a clock that only rises. gaps: what is not as it should be in a
    picture, in words.
    """

    desired: Desired
    sight: Sight
    statuses: Statuses
    time_ns: int
    clock_ns: int
    gaps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """An interrupt line, and the vcoproc that it belongs to. name: in the platform."""

    name: str
    vcoproc: VcoprocRecord
    status: LineStatus

    @property
    def key(self) -> tuple[str, str, str]:
        """What lines are sorted by."""
        return self.vcoproc.domain, self.vcoproc.name, self.name

    @property
    def resource(self) -> str:
        return f"{self.vcoproc.resource}/lines/{self.name}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault. current: what faulted has not been reset since."""

    event: EventRecord
    current: bool


class ClusterQueries:
    """Reads across the cluster. Never waits for a change that is under way."""

    def __init__(self, store: Store, leases: Leases, looking: Looking, queries: Queries) -> None:
        self._store = store
        self._leases = leases
        self._looking = looking
        self._queries = queries

    def cluster(self) -> Picture:
        """Everything at one revision, and what is alive as it was while that revision held.

        When the cluster changes all the time, what is alive may be newer; a gap says so.
        """
        for _ in range(limits.PICTURES_MAX):
            picture = self._picture(schedules=True, timeout_ns=limits.CALL_TIMEOUT_NS)
            with self._store.read() as view:
                if view.revision() == picture.desired.revision:
                    return picture
        what = f"revision: the cluster changed while it was asked, {limits.PICTURES_MAX} times"
        gap = f"{what}; what is alive may be newer than revision {picture.desired.revision}"
        return replace(picture, gaps=(*picture.gaps, gap))

    def counters(self) -> Picture:
        """The counters of all coprocs and vcoprocs, without schedules.

        Takes no longer than `limits.ACCOUNTS_TIMEOUT_NS`, whoever hangs.
        """
        return self._picture(schedules=False, timeout_ns=limits.ACCOUNTS_TIMEOUT_NS)

    def _picture(self, *, schedules: bool, timeout_ns: int) -> Picture:
        with self._store.read() as view:
            desired = read_desired(view, self._leases)
        sight = self._looking.look(
            schedules=[coproc.name for coproc in desired.coprocs] if schedules else [],
            coprocs=sorted(desired.online()),
            timeout_ns=timeout_ns,
        )
        return Picture(
            desired=desired,
            sight=sight,
            statuses=merged_statuses(
                desired.vcoprocs.values(), desired.online(), _statuses_seen(sight)
            ),
            time_ns=time.time_ns(),
            clock_ns=time.monotonic_ns(),
            gaps=sight.gaps,
        )

    def lines(self) -> list[Line]:
        """All lines, sorted by domain, vcoproc and name.

        Raises:
            PeerError: the irq-router does not answer.
        """
        statuses = self._looking.lines(limits.CALL_TIMEOUT_NS)
        with self._store.read() as view:
            vcoprocs = {each.vcoproc_id: each for each in view.vcoprocs()}
        return named_lines(statuses, vcoprocs)

    def faults(self) -> list[Fault]:
        """All that are kept, newest first."""
        with self._store.read() as view:
            events = view.faults()
            crashed = {
                each.resource for each in view.domains() if each.state is DomainState.CRASHED
            }
            vcoprocs = {each.vcoproc_id: each for each in view.vcoprocs()}
        newest: dict[int | str, int] = {}
        for event in events:
            number = event.fault.vcoproc_id if event.fault else 0
            newest.setdefault(number or event.name, event.revision)
        suspects = [vcoproc for number, vcoproc in vcoprocs.items() if number in newest]
        current = {
            newest[number]
            for number, status in self._queries.statuses(suspects).items()
            if status.state is VcoprocState.FAULTED
        }
        current |= {
            revision
            for name, revision in newest.items()
            if isinstance(name, str) and (name in crashed or self._has_failed(name))
        }
        return [Fault(event, event.revision in current) for event in events]

    def _has_failed(self, name: str) -> bool:
        """Whether this is the resource name of a coproc that is failed now."""
        kind, _, coproc = name.partition("/")
        return kind == "coprocs" and self._leases.state(coproc) is CoprocState.FAILED


def _statuses_seen(sight: Sight) -> Statuses:
    """What is said of vcoprocs: by the scheduler, else by their coprocs."""
    found: dict[int, VcoprocStatus] = {}
    if sight.accounts is None:
        for counts in sight.coprocs.values():
            found.update({number: VcoprocStatus(state) for number, state in counts.states.items()})
    for account in sight.accounts or ():
        found.update(account.vcoprocs)
    return found


def named_lines(
    statuses: Iterable[LineStatus], vcoprocs: Mapping[int, VcoprocRecord]
) -> list[Line]:
    """Lines with their names, sorted. Without what nobody wants: that the repair takes away."""
    found = []
    for status in statuses:
        vcoproc = vcoprocs.get(status.vcoproc_id)
        if vcoproc is None:
            continue
        names = [line.name for line in vcoproc.lines if line.index == status.index]
        found += [Line(name, vcoproc, status) for name in names]
    return sorted(found, key=lambda line: line.key)
