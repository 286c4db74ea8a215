"""A domain file: an xl.cfg(5) file with the keys `coproc` and `vcoproc`.

Format: docs/configuration.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vcoproc import limits
from vcoproc.config.files import read_source
from vcoproc.config.problems import (
    Problems,
    decode_source,
    did_you_mean,
    name_problem,
    parameter_name,
    parse_number,
    shorten,
)
from vcoproc.config.records import DomainConfig, Origin, VcoprocConfig
from vcoproc.config.xlcfg import XlList, XlNumber, XlSetting, XlString, XlValue, parse_settings
from vcoproc.config.xlkeys import XL_KEYS

_ENDS: Final = {"on_poweroff": "preserve", "on_reboot": "restart", "on_crash": "preserve"}
"""Keys for the ways in which a domain ends, with what follows when the file does not say."""
_KNOWN_KEYS: Final = ("name", "memory", "coproc", "vcoproc", *_ENDS)
_ALL_KEYS: Final = frozenset({*_KNOWN_KEYS, *XL_KEYS})
_ACTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "destroy": ("destroy", ""),
    "restart": ("restart", ""),
    "rename-restart": ("restart", "the old domain is not kept under another name"),
    "preserve": ("preserve", ""),
    "coredump-destroy": ("destroy", "no core dump is written"),
    "coredump-restart": ("restart", "no core dump is written"),
    "soft-reset": ("restart", "the domain is restarted with new memory"),
}
"""What xl.cfg(5) has for these keys: what is done here, and how that differs."""


def read_domain_file(path: str | Path) -> DomainConfig:
    """Reads a domain file.

    Raises:
        NotFound: there is no such file.
        InvalidConfig: it cannot be read, or something in it is wrong.
    """
    return parse_domain(read_source(path), str(path))


def parse_domain(source: str | bytes, file_name: str) -> DomainConfig:
    """Reads the text of a domain file. `file_name` is for messages only.

    Raises:
        InvalidConfig: carries everything that is wrong.
    """
    problems = Problems(file_name)
    domain = checked_domain(source, file_name, problems)
    problems.raise_if_any()
    return domain


def checked_domain(source: str | bytes, file_name: str, problems: Problems) -> DomainConfig:
    """The same, but notes what is wrong, and gives what could be read: references to coprocs that
    are not understood are empty.

    Raises:
        InvalidConfig: it is too large, or no text.
    """
    settings = parse_settings(decode_source(source, file_name), problems)
    known = _known(settings, problems)
    warnings = _warnings(settings)
    name = _name(known.get("name"), problems)
    memory_bytes = _memory_bytes(known.get("memory"), problems)
    specs = [
        *(_old_spec(item) for item in _items(known.get("coproc"), problems)),
        *(_spec(item, problems) for item in _items(known.get("vcoproc"), problems)),
    ]
    if len(specs) > limits.VCOPROCS_PER_DOMAIN_MAX:
        why = f"{len(specs)} are too many, at most {limits.VCOPROCS_PER_DOMAIN_MAX}"
        problems.add(specs[-1].line, "vcoproc", why)
        specs = specs[: limits.VCOPROCS_PER_DOMAIN_MAX]
    _name_all(specs, problems)
    _check_places(specs, memory_bytes, problems)
    actions = {key: _action(key, known.get(key), problems, warnings) for key in _ENDS}
    return DomainConfig(
        file_name=file_name,
        name=name,
        memory_bytes=memory_bytes,
        vcoprocs=tuple(spec.freeze() for spec in specs),
        unknown_keys=tuple((s.key, s.line) for s in settings if s.key not in _KNOWN_KEYS),
        on_poweroff=actions["on_poweroff"],
        on_reboot=actions["on_reboot"],
        on_crash=actions["on_crash"],
        warnings=tuple(sorted(warnings)),
        origins=tuple(Origin(key, file_name, setting.line) for key, setting in known.items()),
    )


@dataclass(slots=True)
class _Spec:
    """A vcoproc while it is being read."""

    line: int
    coproc: str = ""
    name: str = ""
    params: dict[str, int] = field(default_factory=dict)
    irq_base: int | None = None
    irqs: dict[str, int] = field(default_factory=dict)
    addr_base: int | None = None
    addrs: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"vcoproc {self.name}" if self.name else "vcoproc"

    def freeze(self) -> VcoprocConfig:
        return VcoprocConfig(
            coproc=self.coproc,
            name=self.name,
            params=tuple(sorted(self.params.items())),
            irq_base=self.irq_base,
            irqs=tuple(self.irqs.items()),
            addr_base=self.addr_base,
            addrs=tuple(self.addrs.items()),
            line=self.line,
        )


def _known(settings: tuple[XlSetting, ...], problems: Problems) -> dict[str, XlSetting]:
    known: dict[str, XlSetting] = {}
    for setting in settings:
        if setting.key in _KNOWN_KEYS:
            first = known.setdefault(setting.key, setting)
            if first is not setting:
                why = f"is given twice, first on line {first.line}"
                problems.add(setting.line, setting.key, why)
    return known


def _warnings(settings: tuple[XlSetting, ...]) -> list[tuple[int, str, str]]:
    """Keys that Xen does not have either: perhaps typing mistakes, no more than are listed."""
    unknown = [setting for setting in settings if setting.key not in _ALL_KEYS]
    return [
        (s.line, s.key, f"is no key of xl.cfg(5){did_you_mean(s.key, sorted(_ALL_KEYS))}")
        for s in unknown[: limits.CONFIG_PROBLEMS_MAX]
    ]


def _name(setting: XlSetting | None, problems: Problems) -> str:
    if setting is None:
        problems.add(0, "name", 'is missing, as in name = "audio"')
        return ""
    value = setting.value
    if isinstance(value, XlString):
        if why := name_problem(value.text):
            problems.add(setting.line, "name", why)
        return value.text
    if value is not None:
        problems.add(setting.line, "name", "must be a string in quotes")
    return ""


def _memory_bytes(setting: XlSetting | None, problems: Problems) -> int:
    default = limits.DOMAIN_MEMORY_BYTES_DEFAULT
    if setting is None or setting.value is None:
        return default
    number = _number_of(setting.value)
    low = max(1, limits.DOMAIN_MEMORY_BYTES_MIN // limits.MIB)
    high = limits.DOMAIN_MEMORY_BYTES_MAX // limits.MIB
    if number is None:
        problems.add(setting.line, "memory", "must be a number of MiB")
    elif not low <= number <= high:
        problems.add(setting.line, "memory", f"{number} is not between {low} and {high} MiB")
    else:
        return number * limits.MIB
    return default


def _action(
    key: str,
    setting: XlSetting | None,
    problems: Problems,
    warnings: list[tuple[int, str, str]],
) -> str:
    """What follows when a domain ends in one way."""
    if setting is None or setting.value is None:
        return _ENDS[key]
    text = setting.value.text if isinstance(setting.value, XlString) else ""
    if text not in _ACTIONS:
        why = f"must be one of {', '.join(_ACTIONS)}"
        problems.add(setting.line, key, why, near=(text, _ACTIONS))
        return _ENDS[key]
    action, difference = _ACTIONS[text]
    if difference:
        warnings.append((setting.line, key, f"{text!r} is taken as {action!r}: {difference}"))
    return action


def _number_of(value: XlValue) -> int | None:
    """A number, or one in quotes: xl takes both where it wants a number."""
    if isinstance(value, XlNumber):
        return value.value
    return parse_number(value.text) if isinstance(value, XlString) else None


def _items(setting: XlSetting | None, problems: Problems) -> list[XlString]:
    """The strings of a list."""
    if setting is None or setting.value is None:
        return []
    if not isinstance(setting.value, XlList):
        problems.add(setting.line, setting.key, f'must be a list, as in {setting.key} = ["..."]')
        return []
    items = []
    for value in setting.value.values:
        if isinstance(value, XlString):
            items.append(value)
        else:
            problems.add(value.line, setting.key, "must be a list of strings in quotes")
    return items


def _old_spec(item: XlString) -> _Spec:
    """An item of `coproc`: nothing but the reference, as Xen's implementation read it."""
    return _Spec(line=item.line, coproc=item.text.strip())


