"""`vcoproc up`: a cluster in the foreground until Ctrl-C."""

from __future__ import annotations

import signal

import typer

from vcoproc import limits
from vcoproc_toolstack.cli.supervisor import StartAborted, StartFailed
from vcoproc_toolstack.cli.up import Cluster

_EXIT_REFUSED = 1
_EXIT_USAGE = 2


def run_cluster(cluster: Cluster) -> None:
    """Starts a cluster, says that it is ready, and ends it cleanly when a signal comes.

    Raises:
        typer.Exit: it could not be started; the reason has been printed.
    """
    # A first signal asks for the end, a second one does not wait for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: cluster.request_stop())
    try:
        cluster.start()
    except StartAborted:
        return
    except StartFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_EXIT_USAGE if error.exit_code == 2 else _EXIT_REFUSED) from None
    except OSError as error:
        typer.echo(f"error: the cluster cannot be started: {error}", err=True)
        raise typer.Exit(_EXIT_REFUSED) from None
    try:
        _welcome(cluster)
        cluster.wait()
    finally:
        cluster.stop()


def _welcome(cluster: Cluster) -> None:
    hundredths = cluster.ready_ns // (10 * limits.MS)
    typer.echo(f"ready in {hundredths // 100}.{hundredths % 100:02} s, in {cluster.run_dir}")
    from vcoproc_toolstack.cli import tables

    what = {
        coproc.name: f"{coproc.compatible} at {coproc.path}, {coproc.scheduler}, "
        f"slice {coproc.slice_ns // limits.US} us"
        for coproc in cluster.coprocs
    }
    pids = cluster.pids()
    tables.processes((name, pid, what.get(name, "")) for name, pid in pids.items())
    typer.echo("Ctrl-C stops it. Next: vcoproc domain create FILE")
