"""The `vcoproc` command: what people and programs read, and the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from toolstack_rig import TWO_VCOPROCS, one_vcoproc
from toolstack_server import Server
from typer.testing import CliRunner

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli.app import app
from vcoproc_toolstack.cli.exit_codes import EXIT_OUTPUT
from vcoproc_toolstack.cli.output import to_dict
from vcoproc_toolstack.cli.tables import event_line, show

Result = Any  # of whichever click typer brings
RUNNER = CliRunner()


def vcoproc(server: Server | None, *arguments: str) -> Result:
    """Runs the command on the cluster of a server."""
    environ = {"VCOPROC_RUN_DIR": str(server.run_dir.path) if server else "/dev/shm/nobody"}
    return RUNNER.invoke(app, list(arguments), env=environ)


def words(result: Result) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in result.stdout.splitlines()]


@pytest.fixture
def full(server: Server) -> Server:
    server.online()
    server.create(TWO_VCOPROCS)
    return server


# --- tables ---------------------------------------------------------------------------------------


def test_a_dry_run_names_no_numbers(server: Server, tmp_path: Path) -> None:
    """Least of all 0, which is Domain-0's."""
    server.online()
    file = tmp_path / "fir.cfg"
    file.write_text(TWO_VCOPROCS)
    lines = words(vcoproc(server, "domain", "create", "--dry-run", str(file)))
    assert ["domain", "fir:", "domid", "-,", "RUNNING,", "1", "MiB"] in lines
    assert ["fir/audio", "-", "dsp0", "SLEEPING", "-", "-", "-", "weight=512"] in lines


def test_a_narrow_terminal_cuts_nothing_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line in which a value is given, for one, is at the end of a long path."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    show(("SETTING", "FROM"), [("slice-us", f"/a/{'long/' * 20}way.dts:1234")], empty="")
    assert "".join(capsys.readouterr().out.split()).endswith("way.dts:1234")


