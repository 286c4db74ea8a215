"""Plays transcripts of one executor on the fake platform of `vcoproc_sim.testing`.

An instruction takes 10 ns, a save 3 us, the tables 0.2 us, a restore 2 us; a burst has 20,000
instructions. Times are from the transcript's beginning. A time is a number with us or ms::

    attach v1 v2                   creates them, out of reset
    detach v1 [deadline=1ms]
    pause v1 [deadline=1ms] | resume v1
    save v1 [moving] | restore v1  the paused one is written down; made what was written down last
    hog v1 v2                      firmware that computes for ever
    run v1 compute=50us yield timer=1ms raise pulse fault forever
                                   firmware that does this, one after the other
    ring v1 [length=100us]         the driver's doorbell: a job
    read v1 NAME | write v1 NAME=5 | post v1 NAME=5
    grant v1 [slice=1ms] [now] [refusal=1ms] [after=1ms] [until=2ms]
    vacate [now] [refusal=1ms]     the current one shall leave for nobody
    revoke g1
    refuse leave 10us 20us         the hardware's next answers; also: enter, and fail for dead
    advance 1ms                    lets time pass
    register                       the scheduler is back
    state                          who is on the hardware, and how
"""

from __future__ import annotations

import re

from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    GrantDropped,
    LineEdge,
    LineLevel,
    LineSync,
    Message,
    Reply,
    Report,
    Sleep,
    TrapError,
    Wake,
)
from vcoproc_sim.departures import PauseEnd
from vcoproc_sim.platforms.api import Busy, Failed, SwitchResult
from vcoproc_sim.testing.core_rig import CoreRig
from vcoproc_sim.testing.fake_platform import (
    UNIT,
    Compute,
    Crash,
    Forever,
    Op,
    Pulse,
    Raise,
    Timer,
    Yield,
    job,
)

UNITS = {"us": US, "ms": MS}
INSTRUCTION_NS = 10


def duration_ns(text: str) -> int:
    match = re.fullmatch(r"(\d+)(us|ms)", text)
    assert match, f"not a time: {text}"
    return int(match[1]) * UNITS[match[2]]


def show_ns(value_ns: int) -> str:
    """In microseconds, with a fraction only if there is one."""
    return f"{value_ns / US:.2f}".rstrip("0").rstrip(".") + "us"


def number(text: str) -> int:
    """Of "v5" or "g5"."""
    assert re.fullmatch(r"[vg]\d+", text), f"not a vcoproc or grant: {text}"
    return int(text[1:])


