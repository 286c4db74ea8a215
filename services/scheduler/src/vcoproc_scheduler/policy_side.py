"""The policy as the core sees it: whatever the interface promises to a policy is kept here.

A policy that raises an error or answers nonsense is out at once: ``rr`` takes its place, is told
what holds, and is asked instead. The vcoprocs notice nothing but another order of turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from vcoproc.errors import BadPlugin, NotFound, RequestError, WrongState
from vcoproc.limits import TICKS_IN_VAIN_MAX, US
from vcoproc_scheduler.accounting import Bucket
from vcoproc_scheduler.events import FellBack, LostParameter, SetAlgorithm
from vcoproc_scheduler.policies.api import (
    ENTRY_POINT_GROUP,
    NOBODY,
    Decision,
    Policy,
    PolicyConfig,
    Scope,
    resolve_parameters,
)
from vcoproc_scheduler.policies.loader import Catalogue
from vcoproc_scheduler.policies.rr import RoundRobin
from vcoproc_scheduler.policy_guard import (
    MIN_RUN,
    Nonsense,
    check_deadline,
    check_decision,
    check_export,
    descriptions,
    fits,
    guarded,
    own,
)
from vcoproc_scheduler.record import CoprocClock, Record
from vcoproc_scheduler.vcoprocs import Vcoprocs

FALLBACK: Final = "rr"
NO_TIME_NS: Final = 1 * US
"""A deadline that is not farther away stands for: at once."""


class PolicySide:
    """The policy of one coproc, or none yet; and who it knows to want the coprocessor.

    wanted: what control has set; parameters are judged by its algorithm also after a fallback.
    name: of the algorithm that decides. wanting: how many records are awake. all_wait: it has just
    let none of them run.
    """

    def __init__(
        self, coproc: str, catalogue: Catalogue, clock: CoprocClock, vcoprocs: Vcoprocs
    ) -> None:
        self.wanted: SetAlgorithm | None = None
        self.name = ""
        self.policy: Policy | None = None
        self.wanting = 0
        self.all_wait = False
        self.min_run_ns = 0
        self.fallback: FellBack | None = None
        self.fallback_count = 0
        self.notices: list[FellBack] = []
        """Fallbacks that nobody has been told of yet."""
        self._fallen = False
        self._changed = False  # who waits now may wait for a turn from before a change
        self._ticks_in_vain = 0
        self._answer = NOBODY  # the latest
        self._coproc = coproc
        self._catalogue = catalogue
        self._clock = clock
        self._vcoprocs = vcoprocs
        self._class: type[Policy] = RoundRobin

    # --- another policy ---------------------------------------------------------------------------

    def replace(self, event: SetAlgorithm) -> tuple[LostParameter, ...]:
        """Puts another policy, or the same with another configuration, in charge of all vcoprocs.

        Returns:
            Parameters that were set and are not known to this one, or out of its range.

        Raises:
            RequestError: it refuses the configuration, or one of the vcoprocs; nothing changed.
        """
        found = self._catalogue.policy_class(event.algorithm)
        given, lost = self._kept(found, event)
        wanted = SetAlgorithm(event.algorithm, event.slice_ns, event.refusal_ns, given)
        anew = self._given_vcoprocs(found, event)
        if wanted == self.wanted and not (event.restart or anew):
            return ()
        values = resolve_parameters(descriptions(found), Scope.COPROC, given)
        parameters: dict[int, dict[str, int]] = {}
        for record in self._added():
            kept = anew.get(record.id)
            if kept is None:
                kept = {
                    name: value
                    for name, value in record.parameters.items()
                    if fits(found, Scope.VCOPROC, name, value)
                }
            parameters[record.id] = kept
            lost += [
                LostParameter(record.id, name, value)
                for name, value in record.parameters.items()
                if name not in kept
            ]
        try:
            policy = guarded(found)
            config = PolicyConfig(event.slice_ns, own(found, values), values[MIN_RUN] * US)
            self._start(policy, found, config, parameters, admit=True)
        except Nonsense as error:
            if isinstance(error.__cause__, RequestError):
                raise error.__cause__ from None
            raise BadPlugin(ENTRY_POINT_GROUP, event.algorithm, str(error)) from error
        old = self.policy
        self.policy, self.name, self.wanted, self._class = policy, event.algorithm, wanted, found
        self._fallen = False
        self.min_run_ns = values[MIN_RUN] * US
        self._ticks_in_vain = 0
        for record in self._added():
            record.parameters = parameters[record.id]
        self._end(old)
        self._watch()
        return tuple(lost)

    def _given_vcoprocs(
        self, found: type[Policy], event: SetAlgorithm
    ) -> dict[int, dict[str, int]]:
        """Parameters of vcoprocs that the event changes.

        Raises:
            NotFound: a vcoproc was not added.
            InvalidArgument: the algorithm does not know a parameter or its value.
        """
        present = {record.id: record.parameters for record in self._added()}
        for vcoproc, given in event.vcoprocs.items():
            if vcoproc not in present:
                raise NotFound("vcoproc", str(vcoproc))
            resolve_parameters(found.PARAMETERS, Scope.VCOPROC, given)
        return {n: dict(v) for n, v in event.vcoprocs.items() if dict(v) != present[n]}

    def _kept(
        self, found: type[Policy], event: SetAlgorithm
    ) -> tuple[dict[str, int], list[LostParameter]]:
        """Parameters of the coproc: those given, and those that stay; and those that are lost."""
        given, lost = dict(event.parameters), []
        for name, value in (self.wanted.parameters if self.wanted else {}).items():
            if name in given:
                continue
            if not fits(found, Scope.COPROC, name, value):
                lost.append(LostParameter(0, name, value))
            elif event.keep:
                given[name] = value
        return given, lost

    def _start(
        self,
        policy: Policy,
        found: type[Policy],
        config: PolicyConfig,
        parameters: Mapping[int, Mapping[str, int]],
        *,
        admit: bool,
    ) -> None:
        """Tells a new policy all that holds.

        Raises:
            Nonsense: it raised something.
        """
        guarded(policy.init, config)
        for vcoproc, given in parameters.items():
            values = resolve_parameters(found.PARAMETERS, Scope.VCOPROC, given)
            if admit:
                guarded(policy.admit, vcoproc, dict(values))
            guarded(policy.add, vcoproc, values)
        guarded(policy.import_accounting, self._carried(settle=admit))
        now_ns, current = self._clock.policy_ns(), self._vcoprocs.current
        # The one on the coprocessor first, then in the order in which they began to wait.
        wanting = [record for record in self._vcoprocs if record.awake]
        wanting.sort(key=lambda each: (each.id != current, each.account.since_ns, each.id))
        for record in wanting:
            guarded(policy.wake, record.id, now_ns)
        if wanting and wanting[0].id == current:
            guarded(policy.begin, current, now_ns)

    def _carried(self, *, settle: bool = True) -> dict[int, dict[str, int]]:
        """What is known of the use of each vcoproc: what the policy says, or else the accounts.

        Args:
            settle: the one that runs is charged first: what it has used so far is no business of
                another policy, or of other parameters.
        """
        current = self._vcoprocs.get(self._vcoprocs.current)
        if settle and current is not None and current.account.bucket is Bucket.RUN:
            clock_ns = self._clock.estimate_ns(self._clock.now_ns)
            self.charge(current, stopped_ns=clock_ns, until_ns=clock_ns)
        carried: dict[int, dict[str, int]] = {}
        if self.policy is not None:
            try:
                carried = guarded(check_export, guarded(self.policy.export_accounting))
            except Nonsense:
                carried = {}
        for record in self._added():
            carried.setdefault(record.id, {"run_ns": record.account.run_ns})
        return carried

    def _end(self, policy: Policy | None) -> None:
        if policy is None:
            return
        with suppress(Nonsense):  # it is gone in any case
            guarded(policy.deinit)

    def _fall_back(self, why: str) -> None:
        """The policy has failed: ``rr`` takes over all vcoprocs."""
        assert self.wanted is not None
        clock = self._clock
        notice = FellBack(
            self._coproc, self.name, why, clock.estimate_ns(clock.now_ns), clock.now_ns
        )
        self.fallback, self.fallback_count = notice, self.fallback_count + 1
        self.notices.append(notice)
        self._ticks_in_vain = 0
        policy = RoundRobin()
        parameters = {record.id: _for_fallback(record.parameters) for record in self._added()}
        config = PolicyConfig(self.wanted.slice_ns, {})
        self._start(policy, RoundRobin, config, parameters, admit=False)
        old, self.policy, self.name = self.policy, policy, FALLBACK
        self._fallen = True
        self._end(old)
        self._watch()

    def _ask(self, hook: str, *arguments: Any, check: Callable[[Any], Any] | None = None) -> Any:
        """Calls a hook of the policy; if that fails, of the one that takes its place."""
        try:
            answer = guarded(getattr(self.policy, hook), *arguments)
            return answer if check is None else check(answer)
        except Nonsense as error:
            self._fall_back(str(error))
        answer = getattr(self.policy, hook)(*arguments)
        return answer if check is None else check(answer)

    # --- vcoprocs ---------------------------------------------------------------------------------

    def _added(self) -> Iterable[Record]:
        return [record for record in self._vcoprocs if record.added]

    def resolve(self, parameters: Mapping[str, int]) -> dict[str, int]:
        """All parameters of a vcoproc, by the algorithm that control wants.

        Raises:
            InvalidArgument: an unknown name, or a value out of range.
        """
        return resolve_parameters(self._class.PARAMETERS, Scope.VCOPROC, parameters)

    def resolve_coproc(self) -> dict[str, int]:
        """All parameters of the coproc."""
        given = self.wanted.parameters if self.wanted else {}
        return resolve_parameters(descriptions(self._class), Scope.COPROC, given)

    def add(self, record: Record, parameters: dict[str, int]) -> None:
        """Adds a vcoproc, or changes the parameters of one that was added.

        Raises:
            RequestError: the policy does not take it; nothing has changed.
        """
        if self.policy is None:
            raise WrongState("the coproc", "without an algorithm", "one set before")
        self.resolve(parameters)
        self._admit(record, parameters)
        carried: Mapping[str, int] = {}
        if record.added:  # as a newcomer, but with what it has used so far
            carried = self._carried()[record.id]
            self.remove(record)
        self._ask("add", record.id, self._values(parameters))
        record.added = True
        record.parameters = parameters
        if carried:
            self._ask("import_accounting", {record.id: dict(carried)})
        self.sync(record)
        if record.id == self._vcoprocs.current and record.awake:
            self.begin(record)
        self._watch()

    def _values(self, parameters: Mapping[str, int]) -> dict[str, int]:
        """Resolved for the policy in charge, which may be the fallback."""
        if self._fallen:
            known = _for_fallback(parameters)
            return resolve_parameters(RoundRobin.PARAMETERS, Scope.VCOPROC, known)
        return self.resolve(parameters)

    def _admit(self, record: Record, parameters: Mapping[str, int]) -> None:
        assert self.policy is not None
        try:
            guarded(self.policy.admit, record.id, self._values(parameters))
        except Nonsense as error:
            if isinstance(error.__cause__, RequestError):
                raise error.__cause__ from None
            self._fall_back(str(error))
            self.policy.admit(record.id, self._values(parameters))

    def remove(self, record: Record) -> None:
        self._ask("remove", record.id)
        self._set_awake(record, False)
        record.added = False
        self._watch()

    def _watch(self) -> None:
        """Other bounds hold than before: waits and responses are watched anew. And once more when
        the present turn is over, if there is one: it may be longer than they know."""
        for record in self._vcoprocs:
            record.account.watch(self._clock.estimate_ns(self._clock.now_ns))
        self._changed = self.wanting > 0

    def sync(self, record: Record) -> None:
        """Tells the policy when it has changed whether a vcoproc wants to run."""
        wants = record.added and record.machine.wants()
        if wants == record.awake or self.policy is None:
            return
        self._ask("wake" if wants else "sleep", record.id, self._clock.policy_ns())
        self._set_awake(record, wants)

    def _set_awake(self, record: Record, awake: bool) -> None:
        self.wanting += int(awake) - int(record.awake)
        record.awake = awake

    def begin(self, record: Record, slice_ns: int | None = None) -> None:
        """A turn began. slice_ns: None: it is not known how long it is."""
        if self.policy is None or not record.added:
            return
        self._ask("begin", record.id, self._clock.policy_ns())
        answer = self._answer
        if (answer.vcoproc_id, answer.slice_ns) != (record.id, slice_ns):
            self._ask("planned", record.id, slice_ns)

    def yielded(self, record: Record) -> None:
        if self.policy is not None and record.awake:
            self._ask("yield_", record.id, self._clock.policy_ns())

    def charge(
        self,
        record: Record,
        *,
        stopped_ns: int,
        overtime_ns: int = 0,
        ended: bool = False,
        left: bool = False,
        until_ns: int | None = None,
    ) -> None:
        """Tells the policy what a vcoproc has used since the last time. stopped_ns, until_ns (see
        `Account.usage`): of the coproc's clock."""
        if ended and self._changed:
            self._watch()
            self._changed = False
        if self.policy is None or not record.added:
            return
        usage = record.account.usage(
            record.id,
            overtime_ns=overtime_ns,
            ended=ended,
            left=left,
            runnable=record.machine.wants(),
            now_ns=self._clock.policy_ns(),
            stopped_ns=self._clock.to_policy_ns(stopped_ns),
            until_ns=until_ns,
        )
        self._ask("charge", usage)

    # --- decisions --------------------------------------------------------------------------------

    def pick(self, staying: int | None) -> Decision:
        """The policy's decision, checked."""
        now_ns = self._clock.policy_ns()
        decision: Decision = self._ask(
            "pick", now_ns, staying, check=lambda each: check_decision(each, self._is_awake, now_ns)
        )
        self._answer = decision
        return decision

    def _is_awake(self, vcoproc: int) -> bool:
        record = self._vcoprocs.get(vcoproc)
        return record is not None and record.awake

    def next_deadline_ns(self, *, ticked: bool) -> int | None:
        """When `pick` must be asked again, on our own clock. ticked: it was, for that reason."""
        if self.policy is None:
            return None
        now_ns = self._clock.policy_ns()
        deadline_ns: int | None = self._ask("next_deadline_ns", check=check_deadline)
        if deadline_ns is None:
            if self.all_wait:
                self._fall_back("lets everybody wait, and does not say until when")
            return None
        if not ticked or deadline_ns > now_ns + NO_TIME_NS:
            self._ticks_in_vain = 0
        elif self._ticks_in_vain < TICKS_IN_VAIN_MAX:
            self._ticks_in_vain += 1
        else:
            self._fall_back("wants to be asked again at once, for ever")
            return None
        return self._clock.now_ns + max(0, deadline_ns - now_ns)


def _for_fallback(parameters: Mapping[str, int]) -> dict[str, int]:
    """What ``rr`` can have of the parameters of another algorithm, to which they may mean something
    else."""
    known = {n: v for n, v in parameters.items() if fits(RoundRobin, Scope.VCOPROC, n, v)}
    try:
        RoundRobin().admit(0, resolve_parameters(RoundRobin.PARAMETERS, Scope.VCOPROC, known))
    except RequestError:
        return {}
    return known