def test_a_created_domain_is_shown_with_its_places(server: Server, tmp_path: Path) -> None:
    server.online()
    file = tmp_path / "fir.cfg"
    file.write_text(TWO_VCOPROCS + 'kernel = "/vmlinuz"\n')
    result = vcoproc(server, "domain", "create", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = words(result)
    assert ["domain", "fir:", "domid", "1,", "RUNNING,", "1", "MiB"] in lines
    assert ["keys", "of", "its", "file", "that", "are", "not", "used:", "kernel"] in lines
    assert ["fir/audio", "1", "dsp0", "SLEEPING", "-", "-", "-", "weight=512"] in lines
    assert ["audio", "range", "ctrl", "0x0a000000", "+0x1000", "trapped"] in lines
    assert ["audio", "range", "mbox", "0x0a001000", "+0x1000", "shared", "memory"] in lines
    assert ["video", "line", "event", "irq", "68", "edge"] in lines


def test_lists_for_people(full: Server) -> None:
    lines = words(vcoproc(full, "domain", "list"))
    assert lines == [
        ["NAME", "DOMID", "STATE", "MEMORY", "VCOPROCS"],
        ["fir", "1", "RUNNING", "1", "MiB", "audio,", "video"],
    ]
    lines = words(vcoproc(full, "coproc", "list"))
    assert lines[1] == ["dsp0", "ONLINE", "vcoproc,cortex-m4", "rr", "5000", "us", "1/3", "-", "5"]
    assert len(lines) == 6
    lines = words(vcoproc(full, "vcoproc", "list"))
    assert lines[1] == [
        "fir/audio",
        "1",
        "dsp0",
        "SLEEPING",
        "0.0",
        "ms",
        "0.0",
        "ms",
        "0",
        "weight=512",
    ]
    full.create(one_vcoproc("other"))
    lines = words(vcoproc(full, "vcoproc", "list", "--domain", "other"))
    assert [line[0] for line in lines] == ["NAME", "other/v"]
    lines = words(vcoproc(full, "coproc", "show", "dsp1"))
    assert ["node", "/soc/dsp@f1000000"] in lines
    assert words(vcoproc(full, "domain", "show", "fir"))[0][:2] == ["domain", "fir:"]


def test_what_is_not_a_terminal_gets_no_colours_and_whole_lines(full: Server) -> None:
    full.create('name = "long"\nvcoproc = [' + ", ".join(
        f'"coproc=ncore-0,name=a_very_long_name_for_a_vcoproc_{n}"' for n in range(4)
    ) + "]")  # fmt: skip
    result = vcoproc(full, "domain", "list")
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 3
    assert "…" not in result.stdout


def test_an_empty_cluster_says_what_to_do(server: Server) -> None:
    assert "vcoproc domain create FILE" in vcoproc(server, "domain", "list").stdout
    assert "no vcoprocs" in vcoproc(server, "vcoproc", "list").stdout


def test_destroying(full: Server) -> None:
    result = vcoproc(full, "domain", "destroy", "fir")
    assert (result.exit_code, result.stdout) == (0, "domain fir is destroyed\n")
    assert full.rig.domains() == []


def test_a_repeated_command_with_its_request_id(full: Server, tmp_path: Path) -> None:
    file = tmp_path / "b.cfg"
    file.write_text(one_vcoproc("b"))
    for _ in range(2):
        result = vcoproc(full, "domain", "create", str(file), "--request-id", "once")
        assert result.exit_code == 0
    for _ in range(2):
        result = vcoproc(full, "domain", "destroy", "b", "--request-id", "gone")
        assert result.exit_code == 0


# --- json -----------------------------------------------------------------------------------------


def read_json(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_json_has_the_names_of_the_api_and_every_field(full: Server, tmp_path: Path) -> None:
    got = read_json(vcoproc(full, "domain", "show", "fir", "--output", "json"))
    assert set(got) == {field.name for field in api.Domain.DESCRIPTOR.fields}
    assert (got["name"], got["memory_bytes"]) == ("domains/fir", 1 << 20)
    assert got["state"] == "STATE_RUNNING"
    audio = got["vcoprocs"][0]
    assert set(audio) == {field.name for field in api.Vcoproc.DESCRIPTOR.fields}
    assert audio["parameters"] == {"weight": 512}
    assert audio["ranges"][0] == {
        "name": "ctrl",
        "base_ipa": 0x0A000000,
        "size_bytes": 4096,
        "mapped": False,
    }
    assert set(audio["accounting"]) == {f.name for f in api.Accounting.DESCRIPTOR.fields}

    got = read_json(vcoproc(full, "domain", "list", "-o", "json"))
    assert [domain["name"] for domain in got["domains"]] == ["domains/fir"]
    assert got["revision"] == 2
    got = read_json(vcoproc(full, "coproc", "list", "-o", "json"))
    assert [coproc["name"] for coproc in got["coprocs"]][:2] == ["coprocs/dsp0", "coprocs/dsp1"]
    got = read_json(vcoproc(full, "coproc", "show", "dsp0", "-o", "json"))
    assert got["vcoproc_count_max"] == 3
    got = read_json(vcoproc(full, "vcoproc", "list", "-o", "json"))
    assert [each["state"] for each in got["vcoprocs"]] == ["STATE_SLEEPING"] * 2

    file = tmp_path / "b.cfg"
    file.write_text('name = "b"')
    got = read_json(vcoproc(full, "domain", "create", str(file), "-o", "json"))
    assert got["name"] == "domains/b"
    assert read_json(vcoproc(full, "domain", "destroy", "b", "-o", "json")) == {}


def test_accounting_that_is_not_there_is_null(full: Server) -> None:
    full.rig.services.down = {"scheduler"}
    got = read_json(vcoproc(full, "vcoproc", "list", "-o", "json"))
    assert [each["accounting"] for each in got["vcoprocs"]] == [None, None]


def test_every_kind_of_field_as_json() -> None:
    message = api.DomainAccess(
        irq_credential=b"\x01\xff",
        memory=[api.MemoryRegion(base_ipa=2**63)],
        domain=api.Domain(state=9),  # type: ignore[arg-type]  # of a newer toolstack
    )
    got = to_dict(message)
    assert got["irq_credential"] == "01ff"
    assert got["memory"][0]["base_ipa"] == 2**63, "a number, not a string"
    assert got["domain"]["state"] == 9
    assert got["vcoprocs"] == []
    assert to_dict(api.DomainAccess())["domain"] is None


def test_lists_longer_than_a_page_are_whole(full: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vcoproc.client.calls._PAGE_SIZE", 2)
    for name in "abcde":
        full.create(f'name = "{name}"')
    got = read_json(vcoproc(full, "domain", "list", "-o", "json"))
    assert [domain["name"][8:] for domain in got["domains"]] == ["a", "b", "c", "d", "e", "fir"]
    assert got["next_page_token"] == ""


# --- events ---------------------------------------------------------------------------------------


def test_events_that_are_kept(full: Server) -> None:
    vcoproc(full, "domain", "destroy", "fir")
    lines = words(vcoproc(full, "events"))
    assert [(line[0], *line[2:4]) for line in lines] == [
        ("2", "CREATED", "domains/fir"),
        ("3", "DESTROYED", "domains/fir"),
    ]
    result = vcoproc(full, "events", "--revision", "2", "-o", "json")
    [event] = [json.loads(line) for line in result.stdout.splitlines()]
    assert set(event) == {field.name for field in api.Event.DESCRIPTOR.fields}
    assert (event["revision"], event["kind"]) == (3, "KIND_DESTROYED")
    assert vcoproc(full, "events", "--revision", "3").stdout == ""


def test_no_events_yet(server: Server) -> None:
    result = vcoproc(server, "events")
    assert (result.exit_code, result.stdout) == (0, "")


def test_following_events_until_the_cluster_ends_it(
    full: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcoproc_toolstack.cli.watching.PATIENCE_NS", 1)
    shown = threading.Event()

    def line_of(event: api.Event) -> str:
        if event.name == "domains/late":
            shown.set()
        return event_line(event)

    monkeypatch.setattr("vcoproc_toolstack.cli.tables.event_line", line_of)
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(vcoproc(full, "events", "--follow")))
    thread.start()
    while not full.streams._streams:
        assert thread.is_alive()
    full.create('name = "late"')
    assert shown.wait(20)
    full.streams.stop()
    thread.join(20)
    [result] = results
    assert (result.exit_code, "it has ended the watch" in result.stderr) == (3, True)
    assert [line[3] for line in words(result)] == ["domains/fir", "domains/late"]


# --- mistakes -------------------------------------------------------------------------------------


def test_a_cluster_over_tcp_is_the_one_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside a run directory in the environment; with the certificates that are named."""
    monkeypatch.setenv("VCOPROC_ADDRESS", "localhost:1")
    result = vcoproc(None, "--tls-dir", "/no/certificates", "domain", "list")
    assert (result.exit_code, "/no/certificates/ca.crt" in result.stderr) == (2, True)
    result = vcoproc(None, "--address", "localhost:1", "domain", "list", "--run-dir", "/dev/shm/x")
    assert (result.exit_code, "name one" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["domain", "show", "nope"], 1, "domain 'nope' does not exist [NOT_FOUND]"),
        (["domain", "destroy", "nope"], 1, "[NOT_FOUND]"),
        (["coproc", "show", "nope"], 1, "coproc 'nope' does not exist"),
        (["vcoproc", "list", "--domain", "nope"], 1, "[NOT_FOUND]"),
        (["domain", "show", "a/b"], 2, "'a/b' is no name of a domain"),
        (["domain", "show", ""], 2, "'' is no name of a domain"),
        (["domain", "create", "/no/such.cfg"], 2, "/no/such.cfg: there is no such file"),
        (["domain", "destroy", "fir", "--request-id", "x" * 64], 2, "request_id: is longer"),
        (["events", "--revision", "99"], 1, "[REVISION_GONE]"),
        (["events", "--revision", "-1"], 2, "'--revision'"),
        (["domain", "list", "--output", "xml"], 2, "xml"),
        (["domain", "frobnicate"], 2, "frobnicate"),
        (["frobnicate"], 2, "frobnicate"),
        (["up"], 2, "--tree"),
        (["up", "--tree", "/no/such.dts"], 2, "/no/such.dts: there is no such file"),
        (["up", "--tree", "x.dts", "--instances", "0"], 2, "'--instances'"),
    ],
)
def test_a_mistake_has_its_exit_code_and_words(
    full: Server, arguments: Sequence[str], code: int, said: str
) -> None:
    result = vcoproc(full, *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_wrong_domain_file_is_told_by_line(full: Server, tmp_path: Path) -> None:
    file = tmp_path / "bad.cfg"
    file.write_text('name = "bad"\nmemory = "lots"\nvcoproc = ["coproc=dps0"]\n')
    result = vcoproc(full, "domain", "create", str(file))
    assert result.exit_code == 2
    assert f"{file}:2: memory: must be a number" in result.stderr
    assert "next: correct that; docs/configuration.md" in result.stderr
    file.write_bytes(b'name = "bad"\n# \xff\n')
    result = vcoproc(full, "domain", "create", str(file))
    assert result.exit_code == 2
    assert f"{file}:2: file: is not UTF-8 text" in result.stderr


def test_a_wrong_spec_has_no_lines(full: Server) -> None:
    """It is given on the command line, not in a file."""
    result = vcoproc(full, "vcoproc", "attach", "fir", "foo")
    assert result.exit_code == 2
    assert "error: spec: vcoproc: 'foo' is not key=value\nspec: vcoproc: does" in result.stderr


def test_a_revision_that_is_not_there_yet_is_not_gone(full: Server) -> None:
    result = vcoproc(full, "events", "--revision", "1000")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: revision 1000 is later than the newest, " in result.stderr


def test_output_that_cannot_be_written_is_no_bug(full: Server) -> None:
    program = [sys.executable, "-c", "from vcoproc_toolstack.cli.app import main; main()"]
    environ = {**os.environ, "VCOPROC_RUN_DIR": str(full.run_dir.path)}
    with open("/dev/full", "w") as disk:
        for command in (["domain", "list"], ["events"], ["events", "-o", "json"]):
            ended = subprocess.run(
                [*program, *command], stdout=disk, stderr=subprocess.PIPE, text=True, env=environ
            )
            assert ended.returncode == EXIT_OUTPUT, ended.stderr
            first, second = ended.stderr.splitlines()
            assert first == "error: the output cannot be written: No space left on device"
            assert second.startswith("next: ")
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *program, "domain", "list"], env=environ)
    assert closed.returncode == 0


def test_a_reader_that_has_enough_is_no_refusal(full: Server) -> None:
    program = [sys.executable, "-c", "from vcoproc_toolstack.cli.app import main; main()"]
    environ = {**os.environ, "VCOPROC_RUN_DIR": str(full.run_dir.path)}
    read, write = os.pipe()
    os.close(read)
    for command in (["domain", "list"], ["events"], ["events", "-o", "json"]):
        ended = subprocess.run(
            [*program, *command], stdout=write, stderr=subprocess.PIPE, text=True, env=environ
        )
        assert (ended.returncode, ended.stderr) == (EXIT_OUTPUT, "")
    os.close(write)


def test_version() -> None:
    result = vcoproc(None, "--version")
    assert result.stdout == f"vcoproc {metadata.version('vcoproc-toolstack')}\n"


def test_a_refusal_says_what_to_do_next(full: Server, tmp_path: Path) -> None:
    file = tmp_path / "fir.cfg"
    file.write_text(TWO_VCOPROCS)
    result = vcoproc(full, "domain", "create", str(file))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: domain 'fir' exists already [ALREADY_EXISTS]",
        "next: choose another name, or destroy the old one first",
    ]


def test_a_service_that_is_down_is_a_refusal_and_not_an_absent_cluster(
    full: Server, tmp_path: Path
) -> None:
    full.rig.services.down = {"irq-router"}
    file = tmp_path / "b.cfg"
    file.write_text(one_vcoproc("b"))
    result = vcoproc(full, "domain", "create", str(file))
    assert result.exit_code == 1
    assert "irq-router has gone away [PEER_LOST]" in result.stderr
    assert "try again" in result.stderr


def test_no_cluster(short_path: Path) -> None:
    result = vcoproc(None, "domain", "list")
    assert result.exit_code == 3
    assert "no cluster answers in /dev/shm/nobody" in result.stderr
    assert "vcoproc up --tree FILE" in result.stderr


def test_a_socket_that_nobody_listens_on(server: Server) -> None:
    path = server.run_dir.path / "toolstack.grpc"
    for part in server._servers:
        part.stop(0).wait()
    path.touch()
    result = vcoproc(server, "domain", "list")
    assert result.exit_code == 3
    assert "the toolstack does not answer" in result.stderr


def test_a_run_dir_that_cannot_be_one() -> None:
    result = RUNNER.invoke(app, ["domain", "list", "--run-dir", "/dev/shm/" + "x" * 60])
    assert result.exit_code == 2
    assert "too long for socket paths" in result.stderr


def test_a_wrong_tree_is_told_by_line_before_anything_is_made(short_path: Path) -> None:
    tree = short_path / "bad.dts"
    tree.write_text("/dts-v1/;\n/ {\n  chosen { oops\n};\n")
    run_dir = short_path / "run"
    result = RUNNER.invoke(app, ["up", "--tree", str(tree), "--run-dir", str(run_dir)])
    assert result.exit_code == 2
    assert f"{tree}:" in result.stderr
    assert "[INVALID_CONFIG]" in result.stderr
    assert not run_dir.exists()


def test_the_demo_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vcoproc_demo.main", None)
    result = RUNNER.invoke(app, ["demo"])
    assert result.exit_code == 2
    assert "the demo is not installed" in result.stderr


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["up"],
        ["demo"],
        ["events"],
        ["domain"],
        ["domain", "create"],
        ["domain", "destroy"],
        ["domain", "list"],
        ["domain", "show"],
        ["coproc"],
        ["coproc", "list"],
        ["coproc", "show"],
        ["vcoproc"],
        ["vcoproc", "list"],
    ],
)
def test_every_command_has_help_with_exit_codes(arguments: list[str]) -> None:
    result = RUNNER.invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    text = " ".join(result.stdout.split())
    assert "3 no cluster can be reached" in text


def test_help_imports_nothing_heavy() -> None:
    """Help must come at once; whatever a command needs it imports by itself."""
    heavy = ["grpc", "google.protobuf", "sqlalchemy", "rich", "zmq", "pydantic", "devicetree"]
    code = (
        "import sys\nfrom typer.testing import CliRunner\n"
        "from vcoproc_toolstack.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout.strip() == "[]"
