"""Flattened device trees: what is read is what was written, and no bytes do harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_trees import SYSTEM, content_of, without_places
from vcoproc import limits
from vcoproc.config import parse_system
from vcoproc.config.dts import read_tree
from vcoproc.config.fdt import write_blob
from vcoproc.config.problems import Place
from vcoproc.config.trees import DtsNode, DtsProperty, Kind
from vcoproc.errors import InvalidConfig

TREE = read_tree(SYSTEM, "system.dts")
BLOB = write_blob(TREE.root, TREE.reserved)
# Offsets of the header: Devicetree Specification 0.4, section 5.2.
SIZE, STRUCTURE, STRINGS, RESERVED, VERSION, COMPATIBLE, STRINGS_SIZE, STRUCTURE_SIZE = (
    4,
    8,
    12,
    16,
    20,
    24,
    32,
    36,
)


def problem_of(blob: bytes) -> tuple[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        parse_system(blob, "system.dtb")
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == ("system.dtb", 0)
    return problem.what, problem.why


def patched(offset: int, value: int, blob: bytes = BLOB) -> bytes:
    return blob[:offset] + struct.pack(">I", value) + blob[offset + 4 :]


def word(offset: int) -> int:
    (value,) = struct.unpack_from(">I", BLOB, offset)
    return int(value)


def blob_of(*tokens: bytes) -> bytes:
    """A blob with this structure and the one string "a"."""
    structure = b"".join(tokens)
    header = struct.pack(
        ">10I", 0xD00DFEED, 58 + len(structure), 56, 56 + len(structure), 40, 17, 16, 0, 2,
        len(structure),
    )  # fmt: skip
    return header + bytes(16) + structure + b"a\0"


def begin(name: bytes = b"") -> bytes:
    return struct.pack(">I", 1) + name.ljust(len(name) + 4 & ~3, b"\0")


def prop(data: bytes = b"", name: int = 0) -> bytes:
    return struct.pack(">3I", 3, len(data), name) + data.ljust(len(data) + 3 & ~3, b"\0")


END_NODE, NOP, END = (struct.pack(">I", token) for token in (2, 4, 9))


def test_blob_says_what_its_source_says() -> None:
    assert content_of(read_tree(BLOB, "system.dtb")) == content_of(TREE)
    assert TREE.reserved == ((0x1000_0000, 0x4000),)
    config = parse_system(BLOB, "system.dtb")
    assert without_places(config) == without_places(parse_system(SYSTEM, "system.dts"))
    dsp, gpu = config.coprocs
    assert dict(dsp.platform_params) == {"acme,gains": "1 2 3", "acme,mode": "fast quiet"}
    assert (dsp.file, dsp.line, gpu.path) == ("system.dtb", 0, "/soc/gpu@10000")


def test_same_tree_gives_the_same_bytes() -> None:
    again = read_tree(BLOB, "system.dtb")
    assert write_blob(again.root, again.reserved) == BLOB


def test_problem_in_a_blob_names_the_node_instead_of_a_line() -> None:
    wrong = SYSTEM.replace("<2500>", "<1>").replace("            xen,coproc;\n", "", 1)
    tree = read_tree(wrong, "system.dts")
    with pytest.raises(InvalidConfig) as caught:
        parse_system(write_blob(tree.root), "system.dtb")
    assert [(p.line, p.what) for p in caught.value.problems] == [
        (0, "/chosen/shared/dsp0: slice-us"),
        (0, "/soc/dsp@f0000000"),
    ]
    assert str(caught.value.problems[0]).startswith("system.dtb: /chosen/shared/dsp0: slice-us: 1")
    again = SYSTEM.replace('"/soc/gpu@10000"', "<&dsp0>")
    with pytest.raises(InvalidConfig, match="is shared already by the entry dsp0"):
        parse_system(write_blob(read_tree(again, "t").root), "system.dtb")


@pytest.mark.parametrize("reference", ["&dsp0", '"/soc/dsp@f0000000"', '"main-dsp"', '"dsp"'])
def test_coproc_of_a_blob_is_text_or_a_phandle_by_its_bytes(reference: str) -> None:
    source = SYSTEM.replace("aliases {", "aliases { dsp = &dsp0;")  # "dsp" has four bytes too
    source = source.replace("coproc = <&dsp0>;", f"coproc = {reference};", 1)
    blob = write_blob(read_tree(source, "t").root)
    assert parse_system(blob, "t").coprocs[0].path == "/soc/dsp@f0000000"


def test_version_16_has_no_size_of_the_structure() -> None:
    # The strings come last here, so the structure ends before them with its end token.
    blob = patched(VERSION, 16, patched(STRUCTURE_SIZE, 0xFFFF_FFFF))
    assert content_of(read_tree(blob, "t")) == content_of(TREE)
    assert content_of(read_tree(patched(VERSION, 18), "t")) == content_of(TREE)


def test_older_and_newer_formats_are_refused_with_what_to_do() -> None:
    assert "version 3; 16 and 17 can be read (`dtc" in problem_of(patched(VERSION, 3))[1]
    newer = patched(VERSION, 18, patched(COMPATIBLE, 18))
    assert "version 18" in problem_of(newer)[1]


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (BLOB[:20], "ends within the header"),
        (BLOB[:-1], "bytes, and says"),
        (patched(SIZE, 30), "and says 30"),
        (patched(SIZE, len(BLOB) - 1), "strings block"),
        (patched(STRUCTURE, word(STRUCTURE) + 2), "is not aligned"),
        (patched(STRUCTURE, 0), "structure block at 0x0"),
        (patched(STRUCTURE, 0xFFFF_FFFC), "structure block at 0xfffffffc"),
        (patched(STRUCTURE_SIZE, 0xFFFF_FFFF), "structure block"),
        (patched(STRUCTURE_SIZE, word(STRUCTURE_SIZE) - 4), "the structure has no end"),
        (patched(STRINGS, len(BLOB)), "strings block"),
        (patched(STRINGS_SIZE, 0), "is not within the strings"),
        (patched(RESERVED, 44), "is not aligned"),
        (patched(RESERVED, len(BLOB) + 8 & ~7), "memory reservation block"),
        (patched(RESERVED, word(STRUCTURE)), "memory reservation block|has no end"),
        (patched(word(STRUCTURE), 7), "unknown token 0x7"),
        (BLOB + bytes(limits.CONFIG_BYTES_MAX), "larger than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_header_or_block_is_named(blob: bytes, why: str) -> None:
    what, said = problem_of(blob)
    assert what.startswith("device tree blob")
    assert any(part in said for part in why.split("|")), said


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ((END,), "has no root"),
        ((begin(), END), "ends within a node"),
        ((begin(), END_NODE), "has no end"),
        ((begin(), END_NODE, END_NODE, END), "that never began"),
        ((begin(), END_NODE, begin(), END_NODE, END), "second root"),
        ((prop(), END), "is in no node"),
        ((begin(), prop(), prop(), END_NODE, END), "the property a is there twice"),
        ((begin(), prop(name=1), END_NODE, END), "a property has no name"),
        ((begin(), prop(name=2), END_NODE, END), "is not within the strings"),
        ((begin(), prop(b"x")[:-5] + b"\xff" * 4 + b"x\0\0\0"), "not within"),
        ((begin(), begin(b"b"), END_NODE, prop(), END_NODE, END), "comes after a node"),
        (
            (begin(), begin(b"b"), END_NODE, begin(b"b"), END_NODE, END_NODE, END),
            "b is there twice",
        ),
        ((begin(), begin(b""), END_NODE, END_NODE, END), "a node has no name"),
        ((begin(), begin(b"a/b"), END_NODE, END_NODE, END), "'a/b' is no name"),
        ((begin(), begin(b"\xff"), END_NODE, END_NODE, END), "is no name"),
        ((begin(), begin(b"b" * 129), END_NODE, END_NODE, END), "longer than 128"),
        ((begin() + b"\0\0\0\1" + b"b" * 40,), "longer than 128"),
        ((*(begin(b"b") for _ in range(40)), END), "nested deeper than 16"),
        ((begin(), *(begin(b"%d" % i) + END_NODE for i in range(9000)), END), "more than 8192"),
        ((begin(), struct.pack(">I", 3), END), "ends within a property"),
        ((begin(), struct.pack(">3I", 3, 0xFFFF_FFFF, 0), END), "a value of 4294967295 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_structure_is_named(tokens: tuple[bytes, ...], why: str) -> None:
    assert why in problem_of(blob_of(*tokens))[1]


def test_problem_within_a_node_names_it() -> None:
    tokens = (begin(), begin(b"soc"), prop(), prop(), END_NODE, END_NODE, END)
    assert problem_of(blob_of(*tokens))[0] == "device tree blob, in /soc"


def test_what_is_no_damage_is_read() -> None:
    tree = read_tree(blob_of(NOP, begin(), NOP, prop(b"x"), END_NODE, NOP, END) + bytes(8), "t")
    assert tree.root.properties["a"].data == b"x"


def test_phandles_and_aliases_of_a_blob_are_checked() -> None:
    twice = "/dts-v1/; / { a { linux,phandle = <5>; }; b { phandle = [00 00 00 05]; }; };"
    tree = read_tree(twice.replace("linux,phandle", "x"), "t")
    assert tree.phandles == {5: "/b"}
    nodes = tuple(
        DtsNode(f"/{name}", Place("t", 0), {key: DtsProperty(Place("t", 0), data, Kind.BYTES)}, ())
        for name, key, data in (
            ("a", "linux,phandle", b"\0\0\0\5"),
            ("b", "phandle", b"\0\0\0\5"),
            ("aliases", "x", b"/nowhere\0"),
        )
    )
    with pytest.raises(InvalidConfig) as caught:
        read_tree(write_blob(DtsNode("/", Place("t", 0), {}, nodes)), "t.dtb")
    assert [(p.what, p.why) for p in caught.value.problems] == [
        ("/b: phandle", "5 is that of /a already"),
        ("/aliases: x", "'/nowhere' is no path of a node"),
    ]


def config_or_refusal(blob: bytes) -> None:
    try:
        parse_system(blob, "any")
    except InvalidConfig as error:
        assert error.problems


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_give_a_config_or_a_refusal(tail: bytes) -> None:
    config_or_refusal(BLOB[:4] + tail)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_any_damage_gives_a_config_or_a_refusal(data: st.DataObject) -> None:
    blob = bytearray(BLOB)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 4) | st.integers(0, 10).map(lambda n: 4 * n))
        blob[at : at + 4] = data.draw(
            st.binary(max_size=8)
            | st.sampled_from(
                [END_NODE, END, NOP, begin(), prop(), b"\0\0\0\0", b"\xff\xff\xff\xff"]
            )
        )
    config_or_refusal(bytes(blob))
