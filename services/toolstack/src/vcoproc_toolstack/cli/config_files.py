"""Configuration files without a cluster: what is wrong in them, and what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import (
    CoprocConfig,
    DomainConfig,
    PlacedVcoproc,
    SystemConfig,
    VcoprocConfig,
    check_domain,
    parse_system,
    read_system_file,
    resolve,
)
from vcoproc.config.domain import checked_domain
from vcoproc.config.fdt import BLOB_MAGIC
from vcoproc.config.files import IncludedFiles, read_source
from vcoproc.config.problems import Problems
from vcoproc.config.settings import coproc_settings, domain_settings
from vcoproc.errors import ConfigProblem, InvalidArgument, InvalidConfig, NotFound
from vcoproc_toolstack.translate_configuration import setting_message

_TREE_SUFFIXES: Final = (".dts", ".dtsi", ".dtb")
# Comments of either kind of file, preprocessor lines, and then what every source tree begins with.
_TREE_RE: Final = re.compile(rb"(?:\s+|/\*.*?\*/|//[^\n]*|#[^\n]*)*+/dts-v1/", re.DOTALL)


@dataclass(slots=True)
class Report:
    """What is to be said of one file. domain: also of a wrong one, as far as it could be read."""

    file: str
    system: SystemConfig | None = None
    domain: DomainConfig | None = None
    problems: list[ConfigProblem] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return "system" if self.system else "domain" if self.domain else ""


class Reader:
    """Reads files of either kind. folders, cpp: of trees."""

    def __init__(self, folders: Iterable[Path], *, cpp: bool) -> None:
        self._folders = tuple(folders)
        self._cpp = cpp

    def read(self, path: Path) -> SystemConfig | DomainConfig:
        """Reads a file as what its name or content says it is.

        Raises:
            NotFound: there is no such file.
            InvalidConfig: it cannot be read, or something in it is wrong.
        """
        problems = Problems(str(path))
        found = self._read(path, problems)
        problems.raise_if_any()
        return found

    def _read(self, path: Path, problems: Problems) -> SystemConfig | DomainConfig:
        """The same, but of a domain file that is wrong as much as could be read."""
        content = read_source(path)
        if not _is_tree(path, content):
            return checked_domain(content, str(path), problems)
        if self._cpp and not content.startswith(BLOB_MAGIC):
            return read_system_file(path, include=self._folders, cpp=True)
        return parse_system(content, str(path), IncludedFiles(self._folders))

    def report(self, path: Path) -> Report:
        """The same, with what is wrong instead of an error."""
        report = Report(str(path))
        problems = Problems(str(path))
        try:
            found = self._read(path, problems)
            if isinstance(found, SystemConfig):
                report.system = found
            else:
                report.domain = found
            problems.raise_if_any()
        except InvalidConfig as error:
            report.problems += error.problems
        except NotFound:
            report.problems.append(ConfigProblem(str(path), 0, "file", "is not there"))
        return report


def _is_tree(path: Path, content: bytes) -> bool:
    if content.startswith(BLOB_MAGIC) or path.suffix in _TREE_SUFFIXES:
        return True
    return _TREE_RE.match(content) is not None


# --- checking -------------------------------------------------------------------------------------


def check(reader: Reader, paths: Sequence[Path], tree: Path | None) -> list[Report]:
    """Reports of all files, that of the tree first."""
    reports = []
    system = None
    if tree is not None:
        reports.append(reader.report(tree))
        system = reports[0].system
        if reports[0].domain is not None:
            why = "is a domain file, not a system tree"
            reports[0].problems.append(ConfigProblem(str(tree), 0, "file", why))
    for path in paths:
        report = reader.report(path)
        reports.append(report)
        if system is not None and report.domain is not None:
            # Places can be given once the file itself is right.
            fits = resolve if report.problems else check_domain
            try:
                fits(system, report.domain)
            except InvalidConfig as error:
                report.problems += error.problems
    return reports


def show_reports(reports: Sequence[Report]) -> None:
    """Prints reports for people.

    Raises:
        InvalidConfig: something is wrong; carries all of it.
    """
    for report in reports:
        for line, what, why in report.domain.warnings if report.domain else ():
            typer.echo(f"{report.file}:{line}: warning: {what}: {why}", err=True)
    for report in reports:
        if not report.problems:
            typer.echo(f"{report.file}: {_summary(report)}")
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        raise InvalidConfig(problems)


def _summary(report: Report) -> str:
    if report.system is not None:
        names = ", ".join(coproc.name for coproc in report.system.coprocs)
        first = report.system.first_domain
        return f"system, good; shares {names}" + (f"; {_vcoprocs(first)}" if first else "")
    assert report.domain is not None
    unused = ", ".join(dict.fromkeys(key for key, _ in report.domain.unknown_keys))
    tail = f"; keys that are not used: {unused}" if unused else ""
    return f"domain, good; {_vcoprocs(report.domain)}{tail}"


def _vcoprocs(domain: DomainConfig) -> str:
    names = ", ".join(vcoproc.name for vcoproc in domain.vcoprocs) or "no vcoprocs"
    return f"{domain.name} has {names}"


def reports_data(reports: Sequence[Report]) -> dict[str, Any]:
    """Reports for programs."""
    files = [
        {
            "file": report.file,
            "kind": report.kind,
            "good": not report.problems,
            "problems": [
                {"file": p.file, "line": p.line, "what": p.what, "why": p.why}
                for p in report.problems
            ],
            "warnings": [
                {"file": report.file, "line": line, "what": what, "why": why}
                for line, what, why in (report.domain.warnings if report.domain else ())
            ],
            "unknown_keys": [key for key, _ in report.domain.unknown_keys] if report.domain else [],
        }
        for report in reports
    ]
    return {"files": files}


# --- showing --------------------------------------------------------------------------------------


def settings_of(reader: Reader, path: Path, tree: Path | None, coproc: str) -> api.Configuration:
    """The settings of one file. coproc: only those of this one.

    Raises:
        InvalidArgument: there is no such file or coproc, or no system in `tree`; or one of the
            two is not for a file of this kind.
        InvalidConfig: something in it is wrong.
    """
    found = _read(reader, path)
    if isinstance(found, SystemConfig):
        if tree is not None:
            raise InvalidArgument("--tree", f"is for a domain file, {path} is a system tree")
        return _system_settings(found, coproc)
    if coproc:
        raise InvalidArgument("--coproc", f"is for a system tree, {path} is a domain file")
    if tree is None:
        return _domain_settings(found)
    system = _read(reader, tree)
    if not isinstance(system, SystemConfig):
        raise InvalidArgument("--tree", f"{tree} is a domain file, not a system tree")
    answer = _domain_settings(found)
    placed = check_domain(system, found)
    for wish, place in zip(found.vcoprocs, placed, strict=True):
        answer.settings.extend(_places(f"domains/{found.name}", found.file_name, wish, place))
    return answer


def _read(reader: Reader, path: Path) -> SystemConfig | DomainConfig:
    try:
        return reader.read(path)
    except NotFound as error:
        raise InvalidArgument(str(path), str(error)) from None


def _system_settings(system: SystemConfig, name: str) -> api.Configuration:
    try:
        coprocs: tuple[CoprocConfig, ...] = (system.find(name),) if name else system.coprocs
    except NotFound as error:
        raise InvalidArgument(system.file_name, str(error)) from None
    answer = api.Configuration(file_name=system.file_name)
    for coproc in coprocs:
        for setting in coproc_settings(coproc):
            answer.settings.append(setting_message(f"coprocs/{coproc.name}", setting))
    if system.first_domain is not None and not name:
        answer.settings.extend(_domain_settings(system.first_domain).settings)
    return answer


def _domain_settings(domain: DomainConfig) -> api.Configuration:
    answer = api.Configuration(file_name=domain.file_name)
    for setting in domain_settings(domain):
        answer.settings.append(setting_message(f"domains/{domain.name}", setting))
    return answer


def _places(
    resource: str, file: str, wish: VcoprocConfig, placed: PlacedVcoproc
) -> list[api.Setting]:
    """Where the ranges and lines of a vcoproc would be."""

    def place(name: str, value: str, given: bool) -> api.Setting:
        setting = api.Setting(resource=resource, name=f"{wish.name} {name}", value=value)
        setting.source = api.Setting.SOURCE_FILE if given else api.Setting.SOURCE_CHOSEN
        if given:
            setting.file, setting.line = file, wish.line
        return setting

    addrs, irqs = dict(wish.addrs), dict(wish.irqs)
    return [
        *(
            place(f"addr.{r.name}", f"{r.ipa:#x}", wish.addr_base is not None or r.name in addrs)
            for r in placed.ranges
        ),
        *(
            place(f"irq.{line.name}", str(line.irq), wish.irq_base is not None or line.name in irqs)
            for line in placed.irqs
        ),
    ]


def write_file(path: Path, content: bytes) -> None:
    """Raises: InvalidArgument (it cannot be written)."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidArgument(str(path), error.strerror or str(error)) from None
