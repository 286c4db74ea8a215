"""The node `scheduler-params`: parameters that an algorithm takes, of a coproc or of a vcoproc."""

from __future__ import annotations

from typing import Final

from vcoproc.config.fields import Fields
from vcoproc.config.problems import Problems, parameter_name
from vcoproc.config.trees import IMPLICIT_PROPERTIES, DtsNode

SCHEDULER_PARAMS: Final = "scheduler-params"


def read_scheduler_params(entry: DtsNode, problems: Problems) -> tuple[tuple[str, int], ...]:
    """The parameters in the nodes of that name of an entry, sorted by name."""
    params: dict[str, int] = {}
    for child in entry.children:
        if child.name != SCHEDULER_PARAMS:
            continue
        fields = Fields(child, problems)
        for sub in child.children:
            problems.add(sub.place, sub.path, "parameters are properties, not nodes")
        for name in child.properties:
            if name in IMPLICIT_PROPERTIES:
                continue
            key = parameter_name(name)
            if key is None:
                fields.wrong(name, "is no name of a parameter")
            elif key in params:
                fields.wrong(name, f"parameter {key} is given twice")
            else:
                params[key] = fields.number(name, 0, 0, 2**63 - 1)
    return tuple(sorted(params.items()))
