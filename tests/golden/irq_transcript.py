"""Plays transcripts of an irq-router core.

Interrupts are numbered 64 and up in every domain. Commands::

    domain d1 [room=16]            control adds the domain, and it connects
    map v11 d1 dsp0 edge level     control maps lines 0, 1, ... of v11 to the domain's next numbers;
                                   edge+pending, level+masked: how they are at first
    move v11 dsp1                  their coproc is another one
    unmap v11 | remove d1 | pause d1 | resume d1
    up d1 [epoch=1] [room=16]      the domain connects; another epoch: another incarnation
    down d1
    room d1 2                      the domain takes two messages more
    edge v11.0 [by=dsp0]           the coproc says: a pulse, a level, all levels, or goes away
    high v11.1 | low v11.1
    sync v11 1 3                   the lines named are high, the others low
    coproc-down dsp0
    eoi d1 64 | mask d1 64 | unmask d1 64
    lines                          state of every line

What follows: each message and order, each line whose state changed, and each count that went up.
"""

from __future__ import annotations

from collections.abc import Callable

from vcoproc.errors import VcoprocError
from vcoproc.wire.messages import Eoi, LineEdge, LineEnable, LineLevel, LineSync
from vcoproc_irq_router.core import IrqRouterCore
from vcoproc_irq_router.events import (
    AddDomain,
    CoprocDown,
    CoprocSaid,
    DomainDown,
    DomainRoom,
    DomainSaid,
    DomainUp,
    DropDomain,
    Effect,
    Event,
    LineView,
    MapLines,
    MappedLine,
    MoveLines,
    PauseDomain,
    RemoveDomain,
    ResumeDomain,
    SendInject,
    SendResample,
    UnmapLines,
)

IRQ_FIRST = 64


def number(text: str) -> int:
    """Of "d1" or "v11"."""
    assert text[0] in "dv", f"not a domain or vcoproc: {text}"
    return int(text[1:])


def place(text: str) -> tuple[int, int]:
    """Of "v11.0"."""
    vcoproc, _, line = text.partition(".")
    return number(vcoproc), int(line)


def show(view: LineView) -> str:
    flags = [
        "level" if view.level else "edge",
        *(["high"] if view.high else []),
        *(["pending"] if view.pending else []),
        *(["active"] if view.active else []),
        *([] if view.enabled else ["masked"]),
    ]
    return f"d{view.domid} irq {view.irq} v{view.vcoproc_id}.{view.line}: {' '.join(flags)}"


def told(effect: Effect) -> str:
    match effect:
        case SendInject(domid, message):
            return f"Inject d{domid} {message.irq}"
        case SendResample(coproc, message):
            return f"Resample {coproc} v{message.vcoproc}.{message.line}"
        case DropDomain(domid):
            return f"Drop d{domid}"


class Transcript:
    def __init__(self) -> None:
        self.core = IrqRouterCore(validate=True)
        self.now_ns = 0
        self.coprocs: dict[int, str] = {}
        self.next_irq: dict[int, int] = {}
        self.seen: dict[tuple[int, int], str] = {}

    def command(self, line: str) -> list[str]:
        verb, *words = line.split()
        options = dict(word.split("=") for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        if verb == "lines":
            return [show(view) for view in self.core.list_lines()]
        out: list[str] = []
        for event in self.events(verb, names, options):
            out += self.step(event)
        return out

    def events(self, verb: str, names: list[str], options: dict[str, str]) -> list[Event]:
        by = options.get("by", "")
        room = int(options.get("room", "16"))
        epoch = int(options.get("epoch", "1"))

        def said(message: LineEdge | LineLevel | LineSync) -> Event:
            return CoprocSaid(by or self.coprocs.get(message.vcoproc, "dsp0"), message)

        make: dict[str, Callable[[], list[Event]]] = {
            "domain": lambda: [
                AddDomain(number(names[0]), names[0].encode() * 8),
                DomainUp(number(names[0]), epoch, room),
            ],
            "map": lambda: [self.mapping(*names)],
            "move": lambda: self.moving(*names),
            "unmap": lambda: [UnmapLines(number(names[0]))],
            "remove": lambda: [RemoveDomain(number(names[0]))],
            "pause": lambda: [PauseDomain(number(names[0]))],
            "resume": lambda: [ResumeDomain(number(names[0]))],
            "up": lambda: [DomainUp(number(names[0]), epoch, room)],
            "down": lambda: [DomainDown(number(names[0]))],
            "room": lambda: [DomainRoom(number(names[0]), int(names[1]))],
            "edge": lambda: [said(LineEdge(*place(names[0]), 1, 0))],
            "high": lambda: [said(LineLevel(*place(names[0]), True, 1, 0))],
            "low": lambda: [said(LineLevel(*place(names[0]), False, 1, 0))],
            "sync": lambda: [
                said(LineSync(number(names[0]), sum(1 << int(bit) for bit in names[1:]), 1))
            ],
            "coproc-down": lambda: [CoprocDown(names[0])],
            "eoi": lambda: [DomainSaid(number(names[0]), Eoi(int(names[1])))],
            "mask": lambda: [DomainSaid(number(names[0]), LineEnable(int(names[1]), False))],
            "unmask": lambda: [DomainSaid(number(names[0]), LineEnable(int(names[1]), True))],
        }
        return make[verb]()

    def mapping(self, vcoproc: str, domain: str, coproc: str, *triggers: str) -> Event:
        first = self.next_irq.get(number(domain), IRQ_FIRST)
        self.next_irq[number(domain)] = first + len(triggers)
        self.coprocs[number(vcoproc)] = coproc
        lines = []
        for line, (trigger, *states) in enumerate(each.split("+") for each in triggers):
            assert trigger in ("edge", "level") and set(states) <= {"pending", "masked"}
            lines.append(
                MappedLine(
                    line, first + line, trigger == "level", "pending" in states, "masked" in states
                )
            )
        return MapLines(number(domain), number(vcoproc), coproc, tuple(lines))

    def moving(self, vcoproc: str, coproc: str) -> list[Event]:
        self.coprocs[number(vcoproc)] = coproc
        return [MoveLines(number(vcoproc), coproc)]

    def step(self, event: Event) -> list[str]:
        before = self.counts()
        self.now_ns += 1
        try:
            effects = self.core.step(event, self.now_ns)
        except VcoprocError as error:
            return [f"refused: {error.reason}: {error}"]
        out = [told(effect) for effect in effects]
        now = {(view.domid, view.irq): show(view) for view in self.core.list_lines()}
        out += [text for key, text in now.items() if self.seen.get(key) != text]
        self.seen = now
        out += [f"counted: {what}" for what, count in self.counts().items() if count > before[what]]
        return out

    def counts(self) -> dict[str, int]:
        return {
            "refused": self.core.refused_count,
            "guest error": self.core.guest_error_count,
            "merged": sum(view.merged_count for view in self.core.list_lines()),
        }
