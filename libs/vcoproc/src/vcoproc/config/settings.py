"""What is configured, setting by setting, in words, and where each value came from. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from vcoproc import limits
from vcoproc.config.hardware import PRIVATE_MEMORY
from vcoproc.config.records import (
    FIRST_DOMAIN,
    CoprocConfig,
    DomainConfig,
    Origin,
    VcoprocConfig,
)
from vcoproc.config.scheduler_params import SCHEDULER_PARAMS


@dataclass(frozen=True, slots=True)
class Setting:
    """name: as in the file. origin: where it is given; None for a default."""

    name: str
    value: str
    origin: Origin | None


def coproc_settings(coproc: CoprocConfig) -> tuple[Setting, ...]:
    """All settings of a coproc, those of its entry first."""
    origins = {origin.setting: origin for origin in coproc.origins}
    values = {
        "coproc": coproc.path,
        "scheduler": coproc.scheduler,
        **{f"{SCHEDULER_PARAMS}.{name}": str(value) for name, value in coproc.scheduler_params},
        "slice-us": str(coproc.slice_ns // limits.US),
        "max-vcoprocs": str(coproc.vcoprocs_max),
        "memory-limit": str(coproc.memory_bytes_max or "none"),
        "refusal-drain-us": str(coproc.refusal_drain_ns // limits.US),
        "refusal-deadline-us": str(coproc.refusal_deadline_ns // limits.US),
        "instances": str(coproc.instances or "none"),
        "compatible": coproc.compatible,
        "reg": ", ".join(f"{r.name} {r.base:#x} +{r.size_bytes:#x}" for r in coproc.ranges),
        "interrupts": ", ".join(f"{line.name} {line.number}" for line in coproc.lines) or "none",
        PRIVATE_MEMORY: str(coproc.private_bytes),
        "clock-frequency": str(coproc.clock_hz),
        **{name: str(value) for name, value in coproc.platform_params},
    }
    return tuple(Setting(name, value, origins.get(name)) for name, value in values.items())


def is_of_schedule(setting: Setting) -> bool:
    """Whether a change of the schedule at run time replaces it."""
    name = setting.name.partition(".")[0]
    return name in ("scheduler", "slice-us", SCHEDULER_PARAMS)


def domain_settings(domain: DomainConfig) -> tuple[Setting, ...]:
    """All settings of a domain; a vcoproc is one."""
    origins = {origin.setting: origin for origin in domain.origins}
    first = domain.name == FIRST_DOMAIN
    memory = "memory-size" if first else "memory"
    unit = 1 if first else limits.MIB
    values = {"name": domain.name, memory: str(domain.memory_bytes // unit)}
    if not first:
        for key in ("on_poweroff", "on_reboot", "on_crash"):
            values[key] = getattr(domain, key)
    return (
        *(Setting(name, value, origins.get(name)) for name, value in values.items()),
        *(vcoproc_setting(vcoproc, domain.file_name) for vcoproc in domain.vcoprocs),
    )


def vcoproc_setting(vcoproc: VcoprocConfig, file_name: str) -> Setting:
    """A vcoproc as one setting of its domain. file_name: of the domain."""
    origin = Origin(vcoproc.name, vcoproc.file or file_name, vcoproc.line)
    return Setting(f"vcoproc {vcoproc.name}", _words(vcoproc), origin)


def _words(vcoproc: VcoprocConfig) -> str:
    """A vcoproc as a domain file writes it."""
    pairs = [("coproc", vcoproc.coproc), *((k, str(v)) for k, v in vcoproc.params)]
    if vcoproc.irq_base is not None:
        pairs.append(("irq", str(vcoproc.irq_base)))
    pairs += [(f"irq.{name}", str(irq)) for name, irq in vcoproc.irqs]
    if vcoproc.addr_base is not None:
        pairs.append(("addr", f"{vcoproc.addr_base:#x}"))
    pairs += [(f"addr.{name}", f"{addr:#x}") for name, addr in vcoproc.addrs]
    return ",".join(f"{name}={value}" for name, value in pairs)
