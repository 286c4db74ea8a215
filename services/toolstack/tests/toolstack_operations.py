"""Every operation that changes what is to be, to be cut off and disturbed at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from toolstack_coprocs import add, drain, replace_with, seal, tree
from toolstack_picture import run_firmware, write_memory
from toolstack_rig import NO_REQUEST, TREE, TWO_VCOPROCS, Rig, one_vcoproc

from vcoproc.errors import PeerLost
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord
from vcoproc_toolstack.restoring import Wishes
from vcoproc_toolstack.schedules import Wish
from vcoproc_toolstack.turns import Request

REQUEST = Request("once", b"print")


def seal_domain(domain: DomainRecord) -> bytes:
    """Without numbers, which are others after an attempt that was cut off."""
    return f"{domain.name} {domain.life.value} {domain.state.value}".encode()


def seal_vcoproc(vcoproc: VcoprocRecord) -> bytes:
    return f"{vcoproc.resource} {vcoproc.coproc}".encode()


@dataclass(frozen=True)
class Operation:
    """prepare: what is there before. act: gives the answer.

    decided: once it has begun it is finished, whoever dies or falls silent. between: one more thing
    that it may leave, a state of "fir". also: another answer that is right after it was cut off.
    once: it has no request id; asked for again when it was done, it is refused.
    """

    name: str
    prepare: Callable[[Rig], None]
    act: Callable[[Rig], bytes]
    decided: bool = False
    between: str = ""
    also: bytes | None = None
    once: bool = False


def _nothing(rig: Rig) -> None:
    """No domain is there."""


def running(rig: Rig, endings: str = "") -> None:
    """A domain that has used what it has."""
    rig.create(TWO_VCOPROCS + endings)
    write_memory(rig)
    run_firmware(rig)


def paused(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.pause("fir", NO_REQUEST)


def stopped(rig: Rig) -> None:
    rig.changes.create_domain(TWO_VCOPROCS, "test.cfg", NO_REQUEST, seal_domain, stopped=True)


def crashed(rig: Rig) -> None:
    running(rig)
    rig.lifecycle.crash("fir", "a bug", NO_REQUEST)


def ending(key: str, action: str) -> Callable[[Rig], None]:
    return lambda rig: running(rig, f'{key} = "{action}"\n')


def _create(rig: Rig, *, stopped: bool = False) -> bytes:
    return rig.changes.create_domain(
        TWO_VCOPROCS, "test.cfg", REQUEST, seal_domain, stopped=stopped
    )


def _attach(rig: Rig) -> bytes:
    return rig.changes.create_vcoproc("fir", "coproc=dsp1,name=late", REQUEST, seal_vcoproc)


def _detach(rig: Rig) -> bytes:
    return rig.changes.destroy_vcoproc("fir", "audio", REQUEST)


def _destroy(rig: Rig) -> bytes:
    return rig.changes.destroy_domain("fir", REQUEST)


def _move(rig: Rig) -> bytes:
    return rig.moves.move("fir", "audio", "ncore-0", REQUEST, seal_vcoproc)


def _crash(rig: Rig) -> bytes:
    return rig.lifecycle.crash("fir", "a bug", REQUEST)


def _shut_down(rig: Rig) -> bytes:
    return rig.lifecycle.shut_down("fir", 0, REQUEST)


def _joined(pieces: Iterator[bytes]) -> bytes:
    with closing(pieces):  # type: ignore[type-var]  # they are generators
        return b"".join(pieces)


def _save(rig: Rig, *, shut_down: bool = False) -> bytes:
    return b"saved" if _joined(rig.saving.save_domain("fir", shut_down=shut_down)) else b""


def _save_vcoproc(rig: Rig) -> bytes:
    return b"saved" if _joined(rig.saving.save_vcoproc("fir", "audio")) else b""


@cache
def archive() -> bytes:
    """Of a domain "fir" that has used what it has."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        rig = Rig(Path(folder))
        running(rig)
        saved = _joined(rig.saving.save_domain("fir", shut_down=False))
        rig.close()
    return saved


def _restore(rig: Rig, *, paused: bool = False) -> bytes:
    with rig.restoring.take_in([archive()]) as upload:
        wishes = Wishes("", paused, {})
        return rig.restoring.restore_domain(upload, wishes, REQUEST, seal_domain)


def _context_saved(rig: Rig) -> None:
    running(rig)
    saved = _joined(rig.saving.save_vcoproc("fir", "audio"))
    (rig.path / "audio.snapshot").write_bytes(saved)
    run_firmware(rig, "later")


def _load(rig: Rig) -> bytes:
    saved = (rig.path / "audio.snapshot").read_bytes()
    with rig.restoring.take_in([saved]) as upload:
        return rig.restoring.restore_vcoproc(upload, ("fir", "audio"), REQUEST, seal_vcoproc)


