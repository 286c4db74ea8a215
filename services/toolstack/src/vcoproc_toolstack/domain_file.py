"""The file that would make a domain as it is now, from its record. Pure."""

from __future__ import annotations

import re
from typing import Final

from vcoproc.config.problems import Problems
from vcoproc.config.xlcfg import XlNumber, XlString, XlValue, parse_settings
from vcoproc.limits import MIB
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord

_PLAIN: Final = re.compile(r"[ -!#-\[\]-~]")
"""Characters that stand for themselves in a string with double quotes."""


def domain_text(domain: DomainRecord, original: str) -> str:
    """A domain file with every place and parameter as it is now.

    Args:
        original: text that the domain was made from; its keys that mean nothing here are kept.
    """
    lines = [
        f'name = "{domain.name}"',
        f"memory = {domain.memory_bytes // MIB}",
        f'on_poweroff = "{domain.on_poweroff.value}"',
        f'on_crash = "{domain.on_crash.value}"',
        "vcoproc = [",
        *(f'    "{_spec(vcoproc)}",' for vcoproc in domain.vcoprocs),
        "]",
    ]
    for setting in parse_settings(original, Problems("")):
        if setting.key in domain.unknown_keys and setting.value is not None:
            lines.append(f"{setting.key} = {_value(setting.value)}")
    return "\n".join(lines) + "\n"


def _spec(vcoproc: VcoprocRecord) -> str:
    parts = [
        f"coproc={vcoproc.coproc}",
        f"name={vcoproc.name}",
        *(f"{name}={value}" for name, value in vcoproc.params),
        *(f"irq.{line.name}={line.irq}" for line in vcoproc.lines),
        *(f"addr.{place.name}={place.ipa:#x}" for place in vcoproc.ranges),
    ]
    return ",".join(parts)


def _value(value: XlValue) -> str:
    if isinstance(value, XlNumber):
        return str(value.value)
    if isinstance(value, XlString):
        return f'"{"".join(_letter(letter) for letter in value.text)}"'
    return f"[{', '.join(_value(each) for each in value.values)}]"


def _letter(letter: str) -> str:
    if _PLAIN.fullmatch(letter) or not letter.isascii():
        return letter
    return f"\\x{ord(letter):02x}"
