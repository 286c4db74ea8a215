"""Who simulates which coproc: the leases, as long as they last.

The coprocs come and go at run time (`apply`). Whoever looks has `coprocs` of one moment, which
never change: another set takes their place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.errors import InvalidArgument, LimitExceeded, NotFound, PeerLost, WrongState
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.placing import mismatch
from vcoproc_toolstack.records import CoprocRecord, CoprocState, PlatformRecord

PLACEHOLDER: Final = "{coproc}"
"""In endpoints that a coproc-sim offers: stands for the name of the coproc that it gets."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a coproc-sim asks for. wanted: name of a coproc; empty for any.

    platforms: by compatible string. holder: who asks, for logs. incarnation: of the coproc that it
    had before, if it is to be the same one again.
    """

    wanted: str
    control_target: str
    trap_endpoint: str
    holder: str
    platforms: Mapping[str, PlatformRecord]
    incarnation: int | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """One coproc in the hands of one coproc-sim.

    serial: tells it from earlier ones. incarnation: as of `CoprocSet.incarnation`.
    """

    serial: int
    incarnation: int
    coproc: CoprocConfig
    control_target: str
    trap_endpoint: str
    holder: str
    platform: PlatformRecord


class Leases:
    """All coprocs, and the leases of those that have one. Safe for threads.

    Attributes:
        set: which coprocs there are now. system: what references mean. coprocs: by name.
    """

    def __init__(self, system: SystemConfig, records: Iterable[CoprocRecord] = ()) -> None:
        self._install(CoprocSet.of(system, records))
        self._lock = threading.Condition()
        self._serial = 0
        self._leases: dict[str, Lease] = {}
        self._ends: dict[str, Callable[[], None]] = {}
        self._seen: set[str] = set()
        self._failed: dict[str, str] = {}

    def _install(self, coprocs: CoprocSet) -> None:
        self.set = coprocs
        self.system: SystemConfig = coprocs.system
        self.coprocs = coprocs.coprocs

    def apply(self, coprocs: CoprocSet) -> None:
        """Another set of coprocs takes the place of this one.

        Leases of coprocs that are gone end, and whoever has them is told.
        """
        with self._lock:
            self._install(coprocs)
            gone = [
                lease
                for name, lease in self._leases.items()
                if name not in coprocs.coprocs or coprocs.incarnation(name) != lease.incarnation
            ]
            ends = [self._ends[lease.coproc.name] for lease in gone]
            for lease in gone:
                self._forget(lease.coproc.name)
            self._seen &= coprocs.coprocs.keys()
        for end in ends:
            end()

    def take(self, offer: Offer, end: Callable[[], None] = lambda: None) -> Lease:
        """Leases the coproc that is wanted, or the first one that is free and fits.

        Args:
            end: is called, from any thread, when the coproc is removed while this lease lasts.

        Raises:
            NotFound: no coproc has the name wanted, or it is another one than the asker had.
            WrongState: it has been leased already, or is being removed; or nothing is free.
            InvalidArgument: no type on offer can be that coproc.
            LimitExceeded: `limits.COPROCS_MAX` are leased.
        """
        with self._lock:
            coproc = self._named(offer) if offer.wanted else self._any(offer)
            if len(self._leases) >= limits.COPROCS_MAX:
                raise LimitExceeded("coprocs leased at the same time", limits.COPROCS_MAX)
            own = offer.platforms[coproc.compatible]
            described = offer.platforms.get(coproc.described_by, own)
            platform = replace(described, compatible=coproc.compatible)
            if why := mismatch(coproc, platform):
                raise InvalidArgument("platforms", why)
            self._serial += 1
            lease = Lease(
                serial=self._serial,
                incarnation=self.set.incarnation(coproc.name),
                coproc=coproc,
                control_target=offer.control_target.replace(PLACEHOLDER, coproc.name),
                trap_endpoint=offer.trap_endpoint.replace(PLACEHOLDER, coproc.name),
                holder=offer.holder,
                platform=platform,
            )
            self._leases[coproc.name] = lease
            self._ends[coproc.name] = end
            self._seen.add(coproc.name)
            self._failed.pop(coproc.name, None)
            self._lock.notify_all()
            return lease

    def _named(self, offer: Offer) -> CoprocConfig:
        coproc = self.coprocs.get(offer.wanted)
        if coproc is None or offer.incarnation not in (None, self.set.incarnation(offer.wanted)):
            raise NotFound("coproc", offer.wanted)
        if self.set.leaving(coproc.name) and offer.incarnation is None:
            # Whoever had it has to be asked for what is left on it.
            raise WrongState(f"coproc {coproc.name!r}", "being removed", "one that stays")
        if coproc.compatible not in offer.platforms:
            why = f"none is {coproc.compatible!r}, the type of coproc {coproc.name}"
            raise InvalidArgument("platforms", why)
        if lease := self._leases.get(coproc.name):
            raise WrongState(f"coproc {coproc.name!r}", f"leased to {lease.holder}", "a free one")
        return coproc

    def _any(self, offer: Offer) -> CoprocConfig:
        for name, coproc in self.coprocs.items():
            free = name not in self._leases and not self.set.leaving(name)
            if free and coproc.compatible in offer.platforms:
                return coproc
        raise WrongState("every coproc of a type on offer", "leased", "a free one")

    def release(self, lease: Lease) -> bool:
        """Ends a lease. False when it had ended already."""
        with self._lock:
            held = self._leases.get(lease.coproc.name)
            if held is None or held.serial != lease.serial:
                return False
            self._forget(lease.coproc.name)
            return True

    def _forget(self, name: str) -> None:
        del self._leases[name], self._ends[name]
        self._failed.pop(name, None)

    def get(self, name: str) -> Lease | None:
        with self._lock:
            return self._leases.get(name)

    def need(self, name: str) -> Lease:
        """The lease of a coproc.

        Raises:
            PeerLost: nobody has leased it.
        """
        lease = self.get(name)
        if lease is None:
            raise PeerLost(f"coproc {name}")
        return lease

    def wait_online(self, names: Iterable[str], timeout_ns: int) -> None:
        """Returns when all these coprocs are leased, or the time is over."""
        wanted = set(names)
        with self._lock:
            self._lock.wait_for(lambda: wanted <= self._leases.keys(), timeout_ns / limits.S)

    def online(self) -> list[str]:
        with self._lock:
            return list(self._leases)

    def fail(self, name: str, why: str) -> None:
        """Notes that a coproc failed; holds until it is leased anew."""
        with self._lock:
            if name in self._leases:
                self._failed[name] = why

    def state(self, name: str) -> CoprocState:
        with self._lock:
            if name in self._failed:
                return CoprocState.FAILED
            return CoprocState.ONLINE if name in self._leases else CoprocState.OFFLINE

    def why(self, name: str) -> str:
        """Why a coproc failed; empty for one that did not."""
        with self._lock:
            return self._failed.get(name, "")

    def platform(self, coproc: CoprocConfig) -> PlatformRecord:
        """The type of a coproc that can take a vcoproc now.

        Raises:
            WrongState: the coproc is offline, or it failed, or takes no new vcoprocs.
        """
        self.set.need_usable(coproc.name)
        state = self.state(coproc.name)
        lease = self.get(coproc.name)
        if state is not CoprocState.ONLINE or lease is None:
            raise WrongState(f"coproc {coproc.name!r}", state.value, CoprocState.ONLINE.value)
        return lease.platform

    def listed(self, also: Mapping[str, int]) -> list[CoprocConfig]:
        """Coprocs to show: in the order of the tree, then those that were added.

        Those made on demand are shown once they were leased, or have vcoprocs (`also`).
        """
        with self._lock:
            coprocs = self.set
            shown = self._seen | set(also)
        return [
            coproc
            for name, coproc in coprocs.coprocs.items()
            if name in shown or name not in coprocs.templates
        ]
