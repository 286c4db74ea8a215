"""Who simulates which coproc: the leases, as long as they last."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from vcoproc import limits
from vcoproc.config import CoprocConfig, SystemConfig
from vcoproc.errors import InvalidArgument, NotFound, PeerLost, WrongState
from vcoproc_toolstack.placing import mismatch
from vcoproc_toolstack.records import CoprocState, PlatformRecord

PLACEHOLDER: Final = "{coproc}"
"""In endpoints that a coproc-sim offers: stands for the name of the coproc that it gets."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a coproc-sim asks for. wanted: name of a coproc; empty for any.

    platforms: by compatible string. holder: who asks, for logs.
    """

    wanted: str
    control_target: str
    trap_endpoint: str
    holder: str
    platforms: Mapping[str, PlatformRecord]


@dataclass(frozen=True, slots=True)
class Lease:
    """One coproc in the hands of one coproc-sim. serial: tells it from earlier ones."""

    serial: int
    coproc: CoprocConfig
    control_target: str
    trap_endpoint: str
    holder: str
    platform: PlatformRecord


class Leases:
    """All coprocs of the tree, and the leases of those that have one. Safe for threads."""

    def __init__(self, system: SystemConfig) -> None:
        self.system = system
        # In the order of the tree, fixed nodes first: so a coproc-sim that takes any gets a node
        # that is there anyway before one that is made on demand.
        fixed = [coproc for coproc in system.coprocs if not coproc.is_template]
        templates = [coproc for coproc in system.coprocs if coproc.is_template]
        instances = [t.instance(index) for t in templates for index in range(t.instances)]
        self.coprocs: Final[Mapping[str, CoprocConfig]] = {
            coproc.name: coproc for coproc in (*fixed, *instances)
        }
        self._fixed = frozenset(coproc.name for coproc in fixed)
        self._lock = threading.Condition()
        self._serial = 0
        self._leases: dict[str, Lease] = {}
        self._seen: set[str] = set()
        self._failed: dict[str, str] = {}

    def take(self, offer: Offer) -> Lease:
        """Leases the coproc that is wanted, or the first one that is free and fits.

        Raises:
            NotFound: no coproc has the name wanted.
            WrongState: it has been leased already; or nothing is free.
            InvalidArgument: no type on offer can be that coproc.
        """
        with self._lock:
            coproc = self._named(offer) if offer.wanted else self._any(offer)
            own = offer.platforms[coproc.compatible]
            described = offer.platforms.get(coproc.described_by, own)
            platform = replace(described, compatible=coproc.compatible)
            if why := mismatch(coproc, platform):
                raise InvalidArgument("platforms", why)
            self._serial += 1
            lease = Lease(
                serial=self._serial,
                coproc=coproc,
                control_target=offer.control_target.replace(PLACEHOLDER, coproc.name),
                trap_endpoint=offer.trap_endpoint.replace(PLACEHOLDER, coproc.name),
                holder=offer.holder,
                platform=platform,
            )
            self._leases[coproc.name] = lease
            self._seen.add(coproc.name)
            self._failed.pop(coproc.name, None)
            self._lock.notify_all()
            return lease

    def _named(self, offer: Offer) -> CoprocConfig:
        coproc = self.coprocs.get(offer.wanted)
        if coproc is None:
            raise NotFound("coproc", offer.wanted)
        if coproc.compatible not in offer.platforms:
            why = f"none is {coproc.compatible!r}, the type of coproc {coproc.name}"
            raise InvalidArgument("platforms", why)
        if lease := self._leases.get(coproc.name):
            raise WrongState(f"coproc {coproc.name!r}", f"leased to {lease.holder}", "a free one")
        return coproc

    def _any(self, offer: Offer) -> CoprocConfig:
        for coproc in self.coprocs.values():
            if coproc.compatible in offer.platforms and coproc.name not in self._leases:
                return coproc
        raise WrongState("every coproc of a type on offer", "leased", "a free one")

    def release(self, lease: Lease) -> bool:
        """Ends a lease. False when it had ended already."""
        with self._lock:
            held = self._leases.get(lease.coproc.name)
            if held is None or held.serial != lease.serial:
                return False
            del self._leases[lease.coproc.name]
            self._failed.pop(lease.coproc.name, None)
            return True

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

    def platform(self, coproc: CoprocConfig) -> PlatformRecord:
        """The type of a coproc that can take a vcoproc now.

        Raises:
            WrongState: the coproc is offline, or it failed.
        """
        state = self.state(coproc.name)
        lease = self.get(coproc.name)
        if state is not CoprocState.ONLINE or lease is None:
            raise WrongState(f"coproc {coproc.name!r}", state.value, CoprocState.ONLINE.value)
        return lease.platform

    def listed(self, also: Mapping[str, int]) -> list[CoprocConfig]:
        """Coprocs to show, in the order of the tree.

        Those made on demand are shown once they were leased, or have vcoprocs (`also`).
        """
        with self._lock:
            shown = self._fixed | self._seen | set(also)
        return [coproc for name, coproc in self.coprocs.items() if name in shown]
