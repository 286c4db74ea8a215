"""The life cycle of domains with real processes: verbs, moves, snapshots, and who dies in them."""

from __future__ import annotations

import os
import random
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster_kit import (
    COUNT_WORD,
    EXAMPLES,
    Running,
    S,
    ring,
    start_cluster,
    start_firmware,
    stop_cluster,
    wait_until,
)
from vcoproc.api.v1 import snapshot_pb2 as snapshot
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.guest import Domain
from vcoproc.runtime.grpc_kit import to_error

LIMIT_S = 30
CHUNK = 100_000


def call(running: Running, method: str, request: Any) -> Any:
    """A call that is asked again, with the same id, until the toolstack is there."""
    for attempt in range(40):
        try:
            return getattr(running.toolstack, method)(request, wait_for_ready=True, timeout=LIMIT_S)
        except grpc.RpcError as error:
            gone = error.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
            if not gone or to_error(error).reason.startswith("PEER") or attempt == 39:
                raise
    raise AssertionError("not reached")


def verb(running: Running, method: str, name: str, **fields: Any) -> api.Domain:
    kind = getattr(api, f"{method}Request")
    request = kind(name=f"domains/{name}", request_id=uuid.uuid4().hex, **fields)
    return call(running, method, request)  # type: ignore[no-any-return]


def move(running: Running, name: str, coproc: str) -> api.Vcoproc:
    request = api.MoveVcoprocRequest(
        name=f"domains/{name}/vcoprocs/v0", coproc=f"coprocs/{coproc}", request_id=uuid.uuid4().hex
    )
    return call(running, "MoveVcoproc", request)  # type: ignore[no-any-return]


def state(running: Running, name: str) -> str:
    domain = call(running, "GetDomain", api.GetDomainRequest(name=f"domains/{name}"))
    return api.Domain.State.Name(domain.state).removeprefix("STATE_")


def save(running: Running, name: str, **fields: Any) -> bytes:
    request = snapshot.SaveDomainRequest(name=f"domains/{name}", **fields)
    chunks = running.toolstack.SaveDomain(request, timeout=LIMIT_S)
    return b"".join(chunk.data for chunk in chunks)


def restore(running: Running, data: bytes, **options: Any) -> api.Domain:
    def parts() -> Iterator[snapshot.RestoreDomainRequest]:
        yield snapshot.RestoreDomainRequest(options=snapshot.RestoreDomainOptions(**options))
        for at in range(0, len(data), CHUNK):
            yield snapshot.RestoreDomainRequest(data=data[at : at + CHUNK])

    return running.toolstack.RestoreDomain(parts(), timeout=LIMIT_S)  # type: ignore[no-any-return]


def count_of(domain: Domain) -> int:
    return int(domain.vcoproc("v0").mapped("mbox").cast("I")[COUNT_WORD])


def files(running: Running) -> set[str]:
    return {path.name for path in (running.run_dir / "memory").iterdir()}


def kill(running: Running, name: str) -> None:
    os.kill(running.cluster.pids()[name], signal.SIGKILL)


# --- verbs ----------------------------------------------------------------------------------------


def test_a_paused_domain_stands_still_and_goes_on_where_it_was(two_coprocs: Running) -> None:
    hog, polite = two_coprocs.create("hog", "dsp0"), two_coprocs.create("polite", "dsp0")
    start_firmware(hog, "spin")
    start_firmware(polite, "hello")
    core = hog.vcoproc("v0")
    wait_until(lambda: count_of(hog) > 0, core)
    assert verb(two_coprocs, "PauseDomain", "hog").state == api.Domain.STATE_PAUSED
    before = count_of(hog)
    assert [ring(polite) for _ in range(20)] == list(range(1, 21))
    assert count_of(hog) == before
    listed = two_coprocs.vcoproc("domains/hog/vcoprocs/v0")
    assert listed.state == api.Vcoproc.STATE_PAUSED
    verb(two_coprocs, "ResumeDomain", "hog")
    wait_until(lambda: count_of(hog) > before, core)


