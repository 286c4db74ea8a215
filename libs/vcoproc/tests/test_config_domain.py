"""Domain files: the grammar of xl.cfg(5), the keys used here, and mistakes with their lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc import limits
from vcoproc.config import DomainConfig, Origin, VcoprocConfig, parse_domain, read_domain_file
from vcoproc.config.problems import Problems
from vcoproc.config.xlcfg import XlList, XlNumber, XlString, XlValue, parse_settings
from vcoproc.errors import InvalidConfig, NotFound

EXAMPLES = Path(__file__).parents[3] / "examples"


def problems_of(source: str | bytes) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        parse_domain(source, "dom.cfg")
    assert {problem.file for problem in caught.value.problems} == {"dom.cfg"}
    return [(p.line, p.what, p.why) for p in caught.value.problems]


def the_problem(source: str | bytes) -> tuple[int, str, str]:
    (problem,) = problems_of(source)
    return problem


def values_of(text: str) -> Mapping[str, XlValue | None]:
    problems = Problems("x")
    found = {s.key: s.value for s in parse_settings(text, problems)}
    problems.raise_if_any()
    return found


def vcoproc(spec: str) -> VcoprocConfig:
    (found,) = parse_domain(f"name = 'd'\nvcoproc = ['{spec}']", "dom.cfg").vcoprocs
    return found


# --- grammar, from xl.cfg(5), section SYNTAX ------------------------------------------------------


def test_settings_are_separated_by_newline_or_semicolon() -> None:
    # Both examples of xl.cfg(5).
    expected: dict[str, XlValue] = {"name": XlString("h0", 1), "type": XlString("hvm", 1)}
    assert values_of('name="h0"; type="hvm"') == expected
    expected["type"] = XlString("hvm", 2)
    assert values_of('name="h0"\ntype="hvm"\n') == expected
    assert values_of("\r\n;;\n a = 1;\r\n\t;") == {"a": XlNumber(1, 3)}
    assert values_of("") == {} == values_of("# only a comment")


def test_numbers_are_decimal_octal_or_hexadecimal() -> None:
    text = "a = 10; b = 010; c = 0x10; d = 0X1f; e = 0"
    assert [v.value for v in values_of(text).values() if isinstance(v, XlNumber)] == [
        10,
        8,
        16,
        31,
        0,
    ]


@pytest.mark.parametrize("number", ["08", "0x", "12ab", "1" * 21, "0x1ffffffffffffffff", "1_0"])
def test_what_is_no_number_is_refused(number: str) -> None:
    line, what, _ = problems_of(f"name = 'd'\nx = {number}\n")[0]
    assert (line, what) == (2, "syntax")


def test_strings_in_either_quotes_with_escapes() -> None:
    text = r"""a = "it's"; b = 'say "x"'; c = "\"\\\n\x41\101"; d = '# no comment'; e = ''"""
    texts = [v.text for v in values_of(text).values() if isinstance(v, XlString)]
    assert texts == ["it's", 'say "x"', '"\\\nAA', "# no comment", ""]


def test_lists_may_be_nested_mixed_and_span_lines() -> None:
    inner = XlList((XlNumber(2, 2),), 2)
    text = "a = [ 1, 'x', # first\n [ ], [2,\n],\n]\nb = 3"
    assert values_of(text) == {
        "a": XlList((XlNumber(1, 1), XlString("x", 1), XlList((), 2), inner), 1),
        "b": XlNumber(3, 5),
    }


def test_plus_equals_appends() -> None:
    text = "a = [1]\na += [2, 3]\ns = 'x'\ns += 'y'\nn += ['new']\n"
    assert values_of(text) == {
        "a": XlList((XlNumber(1, 1), XlNumber(2, 2), XlNumber(3, 2)), 1),
        "s": XlString("xy", 3),
        "n": XlList((XlString("new", 5),), 5),
    }
    with pytest.raises(InvalidConfig, match="x:2: a: \\+= appends"):
        values_of("a = [1]\na += 'x'\n")


# Shaped as the commented examples that Xen ships (xlexample.hvm, xlexample.pvlinux): comments with
# quotes and brackets in them, settings switched off, lists of one empty string.
LIKE_XLEXAMPLE = """\
# =====================================================================
# Example guest; see xl.cfg(5) for "all" of it
# =====================================================================

