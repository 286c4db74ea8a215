"""The vcoprocs of one coproc, and the only place where their states change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vcoproc.errors import LimitExceeded, RemoteProtocolError
from vcoproc.limits import VCOPROCS_KNOWN_MAX
from vcoproc.model.run_state import ON_COPROC, RunEvent, RunState
from vcoproc_scheduler.accounting import Bucket
from vcoproc_scheduler.record import BUCKETS, CoprocClock, Record


class Vcoprocs:
    """Those that control has added, and those that only the coproc has mentioned.

    Args:
        coproc: its name, for errors.
        story: the latest events, for errors.
    """

    def __init__(self, coproc: str, clock: CoprocClock, story: Callable[[], Sequence[str]]) -> None:
        self.current = 0
        """Who is on the coprocessor, running or idle; 0 for nobody."""
        self.registered = False
        """The coproc answers: states are true and accounts are open."""
        self.story = story
        self._coproc = coproc
        self._clock = clock
        self._records: dict[int, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, vcoproc: int) -> bool:
        return vcoproc in self._records

    def __getitem__(self, vcoproc: int) -> Record:
        return self._records[vcoproc]

    def get(self, vcoproc: int) -> Record | None:
        return self._records.get(vcoproc)

    def known(self, vcoproc: int) -> Record:
        """The record of one that the coproc mentions. One that control has not added is remembered.

        Raises:
            RemoteProtocolError: there is no vcoproc 0.
        """
        record = self._records.get(vcoproc)
        if record is not None:
            return record
        if not vcoproc:
            raise RemoteProtocolError("message about vcoproc 0")
        if len(self._records) >= VCOPROCS_KNOWN_MAX:
            forgettable = (each.id for each in self if not each.added and each.id != self.current)
            if (oldest := next(forgettable, None)) is not None:
                del self._records[oldest]
        record = Record(vcoproc)
        self.keep(record)
        return record

    def check_room(self) -> None:
        """Whether control may add one more.

        Raises:
            LimitExceeded: it may not.
        """
        if len(self._records) >= VCOPROCS_KNOWN_MAX:
            raise LimitExceeded(f"vcoprocs of {self._coproc}", VCOPROCS_KNOWN_MAX)

    def keep(self, record: Record) -> None:
        """Takes a new record in."""
        self._records[record.id] = record
        if self.registered:
            record.account.open(Bucket.SLEEP, self._clock.told_ns)

    def forget(self, record: Record) -> None:
        del self._records[record.id]

    def transit(self, record: Record, event: RunEvent) -> RunState:
        return record.machine.apply(event, f"vcoproc {record.id} of {self._coproc}", self.story)

    def move(self, record: Record, event: RunEvent, clock_ns: int) -> None:
        """Changes a state at a time of the coproc's clock."""
        bucket = BUCKETS[self.transit(record, event)]
        # A wake during a switch is told before the switch, whose stamps are earlier: it must not
        # close a time that goes on.
        if bucket is not record.account.bucket:
            record.account.move(bucket, clock_ns)

    def place(self, record: Record | None) -> None:
        """It is its turn now, if it waits."""
        if record is not None and record.machine.state is RunState.WAITING:
            self.transit(record, RunEvent.PLACE)

    def unplace(self, record: Record | None) -> None:
        if record is not None and record.machine.state is RunState.SWITCHING_IN:
            self.transit(record, RunEvent.UNPLACE)

    def leave(self, record: Record | None) -> None:
        """It shall leave the coprocessor now, if it runs on it."""
        if record is not None and record.machine.state is RunState.RUNNING:
            self.transit(record, RunEvent.LEAVE)

    def stay(self, record: Record | None) -> None:
        """It may stay, unless control has removed it."""
        if record is None or record.machine.sleep_requested:
            return
        if record.machine.state is RunState.SWITCHING_OUT:
            self.transit(record, RunEvent.STAY)

    def problems(self) -> list[str]:
        """What contradicts itself; nothing, unless there is a bug."""
        found = []
        for record in self:
            state = record.machine.state
            if state in ON_COPROC and record.id != self.current:
                found.append(f"vcoproc {record.id} is {state.value}, {self.current} has the coproc")
            if not record.account.adds_up():
                found.append(f"the times of vcoproc {record.id} do not add up")
            if (record.account.bucket is not None) != self.registered:
                found.append(f"the account of vcoproc {record.id} is not open while online")
        if self.current and self.current not in self:
            found.append(f"current {self.current} is not known")
        return found