def _reschedule(rig: Rig) -> bytes:
    wish = Wish("credit", vcoprocs={"domains/fir/vcoprocs/audio": {"weight": 7}})
    return rig.schedule_changes.set_schedule("dsp0", wish, REQUEST, lambda *_: b"set")


def _crowded(rig: Rig) -> None:
    """Two more domains on dsp0, one of them PAUSED and one STOPPED; and npu, which is empty."""
    running(rig)
    rig.create(one_vcoproc("quiet"))
    rig.changes.create_domain(one_vcoproc("off"), "x", NO_REQUEST, seal_domain, stopped=True)
    write_memory(rig)
    run_firmware(rig)
    rig.lifecycle.pause("quiet", NO_REQUEST)
    add(rig, tree("npu"))
    rig.lease("npu")


def _drained(rig: Rig) -> None:
    running(rig)
    drain(rig, "dsp0")


def _removed(rig: Rig) -> None:
    running(rig)
    rig.removals.remove("ncore-1", NO_REQUEST)
    del rig.simulated["ncore-1"]  # its coproc-sim has ended


def _offline(rig: Rig) -> None:
    running(rig)
    rig.unlease("dsp0")
    del rig.simulated["dsp0"]  # it is not started again


def _asked_for(rig: Rig) -> None:
    running(rig)
    rig.ask_for_first_domain("coproc=dsp0,name=a", "coproc=ncore-0,name=b")


def _make_first(rig: Rig) -> bytes:
    if not rig.first_domain.make():
        raise PeerLost("somebody")
    return b"made"


def _remove(rig: Rig, name: str = "dsp0") -> bytes:
    return rig.removals.remove(name, REQUEST, destroy_vcoprocs=True)


RESTART = b"fir ALIVE STOPPED"
"""The answer when a domain waits to be started again."""

OPERATIONS = [
    Operation("create", _nothing, _create),
    Operation("create stopped", _nothing, lambda rig: _create(rig, stopped=True)),
    Operation("start", stopped, lambda rig: rig.lifecycle.start("fir", REQUEST)),
    Operation(
        "start of a crashed one",
        crashed,
        lambda rig: rig.lifecycle.start("fir", REQUEST),
        between="STOPPED",
    ),
    Operation("pause", running, lambda rig: rig.lifecycle.pause("fir", REQUEST)),
    Operation("resume", paused, lambda rig: rig.lifecycle.resume("fir", REQUEST)),
    Operation("rename", running, lambda rig: rig.lifecycle.rename("fir", "sobel", REQUEST)),
    Operation("crash", running, _crash, decided=True),
    Operation("crash, then restart", ending("on_crash", "restart"), _crash, True, also=RESTART),
    Operation("crash, then destroy", ending("on_crash", "destroy"), _crash, True),
    Operation("shut down", running, _shut_down, True),
    Operation("shut down of a paused one", paused, _shut_down, True),
    Operation(
        "shut down, then restart", ending("on_poweroff", "restart"), _shut_down, True, also=RESTART
    ),
    Operation("shut down, then destroy", ending("on_poweroff", "destroy"), _shut_down, True),
    Operation("destroy", running, _destroy, True),
    Operation("destroy of a paused one", paused, _destroy, True),
    Operation("destroy of a stopped one", stopped, _destroy, True),
    Operation("destroy of a crashed one", crashed, _destroy, True),
    Operation("attach", running, _attach),
    Operation("attach to a paused one", paused, _attach),
    Operation("detach", running, _detach, True),
    Operation("move", running, _move),
    Operation("move of a paused one", paused, _move),
    Operation("move of a stopped one", stopped, _move),
    Operation("save a vcoproc", running, _save_vcoproc),
    Operation("load a vcoproc", _context_saved, _load),
    Operation("save", running, _save),
    Operation("save a paused one", paused, _save),
    Operation("save and shut down", running, lambda rig: _save(rig, shut_down=True), once=True),
    Operation("restore", _nothing, _restore),
    Operation("restore paused", _nothing, lambda rig: _restore(rig, paused=True)),
    Operation("schedule", running, _reschedule),
    Operation("add", running, lambda rig: add(rig, tree("npu", "xpu"), request=REQUEST)),
    Operation("add again", _removed, lambda rig: add(rig, TREE, "ncore-1", request=REQUEST)),
    Operation("drain", running, lambda rig: drain(rig, "dsp0", request=REQUEST)),
    Operation("undrain", _drained, lambda rig: rig.coproc_changes.undrain("dsp0", REQUEST, seal)),
    Operation(
        "drain and move", _crowded, lambda rig: drain(rig, "dsp0", move=True, request=REQUEST)
    ),
    Operation("replace", _crowded, lambda rig: replace_with(rig, "dsp0", "npu", REQUEST)),
    Operation("remove", running, lambda rig: _remove(rig, "ncore-1"), True),
    Operation("remove with vcoprocs", _crowded, _remove, True),
    Operation("remove an offline one", _offline, _remove, True),
    Operation("the first domain", _asked_for, _make_first),
]
