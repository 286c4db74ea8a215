"""Where the time of each vcoproc went, on its coproc's clock; and the turns of a coproc.

Theory of operation:
    A vcoproc is in one bucket at each moment. `Account.move` closes the time in the old bucket at a
    stamp of the coproc's clock. Stamps come from messages about things that overlap (a wake during
    a switch is told before the switch is), so a stamp before the last one counts as the last one.
Invariants:
    The sum over all buckets is the time that the coproc's clock went on while the account was open.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

from vcoproc.limits import TURNS_KEPT_MAX
from vcoproc_scheduler.figures import Refusals, RefusalsView, Slices, SlicesView
from vcoproc_scheduler.policies.api import Usage
from vcoproc_scheduler.responses import Responses

USED_MAX: Final = 1 << 62
"""Of each figure that is carried over: what is added here fits 64 bits all the same."""


class Bucket(enum.IntEnum):
    """Where time goes."""

    SLEEP = 0
    """It has nothing to do, resident on the idle coprocessor or not."""
    WAIT = 1
    SWITCH = 2
    """It is saved or restored."""
    RUN = 3
    REFUSED = 4
    """It held the coprocessor against an order to leave, or kept it empty: it was not taken in."""
    FAULT = 5


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """One stay of a vcoproc on the coproc. Times are of the coproc's clock.

    end: an `EndReason` of the wire format. save_ns, mmu_ns, restore_ns: phases of the switch that
    ended the turn.
    """

    vcoproc: int
    began_ns: int
    ended_ns: int
    planned_ns: int
    end: int
    refused_ns: int
    save_ns: int
    mmu_ns: int
    restore_ns: int


@dataclass(frozen=True, slots=True)
class AccountView:
    """Figures of one vcoproc at one moment. elapsed_ns: the sum of all times but overtime."""

    sleep_ns: int
    wait_ns: int
    switch_ns: int
    run_ns: int
    refused_ns: int
    fault_ns: int
    overtime_ns: int
    instructions: int
    wakes: int
    switches: int
    wait_max_ns: int
    """Longest time from wanting the coprocessor until a turn began; the present wait counts."""
    wait_watched_ns: int
    """The same of the waits that are watched: see `Account.watch`."""
    slices: SlicesView
    refusals: RefusalsView
    """To leave."""
    switch_in_refusals: RefusalsView

    @property
    def elapsed_ns(self) -> int:
        return (
            self.sleep_ns
            + self.wait_ns
            + self.switch_ns
            + self.run_ns
            + self.refused_ns
            + self.fault_ns
        )


@dataclass(frozen=True, slots=True)
class Used:
    """What a vcoproc has used on other coprocs; each 0 to USED_MAX."""

    run_ns: int = 0
    wait_ns: int = 0
    switch_ns: int = 0
    refused_ns: int = 0
    overtime_ns: int = 0
    instructions: int = 0
    wakes: int = 0
    switches: int = 0


NOTHING_USED: Final = Used()


class Account:
    """Times and counts of one vcoproc. Closed while its coproc does not answer."""

    __slots__ = (
        "_charged",
        "_charged_instructions",
        "_times",
        "_waited",
        "_watched",
        "bucket",
        "instructions",
        "opened_sum_ns",
        "overtime_ns",
        "refusals",
        "responses",
        "since_ns",
        "slice_run_ns",
        "slices",
        "switch_in_refusals",
        "switches",
        "wait_max_ns",
        "wait_watched_ns",
        "waiting_since_ns",
        "wakes",
        "watched_since_ns",
    )

    def __init__(self) -> None:
        self._times = [0] * len(Bucket)
        self._charged = list(self._times)
        self._charged_instructions = 0
        self.bucket: Bucket | None = None
        """None: closed."""
        self.since_ns = 0
        """When it came into its bucket."""
        self.opened_sum_ns = 0
        """Sum of all buckets when it was opened last, less the clock then: for `check`."""
        self.slice_run_ns = 0
        """Run time in all when the slice began."""
        self.overtime_ns = 0
        self.instructions = 0
        self.wakes = 0
        self.switches = 0
        self.wait_max_ns = 0
        self.wait_watched_ns = 0
        self.watched_since_ns = 0
        self.waiting_since_ns: int | None = None
        """None: it does not wait."""
        self._waited: tuple[int, int] | None = None
        """When a wait ended without a turn, and since when it had lasted."""
        self._watched = False
        """Whether the present wait is watched, or the last one."""
        self.responses = Responses()
        """Of the jobs that are watched."""
        self.slices = Slices()
        self.refusals = Refusals()
        self.switch_in_refusals = Refusals()

    def open(self, bucket: Bucket, at_ns: int) -> None:
        """Begins to count at a time of the coproc's clock, which may have begun anew."""
        assert self.bucket is None
        self.bucket = bucket
        self.since_ns = at_ns
        self.watched_since_ns = min(self.watched_since_ns, at_ns)
        self.opened_sum_ns = sum(self._times) - at_ns
        self._watch_wait(bucket)

    def watch(self, since_ns: int) -> None:
        """Watches for the longest wait and response anew: of what begins at that time or later."""
        self.wait_watched_ns = 0
        self.watched_since_ns = since_ns
        self._watched = False
        self.responses.reset()

    def yielded(self) -> None:
        """It gave up its turn, and with it what it was sure of: the wait that follows and the rest
        of its job are not watched."""
        self._watched = False
        self.responses.ignore()

    def response_ns(self, work_ns: int, clock_ns: int | None) -> int:
        """Longest time from a wake until it had run for so long (rounded down to a step of
        `WORK_STEPS_NS`), or less in all; the present job counts up to `clock_ns`, if given.
        """
        for_ns = 0
        if clock_ns is not None and self.bucket is Bucket.RUN:
            for_ns = max(0, clock_ns - self.since_ns)
        return self.responses.longest_ns(work_ns, for_ns=for_ns, until_ns=clock_ns)

    def carry(self, used: Used) -> None:
        """What was used elsewhere is part of it from now on; nobody is charged for that here."""
        for bucket, time_ns in (
            (Bucket.RUN, used.run_ns),
            (Bucket.WAIT, used.wait_ns),
            (Bucket.SWITCH, used.switch_ns),
            (Bucket.REFUSED, used.refused_ns),
        ):
            self._times[bucket] += time_ns
            self._charged[bucket] += time_ns
            self.opened_sum_ns += time_ns
        self.slice_run_ns += used.run_ns
        self._charged_instructions += used.instructions
        self.instructions += used.instructions
        self.overtime_ns += used.overtime_ns
        self.wakes += used.wakes
        self.switches += used.switches

    def close(self, at_ns: int) -> None:
        """Ends counting; does nothing to a closed account."""
        if self.bucket is not None:
            self.move(self.bucket, at_ns)
            self.bucket = None
            self.waiting_since_ns = self._waited = None
            self.responses.sleep()

    def move(self, bucket: Bucket, at_ns: int) -> None:
        """From `at_ns` on, time goes into `bucket`."""
        assert self.bucket is not None
        if at_ns > self.since_ns:
            self._times[self.bucket] += at_ns - self.since_ns
            if self.bucket is Bucket.RUN:
                self.responses.ran(at_ns - self.since_ns, at_ns)
            self.since_ns = at_ns
        if bucket is not self.bucket:
            self._watch_wait(bucket)
        self.bucket = bucket

    def _watch_wait(self, bucket: Bucket) -> None:
        """A wait begins, or ends when the turn begins: after the switch, and after any refusal.

        One that falls asleep and wakes in the same moment has waited all the time: its grant came
        to nothing.
        """
        if bucket is Bucket.WAIT:
            if self.waiting_since_ns is None:
                self._begin_wait()
        elif bucket not in (Bucket.SWITCH, Bucket.REFUSED):
            if self.waiting_since_ns is not None:
                self._end_wait(bucket)
            if bucket is Bucket.RUN:
                self._wake()
            else:
                self.responses.sleep()

    def _begin_wait(self) -> None:
        waited, self._waited = self._waited, None
        if waited is not None and waited[0] == self.since_ns:
            self.waiting_since_ns = waited[1]
            self.responses.go_on()
            return
        self.waiting_since_ns = self.since_ns
        self._watched = self.since_ns >= self.watched_since_ns
        self._wake()

    def _end_wait(self, bucket: Bucket) -> None:
        assert self.waiting_since_ns is not None
        if bucket is Bucket.RUN:
            waited_ns = self.since_ns - self.waiting_since_ns
            self.wait_max_ns = max(self.wait_max_ns, waited_ns)
            if self._watched:
                self.wait_watched_ns = max(self.wait_watched_ns, waited_ns)
        else:
            self._waited = self.since_ns, self.waiting_since_ns
        self.waiting_since_ns = None

    def _wake(self) -> None:
        self.responses.wake(self.since_ns, watched=self.since_ns >= self.watched_since_ns)

    @property
    def run_ns(self) -> int:
        return self._times[Bucket.RUN]

    def begin_slice(self) -> None:
        self.slice_run_ns = self._times[Bucket.RUN]

    def end_slice(self, planned_ns: int, *, full: bool = False) -> int:
        """The overtime of the slice, which is added; the next slice begins. full: see `Slices`."""
        actual_ns = self._times[Bucket.RUN] - self.slice_run_ns
        overtime_ns = max(0, actual_ns - planned_ns)
        if actual_ns:  # else it ended before, when the vcoproc became idle
            self.slices.add(planned_ns, actual_ns, full=full)
        self.overtime_ns += overtime_ns
        self.slice_run_ns = self._times[Bucket.RUN]
        return overtime_ns

    def usage(
        self,
        vcoproc_id: int,
        *,
        overtime_ns: int,
        ended: bool,
        left: bool,
        runnable: bool,
        now_ns: int,
        stopped_ns: int,
        until_ns: int | None = None,
    ) -> Usage:
        """What was used since the last call.

        Args:
            until_ns: count the time in the present bucket up to then, as far as it is known; what
                turns out to be too much, the next calls leave out.
        """
        times, charged = list(self._times), self._charged
        if until_ns is not None and self.bucket is not None:
            times[self.bucket] += max(0, until_ns - self.since_ns)
        used = [max(0, now - before) for now, before in zip(times, charged, strict=True)]
        self._charged = [max(now, before) for now, before in zip(times, charged, strict=True)]
        instructions = self.instructions - self._charged_instructions
        self._charged_instructions = self.instructions
        return Usage(
            vcoproc_id=vcoproc_id,
            run_ns=used[Bucket.RUN],
            refused_ns=used[Bucket.REFUSED],
            switch_ns=used[Bucket.SWITCH],
            overtime_ns=overtime_ns,
            instructions=instructions,
            ended=ended,
            left=left,
            runnable=runnable,
            now_ns=now_ns,
            stopped_ns=stopped_ns,
        )

    def view(self, clock_ns: int | None = None) -> AccountView:
        """The figures, with the time in the present bucket up to `clock_ns` (None: without it)."""
        times = list(self._times)
        wait_max_ns, wait_watched_ns = self.wait_max_ns, self.wait_watched_ns
        if clock_ns is not None and self.bucket is not None:
            times[self.bucket] += max(0, clock_ns - self.since_ns)
            if self.waiting_since_ns is not None:
                waited_ns = clock_ns - self.waiting_since_ns
                wait_max_ns = max(wait_max_ns, waited_ns)
                if self._watched:
                    wait_watched_ns = max(wait_watched_ns, waited_ns)
        return AccountView(
            sleep_ns=times[Bucket.SLEEP],
            wait_ns=times[Bucket.WAIT],
            switch_ns=times[Bucket.SWITCH],
            run_ns=times[Bucket.RUN],
            refused_ns=times[Bucket.REFUSED],
            fault_ns=times[Bucket.FAULT],
            overtime_ns=self.overtime_ns,
            instructions=self.instructions,
            wakes=self.wakes,
            switches=self.switches,
            wait_max_ns=wait_max_ns,
            wait_watched_ns=wait_watched_ns,
            slices=self.slices.view(),
            refusals=self.refusals.view(),
            switch_in_refusals=self.switch_in_refusals.view(),
        )

    def adds_up(self) -> bool:
        """Whether the buckets hold exactly the time that has gone on the coproc's clock."""
        return self.bucket is None or sum(self._times) == self.opened_sum_ns + self.since_ns


class TurnRing:
    """The newest turns of a coproc."""

    __slots__ = ("_turns",)

    def __init__(self, size: int = TURNS_KEPT_MAX) -> None:
        self._turns: deque[TurnEnded] = deque(maxlen=size)

    def add(self, turn: TurnEnded) -> None:
        if self._turns and turn.ended_ns < self._turns[-1].began_ns:
            self._turns.clear()  # the coproc's clock has begun anew
        self._turns.append(turn)

    def after(self, began_ns: int) -> list[TurnEnded]:
        """Turns that began later, oldest first; 0 for all."""
        if not began_ns:
            return list(self._turns)
        found = []
        for turn in reversed(self._turns):
            if turn.began_ns <= began_ns:
                break
            found.append(turn)
        return found[::-1]
