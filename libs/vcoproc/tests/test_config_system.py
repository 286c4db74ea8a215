"""The system tree: what is read, and that every mistake is found on its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc import limits
from vcoproc.config import (
    LineConfig,
    RangeConfig,
    SystemConfig,
    parse_system,
    read_system_file,
)
from vcoproc.errors import InvalidConfig, NotFound

EXAMPLES = Path(__file__).parents[3] / "examples"

TREE = """\
/dts-v1/;
/ {
    #address-cells = <1>;
    #size-cells = <1>;
    aliases { main-dsp = &dsp0; };
    chosen {
        shared {
            compatible = "vcoproc,shared-coprocs";
            dsp0 {
                coproc = <&dsp0>;
                scheduler = "wrr";
                slice-us = <2500>;
                max-vcoprocs = <3>;
                refusal-deadline-us = <40000>; memory-limit = <0x1 0x0>;
                scheduler-params { frame-us = <10000>; boost = <1>; };
            };
        };
    };
    soc {
        ranges;
        dsp0: dsp@f0000000 {
            compatible = "acme,dsp", "vcoproc,cortex-m4";
            xen,coproc;
            reg = <0xf0000000 0x1000>, <0xf0001000 0x2000>;
            reg-names = "ctrl", "mbox";
            interrupts = <64>, <66>;
            interrupt-names = "irq", "fault";
            vcoproc,private-memory = <0x8000>;
            clock-frequency = <250000000>;
        };
        gpu@1 { xen,coproc; };
        gpu@10 { compatible = "acme,gpu"; xen,coproc; reg = <0x10 0x1000>; };
    };
};
"""


def changed(old: str, new: str, tree: str = TREE) -> str:
    assert tree.count(old) == 1, f"{old!r} must be in the tree once"
    return tree.replace(old, new)


def problems_of(source: str | bytes) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        parse_system(source, "tree.dts")
    assert {problem.file for problem in caught.value.problems} == {"tree.dts"}
    return [(p.line, p.what, p.why) for p in caught.value.problems]


def the_problem(source: str | bytes) -> tuple[int, str, str]:
    (problem,) = problems_of(source)
    return problem


def line_of(source: str, text: str) -> int:
    assert source.count(text) == 1
    return source[: source.index(text)].count("\n") + 1


def test_reads_every_setting() -> None:
    (dsp,) = parse_system(TREE, "tree.dts").coprocs
    assert dsp.name == "dsp0"
    assert dsp.path == "/soc/dsp@f0000000"
    assert dsp.aliases == ("main-dsp",)
    assert dsp.compatible == "acme,dsp"
    assert dsp.ranges == (
        RangeConfig("ctrl", 0xF000_0000, 4096),
        RangeConfig("mbox", 0xF000_1000, 8192),
    )
    assert dsp.lines == (LineConfig("irq", 64), LineConfig("fault", 66))
    assert dsp.private_bytes == 32 * 1024
    assert dsp.clock_hz == 250_000_000
    assert dsp.scheduler == "wrr"
    assert dsp.scheduler_params == (("boost", 1), ("frame_us", 10_000))
    assert dsp.slice_ns == 2_500_000
    assert dsp.vcoprocs_max == 3
    assert dsp.refusal_deadline_ns == 40_000_000
    assert dsp.memory_bytes_max == 1 << 32
    assert dsp.instances == 0
    assert dsp.line == 9


def test_defaults() -> None:
    source = TREE
    for line in TREE.splitlines():
        if any(
            word in line for word in ("slice-us", "max-vc", "refusal", "params", "sched", "clock")
        ):
            source = source.replace(line + "\n", "")
    source = changed("            vcoproc,private-memory = <0x8000>;\n", "", source)
    (dsp,) = parse_system(source, "tree.dts").coprocs
    assert (dsp.scheduler, dsp.scheduler_params) == ("rr", ())
    assert dsp.slice_ns == limits.SLICE_NS_DEFAULT
    assert dsp.vcoprocs_max == limits.VCOPROCS_PER_COPROC_MAX
    assert dsp.refusal_deadline_ns == limits.SWITCH_DEADLINE_NS
    assert dsp.private_bytes == 64 * 1024  # what docs/configuration.md promises
    assert dsp.clock_hz == 100_000_000
    assert dsp.memory_bytes_max == 0  # no limit


def test_bytes_and_text_read_the_same() -> None:
    assert parse_system(TREE.encode(), "tree.dts") == parse_system(TREE, "tree.dts")


@pytest.mark.parametrize(
    "reference", ["<&dsp0>", "&dsp0", '"/soc/dsp@f0000000"', '"main-dsp"', "<&{/soc/dsp@f0000000}>"]
)
def test_coproc_by_phandle_path_or_alias(reference: str) -> None:
    source = changed("coproc = <&dsp0>;", f"coproc = {reference};")
    assert parse_system(source, "t").coprocs[0].path == "/soc/dsp@f0000000"


def test_path_of_another_node_is_never_matched_by_prefix() -> None:
    # Xen's implementation compared strlen(path) characters: "/soc/gpu@1" and even "" found a node.
    source = changed("        gpu@1 { xen,coproc; };\n", "")
    for path in ("/soc/gpu@1", "/soc/dsp", "/soc/dsp@f0000000/", "//soc/dsp@f0000000", "main", ""):
        wrong = changed("coproc = <&dsp0>;", f'coproc = "{path}";', source)
        line, what, why = the_problem(wrong)
        assert (line, what) == (10, "/chosen/shared/dsp0: coproc")
        assert "no path of a node and no alias" in why


def test_find_by_identifier_path_and_alias_only_as_a_whole() -> None:
    system = parse_system(TREE, "tree.dts")
    for reference in ("dsp0", "/soc/dsp@f0000000", "main-dsp"):
        assert system.find(reference).name == "dsp0"
    for reference in (
        "dsp",
        "dsp0-0",
        "/soc/dsp@f000000",
        "/soc/dsp@f00000000",
        "/soc",
        "",
        "main",
    ):
        with pytest.raises(NotFound) as caught:
            system.find(reference)
        assert (caught.value.kind, caught.value.name) == ("coproc", reference)


def test_template_makes_named_instances() -> None:
    system = parse_system(changed("slice-us", "instances = <3>; slice-us"), "tree.dts")
    (template,) = system.coprocs
    assert template.is_template and template.instances == 3
    second = template.instance(1)
    assert (second.name, second.instances, second.aliases) == ("dsp0-1", 0, ())
    assert (second.path, second.slice_ns) == (template.path, template.slice_ns)
    assert system.find("dsp0-2") == template.instance(2)
    for name in ("dsp0-3", "dsp0-02", "dsp0--1", "dsp0-", "dsp0-\u0661"):
        with pytest.raises(NotFound):
            system.find(name)
    with pytest.raises(NotFound):
        template.instance(-1)
    with pytest.raises(NotFound):
        second.instance(0)


def test_node_without_the_mark_may_not_be_shared() -> None:
    source = changed("            xen,coproc;\n", "")
    line, what, why = the_problem(source)
    assert (line, what) == (line_of(source, "dsp0: dsp@f0000000"), "/soc/dsp@f0000000")
    assert "xen,coproc" in why


def test_node_must_have_a_compatible() -> None:
    source = changed('            compatible = "acme,dsp", "vcoproc,cortex-m4";\n', "")
    line, what, _ = the_problem(source)
    assert (line, what) == (line_of(source, "dsp0: dsp@f0000000"), "/soc/dsp@f0000000: compatible")


WRONG = [
    ('scheduler = "wrr";', "scheduler = <1>;", "scheduler", "one string"),
    ('scheduler = "wrr";', 'scheduler = "";', "scheduler", "not empty"),
    ('scheduler = "wrr";', 'shceduler = "wrr";', "shceduler", "did you mean 'scheduler'?"),
    ("slice-us = <2500>;", "slice-ms = <3>;", "slice-ms", "did you mean 'slice-us'?"),
    ("slice-us = <2500>;", "slice-us = <99>;", "slice-us", "between 100 and 10000000"),
    ("slice-us = <2500>;", "slice-us = <10000001>;", "slice-us", "between 100 and 10000000"),
    ("slice-us = <2500>;", 'slice-us = "5ms";', "slice-us", "one number"),
    ("slice-us = <2500>;", "slice-us = <1 2 3>;", "slice-us", "one number"),
    ("slice-us = <2500>;", "slice-us;", "slice-us", "one number"),
    ("max-vcoprocs = <3>;", "max-vcoprocs = <0>;", "max-vcoprocs", "between 1 and 256"),
    ("max-vcoprocs = <3>;", "max-vcoprocs = <257>;", "max-vcoprocs", "between 1 and 256"),
    ("max-vcoprocs = <3>;", "instances = <0>;", "instances", "between 1 and 64"),
    ("= <40000>;", "= <500001>;", "refusal-deadline-us", "between 1 and 500000"),
    ("= <40000>;", "= <0>;", "refusal-deadline-us", "between 1 and 500000"),
    ("coproc = <&dsp0>;", "coproc = <99>;", "coproc", "phandle 99"),
    ("main-dsp = &dsp0", 'main-dsp = "/nowhere"', "main-dsp", "'/nowhere' is no path of a node"),
    ("main-dsp = &dsp0", "main-dsp = <1>", "main-dsp", "is no path of a node"),
    ("<0x1 0x0>", "<0>", "memory-limit", "0 is not between 1 and 4398046511104"),
    ("<0x1 0x0>", "<0x400 0x1>", "memory-limit", "4398046511105 is not between"),
    ("<0x1 0x0>", '"1G"', "memory-limit", "one number"),
    ("coproc = <&dsp0>;", "coproc = <&dsp0 1>;", "coproc", "one reference"),
    ("boost = <1>", 'boost = "a lot"', "boost", "one number"),
    ("boost = <1>", "frame_us = <1>", "frame_us", "given twice"),
    ("boost = <1>", "9lives = <1>", "9lives", "no name of a parameter"),
    (
        "xen,coproc;\n            reg =",
        'xen,coproc; status = "disabled";\n reg =',
        "status",
        "disa",
    ),
    ("vcoproc,private-memory", "vcoproc,private-memroy", "vcoproc,private-memroy", "did you mean"),
    ("<0x8000>", "<0x8001>", "vcoproc,private-memory", "multiple of 4096"),
    ("<0x8000>", "<0x1001000>", "vcoproc,private-memory", "between 0 and 16777216"),
    ("<250000000>", "<0>", "clock-frequency", "between"),
    ("<0xf0001000 0x2000>", "<0xf0001000>", "reg", "not a multiple of 2"),
    ("<0xf0001000 0x2000>", "<0xf0001000 0x2001>", "reg", "range mbox must begin and end"),
    ("<0xf0001000 0x2000>", "<0xf0001800 0x1000>", "reg", "range mbox must begin and end"),
    ("<0xf0001000 0x2000>", "<0xf0001000 0>", "reg", "range mbox must have 1 to"),
    ('"ctrl", "mbox"', '"ctrl"', "reg-names", "must have 2 names"),
    ('"ctrl", "mbox"', '"ctrl", "ctrl"', "reg-names", "'ctrl' is given twice"),
    ('"ctrl", "mbox"', '"ctrl", "a,b"', "reg-names", "name 1 'a,b' must be of"),
    ("interrupts = <64>, <66>;", "interrupts = <64>, <64>;", "interrupts", "64 is given twice"),
    ("interrupts = <64>, <66>;", "interrupts = <64>, <1020>;", "interrupts", "above 1019"),
    ("interrupts = <64>, <66>;", 'interrupts = "x";', "interrupts", "must be numbers"),
]


@pytest.mark.parametrize(("old", "new", "name", "why"), WRONG)
def test_each_mistake_is_named_with_its_line(old: str, new: str, name: str, why: str) -> None:
    source = changed(old, new)
    line, what, said = the_problem(source)
    assert what.endswith(f": {name}")
    assert why in said
    if f"{name} " in source or f"{name};" in source:
        expected = [n for n, text in enumerate(source.splitlines(), 1) if f"{name}" in text]
        assert line in expected, source.splitlines()[line - 1]


def test_everything_wrong_is_reported_at_once_in_the_order_of_lines() -> None:
    source = changed("slice-us = <2500>;", "slice-us = <1>;")
    source = changed("max-vcoprocs = <3>;", "max-vcoproc = <3>;", source)
    source = changed("            xen,coproc;\n", "", source)
    source = changed("<0x8000>", "<1>", source)
    found = problems_of(source)
    assert [what.rpartition(" ")[2] for _, what, _ in found] == [
        "slice-us",
        "max-vcoproc",
        "/soc/dsp@f0000000",
        "vcoproc,private-memory",
    ]
    assert [line for line, _, _ in found] == sorted(line for line, _, _ in found)
    with pytest.raises(InvalidConfig, match=r"tree\.dts:12: .*slice-us: 1 is not between"):
        parse_system(source, "tree.dts")


SECOND = """
            {name} {{ coproc = {coproc}; {more} }};
        }};
    }};
    soc {{"""


def with_second(name: str, coproc: str, more: str = "") -> str:
    old = "\n        };\n    };\n    soc {"
    return changed(old, SECOND.format(name=name, coproc=coproc, more=more))


def test_one_node_cannot_be_shared_twice() -> None:
    line, what, why = the_problem(with_second("again", "<&dsp0>"))
    assert (line, what) == (17, "coproc again")
    assert "entry on line 9" in why


def test_physical_ranges_of_two_coprocs_may_not_overlap() -> None:
    source = with_second("gpu", '"/soc/gpu@10"')
    gpu = 'reg = <0xf0002000 0x1000>; reg-names = "all"'
    source = changed("reg = <0x10 0x1000>", gpu, source)
    line, what, why = the_problem(source)
    assert (line, what) == (17, "coproc gpu")
    assert why == "range all overlaps range mbox of coproc dsp0"
    assert len(parse_system(source.replace("0xf0002000", "0xf0003000"), "t").coprocs) == 2


def test_names_of_instances_and_aliases_must_be_unambiguous() -> None:
    gpu = 'reg = <0x10000 0x1000>; reg-names = "all"'
    clash = with_second("many-1", '"/soc/gpu@10"')
    clash = changed("reg = <0x10 0x1000>", gpu, clash)
    clash = changed("            dsp0 {\n", "            many {\n", clash)
    assert len(parse_system(clash, "t").coprocs) == 2
    clash = changed("slice-us", "instances = <2>; slice-us", clash)
    assert "'many-1' is also that of the entry on line 9" in the_problem(clash)[2]
    alias = changed("many-1 {", "main-dsp {", clash)
    assert "alias 'main-dsp' is the name of the entry on line 17" in the_problem(alias)[2]


def test_identifier_must_be_a_good_name() -> None:
    for name in ("dsp@0", "d,sp", "a" * 64):
        assert "the identifier" in the_problem(changed("            dsp0 {", f" {name} {{"))[2]
    long = changed("            dsp0 {", f"{'a' * 62} {{ instances = <4>;")
    assert "too long" in the_problem(long)[2]


def test_tree_must_say_once_what_is_shared() -> None:
    assert "has 0" in the_problem("/dts-v1/; / { };")[2]
    again = 'shared { compatible = "vcoproc,shared-coprocs"; }; other {'
    assert "has 2" in the_problem(changed("shared {", again))[2]
    empty = '/dts-v1/; / { chosen { a { compatible = "vcoproc,shared-coprocs"; }; }; };'
    assert "shares 0 coprocs" in the_problem(empty)[2]


def test_unexpected_nodes_and_properties_in_the_entries() -> None:
    found = problems_of(changed("scheduler-params {", "schedular-params {"))
    assert found[0][2].endswith("did you mean 'scheduler-params'?")
    found = problems_of(changed("shared {", "shared { slice-us = <1000>;"))
    assert found[0][1] == "/chosen/shared: slice-us"
    found = problems_of(changed("boost = <1>;", "boost { };"))
    assert "not nodes" in found[0][2]


def test_cells_of_the_bus_are_those_of_the_nearest_node_above() -> None:
    wide = changed("ranges;", "#address-cells = <2>; #size-cells = <2>; ranges;")
    wide = changed(
        "reg = <0xf0000000 0x1000>, <0xf0001000 0x2000>;",
        "reg = <0x1 0xf0000000 0x0 0x1000>, <0x1 0xf0001000 0x0 0x2000>;",
        wide,
    )
    ranges = parse_system(wide, "t").coprocs[0].ranges
    assert ranges[1] == RangeConfig("mbox", 0x1_F000_1000, 0x2000)


def test_addresses_are_translated_through_the_bus() -> None:
    local = changed("ranges;", "ranges = <0x0 0xe0000000 0x1000>, <0x10000 0xd0000000 0x10000>;")
    local = changed("reg = <0xf0000000 0x1000>, <0xf0001000 0x2000>;", "REG", local)
    good = changed("REG", "reg = <0x0 0x1000>, <0x12000 0x2000>;", local)
    ranges = parse_system(good, "t").coprocs[0].ranges
    assert [r.base for r in ranges] == [0xE000_0000, 0xD000_2000]
    bad = changed("REG", "reg = <0x0 0x1000>, <0x1f000 0x2000>;", local)
    assert "in none of the `ranges` of /soc" in the_problem(bad)[2]


def test_interrupts_of_a_gic_are_spis() -> None:
    # Binding arm,gic: <type number flags>, SPI 0 is interrupt 32.
    gic = changed(
        "soc {", "gic: gic { #interrupt-cells = <3>; };\n soc { interrupt-parent = <&gic>;"
    )
    spis = changed("<64>, <66>", "<0 32 4>, <0 34 1>", gic)
    assert parse_system(spis, "t").coprocs[0].lines == (
        LineConfig("irq", 64),
        LineConfig("fault", 66),
    )
    ppi = changed("<64>, <66>", "<1 7 4>, <0 34 1>", gic)
    assert "line irq is not an SPI" in the_problem(ppi)[2]
    assert "3 for each line" in the_problem(gic)[2]


SYNTAX = [
    ('scheduler = "wrr"', 'scheduler "wrr"', 11, "expected"),
    ("slice-us = <2500>;", "slice-us = <2500>", 13, "expected ';' or ','"),
    ("slice-us = <2500>;", "slice-us = <25 00;", 12, "expected number"),
    ("slice-us = <2500>;", "slice-us = <089>;", 12, "malformed"),
    ("slice-us = <2500>;", "slice-us = <(1 << 40000000000)>;", 12, "shift"),
    ("slice-us = <2500>;", "slice-us = <(1 << (0 - 1))>;", 12, "shift"),
    ("slice-us = <2500>;", "slice-us = <(1 / 0)>;", 12, "division by zero"),
    ("slice-us = <2500>;", "slice-us = <0x100000000>;", 12, "32 bits"),
    ("slice-us = <2500>;", "slice-us = <&nothing>;", 12, "undefined node label 'nothing'"),
    ("slice-us = <2500>;", '/include/ "/etc/passwd"', 12, "/include/ is not supported"),
    ("slice-us = <2500>;", 'x = /incbin/("/dev/zero");', 12, "/incbin/ is not supported"),
    ("slice-us = <2500>;", "dsp0: x;", 21, "Label 'dsp0' appears"),
    ("main-dsp = &dsp0", '"', 5, "parse error|expected"),
]


@pytest.mark.parametrize(("old", "new", "line", "why"), SYNTAX)
def test_syntax_error_has_its_line(old: str, new: str, line: int, why: str) -> None:
    found_line, what, said = problems_of(changed(old, new))[0]
    assert what == "device tree"
    assert any(part in said for part in why.split("|")), said
    assert found_line == line, said


def test_an_alias_to_nothing_hides_no_other_mistake() -> None:
    source = changed("main-dsp = &dsp0", 'main-dsp = "/nowhere"')
    source = changed("<250000000>", "<1>", source)
    assert [(what.rpartition("/")[2], why) for _, what, why in problems_of(source)] == [
        ("aliases: main-dsp", "'/nowhere' is no path of a node"),
        ("dsp@f0000000: clock-frequency", "1 is not between 1000 and 10000000000"),
    ]


def test_a_node_that_is_shared_twice_is_wrong_once() -> None:
    source = changed("dsp0 {", "dsp9 { coproc = <&dsp0>; }; dsp0 {")
    source = changed("<0x8000>", "<1>", source)
    assert sum("multiple of 4096" in why for _, _, why in problems_of(source)) == 1


def test_lines_are_right_after_comments_and_strings_of_several_lines() -> None:
    head = changed("/dts-v1/;\n", '/dts-v1/;\n/* one\ntwo */\n/ { note = "a\n#b"; };\n\n')
    line, _, _ = the_problem(changed("slice-us = <2500>;", "slice-us = <1>;", head))
    assert line == 12 + 5
    line, _, _ = the_problem(changed("slice-us = <2500>;", "slice-us = 1;", head))
    assert line == 12 + 5


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("/dts-v1/; / {" + "a {" * 40, "nested deeper than 16"),
        ("/dts-v1/; / { a = <" + "(" * 40000, "nested deeper than 16"),
        ("/dts-v1/; / { a = <(" + "-" * 40000, "nested deeper than 16"),
        ("/dts-v1/; / { a = <(" + "1?" * 40000, "nested deeper than 16"),
        ("/dts-v1/; / { a = <" + "1 " * 400_000, "longer than 8192 tokens"),
        ("/dts-v1/; / { a = " + "&b," * 5000, "references at once"),
        ("/dts-v1/; / {" + "a:" * 40_000, "8192"),
        ("/dts-v1/; / {" + "".join(f"n{i} {{}};" for i in range(9000)), "more than 8192 nodes"),
        ("/dts-v1/; / {" + "a" * 129, "longer than 128"),
        pytest.param("/dts-v1/; / {" + "a;" * 300_000, "tokens", marks=pytest.mark.slow),
        ("/dts-v1/; / { a = <" + "9" * 5000 + ">; };", "malformed"),
        ("/dts-v1/; / { }; /delete-node/ &{/};", "malformed"),
        ("/dts-v1/; &x { };", "undefined node label 'x'"),
        ("/dts-v1/; /plugin/; / { };", "/plugin/ is not supported"),
        ("/ { };", "/dts-v1/"),
        ("", "/dts-v1/"),
    ],
    ids=lambda value: value[:30],
)
def test_hostile_source_is_refused_soon(source: str, why: str) -> None:
    assert why in the_problem(source)[2]


def test_reference_to_a_node_that_was_deleted() -> None:
    source = changed("gpu@1 {", "gpu1: gpu@1 {")
    source += "/delete-node/ &{/soc/gpu@1};\n&{/soc/gpu@1} { };\n&gpu1 { };\n"
    assert problems_of(source) == [
        (36, "device tree", "there is no node /soc/gpu@1"),
        (37, "device tree", "undefined node label 'gpu1'"),
    ]


def test_every_syntax_error_is_told() -> None:
    source = changed("#size-cells = <1>;", "#size-cells = <1>")  # takes in the line behind it
    source = changed("slice-us = <2500>;", "slice-us <2500>;", source)
    source = changed("max-vcoprocs = <3>;", "max-vcoprocs = <3;", source)
    source = changed("    soc {\n", "    soc = {\n a = <1>; };\n    soc {\n", source)
    source = changed("interrupts = <64>, <66>;", "interrupts = <64>, <(1 / 0)>;", source)
    source = changed("clock-frequency = <250000000>;", "clock-frequency = 'ab';", source)
    source = changed("gpu@1 { xen,coproc; };", "gpu@1 { xen,coproc; }", source)
    found = problems_of(source + "};\n&dsp0 { a = <1> };\n")
    assert [(line, why.partition(": ")[2]) for line, _, why in found] == [
        (5, "expected ';' or ','"),
        (12, "expected '{', '=', or ';'"),
        (13, "expected number or parenthesized expression"),
        (19, "malformed value"),
        (28, "division by zero"),
        (31, "character literals must be length 1"),
        (34, "expected ';', not 'gpu@10'"),
        (38, "expected ';' or ','"),
    ]


def test_references_to_nothing_are_told_with_all_else() -> None:
    """And nothing is said because of what they cannot stand for."""
    source = changed("coproc = <&dsp0>;", "coproc = <&dsp1>;")
    source = changed("slice-us = <2500>;", "slice-us = <&nothing>; instances = <0>;", source)
    source = changed("main-dsp = &dsp0;", "main-dsp = &dsp2; other = &{/none};", source)
    assert problems_of(source + "&missing { a; b { }; };\n/delete-node/ &gone;\n") == [
        (5, "device tree", "undefined node label 'dsp2'; did you mean 'dsp0'?"),
        (5, "device tree", "there is no node /none"),
        (10, "device tree", "undefined node label 'dsp1'; did you mean 'dsp0'?"),
        (12, "device tree", "undefined node label 'nothing'"),
        (12, "/chosen/shared/dsp0: instances", "0 is not between 1 and 64"),
        (35, "device tree", "undefined node label 'missing'"),
        (36, "device tree", "undefined node label 'gone'"),
    ]


def test_nodes_added_to_by_label_count() -> None:
    source = TREE + "&dsp0 { clock-frequency = <1000000>; };\n"
    assert parse_system(source, "t").coprocs[0].clock_hz == 1_000_000


def test_size_and_encoding_are_checked() -> None:
    assert "larger than" in the_problem(b" " * (limits.CONFIG_BYTES_MAX + 1))[2]
    assert the_problem(b"/dts-v1/;\n\xff") == (2, "file", "is not UTF-8 text")
    assert the_problem("/dts-v1/;\n\ud800")[0] == 2
    assert parse_system(b"\xef\xbb\xbf" + TREE.encode(), "t").coprocs


def test_not_more_problems_are_listed_than_the_limit() -> None:
    wrong = "".join(f"wrong{i};" for i in range(250))
    found = problems_of(changed("slice-us = <2500>;", wrong))
    assert len(found) == limits.CONFIG_PROBLEMS_MAX + 1
    assert found[-1] == (0, "too many problems", "150 more are not listed")


def test_file_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "tree.dts"
    with pytest.raises(NotFound) as missing:
        read_system_file(path)
    assert missing.value.name == str(path)
    with pytest.raises(InvalidConfig, match="directory"):
        read_system_file(tmp_path)
    path.write_bytes(TREE.encode())
    assert read_system_file(path).file_name == str(path)
    path.write_bytes(b" " * (3 * limits.CONFIG_BYTES_MAX))
    with pytest.raises(InvalidConfig, match="larger than"):
        read_system_file(path)


def test_examples() -> None:
    demo = read_system_file(EXAMPLES / "demo.dts")
    assert [(c.name, c.slice_ns) for c in demo.coprocs] == [("dsp0", 5_000_000)]
    two = read_system_file(EXAMPLES / "two-coprocs.dts")
    assert [c.name for c in two.coprocs] == ["dsp0", "dsp1"]
    many = read_system_file(EXAMPLES / "template.dts")
    assert many.find("ncore").instances == 8
    assert many.find("ncore-7").compatible == "vcoproc,cortex-m4"


def config_or_refusal(source: str | bytes) -> SystemConfig | None:
    try:
        return parse_system(source, "any")
    except InvalidConfig as error:
        assert error.problems
        return None


PIECES = [
    *TREE.split(), "&dsp0", "<", ">", "{", "}", ";", "};", "= <1>", "/delete-node/", "&{/soc}", "[",
    "]", "dsp0:", "/bits/ 64", "/omit-if-no-ref/", "(1 << 3)", "-", "\\", "'a'", "'", '"', "089",
    "/delete-property/", "/memreserve/ 0 1;", "phandle = <1>;", "/*", "//", "#line 1 \"x\"", ",",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.text() | st.binary())
def test_any_text_gives_a_config_or_a_refusal(source: str | bytes) -> None:
    config_or_refusal(source)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_any_pieces_give_a_config_or_a_refusal(pieces: list[str]) -> None:
    config_or_refusal("/dts-v1/; / { " + " ".join(pieces))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_damage_gives_a_config_or_a_refusal(data: st.DataObject) -> None:
    source = TREE
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(source)))
        end = data.draw(st.integers(at, min(len(source), at + 12)))
        source = source[:at] + data.draw(st.sampled_from(["", *PIECES])) + source[end:]
    config = config_or_refusal(source)
    for coproc in config.coprocs if config else ():
        assert config is not None and config.find(coproc.name) is coproc
        assert limits.SLICE_NS_MIN <= coproc.slice_ns <= limits.SLICE_NS_MAX
        assert all(r.size_bytes % limits.PAGE_BYTES == 0 < r.size_bytes for r in coproc.ranges)
