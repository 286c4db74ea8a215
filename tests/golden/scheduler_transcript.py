"""Plays transcripts of one scheduler core.

Commands; a time is a number with ns, us, ms or s, and is of the coproc's clock, which begins at 0
with the transcript::

    algorithm rr slice=5ms [keep] [name=value]
                                   control sets the coproc
    add v1 [name=value]            control adds a vcoproc
    set v1 name=value              control changes some of its parameters
    remove v1
    online | offline               the coproc's link
    register [current=v1] v1:runnable v2:asleep v3:faulted
    advance 5ms
    wake v1 [resumed]              messages of the coproc, stamped with the present time
    sleep v1
    fault v1
    drop g2 v2 [WHY] [in-refused=1ms]
                                   in-refused: for how long until now v2 was not taken in
    report v1->v2 g2 [end=SLICE] [idle] [refused=1ms] [save=20us] [restore=20us] [in-refused=1ms]
                                   the turn ended at the present time; v0 is nobody; idle: the one
                                   that left no longer wants to run
    tick                           the scheduler's deadline has come
    accounts                       where the time went
    decisions                      what was decided since the last time, and why
"""

from __future__ import annotations

import re

from vcoproc.errors import VcoprocError
from vcoproc.limits import MS, SWITCH_DEADLINE_NS, US, S
from vcoproc.wire.messages import (
    EndReason,
    Faulted,
    Grant,
    GrantDropped,
    Register,
    Report,
    Revoke,
    Sleep,
    Vacate,
    Wake,
)
from vcoproc_scheduler.accounting import AccountView, TurnEnded
from vcoproc_scheduler.core import CoprocSchedulerCore
from vcoproc_scheduler.events import (
    AddVcoproc,
    CoprocOffline,
    CoprocOnline,
    Effect,
    Event,
    FellBack,
    ParametersLost,
    RemoveVcoproc,
    SetAlgorithm,
    SetVcoprocParameters,
    Tick,
)
from vcoproc_scheduler.policies.loader import load_catalogue

UNITS = {"ns": 1, "us": US, "ms": MS, "s": S}


def duration_ns(text: str) -> int:
    match = re.fullmatch(r"(\d+)(ns|us|ms|s)", text)
    assert match, f"not a time: {text}"
    return int(match[1]) * UNITS[match[2]]


def show_ns(value_ns: int) -> str:
    assert value_ns % US == 0
    return f"{value_ns // US}us"


def number(text: str) -> int:
    """Of "v5" or "g5"."""
    assert re.fullmatch(r"[vg]\d+", text), f"not a vcoproc or grant: {text}"
    return int(text[1:])


