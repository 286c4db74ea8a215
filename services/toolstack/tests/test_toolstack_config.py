"""Configuration of a cluster: `vcoproc config`, what is in force, and a domain's device tree."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from toolstack_rig import TREE, TWO_VCOPROCS
from toolstack_server import Server, refused
from typer.testing import CliRunner

from config_trees import SYSTEM, content_of
from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import parse_system
from vcoproc.config.dts import read_tree
from vcoproc.config.fdt import write_blob
from vcoproc_toolstack.cli.app import app
from vcoproc_toolstack.cli.up import Cluster
from vcoproc_toolstack.gateway_configuration import device_tree

EXAMPLES = Path(__file__).parents[3] / "examples"
GOOD = 'name = "fir"\nvcoproc = [ "coproc=dsp0" ]\n'


def vcoproc(*arguments: str | Path, run_dir: Path | str = "/dev/shm/nobody") -> Any:
    environ = {"VCOPROC_RUN_DIR": str(run_dir)}
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environ)


def words(result: Any) -> list[list[str]]:
    return [line.split() for line in result.stdout.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "system.dts").write_text(SYSTEM)
    (tmp_path / "system.dtb").write_bytes(write_blob(read_tree(SYSTEM, "t").root))
    (tmp_path / "fir.cfg").write_text(GOOD)
    return tmp_path


# --- check ----------------------------------------------------------------------------------------


def test_good_files_are_named_with_what_they_are(folder: Path) -> None:
    (folder / "odd").write_text("// tree\n/* name = 1 */" + SYSTEM)
    (folder / "odd2").write_bytes((folder / "system.dtb").read_bytes())
    (folder / "cfg").write_text("# /dts-v1/\n" + GOOD + "kernel = 'x'\nkernle = 'x'\n")
    names = ["system.dts", "system.dtb", "odd", "odd2", "fir.cfg", "cfg"]
    result = vcoproc("config", "check", *(folder / name for name in names))
    assert result.exit_code == 0
    said = result.stdout.replace(f"{folder}/", "").splitlines()
    shares = "system, good; shares dsp0, gpu; Domain-0 has audio, video"
    assert said == [
        f"system.dts: {shares}",
        f"system.dtb: {shares}",
        f"odd: {shares}",
        f"odd2: {shares}",
        "fir.cfg: domain, good; fir has dsp0",
        "cfg: domain, good; fir has dsp0; keys that are not used: kernel, kernle",
    ]
    assert result.stderr == (
        f"{folder}/cfg:5: warning: kernle: is no key of xl.cfg(5); did you mean 'kernel'?\n"
    )


def test_everything_wrong_in_all_files_is_said_at_once(folder: Path) -> None:
    (folder / "bad.dts").write_text(SYSTEM.replace("<2500>", "<1>").replace("<512>", '"a"'))
    (folder / "bad.cfg").write_text("name = d\nmemory = 0\n")
    paths = [folder / name for name in ("bad.dts", "fir.cfg", "none.cfg", "bad.cfg")]
    result = vcoproc("config", "check", *paths)
    assert result.exit_code == 2
    assert result.stdout == f"{folder}/fir.cfg: domain, good; fir has dsp0\n"
    lines = result.stderr.replace(f"{folder}/", "").splitlines()
    assert [line.partition(": ")[0].removeprefix("error: ") for line in lines[1:-2]] == [
        "bad.dts:24",
        "none.cfg",
        "bad.cfg:1",
    ]
    assert lines[0].startswith("error: bad.dts:13: /chosen/shared/dsp0: slice-us: 1 is not between")
    assert lines[-2].startswith("bad.cfg:2: memory") and lines[-2].endswith("[INVALID_CONFIG]")
    assert lines[-1].startswith("next: correct that; ")


def test_domains_are_checked_against_a_system(folder: Path) -> None:
    (folder / "other.cfg").write_text('name = "d"\nvcoproc = [ "coproc=npu" ]\n')
    paths = [folder / "fir.cfg", folder / "other.cfg"]
    assert vcoproc("config", "check", *paths).exit_code == 0
    result = vcoproc("config", "check", *paths, "--tree", folder / "system.dts")
    assert result.exit_code == 2
    assert "other.cfg:2: vcoproc npu: 'npu' is no shared coproc of" in result.stderr
    assert result.stdout.count("good") == 2
    (folder / "both.cfg").write_text('memory = 0\nvcoproc = [ "coproc=npu", "foo", "irq=40" ]\n')
    result = vcoproc("config", "check", folder / "both.cfg", "--tree", folder / "system.dts")
    told = [line.partition("both.cfg")[2] for line in result.stderr.splitlines() if ".cfg" in line]
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == [
        "name", "memory", "vcoproc", "vcoproc", "vcoproc npu",
    ], result.stderr  # fmt: skip
    assert "'npu' is no shared coproc of" in result.stderr
    result = vcoproc("config", "check", *paths, "--tree", folder / "fir.cfg")
    assert (result.exit_code, "is a domain file, not a system" in result.stderr) == (2, True)
    result = vcoproc("config", "check", *paths, "--tree", folder / "none.dts")
    assert (result.exit_code, "none.dts: file: is not there" in result.stderr) == (2, True)


def test_mistakes_of_a_domain_hide_neither_warnings_nor_coprocs_that_are_not_there(
    folder: Path,
) -> None:
    bad = 'name = "d"\nmemory = 0\nvcups = 2\nvcoproc = [ "coproc=npu", "name=x" ]\n'
    (folder / "bad.cfg").write_text(bad)
    result = vcoproc("config", "check", folder / "bad.cfg", "--tree", folder / "system.dts")
    said = [line.partition("bad.cfg:")[2] for line in result.stderr.splitlines()[:-1]]
    assert said[0] == "3: warning: vcups: is no key of xl.cfg(5); did you mean 'vcpus'?"
    assert said[1] == "2: memory: 0 is not between 1 and 1024 MiB"
    assert said[2].startswith("4: vcoproc x: does not say which coproc")
    assert said[3].startswith("4: vcoproc npu: 'npu' is no shared coproc of")
    assert len(said) == 4


def test_reports_for_programs(folder: Path) -> None:
    (folder / "bad.dts").write_text(SYSTEM.replace("<2500>", "<1>"))
    (folder / "odd.cfg").write_text(GOOD + "vcoprocs = []\n")
    paths = [folder / "bad.dts", folder / "odd.cfg"]
    result = vcoproc("config", "check", *paths, "-o", "json")
    assert (result.exit_code, result.stderr) == (2, "")
    bad, odd = json.loads(result.stdout)["files"]
    assert (bad["kind"], bad["good"], odd["kind"], odd["good"]) == ("", False, "domain", True)
    (problem,) = bad["problems"]
    assert (problem["file"], problem["line"]) == (str(folder / "bad.dts"), 13)
    assert odd["unknown_keys"] == ["vcoprocs"]
    assert [warning["line"] for warning in odd["warnings"]] == [3]


def test_included_files_and_preprocessor(folder: Path) -> None:
    cut = SYSTEM.index("    soc {")
    (folder / "inc").mkdir()
    (folder / "inc" / "soc.dtsi").write_text(SYSTEM[cut:])
    (folder / "tree.dts").write_text(SYSTEM[:cut] + '/include/ "soc.dtsi"\n')
    path = folder / "tree.dts"
    assert vcoproc("config", "check", path).exit_code == 2
    assert vcoproc("config", "check", path, "-i", folder / "inc").exit_code == 0
    path.write_text(SYSTEM[:cut] + '#include "soc.dtsi"\n')
    result = vcoproc("config", "check", path, "-i", folder / "inc")
    assert (result.exit_code, "give --cpp" in result.stderr) == (2, True)
    result = vcoproc("config", "check", path, "-i", folder / "inc", "--cpp")
    assert result.exit_code == 0 or "`cpp` is not installed" in result.stderr


# --- show -----------------------------------------------------------------------------------------


def test_settings_of_a_tree_say_where_they_come_from(folder: Path) -> None:
    path = folder / "system.dts"
    lines = words(vcoproc("config", "show", path))
    assert ["dsp0", "slice-us", "2500", f"{path}:13"] in lines
    assert ["dsp0", "scheduler-params.frame_us", "10000", f"{path}:15"] in lines
    assert ["dsp0", "memory-limit", "4294967296", f"{path}:14"] in lines
    assert ["gpu", "slice-us", "5000", "default"] in lines
    assert ["gpu", "coproc", "/soc/gpu@10000", f"{path}:17"] in lines
    mode = SYSTEM[: SYSTEM.index("acme,mode")].count("\n") + 1
    assert ["dsp0", "acme,mode", "fast", "quiet", f"{path}:{mode}"] in lines
    assert ["Domain-0", "memory-size", "2097152", f"{path}:19"] in lines
    assert ["Domain-0", "vcoproc", "video", "coproc=gpu", f"{path}:26"] in lines
    blob = folder / "system.dtb"
    assert ["dsp0", "slice-us", "2500", str(blob)] in words(vcoproc("config", "show", blob))
    only = words(vcoproc("config", "show", path, "--coproc", "main-dsp"))
    assert {line[0] for line in only} == {"OF", "dsp0"}
    result = vcoproc("config", "show", path, "--coproc", "main")
    assert (result.exit_code, "'main' does not exist" in result.stderr) == (2, True)


def test_settings_of_a_domain_with_the_places_it_would_get(folder: Path) -> None:
    path = folder / "fir.cfg"
    path.write_text('name = "fir"\non_crash = "restart"\nvcoproc = ["coproc=dsp0,irq.fault=90"]\n')
    lines = words(vcoproc("config", "show", path))
    assert ["fir", "on_crash", "restart", f"{path}:2"] in lines
    assert ["fir", "on_poweroff", "preserve", "default"] in lines
    assert ["fir", "memory", "4", "default"] in lines
    assert ["fir", "vcoproc", "dsp0", "coproc=dsp0,irq.fault=90", f"{path}:3"] in lines
    lines = words(vcoproc("config", "show", path, "--tree", folder / "system.dts"))
    assert ["fir", "dsp0", "addr.mbox", "0xa001000", "chosen"] in lines
    assert ["fir", "dsp0", "irq.irq", "64", "chosen"] in lines
    assert ["fir", "dsp0", "irq.fault", "90", f"{path}:3"] in lines


def test_show_has_the_exit_codes_of_the_others(folder: Path) -> None:
    assert vcoproc("config", "show", folder / "none.dts").exit_code == 2
    assert vcoproc("config", "show").exit_code == 3
    result = vcoproc("config", "show", folder / "fir.cfg", "--tree", folder / "fir.cfg")
    assert (result.exit_code, "not a system tree" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("system.dts", "--tree", "system.dts"), "--tree: is for a domain file"),
        (("fir.cfg", "--coproc", "dsp0"), "--coproc: is for a system tree"),
        (("fir.cfg", "--tree", "none.dts"), "none.dts: file"),
        (("--tree", "system.dts"), "FILE: --tree"),
        (("--cpp",), "FILE: --tree"),
    ],
)
def test_show_refuses_what_it_would_not_heed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], why: str
) -> None:
    (folder / "fir.cfg").write_text('name = "fir"\nvcoproc = ["coproc=dsp0"]\n')
    monkeypatch.chdir(folder)
    result = vcoproc("config", "show", *arguments)
    assert (result.exit_code, why in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("option", ["--tls-dir", "--access"])
def test_up_refuses_files_for_tcp_that_it_would_not_listen_on(folder: Path, option: str) -> None:
    result = vcoproc("up", "--tree", folder / "system.dts", option, folder)
    assert (result.exit_code, "--listen" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:99999", "localhost:https"])
def test_up_refuses_an_address_that_would_be_another_one(folder: Path, address: str) -> None:
    tree = folder / "bad.dts"
    tree.write_text("no tree")
    files = ("--tls-dir", folder, "--access", tree)
    result = vcoproc("up", "--tree", tree, "--listen", address, *files)
    assert (result.exit_code, "HOST:PORT" in result.stderr) == (2, True), result.stderr


def test_what_a_cluster_has_in_force(server: Server) -> None:
    server.online()
    run_dir = server.run_dir.path
    settings = {(s.resource, s.name): s for s in server.call(
        "GetConfiguration", api.GetConfigurationRequest()).settings}  # fmt: skip
    weight = settings["coprocs/dsp0", "scheduler-params.weight"]
    line = TREE[: TREE.index("weight")].count("\n") + 1
    assert (weight.value, weight.source) == ("7", api.Setting.SOURCE_FILE)
    assert (weight.file, weight.line) == ("tree.dts", line)
    assert settings["coprocs/dsp0", "slice-us"].source == api.Setting.SOURCE_DEFAULT
    assert settings["coprocs/dsp1", "slice-us"].source == api.Setting.SOURCE_FILE
    assert ("coprocs/ncore-0", "slice-us") in settings
    server.call("SetSchedule", api.SetScheduleRequest(coproc="coprocs/dsp1", slice_us=3000))
    lines = words(vcoproc("config", "show", run_dir=run_dir))
    assert ["dsp1", "slice-us", "3000", "run-time", "change"] in lines
    assert ["dsp1", "scheduler", "rr", "run-time", "change"] in lines
    assert ["dsp1", "max-vcoprocs", str(limits.VCOPROCS_PER_COPROC_MAX), "default"] in lines
    assert ["dsp0", "slice-us", "5000", "default"] in lines
    result = vcoproc("config", "show", "--coproc", "dsp1", "-o", "json", run_dir=run_dir)
    found = json.loads(result.stdout)
    assert found["file_name"] == "tree.dts"
    assert {setting["resource"] for setting in found["settings"]} == {"coprocs/dsp1"}
    assert vcoproc("config", "show", "--coproc", "npu", run_dir=run_dir).exit_code == 1


def test_configuration_of_the_first_domain_is_shown(server: Server) -> None:
    server.rig.leases.system = parse_system(SYSTEM, "system.dts")
    answer = server.call("GetConfiguration", api.GetConfigurationRequest())
    found = {s.name: (s.value, s.line) for s in answer.settings if s.resource == "domains/Domain-0"}
    assert found["memory-size"] == ("2097152", 19)
    assert found["vcoproc audio"] == (
        "coproc=/soc/dsp@f0000000,weight=512,irq=80,addr.mbox=0xb000000",
        20,
    )


def test_the_first_domain_is_shown_as_it_is(server: Server) -> None:
    server.online()
    server.rig.ask_for_first_domain("coproc=dsp0,name=a,weight=7", "coproc=dsp1,name=b")
    assert server.rig.first_domain.make()
    server.call("DestroyVcoproc", api.DestroyVcoprocRequest(name="domains/Domain-0/vcoprocs/b"))
    spec = api.CreateVcoprocRequest(domain="domains/Domain-0", spec="coproc=dsp1,name=c")
    server.call("CreateVcoproc", spec)

    def shown() -> dict[str, tuple[str, int]]:
        answer = server.call("GetConfiguration", api.GetConfigurationRequest())
        return {s.name.partition(" ")[2]: (s.value, s.source)
                for s in answer.settings if s.name.startswith("vcoproc ")}  # fmt: skip

    found = shown()
    assert found["a"] == ("coproc=dsp0,weight=7", api.Setting.SOURCE_FILE)
    assert found["c"][0].startswith("coproc=dsp1,irq.irq=67,"), "where it was put"
    assert found["c"][1] == api.Setting.SOURCE_RUN_TIME
    assert "b" not in found, "it was detached"
    change = api.SetVcoprocParametersRequest(name="domains/Domain-0/vcoprocs/a")
    change.parameters["weight"] = 9
    server.call("SetVcoprocParameters", change)
    value, source = shown()["a"]
    assert value.startswith("coproc=dsp0,weight=9,")
    assert source == api.Setting.SOURCE_RUN_TIME


def test_names_in_requests_are_checked(server: Server) -> None:
    bad = grpc.StatusCode.INVALID_ARGUMENT
    with refused(bad, "INVALID_ARGUMENT", "coprocs/{coproc}"):
        server.call("GetConfiguration", api.GetConfigurationRequest(coproc="dsp0"))
    with refused(bad, "INVALID_ARGUMENT", "domains/{domain}"):
        server.call("GetDomainDeviceTree", api.GetDomainDeviceTreeRequest(name="fir"))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        server.call("GetConfiguration", api.GetConfigurationRequest(coproc="coprocs/npu"))
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        server.call("GetDomainDeviceTree", api.GetDomainDeviceTreeRequest(name="domains/x"))


# --- a domain's device tree -----------------------------------------------------------------------


def test_device_tree_of_a_domain(server: Server, tmp_path: Path) -> None:
    server.online()
    made = server.create(TWO_VCOPROCS)
    answer = server.call("GetDomainDeviceTree", api.GetDomainDeviceTreeRequest(name="domains/fir"))
    tree = read_tree(answer.blob, "t")
    source = read_tree(answer.source, "t")
    assert content_of(tree) == content_of(source)
    audio = source.nodes[source.aliases["vcoproc0"]].properties
    record = made.vcoprocs[0]
    assert audio["label"].strings == ("audio",) and audio["xen,vcoproc"].strings == ("dsp0",)
    assert audio["reg"].cells == tuple(
        cell for place in record.ranges for cell in (0, place.base_ipa, 0, place.size_bytes)
    )
    assert audio["vcoproc,mapped"].strings == ("mbox",)
    assert audio["interrupts"].cells == tuple(
        cell for line in record.lines for cell in (0, line.irq - 32, 4 if line.level else 1)
    )
    assert audio["clock-frequency"].cells == (100_000_000,)
    run_dir = server.run_dir.path
    assert vcoproc("domain", "device-tree", "fir", run_dir=run_dir).stdout == answer.source
    path = tmp_path / "fir.dtb"
    result = vcoproc("domain", "device-tree", "fir", "--blob", path, run_dir=run_dir)
    assert (result.exit_code, result.stdout, path.read_bytes()) == (0, "", answer.blob)
    result = vcoproc("domain", "device-tree", "fir", "--blob", tmp_path, run_dir=run_dir)
    assert (result.exit_code, "directory" in result.stderr) == (2, True)
    result = vcoproc("domain", "device-tree", "fir", "-o", "json", run_dir=run_dir)
    assert json.loads(result.stdout)["blob"] == answer.blob.hex()


def test_device_tree_of_what_is_gone_or_wrapped(server: Server) -> None:
    server.online()
    server.create(TWO_VCOPROCS)
    domain, coprocs = server.rig.queries.guest("fir")
    wrapped = replace(
        coprocs["dsp0"],
        compatible="vcoproc,refuse",
        platform_params=(("vcoproc,wraps", "vcoproc,cortex-m4"),),
    )
    root = device_tree(domain, {"dsp0": wrapped})
    audio, video = next(child for child in root.children if child.name == "passthrough").children
    assert audio.properties["compatible"].strings == ("vcoproc,cortex-m4",)
    assert "clock-frequency" in audio.properties and "clock-frequency" not in video.properties
    assert video.properties["compatible"].strings == ("vcoproc,cortex-m4",)


@pytest.mark.slow
def test_toolstack_process_takes_a_compiled_tree_and_refuses_a_wrong_one(folder: Path) -> None:
    wrong = folder / "wrong.dtb"
    wrong.write_bytes((folder / "system.dtb").read_bytes()[:-1])
    done = subprocess.run(
        [sys.executable, "-m", "vcoproc_toolstack", "--run-dir", folder / "run", "--tree", wrong,
         "--include", folder],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "wrong.dtb: device tree blob" in done.stderr


@pytest.mark.slow
def test_cluster_runs_on_a_tree_of_several_files(short_path: Path, tmp_path: Path) -> None:
    demo = (EXAMPLES / "demo.dts").read_text()
    cut = demo.index("\tsoc {")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "soc.dtsi").write_text(demo[cut:])
    tree = tmp_path / "system.dts"
    tree.write_text(demo[:cut] + '/include/ "soc.dtsi"\n')
    with Cluster(tree, short_path / "run", include=[tmp_path / "parts"]) as cluster:
        result = vcoproc("config", "show", run_dir=cluster.run_dir)
    line = demo[: demo.index("clock-frequency")].count("\n") - demo[:cut].count("\n") + 1
    place = f"{tmp_path}/parts/soc.dtsi:{line}"
    assert ["dsp0", "clock-frequency", "100000000", place] in words(result)
