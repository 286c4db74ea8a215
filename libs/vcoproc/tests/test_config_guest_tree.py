"""The fragment for a domain's drivers: source and blob say the same, in the form that xl takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from devicetree import dtlib
from hypothesis import given
from hypothesis import strategies as st

from config_trees import SYSTEM, content_of, need_dtc, run_dtc
from vcoproc.config.dts import read_tree
from vcoproc.config.dts_writer import write_source
from vcoproc.config.fdt import write_blob
from vcoproc.config.guest_tree import GuestLine, GuestRange, GuestVcoproc, guest_tree
from vcoproc.config.problems import Place
from vcoproc.config.trees import DtsNode, DtsProperty, Kind

AUDIO = GuestVcoproc(
    name="audio",
    coproc="dsp0",
    compatible="vcoproc,cortex-m4",
    ranges=(
        GuestRange("ctrl", 0x0A00_0000, 0x1000, False),
        GuestRange("mbox", 0x1_0B00_0000, 0x2000, True),
    ),
    lines=(GuestLine("irq", 64, True), GuestLine("event", 1019, False)),
    clock_hz=100_000_000,
    private_bytes=0x10000,
)
VIDEO = GuestVcoproc(
    "video", "gpu", 'odd "type"\\é', (GuestRange("all", 0xA0_0000, 0x1000, False),), (),
    5_000_000_000, None,
)  # fmt: skip
TREE = guest_tree([AUDIO, VIDEO], [(0x6000_0000, 0x40_0000)])


def test_source_is_what_a_reader_expects() -> None:
    assert (
        write_source(guest_tree([AUDIO], [(0x6000_0000, 0x40_0000)]))
        == """\
/dts-v1/;

/ {
	#address-cells = <0x2>;
	#size-cells = <0x2>;

	aliases {
		vcoproc0 = "/passthrough/coproc@a000000";
	};

	interrupt-controller {
		#address-cells = <0x0>;
		#interrupt-cells = <0x3>;
		interrupt-controller;
		phandle = <0xfde8>;
	};

	memory@60000000 {
		device_type = "memory";
		reg = <0x0 0x60000000 0x0 0x400000>;
	};

	passthrough {
		compatible = "simple-bus";
		ranges;
		#address-cells = <0x2>;
		#size-cells = <0x2>;
		interrupt-parent = <0xfde8>;

		coproc@a000000 {
			compatible = "vcoproc,cortex-m4";
			label = "audio";
			xen,vcoproc = "dsp0";
			reg = <0x0 0xa000000 0x0 0x1000 0x1 0xb000000 0x0 0x2000>;
			reg-names = "ctrl", "mbox";
			vcoproc,mapped = "mbox";
			interrupts = <0x0 0x20 0x4 0x0 0x3db 0x1>;
			interrupt-names = "irq", "event";
			clock-frequency = <0x5f5e100>;
			vcoproc,private-memory = <0x10000>;
		};
	};
};
"""
    )


def test_what_nobody_knows_and_what_is_not_there_is_left_out() -> None:
    video = read_tree(write_blob(TREE), "t").nodes["/passthrough/coproc@a00000"]
    assert set(video.properties) == {
        "compatible", "label", "xen,vcoproc", "reg", "reg-names", "clock-frequency",
    }  # fmt: skip
    assert video.properties["clock-frequency"].cells == (1, 705_032_704)
    assert video.properties["compatible"].data == 'odd "type"\\é\0'.encode()


def test_source_and_blob_say_the_same() -> None:
    blob, source = read_tree(write_blob(TREE), "t.dtb"), read_tree(write_source(TREE), "t.dts")
    assert content_of(blob) == content_of(source)
    assert blob.aliases == {
        "vcoproc0": "/passthrough/coproc@a000000",
        "vcoproc1": "/passthrough/coproc@a00000",
    }
    assert blob.phandles == {65000: "/interrupt-controller"}


def test_domain_without_vcoprocs_has_an_empty_fragment() -> None:
    tree = read_tree(write_blob(guest_tree([], [])), "t")
    assert tree.nodes["/passthrough"].children == ()


def test_dtc_and_dtlib_read_both_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "guest.dts"
    path.write_text(write_source(guest_tree([AUDIO], [(0x6000_0000, 0x40_0000)])))
    compiled = tmp_path / "guest.dtb"
    done = subprocess.run(
        [need_dtc(), "-O", "dtb", "-o", compiled, path], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    tree = guest_tree([AUDIO], [(0x6000_0000, 0x40_0000)])
    assert content_of(read_tree(compiled.read_bytes(), "t")) == content_of(
        read_tree(write_blob(tree), "t")
    )
    again = run_dtc("-I", "dtb", "-O", "dts", source=write_blob(tree)).decode()
    assert content_of(read_tree(again, "t")) == content_of(read_tree(compiled.read_bytes(), "t"))
    node = dtlib.DT(str(path)).get_node("vcoproc0")
    assert node.props["interrupts"].to_nums() == [0, 32, 4, 0, 987, 1]
    assert node.props["reg-names"].to_strings() == ["ctrl", "mbox"]


def test_any_tree_survives_its_source() -> None:
    """A tree with references, deletions and odd values, written and read again."""
    tree = read_tree(SYSTEM, "t")
    assert content_of(read_tree(write_source(tree.root), "t"))[:3] == content_of(tree)[:3]


@pytest.mark.slow
@given(st.binary(max_size=40), st.sampled_from(Kind))
def test_any_value_survives_source_and_blob(data: bytes, kind: Kind) -> None:
    if kind is Kind.TEXT:
        data += b"\0"
    here = Place("", 0)
    root = DtsNode("/", here, {"a": DtsProperty(here, data, kind)}, ())
    assert read_tree(write_source(root), "t").root.properties["a"].data == data
    assert read_tree(write_blob(root), "t").root.properties["a"].data == data
