"""Properties that only a platform knows: passed on, bounded, and ours checked by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vcoproc import limits
from vcoproc.config import parse_system, read_system_file
from vcoproc.errors import InvalidConfig

EXAMPLES = Path(__file__).parents[3] / "examples"
TREE = """\
/dts-v1/;
/ {{
    #address-cells = <1>;
    #size-cells = <1>;
    chosen {{
        shared {{
            compatible = "vcoproc,shared-coprocs";
            dsp0 {{ coproc = <&dsp0>; {entry} }};
        }};
    }};
    dsp0: dsp@f0000000 {{
        compatible = "{compatible}";
        xen,coproc;
        reg = <0xf0000000 0x1000>;
        reg-names = "ctrl";
        {properties}
    }};
}};
"""
PROPERTIES_LINE = 16


def params(compatible: str, properties: str) -> dict[str, int | str]:
    source = TREE.format(compatible=compatible, properties=properties, entry="")
    (coproc,) = parse_system(source, "t.dts").coprocs
    assert list(coproc.platform_params) == sorted(coproc.platform_params)
    return dict(coproc.platform_params)


def problems(compatible: str, properties: str, entry: str = "") -> list[tuple[int, str]]:
    source = TREE.format(compatible=compatible, properties=properties, entry=entry)
    with pytest.raises(InvalidConfig) as caught:
        parse_system(source, "t.dts")
    return [(problem.line, str(problem)) for problem in caught.value.problems]


def test_the_example_refuses() -> None:
    (coproc,) = read_system_file(EXAMPLES / "refuse.dts").coprocs
    assert coproc.compatible == "vcoproc,refuse"
    assert coproc.described_by == "vcoproc,cortex-m4"
    assert coproc.platform_params == (
        ("vcoproc,refusal", "heavy-tail"),
        ("vcoproc,refusal-percent", 25),
        ("vcoproc,refusal-seed", 1),
        ("vcoproc,refusal-us", "50 30000"),
        ("vcoproc,wraps", "vcoproc,cortex-m4"),
    )
    assert (coproc.refusal_drain_ns, coproc.refusal_deadline_ns) == (2_000_000, 20_000_000)


def test_others_have_none_and_describe_themselves() -> None:
    (coproc,) = read_system_file(EXAMPLES / "demo.dts").coprocs
    assert coproc.platform_params == ()
    assert coproc.described_by == coproc.compatible == "vcoproc,cortex-m4"
    assert coproc.refusal_drain_ns == 10_000_000  # what docs/configuration.md promises


def test_a_vendor_gets_its_own_properties_only() -> None:
    given = params(
        "acme,npu",
        'acme,lanes = <4>; acme,table = <1 2 3>; acme,mode = "fast"; acme,names = "a", "b";'
        " acme,quiet; other,thing = <1>; vcoproc,private-memory = <0x1000>; plain = <2>;",
    )
    assert given == {
        "acme,lanes": 4,
        "acme,table": "1 2 3",
        "acme,mode": "fast",
        "acme,names": "a b",
        "acme,quiet": "",
    }


def test_what_is_wrapped_gets_its_own_too() -> None:
    given = params(
        "vcoproc,refuse", 'vcoproc,wraps = "acme,npu"; acme,lanes = <4>; vcoproc,refusal-saves;'
    )
    assert given == {"vcoproc,wraps": "acme,npu", "acme,lanes": 4, "vcoproc,refusal-saves": ""}


def test_a_long_value_is_left_out() -> None:
    long = "x" * (limits.PLATFORM_PARAM_BYTES_MAX + 1)
    assert params("acme,npu", f'acme,long = "{long}"; acme,fits = "{long[1:]}";') == {
        "acme,fits": long[1:]
    }


def test_too_many_are_refused() -> None:
    many = " ".join(f"acme,p{n};" for n in range(limits.PLATFORM_PARAMS_MAX + 1))
    ((_, text),) = problems("acme,npu", many)
    assert "at most 64" in text


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ("vcoproc,refusl;", "did you mean"),
        ('vcoproc,refusal = "unifrom"; ', "did you mean"),
        ("vcoproc,refusal-us = <1 2>;", "0 number(s)"),
        ('vcoproc,refusal = "uniform"; vcoproc,refusal-us = <1>;', "2 number(s)"),
        ('vcoproc,refusal = "uniform"; vcoproc,refusal-us = <3 1>;', "must rise"),
        ('vcoproc,refusal = "always"; vcoproc,refusal-us = <10000001>;', "must rise"),
        ('vcoproc,refusal = "always"; vcoproc,refusal-us = "5";', "1 number(s)"),
        ('vcoproc,refusal = "heavy-tail"; vcoproc,refusal-us = <0 9>;', "1 or more"),
        ("vcoproc,refusal-percent = <101>;", "0 to 100"),
        ("vcoproc,refusal-seed = <1 2>;", "one number"),
        ('vcoproc,refusal-at = "never";', "out, in, both"),
        ('vcoproc,wraps = "vcoproc,refuse";', "wrap itself"),
        ("vcoproc,wraps = <1>;", "string"),
    ],
)
def test_ours_are_checked_on_their_line(properties: str, named: str) -> None:
    found = problems("vcoproc,refuse", properties)
    assert any(named in text for _, text in found), found
    assert all(line == PROPERTIES_LINE for line, _ in found)


def test_another_platform_of_ours_knows_none_of_them() -> None:
    ((_, text),) = problems("vcoproc,cortex-m4", 'vcoproc,refusal = "hang";')
    assert "vcoproc,refusal" in text


def test_how_long_one_is_only_asked_is_bounded() -> None:
    ((_, text),) = problems("acme,npu", "", "refusal-drain-us = <500001>;")
    assert "500001" in text
