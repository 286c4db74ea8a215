"""What always holds between two steps of the executor; for tests and for the curious."""

from __future__ import annotations

from vcoproc.errors import InvariantViolation
from vcoproc.limits import REPLAY_QUEUE_MAX, SAVED_HOLD_QUEUE_MAX
from vcoproc.wire.messages import EndReason, Grant
from vcoproc_sim.switcher import Switcher
from vcoproc_sim.vcoprocs import Vcoproc


def check_switcher(switcher: Switcher) -> None:
    """Raises InvariantViolation when the state contradicts itself."""
    turn, leaving, granted = switcher.turn, switcher.leaving, switcher.next
    _must(switcher.entering is None or turn is None, "the hardware is entered while it is empty")
    _must(leaving is None or leaving.turn is turn, "who leaves is on the hardware")
    _must(
        leaving is None
        or switcher.coming(switcher.now_ns) is not None
        or switcher.must_go(leaving, switcher.now_ns),
        "who is told to leave has somebody to make room for, or must go",
    )
    _must(
        granted is None
        or turn is not None
        or switcher.entering is not None
        or (isinstance(granted, Grant) and 0 < (switcher.due_ns or 0) <= granted.not_before_ns),
        "a grant whose time has come does not wait in front of empty hardware",
    )
    _must(
        switcher.entering is None or switcher.entering.grant is granted,
        "the hardware is asked for who is granted",
    )
    if switcher.entering is not None and isinstance(granted, Grant):
        wants = switcher.runnable(switcher.vcoprocs[granted.vcoproc])
        _must(wants, "the hardware is empty for somebody who wants it")
    if isinstance(granted, Grant):
        _must(granted.vcoproc in switcher.vcoprocs, "the granted one exists")
        _must(not switcher.vcoprocs[granted.vcoproc].removing, "the granted one is not destroyed")
    if switcher.failure:
        _must(turn is None and granted is None, "a coproc that has failed runs nothing")
    for vcoproc in switcher.vcoprocs.values():
        _check_vcoproc(switcher, vcoproc)


def _check_vcoproc(switcher: Switcher, vcoproc: Vcoproc) -> None:
    _must(len(vcoproc.held) <= SAVED_HOLD_QUEUE_MAX, "the held accesses are bounded")
    _must(len(vcoproc.replay) <= REPLAY_QUEUE_MAX, "the queued writes are bounded")
    turn, leaving = switcher.turn, switcher.leaving
    if turn is None or turn.vcoproc is not vcoproc:
        _must(not vcoproc.removing, "who is destroyed is on the hardware, or gone")
        _must(vcoproc.paused is vcoproc.stands_still, "time stands still for who is paused")
        _must(vcoproc.paused or not vcoproc.saved, "who is written down is paused")
        _must(not (vcoproc.paused and vcoproc.told_runnable), "who is paused is taken for asleep")
        if switcher.runnable(vcoproc):
            _must(vcoproc.told_runnable, f"the scheduler knows that vcoproc {vcoproc.id} woke")
        return
    _must(not vcoproc.held and not vcoproc.replay, "nothing waits for who is on the hardware")
    must_go = leaving is not None and leaving.end is EndReason.REMOVED
    _must(must_go or not vcoproc.paused, "who is paused is told to leave")
    _must(not vcoproc.stands_still, "time goes on for who is on the hardware")
    if not turn.idle:
        # A Register no longer counts one that must go.
        known = vcoproc.told_runnable or vcoproc.removing or vcoproc.paused
        _must(known, "the scheduler knows of who runs")
        _must(not switcher.failure, "a coproc that has failed runs nothing")
    elif switcher.leaving is None:
        _must(not vcoproc.told_runnable, "the scheduler knows of who is idle")


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantViolation(f"it does not hold that {what}")
