"""Trees of several files: includes, binary files, line marks, the preprocessor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config_trees import SYSTEM, without_places
from vcoproc import limits
from vcoproc.config import parse_system, preprocess, read_system_file
from vcoproc.config.dts import read_tree
from vcoproc.config.fdt import write_blob
from vcoproc.errors import InvalidConfig, NotFound

HEAD, SOC = SYSTEM[: SYSTEM.index("    soc {")], SYSTEM[SYSTEM.index("    soc {") :]


def write(folder: Path, **files: str | bytes) -> Path:
    """Files NAME_dts as NAME.dts; gives the path of tree.dts."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "tree.dts"


def problems_of(path: Path, *include: Path, cpp: bool = False) -> list[tuple[str, int, str]]:
    with pytest.raises(InvalidConfig) as caught:
        read_system_file(path, include=include, cpp=cpp)
    return [(p.file, p.line, f"{p.what}: {p.why}") for p in caught.value.problems]


def the_problem(path: Path, *include: Path) -> tuple[str, int, str]:
    (problem,) = problems_of(path, *include)
    return problem


def test_included_files_are_part_of_the_tree(tmp_path: Path) -> None:
    inner = '/include/\n"deep/props.dtsi"\n' + SOC[SOC.index("        gpu@") :]
    path = write(
        tmp_path,
        tree_dts=HEAD + '/include/ "soc.dtsi"\n',
        soc_dtsi="    soc {\n        ranges;\n" + inner,
        deep__props_dtsi='/include/ "dsp.dtsi"\n',
        deep__dsp_dtsi=SOC[SOC.index("        dsp0:") : SOC.index("        gpu@")],
    )
    config = read_system_file(path)
    assert without_places(config) == without_places(parse_system(SYSTEM, "t"))
    assert {Path(origin.file).name for origin in config.coprocs[0].origins} == {
        "tree.dts",
        "dsp.dtsi",
    }


def test_problem_names_the_included_file_and_its_line(tmp_path: Path) -> None:
    soc = SOC.replace("<250000000>", "<0>").replace('reg-names = "all";', 'reg-names = "a,b";')
    path = write(
        tmp_path,
        tree_dts=HEAD.replace("<2500>", "<1>") + '/include/ "soc.dtsi"\n',
        soc_dtsi="\n" + soc,
    )
    clock = (soc[: soc.index("clock-freq")]).count("\n") + 2
    names = (soc[: soc.index('reg-names = "a,b"')]).count("\n") + 2
    found = problems_of(path)
    included = str(tmp_path / "soc.dtsi")
    assert [(file, line) for file, line, _ in found] == [
        (str(path), 13),
        (included, clock),
        (included, names),
    ]


def test_syntax_error_in_an_included_file(tmp_path: Path) -> None:
    path = write(tmp_path, tree_dts=HEAD + '/include/ "a.dtsi"\n};', a_dtsi="\nsoc {\n 5 };\n")
    file, line, why = the_problem(path)
    assert (file, line) == (str(tmp_path / "a.dtsi"), 3), why
    path = write(tmp_path, tree_dts=HEAD + '/include/ "a.dtsi"\n%', a_dtsi="soc { };\n\n\n")
    file, line, _ = the_problem(path)
    assert (file, line) == (str(path), HEAD.count("\n") + 2)
    path = write(tmp_path, tree_dts=HEAD + '/include/ "a.dtsi"\n};', a_dtsi=b"soc { };\n\xff\n")
    file, line, why = the_problem(path)
    assert (file, line, "UTF-8" in why) == (str(tmp_path / "a.dtsi"), 2, True)


def test_folders_are_searched_in_order_after_that_of_the_file(tmp_path: Path) -> None:
    tree = HEAD + '/include/ "soc.dtsi"\n'
    path = write(
        tmp_path,
        here__tree_dts=tree,
        one__soc_dtsi=SOC.replace("250000000", "1000001"),
        two__soc_dtsi=SOC.replace("250000000", "1000002"),
    )
    path = tmp_path / "here" / "tree.dts"
    folders = [tmp_path / "none", tmp_path / "one", tmp_path / "two"]
    assert read_system_file(path, include=folders).coprocs[0].clock_hz == 1_000_001
    assert read_system_file(path, include=folders[::-1]).coprocs[0].clock_hz == 1_000_002
    write(tmp_path, here__soc_dtsi=SOC.replace("250000000", "1000003"))
    assert read_system_file(path, include=folders).coprocs[0].clock_hz == 1_000_003
    path.write_text(HEAD + f'/include/ "{tmp_path}/two/soc.dtsi"\n')
    assert read_system_file(path).coprocs[0].clock_hz == 1_000_002


def test_missing_file_is_named_where_it_is_included(tmp_path: Path) -> None:
    path = write(tmp_path, tree_dts=HEAD + '/include/ "no.dtsi"\n')
    file, line, why = the_problem(path, tmp_path / "other")
    assert (file, line) == (str(path), HEAD.count("\n") + 1)
    assert "'no.dtsi' is neither beside" in why and "--include" in why


