"""Finds scheduling algorithms by name and refuses those that are not complete.

Those that come with the scheduler pass the same checks as those of other distributions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from vcoproc.errors import BadPlugin, NotFound
from vcoproc_scheduler.policies.api import (
    ENTRY_POINT_GROUP,
    POLICY_API_VERSION,
    Parameter,
    Policy,
)
from vcoproc_scheduler.policy_guard import CORE_PARAMETERS, described

BUILT_IN: Final[Mapping[str, str]] = {
    "arinc653": "vcoproc_scheduler.policies.arinc653:Arinc653",
    "credit": "vcoproc_scheduler.policies.credit:Credit",
    "edf": "vcoproc_scheduler.policies.edf:Edf",
    "fixed": "vcoproc_scheduler.policies.fixed:Fixed",
    "null": "vcoproc_scheduler.policies.null:Null",
    "priority": "vcoproc_scheduler.policies.priority:Priority",
    "rr": "vcoproc_scheduler.policies.rr:RoundRobin",
}
METHODS: Final = tuple(
    sorted(name for name, value in vars(Policy).items() if inspect.isfunction(value))
)


class Catalogue:
    """All algorithms that are installed: name -> class. Picklable."""

    def __init__(self, classes: Mapping[str, type[Policy]]) -> None:
        self._classes = dict(sorted(classes.items()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._classes)

    def policy_class(self, name: str) -> type[Policy]:
        """The class of an algorithm, by its exact name.

        Raises:
            NotFound: none has this name.
        """
        found = self._classes.get(name)
        if found is None:
            raise NotFound("scheduling algorithm", name)
        return found


def load_catalogue(entries: Iterable[EntryPoint] | None = None) -> Catalogue:
    """Loads and checks every installed algorithm.

    Args:
        entries: entry points to use instead of the installed ones, for tests.

    Raises:
        BadPlugin: one is broken, incomplete, written for another version, or has a name taken.
    """
    if entries is None:
        entries = entry_points(group=ENTRY_POINT_GROUP)
    origin: dict[str, str] = dict(BUILT_IN)
    for entry in entries:
        # Our own distribution lists the built-in ones as entry points too.
        if origin.setdefault(entry.name, entry.value) != entry.value:
            raise BadPlugin(
                ENTRY_POINT_GROUP,
                entry.name,
                f"name is taken: by {origin[entry.name]} and by {entry.value}",
            )
    return Catalogue({name: _load(name, value) for name, value in origin.items()})


def _load(name: str, value: str) -> type[Policy]:
    module_name, _, attribute = value.partition(":")
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # it is their code that runs
        why = f"{value} cannot be loaded: {described(error)}"
        raise BadPlugin(ENTRY_POINT_GROUP, name, why) from error
    check_policy(name, found)
    policy: type[Policy] = found
    return policy


def check_policy(name: str, found: Any) -> None:
    """Checks that an object is a complete policy class.

    Raises:
        BadPlugin: it is not; says everything that is missing.
    """
    if not inspect.isclass(found):
        raise BadPlugin(ENTRY_POINT_GROUP, name, f"{found!r} is not a class")
    version = getattr(found, "API_VERSION", None)
    if version != POLICY_API_VERSION:
        raise BadPlugin(
            ENTRY_POINT_GROUP,
            name,
            f"is for version {version} of the policy interface, this is {POLICY_API_VERSION}",
        )
    abstract: frozenset[str] = getattr(found, "__abstractmethods__", frozenset())
    missing = [
        method
        for method in METHODS
        if method in abstract or not callable(getattr(found, method, None))
    ]
    if missing:
        raise BadPlugin(ENTRY_POINT_GROUP, name, f"misses {', '.join(missing)}")
    parameters = getattr(found, "PARAMETERS", ())
    if not isinstance(parameters, Sequence):
        raise BadPlugin(ENTRY_POINT_GROUP, name, "PARAMETERS is no sequence of Parameter")
    if not all(isinstance(each, Parameter) for each in parameters):
        raise BadPlugin(ENTRY_POINT_GROUP, name, "PARAMETERS holds something else than Parameter")
    core = [each.name for each in CORE_PARAMETERS]
    if taken := [each.name for each in parameters if each.name in core]:
        raise BadPlugin(ENTRY_POINT_GROUP, name, f"PARAMETERS has the core's own {taken[0]}")
    names = [each.name for each in parameters]
    if len(set(names)) != len(names):
        raise BadPlugin(ENTRY_POINT_GROUP, name, "PARAMETERS has the same name twice")
