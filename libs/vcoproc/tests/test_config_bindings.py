"""The binding schemas of docs/bindings, by dtschema: good trees pass, wrong ones do not.

dtschema needs pylibfdt, which may have to be compiled: `make schema` installs it, and CI has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from config_trees import SYSTEM
from vcoproc.config import parse_system
from vcoproc.config.dts import read_tree
from vcoproc.config.fdt import write_blob
from vcoproc.config.files import IncludedFiles
from vcoproc.config.guest_tree import GuestLine, GuestRange, GuestVcoproc, guest_tree
from vcoproc.errors import InvalidConfig

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.dts"))
BINDINGS = ROOT / "docs" / "bindings"
# The schema of /chosen itself, in dtschema, knows no nodes of hypervisors, and a root node without
# a model is no error for us; so the trees are held against our schemas alone.
OURS = ("-l", "vcoproc")


@pytest.fixture(scope="module", autouse=True)
def dtschema_is_here() -> None:
    if importlib.util.find_spec("dtschema") is None:
        if os.environ.get("VCOPROC_REQUIRE_DTSCHEMA"):
            pytest.fail("dtschema is not here, and VCOPROC_REQUIRE_DTSCHEMA is set")
        pytest.skip("dtschema is not here (make schema); CI runs this test")


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = f"from dtschema.{module} import main; main()"
    return subprocess.run(
        [sys.executable, "-c", command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
    )


def complaints(folder: Path, blobs: dict[str, bytes], *options: str) -> dict[str, list[str]]:
    """What dt-validate says of each blob: node, where in it, and why."""
    (folder / "blobs").mkdir()
    paths = {name: folder / "blobs" / f"{number}.dtb" for number, name in enumerate(blobs)}
    for name, path in paths.items():
        path.write_bytes(blobs[name])
    out = folder / "out.json"
    done = run("dtb_validate", "-s", BINDINGS, *options, "--json-output", out, *paths.values())
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {name: [] for name in blobs}
    names = {path.name: name for name, path in paths.items()}
    for problem in json.loads(out.read_text()):
        where = "/".join(map(str, (problem.get("node", ""), *problem.get("property_path", ()))))
        found[names[Path(problem["file"]).name]].append(f"{where}: {problem['message']}")
    return found


def blob(source: str, name: str = "t", files: IncludedFiles | None = None) -> bytes:
    tree = read_tree(source, name, files)
    return write_blob(tree.root, tree.reserved)


@pytest.mark.slow
def test_schemas_are_good_schemas() -> None:
    paths = sorted(BINDINGS.glob("vcoproc/*.yaml"))
    assert len(paths) == 3
    done = run("doc_validate", *paths)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@pytest.mark.slow
def test_examples_and_what_we_write_are_valid(tmp_path: Path) -> None:
    blobs = {path.name: blob(path.read_text(), str(path), IncludedFiles()) for path in EXAMPLES}
    blobs["system"] = blob(SYSTEM)
    blobs["high"] = blob(SYSTEM.replace("addr.mbox = <0x0b000000>", "addr.mbox = <0x4000 0x0>"))
    vcoproc = GuestVcoproc(
        name="audio",
        coproc="dsp0",
        compatible="vcoproc,cortex-m4",
        ranges=(GuestRange("a", 0xA00_0000, 4096, False), GuestRange("m", 0xB00_0000, 4096, True)),
        lines=(GuestLine("irq", 64, True), GuestLine("event", 65, False)),
        clock_hz=100_000_000,
        private_bytes=65536,
    )  # fmt: skip
    blobs["guest"] = write_blob(guest_tree([vcoproc], [(0x6000_0000, 0x10_0000)]))
    assert complaints(tmp_path, blobs, *OURS) == {name: [] for name in blobs}


@pytest.mark.slow
def test_all_schemas_of_dtschema_object_to_nothing_but_the_node_under_chosen(
    tmp_path: Path,
) -> None:
    blobs = {
        path.name: blob(path.read_text(), str(path), IncludedFiles())
        for path in EXAMPLES
        if "scheduler-params" not in path.read_text()  # whose types only the algorithm knows
    }
    for name, found in complaints(tmp_path, blobs).items():
        (only,) = found
        assert only.startswith("/chosen: 'vcoproc,shared-coprocs' does not match"), name


# What is replaced, by what, and what the complaint names.
WRONG = [
    (
        "coproc = <&dsp0>;\n                scheduler",
        "scheduler",
        "'coproc' is a required",
    ),
    ("slice-us = <2500>;", "slice-ms = <3>;", "slice-ms"),
    ("slice-us = <2500>;", "slice-us = <99>;", "slice-us"),
    ("slice-us = <2500>;", "slice-us = <10000001>;", "slice-us"),
    ("slice-us = <2500>;", "slice-us = <2500 2>;", "slice-us"),
    ("slice-us = <2500>;", "max-vcoprocs = <0>;", "max-vcoprocs"),
    ("slice-us = <2500>;", "max-vcoprocs = <257>;", "max-vcoprocs"),
    ("slice-us = <2500>;", "instances = <65>;", "instances"),
    ("slice-us = <2500>;", "refusal-deadline-us = <500001>;", "refusal-deadline-us"),
    ("slice-us = <2500>;", "refusal-drain-us = <500001>;", "refusal-drain-us"),
    ('scheduler = "credit";', "scheduler = <1>;", "scheduler"),
    ("memory-limit = <0x1 0x0>;", "memory-limit = <0>;", "memory-limit"),
    ("memory-limit = <0x1 0x0>;", "memory-limit = <0x400 0x1>;", "memory-limit"),
    ("scheduler-params { frame", "parameters { frame", "parameters"),
    ("gpu { coproc", "g@1 { coproc", "g@1"),
    ("shared {", "shared { slice-us = <1000>;", "slice-us"),
    ("memory-size = <0x200000>;", "memory-size = <0x200001>;", "memory-size"),
    ("memory-size = <0x200000>;", "memory-size = <4096>;", "memory-size"),
    ("memory-size = <0x200000>;", "memory = <2097152>;", "memory"),
    ("irq = <80>;", "irq = <31>;", "irq"),
    ("irq = <80>;", "irq.fault = <1020>;", "irq.fault"),
    ("irq = <80>;", "weight = <80>;", "weight"),
    ("addr.mbox = <0x0b000000>;", "addr.mbox = <0x0b000800>;", "addr.mbox"),
    ("addr.mbox = <0x0b000000>;", "addr.mbox = <0x10000 0x0>;", "addr.mbox"),
    ('video { coproc = "gpu"; };', "video { };", "'coproc' is a required property"),
    ('reg-names = "ctrl", "mbox";', "", "'reg-names' is a required property"),
    ('interrupt-names = "irq", "fault";', "", "interrupt-names"),
    ("<250000000>", "<999>", "clock-frequency"),
    ("xen,coproc;\n            acme", 'xen,coproc; status = "disabled";\n acme', "status"),
    ("acme,gains", "vcoproc,private-memory = <0x8001>; acme,gains", "vcoproc,private-memory"),
    ("acme,gains", "vcoproc,private-memroy = <0x8000>; acme,gains", "False schema"),
    ("acme,gains", "vcoproc,refusal-seed = <1>; acme,gains", "False schema"),
    ('compatible = "acme,gpu"', 'compatible = "vcoproc,refuse"; vcoproc,refusal = "no"', "refusal"),
    ("xen,coproc;\n            acme", "xen,coproc = <1>;\n            acme", "xen,coproc"),
]


@pytest.mark.slow
def test_wrong_trees_are_not_valid(tmp_path: Path) -> None:
    blobs, wanted = {}, {}
    for old, new, what in WRONG:
        assert SYSTEM.count(old) == 1, old
        name = f"{old} -> {new}"
        blobs[name], wanted[name] = blob(SYSTEM.replace(old, new)), what
    found = complaints(tmp_path, blobs, *OURS)
    missed = {name: found[name] for name, what in wanted.items() if what not in str(found[name])}
    assert missed == {}


def test_what_the_schemas_refuse_is_refused_by_our_reader() -> None:
    lenient = {"xen,coproc = <1>"}  # a property without a value that has one marks the node too
    for old, new, _ in WRONG:
        if not any(part in new for part in lenient):
            with pytest.raises(InvalidConfig):
                parse_system(SYSTEM.replace(old, new), "t")
