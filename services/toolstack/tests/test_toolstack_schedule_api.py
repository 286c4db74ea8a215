"""Schedules over the public API: every field checked, reasons, streams."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
import pytest
from toolstack_rig import TWO_VCOPROCS, one_vcoproc
from toolstack_scheduling import decision
from toolstack_server import TIMEOUT_S, Server, refused

from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc_toolstack.records import CoprocAccount

INVALID = grpc.StatusCode.INVALID_ARGUMENT
AUDIO = "domains/fir/vcoprocs/audio"
OTHER = "domains/other/vcoprocs/v"


@pytest.fixture
def full(server: Server) -> Server:
    """fir/audio and other/v on dsp0."""
    server.online()
    server.create(TWO_VCOPROCS)
    server.create(one_vcoproc("other"))
    return server


def schedule(server: Server, coproc: str = "dsp0") -> api.Schedule:
    found: api.Schedule = server.call(
        "GetSchedule", api.GetScheduleRequest(coproc=f"coprocs/{coproc}")
    )
    return found


def put(server: Server, **fields: Any) -> api.SetScheduleResponse:
    request = api.SetScheduleRequest(coproc="coprocs/dsp0", **fields)
    found: api.SetScheduleResponse = server.call("SetSchedule", request)
    return found


# --- reading --------------------------------------------------------------------------------------


def test_algorithms_with_every_description(full: Server) -> None:
    found = full.call("ListAlgorithms", api.ListAlgorithmsRequest()).algorithms
    assert [each.name for each in found] == ["credit", "edf", "rr"]
    by_name = {info.name: info for info in found[0].parameters}
    cap = by_name["cap"]
    assert (cap.unit, cap.minimum, cap.maximum, cap.default_value) == ("%", 0, 100, 0)
    assert (cap.description, cap.per_coproc) == ("what cap means", False)
    assert by_name["cap_period_us"].per_coproc


def test_a_schedule_has_names_and_every_figure(full: Server) -> None:
    found = schedule(full)
    assert (found.coproc, found.algorithm, found.wanted_algorithm) == ("coprocs/dsp0", "rr", "rr")
    assert (found.slice_us, found.refusal_us, found.switch_count) == (5000, 500_000, 5)
    assert dict(found.parameters) == {"min_run_us": 0, "weight": 7}
    assert found.current_vcoproc == AUDIO
    assert not found.overridden
    audio, other = found.vcoprocs
    assert (audio.vcoproc, other.vcoproc) == (AUDIO, OTHER)
    assert dict(audio.parameters) == {"weight": 512}
    assert dict(other.parameters) == {"weight": 256}, "defaults are resolved"
    assert audio.state == api.Vcoproc.STATE_SLEEPING
    assert (audio.accounting.run_ns, audio.accounting.refused_ns) == (3_000_000, 9)
    assert (audio.slices.turn_count, audio.slices.error_max_ns) == (3, 800)
    assert list(audio.refusals.bucket_counts) == [0, 0, 1, 0, 1]
    assert (audio.refusals.busy_count, audio.refusals.longest_us) == (5, 8)
    assert audio.switch_in_refusals == api.Refusals(
        refusal_count=3,
        busy_count=7,
        given_up_count=2,
        total_ns=3_100_000,
        longest_us=1_500,
        bucket_counts=[0, 1, 0, 2, 0],
    )
    assert audio.longest_wait_ns == 1_000_000


def test_a_coproc_that_the_scheduler_was_not_told_of(server: Server) -> None:
    found = schedule(server)
    assert found.algorithm == "rr"
    assert dict(found.parameters) == {"min_run_us": 0, "weight": 7}
    request = api.WatchDecisionsRequest(coproc="coprocs/dsp0")
    assert list(server.api.WatchDecisions(request, timeout=TIMEOUT_S)) == []


def test_an_analysis(full: Server) -> None:
    found = full.call("AnalyseSchedule", api.AnalyseScheduleRequest(coproc="coprocs/dsp0"))
    assert (found.coproc, found.algorithm) == ("coprocs/dsp0", "rr")
    assert (found.switch_ns, found.refusal_ns, found.work_ns) == (1_500, 2_000, 3_000)
    assert found.switch_in_refusal_ns == 4_000
    audio, other = found.vcoprocs
    assert (other.vcoproc, other.guaranteed_ppm, other.worst_wait_ns) == (OTHER, 250_000, 7_000)
    assert (other.observed_wait_ns, other.explanation) == (7_001, "turns")
    assert (other.worst_response_ns, other.observed_response_ns) == (9_000, 8_000)
    assert found.observed_work_ns == 3_000
    assert audio.worst_wait_ns == 0
    request = api.AnalyseScheduleRequest(
        coproc="coprocs/dsp0", switch_ns=9, refusal_ns=8, work_ns=7
    )
    found = full.call("AnalyseSchedule", request)
    assert (found.switch_ns, found.refusal_ns, found.work_ns) == (9, 8, 7)


# --- changing -------------------------------------------------------------------------------------


def test_setting_answers_with_what_is_in_force_and_what_was_lost(full: Server) -> None:
    answer = put(
        full,
        algorithm="edf",
        slice_us=2000,
        parameters={"min_run_us": 5},
        vcoprocs=[api.VcoprocParameters(vcoproc=OTHER, parameters={"budget_us": 4000})],
    )
    assert list(answer.lost_parameters) == [
        "weight=7 of coprocs/dsp0",
        f"weight=512 of {AUDIO}",
    ]
    got = answer.schedule
    assert got == schedule(full)
    assert (got.algorithm, got.slice_us, got.overridden) == ("edf", 2000, True)
    assert dict(got.parameters) == {"min_run_us": 5}
    assert dict(got.vcoprocs[1].parameters) == {
        "budget_us": 4000,
        "period_us": 10_000,
        "extratime": 1,
    }
    coproc = full.call("GetCoproc", api.GetCoprocRequest(name="coprocs/dsp0"))
    assert (coproc.scheduler, coproc.slice_us) == ("edf", 2000)


def test_a_vcoproc_answers_with_its_parameters(full: Server) -> None:
    request = api.SetVcoprocParametersRequest(name=AUDIO, parameters={"weight": 9}, request_id="r")
    answer = full.call("SetVcoprocParameters", request)
    assert (answer.name, dict(answer.parameters)) == (AUDIO, {"weight": 9})
    assert answer.state == api.Vcoproc.STATE_SLEEPING
    assert full.call("SetVcoprocParameters", request) == answer
    request.parameters["weight"] = 10
    with refused(INVALID, "INVALID_ARGUMENT", "was used for another request"):
        full.call("SetVcoprocParameters", request)


def test_nobody_is_asked_while_the_store_waits(full: Server) -> None:
    """Faults, leases and the audit log would have to wait for a scheduler that hangs."""
    accounts = full.rig.services.accounts
    waited: list[bool] = []

    def look(timeout_ns: int) -> tuple[CoprocAccount, ...]:
        waited.append(full.rig.store._write_lock.locked())
        return accounts(timeout_ns)

    full.rig.services.accounts = look  # type: ignore[method-assign]
    request = api.SetVcoprocParametersRequest(name=AUDIO, parameters={"weight": 9})
    full.call("SetVcoprocParameters", request)
    assert waited == [False]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"algorithm": "x" * 64}, "algorithm: the name is longer"),
        ({"algorithm": "../x"}, "algorithm: the name"),
        ({"algorithm": "nope"}, "algorithm: 'nope' is not installed"),
        ({"slice_us": 99}, "slice_us: 99 us is outside of 100 to 10000000 us"),
        ({"slice_us": 10_000_001}, "slice_us"),
        ({"slice_us": 2**64 - 1}, "slice_us"),
        ({"parameters": {"a b": 1}}, "parameters: 'a b' is no name"),
        ({"parameters": {"a-b": 1}}, "'a-b' is no name"),
        ({"parameters": {"": 1}}, "'' is no name"),
        ({"parameters": {"weight": -(2**63)}}, "weight of coproc dsp0"),
        ({"parameters": {f"p{n}": 1 for n in range(257)}}, "are 257, at most 256"),
        ({"vcoprocs": [api.VcoprocParameters(vcoproc="fir/audio")]}, "must have the form"),
        ({"vcoprocs": [api.VcoprocParameters(vcoproc=AUDIO)] * 2}, "is named twice"),
        ({"vcoprocs": [api.VcoprocParameters(vcoproc=AUDIO, parameters={"": 1})]}, "is no name"),
        ({"vcoprocs": [api.VcoprocParameters(vcoproc="domains/a/vcoprocs/b")]}, "is none of"),
        ({"request_id": "x" * 64}, "request_id: is longer"),
    ],
)
def test_every_field_of_a_change_is_checked(full: Server, fields: Any, words: str) -> None:
    before = schedule(full)
    with refused(INVALID, "INVALID_ARGUMENT", words):
        put(full, **fields)
    assert schedule(full) == before


@pytest.mark.parametrize(
    ("method", "request_of"),
    [
        ("GetSchedule", lambda name: api.GetScheduleRequest(coproc=name)),
        ("SetSchedule", lambda name: api.SetScheduleRequest(coproc=name)),
        ("AnalyseSchedule", lambda name: api.AnalyseScheduleRequest(coproc=name)),
        ("WatchDecisions", lambda name: api.WatchDecisionsRequest(coproc=name)),
        ("WatchDecisions", lambda name: api.WatchDecisionsRequest(coproc=name, follow=True)),
    ],
)
def test_coprocs_by_name(full: Server, method: str, request_of: Any) -> None:
    def call(name: str) -> None:
        answer = getattr(full.api, method)(request_of(name), timeout=TIMEOUT_S)
        if method == "WatchDecisions":
            list(answer)

    for name in ("", "dsp0", "coprocs/", "coprocs/a/b", "domains/dsp0"):
        with refused(INVALID, "INVALID_ARGUMENT", "coproc: "):
            call(name)
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "coproc 'nope' does not exist"):
        call("coprocs/nope")
    full.rig.services.down = {"scheduler"}
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST"):
        call("coprocs/dsp0")


def test_other_fields_are_checked(full: Server) -> None:
    for field in ("switch_ns", "refusal_ns", "work_ns"):
        request = api.AnalyseScheduleRequest(coproc="coprocs/dsp0", **{field: 2**63})
        with refused(INVALID, "INVALID_ARGUMENT", field):
            full.call("AnalyseSchedule", request)
    with refused(INVALID, "INVALID_ARGUMENT", "name: must have the form"):
        full.call("SetVcoprocParameters", api.SetVcoprocParametersRequest(name="fir/audio"))
    with refused(INVALID, "INVALID_ARGUMENT", "name at least one"):
        full.call("SetVcoprocParameters", api.SetVcoprocParametersRequest(name=AUDIO))
    request = api.SetVcoprocParametersRequest(name=f"{AUDIO}2", parameters={"weight": 1})
    with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        full.call("SetVcoprocParameters", request)


def test_what_is_not_admitted_has_a_reason_of_its_own(full: Server) -> None:
    before = schedule(full)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_ADMITTED", "would need 1200000 ppm"):
        put(full, algorithm="edf")
    assert schedule(full) == before
    put(
        full,
        algorithm="edf",
        vcoprocs=[api.VcoprocParameters(vcoproc=AUDIO, parameters={"budget_us": 4000})],
    )
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_ADMITTED"):
        full.create(one_vcoproc("late"))
    assert [domain.name for domain in full.rig.domains()] == ["fir", "other"]
    request = api.SetVcoprocParametersRequest(name=AUDIO, parameters={"budget_us": 5000})
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_ADMITTED"):
        full.call("SetVcoprocParameters", request)


def test_changes_are_events_with_words(full: Server) -> None:
    revision = full.hub.revision()
    put(full, algorithm="credit", request_id="once")
    put(full, algorithm="credit", request_id="once")
    stream = full.api.WatchEvents(api.WatchEventsRequest(revision=revision), timeout=TIMEOUT_S)
    event = next(stream)
    assert (event.name, event.kind) == ("coprocs/dsp0/schedule", api.Event.KIND_CHANGED)
    assert event.description == "algorithm credit, slice 5000 us, lost: weight=7 of coprocs/dsp0"
    stream.cancel()
    assert full.hub.revision() == revision + 1


def test_a_fallback_is_shown(full: Server) -> None:
    put(full, algorithm="credit")
    full.rig.services.scheduling.failed.add("dsp0")
    found = schedule(full)
    assert (found.algorithm, found.wanted_algorithm) == ("rr", "credit")
    assert (found.fallback, found.fallback_count) == ("credit failed: a bug", 1)


# --- decisions ------------------------------------------------------------------------------------


def decisions(server: Server, **fields: Any) -> Any:
    request = api.WatchDecisionsRequest(coproc="coprocs/dsp0", **fields)
    return server.api.WatchDecisions(request, timeout=TIMEOUT_S)


def test_decisions_that_are_kept_have_names(full: Server) -> None:
    scheduling = full.rig.services.scheduling
    scheduling.kept["dsp0"] = [decision(1, 1), decision(2, 3, "preempt"), decision(3, 77)]
    first, second, third = decisions(full)
    assert (first.number, first.vcoproc, first.why) == (1, AUDIO, "slice")
    assert (first.slice_ns, first.clock_ns, first.current_vcoproc) == (5_000_000, 1_000_000, "")
    assert (second.vcoproc, second.why) == (OTHER, "preempt")
    assert third.vcoproc == "vcoprocs/77", "one that is gone"
    assert [each.number for each in decisions(full, after_number=2)] == [3]


def test_following_goes_on_until_the_client_has_enough(full: Server) -> None:
    scheduling = full.rig.services.scheduling
    scheduling.kept["dsp0"] = [decision(4, 1)]
    stream = decisions(full, follow=True, after_number=3)
    after, source = scheduling.followed.get(timeout=TIMEOUT_S)
    assert after == 3
    assert next(stream).number == 4
    source.items.put((decision(9, 3), 4))
    told = next(stream)
    assert (told.number, told.vcoproc, told.missed_count) == (9, OTHER, 4)
    stream.cancel()
    while source.items.get(timeout=TIMEOUT_S) is not None:
        pass
    assert source.cancelled, "nothing goes on in the scheduler for a client that is gone"


def test_following_ends_when_the_toolstack_or_the_scheduler_ends(full: Server) -> None:
    scheduling = full.rig.services.scheduling
    stream = decisions(full, follow=True)
    _, source = scheduling.followed.get(timeout=TIMEOUT_S)
    source.items.put(None)
    with refused(grpc.StatusCode.UNAVAILABLE, "PEER_LOST"):
        next(stream)
    stream = decisions(full, follow=True)
    found: queue.SimpleQueue[list[api.Decision]] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: found.put(list(stream)))
    thread.start()
    scheduling.followed.get(timeout=TIMEOUT_S)
    full.streams.stop()
    assert found.get(timeout=TIMEOUT_S) == []
    thread.join()
    assert list(decisions(full, follow=True)) == []


def test_followers_are_bounded_with_the_other_watchers(
    full: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full.streams, "_places", threading.BoundedSemaphore(1))
    stream = decisions(full, follow=True)
    full.rig.services.scheduling.followed.get(timeout=TIMEOUT_S)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED", "open streams"):
        next(decisions(full, follow=True))
    stream.cancel()
