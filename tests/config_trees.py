"""Trees that several tests of the configuration read, and what they compare of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from vcoproc.config import SystemConfig
from vcoproc.config.trees import DtsTree

SYSTEM = """\
/dts-v1/;
/memreserve/ 0x10000000 0x4000;
/ {
    #address-cells = <1>;
    #size-cells = <1>;
    aliases { main-dsp = &dsp0; };
    chosen {
        shared {
            compatible = "vcoproc,shared-coprocs";
            dsp0 {
                coproc = <&dsp0>;
                scheduler = "credit";
                slice-us = <2500>;
                memory-limit = <0x1 0x0>;
                scheduler-params { frame-us = <10000>; };
            };
            gpu { coproc = "/soc/gpu@10000"; };
            first-domain {
                memory-size = <0x200000>;
                audio {
                    coproc = <&dsp0>;
                    irq = <80>;
                    addr.mbox = <0x0b000000>;
                    scheduler-params { weight = <512>; };
                };
                video { coproc = "gpu"; };
            };
        };
    };
    soc {
        ranges;
        dsp0: dsp@f0000000 {
            compatible = "acme,dsp", "vcoproc,cortex-m4";
            xen,coproc;
            acme,mode = "fast", "quiet";
            acme,gains = <1 2 3>;
            reg = <0xf0000000 0x1000>, <0xf0001000 0x2000>;
            reg-names = "ctrl", "mbox";
            interrupts = <64>, <66>;
            interrupt-names = "irq", "fault";
            clock-frequency = <250000000>;
        };
        gpu@10000 {
            compatible = "acme,gpu";
            xen,coproc;
            reg = <0x10000 0x1000>;
            reg-names = "all";
        };
    };
};
"""


def content_of(tree: DtsTree) -> tuple[object, ...]:
    """All that a tree says, without places and without what it was written as."""
    nodes = {
        path: ({name: found.data for name, found in node.properties.items()}, len(node.children))
        for path, node in tree.nodes.items()
    }
    return nodes, dict(tree.aliases), dict(tree.phandles), tree.reserved


def without_places(system: SystemConfig) -> SystemConfig:
    """A configuration with nothing of the file that it was read from."""
    coprocs = tuple(replace(coproc, line=0, file="") for coproc in system.coprocs)
    first = system.first_domain
    if first is not None:
        vcoprocs = tuple(replace(vcoproc, line=0, file="") for vcoproc in first.vcoprocs)
        first = replace(first, file_name="", vcoprocs=vcoprocs)
    return SystemConfig("", coprocs, first)


def need_dtc() -> str:
    """The path of dtc; without it the test is skipped, or fails where it must be there."""
    found = shutil.which("dtc")
    if found is None:
        if os.environ.get("VCOPROC_REQUIRE_DTC"):
            pytest.fail("dtc is not here, and VCOPROC_REQUIRE_DTC is set")
        pytest.skip("dtc (Debian: device-tree-compiler) is not here; CI runs this test")
    return found


def run_dtc(*arguments: str | Path, source: bytes = b"") -> bytes:
    """What dtc makes of a source or file; it must not fail."""
    done = subprocess.run(
        [need_dtc(), "-q", *map(str, arguments)], input=source, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
