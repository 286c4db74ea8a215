"""Finds platforms by their compatible string, in the entry-point group ``vcoproc.platforms``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Final

from vcoproc.errors import NotFound
from vcoproc.internal.v1 import control_pb2

from vcoproc_sim.platforms.api import Platform, PlatformConfig, PlatformFactory, RangeKind, Trigger

GROUP: Final = "vcoproc.platforms"


def platform_factories() -> dict[str, PlatformFactory]:
    """All installed platforms: compatible string to factory."""
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


def create_platform(compatible: str, config: PlatformConfig) -> Platform:
    """A coprocessor of that type.

    Raises:
        NotFound: no such platform is installed.
    """
    for entry in entry_points(group=GROUP):
        if entry.name == compatible:
            factory: PlatformFactory = entry.load()
            return factory(config)
    raise NotFound("platform", compatible)


def describe(compatible: str, factory: PlatformFactory) -> control_pb2.PlatformDescription:
    """What the toolstack must know of a platform, from the platform's own data."""
    platform = factory(PlatformConfig(compatible, 0x1_0000, 1_000_000))
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
