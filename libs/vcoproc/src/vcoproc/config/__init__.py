"""Readers of the two configuration files: the system tree and a domain file."""

from __future__ import annotations

from vcoproc.config.checking import check_domain, resolve
from vcoproc.config.domain import parse_domain, read_domain_file
from vcoproc.config.placement import assign_addresses
from vcoproc.config.problems import name_problem
from vcoproc.config.records import (
    FIRST_DOMAIN,
    CoprocConfig,
    DomainConfig,
    LineConfig,
    Origin,
    PlacedLine,
    PlacedRange,
    PlacedVcoproc,
    RangeConfig,
    SystemConfig,
    VcoprocConfig,
)
from vcoproc.config.system import parse_system, read_system_file

__all__ = [
    "FIRST_DOMAIN",
    "CoprocConfig",
    "DomainConfig",
    "LineConfig",
    "Origin",
    "PlacedLine",
    "PlacedRange",
    "PlacedVcoproc",
    "RangeConfig",
    "SystemConfig",
    "VcoprocConfig",
    "assign_addresses",
    "check_domain",
    "name_problem",
    "parse_domain",
    "parse_system",
    "read_domain_file",
    "read_system_file",
    "resolve",
]
