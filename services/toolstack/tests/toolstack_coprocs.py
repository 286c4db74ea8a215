"""Trees whose coprocs are added to the rig's, and short ways to ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from toolstack_rig import CORTEX_M4, NO_REQUEST, Rig

from vcoproc.config import parse_system
from vcoproc_toolstack.coproc_changes import Addition
from vcoproc_toolstack.coproc_set import CoprocSet
from vcoproc_toolstack.store import View
from vcoproc_toolstack.turns import Request


def tree(*names: str, entry: str = "", base: int = 0xE000_0000, type: str = CORTEX_M4) -> str:
    """A system tree that shares coprocs of these names. entry: properties of each under /chosen."""
    entries = "".join(f"{name} {{ coproc = <&{name}>; {entry} }};\n" for name in names)
    nodes = "".join(
        f'{name}: core@{at:x} {{ compatible = "{type}"; xen,coproc;\n'
        f'  reg = <{at:#x} 0x1000>, <{at + 0x1000:#x} 0x1000>; reg-names = "ctrl", "mbox";\n'
        f'  interrupts = <64>, <65>, <66>; interrupt-names = "irq", "event", "fault"; }};\n'
        for at, name in enumerate_from(base, names)
    )
    return (
        "/dts-v1/;\n/ { #address-cells = <1>; #size-cells = <1>;\n"
        f'chosen {{ shared {{ compatible = "vcoproc,shared-coprocs";\n{entries} }}; }};\n'
        f"added {{ #address-cells = <1>; #size-cells = <1>; ranges;\n{nodes} }}; }};\n"
    )


def enumerate_from(base: int, names: Sequence[str]) -> list[tuple[int, str]]:
    """Each name with an address of its own."""
    return [(base + place * 0x10_0000, name) for place, name in enumerate(names)]


def addition(text: str, *names: str) -> Addition:
    return Addition(parse_system(text, "added.dts"), names)


def seal(view: View, coprocs: CoprocSet, names: Sequence[str]) -> bytes:
    """Names, each with its count of vcoprocs, "d" when it is draining and "a" when it was added."""
    counts = view.counts()
    words = [
        f"{name}:{counts.get(name, 0)}{'d' * coprocs.draining(name)}{'a' * coprocs.added(name)}"
        for name in names
    ]
    return " ".join(words).encode()


def add(rig: Rig, text: str, *names: str, request: Request = NO_REQUEST) -> bytes:
    return rig.coproc_changes.add(addition(text, *names), request, seal)


def drain(rig: Rig, name: str, *, move: bool = False, request: Request = NO_REQUEST) -> bytes:
    return rig.coproc_changes.drain(name, request, seal, move=move)


def replace_with(rig: Rig, name: str, replacement: str, request: Request = NO_REQUEST) -> bytes:
    return rig.coproc_changes.replace(name, replacement, request, seal)
