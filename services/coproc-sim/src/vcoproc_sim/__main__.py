"""Starts a coproc-sim: leases a coproc from the toolstack and is it until stopped."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from vcoproc.internal.v1 import control_pb2, control_pb2_grpc
from vcoproc.runtime.grpc_kit import serve
from vcoproc.runtime.logs import Log
from vcoproc.runtime.process import main_guard, new_epoch, notify_ready, notify_stopping
from vcoproc.runtime.rundir import RunDir, default_run_dir
from vcoproc_sim.grpc_api import CoprocSimService
from vcoproc_sim.lease import LeaseKeeper
from vcoproc_sim.platforms.api import PlatformConfig
from vcoproc_sim.registry import create_platform, describe, platform_factories
from vcoproc_sim.shell import CoprocShell

_CONTROL_SERVICE = "vcoproc.internal.v1.CoprocSimService"


def _run(options: argparse.Namespace) -> None:
    log = Log("coproc-sim")
    run_dir = RunDir(options.run_dir)
    run_dir.create()
    request = control_pb2.LeaseCoprocRequest(
        coproc=options.coproc,
        control_target=run_dir.grpc("coproc-{coproc}"),
        trap_endpoint=run_dir.ipc("trap-{coproc}"),
        holder=f"{socket.gethostname()}:{os.getpid()}",
        platforms=[describe(name, factory) for name, factory in platform_factories().items()],
    )
    keeper = LeaseKeeper(run_dir.grpc("lease"), request, log)
    # Until there is a loop, a signal only has to end the wait for a lease.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: keeper.close())
    keeper.start()
    lease = keeper.wait_for_lease()
    if lease is None:
        return
    platform = create_platform(
        lease.compatible,
        PlatformConfig(
            lease.coproc,
            lease.private_memory_bytes,
            lease.clock_hz,
            dict(lease.platform_parameters),
        ),
    )
    shell = CoprocShell(
        lease,
        run_dir,
        platform,
        epoch=new_epoch(),
        log=log,
        on_fault=lambda fault: keeper.report(lease.coproc, fault),
    )
    server = serve(
        run_dir.grpc(f"coproc-{lease.coproc}"),
        lambda server: control_pb2_grpc.add_CoprocSimServiceServicer_to_server(
            CoprocSimService(shell, platform), server
        ),
        service_names=(_CONTROL_SERVICE,),
        log=log,
    )
    log.info("serving", coproc=lease.coproc, compatible=lease.compatible)
    notify_ready()
    try:
        shell.run()
    finally:
        notify_stopping()
        keeper.close()
        server.stop(0.2).wait()
        shell.close()


def main() -> None:
    """Entry point of `vcoproc-sim`."""
    parser = argparse.ArgumentParser(prog="vcoproc-sim", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=default_run_dir())
    parser.add_argument("--coproc", default="", help="which one to be; default: any that is free")
    options = parser.parse_args()
    sys.exit(main_guard("coproc-sim", lambda: _run(options)))


if __name__ == "__main__":
    main()