def test_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        tree_dts=HEAD + '/include/ "a.dtsi"\n',
        a_dtsi='/include/ "./b.dtsi"\n',
        b_dtsi='/include/ "a.dtsi"\n',
    )
    file, line, why = the_problem(path)
    assert (file, line) == (str(tmp_path / "b.dtsi"), 1)
    assert "a.dtsi includes itself" in why
    # One after the other is no cycle.
    write(tmp_path, tree_dts=HEAD + '/include/ "a.dtsi"\n/include/ "a.dtsi"\n' + SOC, a_dtsi="a;")
    read_system_file(path)


def test_number_depth_and_size_of_files_are_bounded(tmp_path: Path) -> None:
    deep = {f"n{i}_dtsi": f'/include/ "n{i + 1}.dtsi"\n' for i in range(20)}
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "n0.dtsi"', **deep)
    assert "deeper than 16" in the_problem(path)[2]
    many = '/include/ "e.dtsi"\n' * (limits.DTS_FILES_MAX + 1)
    path = write(tmp_path, tree_dts="/dts-v1/;\n" + many, e_dtsi="")
    _, line, why = the_problem(path)
    assert (line, f"more than {limits.DTS_FILES_MAX} files" in why) == (258, True)
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "e.dtsi"', e_dtsi=b" " * (1 << 20) + b" ")
    assert "larger than 1048576 bytes" in the_problem(path)[2]
    blobs = 'b = /incbin/("e.bin");' * 9
    path = write(tmp_path, tree_dts="/dts-v1/;\n/{" + blobs + "};", e_bin=b" " * (1 << 20))
    assert "more than 8388608 bytes together" in the_problem(path)[2]


def test_names_that_a_terminal_could_misread_are_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "\\x1b[2J/a\\nb"')
    (tmp_path / "\x1b[2J").mkdir()
    (tmp_path / "\x1b[2J" / "a\nb").mkdir()
    why = the_problem(path)[2]
    assert why.isprintable() and "Is a directory" in why
    with pytest.raises(InvalidConfig) as caught:
        parse_system('/dts-v1/;\n# 5 "\x1b[2J"\n%', "t")
    assert str(caught.value).isprintable()


def test_only_regular_files_are_included(tmp_path: Path) -> None:
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "pipe"')
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in the_problem(path)[2]
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "/dev/zero"')
    assert "is no regular file" in the_problem(path)[2]
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "."')
    assert "Is a directory" in the_problem(path)[2]
    path = write(tmp_path, tree_dts='/dts-v1/;\n/include/ "a\\0b"')
    assert "null" in the_problem(path)[2]


def test_tree_from_elsewhere_may_include_nothing(tmp_path: Path) -> None:
    (tmp_path / "soc.dtsi").write_text(SOC)
    for text in (f'/include/ "{tmp_path}/soc.dtsi"', f'x = /incbin/("{tmp_path}/soc.dtsi"); }};'):
        with pytest.raises(InvalidConfig, match="is not supported here"):
            parse_system(HEAD + text, str(tmp_path / "tree.dts"))


def test_binary_files_become_values(tmp_path: Path) -> None:
    tree = SYSTEM.replace(
        "acme,gains = <1 2 3>;",
        'acme,gains = /incbin/("gains.bin", 4, 8); acme,all = /incbin/("gains.bin");'
        'acme,past = /incbin/("gains.bin", 10, 99);',
    )
    path = write(tmp_path, tree_dts=tree, gains_bin=bytes(range(12)))
    params = dict(read_system_file(path).coprocs[0].platform_params)
    assert params["acme,gains"] == f"{0x04050607} {0x08090A0B}"
    assert params["acme,all"] == f"{0x00010203} {0x04050607} {0x08090A0B}"
    path = write(tmp_path, tree_dts='/dts-v1/;\n/ {\n x = /incbin/("no.bin"); };')
    assert the_problem(path)[:2] == (str(path), 3)


PIECES = [
    '/include/ "b.dtsi"', '/include/ "a.dtsi"', '/include/ "none"', '/incbin/("b.dtsi", 1, 2)',
    '/incbin/("none")', "#include", "x", "= <1>", ";", "{", "}", "};", "a: n", "&a", "<&a>", "=",
    "/", "/dts-v1/;", '"', "/*", '\n# 7 "c"\n', '\n#line 9 "d"\n', "\n#\n", "/delete-node/", ",",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*(st.lists(st.sampled_from(PIECES), max_size=12) for _ in range(3)))
def test_any_pieces_in_any_file_give_a_config_or_a_refusal(
    tmp_path: Path, tree: list[str], a: list[str], b: list[str]
) -> None:
    path = write(
        tmp_path,
        tree_dts="/dts-v1/; / { " + " ".join(tree),
        a_dtsi=" ".join(a),
        b_dtsi=" ".join(b),
    )
    with pytest.raises(InvalidConfig) as caught:  # nothing here shares a coproc
        read_system_file(path)
    assert caught.value.problems


