"""What the first domain gets, and whether a domain fits a system."""

from __future__ import annotations

import pytest

from config_trees import SYSTEM
from vcoproc import limits
from vcoproc.config import (
    FIRST_DOMAIN,
    VcoprocConfig,
    check_domain,
    parse_domain,
    parse_system,
)
from vcoproc.errors import InvalidConfig


def changed(old: str, new: str) -> str:
    assert SYSTEM.count(old) == 1, f"{old!r} must be in the tree once"
    return SYSTEM.replace(old, new)


def problems_of(source: str) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        parse_system(source, "tree.dts")
    return [(p.line, p.what, p.why) for p in caught.value.problems]


def line_of(source: str, text: str) -> int:
    return source[: source.index(text)].count("\n") + 1


def test_first_domain_is_read() -> None:
    system = parse_system(SYSTEM, "tree.dts")
    first = system.first_domain
    assert first is not None
    assert (first.name, first.memory_bytes, first.file_name) == (FIRST_DOMAIN, 2 << 20, "tree.dts")
    assert first.vcoprocs == (
        VcoprocConfig(
            coproc="/soc/dsp@f0000000",
            name="audio",
            params=(("weight", 512),),
            irq_base=80,
            irqs=(),
            addr_base=None,
            addrs=(("mbox", 0x0B00_0000),),
            line=line_of(SYSTEM, "audio {"),
            file="tree.dts",
        ),
        VcoprocConfig(
            "gpu", "video", (), None, (), None, (), line_of(SYSTEM, "video {"), "tree.dts"
        ),
    )
    audio, video = check_domain(system, first)
    assert [place.ipa for place in audio.ranges] == [0x0A00_0000, 0x0B00_0000]
    assert ([line.irq for line in audio.irqs], video.coproc) == ([80, 81], "gpu")


def test_tree_without_one_has_no_first_domain() -> None:
    begin = SYSTEM.index("            first-domain {")
    end = SYSTEM.index("        };\n    };\n    soc")
    assert parse_system(SYSTEM[:begin] + SYSTEM[end:], "t").first_domain is None
    bare = SYSTEM[:begin] + "first-domain { };" + SYSTEM[end:]
    first = parse_system(bare, "t").first_domain
    assert first is not None
    assert (first.vcoprocs, first.memory_bytes) == ((), limits.DOMAIN_MEMORY_BYTES_DEFAULT)


@pytest.mark.parametrize("reference", ['"dsp0"', '"main-dsp"', "&dsp0", '"/soc/dsp@f0000000"'])
def test_coproc_by_any_reference(reference: str) -> None:
    old = "coproc = <&dsp0>;\n                    irq"
    system = parse_system(changed(old, f"coproc = {reference};\n irq"), "t")
    assert system.first_domain is not None
    assert check_domain(system, system.first_domain)[0].coproc == "dsp0"


