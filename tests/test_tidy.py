"""Rules of the source tree that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
MIB = 1024 * 1024


def tracked(pattern: str = ".") -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked("*.py") if "_pb2" not in path.name]


def is_test(path: Path) -> bool:
    return "tests" in path.parts


def test_no_module_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if not is_test(path) and (count := path.read_text().count("\n")) > MODULE_LINES_MAX
    }
    assert not long


def test_no_function_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sources()
        if not is_test(path)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert not long


def test_no_marks_are_left_over() -> None:
    mark = re.compile(
        r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b"
    )
    marked = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".c", ".h", ".proto", ".yml", ".toml", ".md", ".sh"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert not marked


def test_services_do_not_print() -> None:
    """Logs are structured; only commands and the last-resort guard talk to people."""
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        if path.is_relative_to(ROOT / "services") and "cli" not in path.parts and not is_test(path)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing


def test_init_files_only_say_what_is_there() -> None:
    """An __init__.py has a docstring, re-exports, and no code."""
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
    coded = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name == "__init__.py"
        for node in ast.parse(path.read_text()).body
        if not isinstance(node, allowed)
    ]
    assert not coded


def test_no_lock_file_has_an_address() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path


def test_no_file_is_large() -> None:
    large = [str(path) for path in tracked() if path.stat().st_size > MIB]
    assert not large


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "docs/driver.md", "docs/firmware.md"]
)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{name} links to {target}"