# --- the preprocessor -----------------------------------------------------------------------------


def test_line_marks_of_a_preprocessor_are_followed() -> None:
    wrong = SYSTEM.replace("<2500>", "<1>").replace("<250000000>", "<0>")
    lines = wrong.splitlines()
    lines.insert(0, '# 1 "board.dts"')
    lines.insert(5, '/* # 700 "comment" */ /*\n# 701 "comment"\n*/ // "\n# 100 "head.h" 1 3')
    lines.insert(30, '# 7 "soc.dtsi" 2')
    with pytest.raises(InvalidConfig) as caught:
        parse_system("\n".join(lines), "out.dts")
    slice_us, clock = caught.value.problems
    assert (slice_us.file, slice_us.line) == ("head.h", 100 + lines.index(
        next(line for line in lines if "slice-us" in line)) - 6)  # fmt: skip
    assert (clock.file, clock.line) == ("soc.dtsi", 7 + lines.index(
        next(line for line in lines if "clock-freq" in line)) - 31)  # fmt: skip


@pytest.mark.parametrize("text", ["/*" * 300_000, '"' + '\\"' * 300_000 + "\\", "'" * 500_000])
def test_hostile_text_beside_line_marks_is_refused_soon(text: str) -> None:
    with pytest.raises(InvalidConfig):
        parse_system(f'# 1 "a.dts"\n/dts-v1/; {text}', "t")


@pytest.mark.parametrize("text", ['#include "a.h"', "#define A 1", "#ifdef A", "#include <a.h>"])
def test_preprocessor_directive_says_what_to_do(text: str) -> None:
    for source, line in (
        (f"/dts-v1/;\n{text}\n/ {{ }};", 2),
        (SYSTEM.replace("        ranges;", f"        ranges;\n{text}"), 32),
    ):
        with pytest.raises(InvalidConfig, match=r"C preprocessor.*--cpp") as caught:
            parse_system(source, "t.dts")
        assert caught.value.problems[0].line == line


def need_cpp() -> None:
    if shutil.which("cpp") is None:
        if os.environ.get("VCOPROC_REQUIRE_DTC"):
            pytest.fail("cpp is not here, and VCOPROC_REQUIRE_DTC is set")
        pytest.skip("cpp is not here; CI runs this test")


def test_preprocessor_is_run_when_asked(tmp_path: Path) -> None:
    need_cpp()
    path = write(
        tmp_path,
        tree_dts=HEAD.replace("/dts-v1/;", '/dts-v1/;\n#include <hz.h>\n#include "more.h"')
        + SOC.replace("<250000000>", "<(HZ)>"),
        inc__hz_h="#define HZ (2 * MHZ)\n",
        more_h="#define MHZ 1000000\n",
    )
    config = read_system_file(path, include=[tmp_path / "inc"], cpp=True)
    assert config.coprocs[0].clock_hz == 2_000_000
    path.write_text(path.read_text().replace("<2500>", "<1>"))
    ((file, line, _),) = problems_of(path, tmp_path / "inc", cpp=True)
    assert (file, line) == (str(path), 15)


def test_preprocessor_is_not_run_on_a_blob(tmp_path: Path) -> None:
    path = write(tmp_path, tree_dtb=write_blob(read_tree(SYSTEM, "t").root)).with_suffix(".dtb")
    assert read_system_file(path, cpp=True).coprocs[0].name == "dsp0"


def test_preprocessor_errors_are_problems(tmp_path: Path) -> None:
    need_cpp()
    path = write(tmp_path, tree_dts='/dts-v1/;\n#include "no.h"\n#error stop\n')
    ((file, line, why),) = problems_of(path, cpp=True)
    assert (file, line) == (str(path), 2)
    assert "no.h" in why
    with pytest.raises(NotFound):
        read_system_file(tmp_path / "none.dts", cpp=True)
    bomb = "#define A0 xxxxxxxx\n" + "".join(f"#define A{i + 1} {f'A{i} ' * 8}\n" for i in range(6))
    path = write(tmp_path, tree_dts=bomb + "A6\n")
    assert "made more than 1048576 bytes" in problems_of(path, cpp=True)[0][2]


def test_preprocessor_that_does_not_end_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_cpp()
    path = write(tmp_path, tree_dts='#include "pipe"\n')
    os.mkfifo(tmp_path / "pipe")  # nobody ever writes to it
    monkeypatch.setattr(limits, "CPP_TIMEOUT_NS", 100 * limits.MS)
    with pytest.raises(InvalidConfig, match="took longer than"):
        preprocess.preprocess(path)


def test_preprocessor_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, tree_dts=SYSTEM)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidConfig, match="`cpp` is not installed"):
        read_system_file(path, cpp=True)