def _spec(item: XlString, problems: Problems) -> _Spec:
    """An item of `vcoproc`: key=value pairs separated by commas."""
    spec = _Spec(line=item.line)
    seen: set[str] = set()
    for pair in item.text.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            problems.add(spec.line, "vcoproc", f"{shorten(pair.strip())} is not key=value")
        elif key in seen:
            problems.add(spec.line, "vcoproc", f"{shorten(key)} is given twice")
        else:
            seen.add(key)
            _assign(spec, key, value, problems)
    return spec


def _assign(spec: _Spec, key: str, value: str, problems: Problems) -> None:
    if key == "coproc":
        spec.coproc = value
        return
    if key == "name":
        spec.name = value
        return
    sign = -1 if value.startswith("-") else 1
    number = parse_number(value.removeprefix("-"))
    if number is None or number >= 2**63:
        problems.add(spec.line, "vcoproc", f"{shorten(key)} must be a number: {shorten(value)}")
        return
    number *= sign
    what, dot, part = key.partition(".")
    if what == "irq":
        _assign_irq(spec, part if dot else None, number, problems)
    elif what == "addr":
        _assign_addr(spec, part if dot else None, number, problems)
    elif (name := parameter_name(key)) is None:
        problems.add(spec.line, "vcoproc", f"{shorten(key)} is no name of a parameter")
    elif name in spec.params:
        problems.add(spec.line, "vcoproc", f"parameter {name} is given twice")
    else:
        spec.params[name] = number


