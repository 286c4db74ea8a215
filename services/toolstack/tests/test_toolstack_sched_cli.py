"""`vcoproc sched`: tables, JSON, the grammar of xl, mistakes."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from toolstack_rig import NO_REQUEST, TWO_VCOPROCS, one_vcoproc
from toolstack_scheduling import decision
from toolstack_server import TIMEOUT_S, Server
from typer.testing import CliRunner

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.cli import sched_tables
from vcoproc_toolstack.cli.app import app
from vcoproc_toolstack.schedules import Setting

Result = Any  # of whichever click typer brings
RUNNER = CliRunner()
AUDIO = "domains/fir/vcoprocs/audio"
OTHER = "domains/other/vcoprocs/v"


@pytest.fixture
def full(server: Server) -> Server:
    """fir/audio and other/v on dsp0, fir/video on dsp1."""
    server.online()
    server.create(TWO_VCOPROCS)
    server.create(one_vcoproc("other"))
    return server


def sched(server: Server, *arguments: str) -> Result:
    environ = {"VCOPROC_RUN_DIR": str(server.run_dir.path)}
    return RUNNER.invoke(app, ["sched", *arguments], env=environ)


def words(result: Result) -> list[list[str]]:
    """The words of each line of what succeeded."""
    assert (result.exit_code, result.stderr) == (0, "")
    return [line.split() for line in result.stdout.splitlines()]


def read_json(result: Result) -> Any:
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def params(server: Server, coproc: str = "dsp0") -> dict[int, dict[str, int]]:
    """What the scheduler holds of vcoprocs."""
    held = server.rig.services.scheduled[coproc]
    return {number: dict(parameters) for number, parameters in held.items()}


def setting(server: Server) -> Setting:
    return server.rig.services.scheduling.settings["dsp0"]


# --- reading --------------------------------------------------------------------------------------


def test_names_are_taken_as_the_answers_have_them(full: Server) -> None:
    audio = "domains/fir/vcoprocs/audio"
    assert sched(full, "show", "coprocs/dsp0").stdout == sched(full, "show", "dsp0").stdout
    for short, whole in (("dsp0", "coprocs/dsp0"), ("fir/audio", audio)):
        told = read_json(sched(full, "params", whole, "-o", "json"))
        assert told == read_json(sched(full, "params", short, "-o", "json"))
        assert told["name"] == whole
    assert sched(full, "params", audio, "-p", "weight=3").exit_code == 0
    assert sched(full, "set", "coprocs/dsp0", "-v", f"{audio}:weight=4").exit_code == 0
    assert params(full)[1] == {"weight": 4}


def test_list(full: Server) -> None:
    lines = words(sched(full, "list"))
    assert lines[0][:3] == ["COPROC", "ALGORITHM", "SLICE"]
    assert lines[1] == ["dsp0", "rr", "5000", "us", "tree", "2", "5", "min_run_us=0", "weight=7"]
    assert [line[0] for line in lines[1:]] == ["dsp0", "dsp1", "ncore-0", "ncore-1", "ncore-2"]
    sched(full, "set", "dsp0", "credit")
    assert words(sched(full, "list"))[1][:5] == ["dsp0", "credit", "5000", "us", "operator"]
    got = read_json(sched(full, "list", "-o", "json"))
    assert [each["coproc"] for each in got["schedules"]][:2] == ["coprocs/dsp0", "coprocs/dsp1"]
    assert set(got["schedules"][0]) == {field.name for field in api.Schedule.DESCRIPTOR.fields}


def test_show(full: Server) -> None:
    result = sched(full, "show", "dsp0")
    lines = words(result)
    assert "coproc dsp0: rr, slice 5000 us, as in the system's tree" in result.stdout
    account = next(line for line in lines if line[:2] == ["fir/audio", "SLEEPING"])
    assert " ".join(account[2:]) == (
        "3.000 ms 25.0 % 2.000 ms 1.000 ms 0.000 ms 0.000 ms 0.000 ms 6 5 weight=512"
    )
    slices = next(line for line in lines if line[:2] == ["fir/audio", "3"])
    assert slices[2:] == ["0.030", "ms", "0.031", "ms", "2", "0.4", "us", "0.8", "us"]
    refusals = [" ".join(line) for line in lines if line[1:2] in (["out"], ["in"])]
    assert refusals == [
        "fir/audio out 2 5 1 - 0.009 ms 8 us 1 below 4 us 1 longer",
        "fir/audio in 3 7 - 2 3.100 ms 1500 us 1 below 2 us 2 below 8 us",
        "other/v out 2 5 1 - 0.009 ms 8 us 1 below 4 us 1 longer",
        "other/v in 3 7 - 2 3.100 ms 1500 us 1 below 2 us 2 below 8 us",
    ]
    got = read_json(sched(full, "show", "dsp0", "-o", "json"))
    assert got["vcoprocs"][0]["refusals"]["bucket_counts"] == [0, 0, 1, 0, 1]
    assert got["vcoprocs"][0]["switch_in_refusals"] == {
        "refusal_count": 3,
        "busy_count": 7,
        "forced_count": 0,
        "given_up_count": 2,
        "total_ns": 3_100_000,
        "longest_us": 1_500,
        "bucket_counts": [0, 1, 0, 2, 0],
    }


@pytest.mark.parametrize("out", [True, False])
@pytest.mark.parametrize("entry", [True, False])
def test_refusals_are_shown_where_there_were_any(
    out: bool, entry: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {True: api.Refusals(refusal_count=1, bucket_counts=[1, 0]), False: api.Refusals()}
    vcoproc = api.VcoprocSchedule(
        vcoproc=AUDIO, refusals=refused[out], switch_in_refusals=refused[entry]
    )
    sched_tables.schedule(api.Schedule(coproc="coprocs/dsp0", vcoprocs=[vcoproc]))
    text = capsys.readouterr().out
    assert ("HOW LONG" in text) == (out or entry)
    rows = [line.split()[1] for line in text.splitlines() if line.endswith("1 below 1 us")]
    assert rows == ["out"] * out + ["in"] * entry


def test_a_fallback_is_said(full: Server) -> None:
    sched(full, "set", "dsp0", "credit")
    full.rig.services.scheduling.failed.add("dsp0")
    text = sched(full, "show", "dsp0").stdout
    assert "rr (instead of credit)" in text
    assert "fell back: credit failed: a bug" in text


def test_params_have_unit_range_and_default(full: Server) -> None:
    sched(full, "set", "dsp0", "credit")
    result = sched(full, "params", "fir/audio")
    assert words(result)[0] == ["fir/audio:", "credit"]
    assert ["weight", "512", "-", "0..65535", "256", "what", "weight", "means"] in words(result)
    assert ["cap", "0", "%", "0..100", "0", "what", "cap", "means"] in words(result)
    result = sched(full, "params", "dsp0")
    lines = [line[:5] for line in words(result)]
    assert ["cap_period_us", "30000", "us", "0..1000000", "30000"] in lines
    assert not [line for line in words(result) if line[0] == "weight"]
    got = read_json(sched(full, "params", "dsp0", "-o", "json"))
    assert got["name"] == "coprocs/dsp0"
    assert {each["name"]: each["value"] for each in got["parameters"]} == {
        "min_run_us": 0,
        "cap_period_us": 30_000,
    }


def test_algorithms(full: Server) -> None:
    result = sched(full, "algorithms")
    assert "credit: Shares by weight." in result.stdout
    assert ["cap", "vcoproc", "%", "0..100", "0", "what", "cap", "means"] in words(result)
    got = read_json(sched(full, "algorithms", "-o", "json"))
    assert [each["name"] for each in got["algorithms"]] == ["credit", "edf", "rr"]


def test_analyse(full: Server) -> None:
    result = sched(full, "analyse", "dsp0")
    said = " ".join(result.stdout.split())
    assert "switches of 1.5 us, refusals of 2.0 us to leave and 4.0 us to be taken in" in said
    assert words(result)[-2:] == [
        ["fir/audio", "nothing", "no", "bound", "7.0", "us", "no", "bound", "none", "-", "turns"],
        ["other/v", "25.0", "%", "7.0", "us", "7.0", "us", "9.0", "us", "8.0", "us", "EXCEEDED",
         "turns"],
    ]  # fmt: skip
    assert "responses were observed" not in said, "for the work that was asked about"
    options = ("--switch-us", "7", "--refusal-us", "8", "--work-us", "9", "-o", "json")
    got = read_json(sched(full, "analyse", "dsp0", *options))
    assert (got["switch_ns"], got["refusal_ns"], got["work_ns"]) == (7_000, 8_000, 9_000)
    assert got["switch_in_refusal_ns"] == 8_000
    said = sched(full, "analyse", "dsp0", "--work-us", "12").stdout
    assert "and 12.0 us of work after a wake" in " ".join(said.split())
    assert "responses were observed for 10.0 us of work" in said


@pytest.mark.parametrize(
    ("waited_ns", "responded_ns", "bounds_ns", "verdict"),
    [
        (700, 900, (700, 900), "kept"),
        (701, 900, (700, 900), "EXCEEDED"),
        (700, 901, (700, 900), "EXCEEDED"),
        (700, 901, (700, 0), "kept"),
        (701, 900, (0, 0), "-"),
    ],
)
def test_waits_and_responses_are_held_against_their_bounds(
    waited_ns: int,
    responded_ns: int,
    bounds_ns: tuple[int, int],
    verdict: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = api.VcoprocAnalysis(
        vcoproc=AUDIO,
        worst_wait_ns=bounds_ns[0],
        observed_wait_ns=waited_ns,
        worst_response_ns=bounds_ns[1],
        observed_response_ns=responded_ns,
        explanation="why",
    )
    sched_tables.analysis(api.ScheduleAnalysis(coproc="coprocs/dsp0", vcoprocs=[found]))
    assert capsys.readouterr().out.split()[-2:] == [verdict, "why"]


def test_log(full: Server) -> None:
    kept = [decision(number, 1 + number % 2 * 2) for number in range(1, 6)]
    full.rig.services.scheduling.kept["dsp0"] = kept
    lines = words(sched(full, "log", "dsp0", "-n", "2"))
    assert lines == [
        ["4", "0.004000", "slice", "fir/audio", "for", "5000.0", "us", "[rr]"],
        ["5", "0.005000", "slice", "other/v", "for", "5000.0", "us", "[rr]"],
    ]
    assert len(words(sched(full, "log", "dsp0"))) == 5
    assert words(sched(full, "log", "dsp0", "-n", "0")) == []
    assert words(sched(full, "log", "dsp1")) == []
    got = sched(full, "log", "dsp0", "-n", "1", "-o", "json").stdout.splitlines()
    assert json.loads(got[0])["vcoproc"] == OTHER


def test_log_that_follows(full: Server) -> None:
    scheduling = full.rig.services.scheduling
    scheduling.kept["dsp0"] = [decision(1, 1)]
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(sched(full, "log", "dsp0", "-f")))
    thread.start()
    after, source = scheduling.followed.get(timeout=TIMEOUT_S)
    assert after == 1
    source.items.put((decision(4, 3, "withheld"), 2))
    source.items.put(None)
    thread.join(TIMEOUT_S)
    [result] = results
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["1", "(2", "4"]
    assert "withheld" in result.stdout
    assert (result.exit_code, "PEER_LOST" in result.stderr) == (1, True), "the scheduler died"


# --- changing -------------------------------------------------------------------------------------


def test_set(full: Server) -> None:
    result = sched(full, "set", "dsp0", "credit", "-p", "min-run-us=0x10", "--slice-us", "2000")
    assert words(result)[1][:5] == ["dsp0", "credit", "2000", "us", "operator"]
    assert "lost: weight=7 of coprocs/dsp0" in result.stdout
    assert setting(full) == Setting("credit", 2_000_000, (("min_run_us", 16),))
    assert read_json(sched(full, "set", "dsp0", "--slice-us", "300", "-o", "json"))["schedule"][
        "slice_us"
    ] == (300)
    assert setting(full).algorithm == "credit"


def test_set_with_parameters_of_vcoprocs(full: Server) -> None:
    arguments = ("-v", "all:budget_us=3000,period-us=9000", "-v", "fir/audio:budget_us=4000")
    assert sched(full, "set", "dsp0", "edf", *arguments).exit_code == 0
    assert params(full) == {
        1: {"budget_us": 4000, "period_us": 9000},
        3: {"budget_us": 3000, "period_us": 9000},
    }


def test_params_that_are_set_are_shown(full: Server) -> None:
    result = sched(full, "params", "fir/audio", "-p", "weight=3", "--request-id", "x")
    assert ["weight", "3", "-", "0..65535", "256", "what", "weight", "means"] in words(result)
    sched(full, "params", "dsp0", "-p", "weight=8", "-p", "min_run_us=1")
    assert setting(full).parameters == (("min_run_us", 1), ("weight", 8))
    assert params(full)[1] == {"weight": 3}


# --- the grammar of xl ----------------------------------------------------------------------------


def test_credit_in_the_words_of_xl(full: Server) -> None:
    assert "no coproc is scheduled by credit" in sched(full, "credit").stdout
    sched(full, "set", "dsp0", "credit", "--slice-us", "2500")
    for arguments in (("-w", "600", "-c", "50"), ("-v", "audio", "-w", "600", "--cap=50")):
        result = sched(full, "credit", "-d", "fir", *arguments)
        assert (result.exit_code, result.stdout) == (0, ""), "xl says nothing either"
        assert params(full)[1] == {"weight": 600, "cap": 50}
    lines = words(sched(full, "credit"))
    assert lines == [
        ["Coproc", "dsp0:", "tslice=2.5ms", "ratelimit=0us"],
        ["Name", "Weight", "Cap"],
        ["fir/audio", "600", "50"],
        ["other/v", "256", "0"],
    ]
    assert words(sched(full, "credit", "-d", "other"))[2:] == [["other/v", "256", "0"]]
    assert words(sched(full, "credit", "-s")) == [lines[0]]
    assert sched(full, "credit", "-s", "-p", "dsp0", "-t", "5", "-r", "200").exit_code == 0
    assert setting(full) == Setting("credit", 5_000_000, (("min_run_us", 200),))
    assert words(sched(full, "credit", "-p", "dsp0", "--schedparam")) == [
        ["Coproc", "dsp0:", "tslice=5ms", "ratelimit=200us"]
    ]


@pytest.mark.parametrize("command", ["rtds", "edf"])
def test_rtds_in_the_words_of_xl(full: Server, command: str) -> None:
    full.rig.changes.create_vcoproc(
        "fir", "coproc=dsp0,name=late", NO_REQUEST, lambda _vcoproc: b""
    )
    sched(full, "set", "dsp0", "edf", "-v", "all:budget_us=1")
    result = sched(full, command, "-d", "fir", "-v", "all", "-p", "10000", "-b", "2500", "-e", "1")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    wanted = {"period_us": 10_000, "budget_us": 2_500, "extratime": 1}
    assert params(full) == {1: wanted, 3: {"budget_us": 1}, 4: wanted}
    many = ("-v", "late", "-p", "20000", "-b", "1", "-v", "audio", "-p", "30000", "-b", "2")
    assert sched(full, command, "-d", "fir", *many).exit_code == 0
    assert params(full)[4] == {"period_us": 20_000, "budget_us": 1, "extratime": 1}
    assert params(full)[1] == {"period_us": 30_000, "budget_us": 2, "extratime": 1}
    lines = words(sched(full, command, "-d", "fir", "-v", "audio"))
    assert lines[1:] == [
        ["Name", "Period", "Budget", "Extratime"],
        ["fir/audio", "30000", "2", "1"],
    ]
    got = read_json(sched(full, command, "-d", "other", "-o", "json"))
    assert [each["vcoproc"] for each in got["vcoprocs"]] == [OTHER]


def test_parameters_of_a_whole_domain_are_checked_as_single_ones(full: Server) -> None:
    """As xen eec1a570: what was refused for one vcpu was taken for all of a domain."""
    full.rig.changes.create_vcoproc(
        "fir", "coproc=dsp0,name=late", NO_REQUEST, lambda _vcoproc: b""
    )
    sched(full, "set", "dsp0", "edf", "-v", "all:budget_us=1000")
    before = params(full)
    for who in ("all", "audio"):
        for period, budget in (("10000", "1000001"), ("-5", "1"), ("1", "9999999999999999999")):
            result = sched(full, "edf", "-d", "fir", "-v", who, "-p", period, "-b", budget)
            assert result.exit_code == 2
            assert params(full) == before
    # Together they are too much; none of them is changed.
    result = sched(full, "edf", "-d", "fir", "-v", "all", "-p", "10000", "-b", "4999")
    assert result.exit_code == 1
    assert "[NOT_ADMITTED]" in result.stderr
    assert params(full) == before


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "nope"], 1, "coproc 'nope' does not exist [NOT_FOUND]"),
        (["show", "a/b"], 2, "'a/b' is no name of a coproc"),
        (["set", "nope", "rr"], 1, "[NOT_FOUND]"),
        (["set", "dsp0", "rt"], 2, "'rt' is not installed; there are: credit, edf, rr"),
        (["set", "dsp0", "credit", "-p", "wait=1"], 2, "credit has no such parameter for a coproc"),
        (["set", "dsp0", "rr", "-p", "weight=101"], 2, "101 is outside of 0 to 100"),
        (["set", "dsp0", "rr", "-p", "weight"], 2, "'weight' is not KEY=VALUE"),
        (["set", "dsp0", "rr", "-p", "weight=x"], 2, "weight: 'x' is no number"),
        (["set", "dsp0", "rr", "-p", "weight=-1"], 2, "-1 is outside of 0 to 100"),
        (["set", "dsp0", "rr", "-p", f"weight={2**63}"], 2, "is no number"),
        (["set", "dsp0", "rr", "-p", "weight=1", "-p", "weight=2"], 2, "is given twice"),
        (["set", "dsp0", "rr", "--slice-us", "99"], 2, "99 us is outside of 100 to 10000000"),
        (["set", "dsp0", "rr", "--slice-us", "9" * 30], 2, "has more than 63 bits"),
        (["set", "dsp0", "rr", "--slice-us", "-1"], 2, "'--slice-us'"),
        (["set", "dsp0", "rr", "-v", "fir:weight=1"], 2, "'fir' is not DOMAIN/VCOPROC"),
        (["set", "dsp0", "rr", "-v", "fir/audio"], 2, "'' is not KEY=VALUE"),
        (["set", "dsp0", "rr", "-v", "fir/video:weight=1"], 2, "is none of coproc dsp0"),
        (["set", "dsp0", "edf"], 1, "[NOT_ADMITTED]"),
        (["params", "nope"], 1, "[NOT_FOUND]"),
        (["params", "fir/nope"], 1, "vcoproc 'fir/nope' does not exist"),
        (["params", "fir/"], 2, "'fir/' is not DOMAIN/VCOPROC"),
        (["params", "fir/audio", "-p", "wieght=1"], 2, "did you mean 'weight'? (0 to 65535)"),
        (["log", "nope"], 1, "[NOT_FOUND]"),
        (["log", "dsp0", "-n", "-1"], 2, "'--count'"),
        (["analyse", "nope"], 1, "[NOT_FOUND]"),
        (["analyse", "dsp0", "--switch-us", "9" * 30], 2, "--switch-us"),
        (["credit", "-d", "fir", "-w", "1"], 2, "no vcoproc of domain fir is on a coproc"),
        (["credit", "-p", "dsp0"], 2, "`vcoproc sched set dsp0 credit` changes that"),
        (["credit", "-w", "1"], 2, "-d: is missing"),
        (["credit", "-d", "nope"], 1, "[NOT_FOUND]"),
        (["credit", "-t", "5"], 2, "need -s"),
        (["credit", "-s", "-t", "5"], 2, "say which coproc"),
        (["credit", "-s", "-d", "fir"], 2, "of a whole coproc"),
        (["edf", "-d", "fir", "-v", "nope"], 1, "vcoproc 'fir/nope' does not exist"),
        (["edf", "-d", "fir", "-v", "audio"], 2, "fir/audio is not on a coproc"),
        (["edf", "-d", "fir", "-v", "a", "-v", "a"], 2, "name each vcoproc once"),
        (["edf", "-d", "fir", "-v", "a", "-v", "all"], 2, "name each vcoproc once"),
        (["edf", "-d", "f", "-v", "a", "-v", "b", "-p", "1"], 2, "1 values for 2 vcoprocs"),
        (["edf", "-d", "fir", "-b", "x"], 2, "'--budget'"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_a_mistake_has_its_exit_code_and_words(
    full: Server, arguments: Sequence[str], code: int, said: str
) -> None:
    before = (params(full), setting(full))
    result = sched(full, *arguments)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert (params(full), setting(full)) == before


def test_a_scheduler_that_is_down_is_said(full: Server) -> None:
    full.rig.services.down = {"scheduler"}
    for arguments in (["list"], ["show", "dsp0"], ["set", "dsp0", "rr"], ["algorithms"]):
        result = sched(full, *arguments)
        assert result.exit_code == 1
        assert "scheduler has gone away [PEER_LOST]" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["list", "show", "set", "params", "log", "analyse", "algorithms", "credit", "rtds", "edf"],
)
def test_every_command_has_help_with_exit_codes(command: str) -> None:
    result = RUNNER.invoke(app, ["sched", command, "--help"])
    assert result.exit_code == 0
    assert "3 no cluster can be reached" in " ".join(result.stdout.split())
