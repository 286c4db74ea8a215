"""Properties of a physical node that only its platform knows, passed on to it.

Those of other vendors than ours are for the platform to judge; of ours, names are checked here, so
that a typing mistake is found on its line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from vcoproc import limits
from vcoproc.config.fields import Fields
from vcoproc.config.trees import DtsProperty

OUR_VENDOR: Final = "vcoproc"
WRAPS: Final = "vcoproc,wraps"
WRAPPED_DEFAULT: Final = "vcoproc,cortex-m4"
"""Platform that `vcoproc,refuse` wraps when its node says nothing."""
REFUSAL_KINDS: Final = ("never", "always", "uniform", "heavy-tail", "job", "hang")
REFUSAL_AT: Final = ("out", "in", "both")
REFUSAL_US_MAX: Final = 10_000_000
_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "vcoproc,refuse": (
        WRAPS,
        "vcoproc,refusal",
        "vcoproc,refusal-at",
        "vcoproc,refusal-contexts",
        "vcoproc,refusal-percent",
        "vcoproc,refusal-saves",
        "vcoproc,refusal-seed",
        "vcoproc,refusal-us",
    )
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "vcoproc,refusal": REFUSAL_KINDS,
    "vcoproc,refusal-at": REFUSAL_AT,
}
_COUNTS: Final[Mapping[str, tuple[int, ...]]] = {
    "always": (1,),
    "uniform": (2,),
    "heavy-tail": (2,),
}
"""How many numbers `vcoproc,refusal-us` has."""


def known_params(compatible: str) -> Collection[str]:
    """Properties of ours that this platform knows."""
    return _KNOWN.get(compatible, ())


def read_platform_params(
    fields: Fields, compatible: str, others: Collection[str]
) -> tuple[tuple[str, int | str], ...]:
    """Those of the vendor of the platform, and of the vendor of the one it wraps, by name.

    One number stays one; more become text, in decimal with spaces between; so do strings, and a
    property without a value is empty text. What is longer than a platform takes is left out.

    Args:
        others: properties that are read elsewhere.
    """
    vendors = {compatible.partition(",")[0]}
    if compatible in _KNOWN:
        vendors.add(fields.text(WRAPS, WRAPPED_DEFAULT).partition(",")[0])
    params: dict[str, int | str] = {}
    for name, found in fields.node.properties.items():
        vendor, comma, _ = name.partition(",")
        if not comma or vendor not in vendors or name in others:
            continue
        if vendor == OUR_VENDOR and name not in known_params(compatible):
            continue  # noted as a mistake elsewhere
        value = _value(found)
        if isinstance(value, int) or len(value.encode()) <= limits.PLATFORM_PARAM_BYTES_MAX:
            params[name] = value
    if len(params) > limits.PLATFORM_PARAMS_MAX:
        why = f"{len(params)} properties for the platform, at most {limits.PLATFORM_PARAMS_MAX}"
        fields.wrong("compatible", why)
        return ()
    if compatible in _KNOWN:
        _check_refusal(fields, params)
    return tuple(sorted(params.items()))


def _value(found: DtsProperty) -> int | str:
    if found.is_text or found.cells is None:
        return " ".join(found.strings or ())
    if len(found.cells) == 1:
        return found.cells[0]
    return " ".join(str(cell) for cell in found.cells)


def _check_refusal(fields: Fields, params: Mapping[str, int | str]) -> None:
    for name, choices in _CHOICES.items():
        value = params.get(name, choices[0])
        if value not in choices:
            why = f"is not one of {', '.join(choices)}"
            fields.wrong(name, why, near=(str(value)[: limits.NAME_BYTES_MAX], choices))
    for name, high in (("vcoproc,refusal-percent", 100), ("vcoproc,refusal-seed", 0xFFFF_FFFF)):
        number = params.get(name, 0)
        if not isinstance(number, int) or number > high:
            fields.wrong(name, f"must be one number, 0 to {high}")
    if params.get(WRAPS) in _KNOWN:
        fields.wrong(WRAPS, "it cannot wrap itself")
    kind = str(params.get("vcoproc,refusal", REFUSAL_KINDS[0]))
    found = fields.get("vcoproc,refusal-us")
    cells = (found.cells or ()) if found is not None else ()
    want = _COUNTS.get(kind, (0,))
    if len(cells) not in want:
        fields.wrong("vcoproc,refusal-us", f"must have {want[0]} number(s) for {kind!r}")
    elif cells and not 0 <= cells[0] <= cells[-1] <= REFUSAL_US_MAX:
        fields.wrong("vcoproc,refusal-us", f"must rise, up to {REFUSAL_US_MAX}")
    elif kind == "heavy-tail" and cells[0] == 0:
        fields.wrong("vcoproc,refusal-us", "the smallest time of a heavy tail is 1 or more")
