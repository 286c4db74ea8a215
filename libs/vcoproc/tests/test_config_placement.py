"""Guest addresses and interrupts: what a file fixes, what is chosen, and what clashes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcoproc import limits
from vcoproc.config import (
    CoprocConfig,
    LineConfig,
    PlacedLine,
    PlacedRange,
    PlacedVcoproc,
    RangeConfig,
    assign_addresses,
    parse_domain,
    parse_system,
    read_domain_file,
    read_system_file,
    resolve,
)
from vcoproc.config.dts_writer import write_source
from vcoproc.config.guest_tree import GuestLine, GuestRange, GuestVcoproc, guest_tree
from vcoproc.errors import InvalidConfig

EXAMPLES = Path(__file__).parents[3] / "examples"
PAGE = 4096


def coproc(name: str, sizes: dict[str, int], lines: list[str]) -> CoprocConfig:
    return CoprocConfig(
        name=name,
        path=f"/soc/{name}",
        aliases=(),
        compatible="acme,x",
        ranges=tuple(RangeConfig(n, 0xF000_0000, size) for n, size in sizes.items()),
        lines=tuple(LineConfig(line, 64 + place) for place, line in enumerate(lines)),
        private_bytes=0,
        clock_hz=1_000_000,
        scheduler="rr",
        scheduler_params=(),
        slice_ns=limits.SLICE_NS_DEFAULT,
        vcoprocs_max=64,
        refusal_deadline_ns=limits.SWITCH_DEADLINE_NS,
        instances=0,
        line=1,
    )


DSP = coproc("dsp0", {"ctrl": PAGE, "mbox": PAGE}, ["irq", "event", "fault"])
BIG = coproc("big", {"regs": PAGE, "ram": 4 * PAGE, "tail": PAGE}, [])
COPROCS = {"dsp0": DSP, "/soc/dsp": DSP, "big": BIG}


def place(*specs: str, memory: int = 4) -> tuple[PlacedVcoproc, ...]:
    items = ",\n".join(f"'{spec}'" for spec in specs)
    source = f"name = 'd'; memory = {memory}; vcoproc = [\n{items}]"
    return assign_addresses(parse_domain(source, "dom.cfg"), COPROCS)


def ipas(placed: PlacedVcoproc) -> list[int]:
    return [each.ipa for each in placed.ranges]


def irqs(placed: PlacedVcoproc) -> list[int]:
    return [each.irq for each in placed.irqs]


def problems_of(*specs: str, memory: int = 4) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidConfig) as caught:
        place(*specs, memory=memory)
    return [(p.line, p.what, p.why) for p in caught.value.problems]


def the_problem(*specs: str, memory: int = 4) -> tuple[int, str, str]:
    (problem,) = problems_of(*specs, memory=memory)
    return problem


def test_free_places_are_given_in_the_order_of_the_file() -> None:
    first, second = place("coproc=dsp0", "coproc=/soc/dsp,name=b")
    assert first == PlacedVcoproc(
        name="dsp0",
        coproc="dsp0",
        ranges=(PlacedRange("ctrl", 0x0A00_0000, PAGE), PlacedRange("mbox", 0x0A00_1000, PAGE)),
        irqs=(PlacedLine("irq", 64), PlacedLine("event", 65), PlacedLine("fault", 66)),
    )
    assert (second.name, second.coproc) == ("b", "dsp0")
    assert (ipas(second), irqs(second)) == ([0x0A00_2000, 0x0A00_3000], [67, 68, 69])


def test_a_base_places_ranges_one_after_the_other_and_lines_by_number() -> None:
    (big,) = place("coproc=big,addr=0x10000000")
    assert ipas(big) == [0x1000_0000, 0x1000_1000, 0x1000_5000]
    (dsp,) = place("coproc=dsp0,irq=100")
    assert irqs(dsp) == [100, 101, 102]


def test_a_named_place_moves_only_what_it_names() -> None:
    (big,) = place("coproc=big,addr=0x10000000,addr.ram=0x20000000")
    assert ipas(big) == [0x1000_0000, 0x2000_0000, 0x1000_5000]
    (dsp,) = place("coproc=dsp0,irq=100,irq.event=32")
    assert irqs(dsp) == [100, 32, 102]


def test_the_choice_goes_around_what_is_fixed_even_later_in_the_file() -> None:
    free, fixed = place("coproc=big", "coproc=dsp0,addr=0x0a001000,irq=64")
    assert ipas(fixed) == [0x0A00_1000, 0x0A00_2000]
    # regs (1 page) fits before it, ram (4 pages) only after it, tail (1 page) after ram.
    assert ipas(free) == [0x0A00_0000, 0x0A00_3000, 0x0A00_7000]
    first, second = place("coproc=dsp0,name=a", "coproc=dsp0,name=b,irq.event=65")
    assert irqs(first) == [64, 66, 67]
    assert irqs(second) == [68, 65, 69]


def test_registers_may_lie_above_the_memory() -> None:
    (dsp,) = place("coproc=dsp0,addr=0x60400000")
    assert ipas(dsp) == [0x6040_0000, 0x6040_1000]
    (dsp,) = place("coproc=dsp0,addr=0xffffffffe000")
    assert ipas(dsp)[-1] + PAGE - 1 == limits.GUEST_IPA_MAX


def test_clashes_are_refused_with_the_line_of_the_later() -> None:
    line, what, why = the_problem("coproc=big,addr=0x10000000", "coproc=dsp0,addr.ctrl=0x10004000")
    assert (line, what) == (3, "vcoproc dsp0")
    assert why == "range ctrl at 0x10004000 overlaps range ram of vcoproc big at 0x10001000"
    line, what, why = the_problem("coproc=dsp0,name=a,irq=64", "coproc=dsp0,name=b,irq=66")
    assert (line, what, why) == (
        3,
        "vcoproc b",
        "line irq: irq 66 is that of line fault of vcoproc a",
    )
    assert "irq 70 is that of" in the_problem("coproc=dsp0,irq.irq=70,irq.fault=70")[2]
    assert "range mbox" in the_problem("coproc=dsp0,addr.ctrl=0x1000,addr.mbox=0x1000")[2]


def test_ranges_may_not_reach_into_the_memory_or_beyond_the_end() -> None:
    why = the_problem("coproc=dsp0,addr=0x5ffff000")[2]
    assert why == "range mbox at 0x60000000 overlaps the memory of the domain at 0x60000000"
    assert "ends beyond 0xffffffffffff" in the_problem("coproc=dsp0,addr=0xfffffffff000")[2]
    assert "irq 1020 is above 1019" in problems_of("coproc=dsp0,irq=1018")[0][2]


def test_names_that_the_coproc_does_not_have() -> None:
    found = problems_of("coproc=dsp0,addr.mbx=0x1000,irq.fualt=70", "coproc=big,irq.irq=71")
    assert [(line, why) for line, _, why in found] == [
        (2, "addr.mbx: the coproc has no range of that name; did you mean 'mbox'?"),
        (2, "irq.fualt: the coproc has no line of that name; did you mean 'fault'?"),
        (3, "irq.irq: the coproc has no line of that name"),
    ]


def test_unknown_coproc() -> None:
    found = problems_of("coproc=dsp1", "coproc=dsp0")
    assert found == [(2, "vcoproc dsp1", "unknown coproc; did you mean 'dsp0'?")]


def test_no_room() -> None:
    window = limits.GUEST_RAM_BASE_IPA - limits.GUEST_MMIO_BASE_IPA
    huge = coproc("huge", {"all": window}, [])
    domain = parse_domain("name='d'; vcoproc=['coproc=huge,name=a']", "dom.cfg")
    (fits,) = assign_addresses(domain, {"huge": huge})
    assert ipas(fits) == [limits.GUEST_MMIO_BASE_IPA]
    domain = parse_domain("name='d'\nvcoproc=['coproc=huge',\n'coproc=huge']", "dom.cfg")
    with pytest.raises(InvalidConfig, match=r"dom\.cfg:3: vcoproc huge-1: no room"):
        assign_addresses(domain, {"huge": huge})
    lines = coproc("lines", {"r": PAGE}, [f"l{n}" for n in range(limits.GUEST_IRQ_MAX - 63)])
    domain = parse_domain("name='d'; vcoproc=['coproc=lines','coproc=one']", "dom.cfg")
    one = coproc("one", {}, ["l"])
    with pytest.raises(InvalidConfig, match="vcoproc one: no interrupt number is left"):
        assign_addresses(domain, {"lines": lines, "one": one})


def test_examples_fit_their_trees() -> None:
    two = read_system_file(EXAMPLES / "two-coprocs.dts")
    one = read_system_file(EXAMPLES / "demo.dts")
    for stem in ("fir", "sobel", "sha256"):
        for system in (one, two):
            domain = read_domain_file(EXAMPLES / f"{stem}.cfg")
            (placed,) = assign_addresses(domain, resolve(system, domain))
            assert placed.coproc == "dsp0"
            assert [r.name for r in placed.ranges] == ["ctrl", "mbox"]
    both = read_domain_file(EXAMPLES / "both.cfg")
    assert [p.coproc for p in assign_addresses(both, resolve(two, both))] == ["dsp0", "dsp1"]
    with pytest.raises(InvalidConfig, match=r"both\.cfg:6: .*'dsp1' is no shared coproc"):
        resolve(one, both)


def test_what_the_reference_shows_is_right() -> None:
    text = (EXAMPLES.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    tree, first, guest = re.findall(r"```dts\n(.*?)```", text, re.DOTALL)
    (source,) = re.findall(r"```\n(name = .*?)```", text, re.DOTALL)
    domain = parse_domain(source, "configuration.md")
    audio, video = assign_addresses(domain, resolve(parse_system(tree, "t"), domain))
    assert (ipas(audio), irqs(audio)) == ([0x0A00_0000, 0x0A00_1000], [64, 65, 66])
    assert (ipas(video), irqs(video)) == ([0x0A10_0000, 0x0B00_0000], [80, 81, 82])
    end = "            };\n        };\n    };\n    soc"
    assert tree.count(end) == 1
    system = parse_system(tree.replace(end, "            };\n" + first + end[15:]), "t")
    assert system.first_domain is not None
    assert [(v.name, v.irq_base, v.params) for v in system.first_domain.vcoprocs] == [
        ("audio", 64, (("weight", 512),))
    ]
    shown = GuestVcoproc(
        name="audio",
        coproc=audio.coproc,
        compatible=system.coprocs[0].compatible,
        ranges=tuple(
            GuestRange(r.name, r.ipa, r.size_bytes, r.name == "mbox") for r in audio.ranges
        ),
        lines=tuple(GuestLine(i.name, 64 + n, n != 1) for n, i in enumerate(audio.irqs)),
        clock_hz=system.coprocs[0].clock_hz,
        private_bytes=system.coprocs[0].private_bytes,
    )
    memory = [(limits.GUEST_RAM_BASE_IPA, domain.memory_bytes)]
    assert write_source(guest_tree([shown], memory)) == guest


def number(low: int, high: int, step: int) -> st.SearchStrategy[int]:
    return st.integers(low // step, high // step).map(lambda n: n * step)


OPTIONS = st.fixed_dictionaries(
    {"coproc": st.sampled_from(["dsp0", "big"])},
    optional={
        "addr": number(0x0A00_0000, 0x0A00_8000, PAGE),
        "addr.ctrl": number(0x0A00_0000, 0x0A00_8000, PAGE),
        "irq": st.integers(60, 72),
        "irq.event": st.integers(60, 72),
    },
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(OPTIONS, max_size=4))
def test_whatever_is_placed_is_disjoint_and_as_the_file_says(
    specs: list[dict[str, object]],
) -> None:
    texts = [",".join(f"{key}={value}" for key, value in spec.items()) for spec in specs]
    try:
        placed = place(*texts)
    except InvalidConfig as error:
        assert error.problems
        return
    assert placed == place(*texts)
    spans = sorted((r.ipa, r.ipa + r.size_bytes) for p in placed for r in p.ranges)
    assert all(low_end <= base for (_, low_end), (base, _) in itertools.pairwise(spans))
    numbers = [line.irq for p in placed for line in p.irqs]
    assert len(set(numbers)) == len(numbers)
    for spec, got in zip(specs, placed, strict=True):
        first = {r.name: r.ipa for r in got.ranges}
        if "addr" in spec and "addr.ctrl" not in spec:
            assert got.ranges[0].ipa == spec["addr"]
        if "addr.ctrl" in spec:
            assert first["ctrl"] == spec["addr.ctrl"]
        if "irq" in spec and got.irqs:
            assert got.irqs[0].irq == spec["irq"]
