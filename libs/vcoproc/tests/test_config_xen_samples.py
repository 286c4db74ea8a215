"""The files that Debian's package xen-utils-common installs: they parse as they are.

VCOPROC_XEN_SAMPLES names the folder that `deploy/ci/xen_samples.sh` unpacks the package into.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import pytest

from vcoproc.config import check_domain, parse_domain, parse_system, read_domain_file
from vcoproc.config.problems import Problems
from vcoproc.config.xlcfg import XlList, XlString, parse_settings
from vcoproc.config.xlkeys import XL_KEYS

EXAMPLES = Path(__file__).parents[3] / "examples"
IN_SPECS = {
    "backend", "connection", "controller", "height", "hostaddr", "hostbus", "path", "pnode",
    "policy", "port", "ports", "size", "strategy", "tag", "vdistances", "version", "width",
    "display", "security_model", "xauthority",
}  # fmt: skip
"""Keys within the strings of others, as in usbctrl = ["version=2"]."""
OURS = {"name", "memory", "on_poweroff", "on_reboot", "on_crash"}


@pytest.fixture
def samples() -> Path:
    folder = os.environ.get("VCOPROC_XEN_SAMPLES", "")
    if folder and Path(folder, "etc/xen").is_dir():
        return Path(folder)
    if os.environ.get("VCOPROC_REQUIRE_XEN_SAMPLES"):
        pytest.fail(f"no samples in {folder!r}, and VCOPROC_REQUIRE_XEN_SAMPLES is set")
    pytest.skip("the sample files of Xen are not here (deploy/ci/xen_samples.sh); CI has them")


def test_samples_of_domains_parse_unchanged(samples: Path) -> None:
    paths = sorted(samples.glob("etc/xen/xlexample.*"))
    assert len(paths) >= 3
    for path in paths:
        domain = read_domain_file(path)
        assert domain.name == path.name.replace("xl", "", 1)
        lines = path.read_text().splitlines()
        for key, line in domain.unknown_keys:
            assert lines[line - 1].startswith(key) and key in XL_KEYS
        assert {"vcpus", "vif", "disk"} <= {key for key, _ in domain.unknown_keys}
        assert domain.warnings == ()
        (memory,) = re.findall(r"^memory = (\d+)$", path.read_text(), re.MULTILINE)
        assert domain.memory_bytes == int(memory) << 20


def test_commented_settings_of_the_samples_parse_too(samples: Path) -> None:
    """What a user gets who takes the # off: every setting that the samples show."""
    for path in sorted(samples.glob("etc/xen/xlexample.*")):
        shown = re.findall(r"^#([a-z_]+ = .*)$", path.read_text(), re.MULTILINE)
        assert shown
        for setting in shown:
            problems = Problems(path.name)
            ((key, value),) = [(s.key, s.value) for s in parse_settings(setting, problems)]
            problems.raise_if_any()
            assert value is not None and (key in XL_KEYS or key in OURS), setting


def test_sample_becomes_a_domain_with_vcoprocs_by_one_line(samples: Path) -> None:
    system = parse_system((EXAMPLES / "two-coprocs.dts").read_bytes(), "two-coprocs.dts")
    for path in sorted(samples.glob("etc/xen/xlexample.*")):
        text = (
            path.read_text() + '\nvcoproc = [ "coproc=dsp0,name=audio,weight=512", "coproc=dsp1" ]'
        )
        placed = check_domain(system, parse_domain(text, path.name))
        assert [each.name for each in placed] == ["audio", "dsp1"]


def test_other_files_in_the_grammar_of_xl_parse(samples: Path) -> None:
    (pool,) = samples.glob("usr/share/doc/xen-utils-common/examples/cpupool*")
    problems = Problems(pool.name)
    found = {s.key: s.value for s in parse_settings(pool.read_text(), problems)}
    problems.raise_if_any()
    assert isinstance(found["name"], XlString) and isinstance(found["cpus"], XlList)
    conf = samples / "etc/xen/xl.conf"
    parse_settings(re.sub(r"(?m)^#(?=\w+=)", "", conf.read_text()), problems)
    problems.raise_if_any()


def test_every_key_of_the_manual_page_is_known(samples: Path) -> None:
    page = gzip.decompress((samples / "usr/share/man/man5/xl.cfg.5.gz").read_bytes()).decode()
    options = page[page.index('.SH "OPTIONS"') :]
    keys = set(re.findall(r'^(?:\.ie n )?\.IP "\\fB([a-z0-9_]+)=', options, re.MULTILINE))
    assert len(keys) > 100
    assert keys - XL_KEYS - OURS - IN_SPECS == set()
