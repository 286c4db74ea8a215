"""Carries out what a policy decides, on virtual time and without anything in between.

No core, no messages: only the interface of policies and what a coproc does with a `Decision`. It is
small because hundreds of runs are made with it, and because what is wrong here is wrong alone.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from vcoproc_scheduler.policies.api import NOBODY, Decision, Policy, Usage

FOREVER_NS = 1 << 62


class Task:
    """What one vcoproc wants: `work_ns` in each `period_ns`, done before the next; or all it gets.

    gaps_ns: extra time between releases, in turn. refuses_ns: how long it refuses to leave, in
    turn. refuses_in_ns: how long the coprocessor refuses to take it in, in turn.
    """

    __slots__ = (
        "awake_ns",
        "backlog",
        "deadline_ns",
        "done",
        "gaps_ns",
        "id",
        "left_ns",
        "missed",
        "period_ns",
        "ran_ns",
        "refused_ns",
        "refuses_in_ns",
        "refuses_ns",
        "release_ns",
        "responses_ns",
        "run_ns",
        "switch_ns",
        "wait_ns_max",
        "waits_ns",
        "work_ns",
    )

    def __init__(
        self,
        id: int,
        work_ns: int = FOREVER_NS,
        period_ns: int = FOREVER_NS,
        *,
        first_ns: int = 0,
        gaps_ns: tuple[int, ...] = (0,),
        refuses_ns: tuple[int, ...] = (0,),
        refuses_in_ns: tuple[int, ...] = (0,),
    ) -> None:
        self.id = id
        self.work_ns = work_ns
        self.period_ns = period_ns
        self.release_ns = first_ns
        self.gaps_ns = deque(gaps_ns)
        self.refuses_ns = deque(refuses_ns)
        self.refuses_in_ns = deque(refuses_in_ns)
        self.left_ns = 0
        self.deadline_ns = FOREVER_NS
        self.backlog: deque[int] = deque()  # releases of jobs that wait for the one before
        self.missed: list[int] = []  # deadlines
        self.done = 0
        self.responses_ns = 0  # the worst
        self.awake_ns = 0
        self.waits_ns: int | None = None  # since when it waits to run
        self.wait_ns_max = 0
        self.ran_ns = 0  # in all
        self.run_ns = self.refused_ns = self.switch_ns = 0  # not charged yet


class DecisionLoop:
    """One coproc.

    switch_ns: half of it for saving, the rest for restoring. log: (from, to, vcoproc) of every time
    in which one ran.
    """

    def __init__(self, policy: Policy, tasks: list[Task], *, switch_ns: int = 0) -> None:
        self.policy = policy
        self.tasks = {task.id: task for task in tasks}
        self.now_ns = 0
        self.log: list[tuple[int, int, int]] = []
        self.begun: list[tuple[int, int]] = []
        """(vcoproc, when) of every turn."""
        self.first_missed: tuple[int, int] | None = None
        self._save_ns = switch_ns // 2
        self._restore_ns = switch_ns - switch_ns // 2
        self._releases = [(task.release_ns, task.id) for task in tasks]
        self._releases.sort()
        self._current: Task | None = None  # on the coprocessor, running or idle
        self._refused: Task | None = None  # the empty coprocessor does not take it in
        self._refused_since_ns = self._refused_until_ns = 0
        self._stopped_ns = 0  # when anybody ran last
        self._slice_ns = 0
        self._end_ns = FOREVER_NS  # of the slice
        self._until_ns = FOREVER_NS
        self._decision = NOBODY
        self._deadline_ns = FOREVER_NS

    def run(self, end_ns: int) -> None:
        self._advance(self.now_ns)
        while self.now_ns < end_ns:
            self._decide()
            while self._act():
                self._decide()
            self._advance(min(self._next_ns(), end_ns))
        for task in self.tasks.values():
            if task.left_ns and task.deadline_ns <= end_ns:
                self._miss(task)

    def misses(self) -> dict[int, list[int]]:
        return {task.id: task.missed for task in self.tasks.values() if task.missed}

    # --- deciding and carrying out ----------------------------------------------------------------

    def _decide(self) -> None:
        current = self._current
        staying = current.id if current is not None and current.left_ns else None
        decision = self.policy.pick(self.now_ns, staying)
        if decision.vcoproc_id is not None:
            assert self.tasks[decision.vcoproc_id].left_ns, "it does not want to run"
            assert decision.slice_ns > 0
        self._decision = decision
        deadline_ns = self.policy.next_deadline_ns()
        self._deadline_ns = FOREVER_NS if deadline_ns is None else deadline_ns

    def _begin_ns(self, decision: Decision) -> int:
        """When the present decision is to be carried out, as things are now."""
        current = self._current
        if decision.vcoproc_id is None:
            if not decision.vacate or current is None:
                return FOREVER_NS
            return self.now_ns if decision.preempt or not current.left_ns else self._end_ns
        if current is None or not current.left_ns:
            return decision.not_before_ns
        if decision.preempt and decision.vcoproc_id != current.id:
            return decision.not_before_ns
        return max(self._end_ns, decision.not_before_ns)

    def _next_ns(self) -> int:
        begin_ns = self._begin_ns(self._decision)
        if self._refused is not None:
            begin_ns = self._refused_until_ns
        times = [self._deadline_ns, begin_ns, self._until_ns]
        if self._releases:
            times.append(self._releases[0][0])
        current = self._current
        if current is not None and current.left_ns:
            times.append(self.now_ns + current.left_ns)
        next_ns = min(times)
        assert next_ns > self.now_ns, f"time does not go on: {times}, {self._decision}"
        return next_ns

    def _act(self) -> bool:
        """Carries out what is due now; whether there was anything."""
        decision, current, now_ns = self._decision, self._current, self.now_ns
        if self._refused is not None:
            return self._ask_again(self._refused, decision)
        if self._begin_ns(decision) <= now_ns:
            if decision.vcoproc_id is None:
                self._switch(None, decision)
            elif current is not None and decision.vcoproc_id == current.id:
                self._charge(current, ended=True, left=False)
                self._begin(current, decision)
            else:
                self._switch(self.tasks[decision.vcoproc_id], decision)
            return True
        if self._until_ns <= now_ns:
            self._switch(None, decision)
            return True
        return False

    def _ask_again(self, task: Task, decision: Decision) -> bool:
        """Whether the one that is refused is taken in now, or is not wanted any more."""
        if decision.vcoproc_id != task.id or self._begin_ns(decision) > self.now_ns:
            self._refused = None
            task.refused_ns += self.now_ns - self._refused_since_ns
            self._charge(task, ended=False, left=False)
            return True
        if self.now_ns < self._refused_until_ns:
            return False
        self._refused = None
        task.refused_ns += self.now_ns - self._refused_since_ns
        self._enter(task, decision)
        return True

    def _refuse(self, task: Task, refuses_ns: int) -> None:
        """The present one leaves, and the next one is not taken in."""
        old, self._current = self._current, None
        self._until_ns = FOREVER_NS
        if old is not None:
            refused_ns = old.refuses_ns[0]
            old.refuses_ns.rotate(-1)
            old.refused_ns += refused_ns
            old.switch_ns += self._save_ns
            if old.left_ns:
                old.waits_ns = self.now_ns
            self._pass(refused_ns + self._save_ns)
            self._charge(old, ended=True, left=True)
        self._refused = task
        self._refused_since_ns = self.now_ns
        self._refused_until_ns = self.now_ns + refuses_ns
        self._advance(self.now_ns)

    def _enter(self, task: Task, decision: Decision) -> None:
        task.switch_ns += self._restore_ns
        self._pass(self._restore_ns)
        self._begin(task, decision)
        self._advance(self.now_ns)

    def _pass(self, for_ns: int) -> None:
        """Time in which nobody runs, but everybody may wake."""
        end_ns = self.now_ns + for_ns
        while self._releases and self._releases[0][0] < end_ns:
            self._advance(self._releases[0][0])
        self.now_ns = end_ns

    def _switch(self, to: Task | None, decision: Decision) -> None:
        if to is not None:
            refuses_in_ns = to.refuses_in_ns[0]
            to.refuses_in_ns.rotate(-1)
            if refuses_in_ns:
                self._refuse(to, refuses_in_ns)
                return
        old = self._current
        begin_ns = self.now_ns
        self._current = None  # nobody runs meanwhile, but everybody may wake
        self._until_ns = FOREVER_NS
        if old is not None:
            refused_ns = old.refuses_ns[0]
            old.refuses_ns.rotate(-1)
            old.refused_ns += refused_ns
            old.switch_ns += self._save_ns
            begin_ns += refused_ns + self._save_ns
            if old.left_ns:
                old.waits_ns = self.now_ns
        if to is not None:
            begin_ns += self._restore_ns
            to.switch_ns += self._restore_ns
        while self._releases and self._releases[0][0] < begin_ns:
            self._advance(self._releases[0][0])
        self.now_ns = begin_ns
        if old is not None:
            self._charge(old, ended=True, left=True)
        if to is not None:
            self._begin(to, decision)
        self._advance(begin_ns)

    def _begin(self, task: Task, decision: Decision) -> None:
        now_ns = self.now_ns
        self._current = task
        self._slice_ns = decision.slice_ns
        self._end_ns = now_ns + decision.slice_ns
        self._until_ns = decision.until_ns or FOREVER_NS
        self.begun.append((task.id, now_ns))
        self._waited(task)
        self.policy.begin(task.id, now_ns)

    def _waited(self, task: Task) -> None:
        if task.waits_ns is not None:
            task.wait_ns_max = max(task.wait_ns_max, self.now_ns - task.waits_ns)
            task.waits_ns = None

    def _charge(self, task: Task, *, ended: bool, left: bool) -> None:
        usage = Usage(
            task.id,
            task.run_ns,
            task.refused_ns,
            task.switch_ns,
            0,
            0,
            ended,
            left,
            bool(task.left_ns),
            self.now_ns,
            self._stopped_ns,
        )
        task.run_ns = task.refused_ns = task.switch_ns = 0
        self.policy.charge(usage)

    # --- time and work ----------------------------------------------------------------------------

    def _advance(self, to_ns: int) -> None:
        """Time goes on; then come completions and releases of that time."""
        current = self._current
        if current is not None and current.left_ns and to_ns > self.now_ns:
            ran_ns = to_ns - self.now_ns
            self.log.append((self.now_ns, to_ns, current.id))
            current.run_ns += ran_ns
            current.ran_ns += ran_ns
            current.left_ns -= ran_ns
            self.now_ns = self._stopped_ns = to_ns
            if not current.left_ns:
                self._complete(current)
        self.now_ns = to_ns
        while self._releases and self._releases[0][0] <= to_ns:
            _, vcoproc_id = heappop(self._releases)
            self._release(self.tasks[vcoproc_id])

    def _complete(self, task: Task) -> None:
        task.done += 1
        task.responses_ns = max(task.responses_ns, self.now_ns - task.awake_ns)
        if self.now_ns > task.deadline_ns:
            self._miss(task)
        if task.backlog:
            self._next_job(task, task.backlog.popleft())
            return
        self._charge(task, ended=False, left=False)
        self.policy.sleep(task.id, self.now_ns)

    def _miss(self, task: Task) -> None:
        task.missed.append(task.deadline_ns)
        found = (task.deadline_ns, task.id)
        self.first_missed = min(self.first_missed or found, found)

    def _next_job(self, task: Task, release_ns: int) -> None:
        task.left_ns = task.work_ns
        task.awake_ns = release_ns
        task.deadline_ns = release_ns + task.period_ns

    def _release(self, task: Task) -> None:
        now_ns = task.release_ns
        if task.period_ns < FOREVER_NS:
            task.release_ns += task.period_ns + task.gaps_ns[0]
            task.gaps_ns.rotate(-1)
            heappush(self._releases, (task.release_ns, task.id))
        if task.left_ns:
            task.backlog.append(now_ns)
            return
        self._next_job(task, now_ns)
        if task is self._current:
            self._end_ns = self.now_ns + self._slice_ns
        else:
            task.waits_ns = self.now_ns
        self.policy.wake(task.id, self.now_ns)
