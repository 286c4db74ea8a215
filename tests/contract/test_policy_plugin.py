"""The template of an algorithm of another distribution: installed as its author would, and checked
like our own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "examples" / "scheduler-plugin"
LOOK = """
from vcoproc_scheduler.policies.loader import load_catalogue
catalogue = load_catalogue()
print(catalogue.policy_class("lottery").__module__, len(catalogue.names))
"""


def run(*command: str, path: Path | None = None, cwd: Path = ROOT) -> str:
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the template in it. Needs no network."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(TEMPLATE, source)  # a build leaves files behind
    target = tmp_path_factory.mktemp("site")
    run(
        "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
        "--no-build-isolation", "--target", str(target), str(source),
    )  # fmt: skip
    return target


@pytest.mark.slow
def test_an_installed_plugin_is_found_and_nothing_of_ours_knows_it(installed: Path) -> None:
    found = run("-c", LOOK, path=installed).split()
    without = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True)
    assert found[0] == "vcoproc_lottery.policy"
    assert without.returncode != 0 and "'lottery' does not exist" in without.stderr


@pytest.mark.slow
def test_a_plugin_passes_the_contract(installed: Path) -> None:
    output = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_policies.py",
        "-k", "lottery", path=installed,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) >= 30, output
    assert "failed" not in output and "skipped" not in output