# This isn't a PV guest
type = "hvm"
name = "example.hvm"
#uuid = "XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX"

# Initial memory allocation (MB), see `maxmem' [below
memory = 128
#maxmem = 512
vcpus = 2
extra = "root=/dev/xvda1 console=hvc0"
vif = [ '' ]
disk = [ '/dev/vg/guest-volume,raw,xvda,rw' ]
sdl = 1
#vnc = 1
"""


def test_a_commented_file_of_xen_is_read_and_foreign_keys_are_named() -> None:
    domain = parse_domain(LIKE_XLEXAMPLE, "example")
    assert (domain.name, domain.memory_bytes, domain.vcoprocs) == ("example.hvm", 128 << 20, ())
    foreign = ["type", "vcpus", "extra", "vif", "disk", "sdl"]
    assert [key for key, _ in domain.unknown_keys] == foreign
    lines = LIKE_XLEXAMPLE.splitlines()
    assert all(lines[line - 1].startswith(f"{key} = ") for key, line in domain.unknown_keys)


def test_key_that_xen_does_not_have_is_warned_of() -> None:
    domain = parse_domain("name='d'\nvcoprocs=[]\nmaxmem=8\nserail='pty'\nMemory=3\nzzz=1", "d")
    assert [key for key, _ in domain.unknown_keys] == [
        "vcoprocs", "maxmem", "serail", "Memory", "zzz",
    ]  # fmt: skip
    assert domain.warnings == (
        (2, "vcoprocs", "is no key of xl.cfg(5); did you mean 'vcoproc'?"),
        (4, "serail", "is no key of xl.cfg(5); did you mean 'serial'?"),
        (5, "Memory", "is no key of xl.cfg(5); did you mean 'memory'?"),
        (6, "zzz", "is no key of xl.cfg(5)"),
    )


def test_no_more_warnings_are_listed_than_problems() -> None:
    many = "\n".join(f"q{i}q = 1" for i in range(300))
    domain = parse_domain(f"name = 'd'\n{many}", "d")
    assert (len(domain.warnings), len(domain.unknown_keys)) == (limits.CONFIG_PROBLEMS_MAX, 300)


@pytest.mark.parametrize(
    ("text", "action", "difference"),
    [
        ("destroy", "destroy", ""),
        ("restart", "restart", ""),
        ("rename-restart", "restart", "not kept under another name"),
        ("preserve", "preserve", ""),
        ("coredump-destroy", "destroy", "no core dump"),
        ("coredump-restart", "restart", "no core dump"),
        ("soft-reset", "restart", "restarted"),
    ],
)
def test_what_follows_the_end_of_a_domain(text: str, action: str, difference: str) -> None:
    for key in ("on_poweroff", "on_reboot", "on_crash"):
        domain = parse_domain(f"name = 'd'\n{key} = '{text}'", "dom.cfg")
        ends = {"on_poweroff": "preserve", "on_reboot": "restart", "on_crash": "preserve"}
        assert {name: getattr(domain, name) for name in ends} == {**ends, key: action}
        assert [(line, what) for line, what, _ in domain.warnings] == [(2, key)] * bool(difference)
        assert difference in "".join(why for _, _, why in domain.warnings)
        assert domain.unknown_keys == ()


@pytest.mark.parametrize("value", ["'reboot'", "''", "1", "['destroy']"])
def test_action_that_xl_does_not_know_is_refused(value: str) -> None:
    line, what, why = the_problem(f"name = 'd'\non_crash = {value}")
    assert (line, what) == (2, "on_crash")
    assert "must be one of destroy, restart, rename-restart, preserve, coredump" in why


def test_where_each_setting_is_given_is_kept() -> None:
    source = "name = 'd'\n\nvcpus = 2\non_crash = 'restart'\nvcoproc = ['coproc=a']\n"
    assert parse_domain(source, "dom.cfg").origins == (
        Origin("name", "dom.cfg", 1),
        Origin("on_crash", "dom.cfg", 4),
        Origin("vcoproc", "dom.cfg", 5),
    )


SYNTAX = [
    ("x = (1)", 2, "xl reads no Python"),
    ("x = ", 2, "expected a value, not the end of the line"),
    ("x", 2, "expected = after x"),
    ("x = yes", 2, "'yes' must be in quotes"),
    ("x = 'open", 2, "not closed on its line"),
    ("x = '\\q'", 2, "unknown escape"),
    ("x = '\\400'", 2, "unknown escape"),
    ("x = '\\8'", 2, "unknown escape"),
    ("x = 1 2", 2, "expected the end of the line"),
    ("= 1", 2, "expected a setting"),
    ("x = -1", 2, "expected a value, not '-'"),
    ("x = {}", 2, "expected a value, not '{'"),
    ("x = [1 2]", 2, "expected a comma or the end of the list that begins on line 2"),
    ("x = [\n1,\n,2]", 4, "expected a value, not ','"),
    ("x = [1,\n\n", 6, "not the end of the file"),
    ("x = " + "[" * 17 + "]" * 17, 2, "nested deeper than 16"),
    ("x = \u00b2", 2, "expected a value"),
]


@pytest.mark.parametrize(("text", "line", "why"), SYNTAX)
def test_syntax_error_has_its_line(text: str, line: int, why: str) -> None:
    source = f"name = 'd'\n{text}\nmemory = 2"
    if text.endswith("\n\n"):
        source = f"name = 'd'\n{text}\n"
        line = 5
    found_line, what, said = problems_of(source)[0]
    assert (found_line, what) == (line, "syntax")
    assert why in said


def test_everything_wrong_is_reported_at_once_in_the_order_of_lines() -> None:
    source = (
        "name = audio\nmemory = 'much'\nx = [1, {, [2]]; y = 1 1\nvcoproc = 'dsp0'\ncoproc = [1]\n"
    )
    assert [(line, what) for line, what, _ in problems_of(source)] == [
        (1, "syntax"),
        (2, "memory"),
        (3, "syntax"),
        (3, "syntax"),
        (4, "vcoproc"),
        (5, "coproc"),
    ]


# --- keys -----------------------------------------------------------------------------------------


def test_the_smallest_file() -> None:
    assert parse_domain('name = "d"', "dom.cfg") == DomainConfig(
        file_name="dom.cfg", name="d", memory_bytes=4 << 20, vcoprocs=(), unknown_keys=()
    )


@pytest.mark.parametrize("name", ["a", "A.b_c+d-e", "0", "_", "x" * 63])
def test_good_names(name: str) -> None:
    assert parse_domain(f'name = "{name}"', "dom.cfg").name == name


@pytest.mark.parametrize(
    "name", ["", "x" * 64, "a b", "a/b", "../x", "..", "-rf", "\u00e9", "a\\n"]
)
def test_bad_names(name: str) -> None:
    assert the_problem(f'\nname = "{name}"')[:2] == (2, "name")


def test_name_is_needed_and_must_be_a_string() -> None:
    assert the_problem("memory = 4")[:2] == (0, "name")
    assert "in quotes" in the_problem("name = 5")[2]
    assert "in quotes" in the_problem("name = ['x']")[2]


def test_memory_is_a_number_of_mebibytes() -> None:
    for text, mebibytes in (("1", 1), ("0x10", 16), ("1024", 1024), ("'8'", 8)):
        domain = parse_domain(f"name = 'd'; memory = {text}", "dom.cfg")
        assert domain.memory_bytes == mebibytes * 1024 * 1024
    for text in ("0", "1025", "18446744073709551615", "'x'", "'-1'", "[4]", "''"):
        assert the_problem(f"name = 'd'\nmemory = {text}")[:2] == (2, "memory")


def test_key_given_twice_is_refused() -> None:
    line, what, why = the_problem("name = 'd'\nmemory = 4\nmemory = 8")
    assert (line, what, why) == (3, "memory", "is given twice, first on line 2")


def test_vcoproc_with_everything() -> None:
    spec = "coproc = dsp0, name=audio,weight=512, cap=50,slice-us=0x10,prio=-3,irq=64,irq.fault=70"
    found = vcoproc(spec + ",addr=0x0a000000,addr.mbox=0xb000000")
    assert found == VcoprocConfig(
        coproc="dsp0",
        name="audio",
        params=(("cap", 50), ("prio", -3), ("slice_us", 16), ("weight", 512)),
        irq_base=64,
        irqs=(("fault", 70),),
        addr_base=0x0A00_0000,
        addrs=(("mbox", 0x0B00_0000),),
        line=2,
    )


def test_old_key_lists_paths() -> None:
    source = 'name = "d"\ncoproc = [ "/soc/dsp@f0000000",\n  "/soc/gpu@1" ]\nvcoproc = ["coproc=x"]'
    found = parse_domain(source, "dom.cfg").vcoprocs
    assert [(v.coproc, v.name, v.line, v.params) for v in found] == [
        ("/soc/dsp@f0000000", "dsp", 2, ()),
        ("/soc/gpu@1", "gpu", 3, ()),
        ("x", "x", 4, ()),
    ]


def test_names_that_are_not_given_are_made_up_and_unique() -> None:
    source = (
        "name='d'\ncoproc=['/soc/dsp@1', '/soc/dsp@2', 'dsp-1']\nvcoproc=['coproc=dsp,name=dsp']"
    )
    names = [v.name for v in parse_domain(source, "dom.cfg").vcoprocs]
    assert names == ["dsp-1", "dsp-2", "dsp-1-1", "dsp"]
    long = parse_domain(f"name='d'; coproc=['{'a' * 63}', '{'a' * 63}']", "dom.cfg").vcoprocs
    assert [len(v.name) for v in long] == [60, 62]


WRONG = [
    ("coproc", "'coproc' is not key=value"),
    ("", "'' is not key=value"),
    ("coproc=a,", "'' is not key=value"),
    ("coproc=a,=5", "'=5' is not key=value"),
    ("coproc=a,weight=", "is not key=value"),
    ("coproc=a,weight=big", "'weight' must be a number: 'big'"),
    ("coproc=a,weight=1.5", "must be a number"),
    ("coproc=a,weight=--5", "must be a number"),
    ("coproc=a,weight=09", "must be a number"),
    ("coproc=a,weight=0x8000000000000000", "must be a number"),
    ("coproc=a,weight=1,weight=1", "'weight' is given twice"),
    ("coproc=a,slice_us=1,slice-us=1", "parameter slice_us is given twice"),
    ("coproc=a,a.b=1", "'a.b' is no name of a parameter"),
    ("coproc=a,irq=31", "irq 31 is not between 32 and 1019"),
    ("coproc=a,irq=1020", "irq 1020 is not between"),
    ("coproc=a,irq.x=-64", "irq -64 is not between"),
    ("coproc=a,addr=0x0a000800", "addr 0xa000800 is not a multiple of 4096"),
    ("coproc=a,addr.x=0x1000000000000", "not between 0 and 0xffffffffffff"),
    ("coproc=a,addr=0x60000000", "lies in the memory of the domain (0x60000000 to 0x603fffff)"),
    ("coproc=a,addr.x=0x603ff000", "lies in the memory of the domain"),
    ("coproc=a,irq.x=70,irq.y=70", None),
    ("name=x", "does not say which coproc"),
    ("coproc=a,name=x/y", "the name 'x/y' must be of"),
    ("coproc=/soc/@5", "no identifier, path or alias"),
]


@pytest.mark.parametrize(("spec", "why"), WRONG)
def test_each_mistake_in_a_vcoproc_is_named_with_its_line(spec: str, why: str | None) -> None:
    if why is None:  # found when the lines are known, see test_config_placement
        assert vcoproc(spec).irqs == (("x", 70), ("y", 70))
        return
    found = problems_of(f"name = 'd'\n\nvcoproc = [\n\n'{spec}']")
    assert {line for line, _, _ in found} == {5}
    assert any(why in said for _, _, said in found), found


def test_memory_says_where_registers_may_lie() -> None:
    spec = "vcoproc = ['coproc=a,addr=0x60400000']"
    assert parse_domain(f"name='d'; memory=4; {spec}", "dom.cfg").vcoprocs
    assert "lies in the memory" in the_problem(f"name='d'; memory=5; {spec}")[2]


def test_vcoprocs_of_a_domain_may_not_clash() -> None:
    def two(first: str, second: str) -> str:
        return f"name='d'\nvcoproc = ['coproc=a,{first}',\n'coproc=a,{second}']"

    assert the_problem(two("name=x", "name=x"))[0] == 3
    assert the_problem(two("irq=64", "irq=64"))[2] == "irq 64 is that of vcoproc a on line 2"
    assert the_problem(two("irq.i=64", "irq=64"))[0] == 3
    assert "addr 0xa000000 is that of" in the_problem(two("addr=0xa000000", "addr.r=0xa000000"))[2]
    # The first line of the second vcoproc has been moved away from 64: no clash for sure.
    assert len(parse_domain(two("irq.i=64", "irq=64,irq.i=90"), "dom.cfg").vcoprocs) == 2


def test_not_more_vcoprocs_than_the_limit() -> None:
    items = ", ".join("'coproc=dsp0'" for _ in range(limits.VCOPROCS_PER_DOMAIN_MAX))
    domain = parse_domain(f"name='d'; vcoproc=[{items}]", "dom.cfg")
    assert len({v.name for v in domain.vcoprocs}) == limits.VCOPROCS_PER_DOMAIN_MAX
    assert "too many" in the_problem(f"name='d'; vcoproc=[{items}, 'coproc=dsp0']")[2]


# --- files ----------------------------------------------------------------------------------------


def test_size_and_encoding_are_checked() -> None:
    assert "larger than" in the_problem(b"#" * (limits.CONFIG_BYTES_MAX + 1))[2]
    assert the_problem(b"name = 'd'\n\xff") == (2, "file", "is not UTF-8 text")
    assert the_problem("\n\n\ud800")[0] == 3
    assert parse_domain(b"\xef\xbb\xbfname = 'd'", "dom.cfg").name == "d"


@pytest.mark.slow
@pytest.mark.timeout(15)  # 1 s; copying the list for each += took most of a minute
def test_appending_many_times_takes_no_longer_than_once() -> None:
    source = "name = 'd'\nx = []\n" + "x += [1]\n" * 100_000
    assert parse_domain(source, "dom.cfg").unknown_keys == (("x", 2),)


def test_file_is_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "d.cfg"
    with pytest.raises(NotFound):
        read_domain_file(path)
    path.write_text("name = 'd'\n")
    assert read_domain_file(path).file_name == str(path)
    path.write_text("name = d\n")
    with pytest.raises(InvalidConfig, match=f"{path}:1: syntax: 'd' must be in quotes"):
        read_domain_file(path)


def test_examples() -> None:
    read = {path.stem: read_domain_file(path) for path in EXAMPLES.glob("*.cfg")}
    assert {"fir", "sobel", "sha256", "both"} <= read.keys()
    assert all(stem == domain.name for stem, domain in read.items())
    assert [len(read[stem].vcoprocs) for stem in ("fir", "sobel", "sha256", "both")] == [1, 1, 1, 2]
    assert read["sha256"].memory_bytes == 16 << 20
    assert not any(domain.unknown_keys for domain in read.values())


# --- any text -------------------------------------------------------------------------------------


def config_or_refusal(source: str | bytes) -> DomainConfig | None:
    try:
        return parse_domain(source, "any")
    except InvalidConfig as error:
        assert error.problems
        return None


PIECES = [
    "name", "memory", "coproc", "vcoproc", "=", "+=", "'d'", '"x"', "5", "0x", "08", "[", "]", ",",
    ";", "\n", "#", "'", '"', "\\", "'coproc=a'", "'coproc=a,irq=64'", "'coproc=a,addr=0x60000000'",
    "-", "\x00", "\r", "\u2028", "'a=1,b'", "'coproc=/'", "1.5",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary())
def test_any_text_gives_a_config_or_a_refusal(source: str | bytes) -> None:
    config_or_refusal(source)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.sampled_from(["", " ", "name='d';"]))
def test_any_pieces_give_a_config_or_a_refusal(pieces: list[str], between: str) -> None:
    domain = config_or_refusal("name = 'd'\n" + between.join(pieces))
    if domain is not None:
        names = [v.name for v in domain.vcoprocs]
        assert len(set(names)) == len(names)
        assert all(v.coproc and v.name for v in domain.vcoprocs)


SPEC_KEYS = st.sampled_from(
    ["coproc", "name", "irq", "addr", "irq.x", "addr.y", "weight", "", "a b"]
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(SPEC_KEYS, st.text(alphabet="0x19af=-. /@\\", max_size=12)), max_size=6))
def test_any_vcoproc_gives_a_config_or_a_refusal(pairs: list[tuple[str, str]]) -> None:
    spec = ",".join(f"{key}={value}" for key, value in pairs)
    config_or_refusal(f'name = "d"; vcoproc = ["{spec}"]')
