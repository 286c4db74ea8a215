"""Which coprocs there are: the tree, and what was changed of it at run time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from toolstack_rig import TREE

from vcoproc.config import CoprocConfig, SystemConfig, parse_system
from vcoproc.errors import (
    AlreadyExists,
    InvalidArgument,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    RequestError,
    WrongState,
)
from vcoproc.limits import COPROCS_MAX
from vcoproc_toolstack.coproc_set import CoprocSet, check_tree, plan_addition
from vcoproc_toolstack.records import CoprocLife, CoprocRecord
from vcoproc_toolstack.rows import COPROCS_CHANGED

SYSTEM = parse_system(TREE, "tree.dts")
DSP0, DSP1, NCORE = SYSTEM.coprocs
ALL = ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"]
REMOVED = CoprocLife.REMOVED


def moved(coproc: CoprocConfig, name: str, at: int) -> CoprocConfig:
    """Another coproc of the same type, `at` bytes higher."""
    return replace(
        coproc,
        name=name,
        path=f"{coproc.path}.{name}",
        aliases=(f"{name}-alias",),
        ranges=tuple(replace(each, base=each.base + at) for each in coproc.ranges),
        file="",
    )


NPU = moved(DSP0, "npu", 0x10_0000)
PACK = moved(NCORE, "pack", 0x20_0000)
OTHER = SystemConfig("other.dts", (NPU, PACK))


def of(*records: CoprocRecord) -> CoprocSet:
    return CoprocSet.of(SYSTEM, records)


def added(*names: str) -> CoprocSet:
    """What is there after an addition of OTHER."""
    records = plan_addition(of(), OTHER, names)
    return of().changed(
        replace(record, incarnation=number) for number, record in enumerate(records, 10)
    )


def test_without_changes_there_is_what_the_tree_says() -> None:
    coprocs = of()
    assert [*coprocs.coprocs] == ALL
    assert coprocs.templates == dict.fromkeys(ALL[2:], NCORE)
    assert not any(coprocs.added(name) or coprocs.incarnation(name) for name in ALL)


def test_those_added_come_after_the_tree_and_before_what_templates_make() -> None:
    coprocs = added()
    assert [*coprocs.coprocs] == [
        "dsp0", "dsp1", "npu", "ncore-0", "ncore-1", "ncore-2", "pack-0", "pack-1", "pack-2",
    ]  # fmt: skip
    assert [name for name in coprocs.coprocs if coprocs.added(name)] == [
        "npu", "pack-0", "pack-1", "pack-2",
    ]  # fmt: skip
    assert (coprocs.incarnation("npu"), coprocs.incarnation("pack-1")) == (10, 11)
    for reference in ("npu", NPU.path, "npu-alias"):
        assert coprocs.system.find(reference) == NPU
    assert coprocs.system.find("pack-2") == PACK.instance(2)


def test_one_of_the_tree_that_is_removed_is_found_by_no_name_of_it() -> None:
    coprocs, records, forgotten = of().without("dsp0")
    assert (records, forgotten) == ([CoprocRecord("dsp0", life=REMOVED)], [])
    assert [*coprocs.coprocs] == ALL[1:]
    for reference in ("dsp0", DSP0.path, *DSP0.aliases):
        with pytest.raises(NotFound):
            coprocs.system.find(reference)


def test_one_that_was_added_leaves_no_record_when_it_is_removed() -> None:
    coprocs, records, forgotten = added("npu").without("npu")
    assert (records, forgotten) == ([], ["npu"])
    assert coprocs == of()


def test_one_of_a_template_is_removed_alone_and_can_be_added_again_alone() -> None:
    coprocs, records, forgotten = of().without("ncore-1")
    assert (records, forgotten) == ([CoprocRecord("ncore-1", life=REMOVED)], [])
    assert [*coprocs.coprocs] == ["dsp0", "dsp1", "ncore-0", "ncore-2"]
    with pytest.raises(NotFound):
        coprocs.system.find("ncore-1")
    assert plan_addition(coprocs, SYSTEM, ["ncore-1"]) == [CoprocRecord("ncore-1")]
    assert [*coprocs.changed([CoprocRecord("ncore-1")]).coprocs] == ALL
    with pytest.raises(AlreadyExists, match="'ncore-0'"):
        plan_addition(coprocs, SYSTEM, ["ncore-0"])
    with pytest.raises(AlreadyExists, match="'ncore'"):
        plan_addition(coprocs, SYSTEM, ["ncore"])


@pytest.mark.parametrize("before", ["tree", "added"])
def test_a_template_goes_with_the_last_coproc_that_it_makes(before: str) -> None:
    name = "ncore" if before == "tree" else "pack"
    coprocs = added()
    for number in (1, 0):
        coprocs, records, forgotten = coprocs.without(f"{name}-{number}")
        assert [record.name for record in records] == [f"{name}-{number}"]
    coprocs, records, forgotten = coprocs.without(f"{name}-2")
    kept = [CoprocRecord("ncore", life=REMOVED)] if before == "tree" else []
    assert records == kept
    gone = [f"{name}-0", f"{name}-1"]
    assert forgotten == (gone if before == "tree" else [name, *gone])
    with pytest.raises(NotFound):
        coprocs.system.find(name)
    system = SYSTEM if before == "tree" else OTHER
    again = coprocs.changed(plan_addition(coprocs, system, [name]))
    assert [each for each in again.coprocs if each.startswith(name)] == [*gone, f"{name}-2"]


def test_added_again_as_the_tree_has_it_it_is_of_the_tree() -> None:
    coprocs, _, _ = of().without("dsp0")
    elsewhere = SystemConfig("x.dts", (replace(DSP0, line=99),))
    [record] = plan_addition(coprocs, elsewhere, ())
    assert record == CoprocRecord("dsp0")
    again = coprocs.changed([replace(record, incarnation=7)])
    assert [*again.coprocs] == ALL
    assert not again.added("dsp0")
    assert again.incarnation("dsp0") == 7, "and yet it is another one than it was"


def test_added_again_otherwise_than_the_tree_has_it_it_hides_the_tree() -> None:
    coprocs, _, _ = of().without("dsp0")
    quick = replace(DSP0, clock_hz=1_000_000)
    [record] = plan_addition(coprocs, SystemConfig("x.dts", (quick,)), ())
    assert record == CoprocRecord("dsp0", quick)
    again = coprocs.changed([record])
    assert again.coprocs["dsp0"].clock_hz == 1_000_000
    assert again.added("dsp0")
    check_tree(SYSTEM, [record])
    left, records, _ = again.without("dsp0")
    assert records == [CoprocRecord("dsp0", life=REMOVED)]
    assert "dsp0" not in left.coprocs


def test_draining_and_leaving_ones_take_nothing_new() -> None:
    coprocs = of(
        CoprocRecord("dsp0", draining=True),
        CoprocRecord("dsp1", life=CoprocLife.REMOVING),
        CoprocRecord("ncore-1", draining=True),
    )
    assert [*coprocs.coprocs] == ALL
    for name, words in (("dsp0", "draining"), ("dsp1", "being removed"), ("ncore-1", "draining")):
        with pytest.raises(WrongState, match=f"coproc '{name}' is {words}"):
            coprocs.need_usable(name)
    coprocs.need_usable("ncore-0")


def system(*coprocs: CoprocConfig) -> SystemConfig:
    return SystemConfig("x.dts", coprocs)


CLASHES: list[tuple[SystemConfig, tuple[str, ...], type[RequestError], str]] = [
    (SYSTEM, (), AlreadyExists, "'dsp0' exists"),
    (system(replace(NPU, name="dsp1")), (), AlreadyExists, "'dsp1' exists"),
    (system(replace(NPU, name="ncore-1")), (), AlreadyExists, "'ncore-1' exists"),
    (system(replace(NPU, name="ncore")), (), AlreadyExists, "'ncore' exists"),
    (system(replace(NPU, path=DSP1.path)), (), InvalidConfig, "of coproc dsp1"),
    (system(replace(NPU, aliases=("dsp1",))), (), InvalidConfig, "of coproc dsp1"),
    (system(replace(NPU, aliases=("ncore-2",))), (), InvalidConfig, "of coproc ncore"),
    (
        system(replace(NPU, ranges=DSP1.ranges)),
        (),
        InvalidConfig,
        "range ctrl overlaps range ctrl of coproc dsp1",
    ),
    (
        system(replace(NPU, ranges=(replace(DSP1.ranges[0], base=0, size_bytes=1 << 32),))),
        (),
        InvalidConfig,
        "overlaps range mbox of coproc ncore",
    ),
    (OTHER, ("npu", "npu"), InvalidArgument, "'npu' is there twice"),
    (OTHER, ("nqu",), InvalidArgument, "'nqu' is not shared by other.dts; did you mean 'npu'"),
    (OTHER, ("pack-1",), InvalidArgument, "made by the template pack"),
    (
        system(*(moved(NPU, f"n{n}", n << 13) for n in range(COPROCS_MAX - 2))),
        (),
        LimitExceeded,
        "each template counted once",
    ),
    (
        system(*(replace(moved(NPU, f"n{n}", n << 20), instances=64) for n in range(5))),
        (),
        LimitExceeded,
        "coprocs added at once: at most 256",
    ),
]


@pytest.mark.parametrize(("addition", "names", "error", "words"), CLASHES)
def test_what_clashes_with_what_is_there_is_refused(
    addition: SystemConfig, names: tuple[str, ...], error: type[RequestError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_addition(of(), addition, names)


def test_everything_that_clashes_is_said_at_once() -> None:
    both = system(
        replace(NPU, path=DSP1.path, line=3),
        replace(PACK, ranges=NCORE.ranges, file="part.dtsi", line=7),
    )
    with pytest.raises(InvalidConfig) as caught:
        plan_addition(of(), both, ())
    assert [(each.file, each.line) for each in caught.value.problems] == [
        ("x.dts", 3), ("part.dtsi", 7), ("part.dtsi", 7),
    ]  # fmt: skip


def test_what_is_being_removed_cannot_be_added_yet() -> None:
    coprocs = of(CoprocRecord("dsp0", life=CoprocLife.REMOVING))
    with pytest.raises(WrongState, match="'dsp0' is being removed"):
        plan_addition(coprocs, SYSTEM, ["dsp0"])


def test_what_was_taken_away_makes_room_for_something_else() -> None:
    coprocs, _, _ = of().without("dsp0")
    [record] = plan_addition(coprocs, system(replace(DSP0, name="other")), ())
    assert record.config is not None


def test_a_tree_that_has_changed_is_held_against_what_was_added() -> None:
    check_tree(SYSTEM, [CoprocRecord("npu", NPU, incarnation=9)])
    grown = SystemConfig("tree.dts", (*SYSTEM.coprocs, replace(NPU, name="xpu", line=12)))
    with pytest.raises(InvalidConfig, match=r"tree\.dts:12: coproc xpu: .*npu.* at run time"):
        check_tree(grown, [CoprocRecord("npu", NPU, incarnation=9)])
    # The same one is in the tree now: what was said at run time still holds.
    same = SystemConfig("tree.dts", (*SYSTEM.coprocs, NPU))
    check_tree(same, [CoprocRecord("npu", replace(NPU, clock_hz=5000), incarnation=9)])


def values(coproc: CoprocConfig) -> dict[str, Any]:
    """Those of its row."""
    record = CoprocRecord(coproc.name, coproc, draining=True, incarnation=3)
    return {"name": coproc.name, **COPROCS_CHANGED.to_values(record)}


@pytest.mark.parametrize("coproc", [DSP0, NCORE, NPU, PACK])
def test_a_configuration_comes_back_from_its_text_as_it_was(coproc: CoprocConfig) -> None:
    rich = replace(
        coproc, platform_params=(("vcoproc,refusal", "never"), ("x", 3)), memory_bytes_max=1 << 40
    )
    kept = COPROCS_CHANGED.to_record(values(rich))
    assert kept == CoprocRecord(coproc.name, rich, draining=True, incarnation=3)
    assert kept.config is not None and kept.config.origins == rich.origins != ()


def test_a_text_of_an_older_version_has_the_defaults_of_what_is_new() -> None:
    row = values(DSP0)
    row["config"] = row["config"].replace(', "memory_bytes_max": 0', "")
    assert "memory_bytes_max" not in row["config"]
    assert COPROCS_CHANGED.to_record(row).config == DSP0
