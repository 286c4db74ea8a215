"""Finding platforms: a broken plug-in is named at start."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from vcoproc.errors import BadPlugin, NotFound
from vcoproc_sim.platform_check import METHODS
from vcoproc_sim.platforms.api import (
    Access,
    Features,
    Line,
    PlatformConfig,
    PlatformInfo,
    RangeKind,
    Register,
    RegisterRange,
    Trigger,
    WhenOut,
)
from vcoproc_sim.registry import GROUP, create_platform, describe, make_platform, platform_factories
from vcoproc_sim.testing.fake_platform import FakePlatform, StepClock

NAME = "vcoproc,fake"
CONFIG = PlatformConfig("dsp0", 0x1_0000, 1_000_000)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def fake(_config: PlatformConfig) -> FakePlatform:
    return FakePlatform(StepClock())


def test_our_own_platform_is_there_and_passes() -> None:
    create_platform("vcoproc,cortex-m4", CONFIG).close()


@pytest.mark.parametrize("name", ["vcoproc,cortex-m", "vcoproc,cortex-m44", "", "vcoproc"])
def test_names_are_compared_whole(name: str) -> None:
    """The ancestor compared the beginning only."""
    with pytest.raises(NotFound):
        create_platform(name, CONFIG)


@pytest.mark.parametrize("value", ["no.such.module:create", "os:no_such_name", "math:pi"])
def test_one_that_cannot_be_loaded_is_named(value: str) -> None:
    with pytest.raises(BadPlugin, match="broken"):
        platform_factories([entry("broken", value)])


def test_two_of_one_name_are_both_named() -> None:
    first, second = entry("a", "os:getcwd"), entry("a", "os:getpid")
    with pytest.raises(BadPlugin, match=r"os:getcwd.*os:getpid"):
        platform_factories([first, second])
    assert len(platform_factories([first, first])) == 1


def test_what_the_toolstack_is_told() -> None:
    description = describe(NAME, fake)
    assert description.contexts_max == 8
    assert [(rng.name, rng.mapped) for rng in description.ranges] == [
        ("ctrl", False),
        ("matrix", False),
        ("mbox", True),
    ]
    doorbell = next(each for each in description.registers if each.name == "DOORBELL")
    assert (doorbell.range, doorbell.offset, doorbell.access) == ("ctrl", 8, "wo")
    assert [(line.name, line.level) for line in description.lines] == [
        ("irq", True),
        ("event", False),
        ("fault", True),
    ]


def test_one_that_misses_a_method_is_named() -> None:
    class Half:
        info = fake(CONFIG).info

    def factory(_config: PlatformConfig) -> Any:
        return Half()

    with pytest.raises(BadPlugin, match="switch_from") as refused:
        make_platform(NAME, factory, CONFIG)
    assert set(METHODS) <= set(str(refused.value).replace(",", "").split())


REGISTER = Register("R", 0, Access.RW, WhenOut.SHADOW, "")
RANGE = RegisterRange("ctrl", 4096, RangeKind.TRAPPED, (REGISTER,))
GOOD = PlatformInfo(NAME, (RANGE,), (Line("irq", Trigger.LEVEL, "R"),), Features())


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (replace(GOOD, compatible="other"), "calls itself"),
        (replace(GOOD, features=Features(contexts_max=0)), "contexts_max"),
        (replace(GOOD, ranges=()), "register ranges"),
        (replace(GOOD, ranges=(RANGE, RANGE)), "2 of range"),
        (replace(GOOD, ranges=(replace(RANGE, size_bytes=100),)), "whole pages"),
        (replace(GOOD, ranges=(replace(RANGE, kind=RangeKind.MAPPED),)), "mapped and has"),
        (
            replace(GOOD, ranges=(replace(RANGE, registers=(replace(REGISTER, offset=4096),)),)),
            "not within",
        ),
        (
            replace(GOOD, ranges=(replace(RANGE, registers=(replace(REGISTER, width_bytes=3),)),)),
            "width 3",
        ),
        (
            replace(GOOD, ranges=(replace(RANGE, registers=(replace(REGISTER, offset=2),)),)),
            "not aligned",
        ),
        (
            replace(GOOD, ranges=(replace(RANGE, registers=(replace(REGISTER, reset=1 << 32),)),)),
            "does not fit",
        ),
        (
            replace(
                GOOD, ranges=(replace(RANGE, registers=(REGISTER, replace(REGISTER, name="S"))),)
            ),
            "overlaps",
        ),
        (replace(GOOD, lines=(Line("irq", Trigger.LEVEL, "NONE"),)), "no register 'NONE'"),
        (replace(GOOD, lines=(Line("irq", Trigger.LEVEL),)), "names no status"),
        (replace(GOOD, lines=(Line("irq", Trigger.EDGE, "R"),)), "names registers"),
        (replace(GOOD, lines=(Line("irq", Trigger.EDGE),) * 2), "2 of line"),
        (
            replace(GOOD, lines=tuple(Line(f"l{n}", Trigger.EDGE) for n in range(33))),
            "33 lines",
        ),
    ],
)
def test_what_is_declared_wrong_is_said(info: PlatformInfo, words: str) -> None:
    def factory(config: PlatformConfig) -> FakePlatform:
        platform = fake(config)
        platform.info = info
        return platform

    with pytest.raises(BadPlugin, match=words):
        make_platform(NAME, factory, CONFIG)
