"""The policy as the core sees it: whatever the interface promises to a policy is kept here."""

from __future__ import annotations

from collections.abc import Iterable

from vcoproc.errors import InvariantViolation, WrongState
from vcoproc.limits import SLICE_NS_MAX, SLICE_NS_MIN
from vcoproc_scheduler.events import SetAlgorithm
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Policy,
    PolicyConfig,
    Scope,
    resolve_parameters,
)
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.record import CoprocClock, Record
from vcoproc_scheduler.vcoprocs import Vcoprocs


class PolicySide:
    """The policy of one coproc, or none yet; and who it knows to want the coprocessor."""

    def __init__(self, catalogue: Catalogue, clock: CoprocClock) -> None:
        self.algorithm: SetAlgorithm | None = None
        self.policy: Policy | None = None
        self.wanting = 0
        """How many records are awake."""
        self._catalogue = catalogue
        self._clock = clock

    def replace(self, event: SetAlgorithm, added: Iterable[Record], current: int) -> None:
        """Puts another policy, or the same with another configuration, in charge of all vcoprocs.

        Raises:
            RequestError: it refuses the configuration, or one of the vcoprocs; nothing changed.
        """
        policy = self._catalogue.policy_class(event.algorithm)()
        values = resolve_parameters(policy.PARAMETERS, Scope.COPROC, event.parameters)
        policy.init(PolicyConfig(event.slice_ns, values))
        records = list(added)
        for record in records:
            values = resolve_parameters(policy.PARAMETERS, Scope.VCOPROC, record.parameters)
            policy.admit(record.id, values)
            policy.add(record.id, values)
        old, self.policy, self.algorithm = self.policy, policy, event
        if old is not None:
            policy.import_accounting(old.export_accounting())
            old.deinit()
        # The one on the coprocessor first, then in the order in which they began to wait.
        records.sort(key=lambda each: (each.id != current, each.account.since_ns, each.id))
        for record in records:
            self._set_awake(record, False)
            self.sync(record)
        for record in records:
            if record.id == current and record.awake:
                self.begin(record)

    def add(self, record: Record, parameters: dict[str, int]) -> None:
        """Adds a vcoproc, or changes the parameters of one that was added.

        Raises:
            RequestError: the policy does not take it; nothing has changed.
        """
        policy = self.policy
        if policy is None:
            raise WrongState("the coproc", "without an algorithm", "one set before")
        values = resolve_parameters(policy.PARAMETERS, Scope.VCOPROC, parameters)
        policy.admit(record.id, values)
        if record.added:  # as a newcomer, but with what it has used so far
            carried = policy.export_accounting().get(record.id, {})
            policy.remove(record.id)
            self._set_awake(record, False)
            policy.add(record.id, values)
            policy.import_accounting({record.id: carried})
        else:
            policy.add(record.id, values)
        record.added = True
        record.parameters = parameters
        self.sync(record)

    def remove(self, record: Record) -> None:
        assert self.policy is not None
        self.policy.remove(record.id)
        self._set_awake(record, False)
        record.added = False

    def sync(self, record: Record) -> None:
        """Tells the policy when it has changed whether a vcoproc wants to run."""
        wants = record.added and record.machine.wants()
        if wants == record.awake or self.policy is None:
            return
        if wants:
            self.policy.wake(record.id, self._clock.policy_ns())
        else:
            self.policy.sleep(record.id, self._clock.policy_ns())
        self._set_awake(record, wants)

    def _set_awake(self, record: Record, awake: bool) -> None:
        self.wanting += int(awake) - int(record.awake)
        record.awake = awake

    def begin(self, record: Record) -> None:
        """A turn began."""
        if self.policy is not None and record.added:
            self.policy.begin(record.id, self._clock.policy_ns())

    def yielded(self, record: Record) -> None:
        if self.policy is not None and record.awake:
            self.policy.yield_(record.id, self._clock.policy_ns())

    def charge(
        self, record: Record, *, overtime_ns: int = 0, ended: bool = False, left: bool = False
    ) -> None:
        """Tells the policy what a vcoproc has used since the last time."""
        if self.policy is None or not record.added:
            return
        usage = record.account.usage(
            record.id,
            overtime_ns=overtime_ns,
            ended=ended,
            left=left,
            runnable=record.machine.wants(),
            now_ns=self._clock.policy_ns(),
        )
        self.policy.charge(usage)

    def pick(self, vcoprocs: Vcoprocs, staying: int | None) -> Decision:
        """The policy's decision, checked.

        Raises:
            InvariantViolation: it breaks its promises.
        """
        policy = self.policy
        if policy is None:
            return NOBODY
        decision = policy.pick(self._clock.policy_ns(), staying)
        if decision.vcoproc_id is None:
            return decision
        record = vcoprocs.get(decision.vcoproc_id)
        if record is None or not record.awake:
            problem = f"picks vcoproc {decision.vcoproc_id}, which does not want to run"
        elif not SLICE_NS_MIN <= decision.slice_ns <= SLICE_NS_MAX:
            problem = f"gives a slice of {decision.slice_ns} ns"
        else:
            return decision
        name = self.algorithm.algorithm if self.algorithm else ""
        raise InvariantViolation("\n  ".join((f"algorithm {name} {problem}", *vcoprocs.story())))

    def next_deadline_ns(self) -> int | None:
        """When `pick` must be asked again, on our own clock."""
        if self.policy is None:
            return None
        deadline_ns = self.policy.next_deadline_ns()
        if deadline_ns is None:
            return None
        return self._clock.now_ns + max(0, deadline_ns - self._clock.policy_ns())
