"""What happens when a process dies, stops or talks nonsense: nobody else is hurt."""

from __future__ import annotations

import os
import random
import signal
import socket

import pytest
import zmq

from cluster_kit import Running, ring, start_firmware
from vcoproc.api.v1 import toolstack_pb2
from vcoproc.errors import PeerLost
from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.grpc_kit import channel
from vcoproc.wire.codec import encode
from vcoproc.wire.messages import Grant, Hello, Read


def kill(running: Running, name: str) -> None:
    """kill -9, and wait until another one serves in its place."""
    pid = running.cluster.pids()[name]
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("service", ["scheduler", "irq-router", "toolstack"])
def test_a_killed_service_comes_back_and_finds_its_place(fragile: Running, service: str) -> None:
    busy = fragile.create("busy", "dsp0")
    quick = fragile.create("quick", "dsp0")
    spinning = start_firmware(busy, "spin")
    start_firmware(quick, "hello")
    assert ring(quick) == 1
    kill(fragile, service)
    # Interrupts and grants wait for the service; nothing is lost and nobody has to start anew.
    assert [ring(quick, timeout_ns=20_000_000_000) for _ in range(5)] == [2, 3, 4, 5, 6]
    spinning.stop()
    late = fragile.create("late", "dsp1")
    start_firmware(late, "hello")
    assert ring(late) == 1


def test_an_old_end_of_interrupt_does_not_end_a_new_injection(fragile: Running) -> None:
    """After a restart of the irq-router the driver's last EOI used to be said once more."""
    quick = fragile.create("quick", "dsp0")
    start_firmware(quick, "hello")
    counted = 0
    for _ in range(4):
        rung = [ring(quick, timeout_ns=20_000_000_000) for _ in range(3)]
        assert rung == [counted + 1, counted + 2, counted + 3]
        counted += 3
        kill(fragile, "irq-router")
    assert ring(quick, timeout_ns=20_000_000_000) == counted + 1
    assert quick.wait_irq(100_000_000) is None


def test_a_killed_coproc_sim_takes_only_its_own_down(fragile: Running) -> None:
    hit = fragile.create("hit", "dsp0")
    far = fragile.create("far", "dsp1")
    start_firmware(hit, "hello")
    start_firmware(far, "hello")
    assert ring(hit) == ring(far) == 1
    kill(fragile, "dsp0")
    assert [ring(far) for _ in range(5)] == [2, 3, 4, 5, 6]
    with pytest.raises(PeerLost):
        hit.vcoproc("v0").read32("STATUS")
    # The contexts died with it; the vcoproc is there again, in reset, as after a power cycle.
    start_firmware(hit, "hello")
    assert ring(hit, timeout_ns=20_000_000_000) >= 1


def send_garbage(endpoint: str, frames: list[bytes]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 1000
        dealer.connect(endpoint)
        for frame in frames:
            dealer.send(frame)
        dealer.send_multipart([b"two", b"parts"])
        dealer.poll(5000)  # refused in words


def test_garbage_on_every_socket_is_counted_and_hurts_nobody(two_coprocs: Running) -> None:
    domain = two_coprocs.create("witness", "dsp0")
    start_firmware(domain, "hello")
    rng = random.Random(7)
    frames = [rng.randbytes(rng.randrange(200)) for _ in range(50)]
    frames += [
        encode(Read(0, 0, 4), seq=1, epoch=1, credit=1),
        encode(Hello(1, b"wrong", 0, 0, "me"), epoch=1, credit=1),
        encode(Hello(77, b"", 0, 0, "me"), epoch=1, credit=1),
        encode(Grant(1, 1, 1, True, 1), seq=5, epoch=9),
    ]
    for name in ("trap-dsp0", "trap-dsp1", "schedule", "irq-coproc", "irq-domain"):
        send_garbage(f"ipc://{two_coprocs.run_dir}/{name}.sock", frames)
        with socket.socket(socket.AF_UNIX) as raw:  # not even ZeroMQ
            raw.connect(f"{two_coprocs.run_dir}/{name}.sock")
            raw.sendall(b"\xff" * 4096)
    for name in ("toolstack", "lease", "scheduler", "irq-router", "coproc-dsp0"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(f"{two_coprocs.run_dir}/{name}.grpc")
            raw.sendall(rng.randbytes(4096))
    assert [ring(domain) for _ in range(5)] == [1, 2, 3, 4, 5]
    with channel(f"unix:{two_coprocs.run_dir}/coproc-dsp0.grpc") as to_sim:
        status = control_pb2_grpc.CoprocSimServiceStub(to_sim).GetStatus(
            control_pb2.GetStatusRequest(), timeout=10
        )
    assert status.garbage_count >= len(frames) - 2


def test_creation_rolls_back_completely(two_coprocs: Running) -> None:
    before = sorted(path.name for path in (two_coprocs.run_dir / "memory").iterdir())
    config = 'name = "half"\nmemory = 1\nvcoproc = ["coproc=dsp0", "coproc=nowhere"]\n'
    with pytest.raises(Exception, match="nowhere"):
        two_coprocs.toolstack.CreateDomain(
            toolstack_pb2.CreateDomainRequest(config=config, file_name="half.cfg"), timeout=20
        )
    assert sorted(path.name for path in (two_coprocs.run_dir / "memory").iterdir()) == before
    two_coprocs.create("half", "dsp0").close()  # the name is free
