"""``edf``: a budget in each period, guaranteed; the earliest deadline first.

Theory:
    Each vcoproc is a server: `budget_us` in each `period_us`. The end of the present period is its
    deadline, and of those with budget left the one with the earliest deadline runs, at once, even
    if another one must leave. At the deadline the budget is filled up. It stays while the vcoproc
    sleeps (deferrable server). A vcoproc without budget is withheld until its next period, or
    shares what nobody with budget wants, if `extratime` says so, in turns of the coproc's slice.
    Whoever yields gives up the rest of its budget. Run and refusal time is taken from the budget;
    what it overdraws is missing in its next one.
    Servers of a load (sum of budget / period) up to 1 all get their budget before their deadlines
    (Liu, Layland 1973), provided that no wake asks for more than the load promised. With RTDS one
    can: waking late in its period, it has all its budget before a near deadline, and takes time
    promised to others. So a wake with more budget left than its share of the time to the deadline
    begins a new period (constant bandwidth server: Abeni, Buttazzo 1998).
    Switches: `switch_cost_us` reserves SWITCHES_PER_PERIOD of them in each period beside the
    budget: to it and away from it, the late one of the period before, and the two halves it costs
    whom it displaces, which whoever displaces pays. What is used beyond comes from the budget.
    `admit` is exact without costs: load at most 1. With costs c = 3 switches + r in each period,
    and b = a switch + r that cannot be interrupted (Baker 1991), where r is `refusal_us`, the
    refusals of one turn (what a turn overdraws are its own), and the coproc's `min_run_us`, for
    each vcoproc: sum over all with a period up to its own of (budget + c) / period, + b / its
    period, at most 1.
Parameters:
    budget_us of a vcoproc: us, 100..10000000, default 4000; at most its period.
    period_us of a vcoproc: us, 100..10000000, default 10000. extratime: 0..1, default 1.
    switch_cost_us of the coproc: us, 0..500000, default 0. refusal_us: us, 0..1000000, default 0.
    Defaults are those of Xen. Its shortest budget is 10 us; here no slice may be so short.
Cost: O(log n) for each call; `admit` O(n log n), and 24 times that for a refusal.
Limits: less budget left than SLICE_NS_MIN is granted as a slice of that length and ended by a
    deadline: it takes a message in time. Without `switch_cost_us` switches come from the budget.
    It must include all that keeps the next one from the coprocessor: the longest switch, a message
    each way, and a burst of the coproc. Who wakes more often than once a period pays for it.
Sources: xen/common/sched/rt.c; those named above.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from vcoproc.errors import InvalidArgument, NotAdmitted
from vcoproc.limits import MS, SLICE_NS_MAX, SLICE_NS_MIN, US
from vcoproc_scheduler.policies.api import (
    NOBODY,
    Decision,
    Policy,
    PolicyConfig,
    Usage,
)
from vcoproc_scheduler.policies.edf_admission import (
    PARAMETERS,
    SWITCHES_PER_PERIOD,
    Reservation,
    guaranteed,
    largest_budget_us,
    reservation,
)
from vcoproc_scheduler.policies.parts import KeyedQueue

GRACE_NS: Final = 1 * MS
"""A coproc that should have ended a turn by itself is told so only after this: else each turn that
ends in time would cross with an order to end it."""


class Server:
    """One vcoproc. left_ns: budget left, negative when it owes. spare_ns: reserved for switches.
    rest_ns: what was left when its last period ended."""

    __slots__ = ("awake", "deadline_ns", "left_ns", "promise", "rest_ns", "run_ns", "spare_ns")

    def __init__(self, promise: Reservation) -> None:
        self.promise = promise
        self.awake = False
        self.deadline_ns = 0  # so that the first wake begins a period
        self.left_ns = promise.budget_ns
        self.spare_ns = self.rest_ns = 0
        self.run_ns = 0

    def pay(self, run_ns: int) -> int:
        """Takes run time from the budget, and gives how much. Beyond it, it is extra, or owed."""
        if self.promise.extratime:
            run_ns = min(run_ns, max(0, self.left_ns))
        self.left_ns -= run_ns
        return run_ns

    def usable_ns(self, switches_ns: int) -> int:
        """What it may run if its turn takes so much for switches."""
        return self.left_ns - max(0, switches_ns - self.spare_ns)

    def give_up(self) -> None:
        """Nothing more in this period."""
        self.left_ns = min(self.left_ns, 0)


class Edf(Policy):
    """The earliest deadline first, each within its budget."""

    API_VERSION = 1
    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        self._slice_ns = 0
        self._switch_ns = 0
        self._refusal_ns = 0
        self._servers: dict[int, Server] = {}
        self._ready = KeyedQueue()  # awake with budget left, by deadline
        self._periods = KeyedQueue()  # awake, by deadline
        self._extra: OrderedDict[int, None] = OrderedDict()  # awake and allowed extra time
        self._now_ns = 0
        self._resident: int | None = None  # who is on the coprocessor
        self._since_ns: int | None = None  # from when on it has not paid; None: it does not run
        # Periods that ended since it was charged: how long it was reckoned to run in them, what it
        # paid of that; and when the present one began, if it may have run before.
        self._settled_ns = self._paid_ns = self._period_ns = 0
        self._extra_turn = False  # its turn began as an extra one
        self._turn_end_ns: int | None = None  # when the coproc ends its turn; None: not known
        self._yielded: int | None = None
        self._displaced: int | None = None  # who had to leave with budget left, just now
        self._answer = NOBODY

    def init(self, config: PolicyConfig) -> None:
        self._slice_ns = config.slice_ns
        self._switch_ns = config.parameters["switch_cost_us"] * US
        # Who need not leave yet holds the coprocessor like one that refuses to.
        self._refusal_ns = config.parameters["refusal_us"] * US + config.min_run_ns

    def admit(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        wanted = reservation(parameters)
        if wanted.budget_ns > wanted.period_ns:
            raise InvalidArgument(
                "budget_us",
                f"{parameters['budget_us']} us is more than the period, "
                f"{parameters['period_us']} us",
            )
        others = [each.promise for key, each in self._servers.items() if key != vcoproc_id]
        if guaranteed([*others, wanted], self._switch_ns, self._refusal_ns):
            return
        low_us = largest_budget_us(others, wanted, self._switch_ns, self._refusal_ns)
        what = f"{parameters['budget_us']} us in each {parameters['period_us']} us"
        fitting = f"at most {low_us} us" if low_us * US >= SLICE_NS_MIN else "no budget"
        raise NotAdmitted(
            "budget_us",
            f"{what} cannot be guaranteed beside the {len(others)} others; "
            f"with this period {fitting} can",
        )

    def add(self, vcoproc_id: int, parameters: Mapping[str, int]) -> None:
        self._servers[vcoproc_id] = Server(reservation(parameters))

    def remove(self, vcoproc_id: int) -> None:
        del self._servers[vcoproc_id]
        self._unqueue(vcoproc_id)

    def wake(self, vcoproc_id: int, now_ns: int) -> None:
        self._advance(now_ns)
        server = self._servers[vcoproc_id]
        server.awake = True
        promise = server.promise
        # It may have been set when the period was longer.
        server.deadline_ns = min(server.deadline_ns, now_ns + promise.period_ns)
        rest_ns = server.deadline_ns - now_ns
        demand_ns = server.left_ns + server.spare_ns
        share_ns = promise.budget_ns + self._reserve_ns
        if rest_ns <= 0 or demand_ns * promise.period_ns > rest_ns * share_ns:
            periods = 1 + max(0, -rest_ns // promise.period_ns)
            self._fill(server, periods, now_ns + promise.period_ns)
        elif demand_ns <= 2 * self._switch_ns:
            server.give_up()  # it would displace somebody and come to nothing
        self._queue(vcoproc_id, server)
        if vcoproc_id == self._resident:  # it goes on where it is, without a `begin`
            self._turn(server, now_ns, None)

    def sleep(self, vcoproc_id: int, now_ns: int) -> None:
        self._advance(now_ns)
        self._servers[vcoproc_id].awake = False
        self._unqueue(vcoproc_id)

    def yield_(self, vcoproc_id: int, now_ns: int) -> None:
        self._yielded = vcoproc_id

    def begin(self, vcoproc_id: int, now_ns: int) -> None:
        self._advance(now_ns)
        server = self._servers[vcoproc_id]
        displaced = self._servers.get(self._displaced) if self._displaced is not None else None
        if displaced and server.left_ns > 0 and displaced.deadline_ns > server.deadline_ns:
            # Leaving and coming back costs the other one a switch that it did not ask for.
            server.spare_ns -= self._switch_ns
            displaced.spare_ns += self._switch_ns
        self._displaced = None
        self._resident = vcoproc_id
        answer = self._answer
        known = answer.vcoproc_id == vcoproc_id
        self._turn(server, now_ns, now_ns + answer.slice_ns if known else None)
        self._period_ns = server.deadline_ns - server.promise.period_ns

    def planned(self, vcoproc_id: int, slice_ns: int | None) -> None:
        if slice_ns is None or self._since_ns is None:
            self._turn_end_ns = None
        else:
            self._turn_end_ns = self._since_ns + slice_ns

    def charge(self, usage: Usage) -> None:
        self._advance(usage.now_ns)
        vcoproc_id = usage.vcoproc_id
        server = self._servers[vcoproc_id]
        server.run_ns += usage.run_ns
        here = vcoproc_id == self._resident
        run_ns, refused_ns = usage.run_ns, usage.refused_ns
        if here:
            run_ns, refused_ns = self._correct(server, usage)
        beyond = server.promise.extratime and run_ns > server.left_ns
        extra = here and (self._extra_turn or beyond)
        server.pay(run_ns)
        server.left_ns -= refused_ns
        if not extra:
            server.spare_ns -= usage.switch_ns
            if server.spare_ns < 0:
                server.left_ns += server.spare_ns
                server.spare_ns = 0
        interrupted = usage.ended and usage.left and server.awake and server.left_ns > 0
        if self._yielded == vcoproc_id:
            self._yielded = None
            interrupted = False
            server.give_up()
        elif usage.left and not interrupted and server.left_ns + server.spare_ns <= self._switch_ns:
            server.give_up()
        if server.left_ns <= 0:
            self._ready.drop(vcoproc_id)
        elif server.awake and vcoproc_id not in self._ready:
            self._ready.put(vcoproc_id, server.deadline_ns)
        if here:
            self._settled_ns = self._paid_ns = 0
            if usage.left:
                self._resident = self._since_ns = None
            elif self._since_ns is not None:
                self._since_ns = usage.now_ns
        if usage.ended:
            if extra and vcoproc_id in self._extra:
                self._extra.move_to_end(vcoproc_id)
            self._displaced = vcoproc_id if interrupted else None

    def pick(self, now_ns: int, current: int | None) -> Decision:
        self._advance(now_ns)
        self._answer = self._choose(now_ns, current)
        return self._answer

    def next_deadline_ns(self) -> int | None:
        first = self._periods.first()
        deadlines = [first[0]] if first is not None else []
        if self._since_ns is not None and not self._extra_turn:
            used_up_ns = self._used_up_ns
            in_time = self._turn_end_ns == used_up_ns
            deadlines.append(used_up_ns + GRACE_NS if in_time else used_up_ns)
        # What has passed was told by `pick`; to say it again is to be asked again without an end.
        return min((each for each in deadlines if each > self._now_ns), default=None)

    def export_accounting(self) -> Mapping[int, Mapping[str, int]]:
        return {
            vcoproc_id: {
                "run_ns": server.run_ns,
                "edf_used_ns": server.promise.budget_ns - server.left_ns,
                "edf_owed_ns": max(0, -server.left_ns),
                "edf_deadline_ns": server.deadline_ns,
            }
            for vcoproc_id, server in self._servers.items()
        }

    def import_accounting(self, carried: Mapping[int, Mapping[str, int]]) -> None:
        for vcoproc_id, values in carried.items():
            server = self._servers.get(vcoproc_id)
            if server is None:
                continue
            server.run_ns = values.get("run_ns", 0)
            # New parameters do not fill up a budget that is used up, and make no debt of it.
            used_ns, owed_ns = values.get("edf_used_ns", 0), values.get("edf_owed_ns", 0)
            server.left_ns = server.promise.budget_ns - max(0, used_ns)
            server.left_ns = max(server.left_ns, -max(0, owed_ns))
            server.deadline_ns = values.get("edf_deadline_ns", 0)

    # --- choosing ---------------------------------------------------------------------------------

    def _choose(self, now_ns: int, current: int | None) -> Decision:
        mine = self._servers.get(current) if current is not None else None
        first = self._ready.first(but=current)
        if mine is None:
            if first is not None:
                return self._grant(first[1])
            other = next(iter(self._extra), None)
            return NOBODY if other is None else Decision(other, self._slice_ns)
        used_up_ns, end_ns = self._used_up_ns, self._turn_end_ns
        leave = False
        if now_ns < used_up_ns:
            if first is not None and first[0] < mine.deadline_ns:
                return self._grant(first[1], preempt=True, displaces=True)
            if end_ns is not None and end_ns < used_up_ns:
                return Decision(current, _slice(used_up_ns - end_ns))
        else:
            leave = end_ns != used_up_ns or now_ns >= used_up_ns + GRACE_NS
        if first is not None:
            return self._grant(first[1], preempt=leave)
        return self._choose_extra(current, leave)

    def _choose_extra(self, current: int | None, leave: bool) -> Decision:
        """Who has what nobody with budget wants, after the current one."""
        if current not in self._extra:
            other = next(iter(self._extra), None)
            if other is None:
                return Decision(None, preempt=leave, vacate=True)
            return Decision(other, self._slice_ns, preempt=leave)
        if len(self._extra) == 1:
            return NOBODY
        other = next(each for each in self._extra if not self._extra_turn or each != current)
        return Decision(other, self._slice_ns)

    def _grant(
        self, vcoproc_id: int, *, preempt: bool = False, displaces: bool = False
    ) -> Decision:
        switches_ns = self._switch_ns * (1 + displaces)
        slice_ns = _slice(self._servers[vcoproc_id].usable_ns(switches_ns))
        return Decision(vcoproc_id, slice_ns, preempt=preempt)

    # --- time -------------------------------------------------------------------------------------

    @property
    def _reserve_ns(self) -> int:
        return SWITCHES_PER_PERIOD * self._switch_ns

    @property
    def _used_up_ns(self) -> int:
        """When the resident's budget is used up, or was; long ago for one that does not run."""
        server = self._servers.get(self._resident) if self._resident is not None else None
        if server is None or self._since_ns is None:
            return 0
        return self._since_ns + server.usable_ns(self._switch_ns)

    def _advance(self, now_ns: int) -> None:
        """Begins the periods that are due. Twice is the same as once."""
        self._now_ns = max(self._now_ns, now_ns)
        while (first := self._periods.first()) is not None and first[0] <= now_ns:
            due_ns, vcoproc_id = first
            server = self._servers[vcoproc_id]
            running = vcoproc_id == self._resident and self._since_ns is not None
            if running:  # what it ran before is paid from the period that ends
                assert self._since_ns is not None
                ran_ns = max(0, due_ns - self._since_ns)
                paid_ns = server.pay(ran_ns)
                if vcoproc_id in self._extra and (self._extra_turn or paid_ns < ran_ns):
                    self._extra.move_to_end(vcoproc_id)  # extra time is over for it
                self._paid_ns += paid_ns
                self._settled_ns += ran_ns
                self._since_ns += ran_ns
                self._period_ns = due_ns
            periods = 1 + (now_ns - due_ns) // server.promise.period_ns
            self._fill(server, periods, due_ns + periods * server.promise.period_ns)
            self._queue(vcoproc_id, server)
            if running:
                self._extra_turn = server.left_ns <= 0

    def _correct(self, server: Server, usage: Usage) -> tuple[int, int]:
        """Settles the periods that ended, in which it was reckoned to run, by what it really did.

        Returns:
            Run and refused time of the present period.
        """
        new_ns = usage.stopped_ns - self._period_ns
        run_ns = min(usage.run_ns, max(0, new_ns))
        refused_ns = usage.refused_ns - min(usage.refused_ns, max(0, -new_ns))
        old_run_ns = usage.run_ns - run_ns
        owed_ns = min(old_run_ns, self._paid_ns) + usage.refused_ns - refused_ns - self._paid_ns
        if not server.promise.extratime:  # it had begun before it was known to
            owed_ns += max(0, old_run_ns - self._settled_ns - max(0, server.rest_ns))
        server.left_ns = min(server.left_ns - owed_ns, server.promise.budget_ns)
        return run_ns, refused_ns

    def _fill(self, server: Server, periods: int, deadline_ns: int) -> None:
        """Begins a new period, some others having gone by without use."""
        budget_ns = server.promise.budget_ns
        server.rest_ns = server.left_ns
        server.left_ns = min(budget_ns, min(server.left_ns, 0) + periods * budget_ns)
        server.spare_ns = self._reserve_ns
        server.deadline_ns = deadline_ns

    def _turn(self, server: Server, now_ns: int, end_ns: int | None) -> None:
        """The resident goes on from now."""
        self._since_ns = now_ns if server.awake else None
        self._settled_ns = self._paid_ns = self._period_ns = 0
        self._extra_turn = server.left_ns <= 0
        self._turn_end_ns = end_ns

    def _queue(self, vcoproc_id: int, server: Server) -> None:
        self._periods.put(vcoproc_id, server.deadline_ns)
        if server.promise.extratime:
            self._extra.setdefault(vcoproc_id)
        if server.left_ns > 0:
            self._ready.put(vcoproc_id, server.deadline_ns)
        else:
            self._ready.drop(vcoproc_id)

    def _unqueue(self, vcoproc_id: int) -> None:
        self._periods.drop(vcoproc_id)
        self._ready.drop(vcoproc_id)
        self._extra.pop(vcoproc_id, None)
        if vcoproc_id == self._resident:
            self._since_ns = None


def _slice(wanted_ns: int) -> int:
    return min(max(wanted_ns, SLICE_NS_MIN), SLICE_NS_MAX)
