"""What a scheduler core keeps of one vcoproc, and of its coproc's clock."""

from __future__ import annotations

from typing import Final

from vcoproc.model.run_state import RunMachine, RunState
from vcoproc_scheduler.accounting import Account, Bucket

BUCKETS: Final = {
    RunState.SLEEPING: Bucket.SLEEP,
    RunState.WAITING: Bucket.WAIT,
    RunState.SWITCHING_IN: Bucket.WAIT,  # the report tells when the switch began
    RunState.RUNNING: Bucket.RUN,
    RunState.SWITCHING_OUT: Bucket.RUN,  # the report tells when it was told to leave
    RunState.FAULTED: Bucket.FAULT,
}


class Record:
    """One vcoproc: added by control, mentioned by the coproc, or both.

    awake: the policy was told that it wants to run. parameters: as control gave them.
    """

    __slots__ = ("account", "added", "awake", "id", "machine", "parameters")

    def __init__(self, vcoproc: int) -> None:
        self.id = vcoproc
        self.machine = RunMachine()
        self.account = Account()
        self.added = False
        self.awake = False
        self.parameters: dict[str, int] = {}


class CoprocClock:
    """A coproc's clock as it was told last, and the clock that its policy sees.

    The clocks of two processes are never compared: between two tellings our own clock only says how
    much time has passed since. The policy's clock never goes back, though a coproc that was
    restarted begins its clock anew.
    """

    __slots__ = ("_floor_ns", "_offset_ns", "_told_at_ns", "now_ns", "told_ns")

    def __init__(self) -> None:
        self.now_ns = 0
        """Our own clock."""
        self.told_ns = 0
        """The latest time that the coproc told."""
        self._told_at_ns = 0
        self._offset_ns = 0
        self._floor_ns = 0

    def tell(self, clock_ns: int) -> None:
        """The coproc told a time; one that is not the latest changes nothing."""
        if clock_ns > self.told_ns:
            self.told_ns, self._told_at_ns = clock_ns, self.now_ns

    def restart(self, clock_ns: int) -> None:
        """The coproc registered; its clock may have begun anew."""
        self._offset_ns = max(self._offset_ns, self._floor_ns - clock_ns)
        self.told_ns, self._told_at_ns = clock_ns, self.now_ns

    def estimate_ns(self, now_ns: int) -> int:
        """The coproc's clock at a time of ours."""
        return self.told_ns + now_ns - self._told_at_ns

    def policy_ns(self) -> int:
        """The policy's clock now."""
        self._floor_ns = max(self._floor_ns, self._offset_ns + self.estimate_ns(self.now_ns))
        return self._floor_ns

    def to_policy_ns(self, clock_ns: int) -> int:
        """A time of the coproc's clock on the policy's."""
        return clock_ns + self._offset_ns

    def from_policy_ns(self, policy_ns: int) -> int:
        """A time of the policy's clock on the coproc's; 0, which is no time, stays 0."""
        return max(0, policy_ns - self._offset_ns) if policy_ns else 0


class Turn:
    """The turn on the coprocessor, as it was reported last. Times are of the coproc's clock.

    slice_ns: None when we have not granted it. until_ns: when it ends at the latest; 0: no bound.
    """

    __slots__ = ("_granted_ns", "began_ns", "slice_began_ns", "slice_ns", "until_ns")

    def __init__(self) -> None:
        self.unknown(0)

    def unknown(self, now_ns: int) -> None:
        """It was there when the coproc registered, or there is none."""
        self.began_ns = self.slice_began_ns = now_ns
        self._granted_ns: int | None = None
        self.slice_ns: int | None = None
        self.until_ns = 0

    def begin(self, now_ns: int, slice_ns: int | None, until_ns: int) -> None:
        self.began_ns = now_ns
        self._granted_ns = slice_ns
        self.until_ns = until_ns
        self.resume(now_ns)

    def resume(self, now_ns: int) -> None:
        """A new slice begins, since the one before ended with a sleep."""
        self.slice_began_ns = now_ns
        self.slice_ns = self._granted_ns
        if self.slice_ns is not None and self.until_ns:
            self.slice_ns = min(self.slice_ns, max(0, self.until_ns - now_ns))
