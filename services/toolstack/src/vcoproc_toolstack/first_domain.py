"""Makes the first domain, Domain-0, that the system's device tree asks for.

Theory of operation:
    It is made like any other, with number 0, as soon as its coprocs are online, and kept like any
    other: what was attached or detached since stays so, whatever the tree says later.
"""

from __future__ import annotations

from typing import Final

from vcoproc.config import DomainConfig
from vcoproc.errors import NotFound, PeerError, StoreUnavailable, VcoprocError
from vcoproc.limits import DOMID_FIRST
from vcoproc.model.domain_state import DomainState, DomainVerb, after
from vcoproc_toolstack.changes import Changes
from vcoproc_toolstack.plans import domain_steps
from vcoproc_toolstack.records import EventKind, Life
from vcoproc_toolstack.saga import Saga
from vcoproc_toolstack.turns import Request

FIRST_MARK: Final = "first domain"
"""What the repair thread knows it by as long as it is to be made."""


class FirstDomain:
    """See the module."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._told = ""

    def make(self) -> bool:
        """Makes it, if that is left to do. False: it must be tried again later."""
        changes = self._changes
        config = changes.leases.set.tree.first_domain
        if config is None:
            return True
        with changes.store.read() as view:
            present = view.domain_of(DOMID_FIRST)
        if present is not None:
            return present.life is not Life.CREATING  # else it is going to be undone
        if not self._coprocs_are_online(config):
            return False
        try:
            with changes.exclusive():
                self._make(config)
        except (PeerError, StoreUnavailable) as error:
            changes.log.debug("the first domain waits", why=str(error))
            return False
        except VcoprocError as error:
            self._tell(config, error)
            return False
        return True

    def _coprocs_are_online(self, config: DomainConfig) -> bool:
        leases = self._changes.leases
        try:
            wanted = {leases.system.find(each.coproc).name for each in config.vcoprocs}
        except NotFound:
            return True  # told with everything else that is wrong
        return wanted <= set(leases.online())

    def _make(self, config: DomainConfig) -> None:
        changes = self._changes
        state = after(DomainState.ABSENT, DomainVerb.CREATE)
        with changes.change() as change:
            planned = changes.plan_domain(change, config, state, first=True)
            domain = changes.number(change, planned, DOMID_FIRST)
            change.add_domain(domain)
            coprocs = changes.coprocs(change)
        changes.carry_out(
            Saga(domain_steps(domain, coprocs)),
            lambda change: changes.created(change, domain, Request("", b""), lambda _domain: b""),
            undone=lambda change: change.delete_domain(DOMID_FIRST),
        )

    def _tell(self, config: DomainConfig, error: VcoprocError) -> None:
        """One event for each new reason."""
        words = f"cannot be made yet: {error}"
        if words != self._told:
            self._told = words
            self._changes.log.error("the first domain cannot be made yet", why=str(error))
            name = f"domains/{config.name}"
            self._changes.store.note(
                lambda change: change.add_event(name, EventKind.CHANGED, words)
            )