def _assign_irq(spec: _Spec, part: str | None, number: int, problems: Problems) -> None:
    low, high = limits.GUEST_IRQ_MIN, limits.GUEST_IRQ_MAX
    if not low <= number <= high:
        problems.add(spec.line, "vcoproc", f"irq {number} is not between {low} and {high}")
    elif part is None:
        spec.irq_base = number
    else:
        spec.irqs[part] = number


def _assign_addr(spec: _Spec, part: str | None, number: int, problems: Problems) -> None:
    if not 0 <= number <= limits.GUEST_IPA_MAX:
        why = f"addr {number:#x} is not between 0 and {limits.GUEST_IPA_MAX:#x}"
        problems.add(spec.line, "vcoproc", why)
    elif number % limits.PAGE_BYTES:
        why = f"addr {number:#x} is not a multiple of {limits.PAGE_BYTES}"
        problems.add(spec.line, "vcoproc", why)
    elif part is None:
        spec.addr_base = number
    else:
        spec.addrs[part] = number


def _name_all(specs: list[_Spec], problems: Problems) -> None:
    """Checks the names that are given and makes up the others from the reference."""
    taken: dict[str, _Spec] = {}
    for spec in specs:
        if not spec.coproc:
            problems.add(spec.line, spec.title, "does not say which coproc, as in coproc=dsp0")
        if not spec.name:
            continue
        if why := name_problem(spec.name):
            problems.add(spec.line, "vcoproc", f"the name {why}")
        first = taken.setdefault(spec.name, spec)
        if first is not spec:
            why = f"the name {shorten(spec.name)} is used twice, first on line {first.line}"
            problems.add(spec.line, "vcoproc", why)
    for spec in specs:
        if spec.name or not spec.coproc:
            continue
        # "/soc/dsp@f0000000" makes "dsp"; a second one is "dsp-1".
        stem = spec.coproc.rpartition("/")[2].partition("@")[0]
        if name_problem(stem):
            why = f"{shorten(spec.coproc)} is no identifier, path or alias of a coproc"
            problems.add(spec.line, "vcoproc", why)
            continue
        stem = stem[: limits.NAME_BYTES_MAX - 3]
        names = (f"{stem}-{number}" if number else stem for number in range(len(specs) + 1))
        spec.name = next(name for name in names if name not in taken)
        taken[spec.name] = spec


def _check_places(specs: list[_Spec], memory_bytes: int, problems: Problems) -> None:
    """What can be said of places without knowing the ranges; `assign_addresses` checks the rest."""
    irqs: dict[int, _Spec] = {}
    addrs: dict[int, _Spec] = {}
    ram_end = limits.GUEST_RAM_BASE_IPA + memory_bytes
    for spec in specs:
        for irq in _sure(spec.irq_base, spec.irqs):
            if (other := irqs.setdefault(irq, spec)) is not spec:
                why = f"irq {irq} is that of {other.title} on line {other.line}"
                problems.add(spec.line, spec.title, why)
        for addr in _sure(spec.addr_base, spec.addrs):
            if (other := addrs.setdefault(addr, spec)) is not spec:
                why = f"addr {addr:#x} is that of {other.title} on line {other.line}"
                problems.add(spec.line, spec.title, why)
            if limits.GUEST_RAM_BASE_IPA <= addr < ram_end:
                ram = f"{limits.GUEST_RAM_BASE_IPA:#x} to {ram_end - 1:#x}"
                why = f"addr {addr:#x} lies in the memory of the domain ({ram})"
                problems.add(spec.line, spec.title, why)


def _sure(base: int | None, named: dict[str, int]) -> list[int]:
    """Places that will be used for sure: what stands at a base may be moved away by its name."""
    return list(named.values()) if named or base is None else [base]
