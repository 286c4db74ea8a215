"""Our readers beside dtc, the reference: source that it compiles, blobs that it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from devicetree import dtlib

from config_trees import SYSTEM, content_of, run_dtc, without_places
from vcoproc.config import parse_system
from vcoproc.config.dts import read_tree
from vcoproc.config.fdt import write_blob
from vcoproc.config.files import IncludedFiles
from vcoproc.errors import InvalidConfig

EXAMPLES = Path(__file__).parents[3] / "examples"

TREES = {
    "labels and references": """
        / { one: a { x = <&two 5 &one>; path = &two; both = <1>, &two, "text"; };
            two: three: b@1 { phandle = <7>; inner: c { ref = <&{/a}>, <&{/b@1/c}>; }; };
            d { again = <&four>; four: e { self: phandle = <&four>; }; }; };
        &two { added; x = <1>; x = <2>; };
        extra: &{/a} { more { y; }; };
        &one { use = <&extra>; };""",
    "deletions": """
        / { a { x; y; keep: z { }; }; b: b { }; c: c { inner: i { }; }; };
        / { a { /delete-property/ x; /delete-node/ z; }; };
        /delete-node/ &b;
        /delete-node/ &{/c/i};
        / { b { back; }; a { y = "again"; }; };""",
    "omit without reference": """
        / { /omit-if-no-ref/ gone: a { }; /omit-if-no-ref/ stays: b { }; c: c { r = <&stays>; }; };
        /omit-if-no-ref/ &c;""",
    "reserved memory": """
        /memreserve/ 0x1000 0x2000;
        l: /memreserve/ 0xffffffff00000000 (1 << 40);
        / { };""",
    "character literals": r"""
        / { a = <'a' '\n' '\0' '\x41' '\101' '\''>; b = /bits/ 8 <'z' 0xff>; };""",
    "strings": r"""
        / { a = "", "b\"\\\n\t\x41\101", "c", "zero\0inside"; é = "no"; };""".replace("é", "e"),
    "sizes": """
        / { a = /bits/ 8 <1 255 (-1)>; b = /bits/ 16 <0x1234 (-2)>; c = /bits/ 64 <(-1) 1>;
            d = [00 1122 3 3ff]; e = [ 01 02 ], <3>; f = <>; g = []; h = l1: <l2: 1 l3: 2> l4:;
            i = <1>, <2 3>, "four", [05]; };""".replace("3 3ff", "33 ff"),
    "arithmetic": """
        / { a = <(1 + 2 * 3 - 4 / 2)>, <((1 + 2) * 3 % 4)>, <(-5)>, <(~0)>, <(!0)>, <(!7)>;
            b = <(1 << 31)>, <(0xf0 >> 4)>, <(5 & 6)>, <(5 | 6)>, <(5 ^ 6)>, <(5 && 0)>, <(0 || 9)>;
            c = <(1 < 2)>, <(2 <= 1)>, <(1 > 2)>, <(2 >= 2)>, <(1 == 1)>, <(1 != 1)>;
            d = <(1 ? 2 : 3)>, <(0 ? 2 : 0 ? 4 : 5)>, <(10UL)>, <0x10>, <010>, <7L>, <8ULL>;
            e = /bits/ 64 <((-1) / 2) ((0 - 1) >> 4) (0xffffffffffffffff + 2)>;
            f = /bits/ 64 <(0xffffffffffffffff * 3 / 2) ((-7) % 4) ((-1) > 1)>; };""",
    "names and comments": """
        // a comment "with { quotes
        / { /* and /include/ "nothing" */ a,b._+?#x = <1>; #size-cells = <1>;
            1two = <3>; \\weird = <4>; node,a.b_c+d-e@1f { }; };
        / { };""".replace("\\\\", "\\"),
    "aliases that only dtc's warnings know": """
        / { aliases { i2c_arm = &bus; UPPER = "/bus"; }; bus: bus { }; };""",
    "two roots": "/ { a { x = <1>; }; }; / { b; a { y = <2>; }; };",
}


@pytest.mark.parametrize("name", TREES)
def test_source_reads_as_dtc_compiles_it(name: str) -> None:
    source = "/dts-v1/;\n" + TREES[name]
    theirs = run_dtc("-I", "dts", "-O", "dtb", source=source.encode())
    ours = read_tree(source, "tree.dts")
    assert content_of(ours) == content_of(read_tree(theirs, "tree.dtb"))
    again = run_dtc("-I", "dtb", "-O", "dtb", source=write_blob(ours.root, ours.reserved))
    assert content_of(read_tree(again, "again.dtb")) == content_of(ours)


WRONG = [
    "/ { a = <(1 / 0)>; };",
    "/ { a = <0x100000000>; };",
    "/ { a = /bits/ 8 <256>; };",
    "/ { a = /bits/ 16 <(-65537)>; };",
    "/ { a = /bits/ 64 <0x1ffffffffffffffff>; };",
    "/ { a = <089>; };",
    "/ { a = /bits/ 64 <&b>; b: b { }; };",
    "/ { a = <&nobody>; };",
    "/ { l: a { }; l: b { }; };",
    "/ { a { phandle = <1>; }; b { phandle = <1>; }; };",
    "&nobody { };",
    "/ { a = ''; };",
    "/ { a { } };",
    '/include/ "nowhere.dtsi"',
]


@pytest.mark.parametrize("text", WRONG)
def test_what_dtc_refuses_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        run_dtc("-I", "dts", "-O", "dtb", source=b"/dts-v1/;\n" + text.encode())
    with pytest.raises(InvalidConfig) as caught:
        read_tree("/dts-v1/;\n" + text, "tree.dts", IncludedFiles())
    assert caught.value.problems[0].line in (0, 2)


def test_included_files_are_found_where_dtc_finds_them(tmp_path: Path) -> None:
    for name, text in {
        "tree.dts": '/dts-v1/; /include/ "a.dtsi"\n/ { d = /incbin/("data", 2, 3); '
        'all = /incbin/("data"); x { /include/ "inc.dtsi" }; };',
        "a.dtsi": '/ { a; };\n/include/ "sub/b.dtsi"',
        "sub/b.dtsi": '/dts-v1/;\n/include/ "c.dtsi"',
        "sub/c.dtsi": "/ { from = <1>; };",
        "c.dtsi": "/ { from = <2>; };",
        "one/inc.dtsi": "from = <3>;",
        "two/inc.dtsi": "from = <4>;",
        "data": "0123456789",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace("/dts-v1/;\n/inc", "/inc"))
    path, folders = tmp_path / "tree.dts", [tmp_path / "one", tmp_path / "two"]
    theirs = run_dtc("-O", "dtb", "-i", folders[0], "-i", folders[1], path)
    ours = read_tree(path.read_bytes(), str(path), IncludedFiles(folders))
    assert content_of(ours) == content_of(read_tree(theirs, "t"))
    assert ours.root.properties["from"].data == b"\0\0\0\1"


@pytest.mark.parametrize("version", [16, 17])
def test_versions_that_dtc_writes_are_read(version: int) -> None:
    blob = run_dtc("-O", "dtb", "-V", str(version), source=SYSTEM.encode())
    assert content_of(read_tree(blob, "t")) == content_of(read_tree(SYSTEM, "t"))
    config = parse_system(blob, "t")
    assert without_places(config) == without_places(parse_system(SYSTEM, "t"))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_before_16_are_refused(version: int) -> None:
    blob = run_dtc("-O", "dtb", "-V", str(version), source=SYSTEM.encode())
    with pytest.raises(InvalidConfig, match=f"of version {version}; 16 and 17 can be read"):
        read_tree(blob, "t")


def test_padded_blobs_are_read() -> None:
    for option in ("-p1000", "-S8192", "-a64", "-R10"):
        blob = run_dtc("-O", "dtb", option, source=SYSTEM.encode())
        assert content_of(read_tree(blob, "t")) == content_of(read_tree(SYSTEM, "t"))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.dts")), ids=lambda path: path.name)
def test_examples_compile_to_the_same_configuration(path: Path) -> None:
    blob = run_dtc("-O", "dtb", "-i", EXAMPLES / "include", path)
    files = IncludedFiles([EXAMPLES / "include"])
    ours = parse_system(path.read_bytes(), str(path), files)
    assert without_places(parse_system(blob, "t")) == without_places(ours)


def test_our_blob_is_what_dtlib_reads_of_the_source(tmp_path: Path) -> None:
    """dtlib, unbounded and as released, reads what dtc writes as source of our blob."""
    source = run_dtc("-I", "dtb", "-O", "dts", source=write_blob(read_tree(SYSTEM, "t").root))
    path = tmp_path / "tree.dts"
    path.write_bytes(source)
    theirs = {
        node.path: {name: bytes(prop.value) for name, prop in node.props.items()}
        for node in dtlib.DT(str(path)).node_iter()
    }
    ours = read_tree(SYSTEM, "t")
    assert theirs == {
        path: {name: found.data for name, found in node.properties.items()}
        for path, node in ours.nodes.items()
    }
    assert not re.search(rb"__symbols__", source)