WRONG = [
    ("coproc = <&dsp0>;\n                    irq", "irq", "audio: coproc", "one reference"),
    ("irq = <80>;", "irq = <31>;", "audio: irq", "31 is not between 32 and 1019"),
    ("irq = <80>;", "irq = <1019>;", "vcoproc audio", "irq 1020 is above 1019"),
    ("irq = <80>;", "irq.none = <80>;", "vcoproc audio", "no line of that name"),
    ("irq = <80>;", "irqs = <80>;", "audio: irqs", "did you mean 'irq'?"),
    ("irq = <80>;", "weight = <80>;", "audio: weight", "parameters are in scheduler-params"),
    ("<0x0b000000>", "<0x0b000800>", "audio: addr.mbox", "multiple of 4096"),
    ("<0x0b000000>", "<0x10000 0x0>", "audio: addr.mbox", "between 0 and"),
    ("<0x0b000000>", "<0x60000000>", "vcoproc audio", "overlaps the memory of the domain"),
    ("<0x200000>", "<0x200001>", "memory-size", "multiple of 4096"),
    ("<0x200000>", "<4>", "memory-size", "4 is not between 65536 and"),
    ("memory-size", "memory", "first-domain: memory", "did you mean 'memory-size'?"),
    ('coproc = "gpu"', 'coproc = "gp"', "vcoproc video", "did you mean 'gpu'?"),
    ('coproc = "gpu"', 'coproc = "/soc"', "vcoproc video", "is no shared coproc"),
    ('coproc = "gpu"', "coproc = <77>", "video: coproc", "phandle 77"),
    ('video { coproc = "gpu"; };', 'v@1 { coproc = "gpu"; };', "v@1", "the name of the vcoproc"),
    ("scheduler-params { weight", "params { weight", "audio/params", "is no node of a vcoproc"),
    ("weight = <512>", "weight = <1>, <2>, <3>", "scheduler-params: weight", "one number"),
    ('gpu { coproc = "/soc/gpu@10000"', 'gpu { instances = <2>; coproc = "/soc/gpu@10000"',
     "vcoproc video", "gpu is a template; name one of its coprocs, as gpu-0"),
    ('gpu { coproc = "/soc/gpu@10000"', 'gpu { memory-limit = <2097151>;coproc = "/soc/gpu@10000"',
     "vcoproc video", "the domain has 2097152 bytes of memory, the limit of gpu is 2097151"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "what", "why"), WRONG)
def test_each_mistake_is_named_with_its_line(old: str, new: str, what: str, why: str) -> None:
    source = changed(old, new)
    ((line, where, said),) = problems_of(source)
    assert where.endswith(what) and why in said
    assert line_of(source, "first-domain {") <= line <= line_of(source, "    soc {")


def test_mistakes_of_entries_and_first_domain_come_together() -> None:
    source = changed("<2500>", "<1>").replace("irq = <80>", "irq = <1>")
    assert [what.rpartition(" ")[2] for _, what, _ in problems_of(source)] == ["slice-us", "irq"]


def test_first_domain_has_no_more_vcoprocs_than_a_domain() -> None:
    many = "".join(f'v{i} {{ coproc = "gpu"; }};' for i in range(32))
    found = problems_of(changed('video { coproc = "gpu"; };', many))
    assert any("33 vcoprocs, at most 32" in why for _, _, why in found)


# --- any domain -----------------------------------------------------------------------------------


def domain_problems(system: str, domain: str) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        check_domain(parse_system(system, "t"), parse_domain(domain, "d.cfg"))
    assert {problem.file for problem in caught.value.problems} == {"d.cfg"}
    return [(p.line, p.what, p.why) for p in caught.value.problems]


def test_domain_that_fits_is_placed() -> None:
    domain = parse_domain("name='d'\nmemory=8\nvcoproc=['coproc=dsp0,irq=90','coproc=gpu']", "d")
    dsp, gpu = check_domain(parse_system(SYSTEM, "t"), domain)
    assert [line.irq for line in dsp.irqs] == [90, 91]
    assert gpu.ranges[0].ipa == 0x0A00_3000


def test_everything_that_does_not_fit_is_named() -> None:
    system = changed('gpu { coproc', "gpu { max-vcoprocs = <1>; coproc")  # fmt: skip
    domain = """name = 'd'
memory = 8
vcoproc = [ 'coproc=gpu', 'coproc=gpu',
            'coproc=dps0',
            'coproc=dsp0,irq.nothing=70',
]
"""
    assert [(line, why.partition(";")[0]) for line, _, why in domain_problems(system, domain)] == [
        (3, "2 vcoprocs on gpu, at most 1"),
        (4, "'dps0' is no shared coproc of t"),
    ]
    assert [line for line, _, _ in domain_problems(system, domain.replace("dps0", "dsp0"))] == [
        3,
        5,
    ]
    small = changed("<0x1 0x0>", "<0x400000>")
    found = domain_problems(small, "name='d'\nmemory=8\nvcoproc=['coproc=dsp0','coproc=dsp0']")
    assert found == [
        (3, "vcoproc dsp0", "the domain has 8388608 bytes of memory, the limit of dsp0 is 4194304")
    ]
