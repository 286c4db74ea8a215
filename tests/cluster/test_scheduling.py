"""Scheduling as people set it, on real processes."""

from __future__ import annotations

import grpc
import pytest

from cluster_kit import Running, ring, start_firmware, wait_until
from vcoproc.api.v1 import toolstack_pb2

COPROC = "coprocs/dsp0"
ALGORITHMS = {"arinc653", "credit", "edf", "fixed", "null", "priority", "rr"}


def schedule(running: Running) -> toolstack_pb2.Schedule:
    return running.toolstack.GetSchedule(
        toolstack_pb2.GetScheduleRequest(coproc=COPROC), timeout=20, wait_for_ready=True
    )


def set_schedule(running: Running, algorithm: str, **parameters: int) -> list[str]:
    """Gives the names of the parameters that were lost."""
    answer = running.toolstack.SetSchedule(
        toolstack_pb2.SetScheduleRequest(coproc=COPROC, algorithm=algorithm, parameters=parameters),
        timeout=20,
        wait_for_ready=True,
    )
    return list(answer.lost_parameters)


@pytest.fixture
def coproc(one_coproc: Running) -> Running:
    set_schedule(one_coproc, "rr")
    return one_coproc


def test_all_algorithms_are_there_with_their_parameters(coproc: Running) -> None:
    listed = coproc.toolstack.ListAlgorithms(toolstack_pb2.ListAlgorithmsRequest(), timeout=20)
    found = {algorithm.name: algorithm for algorithm in listed.algorithms}
    assert found.keys() >= ALGORITHMS
    weight = next(each for each in found["credit"].parameters if each.name == "weight")
    assert (weight.minimum, weight.maximum, weight.default_value) == (1, 65535, 256)
    assert not weight.per_coproc


def test_the_algorithm_changes_under_running_firmware(coproc: Running) -> None:
    polite = coproc.create("polite", "dsp0")
    hog = coproc.create("hog", "dsp0")
    start_firmware(polite, "hello")
    start_firmware(hog, "spin")
    for counted, algorithm in enumerate(("credit", "priority", "rr", "credit", "rr"), 1):
        set_schedule(coproc, algorithm)
        assert schedule(coproc).algorithm == algorithm
        assert ring(polite) == counted
    accounts = {each.vcoproc: each.accounting for each in schedule(coproc).vcoprocs}
    assert accounts["domains/hog/vcoprocs/v0"].run_ns > 0
    assert accounts["domains/polite/vcoprocs/v0"].wake_count >= 1


def test_parameters_are_set_read_back_and_lost_ones_named(coproc: Running) -> None:
    coproc.create("heavy", "dsp0").close()
    name = "domains/heavy/vcoprocs/v0"
    set_schedule(coproc, "credit")
    coproc.toolstack.SetVcoprocParameters(
        toolstack_pb2.SetVcoprocParametersRequest(name=name, parameters={"weight": 512}),
        timeout=20,
    )
    (found,) = schedule(coproc).vcoprocs
    assert found.parameters["weight"] == 512
    lost = set_schedule(coproc, "rr")
    assert any("weight" in each and name in each for each in lost)


@pytest.mark.parametrize(
    ("algorithm", "parameters", "status"),
    [
        ("credi", {}, grpc.StatusCode.INVALID_ARGUMENT),
        ("credit", {"wait": 1}, grpc.StatusCode.INVALID_ARGUMENT),
        ("null", {}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(
    coproc: Running, algorithm: str, parameters: dict[str, int], status: grpc.StatusCode
) -> None:
    for name in ("one", "two"):
        coproc.create(name, "dsp0").close()
    with pytest.raises(grpc.RpcError) as refused:
        set_schedule(coproc, algorithm, **parameters)
    assert refused.value.code() is status
    assert schedule(coproc).algorithm == "rr"


def test_decisions_can_be_read(coproc: Running) -> None:
    hog = coproc.create("hog", "dsp0")
    start_firmware(hog, "spin")
    polite = coproc.create("polite", "dsp0")
    start_firmware(polite, "hello")
    ring(polite)
    stream = coproc.toolstack.WatchDecisions(
        toolstack_pb2.WatchDecisionsRequest(coproc=COPROC), timeout=20
    )
    decisions = list(stream)
    numbers = [decision.number for decision in decisions]
    assert numbers == sorted(numbers)
    assert {decision.vcoproc for decision in decisions} >= {
        "domains/hog/vcoprocs/v0",
        "domains/polite/vcoprocs/v0",
    }


def test_what_was_observed_is_within_what_analysis_says(coproc: Running) -> None:
    """With the coproc's refusal bounds, which leave time for whatever else the machine does."""
    polite = coproc.create("polite", "dsp0")
    hog = coproc.create("hog", "dsp0")
    start_firmware(polite, "hello")
    start_firmware(hog, "spin")
    for counted in range(1, 6):
        assert ring(polite) == counted
    analysis = coproc.toolstack.AnalyseSchedule(
        toolstack_pb2.AnalyseScheduleRequest(coproc=COPROC, work_ns=2_500_000), timeout=20
    )
    assert (analysis.work_ns, analysis.observed_work_ns) == (2_500_000, 2_000_000)
    found = {each.vcoproc: each for each in analysis.vcoprocs}
    for each in found.values():
        assert each.observed_wait_ns <= each.worst_wait_ns
        assert 0 < each.observed_response_ns <= each.worst_response_ns
    spins = found["domains/hog/vcoprocs/v0"]
    assert spins.observed_response_ns >= analysis.observed_work_ns, "it ran for so long at least"


def test_a_cap_holds_for_one_alone(coproc: Running) -> None:
    set_schedule(coproc, "credit")
    capped = coproc.create("capped", "dsp0")
    coproc.toolstack.SetVcoprocParameters(
        toolstack_pb2.SetVcoprocParametersRequest(
            name="domains/capped/vcoprocs/v0", parameters={"cap": 20}
        ),
        timeout=20,
    )
    start_firmware(capped, "spin")
    core = capped.vcoproc("v0")

    def account() -> toolstack_pb2.Accounting:
        (found,) = schedule(coproc).vcoprocs
        return found.accounting

    before = account()
    wait_until(lambda: account().run_ns > before.run_ns + 200_000_000, core)
    after = account()
    ran_ns = after.run_ns - before.run_ns
    waited_ns = after.wait_ns - before.wait_ns
    assert ran_ns / (ran_ns + waited_ns) < 0.3