class Transcript:
    """One executor and its clock."""

    def __init__(self) -> None:
        self.rig = CoreRig()
        self.began_ns = self.rig.clock.now_ns
        self.gone: list[str] = []
        self.kept = b""

    def command(self, line: str) -> list[str]:
        verb, *words = line.split()
        if verb == "run":
            self._program(number(words[0]), _operations(words[1:]))
            return self._happened()
        flags = [word for word in words if "=" not in word]
        values = dict(word.split("=") for word in words if "=" in word)
        said = getattr(self, f"_{verb}")(flags, values) or []
        return [*said, *self._happened()]

    # --- commands ---------------------------------------------------------------------------------

    def _attach(self, flags: list[str], _values: dict[str, str]) -> None:
        self.rig.attach(*map(number, flags))
        self.rig.replies.clear()

    def _detach(self, flags: list[str], values: dict[str, str]) -> None:
        def done(forced: bool) -> None:
            self.gone.append(f"{flags[0]} is gone{', by force' if forced else ''}")

        deadline_ns = duration_ns(values.get("deadline", "10ms"))
        self.rig.executor.detach(number(flags[0]), deadline_ns, done)
        self.rig.collect()

    def _pause(self, flags: list[str], values: dict[str, str]) -> None:
        def done(end: PauseEnd) -> None:
            how = {PauseEnd.FORCED: ", by force", PauseEnd.RESUMED: " no more"}
            self.gone.append(f"{flags[0]} is paused{how.get(end, '')}")

        deadline_ns = duration_ns(values.get("deadline", "10ms"))
        self.rig.executor.pause(number(flags[0]), deadline_ns, done)
        self.rig.collect()

    def _resume(self, flags: list[str], _values: dict[str, str]) -> None:
        self.rig.resume(number(flags[0]))

    def _save(self, flags: list[str], _values: dict[str, str]) -> None:
        self.kept = self.rig.save(number(flags[0]), moving="moving" in flags)

    def _restore(self, flags: list[str], _values: dict[str, str]) -> None:
        self.rig.restore(number(flags[0]), self.kept)

    def _hog(self, flags: list[str], _values: dict[str, str]) -> None:
        for flag in flags:
            self._program(number(flag), [Forever()])

    def _program(self, vcoproc_id: int, ops: list[Op]) -> None:
        self.rig.program(vcoproc_id, *ops)
        self.rig.replies.pop()

    def _ring(self, flags: list[str], values: dict[str, str]) -> None:
        length_ns = duration_ns(values.get("length", "64us"))
        value = job(length_ns // INSTRUCTION_NS // UNIT)
        self.rig.post(number(flags[0]), "DOORBELL", value)

    def _read(self, flags: list[str], _values: dict[str, str]) -> list[str]:
        answer = self.rig.read(number(flags[0]), flags[1])
        return ["it waits"] if answer is None else []

    def _write(self, flags: list[str], values: dict[str, str]) -> None:
        for name, value in values.items():
            self.rig.write(number(flags[0]), name, int(value, 0))

    def _post(self, flags: list[str], values: dict[str, str]) -> None:
        for name, value in values.items():
            self.rig.post(number(flags[0]), name, int(value, 0))

    def _grant(self, flags: list[str], values: dict[str, str]) -> None:
        refusal_ns = SWITCH_DEADLINE_NS
        if "refusal" in values:
            refusal_ns = duration_ns(values["refusal"])
        slice_ns = duration_ns(values.get("slice", "1ms"))
        not_before_ns, until_ns = (
            self.began_ns + duration_ns(values[name]) if name in values else 0
            for name in ("after", "until")
        )
        self.rig.grant(
            number(flags[0]),
            slice_ns,
            now="now" in flags,
            refusal_ns=refusal_ns,
            not_before_ns=not_before_ns,
            until_ns=until_ns,
        )

    def _vacate(self, flags: list[str], values: dict[str, str]) -> None:
        refusal_ns = duration_ns(values.get("refusal", "500ms"))
        self.rig.vacate(now="now" in flags, refusal_ns=refusal_ns)

    def _revoke(self, flags: list[str], _values: dict[str, str]) -> None:
        self.rig.revoke(number(flags[0]))

    def _refuse(self, flags: list[str], _values: dict[str, str]) -> None:
        where, *answers = flags
        script = getattr(self.rig.platform, f"{where}_script")
        for answer in answers:
            result: SwitchResult = Failed("dead")
            if answer != "fail":
                result = Busy(duration_ns(answer))
            script.append(result)

    def _advance(self, flags: list[str], _values: dict[str, str]) -> None:
        self.rig.run(duration_ns(flags[0]))

    def _register(self, _flags: list[str], _values: dict[str, str]) -> list[str]:
        register = self.rig.executor.register_message()
        self.rig.collect()
        states = [
            f"v{vcoproc}:{'faulted' if faulted else 'runnable' if runnable else 'asleep'}"
            for vcoproc, runnable, faulted in register.vcoprocs
        ]
        said = " ".join([f"Register current=v{register.current}", *states])
        return [self._time(register.clock_ns) + said]

    def _state(self, _flags: list[str], _values: dict[str, str]) -> list[str]:
        turn = self.rig.executor.turn
        who = "" if turn is None else f" v{turn.vcoproc.id} {'idle' if turn.idle else 'running'}"
        return [f"{self._time(self.rig.clock.now_ns)}{self.rig.executor.phase.value}{who}"]

    # --- what happened ----------------------------------------------------------------------------

    def _time(self, clock_ns: int) -> str:
        return f"{show_ns(clock_ns - self.began_ns):<10} "

    def _happened(self) -> list[str]:
        rig = self.rig
        lines = [self._show(message) for message in rig.to_scheduler]
        lines += [self._show(message) for message in rig.to_router]
        lines += [self._show_answer(message) for _origin, message in rig.replies]
        lines += [f"fault of v{fault.vcoproc_id}: {fault.why}" for fault in rig.faults]
        lines += self.gone
        for said in (rig.to_scheduler, rig.to_router, rig.replies, rig.faults, self.gone):
            said.clear()  # type: ignore[attr-defined]
        return lines

    def _show(self, message: Message) -> str:
        match message:
            case Wake(vcoproc, clock_ns, resumed):
                return f"{self._time(clock_ns)}Wake v{vcoproc}{' resumed' if resumed else ''}"
            case Sleep(vcoproc, clock_ns):
                return f"{self._time(clock_ns)}Sleep v{vcoproc}"
            case GrantDropped(grant, vcoproc, why, clock_ns, refused_ns, refusals):
                text = f"{self._time(clock_ns)}GrantDropped g{grant} v{vcoproc} {why}"
                refused = f" in-refused={show_ns(refused_ns)} in-refusals={refusals}"
                return text + (refused if refusals else "")
            case Faulted(vcoproc, code, _address, _why, clock_ns):
                return f"{self._time(clock_ns)}Faulted v{vcoproc} code={code}"
            case LineLevel(vcoproc, line, high, epoch, clock_ns):
                level = "high" if high else "low"
                return f"{self._time(clock_ns)}LineLevel v{vcoproc}.{line} {level} epoch={epoch}"
            case LineEdge(vcoproc, line, epoch, clock_ns):
                return f"{self._time(clock_ns)}LineEdge v{vcoproc}.{line} epoch={epoch}"
            case LineSync(vcoproc, high_mask, epoch):
                return f"{'':<11}LineSync v{vcoproc} {high_mask:03b} epoch={epoch}"
            case Report():
                return self._show_report(message)
        raise AssertionError(message)

    def _show_report(self, report: Report) -> str:
        words = [f"Report v{report.vcoproc}->v{report.next_vcoproc}"]
        if report.vcoproc:
            words += [
                f"g{report.grant} {EndReason(report.end).name}",
                "runnable" if report.runnable else "asleep",
                f"ran={show_ns(report.ran_ns)}",
            ]
        for name in ("refused", "save", "mmu", "restore"):
            value_ns = getattr(report, f"{name}_ns")
            if value_ns:
                words.append(f"{name}={show_ns(value_ns)}")
        if report.refusals:
            words.append(f"refusals={report.refusals}")
        if report.switch_in_refusals:
            words.append(f"in-refused={show_ns(report.switch_in_refused_ns)}")
            words.append(f"in-refusals={report.switch_in_refusals}")
        if report.forced:
            words.append("FORCED")
        if report.next_vcoproc:
            words.append(f"g{report.next_grant} began={self._time(report.next_began_ns).strip()}")
        elif report.next_grant:
            words.append(f"as g{report.next_grant} ordered")
        return self._time(report.ended_ns) + " ".join(words)

    def _show_answer(self, message: Message) -> str:
        if isinstance(message, TrapError):
            return f"TrapError {message.error}"
        assert isinstance(message, Reply)
        return " ".join(["Reply", *(f"{value:#x}" for value in message.values)])


def _operations(words: list[str]) -> list[Op]:
    ops: list[Op] = []
    for word in words:
        name, _, value = word.partition("=")
        match name:
            case "compute":
                ops.append(Compute(duration_ns(value) // INSTRUCTION_NS))
            case "timer":
                ops.append(Timer(duration_ns(value)))
            case "raise":
                ops.append(Raise(1))
            case "pulse":
                ops.append(Pulse())
            case "yield":
                ops.append(Yield())
            case "fault":
                ops.append(Crash())
            case "forever":
                ops.append(Forever())
            case _:
                raise AssertionError(f"no such operation: {word}")
    return ops