class Transcript:
    """One core and its clock."""

    def __init__(self) -> None:
        self.core = CoprocSchedulerCore("dsp0", load_catalogue(()), validate=True)
        self.now_ns = 0
        self.states: dict[int, str] = {}
        self.read_number = 0

    def command(self, line: str) -> list[str]:
        verb, *words = line.split()
        flags = [word for word in words if "=" not in word]
        values = dict(word.split("=") for word in words if "=" in word)
        if verb == "advance":
            self.now_ns += duration_ns(flags[0])
            return []
        if verb == "accounts":
            return self._accounts()
        if verb == "decisions":
            return self._decisions()
        event = self._event(verb, flags, values)
        try:
            effects = self.core.step(event, self.now_ns)
        except VcoprocError as error:
            return [f"{self._time()}refused: {error}"]
        return [f"{self._time()}{text}" for text in [*self._changes(), *map(self._effect, effects)]]

    def _time(self) -> str:
        return f"{show_ns(self.now_ns):<9}"

    def _event(self, verb: str, flags: list[str], values: dict[str, str]) -> Event:
        now_ns = self.now_ns
        match verb:
            case "algorithm":
                slice_ns = duration_ns(values.pop("slice"))
                parameters = {k: int(v) for k, v in values.items()}
                keep = "keep" in flags
                return SetAlgorithm(flags[0], slice_ns, SWITCH_DEADLINE_NS, parameters, keep=keep)
            case "set":
                return SetVcoprocParameters(
                    number(flags[0]), {k: int(v) for k, v in values.items()}
                )
            case "tick":
                return Tick()
            case "add":
                return AddVcoproc(number(flags[0]), {k: int(v) for k, v in values.items()})
            case "remove":
                return RemoveVcoproc(number(flags[0]))
            case "online":
                return CoprocOnline()
            case "offline":
                return CoprocOffline()
            case "register":
                listed = [word.split(":") for word in flags]
                return Register(
                    "dsp0",
                    now_ns,
                    number(values.get("current", "v0")),
                    tuple((number(v), how == "runnable", how == "faulted") for v, how in listed),
                )
            case "wake":
                return Wake(number(flags[0]), now_ns, "resumed" in flags)
            case "sleep":
                return Sleep(number(flags[0]), now_ns)
            case "fault":
                return Faulted(number(flags[0]), 1, 0, "test", now_ns)
            case "drop":
                why = flags[2] if len(flags) > 2 else "NOT_RUNNABLE"
                refused_ns = duration_ns(values.get("in-refused", "0us"))
                return GrantDropped(
                    number(flags[0]), number(flags[1]), why, now_ns, refused_ns, int(refused_ns > 0)
                )
            case "report":
                return self._report(flags, values)
        raise AssertionError(f"no such command: {verb}")

    def _report(self, flags: list[str], values: dict[str, str]) -> Report:
        old, new = (number(word) for word in flags[0].split("->"))
        phases = {
            name: duration_ns(values.get(name, "0us")) for name in ("refused", "save", "restore")
        }
        in_refused_ns = duration_ns(values.get("in-refused", "0us"))
        return Report(
            grant=0,
            vcoproc=old,
            next_grant=number(flags[1]) if len(flags) > 1 and flags[1] != "idle" else 0,
            next_vcoproc=new,
            end=EndReason[values.get("end", "SLICE")],
            runnable=bool(old) and "idle" not in flags,
            planned_ns=5 * MS,
            ran_ns=0,
            refused_ns=phases["refused"],
            refusals=1 if phases["refused"] else 0,
            forced=False,
            instructions=0,
            save_ns=phases["save"],
            mmu_ns=0,
            restore_ns=phases["restore"],
            ended_ns=self.now_ns,
            next_began_ns=self.now_ns + sum(phases.values()) if new else 0,
            switch_in_refused_ns=in_refused_ns,
            switch_in_refusals=1 if in_refused_ns else 0,
        )

    def _changes(self) -> list[str]:
        """States that changed, also of vcoprocs that control has not added (in parentheses)."""
        added = {each.vcoproc for each in self.core.view(self.now_ns).vcoprocs}
        states = {}
        for vcoproc in range(1, 20):
            state = self.core.run_state(vcoproc)
            if state is not None:
                states[vcoproc] = state.value if vcoproc in added else f"({state.value})"
        old, self.states = self.states, states
        return [
            f"v{vcoproc} {old.get(vcoproc, 'unknown')}->{states.get(vcoproc, 'unknown')}"
            for vcoproc in sorted(old.keys() | states.keys())
            if old.get(vcoproc) != states.get(vcoproc)
        ]

    def _effect(self, effect: Effect) -> str:
        if isinstance(effect, Grant):
            when = "now" if effect.now else "next"
            text = f"Grant g{effect.grant} v{effect.vcoproc} {show_ns(effect.slice_ns)} {when}"
            bounds = {"from": effect.not_before_ns, "until": effect.until_ns}
            return text + "".join(f" {name} {show_ns(ns)}" for name, ns in bounds.items() if ns)
        if isinstance(effect, Vacate):
            return f"Vacate g{effect.grant} {'now' if effect.now else 'next'}"
        if isinstance(effect, Revoke):
            return f"Revoke g{effect.grant}"
        if isinstance(effect, FellBack):
            return f"FellBack {effect.algorithm}: {effect.why}"
        if isinstance(effect, ParametersLost):
            lost = (f"v{each.vcoproc} {each.name}={each.value}" for each in effect.lost)
            return f"ParametersLost {', '.join(lost)}"
        assert isinstance(effect, TurnEnded)
        span = f"{show_ns(effect.began_ns)}..{show_ns(effect.ended_ns)}"
        return f"TurnEnded v{effect.vcoproc} {span} {EndReason(effect.end).name}"

    def _accounts(self) -> list[str]:
        lines = []
        for each in self.core.view(self.now_ns).vcoprocs:
            account = each.account
            times = {
                "run": account.run_ns,
                "wait": account.wait_ns,
                "switch": account.switch_ns,
                "refused": account.refused_ns,
                "sleep": account.sleep_ns,
                "fault": account.fault_ns,
            }
            text = " ".join(f"{name}={show_ns(value)}" for name, value in times.items() if value)
            over = show_ns(account.overtime_ns)
            lines.append(
                f"{self._time()}v{each.vcoproc} {text} overtime={over} "
                f"wakes={account.wakes} switches={account.switches}{_refusals(account)}"
            )
        return lines

    def _decisions(self) -> list[str]:
        found = self.core.decisions.after(self.read_number)
        self.read_number = self.core.decisions.last_number
        return [
            f"{show_ns(each.clock_ns):<9}#{each.number} {each.algorithm} {each.why.value} "
            f"v{each.vcoproc} (v{each.current} has it)"
            for each in found
        ]


def _refusals(account: AccountView) -> str:
    """Of those to leave and those at switch-in, if there were any: how many, and how long."""
    text = ""
    for name, figures in (("out", account.refusals), ("in", account.switch_in_refusals)):
        if figures.count:
            text += f" {name}={figures.count}:{show_ns(figures.total_ns)}"
            text += f" (gave up {figures.given_up_count})" if figures.given_up_count else ""
    return text
