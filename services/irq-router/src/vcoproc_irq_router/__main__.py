"""The irq-router process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import zmq

from vcoproc.internal.v1 import control_pb2_grpc as pb_grpc
from vcoproc.runtime.grpc_kit import serve
from vcoproc.runtime.logs import Log
from vcoproc.runtime.loop import Loop
from vcoproc.runtime.process import main_guard, new_epoch, notify_ready, notify_stopping
from vcoproc.runtime.rundir import RunDir, default_run_dir
from vcoproc_irq_router.grpc_api import SERVICE, IrqControl
from vcoproc_irq_router.shell import NAME, IrqRouter

_GRACE_S = 1.0
"""Calls under way when the process stops may take this long."""


def run(run_dir: RunDir) -> None:
    """Serves until SIGTERM or SIGINT."""
    log = Log(NAME)
    run_dir.create()
    loop = Loop()
    context = zmq.Context()
    router = IrqRouter(context, run_dir, loop, log, epoch=new_epoch())
    server = serve(
        run_dir.grpc(NAME),
        lambda server: pb_grpc.add_IrqControlServiceServicer_to_server(
            IrqControl(router, loop), server
        ),
        service_names=(SERVICE,),
        log=log,
    )
    log.info("serving", run_dir=run_dir.path)
    notify_ready()
    try:
        router.run()
    finally:
        notify_stopping()
        server.stop(_GRACE_S)
        router.close()
        loop.close()
        server.stop(None).wait()
        context.term()


def main() -> None:
    parser = argparse.ArgumentParser(prog="vcoproc-irq-router", description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=None, help="run directory of the cluster")
    arguments = parser.parse_args()
    sys.exit(main_guard(NAME, lambda: run(RunDir(arguments.run_dir or default_run_dir()))))


if __name__ == "__main__":
    main()
