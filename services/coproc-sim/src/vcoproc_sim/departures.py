"""How vcoprocs leave the hardware because they must: for good, or until they are resumed.

Theory of operation:
    Whoever must leave is told to at once, climbs the same ladder as any that refuses to (see
    `vcoproc_sim.switcher`), and is forced at the deadline of whoever asked. One that is destroyed
    is forgotten then. One that is paused stands still: it wants nothing, no timer of it goes on,
    and what it still has to say of edges waits with it; its driver is served as that of any
    switched-out one. So it can be written down, and go on somewhere else as if nothing had been.
Invariants:
    One that is paused is off the hardware, or leaves it for that reason. The scheduler takes it
    for asleep, also when it waited.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TypeAlias

from vcoproc.errors import NotFound
from vcoproc.wire.messages import EndReason, Grant
from vcoproc_sim.frontend import FrontEnd
from vcoproc_sim.platforms.api import Platform
from vcoproc_sim.switcher import Switcher
from vcoproc_sim.vcoprocs import Outbox, Vcoproc


class PauseEnd(enum.Enum):
    """What became of a pause that was asked for."""

    OFF = "off"
    """It has left the hardware."""
    FORCED = "forced"
    """It was reset to make it leave, and has faulted."""
    RESUMED = "resumed"
    """It was resumed before it had left."""


Paused: TypeAlias = Callable[[PauseEnd], None]


class Departures:
    """See the module."""

    def __init__(
        self,
        switcher: Switcher,
        platform: Platform,
        frontend: FrontEnd,
        outbox: Outbox,
        clock: Callable[[], int],
    ) -> None:
        self._switcher = switcher
        self._platform = platform
        self._frontend = frontend
        self._outbox = outbox
        self._clock = clock
        self._gone: dict[int, list[Callable[[bool], None]]] = {}
        self._paused: dict[int, list[Paused]] = {}

    def detach(
        self,
        vcoproc: Vcoproc,
        deadline_ns: int,
        done: Callable[[bool], None],
        *,
        moved: bool = False,
    ) -> None:
        """See `Executor.detach`."""
        self._gone.setdefault(vcoproc.id, []).append(done)
        vcoproc.removing = True
        vcoproc.moved |= moved
        self._send_off(vcoproc, deadline_ns, "REMOVED")

    def pause(self, vcoproc: Vcoproc, deadline_ns: int, done: Paused) -> None:
        """See `Executor.pause`."""
        switcher, now_ns = self._switcher, self._clock()
        self._paused.setdefault(vcoproc.id, []).append(done)
        vcoproc.paused = True
        self._frontend.thaw(vcoproc, now_ns)
        self._send_off(vcoproc, deadline_ns, "PAUSED")
        if switcher.on_hardware(vcoproc):
            switcher.notices.sleep(vcoproc, now_ns)  # who refuses gets no more turns meanwhile
        elif vcoproc.told_runnable:
            switcher.notices.held_back(vcoproc, now_ns)

    def _send_off(self, vcoproc: Vcoproc, deadline_ns: int, why: str) -> None:
        """Makes it leave if it is on the hardware; `has_left` follows, possibly at once."""
        switcher = self._switcher
        leaving = switcher.leaving
        refuses = leaving is not None and leaving.turn.vcoproc is vcoproc
        if leaving is not None and refuses:
            leaving.end = EndReason.REMOVED
            leaving.deadline_ns = min(leaving.deadline_ns, self._clock() + deadline_ns)
        if isinstance(switcher.next, Grant) and switcher.next.vcoproc == vcoproc.id:
            switcher.drop_next(why)
        if refuses:
            return
        if switcher.on_hardware(vcoproc):
            switcher.leave(EndReason.REMOVED, deadline_ns)
        else:
            self.has_left(vcoproc, False)

    def has_left(self, vcoproc: Vcoproc, forced: bool) -> None:
        """One that must go is off the hardware."""
        if vcoproc.paused:
            vcoproc.stand_still(self._clock())
        for paused in self._paused.pop(vcoproc.id, ()):
            paused(PauseEnd.FORCED if forced else PauseEnd.OFF)
        if vcoproc.removing:
            self._forget(vcoproc, forced)

    def _forget(self, vcoproc: Vcoproc, forced: bool) -> None:
        if not vcoproc.moved:  # else what is held is done elsewhere
            self._frontend.abandon(vcoproc, NotFound("vcoproc", vcoproc.name))
        del self._switcher.vcoprocs[vcoproc.id]
        self._platform.destroy_context(vcoproc.id)
        for gone in self._gone.pop(vcoproc.id):
            gone(forced)

    def resume(self, vcoproc: Vcoproc) -> None:
        """See `Executor.resume`."""
        if not vcoproc.paused:
            return
        switcher, now_ns = self._switcher, self._clock()
        vcoproc.paused = False
        self._frontend.thaw(vcoproc, now_ns)
        if vcoproc.stands_still:
            vcoproc.go_on(now_ns)
            # Perhaps it was restored, or has come from elsewhere: the router's word may be old.
            self._outbox.to_router.append(switcher.lines.sync(vcoproc))
            switcher.poke(vcoproc)
        elif not vcoproc.removing:
            self._stay(vcoproc, now_ns)
        for paused in self._paused.pop(vcoproc.id, ()):
            paused(PauseEnd.RESUMED)

    def _stay(self, vcoproc: Vcoproc, now_ns: int) -> None:
        """It refuses to leave, and need not any more."""
        switcher = self._switcher
        turn = switcher.turn
        assert turn is not None and turn.vcoproc is vcoproc
        switcher.stay()
        if not turn.idle:
            turn.stop(now_ns)  # what it was granted ended with the pause
            turn.resume(now_ns)
            switcher.notices.wake(vcoproc, now_ns, resumed=True)
        switcher.consider()
