"""Finds platforms by their compatible string, in the entry-point group ``vcoproc.platforms``.

Those that come with this package pass the same checks as those of other distributions.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from vcoproc.errors import BadPlugin, NotFound
from vcoproc.internal.v1 import control_pb2
from vcoproc_sim.platform_check import platform_problems
from vcoproc_sim.platforms.api import Platform, PlatformConfig, PlatformFactory, RangeKind, Trigger

GROUP: Final = "vcoproc.platforms"


def platform_factories(entries: Iterable[EntryPoint] | None = None) -> dict[str, PlatformFactory]:
    """All installed platforms: compatible string to factory.

    Args:
        entries: entry points to use instead of the installed ones, for tests.

    Raises:
        BadPlugin: one cannot be loaded, or two have the same name.
    """
    factories: dict[str, PlatformFactory] = {}
    origin: dict[str, str] = {}
    for entry in entry_points(group=GROUP) if entries is None else entries:
        # The same distribution may be found twice, for example installed and in the folder.
        if origin.setdefault(entry.name, entry.value) != entry.value:
            why = f"name is taken: by {origin[entry.name]} and by {entry.value}"
            raise BadPlugin(GROUP, entry.name, why)
        try:
            factory = entry.load()
        except (ImportError, AttributeError) as error:
            why = f"{entry.value} cannot be loaded: {error}"
            raise BadPlugin(GROUP, entry.name, why) from error
        if not callable(factory):
            raise BadPlugin(GROUP, entry.name, f"{entry.value} is no factory")
        factories[entry.name] = factory
    return factories


def create_platform(compatible: str, config: PlatformConfig) -> Platform:
    """A coprocessor of that type.

    Raises:
        NotFound: no such platform is installed.
        BadPlugin: it is not what a platform has to be.
    """
    factory = platform_factories().get(compatible)
    if factory is None:
        raise NotFound("platform", compatible)
    return make_platform(compatible, factory, config)


def make_platform(compatible: str, factory: PlatformFactory, config: PlatformConfig) -> Platform:
    """Calls a factory and checks what it gives.

    Raises:
        BadPlugin: it is not what a platform has to be.
    """
    platform = factory(config)
    problems = platform_problems(platform, compatible)
    if problems:
        raise BadPlugin(GROUP, compatible, "; ".join(problems))
    return platform


def describe(compatible: str, factory: PlatformFactory) -> control_pb2.PlatformDescription:
    """What the toolstack must know of a platform, from the platform's own data.

    Raises:
        BadPlugin: it is not what a platform has to be.
    """
    platform = make_platform(compatible, factory, PlatformConfig(compatible, 0x1_0000, 1_000_000))
    try:
        info = platform.info
    finally:
        platform.close()
    description = control_pb2.PlatformDescription(
        compatible=compatible, contexts_max=info.features.contexts_max
    )
    for rng in info.ranges:
        description.ranges.add(
            name=rng.name, size_bytes=rng.size_bytes, mapped=rng.kind is RangeKind.MAPPED
        )
        for register in rng.registers:
            description.registers.add(
                range=rng.name,
                name=register.name,
                offset=register.offset,
                width_bytes=register.width_bytes,
                access=register.access.value,
                when_out=register.when_out.value,
                description=register.doc,
            )
    for line in info.lines:
        description.lines.add(name=line.name, level=line.trigger is Trigger.LEVEL)
    return description