def test_an_interrupt_waits_while_its_domain_is_paused(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    verb(two_coprocs, "PauseDomain", "quick")
    domain.vcoproc("v0").write32("DOORBELL", 1)
    assert domain.wait_irq(50_000_000) is None
    verb(two_coprocs, "ResumeDomain", "quick")
    interrupt = domain.wait_irq(10 * S)
    assert interrupt is not None
    domain.vcoproc("v0").write32("IRQ_STATUS", 0xFFFF_FFFF)
    domain.eoi(interrupt)
    assert ring(domain) == 2


def test_a_domain_is_shut_down_and_started_with_new_memory(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    assert ring(domain) == 1
    domain.memory[:4] = b"used"
    before = files(two_coprocs)
    domain.close()
    stopped = verb(two_coprocs, "ShutDownDomain", "quick", timeout_us=1_000_000)
    assert stopped.state == api.Domain.STATE_STOPPED
    assert files(two_coprocs) & before == set()
    verb(two_coprocs, "StartDomain", "quick")
    again = two_coprocs.open("quick")
    assert bytes(again.memory[:4]) == bytes(4)
    start_firmware(again, "hello")
    assert ring(again) == 1


def test_a_shutdown_does_not_wait_for_one_that_never_sleeps(two_coprocs: Running) -> None:
    hog = two_coprocs.create("hog", "dsp0")
    start_firmware(hog, "spin")
    hog.close()
    stopped = verb(two_coprocs, "ShutDownDomain", "hog", timeout_us=50_000)
    assert stopped.state == api.Domain.STATE_STOPPED


def test_a_crashed_domain_stands_still_until_it_is_started_anew(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "spin")
    wait_until(lambda: count_of(domain) > 0, domain.vcoproc("v0"))
    crashed = verb(two_coprocs, "CrashDomain", "quick", why="watchdog")
    assert (crashed.state, crashed.state_reason) == (api.Domain.STATE_CRASHED, "watchdog")
    before = count_of(domain)
    domain.vcoproc("v0").read32("STATUS")
    assert count_of(domain) == before, "its memory is there to be looked into"
    domain.close()
    verb(two_coprocs, "StartDomain", "quick")
    again = two_coprocs.open("quick")
    start_firmware(again, "hello")
    assert ring(again) == 1


def test_a_renamed_domain_goes_on(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    assert ring(domain) == 1
    verb(two_coprocs, "RenameDomain", "quick", new_name="quicker")
    assert ring(domain) == 2
    with pytest.raises(grpc.RpcError):
        two_coprocs.vcoproc("domains/quick/vcoprocs/v0")


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Running]:
    """The first vcoproc hangs whenever it shall leave; force is used after a while."""
    text = (EXAMPLES / "refuse.dts").read_text()
    text = text.replace('"heavy-tail"', '"hang"').replace("refusal-percent", "refusal-contexts")
    text = text.replace("<25>", "<1>").replace("vcoproc,refusal-us = <50 30000>;", "")
    tree = tmp_path / "refuse.dts"
    tree.write_text(text)
    running = start_cluster(tree)
    yield running
    stop_cluster(running)


@pytest.mark.parametrize("method", ["DestroyDomain", "ShutDownDomain", "PauseDomain"])
def test_one_that_refuses_to_leave_is_made_to(refusing: Running, method: str) -> None:
    hog = refusing.create("hog", "dsp0")
    start_firmware(hog, "spin")
    verb(refusing, method, "hog")
    hog.close()
    if method == "DestroyDomain":
        assert files(refusing) == set()
    polite = refusing.create("polite", "dsp0")
    start_firmware(polite, "hello")
    assert ring(polite) == 1


# --- moves ----------------------------------------------------------------------------------------


def test_a_driver_does_not_notice_that_its_vcoproc_moves(two_coprocs: Running) -> None:
    domain, neighbour = two_coprocs.create("quick", "dsp0"), two_coprocs.create("far", "dsp1")
    start_firmware(domain, "hello")
    start_firmware(neighbour, "hello")
    count = 0
    for coproc in ("dsp1", "dsp0", "dsp1", "dsp0"):
        moved = move(two_coprocs, "quick", coproc)
        assert moved.coproc == f"coprocs/{coproc}"
        rung = [ring(domain) for _ in range(5)]
        assert rung == list(range(count + 1, count + 6))
        count += 5
    assert ring(neighbour) == 1
    accounting = two_coprocs.vcoproc("domains/quick/vcoprocs/v0").accounting
    assert accounting.switch_count >= 4, "what it has used went along"


def test_a_domain_that_computes_moves_in_the_middle_of_it(two_coprocs: Running) -> None:
    """The driver rings without a pause while its vcoproc goes to and fro; no ring is lost."""
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    stopping = threading.Event()
    moves: list[str] = []

    def go() -> None:
        while not stopping.is_set():
            for coproc in ("dsp1", "dsp0"):
                moves.append(move(two_coprocs, "quick", coproc).coproc)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        rung = [ring(domain) for _ in range(300)]
        while len(moves) < 6:
            rung.append(ring(domain))
    finally:
        stopping.set()
        thread.join()
    assert rung == list(range(1, len(rung) + 1))


def test_a_paused_vcoproc_moves_and_stays_paused(two_coprocs: Running) -> None:
    hog = two_coprocs.create("hog", "dsp0")
    start_firmware(hog, "spin")
    wait_until(lambda: count_of(hog) > 0, hog.vcoproc("v0"))
    verb(two_coprocs, "PauseDomain", "hog")
    before = count_of(hog)
    move(two_coprocs, "hog", "dsp1")
    hog.vcoproc("v0").read32("STATUS")
    assert count_of(hog) == before
    verb(two_coprocs, "ResumeDomain", "hog")
    wait_until(lambda: count_of(hog) > before, hog.vcoproc("v0"))


# --- snapshots ------------------------------------------------------------------------------------


def test_a_restored_domain_goes_on_where_it_was_saved(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    assert [ring(domain) for _ in range(3)] == [1, 2, 3]
    noise = random.Random(1).randbytes(8192)
    domain.memory[500_000 : 500_000 + len(noise)] = noise
    data = save(two_coprocs, "quick")
    assert ring(domain) == 4, "it goes on"
    copy = restore(two_coprocs, data, new_name="copy", coprocs={"v0": "coprocs/dsp1"})
    assert copy.state == api.Domain.STATE_RUNNING
    other = two_coprocs.open("copy")
    assert bytes(other.memory[500_000 : 500_000 + len(noise)]) == noise
    assert [ring(other) for _ in range(3)] == [4, 5, 6]
    assert ring(domain) == 5


def test_a_domain_is_saved_shut_down_and_restored_in_its_place(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0", "dsp1")
    for vcoproc in ("v0", "v1"):
        start_firmware(domain, "hello", vcoproc)
    assert [ring(domain), ring(domain), ring(domain, "v1")] == [1, 2, 1]
    domain.close()
    data = save(two_coprocs, "quick", shut_down=True)
    assert state(two_coprocs, "quick") == "STOPPED"
    verb(two_coprocs, "DestroyDomain", "quick")
    restore(two_coprocs, data, paused=True)
    assert state(two_coprocs, "quick") == "PAUSED"
    verb(two_coprocs, "ResumeDomain", "quick")
    again = two_coprocs.open("quick")
    assert [ring(again), ring(again, "v1")] == [3, 2]


def test_a_context_comes_back_into_its_vcoproc(two_coprocs: Running) -> None:
    domain = two_coprocs.create("quick", "dsp0")
    start_firmware(domain, "hello")
    assert [ring(domain) for _ in range(2)] == [1, 2]
    name = "domains/quick/vcoprocs/v0"
    request = snapshot.SaveVcoprocRequest(name=name)
    chunks = two_coprocs.toolstack.SaveVcoproc(request, timeout=LIMIT_S)
    data = b"".join(chunk.data for chunk in chunks)
    assert [ring(domain) for _ in range(3)] == [3, 4, 5]
    options = snapshot.RestoreVcoprocOptions(name=name)
    parts = [
        snapshot.RestoreVcoprocRequest(options=options),
        snapshot.RestoreVcoprocRequest(data=data),
    ]
    two_coprocs.toolstack.RestoreVcoproc(iter(parts), timeout=LIMIT_S)
    assert ring(domain) == 3


# --- what dies meanwhile --------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["toolstack", "irq-router", "scheduler", "dsp0"])
def test_a_paused_domain_stays_paused_whoever_is_killed(fragile: Running, service: str) -> None:
    hog, witness = fragile.create("hog", "dsp0"), fragile.create("witness", "dsp1")
    start_firmware(hog, "spin")
    start_firmware(witness, "hello")
    wait_until(lambda: count_of(hog) > 0, hog.vcoproc("v0"))
    verb(fragile, "PauseDomain", "hog")
    before = count_of(hog)
    kill(fragile, service)
    assert [ring(witness, timeout_ns=20 * S) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert state(fragile, "hog") == "PAUSED"
    assert count_of(hog) == before
    core = witness.vcoproc("v0")
    name = "domains/hog/vcoprocs/v0"
    # LOST until its coproc-sim has come back to the new toolstack.
    wait_until(lambda: fragile.vcoproc(name).state == api.Vcoproc.STATE_PAUSED, core, reads=2000)


KILLS = 5
"""Whoever dies young is started again later each time; a driver whose vcoproc moves waits 4 s."""


def test_nothing_is_lost_when_the_toolstack_is_killed_in_moves(fragile: Running) -> None:
    """The driver rings all the time; the operator asks with the same id until it is done."""
    domain = fragile.create("quick", "dsp0")
    start_firmware(domain, "hello")
    rng = random.Random(4)
    moved: list[str] = []
    failures: list[BaseException] = []

    def go() -> None:
        try:
            for number in range(KILLS):
                coproc = ("dsp1", "dsp0")[number % 2]
                request = api.MoveVcoprocRequest(
                    name="domains/quick/vcoprocs/v0",
                    coproc=f"coprocs/{coproc}",
                    request_id=uuid.uuid4().hex,
                )
                future = fragile.toolstack.MoveVcoproc.future(request, timeout=LIMIT_S)
                threading.Event().wait(rng.uniform(0, 0.02))
                kill(fragile, "toolstack")
                future.exception()
                moved.append(call(fragile, "MoveVcoproc", request).coproc)
        except BaseException as error:  # shown below
            failures.append(error)

    thread = threading.Thread(target=go)
    thread.start()
    rung: list[int] = []
    while thread.is_alive():
        rung.append(ring(domain, timeout_ns=20 * S))
    thread.join()
    assert not failures, failures
    assert moved == [f"coprocs/{('dsp1', 'dsp0')[number % 2]}" for number in range(KILLS)]
    rung += [ring(domain, timeout_ns=20 * S) for _ in range(5)]
    assert rung == list(range(1, len(rung) + 1)), "each ring was done once"
    domain.close()
    verb(fragile, "DestroyDomain", "quick")
    wait_until_removed(fragile)


def wait_until_removed(running: Running) -> None:
    """A coproc-sim that came back a moment ago may still have to let go of the memory."""
    for _ in range(1000):
        running.revision()
        if not files(running):
            return
    assert files(running) == set()


def test_a_killed_toolstack_ends_what_it_had_begun(fragile: Running) -> None:
    """Killed at any time of a shutdown: the domain is STOPPED at last, and has nothing left."""
    for wait_s in (0.0, 0.01, 0.03, 0.1):
        domain = fragile.create("quick", "dsp0", "dsp1")
        start_firmware(domain, "spin")
        domain.close()
        request = api.ShutDownDomainRequest(
            name="domains/quick", timeout_us=60_000, request_id=uuid.uuid4().hex
        )
        future = fragile.toolstack.ShutDownDomain.future(request, timeout=LIMIT_S)
        threading.Event().wait(wait_s)
        kill(fragile, "toolstack")
        future.exception()
        answer = call(fragile, "ShutDownDomain", request)
        assert answer.state == api.Domain.STATE_STOPPED
        assert state(fragile, "quick") == "STOPPED"
        verb(fragile, "DestroyDomain", "quick")
        wait_until_removed(fragile)
