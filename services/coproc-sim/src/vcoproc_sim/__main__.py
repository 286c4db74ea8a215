"""Starts a coproc-sim: leases a coproc from the toolstack and is it until stopped."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from vcoproc.errors import Removed
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
_ENDING = (signal.SIGTERM, signal.SIGINT)


class _Signals:
    """Whether somebody wants the end of this process, and what that does just now."""

    def __init__(self) -> None:
        self.came = False
        self._act: Callable[[], None] = lambda: None

    def do(self, act: Callable[[], None]) -> None:
        """From now on a signal does this, perhaps twice. One that has come already does it too."""
        self._act = act
        for number in _ENDING:
            signal.signal(number, self._handle)
        if self.came:
            act()

    def hold_back(self) -> None:
        """From now on one is only noted, until somebody says what it does.

        Not by a mask of signals: it is that of one thread, and they come to any.
        """
        self._act = lambda: None

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True
        self._act()


def _run(options: argparse.Namespace) -> None:
    """Is one coproc after the other, each until it is removed; ends when stopped.

    Raises:
        Removed: it was to be one certain coproc, which is not there.
    """
    log = Log("coproc-sim")
    run_dir = RunDir(options.run_dir)
    run_dir.create()
    signals = _Signals()
    while _be_one(run_dir, options.coproc, signals, log):
        if options.coproc:
            raise Removed(f"coproc {options.coproc!r}")


def _be_one(run_dir: RunDir, wanted: str, signals: _Signals, log: Log) -> bool:
    """Leases a coproc and is it to its end. False: it was stopped. True: the coproc is removed."""
    request = control_pb2.LeaseCoprocRequest(
        coproc=wanted,
        control_target=run_dir.grpc("coproc-{coproc}"),
        trap_endpoint=run_dir.ipc("trap-{coproc}"),
        holder=f"{socket.gethostname()}:{os.getpid()}",
        platforms=[describe(name, factory) for name, factory in platform_factories().items()],
    )
    keeper = LeaseKeeper(run_dir.grpc("lease"), request, log)
    try:
        # Until there is a loop, a signal only has to end the wait for a lease.
        signals.do(keeper.close)
        keeper.start()
        lease = keeper.wait_for_lease()
        if lease is not None:
            _be(lease, run_dir, keeper, signals, log)
        return keeper.removed.is_set() and not signals.came
    finally:
        keeper.close()


def _be(
    lease: control_pb2.CoprocLease,
    run_dir: RunDir,
    keeper: LeaseKeeper,
    signals: _Signals,
    log: Log,
) -> None:
    """Is a coproc until it is removed, or this process is stopped.

    Signals are held back at the end, until there is something else that one may end.
    """
    parameters = dict(lease.platform_parameters)
    config = PlatformConfig(lease.coproc, lease.private_memory_bytes, lease.clock_hz, parameters)
    platform = create_platform(lease.compatible, config)
    shell = CoprocShell(
        lease,
        run_dir,
        platform,
        epoch=new_epoch(),
        log=log,
        on_fault=lambda fault: keeper.report(lease.coproc, fault),
    )
    signals.do(shell.loop.stop)
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
    keeper.when_removed(shell.loop.stop)
    try:
        shell.run()
    finally:
        signals.hold_back()
        if not keeper.removed.is_set():
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
